//! Metrics for each pair of a query camera and a gallery camera: they show which views a network cannot match.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use serde::Serialize;

use super::products::Row;
use super::ranking::{Labels, RankingOptions, rank_query};
use crate::base::report::Table;

/// Queries of one camera against the gallery images of one camera.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CameraPair {
    /// Camera of the queries.
    pub query_camera: i64,
    /// Camera of the gallery images.
    pub gallery_camera: i64,
    /// Queries that have a match in the gallery camera.
    pub queries: usize,
    /// Mean average precision of these queries, in [0, 1].
    #[serde(rename = "mAP")]
    pub map: f64,
    /// Share of these queries whose first gallery image is a match, in [0, 1].
    pub rank1: f64,
}

/// Ranks queries in the order of the distance matrix, against one gallery camera at a time.
pub(super) struct CameraPairs<'a> {
    query: Labels<'a>,
    gallery: Labels<'a>,
    options: &'a RankingOptions,
    /// Gallery indices of the images of each camera.
    items: BTreeMap<i64, Vec<usize>>,
    next: usize,
    /// By (query camera, gallery camera): number of queries, sum of their average precisions, number whose first image is a match.
    sums: BTreeMap<(i64, i64), (usize, f64, usize)>,
}

impl<'a> CameraPairs<'a> {
    pub(super) fn new(query: Labels<'a>, gallery: Labels<'a>, options: &'a RankingOptions) -> CameraPairs<'a> {
        let mut items: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        gallery.camids.iter().enumerate().for_each(|(g, camera)| items.entry(*camera).or_default().push(g));
        CameraPairs { query, gallery, options, items, next: 0, sums: BTreeMap::new() }
    }

    /// Ranks the next queries.
    pub(super) fn add(&mut self, rows: &[Row]) {
        let (query, first) = (self.query, self.next);
        let of_row = |(i, row): (usize, &Row)| {
            let (pid, camid) = (query.pids[first + i], query.camids[first + i]);
            let of_camera = |(camera, items): (&i64, &Vec<usize>)| {
                let result = rank_query(*row, items.iter().copied(), pid, camid, self.gallery, self.options)?;
                Some(((camid, *camera), result))
            };
            self.items.iter().filter_map(of_camera).collect::<Vec<_>>()
        };
        let rows: Vec<_> = rows.par_iter().enumerate().map(of_row).collect();
        self.next += rows.len();
        for (pair, result) in rows.into_iter().flatten() {
            let (queries, ap, first) = self.sums.entry(pair).or_default();
            *queries += 1;
            *ap += result.ap;
            *first += usize::from(result.first_match_rank == 1);
        }
    }

    /// Returns the pairs of cameras that have a query with a match, in the order of their numbers.
    pub(super) fn finish(self) -> Vec<CameraPair> {
        let pair = |((query_camera, gallery_camera), (queries, ap, first)): ((i64, i64), (usize, f64, usize))| {
            let n = queries as f64;
            CameraPair { query_camera, gallery_camera, queries, map: ap / n, rank1: first as f64 / n }
        };
        self.sums.into_iter().map(pair).collect()
    }
}

/// Returns a table with a row for each query camera and a column for each gallery camera: mAP / Rank-1 in percent, and the number of
/// queries.
pub(crate) fn camera_table(pairs: &[CameraPair]) -> Table {
    let cameras: BTreeSet<i64> = pairs.iter().map(|pair| pair.gallery_camera).collect();
    let title = "query \\ gallery: mAP / Rank-1 (queries)".to_owned();
    let mut table = Table::new(std::iter::once(title).chain(cameras.iter().map(|camera| format!("camera {camera}"))));
    for of_camera in pairs.chunk_by(|a, b| a.query_camera == b.query_camera) {
        let cell = |camera: &i64| {
            let pair = of_camera.iter().find(|pair| pair.gallery_camera == *camera);
            pair.map_or("-".into(), |p| format!("{:.1} / {:.1} ({})", 100.0 * p.map, 100.0 * p.rank1, p.queries))
        };
        table.row(std::iter::once(format!("camera {}", of_camera[0].query_camera)).chain(cameras.iter().map(cell)));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::ranking::GivenDistances;

    #[test]
    fn the_gallery_is_one_camera_at_a_time() {
        let query = Labels { pids: &[1, 2], camids: &[1, 2] };
        let gallery = Labels { pids: &[1, 2, 1, 1, 2], camids: &[1, 2, 2, 3, 3] };
        let options = RankingOptions::default();
        let mut pairs = CameraPairs::new(query, gallery, &options);
        // Query 0: in camera 2, another person ranks before its match; in camera 3, the match ranks first. Query 1: in camera 3, the match
        // ranks last.
        let distances = GivenDistances::new(&[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.0, 0.5, 0.1, 0.2], 5);
        distances.rows().chunks(1).for_each(|rows| pairs.add(rows));
        let pairs = pairs.finish();
        let pair = |query_camera, gallery_camera, map, rank1| CameraPair {
            query_camera,
            gallery_camera,
            queries: 1,
            map,
            rank1,
        };
        assert_eq!(pairs, [pair(1, 2, 0.5, 0.0), pair(1, 3, 1.0, 1.0), pair(2, 3, 0.5, 0.0)]);
        let want = "\
query \\ gallery: mAP / Rank-1 (queries)        camera 2           camera 3
---------------------------------------  --------------  -----------------
camera 1                                 50.0 / 0.0 (1)  100.0 / 100.0 (1)
camera 2                                              -     50.0 / 0.0 (1)
";
        assert_eq!(camera_table(&pairs).to_string(), want);
    }
}
