//! Where a training begins: at its first step, or behind a checkpoint.

use super::run::{Job, Start, Training, info, load_weights, prepare};
use super::task::Task;
use super::{Trainer, cost, curves, labels, state};
use crate::base::text::{Shown, plural};
use crate::config::{Config, SETTINGS, Setting, setting};
use crate::data::{ImageCache, Sampler};
use crate::engine::store::Group;
use crate::model::{MODEL_FILE, Position, Record, Saved, TrainingImages, checkpoints};
use crate::{Error, Result};

impl<'a, T: Task> Training<'a, T> {
    /// Builds the network, fills it, and writes down in the run's folder that the training has begun.
    pub(super) fn begin(job: &'a Job<'a, T>) -> Result<Training<'a, T>> {
        let Job { config, task, .. } = *job;
        let (device, sizes, cost) = prepare(config, task)?;
        let mut trainer = Trainer::on(device, config, task.classes(), |network, store| match &job.start {
            Start::Init(path) => load_weights(job, path, network, store),
            Start::Scratch | Start::Resume => Ok(()),
        })?;
        let sampler = task.sampler(config);
        let updates = updates(job, sampler.as_ref())?;
        let samples = task.samples();
        let images = TrainingImages::new(&samples, task.root());
        let record = match job.start {
            Start::Resume => resume(job, &mut trainer, updates, images)?,
            Start::Scratch | Start::Init(_) => first_checkpoint(job, &mut trainer, updates, images)?,
        };
        let position = record.position;
        // Only now: settings that do not fit a run that is resumed must not replace its own, nor fill its log. The first checkpoint
        // is there before the settings, so a folder that has settings can be resumed.
        job.reporter.open_logs()?;
        job.run.write_config(config)?;
        describe(job, &trainer);
        let metrics =
            job.run.metrics(record.metrics, |line| line["step"].as_u64().is_some_and(|step| step <= position.step))?;
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
            cache: ImageCache::new(samples.len(), &transform, cost::cache_mb(config, &cost, sizes)),
            transform,
            samples,
            last_report: None,
        };
        if config.train.patience == 0 && training.record.best.take().is_some() {
            training.write_record()?;
        }
        training.prune()?;
        if !training.record.is_over(config) {
            // They are those of an earlier end, and would be taken for the results of what follows.
            job.run.discard_results()?;
        }
        Ok(training)
    }
}

/// Updates of an epoch: whole groups of batches, because one that is half done would be lost at the epoch's end.
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

/// Saves what the training starts from, so that a run can be resumed whenever it ends.
fn first_checkpoint<T: Task>(
    job: &Job<'_, T>,
    trainer: &mut Trainer,
    updates: usize,
    images: TrainingImages,
) -> Result<Record> {
    let position = Position { batches: updates * job.config.train.accumulate, ..Position::default() };
    let record = Record { position, metrics: Some(0), images: Some(images), ..Record::default() };
    state::save(&job.run.checkpoints(), trainer, info(&job.task.class_names()), &record)?;
    Ok(record)
}

/// Fills `trainer` from the newest checkpoint, if its run can go on with these settings and data.
fn resume<T: Task>(job: &Job<'_, T>, trainer: &mut Trainer, updates: usize, images: TrainingImages) -> Result<Record> {
    let Job { config, task, reporter, .. } = *job;
    let folder = job.run.checkpoints();
    checkpoints::heal(&folder)?;
    let newest = checkpoints::newest(&folder).ok_or_else(|| Error::NotARun {
        path: job.run.root().to_path_buf(),
        reason: "it has no checkpoint to resume from: start it again, with this folder as --out".into(),
    })?;
    let saved = Saved::open(&newest)?;
    refuse_other_shapes(&saved.header.config, config)?;
    labels::check(&newest.join(MODEL_FILE), &saved.header, &task.class_names(), config.task, reporter)?;
    let mut record = saved.record.clone();
    check_position(job, record.position, updates)?;
    let change = record.images.and_then(|then| images.change(&then));
    if record.is_finished(config) {
        refuse_changes(&saved.header.config, config)?;
        if let Some(change) = change {
            let reason = format!(
                "the run is finished, nothing is left to train, and {change}: measure it on other images with ptl-train evaluate"
            );
            return Err(Error::NotARun { path: job.run.root().into(), reason });
        }
    } else if record.position.step > 0 {
        refuse_mixtures(&saved.header.config, config)?;
    }
    if record.is_over(config) {
        reporter.message("nothing is left to train");
    }
    state::restore(&saved, trainer)?;
    if let Some(change) = change {
        reporter.warn(&change);
    }
    record.images = Some(images);
    let position = &mut record.position;
    reporter.message(&format!("resuming after step {} of {}", position.step, newest.shown()));
    let before = position.batches / saved.header.config.train.accumulate.max(1);
    if position.step > 0 && before != updates {
        reporter.message(&format!(
            "an epoch has {} now, and had {before}: the learning rate follows the epochs",
            plural(updates, "update", "updates")
        ));
    }
    position.batches = updates * config.train.accumulate;
    // Earlier versions noted evaluations in the metrics only.
    if record.metrics.is_none() && position.batch == 0 && curves::evaluated(job.run, position.epoch)? {
        record.evaluated = Some(position.step);
    }
    Ok(record)
}

/// Refuses other settings for a run that has nothing left to train: its settings would say what was never done, and its results
/// would not be those of its weights.
fn refuse_changes(then: &Config, now: &Config) -> Result<()> {
    // How long it trains, and where its data lie, may be said anew.
    const ALLOWED: [&str; 6] =
        ["schedule.epochs", "train.patience", "train.eval_every", "train.max_steps", "data.root", "data.target"];
    let differs = |setting: &&Setting| {
        setting.changes_results() && !ALLOWED.contains(&setting.path) && then.shown(setting) != now.shown(setting)
    };
    SETTINGS.iter().find(differs).map_or(Ok(()), |setting| {
        Err(Error::Setting {
            setting: format!("--{}", setting.flag()),
            value: now.shown(setting),
            reason: format!(
                "the run is finished, with {}: nothing is left to train; give more --epochs too, or measure it anew with ptl-train \
                 evaluate",
                then.shown(setting).shown()
            ),
        })
    })
}

/// Refuses settings that a run cannot have two of: its results would say one, and be of both.
fn refuse_mixtures(then: &Config, now: &Config) -> Result<()> {
    const ONE: [(&str, &str); 3] = [
        ("seed", "its weights and first steps are of that seed"),
        ("data.split", "images that it was trained on would be validated"),
        ("data.val_share", "images that it was trained on would be validated"),
    ];
    let setting_of = |path: &str| setting(path).expect("a setting");
    let differs = |(path, _): &&(&str, &str)| then.shown(setting_of(path)) != now.shown(setting_of(path));
    ONE.iter().find(differs).map_or(Ok(()), |(path, why)| {
        Err(Error::Setting {
            setting: format!("--{}", setting_of(path).flag()),
            value: now.shown(setting_of(path)),
            reason: format!(
                "the run has begun with {}, and {why}: leave the flag out, or start anew",
                then.shown(setting_of(path))
            ),
        })
    })
}

/// Refuses settings that make another network than the run's, or an optimiser with another state: nothing that was trained would
/// fit them.
fn refuse_other_shapes(then: &Config, now: &Config) -> Result<()> {
    let [stored, needed] = [then, now].map(|config| config.optim.optimizer().buffer_names());
    // AMSGrad first: with another rule too, that may be what makes the difference.
    const STATE: [&str; 3] = ["optim.amsgrad", "optim.kind", "optim.momentum"];
    let of_state = STATE.iter().filter(|_| stored != needed).filter_map(|path| setting(path)).map(|s| (s, "optimiser"));
    let of_network = SETTINGS.iter().filter(|s| s.makes_network()).map(|s| (s, "model"));
    let differs = |(setting, _): &(&Setting, &str)| then.shown(setting) != now.shown(setting);
    of_network.chain(of_state).find(differs).map_or(Ok(()), |(setting, what)| {
        Err(Error::Setting {
            setting: format!("--{}", setting.flag()),
            value: now.shown(setting),
            reason: format!(
                "the run has {}, and its checkpoint belongs to another {what}: leave the flag out, or start anew with --init",
                then.shown(setting).shown()
            ),
        })
    })
}

/// Refuses settings with which a run cannot go on from where it stands.
fn check_position<T: Task>(job: &Job<'_, T>, position: Position, updates: usize) -> Result<()> {
    let (epochs, accumulate) = (job.config.schedule.epochs, job.config.train.accumulate);
    let Position { epoch, batch, batches: then, .. } = position;
    if epochs < epoch + usize::from(batch > 0) {
        let begun = if batch > 0 { ", and the next is begun" } else { "" };
        return Err(Error::Setting {
            setting: "schedule.epochs".into(),
            value: epochs.to_string(),
            reason: format!(
                "the run has {} done{begun}: choose at least as many; nothing was changed",
                plural(epoch, "epoch", "epochs")
            ),
        });
    }
    if batch > 0 && then != updates * accumulate {
        return Err(Error::OtherEpoch { batch, then, now: updates * accumulate });
    }
    if !batch.is_multiple_of(accumulate) {
        return Err(Error::Setting {
            setting: "train.accumulate".into(),
            value: accumulate.to_string(),
            reason: format!("the run was stopped after batch {batch} of an epoch, within such a group: keep its own"),
        });
    }
    Ok(())
}

/// Says what will be trained, and how much memory it takes.
fn describe<T: Task>(job: &Job<'_, T>, trainer: &Trainer) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OptimKind;

    #[test]
    fn a_finished_run_keeps_the_settings_that_it_had() {
        let position = Position { epoch: 4, step: 40, ..Position::default() };
        let mut config = Config::default();
        config.schedule.epochs = 4;
        let finished = Record { position, evaluated: Some(40), ..Record::default() };
        assert!(finished.is_finished(&config));
        assert!(!Record { evaluated: Some(30), ..finished.clone() }.is_finished(&config), "it is not measured yet");
        let mut longer = config.clone();
        longer.schedule.epochs = 5;
        assert!(!finished.is_finished(&longer));
        // Its end were these steps.
        longer.train.max_steps = Some(40);
        assert!(finished.is_finished(&longer));

        let mut now = config.clone();
        now.threads += 1;
        now.data.root = "elsewhere".into();
        refuse_changes(&config, &now).unwrap();
        now.model.height += 32;
        let error = refuse_changes(&config, &now).unwrap_err().to_string();
        assert!(error.starts_with("--height = ") && error.contains("nothing is left to train"), "{error}");
    }

    #[test]
    fn what_makes_another_model_or_state_is_named_with_both_values() {
        let then = Config::default();
        type Change = fn(&mut Config);
        let refused: [(Change, &str); 5] = [
            (|c| c.model.width = 0.3, "--width = 0.3: the run has 1.0, and its checkpoint belongs to another model: "),
            (|c| c.model.arch = "resnet18".into(), "--arch = resnet18: the run has resnet50-ptl, and "),
            (|c| c.model.last_stride = 2, "--last-stride = 2: "),
            (
                |c| c.optim.kind = OptimKind::Sgd,
                "--optim = sgd: the run has adam, and its checkpoint belongs to another optimiser: ",
            ),
            (|c| c.optim.amsgrad = !c.optim.amsgrad, "--optim.amsgrad = "),
        ];
        for (change, part) in refused {
            let mut now = then.clone();
            change(&mut now);
            let error = refuse_other_shapes(&then, &now).unwrap_err().to_string();
            assert!(error.starts_with(part), "{error}");
        }
        let mut now = then.clone();
        (now.optim.kind, now.optim.momentum, now.optim.lr) = (OptimKind::AdamW, 0.5, 0.1);
        refuse_other_shapes(&then, &now).unwrap();
    }
}
