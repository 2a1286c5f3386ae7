//! Draws runs, comparisons and classification reports as SVG files.

use std::path::Path;

use super::plot::{self, Arm, Captions, HeatMap, ReliabilityBin, Series};
use crate::Result;
use crate::base::atomic::atomic_write;
use crate::base::report::MeanStd;
use crate::eval::classification::{BINS, CalibrationBin, ClassificationReport};
use crate::run_dir::{CALIBRATION_PICTURE, CONFUSION_PICTURE, RunDir};
use crate::study::Study;
use crate::study::compare::{ARMS, Results};
use crate::train::curves;

/// Name of the picture of losses in the folder of a run or a comparison.
const CURVES_FILE: &str = "curves.svg";
/// Largest number of rows and columns in the picture of a confusion matrix.
const MAX_CELLS: usize = 200;

/// Draws the losses of a training, epoch by epoch, as `curves.svg` in its folder.
///
/// # Errors
/// The metrics cannot be read or the picture cannot be written.
pub(crate) fn draw_training(run: &RunDir) -> Result<()> {
    let points = curves::per_epoch(run, ["loss", "cross_entropy", "triplet", "center"])?;
    let named = ["loss", "identity", "triplet", "center"].into_iter().zip(points);
    let series: Vec<Series> = named.map(|(name, points)| Series { name: name.into(), points }).collect();
    let captions = Captions { title: "Training loss", x: "step", y: "mean of an epoch" };
    save(&run.file(CURVES_FILE), &plot::curves(captions, &series))
}

/// Draws the losses of the first seed as `curves.svg`, and the figures of the arms with their spread over the seeds as `scores.svg`.
///
/// # Errors
/// The metrics cannot be read or a picture cannot be written.
pub(crate) fn draw_comparison(study: &Study, results: &Results) -> Result<()> {
    let mut series = Vec::new();
    for (name, title) in [("pretrain", "pre-training"), ("plain", "plain"), ("ptl", "PTL")] {
        let run = RunDir::view(&study.folder(study.seeds[0], name))?;
        let [points] = curves::per_epoch(&run, ["loss"])?;
        series.push(Series { name: title.into(), points });
    }
    let captions = Captions { title: "Training loss", x: "step", y: "loss" };
    save(&study.run.file(CURVES_FILE), &plot::curves(captions, &series))?;
    let arms: Vec<Arm> = (ARMS.iter().enumerate())
        .map(|(arm, (_, title))| {
            let figures = results.iter().map(|scores| [scores[arm].map, scores[arm].minp, scores[arm].rank1]);
            let figures: Vec<[f64; 3]> = figures.collect();
            let over_seeds = |i: usize| MeanStd::of(&figures.iter().map(|figures| figures[i]).collect::<Vec<_>>());
            Arm { name: (*title).into(), values: (0..3).filter_map(over_seeds).collect() }
        })
        .collect();
    let captions = Captions { title: "Target domain", x: "", y: "%" };
    save(&study.run.file("scores.svg"), &plot::bars(captions, &["mAP", "mINP", "Rank-1"], &arms))
}

/// Draws `confusion.svg` and `calibration.svg` in `folder`.
///
/// # Errors
/// A picture cannot be written.
pub(crate) fn draw_classification(report: &ClassificationReport, folder: &Path) -> Result<()> {
    save(&folder.join(CONFUSION_PICTURE), &confusion(report))?;
    save(&folder.join(CALIBRATION_PICTURE), &calibration(report))
}

/// Writes an SVG to a file.
fn save(path: &Path, svg: &str) -> Result<()> {
    atomic_write(path, |file| file.write_all(svg.as_bytes()))
}

/// Draws the confusion matrix: the colour of a cell is its share of the images of its true class. With up to 20 classes, cells have
/// counts and names. With more than 200, neighbouring classes share a cell, which keeps the file small; the picture then says so.
pub(super) fn confusion(report: &ClassificationReport) -> String {
    let classes = report.per_class.len();
    let together = classes.div_ceil(MAX_CELLS);
    let cells = classes.div_ceil(together);
    let mut counts = vec![0; cells * cells];
    for (&(label, predicted), &images) in &report.confusions {
        counts[label as usize / together * cells + predicted as usize / together] += images;
    }
    let note = match together {
        1 => String::new(),
        _ => {
            format!(
                "{classes} classes, {together} neighbouring ones in each cell: the diagonal includes confusions of these"
            )
        }
    };
    let names: Vec<&str> = report.per_class.iter().map(|class| class.class.as_str()).collect();
    let title = "Confusion matrix: shares of each true class";
    let names = if together == 1 { &names[..] } else { &[] };
    let map = HeatMap { title, note: &note, x: "predicted class", y: "true class", names, step: together };
    plot::heat_map(&map, &counts)
}

/// Draws the reliability diagram: for each bin of the largest probability, its accuracy, the gap to perfect calibration, and its share
/// of the images.
pub(super) fn calibration(report: &ClassificationReport) -> String {
    let title = format!("Reliability: expected calibration error {:.2} % ({BINS} bins)", 100.0 * report.ece);
    let bin = |bin: &CalibrationBin| ReliabilityBin {
        share: bin.images as f64 / report.images as f64,
        accuracy: bin.accuracy,
        confidence: bin.confidence,
    };
    plot::reliability(&title, &report.calibration.iter().map(bin).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn classes_are_named_and_escaped() {
        let folder = tempfile::tempdir().unwrap();
        let svg = |name| fs::read_to_string(folder.path().join(name)).unwrap();
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let probabilities = [0.7, 0.2, 0.1, 0.3, 0.6, 0.1, 0.1, 0.8, 0.1, 0.2, 0.3, 0.5];
        let report = ClassificationReport::new(&probabilities, &[0, 0, 1, 1], &names(&["a", "b<1>", "c"])).unwrap();
        draw_classification(&report, folder.path()).unwrap();
        let confusion = svg("confusion.svg");
        assert!(confusion.contains("b&lt;1&gt;") && !confusion.contains("b<1>"), "{confusion}");
        assert!(svg("calibration.svg").contains("expected calibration error 40.00 % (15 bins)"));
    }

    #[test]
    fn many_classes_share_cells() {
        // 401 classes: three neighbouring ones share a cell.
        let classes: Vec<String> = (0..401).map(|i| format!("class{i}")).collect();
        let labels: Vec<u32> = (0..401).collect();
        let p: Vec<f32> = (0..401 * 401).map(|i| if i % 401 == i / 401 { 1.0 } else { 0.0 }).collect();
        let confusion = confusion(&ClassificationReport::new(&p, &labels, &classes).unwrap());
        assert!(confusion.contains("401 classes, 3 neighbouring ones in each cell") && !confusion.contains("class40"));
    }
}
