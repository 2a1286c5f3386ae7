//! The report as pictures: which classes are confused, and how well probabilities are calibrated.

use std::path::Path;

use super::{BINS, ClassificationReport};
use crate::Result;
use crate::base::plot::{self, HeatMap, ReliabilityBin};

/// Rows and columns of a picture of confusions: with more classes, neighbours are drawn as one.
const MOST_CELLS: usize = 200;

impl ClassificationReport {
    /// Writes the confusion matrix to `path` (SVG): the colour of a cell is its share of the images of its true class. With
    /// up to 20 classes it has counts and names; with more than 200, classes that follow each other are drawn as one, which
    /// keeps the file small, and the picture says so.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub fn draw_confusion(&self, path: &Path) -> Result<()> {
        let classes = self.per_class.len();
        let together = classes.div_ceil(MOST_CELLS);
        let cells = classes.div_ceil(together);
        let mut counts = vec![0; cells * cells];
        for (&(label, predicted), &images) in &self.confusions {
            counts[label as usize / together * cells + predicted as usize / together] += images;
        }
        let note = match together {
            1 => String::new(),
            _ => format!(
                "{classes} classes, {together} neighbours to a cell: on the diagonal lie confusions among them too"
            ),
        };
        let names: Vec<&str> = self.per_class.iter().map(|class| class.class.as_str()).collect();
        let title = "Confusion matrix: shares of each true class";
        let names = if together == 1 { &names[..] } else { &[] };
        let map = HeatMap { title, note: &note, x: "predicted class", y: "true class", names, step: together };
        plot::heat_map(path, &map, &counts)
    }

    /// Writes a reliability diagram to `path` (SVG): accuracy by bins of the largest probability with the gap to perfect
    /// calibration, and the share of images in each bin.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub fn draw_reliability(&self, path: &Path) -> Result<()> {
        let title = format!("Reliability: expected calibration error {:.2} % ({BINS} bins)", 100.0 * self.ece);
        let images = self.images as f64;
        let bin = |bin: &super::CalibrationBin| ReliabilityBin {
            share: bin.images as f64 / images,
            accuracy: bin.accuracy,
            confidence: bin.confidence,
        };
        plot::reliability(path, &title, &self.calibration.iter().map(bin).collect::<Vec<_>>())
    }
}
