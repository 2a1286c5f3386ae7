//! What chance does to training images, step by step: a part of the image ([`crop`]), colours and shapes of its bytes
//! ([`rand_augment`], then [`jitter`]: loader threads), shift, mirror and erasing ([`Drawn`]), pairs of the batch mixed
//! ([`Mix`]; the last two where the batch is used, on the CPU or by `kernels/image.cu`).
//!
//! Each step draws from a stream of its own, so one that is switched on leaves the numbers of the others as they are.

mod colour;
mod crop;
mod drawn;
mod geometry;
mod jitter;
mod mix;
mod options;
mod rand_augment;

use rand::Rng;

pub(super) use crop::random_resized;
pub use drawn::{Drawn, MEAN, STD};
pub use mix::Mix;
pub use options::{Augment, Crop, Interpolation};

/// Whether [`change_colours`] does anything.
pub(super) fn changes_colours(augment: &Augment) -> bool {
    augment.rand_ops > 0 || jitter::is_on(augment)
}

/// RandAugment, then colour jitter, of `pixels` `[height, width, 3]` in place; `rng` belongs to this image and epoch.
pub(super) fn change_colours(augment: &Augment, pixels: &mut [u8], size: [usize; 2], rng: &mut impl Rng) {
    rand_augment::draw(augment, size, rng).into_iter().for_each(|op| op.apply(pixels, size));
    jitter::draw(augment, rng).into_iter().for_each(|step| step.apply(pixels));
}
