//! Ranking metrics and reports.

mod blocks;
pub mod camera_pairs;
pub mod classification;
mod distance;
pub mod evaluate;
pub mod extract;
pub mod features_file;
pub mod pictures;
pub mod ranking;
pub mod report;
pub mod rerank;
pub mod roc;
mod trained;

pub use evaluate::{dataset_features, evaluate_dataset, extract_features, ranking_options, transform, workers};
pub use trained::{TrainedModel, model_file};
