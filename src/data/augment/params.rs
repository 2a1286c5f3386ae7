//! Augmentation in two halves: sampling the parameters for an image, and applying them to its bytes. The parameters are a few numbers,
//! so they can be applied wherever the bytes are: here on the CPU, or on a GPU (`kernels/image.cu`).

use std::ops::Range;
use std::sync::OnceLock;

use rand::{Rng, RngExt};

use crate::data::Augment;

/// ImageNet's channel means (red, green, blue), of values in [0, 1].
pub const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// ImageNet's channel standard deviations (red, green, blue), of values in [0, 1].
pub const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Area share of an erased rectangle, and the smallest ratio of its sides.
const ERASE_AREA: Range<f32> = 0.02..0.4;
const ERASE_RATIO: f32 = 0.3;
const ERASE_ATTEMPTS: usize = 100;

/// The sampled parameters for one image. Pixel (y, x) of the result is that of the image at (y + down, x' + right), where x' is x,
/// or w - 1 - x if mirrored. It is 0, the mean colour, where that is outside of the image, and in the erased rectangle. The default
/// changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AugmentParams {
    /// Rows down and columns to the right by which the crop is moved; negative is up and left.
    pub shift: [i32; 2],
    /// Whether the image is mirrored left to right.
    pub mirror: bool,
    /// Top, left, height and width of the erased rectangle of the result, pixels; `None` erases nothing.
    pub erase: Option<[i32; 4]>,
}

impl AugmentParams {
    /// Samples the parameters for an image of `[height, width]`; `rng` belongs to this image and epoch.
    pub fn sample(augment: &Augment, size: [usize; 2], rng: &mut impl Rng) -> AugmentParams {
        let pad = augment.pad;
        let shift = [(); 2].map(|()| rng.random_range(0..=2 * pad) as i32 - pad as i32);
        let mirror = rng.random::<f32>() < augment.flip;
        let erase = (rng.random::<f32>() < augment.random_erasing).then(|| rectangle(size, rng)).flatten();
        AugmentParams { shift, mirror, erase }
    }

    /// Crops, mirrors, normalises and erases `pixels` into `out`, both `[height, width, 3]`.
    pub fn apply(&self, pixels: &[u8], [h, w]: [usize; 2], out: &mut [f32]) {
        let table = normalized();
        let [down, right] = self.shift;
        let moved = |at: usize, by: i32, end: usize| at.checked_add_signed(by as isize).filter(|&at| at < end);
        for (y, out) in out.chunks_exact_mut(w * 3).enumerate() {
            let row = moved(y, down, h).map(|y| &pixels[y * w * 3..][..w * 3]);
            for (x, out) in out.chunks_exact_mut(3).enumerate() {
                let x = if self.mirror { w - 1 - x } else { x };
                match row.zip(moved(x, right, w)) {
                    Some((row, x)) => (0..3).for_each(|c| out[c] = table[c][row[x * 3 + c] as usize]),
                    None => out.fill(0.0),
                }
            }
        }
        if let Some(rectangle) = self.erase {
            let [top, left, height, width] = rectangle.map(|v| v as usize);
            for y in top..top + height {
                out[(y * w + left) * 3..][..width * 3].fill(0.0);
            }
        }
    }

    /// Returns the tables that `kernels/image.cu` reads: shift `[n, 2]`, mirror `[n]` (0 or 1), erase `[n, 4]` (zeros erase nothing).
    pub fn tables(params: &[AugmentParams]) -> [Vec<i32>; 3] {
        [
            params.iter().flat_map(|d| d.shift).collect(),
            params.iter().map(|d| i32::from(d.mirror)).collect(),
            params.iter().flat_map(|d| d.erase.unwrap_or_default()).collect(),
        ]
    }
}

/// Draws a random rectangle within the image (Zhong et al., 2020). Returns `None` if all attempts were too large.
fn rectangle([h, w]: [usize; 2], rng: &mut impl Rng) -> Option<[i32; 4]> {
    for _ in 0..ERASE_ATTEMPTS {
        let area = rng.random_range(ERASE_AREA) * (h * w) as f32;
        let ratio = rng.random_range(ERASE_RATIO..1.0 / ERASE_RATIO);
        let (height, width) = ((area * ratio).sqrt().round() as usize, (area / ratio).sqrt().round() as usize);
        if height < h && width < w {
            let (top, left) = (rng.random_range(0..=h - height), rng.random_range(0..=w - width));
            return Some([top, left, height, width].map(|v| v as i32));
        }
    }
    None
}

/// Returns the normalised value of each channel and byte.
fn normalized() -> &'static [[f32; 256]; 3] {
    static TABLE: OnceLock<[[f32; 256]; 3]> = OnceLock::new();
    TABLE.get_or_init(|| std::array::from_fn(|c| std::array::from_fn(|v| (v as f32 / 255.0 - MEAN[c]) / STD[c])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::{Purpose, stream};

    const SMALL: [usize; 2] = [8, 4];

    fn ramp() -> Vec<u8> {
        (0..8 * 4 * 3).map(|i| i as u8 * 2).collect()
    }

    fn applied(params: AugmentParams, pixels: &[u8], size: [usize; 2]) -> Vec<f32> {
        let mut out = vec![9.0; pixels.len()];
        params.apply(pixels, size, &mut out);
        out
    }

    fn augmented(augment: &Augment, pixels: &[u8], size: [usize; 2], item: u64) -> Vec<f32> {
        applied(AugmentParams::sample(augment, size, &mut stream(0, Purpose::Test, 0, item)), pixels, size)
    }

    /// Existing runs must continue with the same images, so the numbers drawn and their order must stay.
    #[test]
    fn what_is_drawn_stays_the_same() {
        let augment = Augment { flip: 0.5, pad: 10, random_erasing: 0.5, ..Augment::none() };
        let params: Vec<AugmentParams> = (0..4)
            .map(|item| AugmentParams::sample(&augment, [256, 128], &mut stream(7, Purpose::Augment, 2, item)))
            .collect();
        assert_eq!(
            AugmentParams::tables(&params),
            [
                vec![10, 6, -9, -7, -4, 0, 3, -4],
                vec![0, 1, 1, 0],
                vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 62, 61, 79, 66],
            ]
        );
    }

    #[test]
    fn without_chance_augmenting_is_normalising_and_flipping_mirrors_rows() {
        let plain = applied(AugmentParams::default(), &ramp(), SMALL);
        assert_eq!(plain, augmented(&Augment::none(), &ramp(), SMALL, 0));
        let mirrored = augmented(&Augment { flip: 1.0, ..Augment::none() }, &ramp(), SMALL, 0);
        for y in 0..8 {
            for x in 0..4 {
                assert_eq!(mirrored[(y * 4 + x) * 3..][..3], plain[(y * 4 + 3 - x) * 3..][..3]);
            }
        }
        assert!((plain[0] - (0.0 - 0.485) / 0.229).abs() < 1e-6);
    }

    #[test]
    fn pad_and_crop_shifts_by_at_most_the_padding() {
        let augment = Augment { pad: 1, ..Augment::none() };
        let plain = applied(AugmentParams::default(), &ramp(), SMALL);
        let mut shifts = std::collections::BTreeSet::new();
        for item in 0..100 {
            let out = augmented(&augment, &ramp(), SMALL, item);
            let shifted = |dy: i32, dx: i32| {
                (0..8i32).all(|y| {
                    (0..4i32).all(|x| {
                        let (sy, sx) = (y + dy, x + dx);
                        let inside = (0..8).contains(&sy) && (0..4).contains(&sx);
                        (0..3).all(|c| {
                            let want = if inside { plain[((sy * 4 + sx) * 3 + c) as usize] } else { 0.0 };
                            out[((y * 4 + x) * 3 + c) as usize] == want
                        })
                    })
                })
            };
            let found = (-1..=1).flat_map(|y| (-1..=1).map(move |x| (y, x))).find(|&(y, x)| shifted(y, x));
            shifts.insert(found.expect("a shift by at most one pixel"));
        }
        assert_eq!(shifts.len(), 9);
    }

    #[test]
    fn the_crop_is_mirrored_and_the_mirrored_is_erased() {
        // One row 0 1 2 3: one column right is 1 2 3 and a gap, mirrored a gap and 3 2 1; then the last column goes.
        let pixels: Vec<u8> = [10, 20, 30, 40].into_iter().flat_map(|v| [v; 3]).collect();
        let params = AugmentParams { shift: [0, 1], mirror: true, erase: Some([0, 3, 1, 1]) };
        let red = |v: u8| (f32::from(v) / 255.0 - MEAN[0]) / STD[0];
        let out: Vec<f32> = applied(params, &pixels, [1, 4]).into_iter().step_by(3).collect();
        assert_eq!(out, [0.0, red(40), red(30), 0.0]);
        let above = AugmentParams { shift: [-1, 0], ..AugmentParams::default() };
        assert_eq!(applied(above, &pixels, [1, 4]), [0.0; 12]);
        assert_eq!(
            AugmentParams::tables(&[params, above]),
            [vec![0, 1, -1, 0], vec![1, 0], vec![0, 3, 1, 1, 0, 0, 0, 0]]
        );
    }

    #[test]
    fn erasing_takes_one_rectangle_of_the_stated_area() {
        let size = [64, 32];
        let pixels = vec![255u8; 64 * 32 * 3];
        let augment = Augment { random_erasing: 0.5, ..Augment::none() };
        let mut erased = 0;
        for item in 0..400 {
            let out = augmented(&augment, &pixels, size, item);
            let zeros: Vec<usize> = (0..64 * 32).filter(|&p| out[p * 3] == 0.0).collect();
            if zeros.is_empty() {
                continue;
            }
            erased += 1;
            let share = zeros.len() as f32 / 2048.0;
            assert!((0.015..0.42).contains(&share), "{share}");
            let (rows, columns): (Vec<usize>, Vec<usize>) = zeros.iter().map(|p| (p / 32, p % 32)).unzip();
            let span = |v: &[usize]| v.iter().max().unwrap() - v.iter().min().unwrap() + 1;
            assert_eq!(span(&rows) * span(&columns), zeros.len());
        }
        assert!((150..250).contains(&erased), "{erased} of 400");
    }
}
