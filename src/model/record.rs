//! The progress of a run, which each checkpoint stores as `record.json`. The file is written with the checkpoint, and replaced atomically
//! after the evaluation of the checkpoint. So weights and record belong together, whenever the run ends.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::images::TrainingImages;
use crate::base::atomic::atomic_write;
use crate::base::input;
use crate::base::text::plural;
use crate::config::Config;
use crate::{Error, Result};

/// Name of the record in the folder of a checkpoint.
pub const RECORD_FILE: &str = "record.json";
/// Largest accepted file, bytes.
const LARGEST: u64 = 1 << 20;
/// Largest accepted count. No run reaches it, and sums of such counts cannot overflow.
pub(crate) const MOST: u64 = 1 << 53;

/// The position of a run: the next batch to train on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Epoch, from 0.
    pub epoch: usize,
    /// Batches of this epoch that are done.
    pub batch: usize,
    /// Updates of the weights so far.
    pub step: u64,
    /// Batches of a whole epoch.
    pub batches: usize,
}

/// The best evaluation of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// mAP, Rank-1 or top-1 accuracy, in [0, 1].
    pub score: f64,
    /// Number of epochs that were done then.
    pub epoch: usize,
    /// Number of later evaluations, none of which was better.
    pub evaluations_since: usize,
    /// Number of updates that were done then, as in the checkpoint's name. `None` in records of earlier versions, which kept a copy
    /// called `best`.
    #[serde(default)]
    pub step: Option<u64>,
}

/// The progress of a run at a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The next batch to train on.
    pub position: Position,
    /// The best evaluation so far, if `train.patience` is set.
    pub best: Option<Best>,
    /// Updates that were done at the last evaluation.
    pub evaluated: Option<u64>,
    /// Sums over the batches of the current epoch.
    pub sums: Sums,
    /// Bytes of `metrics.jsonl` at this checkpoint; `None` in checkpoints of earlier versions.
    pub metrics: Option<u64>,
    /// Fingerprint of the training images; `None` in checkpoints of earlier versions.
    pub images: Option<TrainingImages>,
}

impl Record {
    /// Writes the record into the folder of a checkpoint; replaces the one that is there.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, checkpoint: &Path) -> Result<()> {
        atomic_write(&checkpoint.join(RECORD_FILE), |file| {
            serde_json::to_writer_pretty(&mut *file, self)?;
            file.write_all(b"\n")
        })
    }

    /// Reads the record of a checkpoint; `None` if there is none.
    ///
    /// # Errors
    /// The file cannot be read, or holds values that no run can have.
    pub fn read(checkpoint: &Path) -> Result<Option<Record>> {
        let path = checkpoint.join(RECORD_FILE);
        if !path.exists() {
            return Ok(None);
        }
        let bad = |reason: String| Error::Checkpoint { path: path.clone(), reason };
        let text = input::read(&path, LARGEST)?;
        let record: Record =
            serde_json::from_slice(&text).map_err(|e| bad(format!("it is no record of a run ({e})")))?;
        record.check().map_err(bad)?;
        let step = record.position.step;
        let name = checkpoint.file_name().and_then(|name| name.to_str());
        match name.and_then(|name| name.strip_prefix("step-")?.parse::<u64>().ok()) {
            Some(of_folder) if of_folder != step => {
                Err(bad(format!("it is the record of step {step}, in the folder of step {of_folder}")))
            }
            _ => Ok(Some(record)),
        }
    }

    /// Returns whether nothing remains to be trained with these settings.
    pub fn is_over(&self, config: &Config) -> bool {
        self.at_end(config) || self.out_of_patience(config)
    }

    /// Returns whether nothing remains to be trained and the weights have been evaluated.
    pub fn is_finished(&self, config: &Config) -> bool {
        self.is_over(config) && self.evaluated == Some(self.position.step)
    }

    /// Returns whether all epochs, or all of `train.max_steps`, are done.
    pub fn at_end(&self, config: &Config) -> bool {
        let Position { epoch, step, .. } = self.position;
        epoch >= config.schedule.epochs || config.train.max_steps.is_some_and(|steps| step >= steps as u64)
    }

    /// Returns whether none of the last `train.patience` evaluations was an improvement.
    pub(crate) fn out_of_patience(&self, config: &Config) -> bool {
        let patience = config.train.patience;
        patience > 0 && self.best.is_some_and(|best| best.evaluations_since >= patience)
    }

    /// Refuses values that no run can have.
    ///
    /// # Errors
    /// A sentence about the first such value.
    pub fn check(&self) -> Result<(), String> {
        let Record { position, best, sums, .. } = self;
        let Position { epoch, batch, step, batches } = *position;
        let since = best.map_or(0, |best| best.evaluations_since.max(best.epoch));
        let counts = [epoch, batch, batches, since, sums.steps, sums.images].map(|count| count as u64);
        let largest = counts.into_iter().chain([step]).max().unwrap_or(0);
        if largest > MOST {
            return Err(format!("it counts up to {largest}, which no run can have done"));
        }
        if !(0.0..=sums.steps as f64 + 1.0).contains(&sums.accuracy) {
            return Err(format!(
                "its accuracies sum up to {} over {}",
                sums.accuracy,
                plural(sums.steps, "batch", "batches")
            ));
        }
        if batch > 0 && batch >= batches {
            return Err(format!(
                "it has {} of an epoch done, and an epoch has {batches}",
                plural(batch, "batch", "batches")
            ));
        }
        Ok(())
    }
}

/// Losses and accuracy of a training step on one batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepReport {
    /// Weighted sum of `cross_entropy`, `triplet` and `center`.
    pub loss: f64,
    /// Cross-entropy, mean over the network's classifiers.
    pub cross_entropy: f64,
    /// Triplet loss, mean over the network's embeddings; `None` for a classifier.
    pub triplet: Option<f64>,
    /// Centre loss, mean over the network's embeddings; `None` without this loss.
    pub center: Option<f64>,
    /// Top-1 accuracy on the batch in [0, 1], mean over the classifiers.
    pub accuracy: f64,
    /// Gradient norm before clipping; `None` for a batch that only accumulates its gradient.
    pub grad_norm: Option<f64>,
}

/// Sums over the batches of an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sums {
    /// Number of batches.
    pub steps: usize,
    /// Number of images.
    pub images: usize,
    /// Sum of the losses.
    pub loss: f64,
    /// Sum of the cross-entropies.
    pub cross_entropy: f64,
    /// Sum of the triplet losses; `None` for a classifier.
    pub triplet: Option<f64>,
    /// Sum of the centre losses; `None` without this loss.
    pub center: Option<f64>,
    /// Sum of the accuracies.
    pub accuracy: f64,
    /// Duration in seconds.
    pub seconds: f64,
}

impl Sums {
    /// Adds the report of a batch of `images` images.
    pub fn add(&mut self, report: &StepReport, images: usize) {
        self.steps += 1;
        self.images += images;
        self.loss += report.loss;
        self.cross_entropy += report.cross_entropy;
        for (sum, loss) in [(&mut self.triplet, report.triplet), (&mut self.center, report.center)] {
            if let Some(loss) = loss {
                *sum.get_or_insert(0.0) += loss;
            }
        }
        self.accuracy += report.accuracy;
    }

    fn mean(&self, sum: f64) -> f64 {
        sum / self.steps.max(1) as f64
    }

    /// Formats the means for messages.
    pub fn line(&self) -> String {
        let (loss, accuracy) = (self.mean(self.loss), 100.0 * self.mean(self.accuracy));
        let center = self.center.map_or_else(String::new, |center| format!(", center {:.4}", self.mean(center)));
        let parts = self.triplet.map_or_else(String::new, |triplet| {
            format!(" (identity {:.4}, triplet {:.4}{center})", self.mean(self.cross_entropy), self.mean(triplet))
        });
        format!("loss {loss:.4}{parts}, accuracy {accuracy:.1} %")
    }

    /// Returns the means as a line of `metrics.jsonl`.
    pub fn json(&self, epoch: usize, step: u64) -> Value {
        let mut line = json!({
            "type": "epoch", "epoch": epoch, "step": step, "loss": self.mean(self.loss),
            "cross_entropy": self.mean(self.cross_entropy), "accuracy": self.mean(self.accuracy),
            "images_per_second": self.images as f64 / self.seconds.max(1e-9),
        });
        for (name, sum) in [("triplet", self.triplet), ("center", self.center)] {
            if let Some(sum) = sum {
                line[name] = json!(self.mean(sum));
            }
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_no_run_can_have_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = folder.path().join("step-7");
        std::fs::create_dir(&checkpoint).unwrap();
        let record = Record { position: Position { step: 7, ..Position::default() }, ..Record::default() };
        type Change = fn(&mut Record);
        let cases: [(Change, &str); 4] = [
            (|record| record.position.step = 8, "it is the record of step 8, in the folder of step 7"),
            (|record| record.position.batch = 3, "3 batches of an epoch done, and an epoch has 0"),
            (|record| record.sums.accuracy = 1e308, "its accuracies sum up to"),
            (|record| record.position.epoch = usize::MAX, "which no run can have done"),
        ];
        for (change, part) in cases {
            let mut record = record.clone();
            change(&mut record);
            record.write(&checkpoint).unwrap();
            let error = Record::read(&checkpoint).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        record.write(&checkpoint).unwrap();
        assert_eq!(Record::read(&checkpoint).unwrap(), Some(record));
    }
}
