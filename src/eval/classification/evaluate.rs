//! Measures a classifier on a data set, and writes the details to CSV files.

use std::path::Path;

use super::ClassificationReport;
use crate::Result;
use crate::base::csv_out::Cells;
use crate::data::Sample;
use crate::eval::{ITEMS_FILE, Model, Output};

/// File of the figures of each class.
pub(crate) const PER_CLASS_FILE: &str = "per-class.csv";
/// File of the confusions.
pub(crate) const CONFUSION_FILE: &str = "confusion.csv";

/// Evaluates `samples`, whose labels are indices of `classes`.
///
/// # Errors
/// As [`Model::run`] and [`ClassificationReport::new`].
pub fn evaluate(model: &mut Model<'_>, samples: &[Sample], classes: &[String]) -> Result<ClassificationReport> {
    let (probabilities, _) = model.run(samples.into(), Output::Probabilities)?;
    let labels: Vec<u32> = samples.iter().map(|sample| sample.label).collect();
    ClassificationReport::new(&probabilities, &labels, classes)
}

/// Writes the predictions for `samples` (whose names are relative to `root`), the figures of each class, and the confusion matrix to
/// `folder`, as CSV files.
///
/// # Errors
/// A file cannot be written.
pub(crate) fn write_files(
    folder: &Path,
    report: &ClassificationReport,
    samples: &[Sample],
    root: &Path,
    cells: Cells,
) -> Result<()> {
    report.write_items_csv(&folder.join(ITEMS_FILE), cells, samples.iter().map(|sample| sample.image.below(root)))?;
    report.write_per_class_csv(&folder.join(PER_CLASS_FILE), cells)?;
    report.write_confusion_csv(&folder.join(CONFUSION_FILE), cells)
}
