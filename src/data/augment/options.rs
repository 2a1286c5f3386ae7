//! What happens to images on their way to the network.

use serde::{Deserialize, Serialize};

/// `[augment]`: what happens to training images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Probability of mirroring.
    pub flip: f32,
    /// Pixels added on each side before a crop of the input size.
    pub pad: usize,
    /// Probability of erasing a rectangle.
    pub random_erasing: f32,
    pub interpolation: Interpolation,
    /// What part of an image becomes the network's input.
    pub crop: Crop,
    /// `random-resized`: least and largest share of the image's area.
    pub crop_scale: [f32; 2],
    /// `random-resized`: least and largest width / height.
    pub crop_ratio: [f32; 2],
    /// Brightness is multiplied by a factor from 1 - this to 1 + this.
    pub brightness: f32,
    /// As `brightness`, of the contrast.
    pub contrast: f32,
    /// As `brightness`, of the saturation.
    pub saturation: f32,
    /// The hue is turned by up to this share of the circle, at most 0.5.
    pub hue: f32,
    /// RandAugment: operations for each image; 0 does nothing.
    pub rand_ops: usize,
    /// RandAugment: strength of the operations, 0 to 30.
    pub rand_magnitude: usize,
    /// Alpha of mixup; 0 does not mix.
    pub mixup: f32,
    /// Alpha of CutMix; 0 does not mix. With mixup, each batch takes one of the two.
    pub cutmix: f32,
}

impl Augment {
    /// Images as they are.
    pub const NONE: Augment = Augment {
        flip: 0.0,
        pad: 0,
        random_erasing: 0.0,
        interpolation: Interpolation::Bicubic,
        crop: Crop::Squeeze,
        crop_scale: [0.08, 1.0],
        crop_ratio: [0.75, 4.0 / 3.0],
        brightness: 0.0,
        contrast: 0.0,
        saturation: 0.0,
        hue: 0.0,
        rand_ops: 0,
        rand_magnitude: 9,
        mixup: 0.0,
        cutmix: 0.0,
    };
}

/// What part of an image becomes the network's input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Crop {
    /// All of it, whatever its proportions.
    #[default]
    Squeeze,
    /// The middle (`eval.crop_share` says how much of it).
    Center,
    /// Training: a random part (Szegedy et al., 2015); evaluation: the middle.
    RandomResized,
}

/// Filter used to resize images, with antialiasing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    #[default]
    Bicubic,
    Bilinear,
}
