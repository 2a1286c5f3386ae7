//! Evaluation: runs networks on images, ranks features, measures classifiers, and writes reports.

pub mod calibration;
pub mod camera_pairs;
pub mod classification;
mod distance;
pub mod evaluate;
pub mod extract;
pub mod features_file;
pub mod interval;
mod labels;
mod model;
pub mod occlusion;
pub mod onnx;
mod options;
pub mod pictures;
mod products;
pub mod ranking;
pub mod report;
pub mod rerank;
pub mod roc;
pub mod search;
mod sets;

/// Name of the file with a row for each image or query that was evaluated.
pub const ITEMS_FILE: &str = "items.csv";

pub use distance::reranked_distances;
pub use evaluate::{dataset_features, evaluate_dataset, ranking_options};
pub use extract::Output;
pub use model::{Inference, Model};
pub use options::{EvalOptions, Rerank};
