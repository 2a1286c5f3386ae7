//! A training step on the CPU.

use rayon::prelude::*;

use super::recorded::Part;
use super::{Trainer, check_finite};
use crate::Result;
use crate::base::profile;
use crate::engine::graph::Var;
use crate::engine::optim;
use crate::model::StepReport;

impl Trainer {
    /// Runs [`Trainer::step`] on the CPU.
    pub(super) fn step_on_cpu(
        &mut self,
        labels: &[u32],
        all_labels: &[u32],
        part: Part,
        lr: f64,
    ) -> Result<StepReport> {
        self.session.forward(&mut self.store, &mut self.states)?;
        let values =
            |vars: &[Var]| vars.iter().map(|&v| Ok(f64::from(self.session.value(v)?[0]))).collect::<Result<Vec<_>>>();
        let hits = self.vars.logits.iter().map(|&v| Ok(top1_hits(&self.session.value(v)?, labels)));
        let mut hits: Vec<f64> = hits.collect::<Result<_>>()?;
        let mut losses: Vec<Vec<f64>> = self.vars.losses().into_iter().map(values).collect::<Result<_>>()?;
        let share = self.share(labels, all_labels);
        self.sum_of_ranks(&mut losses, &mut hits, share);
        let mut report = self.report([0, 1, 2].map(|kind| &losses[kind][..]), &hits, all_labels.len());
        check_finite("loss", report.loss, lr)?;
        for (loss, weight) in self.loss_weights(share as f32) {
            self.session.set_grad(loss, &[weight])?;
        }
        self.session.backward(&mut self.store, &mut self.states)?;
        let add = |to: &mut [f32], from: &[f32]| to.par_iter_mut().zip(from).for_each(|(to, from)| *to += from);
        match part {
            Part::Whole => {}
            Part::First => self.summed.copy_from_slice(&self.store.grads),
            Part::Middle => add(&mut self.summed, &self.store.grads),
            Part::Last => add(&mut self.store.grads, &self.summed),
        }
        if !part.updates() {
            return Ok(report);
        }
        if self.ranks.has_others() {
            let _exchange = profile::range("gradients of all ranks");
            for segment in self.segments(lr) {
                self.ranks.sum(&mut self.store.grads[segment.range]);
            }
        }

        let _optimizer = profile::range("optimizer");
        let segments = self.segments(lr);
        let norm = if self.config.optim.clip_norm > 0.0 {
            optim::clip_grad_norm(&mut self.store.grads, &segments, f64::from(self.config.optim.clip_norm))
        } else {
            optim::global_norm(&self.store.grads, &segments)
        };
        check_finite("gradient norm", norm, lr)?;
        report.grad_norm = Some(norm);
        self.optimizer.step(&mut self.store.values, &self.store.grads, &segments);
        Ok(report)
    }
}

/// Counts the rows in which the label has the largest logit.
fn top1_hits(logits: &[f32], labels: &[u32]) -> f64 {
    let classes = logits.len() / labels.len();
    let best = |row: &[f32]| (0..classes).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0);
    logits.chunks_exact(classes).zip(labels).filter(|(row, label)| best(row) == **label as usize).count() as f64
}
