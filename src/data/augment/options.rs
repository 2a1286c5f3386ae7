//! What happens to images on their way to the network.

use crate::base::settings::{ON_IMAGES, ON_STEPS, RAND_AUGMENT, RANDOM_CROP, choice, settings};

settings! {
    /// `[augment]`: what happens to training images.
    pub struct Augment in "augment", "Augmentation" {
        /// Probability of mirroring.
        #[setting(at_least(0.0).at_most(1.0).because("it is a probability"))]
        pub flip: f32 = 0.5;
        /// Pixels added on each side before a random crop of the input size.
        pub pad: usize = 0, SmallImages => 4;
        /// Probability of erasing a rectangle.
        #[setting(at_least(0.0).at_most(1.0).because("it is a probability"))]
        pub random_erasing: f32 = 0.5, Classify => 0.0;
        /// Filter used to resize.
        #[setting(taken_by(ON_IMAGES))]
        pub interpolation: Interpolation = Interpolation::Bicubic, Classify => Interpolation::Bilinear;
        /// How images are fitted to the input: all of it, squeezed; the middle (center); or a random part (random-resized; in
        /// evaluation the middle).
        #[setting(flag("crop").taken_by(ON_IMAGES))]
        pub crop: Crop = Crop::Squeeze, Classify => Crop::RandomResized, SmallImages => Crop::Squeeze;
        /// random-resized: least and largest share of the area.
        #[setting(above(0.0).at_most(1.0).needs(&[RANDOM_CROP]))]
        pub crop_scale: [f32; 2] = [0.08, 1.0];
        /// random-resized: least and largest width / height.
        #[setting(above(0.0).at_most(100.0).needs(&[RANDOM_CROP]))]
        pub crop_ratio: [f32; 2] = [0.75, 4.0 / 3.0];
        /// Colour jitter: brightness times 1 - this to 1 + this.
        #[setting(at_least(0.0).at_most(1.0))]
        pub brightness: f32 = 0.0;
        /// Colour jitter: contrast times 1 - this to 1 + this.
        #[setting(at_least(0.0).at_most(1.0))]
        pub contrast: f32 = 0.0;
        /// Colour jitter: saturation times 1 - this to 1 + this.
        #[setting(at_least(0.0).at_most(1.0))]
        pub saturation: f32 = 0.0;
        /// Colour jitter: hue turned by up to this share of the circle, at most 0.5.
        #[setting(at_least(0.0).at_most(0.5))]
        pub hue: f32 = 0.0;
        /// RandAugment: operations for each image, 2 as published; 0 for none.
        #[setting(flag("rand-ops").at_most(14.0))]
        pub rand_ops: usize = 0;
        /// RandAugment: strength, 0 to 30.
        #[setting(flag("rand-magnitude").at_most(30.0).needs(&[RAND_AUGMENT]))]
        pub rand_magnitude: usize = 9;
        /// Alpha of mixup (classify); 0 does not mix.
        #[setting(flag("mixup").at_least(0.0).at_most(100.0).taken_by(ON_STEPS))]
        pub mixup: f32 = 0.0;
        /// Alpha of CutMix (classify); 0 does not mix. With mixup, each batch takes one of the two.
        #[setting(flag("cutmix").at_least(0.0).at_most(100.0).taken_by(ON_STEPS))]
        pub cutmix: f32 = 0.0;
    }
}

impl Augment {
    /// Returns settings that leave images as they are.
    pub fn none() -> Augment {
        Augment { flip: 0.0, random_erasing: 0.0, ..Augment::default() }
    }
}

choice! {
    /// What part of an image becomes the network's input.
    pub enum Crop {
        /// All of it, whatever its proportions.
        #[default]
        Squeeze = "squeeze",
        /// The middle (`eval.crop_share` says how much of it).
        Center = "center",
        /// Training: a random part (Szegedy et al., 2015); evaluation: the middle.
        RandomResized = "random-resized",
    }
}

choice! {
    /// Filter used to resize images, with antialiasing.
    pub enum Interpolation {
        /// Pillow's bicubic filter.
        #[default]
        Bicubic = "bicubic",
        /// Pillow's bilinear filter.
        Bilinear = "bilinear",
    }
}
