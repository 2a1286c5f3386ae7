//! Rankings against plain arithmetic in f64 on the same stored features, of every size, offset and likeness: on the CPU and on the
//! emulated GPU.

use std::collections::BTreeSet;

use ptl::base::progress::Reporter;
use ptl::engine::device::Device;
use ptl::engine::precision::Precision;
use ptl::eval::features_file::FeatureSet;
use ptl::eval::ranking::{RankingOptions, RankingReport};
use ptl::eval::report::{Details, Evaluation};
use ptl::eval::rerank::{RerankOptions, RerankVariant};
use ptl::eval::roc::{FALSE_POSITIVE_RATES, Roc};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::emulated;

const IDENTITIES: usize = 6;

/// Query and gallery.
type Pair = [FeatureSet; 2];

/// Row `i` belongs to identity i mod 6; cameras change more slowly.
fn set(features: Vec<f32>, dim: usize, shift: usize) -> FeatureSet {
    let n = features.len() / dim;
    let pids = (0..n).map(|i| (i % IDENTITIES) as i64).collect();
    let camids = (0..n).map(|i| ((i + shift) / IDENTITIES % 3) as i64).collect();
    FeatureSet { features, dim, pids, camids, paths: Vec::new() }
}

/// Features (offset + centre of the identity + noise)·scale, in f64 before they are stored; some rows of the gallery are there
/// twice, some differ in one last bit, some are constant.
fn clustered([queries, gallery]: [usize; 2], dim: usize, offset: f64, scale: f64) -> Pair {
    let mut rng = ChaCha8Rng::seed_from_u64(dim as u64);
    let centres: Vec<f64> = (0..IDENTITIES * dim).map(|_| rng.random_range(-1.0..1.0)).collect();
    let mut rows = |n: usize| -> Vec<f32> {
        let value = |i: usize| offset + centres[i / dim % IDENTITIES * dim + i % dim];
        (0..n * dim).map(|i| (scale * (value(i) + rng.random_range(-1.5..1.5))) as f32).collect()
    };
    let (query, mut features) = (rows(queries), rows(gallery));
    let row = |i: usize| i * dim..(i + 1) * dim;
    features.copy_within(row(3), 20 * dim);
    features.copy_within(row(4), 9 * dim);
    features.copy_within(row(4), 21 * dim);
    features[21 * dim] = features[21 * dim].next_up();
    features[row(30)].copy_from_slice(&query[row(0)]);
    for (i, value) in [(26, offset), (27, offset), (28, offset - 1.0)] {
        features[row(i)].fill((scale * value) as f32);
    }
    [set(query, dim, 0), set(features, dim, 1)]
}

/// Rows of unit length around one direction.
fn narrow(dim: usize, angle: f64) -> Pair {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let base: Vec<f64> = (0..dim).map(|_| rng.random_range(-1.0..1.0)).collect();
    let centres: Vec<f64> = (0..IDENTITIES * dim).map(|_| rng.random_range(-1.0..1.0)).collect();
    let mut rows = |n: usize| -> Vec<f32> {
        let mut rows = Vec::new();
        for i in 0..n {
            let centre = &centres[i % IDENTITIES * dim..][..dim];
            let row: Vec<f64> =
                base.iter().zip(centre).map(|(b, c)| b + angle * (c + rng.random_range(-1.2..1.2))).collect();
            let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            rows.extend(row.iter().map(|x| (x / norm) as f32));
        }
        rows
    };
    [set(rows(12), dim, 0), set(rows(60), dim, 1)]
}

/// Rows in two groups far from each other, so that no centre suits all.
fn two_groups(dim: usize, apart: f32) -> Pair {
    clustered([12, 60], dim, 0.0, 1.0).map(|mut set| {
        for (i, row) in set.features.chunks_mut(dim).enumerate() {
            row.iter_mut().for_each(|x| *x += if i / 2 % 2 == 0 { apart } else { -apart });
        }
        set
    })
}

/// Rows of many lengths, from hardly any to 10³⁰ and none.
fn many_lengths(dim: usize) -> Pair {
    let scales = [1.0, 1e-3, 1e3, 1e-30, 1e10, 1.0, 1e30];
    clustered([12, 60], dim, 0.0, 1.0).map(|mut set| {
        for (i, row) in set.features.chunks_mut(dim).enumerate() {
            let scale = if i % 17 == 16 { 0.0 } else { scales[i % scales.len()] };
            row.iter_mut().for_each(|x| *x *= scale);
        }
        set
    })
}

fn all_cases() -> Vec<(String, Pair)> {
    let mut cases = Vec::new();
    for dim in [1, 2, 32, 300] {
        for offset in [0.0, 1.0, 1e3, 1e4, 1e6] {
            for scale in [1e-38, 1e-30, 1e-24, 1e-20, 1e-3, 1.0, 1e15, 1e18, 1e31, 1e37] {
                if offset * scale < 1e38 {
                    let name = format!("{dim} numbers, offset {offset:e}, scale {scale:e}");
                    cases.push((name, clustered([12, 60], dim, offset, scale)));
                }
            }
        }
    }
    cases.push(("2048 numbers".into(), clustered([12, 60], 2048, 0.0, 1.0)));
    cases.push(("2048 numbers, offset".into(), clustered([12, 60], 2048, 1e5, 1.0)));
    for angle in [1e-5, 3e-4, 1e-2, 1.0] {
        cases.push((format!("angles of {angle}"), narrow(256, angle)));
    }
    for apart in [1e2, 1e4, 1e6] {
        cases.push((format!("groups {apart} apart"), two_groups(40, apart)));
    }
    cases.push(("many lengths".into(), many_lengths(20)));
    cases
}

fn devices() -> Vec<Device> {
    [Some(Device::cpu()), emulated(Precision::F32)].into_iter().flatten().collect()
}

/// |q - g|² of all pairs in f64.
fn squared(a: &FeatureSet, b: &FeatureSet) -> Vec<Vec<f64>> {
    let row = |set: &FeatureSet, i: usize| -> Vec<f64> {
        set.features[i * set.dim..][..set.dim].iter().map(|x| f64::from(*x)).collect()
    };
    let b: Vec<Vec<f64>> = (0..b.len()).map(|i| row(b, i)).collect();
    let of = |a: Vec<f64>| b.iter().map(|b| a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum()).collect();
    (0..a.len()).map(|i| of(row(a, i))).collect()
}

fn kept(query: &FeatureSet, gallery: &FeatureSet, q: usize) -> Vec<usize> {
    let taken_out = |g: &usize| gallery.pids[*g] == query.pids[q] && gallery.camids[*g] == query.camids[q];
    (0..gallery.len()).filter(|g| !taken_out(g)).collect()
}

/// Gallery items by (distance, index).
fn order(distances: &[f64], mut items: Vec<usize>) -> Vec<usize> {
    items.sort_by(|a, b| distances[*a].total_cmp(&distances[*b]));
    items
}

/// AP by steps, AP by trapezoids, INP and the first rank, by the definitions.
fn figures(order: &[usize], distances: &[f64], is_match: impl Fn(usize) -> bool) -> Option<[f64; 4]> {
    let hit: Vec<bool> = order.iter().map(|g| is_match(*g)).collect();
    let n = hit.iter().filter(|hit| **hit).count() as f64;
    let (first, last) = (hit.iter().position(|hit| *hit)?, hit.iter().rposition(|hit| *hit)?);
    let (mut ap, mut trapezoid, mut hits, mut entered) = (0.0, 0.0, 0.0, 0.0);
    for (i, &g) in order.iter().enumerate() {
        let before = if i == 0 { 1.0 } else { hits / i as f64 };
        if hit[i] {
            hits += 1.0;
            trapezoid += (before + hits / (i + 1) as f64) / (2.0 * n);
        }
        if order.get(i + 1).is_none_or(|next| distances[*next] > distances[g]) {
            ap += (hits - entered) / n * hits / (i + 1) as f64;
            entered = hits;
        }
    }
    Some([ap, trapezoid, n / (last + 1) as f64, (first + 1) as f64])
}

fn check_report(name: &str, report: &RankingReport, query: &FeatureSet, gallery: &FeatureSet, d: &[Vec<f64>]) {
    let mut want = Vec::new();
    for (q, result) in report.per_query.iter().enumerate() {
        let order = order(&d[q], kept(query, gallery, q));
        let figures = figures(&order, &d[q], |g| gallery.pids[g] == query.pids[q]);
        let got = result.map(|r| [r.ap, r.ap_trapezoid, r.inp, r.first_match_rank as f64]);
        let same = match (got, figures) {
            (Some(got), Some(want)) => got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-12),
            (None, None) => true,
            _ => false,
        };
        assert!(same, "{name}, query {q}: {got:?}, not {figures:?}");
        want.extend(figures);
    }
    let mean = |which: usize| want.iter().map(|f| f[which]).sum::<f64>() / want.len() as f64;
    for (got, want) in [(report.map, mean(0)), (report.map_trapezoid, mean(1)), (report.minp, mean(2))] {
        assert!((got - want).abs() < 1e-12, "{name}: {got}, not {want}");
    }
    for k in [1, 5, 10] {
        let hits = want.iter().filter(|f| f[3] <= k as f64).count() as f64;
        assert!((report.rank(k).unwrap() - hits / want.len() as f64).abs() < 1e-12, "{name}: rank {k}");
    }
}

/// The figures of all pairs in the order of their distances.
fn check_roc(name: &str, roc: &Roc, query: &FeatureSet, gallery: &FeatureSet, d: &[Vec<f64>]) {
    let mut pairs: Vec<(f64, bool)> = Vec::new();
    for q in 0..query.len() {
        let kept = kept(query, gallery, q);
        if kept.iter().any(|g| gallery.pids[*g] == query.pids[q]) {
            pairs.extend(kept.iter().map(|g| (d[q][*g], gallery.pids[*g] == query.pids[q])));
        }
    }
    pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let all = [pairs.iter().filter(|p| p.1).count() as f64, pairs.iter().filter(|p| !p.1).count() as f64];
    let mut points: Vec<[f64; 3]> =
        FALSE_POSITIVE_RATES.into_iter().filter(|fpr| fpr * all[1] >= 1.0).map(|fpr| [fpr, 0.0, 0.0]).collect();
    let (mut eer, mut gap, mut accepted) = ([0.5, 0.0], 1.0, [0.0, 0.0]);
    for same in pairs.chunk_by(|a, b| a.0 == b.0) {
        same.iter().for_each(|pair| accepted[usize::from(!pair.1)] += 1.0);
        let ([tpr, fpr], threshold) = ([accepted[0] / all[0], accepted[1] / all[1]], same[0].0.sqrt());
        points.iter_mut().filter(|point| fpr <= point[0]).for_each(|point| (point[1], point[2]) = (tpr, threshold));
        let missed = 1.0 - tpr;
        if f64::abs(fpr - missed) < gap {
            (gap, eer) = (f64::abs(fpr - missed), [0.5 * (fpr + missed), threshold]);
        }
    }
    let got: Vec<[f64; 3]> = roc.points.iter().map(|p| [p.fpr, p.tpr, p.threshold]).collect();
    assert_eq!(got.len(), points.len(), "{name}");
    let close = |got: f64, want: f64| (got - want).abs() <= 1e-12 * want.abs();
    let same = got.as_flattened().iter().zip(points.as_flattened()).all(|(got, want)| close(*got, *want));
    assert!(same, "{name}: {got:?}, not {points:?}");
    assert!(close(roc.eer, eer[0]) && close(roc.eer_threshold, eer[1]), "{name}: {roc:?}, not {eer:?}");
}

fn evaluation<'a>([query, gallery]: &'a Pair, rerank: Option<RerankOptions>, device: &Device) -> Evaluation<'a> {
    Evaluation::new(query, gallery, RankingOptions::default(), rerank, device, &Reporter::silent()).unwrap()
}

#[test]
fn rankings_and_roc_are_those_of_f64() {
    let cases = all_cases();
    for device in devices() {
        for (name, pair) in &cases {
            let [query, gallery] = pair;
            let d = squared(query, gallery);
            let evaluation = evaluation(pair, None, &device);
            let details = Details { roc: true, camera_pairs: true };
            let outcome = evaluation.run(details, &Reporter::silent()).unwrap();
            check_report(name, &outcome.plain, query, gallery, &d);
            check_roc(name, outcome.roc.as_ref().unwrap(), query, gallery, &d);
            for q in [0, 5] {
                let nearest = evaluation.nearest(q, gallery.len()).unwrap();
                let items: Vec<usize> = nearest.iter().map(|(g, _)| *g).collect();
                assert_eq!(items, order(&d[q], kept(query, gallery, q)), "{name}, query {q}");
                for (g, got) in nearest {
                    assert_eq!(got, d[q][g].sqrt() as f32, "{name}, query {q}, item {g}");
                }
            }
            for of_pair in outcome.camera_pairs.unwrap() {
                let of_query = |q: usize| {
                    let items: Vec<usize> = kept(query, gallery, q);
                    let items = items.into_iter().filter(|g| gallery.camids[*g] == of_pair.gallery_camera).collect();
                    figures(&order(&d[q], items), &d[q], |g| gallery.pids[g] == query.pids[q]).map(|f| f[0])
                };
                let queries = (0..query.len()).filter(|q| query.camids[*q] == of_pair.query_camera);
                let aps: Vec<f64> = queries.filter_map(of_query).collect();
                let want = aps.iter().sum::<f64>() / aps.len() as f64;
                assert!((of_pair.map - want).abs() < 1e-12, "{name}: {of_pair:?}, not {want}");
            }
        }
    }
}

/// Final distances of queries to the gallery with whole matrices in f64, step by step as the published codes go.
fn reranked([query, gallery]: &Pair, options: &RerankOptions) -> Vec<Vec<f64>> {
    let rows = |set: &FeatureSet| set.features.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
    let (dim, queries, n) = (query.dim, query.len(), query.len() + gallery.len());
    let mut all = [rows(query), rows(gallery)].concat();
    let mut zero = vec![false; n];
    if options.variant == RerankVariant::Ptl {
        for (row, zero) in all.chunks_mut(dim).zip(&mut zero) {
            // The largest first: squares of f32's largest numbers do not overflow here, those of the smallest do not vanish.
            let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            *zero = norm == 0.0;
            row.iter_mut().for_each(|x| *x /= norm);
        }
    }
    let given = |i: usize, j: usize| {
        let (a, b) = (&all[i * dim..][..dim], &all[j * dim..][..dim]);
        let square = a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum::<f64>();
        match options.variant {
            RerankVariant::Torchreid => square * square,
            _ if zero[i] || zero[j] => 2.0,
            _ => square,
        }
    };
    let mut d = vec![vec![0.0; n]; n];
    for i in 0..n {
        (0..n).filter(|&j| j != i).for_each(|j| d[i][j] = given(i, j));
        let max = d[i].iter().copied().fold(0.0, f64::max);
        d[i].iter_mut().for_each(|x| *x = if max > 0.0 { *x / max } else { 0.0 });
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
            if 3 * candidate.intersection(&first).count() > 2 * candidate.len() {
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
    let last = |q: usize, g: usize| {
        let m: f64 = v[q].iter().zip(&v[g]).map(|(a, b)| a.min(*b)).sum();
        (1.0 - lambda) * (1.0 - m / (2.0 - m)) + lambda * d[q][g]
    };
    (0..queries).map(|q| (queries..n).map(|g| last(q, g)).collect()).collect()
}

#[test]
fn rerankings_are_those_of_f64() {
    for device in devices() {
        // A third of the cases, and all that are special.
        for (name, pair) in all_cases().iter().enumerate().filter(|(i, _)| i % 3 == 1 || *i > 150).map(|(_, case)| case)
        {
            let [query, gallery] = pair;
            for variant in [RerankVariant::Ptl, RerankVariant::Zhong, RerankVariant::Torchreid] {
                let options = RerankOptions { variant, k1: 7, k2: 3, lambda: 0.3 };
                let name = format!("{name}, {options}, {device:?}");
                let want = reranked(pair, &options);
                let evaluation = evaluation(pair, Some(options), &device);
                let outcome = evaluation.run(Details::default(), &Reporter::silent()).unwrap();
                let (_, report) = outcome.reranked.unwrap();
                for (q, want) in want.iter().enumerate() {
                    let nearest = evaluation.nearest(q, gallery.len()).unwrap();
                    for (g, got) in &nearest {
                        assert!((f64::from(*got) - want[*g]).abs() < 1e-7, "{name}: {q} {g}: {got}, not {}", want[*g]);
                    }
                    // Sums of many terms may be added in another order: only what is farther apart than that is in order.
                    let items: Vec<usize> = nearest.iter().map(|(g, _)| *g).collect();
                    assert_eq!(items.len(), kept(query, gallery, q).len());
                    let wrong = items.windows(2).find(|pair| want[pair[0]] > want[pair[1]] + 1e-13);
                    assert_eq!(wrong, None, "{name}, query {q}");
                    let by_place: Vec<f64> = (0..gallery.len())
                        .map(|g| items.iter().position(|item| *item == g).unwrap_or(0) as f64)
                        .collect();
                    let figures = figures(&items, &by_place, |g| gallery.pids[g] == query.pids[q]);
                    let got = report.per_query[q].map(|r| [r.ap_trapezoid, r.inp, r.first_match_rank as f64]);
                    assert_eq!(got.is_some(), figures.is_some());
                    for (got, want) in got.iter().flatten().zip(figures.iter().flat_map(|f| &f[1..])) {
                        assert!((got - want).abs() < 1e-12, "{name}, query {q}: {got}, not {want}");
                    }
                }
            }
        }
    }
}
