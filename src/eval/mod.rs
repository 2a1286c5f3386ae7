//! Ranking metrics and reports.
