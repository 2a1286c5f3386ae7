//! Features scaled and centred so that products in f32 keep their precision, and bounds of the rounding errors that remain.
//!
//! |q - g|² = |q|² + |g|² - 2 q·g loses digits where features are nearly equal compared with their length, and overflows or
//! underflows where they are very long or short. So all rows are first multiplied by one power of two, and one centre is
//! subtracted: distances change by that factor alone. The remaining rounding error is bounded from the features themselves: the
//! true squared distance of a pair is between its computed lower bound and that bound plus twice the `slack` of both rows. Where
//! such intervals overlap, the distance of the original features in f64 decides.

use std::ops::Range;

use rayon::prelude::*;

use super::row::Pairs;
use crate::engine::cpu::{PackedRows, for_each_isa, squared_distances, squared_distances_of_directions};
use crate::{Error, Result};

/// The centre is the mean of this many rows, spread evenly over all.
const CENTRE_ROWS: usize = 256;
/// Numbers whose squares are summed before the error bound of the sum is updated.
const CHUNK: usize = 32;
/// Relative rounding error of f32.
pub(crate) const ROUNDING: f64 = 1.0 / (1u64 << 24) as f64;
/// Rounding errors of a squared distance beside those of the product: in the centred row (4), its norm (5), the three terms (3) and
/// the bounds (4), with a reserve.
const OTHER_ROUNDINGS: f64 = 24.0;
/// An upper bound of the sum of all products that underflow. After scaling, the largest magnitude in all rows is between 1 and 2.
const VANISHED: f64 = 1e-32;

/// Queries and gallery, scaled and centred.
pub(crate) struct Conditioned<'a> {
    /// The original features, `[queries, dim]` and `[gallery, dim]`.
    features: [&'a [f32]; 2],
    dim: usize,
    queries: usize,
    /// The product of these two is the scale. Conditioned rows are not stored, but computed where they are used.
    factors: [f32; 2],
    centre: Vec<f32>,
    /// Squared length of each conditioned row.
    norms: Vec<f32>,
    /// Half of what a row adds to the uncertainty of a squared distance.
    slack: Vec<f32>,
    /// Distances of conditioned rows are those of `features` times this factor.
    unit: f64,
    /// Length of the centre.
    centre_length: f64,
}

impl<'a> Conditioned<'a> {
    /// Scales and centres finite features. Error bounds assume that a product of rows is summed in parts of `part` numbers, each in
    /// order, and that the sums of the parts are added in order.
    pub(crate) fn new(features: [&'a [f32]; 2], dim: usize, part: usize) -> Conditioned<'a> {
        let [queries, gallery] = features.map(|rows| rows.len() / dim);
        let n = queries + gallery;
        let source = |i: usize| row_of(features, queries, dim, i);
        let largest = features.map(largest).into_iter().max().unwrap_or(0);
        let exponent = if largest == 0 { 0 } else { -exponent(f32::from_bits(largest)) };
        // The scale itself may be beyond f32.
        let factors = [exponent / 2, exponent - exponent / 2].map(|e| 2f64.powi(e) as f32);
        let mut sums = vec![0f64; dim];
        let step = n.div_ceil(CENTRE_ROWS).max(1);
        for i in (0..n).step_by(step) {
            sums.iter_mut().zip(source(i)).for_each(|(sum, x)| *sum += f64::from(x * factors[0] * factors[1]));
        }
        let centre: Vec<f32> = sums.iter().map(|sum| (sum / n.div_ceil(step).max(1) as f64) as f32).collect();
        let centre_length = centre.iter().map(|c| f64::from(*c).powi(2)).sum::<f64>().sqrt();
        let measured = |row: &mut Vec<f32>, i: usize| {
            row.resize(dim, 0.0);
            condition(source(i), factors, &centre, row);
            measure(row, part)
        };
        let (norms, slack) = (0..n).into_par_iter().map_init(Vec::new, measured).unzip();
        Conditioned { features, dim, queries, factors, centre, norms, slack, unit: 2f64.powi(exponent), centre_length }
    }

    /// Returns the number of rows, queries and gallery together.
    pub(crate) fn len(&self) -> usize {
        self.norms.len()
    }

    /// Returns whether all rows are the same.
    pub(crate) fn all_equal(&self) -> bool {
        (1..self.len()).all(|i| self.source(i) == self.source(0))
    }

    /// Returns the number of queries, which are the first rows.
    pub(crate) fn queries(&self) -> usize {
        self.queries
    }

    /// Returns the length of a row.
    pub(crate) fn dim(&self) -> usize {
        self.dim
    }

    /// Fills `out` `[rows.len(), dim]` with those rows, conditioned.
    pub(crate) fn fill(&self, rows: Range<usize>, out: &mut [f32]) {
        for (i, out) in rows.zip(out.chunks_exact_mut(self.dim)) {
            condition(self.source(i), self.factors, &self.centre, out);
        }
    }

    /// Returns those rows, conditioned: `[rows.len(), dim]`.
    pub(crate) fn rows(&self, rows: Range<usize>) -> Vec<f32> {
        let mut out = vec![0.0; rows.len() * self.dim];
        out.par_chunks_exact_mut(self.dim).zip(rows).for_each(|(out, i)| self.fill(i..i + 1, out));
        out
    }

    /// Returns those rows, conditioned and packed for products.
    pub(crate) fn packed(&self, rows: Range<usize>) -> PackedRows {
        let first = rows.start;
        PackedRows::new(rows.len(), self.dim, |own, out| self.fill(first + own.start..first + own.end, out))
    }

    /// Returns the squared length of each row.
    pub(crate) fn norms(&self) -> &[f32] {
        &self.norms
    }

    /// Returns half of what each row adds to the uncertainty of a squared distance.
    pub(crate) fn slack(&self) -> &[f32] {
        &self.slack
    }

    /// Returns the squared length of each row less `slack`: the terms of lower bounds.
    pub(crate) fn low_norms(&self, slack: &[f32]) -> Vec<f32> {
        self.norms.iter().zip(slack).map(|(norm, slack)| norm - slack).collect()
    }

    /// Returns the length of the centre, in the unit of the conditioned rows.
    pub(crate) fn centre_length(&self) -> f64 {
        self.centre_length
    }

    /// Returns the length of each row before it was centred, in f64 and in the unit of the conditioned rows.
    pub(crate) fn lengths(&self) -> Vec<f64> {
        let zeros = vec![0.0; self.dim];
        let length = |i| squared_distances(self.source(i), [&zeros], self.unit)[0].sqrt();
        (0..self.len()).into_par_iter().map(length).collect()
    }

    /// Returns the original row `i`.
    fn source(&self, i: usize) -> &'a [f32] {
        row_of(self.features, self.queries, self.dim, i)
    }

    /// Returns |x_i - x_j|² for each j, in f64 and in the unit of the conditioned rows.
    pub(crate) fn pairs<const N: usize>(&self, i: usize, j: [usize; N]) -> [f64; N] {
        squared_distances(self.source(i), j.map(|j| self.source(j)), self.unit)
    }

    /// Returns 2 - 2 cos of original rows in f64, for each j; `lengths` are [`Conditioned::lengths`]. The result for a row of length 0
    /// is NaN.
    pub(crate) fn pairs_of_directions<const N: usize>(&self, i: usize, j: [usize; N], lengths: &[f64]) -> [f64; N] {
        let norm = |i: usize| lengths[i] / self.unit;
        squared_distances_of_directions((self.source(i), norm(i)), j.map(|j| self.source(j)), j.map(norm))
    }

    /// Returns the factor by which distances of conditioned rows are larger than those of the original features: a power of two.
    pub(crate) fn unit(&self) -> f64 {
        self.unit
    }

    /// Returns an upper bound of all distances between a query and an image of the gallery, in the unit of the original features.
    pub(crate) fn largest(&self) -> f64 {
        let (query, gallery) = self.norms.split_at(self.queries);
        let longest = |norms: &[f32]| f64::from(norms.iter().copied().fold(0.0, f32::max)).sqrt();
        (longest(query) + longest(gallery)) * (1.0 + OTHER_ROUNDINGS * ROUNDING) / self.unit
    }
}

/// Squared Euclidean distances of a query to an image of the gallery.
impl Pairs for Conditioned<'_> {
    fn exact(&self, query: usize, item: usize) -> f64 {
        self.pairs(query, [self.queries + item])[0]
    }

    fn distance(&self, exact: f64) -> f64 {
        exact.sqrt() / self.unit
    }
}

fn row_of(features: [&[f32]; 2], queries: usize, dim: usize, i: usize) -> &[f32] {
    if i < queries { &features[0][i * dim..][..dim] } else { &features[1][(i - queries) * dim..][..dim] }
}

/// Checks that all numbers are finite; otherwise identifies the offending row, of which the first is number `first`.
pub(crate) fn check_finite(set: &'static str, features: &[f32], dim: usize, first: usize) -> Result<()> {
    if f32::from_bits(largest(features)).is_finite() {
        return Ok(());
    }
    let row = features.par_chunks(dim).position_first(|row| row.iter().any(|x| !x.is_finite()));
    Err(Error::NotFiniteFeature { set, row: first + row.expect("a number that is not finite") })
}

/// Returns the bits of the largest magnitude. Bits are ordered as magnitudes are, with infinity and NaN above all others.
fn largest(values: &[f32]) -> u32 {
    values.par_chunks(1 << 16).map(largest_of_chunk).max().unwrap_or(0)
}

for_each_isa! {
    fn largest_of_chunk(values: &[f32]) -> u32 {
        values.iter().map(|v| v.to_bits() & !(1 << 31)).fold(0, u32::max)
    }
}

/// Returns the exponent of the largest power of two that is not above `value`, a positive number.
fn exponent(value: f32) -> i32 {
    // No f32 is subnormal as f64.
    (f64::from(value).to_bits() >> 52) as i32 - 1023
}

for_each_isa! {
    /// Fills `row` with the scaled and centred `source`. The scale is the product of `scales`.
    fn condition(source: &[f32], scales: [f32; 2], centre: &[f32], row: &mut [f32]) {
        for ((out, x), c) in row.iter_mut().zip(source).zip(centre) {
            *out = x * scales[0] * scales[1] - c;
        }
    }

    /// Returns the squared length of a conditioned row, and its slack.
    fn measure(row: &[f32], part: usize) -> (f32, f32) {
        // The rounding error of a product is bounded by its partial sums, and a partial sum of q·g is at most half of the sum of
        // the squared lengths of the numbers that it covers.
        let (mut norm, mut partial_sums) = (0f64, 0f64);
        for part in row.chunks(part) {
            let mut within = 0f64;
            for chunk in part.chunks(CHUNK) {
                let (eights, rest) = chunk.as_chunks::<8>();
                let mut sums = [0f32; 8];
                for eight in eights {
                    for lane in 0..8 {
                        sums[lane] += eight[lane] * eight[lane];
                    }
                }
                rest.iter().zip(&mut sums).for_each(|(x, sum)| *sum += x * x);
                within += sums.iter().map(|sum| f64::from(*sum)).sum::<f64>();
                partial_sums += chunk.len() as f64 * within;
            }
            norm += within;
            partial_sums += norm;
        }
        let slack = ROUNDING * (1.02 * partial_sums + OTHER_ROUNDINGS * norm) + VANISHED;
        (norm as f32, slack as f32)
    }
}
