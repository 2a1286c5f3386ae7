//! Resizing with antialiasing, bit for bit as in Pillow 11: the horizontal pass first, then the vertical one on its bytes, each with
//! weights in 22-bit fixed point. So networks that were trained with Pillow get the same pixels.
//!
//! For output i: `scale = in / out`, `support = S * max(scale, 1)`, `centre = (i + 0.5) * scale`; the taps are those from
//! `trunc(centre - support + 0.5)` to `trunc(centre + support + 0.5)` within the image, with the weight
//! `f((x - centre + 0.5) / max(scale, 1))` normalised to the sum 1. Bicubic: S = 2, a = -0.5; bilinear: S = 1.
//!
//! The crate `fast_image_resize` has coarser weights: a quarter to a half of the golden pixels differ, by up to
//! 8, and it takes about as long.

use std::borrow::Cow;
use std::ops::Range;

use super::Rgb;
use crate::data::Interpolation;
use crate::engine::cpu::for_each_isa;

/// Fraction bits of a weight.
const BITS: u32 = 22;
/// Output bytes that are computed at once: their sums stay in registers.
const BLOCK: usize = 64;

/// Weights of all outputs along one axis.
struct Axis {
    /// First tap of each output.
    starts: Vec<usize>,
    /// `taps` for each output, padded with zeros.
    weights: Vec<i32>,
    taps: usize,
}

impl Rgb {
    /// Returns the image resized to `[height, width]`.
    pub fn resize(&self, size: [usize; 2], interpolation: Interpolation) -> Rgb {
        self.resize_part(size, [0, 0, size[0], size[1]], interpolation)
    }

    /// Returns a part (top, left, height, width) of the image resized to `size`, without computing the rest.
    pub(super) fn resize_part(
        &self,
        size: [usize; 2],
        [top, left, height, width]: [usize; 4],
        interpolation: Interpolation,
    ) -> Rgb {
        let image = if size[1] == self.width {
            self.crop([0, left, self.height, width])
        } else {
            // The image is transposed, so that both passes are weighted sums of long rows.
            let axis = Axis::new(self.width, size[1], left..left + width, interpolation);
            let columns = transpose(&self.pixels, [self.height, self.width]);
            let columns = sum_rows(&columns, self.height * 3, &axis);
            Cow::Owned(Rgb { width, height: self.height, pixels: transpose(&columns, [width, self.height]) })
        };
        if size[0] == self.height {
            return image.crop([top, 0, height, width]).into_owned();
        }
        let axis = Axis::new(self.height, size[0], top..top + height, interpolation);
        Rgb { width, height, pixels: sum_rows(&image.pixels, width * 3, &axis) }
    }

    /// Returns the smallest size in the image's proportions that covers `[height, width]`, rounded down.
    pub(super) fn covering(&self, [height, width]: [usize; 2]) -> [usize; 2] {
        if width * self.height >= height * self.width {
            [width * self.height / self.width, width]
        } else {
            [height, height * self.width / self.height]
        }
    }
}

/// Returns the part (top, left, height, width) of `[height, width]` in the middle of an image of `size`.
pub(super) fn middle(size: [usize; 2], [height, width]: [usize; 2]) -> [usize; 4] {
    // Halves are rounded to the even number, as in torchvision.
    let offset = |whole: usize, part: usize| ((whole - part) as f64 / 2.0).round_ties_even() as usize;
    [offset(size[0], height), offset(size[1], width), height, width]
}

impl Axis {
    /// Computes the weights of the given `outputs` for resizing from `from` to `to`.
    fn new(from: usize, to: usize, outputs: Range<usize>, interpolation: Interpolation) -> Axis {
        let support = match interpolation {
            Interpolation::Bicubic => 2.0,
            Interpolation::Bilinear => 1.0,
        };
        let scale = from as f64 / to as f64;
        let stretch = scale.max(1.0);
        let support = support * stretch;
        let taps = (support.ceil() as usize * 2 + 1).min(from);
        let count = outputs.len();
        let mut axis = Axis { starts: Vec::with_capacity(count), weights: Vec::with_capacity(count * taps), taps };
        for i in outputs {
            let centre = (i as f64 + 0.5) * scale;
            let start = ((centre - support + 0.5) as usize).min(from);
            let end = ((centre + support + 0.5) as usize).min(from);
            let weights = (start..end).map(|x| filter((x as f64 - centre + 0.5) / stretch, interpolation));
            let weights: Vec<f64> = weights.collect();
            let sum: f64 = weights.iter().sum();
            // `round` takes halves away from zero.
            axis.weights.extend(weights.iter().map(|w| (w / sum * f64::from(1 << BITS)).round() as i32));
            axis.weights.resize((axis.starts.len() + 1) * taps, 0);
            // The padding must not reach beyond the edge: it moves to the front.
            let over = (start + taps).saturating_sub(from);
            axis.weights[axis.starts.len() * taps..].rotate_right(over);
            axis.starts.push(start - over);
        }
        axis
    }
}

fn filter(x: f64, interpolation: Interpolation) -> f64 {
    let x = x.abs();
    match interpolation {
        Interpolation::Bilinear => (1.0 - x).max(0.0),
        Interpolation::Bicubic => {
            // Keys, 1981.
            let a = -0.5;
            if x < 1.0 {
                ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
            } else if x < 2.0 {
                (((x - 5.0) * x + 8.0) * x - 4.0) * a
            } else {
                0.0
            }
        }
    }
}

/// Transposes `[h, w, 3]` to `[w, h, 3]`.
fn transpose(pixels: &[u8], [h, w]: [usize; 2]) -> Vec<u8> {
    let mut out = vec![0; pixels.len()];
    for (y, row) in pixels.chunks_exact(w * 3).enumerate() {
        for (x, pixel) in row.as_chunks::<3>().0.iter().enumerate() {
            out[(x * h + y) * 3..][..3].copy_from_slice(pixel);
        }
    }
    out
}

for_each_isa! {
    /// Computes output rows, each a weighted sum of rows of `row` bytes.
    fn sum_rows(rows: &[u8], row: usize, axis: &Axis) -> Vec<u8> {
        let mut out = vec![0; axis.starts.len() * row];
        for (i, out) in out.chunks_exact_mut(row).enumerate() {
            let weights = &axis.weights[i * axis.taps..][..axis.taps];
            let rows = &rows[axis.starts[i] * row..][..axis.taps * row];
            if row < BLOCK {
                for (j, out) in out.iter_mut().enumerate() {
                    let terms = weights.iter().zip(rows.chunks_exact(row));
                    let sum: i32 = terms.map(|(&weight, row)| weight * i32::from(row[j])).sum();
                    *out = ((sum + (1 << (BITS - 1))) >> BITS).clamp(0, 255) as u8;
                }
                continue;
            }
            // The last block ends with the row, so it may compute some bytes a second time.
            for start in (0..row).step_by(BLOCK).map(|start| start.min(row - BLOCK)) {
                let mut sums = [1i32 << (BITS - 1); BLOCK];
                for (&weight, row) in weights.iter().zip(rows.chunks_exact(row)) {
                    let bytes: &[u8; BLOCK] = row[start..][..BLOCK].try_into().expect("a block");
                    for j in 0..BLOCK {
                        sums[j] += weight * i32::from(bytes[j]);
                    }
                }
                for j in 0..BLOCK {
                    out[start + j] = (sums[j] >> BITS).clamp(0, 255) as u8;
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILTERS: [Interpolation; 2] = [Interpolation::Bicubic, Interpolation::Bilinear];

    fn noise(height: usize, width: usize) -> Rgb {
        let byte = |i: usize| ((i * 2_654_435_761) >> 7) as u8;
        Rgb { width, height, pixels: (0..height * width * 3).map(byte).collect() }
    }

    #[test]
    fn a_plain_colour_stays_at_every_size() {
        for interpolation in FILTERS {
            for size in [[1, 1], [7, 5], [64, 33], [200, 3]] {
                for from in [[1, 1], [9, 31]] {
                    let pixels = [10, 128, 255].repeat(from[0] * from[1]);
                    let out = Rgb { height: from[0], width: from[1], pixels }.resize(size, interpolation);
                    assert_eq!([out.height, out.width], size);
                    assert_eq!(out.pixels, [10, 128, 255].repeat(size[0] * size[1]));
                }
            }
        }
    }

    #[test]
    fn halving_a_pair_of_pixels_takes_their_mean() {
        // Bilinear from 2 to 1: both taps have the weight 1/2; (0 + 255) / 2 = 127.5 is rounded up.
        let image = Rgb { height: 1, width: 2, pixels: vec![0, 10, 100, 255, 20, 100] };
        assert_eq!(image.resize([1, 1], Interpolation::Bilinear).pixels, [128, 15, 100]);
    }

    #[test]
    fn the_same_size_is_the_same_image_and_mirroring_commutes() {
        let image = noise(37, 23);
        let mirror = |image: &Rgb| Rgb {
            pixels: (0..image.height * image.width)
                .flat_map(|i| {
                    let (y, x) = (i / image.width, i % image.width);
                    image.pixels[(y * image.width + image.width - 1 - x) * 3..][..3].to_vec()
                })
                .collect(),
            ..*image
        };
        for interpolation in FILTERS {
            assert_eq!(image.resize([37, 23], interpolation).pixels, image.pixels);
            let (a, b) =
                (mirror(&image).resize([50, 46], interpolation), mirror(&image.resize([50, 46], interpolation)));
            assert_eq!(a.pixels, b.pixels);
        }
    }

    #[test]
    fn covering_keeps_the_proportions_and_the_middle_is_rounded_to_even() {
        assert_eq!(noise(40, 20).covering([10, 10]), [20, 10]);
        assert_eq!(noise(20, 41).covering([10, 10]), [10, 20]);
        // (9 - 4) / 2 = 2.5 and (6 - 4) / 2 = 1: row 2, column 1.
        assert_eq!(middle([9, 6], [4, 4]), [2, 1, 4, 4]);
    }

    #[test]
    fn a_part_is_that_of_the_whole() {
        let image = noise(37, 23);
        for interpolation in FILTERS {
            for size in [[37, 23], [50, 23], [37, 11], [9, 60]] {
                let whole = image.resize(size, interpolation);
                for part in [[0, 0, size[0], size[1]], [3, 5, 4, 6], [size[0] - 1, size[1] - 2, 1, 2]] {
                    assert!(image.resize_part(size, part, interpolation) == *whole.crop(part), "{size:?} {part:?}");
                }
            }
        }
        assert_eq!(image.crop([1, 2, 1, 1]).pixels, image.pixels[(23 + 2) * 3..][..3]);
    }
}
