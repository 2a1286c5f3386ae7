//! Curves over the steps of a training, from the metrics of the runs.

use std::collections::{BTreeMap, BTreeSet};

use super::{Arm, charts, folded, paragraph};
use crate::Result;
use crate::app::cli::plot::{self, Captions, Series};
use crate::base::text::plural;
use crate::run_dir::RunDir;
use crate::train::curves;

/// Kinds of lines in the metrics with the figures that are drawn of each; none stands for all.
const KINDS: [(&str, &str, &[&str]); 3] = [
    ("epoch", "training, mean of an epoch", &[]),
    ("evaluation", "evaluation", &[]),
    ("step", "training, single steps", &["lr", "grad_norm"]),
];
/// Titles of figures.
const TITLES: [(&str, &str); 8] = [
    ("accuracy", "Training accuracy"),
    ("cross_entropy", "Cross-entropy"),
    ("grad_norm", "Norm of the gradient"),
    ("images_per_second", "Images per second"),
    ("loss", "Training loss"),
    ("lr", "Learning rate"),
    ("rank1", "Rank-1"),
    ("triplet", "Triplet loss"),
];
/// Figures about latent states, with their titles.
const OF_STATES: [(&str, &str); 3] = [
    ("rms", "Size of the state (root mean square)"),
    ("similarity", "Similarity of slots (cosine)"),
    ("drift", "Drift in the last step of an epoch"),
];
/// Largest number of cells in a chart.
const CELLS: usize = 12;

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
            let series: Vec<Series> = arms
                .iter()
                .zip(&of_arms)
                .filter_map(|(arm, figures)| {
                    Some(Series { name: arm.name.clone(), points: figures.get(name)?.clone() })
                })
                .collect();
            if series.iter().any(|series| series.points.len() > 1) {
                let title = TITLES.iter().find(|(key, _)| key == name).map_or(name.as_str(), |(_, title)| title);
                svgs.push(plot::curves(Captions { title, x: "step", y }, &series));
            }
        }
    }
    let several = arms.iter().any(|arm| arm.runs.len() > 1);
    let note = if several { paragraph("Each curve is the mean over the seeds of an arm.") } else { String::new() };
    Ok(if svgs.is_empty() { String::new() } else { note + &charts(&svgs) })
}

/// Returns the mean over runs of each figure, at the steps that all of them have.
fn mean(runs: &[RunDir], kind: &str) -> Result<BTreeMap<String, Points>> {
    let of_runs = runs.iter().map(|run| curves::all(run, kind)).collect::<Result<Vec<_>>>()?;
    let of_figure = |name: &String| {
        // Steps are whole numbers.
        let mut sums: BTreeMap<u64, (f64, usize)> = BTreeMap::new();
        for &(step, value) in of_runs.iter().filter_map(|run| run.get(name)).flatten() {
            let (sum, count) = sums.entry(step as u64).or_default();
            (*sum, *count) = (*sum + value, *count + 1);
        }
        let whole = sums.into_iter().filter(|(_, (_, count))| *count >= runs.len());
        whole.map(|(step, (sum, count))| (step as f64, sum / count as f64)).collect()
    };
    let names: BTreeSet<&String> = of_runs.iter().flat_map(BTreeMap::keys).collect();
    Ok(names.into_iter().map(|name| (name.clone(), of_figure(name))).collect())
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
        let all: Vec<&String> = names.iter().collect();
        let shown: Vec<&String> = (0..count).map(|i| all[i * all.len() / count]).collect();
        let chart = |(key, title): (&str, &str)| {
            let series = shown.iter().map(|name| {
                let point =
                    |line: &serde_json::Value| Some((line["step"].as_f64()?, line[name.as_str()][key].as_f64()?));
                Series {
                    name: name.trim_end_matches(".latent_state").into(),
                    points: lines.iter().filter_map(point).collect(),
                }
            });
            plot::curves(Captions { title, x: "step", y: "end of an epoch" }, &series.collect::<Vec<_>>())
        };
        let mut part = charts(&OF_STATES.map(chart));
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
