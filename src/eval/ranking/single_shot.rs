//! Single gallery shot, the first protocol of CUHK03 (Li et al., CVPR 2014): the gallery of a query is one random image of each
//! identity by another camera than the query's.

use std::collections::BTreeMap;

use rand::RngExt;

use super::{Labels, RankingOptions};
use crate::base::rng::{Purpose, stream};
use crate::eval::products::Row;

/// Number of random galleries for each query.
pub(crate) const REPEATS: usize = 10;

/// How many identities are ranked before the query's own, in each random gallery; `None` in one that has the query itself.
pub(super) type Draws = [Option<u32>; REPEATS];

/// Returns whether gallery item `other` is ranked before `own`. `exact` keeps the exact distance of `own`, once it was needed.
pub(super) fn comes_before(
    row: Row,
    other: usize,
    own: usize,
    exact: &mut Option<f64>,
    pessimistic_ties: bool,
) -> bool {
    if row.upper(other) < row.lower(own) || row.lower(other) > row.upper(own) {
        return row.lower(other) < row.lower(own);
    }
    let (other_distance, own_distance) = (row.exact(other), *exact.get_or_insert_with(|| row.exact(own)));
    let first_of_ties = pessimistic_ties || other < own;
    other_distance < own_distance || (other_distance == own_distance && first_of_ties)
}

/// Ranks query number `query`. Its random galleries depend on the seed, the repeat and the query alone. Returns `None` if no other
/// camera has an image of its identity.
pub(super) fn rank(
    row: Row,
    query: usize,
    pid: i64,
    camid: i64,
    gallery: Labels,
    options: &RankingOptions,
) -> Option<Draws> {
    let mut images: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    for g in (0..row.len()).filter(|&g| gallery.camids[g] != camid) {
        images.entry(gallery.pids[g]).or_default().push(g);
    }
    images.get(&pid)?;
    Some(std::array::from_fn(|repeat| {
        let mut rng = stream(options.seed, Purpose::SingleShot, repeat as u64, query as u64);
        let drawn: Vec<(i64, usize)> =
            images.iter().map(|(&pid, images)| (pid, images[rng.random_range(0..images.len())])).collect();
        let own = drawn.iter().find(|(drawn, _)| *drawn == pid).map(|(_, g)| *g).expect("the query has images");
        let mut exact = None;
        let mut before = |g: usize| comes_before(row, g, own, &mut exact, options.pessimistic_ties);
        Some(drawn.iter().filter(|(other, g)| *other != pid && before(*g)).count() as u32)
    }))
}

#[cfg(test)]
mod tests {
    use super::super::{GivenDistances, RankingReport, evaluate_distances};
    use super::*;
    use crate::Error;
    use crate::data::Protocol;

    fn options(seed: u64) -> RankingOptions {
        RankingOptions { protocol: Protocol::SingleGalleryShot, max_rank: 3, seed, ..RankingOptions::default() }
    }

    fn report(distances: &[f32], pids: &[i64], camids: &[i64], seed: u64) -> crate::Result<RankingReport> {
        evaluate_distances(distances, Labels { pids: &[1], camids: &[1] }, Labels { pids, camids }, &options(seed))
    }

    #[test]
    fn the_share_of_draws_follows_the_images() {
        // Own identity: near or far, half of the draws each; another identity between; the query's camera does not
        // count.
        let shares: Vec<f64> = (0..200)
            .map(|seed| report(&[0.0, 0.1, 0.9, 0.5, 0.05], &[1, 1, 1, 2, 3], &[1, 2, 2, 2, 1], seed).unwrap())
            .map(|report| {
                assert_eq!((report.cmc[1], report.valid_queries), (1.0, 1));
                report.cmc[0]
            })
            .collect();
        let mean = shares.iter().sum::<f64>() / 200.0;
        assert!((mean - 0.5).abs() < 0.05, "{mean}");
        assert!(shares.iter().any(|share| *share != shares[0]), "seeds draw differently");
    }

    #[test]
    fn there_is_no_map_and_the_report_shows_none() {
        let report = report(&[0.1, 0.5], &[1, 2], &[2, 2], 0).unwrap();
        assert!(report.map.is_nan() && report.minp.is_nan() && report.cmc == [1.0, 1.0, 1.0]);
        let (table, json) = (report.to_string(), serde_json::to_string(&report).unwrap());
        assert!(table.contains("Rank-1") && table.contains("no mAP"), "{table}");
        assert!(!table.contains("mINP") && !table.contains("step formula") && !table.contains("NaN"), "{table}");
        assert!(!json.contains("mAP") && !json.contains("mINP") && json.contains("cmc"), "{json}");
    }

    #[test]
    fn ties_go_by_index_or_against_the_query() {
        let rank = |pids: &[i64], pessimistic_ties| {
            let options = RankingOptions { pessimistic_ties, ..options(0) };
            let distances = GivenDistances::new(&[0.5, 0.5], 2);
            rank(distances.rows()[0], 0, 1, 1, Labels { pids, camids: &[2, 2] }, &options).unwrap()[0].unwrap()
        };
        assert_eq!((rank(&[1, 2], false), rank(&[2, 1], false)), (0, 1));
        assert_eq!((rank(&[1, 2], true), rank(&[2, 1], true)), (1, 1));
    }

    #[test]
    fn an_identity_that_no_other_camera_saw_is_skipped() {
        let error = report(&[0.1, 0.2], &[1, 2], &[1, 2], 0).unwrap_err();
        assert!(matches!(error, Error::NoValidQuery { queries: 1 }));
    }
}
