//! Curves over the steps of a training, from the metrics of the runs.

use std::collections::{BTreeMap, BTreeSet};

use super::{Arm, charts, folded, paragraph};
use crate::Result;
use crate::app::cli::plot::{self, Captions, Series};
use crate::base::text::plural;
use crate::run_dir::RunDir;
use crate::study::runs::title_of;
use crate::train::curves;

/// Kinds of lines in the metrics with the figures that are drawn of each; none stands for all.
const KINDS: [(&str, &str, &[&str]); 3] = [
    ("epoch", "training, mean of an epoch", &[]),
    ("evaluation", "evaluation", &[]),
    ("step", "training, single steps", &["lr", "grad_norm"]),
];
/// Titles of figures of a training.
const TITLES: [(&str, &str); 9] = [
    ("accuracy", "Training accuracy"),
    ("center", "Centre loss"),
    ("cross_entropy", "Cross-entropy"),
    ("grad_norm", "Norm of the gradient"),
    ("images_per_second", "Images per second"),
    ("loss", "Training loss"),
    ("lr", "Learning rate"),
    ("macro_f1", "Macro F1"),
    ("triplet", "Triplet loss"),
];
/// Figures about latent states, with their titles.
const OF_STATES: [(&str, &str); 3] = [
    ("rms", "Size of the state (root mean square)"),
    ("similarity", "Similarity of slots (cosine)"),
    ("drift", "Drift in the last step of an epoch"),
];
/// Largest number of cells in a chart, which has so many colours.
const CELLS: usize = 6;

/// Points (step, value) of a figure.
type Points = Vec<(f64, f64)>;

/// Returns a chart for each figure that the metrics have at two or more steps, with a curve for each arm.
///
/// # Errors
/// The metrics cannot be read.
pub(crate) fn training(arms: &[Arm]) -> Result<String> {
    let mut svgs = Vec::new();
    for (kind, y, chosen) in KINDS {
        let of_arms = arms.iter().map(|arm| mean(&arm.runs, kind)).collect::<Result<Vec<_>>>()?;
        let names: BTreeSet<&String> = of_arms.iter().flat_map(BTreeMap::keys).collect();
        for name in names.into_iter().filter(|name| chosen.is_empty() || chosen.contains(&name.as_str())) {
            let (title, percent) = title_of(name).unwrap_or_else(|| {
                (TITLES.iter().find(|(key, _)| key == name).map_or(name.as_str(), |(_, title)| title), false)
            });
            let scaled =
                |points: &Points| points.iter().map(|&(x, y)| (x, if percent { 100.0 * y } else { y })).collect();
            let of_figure = arms.iter().zip(&of_arms).filter_map(|(arm, figures)| Some((arm, figures.get(name)?)));
            let series: Vec<Series> = of_figure
                .filter(|(_, points)| !points.is_empty())
                .map(|(arm, points)| Series { name: arm.name.clone(), points: scaled(points) })
                .collect();
            if series.iter().any(|series| series.points.len() > 1) {
                let y = if percent { format!("{y} (%)") } else { y.into() };
                svgs.push(plot::curves(Captions { title, x: "step", y: &y }, &series));
            }
        }
    }
    let several = arms.iter().any(|arm| arm.runs.len() > 1);
    let note = "Each curve is the mean over the runs of an arm, at the steps that all of them have.";
    let note = if several { paragraph(note) } else { String::new() };
    Ok(if svgs.is_empty() { String::new() } else { note + &charts(&svgs) })
}

/// Returns the mean over runs of each figure, at the steps that all of them have.
fn mean(runs: &[RunDir], kind: &str) -> Result<BTreeMap<String, Points>> {
    let of_runs = runs.iter().map(|run| curves::all(run, kind)).collect::<Result<Vec<_>>>()?;
    let names: BTreeSet<&String> = of_runs.iter().flat_map(BTreeMap::keys).collect();
    let of_figure =
        |name: &String| mean_of(&of_runs.iter().map(|run| run.get(name).map_or(&[][..], |p| p)).collect::<Vec<_>>());
    Ok(names.into_iter().map(|name| (name.clone(), of_figure(name))).collect())
}

/// Returns the mean of curves, at the steps that all of them have. If a curve has a step twice, its later value counts.
fn mean_of(curves: &[&[(f64, f64)]]) -> Points {
    // Steps are whole numbers.
    let by_step = |points: &&[(f64, f64)]| points.iter().map(|&(x, y)| (x as u64, y)).collect::<BTreeMap<_, _>>();
    let curves: Vec<BTreeMap<u64, f64>> = curves.iter().map(by_step).collect();
    let at = |step: &u64| curves.iter().map(|curve| curve.get(step)).sum::<Option<f64>>();
    let first = curves.first().into_iter().flat_map(BTreeMap::keys);
    first.filter_map(|step| Some((*step as f64, at(step)? / curves.len() as f64))).collect()
}

/// Returns charts of the latent states of each arm's first run, with a curve for each cell.
///
/// # Errors
/// The metrics cannot be read.
pub(crate) fn states(arms: &[Arm]) -> Result<String> {
    let mut parts = Vec::new();
    for arm in arms {
        let lines = curves::states(&arm.runs[0])?;
        let names: BTreeSet<String> = lines
            .iter()
            .flat_map(|line| line.as_object().into_iter().flatten())
            .filter(|(_, value)| value.is_object())
            .map(|(name, _)| name.clone())
            .collect();
        if names.is_empty() {
            continue;
        }
        let count = names.len().min(CELLS);
        // In the order of the network: cell 2 before cell 10.
        let mut all: Vec<&String> = names.iter().collect();
        all.sort_by_key(|name| (name.len(), *name));
        let shown: Vec<&String> = (0..count).map(|i| all[i * all.len() / count]).collect();
        let chart = |(key, title): (&str, &str)| -> Option<String> {
            let series = shown.iter().map(|name| {
                let point =
                    |line: &serde_json::Value| Some((line["step"].as_f64()?, line[name.as_str()][key].as_f64()?));
                Series {
                    name: name.trim_end_matches(".latent_state").into(),
                    points: lines.iter().filter_map(point).collect(),
                }
            });
            let series: Vec<Series> = series.filter(|series: &Series| !series.points.is_empty()).collect();
            let captions = Captions { title, x: "step", y: "end of an epoch" };
            (!series.is_empty()).then(|| plot::curves(captions, &series))
        };
        let mut part = charts(&OF_STATES.into_iter().filter_map(chart).collect::<Vec<_>>());
        if shown.len() < all.len() {
            part = paragraph(&format!("{} of {} are shown.", shown.len(), plural(all.len(), "cell", "cells"))) + &part;
        }
        parts.push((arm, part));
    }
    Ok(match &parts[..] {
        [(_, part)] if arms.len() == 1 => part.clone(),
        [(arm, part)] => paragraph(&format!("First run of {}.", arm.name)) + part,
        _ => parts.iter().map(|(arm, part)| folded(&format!("first run of {}", arm.name), part)).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::mean_of;

    #[test]
    fn a_mean_has_the_steps_of_all_runs() {
        let (a, b) = ([(1.0, 2.0), (2.0, 4.0), (3.0, 9.0)], [(2.0, 100.0), (2.0, 6.0), (3.0, 1.0), (4.0, 7.0)]);
        assert_eq!(mean_of(&[&a, &b]), [(2.0, 5.0), (3.0, 5.0)]);
        assert_eq!(mean_of(&[&a]), a);
        assert!(mean_of(&[&a, &[]]).is_empty() && mean_of(&[]).is_empty());
    }
}
