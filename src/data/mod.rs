//! From a folder of images to training batches.
//!
//! folder → [`load`] → [`Dataset`] (names or lists parsed, checked) → [`IdentitySampler`] (which images make a batch) →
//! [`Loader`] (threads that decode, crop, resize and change colours ahead of training) → [`Batch`] (bytes, and the sampled parameters
//! of the rest of the augmentation: [`AugmentParams`], [`Mix`]).

mod augment;
mod batch;
mod broken;
mod cache;
pub(crate) mod check;
mod classes;
pub mod convert;
mod dataset;
mod decode;
mod duplicates;
mod fingerprint;
mod folder;
mod image_table;
mod kind;
mod loader;
mod named;
mod options;
mod resample;
mod rgb;
mod sample;
mod sampler;
mod sets;
pub mod synth;
mod transforms;

pub use augment::{Augment, AugmentParams, Crop, Interpolation, MEAN, Mix, STD};
pub use batch::Batch;
pub use cache::ImageCache;
pub(crate) use classes::read_classes;
pub use classes::{ClassDataset, ClassOptions, ValidationImages, load_classes};
pub use dataset::{Dataset, ImageRecord, Names, Protocol};
pub use decode::decode;
pub(crate) use duplicates::middle;
pub(crate) use fingerprint::fingerprints;
pub use folder::{ImageList, list_images};
pub use kind::DatasetKind;
pub use loader::{Loader, LoaderOptions};
pub use options::{DataOptions, LoadOptions, SameCamera, Subsets};
pub use rgb::Rgb;
pub use sample::{ImageSource, PackedImages, Sample};
pub use sampler::{ClassSampler, IdentitySampler, Sampler, SamplerOptions};
pub(crate) use sets::{CLASSIC_FILE, ClassicSplits};
pub use sets::{Verdict, load};
pub(crate) use sets::{parse_name, read};
pub use transforms::Transform;
