//! Reads `items.csv` of a run: the results of each image or query.

use std::path::Path;

use crate::base::csv_out::plain_cell;
use crate::base::input;
use crate::base::text::Shown;
use crate::eval::classification::{ITEM_COLUMNS, calibration_bins, calibration_error};
use crate::eval::ranking::QUERY_COLUMNS;
use crate::nn::TaskKind;
use crate::{Error, Result};

/// A share that is larger than 1 by less than this is 1, rounded.
const SHARE_ROUNDING: f64 = 1e-6;

/// A figure of a run, such as its mAP.
pub(super) struct Figure {
    /// Its name in files.
    pub key: &'static str,
    /// Its title in tables.
    pub title: &'static str,
    /// Whether tables show it in percent.
    pub percent: bool,
}

/// Returns a figure that tables show in percent.
const fn share(key: &'static str, title: &'static str) -> Figure {
    Figure { key, title, percent: true }
}

/// Returns the figures of a task. The first is the main figure, by which arms are compared.
pub(super) fn figures(task: TaskKind) -> &'static [Figure] {
    const CLASSIFICATION: [Figure; 5] = [
        share("top1", "top-1"),
        share("top5", "top-5"),
        share("balanced_accuracy", "balanced"),
        share("ece", "ECE"),
        Figure { key: "nll", title: "NLL", percent: false },
    ];
    const REID: [Figure; 3] = [share("mAP", "mAP"), share("rank1", "Rank-1"), share("mINP", "mINP")];
    match task {
        TaskKind::Classify => &CLASSIFICATION,
        TaskKind::Reid => &REID,
    }
}

/// Returns the title of a figure, and whether tables show it in percent.
pub(crate) fn title_of(key: &str) -> Option<(&'static str, bool)> {
    let mut all = [TaskKind::Reid, TaskKind::Classify].into_iter().flat_map(figures);
    all.find(|figure| figure.key == key).map(|figure| (figure.title, figure.percent))
}

/// The results of a run on each image or query.
pub(super) struct Items {
    /// Task of the run.
    pub task: TaskKind,
    /// Top-1 (0 or 1) or average precision of each item, in the order of images and labels.
    pub main: Vec<f64>,
    /// Figures of the run, in the order of [`figures`].
    pub figures: Vec<f64>,
}

/// A line of the file: the image with its labels, its class, and three or four numbers.
struct Row {
    key: String,
    class: String,
    numbers: Vec<f64>,
}

impl Items {
    /// Reads the file, and returns the items and their keys (images with labels) in the same order.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::ListLine`] for another header or a line that cannot be parsed; [`Error::NotComparable`] if there are no
    /// lines.
    pub(super) fn read(path: &Path) -> Result<(Items, Vec<String>)> {
        let (file, _) = input::open(path)?;
        let mut csv = csv::Reader::from_reader(std::io::BufReader::new(file));
        let header = csv.headers().map_err(|error| broken(path, &error))?;
        let (task, labels, numbers) = match () {
            () if header == ITEM_COLUMNS[..] => (TaskKind::Classify, 1..2, 3..7),
            () if header == QUERY_COLUMNS[..] => (TaskKind::Reid, 1..3, 3..6),
            () => {
                let (a, b) = (ITEM_COLUMNS.join(","), QUERY_COLUMNS.join(","));
                return Err(line_error(path, 1, format!("the header is neither {a} nor {b}")));
            }
        };
        let mut rows = Vec::new();
        for record in csv.records() {
            let record = record.map_err(|error| broken(path, &error))?;
            // Figures are computed in f32, and sums of larger numbers could overflow.
            let number = |text: &str| text.parse().ok().filter(|x: &f64| x.abs() <= f64::from(f32::MAX));
            let numbers: Option<Vec<f64>> = numbers.clone().map(|i| number(&record[i])).collect();
            let line = || record.position().map_or(0, |position| position.line() as usize);
            let numbers =
                numbers.ok_or_else(|| line_error(path, line(), "a figure is not a finite float32 number".into()))?;
            // All but the negative logarithm of a probability, a classifier's last figure, are shares.
            if let Some(odd) = numbers.iter().take(3).find(|share| !(0.0..=1.0 + SHARE_ROUNDING).contains(*share)) {
                return Err(line_error(path, line(), format!("{odd} is not a share between 0 and 1")));
            }
            let label = labels.clone().map(|i| plain_cell(&record[i])).collect::<Vec<_>>().join("\0");
            let key = format!("{}\0{label}", plain_cell(&record[0]));
            rows.push(Row { key, class: plain_cell(&record[1]).into(), numbers });
        }
        if rows.is_empty() {
            let reason = "it has no rows: a protocol that draws galleries has no figures for single queries";
            return Err(Error::NotComparable { reason: format!("{}: {reason}", path.shown()) });
        }
        rows.sort_by(|a, b| a.key.cmp(&b.key));
        let column = |i: usize| rows.iter().map(|row| row.numbers[i]).collect::<Vec<_>>();
        let (main, figures) = match task {
            // confidence, top1, top5, nll
            TaskKind::Classify => (column(1), classification_figures(&rows)),
            // AP, rank1, INP
            TaskKind::Reid => (column(0), (0..3).map(|i| mean(&column(i))).collect()),
        };
        Ok((Items { task, main, figures }, rows.into_iter().map(|row| row.key).collect()))
    }

    /// Returns the number of items.
    pub(super) fn len(&self) -> usize {
        self.main.len()
    }
}

/// Computes the figures of a classifier in the order of [`figures`].
fn classification_figures(rows: &[Row]) -> Vec<f64> {
    let column = |i: usize| rows.iter().map(|row| row.numbers[i]).collect::<Vec<_>>();
    let mut classes = std::collections::BTreeMap::<&str, Vec<f64>>::new();
    rows.iter().for_each(|row| classes.entry(&row.class).or_default().push(row.numbers[1]));
    let balanced: Vec<f64> = classes.values().map(|hits| mean(hits)).collect();
    let bins = calibration_bins(rows.iter().map(|row| (row.numbers[0] as f32, row.numbers[1] == 1.0)));
    vec![mean(&column(1)), mean(&column(2)), mean(&balanced), calibration_error(&bins), mean(&column(3))]
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn line_error(path: &Path, line: usize, reason: String) -> Error {
    Error::ListLine { path: path.into(), line, reason }
}

/// Returns the error for a file that is not CSV, or not UTF-8.
fn broken(path: &Path, error: &csv::Error) -> Error {
    let line = error.position().map_or(1, |position| position.line() as usize);
    line_error(path, line, error.to_string())
}

/// Counts the entries of the sorted list `first` that are missing in the sorted list `other`, and those of `other` that are new.
pub(super) fn differing(first: &[String], other: &[String]) -> [usize; 2] {
    let (mut i, mut j, mut missing, mut added) = (0, 0, 0, 0);
    while let (Some(a), Some(b)) = (first.get(i), other.get(j)) {
        let order = a.cmp(b);
        i += usize::from(order.is_le());
        j += usize::from(order.is_ge());
        missing += usize::from(order.is_lt());
        added += usize::from(order.is_gt());
    }
    [missing + first.len() - i, added + other.len() - j]
}
