//! Shears, shifts and rotations of a small image with nearest-neighbour sampling and a black border, pixel for pixel as in Pillow's
//! `transform` and `rotate`.

/// `[a, b, c, d, e, f]`: pixel (x, y) of the result is that of the image at (a·x + b·y + c, d·x + e·y + f), where the centres of pixels
/// are at halves.
type Affine = [f64; 6];

/// Fraction bits of a coordinate.
const BITS: u32 = 16;

/// Moves rows to the left by `share` times their distance from the top.
pub(crate) fn shear_x(pixels: &mut [u8], size: [usize; 2], share: f64) {
    affine(pixels, size, [1.0, share, 0.0, 0.0, 1.0, 0.0]);
}

/// Moves columns up by `share` times their distance from the left.
pub(crate) fn shear_y(pixels: &mut [u8], size: [usize; 2], share: f64) {
    affine(pixels, size, [1.0, 0.0, 0.0, share, 1.0, 0.0]);
}

/// Moves the image by whole pixels down and to the right.
pub(crate) fn translate(pixels: &mut [u8], size: [usize; 2], [down, right]: [i32; 2]) {
    affine(pixels, size, [1.0, 0.0, -f64::from(right), 0.0, 1.0, -f64::from(down)]);
}

/// Rotates counter-clockwise around the middle.
pub(crate) fn rotate(pixels: &mut [u8], [h, w]: [usize; 2], degrees: f64) {
    let (sin, cos) = (-degrees).to_radians().sin_cos();
    let [x, y] = [w, h].map(|side| side as f64 / 2.0);
    affine(pixels, [h, w], [cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y]);
}

fn affine(pixels: &mut [u8], [h, w]: [usize; 2], [a, b, c, d, e, f]: Affine) {
    let fixed = |v: f64| (v * f64::from(1 << BITS) + 0.5).floor() as i64;
    let from = pixels.to_vec();
    let [by_x, by_y] = [[a, d].map(fixed), [b, e].map(fixed)];
    // The centre of the first pixel.
    let mut line = [c + (a + b) / 2.0, f + (d + e) / 2.0].map(fixed);
    let inside = |at: i64, side: usize| usize::try_from(at >> BITS).ok().filter(|&at| at < side);
    for row in pixels.chunks_exact_mut(w * 3) {
        let mut at = line;
        for pixel in row.as_chunks_mut::<3>().0 {
            *pixel = match (inside(at[0], w), inside(at[1], h)) {
                (Some(x), Some(y)) => std::array::from_fn(|c| from[(y * w + x) * 3 + c]),
                _ => [0; 3],
            };
            (at[0], at[1]) = (at[0] + by_x[0], at[1] + by_x[1]);
        }
        (line[0], line[1]) = (line[0] + by_y[0], line[1] + by_y[1]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::colour::tests::{SIZE, sum_after};
    use super::*;

    /// Returns what `change` makes of the image 10 20 30 / 40 50 60 / 70 80 90.
    fn changed(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut pixels: Vec<u8> = (1..10).flat_map(|v| [v * 10; 3]).collect();
        change(&mut pixels);
        pixels.into_iter().step_by(3).collect()
    }

    #[test]
    fn nine_pixels() {
        let size = [3, 3];
        assert_eq!(changed(|p| translate(p, size, [0, 1])), [0, 10, 20, 0, 40, 50, 0, 70, 80]);
        assert_eq!(changed(|p| translate(p, size, [-1, 0])), [40, 50, 60, 70, 80, 90, 0, 0, 0]);
        // The middle of the last row lies 2.5 from the top: 0.3 · 2.5 = 0.75 and half a pixel are one pixel to the right.
        assert_eq!(changed(|p| shear_x(p, size, 0.3)), [10, 20, 30, 40, 50, 60, 80, 90, 0]);
        assert_eq!(changed(|p| shear_y(p, size, 0.3)), [10, 20, 60, 40, 50, 90, 70, 80, 0]);
        assert_eq!(changed(|p| rotate(p, size, 90.0)), [30, 60, 90, 20, 50, 80, 10, 40, 70]);
        assert_eq!(changed(|p| rotate(p, size, 30.0)), [20, 30, 60, 40, 50, 90, 40, 80, 80]);
        assert_eq!(changed(|p| rotate(p, size, 0.0)), changed(|_| ()));
    }

    /// Sums that Pillow gives for the same noise.
    #[test]
    fn noise_moves_as_in_pillow() {
        let moved = [
            sum_after(|p| shear_x(p, SIZE, 0.3)),
            sum_after(|p| shear_x(p, SIZE, -0.09)),
            sum_after(|p| shear_y(p, SIZE, 0.3)),
            sum_after(|p| shear_y(p, SIZE, -0.09)),
            sum_after(|p| translate(p, SIZE, [0, 3])),
            sum_after(|p| translate(p, SIZE, [-5, 0])),
            sum_after(|p| rotate(p, SIZE, 9.0)),
            sum_after(|p| rotate(p, SIZE, -30.0)),
        ];
        let want = [12_088_695, 14_609_435, 14_273_358, 15_556_841, 13_627_905, 13_716_728, 14_582_330, 12_710_758];
        assert_eq!(moved, want);
    }
}
