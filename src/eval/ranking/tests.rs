use rand::RngExt;

use super::*;
use crate::base::rng::{Purpose, stream};

const MARKET: RankingOptions = RankingOptions {
    filter: GalleryFilter::SamePidAndCamera,
    max_rank: 5,
    pessimistic_ties: false,
    protocol: Protocol::CrossCamera,
    seed: 0,
};

fn one_query(distances: &[f32], pids: &[i64], camids: &[i64], options: &RankingOptions) -> Result<RankingReport> {
    evaluate_distances(distances, Labels { pids: &[1], camids: &[1] }, Labels { pids, camids }, options)
}

#[test]
fn metrics_by_hand() {
    // Ranks 2 and 4 of 5 match; the nearest item of the whole gallery is by the query's own camera and is removed.
    let report = one_query(&[0.0, 0.1, 0.2, 0.3, 0.4, 0.5], &[1, 2, 1, 3, 1, 4], &[1, 2, 2, 2, 3, 1], &MARKET).unwrap();
    let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-12, "{got} instead of {want}");
    close(report.map, (1.0 / 2.0 + 2.0 / 4.0) / 2.0);
    close(report.map_trapezoid, ((1.0 / 2.0 + 0.0 / 1.0) / 2.0 + (2.0 / 4.0 + 1.0 / 3.0) / 2.0) / 2.0);
    close(report.minp, 2.0 / 4.0);
    assert_eq!(report.cmc, [0.0, 1.0, 1.0, 1.0, 1.0]);
    assert_eq!((report.rank(0), report.rank(1), report.rank(5), report.rank(6)), (None, Some(0.0), Some(1.0), None));
    assert_eq!(report.per_query[0].unwrap().first_match_rank, 2);
}

#[test]
fn ties_enter_together_for_ap_and_by_index_for_ranks() {
    let first = one_query(&[0.5; 4], &[1, 2, 2, 2], &[2; 4], &MARKET).unwrap();
    let last = one_query(&[0.5; 4], &[2, 2, 2, 1], &[2; 4], &MARKET).unwrap();
    assert_eq!((first.map, last.map), (0.25, 0.25));
    assert_eq!((first.minp, last.minp), (1.0, 0.25));
    assert_eq!((first.rank(1), last.rank(1)), (Some(1.0), Some(0.0)));
    // Pessimistic ties make the order of the gallery irrelevant: the match is the last of the four.
    let options = RankingOptions { pessimistic_ties: true, ..MARKET };
    for pids in [[1, 2, 2, 2], [2, 2, 2, 1], [2, 1, 2, 2]] {
        let report = one_query(&[0.5; 4], &pids, &[2; 4], &options).unwrap();
        assert_eq!((report.map, report.minp, &report.cmc[..]), (0.25, 0.25, &[0.0, 0.0, 0.0, 1.0, 1.0][..]));
    }
}

#[test]
fn filters_differ_in_what_they_remove() {
    let rank1 = |filter| {
        let options = RankingOptions { filter, ..MARKET };
        // same identity and camera, then same camera only, then another camera, then the match
        one_query(&[0.1, 0.2, 0.3, 0.4], &[1, 2, 3, 1], &[1, 1, 2, 2], &options).unwrap().per_query[0].unwrap()
    };
    assert_eq!(rank1(GalleryFilter::SamePidAndCamera).first_match_rank, 3);
    assert_eq!(rank1(GalleryFilter::SameCamera).first_match_rank, 2);
    let all = rank1(GalleryFilter::Nothing);
    assert_eq!((all.first_match_rank, all.matches), (1, 2));
}

/// Computes the metrics by their definition, sorting all items.
fn by_sorting(distances: &[f32], pid: i64, camid: i64, gallery: Labels) -> Option<(f64, f64)> {
    let mut order: Vec<usize> =
        (0..distances.len()).filter(|&g| gallery.pids[g] != pid || gallery.camids[g] != camid).collect();
    order.sort_by(|&a, &b| distances[a].total_cmp(&distances[b]));
    let hit: Vec<bool> = order.iter().map(|&g| gallery.pids[g] == pid).collect();
    let n = hit.iter().filter(|&&hit| hit).count();
    let last_rank = 1 + hit.iter().rposition(|&hit| hit)?;
    let (mut ap, mut hits, mut entered) = (0.0, 0, 0);
    for (i, &g) in order.iter().enumerate() {
        hits += usize::from(hit[i]);
        if i + 1 == order.len() || distances[order[i + 1]] > distances[g] {
            ap += (hits - entered) as f64 / n as f64 * hits as f64 / (i + 1) as f64;
            entered = hits;
        }
    }
    Some((ap, n as f64 / last_rank as f64))
}

#[test]
fn counting_agrees_with_sorting() {
    let mut rng = stream(3, Purpose::Test, 0, 0);
    let (n_query, n_gallery) = (40, 60);
    let mut labels = |n: usize, ids: i64| (0..n).map(|_| rng.random_range(0..ids)).collect::<Vec<i64>>();
    let (q_pids, q_cams) = (labels(n_query, 14), labels(n_query, 3));
    let (g_pids, g_cams) = (labels(n_gallery, 12), labels(n_gallery, 3));
    // Few distinct values: many ties.
    let distances: Vec<f32> = labels(n_query * n_gallery, 12).into_iter().map(|d| d as f32 / 4.0).collect();
    let gallery = Labels { pids: &g_pids, camids: &g_cams };
    let report = evaluate_distances(&distances, Labels { pids: &q_pids, camids: &q_cams }, gallery, &MARKET).unwrap();
    assert!(report.skipped_queries > 0 && report.valid_queries > 20);
    for (q, got) in report.per_query.iter().enumerate() {
        let want = by_sorting(&distances[q * n_gallery..][..n_gallery], q_pids[q], q_cams[q], gallery);
        assert_eq!(got.map(|r| r.inp), want.map(|w| w.1), "query {q}");
        let difference = got.map_or(0.0, |r| r.ap) - want.map_or(0.0, |w| w.0);
        assert!(difference.abs() < 1e-12, "query {q}");
    }
}

#[test]
fn blocks_and_threads_do_not_matter() {
    // More queries than a block holds.
    let (n_query, n_gallery, dim) = (600, 50, 9);
    let mut rng = stream(4, Purpose::Test, 0, 0);
    let mut features = |n: usize| (0..n * dim).map(|_| rng.random_range(-1.0f32..1.0)).collect::<Vec<_>>();
    let (query, gallery) = (features(n_query), features(n_gallery));
    let label = |n: usize, ids: usize| (0..n).map(|i| (i * 7 % ids) as i64).collect::<Vec<_>>();
    let (q_pids, q_cams, g_pids, g_cams) =
        (label(n_query, 10), label(n_query, 3), label(n_gallery, 10), label(n_gallery, 4));
    let (q, g) = (Labels { pids: &q_pids, camids: &q_cams }, Labels { pids: &g_pids, camids: &g_cams });
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| evaluate(&query, q, &gallery, g, dim, &MARKET, &Device::cpu()).unwrap())
    };
    let report = with(1);
    assert_eq!(report, with(5));
    // The last query by itself, in a block of its own.
    let alone = Labels { pids: &q_pids[n_query - 1..], camids: &q_cams[n_query - 1..] };
    let alone = evaluate(&query[(n_query - 1) * dim..], alone, &gallery, g, dim, &MARKET, &Device::cpu()).unwrap();
    assert_eq!(alone.per_query[0], report.per_query[n_query - 1]);
}

#[test]
fn bad_input_is_named() {
    let labels = Labels { pids: &[1, 2], camids: &[1, 2] };
    let good = [1.0, 0.0, 0.0, 1.0];
    let error = |query: &[f32], q: Labels, gallery: &[f32], g: Labels| {
        evaluate(query, q, gallery, g, 2, &MARKET, &Device::cpu()).unwrap_err().to_string()
    };
    assert!(error(&[1.0, 0.0, f32::NAN, 1.0], labels, &good, labels).contains("row 1 of the query features"));
    assert!(error(&good, labels, &[f32::INFINITY, 0.0, 0.0, 1.0], labels).contains("row 0 of the gallery features"));
    assert!(error(&good[..2], labels, &good, labels).starts_with("query: 2 feature values in rows of 2, 2 identities"));
    let short = Labels { pids: &[1, 2], camids: &[1] };
    assert!(
        error(&good, labels, &good, short).starts_with("gallery: 4 feature values in rows of 2, 2 identities and 1")
    );
    // The same images on both sides: every match has the query's own camera.
    assert!(error(&good, labels, &good, labels).starts_with("none of the queries (2 in all) has a match"));
    let none = Labels { pids: &[], camids: &[] };
    assert!(error(&good, labels, &[], none).starts_with("none of the queries (2 in all)"));
    assert!(error(&[], none, &good, labels).starts_with("none of the queries (0 in all)"));
    let nan = one_query(&[f32::NAN, 0.5], &[1, 2], &[2, 2], &MARKET).unwrap_err();
    assert!(matches!(nan, crate::Error::NotFiniteFeature { set: "query", row: 0 }));
}

#[test]
fn report_reads_well() {
    let report = one_query(&[0.1, 0.2], &[2, 1], &[2, 2], &MARKET).unwrap();
    let want = "\
metric                                        %
---------------------------------------  ------
mAP (step formula, ties enter together)   50.00
mAP (trapezoid formula of Market-1501)    25.00
mINP                                      50.00
Rank-1                                     0.00
Rank-3                                   100.00
Rank-5                                   100.00
queries: 1 ranked, 0 skipped without a match";
    assert_eq!(report.to_string(), want);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!((json["mAP"].as_f64(), json["per_query"][0]["matches"].as_u64()), (Some(0.5), Some(1)));
}
