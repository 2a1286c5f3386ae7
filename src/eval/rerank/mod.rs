//! Re-ranking by k-reciprocal encoding (Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding",
//! CVPR 2017), in memory that grows with the number of images, not with its square.
//!
//! Over all n = queries + gallery images, with D_ij = f(d_ij) / max_j f(d_ij):
//!
//! - N(i, k): image i and its k nearest others, by (distance, index). R(i, k) = {j ∈ N(i, k): i ∈ N(j, k)}.
//! - R*(i): R(i, k1) together with every R(j, k1/2), j ∈ R(i, k1), that shares more than 2/3 of its images with R(i, k1); k1/2 is
//!   rounded half to even.
//! - V_ij = exp(-D_ij) / Σ_{l ∈ R*(i)} exp(-D_il) for j ∈ R*(i), else 0. With k2 > 1, V_i becomes the mean of V over the first k2 images
//!   of N(i, ·).
//! - J_ij = 1 - m / (2 - m), m = Σ_l min(V_il, V_jl). The result is (1 - λ) J + λ D for queries against the gallery.
//!
//! `neighbours` finds N and the row maxima from blocks of distances, `encoding` computes the sparse rows V, and `Reranker` turns
//! blocks of products into bounds of final distances. `GpuReranker` does the same on a GPU. `ExactReranking` has N and the maxima,
//! decided in f64, and computes single final distances in f64.

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

use self::base::BaseDistance;
pub(crate) use self::encoding::ExactReranking;
use self::encoding::InvertedIndex;
pub(super) use self::gpu::GpuReranker;
use super::products::{Conditioned, ROUNDING};
use crate::{Error, Result};

/// Which published implementation to match: they differ in d and f.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RerankVariant {
    /// d = 2 - 2 cos, f(d) = d: the published PTL code, and ReID-MGN before it.
    Ptl,
    /// d = squared Euclidean distance of the features, f(d) = d: the paper's own code, which squares the Euclidean distance that it
    /// computes. On features of unit length d is 2 - 2 cos, and results equal those of `Ptl` up to rounding; on others they do not.
    /// (That code works in float16; this does not.)
    Zhong,
    /// d as in `Zhong`, f(d) = d²: torchreid, which passes its squared distance to code that squares it again. Neighbours are the same
    /// as in `Zhong`; weights and the λ term are not.
    Torchreid,
}

impl RerankVariant {
    /// Returns whether d is 2 - 2 cos instead of the squared Euclidean distance.
    fn is_cosine(self) -> bool {
        self == RerankVariant::Ptl
    }

    /// Returns whether f(d) is d² instead of d.
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
    /// Published implementation that is matched.
    pub variant: RerankVariant,
    /// Number of nearest neighbours in which reciprocal ones are sought.
    pub k1: usize,
    /// Number of images, including the image itself, over which an encoding is averaged; 1 does not average.
    pub k2: usize,
    /// Weight of the original distance in the result.
    pub lambda: f32,
}

impl RerankOptions {
    /// Returns the paper's k1 = 20, k2 = 6, λ = 0.3.
    pub fn new(variant: RerankVariant) -> RerankOptions {
        RerankOptions { variant, k1: 20, k2: 6, lambda: 0.3 }
    }

    /// Returns k1/2, rounded half to even.
    fn half(&self) -> usize {
        (self.k1 as f64 / 2.0).round_ties_even() as usize
    }

    /// Returns how many neighbours of each of n images are needed.
    fn neighbours(&self, n: usize) -> usize {
        self.k1.max(self.k2 - 1).min(n.saturating_sub(1))
    }

    /// Checks the ranges of the options.
    ///
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

/// The encodings of queries and gallery, and what is needed to compute re-ranked distances from them.
pub(crate) struct Reranker<'a> {
    exact: ExactReranking<'a>,
    /// Rows V of the gallery, by column.
    gallery_index: InvertedIndex,
}

impl<'a> Reranker<'a> {
    /// Computes the encodings with valid `options`. After each block, `done` is called with the number of images that have been
    /// compared with all others.
    pub(crate) fn new(
        conditioned: Arc<Conditioned<'a>>,
        options: RerankOptions,
        mut done: impl FnMut(usize),
    ) -> Reranker<'a> {
        let (n, queries) = (conditioned.len(), conditioned.queries());
        let base = BaseDistance::new(conditioned, options.variant);
        let found = {
            let packed = base.conditioned().packed(0..n);
            neighbours::find(&packed, &base, options.neighbours(n), &mut done)
        };
        let exact = ExactReranking::new(base, found, options);
        exact.encode();
        let gallery: Vec<&[(u32, f64)]> = (queries..n).map(|i| exact.encoding(i)).collect();
        Reranker { gallery_index: InvertedIndex::new(&gallery, n), exact }
    }

    /// Returns the exact re-ranked distances.
    pub(crate) fn exact(&self) -> &ExactReranking<'a> {
        &self.exact
    }

    /// Turns products of the queries from `first` on, `[rows, gallery]`, into lower bounds of final distances. Returns for each query
    /// how far its distances may be above the bounds, without the uncertainty of the plain distances.
    pub(crate) fn to_bounds(&self, first: usize, block: &mut [f32]) -> Vec<f32> {
        let conditioned = self.exact.base.conditioned();
        let n_gallery = conditioned.len() - conditioned.queries();
        block.par_chunks_mut(n_gallery.max(1)).enumerate().map(|(i, row)| self.row(first + i, row)).collect()
    }

    fn row(&self, query: usize, row: &mut [f32]) -> f32 {
        let ExactReranking { base, options, found, .. } = &self.exact;
        let encoding = self.exact.encoding(query);
        // In f64, so that the uncertainty does not grow with the number of terms, and fewer pairs need an exact distance.
        let mut overlap = vec![0f64; row.len()];
        for &(column, weight) in encoding {
            for &(g, other) in self.gallery_index.column(column as usize) {
                overlap[g as usize] += f64::from(other.min(weight as f32));
            }
        }
        base.to_bounds(query, base.conditioned().queries(), row);
        // Each weight was rounded once.
        let margin = overlap_margin(1, 0.0);
        let (max, lambda) = (found.max[query] as f32, options.lambda);
        for (value, m) in row.iter_mut().zip(overlap) {
            let jaccard = (1.0 - m / (2.0 - m)) as f32;
            *value = (1.0 - lambda) * jaccard + lambda * base.normalised_bound(*value, max) - margin;
        }
        2.0 * margin
    }
}

/// Rounding errors of a final distance beside those of the sum of weights: of J and the sum of both parts (5), or of D and that sum
/// (8), with a reserve.
const FINAL_ROUNDINGS: f64 = 12.0;

/// Returns a bound of the rounding error of a final distance, where `terms` weights are added whose relative error is `wrong`. The
/// slope of J is at most 2.
fn overlap_margin(terms: usize, wrong: f64) -> f32 {
    (2.0 * (wrong + terms as f64 * ROUNDING) + FINAL_ROUNDINGS * ROUNDING) as f32
}
