//! Ranking metrics and reports.

mod distance;
pub mod features_file;
pub mod ranking;
