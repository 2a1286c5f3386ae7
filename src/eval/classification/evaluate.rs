//! A classifier on a data set: its predictions, counted; and the files that say more.

use std::path::Path;

use super::ClassificationReport;
use crate::Result;
use crate::base::csv_out::Cells;
use crate::data::Sample;
use crate::eval::{ITEMS_FILE, Model, Output};

/// Predicts and counts `samples`, whose labels are numbers of `classes`.
///
/// # Errors
/// As [`Model::run`] and [`ClassificationReport::new`].
pub fn evaluate(mut model: Model<'_>, samples: &[Sample], classes: &[String]) -> Result<ClassificationReport> {
    let (probabilities, _) = model.run(samples.into(), Output::Probabilities)?;
    let labels: Vec<u32> = samples.iter().map(|sample| sample.label).collect();
    ClassificationReport::new(&probabilities, &labels, classes)
}

/// Writes into `folder` what became of each of `samples` (named from `root` on), each class and each pair of classes, and the
/// pictures of it.
///
/// # Errors
/// A file cannot be written.
pub fn write_files(
    folder: &Path,
    report: &ClassificationReport,
    samples: &[Sample],
    root: &Path,
    cells: Cells,
) -> Result<()> {
    report.write_items_csv(&folder.join(ITEMS_FILE), cells, samples.iter().map(|sample| sample.image.below(root)))?;
    report.write_per_class_csv(&folder.join("per-class.csv"), cells)?;
    report.write_confusion_csv(&folder.join("confusion.csv"), cells)?;
    report.draw_confusion(&folder.join("confusion.svg"))?;
    report.draw_reliability(&folder.join("calibration.svg"))
}
