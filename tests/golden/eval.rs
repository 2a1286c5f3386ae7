//! Ranking metrics, from features where the file has them, otherwise from the distances.

use ptl::eval::ranking::{CmcRule, GalleryFilter, Labels, RankingOptions, RankingReport, evaluate, evaluate_distances};

use crate::support::{Checker, GoldenFile, files};

const TOLERANCE: f64 = 1e-6;

fn rank(golden: &GoldenFile, options: &RankingOptions) -> RankingReport {
    let labels = |side: &str| (golden.i64(&format!("{side}_ids")), golden.i64(&format!("{side}_cams")));
    let ((q_pids, q_cams), (g_pids, g_cams)) = (labels("q"), labels("g"));
    let query = Labels { pids: &q_pids, camids: &q_cams };
    let gallery = Labels { pids: &g_pids, camids: &g_cams };
    let report = if golden.has("qf") {
        let dim = golden.shape("qf")[1];
        evaluate(&golden.f32("qf"), query, &golden.f32("gf"), gallery, dim, options)
    } else {
        evaluate_distances(&golden.f32("dist"), query, gallery, options)
    };
    report.unwrap_or_else(|e| panic!("{}: {e}", golden.name))
}

/// The filter and the rule that the name of a stored CMC curve stands for; the curve's length is its `max_rank`.
fn options(name: &str, max_rank: usize) -> RankingOptions {
    let filter = if name.contains("sepcam") { GalleryFilter::SameCamera } else { GalleryFilter::SamePidAndCamera };
    let cmc = if name.starts_with("cmc_nofirst") { CmcRule::EveryMatch } else { CmcRule::FirstMatch };
    RankingOptions { filter, cmc, max_rank }
}

#[test]
fn golden_ranking() {
    for path in files("eval_*.safetensors") {
        let golden = GoldenFile::open(&path);
        let mut checker = Checker::new(&golden.name);
        for name in golden.keys().into_iter().filter(|key| key.starts_with("cmc_")) {
            let want = golden.f64(name);
            checker.close_absolute(name, &rank(&golden, &options(name, want.len())).cmc, &want, TOLERANCE);
        }

        let report = rank(&golden, &RankingOptions::default());
        let per_query = |metric: fn(&ptl::eval::ranking::QueryResult) -> f64| {
            report.per_query.iter().map(|q| q.as_ref().map_or(-1.0, metric)).collect::<Vec<f64>>()
        };
        checker.close_absolute("ap", &per_query(|q| q.ap), &golden.f64("ap"), TOLERANCE);
        checker.close_absolute("inp", &per_query(|q| q.inp), &golden.f64("inp"), TOLERANCE);

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
