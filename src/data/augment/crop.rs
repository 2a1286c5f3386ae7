//! The random part of an image that becomes the network's input (Szegedy et al., 2015), as torchvision's `RandomResizedCrop` draws
//! it.

use rand::{Rng, RngExt};

const ATTEMPTS: usize = 10;

/// Draws a part (top, left, height, width) of an image of `[height, width]`: its share of the area is uniform in `scale`, and the
/// logarithm of its width / height is uniform in `ratio`. If ten attempts reach beyond the edge, returns the largest part in the middle
/// with proportions in `ratio`.
pub(in crate::data) fn random_resized(
    [h, w]: [usize; 2],
    scale: [f32; 2],
    ratio: [f32; 2],
    rng: &mut impl Rng,
) -> [usize; 4] {
    let (scale, ratio) = (scale.map(f64::from), ratio.map(f64::from));
    for _ in 0..ATTEMPTS {
        let area = (h * w) as f64 * rng.random_range(scale[0]..=scale[1]);
        let proportion = rng.random_range(ratio[0].ln()..=ratio[1].ln()).exp();
        let [height, width] = [area / proportion, area * proportion].map(|v| v.sqrt().round_ties_even() as usize);
        if (1..=h).contains(&height) && (1..=w).contains(&width) {
            return [rng.random_range(0..=h - height), rng.random_range(0..=w - width), height, width];
        }
    }
    let (whole, [low, high]) = (w as f64 / h as f64, ratio);
    let side = |v: f64, most: usize| (v.round_ties_even() as usize).clamp(1, most);
    let [height, width] = if whole < low {
        [side(w as f64 / low, h), w]
    } else if whole > high {
        [h, side(h as f64 * high, w)]
    } else {
        [h, w]
    };
    [(h - height) / 2, (w - width) / 2, height, width]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::{Purpose, stream};

    #[test]
    fn parts_lie_within_the_image_and_have_the_asked_shares_and_proportions() {
        let (size, scale, ratio) = ([375, 500], [0.08, 1.0], [0.75, 4.0 / 3.0]);
        let (mut shares, mut taller) = (Vec::new(), 0);
        for item in 0..2000 {
            let [top, left, height, width] = random_resized(size, scale, ratio, &mut stream(0, Purpose::Test, 0, item));
            assert!(top + height <= size[0] && left + width <= size[1]);
            let (share, proportion) = ((height * width) as f64 / 187_500.0, width as f64 / height as f64);
            assert!((0.079..=1.0).contains(&share), "{share}");
            assert!((0.74..=1.35).contains(&proportion), "{proportion}");
            shares.push(share);
            taller += usize::from(height > width);
        }
        // Uniform from 0.08 to 1 would have the mean 0.54, and half would be taller than wide; but large parts, and tall ones
        // first, do not fit into a wide image and are drawn anew: 0.433 and 831 of 2000, by 20 000 draws of Python's `random`.
        let mean = shares.iter().sum::<f64>() / 2000.0;
        assert!((mean - 0.433).abs() < 0.02, "{mean}");
        assert!((760..900).contains(&taller), "{taller}");
    }

    #[test]
    fn what_never_fits_is_the_middle() {
        let part = |size, ratio| random_resized(size, [1.0, 1.0], ratio, &mut stream(0, Purpose::Test, 0, 0));
        // 10 x 100: a square of the whole area has sides of 32 and never fits; the widest that 1:1 allows is 10 x 10.
        assert_eq!(part([10, 100], [1.0, 1.0]), [0, 45, 10, 10]);
        assert_eq!(part([100, 10], [1.0, 1.0]), [45, 0, 10, 10]);
        // Half as wide as tall allowed: 10 wide and 20 tall.
        assert_eq!(part([101, 10], [0.5, 1.0]), [40, 0, 20, 10]);
        // The whole of a square does fit.
        assert_eq!(part([30, 30], [1.0, 1.0]), [0, 0, 30, 30]);
        assert_eq!(part([1, 1], [0.75, 4.0 / 3.0]), [0, 0, 1, 1]);
    }
}
