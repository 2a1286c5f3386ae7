//! Euclidean distances between blocks of query rows and all gallery rows.

use rayon::prelude::*;

use crate::cpu::{PackedRows, matmul_nt};

/// Distances held in memory at a time (64 MiB), unless fewer than [`MIN_BLOCK_ROWS`] rows fit.
const BLOCK_VALUES: usize = 1 << 24;
/// Rows that pay for reading the whole gallery once.
const MIN_BLOCK_ROWS: usize = 64;
const MAX_BLOCK_ROWS: usize = 512;
/// Rows of one packed product of [`squared_norms`].
const NORM_ROWS: usize = 16;

/// Rows of a block of distances to `n` items: a multiple of 64, so that blocks start at whole panels.
pub fn block_rows(n: usize) -> usize {
    (BLOCK_VALUES / n.max(1)).clamp(MIN_BLOCK_ROWS, MAX_BLOCK_ROWS) / MIN_BLOCK_ROWS * MIN_BLOCK_ROWS
}

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

/// The gallery, packed once for all queries.
pub struct Gallery {
    rows: PackedRows,
    squared_norms: Vec<f32>,
}

impl Gallery {
    /// `features` `[n, dim]`, and their squared norms `[n]`.
    pub fn new(features: &[f32], squared_norms: Vec<f32>, dim: usize) -> Gallery {
        Gallery { rows: PackedRows::new(features, dim), squared_norms }
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.rows.rows()
    }

    /// Fills `block` `[queries, len]` with the products q · g.
    pub fn products(&self, query: &[f32], block: &mut [f32]) {
        matmul_nt(query, &self.rows, 0..self.len(), block);
    }

    /// Turns products into |q - g| = sqrt(max(0, |q|² + |g|² - 2 q·g)).
    pub fn to_euclidean(&self, query_squared_norms: &[f32], block: &mut [f32]) {
        block.par_chunks_mut(self.len()).zip(query_squared_norms).for_each(|(row, norm)| {
            for (value, other) in row.iter_mut().zip(&self.squared_norms) {
                *value = (norm + other - 2.0 * *value).max(0.0).sqrt();
            }
        });
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
        let query_norms = squared_norms(&query, dim);
        let gallery = Gallery::new(&features, squared_norms(&features, dim), dim);
        let block = |rows: std::ops::Range<usize>| {
            let mut block = vec![0.0; rows.len() * n_gallery];
            gallery.products(&query[rows.start * dim..rows.end * dim], &mut block);
            gallery.to_euclidean(&query_norms[rows], &mut block);
            block
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
        let mut own = vec![0.0; n_gallery * n_gallery];
        gallery.products(&features, &mut own);
        gallery.to_euclidean(&gallery.squared_norms, &mut own);
        assert!((0..n_gallery).all(|i| own[i * n_gallery + i] == 0.0), "a row is at distance 0 from itself");
    }
}
