//! What happens to an image between its file and the network.

use std::io::Cursor;
use std::path::Path;

use image::ImageReader;
use rand::{Rng, RngExt};

use crate::config::{Augment, Interpolation};
use crate::{Error, Result};

/// ImageNet's channel means and standard deviations, of values in [0, 1].
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Area share of an erased rectangle, and the smallest ratio of its sides.
const ERASE_AREA: std::ops::Range<f32> = 0.02..0.4;
const ERASE_RATIO: f32 = 0.3;
const ERASE_ATTEMPTS: usize = 100;

/// From decoded image to network input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transform {
    pub height: usize,
    pub width: usize,
    pub interpolation: Interpolation,
}

/// A decoded image, `[height, width, 3]`.
pub struct Rgb {
    pub width: usize,
    pub height: usize,
    pub pixels: Vec<u8>,
}

/// Decodes a file to RGB; grey and palette images are expanded, alpha is dropped.
///
/// # Errors
/// The file cannot be read, or not decoded.
pub fn decode(path: &Path) -> Result<Rgb> {
    let bad = |reason: String| Error::Image { path: path.to_path_buf(), reason };
    let bytes = std::fs::read(path).map_err(|e| bad(e.to_string()))?;
    if is_truncated_jpeg(&bytes) {
        return Err(bad("the file ends within the picture".into()));
    }
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| bad(e.to_string()))?;
    let image = reader.decode().map_err(|e| bad(e.to_string()))?.into_rgb8();
    let (width, height) = (image.width() as usize, image.height() as usize);
    if width == 0 || height == 0 {
        return Err(bad("it has no pixels".into()));
    }
    Ok(Rgb { width, height, pixels: image.into_raw() })
}

/// A JPEG without the marker of its end, which the decoder would fill up with grey. Within a scan, 0xFF is never followed by
/// the code of a marker, so what looks like one is one.
fn is_truncated_jpeg(bytes: &[u8]) -> bool {
    let last = |marker: [u8; 2]| bytes.windows(2).rposition(|pair| pair == marker);
    let (scan, end) = (last([0xFF, 0xDA]), last([0xFF, 0xD9]));
    bytes.starts_with(&[0xFF, 0xD8]) && end.is_none_or(|end| scan.is_some_and(|scan| scan > end))
}

impl Transform {
    /// Decodes and resizes to `[height, width, 3]` u8.
    ///
    /// # Errors
    /// As [`decode`].
    pub fn load(&self, path: &Path) -> Result<Vec<u8>> {
        Ok(decode(path)?.resize([self.height, self.width], self.interpolation).pixels)
    }

    /// Normalises without any randomness into `out` `[height, width, 3]`.
    pub fn normalize(&self, pixels: &[u8], out: &mut [f32]) {
        let table = normalize_table();
        for (out, pixel) in out.chunks_exact_mut(3).zip(pixels.chunks_exact(3)) {
            for c in 0..3 {
                out[c] = table[c][pixel[c] as usize];
            }
        }
    }

    /// Pad and crop, flip, normalise, erase; `rng` belongs to this image and epoch.
    pub fn augment(&self, pixels: &[u8], augment: &Augment, out: &mut [f32], rng: &mut impl Rng) {
        let table = normalize_table();
        let (h, w, pad) = (self.height, self.width, augment.pad);
        let (top, left) = (rng.random_range(0..=2 * pad), rng.random_range(0..=2 * pad));
        let mirror = rng.random::<f32>() < augment.flip;
        for y in 0..h {
            let source_y = (y + top).checked_sub(pad).filter(|&y| y < h);
            for x in 0..w {
                let source_x = (x + left).checked_sub(pad).filter(|&x| x < w);
                let to = (y * w + if mirror { w - 1 - x } else { x }) * 3;
                let out = &mut out[to..to + 3];
                match (source_y, source_x) {
                    (Some(sy), Some(sx)) => {
                        let pixel = &pixels[(sy * w + sx) * 3..][..3];
                        (0..3).for_each(|c| out[c] = table[c][pixel[c] as usize]);
                    }
                    // Zero is the mean colour after normalising.
                    _ => out.fill(0.0),
                }
            }
        }
        if rng.random::<f32>() < augment.random_erasing {
            erase(out, h, w, rng);
        }
    }
}

/// Fills one random rectangle with zeros (Zhong et al., 2020, with the mean colour).
fn erase(image: &mut [f32], h: usize, w: usize, rng: &mut impl Rng) {
    for _ in 0..ERASE_ATTEMPTS {
        let area = rng.random_range(ERASE_AREA) * (h * w) as f32;
        let ratio = rng.random_range(ERASE_RATIO..1.0 / ERASE_RATIO);
        let (eh, ew) = ((area * ratio).sqrt().round() as usize, (area / ratio).sqrt().round() as usize);
        if eh < h && ew < w {
            let (y, x) = (rng.random_range(0..=h - eh), rng.random_range(0..=w - ew));
            for row in y..y + eh {
                image[(row * w + x) * 3..(row * w + x + ew) * 3].fill(0.0);
            }
            return;
        }
    }
}

/// Normalised value of each channel and byte.
fn normalize_table() -> &'static [[f32; 256]; 3] {
    static TABLE: std::sync::OnceLock<[[f32; 256]; 3]> = std::sync::OnceLock::new();
    TABLE.get_or_init(|| std::array::from_fn(|c| std::array::from_fn(|v| (v as f32 / 255.0 - MEAN[c]) / STD[c])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};

    const NOTHING: Augment = Augment { flip: 0.0, pad: 0, random_erasing: 0.0, interpolation: Interpolation::Bicubic };
    const SMALL: Transform = Transform { height: 8, width: 4, interpolation: Interpolation::Bicubic };

    fn ramp() -> Vec<u8> {
        (0..8 * 4 * 3).map(|i| i as u8 * 2).collect()
    }

    #[test]
    fn without_chance_augmenting_is_normalising_and_flipping_mirrors_rows() {
        let (mut plain, mut same, mut mirrored) = (vec![0.0; 96], vec![1.0; 96], vec![1.0; 96]);
        SMALL.normalize(&ramp(), &mut plain);
        let mut rng = stream(0, Purpose::Test, 0, 0);
        SMALL.augment(&ramp(), &NOTHING, &mut same, &mut rng);
        SMALL.augment(&ramp(), &Augment { flip: 1.0, ..NOTHING }, &mut mirrored, &mut rng);
        assert_eq!(plain, same);
        for y in 0..8 {
            for x in 0..4 {
                assert_eq!(mirrored[(y * 4 + x) * 3..][..3], plain[(y * 4 + 3 - x) * 3..][..3]);
            }
        }
        assert!((plain[0] - (0.0 - 0.485) / 0.229).abs() < 1e-6);
    }

    #[test]
    fn pad_and_crop_shifts_by_at_most_the_padding() {
        let augment = Augment { pad: 1, ..NOTHING };
        let mut plain = vec![0.0; 96];
        SMALL.normalize(&ramp(), &mut plain);
        let mut shifts = std::collections::BTreeSet::new();
        for item in 0..100 {
            let mut out = vec![9.0; 96];
            SMALL.augment(&ramp(), &augment, &mut out, &mut stream(0, Purpose::Test, 0, item));
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
    fn erasing_takes_one_rectangle_of_the_stated_area() {
        let transform = Transform { height: 64, width: 32, interpolation: Interpolation::Bicubic };
        let pixels = vec![255u8; 64 * 32 * 3];
        let augment = Augment { random_erasing: 0.5, ..NOTHING };
        let mut erased = 0;
        for item in 0..400 {
            let mut out = vec![0.0; pixels.len()];
            transform.augment(&pixels, &augment, &mut out, &mut stream(0, Purpose::Test, 1, item));
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
