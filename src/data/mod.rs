//! From a folder of images to training batches.
//!
//! folder → [`load`] → [`Dataset`] (names or lists parsed, checked) → [`IdentitySampler`] (which images make a batch) →
//! [`Loader`] (threads that decode, resize, augment ahead) → [`Batch`].

mod dataset;
mod folder;
mod loader;
mod resample;
mod sampler;
mod sets;
pub mod synth;
mod transforms;

pub use dataset::{Dataset, ImageRecord, Protocol};
pub use folder::list_images;
pub use loader::{Batch, ImageCache, Loader, LoaderOptions};
pub use sampler::IdentitySampler;
pub(crate) use sets::parse_name;
pub use sets::{CLASSIC_FILE, ClassicSplits, DatasetKind, LoadOptions, Verdict, load};
pub use transforms::{Rgb, Transform, decode};
