//! Distances by the CPU.

use std::ops::Range;

use rayon::prelude::*;

use super::{DistanceBlock, DistanceSource, block_rows};
use crate::Result;
use crate::cpu::{PackedRows, matmul_nt};
use crate::eval::rerank::{RerankOptions, Reranker};

/// Rows of one packed product of [`squared_norms`].
const NORM_ROWS: usize = 16;

/// Squared L2 norm of each row of `features` `[n, dim]`, summed as [`matmul_nt`] sums: a row is at distance 0 from
/// itself.
pub fn squared_norms(features: &[f32], dim: usize) -> Vec<f32> {
    let norms = |rows: &[f32]| {
        let n = rows.len() / dim;
        let mut products = vec![0.0; n * n];
        matmul_nt(rows, &PackedRows::new(rows, dim), 0..n, &mut products);
        (0..n).map(|i| products[i * n + i]).collect::<Vec<_>>()
    };
    features.par_chunks(NORM_ROWS * dim).flat_map_iter(norms).collect()
}

/// The queries, and the gallery packed once for all of them.
pub struct CpuDistances<'a> {
    /// `[queries, dim]` and `[gallery, dim]`
    features: [&'a [f32]; 2],
    /// Of each row, squared.
    norms: [Vec<f32>; 2],
    packed: PackedRows,
    dim: usize,
    reranker: Option<Reranker>,
}

impl<'a> CpuDistances<'a> {
    /// `[query, gallery]` with their [`squared_norms`].
    pub fn new(features: [&'a [f32]; 2], norms: [Vec<f32>; 2], dim: usize) -> CpuDistances<'a> {
        CpuDistances { features, norms, packed: PackedRows::new(features[1], dim), dim, reranker: None }
    }

    /// Turns products `[rows, gallery]` into |q - g| = sqrt(max(0, |q|² + |g|² - 2 q·g)).
    fn to_euclidean(&self, rows: Range<usize>, block: &mut [f32]) {
        let [query_norms, gallery_norms] = &self.norms;
        block.par_chunks_mut(self.packed.rows()).zip(&query_norms[rows]).for_each(|(row, norm)| {
            for (value, other) in row.iter_mut().zip(gallery_norms) {
                *value = (norm + other - 2.0 * *value).max(0.0).sqrt();
            }
        });
    }
}

impl DistanceSource for CpuDistances<'_> {
    fn block_rows(&self) -> usize {
        block_rows(self.packed.rows())
    }

    fn reranking_bytes(&self, options: &RerankOptions) -> Option<usize> {
        let n = self.norms[0].len() + self.norms[1].len();
        // Two copies of the features, a block of distances, neighbours, encodings.
        let (k1, encoded) = (options.k1.min(n), options.k1.saturating_mul(options.k2).min(n));
        Some(8 * n * self.dim + 4 * n * block_rows(n) + n * (8 * k1 + 12 * encoded))
    }

    fn prepare_reranking(&mut self, options: RerankOptions, done: &mut dyn FnMut(usize)) -> Result<()> {
        let bytes = self.reranking_bytes(&options).expect("the CPU takes all options");
        crate::memory::ensure("re-ranking", bytes as u64)?;
        let [query, gallery] = self.features;
        self.reranker = Some(Reranker::new(query, gallery, self.dim, options, done)?);
        Ok(())
    }

    fn fill(&self, rows: Range<usize>, block: &mut DistanceBlock) -> Result<()> {
        let n_gallery = self.packed.rows();
        let query = &self.features[0][rows.start * self.dim..rows.end * self.dim];
        block.plain.resize(rows.len() * n_gallery, 0.0);
        matmul_nt(query, &self.packed, 0..n_gallery, &mut block.plain);
        if let Some(reranker) = &self.reranker {
            block.reranked.clone_from(&block.plain);
            reranker.to_distances(rows.start, &mut block.reranked);
        }
        self.to_euclidean(rows, &mut block.plain);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;
    use crate::rng::{Purpose, stream};

    #[test]
    fn distances_match_the_definition_in_any_block() {
        let (n_query, n_gallery, dim) = (7, 137, 521);
        let mut rng = stream(1, Purpose::Test, 0, 0);
        let mut features = |n: usize| (0..n * dim).map(|_| rng.random_range(-0.1f32..0.1)).collect::<Vec<_>>();
        let (query, features) = (features(n_query), features(n_gallery));
        let source =
            CpuDistances::new([&query, &features], [squared_norms(&query, dim), squared_norms(&features, dim)], dim);
        let block = |rows: Range<usize>| {
            let mut block = DistanceBlock::default();
            source.fill(rows, &mut block).unwrap();
            block.plain
        };
        let all = block(0..n_query);
        for q in 0..n_query {
            assert_eq!(block(q..q + 1), all[q * n_gallery..][..n_gallery], "query {q} alone");
            for g in 0..n_gallery {
                let difference = |k: usize| f64::from(query[q * dim + k]) - f64::from(features[g * dim + k]);
                let want = (0..dim).map(|k| difference(k).powi(2)).sum::<f64>().sqrt();
                assert!((f64::from(all[q * n_gallery + g]) - want).abs() < 1e-5);
            }
        }
        let norms = squared_norms(&features, dim);
        let mut own = DistanceBlock::default();
        let itself = CpuDistances::new([&features, &features], [norms.clone(), norms], dim);
        itself.fill(0..n_gallery, &mut own).unwrap();
        assert!((0..n_gallery).all(|i| own.plain[i * n_gallery + i] == 0.0), "a row is at distance 0 from itself");
    }
}
