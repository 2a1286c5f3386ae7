//! From a folder of images to training batches.
//!
//! folder → [`Dataset`] (names parsed, checked) → [`IdentitySampler`] (which images make a batch) → [`Loader`] (threads that
//! decode, resize, augment ahead) → [`Batch`].

mod dataset;
mod folder;
mod loader;
mod market;
mod sampler;
pub mod synth;
mod transforms;

pub use dataset::{Dataset, ImageRecord, Protocol};
pub use folder::list_images;
pub use loader::{Batch, ImageCache, Loader, LoaderOptions};
pub use market::load_market;
pub(crate) use market::parse_name;
pub use sampler::IdentitySampler;
pub use transforms::Transform;
