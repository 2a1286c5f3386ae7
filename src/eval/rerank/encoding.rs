//! The sparse rows V: expanded k-reciprocal neighbours, weighted by distance, averaged over the nearest images.

use rayon::prelude::*;

use super::RerankOptions;
use super::base::Base;
use super::neighbours::Neighbours;

/// (column, weight), ascending by column.
pub(super) type SparseRow = Box<[(u32, f32)]>;

/// V of all rows of `features` `[n, dim]`.
pub(super) fn encode(
    features: &[f32],
    dim: usize,
    base: &Base,
    found: &Neighbours,
    options: &RerankOptions,
) -> Vec<SparseRow> {
    let n = base.len();
    let half = options.half();
    let halves: Vec<Box<[u32]>> = (0..n).into_par_iter().map(|i| reciprocal(found, i, half)).collect();
    let weigh = |i: usize| {
        let members = expanded(found, &halves, i, options.k1);
        // The neighbours' distances are known, those of the expansion are not.
        let known: Vec<(u32, f32)> = found.nearest(i, usize::MAX).collect();
        let weight = |&j: &u32| {
            let known = known.iter().find(|(other, _)| *other == j).map(|(_, d)| *d);
            let d = known.unwrap_or_else(|| base.pair(features, dim, i, j as usize));
            f64::from(-base.normalised(d, found.max[i])).exp()
        };
        let weights: Vec<f64> = members.iter().map(weight).collect();
        let sum: f64 = weights.iter().sum();
        members.iter().zip(weights).map(|(&j, w)| (j, (w / sum) as f32)).collect()
    };
    let rows: Vec<SparseRow> = (0..n).into_par_iter().map(weigh).collect();
    if options.k2 == 1 {
        return rows;
    }
    (0..n).into_par_iter().map(|i| mean_of_nearest(&rows, found, i, options.k2)).collect()
}

/// R(i, k), ascending.
fn reciprocal(found: &Neighbours, i: usize, k: usize) -> Box<[u32]> {
    let others = found.nearest(i, k).map(|(j, _)| j).filter(|&j| found.contains(j as usize, k, i as u32));
    let mut set: Vec<u32> = others.chain([i as u32]).collect();
    set.sort_unstable();
    set.into()
}

/// R*(i), ascending.
fn expanded(found: &Neighbours, halves: &[Box<[u32]>], i: usize, k1: usize) -> Vec<u32> {
    let set = reciprocal(found, i, k1);
    let mut expanded = set.to_vec();
    for &j in &set {
        let candidate = &halves[j as usize];
        let common = candidate.iter().filter(|l| set.binary_search(l).is_ok()).count();
        if 3 * common > 2 * candidate.len() {
            expanded.extend_from_slice(candidate);
        }
    }
    expanded.sort_unstable();
    expanded.dedup();
    expanded
}

/// Mean of the rows of i and its k2 - 1 nearest others.
fn mean_of_nearest(rows: &[SparseRow], found: &Neighbours, i: usize, k2: usize) -> SparseRow {
    let near: Vec<usize> = std::iter::once(i).chain(found.nearest(i, k2 - 1).map(|(j, _)| j as usize)).collect();
    let mut entries: Vec<(u32, f32)> = near.iter().flat_map(|&j| rows[j].iter().copied()).collect();
    // Stable: weights of a column are added in the order of the neighbours.
    entries.sort_by_key(|(column, _)| *column);
    let share = 1.0 / near.len() as f64;
    let columns = entries.chunk_by(|a, b| a.0 == b.0);
    columns.map(|same| (same[0].0, (same.iter().map(|(_, w)| f64::from(*w)).sum::<f64>() * share) as f32)).collect()
}

/// Sparse rows by column: which rows have it, and with what weight.
pub(super) struct InvertedIndex {
    /// Entries of column c are `starts[c]..starts[c + 1]`.
    starts: Vec<usize>,
    entries: Vec<(u32, f32)>,
}

impl InvertedIndex {
    pub fn new(rows: &[SparseRow], columns: usize) -> InvertedIndex {
        let mut starts = vec![0usize; columns + 1];
        rows.iter().flatten().for_each(|(column, _)| starts[*column as usize + 1] += 1);
        (0..columns).for_each(|c| starts[c + 1] += starts[c]);
        let mut next = starts.clone();
        let mut entries = vec![(0, 0.0); starts[columns]];
        for (row, entry) in rows.iter().enumerate() {
            for &(column, weight) in entry {
                entries[next[column as usize]] = (row as u32, weight);
                next[column as usize] += 1;
            }
        }
        InvertedIndex { starts, entries }
    }

    /// (row, weight), ascending by row.
    pub fn column(&self, column: usize) -> &[(u32, f32)] {
        &self.entries[self.starts[column]..self.starts[column + 1]]
    }
}
