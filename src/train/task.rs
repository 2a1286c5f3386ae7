//! What the loop asks of a task: its images, the batches they make, and how the network is measured.

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
    type Report: Report;

    /// Refuses data that cannot be trained on, or measured.
    ///
    /// # Errors
    /// One sentence about the data.
    fn check(&self, config: &Config) -> Result<()>;

    /// Training images; labels count from 0.
    fn samples(&self) -> Arc<[Sample]>;

    /// The folder from which names of images count, wherever the data lie.
    fn root(&self) -> &Path;

    /// Names of the classes or identities by label.
    fn class_names(&self) -> Vec<String>;

    /// Number of labels.
    fn classes(&self) -> usize;

    /// Number of images that [`Task::evaluate`] measures.
    fn measured(&self) -> usize;

    /// Which of [`Task::samples`] make batches.
    fn sampler(&self, config: &Config) -> Box<dyn Sampler>;

    /// Measures a network.
    ///
    /// # Errors
    /// An image that cannot be read, or a device that fails.
    fn evaluate(&self, model: Model<'_>) -> Result<Self::Report>;

    /// Writes the details of the last evaluation, such as the result of each image, to files in the run's folder.
    ///
    /// # Errors
    /// A file cannot be written.
    fn write_details(&self, report: &Self::Report, run: &RunDir, config: &Config) -> Result<()>;

    /// What `summary.json` says of the data.
    fn describe(&self) -> Map<String, Value>;
}

/// A measurement. Its `Display` is a table.
pub trait Report: Display {
    /// The figure that says which of two networks is better, and its name.
    fn score(&self) -> (&'static str, f64);

    /// For `metrics.jsonl`, as fractions.
    fn figures(&self) -> Map<String, Value>;

    /// For `summary.json`, in percent.
    fn summary(&self) -> Map<String, Value>;
}
