//! Euclidean distances between a block of query rows and all gallery rows.

use rayon::prelude::*;

/// Query rows of one task.
const TASK: usize = 16;
/// Query rows multiplied with a gallery row together.
const GROUP: usize = 4;
/// Gallery rows that stay in cache while the queries of a task pass.
const GALLERY_TILE: usize = 16;
/// Partial sums of a dot product; fixed, so that a distance does not depend on which rows are computed together.
const LANES: usize = 16;

/// Squared L2 norm of each row of `features` `[n, dim]`.
pub fn squared_norms(features: &[f32], dim: usize) -> Vec<f32> {
    features.par_chunks(dim).map(|row| dots([row], row)[0]).collect()
}

/// One side of a distance computation.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// `[n, dim]`
    pub features: &'a [f32],
    /// `[n]`
    pub squared_norms: &'a [f32],
}

/// Fills `block` `[queries, gallery]` with |q - g| = sqrt(max(0, |q|² + |g|² - 2 q·g)).
pub fn distances(query: Rows, gallery: Rows, dim: usize, block: &mut [f32]) {
    let n_gallery = gallery.squared_norms.len();
    let tasks = block.par_chunks_mut(TASK * n_gallery).zip(query.features.par_chunks(TASK * dim));
    tasks.zip(query.squared_norms.par_chunks(TASK)).for_each(|((out, features), squared_norms)| {
        for start in (0..n_gallery).step_by(GALLERY_TILE) {
            let tile = start..(start + GALLERY_TILE).min(n_gallery);
            let groups = features.chunks(GROUP * dim).zip(squared_norms.chunks(GROUP));
            for ((rows, norms), out) in groups.zip(out.chunks_mut(GROUP * n_gallery)) {
                let rows: Vec<&[f32]> = rows.chunks_exact(dim).collect();
                for g in tile.clone() {
                    let gallery_row = &gallery.features[g * dim..(g + 1) * dim];
                    let mut put = |q: usize, dot: f32| {
                        let squared = norms[q] + gallery.squared_norms[g] - 2.0 * dot;
                        out[q * n_gallery + g] = squared.max(0.0).sqrt();
                    };
                    match <[&[f32]; GROUP]>::try_from(rows.as_slice()) {
                        Ok(rows) => dots(rows, gallery_row).into_iter().enumerate().for_each(|(q, dot)| put(q, dot)),
                        Err(_) => rows.iter().enumerate().for_each(|(q, row)| put(q, dots([row], gallery_row)[0])),
                    }
                }
            }
        }
    });
}

/// Dot products of `N` rows with one row.
#[inline]
fn dots<const N: usize>(rows: [&[f32]; N], other: &[f32]) -> [f32; N] {
    let mut sums = [[0f32; LANES]; N];
    let (others, other_rest) = other.as_chunks::<LANES>();
    let parts = rows.map(|row| row.as_chunks::<LANES>());
    for (k, b) in others.iter().enumerate() {
        for (sum, (row, _)) in sums.iter_mut().zip(&parts) {
            for lane in 0..LANES {
                sum[lane] += row[k][lane] * b[lane];
            }
        }
    }
    std::array::from_fn(|n| {
        let rest: f32 = parts[n].1.iter().zip(other_rest).map(|(a, b)| a * b).sum();
        sums[n].iter().sum::<f32>() + rest
    })
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;
    use crate::rng::{Purpose, stream};

    #[test]
    fn distances_match_the_definition_in_any_grouping() {
        let (n_query, n_gallery, dim) = (7, 37, 21);
        let mut rng = stream(1, Purpose::Test, 0, 0);
        let mut features = |n: usize| (0..n * dim).map(|_| rng.random_range(-1.0f32..1.0)).collect::<Vec<_>>();
        let (query, gallery) = (features(n_query), features(n_gallery));
        let (q_norms, g_norms) = (squared_norms(&query, dim), squared_norms(&gallery, dim));
        let gallery_rows = Rows { features: &gallery, squared_norms: &g_norms };
        let block = |rows: std::ops::Range<usize>| {
            let mut block = vec![0.0; rows.len() * n_gallery];
            let features = &query[rows.start * dim..rows.end * dim];
            distances(Rows { features, squared_norms: &q_norms[rows] }, gallery_rows, dim, &mut block);
            block
        };
        let all = block(0..n_query);
        for q in 0..n_query {
            assert_eq!(block(q..q + 1), all[q * n_gallery..][..n_gallery], "query {q} alone");
            for g in 0..n_gallery {
                let difference = |k: usize| f64::from(query[q * dim + k]) - f64::from(gallery[g * dim + k]);
                let want = (0..dim).map(|k| difference(k).powi(2)).sum::<f64>().sqrt();
                assert!((f64::from(all[q * n_gallery + g]) - want).abs() < 1e-5);
            }
        }
        let mut own = vec![0.0; n_gallery * n_gallery];
        distances(gallery_rows, gallery_rows, dim, &mut own);
        assert!((0..n_gallery).all(|i| own[i * n_gallery + i] == 0.0), "a row is at distance 0 from itself");
    }
}
