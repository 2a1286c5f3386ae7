//! The task of re-identification: P x K batches, and ranking of a gallery.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::task::{Report, Task};
use crate::Result;
use crate::config::Config;
use crate::data::{Dataset, IdentitySampler, Sample, Sampler};
use crate::eval::ranking::{RankingReport, Scores, write_queries_csv};
use crate::eval::{self, Model};
use crate::run_dir::RunDir;

/// Trains on the identities of a data set.
pub struct Reid<'a> {
    /// The data set to train on.
    pub dataset: &'a Dataset,
    /// The data set to evaluate on, if it is not `dataset`.
    pub target: Option<&'a Dataset>,
}

impl Reid<'_> {
    fn evaluated(&self) -> &Dataset {
        self.target.unwrap_or(self.dataset)
    }
}

impl Task for Reid<'_> {
    type Report = RankingReport;

    fn check(&self, config: &Config) -> Result<()> {
        self.dataset.check_for_training(config.sampler.ids)?;
        self.evaluated().check_for_evaluation()
    }

    fn samples(&self) -> Arc<[Sample]> {
        Dataset::samples(&self.dataset.train)
    }

    fn root(&self) -> &Path {
        &self.dataset.root
    }

    fn class_names(&self) -> Vec<String> {
        self.dataset.train_pids().iter().map(ToString::to_string).collect()
    }

    fn classes(&self) -> usize {
        self.dataset.train_classes()
    }

    fn measured(&self) -> usize {
        let evaluated = self.evaluated();
        evaluated.query.len() + evaluated.gallery.len()
    }

    fn sampler(&self, config: &Config) -> Box<dyn Sampler> {
        let sampler = &config.sampler;
        Box::new(IdentitySampler::new(&self.dataset.train, sampler.ids, sampler.images, sampler.passes))
    }

    fn evaluate(&self, model: Model<'_>) -> Result<RankingReport> {
        eval::evaluate_dataset(model, self.evaluated())
    }

    fn write_details(&self, report: &RankingReport, run: &RunDir, config: &Config) -> Result<()> {
        let evaluated = self.evaluated();
        write_queries_csv(&run.items_path(), report, &evaluated.query, &evaluated.root, config.eval.cells())
    }

    fn describe(&self) -> Map<String, Value> {
        let labels = json!({ "data": self.dataset.label, "evaluated_on": self.evaluated().label });
        labels.as_object().expect("an object").clone()
    }
}

impl Report for RankingReport {
    fn score(&self) -> (&'static str, f64) {
        // CUHK03's single gallery shot has no mAP.
        if self.map.is_nan() { ("Rank-1", self.rank(1).unwrap_or(0.0)) } else { ("mAP", self.map) }
    }

    fn figures(&self) -> Map<String, Value> {
        let figures = json!({ "mAP": self.map, "mINP": self.minp, "rank1": self.rank(1) });
        figures.as_object().expect("an object").clone()
    }

    fn summary(&self) -> Map<String, Value> {
        json!(Scores::of(self)).as_object().expect("an object").clone()
    }
}
