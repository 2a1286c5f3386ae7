//! The distance d that a variant starts from: bounds from products of conditioned features, and exact distances of pairs.

use std::sync::Arc;

use super::RerankVariant;
use crate::eval::products::{Conditioned, ROUNDING};

/// Rounding errors that 2 - 2 cos has beside those of a squared distance, relative to it.
const COSINE_ROUNDINGS: f64 = 24.0;
/// Pairs that are computed at once.
const AT_ONCE: usize = 4;
/// For rows shorter than this, cosines are not computed in f32. The largest number of all rows is between 1 and 2.
const SHORT: f64 = 1e-12;

/// The distance d_ij: squared Euclidean in the unit of the conditioned rows, or 2 - 2 cos. Its lower bound is
/// max(0, offset_i + offset_j - 2 x_i·x_j - (length_i - length_j)²) scale_i scale_j; its upper bound is [`BaseDistance::width`] above.
///
/// With |a| and |b| the lengths of rows a and b before they were centred, |a - b|² = (|a| - |b|)² + |a||b| (2 - 2 cos). So with
/// length_a = |a| - |centre| and scale_a = 1/|a|, the same products give 2 - 2 cos that give |a - b|² with length 0 and scale 1.
pub(super) struct BaseDistance<'a> {
    conditioned: Arc<Conditioned<'a>>,
    pub offset: Vec<f32>,
    pub length: Vec<f32>,
    /// 0 for a row whose distances have no useful bounds.
    pub scale: Vec<f32>,
    slack: Vec<f32>,
    /// Lengths |a| in f64; empty for the Euclidean distance.
    lengths: Vec<f64>,
    square: bool,
    has_unbounded: bool,
    /// Largest scale of all images, and largest slack times scale.
    largest: [f32; 2],
}

impl<'a> BaseDistance<'a> {
    pub(super) fn new(conditioned: Arc<Conditioned<'a>>, variant: RerankVariant) -> BaseDistance<'a> {
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
        BaseDistance {
            conditioned,
            offset,
            length,
            scale,
            slack,
            lengths,
            square: variant.squares(),
            has_unbounded,
            largest,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.offset.len()
    }

    pub(crate) fn conditioned(&self) -> &Conditioned<'a> {
        &self.conditioned
    }

    /// Turns products of image `i` and the images from `first` on into lower bounds of d.
    pub(crate) fn to_bounds(&self, i: usize, first: usize, row: &mut [f32]) {
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

    /// Returns whether the distances of an image have no useful bounds.
    pub(crate) fn is_unbounded(&self, i: usize) -> bool {
        self.scale[i] == 0.0
    }

    /// Returns whether there is an image without useful bounds.
    pub(crate) fn has_unbounded(&self) -> bool {
        self.has_unbounded
    }

    /// Returns the images without useful bounds.
    pub(crate) fn unbounded(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.len()).filter(|i| self.is_unbounded(*i))
    }

    /// Returns how far d_ij may be above its lower bound.
    pub(super) fn width(&self, i: usize, j: usize) -> f32 {
        if self.is_unbounded(i) || self.is_unbounded(j) {
            return f32::INFINITY;
        }
        2.0 * (self.slack[i] + self.slack[j]) * self.scale[i] * self.scale[j]
    }

    /// Returns an upper bound of the widths of image `i` with all images that have bounds.
    pub(crate) fn widest(&self, i: usize) -> f32 {
        let [scale, slack] = self.largest;
        let widest = 2.0 * (self.slack[i] * scale + slack) * self.scale[i] * (1.0 + 4.0 * f32::EPSILON);
        if self.is_unbounded(i) { f32::INFINITY } else { widest }
    }

    /// Returns `shares` such that the width of image `i` with image j is 2 (`shares[0]`·scale_j + `shares[1]`·slack_j scale_j), if both
    /// have bounds.
    pub(crate) fn width_shares(&self, i: usize) -> [f32; 2] {
        [self.slack[i] * self.scale[i], self.scale[i]]
    }

    /// Returns slack times scale of image `i`; infinity without bounds.
    pub(crate) fn scaled_slack(&self, i: usize) -> f32 {
        if self.is_unbounded(i) { f32::INFINITY } else { self.slack[i] * self.scale[i] }
    }

    /// Computes d_ij in f64 from the original features.
    pub(super) fn exact(&self, i: usize, j: usize) -> f64 {
        self.exact_at_once(i, [j])[0]
    }

    /// Computes d_ij for each j of `others`.
    pub(crate) fn exact_of(&self, i: usize, others: &[u32]) -> Vec<f64> {
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
            // A row of zeros has no direction: it equals itself only.
            if self.lengths[i] == 0.0 || self.lengths[j] == 0.0 {
                *d = if i == j { 0.0 } else { 2.0 };
            }
        }
        exact
    }

    /// Returns D = f(d) / max f(d), or 0 where all images are the same.
    pub(super) fn normalised(&self, d: f64, max: f64) -> f64 {
        let share = if max > 0.0 { d / max } else { 0.0 };
        if self.square { share * share } else { share }
    }

    /// Returns D for a bound of d, in f32.
    pub(crate) fn normalised_bound(&self, d: f32, max: f32) -> f32 {
        let share = if max > 0.0 { d / max } else { 0.0 };
        if self.square { share * share } else { share }
    }

    /// Returns s such that D is above that of a bound by less than s times what d is above the bound, divided by the largest d: an
    /// upper bound of the slope of f where D is at most 1.
    pub(crate) fn steepness(&self) -> f32 {
        if self.square { 3.0 } else { 1.0 }
    }
}
