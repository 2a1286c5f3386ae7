//! The sparse rows V: expanded k-reciprocal neighbours, weighted by distance, averaged over the nearest images. And the final distance
//! of a pair in f64.

use std::sync::OnceLock;

use rayon::prelude::*;

use super::RerankOptions;
use super::base::BaseDistance;
use super::neighbours::Neighbours;
use crate::eval::products::{Pairs, Width};

/// (column, weight), ascending by column.
pub(super) type SparseRow = Box<[(u32, f64)]>;

/// Exact re-ranked distances, in f64: the neighbours, and the rows V, which are computed on first use.
pub(crate) struct ExactReranking<'a> {
    pub(super) base: BaseDistance<'a>,
    pub(super) options: RerankOptions,
    pub(super) found: Neighbours,
    queries: usize,
    /// R(i, k1/2)
    halves: Vec<OnceLock<Box<[u32]>>>,
    /// Rows V before averaging.
    own: Vec<OnceLock<SparseRow>>,
    mean: Vec<OnceLock<SparseRow>>,
    /// `[gallery]` each: scales, and slack times scale.
    widths: [Vec<f32>; 2],
}

impl<'a> ExactReranking<'a> {
    pub(super) fn new(base: BaseDistance<'a>, found: Neighbours, options: RerankOptions) -> ExactReranking<'a> {
        let (n, queries) = (base.len(), base.conditioned().queries());
        let gallery = queries..n;
        let widths = [base.scale[queries..].to_vec(), gallery.map(|i| base.scaled_slack(i)).collect()];
        let none = || (0..n).map(|_| OnceLock::new()).collect();
        let (halves, own, mean) = ((0..n).map(|_| OnceLock::new()).collect(), none(), none());
        ExactReranking { base, options, found, queries, halves, own, mean, widths }
    }

    /// Returns V_i.
    pub(super) fn encoding(&self, i: usize) -> &[(u32, f64)] {
        if self.options.k2 == 1 {
            return self.own(i);
        }
        self.mean[i].get_or_init(|| self.mean_of_nearest(i))
    }

    /// Returns V_i before averaging.
    fn own(&self, i: usize) -> &[(u32, f64)] {
        self.own[i].get_or_init(|| {
            let members = self.members(i);
            let distances = self.base.exact_of(i, &members);
            self.weigh(i, &members, distances)
        })
    }

    /// Returns R*(i), ascending.
    fn members(&self, i: usize) -> Vec<u32> {
        let half = |j: usize| {
            let set = || reciprocal(&self.found, j, self.options.half());
            &**self.halves[j].get_or_init(set)
        };
        expanded(&self.found, i, self.options.k1, half)
    }

    /// Computes V_i before averaging from R*(i) and the d of its members.
    fn weigh(&self, i: usize, members: &[u32], distances: Vec<f64>) -> SparseRow {
        let weight = |d: f64| (-self.base.normalised(d, self.found.max[i])).exp();
        let weights: Vec<f64> = distances.into_iter().map(weight).collect();
        let sum: f64 = weights.iter().sum();
        members.iter().zip(weights).map(|(&j, w)| (j, w / sum)).collect()
    }

    /// Computes the mean of the rows of i and its k2 - 1 nearest others.
    fn mean_of_nearest(&self, i: usize) -> SparseRow {
        let nearest = self.found.nearest(i, self.options.k2 - 1).iter().map(|j| *j as usize);
        let near: Vec<usize> = std::iter::once(i).chain(nearest).collect();
        let mut entries: Vec<(u32, f64)> = near.iter().flat_map(|&j| self.own(j).iter().copied()).collect();
        // A stable sort: weights of a column are added in the order of the neighbours.
        entries.sort_by_key(|(column, _)| *column);
        let share = 1.0 / near.len() as f64;
        let columns = entries.chunk_by(|a, b| a.0 == b.0);
        columns.map(|same| (same[0].0, same.iter().map(|(_, w)| w).sum::<f64>() * share)).collect()
    }

    /// Computes all rows V now.
    pub(super) fn encode(&self) {
        let members: Vec<Vec<u32>> = (0..self.base.len()).into_par_iter().map(|i| self.members(i)).collect();
        // Most pairs are in each other's sets: their d is computed once, for the first of both images.
        let later: Vec<Vec<f64>> =
            members.par_iter().enumerate().map(|(i, set)| self.base.exact_of(i, &set[before(set, i)..])).collect();
        members.par_iter().enumerate().for_each(|(i, set)| {
            let earlier = set[..before(set, i)].iter().map(|&j| {
                let (j, set) = (j as usize, &members[j as usize]);
                let known = set.binary_search(&(i as u32)).ok().map(|at| later[j][at - before(set, j)]);
                known.unwrap_or_else(|| self.base.exact(i, j))
            });
            let distances = earlier.chain(later[i].iter().copied()).collect();
            self.own[i].get_or_init(|| self.weigh(i, set, distances));
        });
        (0..self.base.len()).into_par_iter().for_each(|i| {
            self.encoding(i);
        });
    }

    /// Returns how far final distances of `query` may be above their bounds: by `margin`, and by the uncertainty of plain distances.
    pub(crate) fn width(&self, query: usize, margin: f32) -> Width<'_> {
        let max = self.found.max[query];
        // Never 0, so that the width is infinite for images without bounds.
        let share = 2.02 * f64::from(self.base.steepness()) * f64::from(self.options.lambda) / max;
        let share = if max > 0.0 { (share as f32).clamp(f32::MIN_POSITIVE, f32::MAX) } else { f32::MIN_POSITIVE };
        let factors = self.base.width_shares(query).map(|own| (share * own).clamp(f32::MIN_POSITIVE, f32::MAX));
        let own = if self.base.is_unbounded(query) { f32::INFINITY } else { margin };
        Width { own, factors, of: [&self.widths[0], &self.widths[1]] }
    }
}

/// Re-ranked distances of a query and an image of the gallery.
impl Pairs for ExactReranking<'_> {
    fn exact(&self, query: usize, item: usize) -> f64 {
        let (mut a, mut b) = (self.encoding(query), self.encoding(self.queries + item));
        let mut m = 0.0;
        while let ([(i, v), a_rest @ ..], [(j, w), b_rest @ ..]) = (a, b) {
            if i == j {
                m += v.min(*w);
            }
            (a, b) = (if i <= j { a_rest } else { a }, if j <= i { b_rest } else { b });
        }
        let lambda = f64::from(self.options.lambda);
        let jaccard = 1.0 - m / (2.0 - m);
        let plain = || self.base.normalised(self.base.exact(query, self.queries + item), self.found.max[query]);
        (1.0 - lambda) * jaccard + if lambda > 0.0 { lambda * plain() } else { 0.0 }
    }

    fn distance(&self, exact: f64) -> f64 {
        exact
    }
}

/// Returns R(i, k), ascending.
fn reciprocal(found: &Neighbours, i: usize, k: usize) -> Box<[u32]> {
    let others = found.nearest(i, k).iter().copied().filter(|&j| found.contains(j as usize, k, i as u32));
    let mut set: Vec<u32> = others.chain([i as u32]).collect();
    set.sort_unstable();
    set.into()
}

/// Returns how many members of `set` are less than `i`.
fn before(set: &[u32], i: usize) -> usize {
    set.partition_point(|j| (*j as usize) < i)
}

/// Returns R*(i), ascending.
fn expanded<'a>(found: &Neighbours, i: usize, k1: usize, half: impl Fn(usize) -> &'a [u32]) -> Vec<u32> {
    let set = reciprocal(found, i, k1);
    let mut expanded = set.to_vec();
    for &j in &set {
        let candidate = half(j as usize);
        let common = candidate.iter().filter(|l| set.binary_search(l).is_ok()).count();
        if 3 * common > 2 * candidate.len() {
            expanded.extend_from_slice(candidate);
        }
    }
    expanded.sort_unstable();
    expanded.dedup();
    expanded
}

/// Sparse rows by column: for each column, the rows that have an entry in it, and their weights.
pub(super) struct InvertedIndex {
    /// Entries of column c are `starts[c]..starts[c + 1]`.
    starts: Vec<usize>,
    entries: Vec<(u32, f32)>,
}

impl InvertedIndex {
    pub(super) fn new(rows: &[&[(u32, f64)]], columns: usize) -> InvertedIndex {
        let mut starts = vec![0usize; columns + 1];
        rows.iter().copied().flatten().for_each(|(column, _)| starts[*column as usize + 1] += 1);
        (0..columns).for_each(|c| starts[c + 1] += starts[c]);
        let mut next = starts.clone();
        let mut entries = vec![(0, 0.0); starts[columns]];
        for (row, entry) in rows.iter().enumerate() {
            for &(column, weight) in *entry {
                entries[next[column as usize]] = (row as u32, weight as f32);
                next[column as usize] += 1;
            }
        }
        InvertedIndex { starts, entries }
    }

    /// Returns the (row, weight) entries of a column, ascending by row.
    pub(super) fn column(&self, column: usize) -> &[(u32, f32)] {
        &self.entries[self.starts[column]..self.starts[column + 1]]
    }
}
