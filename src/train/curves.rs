//! The picture of a run: its losses epoch by epoch, read back from its metrics.

use serde_json::Value;

use crate::Result;
use crate::base::input;
use crate::base::plot::{self, Captions, Series};
use crate::run_dir::{self, RunDir};

/// (step, value) of each of `figures` at the end of each epoch.
///
/// # Errors
/// The metrics cannot be read.
pub fn per_epoch<const N: usize>(run: &RunDir, figures: [&str; N]) -> Result<[Vec<(f64, f64)>; N]> {
    let epochs: Vec<Value> = records(run)?.into_iter().filter(|record| record["type"] == "epoch").collect();
    Ok(figures.map(|figure| {
        epochs.iter().filter_map(|epoch| Some((epoch["step"].as_f64()?, epoch[figure].as_f64()?))).collect()
    }))
}

/// Whether the metrics have an evaluation after that many epochs.
pub(super) fn evaluated(run: &RunDir, epoch: usize) -> Result<bool> {
    Ok(records(run)?.iter().any(|record| record["type"] == "evaluation" && record["epoch"] == epoch))
}

/// The lines that can be read.
fn records(run: &RunDir) -> Result<Vec<Value>> {
    let path = run.metrics_path();
    let text = input::read(&path, run_dir::LARGEST)?;
    Ok(text.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

/// Writes `curves.svg` into the run folder.
///
/// # Errors
/// The metrics cannot be read or the picture cannot be written.
pub(super) fn draw(run: &RunDir) -> Result<()> {
    let points = per_epoch(run, ["loss", "cross_entropy", "triplet"])?;
    let named = ["loss", "identity", "triplet"].into_iter().zip(points);
    let series: Vec<Series> = named.map(|(name, points)| Series { name: name.into(), points }).collect();
    plot::curves(&run.curves_path(), Captions { title: "Training loss", x: "step", y: "mean of an epoch" }, &series)
}
