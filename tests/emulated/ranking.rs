//! Distances, re-ranking and whole reports on the emulated GPU against the CPU.

use ptl::base::progress::Reporter;
use ptl::engine::device::Device;
use ptl::engine::precision::Precision;
use ptl::eval::calibration::{CalibrationInput, CalibrationRates, calibrate};
use ptl::eval::features_file::{FeatureFile, FeatureOrigin, FeatureSet, FeatureTable};
use ptl::eval::ranking::{RankingOptions, RankingReport};
use ptl::eval::report::{Details, Evaluation, Outcome};
use ptl::eval::rerank::{RerankOptions, RerankVariant};
use ptl::eval::reranked_distances;
use ptl::eval::search::search;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::emulated;

const IDENTITIES: usize = 9;
const VARIANTS: [RerankVariant; 3] = [RerankVariant::Ptl, RerankVariant::Zhong, RerankVariant::Torchreid];

/// Rows of 1 and -1: all of one length, their products are exact, and hundreds of distances are the same.
fn signs(n: usize, dim: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n * dim).map(|_| if rng.random_range(0..2) == 0 { 1.0 } else { -1.0 }).collect()
}

/// Rows of many lengths around the centres of the identities, which all sets share; every fifth is the one before it again.
fn clustered(n: usize, dim: usize, seed: u64) -> Vec<f32> {
    let mut centres = ChaCha8Rng::seed_from_u64(0);
    let centres: Vec<f32> = (0..IDENTITIES * dim).map(|_| centres.random_range(-1.0..1.0)).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut rows: Vec<f32> = Vec::new();
    for i in 0..n {
        if i % 5 == 4 {
            rows.extend_from_within((i - 1) * dim..);
            continue;
        }
        let centre = i % IDENTITIES;
        rows.extend(centres[centre * dim..][..dim].iter().map(|c| c + rng.random_range(-0.6f32..0.6)));
    }
    rows
}

/// Features as images by 3 cameras.
fn set(features: Vec<f32>, dim: usize, first_camera: i64) -> FeatureSet {
    let n = features.len() / dim;
    let pids = (0..n).map(|i| (i % IDENTITIES) as i64).collect();
    let camids = (0..n).map(|i| first_camera + (i / IDENTITIES % 3) as i64).collect();
    FeatureSet { features, dim, pids, camids, paths: Vec::new() }
}

fn evaluation<'a>(
    query: &'a FeatureSet,
    gallery: &'a FeatureSet,
    rerank: Option<RerankOptions>,
    device: &Device,
) -> Evaluation<'a> {
    Evaluation::new(query, gallery, RankingOptions::default(), rerank, device, &Reporter::silent()).unwrap()
}

fn largest_difference(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let differences = got.iter().zip(want).map(|(g, w)| (g - w).abs());
    differences.fold(0.0, |most, d| if d.is_nan() { f32::INFINITY } else { most.max(d) })
}

#[test]
fn the_gallery_is_in_the_same_order_at_the_same_distances() {
    let Some(gpu) = emulated(Precision::F32) else { return };
    for (queries, gallery, dim) in [(1, 1, 1), (1, 3, 70), (5, 64, 16), (131, 77, 9), (7, 301, 33)] {
        // No camera in common: nothing is taken out.
        let sets = [signs(queries, dim, 1), clustered(queries, dim, 1)].map(|features| set(features, dim, 0));
        let galleries = [signs(gallery, dim, 2), clustered(gallery, dim, 2)].map(|features| set(features, dim, 3));
        for (tied, (query, gallery)) in sets.iter().zip(&galleries).enumerate() {
            let [want, got] = [&Device::cpu(), &gpu].map(|device| evaluation(query, gallery, None, device));
            for q in (0..queries).step_by(13) {
                let [want, got] = [&want, &got].map(|of| of.nearest(q, gallery.len()).unwrap());
                if tied == 0 {
                    assert_eq!(got, want, "query {q} of {queries} x {dim}");
                }
                for ((g, d), (want_g, want_d)) in got.iter().zip(&want) {
                    assert_eq!(g, want_g, "query {q} of {queries} x {dim}");
                    assert!((d - want_d).abs() < 1e-5, "query {q} of {queries} x {dim}: {d}, not {want_d}");
                }
            }
        }
    }
}

#[test]
fn equal_features_are_at_distance_0() {
    let Some(gpu) = emulated(Precision::F32) else { return };
    let features = clustered(20, 77, 3);
    let (query, gallery) = (set(features.clone(), 77, 0), set(features, 77, 3));
    let evaluation = evaluation(&query, &gallery, None, &gpu);
    for q in 0..20 {
        let first = evaluation.nearest(q, 1).unwrap()[0];
        assert_eq!(first, (if q % 5 == 4 { q - 1 } else { q }, 0.0));
    }
}

#[test]
fn every_variant_reranks_as_on_the_cpu() {
    let Some(gpu) = emulated(Precision::F32) else { return };
    let dim = 21;
    for (name, [query, gallery]) in [
        ("signs", [signs(29, dim, 4), signs(83, dim, 5)]),
        ("clustered", [clustered(29, dim, 4), clustered(83, dim, 5)]),
    ] {
        for variant in VARIANTS {
            for (k1, k2, lambda) in [(9, 5, 0.3), (7, 1, 0.5), (1, 4, 0.0)] {
                let options = RerankOptions { variant, k1, k2, lambda };
                let [want, got] = [&Device::cpu(), &gpu]
                    .map(|device| reranked_distances(&query, &gallery, dim, options, device).unwrap());
                let difference = largest_difference(&got, &want);
                assert!(difference < 1e-5, "{name}, {options}: {difference:e}");
            }
        }
    }
}

#[test]
fn blocks_of_queries_and_single_ones_rerank_as_on_the_cpu() {
    let Some(gpu) = emulated(Precision::F32) else { return };
    // More images than a block has rows.
    let (query, gallery) = (set(clustered(40, 4, 12), 4, 0), set(clustered(510, 4, 13), 4, 3));
    let options = RerankOptions { k1: 5, k2: 2, ..RerankOptions::new(RerankVariant::Zhong) };
    let whole = reranked_distances(&query.features, &gallery.features, 4, options, &Device::cpu()).unwrap();
    let evaluation = evaluation(&query, &gallery, Some(options), &gpu);
    for q in [0, 1, 39] {
        let mut row = vec![0.0; gallery.len()];
        evaluation.nearest(q, gallery.len()).unwrap().into_iter().for_each(|(g, d)| row[g] = d);
        let difference = largest_difference(&row, &whole[q * gallery.len()..][..gallery.len()]);
        assert!(difference < 1e-5, "query {q}: {difference:e}");
    }
}

#[test]
fn few_images_and_equal_ones_rerank_as_on_the_cpu() {
    let Some(gpu) = emulated(Precision::F32) else { return };
    // More equal images than k1, and rows without direction.
    let mut many = [0.6, 0.8].repeat(30);
    many.extend([0.0, 0.0]);
    let cases: [(Vec<f32>, Vec<f32>, usize); 4] = [
        (signs(1, 5, 6), signs(1, 5, 7), 5),
        (clustered(1, 6, 6), clustered(12, 6, 7), 6),
        (vec![1.0, 0.0], vec![1.0, 0.0, 1.0, 0.0], 2),
        (vec![0.6, 0.8, 0.0, 0.0], many, 2),
    ];
    for (query, gallery, dim) in &cases {
        for variant in VARIANTS {
            for (k1, k2) in [(20, 6), (1000, 1000)] {
                let options = RerankOptions { variant, k1, k2, lambda: 0.3 };
                let [want, got] = [&Device::cpu(), &gpu]
                    .map(|device| reranked_distances(query, gallery, *dim, options, device).unwrap());
                let difference = largest_difference(&got, &want);
                assert!(difference < 1e-5, "{} images, {options}: {difference:e}", gallery.len() / dim + 1);
            }
        }
    }
    assert!(reranked_distances(&[1.0], &[], 1, RerankOptions::new(RerankVariant::Ptl), &gpu).unwrap().is_empty());
}

fn same_figures(got: &RankingReport, want: &RankingReport) {
    let figures = |report: &RankingReport| {
        let means = [report.map, report.map_trapezoid, report.minp];
        let queries = report.per_query.iter().flatten().flat_map(|q| [q.ap, q.inp, q.first_match_rank as f64]);
        means.into_iter().chain(report.cmc.iter().copied()).chain(queries).collect::<Vec<f64>>()
    };
    let (found, wanted) = (figures(got), figures(want));
    assert_eq!((found.len(), got.valid_queries), (wanted.len(), want.valid_queries));
    for (i, (got, want)) in found.iter().zip(&wanted).enumerate() {
        assert!((got - want).abs() < 1e-5, "figure {i}: {got}, not {want}");
    }
}

#[test]
fn a_whole_report_is_the_cpus_whatever_the_precision() {
    let (Some(gpu), Some(short)) = (emulated(Precision::F32), emulated(Precision::Bf16)) else { return };
    let (query, gallery) = (set(clustered(41, 19, 8), 19, 0), set(clustered(173, 19, 9), 19, 0));
    let options = RerankOptions { k1: 8, k2: 3, ..RerankOptions::new(RerankVariant::Zhong) };
    let details = Details { roc: true, camera_pairs: true };
    let outcome = |device: &Device| -> Outcome {
        evaluation(&query, &gallery, Some(options), device).run(details, &Reporter::silent()).unwrap()
    };
    let (want, got, of_short) = (outcome(&Device::cpu()), outcome(&gpu), outcome(&short));
    same_figures(&got.plain, &want.plain);
    let [(_, got_reranked), (_, want_reranked)] = [&got, &want].map(|of| of.reranked.as_ref().unwrap());
    same_figures(got_reranked, want_reranked);
    assert!(want_reranked.map > want.plain.map && want_reranked.map < 1.0);
    let [got_roc, want_roc] = [&got, &want].map(|of| of.roc.as_ref().unwrap());
    assert!((got_roc.eer - want_roc.eer).abs() < 1e-5 && got_roc.points.len() == want_roc.points.len());
    assert_eq!(got.camera_pairs, want.camera_pairs);
    assert_eq!((&of_short.plain, &of_short.reranked.as_ref().unwrap().1), (&got.plain, got_reranked));
}

#[test]
fn sets_that_outgrow_the_kernels_are_reranked_by_the_cpu_which_says_so() {
    let Some(gpu) = emulated(Precision::F32) else { return };
    let (query, gallery) = (set(clustered(11, 8, 10), 8, 0), set(clustered(140, 8, 11), 8, 0));
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log.txt");
    for (k1, k2, by_cpu) in [(60, 6, true), (20, 40, true), (20, 6, false)] {
        let options = RerankOptions { k1, k2, ..RerankOptions::new(RerankVariant::Ptl) };
        let reporter = Reporter::silent().with_log(&log).unwrap();
        let (ranking, plain) = (RankingOptions::default(), Details::default());
        let outcome = |device: &Device| {
            Evaluation::new(&query, &gallery, ranking, Some(options), device, &reporter).unwrap().run(plain, &reporter)
        };
        let (got, want) = (outcome(&gpu).unwrap(), outcome(&Device::cpu()).unwrap());
        same_figures(&got.reranked.unwrap().1, &want.reranked.unwrap().1);
        let text = std::fs::read_to_string(&log).unwrap();
        let said = text.contains(&format!("ranking on the CPU: k1 {k1} and k2 {k2} are too large"));
        assert_eq!(said, by_cpu, "{text}");
    }
}

#[test]
fn searches_and_thresholds_are_those_of_the_cpu() {
    let Some(device) = emulated(Precision::F32) else { return };
    let dim = 24;
    let (query, gallery) = (set(clustered(40, dim, 1), dim, 0), set(clustered(150, dim, 2), dim, 1));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("g.safetensors");
    let paths: Vec<_> = (0..gallery.len()).map(|i| format!("{i}.jpg").into()).collect();
    FeatureTable { features: &gallery.features, dim, paths: &paths, labels: None, origin: None, names: None }
        .write(&path)
        .unwrap();
    let found = |device: &Device| {
        let mut file = FeatureFile::open(&path, None).unwrap();
        search((&query.features, dim), &mut file, 7, device, &Reporter::silent()).unwrap()
    };
    assert_eq!(found(&device), found(&Device::cpu()));

    let origin = FeatureOrigin { weights: "0".into(), settings: Default::default() };
    let input = CalibrationInput { query: &query, gallery: &gallery, origin: &origin, name: "drawn" };
    let rates = CalibrationRates { fmr: vec![0.1, 0.01, 0.002], fpir: vec![0.2] };
    let thresholds =
        |device: &Device| calibrate(input, RankingOptions::default(), &rates, device, &Reporter::silent()).unwrap();
    let [gpu, cpu] = [thresholds(&device), thresholds(&Device::cpu())];
    assert_eq!((&gpu.verification, &gpu.identification), (&cpu.verification, &cpu.identification));
    assert_eq!(cpu.verification.len(), 3);
}
