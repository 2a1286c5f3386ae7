//! The metrics that tables and summaries show.

use serde::Serialize;

use super::RankingReport;

/// Metrics of one ranking, in percent.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Scores {
    /// Mean average precision; NaN where the protocol defines none.
    #[serde(rename = "mAP")]
    pub map: f64,
    /// Mean inverse negative penalty; NaN where the protocol defines none.
    #[serde(rename = "mINP")]
    pub minp: f64,
    /// CMC@1: share of queries with a match in the first place.
    pub rank1: f64,
    /// CMC@5: share of queries with a match among the first 5; NaN if the curve is shorter.
    pub rank5: f64,
    /// CMC@10: share of queries with a match among the first 10; NaN if the curve is shorter.
    pub rank10: f64,
}

impl Scores {
    /// Takes the metrics out of a report.
    pub fn of(report: &RankingReport) -> Scores {
        let rank = |k| 100.0 * report.rank(k).unwrap_or(f64::NAN);
        Scores { map: 100.0 * report.map, minp: 100.0 * report.minp, rank1: rank(1), rank5: rank(5), rank10: rank(10) }
    }
}
