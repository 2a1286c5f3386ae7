//! The metrics of each query as a CSV file.

use std::path::Path;

use super::RankingReport;
use crate::Result;
use crate::base::csv_out::{Cells, write_csv};
use crate::data::ImageRecord;

/// Columns of [`write_queries_csv`].
pub(crate) const QUERY_COLUMNS: [&str; 6] = ["image", "pid", "camid", "AP", "rank1", "INP"];

/// Writes the columns `image,pid,camid,AP,rank1,INP` with a row for each query that was not skipped; rank1 is 0 or 1. `queries` are
/// those of the report, in its order. Paths of images are relative to `root`. Under
/// [`Protocol::SingleGalleryShot`](crate::data::Protocol), which has no metrics of single queries, the file has the header alone.
///
/// # Errors
/// [`crate::Error::Io`].
///
/// # Panics
/// The report has another number of queries.
pub fn write_queries_csv(
    path: &Path,
    report: &RankingReport,
    queries: &[ImageRecord],
    root: &Path,
    cells: Cells,
) -> Result<()> {
    let results = &report.per_query;
    assert!(results.is_empty() || results.len() == queries.len(), "one record for each query");
    write_csv(path, cells, |csv| {
        csv.row(QUERY_COLUMNS)?;
        for (query, result) in queries.iter().zip(results) {
            let Some(result) = result else { continue };
            let rank1 = u8::from(result.first_match_rank == 1);
            csv.row([
                &query.path.strip_prefix(root).unwrap_or(&query.path).to_string_lossy().into_owned(),
                &query.pid.to_string(),
                &query.camid.to_string(),
                &result.ap.to_string(),
                &rank1.to_string(),
                &result.inp.to_string(),
            ])?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Protocol;
    use crate::eval::ranking::{Labels, RankingOptions, evaluate_distances};

    fn record(path: &str, pid: i64, camid: i64) -> ImageRecord {
        ImageRecord { path: path.into(), pid, camid }
    }

    #[test]
    fn queries_that_do_not_count_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("items.csv");
        // Query 1 has no match from another camera.
        let queries = [record("a, \"b\".jpg", 1, 1), record("c.jpg", 2, 2), record("d.jpg", 3, 1)];
        let labels = |of: fn(&ImageRecord) -> i64| queries.iter().map(of).collect::<Vec<_>>();
        let (pids, camids) = (labels(|r| r.pid), labels(|r| r.camid));
        let gallery = Labels { pids: &[1, 2, 3, 1], camids: &[2, 2, 3, 3] };
        let distances = [0.1, 0.2, 0.3, 0.4, 0.0, 0.0, 0.0, 0.0, 0.1, 0.2, 0.3, 0.4];
        let query = Labels { pids: &pids, camids: &camids };
        let mut report = evaluate_distances(&distances, query, gallery, &RankingOptions::default()).unwrap();
        write_queries_csv(&path, &report, &queries, Path::new(""), Cells::Guarded).unwrap();
        // Query 0: matches at ranks 1 and 4, AP (1 + 1/2) / 2; query 2: its only match at rank 3.
        let want = format!(
            "image,pid,camid,AP,rank1,INP\n\"a, \"\"b\"\".jpg\",1,1,0.75,1,0.5\nd.jpg,3,1,{0},0,{0}\n",
            1.0 / 3.0
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), want);
        (report.protocol, report.per_query) = (Protocol::SingleGalleryShot, Vec::new());
        write_queries_csv(&path, &report, &queries, Path::new(""), Cells::Guarded).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "image,pid,camid,AP,rank1,INP\n");
    }
}
