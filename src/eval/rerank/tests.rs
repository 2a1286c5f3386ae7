use std::collections::BTreeSet;

use rand::RngExt;
use rand_distr::{Distribution, StandardNormal};

use super::*;
use crate::base::rng::{Purpose, stream};
use crate::engine::device::Device;
use crate::eval::reranked_distances;

/// Returns `n` points of length `length` around about `n / 6` directions.
fn clustered(n: usize, dim: usize, length: f32, seed: u64) -> Vec<f32> {
    let mut rng = stream(seed, Purpose::Test, 0, 0);
    let mut normal = |scale: f32| -> f32 {
        let x: f32 = StandardNormal.sample(&mut rng);
        scale * x
    };
    let centres: Vec<f32> = (0..n.div_ceil(6) * dim).map(|_| normal(1.0)).collect();
    let mut rows = Vec::with_capacity(n * dim);
    for i in 0..n {
        let centre = i * 7 % n.div_ceil(6);
        let row: Vec<f32> = centres[centre * dim..][..dim].iter().map(|c| c + normal(0.6)).collect();
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt() / length;
        rows.extend(row.iter().map(|x| x / norm));
    }
    rows
}

/// Computes re-ranked distances by their definition, with whole matrices in f64, in the steps of the published codes.
fn dense(query: &[f32], gallery: &[f32], dim: usize, options: &RerankOptions) -> Vec<f64> {
    let all: Vec<f64> = query.iter().chain(gallery).map(|x| f64::from(*x)).collect();
    let (n, n_query) = (all.len() / dim, query.len() / dim);
    let row = |i: usize| &all[i * dim..][..dim];
    let dot = |i: usize, j: usize| row(i).iter().zip(row(j)).map(|(a, b)| a * b).sum::<f64>();
    let euclidean = |i: usize, j: usize| row(i).iter().zip(row(j)).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
    let given = |i, j| match options.variant {
        RerankVariant::Ptl => 2.0 - 2.0 * dot(i, j) / (dot(i, i) * dot(j, j)).sqrt(),
        RerankVariant::Zhong => euclidean(i, j).powi(2),
        RerankVariant::Torchreid => euclidean(i, j).powi(4),
    };
    let mut d = vec![vec![0.0; n]; n];
    for i in 0..n {
        (0..n).filter(|&j| j != i).for_each(|j| d[i][j] = given(i, j));
        let max = d[i].iter().copied().fold(0.0, f64::max);
        d[i].iter_mut().for_each(|x| *x /= max);
    }
    let rank: Vec<Vec<usize>> = (0..n)
        .map(|i| {
            let mut order: Vec<usize> = (0..n).collect();
            order.sort_by(|&a, &b| (a != i, d[i][a]).partial_cmp(&(b != i, d[i][b])).unwrap());
            order
        })
        .collect();
    let nearest = |i: usize, k: usize| &rank[i][..(k + 1).min(n)];
    let reciprocal = |i: usize, k: usize| -> BTreeSet<usize> {
        nearest(i, k).iter().copied().filter(|&j| nearest(j, k).contains(&i)).collect()
    };
    let mut v = vec![vec![0.0; n]; n];
    for i in 0..n {
        let first = reciprocal(i, options.k1);
        let mut expanded = first.clone();
        for &j in &first {
            let candidate = reciprocal(j, (options.k1 as f64 / 2.0).round_ties_even() as usize);
            if candidate.intersection(&first).count() as f64 > 2.0 / 3.0 * candidate.len() as f64 {
                expanded.extend(candidate);
            }
        }
        let sum: f64 = expanded.iter().map(|&j| (-d[i][j]).exp()).sum();
        expanded.iter().for_each(|&j| v[i][j] = (-d[i][j]).exp() / sum);
    }
    if options.k2 > 1 {
        let mean = |i: usize, l: usize| {
            let near = &rank[i][..options.k2.min(n)];
            near.iter().map(|&j| v[j][l]).sum::<f64>() / near.len() as f64
        };
        v = (0..n).map(|i| (0..n).map(|l| mean(i, l)).collect()).collect();
    }
    let lambda = f64::from(options.lambda);
    let mut result = Vec::new();
    for q in 0..n_query {
        for g in n_query..n {
            let m: f64 = v[q].iter().zip(&v[g]).map(|(a, b)| a.min(*b)).sum();
            result.push((1.0 - lambda) * (1.0 - m / (2.0 - m)) + lambda * d[q][g]);
        }
    }
    result
}

fn largest_difference(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).abs()).fold(0.0, f64::max)
}

#[test]
fn every_variant_agrees_with_whole_matrices() {
    // More images than a block has rows.
    let (query, gallery) = (clustered(90, 24, 3.0, 1), clustered(510, 24, 2.0, 1));
    for variant in [RerankVariant::Ptl, RerankVariant::Zhong, RerankVariant::Torchreid] {
        for (k1, k2, lambda) in [(20, 6, 0.3), (5, 1, 0.5), (7, 12, 0.0), (1, 2, 1.0)] {
            let options = RerankOptions { variant, k1, k2, lambda };
            let got = reranked_distances(&query, &gallery, 24, options, &Device::cpu()).unwrap();
            let difference = largest_difference(&got, &dense(&query, &gallery, 24, &options));
            assert!(difference < 5e-6, "{options}: {difference:e}");
        }
    }
}

#[test]
fn zhong_is_ptl_on_unit_features_and_not_on_others() {
    let distances = |length: f32, variant| {
        let (query, gallery) = (clustered(30, 16, length, 2), clustered(150, 16, 1.0, 2));
        reranked_distances(&query, &gallery, 16, RerankOptions::new(variant), &Device::cpu()).unwrap()
    };
    let difference = |length, other| {
        let ptl: Vec<f64> = distances(length, RerankVariant::Ptl).into_iter().map(f64::from).collect();
        largest_difference(&distances(length, other), &ptl)
    };
    assert!(difference(1.0, RerankVariant::Zhong) < 1e-5);
    assert!(difference(1.0, RerankVariant::Torchreid) > 1e-2);
    assert!(difference(3.0, RerankVariant::Zhong) > 1e-2);
}

#[test]
fn threads_do_not_matter() {
    let (query, gallery) = (clustered(70, 16, 1.0, 3), clustered(700, 16, 1.0, 3));
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            reranked_distances(&query, &gallery, 16, RerankOptions::new(RerankVariant::Ptl), &Device::cpu()).unwrap()
        })
    };
    assert_eq!(with(1), with(5));
}

#[test]
fn few_and_equal_images_are_no_trouble() {
    for variant in [RerankVariant::Ptl, RerankVariant::Zhong, RerankVariant::Torchreid] {
        let options = RerankOptions::new(variant);
        // All the same: the largest distance is 0.
        let same = reranked_distances(&[1.0, 0.0], &[1.0, 0.0, 1.0, 0.0], 2, options, &Device::cpu()).unwrap();
        assert_eq!(same[0], same[1]);
        assert!(same[0].is_finite());
        // More equal images than k1, and a row without direction.
        let mut gallery = [0.6, 0.8].repeat(40);
        gallery.extend([0.0, 0.0]);
        let many = reranked_distances(&[0.6, 0.8, 0.0, 0.0], &gallery, 2, options, &Device::cpu()).unwrap();
        assert!(many.iter().all(|d| (0.0..=1.0).contains(d)), "{variant}");
        assert!(reranked_distances(&[1.0, 0.0], &[], 2, options, &Device::cpu()).unwrap().is_empty());
    }
    let mut rng = stream(4, Purpose::Test, 0, 0);
    let one: Vec<f32> = (0..2).map(|_| rng.random_range(0.1..1.0)).collect();
    assert_eq!(
        reranked_distances(&one, &one, 2, RerankOptions::new(RerankVariant::Ptl), &Device::cpu()).unwrap().len(),
        1
    );
}

#[test]
fn options_that_cannot_work_are_named() {
    let base = RerankOptions::new(RerankVariant::Ptl);
    let cases = [
        ("eval.k1 = 0", RerankOptions { k1: 0, ..base }),
        ("eval.k2 = 0", RerankOptions { k2: 0, ..base }),
        ("eval.lambda = 1.5", RerankOptions { lambda: 1.5, ..base }),
        ("eval.lambda = NaN", RerankOptions { lambda: f32::NAN, ..base }),
    ];
    for (start, options) in cases {
        let error = reranked_distances(&[1.0], &[1.0], 1, options, &Device::cpu()).unwrap_err().to_string();
        assert!(error.starts_with(start), "{error}");
    }
}
