//! The distance d that a variant starts from: bounds out of the products of conditioned features, and exact pairs.

use std::sync::Arc;

use super::RerankVariant;
use crate::eval::products::{Conditioned, ROUNDING};

/// Roundings that 2 - 2 cos adds to those of a squared distance, relative to it.
const COSINE_ROUNDINGS: f64 = 24.0;
/// Pairs that are worked out at once.
const AT_ONCE: usize = 4;
/// The cosine of a row that is shorter than this is not looked at in f32. The largest number of all rows lies between 1 and 2.
const SHORT: f64 = 1e-12;

/// d_ij: the squared Euclidean distance in the unit of the conditioned rows, or 2 - 2 cos, of which the lower bound is
/// max(0, offset_i + offset_j - 2 x_i·x_j - (length_i - length_j)²) scale_i scale_j, and the upper one [`Base::width`] above it.
///
/// With |a| and |b| the lengths of rows a and b before they were centred, |a - b|² = (|a| - |b|)² + |a||b| (2 - 2 cos). So lengths less
/// that of the centre and scales 1/|a| give 2 - 2 cos from the products that give |a - b|²; lengths 0 and scales 1 give the latter.
pub(super) struct Base<'a> {
    conditioned: Arc<Conditioned<'a>>,
    pub offset: Vec<f32>,
    pub length: Vec<f32>,
    /// 0 where products tell nothing of a row.
    pub scale: Vec<f32>,
    slack: Vec<f32>,
    /// The lengths in f64, without anything taken off; empty for the Euclidean distance.
    lengths: Vec<f64>,
    square: bool,
    has_unbounded: bool,
    /// Largest scale, and largest slack times scale, of all images.
    largest: [f32; 2],
}

impl<'a> Base<'a> {
    pub fn new(conditioned: Arc<Conditioned<'a>>, variant: RerankVariant) -> Base<'a> {
        let n = conditioned.len();
        let (mut slack, mut length, mut scale) = (conditioned.slack().to_vec(), vec![0.0; n], vec![1.0; n]);
        let mut lengths = Vec::new();
        if variant.is_cosine() {
            let centre = conditioned.centre_length();
            lengths = conditioned.lengths();
            for i in 0..n {
                length[i] = (lengths[i] - centre) as f32;
                scale[i] = if lengths[i] < SHORT { 0.0 } else { (1.0 / lengths[i]) as f32 };
                slack[i] += (COSINE_ROUNDINGS * ROUNDING) as f32 * conditioned.norms()[i];
            }
        }
        let offset = conditioned.low_norms(&slack);
        let largest = |of: &dyn Fn(usize) -> f32| (0..n).map(of).fold(0.0, f32::max);
        let largest = [largest(&|i| scale[i]), largest(&|i| slack[i] * scale[i])];
        let has_unbounded = scale.contains(&0.0);
        Base { conditioned, offset, length, scale, slack, lengths, square: variant.squares(), has_unbounded, largest }
    }

    pub fn len(&self) -> usize {
        self.offset.len()
    }

    pub fn conditioned(&self) -> &Conditioned<'a> {
        &self.conditioned
    }

    /// Turns products of image `i` with the images from `first` on into lower bounds of d.
    pub fn to_bounds(&self, i: usize, first: usize, row: &mut [f32]) {
        let offset = self.offset[i];
        if self.lengths.is_empty() {
            for (value, o) in row.iter_mut().zip(&self.offset[first..]) {
                *value = (offset + o - 2.0 * *value).max(0.0);
            }
            return;
        }
        let (length, scale) = (self.length[i], self.scale[i]);
        let others = self.offset[first..].iter().zip(&self.length[first..]).zip(&self.scale[first..]);
        for (value, ((o, l), s)) in row.iter_mut().zip(others) {
            let apart = length - l;
            *value = (offset + o - 2.0 * *value - apart * apart).max(0.0) * scale * s;
        }
    }

    /// Whether bounds tell nothing of an image.
    pub fn is_unbounded(&self, i: usize) -> bool {
        self.scale[i] == 0.0
    }

    /// Whether there is an image of which bounds tell nothing.
    pub fn has_unbounded(&self) -> bool {
        self.has_unbounded
    }

    /// Images whose bounds tell nothing.
    pub fn unbounded(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.len()).filter(|i| self.is_unbounded(*i))
    }

    /// How far d_ij may be above its bound.
    pub fn width(&self, i: usize, j: usize) -> f32 {
        if self.is_unbounded(i) || self.is_unbounded(j) {
            return f32::INFINITY;
        }
        2.0 * (self.slack[i] + self.slack[j]) * self.scale[i] * self.scale[j]
    }

    /// The largest of the widths of image `i` with those that have bounds.
    pub fn widest(&self, i: usize) -> f32 {
        let [scale, slack] = self.largest;
        let widest = 2.0 * (self.slack[i] * scale + slack) * self.scale[i] * (1.0 + 4.0 * f32::EPSILON);
        if self.is_unbounded(i) { f32::INFINITY } else { widest }
    }

    /// The width of image `i` with image j is 2 (`share[0]`·scale_j + `share[1]`·slack_j scale_j), if both have bounds.
    pub fn width_shares(&self, i: usize) -> [f32; 2] {
        [self.slack[i] * self.scale[i], self.scale[i]]
    }

    /// Slack times scale of image `i`, without an end for one that has no bounds.
    pub fn scaled_slack(&self, i: usize) -> f32 {
        if self.is_unbounded(i) { f32::INFINITY } else { self.slack[i] * self.scale[i] }
    }

    /// d_ij in f64 of the features as they were given.
    pub fn exact(&self, i: usize, j: usize) -> f64 {
        self.exact_at_once(i, [j])[0]
    }

    /// The same for each of `others`.
    pub fn exact_of(&self, i: usize, others: &[u32]) -> Vec<f64> {
        let (groups, rest) = others.as_chunks::<AT_ONCE>();
        let groups = groups.iter().flat_map(|js| self.exact_at_once(i, js.map(|j| j as usize)));
        groups.chain(rest.iter().map(|j| self.exact(i, *j as usize))).collect()
    }

    fn exact_at_once<const N: usize>(&self, i: usize, js: [usize; N]) -> [f64; N] {
        if self.lengths.is_empty() {
            return self.conditioned.pairs(i, js);
        }
        let mut exact = self.conditioned.pairs_of_directions(i, js, &self.lengths);
        for (d, j) in exact.iter_mut().zip(js) {
            // A row of zeros has no direction: it is equal to itself alone.
            if self.lengths[i] == 0.0 || self.lengths[j] == 0.0 {
                *d = if i == j { 0.0 } else { 2.0 };
            }
        }
        exact
    }

    /// D = f(d) / max f(d); 0 where all images are the same.
    pub fn normalised(&self, d: f64, max: f64) -> f64 {
        let share = if max > 0.0 { d / max } else { 0.0 };
        if self.square { share * share } else { share }
    }

    /// The same of a bound, in f32.
    pub fn normalised_bound(&self, d: f32, max: f32) -> f32 {
        let share = if max > 0.0 { d / max } else { 0.0 };
        if self.square { share * share } else { share }
    }

    /// D is less than this many times as far above that of the bound as d is, divided by the largest d: f is at most that steep
    /// where D may be up to 1.
    pub fn steepness(&self) -> f32 {
        if self.square { 3.0 } else { 1.0 }
    }
}
