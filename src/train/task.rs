//! What the training loop needs from a task: images, batches, and an evaluation.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::Result;
use crate::config::Config;
use crate::data::{Sample, Sampler};
use crate::eval::Model;
use crate::run_dir::RunDir;

/// What a run learns. See [`Reid`](super::Reid) and [`Classify`](super::Classify).
pub trait Task {
    /// Result of an evaluation.
    type Report: Report;

    /// Refuses data that cannot be trained on or evaluated.
    ///
    /// # Errors
    /// The data are too few, or lack a subset.
    fn check(&self, config: &Config) -> Result<()>;

    /// Returns the training images. A label is an index into [`Task::class_names`].
    fn samples(&self) -> Arc<[Sample]>;

    /// Returns the folder to which the paths of images are relative in results.
    fn root(&self) -> &Path;

    /// Returns the names of the classes or identities by label.
    fn class_names(&self) -> Vec<String>;

    /// Returns the number of labels.
    fn classes(&self) -> usize;

    /// Returns the number of images that [`Task::evaluate`] measures.
    fn measured(&self) -> usize;

    /// Returns the sampler that makes batches of [`Task::samples`].
    fn sampler(&self, config: &Config) -> Box<dyn Sampler>;

    /// Evaluates a network.
    ///
    /// # Errors
    /// An image that cannot be read, or a device that fails.
    fn evaluate(&self, model: Model<'_>) -> Result<Self::Report>;

    /// Writes the details of the last evaluation, such as the result of each image, to files in the run's folder.
    ///
    /// # Errors
    /// A file cannot be written.
    fn write_details(&self, report: &Self::Report, run: &RunDir, config: &Config) -> Result<()>;

    /// Returns the fields of `summary.json` that describe the data.
    fn describe(&self) -> Map<String, Value>;
}

/// The result of an evaluation. Its `Display` is a table.
pub trait Report: Display {
    /// Returns the name and the value of the figure that decides between two networks; larger is better.
    fn score(&self) -> (&'static str, f64);

    /// Returns the figures for `metrics.jsonl`, with shares in [0, 1].
    fn figures(&self) -> Map<String, Value>;

    /// Returns the figures for `summary.json`, with shares in percent.
    fn summary(&self) -> Map<String, Value>;
}
