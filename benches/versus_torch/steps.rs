//! Training steps.

use std::path::Path;

use ptl::config::Config;
use ptl::data::Batch;
use ptl::engine::device::Device;
use ptl::engine::optim::OptimKind;
use ptl::nn::TaskKind;
use ptl::train::Trainer;
use serde::Deserialize;

use crate::work::{Check, Run, Work, seconds};
use crate::{images, weights};

/// A network, its losses and its optimiser.
#[derive(Deserialize)]
pub struct StepSpec {
    task: TaskKind,
    arch: String,
    size: [usize; 2],
    batch: usize,
    images_per_id: usize,
    classes: usize,
    optimizer: OptimKind,
    lr: f64,
    weight_decay: f32,
    label_smoothing: f32,
    margin: f32,
}

/// A trainer that makes the same step again and again.
pub struct Step {
    trainer: Trainer,
    batch: Batch,
    lr: f64,
}

/// Steps of a check: from the second on, a loss tells whether gradients and updates are equal too.
const CHECKED: usize = 3;

impl Step {
    /// Builds the network, and writes its weights.
    pub fn new(folder: &Path, spec: StepSpec) -> Step {
        let mut config = Config::recipe(spec.task, &spec.arch);
        [config.model.height, config.model.image_width] = spec.size;
        match spec.task {
            TaskKind::Classify => config.sampler.batch = spec.batch,
            TaskKind::Reid => {
                (config.sampler.ids, config.sampler.images) = (spec.batch / spec.images_per_id, spec.images_per_id);
            }
        }
        (config.optim.kind, config.optim.weight_decay) = (spec.optimizer, spec.weight_decay);
        (config.loss.label_smoothing, config.loss.triplet_margin) = (spec.label_smoothing, spec.margin);
        let mut trainer = Trainer::on(Device::cpu(), &config, spec.classes, |_, _| Ok(())).expect("a network");
        weights::settle_and_write(folder, &mut trainer.store);
        Step { trainer, batch: images::batch(folder), lr: spec.lr }
    }
}

impl Work for Step {
    fn check(&mut self) -> Check {
        let mut step = || self.trainer.step(&self.batch, None, self.lr).expect("a finite loss");
        let first = step();
        let check = Check::default()
            .scalar("loss of step 1", first.loss)
            .derivative("norm of the gradient", first.grad_norm.expect("a step that updates"));
        (2..=CHECKED).fold(check, |check, number| check.derivative(format!("loss of step {number}"), step().loss))
    }

    fn run(&mut self) -> Run {
        let mut loss = None;
        let seconds =
            seconds(|| loss = Some(self.trainer.step(&self.batch, None, self.lr).expect("a finite loss").loss));
        Run { seconds, loss, ..Run::default() }
    }
}
