//! Evaluations within a run, and its end.

use serde_json::{Map, Value, json};

use super::Trainer;
use super::run::{Job, Training};
use super::task::{Report, Task};
use crate::base::profile;
use crate::base::stop::StopFlag;
use crate::base::text::plural;
use crate::eval::Model;
use crate::io::checkpoint;
use crate::model::{Best, MODEL_FILE, Position, Record, checkpoints, load_latent_states};
use crate::{Error, Result};

impl<T: Task> Training<'_, T> {
    /// Returns whether the network is to be evaluated now.
    pub(super) fn evaluation_is_due(&self) -> bool {
        let due = self.record.at_end(self.job.config) || self.every(self.job.config.train.eval_every);
        due && self.record.evaluated != Some(self.record.position.step)
    }

    /// Evaluates the network, and writes the result to metrics and record.
    pub(super) fn evaluate_and_note(&mut self) -> Result<()> {
        let Position { epoch, step, .. } = self.record.position;
        let report = self.evaluate()?;
        let mut line = report.figures();
        line.extend(figures(json!({ "type": "evaluation", "epoch": epoch, "step": step })));
        self.metrics.write(&line)?;
        self.record.evaluated = Some(step);
        if self.job.config.train.patience > 0 {
            self.note_best(&report);
            // Every rank has computed the score itself; that of rank 0 decides.
            let best = serde_json::to_string(&self.record.best).expect("numbers are plain data");
            let best = self.trainer.ranks.broadcast_text(&best);
            self.record.best = serde_json::from_str(&best).expect("written by rank 0");
        }
        if self.saved == Some(step) {
            self.write_record()?;
            self.prune()?;
        }
        // The caller shows the final result.
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

    /// Updates the best evaluation. The weights of `report` are those of the newest checkpoint.
    fn note_best(&mut self, report: &T::Report) {
        let (score, Position { epoch, step, .. }) = (report.score().1, self.record.position);
        match &mut self.record.best {
            Some(best) if score <= best.score => best.evaluations_since += 1,
            best => *best = Some(Best { score, epoch, evaluations_since: 0, step: Some(step) }),
        }
    }

    /// Evaluates the network, with the moving average of its weights if there is one.
    fn evaluate(&mut self) -> Result<T::Report> {
        self.trainer.swap_average();
        let report = self.measure();
        self.trainer.swap_average();
        report
    }

    /// Evaluates the network with its current weights.
    fn measure(&mut self) -> Result<T::Report> {
        let _evaluation = profile::range("evaluation");
        let Job { config, task, reporter, stop, .. } = *self.job;
        if self.stop_requested() {
            return Err(Error::Stopped);
        }
        self.trainer.share_statistics()?;
        let Trainer { store, network, states, device, ranks, .. } = &mut self.trainer;
        let states = states.gathered()?;
        // With several processes, a request to stop waits for the end of the evaluation.
        let stop = if ranks.has_others() { StopFlag::default() } else { stop.clone() };
        task.evaluate(Model {
            network: network.as_ref(),
            store,
            states: &states,
            options: config.inference(),
            device,
            ranks: ranks.clone(),
            reporter,
            stop,
        })
    }

    /// Loads the best weights and evaluates them.
    fn evaluate_best(&mut self, best: &Best) -> Result<T::Report> {
        self.job.reporter.message(&format!("the weights after epoch {}:", best.epoch));
        let model = checkpoints::of_best(&self.job.run.checkpoints(), best).join(MODEL_FILE);
        self.trainer.fetch()?;
        checkpoint::load_exact(&mut self.trainer.store, &checkpoint::File::open(&model)?, None)?;
        let decls = self.trainer.state_decls().to_vec();
        load_latent_states(&model, &decls, &mut self.trainer.states)?;
        self.measure()
    }

    /// Writes the results of a run that is over.
    pub(super) fn finish(&mut self) -> Result<T::Report> {
        let Job { config, task, run, .. } = *self.job;
        let Record { position, best, sums, .. } = self.record.clone();
        // The checkpoint's record does not count this line, so a run that is continued drops it and completes the epoch.
        if position.batch > 0 && sums.steps > 0 {
            self.metrics.write(&sums.json(position.epoch + 1, position.step))?;
        }
        let report = match (best, self.last_report.take()) {
            (Some(best), _) if best.evaluations_since > 0 => self.evaluate_best(&best)?,
            (_, Some(report)) => report,
            (_, None) => self.evaluate()?,
        };
        if self.trainer.ranks.is_first() {
            let mut summary = task.describe();
            summary.extend(report.summary());
            task.write_details(&report, run, config)?;
            // Written last: a run with a summary is finished.
            run.write_summary(&summary)?;
        }
        Ok(report)
    }
}

/// Returns the fields of a JSON object.
fn figures(value: Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}
