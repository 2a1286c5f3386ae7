//! A training step on a GPU.

use std::ops::Range;

use super::recorded::Part;
use super::{Trainer, check_finite};
use crate::Result;
use crate::base::profile;
use crate::data::Batch;
use crate::engine::device::{Gpu, Grid, Ptr, kernels};
use crate::model::StepReport;

impl Trainer {
    /// Runs [`Trainer::step`] on a GPU. Everything is enqueued or replayed before the first number is read. If the gradient is not
    /// finite, the kernels of the update change no parameters.
    pub(super) fn step_on_gpu(
        &mut self,
        gpu: &Gpu,
        labels: &[u32],
        all_labels: &[u32],
        part: Part,
        next: Option<&Batch>,
        lr: f64,
    ) -> Result<StepReport> {
        let share = self.share(labels, all_labels);
        let (segments, loss_weights) = (self.segments(lr), self.loss_weights(share as f32));
        let batch = labels.len();
        self.session.begin_step(&mut self.store, &mut self.states)?;
        let bound = self.session.bind(&mut self.store, &mut self.states)?;
        let update = self.optimizer.bind(gpu, &segments)?;
        // The update writes the parameters, which the session only reads.
        self.store.values.on_device_mut(gpu)?;
        let recorded = self.recorded.as_mut().expect("made with the session");
        let (session, store, optimizer, vars) = (&self.session, &self.store, &self.optimizer, &self.vars);
        let (clip_norm, classes) = (self.config.optim.clip_norm, session.graph().shape(vars.logits[0]).c);
        let labels = session.address(vars.labels).cast();
        let exchanged = if part.updates() { &self.buckets[..] } else { &[] };
        let len = store.grads.len();
        let sum = if part == Part::Whole { Ptr::NULL } else { self.summed.on_device_mut(gpu)? };
        let losses = vars.losses().into_iter().flatten().map(|&loss| session.address(loss).cast());
        let hits = recorded.hits();
        let hit_counts = (0..vars.logits.len()).map(|i| hits.add(i));
        let places: Vec<Ptr<f32>> = losses.chain(hit_counts).chain([update.norm]).collect();
        recorded.run(gpu, part, &bound, &update, places, &mut || {
            session.launch_forward(store, &bound)?;
            for (i, &logits) in vars.logits.iter().enumerate() {
                let logits = session.address(logits);
                kernels::top1_hits(gpu, 1, logits, labels, hits.add(i), batch as i32, classes as i32)?;
            }
            for &(loss, weight) in &loss_weights {
                session.launch_grad(loss, weight)?;
            }
            let add = |from, to, len: usize, accumulate| {
                kernels::put_f32(gpu, Grid::any(len), from, to, len as i64, accumulate)
            };
            // Adds the sum of earlier batches to the gradients in a range.
            let add_earlier = |range: &Range<usize>| match part {
                Part::Last => add(sum.add(range.start), bound.grads.add(range.start), range.len(), 1),
                _ => Ok(()),
            };
            session.launch_backward(store, &bound, exchanged, &mut |range| {
                let _exchange = profile::range("gradients of all ranks");
                add_earlier(range)?;
                gpu.begin_sum(bound.grads.add(range.start), range.len())
            })?;
            match part {
                Part::First => return add(bound.grads, sum, len, 0),
                Part::Middle => return add(bound.grads, sum, len, 1),
                Part::Whole | Part::Last if exchanged.is_empty() => add_earlier(&(0..len))?,
                Part::Whole | Part::Last => gpu.finish_sums()?,
            }
            let _optimizer = profile::range("optimizer");
            optimizer.launch(gpu, &update, bound.values, bound.grads, clip_norm)
        })?;

        self.session.end_step(&mut self.states)?;
        if let Some(next) = next {
            self.session.stage_images(self.vars.images, next)?;
        }

        let _read = profile::range("wait for the GPU");
        let (read, vars) = (recorded.read(gpu)?, &self.vars);
        let (cross_entropies, rest) = read.split_at(vars.cross_entropies.len());
        let (triplets, rest) = rest.split_at(vars.triplets.len());
        let (centers, rest) = rest.split_at(vars.center_losses.len());
        let (hits, norm) = rest.split_at(vars.logits.len());
        let mut losses = [cross_entropies, triplets, centers].map(<[f64]>::to_vec);
        let mut hits = hits.to_vec();
        self.sum_of_ranks(&mut losses, &mut hits, share);
        let mut report = self.report([0, 1, 2].map(|kind| &losses[kind][..]), &hits, all_labels.len());
        check_finite("loss", report.loss, lr)?;
        if part.updates() {
            let [norm] = *norm else { unreachable!("the norm is the last number") };
            check_finite("gradient norm", norm, lr)?;
            report.grad_norm = Some(norm);
            self.optimizer.count_step();
        }
        Ok(report)
    }
}
