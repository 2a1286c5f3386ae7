//! Compares ranking metrics, from features where the file has them, otherwise from distances.

use ptl::engine::device::Device;
use ptl::eval::ranking::{
    GalleryFilter, Labels, QueryResult, RankingOptions, RankingReport, evaluate, evaluate_distances,
};
use ptl::eval::rerank::{RerankOptions, RerankVariant};
use ptl::eval::reranked_distances;

use crate::support::{Checker, GoldenFile, files};

const TOLERANCE: f64 = 1e-6;

/// Ranks by `distances` if given, else by the features of the file, else by its distances.
fn rank(golden: &GoldenFile, distances: Option<&[f32]>, options: &RankingOptions) -> RankingReport {
    let labels = |side: &str| (golden.i64(&format!("{side}_ids")), golden.i64(&format!("{side}_cams")));
    let ((q_pids, q_cams), (g_pids, g_cams)) = (labels("q"), labels("g"));
    let query = Labels { pids: &q_pids, camids: &q_cams };
    let gallery = Labels { pids: &g_pids, camids: &g_cams };
    let report = match distances {
        Some(distances) => evaluate_distances(distances, query, gallery, options),
        None if golden.has("qf") => {
            let dim = golden.shape("qf")[1];
            evaluate(&golden.f32("qf"), query, &golden.f32("gf"), gallery, dim, options, &Device::cpu())
        }
        None => evaluate_distances(&golden.f32("dist"), query, gallery, options),
    };
    report.unwrap_or_else(|e| panic!("{}: {e}", golden.name))
}

/// Returns a metric of each query, -1 for a skipped one.
fn per_query(report: &RankingReport, metric: fn(&QueryResult) -> f64) -> Vec<f64> {
    report.per_query.iter().map(|q| q.as_ref().map_or(-1.0, metric)).collect()
}

/// Returns the options for a stored CMC curve, whose name tells the filter; its length is `max_rank`.
fn options(name: &str, max_rank: usize) -> RankingOptions {
    let filter = if name.contains("sepcam") { GalleryFilter::SameCamera } else { GalleryFilter::SamePidAndCamera };
    RankingOptions { filter, max_rank, ..RankingOptions::default() }
}

#[test]
fn golden_ranking() {
    for path in files("eval_*.safetensors") {
        let golden = GoldenFile::open(&path);
        let mut checker = Checker::new(&golden.name);
        // Curves that count every match (`cmc_nofirst`) are not among the metrics.
        let curve = |key: &&str| key.starts_with("cmc_") && !key.starts_with("cmc_nofirst");
        for name in golden.keys().into_iter().filter(curve) {
            let want = golden.f64(name);
            checker.close_absolute(name, &rank(&golden, None, &options(name, want.len())).cmc, &want, TOLERANCE);
        }

        let report = rank(&golden, None, &RankingOptions::default());
        checker.close_absolute("ap", &per_query(&report, |q| q.ap), &golden.f64("ap"), TOLERANCE);
        checker.close_absolute("inp", &per_query(&report, |q| q.inp), &golden.f64("inp"), TOLERANCE);

        let stored = golden.json.get("euclid").unwrap_or(&golden.json);
        let mut figure = |key: &str, got: f64| {
            let want = stored[key].as_f64().unwrap_or_else(|| panic!("{}: no {key}", golden.name));
            checker.close_absolute(key, &[got], &[want], TOLERANCE);
        };
        figure("num_valid", report.valid_queries as f64);
        figure("mAP", report.map);
        figure("mINP", report.minp);
        figure("mAP_trapezoid_market", report.map_trapezoid);
        for k in [1, 3, 5, 10] {
            figure(&format!("rank{k}"), report.rank(k).expect("a curve of 100 ranks"));
        }
    }
}

/// Tolerance of distances in f32 against f64. Two items at nearly equal distances may swap, which moves the last match of a query.
const DISTANCE_TOLERANCE: f64 = 1e-5;
const INP_TOLERANCE: f64 = 5e-4;

#[test]
fn golden_reranking() {
    let mut cases = 0;
    for path in files("eval_*.safetensors") {
        let golden = GoldenFile::open(&path);
        let names = golden.keys().into_iter().filter_map(|key| key.strip_suffix(".dist"));
        for name in names.filter(|name| name.starts_with("rr_")) {
            // The name is `rr_K1_K2_LAMBDA`.
            let [k1, k2, lambda] = name.split('_').skip(1).collect::<Vec<_>>()[..] else { panic!("{name}") };
            let options = RerankOptions {
                variant: RerankVariant::Ptl,
                k1: k1.parse().unwrap(),
                k2: k2.parse().unwrap(),
                lambda: lambda.parse().unwrap(),
            };
            let dim = golden.shape("qf")[1];
            let mut checker = Checker::new(format!("{} {name}", golden.name));
            let (query, gallery) = (golden.f32("qf"), golden.f32("gf"));
            let distances = reranked_distances(&query, &gallery, dim, options, &Device::cpu()).unwrap();
            checker.close_absolute("dist", &distances, &golden.f32(&format!("{name}.dist")), DISTANCE_TOLERANCE);
            let report = rank(&golden, Some(&distances), &RankingOptions::default());
            checker.close_absolute("cmc", &report.cmc, &golden.f64(&format!("{name}.cmc_first")), TOLERANCE);
            let want = |metric: &str| golden.f64(&format!("{name}.{metric}"));
            checker.close_absolute("ap", &per_query(&report, |q| q.ap), &want("ap"), TOLERANCE);
            checker.close_absolute("inp", &per_query(&report, |q| q.inp), &want("inp"), INP_TOLERANCE);
            let stored = &golden.json[name];
            for (key, got, tolerance) in [
                ("mAP", report.map, TOLERANCE),
                ("mINP", report.minp, INP_TOLERANCE),
                ("rank1", report.cmc[0], TOLERANCE),
            ] {
                checker.close_absolute(key, &[got], &[stored[key].as_f64().unwrap()], tolerance);
            }
            cases += 1;
        }
    }
    assert!(cases >= 2, "{cases} cases of re-ranking");
}
