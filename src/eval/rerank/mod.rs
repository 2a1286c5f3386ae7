//! Re-ranking by k-reciprocal encoding (Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding",
//! CVPR 2017), in memory that grows with the number of images, not with its square.
//!
//! Over all n = queries + gallery images, with D_ij = f(d_ij) / max_j f(d_ij):
//!
//! - N(i, k): image i and its k nearest others, by (distance, index). R(i, k) = {j ∈ N(i, k): i ∈ N(j, k)}.
//! - R*(i): R(i, k1), and every R(j, k1/2), j ∈ R(i, k1), of which more than 2/3 lies in R(i, k1); k1/2 is rounded half
//!   to even.
//! - V_ij = exp(-D_ij) / Σ over R*(i), else 0. With k2 > 1, V_i becomes the mean of V over the first k2 images of N(i,
//!   ·).
//! - J_ij = 1 - m / (2 - m), m = Σ_l min(V_il, V_jl). The result is (1 - λ) J + λ D for queries against the gallery.
//!
//! `neighbours` finds N and the row maxima from blocks of distances, `encoding` makes the sparse rows V, and
//! [`Reranker`] turns rows of products into bounds of final distances, as many at a time as the caller has. `GpuReranker` is
//! the same on a GPU. [`Settled`] knows N and the maxima as f64 decides them, and single final distances in f64.

mod base;
mod encoding;
mod gpu;
mod neighbours;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use self::base::Base;
use self::encoding::InvertedIndex;
pub use self::encoding::Settled;
pub(super) use self::gpu::GpuReranker;
use super::products::{Conditioned, ROUNDING};
use crate::{Error, Result};

/// Which published code's numbers come out: they differ in d and f.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RerankVariant {
    /// d = 2 - 2 cos, f(d) = d: the published PTL code, and ReID-MGN before it.
    Ptl,
    /// d = squared Euclidean distance of the features as they are, f(d) = d: the paper's own code, which squares the
    /// Euclidean distance that it computes. On features of unit length d is 2 - 2 cos, and the result is that of `Ptl`
    /// but for rounding; on others it is not. (That code works in float16; this does not.)
    Zhong,
    /// d as in `Zhong`, f(d) = d²: torchreid, which hands its squared distance to code that squares it again.
    /// Neighbours are the same as in `Zhong`, weights and the λ term are not.
    Torchreid,
}

impl RerankVariant {
    /// Whether d is 2 - 2 cos instead of the squared Euclidean distance.
    fn is_cosine(self) -> bool {
        self == RerankVariant::Ptl
    }

    /// Whether f(d) is d² instead of d.
    fn squares(self) -> bool {
        self == RerankVariant::Torchreid
    }
}

impl fmt::Display for RerankVariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ptl => "ptl",
            Self::Zhong => "zhong",
            Self::Torchreid => "torchreid",
        })
    }
}

/// How to re-rank.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RerankOptions {
    pub variant: RerankVariant,
    /// Neighbours that may be reciprocal.
    pub k1: usize,
    /// Neighbours that an encoding is averaged over; 1 averages nothing.
    pub k2: usize,
    /// Share of the original distance in the result.
    pub lambda: f32,
}

impl RerankOptions {
    /// The paper's k1 = 20, k2 = 6, λ = 0.3.
    pub fn new(variant: RerankVariant) -> RerankOptions {
        RerankOptions { variant, k1: 20, k2: 6, lambda: 0.3 }
    }

    /// k1/2, rounded half to even.
    fn half(&self) -> usize {
        (self.k1 as f64 / 2.0).round_ties_even() as usize
    }

    /// How many neighbours of each of n images matter.
    fn neighbours(&self, n: usize) -> usize {
        self.k1.max(self.k2 - 1).min(n.saturating_sub(1))
    }

    /// # Errors
    /// [`Error::Setting`]: k1 or k2 is 0 or above 1000, λ is not in [0, 1].
    pub fn validate(&self) -> Result<()> {
        let refuse = |setting: &str, value: String, reason: &str| {
            Err(Error::Setting { setting: setting.into(), value, reason: reason.into() })
        };
        for (setting, k) in [("eval.k1", self.k1), ("eval.k2", self.k2)] {
            if !(1..=1000).contains(&k) {
                return refuse(setting, k.to_string(), "choose from 1 to 1000");
            }
        }
        if !(0.0..=1.0).contains(&self.lambda) {
            return refuse("eval.lambda", self.lambda.to_string(), "choose from 0 to 1");
        }
        Ok(())
    }
}

impl fmt::Display for RerankOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, k1 {}, k2 {}, lambda {}", self.variant, self.k1, self.k2, self.lambda)
    }
}

/// Everything that re-ranking knows about a set of queries and a gallery, but for the distances themselves.
pub struct Reranker<'a> {
    settled: Settled<'a>,
    /// V of the gallery, by column.
    gallery_index: InvertedIndex,
}

impl<'a> Reranker<'a> {
    /// Works out the encodings with valid `options`; `done` is called with the number of images that have been compared with all
    /// others, block after block.
    pub fn new(conditioned: Arc<Conditioned<'a>>, options: RerankOptions, mut done: impl FnMut(usize)) -> Reranker<'a> {
        let (n, queries) = (conditioned.len(), conditioned.queries());
        let base = Base::new(conditioned, options.variant);
        let found = {
            let packed = base.conditioned().packed(0..n);
            neighbours::find(&packed, &base, options.neighbours(n), &mut done)
        };
        let settled = Settled::new(base, found, options);
        settled.encode();
        let gallery: Vec<&[(u32, f64)]> = (queries..n).map(|i| settled.encoding(i)).collect();
        Reranker { gallery_index: InvertedIndex::new(&gallery, n), settled }
    }

    /// The same in f64.
    pub fn settled(&self) -> &Settled<'a> {
        &self.settled
    }

    /// Turns products of the queries from `first` on, `[rows, gallery]`, into lower bounds of final distances; how far those may be
    /// above, beside what plain distances leave open.
    pub fn to_bounds(&self, first: usize, block: &mut [f32]) -> Vec<f32> {
        let conditioned = self.settled.base.conditioned();
        let n_gallery = conditioned.len() - conditioned.queries();
        block.par_chunks_mut(n_gallery.max(1)).enumerate().map(|(i, row)| self.row(first + i, row)).collect()
    }

    fn row(&self, query: usize, row: &mut [f32]) -> f32 {
        let Settled { base, options, found, .. } = &self.settled;
        let encoding = self.settled.encoding(query);
        // In f64, so that what is left open does not grow with the number of terms: the fewer pairs go to f64 as a whole.
        let mut overlap = vec![0f64; row.len()];
        for &(column, weight) in encoding {
            for &(g, other) in self.gallery_index.column(column as usize) {
                overlap[g as usize] += f64::from(other.min(weight as f32));
            }
        }
        base.to_bounds(query, base.conditioned().queries(), row);
        // Each weight is rounded once.
        let margin = overlap_margin(1, 0.0);
        let (max, lambda) = (found.max[query] as f32, options.lambda);
        for (value, m) in row.iter_mut().zip(overlap) {
            let jaccard = (1.0 - m / (2.0 - m)) as f32;
            *value = (1.0 - lambda) * jaccard + lambda * base.normalised_bound(*value, max) - margin;
        }
        2.0 * margin
    }
}

/// Roundings of a final distance outside of the sum of weights: those of J and of the sum of both parts (5), or those of D and of that
/// sum (8), with a reserve.
const FINAL_ROUNDINGS: f64 = 12.0;

/// What rounding can do to a final distance: `terms` weights are added up, which are wrong by the share `wrong` each. The slope of J
/// is at most 2.
fn overlap_margin(terms: usize, wrong: f64) -> f32 {
    (2.0 * (wrong + terms as f64 * ROUNDING) + FINAL_ROUNDINGS * ROUNDING) as f32
}
