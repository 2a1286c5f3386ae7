//! The picture of a run: its losses epoch by epoch, read back from its metrics.

use std::fs;

use serde_json::Value;

use crate::Result;
use crate::error::IoContext;
use crate::plot::{self, Captions, Series};
use crate::run_dir::RunDir;

/// (step, value) of one figure at the end of each epoch.
///
/// # Errors
/// The metrics cannot be read.
pub fn per_epoch(run: &RunDir, figure: &str) -> Result<Vec<(f64, f64)>> {
    let path = run.metrics_path();
    let text = fs::read_to_string(&path).at("read", &path)?;
    let point = |line: &str| {
        let value: Value = serde_json::from_str(line).ok()?;
        (value["type"] == "epoch").then(|| Some((value["step"].as_f64()?, value[figure].as_f64()?)))?
    };
    Ok(text.lines().filter_map(point).collect())
}

/// Writes `curves.svg` into the run folder.
///
/// # Errors
/// The metrics cannot be read or the picture cannot be written.
pub(super) fn draw(run: &RunDir) -> Result<()> {
    let figures = [("loss", "loss"), ("cross_entropy", "identity"), ("triplet", "triplet")];
    let series = figures.map(|(figure, name)| Ok(Series { name: name.into(), points: per_epoch(run, figure)? }));
    let series = series.into_iter().collect::<Result<Vec<_>>>()?;
    plot::curves(&run.curves_path(), Captions { title: "Training loss", x: "step", y: "mean of an epoch" }, &series)
}
