//! Reads the curves of a run back from its metrics.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::Result;
use crate::base::input;
use crate::run_dir::{self, RunDir};

/// Returns the points (step, value) of each of `figures`, such as "loss", at the end of each epoch.
///
/// # Errors
/// The metrics cannot be read.
pub fn per_epoch<const N: usize>(run: &RunDir, figures: [&str; N]) -> Result<[Vec<(f64, f64)>; N]> {
    let epochs: Vec<Value> = lines(run)?.into_iter().filter(|line| line["type"] == "epoch").collect();
    Ok(figures.map(|figure| {
        epochs.iter().filter_map(|epoch| Some((epoch["step"].as_f64()?, epoch[figure].as_f64()?))).collect()
    }))
}

/// The type of the lines about latent states.
pub(super) const STATES: &str = "states";

/// Returns the lines about latent states, one for each epoch: a [`StateStatistics`](crate::engine::latent_state::StateStatistics) by the name of each
/// cell.
///
/// # Errors
/// The metrics cannot be read.
pub fn states(run: &RunDir) -> Result<Vec<Value>> {
    Ok(lines(run)?.into_iter().filter(|line| line["type"] == STATES).collect())
}

/// Returns the figures that the metrics have of `kind` ("epoch", "evaluation" or "step"), each with its points (step, value), in the order of their
/// names.
///
/// # Errors
/// The metrics cannot be read.
pub fn all(run: &RunDir, kind: &str) -> Result<BTreeMap<String, Vec<(f64, f64)>>> {
    let mut curves: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for line in lines(run)?.iter().filter(|line| line["type"] == kind) {
        let (Some(step), Some(fields)) = (line["step"].as_f64(), line.as_object()) else { continue };
        let figures = fields.iter().filter(|(name, _)| !["step", "epoch"].contains(&name.as_str()));
        for (name, value) in figures.filter_map(|(name, value)| Some((name, value.as_f64()?))) {
            curves.entry(name.clone()).or_default().push((step, value));
        }
    }
    Ok(curves)
}

/// Returns whether the metrics have an evaluation after `epoch` epochs.
pub(super) fn evaluated(run: &RunDir, epoch: usize) -> Result<bool> {
    Ok(lines(run)?.iter().any(|line| line["type"] == "evaluation" && line["epoch"] == epoch))
}

/// Returns the lines of the metrics that can be parsed.
fn lines(run: &RunDir) -> Result<Vec<Value>> {
    let path = run.metrics_path();
    let text = input::read(&path, run_dir::LARGEST)?;
    Ok(text.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
}
