//! From a folder of images to training batches.
//!
//! folder → [`Dataset`] (names parsed, checked) → [`IdentitySampler`] (which images make a batch) → [`Loader`] (threads that
//! decode, resize, augment ahead) → [`Batch`].

mod dataset;
mod loader;
mod market;
mod sampler;
mod transforms;

pub use dataset::{Dataset, ImageRecord, verify_images};
pub use loader::{Batch, Loader, LoaderOptions};
pub use market::load_market;
pub use sampler::IdentitySampler;
pub use transforms::{Augment, Interpolation, Transform};
