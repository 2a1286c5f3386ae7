//! Ranking metrics and reports.

mod distance;
pub mod evaluate;
pub mod extract;
pub mod features_file;
pub mod ranking;
mod trained;

pub use evaluate::{evaluate_dataset, extract_features, transform, workers};
pub use trained::{TrainedModel, model_file};
