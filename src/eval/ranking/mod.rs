//! Ranking metrics of re-identification: CMC, mAP and mINP.
//!
//! For each query, the gallery without the items that the filter removes is ordered by (distance, gallery index). A query
//! without a remaining match is skipped: it counts neither as a failure nor as a success.

mod counted_pairs;
mod given;
mod match_table;
mod queries_csv;
mod query;
mod random_gallery;
mod ranker;
mod scores;
mod single_shot;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};

pub(super) use self::counted_pairs::counted_pairs;
#[cfg(test)]
pub(super) use self::given::GivenDistances;
pub use self::given::evaluate_distances;
pub(crate) use self::queries_csv::QUERY_COLUMNS;
pub use self::queries_csv::write_queries_csv;
pub(super) use self::query::rank_query;
pub(super) use self::ranker::Ranker;
pub use self::scores::Scores;
pub(crate) use self::single_shot::REPEATS;
pub use super::labels::Labels;
use super::sets::Sets;
use crate::Result;
use crate::base::report::Table;
use crate::data::Protocol;
use crate::engine::device::Device;

/// Which gallery items are removed for a query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GalleryFilter {
    /// Images of the query's identity by its camera: the protocol of Market-1501.
    #[default]
    SamePidAndCamera,
    /// Every image of the query's camera.
    SameCamera,
    /// Nothing: the protocol [`Protocol::AnyCamera`]. A query image that is also in the gallery matches itself.
    Nothing,
}

impl GalleryFilter {
    /// Returns whether gallery item `g` is removed for a query of `pid` and `camid`.
    pub(crate) fn removes(self, pid: i64, camid: i64, gallery: Labels, g: usize) -> bool {
        match self {
            GalleryFilter::SamePidAndCamera => gallery.pids[g] == pid && gallery.camids[g] == camid,
            GalleryFilter::SameCamera => gallery.camids[g] == camid,
            GalleryFilter::Nothing => false,
        }
    }
}

/// How to rank; the default is the protocol of Market-1501.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RankingOptions {
    /// Which gallery items are removed for a query.
    pub filter: GalleryFilter,
    /// Length of the CMC curve.
    pub max_rank: usize,
    /// Whether, in CMC and mINP, other items at the same distance as a match rank before it, instead of in the order of the gallery.
    pub pessimistic_ties: bool,
    /// Protocol of the data set. [`Protocol::SingleGalleryShot`] removes every image of the query's camera, whatever `filter` is, and
    /// defines neither mAP nor mINP.
    pub protocol: Protocol,
    /// Seed of galleries that are drawn.
    pub seed: u64,
}

impl RankingOptions {
    /// Returns the filter that the protocol prescribes, or else the chosen one.
    pub(crate) fn effective_filter(&self) -> GalleryFilter {
        match self.protocol {
            Protocol::CrossCamera => self.filter,
            Protocol::SingleGalleryShot => GalleryFilter::SameCamera,
            // A camera is one image.
            Protocol::RandomGallery => GalleryFilter::SameCamera,
            Protocol::AnyCamera => GalleryFilter::Nothing,
        }
    }
}

impl Default for RankingOptions {
    fn default() -> Self {
        Self {
            filter: GalleryFilter::default(),
            max_rank: 100,
            pessimistic_ties: false,
            protocol: Protocol::default(),
            seed: 0,
        }
    }
}

/// Metrics of one query. All shares are in [0, 1].
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct QueryResult {
    /// Average precision Σ (R_k - R_{k-1}) P_k over distinct distances, with recall R and precision P: tied items enter together.
    pub ap: f64,
    /// Average precision by the trapezoid rule of Market-1501's own evaluation.
    pub ap_trapezoid: f64,
    /// Inverse negative penalty: matches / rank of the last match.
    pub inp: f64,
    /// Matches in the filtered gallery.
    pub matches: usize,
    /// 1-based rank of the first match.
    pub first_match_rank: usize,
}

/// Metrics over all valid queries. All shares are in [0, 1].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RankingReport {
    /// Protocol by which the queries were ranked.
    #[serde(skip)]
    pub protocol: Protocol,
    /// Mean of [`QueryResult::ap`]. NaN where the protocol defines none; files and tables then leave it out.
    #[serde(rename = "mAP", skip_serializing_if = "is_nan")]
    pub map: f64,
    /// Mean of [`QueryResult::ap_trapezoid`]; NaN where the protocol defines none.
    #[serde(rename = "mAP_trapezoid", skip_serializing_if = "is_nan")]
    pub map_trapezoid: f64,
    /// Mean of [`QueryResult::inp`]; NaN where the protocol defines none.
    #[serde(rename = "mINP", skip_serializing_if = "is_nan")]
    pub minp: f64,
    /// `[max_rank]`: CMC@k, the share of queries with a match among the first k, is `cmc[k - 1]`.
    pub cmc: Vec<f64>,
    /// Queries with a match after filtering.
    pub valid_queries: usize,
    /// Queries without a match after filtering.
    pub skipped_queries: usize,
    /// Metrics of each query, in the order of the queries; `None` for a skipped one. Empty if the protocol [draws galleries](Protocol::draws_galleries).
    pub per_query: Vec<Option<QueryResult>>,
}

fn is_nan(x: &f64) -> bool {
    x.is_nan()
}

impl RankingReport {
    /// Returns CMC@k (Rank-k), or `None` beyond the curve.
    pub fn rank(&self, k: usize) -> Option<f64> {
        self.cmc.get(k.checked_sub(1)?).copied()
    }
}

impl fmt::Display for RankingReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&comparison(&[("%", self)]))
    }
}

/// Returns a table of reports of the same queries side by side, in percent, and the number of queries.
///
/// # Panics
/// There is no report.
pub fn comparison(columns: &[(&str, &RankingReport)]) -> String {
    let (_, first) = columns[0];
    let mut table = Table::new(std::iter::once("metric").chain(columns.iter().map(|(title, _)| *title)));
    let mut row = |name: String, of: &dyn Fn(&RankingReport) -> f64| {
        let percent = columns.iter().map(|(_, report)| format!("{:.2}", 100.0 * of(report)));
        table.row(std::iter::once(name).chain(percent));
    };
    if first.protocol == Protocol::RandomGallery {
        row("mAP (1 / rank of the only match)".into(), &|r| r.map);
    }
    if !first.protocol.draws_galleries() {
        row("mAP (step formula, ties enter together)".into(), &|r| r.map);
        row("mAP (trapezoid formula of Market-1501)".into(), &|r| r.map_trapezoid);
        row("mINP".into(), &|r| r.minp);
    }
    for k in [1, 3, 5, 10] {
        if first.rank(k).is_some() {
            row(format!("Rank-{k}"), &|r| r.rank(k).unwrap_or(f64::NAN));
        }
    }
    let skipped =
        if first.protocol == Protocol::RandomGallery { "in every gallery" } else { "skipped without a match" };
    let queries = format!("queries: {} ranked, {} {skipped}", first.valid_queries, first.skipped_queries);
    match first.protocol {
        Protocol::CrossCamera => format!("{table}{queries}"),
        Protocol::AnyCamera => format!("{table}{queries}; images by the query's camera count"),
        Protocol::RandomGallery => format!(
            "{table}{queries}; the gallery is one random image of each identity, the queries are the others, mean of {REPEATS} draws"
        ),
        Protocol::SingleGalleryShot => {
            format!("{table}{queries}; one random gallery image of each identity, mean of {REPEATS} draws, no mAP")
        }
    }
}

/// Ranks by the Euclidean distance of features, computed on `device`.
///
/// The rows of `query` `[queries, dim]` and `gallery` `[gallery, dim]` usually have unit length, but need not.
///
/// # Errors
/// [`Error::FeatureRows`](crate::Error::FeatureRows) where features and labels differ in number;
/// [`Error::NotFiniteFeature`](crate::Error::NotFiniteFeature) for NaN or infinity;
/// [`Error::NoValidQuery`](crate::Error::NoValidQuery) if no query has a match; the device fails.
pub fn evaluate(
    query: &[f32],
    query_labels: Labels,
    gallery: &[f32],
    gallery_labels: Labels,
    dim: usize,
    options: &RankingOptions,
    device: &Device,
) -> Result<RankingReport> {
    rank_sets(&Sets::new(query, query_labels, gallery, gallery_labels, dim, device)?, options)
}

/// Ranks by the Euclidean distance, a block of queries at a time.
pub(super) fn rank_sets(sets: &Sets, options: &RankingOptions) -> Result<RankingReport> {
    let mut ranker = Ranker::new(sets.query_labels, sets.gallery_labels, options);
    sets.distances.for_each_block(|_, rows| ranker.add(rows))?;
    ranker.finish()
}
