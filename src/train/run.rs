//! The loop: read it from top to bottom.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;

use super::state::{self, Position};
use super::{StepReport, Trainer, curves};
use crate::checkpoint;
use crate::config::Config;
use crate::data::{Dataset, IdentitySampler, ImageCache, Loader, LoaderOptions};
use crate::eval::{self, ranking::RankingReport};
use crate::progress::Reporter;
use crate::run_dir::RunDir;
use crate::stop::StopFlag;
use crate::{Error, Result, profile};

/// Checkpoints that stay on disk.
const KEEP_CHECKPOINTS: usize = 2;

/// Where training begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Random weights.
    Scratch,
    /// Weights of a file, a fresh identity head.
    Init(PathBuf),
    /// The newest checkpoint of this run.
    Resume,
}

/// One training run.
pub struct Job<'a> {
    pub config: &'a Config,
    pub dataset: &'a Dataset,
    /// Evaluated instead of `dataset`, if given.
    pub target: Option<&'a Dataset>,
    pub start: Start,
    pub run: &'a RunDir,
    pub reporter: &'a Reporter,
    /// Set to stop after the current step, with a checkpoint.
    pub stop: &'a StopFlag,
}

/// How a run ended.
pub enum Outcome {
    /// All epochs done; the last evaluation.
    Finished(Box<RankingReport>),
    /// Stopped on request; the run can be resumed.
    Stopped(Position),
}

/// Trains, evaluates and saves as the settings say.
///
/// # Errors
/// Settings, data or checkpoints that cannot work; a loss that is not finite; a disk that is full. What was saved before
/// stays.
pub fn run(job: &Job<'_>) -> Result<Outcome> {
    let Job { config, dataset, reporter, .. } = *job;
    dataset.check_for_training(config.sampler.ids)?;
    let evaluated = job.target.unwrap_or(dataset);
    evaluated.check_for_evaluation()?;

    let classes = dataset.train_classes();
    let arch = config.arch()?;
    let mut trainer = Trainer::new(config, classes, |network, store| match &job.start {
        Start::Init(path) => {
            let file = checkpoint::File::open(path)?;
            let is_head = |name: &str| arch.is_head(name);
            let report = checkpoint::fine_tune(store, &file, is_head, |name| network.pretrained_names(name))?;
            reporter.message(&format!("weights from {}:\n{}", path.display(), report.table()));
            Ok(())
        }
        Start::Scratch | Start::Resume => Ok(()),
    })?;
    let mut position = Position::default();
    if job.start == Start::Resume {
        let newest = state::newest(&job.run.checkpoints()).ok_or_else(|| Error::NotARun {
            path: job.run.root().to_path_buf(),
            reason: "it has no checkpoint to resume from".into(),
        })?;
        position = state::restore(&newest, &mut trainer)?;
        reporter.message(&format!("resuming after step {} of {}", position.step, newest.display()));
    }
    let sampler =
        IdentitySampler::new(&dataset.train, config.sampler.ids, config.sampler.images, config.sampler.passes);
    let batches_per_epoch = sampler.batches();
    if position.batch > 0 && position.batches != batches_per_epoch {
        let Position { batch, batches: then, .. } = position;
        return Err(Error::OtherEpoch { batch, then, now: batches_per_epoch });
    }
    position.batches = batches_per_epoch;
    // Only now: settings that do not fit a run that is resumed must not replace its own.
    job.run.write_config(config)?;
    describe(job, &trainer);

    let schedule = config.schedule.per_step(batches_per_epoch as u64);
    let transform = eval::transform(config);
    let samples = Dataset::samples(&dataset.train);
    let cache = ImageCache::new(dataset.train.len(), &transform, config.data.cache_mb);
    let done_before = position.step;
    let mut metrics = job.run.metrics(|line| line["step"].as_u64().is_some_and(|step| step <= done_before))?;
    let last_step = config.train.max_steps.map_or(u64::MAX, |steps| steps as u64);
    let mut last_report = None;

    while position.epoch < config.schedule.epochs && position.step < last_step {
        if position.batch == 0 {
            trainer.begin_epoch();
        }
        let _epoch = profile::range(format_args!("epoch {}", position.epoch + 1));
        let batches = sampler.epoch(config.seed, position.epoch as u64);
        let options = LoaderOptions {
            transform,
            augment: Some(config.augment.clone()),
            seed: config.seed,
            epoch: position.epoch as u64,
            workers: eval::workers(config),
        };
        let loader = Loader::new(samples.clone(), &batches, position.batch, options, cache.clone());
        let title = format!("epoch {}/{}", position.epoch + 1, config.schedule.epochs);
        let mut task = reporter.start(&title, (batches.len() - position.batch) as u64, "steps");
        let mut sums = Sums::default();
        let begun = Instant::now();
        let mut loader = loader.peekable();
        loop {
            let data = profile::range("data");
            let Some(batch) = loader.next() else { break };
            let batch = batch?;
            // One that cannot be read is an error when its turn comes.
            let next = loader.peek().and_then(|next| next.as_ref().ok());
            drop(data);
            let _step = profile::range(format_args!("step {}", position.step + 1));
            let lr = schedule.lr(config.optim.lr, position.step);
            let report = trainer.step(&batch, next, lr).map_err(|error| with_files(error, dataset, &batch.indices))?;
            position.batch += 1;
            position.step += 1;
            sums.add(&report, batch.labels.len());
            task.advance(1, &format!("loss {:.4} acc {:.2} lr {lr:.2e}", report.loss, report.accuracy));
            if config.train.log_every > 0 && position.step % config.train.log_every as u64 == 0 {
                metrics.write(&json!({
                    "type": "step", "step": position.step, "epoch": position.epoch + 1, "lr": lr, "loss": report.loss,
                    "cross_entropy": report.cross_entropy, "triplet": report.triplet, "accuracy": report.accuracy,
                    "grad_norm": report.grad_norm,
                }))?;
            }
            if position.step >= last_step || job.stop.requested() {
                break;
            }
        }
        let whole = position.batch == batches.len();
        if whole {
            position.epoch += 1;
            position.batch = 0;
        }
        let done = position.epoch == config.schedule.epochs || position.step >= last_step;
        // An epoch that is broken off leaves no figures: it goes on when the run is resumed.
        if whole || done {
            task.finish(&sums.line());
            metrics.write(&sums.json(position, begun.elapsed().as_secs_f64()))?;
        } else {
            task.finish("stopped");
        }
        if !done && (!whole || job.stop.requested()) {
            save(job, &trainer, classes, position)?;
            curves::draw(job.run)?;
            return Ok(Outcome::Stopped(position));
        }
        let due = |every: usize| every > 0 && position.batch == 0 && position.epoch % every == 0;
        if done || due(config.train.checkpoint_every) {
            save(job, &trainer, classes, position)?;
        }
        if done || due(config.train.eval_every) {
            let report = evaluate(job, &mut trainer, evaluated)?;
            metrics.write(&json!({
                "type": "evaluation", "epoch": position.epoch, "step": position.step, "mAP": report.map,
                "mINP": report.minp, "rank1": report.rank(1),
            }))?;
            reporter.message(&format!("{report}"));
            last_report = Some(report);
        }
    }
    let report = match last_report {
        Some(report) => report,
        None => evaluate(job, &mut trainer, evaluated)?,
    };
    curves::draw(job.run)?;
    Ok(Outcome::Finished(Box::new(report)))
}

fn evaluate(job: &Job<'_>, trainer: &mut Trainer, dataset: &Dataset) -> Result<RankingReport> {
    let _evaluation = profile::range("evaluation");
    let Trainer { store, network, states, device, .. } = trainer;
    eval::evaluate_dataset(network.as_ref(), store, states, dataset, job.config, device, job.reporter)
}

fn save(job: &Job<'_>, trainer: &Trainer, classes: usize, position: Position) -> Result<()> {
    let _checkpoint = profile::range("checkpoint");
    let folder = job.run.checkpoints();
    let path = state::save(&folder, &format!("step-{}", position.step), trainer, classes, position)?;
    state::prune(&folder, KEEP_CHECKPOINTS)?;
    job.reporter.message(&format!("saved {}", path.display()));
    Ok(())
}

/// Says what will be trained, and how much memory it takes.
fn describe(job: &Job<'_>, trainer: &Trainer) {
    use crate::store::Group;
    let store = &trainer.store;
    let million = |group| store.count(group) as f64 / 1e6;
    let ptl = match store.count(Some(Group::Ptl)) {
        0 => String::new(),
        _ => format!(", {:.2} M in the PTL branch", million(Some(Group::Ptl))),
    };
    job.reporter.message(&format!("device: {}", trainer.device));
    job.reporter.message(&format!(
        "{}: {:.2} M parameters ({:.2} M of them trained){ptl}; {} MiB for activations and gradients of a batch",
        job.config.model.arch,
        million(None),
        trainer.trained_parameters() as f64 / 1e6,
        trainer.arena_bytes() >> 20,
    ));
}

/// Adds the batch's files to an error of a step.
fn with_files(error: Error, dataset: &Dataset, indices: &[usize]) -> Error {
    match error {
        Error::NonFinite { what, value, lr, .. } => {
            let files = indices.iter().take(4).map(|&i| dataset.train[i].path.display().to_string()).collect();
            Error::NonFinite { what, value, lr, files }
        }
        other => other,
    }
}

/// Sums over the steps of an epoch.
#[derive(Default)]
struct Sums {
    steps: usize,
    images: usize,
    loss: f64,
    cross_entropy: f64,
    triplet: f64,
    accuracy: f64,
}

impl Sums {
    fn add(&mut self, report: &StepReport, images: usize) {
        self.steps += 1;
        self.images += images;
        self.loss += report.loss;
        self.cross_entropy += report.cross_entropy;
        self.triplet += report.triplet;
        self.accuracy += report.accuracy;
    }

    fn mean(&self, sum: f64) -> f64 {
        sum / self.steps.max(1) as f64
    }

    fn line(&self) -> String {
        format!(
            "loss {:.4} (identity {:.4}, triplet {:.4}), accuracy {:.1} %",
            self.mean(self.loss),
            self.mean(self.cross_entropy),
            self.mean(self.triplet),
            100.0 * self.mean(self.accuracy),
        )
    }

    fn json(&self, position: Position, seconds: f64) -> serde_json::Value {
        json!({
            "type": "epoch", "epoch": position.epoch, "step": position.step, "loss": self.mean(self.loss),
            "cross_entropy": self.mean(self.cross_entropy), "triplet": self.mean(self.triplet),
            "accuracy": self.mean(self.accuracy), "images_per_second": self.images as f64 / seconds.max(1e-9),
        })
    }
}
