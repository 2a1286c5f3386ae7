//! The loop: read it from top to bottom.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::state::{self, Best, ModelInfo, Position};
use super::task::{Report, Task};
use super::{StepReport, Trainer, curves};
use crate::checkpoint::{self, FineTune, Names};
use crate::config::Config;
use crate::data::{ImageCache, Loader, LoaderOptions, Sample};
use crate::eval::{self, Model};
use crate::nn::Network;
use crate::progress::Reporter;
use crate::run_dir::{Metrics, RunDir};
use crate::stop::StopFlag;
use crate::store::Store;
use crate::text::Shown;
use crate::{Error, Result, profile};

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
    /// Set to stop after the current step, with a checkpoint.
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
    let Job { config, task, reporter, .. } = *job;
    task.check(config)?;
    let mut trainer = Trainer::new(config, task.classes(), |network, store| match &job.start {
        Start::Init(path) => load_weights(job, path, network, store),
        Start::Scratch | Start::Resume => Ok(()),
    })?;
    let mut position = Position::default();
    if job.start == Start::Resume {
        let newest = state::newest(&job.run.checkpoints()).ok_or_else(|| Error::NotARun {
            path: job.run.root().to_path_buf(),
            reason: "it has no checkpoint to resume from".into(),
        })?;
        check_classes(task, &newest)?;
        position = state::restore(&newest, &mut trainer)?;
        reporter.message(&format!("resuming after step {} of {}", position.step, newest.shown()));
    }
    let samples = task.samples();
    let sampler = task.sampler(config);
    // Whole groups of batches: an update that is half done would be lost at the epoch's end.
    let updates = sampler.batches() / config.train.accumulate;
    let batches_per_epoch = updates * config.train.accumulate;
    if updates == 0 {
        return Err(Error::Setting {
            setting: "train.accumulate".into(),
            value: config.train.accumulate.to_string(),
            reason: format!("an epoch has {} batches: choose at most as many", sampler.batches()),
        });
    }
    if position.batch > 0 && position.batches != batches_per_epoch {
        let Position { batch, batches: then, .. } = position;
        return Err(Error::OtherEpoch { batch, then, now: batches_per_epoch });
    }
    if !position.batch.is_multiple_of(config.train.accumulate) {
        return Err(Error::Setting {
            setting: "train.accumulate".into(),
            value: config.train.accumulate.to_string(),
            reason: format!(
                "the run was stopped after batch {} of an epoch, within such a group: keep its own",
                position.batch
            ),
        });
    }
    position.batches = batches_per_epoch;
    // Only now: settings that do not fit a run that is resumed must not replace its own, nor undo its results.
    job.run.write_config(config)?;
    job.run.discard_results()?;
    if config.train.patience == 0 {
        position.best = None;
        state::discard(&job.run.checkpoints(), state::BEST)?;
    }
    describe(job, &trainer);

    let schedule = config.schedule.per_step(updates as u64);
    let transform = eval::transform(config);
    let cache = ImageCache::new(samples.len(), &transform, config.data.cache_mb);
    let done_before = position.step;
    let mut metrics = job.run.metrics(|line| line["step"].as_u64().is_some_and(|step| step <= done_before))?;
    let last_step = config.train.max_steps.map_or(u64::MAX, |steps| steps as u64);
    let mut last_report = None;
    let due =
        |every: usize, position: Position| every > 0 && position.batch == 0 && position.epoch.is_multiple_of(every);
    // A run that died between the end of an epoch and its evaluation.
    if position.epoch > 0 && due(config.train.eval_every, position) && !curves::evaluated(job.run, position.epoch)? {
        last_report = Some(note_evaluation(job, &mut trainer, &mut position, &mut metrics)?);
    }

    while position.epoch < config.schedule.epochs && position.step < last_step && !out_of_patience(config, position) {
        if position.batch == 0 {
            trainer.begin_epoch();
        }
        let _epoch = profile::range(format_args!("epoch {}", position.epoch + 1));
        let mut batches = sampler.epoch(config.seed, position.epoch as u64);
        batches.truncate(batches_per_epoch);
        let options = LoaderOptions {
            transform,
            augment: Some(config.augment.clone()),
            seed: config.seed,
            epoch: position.epoch as u64,
            workers: eval::workers(config),
        };
        let loader = Loader::new(samples.clone(), &batches, position.batch, options, cache.clone());
        let title = format!("epoch {}/{}", position.epoch + 1, config.schedule.epochs);
        let mut bar = reporter.start(&title, (batches.len() - position.batch) as u64, "steps");
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
            let report = trainer.step(&batch, next, lr).map_err(|error| with_files(error, &samples, &batch.indices))?;
            position.batch += 1;
            sums.add(&report, batch.labels.len());
            bar.advance(1, &format!("loss {:.4} acc {:.2} lr {lr:.2e}", report.loss, report.accuracy));
            if !trainer.between_updates() {
                continue;
            }
            position.step += 1;
            if config.train.log_every > 0 && position.step % config.train.log_every as u64 == 0 {
                let mut line = json!({
                    "type": "step", "step": position.step, "epoch": position.epoch + 1, "lr": lr, "loss": report.loss,
                    "cross_entropy": report.cross_entropy, "accuracy": report.accuracy, "grad_norm": report.grad_norm,
                });
                if let Some(triplet) = report.triplet {
                    line["triplet"] = json!(triplet);
                }
                metrics.write(&line)?;
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
            bar.finish(&sums.line());
            metrics.write(&sums.json(position, begun.elapsed().as_secs_f64()))?;
        } else {
            bar.finish("stopped");
        }
        let stop = !done && (!whole || job.stop.requested());
        if done || stop || due(config.train.checkpoint_every, position) {
            save(job, &mut trainer, position)?;
        }
        if done || due(config.train.eval_every, position) {
            last_report = Some(note_evaluation(job, &mut trainer, &mut position, &mut metrics)?);
        }
        // An epoch that ends with the request is evaluated first: a resumed run starts with the next one.
        if stop && !out_of_patience(config, position) {
            curves::draw(job.run)?;
            return Ok(Outcome::Stopped(position));
        }
    }
    let report = match (position.best, last_report) {
        (Some(best), _) if best.evaluations_since > 0 => evaluate_best(job, &mut trainer, best)?,
        (_, Some(report)) => report,
        (_, None) => evaluate(job, &mut trainer)?,
    };
    let mut summary = task.describe();
    summary.extend(report.summary());
    task.write_details(&report, job.run)?;
    // Last: a run that has it is finished.
    job.run.write_summary(&summary)?;
    curves::draw(job.run)?;
    Ok(Outcome::Finished(Box::new(report)))
}

/// Refuses to go on with other classes than a checkpoint has.
fn check_classes<T: Task>(task: &T, checkpoint: &Path) -> Result<()> {
    let path = checkpoint.join(state::MODEL_FILE);
    let header = state::model_header(&path, &checkpoint::File::open(&path)?)?;
    if header.class_names == task.class_names() {
        return Ok(());
    }
    let new = task.class_names().iter().zip(&header.class_names).find(|(now, then)| now != then);
    let example = new.map_or_else(String::new, |(now, then)| format!(", {now} in the place of {then} for one"));
    let reason =
        format!("the data have other classes than the run{example}: resume with its data, or start anew with --init");
    Err(Error::Checkpoint { path, reason })
}

/// Fills `store` from the file `path`, as far as it fits.
fn load_weights<T: Task>(job: &Job<'_, T>, path: &Path, network: &dyn Network, store: &mut Store) -> Result<()> {
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
        let named = state::has_header(&file).then(|| state::model_header(path, &file)).transpose()?;
        let same = named.is_none_or(|header| header.class_names == task.class_names());
        if !(fits && same) {
            let classes = task.classes();
            let reason = format!(
                "its classifier is not {}'s of these {classes} classes: leave --keep-head out",
                config.model.arch
            );
            return Err(Error::Checkpoint { path: path.into(), reason });
        }
    }
    job.reporter.message(&format!("weights from {}{}:\n{}", path.shown(), file.choice(), report.table()));
    if let Some(partial) = &report.partial {
        job.reporter.warn(&format!("--init-partial: {partial}"));
    }
    Ok(())
}

/// Measures, and writes down what came out.
fn note_evaluation<T: Task>(
    job: &Job<'_, T>,
    trainer: &mut Trainer,
    position: &mut Position,
    metrics: &mut Metrics,
) -> Result<T::Report> {
    let report = evaluate(job, trainer)?;
    let mut line = report.figures();
    line.extend(figures(json!({ "type": "evaluation", "epoch": position.epoch, "step": position.step })));
    job.reporter.message(&format!("{report}"));
    if job.config.train.patience > 0 {
        keep_best(job, trainer, position, &report)?;
    }
    metrics.write(&line)?;
    Ok(report)
}

/// Measures the network, or the moving average of its weights.
fn evaluate<T: Task>(job: &Job<'_, T>, trainer: &mut Trainer) -> Result<T::Report> {
    trainer.swap_average();
    let report = measure(job, trainer);
    trainer.swap_average();
    report
}

fn measure<T: Task>(job: &Job<'_, T>, trainer: &mut Trainer) -> Result<T::Report> {
    let _evaluation = profile::range("evaluation");
    let Trainer { store, network, states, device, .. } = trainer;
    let (config, reporter) = (job.config, job.reporter);
    job.task.evaluate(Model { network: network.as_ref(), store, states, config, device, reporter })
}

/// Whether evaluations have not become better for as long as the settings allow.
fn out_of_patience(config: &Config, position: Position) -> bool {
    let patience = config.train.patience;
    patience > 0 && position.best.is_some_and(|best| best.evaluations_since >= patience)
}

/// Notes how `report` compares with the best before, and saves a better one.
fn keep_best<T: Task>(
    job: &Job<'_, T>,
    trainer: &mut Trainer,
    position: &mut Position,
    report: &T::Report,
) -> Result<()> {
    let (name, score) = report.score();
    match &mut position.best {
        Some(best) if score <= best.score => best.evaluations_since += 1,
        best => {
            *best = Some(Best { score, epoch: position.epoch, evaluations_since: 0 });
            state::save(&job.run.checkpoints(), state::BEST, trainer, info(job.task), *position)?;
        }
    }
    if out_of_patience(job.config, *position)
        && let Some(best) = position.best
    {
        job.reporter.message(&format!(
            "no better {name} in {} evaluations: training ends; the best was {:.2} % after epoch {}",
            best.evaluations_since,
            100.0 * best.score,
            best.epoch
        ));
    }
    // Once more: what was noted above belongs to it.
    save(job, trainer, *position)
}

/// Measures the best weights.
fn evaluate_best<T: Task>(job: &Job<'_, T>, trainer: &mut Trainer, best: Best) -> Result<T::Report> {
    job.reporter.message(&format!("the weights after epoch {}:", best.epoch));
    let model = job.run.checkpoints().join(state::BEST).join(state::MODEL_FILE);
    checkpoint::load_exact(&mut trainer.store, &checkpoint::File::open(&model)?, None)?;
    let decls = trainer.state_decls().to_vec();
    state::load_latent_states(&model, &decls, &mut trainer.states)?;
    measure(job, trainer)
}

fn save<T: Task>(job: &Job<'_, T>, trainer: &mut Trainer, position: Position) -> Result<()> {
    let _checkpoint = profile::range("checkpoint");
    let folder = job.run.checkpoints();
    let path = state::save(&folder, &format!("step-{}", position.step), trainer, info(job.task), position)?;
    state::prune(&folder, KEEP_CHECKPOINTS)?;
    job.reporter.message(&format!("saved {}", path.shown()));
    Ok(())
}

fn info<T: Task>(task: &T) -> ModelInfo<'_> {
    ModelInfo { classes: task.classes(), class_names: task.class_names() }
}

fn figures(value: Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

/// Says what will be trained, and how much memory it takes.
fn describe<T: Task>(job: &Job<'_, T>, trainer: &Trainer) {
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
fn with_files(error: Error, samples: &[Sample], indices: &[usize]) -> Error {
    match error {
        Error::NonFinite { what, value, lr, .. } => {
            let files = indices.iter().take(4).map(|&i| samples[i].image.to_string()).collect();
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
    triplet: Option<f64>,
    accuracy: f64,
}

impl Sums {
    fn add(&mut self, report: &StepReport, images: usize) {
        self.steps += 1;
        self.images += images;
        self.loss += report.loss;
        self.cross_entropy += report.cross_entropy;
        if let Some(triplet) = report.triplet {
            *self.triplet.get_or_insert(0.0) += triplet;
        }
        self.accuracy += report.accuracy;
    }

    fn mean(&self, sum: f64) -> f64 {
        sum / self.steps.max(1) as f64
    }

    fn line(&self) -> String {
        let (loss, accuracy) = (self.mean(self.loss), 100.0 * self.mean(self.accuracy));
        let parts = self.triplet.map_or_else(String::new, |triplet| {
            format!(" (identity {:.4}, triplet {:.4})", self.mean(self.cross_entropy), self.mean(triplet))
        });
        format!("loss {loss:.4}{parts}, accuracy {accuracy:.1} %")
    }

    fn json(&self, position: Position, seconds: f64) -> Value {
        let mut line = json!({
            "type": "epoch", "epoch": position.epoch, "step": position.step, "loss": self.mean(self.loss),
            "cross_entropy": self.mean(self.cross_entropy), "accuracy": self.mean(self.accuracy),
            "images_per_second": self.images as f64 / seconds.max(1e-9),
        });
        if let Some(triplet) = self.triplet {
            line["triplet"] = json!(self.mean(triplet));
        }
        line
    }
}
