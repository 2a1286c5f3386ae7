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
//! [`neighbours`] finds N and the row maxima from blocks of distances, [`encoding`] makes the sparse rows V, and
//! [`Reranker`] turns rows of products into rows of final distances, as many at a time as the caller has. [`GpuReranker`] is
//! the same on a GPU.

mod base;
mod encoding;
mod gpu;
mod neighbours;
#[cfg(test)]
mod tests;

use std::fmt;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use self::base::Base;
use self::encoding::InvertedIndex;
pub(super) use self::gpu::GpuReranker;
use super::distance::{DistanceBlock, Distances, squared_norms};
use crate::cpu::PackedRows;
use crate::device::Device;
use crate::progress::Reporter;
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
pub struct Reranker {
    options: RerankOptions,
    base: Base,
    /// Largest d of each query, over all images.
    query_max: Vec<f32>,
    /// V of the queries.
    query_encoding: Vec<encoding::SparseRow>,
    /// V of the gallery, by column.
    gallery_index: InvertedIndex,
    n_gallery: usize,
}

impl Reranker {
    /// Works out the encodings of finite `query` `[queries, dim]` and `gallery` `[gallery, dim]`; `done` is called with
    /// the number of images that have been compared with all others, block after block.
    ///
    /// # Errors
    /// As [`RerankOptions::validate`].
    pub fn new(
        query: &[f32],
        gallery: &[f32],
        dim: usize,
        options: RerankOptions,
        mut done: impl FnMut(usize),
    ) -> Result<Reranker> {
        options.validate()?;
        let (n_query, n_gallery) = (query.len() / dim, gallery.len() / dim);
        let all = [query, gallery].concat();
        let base = Base::new(&all, dim, options.variant);
        let count = options.neighbours(n_query + n_gallery);
        let found = {
            let packed = PackedRows::new(&all, dim);
            neighbours::find(&all, &packed, &base, count, &mut done)
        };
        let rows = encoding::encode(&all, dim, &base, &found, &options);
        drop(all);
        let (query_rows, gallery_rows) = rows.split_at(n_query);
        Ok(Reranker {
            options,
            query_max: found.max[..n_query].to_vec(),
            gallery_index: InvertedIndex::new(gallery_rows, n_query + n_gallery),
            query_encoding: query_rows.to_vec(),
            base,
            n_gallery,
        })
    }

    /// Turns products q · g of the queries from `first` on, `[rows, gallery]`, into final distances.
    pub fn to_distances(&self, first: usize, block: &mut [f32]) {
        if self.n_gallery == 0 {
            return;
        }
        block.par_chunks_mut(self.n_gallery).enumerate().for_each(|(i, row)| self.row(first + i, row));
    }

    fn row(&self, query: usize, row: &mut [f32]) {
        let mut overlap = vec![0f32; self.n_gallery];
        for &(column, weight) in &self.query_encoding[query] {
            for &(g, other) in self.gallery_index.column(column as usize) {
                overlap[g as usize] += weight.min(other);
            }
        }
        self.base.to_base(query, self.query_encoding.len(), row);
        let (max, lambda) = (self.query_max[query], self.options.lambda);
        for (value, m) in row.iter_mut().zip(overlap) {
            let jaccard = 1.0 - m / (2.0 - m);
            *value = (1.0 - lambda) * jaccard + lambda * self.base.normalised(*value, max);
        }
    }
}

/// Final distances `[queries, gallery]` held whole, by `device`: for sets that are small enough.
///
/// # Errors
/// As [`RerankOptions::validate`]; it does not fit into memory; the device fails.
pub fn rerank(query: &[f32], gallery: &[f32], dim: usize, options: RerankOptions, device: &Device) -> Result<Vec<f32>> {
    options.validate()?;
    if gallery.is_empty() {
        return Ok(Vec::new());
    }
    let norms = [query, gallery].map(|features| squared_norms(features, dim));
    let mut distances = Distances::new([query, gallery], norms, dim, device)?;
    distances.prepare_reranking(options, &Reporter::silent())?;
    let mut block = DistanceBlock::default();
    distances.fill(0..query.len() / dim, &mut block)?;
    Ok(block.reranked)
}
