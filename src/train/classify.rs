//! The task of classification: random or balanced batches, and accuracy on validation images.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::task::{Report, Task};
use crate::Result;
use crate::config::Config;
use crate::data::{ClassDataset, ClassSampler, Sample, Sampler};
use crate::eval::Model;
use crate::eval::classification::{self, ClassificationReport};
use crate::run_dir::RunDir;

/// Trains a classifier.
pub struct Classify<'a> {
    /// Images for training and validation.
    pub dataset: &'a ClassDataset,
}

impl Task for Classify<'_> {
    type Report = ClassificationReport;

    fn check(&self, config: &Config) -> Result<()> {
        self.dataset.check_for_training(config.sampler.batch)?;
        self.dataset.check_for_evaluation()
    }

    fn samples(&self) -> Arc<[Sample]> {
        self.dataset.train.clone().into()
    }

    fn root(&self) -> &Path {
        &self.dataset.root
    }

    fn class_names(&self) -> Vec<String> {
        self.dataset.classes.clone()
    }

    fn classes(&self) -> usize {
        self.dataset.classes.len()
    }

    fn measured(&self) -> usize {
        self.dataset.val.len()
    }

    fn sampler(&self, config: &Config) -> Box<dyn Sampler> {
        Box::new(ClassSampler::new(&self.dataset.train, config.sampler.batch, config.sampler.balanced))
    }

    fn evaluate(&self, mut model: Model<'_>) -> Result<ClassificationReport> {
        classification::evaluate(&mut model, &self.dataset.val, &self.dataset.classes)
    }

    fn write_details(&self, report: &ClassificationReport, run: &RunDir, config: &Config) -> Result<()> {
        let cells = config.eval.cells();
        classification::write_files(run.root(), report, &self.dataset.val, &self.dataset.root, cells)
    }

    fn describe(&self) -> Map<String, Value> {
        let labels = json!({ "data": self.dataset.label, "classes": self.dataset.classes.len() });
        labels.as_object().expect("an object").clone()
    }
}

impl Report for ClassificationReport {
    fn score(&self) -> (&'static str, f64) {
        ("top-1", self.top1)
    }

    fn figures(&self) -> Map<String, Value> {
        let ClassificationReport { top1, top5, balanced_accuracy, macro_f1, nll, ece, .. } = self;
        let figures = json!({
            "top1": top1, "top5": top5, "balanced_accuracy": balanced_accuracy, "macro_f1": macro_f1, "nll": nll, "ece": ece,
        });
        figures.as_object().expect("an object").clone()
    }

    fn summary(&self) -> Map<String, Value> {
        let mut figures = self.figures();
        for (name, value) in &mut figures {
            // Shares are written in percent; the negative log-likelihood is no share.
            if let Some(share) = value.as_f64().filter(|_| name != "nll") {
                *value = json!(100.0 * share);
            }
        }
        figures
    }
}
