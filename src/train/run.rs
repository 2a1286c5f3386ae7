//! The loop: read it from top to bottom.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::cost::{self, Cost, DataSizes};
use super::state::{self, ModelInfo};
use super::task::{Report, Task};
use super::{Trainer, curves};
use crate::base::profile;
use crate::base::progress::Reporter;
use crate::base::stop::StopFlag;
use crate::base::text::{Shown, plural};
use crate::config::Config;
use crate::data::{ImageCache, Loader, LoaderOptions, Sample, Sampler, Transform};
use crate::engine::device::Device;
use crate::engine::schedule::Schedule;
use crate::engine::store::Store;
use crate::eval::Model;
use crate::io::checkpoint::{self, FineTune, Names};
use crate::model::{
    Best, MODEL_FILE, Position, Record, StepReport, checkpoints, has_header, load_latent_states, model_header,
};
use crate::nn::Network;
use crate::run_dir::{Metrics, RunDir};
use crate::{Error, Result};

/// Checkpoints that stay on disk.
const KEEP_CHECKPOINTS: usize = 2;

/// Where training begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Random weights.
    Scratch,
    /// Weights of a file, a fresh classifier.
    Init(PathBuf),
    /// The newest checkpoint of this run.
    Resume,
}

/// One training run.
pub struct Job<'a, T: Task> {
    pub config: &'a Config,
    pub task: &'a T,
    pub start: Start,
    pub run: &'a RunDir,
    pub reporter: &'a Reporter,
    /// Set to stop after the current step, or within an evaluation, with a checkpoint.
    pub stop: &'a StopFlag,
}

/// How a run ended.
pub enum Outcome<R> {
    /// All epochs done, or no better result any more; the last evaluation, or the best.
    Finished(Box<R>),
    /// Stopped on request; the run can be resumed.
    Stopped(Position),
}

/// Trains, evaluates and saves as the settings say; a finished run has its `summary.json` and details of its evaluation.
///
/// # Errors
/// Settings, data or checkpoints that cannot work; a loss that is not finite; a disk that is full. What was saved before
/// stays.
pub fn run<T: Task>(job: &Job<'_, T>) -> Result<Outcome<T::Report>> {
    let mut training = Training::begin(job)?;
    match training.train() {
        Ok(report) => Ok(Outcome::Finished(Box::new(report))),
        Err(Error::Stopped) => Ok(Outcome::Stopped(training.stop()?)),
        Err(error) => Err(error),
    }
}

/// Opens the device that computes, once data and memory suffice: what a run needs is known before anything of it is taken.
///
/// # Errors
/// Data that cannot be trained on or measured; a device that cannot be used;
/// [`Error::OutOfMemory`].
pub fn prepare<T: Task>(config: &Config, task: &T) -> Result<(Device, DataSizes, Cost)> {
    task.check(config)?;
    let device = Device::open(&config.device_options())?;
    let batches = task.sampler(config).batches();
    let sizes = DataSizes { measured: task.measured(), batches };
    let cost = cost::ensure_training(config, task.classes(), sizes, &device)?;
    Ok((device, sizes, cost))
}

/// A run in progress.
pub(super) struct Training<'a, T: Task> {
    pub job: &'a Job<'a, T>,
    pub trainer: Trainer,
    pub record: Record,
    /// The step of the newest checkpoint.
    pub saved: Option<u64>,
    pub metrics: Metrics,
    /// The learning rate by updates, for epochs of so many [`updates`](Training::updates).
    pub schedule: Schedule,
    pub updates: u64,
    pub samples: Arc<[Sample]>,
    pub sampler: Box<dyn Sampler>,
    pub transform: Transform,
    pub cache: Arc<ImageCache>,
    /// Of the weights as they are.
    pub last_report: Option<T::Report>,
}

impl<T: Task> Training<'_, T> {
    /// Trains until all is done; [`Error::Stopped`] where that was asked for.
    fn train(&mut self) -> Result<T::Report> {
        loop {
            // Also that of a run that ended between the end of an epoch and its evaluation.
            if self.evaluation_is_due() {
                self.evaluate_and_note()?;
            }
            if self.record.is_over(self.job.config) {
                return self.finish();
            }
            self.epoch()?;
            let stop = self.job.stop.requested();
            let within = self.record.position.batch > 0;
            let patient = self.job.config.train.patience > 0 && self.evaluation_is_due();
            if within
                || stop
                || patient
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

    /// Trains to the end of the epoch, to the last step, or until a stop is asked for.
    fn epoch(&mut self) -> Result<()> {
        let Job { config, reporter, stop, .. } = *self.job;
        let Position { epoch, batch: first, .. } = self.record.position;
        if first == 0 {
            self.trainer.begin_epoch();
        }
        let _epoch = profile::range(format_args!("epoch {}", epoch + 1));
        let mut bar;
        let mut loader = {
            let mut batches = self.sampler.epoch(config.seed, epoch as u64);
            batches.truncate(self.record.position.batches);
            let options = LoaderOptions {
                transform: self.transform,
                augment: Some(config.augment.clone()),
                seed: config.seed,
                epoch: epoch as u64,
                workers: config.workers(),
            };
            let title = format!("epoch {}/{}", epoch + 1, config.schedule.epochs);
            bar = reporter.start(&title, (batches.len() - first) as u64, "steps");
            Loader::new(self.samples.clone(), &batches, first, options, self.cache.clone())?.peekable()
        };
        let (begun, before) = (Instant::now(), self.record.sums.seconds);
        loop {
            let data = profile::range("data");
            let Some(batch) = loader.next() else { break };
            let batch = batch?;
            // One that cannot be read is an error when its turn comes.
            let next = loader.peek().and_then(|next| next.as_ref().ok());
            drop(data);
            let position = &mut self.record.position;
            let _step = profile::range(format_args!("step {}", position.step + 1));
            // By epochs, not by the steps that were made: epochs may have had another length before the run was resumed.
            let update = epoch as u64 * self.updates + (position.batch / config.train.accumulate) as u64;
            let lr = self.schedule.lr(config.optim.lr, update);
            let report = self.trainer.step(&batch, next, lr);
            let report = report.map_err(|error| with_files(error, &self.samples, &batch.indices))?;
            position.batch += 1;
            self.record.sums.add(&report, batch.labels.len());
            bar.advance(1, &format!("loss {:.4} acc {:.2} lr {lr:.2e}", report.loss, report.accuracy));
            if !self.trainer.between_updates() {
                continue;
            }
            position.step += 1;
            if config.train.log_every > 0 && position.step.is_multiple_of(config.train.log_every as u64) {
                self.metrics.write(&step_line(*position, lr, &report))?;
            }
            if self.record.at_end(self.job.config) || stop.requested() {
                break;
            }
        }
        self.record.sums.seconds = before + begun.elapsed().as_secs_f64();
        let at_end = self.record.at_end(self.job.config);
        let Record { position, sums, .. } = &mut self.record;
        let whole = position.batch == position.batches;
        bar.finish(&if whole || at_end { sums.line() } else { "stopped".into() });
        if whole {
            (position.epoch, position.batch) = (epoch + 1, 0);
            self.metrics.write(&std::mem::take(sums).json(epoch + 1, position.step))?;
        }
        Ok(())
    }

    /// Whether an epoch has ended after which something is done that is done `every` so many epochs.
    fn every(&self, every: usize) -> bool {
        let Position { epoch, batch, .. } = self.record.position;
        every > 0 && epoch > 0 && batch == 0 && epoch.is_multiple_of(every)
    }

    fn evaluation_is_due(&self) -> bool {
        let due = self.record.at_end(self.job.config) || self.every(self.job.config.train.eval_every);
        due && self.record.evaluated != Some(self.record.position.step)
    }

    /// Measures, and writes down what came out.
    fn evaluate_and_note(&mut self) -> Result<()> {
        let Position { epoch, step, .. } = self.record.position;
        let report = self.evaluate()?;
        let mut line = report.figures();
        line.extend(figures(json!({ "type": "evaluation", "epoch": epoch, "step": step })));
        self.metrics.write(&line)?;
        self.record.evaluated = Some(step);
        if self.job.config.train.patience > 0 {
            self.note_best(&report);
        }
        if self.saved == Some(step) {
            self.write_record()?;
            self.prune()?;
        }
        // The result of the run is what the caller gets, to show it once.
        let result =
            self.record.is_over(self.job.config) && self.record.best.is_none_or(|best| best.evaluations_since == 0);
        if !result {
            self.job.reporter.message(&format!("{report}"));
        }
        if self.record.out_of_patience(self.job.config)
            && let Some(best) = self.record.best
        {
            self.job.reporter.message(&format!(
                "no better {} in {}: training ends; the best was {:.2} % after epoch {}",
                report.score().0,
                plural(best.evaluations_since, "evaluation", "evaluations"),
                100.0 * best.score,
                best.epoch
            ));
        }
        self.last_report = Some(report);
        Ok(())
    }

    /// Notes how `report` compares with the best before. Its weights are those of the newest checkpoint.
    fn note_best(&mut self, report: &T::Report) {
        let (score, Position { epoch, step, .. }) = (report.score().1, self.record.position);
        match &mut self.record.best {
            Some(best) if score <= best.score => best.evaluations_since += 1,
            best => *best = Some(Best { score, epoch, evaluations_since: 0, step: Some(step) }),
        }
    }

    /// Measures the network, or the moving average of its weights.
    fn evaluate(&mut self) -> Result<T::Report> {
        self.trainer.swap_average();
        let report = self.measure();
        self.trainer.swap_average();
        report
    }

    fn measure(&mut self) -> Result<T::Report> {
        let _evaluation = profile::range("evaluation");
        let Job { config, task, reporter, stop, .. } = *self.job;
        if stop.requested() {
            return Err(Error::Stopped);
        }
        let Trainer { store, network, states, device, .. } = &mut self.trainer;
        task.evaluate(Model {
            network: network.as_ref(),
            store,
            states,
            options: config.eval_options(),
            device,
            reporter,
            stop: stop.clone(),
        })
    }

    /// Measures the best weights.
    fn evaluate_best(&mut self, best: &Best) -> Result<T::Report> {
        self.job.reporter.message(&format!("the weights after epoch {}:", best.epoch));
        let model = checkpoints::of_best(&self.job.run.checkpoints(), best).join(MODEL_FILE);
        self.trainer.fetch()?;
        checkpoint::load_exact(&mut self.trainer.store, &checkpoint::File::open(&model)?, None)?;
        let decls = self.trainer.state_decls().to_vec();
        load_latent_states(&model, &decls, &mut self.trainer.states)?;
        self.measure()
    }

    /// Writes the results down.
    fn finish(&mut self) -> Result<T::Report> {
        let Job { config, task, run, .. } = *self.job;
        let Record { position, best, sums, .. } = self.record.clone();
        // Behind what belongs to the checkpoint: a run that goes on completes the epoch.
        if position.batch > 0 && sums.steps > 0 {
            self.metrics.write(&sums.json(position.epoch + 1, position.step))?;
        }
        let report = match (best, self.last_report.take()) {
            (Some(best), _) if best.evaluations_since > 0 => self.evaluate_best(&best)?,
            (_, Some(report)) => report,
            (_, None) => self.evaluate()?,
        };
        let mut summary = task.describe();
        summary.extend(report.summary());
        task.write_details(&report, run, config)?;
        curves::draw(run)?;
        // Last: a run that has it is finished.
        run.write_summary(&summary)?;
        Ok(report)
    }

    /// Leaves a checkpoint of where the training stands.
    fn stop(&mut self) -> Result<Position> {
        let position = self.record.position;
        if self.saved != Some(position.step) {
            self.save()?;
        }
        curves::draw(self.job.run)?;
        Ok(position)
    }

    /// Saves a checkpoint. What it counts on is on the disk before.
    fn save(&mut self) -> Result<()> {
        let _checkpoint = profile::range("checkpoint");
        self.record.metrics = Some(self.metrics.sync()?);
        let (folder, names) = (self.job.run.checkpoints(), self.job.task.class_names());
        let path = state::save(&folder, &mut self.trainer, info(&names), &self.record)?;
        self.saved = Some(self.record.position.step);
        self.prune()?;
        self.job.reporter.message(&format!("saved {}", path.shown()));
        Ok(())
    }

    /// Writes into the newest checkpoint what was done with its weights.
    pub fn write_record(&mut self) -> Result<()> {
        self.record.metrics = Some(self.metrics.sync()?);
        let name = checkpoints::name(self.record.position.step);
        self.record.write(&self.job.run.checkpoints().join(name))
    }

    /// Removes the checkpoints that nobody needs any more.
    pub fn prune(&self) -> Result<()> {
        checkpoints::prune(&self.job.run.checkpoints(), KEEP_CHECKPOINTS, self.record.best.as_ref())
    }
}

/// Fills `store` from the file `path`, as far as it fits.
pub(super) fn load_weights<T: Task>(
    job: &Job<'_, T>,
    path: &Path,
    network: &dyn Network,
    store: &mut Store,
) -> Result<()> {
    let Job { config, task, .. } = *job;
    let arch = config.arch()?;
    let keep = config.train.keep_head;
    let file = checkpoint::File::open_dictionary(path, config.train.weights_dict.as_deref())?;
    let names = Names { of: &|name| network.pretrained_names(name), in_backbone: &|name| network.is_backbone(name) };
    let how = FineTune { names, is_head: &|name| !keep && arch.is_head(name), partial: config.train.init_partial };
    let report = checkpoint::fine_tune(store, &file, how)?;
    if keep {
        let fits = !report.new.iter().any(|name| arch.is_head(name));
        // Weights from elsewhere name no classes.
        let named = has_header(&file).then(|| model_header(path, &file)).transpose()?;
        let same = named.is_none_or(|header| header.names_fit(&task.class_names()));
        if !(fits && same) {
            let classes = task.classes();
            let reason = format!(
                "its classifier is not {}'s of these {classes} classes: leave --keep-head out",
                config.model.arch
            );
            return Err(Error::Checkpoint { path: path.into(), reason });
        }
    }
    job.reporter.message(&format!("weights from {}{}:\n{}", path.shown(), file.choice(&report.place), report.table()));
    if let Some(partial) = &report.partial {
        job.reporter.warn(&format!("--init-partial: {partial}"));
    }
    Ok(())
}

/// What a checkpoint says of labels with these names.
pub(super) fn info(class_names: &[String]) -> ModelInfo<'_> {
    ModelInfo { classes: class_names.len(), class_names }
}

fn figures(value: Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

fn step_line(position: Position, lr: f64, report: &StepReport) -> Value {
    let mut line = json!({
        "type": "step", "step": position.step, "epoch": position.epoch + 1, "lr": lr, "loss": report.loss,
        "cross_entropy": report.cross_entropy, "accuracy": report.accuracy, "grad_norm": report.grad_norm,
    });
    if let Some(triplet) = report.triplet {
        line["triplet"] = json!(triplet);
    }
    line
}

/// Adds the batch's files to an error of a step.
fn with_files(error: Error, samples: &[Sample], indices: &[usize]) -> Error {
    match error {
        Error::NonFinite { what, value, lr, .. } => {
            let files = indices.iter().take(4).map(|&i| samples[i].image.to_string()).collect();
            Error::NonFinite { what, value, lr, files }
        }
        other => other,
    }
}
