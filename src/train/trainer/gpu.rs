//! A training step on a GPU.

use super::recorded::Part;
use super::{Trainer, check_finite};
use crate::Result;
use crate::base::profile;
use crate::data::Batch;
use crate::engine::device::{Gpu, Grid, Ptr, kernels};
use crate::engine::optim::Segment;
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
        let (labels, shared) = (session.address(vars.labels).cast(), self.ranks.has_others());
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
            session.launch_backward(store, &bound)?;
            let add = |from, to, accumulate| kernels::put_f32(gpu, Grid::any(len), from, to, len as i64, accumulate);
            match part {
                Part::Whole => {}
                Part::First => return add(bound.grads, sum, 0),
                Part::Middle => return add(bound.grads, sum, 1),
                Part::Last => add(sum, bound.grads, 1)?,
            }
            if shared {
                let _exchange = profile::range("gradients of all ranks");
                for Segment { range, .. } in &segments {
                    gpu.all_reduce(bound.grads.add(range.start), range.len(), false)?;
                }
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
