//! Ranking metrics of re-identification: CMC, mAP and mINP.
//!
//! For each query the gallery is ordered by (distance, gallery index), after the items that the filter names have been
//! taken out. A query without a remaining match is skipped: it counts neither as a failure nor as a success.

use std::fmt;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::distance::{Rows, distances, squared_norms};
use crate::report::Table;
use crate::{Error, Result};

/// Distances held in memory at a time (64 MiB), unless fewer than 16 query rows fit.
const BLOCK_VALUES: usize = 1 << 24;

/// Identity and camera of each image.
#[derive(Clone, Copy, Debug)]
pub struct Labels<'a> {
    /// `[n]`
    pub pids: &'a [i64],
    /// `[n]`
    pub camids: &'a [i64],
}

/// Which gallery items are taken out for a query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GalleryFilter {
    /// Those with the query's identity and camera: the protocol of Market-1501.
    #[default]
    SamePidAndCamera,
    /// Every image of the query's camera.
    SameCamera,
    /// Nothing, for data from a single camera. A query image that lies in the gallery too matches itself.
    Nothing,
}

/// What a query adds to the CMC curve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CmcRule {
    /// 1 at the rank of its first match: the share of queries with a match among the first k.
    #[default]
    FirstMatch,
    /// 1 / (number of matches) for each match, at its rank without the matches before it.
    EveryMatch,
}

/// How to rank; the default is the protocol of Market-1501.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RankingOptions {
    pub filter: GalleryFilter,
    pub cmc: CmcRule,
    /// Length of the CMC curve.
    pub max_rank: usize,
}

impl Default for RankingOptions {
    fn default() -> Self {
        Self { filter: GalleryFilter::default(), cmc: CmcRule::default(), max_rank: 100 }
    }
}

/// Metrics of one query. All are shares in [0, 1].
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct QueryResult {
    /// Average precision Σ (R_k - R_{k-1}) P_k over distinct distances: tied items enter together.
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

/// Metrics over all valid queries. All are shares in [0, 1].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RankingReport {
    /// Mean of [`QueryResult::ap`].
    #[serde(rename = "mAP")]
    pub map: f64,
    /// Mean of [`QueryResult::ap_trapezoid`].
    #[serde(rename = "mAP_trapezoid")]
    pub map_trapezoid: f64,
    /// Mean of [`QueryResult::inp`].
    #[serde(rename = "mINP")]
    pub minp: f64,
    /// CMC@k is `cmc[k - 1]`; `[max_rank]`.
    pub cmc: Vec<f64>,
    pub valid_queries: usize,
    /// Queries without a match that counts.
    pub skipped_queries: usize,
    /// In the order of the queries; `None` for a skipped one.
    pub per_query: Vec<Option<QueryResult>>,
}

impl RankingReport {
    /// CMC@k (Rank-k), `None` beyond the curve.
    pub fn rank(&self, k: usize) -> Option<f64> {
        self.cmc.get(k.checked_sub(1)?).copied()
    }
}

impl fmt::Display for RankingReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: f64| format!("{:.2}", 100.0 * share);
        let mut table = Table::new(["metric", "%"]);
        table.row(["mAP (step formula, ties enter together)".to_string(), percent(self.map)]);
        table.row(["mAP (trapezoid formula of Market-1501)".to_string(), percent(self.map_trapezoid)]);
        table.row(["mINP".to_string(), percent(self.minp)]);
        for k in [1, 3, 5, 10] {
            if let Some(share) = self.rank(k) {
                table.row([format!("Rank-{k}"), percent(share)]);
            }
        }
        write!(f, "{table}queries: {} ranked, {} skipped without a match", self.valid_queries, self.skipped_queries)
    }
}

/// Ranks by the Euclidean distance of features.
///
/// `query` `[queries, dim]` and `gallery` `[gallery, dim]` are usually rows of unit length, but need not be.
///
/// # Errors
/// [`Error::FeatureRows`] where features and labels differ in number, [`Error::NotFiniteFeature`] for NaN or infinity,
/// [`Error::NoValidQuery`].
pub fn evaluate(
    query: &[f32],
    query_labels: Labels,
    gallery: &[f32],
    gallery_labels: Labels,
    dim: usize,
    options: &RankingOptions,
) -> Result<RankingReport> {
    let query_norms = checked_norms("query", query, query_labels, dim)?;
    let gallery_norms = checked_norms("gallery", gallery, gallery_labels, dim)?;
    let gallery_rows = Rows { features: gallery, squared_norms: &gallery_norms };
    let n_gallery = gallery_norms.len();
    if n_gallery == 0 {
        return Err(Error::NoValidQuery { queries: query_norms.len() });
    }
    let block_rows = (BLOCK_VALUES / n_gallery).clamp(16, 256);
    let mut block = vec![0.0; block_rows.min(query_norms.len()) * n_gallery];
    let mut ranked = Vec::with_capacity(query_norms.len());
    for (features, norms) in query.chunks(block_rows * dim).zip(query_norms.chunks(block_rows)) {
        let block = &mut block[..norms.len() * n_gallery];
        distances(Rows { features, squared_norms: norms }, gallery_rows, dim, block);
        let first = ranked.len();
        rank_block(block, first..first + norms.len(), query_labels, gallery_labels, options, &mut ranked);
    }
    summarise(ranked, options)
}

/// Ranks by given distances `[queries, gallery]`.
///
/// # Errors
/// As [`evaluate`]; a distance that is NaN is a [`Error::NotFiniteFeature`] of its query.
pub fn evaluate_distances(
    distances: &[f32],
    query_labels: Labels,
    gallery_labels: Labels,
    options: &RankingOptions,
) -> Result<RankingReport> {
    let (queries, n_gallery) = (query_labels.pids.len(), gallery_labels.pids.len());
    check_counts("query", distances.len(), n_gallery, query_labels)?;
    check_counts("gallery", distances.len(), queries, gallery_labels)?;
    if let Some(at) = distances.iter().position(|d| d.is_nan()) {
        return Err(Error::NotFiniteFeature { set: "query", row: at / n_gallery });
    }
    let mut ranked = Vec::with_capacity(queries);
    rank_block(distances, 0..queries, query_labels, gallery_labels, options, &mut ranked);
    summarise(ranked, options)
}

fn check_counts(set: &'static str, values: usize, dim: usize, labels: Labels) -> Result<()> {
    let (pids, camids) = (labels.pids.len(), labels.camids.len());
    if pids != camids || pids * dim != values {
        return Err(Error::FeatureRows { set, values, dim, pids, camids });
    }
    Ok(())
}

/// Squared norms of finite features; one that is not finite gives its row away.
fn checked_norms(set: &'static str, features: &[f32], labels: Labels, dim: usize) -> Result<Vec<f32>> {
    check_counts(set, features.len(), dim, labels)?;
    if dim == 0 {
        return Err(Error::FeatureRows { set, values: 0, dim, pids: labels.pids.len(), camids: labels.camids.len() });
    }
    let norms = squared_norms(features, dim);
    match norms.iter().position(|norm| !norm.is_finite()) {
        Some(row) => Err(Error::NotFiniteFeature { set, row }),
        None => Ok(norms),
    }
}

/// A query's metrics and, for each of its matches in order, how many other items come before it.
struct RankedQuery {
    result: QueryResult,
    others_before: Vec<usize>,
}

/// Ranks the queries `rows`, whose distances are `block` `[rows, gallery]`.
fn rank_block(
    block: &[f32],
    rows: std::ops::Range<usize>,
    query: Labels,
    gallery: Labels,
    options: &RankingOptions,
    ranked: &mut Vec<Option<RankedQuery>>,
) {
    let n_gallery = gallery.pids.len();
    let rank = |row: usize| {
        let distances = &block[(row - rows.start) * n_gallery..][..n_gallery];
        rank_query(distances, query.pids[row], query.camids[row], gallery, options.filter)
    };
    ranked.par_extend(rows.clone().into_par_iter().map(rank));
}

/// Metrics of one query, without sorting the gallery: only the matches are sorted, and each other item is counted where
/// it falls between them. `None` if no match is left.
fn rank_query(distances: &[f32], pid: i64, camid: i64, gallery: Labels, filter: GalleryFilter) -> Option<RankedQuery> {
    let removed = |g: usize| match filter {
        GalleryFilter::SamePidAndCamera => gallery.pids[g] == pid && gallery.camids[g] == camid,
        GalleryFilter::SameCamera => gallery.camids[g] == camid,
        GalleryFilter::Nothing => false,
    };
    let kept = || (0..distances.len()).filter(|&g| !removed(g));
    let mut matches: Vec<(f32, usize)> =
        kept().filter(|&g| gallery.pids[g] == pid).map(|g| (distances[g], g)).collect();
    matches.sort_by(|a, b| a.partial_cmp(b).expect("distances are not NaN"));
    let (farthest, _) = *matches.last()?;

    // Other items by the first match that comes after them in rank, and by the first that is not nearer.
    let mut others_before = vec![0; matches.len()];
    let mut others_within = vec![0; matches.len()];
    for other in kept().filter(|&g| gallery.pids[g] != pid && distances[g] <= farthest) {
        let key = (distances[other], other);
        others_within[matches.partition_point(|m| m.0 < key.0)] += 1;
        if let Some(count) = others_before.get_mut(matches.partition_point(|m| *m < key)) {
            *count += 1;
        }
    }
    cumulate(&mut others_before);
    cumulate(&mut others_within);

    let n = matches.len() as f64;
    let (mut ap, mut ap_trapezoid, mut entered) = (0.0, 0.0, 0);
    for i in 0..matches.len() {
        let hits = i + 1;
        if matches.get(hits).is_none_or(|next| next.0 > matches[i].0) {
            ap += (hits - entered) as f64 / n * hits as f64 / (hits + others_within[i]) as f64;
            entered = hits;
        }
        let before = i + others_before[i];
        let precision_before = if before == 0 { 1.0 } else { i as f64 / before as f64 };
        ap_trapezoid += (hits as f64 / (before + 1) as f64 + precision_before) / (2.0 * n);
    }
    let last_rank = matches.len() + others_before[matches.len() - 1];
    let result = QueryResult {
        ap,
        ap_trapezoid,
        inp: n / last_rank as f64,
        matches: matches.len(),
        first_match_rank: 1 + others_before[0],
    };
    Some(RankedQuery { result, others_before })
}

fn cumulate(counts: &mut [usize]) {
    for i in 1..counts.len() {
        counts[i] += counts[i - 1];
    }
}

fn summarise(ranked: Vec<Option<RankedQuery>>, options: &RankingOptions) -> Result<RankingReport> {
    let valid_queries = ranked.iter().flatten().count();
    if valid_queries == 0 {
        return Err(Error::NoValidQuery { queries: ranked.len() });
    }
    let mut cmc = vec![0.0; options.max_rank];
    for query in ranked.iter().flatten() {
        let (counted, share) = match options.cmc {
            CmcRule::FirstMatch => (&query.others_before[..1], 1.0),
            CmcRule::EveryMatch => (&query.others_before[..], 1.0 / query.result.matches as f64),
        };
        for &position in counted.iter().filter(|&&position| position < options.max_rank) {
            cmc[position] += share;
        }
    }
    let mut sum = 0.0;
    for value in &mut cmc {
        sum += *value;
        *value = sum / valid_queries as f64;
    }
    let per_query: Vec<Option<QueryResult>> = ranked.into_iter().map(|query| query.map(|q| q.result)).collect();
    let mean =
        |metric: fn(&QueryResult) -> f64| per_query.iter().flatten().map(metric).sum::<f64>() / valid_queries as f64;
    Ok(RankingReport {
        map: mean(|q| q.ap),
        map_trapezoid: mean(|q| q.ap_trapezoid),
        minp: mean(|q| q.inp),
        cmc,
        valid_queries,
        skipped_queries: per_query.len() - valid_queries,
        per_query,
    })
}

#[cfg(test)]
mod tests;
