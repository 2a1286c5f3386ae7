//! Open-set identification: a search must find the identity of a query that is in the gallery, and say "unknown" for one that is not.

use serde::{Deserialize, Serialize};

use super::Hit;
use crate::base::report::Table;
use crate::eval::interval::{Proportion, of_groups};

/// False positive identification rates to report.
pub const FPIR_LEVELS: [f64; 3] = [1e-1, 1e-2, 1e-3];

/// Figures at one threshold. Intervals are of 95 %, over the identities of the queries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenSetPoint {
    /// The wanted FPIR; `None` for a threshold that was given.
    pub wanted_fpir: Option<f64>,
    /// Largest distance at which an image of the gallery is an answer.
    pub threshold: f64,
    /// False positive identification rate (FPIR, also called FAR): share of unknown queries with an answer.
    pub fpir: Proportion,
    /// True positive identification rate at rank 1 (TPIR, also called DIR): share of known queries whose nearest image is of their identity, and
    /// is an answer.
    pub tpir: Proportion,
}

/// Figures of open-set identification.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenSet {
    /// Queries whose identity is in the gallery.
    pub known: usize,
    /// Queries whose identity is not in the gallery.
    pub unknown: usize,
    /// One point for each rate that the number of unknown queries can show, and one for each given threshold.
    pub points: Vec<OpenSetPoint>,
}

/// The answer to one query.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// Identity of the query.
    pub pid: i64,
    /// Whether that identity is in the gallery.
    pub known: bool,
    /// Distance of the nearest image, and whether it is of the query's identity; `None` in an empty gallery.
    pub nearest: Option<(f64, bool)>,
}

impl Answer {
    /// Describes the answer `hits` to a query of identity `pid`, in a gallery of the identities `gallery`.
    pub fn new(pid: i64, known: bool, hits: &[Hit], gallery: &[i64]) -> Answer {
        let nearest = hits.first().map(|hit| (hit.distance, gallery[hit.row] == pid));
        Answer { pid, known, nearest }
    }
}

/// Measures answers at the thresholds that reach each of `wanted` false positive identification rates, and at those of `given`. Returns `None`
/// unless there are known and unknown queries. A rate below 1 / unknown queries is left out.
pub fn open_set(answers: &[Answer], wanted: &[f64], given: &[f64]) -> Option<OpenSet> {
    let unknown = answers.iter().filter(|answer| !answer.known).count();
    let known = answers.len() - unknown;
    if known == 0 || unknown == 0 {
        return None;
    }
    let mut impostors: Vec<f64> =
        answers.iter().filter(|answer| !answer.known).filter_map(|answer| Some(answer.nearest?.0)).collect();
    impostors.sort_by(f64::total_cmp);
    let reached = wanted.iter().filter_map(|&rate| Some((Some(rate), threshold(&impostors, unknown, rate)?)));
    let points = reached.chain(given.iter().map(|threshold| (None, *threshold))).map(|(wanted, threshold)| {
        let is_answer = |answer: &Answer| answer.nearest.filter(|(distance, _)| *distance <= threshold);
        let of = |known: bool| answers.iter().filter(move |answer| answer.known == known);
        let fpir = of_groups(of(false).map(|answer| (answer.pid, is_answer(answer).is_some())));
        let tpir = of_groups(of(true).map(|answer| (answer.pid, is_answer(answer).is_some_and(|(_, own)| own))));
        OpenSetPoint { wanted_fpir: wanted, threshold, fpir, tpir }
    });
    Some(OpenSet { known, unknown, points: points.collect() })
}

/// Returns the largest of the sorted `distances` at which at most the share `rate` of `all` is accepted; `None` if the first is too many.
fn threshold(distances: &[f64], all: usize, rate: f64) -> Option<f64> {
    let allowed = (rate * all as f64 + 1e-9).floor() as usize;
    // Those at the same distance are accepted together.
    let end = distances.len().min(allowed);
    let next = distances.get(allowed);
    distances[..end].iter().rev().copied().find(|distance| next.is_none_or(|next| distance < next))
}

impl OpenSet {
    /// Returns a table of the points, in percent.
    pub fn table(&self) -> String {
        let mut table = Table::new(["open set", "threshold", "FPIR %", "95 %", "TPIR (rank 1) %", "95 %"]);
        self.add_rows(&mut table);
        format!("{table}queries: {} of identities in the gallery, {} of others", self.known, self.unknown)
    }

    /// Adds a row of six cells for each point.
    pub(in crate::eval) fn add_rows(&self, table: &mut Table) {
        for OpenSetPoint { wanted_fpir, threshold, fpir, tpir } in &self.points {
            table.row([
                wanted_fpir.map_or_else(|| "given threshold".to_string(), |rate| format!("FPIR {rate}")),
                format!("{threshold:.4}"),
                fpir.percent(),
                fpir.percent_interval(),
                tpir.percent(),
                tpir.percent_interval(),
            ]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_by_hand() {
        let answer = |pid, known, distance, own| Answer { pid, known, nearest: Some((distance, own)) };
        let mut answers = vec![
            answer(1, true, 0.1, true),
            answer(2, true, 0.2, false),
            answer(3, true, 0.4, true),
            answer(4, true, 0.9, true),
        ];
        // Ten unknown queries at 0.3, 0.5, 0.5, 0.7, ...
        let distances = [0.3, 0.5, 0.5, 0.7, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8];
        answers.extend(distances.iter().enumerate().map(|(i, d)| answer(10 + i as i64, false, *d, false)));
        let figures = open_set(&answers, &[0.1, 0.2, 0.3, 0.01], &[0.45]).unwrap();
        assert_eq!((figures.known, figures.unknown), (4, 10));
        let rows: Vec<_> =
            figures.points.iter().map(|p| (p.wanted_fpir, p.threshold, p.fpir.share, p.tpir.share)).collect();
        assert_eq!(
            rows,
            [
                (Some(0.1), 0.3, 0.1, 0.25),
                // Two at 0.5 would be three tenths.
                (Some(0.2), 0.3, 0.1, 0.25),
                (Some(0.3), 0.5, 0.3, 0.5),
                (None, 0.45, 0.1, 0.5),
            ]
        );
        assert!(open_set(&answers[..4], &[0.1], &[]).is_none());
        assert!(figures.table().contains("4 of identities in the gallery, 10 of others"));
    }
}
