//! Orders pairs by their distances, of which only bounds are known, and finds the thresholds at which a rate is reached.

use rayon::prelude::*;

use crate::eval::products::Pairs;

/// A query and an image of the gallery.
#[derive(Clone, Copy)]
pub(super) struct Pair {
    lower: f32,
    upper: f32,
    /// Twice the index in the matrix of all pairs, plus 1 for a genuine pair.
    index: u32,
}

impl Pair {
    /// Creates a pair from the bounds `[lower, upper]` of the number that orders pairs. `index` is its place in the matrix
    /// `[queries, gallery]`, less than 2³¹.
    pub(super) fn new([lower, upper]: [f32; 2], index: usize, genuine: bool) -> Pair {
        Pair { lower, upper, index: (2 * index + usize::from(genuine)) as u32 }
    }

    fn genuine(self) -> bool {
        self.index % 2 == 1
    }
}

/// The pairs up to a threshold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// Genuine pairs and impostors.
    pub accepted: [u64; 2],
    /// Distance of the last pair.
    pub threshold: f64,
}

/// Pairs by ascending lower bound.
pub(crate) struct Steps<'a> {
    pairs: Vec<Pair>,
    /// `[pairs + 1]`: genuine pairs among the first i.
    genuine: Vec<u32>,
    /// The largest difference between the bounds of a pair.
    widest: f32,
    n_gallery: usize,
    exact: &'a dyn Pairs,
}

impl<'a> Steps<'a> {
    pub(super) fn new(mut pairs: Vec<Pair>, n_gallery: usize, exact: &'a dyn Pairs) -> Steps<'a> {
        pairs.par_sort_unstable_by(|a, b| a.lower.total_cmp(&b.lower));
        let mut genuine = vec![0; pairs.len() + 1];
        for (i, pair) in pairs.iter().enumerate() {
            genuine[i + 1] = genuine[i] + u32::from(pair.genuine());
        }
        // The difference may have been rounded down.
        let widest = pairs.iter().map(|pair| pair.upper - pair.lower).fold(0.0, f32::max) * (1.0 + 2.0 * f32::EPSILON);
        Steps { pairs, genuine, widest, n_gallery, exact }
    }

    /// Counts all genuine pairs and impostors.
    pub(super) fn all(&self) -> [u64; 2] {
        self.first(self.pairs.len())
    }

    /// Counts genuine pairs and impostors among the first `count`.
    fn first(&self, count: usize) -> [u64; 2] {
        let genuine = u64::from(self.genuine[count]);
        [genuine, count as u64 - genuine]
    }

    /// Returns the number of pairs whose lower bound is at most `threshold`.
    fn up_to(&self, threshold: f32) -> usize {
        self.pairs.partition_point(|pair| pair.lower <= threshold)
    }

    /// Returns the index of the first pair whose upper bound may reach `threshold`.
    fn reaching(&self, threshold: f32) -> usize {
        let lower = (threshold - self.widest).next_down();
        self.pairs.partition_point(|pair| pair.lower < lower)
    }

    /// Counts genuine pairs and impostors whose upper bound is below `threshold`, or with `at_it` equal to it.
    fn certain(&self, threshold: f32, at_it: bool) -> [u64; 2] {
        let from = self.reaching(threshold);
        let mut accepted = self.first(from);
        for pair in &self.pairs[from..self.up_to(threshold)] {
            if pair.upper < threshold || (at_it && pair.upper == threshold) {
                accepted[usize::from(!pair.genuine())] += 1;
            }
        }
        accepted
    }

    fn exact(&self, pair: Pair) -> f64 {
        let place = pair.index as usize / 2;
        self.exact.exact(place / self.n_gallery, place % self.n_gallery)
    }

    fn threshold(&self, exact: f64) -> f64 {
        self.exact.distance(exact)
    }

    /// Returns the last step at which `reached` does not hold yet, if there is one, and the first at which it holds. `reached` must be
    /// monotonic, and hold for all pairs together.
    pub(super) fn around(&self, reached: impl Fn([u64; 2]) -> bool) -> [Option<Step>; 2] {
        // The earliest pair at which it can be reached: where it would be if all distances were equal to their lower bounds.
        let earliest = {
            let (mut low, mut high) = (0, self.pairs.len());
            while low < high {
                let middle = (low + high) / 2;
                if reached(self.first(middle + 1)) { high = middle } else { low = middle + 1 }
            }
            self.pairs[low.min(self.pairs.len() - 1)]
        };
        let near = earliest.upper;
        let latest = if reached(self.certain(near, true)) { near } else { (earliest.lower + self.widest).next_up() };
        let open = self.pairs[self.reaching(earliest.lower)..self.up_to(latest)].par_iter();
        let mut open: Vec<(f64, Pair)> =
            open.filter(|pair| pair.upper >= earliest.lower).map(|pair| (self.exact(*pair), *pair)).collect();
        open.par_sort_unstable_by(|a, b| a.0.total_cmp(&b.0));

        let mut accepted = self.certain(earliest.lower, false);
        let mut before = None;
        for same in open.chunk_by(|a, b| a.0 == b.0) {
            let before_these = accepted;
            same.iter().for_each(|(_, pair)| accepted[usize::from(!pair.genuine())] += 1);
            if reached(accepted) {
                let last = |exact| Step { accepted: before_these, threshold: self.threshold(exact) };
                let before = before.or_else(|| self.farthest_below(earliest.lower)).map(last);
                return [before, Some(Step { accepted, threshold: self.threshold(same[0].0) })];
            }
            before = Some(same[0].0);
        }
        unreachable!("reached by all pairs up to the latest threshold")
    }

    /// Returns the largest distance of the pairs whose upper bound is below `threshold`.
    fn farthest_below(&self, threshold: f32) -> Option<f64> {
        let certain = |pair: &&Pair| pair.upper < threshold;
        let end = self.up_to(threshold);
        let bound = self.pairs[..end].iter().rev().find(certain)?.lower;
        let candidates =
            self.pairs[self.reaching(bound)..end].iter().filter(certain).filter(|pair| pair.upper >= bound);
        candidates.map(|pair| self.exact(*pair)).max_by(f64::total_cmp)
    }
}
