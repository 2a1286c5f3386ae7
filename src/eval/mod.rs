//! Ranking metrics and reports.

mod distance;
pub mod evaluate;
pub mod extract;
pub mod ranking;
pub use evaluate::{evaluate_dataset, extract_features, transform, workers};
