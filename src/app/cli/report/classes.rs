//! Classification: confusions, calibration, the worst classes, and the errors that the network is surest of, with heat maps.

use super::heat::overlay;
use super::{Examined, charts, thumbnail, titled};
use crate::Result;
use crate::app::cli::html::{escaped, table};
use crate::app::cli::pictures::{calibration, confusion};
use crate::base::report::Table;
use crate::data::ClassDataset;
use crate::eval::Output;
use crate::eval::classification::{ClassResult, ClassificationReport};

/// Rows of a table of classes or pairs.
const ROWS: usize = 15;
/// A smaller probability has the logarithm of this one.
const SMALLEST: f64 = 1e-12;

/// Returns what the page shows of a classifier.
///
/// # Errors
/// An image cannot be read; the device fails; [`crate::Error::Stopped`].
pub(crate) fn of_classes(
    report: &ClassificationReport,
    dataset: &ClassDataset,
    examined: &mut Examined,
) -> Result<String> {
    let mut html = format!("<pre>{}</pre>\n", escaped(&report.to_string()));
    html += &charts(&[confusion(report), calibration(report)]);
    html += &confused(report);
    html += &worst_classes(report);
    html += &errors(report, dataset, examined)?;
    Ok(html)
}

/// Returns the pairs of classes that are confused most often.
fn confused(report: &ClassificationReport) -> String {
    let mut pairs: Vec<(&(u32, u32), &usize)> =
        report.confusions.iter().filter(|((label, predicted), _)| label != predicted).collect();
    // Stable, so that equal counts keep the order of the classes.
    pairs.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let name = |class: u32| report.per_class[class as usize].class.clone();
    let mut rows = Table::new(["true class", "predicted class", "images", "% of the true class"]);
    for (&(label, predicted), &count) in pairs.into_iter().take(ROWS) {
        let share = 100.0 * count as f64 / report.per_class[label as usize].images.max(1) as f64;
        rows.row([name(label), name(predicted), count.to_string(), format!("{share:.1}")]);
    }
    if rows.rows().is_empty() { String::new() } else { format!("<h3>Most frequent confusions</h3>\n{}", table(&rows)) }
}

/// Returns the classes with the lowest accuracy.
fn worst_classes(report: &ClassificationReport) -> String {
    let measured = report.per_class.iter().filter_map(|class| Some((class, class.accuracy?)));
    let mut measured: Vec<(&ClassResult, f64)> = measured.filter(|(_, accuracy)| *accuracy < 1.0).collect();
    measured.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut rows = Table::new(["class", "images", "accuracy %", "precision %", "F1 %"]);
    for (class, accuracy) in measured.into_iter().take(ROWS) {
        let percent = |share: Option<f64>| share.map_or_else(|| "-".into(), |share| format!("{:.1}", 100.0 * share));
        let figures = [Some(accuracy), class.precision, class.f1].map(percent);
        rows.row([class.class.clone(), class.images.to_string()].into_iter().chain(figures));
    }
    let title = "<h3>Classes with the lowest accuracy</h3>";
    if rows.rows().is_empty() { String::new() } else { format!("{title}\n{}", table(&rows)) }
}

/// Returns the errors with the largest probabilities.
fn errors(report: &ClassificationReport, dataset: &ClassDataset, examined: &mut Examined) -> Result<String> {
    let mut wrong: Vec<usize> =
        (0..report.images).filter(|&i| report.per_image[i].predicted != report.per_image[i].label).collect();
    wrong.sort_by(|&a, &b| report.per_image[b].confidence.total_cmp(&report.per_image[a].confidence));
    let all = wrong.len();
    wrong.truncate(2 * examined.amount.count);
    if wrong.is_empty() {
        return Ok(String::new());
    }
    let upright = examined.model.options.transform.upright;
    let mut html = format!("<h3>The errors with the largest probabilities, of {all}</h3>\n<div class=\"ranked\">");
    let mut maps = "<div class=\"ranked\">".to_string();
    let mut task = examined.amount.heat_maps.then(|| examined.start(wrong.len(), "images"));
    for &i in &wrong {
        let result = &report.per_image[i];
        let [label, predicted] =
            [result.label, result.predicted].map(|class| report.per_class[class as usize].class.as_str());
        let image = &dataset.val[i].image;
        let (picture, name) = (thumbnail(image, upright)?, image.below(&dataset.root));
        let taken = format!("taken for {predicted}, {:.1} %", 100.0 * result.confidence);
        html += &titled("other", &picture, [label, &taken], &name);
        if examined.amount.heat_maps {
            let covered = examined.model.cover(image, Output::Probabilities)?;
            let class = result.predicted as usize;
            let map = covered.heat_map(|probabilities| f64::from(probabilities[class]).max(SMALLEST).ln());
            let falls = format!("falls to {:.1} %", 100.0 * (map.score - map.largest_fall).exp());
            maps += &titled("other", &overlay(&picture, &map), [predicted, &falls], &name);
            task.iter_mut().for_each(|task| task.advance(1, ""));
        }
    }
    task.into_iter().for_each(|task| task.finish(""));
    html += "</div>\n";
    if examined.amount.heat_maps {
        html += &super::folded("heat maps: where the probability falls", &(maps + "</div>\n"));
    }
    Ok(html)
}
