//! Distances of one query to the gallery: bounds that are known already, and exact values that are computed where bounds do not
//! suffice.

use crate::engine::cpu::for_each_isa;

/// Exact distances of a query and an image of the gallery, in f64.
pub(crate) trait Pairs: Sync {
    /// Returns a number that orders the gallery images of a query as their distances do.
    fn exact(&self, query: usize, item: usize) -> f64;

    /// Converts such a number to the distance.
    fn distance(&self, exact: f64) -> f64;
}

/// The difference between upper and lower bounds: own + factors[0]·of[0] + factors[1]·of[1].
#[derive(Clone, Copy)]
pub(crate) struct Width<'a> {
    pub own: f32,
    pub factors: [f32; 2],
    /// The two terms of each gallery image, `[gallery]` each.
    pub of: [&'a [f32]; 2],
}

/// Bounds of [`Pairs::exact`] for one query and each image of the gallery.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    query: usize,
    lower: &'a [f32],
    width: Width<'a>,
    pairs: &'a dyn Pairs,
}

impl<'a> Row<'a> {
    /// Creates the row of `query` from lower bounds `[gallery]`, the width from each to its upper bound, and the source of exact values.
    pub(crate) fn new(query: usize, lower: &'a [f32], width: Width<'a>, pairs: &'a dyn Pairs) -> Row<'a> {
        Row { query, lower, width, pairs }
    }

    /// Returns the number of images in the gallery.
    pub(crate) fn len(&self) -> usize {
        self.lower.len()
    }

    /// Returns the lower bound of [`Row::exact`].
    pub(crate) fn lower(&self, item: usize) -> f32 {
        self.lower[item]
    }

    /// Returns the upper bound of [`Row::exact`].
    pub(crate) fn upper(&self, item: usize) -> f32 {
        let Width { own, factors, of } = self.width;
        self.lower[item] + (own + factors[0] * of[0][item] + factors[1] * of[1][item])
    }

    /// Returns the number by which images are ordered, in f64.
    pub(crate) fn exact(&self, item: usize) -> f64 {
        self.pairs.exact(self.query, item)
    }

    /// Converts a number of [`Row::exact`] to the distance.
    pub(crate) fn distance(&self, exact: f64) -> f64 {
        self.pairs.distance(exact)
    }

    /// Returns the first `count` of `items` by (distance, index), with their distances.
    pub(crate) fn nearest(&self, items: impl Iterator<Item = usize>, count: usize) -> Vec<(usize, f32)> {
        let nearest = self.nearest_exact(items.collect(), count);
        nearest.into_iter().map(|(exact, item)| (item, self.distance(exact) as f32)).collect()
    }

    /// Returns the first `count` of `items` by ([`Row::exact`], index).
    pub(crate) fn nearest_exact(&self, items: Vec<usize>, count: usize) -> Vec<(f64, usize)> {
        let mut uppers: Vec<f32> = items.iter().map(|&item| self.upper(item)).collect();
        let bound = match count.checked_sub(1) {
            Some(last) if last < uppers.len() => *uppers.select_nth_unstable_by(last, f32::total_cmp).1,
            _ => f32::INFINITY,
        };
        let candidates = items.into_iter().filter(|item| self.lower(*item) <= bound);
        let mut exact: Vec<(f64, usize)> = candidates.map(|item| (self.exact(item), item)).collect();
        exact.sort_by(|a, b| a.partial_cmp(b).expect("distances are not NaN"));
        exact.truncate(count);
        exact
    }

    /// Returns the items whose [`Row::exact`] may be at most `limit`.
    pub(crate) fn within(&self, limit: f64) -> impl Iterator<Item = usize> {
        // Rounded up, so that no item is lost.
        let limit = (limit as f32).next_up();
        let near = move |(chunk, lower): (usize, &'a [f32])| {
            let any = any_at_most(lower, limit);
            let lower = if any { lower } else { &[] };
            let is_near = move |(_, lower): &(usize, &f32)| **lower <= limit;
            lower.iter().enumerate().filter(is_near).map(move |(i, _)| chunk * SCANNED + i)
        };
        self.lower.chunks(SCANNED).enumerate().flat_map(near)
    }
}

/// Lower bounds that are compared at once with a limit.
const SCANNED: usize = 256;

for_each_isa! {
    fn any_at_most(lower: &[f32], limit: f32) -> bool {
        // Without a branch, so that this is vectorised.
        lower.iter().fold(false, |any, lower| any | (*lower <= limit))
    }
}
