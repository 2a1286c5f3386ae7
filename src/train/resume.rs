//! Restores a run from its newest checkpoint, if its settings and data allow that.

use super::task::Task;
use super::{Job, Trainer, curves, labels, state};
use crate::base::text::{Shown, plural};
use crate::config::{Config, Setting};
use crate::model::{MODEL_FILE, Position, Record, Saved, TrainingImages, checkpoints};
use crate::{Error, Result};

/// Restores `trainer` from the newest checkpoint, and returns the record of the run.
///
/// # Errors
/// There is no checkpoint, it is broken, or the settings or data do not fit the run.
pub(super) fn resume<T: Task>(
    job: &Job<'_, T>,
    trainer: &mut Trainer,
    updates: usize,
    images: TrainingImages,
) -> Result<Record> {
    let Job { config, task, reporter, .. } = *job;
    let folder = job.run.checkpoints();
    if trainer.ranks.is_first() {
        checkpoints::heal(&folder)?;
    }
    trainer.ranks.barrier();
    let newest = checkpoints::newest(&folder).ok_or_else(|| Error::NotARun {
        path: job.run.root().to_path_buf(),
        reason: "it has no checkpoint to resume from: start it again, with this folder as `out`".into(),
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
            "an epoch has {} now, and had {before}: the learning rate follows the position in epochs",
            plural(updates, "update", "updates")
        ));
    }
    position.batches = updates * config.train.accumulate;
    // Earlier versions stored evaluations in the metrics only.
    if record.metrics.is_none() && position.batch == 0 && curves::evaluated(job.run, position.epoch)? {
        record.evaluated = Some(position.step);
    }
    Ok(record)
}

/// Refuses changed settings for a finished run: they would describe a training that never happened, and the results would not be
/// those of its weights.
fn refuse_changes(then: &Config, now: &Config) -> Result<()> {
    let counts = |setting: &Setting| setting.changes_results && !setting.is_free_at_end;
    now.first_difference(then, counts).map_or(Ok(()), |setting| {
        Err(Error::Setting {
            setting: format!("`{}`", setting.path),
            value: now.shown(setting),
            reason: format!(
                "the run is finished, with {}: nothing is left to train; give more `schedule.epochs` too, or measure it anew with \
                 ptl-train evaluate",
                then.shown(setting).shown()
            ),
        })
    })
}

/// Refuses to change settings that must stay the same in a run: its results would come from two values, but its settings name only one.
fn refuse_mixtures(then: &Config, now: &Config) -> Result<()> {
    const ONE: [(&str, &str); 4] = [
        ("seed", "its weights and first steps come from that seed"),
        ("data.split", "images of its training would be used for validation"),
        ("data.val_share", "images of its training would be used for validation"),
        ("loss.memory", "its checkpoint remembers embeddings for that size"),
    ];
    let why = |setting: &Setting| ONE.iter().find(|(path, _)| *path == setting.path).map(|(_, why)| why);
    now.first_difference(then, |setting| why(setting).is_some()).map_or(Ok(()), |setting| {
        Err(Error::Setting {
            setting: format!("`{}`", setting.path),
            value: now.shown(setting),
            reason: format!(
                "the run has begun with {}, and {}: leave the flag out, or start anew",
                then.shown(setting),
                why(setting).expect("one of those above"),
            ),
        })
    })
}

/// Refuses settings that change the network or the state of the optimiser: the checkpoint would not fit.
fn refuse_other_shapes(then: &Config, now: &Config) -> Result<()> {
    let [stored, needed] = [then, now].map(|config| config.optim.rule().buffer_names());
    // AMSGrad comes first: Adam and AdamW have the same state, so it may be the reason even if the rule has changed too.
    const STATE: [&str; 3] = ["optim.amsgrad", "optim.kind", "optim.momentum"];
    // Identities that are held out have no output of the classifier.
    let of_model = |setting: &Setting| setting.is_of_network || setting.path == "data.val_ids";
    let of_network = now.first_difference(then, of_model).map(|setting| (setting, "model"));
    let of_state = || {
        let changed = STATE
            .iter()
            .filter(|_| stored != needed)
            .find_map(|path| now.first_difference(then, |setting| setting.path == *path));
        changed.map(|setting| (setting, "optimiser"))
    };
    of_network.or_else(of_state).map_or(Ok(()), |(setting, what)| {
        Err(Error::Setting {
            setting: format!("`{}`", setting.path),
            value: now.shown(setting),
            reason: format!(
                "the run has {}, and its checkpoint belongs to another {what}: leave the flag out, or start anew with `init`",
                then.said(setting).shown()
            ),
        })
    })
}

/// Refuses settings with which a run cannot continue at `position`; `updates` is the number of updates that an epoch has now.
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
            reason: format!(
                "the run was stopped after batch {batch} of an epoch, within a group of batches: keep the run's value"
            ),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::optim::OptimKind;

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
        // The run ends at these steps.
        longer.train.max_steps = Some(40);
        assert!(finished.is_finished(&longer));

        let mut now = config.clone();
        now.threads += 1;
        now.data.root = "elsewhere".into();
        refuse_changes(&config, &now).unwrap();
        now.model.height += 32;
        let error = refuse_changes(&config, &now).unwrap_err().to_string();
        assert!(error.starts_with("`model.height` = ") && error.contains("nothing is left to train"), "{error}");
    }

    #[test]
    fn what_makes_another_model_or_state_is_named_with_both_values() {
        let then = Config::default();
        type Change = fn(&mut Config);
        let refused: [(Change, &str); 6] = [
            (
                |c| c.data.val_ids = 9,
                "`data.val_ids` = 9: the run has 0, and its checkpoint belongs to another model: ",
            ),
            (
                |c| c.model.width = 0.3,
                "`model.width` = 0.3: the run has 1.0, and its checkpoint belongs to another model: ",
            ),
            (|c| c.model.arch = "resnet18".into(), "`model.arch` = resnet18: the run has resnet50-ptl, and "),
            (|c| c.model.last_stride = 2, "`model.last_stride` = 2: "),
            (
                |c| c.optim.kind = OptimKind::Sgd,
                "`optim.kind` = sgd: the run has adam, and its checkpoint belongs to another optimiser: ",
            ),
            (|c| c.optim.amsgrad = !c.optim.amsgrad, "`optim.amsgrad` = "),
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
