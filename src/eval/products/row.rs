//! One query's distances to the gallery: bounds that are at hand, and exact values that are worked out where bounds do not
//! suffice.

/// Pairs of a query and an image of the gallery in f64.
pub trait Pairs: Sync {
    /// A number that orders the gallery images of a query as their distances do.
    fn exact(&self, query: usize, item: usize) -> f64;

    /// The distance that such a number stands for.
    fn distance(&self, exact: f64) -> f64;
}

/// How far the upper bounds are above the lower ones: own + factors[0]·of[0] + factors[1]·of[1].
#[derive(Clone, Copy)]
pub struct Width<'a> {
    pub own: f32,
    pub factors: [f32; 2],
    /// `[gallery]` each
    pub of: [&'a [f32]; 2],
}

/// Bounds of what [`Pairs::exact`] gives for one query and each image of the gallery.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    query: usize,
    least: &'a [f32],
    width: Width<'a>,
    pairs: &'a dyn Pairs,
}

impl<'a> Row<'a> {
    /// Combines lower bounds, how far upper ones are above them, and the exact values behind both.
    pub fn new(query: usize, least: &'a [f32], width: Width<'a>, pairs: &'a dyn Pairs) -> Row<'a> {
        Row { query, least, width, pairs }
    }

    /// Images of the gallery.
    pub fn len(&self) -> usize {
        self.least.len()
    }

    /// [`Row::exact`] is not less.
    pub fn least(&self, item: usize) -> f32 {
        self.least[item]
    }

    /// [`Row::exact`] is not more.
    pub fn most(&self, item: usize) -> f32 {
        let Width { own, factors, of } = self.width;
        self.least[item] + (own + factors[0] * of[0][item] + factors[1] * of[1][item])
    }

    /// What images are ordered by, in f64.
    pub fn exact(&self, item: usize) -> f64 {
        self.pairs.exact(self.query, item)
    }

    /// The distance that a number of [`Row::exact`] stands for.
    pub fn distance(&self, exact: f64) -> f64 {
        self.pairs.distance(exact)
    }

    /// The `count` first of `items` by (distance, index), with their distances.
    pub fn nearest(&self, items: impl Iterator<Item = usize>, count: usize) -> Vec<(usize, f32)> {
        let mut bounds: Vec<(f32, usize)> = items.map(|item| (self.most(item), item)).collect();
        bounds.sort_by(|a, b| a.0.total_cmp(&b.0));
        let bound = bounds.get(count.saturating_sub(1)).map_or(f32::INFINITY, |(most, _)| *most);
        let candidates = bounds.iter().map(|(_, item)| *item).filter(|item| self.least(*item) <= bound);
        let mut exact: Vec<(f64, usize)> = candidates.map(|item| (self.exact(item), item)).collect();
        exact.sort_by(|a, b| a.partial_cmp(b).expect("distances are not NaN"));
        exact.truncate(count);
        exact.into_iter().map(|(exact, item)| (item, self.distance(exact) as f32)).collect()
    }
}
