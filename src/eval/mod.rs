//! Ranking metrics and reports.

mod blocks;
pub mod camera_pairs;
pub mod classification;
mod distance;
pub mod evaluate;
pub mod extract;
pub mod features_file;
mod model;
pub mod pictures;
pub mod ranking;
pub mod report;
pub mod rerank;
pub mod roc;
mod trained;

pub use evaluate::{dataset_features, evaluate_dataset, ranking_options, transform, workers};
pub use extract::Output;
pub use model::Model;
pub use trained::{TrainedModel, model_file};
