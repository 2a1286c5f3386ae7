//! Random augmentation of training images, in this order: a part of the image ([`crop`]), then its colours and geometry
//! ([`rand_augment`], [`jitter`]), all in the loader's threads; then shift, mirror and erasing ([`AugmentParams`]), and mixing the pairs
//! of a batch ([`Mix`]), both where the batch is used, on the CPU or by `kernels/image.cu`.
//!
//! The part of the image, its colours and geometry, shift with mirror and erasing, and the mixing have a random stream each, so
//! switching one on does not change the random numbers of the others. RandAugment and jitter share one: RandAugment draws first.

mod colour;
mod crop;
mod geometry;
mod jitter;
mod mix;
mod options;
mod params;
mod rand_augment;

use rand::Rng;

pub(super) use crop::random_resized;
pub use mix::Mix;
pub use options::{Augment, Crop, Interpolation};
pub use params::{AugmentParams, MEAN, STD};

/// Applies RandAugment, then colour jitter, to `pixels` `[height, width, 3]` in place; `rng` belongs to this image and epoch.
pub(super) fn change_colours(augment: &Augment, pixels: &mut [u8], size: [usize; 2], rng: &mut impl Rng) {
    rand_augment::draw(augment, size, rng).into_iter().for_each(|op| op.apply(pixels, size));
    jitter::draw(augment, rng).into_iter().for_each(|step| step.apply(pixels));
}
