//! Ranking metrics and reports.

mod distance;
pub mod ranking;
