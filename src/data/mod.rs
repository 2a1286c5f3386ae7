//! From a folder of images to training batches.
//!
//! folder → [`load`] → [`Dataset`] (names or lists parsed, checked) → [`IdentitySampler`] (which images make a batch) →
//! [`Loader`] (threads that decode, resize and draw ahead) → [`Batch`] (bytes, and what augmentation does to them: [`Drawn`]).

mod augment;
mod batch;
mod broken;
mod classes;
mod dataset;
mod folder;
mod loader;
mod resample;
mod sample;
mod sampler;
mod sets;
pub mod synth;
mod transforms;

pub use augment::{Drawn, MEAN, STD};
pub use batch::Batch;
pub use classes::{ClassDataset, ClassOptions, load_classes};
pub use dataset::{Dataset, ImageRecord, Protocol};
pub use folder::list_images;
pub use loader::{ImageCache, Loader, LoaderOptions};
pub use sample::{ImageSource, PackedImages, Sample};
pub use sampler::IdentitySampler;
pub(crate) use sets::parse_name;
pub use sets::{CLASSIC_FILE, ClassicSplits, DatasetKind, LoadOptions, Subsets, Verdict, load};
pub use transforms::{Rgb, Transform, decode};
