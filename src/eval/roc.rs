//! Verification: at which distance two images are the same person, over all pairs of a query and a gallery item that
//! the filter keeps.
//!
//! A pair is accepted if its distance is at most the threshold. TPR: accepted share of the pairs of one identity
//! (genuine). FPR: of the others (impostors). Up to [`EXACT_PAIRS`] pairs every distance is a possible threshold;
//! beyond, the distances go into
//! [`BINS`] equal bins from 0 to the largest possible distance, whose upper edges are the thresholds (for features of
//! unit length 1.5e-5 apart). Memory is bounded by either.

use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use serde::Serialize;

use super::ranking::{GalleryFilter, Labels};
use crate::report::Table;

/// Pairs that are sorted (a few ten MiB).
pub const EXACT_PAIRS: usize = 1 << 22;
/// Bins for more pairs.
pub const BINS: usize = 1 << 17;
/// False positive rates to report.
pub const FALSE_POSITIVE_RATES: [f64; 5] = [1e-1, 1e-2, 1e-3, 1e-4, 1e-5];

/// TPR at the largest threshold whose FPR is at most `fpr`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct OperatingPoint {
    pub fpr: f64,
    pub tpr: f64,
    pub threshold: f64,
}

/// Figures of the receiver operating characteristic. Shares in [0, 1], thresholds are distances.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Roc {
    pub genuine_pairs: u64,
    pub impostor_pairs: u64,
    /// For those of [`FALSE_POSITIVE_RATES`] that one impostor or more can make up.
    pub points: Vec<OperatingPoint>,
    /// Equal error rate: mean of FPR and 1 - TPR where they are closest.
    pub eer: f64,
    /// Distance of the equal error rate.
    pub eer_threshold: f64,
    /// Distances were counted in bins of this width; `None` if each counted by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bin_width: Option<f64>,
}

impl Roc {
    /// Rates in percent, and the threshold of each.
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

/// Takes the rows of the distance matrix in order.
pub(super) struct RocBuilder<'a> {
    query: Labels<'a>,
    gallery: Labels<'a>,
    filter: GalleryFilter,
    next: usize,
    pairs: Pairs,
}

enum Pairs {
    /// (distance, genuine)
    Exact(Vec<(f32, bool)>),
    /// Counts of genuine pairs and of impostors.
    Binned { counts: Vec<[AtomicU64; 2]>, per_distance: f64 },
}

impl<'a> RocBuilder<'a> {
    /// `largest`: no distance is larger. `exact_pairs`: usually [`EXACT_PAIRS`].
    pub fn new(
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

    /// Counts the pairs of the next queries, whose distances are `block` `[rows, gallery]`. A query without a match
    /// that the filter keeps is left out, as in the ranking.
    pub fn add(&mut self, block: &[f32]) {
        let n_gallery = self.gallery.pids.len();
        let (query, gallery, filter, first) = (self.query, self.gallery, self.filter, self.next);
        let of_row = |(i, row): (usize, &'_ [f32])| {
            let (pid, camid) = (query.pids[first + i], query.camids[first + i]);
            let kept = move |g: &usize| !filter.removes(pid, camid, gallery, *g);
            let valid = (0..row.len()).any(|g| gallery.pids[g] == pid && kept(&g));
            (if valid { 0..n_gallery } else { 0..0 }).filter(kept).map(move |g| (g, gallery.pids[g] == pid))
        };
        match &mut self.pairs {
            Pairs::Exact(pairs) => {
                for (i, row) in block.chunks_exact(n_gallery).enumerate() {
                    pairs.extend(of_row((i, row)).map(|(g, genuine)| (row[g], genuine)));
                }
            }
            Pairs::Binned { counts, per_distance } => {
                // Whole numbers: the sums do not depend on who adds first.
                block.par_chunks_exact(n_gallery).enumerate().for_each(|(i, row)| {
                    for (g, genuine) in of_row((i, row)) {
                        let bin = (f64::from(row[g]) * *per_distance) as usize;
                        counts[bin.min(BINS - 1)][usize::from(!genuine)].fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        }
        self.next += block.len() / n_gallery;
    }

    /// `None` without a genuine pair or without an impostor.
    pub fn finish(self) -> Option<Roc> {
        match self.pairs {
            Pairs::Exact(mut pairs) => {
                pairs.par_sort_unstable_by(|a, b| a.partial_cmp(b).expect("distances are not NaN"));
                let steps = pairs.chunk_by(|a, b| a.0 == b.0).map(|same| {
                    let genuine = same.iter().filter(|pair| pair.1).count() as u64;
                    (f64::from(same[0].0), [genuine, same.len() as u64 - genuine])
                });
                figures(steps, None)
            }
            Pairs::Binned { counts, per_distance } => {
                let steps = counts.iter().enumerate().map(|(bin, counts)| {
                    ((bin + 1) as f64 / per_distance, [0, 1].map(|which| counts[which].load(Ordering::Relaxed)))
                });
                figures(steps.filter(|(_, counts)| *counts != [0, 0]), Some(1.0 / per_distance))
            }
        }
    }
}

/// `steps`: ascending thresholds, each with the genuine pairs and the impostors that it adds.
fn figures(steps: impl Iterator<Item = (f64, [u64; 2])> + Clone, bin_width: Option<f64>) -> Option<Roc> {
    let [genuine_pairs, impostor_pairs] =
        steps.clone().fold([0, 0], |sum, (_, add)| [sum[0] + add[0], sum[1] + add[1]]);
    if genuine_pairs == 0 || impostor_pairs == 0 {
        return None;
    }
    let measurable = |fpr: &f64| fpr * impostor_pairs as f64 >= 1.0;
    let start = |fpr| OperatingPoint { fpr, tpr: 0.0, threshold: 0.0 };
    let mut points: Vec<OperatingPoint> = FALSE_POSITIVE_RATES.into_iter().filter(measurable).map(start).collect();
    let (mut eer, mut eer_threshold, mut gap) = (0.5, 0.0, 1.0);
    let [mut accepted, mut wrong] = [0, 0];
    for (threshold, [genuine, impostors]) in steps {
        accepted += genuine;
        wrong += impostors;
        let tpr = accepted as f64 / genuine_pairs as f64;
        let fpr = wrong as f64 / impostor_pairs as f64;
        for point in points.iter_mut().filter(|point| fpr <= point.fpr) {
            (point.tpr, point.threshold) = (tpr, threshold);
        }
        let missed = 1.0 - tpr;
        if (fpr - missed).abs() < gap {
            gap = (fpr - missed).abs();
            (eer, eer_threshold) = (0.5 * (fpr + missed), threshold);
        }
    }
    Some(Roc { genuine_pairs, impostor_pairs, points, eer, eer_threshold, bin_width })
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;
    use crate::rng::{Purpose, stream};

    fn roc(distances: &[f32], query: Labels, gallery: Labels, exact_pairs: usize) -> Option<Roc> {
        let mut roc = RocBuilder::new(query, gallery, GalleryFilter::SamePidAndCamera, 2.0, exact_pairs);
        // In two blocks.
        let (first, second) = distances.split_at(distances.len() / gallery.pids.len() / 2 * gallery.pids.len());
        [first, second].into_iter().for_each(|block| roc.add(block));
        roc.finish()
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
