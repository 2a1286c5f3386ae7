//! Writes the report as CSV files.

use std::fmt::Display;
use std::path::Path;

use super::{ClassificationReport, TOP};
use crate::Result;
use crate::base::csv_out::{Cells, write_csv};

/// Columns of [`ClassificationReport::write_items_csv`].
pub(crate) const ITEM_COLUMNS: [&str; 7] = ["image", "label", "predicted", "confidence", "top1", "top5", "nll"];

impl ClassificationReport {
    /// Writes the confusion matrix: numbers of images, with a row for each true class and a column for each predicted one. The header
    /// starts with `true\predicted`.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub fn write_confusion_csv(&self, path: &Path, cells: Cells) -> Result<()> {
        write_csv(path, cells, |csv| {
            let classes = self.per_class.iter().map(|class| class.class.as_str());
            csv.row(std::iter::once("true\\predicted").chain(classes))?;
            (0..self.per_class.len() as u32).try_for_each(|label| {
                let mut row = vec![0; self.per_class.len()];
                for (&(_, predicted), &images) in self.confusions.range((label, 0)..=(label, u32::MAX)) {
                    row[predicted as usize] = images;
                }
                csv.row(std::iter::once(self.class(label).to_owned()).chain(row.iter().map(ToString::to_string)))
            })
        })
    }

    /// Writes the columns `class,images,accuracy,precision,f1` with a row for each class; an undefined share is an empty field.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub fn write_per_class_csv(&self, path: &Path, cells: Cells) -> Result<()> {
        let share = |share: Option<f64>| share.map_or_else(String::new, |share| share.to_string());
        write_csv(path, cells, |csv| {
            csv.row(["class", "images", "accuracy", "precision", "f1"])?;
            self.per_class.iter().try_for_each(|c| {
                csv.row([&c.class, &c.images.to_string(), &share(c.accuracy), &share(c.precision), &share(c.f1)])
            })
        })
    }

    /// Writes the columns `image,label,predicted,confidence,top1,top5,nll` with a row for each image. Label and predicted class are names;
    /// top1 and top5 are 0 or 1. `names` are those of the images, in their order.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    ///
    /// # Panics
    /// There are not as many names as images.
    pub fn write_items_csv<N: Display>(
        &self,
        path: &Path,
        cells: Cells,
        names: impl IntoIterator<Item = N, IntoIter: ExactSizeIterator>,
    ) -> Result<()> {
        let names = names.into_iter();
        assert_eq!(names.len(), self.per_image.len(), "one name for each image");
        let flag = |yes: bool| if yes { "1" } else { "0" };
        write_csv(path, cells, |csv| {
            csv.row(ITEM_COLUMNS)?;
            for (name, image) in names.zip(&self.per_image) {
                csv.row([
                    &name.to_string(),
                    self.class(image.label),
                    self.class(image.predicted),
                    &image.confidence.to_string(),
                    flag(image.rank == 1),
                    flag(image.rank as usize <= TOP),
                    &format!("{:.9}", image.nll),
                ])?;
            }
            Ok(())
        })
    }
}
