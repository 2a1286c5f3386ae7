//! The start of a run: at its first step, or at a checkpoint.

use super::cost::{self, Cost, DataSizes};
use super::resume::resume;
use super::run::{Job, Start, Training};
use super::state::{self, ModelInfo};
use super::task::Task;
use super::{Trainer, trainer, weights};
use crate::base::text::plural;
use crate::config::Config;
use crate::data::{ImageCache, Sampler};
use crate::engine::collective::Collective;
use crate::engine::device::{Device, DeviceOptions};
use crate::engine::store::Group;
use crate::model::{Position, Record, TrainingImages, check_alike};
use crate::nn::TaskKind;
use crate::{Error, Result};

impl<'a, T: Task> Training<'a, T> {
    /// Builds the network, fills or restores it, and prepares the folder of the run.
    pub(super) fn begin(job: &'a Job<'a, T>, ranks: &Collective) -> Result<Training<'a, T>> {
        let Job { config, task, .. } = *job;
        check_alike(ranks, config)?;
        let (device, sizes, cost) = prepare(config, task, ranks)?;
        let mut trainer =
            Trainer::of_ranks(ranks.clone(), device, config, task.classes(), |network, store| match &job.start {
                Start::Init(path) => weights::load(job, path, network, store),
                Start::Scratch | Start::Resume => Ok(()),
            })
            .map_err(|error| error.with_batch_settings(config.batch_settings()))?;
        let sampler = task.sampler(config);
        let updates = updates(job, sampler.as_ref())?;
        let samples = task.samples();
        // The sampler of identities draws each of them equally often, whatever its number of images.
        if config.task == TaskKind::Classify {
            let mut images_of_class = vec![0; task.classes()];
            samples.iter().for_each(|sample| images_of_class[sample.label as usize] += 1);
            trainer.weigh_classes(&images_of_class)?;
        }
        let images = TrainingImages::new(&samples, task.root());
        if !ranks.agree(&format!("{images:?}")) {
            let reason =
                "the processes see different training images: all need the same files, by a shared folder or by copies";
            return Err(Error::Ranks { reason: reason.into() });
        }
        let record = match job.start {
            Start::Resume => resume(job, &mut trainer, updates, images)?,
            Start::Scratch | Start::Init(_) => first_checkpoint(job, &mut trainer, updates, images)?,
        };
        trainer.check_agreement(": all need the same run folder, or the same file of `init`, on a shared folder")?;
        let position = record.position;
        // Written only now: refused settings change neither the settings nor the log of a resumed run. The first checkpoint is written
        // before the settings, so every folder with settings can be resumed.
        job.reporter.open_logs()?;
        job.run.write_config(config)?;
        describe(job, &trainer);
        let mut metrics =
            job.run.metrics(record.metrics, |line| line["step"].as_u64().is_some_and(|step| step <= position.step))?;
        if config.train.tensorboard {
            metrics = metrics.with_tensorboard(&job.run.tensorboard_path())?;
        }
        let transform = config.transform();
        let mut training = Training {
            job,
            trainer,
            saved: Some(position.step),
            record,
            metrics,
            schedule: config.schedule.per_step(updates as u64),
            updates: updates as u64,
            sampler,
            cache: ImageCache::new(
                samples.len(),
                &transform,
                cost::cache_mb(config, &cost, sizes) / ranks.local_ranks(),
            ),
            transform,
            samples,
            last_report: None,
        };
        if config.train.patience == 0 && training.record.best.take().is_some() {
            training.write_record()?;
        }
        training.prune()?;
        if !training.record.is_over(config) {
            // Results of an earlier end would be mistaken for those of the continued run.
            job.run.discard_results()?;
        }
        Ok(training)
    }
}

/// Returns the updates of an epoch. An incomplete group of batches is left out: its gradients would be lost at the end of the epoch.
fn updates<T: Task>(job: &Job<'_, T>, sampler: &dyn Sampler) -> Result<usize> {
    let accumulate = job.config.train.accumulate;
    match sampler.batches() / accumulate {
        0 => Err(Error::Setting {
            setting: "train.accumulate".into(),
            value: accumulate.to_string(),
            reason: format!("an epoch has {}: choose at most as many", plural(sampler.batches(), "batch", "batches")),
        }),
        updates => Ok(updates),
    }
}

/// Saves the initial weights, so that the run can be resumed whenever it ends.
fn first_checkpoint<T: Task>(
    job: &Job<'_, T>,
    trainer: &mut Trainer,
    updates: usize,
    images: TrainingImages,
) -> Result<Record> {
    let position = Position { batches: updates * job.config.train.accumulate, ..Position::default() };
    let record = Record { position, metrics: Some(0), images: Some(images), ..Record::default() };
    state::save(&job.run.checkpoints(), trainer, ModelInfo::of(&job.task.class_names()), &record)?;
    Ok(record)
}

/// Reports what is trained, and how much memory it takes.
fn describe<T: Task>(job: &Job<'_, T>, trainer: &Trainer) {
    let store = &trainer.store;
    let million = |group| store.count(group) as f64 / 1e6;
    let ptl = match store.count(Some(Group::Ptl)) {
        0 => String::new(),
        _ => format!(", {:.2} M in the PTL branch", million(Some(Group::Ptl))),
    };
    job.reporter.message(&format!("device: {}", trainer.device));
    if trainer.ranks.has_others() {
        let (ranks, images) = (trainer.ranks.ranks(), job.config.batch());
        job.reporter
            .message(&format!("{ranks} processes: each takes {} of the {images} images of a batch", images / ranks));
        if job.config.mixes() {
            job.reporter.message("images are mixed with others of the same process");
        }
    }
    if let Some(warning) = trainer.device.unused_gpu() {
        job.reporter.warn(&warning);
    }
    job.reporter.message(&format!(
        "{}: {:.2} M parameters ({:.2} M of them trained){ptl}; {} MiB for activations and gradients of a batch",
        job.config.model.arch,
        million(None),
        trainer.trained_parameters() as f64 / 1e6,
        trainer.arena_bytes() >> 20,
    ));
}

/// Checks the data, opens the device, and checks the memory before any of it is taken.
///
/// # Errors
/// Data that cannot be trained on or evaluated; a device that cannot be used; [`Error::OutOfMemory`].
fn prepare<T: Task>(config: &Config, task: &T, ranks: &Collective) -> Result<(Device, DataSizes, Cost)> {
    task.check(config)?;
    let device = Device::open(&DeviceOptions { local_rank: ranks.local_rank(), ..config.device_options() })?;
    trainer::ranks::check(ranks, config, &device)?;
    let batches = task.sampler(config).batches();
    let sizes = DataSizes { measured: task.measured(), batches };
    let cost = cost::ensure_training(config, task.classes(), sizes, &device, ranks)?;
    Ok((device, sizes, cost))
}
