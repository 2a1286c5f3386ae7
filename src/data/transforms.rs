//! Turns images into bytes of the network's input size.

use std::path::Path;

use rand::Rng;

use super::augment::random_resized;
use super::decode::decode;
use super::resample::middle;
use super::rgb::Rgb;
use crate::Result;
use crate::data::{Crop, Interpolation};

/// Size of the network's input, the filter for resizing to it, and which part of an image is used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transform {
    /// Height of the network's input, pixels.
    pub height: usize,
    /// Width of the network's input, pixels.
    pub width: usize,
    /// Whether to rotate and mirror images as their EXIF data say.
    pub upright: bool,
    /// Filter for resizing.
    pub interpolation: Interpolation,
    /// Which part of an image is used.
    pub crop: Crop,
    /// Share of the shorter side that the middle covers.
    pub crop_share: f32,
    /// [`Crop::RandomResized`]: smallest and largest share of the area.
    pub crop_scale: [f32; 2],
    /// [`Crop::RandomResized`]: smallest and largest width / height.
    pub crop_ratio: [f32; 2],
}

impl Transform {
    /// Returns the transform that squeezes whole images as they are stored to `[height, width]`.
    pub fn squeeze([height, width]: [usize; 2], interpolation: Interpolation) -> Transform {
        let (crop_scale, crop_ratio) = ([1.0; 2], [1.0; 2]);
        Transform {
            height,
            width,
            upright: false,
            interpolation,
            crop: Crop::Squeeze,
            crop_share: 1.0,
            crop_scale,
            crop_ratio,
        }
    }

    /// Decodes a file and applies the transform for evaluation: `[height, width, 3]` u8.
    ///
    /// # Errors
    /// As [`decode`].
    pub fn load(&self, path: &Path) -> Result<Vec<u8>> {
        Ok(self.fixed(&decode(path, self.upright)?).pixels)
    }

    /// Returns the part of an image that evaluation uses, at the network's size: all of it, or the middle. The middle is that of
    /// torchvision's `Resize` of the shorter side to the input's side divided by `crop_share`, then `CenterCrop`. If the input is not
    /// square, the image is resized to the smallest size that covers both sides.
    pub fn fixed(&self, image: &Rgb) -> Rgb {
        let size = [self.height, self.width];
        if self.crop == Crop::Squeeze {
            return image.resize(size, self.interpolation);
        }
        let covered = size.map(|side| (side as f64 / f64::from(self.crop_share)).round() as usize);
        let resized = image.covering(covered);
        image.resize_part(resized, middle(resized, size), self.interpolation)
    }

    /// Returns the random part of a training image that [`Crop::RandomResized`] uses, at the network's size. `rng` belongs to this image
    /// and epoch.
    pub fn random(&self, image: &Rgb, rng: &mut impl Rng) -> Rgb {
        let part = random_resized([image.height, image.width], self.crop_scale, self.crop_ratio, rng);
        image.crop(part).resize([self.height, self.width], self.interpolation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::{Purpose, stream};

    fn noise(height: usize, width: usize) -> Rgb {
        let byte = |i: usize| ((i * 2_654_435_761) >> 7) as u8;
        Rgb { width, height, pixels: (0..height * width * 3).map(byte).collect() }
    }

    fn cropping(crop: Crop, size: [usize; 2]) -> Transform {
        let (crop_scale, crop_ratio) = ([0.25, 1.0], [0.75, 4.0 / 3.0]);
        Transform {
            crop,
            crop_share: 0.875,
            crop_scale,
            crop_ratio,
            ..Transform::squeeze(size, Interpolation::Bilinear)
        }
    }

    #[test]
    fn the_middle_of_a_square_is_resize_and_center_crop() {
        for size in [[40, 64], [64, 41], [50, 50], [16, 3]] {
            let image = noise(size[0], size[1]);
            // 28 / 0.875 = 32
            let resized = image.covering([32, 32]);
            let want = image.resize(resized, Interpolation::Bilinear).crop(middle(resized, [28, 28])).into_owned();
            for crop in [Crop::Center, Crop::RandomResized] {
                assert!(cropping(crop, [28, 28]).fixed(&image) == want, "{size:?}");
            }
        }
    }

    #[test]
    fn the_middle_of_other_shapes_covers_both_sides() {
        // Rows 0 to 99, whose value is their number: 28 x 14 covers 32 x 16, which an image of 100 x 20 does at 80 x 16. The
        // middle 28 rows of those begin at row 26, with a scale of 1.25 at 33.1.
        let pixels = (0..100).flat_map(|y| [y; 20 * 3]).collect();
        let tall = Rgb { width: 20, height: 100, pixels };
        let out = cropping(Crop::Center, [28, 14]).fixed(&tall);
        assert_eq!([out.height, out.width], [28, 14]);
        assert_eq!((out.pixels[0], out.pixels[27 * 14 * 3]), (33, 66));
        // A needle takes no more memory than its middle.
        let needle = Rgb { width: 1, height: 60_000, pixels: [7].repeat(180_000) };
        assert!(cropping(Crop::Center, [224, 224]).fixed(&needle).pixels.iter().all(|&v| v == 7));
    }

    #[test]
    fn random_parts_are_resized() {
        let (image, transform) = (noise(40, 60), cropping(Crop::RandomResized, [16, 12]));
        let rng = |item| stream(3, Purpose::Test, 0, item);
        for item in 0..20 {
            let part = random_resized([40, 60], transform.crop_scale, transform.crop_ratio, &mut rng(item));
            let want = image.crop(part).resize([16, 12], Interpolation::Bilinear);
            assert!(transform.random(&image, &mut rng(item)) == want);
        }
        assert!(transform.random(&image, &mut rng(0)) != transform.random(&image, &mut rng(1)));
    }
}
