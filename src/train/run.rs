//! The loop over epochs and steps.

use std::iter::Peekable;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::Trainer;
use super::curves::STATES;
use super::state::{self, ModelInfo};
use super::task::Task;
use crate::base::profile;
use crate::base::progress::{Reporter, Task as Bar};
use crate::base::stop::StopFlag;
use crate::base::text::Shown;
use crate::config::Config;
use crate::data::{Batch, ImageCache, Loader, LoaderOptions, Sample, Sampler, Transform};
use crate::engine::collective::Collective;
use crate::engine::schedule::Schedule;
use crate::model::{Position, Record, StepReport, checkpoints};
use crate::run_dir::{Metrics, RunDir};
use crate::{Error, Result};

/// Number of newest checkpoints that are kept.
const KEEP_CHECKPOINTS: usize = 2;

/// What a training starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Random weights.
    Scratch,
    /// The weights in this file; the classifier is new unless `train.keep_head` is set.
    Init(PathBuf),
    /// The newest checkpoint of the run.
    Resume,
}

/// One training run.
pub struct Job<'a, T: Task> {
    /// Settings of the run.
    pub config: &'a Config,
    /// What the run learns, with its data.
    pub task: &'a T,
    /// What the training starts from.
    pub start: Start,
    /// Folder of the run.
    pub run: &'a RunDir,
    /// Receives messages and progress.
    pub reporter: &'a Reporter,
    /// Request to stop after the current step or within an evaluation, with a checkpoint.
    pub stop: &'a StopFlag,
}

/// How a run ended.
pub enum Outcome<R> {
    /// All epochs are done, or the results no longer improve. Holds the last evaluation; with `train.patience`, the best.
    Finished(Box<R>),
    /// Stopped on request at this position; the run can be resumed.
    Stopped(Position),
}

/// Trains, evaluates and saves as the settings say. A finished run has a `summary.json` and the details of its evaluation.
///
/// # Errors
/// Settings, data or checkpoints that cannot be used; a loss that is not finite; a full disk. Saved checkpoints are kept.
pub fn run<T: Task>(job: &Job<'_, T>) -> Result<Outcome<T::Report>> {
    run_ranks(job, &Collective::single())
}

/// Does as [`run()`] together with other processes, which run the same job. Each has a part of every batch, and of the images of an evaluation.
/// Rank 0 writes the folder of the run; a run of the others comes from [`RunDir::follow`], and must name the same folder.
///
/// # Errors
/// As [`run()`]; settings that several processes cannot share; images or weights that differ between them. An error of one rank leaves the
/// others waiting: the caller has to end them ([`Collective::abort`]).
pub fn run_ranks<T: Task>(job: &Job<'_, T>, ranks: &Collective) -> Result<Outcome<T::Report>> {
    let mut training = Training::begin(job, ranks)?;
    match training.train() {
        Ok(report) => Ok(Outcome::Finished(Box::new(report))),
        Err(Error::Stopped) => Ok(Outcome::Stopped(training.stop()?)),
        Err(error) => Err(error),
    }
}

/// A run in progress.
pub(super) struct Training<'a, T: Task> {
    pub job: &'a Job<'a, T>,
    pub trainer: Trainer,
    pub record: Record,
    /// Step of the newest checkpoint.
    pub saved: Option<u64>,
    pub metrics: Metrics,
    /// Learning rate by update, for epochs of [`updates`](Training::updates) updates.
    pub schedule: Schedule,
    pub updates: u64,
    pub samples: Arc<[Sample]>,
    pub sampler: Box<dyn Sampler>,
    pub transform: Transform,
    pub cache: Arc<ImageCache>,
    /// Evaluation of the current weights.
    pub last_report: Option<T::Report>,
}

impl<T: Task> Training<'_, T> {
    /// Trains until the run is over and returns its result; returns [`Error::Stopped`] on a request to stop.
    fn train(&mut self) -> Result<T::Report> {
        loop {
            // A resumed run may have ended between an epoch and its evaluation.
            if self.evaluation_is_due() {
                self.evaluate_and_note()?;
            }
            if self.record.is_over(self.job.config) {
                return self.finish();
            }
            self.epoch()?;
            let stop = self.stop_requested();
            let within_epoch = self.record.position.batch > 0;
            // If the evaluation is the best one so far, its weights must be in a checkpoint.
            let may_be_best = self.job.config.train.patience > 0 && self.evaluation_is_due();
            if within_epoch
                || stop
                || may_be_best
                || self.record.at_end(self.job.config)
                || self.every(self.job.config.train.checkpoint_every)
            {
                self.save()?;
            }
            if stop {
                return Err(Error::Stopped);
            }
        }
    }

    /// Trains until the epoch ends, the last step of the run is done, or a stop is requested.
    fn epoch(&mut self) -> Result<()> {
        let Job { config, reporter, .. } = *self.job;
        let Position { epoch, batch: first, .. } = self.record.position;
        if first == 0 {
            self.trainer.begin_epoch();
        }
        let _epoch = profile::range(format_args!("epoch {}", epoch + 1));
        let (mut loader, steps) = self.loader()?;
        let title = format!("epoch {}/{}", epoch + 1, config.schedule.epochs);
        let mut bar = reporter.start(&title, steps as u64, "steps");
        let (begun, before) = (Instant::now(), self.record.sums.seconds);
        loop {
            let data = profile::range("data");
            let Some(batch) = loader.next() else { break };
            let batch = batch?;
            // A batch that cannot be read is an error at its own step.
            let next = loader.peek().and_then(|next| next.as_ref().ok());
            drop(data);
            self.step(&batch, next, &mut bar)?;
            if self.trainer.between_updates() && (self.record.at_end(config) || self.stop_requested()) {
                break;
            }
        }
        self.record.sums.seconds = before + begun.elapsed().as_secs_f64();
        let at_end = self.record.at_end(config);
        let Record { position, sums, .. } = &mut self.record;
        let whole = position.batch == position.batches;
        bar.finish(&if whole || at_end { sums.line() } else { "stopped".into() });
        if whole {
            (position.epoch, position.batch) = (epoch + 1, 0);
            self.metrics.write(&std::mem::take(sums).json(epoch + 1, position.step))?;
            if let Some(line) = states_line(&self.trainer, epoch + 1, self.record.position.step)? {
                self.metrics.write(&line)?;
            }
        }
        Ok(())
    }

    /// Returns the batches of the epoch from the current position on, and their number.
    fn loader(&self) -> Result<(Peekable<Loader>, usize)> {
        let config = self.job.config;
        let Position { epoch, batch: first, batches: count, .. } = self.record.position;
        let mut batches = self.sampler.epoch(config.seed, epoch as u64);
        batches.truncate(count);
        let options = LoaderOptions {
            transform: self.transform,
            augment: Some(config.augment.clone()),
            seed: config.seed,
            epoch: epoch as u64,
            workers: config.workers(),
        };
        let ranks = &self.trainer.ranks;
        let part = ranks.has_others().then(|| ranks.part(config.batch()));
        let loader = Loader::of_part(self.samples.clone(), &batches, first, part, options, self.cache.clone())?;
        Ok((loader.peekable(), batches.len() - first))
    }

    /// Trains on `batch` and records the result; `next` is the following batch, if it is loaded already.
    fn step(&mut self, batch: &Batch, next: Option<&Batch>, bar: &mut Bar) -> Result<()> {
        let config = self.job.config;
        let position = &mut self.record.position;
        let _step = profile::range(format_args!("step {}", position.step + 1));
        // Follows the position in epochs, not the step: epochs may have had another length before the run was resumed.
        let update = position.epoch as u64 * self.updates + (position.batch / config.train.accumulate) as u64;
        let lr = self.schedule.lr(config.optim.lr, update);
        let report = self.trainer.step(batch, next, lr);
        let report = report.map_err(|error| explained(error, config, &self.samples, &batch.indices))?;
        self.trainer.device.report_choices(self.job.reporter);
        position.batch += 1;
        self.record.sums.add(&report, config.batch());
        bar.advance(1, &format!("loss {:.4} acc {:.2} lr {lr:.2e}", report.loss, report.accuracy));
        if self.trainer.between_updates() {
            position.step += 1;
            if position.step.is_multiple_of(config.train.log_every as u64) {
                self.metrics.write(&step_line(*position, lr, &report))?;
            }
        }
        Ok(())
    }

    /// Returns whether a stop was requested, of any of the processes.
    pub(super) fn stop_requested(&self) -> bool {
        self.trainer.ranks.any(self.job.stop.requested())
    }

    /// Returns whether an epoch has just ended and the number of epochs is a multiple of `every`; false if that is 0.
    pub(super) fn every(&self, every: usize) -> bool {
        let Position { epoch, batch, .. } = self.record.position;
        every > 0 && epoch > 0 && batch == 0 && epoch.is_multiple_of(every)
    }

    /// Saves a checkpoint at the current position, if there is none, and returns the position.
    fn stop(&mut self) -> Result<Position> {
        let position = self.record.position;
        if self.saved != Some(position.step) {
            self.save()?;
        }
        Ok(position)
    }

    /// Saves a checkpoint. Its record counts the bytes of the metrics, so these are synced first.
    fn save(&mut self) -> Result<()> {
        let _checkpoint = profile::range("checkpoint");
        self.trainer.check_agreement(
            " after the same steps: their machines must compute alike (the same program, and processors with the same instruction set, or one \
             PTL_MAX_ISA for all)",
        )?;
        self.record.metrics = Some(self.metrics.sync()?);
        let (folder, names) = (self.job.run.checkpoints(), self.job.task.class_names());
        let path = state::save(&folder, &mut self.trainer, ModelInfo::of(&names), &self.record)?;
        self.saved = Some(self.record.position.step);
        self.prune()?;
        self.job.reporter.message(&format!("saved {}", path.shown()));
        Ok(())
    }

    /// Updates the record of the newest checkpoint.
    pub(crate) fn write_record(&mut self) -> Result<()> {
        self.record.metrics = Some(self.metrics.sync()?);
        let name = checkpoints::name(self.record.position.step);
        if self.trainer.ranks.is_first() {
            self.record.write(&self.job.run.checkpoints().join(name))?;
        }
        Ok(())
    }

    /// Removes checkpoints that are no longer needed.
    pub(crate) fn prune(&self) -> Result<()> {
        if self.trainer.ranks.is_first() {
            checkpoints::prune(&self.job.run.checkpoints(), KEEP_CHECKPOINTS, self.record.best.as_ref())?;
        }
        Ok(())
    }
}

/// Returns the line of `metrics.jsonl` for a step.
fn step_line(position: Position, lr: f64, report: &StepReport) -> Value {
    let mut line = json!({
        "type": "step", "step": position.step, "epoch": position.epoch + 1, "lr": lr, "loss": report.loss,
        "cross_entropy": report.cross_entropy, "accuracy": report.accuracy, "grad_norm": report.grad_norm,
    });
    for (name, loss) in [("triplet", report.triplet), ("center", report.center)] {
        if let Some(loss) = loss {
            line[name] = json!(loss);
        }
    }
    line
}

/// Returns the line of `metrics.jsonl` about the latent states at the end of an epoch; `None` for a network without them.
fn states_line(trainer: &Trainer, epoch: usize, step: u64) -> Result<Option<Value>> {
    let decls = trainer.state_decls();
    let mut line = json!({ "type": STATES, "step": step, "epoch": epoch });
    for (decl, state) in decls.iter().zip(trainer.states.statistics(decls)?) {
        line[&decl.name] = json!(state);
    }
    Ok(Some(line).filter(|_| !decls.is_empty()))
}

/// Adds what helps to the error of a step: some files of the batch, or the settings that make batches smaller.
fn explained(error: Error, config: &Config, samples: &[Sample], indices: &[usize]) -> Error {
    match error {
        Error::NonFinite { what, value, lr, .. } => {
            let files = indices.iter().take(4).map(|&i| samples[i].image.to_string()).collect();
            Error::NonFinite { what, value, lr, files }
        }
        other => other.with_batch_settings(config.batch_settings()),
    }
}
