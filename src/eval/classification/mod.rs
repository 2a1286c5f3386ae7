//! Metrics of classifiers: accuracies, F1, calibration of the probabilities, and confusion of classes.
//!
//! Of equal probabilities, that of the lower class index ranks first, so a constant prediction predicts class 0.

mod calibration;
mod evaluate;
mod files;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use rayon::prelude::*;
use serde::Serialize;

pub use self::calibration::CalibrationBin;

pub(crate) use self::calibration::{BINS, calibration_bins, calibration_error};
pub use self::evaluate::evaluate;
pub(crate) use self::evaluate::{CONFUSION_FILE, PER_CLASS_FILE, write_files};
pub(crate) use self::files::ITEM_COLUMNS;
use crate::base::report::Table;
use crate::base::text::plural;
use crate::{Error, Result};

/// The k of [`ClassificationReport::top5`].
const TOP: usize = 5;

/// The result of one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassifiedImage {
    /// Class of the image in the data set.
    pub label: u32,
    /// Class of the largest probability.
    pub predicted: u32,
    /// The largest probability.
    pub confidence: f32,
    /// 1-based rank of the label among the classes by probability.
    pub rank: u32,
    /// -ln of the label's probability, or of f32's smallest normal number if that is larger: at most 87.3.
    pub nll: f64,
}

/// Metrics of one class. All shares are in [0, 1].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassResult {
    /// Name of the class.
    pub class: String,
    /// Number of images of the class.
    pub images: usize,
    /// Share of its images that are classified correctly (recall); `None` without images.
    pub accuracy: Option<f64>,
    /// Share of images of this class among those predicted as it; `None` if there are none.
    pub precision: Option<f64>,
    /// Harmonic mean of accuracy and precision: 2 TP / (2 TP + FP + FN); `None` without images.
    pub f1: Option<f64>,
}

/// Metrics over the images of a set. All shares are in [0, 1]. The list of images and the confusion matrix are not serialised; they have
/// files of their own.
#[derive(Clone, Debug, Serialize)]
pub struct ClassificationReport {
    /// Number of images.
    pub images: usize,
    /// Share of images whose label has the largest probability.
    pub top1: f64,
    /// Share of images whose label is among the first min(5, classes).
    pub top5: f64,
    /// Mean accuracy of the classes that have images.
    pub balanced_accuracy: f64,
    /// Mean F1 of the classes that have images.
    pub macro_f1: f64,
    /// Mean negative log-likelihood of the labels, in nats.
    pub nll: f64,
    /// Expected calibration error over `BINS` bins of equal width of the largest probability.
    pub ece: f64,
    /// Metrics of each class, in the order of the labels.
    pub per_class: Vec<ClassResult>,
    /// The bins from which the calibration error is computed.
    pub calibration: Vec<CalibrationBin>,
    /// Result of each image, in the order of the images.
    #[serde(skip)]
    pub per_image: Vec<ClassifiedImage>,
    /// Number of images by (label, predicted class), for pairs that have images.
    #[serde(skip)]
    pub confusions: BTreeMap<(u32, u32), usize>,
}

impl ClassificationReport {
    /// Computes the metrics from `probabilities` `[n, classes]`, `labels` `[n]` and the names of the `classes`. A label is an index of
    /// `classes`.
    ///
    /// # Errors
    /// [`Error::Predictions`]: there is no image, the counts do not match, or a label has no class; [`Error::NotAProbability`] with the
    /// image whose row is not made of probabilities.
    pub fn new(probabilities: &[f32], labels: &[u32], classes: &[String]) -> Result<ClassificationReport> {
        let wrong = |reason: String| Err(Error::Predictions { reason });
        let (n, width) = (labels.len(), classes.len());
        if n == 0 {
            return wrong("there is no image to measure: name a data set with validation images".into());
        }
        if probabilities.len() != n * width || width == 0 {
            return wrong(format!(
                "{} for {} and {} do not belong together: give one for each image and class",
                plural(probabilities.len(), "probability", "probabilities"),
                plural(n, "image", "images"),
                plural(width, "class", "classes")
            ));
        }
        if let Some(image) = labels.iter().position(|&label| label as usize >= width) {
            return wrong(format!(
                "image {image} has label {}, and the network knows {}: measure it on the classes that it was trained on",
                labels[image],
                plural(width, "class", "classes")
            ));
        }
        // Rounding may leave a probability a little above 1.
        let broken = |row: &[f32]| !row.iter().all(|p| (0.0..=1.001).contains(p));
        if let Some(image) = probabilities.par_chunks_exact(width).position_first(broken) {
            return Err(Error::NotAProbability { image });
        }
        let rows = probabilities.par_chunks_exact(width).zip(labels);
        let per_image: Vec<ClassifiedImage> = rows.map(|(row, &label)| classified(row, label)).collect();
        Ok(Self::of_images(per_image, classes))
    }

    fn of_images(per_image: Vec<ClassifiedImage>, classes: &[String]) -> ClassificationReport {
        let n = per_image.len();
        let share = |count: usize| count as f64 / n as f64;
        let top = TOP.min(classes.len()) as u32;
        let within = |k: u32| share(per_image.iter().filter(|image| image.rank <= k).count());
        let mut confusions = BTreeMap::new();
        for image in &per_image {
            *confusions.entry((image.label, image.predicted)).or_default() += 1;
        }
        let calibration = calibration_bins(per_image.iter().map(|image| (image.confidence, image.rank == 1)));
        let per_class = class_results(&confusions, classes);
        let mean = |of: fn(&ClassResult) -> Option<f64>| {
            let values: Vec<f64> = per_class.iter().filter_map(of).collect();
            values.iter().sum::<f64>() / values.len() as f64
        };
        ClassificationReport {
            images: n,
            top1: within(1),
            top5: within(top),
            balanced_accuracy: mean(|class| class.accuracy),
            macro_f1: mean(|class| class.f1),
            nll: per_image.iter().map(|image| image.nll).sum::<f64>() / n as f64,
            ece: calibration_error(&calibration),
            per_class,
            calibration,
            per_image,
            confusions,
        }
    }

    fn class(&self, index: u32) -> &str {
        &self.per_class[index as usize].class
    }
}

/// Computes the result of an image from its row of probabilities.
fn classified(row: &[f32], label: u32) -> ClassifiedImage {
    let own = row[label as usize];
    let (mut predicted, mut rank) = (0, 1);
    for (class, &p) in row.iter().enumerate() {
        if p > row[predicted] {
            predicted = class;
        }
        rank += u32::from(p > own || (p == own && class < label as usize));
    }
    ClassifiedImage {
        label,
        predicted: predicted as u32,
        confidence: row[predicted],
        rank,
        nll: -f64::from(own.max(f32::MIN_POSITIVE)).ln(),
    }
}

fn class_results(confusions: &BTreeMap<(u32, u32), usize>, classes: &[String]) -> Vec<ClassResult> {
    // [true positives, images of the class, images predicted as the class]
    let mut counts = vec![[0usize; 3]; classes.len()];
    for (&(label, predicted), &images) in confusions {
        if label == predicted {
            counts[label as usize][0] += images;
        }
        counts[label as usize][1] += images;
        counts[predicted as usize][2] += images;
    }
    let ratio = |part: usize, whole: usize| (whole > 0).then(|| part as f64 / whole as f64);
    let result = |(class, [hits, images, taken]): (&String, [usize; 3])| ClassResult {
        class: class.clone(),
        images,
        accuracy: ratio(hits, images),
        precision: ratio(hits, taken),
        f1: ratio(2 * hits, images + taken).filter(|_| images > 0),
    };
    classes.iter().zip(counts).map(result).collect()
}

/// The metrics as a table in percent, and the numbers of images and classes.
impl fmt::Display for ClassificationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(["metric", "%"]);
        let mut row = |name: &str, share: f64| {
            table.row([name.to_string(), format!("{:.2}", 100.0 * share)]);
        };
        row("top-1 accuracy", self.top1);
        // With five classes or fewer, every label is among the first five.
        if self.per_class.len() > TOP {
            row("top-5 accuracy", self.top5);
        }
        row("balanced accuracy (mean over classes)", self.balanced_accuracy);
        row("macro F1", self.macro_f1);
        row(&format!("expected calibration error ({BINS} bins)"), self.ece);
        let classes = self.per_class.len();
        let empty = self.per_class.iter().filter(|class| class.images == 0).count();
        let empty = if empty == 0 { String::new() } else { format!(", {empty} of them without images") };
        let Self { images, nll, .. } = self;
        let classes = plural(classes, "class", "classes");
        write!(f, "{table}images: {images} of {classes}{empty}; negative log-likelihood {nll:.4}")
    }
}
