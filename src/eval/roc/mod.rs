//! Verification: whether two images show the same person, by their distance, over all pairs of a query and a gallery item that
//! the filter keeps.
//!
//! A pair is accepted if its distance is at most the threshold. TPR is the accepted share of the pairs of one identity
//! (genuine), FPR that of the others (impostors). Up to `EXACT_PAIRS` pairs, every distance is a possible threshold. With more
//! pairs, distances are counted in `BINS` equal bins from 0 to the largest possible distance, and the thresholds are the upper
//! edges of the bins (at most 1.5e-5 apart for features of unit length); rounding moves a distance by fewer than `BINS_OFF` bins.
//! Both ways bound the memory.

mod steps;

use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use serde::Serialize;

use self::steps::{Pair, Steps};
use super::products::{Pairs as Exact, Row};
use super::ranking::{GalleryFilter, Labels, counted_pairs};
use crate::base::report::Table;

/// Largest number of pairs that are sorted (a few tens of MiB).
pub(crate) const EXACT_PAIRS: usize = 1 << 22;
/// Number of bins in which the distances of more pairs are counted.
pub(crate) const BINS: usize = 1 << 17;
/// A distance whose bounds are farther apart than this many bins is computed in f64.
pub(super) const BINS_OFF: f64 = 16.0;
/// False positive rates to report.
pub const FALSE_POSITIVE_RATES: [f64; 5] = [1e-1, 1e-2, 1e-3, 1e-4, 1e-5];

/// TPR at the largest threshold whose FPR is at most `fpr`. Without such a threshold, `tpr` and `threshold` are 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct OperatingPoint {
    /// Largest accepted false positive rate (FPR: share of impostor pairs that are accepted), in [0, 1].
    pub fpr: f64,
    /// True positive rate (TPR: share of genuine pairs that are accepted), in [0, 1].
    pub tpr: f64,
    /// Largest distance at which a pair is accepted.
    pub threshold: f64,
}

/// Figures of the receiver operating characteristic. Shares are in [0, 1]; thresholds are distances.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Roc {
    /// Number of pairs of a query and a gallery image of one identity.
    pub genuine_pairs: u64,
    /// Number of pairs of a query and a gallery image of two identities.
    pub impostor_pairs: u64,
    /// One point for each wanted rate, usually [`FALSE_POSITIVE_RATES`], that is at least 1 / `impostor_pairs`.
    pub points: Vec<OperatingPoint>,
    /// Equal error rate: mean of FPR and 1 - TPR where they are closest.
    pub eer: f64,
    /// Distance of the equal error rate.
    pub eer_threshold: f64,
    /// Width of the bins in which distances were counted; `None` without bins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bin_width: Option<f64>,
}

impl Roc {
    /// Returns a table of the rates in percent, and the threshold of each.
    pub fn table(&self) -> String {
        let mut table = Table::new(["verification", "%", "threshold"]);
        for point in &self.points {
            table.row([
                format!("TPR at FPR {:e}", point.fpr),
                format!("{:.2}", 100.0 * point.tpr),
                format!("{:.4}", point.threshold),
            ]);
        }
        let eer = format!("{:.2}", 100.0 * self.eer);
        table.row(["equal error rate".to_owned(), eer, format!("{:.4}", self.eer_threshold)]);
        format!("{table}pairs: {} of one identity, {} of two", self.genuine_pairs, self.impostor_pairs)
    }
}

/// Collects pairs in the order of the distance matrix.
pub(super) struct RocBuilder<'a> {
    query: Labels<'a>,
    gallery: Labels<'a>,
    filter: GalleryFilter,
    next: usize,
    pairs: Pairs,
}

enum Pairs {
    Exact(Vec<Pair>),
    /// Counts of genuine pairs and of impostors.
    Binned {
        counts: Vec<[AtomicU64; 2]>,
        per_distance: f64,
    },
}

impl<'a> RocBuilder<'a> {
    /// Starts the collection. `largest` is an upper bound of all distances; `exact_pairs` is usually [`EXACT_PAIRS`].
    pub(super) fn new(
        query: Labels<'a>,
        gallery: Labels<'a>,
        filter: GalleryFilter,
        largest: f64,
        exact_pairs: usize,
    ) -> RocBuilder<'a> {
        let pairs = if query.pids.len().saturating_mul(gallery.pids.len()) <= exact_pairs {
            Pairs::Exact(Vec::new())
        } else {
            let counts = (0..BINS).map(|_| Default::default()).collect();
            Pairs::Binned { counts, per_distance: BINS as f64 / largest.max(f64::MIN_POSITIVE) }
        };
        RocBuilder { query, gallery, filter, next: 0, pairs }
    }

    /// Adds the pairs of the next queries. Queries without a match after filtering are skipped, as in the ranking.
    pub(super) fn add(&mut self, rows: &[Row]) {
        let n_gallery = self.gallery.pids.len();
        let (query, gallery, filter, first) = (self.query, self.gallery, self.filter, self.next);
        let of_row = |i: usize| counted_pairs(first + i, query, gallery, filter);
        match &mut self.pairs {
            Pairs::Exact(pairs) => {
                for (i, row) in rows.iter().enumerate() {
                    let index = (first + i) * n_gallery;
                    let pair = |(g, genuine)| Pair::new([row.lower(g), row.upper(g)], index + g, genuine);
                    pairs.extend(of_row(i).map(pair));
                }
            }
            Pairs::Binned { counts, per_distance } => {
                // Sums of whole numbers do not depend on the order of the threads.
                rows.par_iter().enumerate().for_each(|(i, row)| {
                    for (g, genuine) in of_row(i) {
                        let bin = bin_of(row, g, *per_distance);
                        counts[bin.min(BINS - 1)][usize::from(!genuine)].fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        }
        self.next += rows.len();
    }

    /// Returns the figures at the false positive rates `rates`, or `None` without a genuine pair or without an impostor. `exact` has the exact
    /// distances.
    pub(super) fn finish(self, exact: &dyn Exact, rates: &[f64]) -> Option<Roc> {
        match self.pairs {
            Pairs::Exact(pairs) => by_selection(&Steps::new(pairs, self.gallery.pids.len(), exact), rates),
            Pairs::Binned { counts, per_distance } => {
                let steps = counts.iter().enumerate().map(|(bin, counts)| {
                    ((bin + 1) as f64 / per_distance, [0, 1].map(|which| counts[which].load(Ordering::Relaxed)))
                });
                figures(steps.filter(|(_, counts)| *counts != [0, 0]), 1.0 / per_distance, rates)
            }
        }
    }
}

/// Returns the bin of a distance: by the middle of its bounds where that is precise enough, else by the exact distance.
fn bin_of(row: &Row, item: usize, per_distance: f64) -> usize {
    let (lower, upper) = (f64::from(row.lower(item)), f64::from(row.upper(item)));
    let (middle, width) = (0.5 * (lower + upper), upper - lower);
    let bin = row.distance(middle) * per_distance;
    // The relative error of a distance is half of that of its square.
    if bin * width > BINS_OFF * 2.0 * middle {
        (row.distance(row.exact(item)) * per_distance) as usize
    } else {
        bin as usize
    }
}

/// Returns a point, still without its figures, for each of `rates` that is at least 1 / `impostor_pairs`.
fn measurable(rates: &[f64], impostor_pairs: u64) -> Vec<OperatingPoint> {
    let point = |fpr| OperatingPoint { fpr, tpr: 0.0, threshold: 0.0 };
    rates.iter().copied().filter(|fpr| fpr * impostor_pairs as f64 >= 1.0).map(point).collect()
}

/// Returns the accepted shares of genuine pairs and of impostors.
fn rates(accepted: [u64; 2], all: [u64; 2]) -> [f64; 2] {
    [0, 1].map(|which| accepted[which] as f64 / all[which] as f64)
}

/// The threshold at which FPR and 1 - TPR are closest so far.
struct EqualErrors {
    rate: f64,
    threshold: f64,
    gap: f64,
}

impl EqualErrors {
    fn new() -> EqualErrors {
        EqualErrors { rate: 0.5, threshold: 0.0, gap: 1.0 }
    }

    fn see(&mut self, [tpr, fpr]: [f64; 2], threshold: f64) {
        let missed = 1.0 - tpr;
        if (fpr - missed).abs() < self.gap {
            *self = EqualErrors { rate: 0.5 * (fpr + missed), threshold, gap: (fpr - missed).abs() };
        }
    }
}

/// Computes the figures from single pairs: exact distances are needed only around each figure's threshold.
fn by_selection(steps: &Steps, wanted: &[f64]) -> Option<Roc> {
    let all = steps.all();
    if all.contains(&0) {
        return None;
    }
    let mut points = measurable(wanted, all[1]);
    for point in &mut points {
        let [before, _] = steps.around(|accepted| rates(accepted, all)[1] > point.fpr);
        if let Some(step) = before {
            (point.tpr, point.threshold) = (rates(step.accepted, all)[0], step.threshold);
        }
    }
    // The gap decreases up to the last step before FPR exceeds 1 - TPR, and increases from the next step on.
    let mut errors = EqualErrors::new();
    let exceeds = |accepted| {
        let [tpr, fpr] = rates(accepted, all);
        fpr >= 1.0 - tpr
    };
    for step in steps.around(exceeds).into_iter().flatten() {
        errors.see(rates(step.accepted, all), step.threshold);
    }
    let (eer, eer_threshold) = (errors.rate, errors.threshold);
    Some(Roc { genuine_pairs: all[0], impostor_pairs: all[1], points, eer, eer_threshold, bin_width: None })
}

/// Computes the figures from `steps`: ascending thresholds, each with the genuine pairs and impostors that it adds.
fn figures(steps: impl Iterator<Item = (f64, [u64; 2])> + Clone, bin_width: f64, wanted: &[f64]) -> Option<Roc> {
    let all = steps.clone().fold([0, 0], |sum, (_, add)| [sum[0] + add[0], sum[1] + add[1]]);
    if all.contains(&0) {
        return None;
    }
    let mut points = measurable(wanted, all[1]);
    let mut errors = EqualErrors::new();
    let mut accepted = [0, 0];
    for (threshold, [genuine, impostors]) in steps {
        accepted = [accepted[0] + genuine, accepted[1] + impostors];
        let [tpr, fpr] = rates(accepted, all);
        for point in points.iter_mut().filter(|point| fpr <= point.fpr) {
            (point.tpr, point.threshold) = (tpr, threshold);
        }
        errors.see([tpr, fpr], threshold);
    }
    let (eer, eer_threshold) = (errors.rate, errors.threshold);
    Some(Roc { genuine_pairs: all[0], impostor_pairs: all[1], points, eer, eer_threshold, bin_width: Some(bin_width) })
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;
    use crate::base::rng::{Purpose, stream};
    use crate::eval::ranking::GivenDistances;

    fn roc(distances: &[f32], query: Labels, gallery: Labels, exact_pairs: usize) -> Option<Roc> {
        let mut roc = RocBuilder::new(query, gallery, GalleryFilter::SamePidAndCamera, 2.0, exact_pairs);
        // In two blocks.
        let distances = GivenDistances::new(distances, gallery.pids.len());
        let rows = distances.rows();
        let (first, second) = rows.split_at(rows.len() / 2);
        [first, second].into_iter().for_each(|block| roc.add(block));
        roc.finish(&distances, &FALSE_POSITIVE_RATES)
    }

    #[test]
    fn figures_by_hand() {
        // Genuine at 0.1 and 0.6, impostors at 0.2, 0.5, 0.7 and 0.8; the first item is the query's own camera.
        let gallery = Labels { pids: &[1, 1, 2, 3, 1, 2, 3], camids: &[1, 2, 2, 2, 2, 2, 2] };
        let distances = [0.0, 0.1, 0.2, 0.5, 0.6, 0.7, 0.8];
        let roc = roc(&distances, Labels { pids: &[1], camids: &[1] }, gallery, 100).unwrap();
        assert_eq!((roc.genuine_pairs, roc.impostor_pairs, roc.bin_width), (2, 4, None));
        // At 0.5: FPR 2/4, missed 1/2.
        assert_eq!((roc.eer, roc.eer_threshold), (0.5, 0.5));
        assert_eq!(roc.points, [], "a tenth of four impostors is less than one");
    }

    #[test]
    fn bins_agree_with_sorting() {
        let (n_query, n_gallery) = (40, 900);
        let mut rng = stream(5, Purpose::Test, 0, 0);
        let mut labels = |n: usize, ids: i64| (0..n).map(|_| rng.random_range(0..ids)).collect::<Vec<i64>>();
        let (q_pids, q_cams) = (labels(n_query, 30), labels(n_query, 3));
        let (g_pids, g_cams) = (labels(n_gallery, 30), labels(n_gallery, 3));
        let mut distances = Vec::new();
        for q in 0..n_query {
            for g in 0..n_gallery {
                let centre = if q_pids[q] == g_pids[g] { 0.6 } else { 1.2 };
                distances.push(centre + rng.random_range(-0.5f32..0.5));
            }
        }
        let query = Labels { pids: &q_pids, camids: &q_cams };
        let gallery = Labels { pids: &g_pids, camids: &g_cams };
        let exact = roc(&distances, query, gallery, EXACT_PAIRS).unwrap();
        let binned = roc(&distances, query, gallery, 0).unwrap();
        let width = binned.bin_width.unwrap();
        assert_eq!((exact.genuine_pairs, exact.impostor_pairs), (binned.genuine_pairs, binned.impostor_pairs));
        assert_eq!(exact.points.len(), 4);
        for (exact, binned) in exact.points.iter().zip(&binned.points) {
            // Impostors of one bin enter together: the threshold may stop a bin or two early.
            assert!((exact.tpr - binned.tpr).abs() < 2e-3, "{exact:?} {binned:?}");
            assert!((exact.threshold - binned.threshold).abs() < 1e-3 + width, "{exact:?} {binned:?}");
            assert!(binned.tpr > 0.0 && binned.tpr < 1.0);
        }
        assert!((exact.eer - binned.eer).abs() < 1e-3 && (exact.eer_threshold - binned.eer_threshold).abs() < 1e-3);
        assert!((0.05..0.4).contains(&exact.eer));
    }

    #[test]
    fn queries_without_a_match_do_not_count() {
        let gallery = Labels { pids: &[1, 2], camids: &[1, 2] };
        assert_eq!(roc(&[0.1, 0.2], Labels { pids: &[1], camids: &[1] }, gallery, 100), None);
        let both = Labels { pids: &[1, 2], camids: &[1, 1] };
        let roc = roc(&[0.1, 0.2, 0.3, 0.4], both, gallery, 100).unwrap();
        assert_eq!((roc.genuine_pairs, roc.impostor_pairs), (1, 1));
    }
}
