//! Distances of one query to the gallery: bounds that are known already, and exact values that are computed where bounds do not
//! suffice.

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
        let mut bounds: Vec<(f32, usize)> = items.map(|item| (self.upper(item), item)).collect();
        bounds.sort_by(|a, b| a.0.total_cmp(&b.0));
        let bound = bounds.get(count.saturating_sub(1)).map_or(f32::INFINITY, |(upper, _)| *upper);
        let candidates = bounds.iter().map(|(_, item)| *item).filter(|item| self.lower(*item) <= bound);
        let mut exact: Vec<(f64, usize)> = candidates.map(|item| (self.exact(item), item)).collect();
        exact.sort_by(|a, b| a.partial_cmp(b).expect("distances are not NaN"));
        exact.truncate(count);
        exact.into_iter().map(|(exact, item)| (item, self.distance(exact) as f32)).collect()
    }
}
