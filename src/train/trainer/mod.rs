//! One training step: batch in, parameters moved, losses out.

mod cpu;
mod gpu;
mod recorded;

use crate::config::Config;
use crate::data::Batch;
use crate::engine::device::{Device, Mirrored};
use crate::engine::graph::{Graph, Mode, Var};
use crate::engine::latent_state::{LatentStates, StatePolicy};
use crate::engine::op;
use crate::engine::optim::{Ema, Optimizer, Segment};
use crate::engine::session::Session;
use crate::engine::shape::Shape;
use crate::engine::store::{Group, Store};
use crate::model::StepReport;
use crate::nn::Network;
use crate::{Error, Result};
use recorded::{Part, Recorded};

/// A model with its numbers, memory and optimiser.
pub struct Trainer {
    pub store: Store,
    pub network: Box<dyn Network>,
    pub states: LatentStates,
    pub optimizer: Optimizer,
    pub device: Device,
    session: Session,
    ends: StepVars,
    /// Steps on a GPU.
    recorded: Option<Recorded>,
    /// Gradients of the batches of a group so far; empty where every batch updates.
    summed: Mirrored,
    /// Batches of a group that are done.
    batches_done: usize,
    ema: Option<Ema>,
    config: Config,
}

/// What a step sets and reads.
pub(super) struct StepVars {
    images: Var,
    labels: Var,
    /// Shares of the classes, where images are mixed.
    targets: Option<Var>,
    logits: Vec<Var>,
    /// One for each of `logits`; their mean counts.
    cross_entropies: Vec<Var>,
    /// One for each embedding, if any; their mean counts.
    triplets: Vec<Var>,
}

/// What a training step computes, for batches of [`Config::batch`] images.
pub(super) fn record(
    config: &Config,
    classes: usize,
    network: &dyn Network,
    store: &Store,
) -> Result<(Graph, StepVars)> {
    let batch = config.batch();
    let mut graph = Graph::new(Mode::Train).freeze_backbone_bn(config.train.freeze_bn);
    let images = graph.input(Shape::new(batch, config.model.height, config.model.image_width, 3));
    let labels = graph.labels(batch);
    let mixes = config.augment.mixup > 0.0 || config.augment.cutmix > 0.0;
    let targets = mixes.then(|| graph.targets(Shape::vectors(batch, classes)));
    let outputs = network.forward(&mut graph, store, images)?;
    let (mut cross_entropies, mut triplets) = (Vec::new(), Vec::new());
    for &logits in &outputs.logits {
        graph.keep(logits);
        cross_entropies.push(match targets {
            Some(targets) => op::soft_cross_entropy(&mut graph, logits, targets)?,
            None => op::cross_entropy(&mut graph, logits, labels, config.loss.label_smoothing)?,
        });
    }
    for &embedding in &outputs.embeddings {
        triplets.push(op::batch_hard_triplet(&mut graph, embedding, labels, config.loss.triplet_margin)?);
    }
    cross_entropies.iter().chain(&triplets).for_each(|&loss| graph.root(loss));
    let ends = StepVars { images, labels, targets, logits: outputs.logits, cross_entropies, triplets };
    Ok((graph, ends))
}

impl Trainer {
    /// Builds the network for batches of [`Config::batch`] images of `classes` identities or classes. `init` may fill the fresh store.
    ///
    /// # Errors
    /// Settings that make no network; a device that cannot be used.
    pub fn new(
        config: &Config,
        classes: usize,
        init: impl FnOnce(&dyn Network, &mut Store) -> Result<()>,
    ) -> Result<Trainer> {
        Trainer::on(Device::open(&config.device_options())?, config, classes, init)
    }

    /// The same on a device that is open already.
    ///
    /// # Errors
    /// As [`Trainer::new`].
    pub fn on(
        device: Device,
        config: &Config,
        classes: usize,
        init: impl FnOnce(&dyn Network, &mut Store) -> Result<()>,
    ) -> Result<Trainer> {
        let mut shapes = Store::of_shapes();
        config.network(classes)?.build(&mut shapes, config.seed)?;
        let mut store = Store::with_room(shapes.count(None))?;
        let network = config.network(classes)?.build(&mut store, config.seed)?;
        init(network.as_ref(), &mut store)?;
        if config.train.freeze_backbone {
            store.set_trainable(Group::Backbone, false);
        }
        let (graph, ends) = record(config, classes, network.as_ref(), &store)?;
        let session = Session::new(graph, &store, &device)?;
        let optimizer = Optimizer::new(&config.optim.rule(), store.values.len())?;
        let recorded = device.gpu().map(|gpu| Recorded::new(gpu, ends.logits.len(), config.gpu.graph)).transpose()?;
        let states = LatentStates::new(config.ptl.state_init, config.seed);
        let summed = Mirrored::zeros(if config.train.accumulate > 1 { store.values.len() } else { 0 });
        let ema = (config.train.ema > 0.0).then(|| Ema::new(config.train.ema, &store));
        let config = config.clone();
        let batches_done = 0;
        Ok(Trainer {
            states,
            store,
            network,
            optimizer,
            device,
            session,
            ends,
            recorded,
            summed,
            batches_done,
            ema,
            config,
        })
    }

    /// Forgets the latent states where the policy asks for it at the start of an epoch.
    pub fn begin_epoch(&mut self) {
        if self.config.ptl.state_policy == StatePolicy::Carry {
            self.states.reset();
        }
    }

    /// Forward, backward and update with learning rate `lr` on `batch`; with [`accumulate`](crate::config::TrainOptions::accumulate)
    /// only every so many batches update, by the mean of their gradients, and latent states move with each. Of `next`, the batch
    /// that follows where it is known already, the bytes go to a GPU meanwhile.
    ///
    /// # Errors
    /// A loss or gradient that is not finite; the parameters are then as they were. A device that fails.
    pub fn step(&mut self, batch: &Batch, next: Option<&Batch>, lr: f64) -> Result<StepReport> {
        if self.config.ptl.state_policy == StatePolicy::Reset {
            self.states.reset();
        }
        self.session.set_images(self.ends.images, batch)?;
        self.session.set(self.ends.labels, bytemuck::cast_slice(&batch.labels))?;
        if let Some(targets) = self.ends.targets {
            let classes = self.session.graph().shape(targets).c;
            self.session.set(targets, &batch.targets(classes, self.config.loss.label_smoothing))?;
        }
        let part = Part::new(self.batches_done, self.config.train.accumulate);
        let gpu = self.session.gpu().cloned();
        let report = match &gpu {
            None => self.step_on_cpu(&batch.labels, part, lr)?,
            Some(gpu) => self.step_on_gpu(gpu, batch.labels.len(), part, next, lr)?,
        };
        self.batches_done = if part.updates() { 0 } else { self.batches_done + 1 };
        if let Some(ema) = self.ema.as_mut().filter(|_| part.updates()) {
            ema.update(&mut self.store, self.optimizer.steps(), gpu.as_ref())?;
        }
        Ok(report)
    }

    /// Each loss with its weight in the sum that is minimised; the mean over the batches of an update.
    fn loss_weights(&self) -> Vec<(Var, f32)> {
        let StepVars { cross_entropies, triplets, .. } = &self.ends;
        let (ce, triplet) = (self.config.loss.ce_weight, self.config.loss.triplet_weight);
        let batches = self.config.train.accumulate as f32;
        let share = |vars: &[Var], weight: f32| -> Vec<(Var, f32)> {
            vars.iter().map(|&var| (var, weight / vars.len() as f32 / batches)).collect()
        };
        [share(cross_entropies, ce), share(triplets, triplet)].concat()
    }

    fn report(&self, cross_entropies: &[f64], triplets: &[f64], hits: &[f64], batch: usize) -> StepReport {
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let (cross_entropy, triplet) = (mean(cross_entropies), (!triplets.is_empty()).then(|| mean(triplets)));
        let weights = [self.config.loss.ce_weight, self.config.loss.triplet_weight];
        StepReport {
            loss: f64::from(weights[0]) * cross_entropy + f64::from(weights[1]) * triplet.unwrap_or(0.0),
            cross_entropy,
            triplet,
            accuracy: mean(hits) / batch as f64,
            grad_norm: None,
        }
    }

    /// Whether the next batch begins a group: nothing is summed up that a checkpoint would lose.
    pub fn between_updates(&self) -> bool {
        self.batches_done == 0
    }

    /// Puts the moving average of the weights in their place, and back again; nothing where there is none (`train.ema`).
    pub fn swap_average(&mut self) {
        if let Some(ema) = &mut self.ema {
            ema.swap(&mut self.store);
        }
    }

    /// Lets the moving average begin at the present weights.
    pub fn start_average(&mut self) {
        if self.averages() {
            self.ema = Some(Ema::new(self.config.train.ema, &self.store));
        }
    }

    /// Brings all numbers that a checkpoint holds to the host: reading them cannot fail from then on, until the next step.
    ///
    /// # Errors
    /// A device that was lost.
    pub fn fetch(&self) -> Result<()> {
        self.store.fetch()?;
        self.optimizer.fetch()?;
        self.states.fetch()?;
        self.ema.as_ref().map_or(Ok(()), Ema::fetch)
    }

    /// Whether a moving average of the weights is kept.
    pub fn averages(&self) -> bool {
        self.ema.is_some()
    }

    /// The run's settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Bytes of activations, gradients of activations and scratch.
    pub fn arena_bytes(&self) -> usize {
        self.session.plan().arena_bytes()
    }

    /// Parameters that get a gradient.
    pub fn trained_parameters(&self) -> usize {
        let trained = self.store.params.iter().enumerate().filter(|(i, _)| self.session.has_grad(*i));
        trained.map(|(_, param)| param.range.len()).sum()
    }

    /// Floating-point operations of the forward pass of a batch.
    pub fn forward_flops(&self) -> u64 {
        self.session.graph().flops()
    }

    /// Declarations of the latent states, for checkpoints.
    pub fn state_decls(&self) -> &[crate::engine::graph::StateDecl] {
        self.session.graph().states()
    }

    /// The parameters that get a gradient, each with its learning rate: neighbours with the same settings are merged.
    fn segments(&self, lr: f64) -> Vec<Segment> {
        let optim = &self.config.optim;
        let stages = self.store.params.iter().map(|param| param.stage).max().unwrap_or(0);
        let mut segments: Vec<Segment> = Vec::new();
        for (i, param) in self.store.params.iter().enumerate() {
            if !self.session.has_grad(i) {
                continue;
            }
            let factor = match param.group {
                Group::Backbone | Group::Branches => {
                    optim.backbone_lr * optim.layer_decay.powi((stages - param.stage) as i32)
                }
                Group::Ptl => optim.ptl_lr,
                Group::Head => optim.head_lr,
            };
            let (lr, weight_decay) = ((lr * f64::from(factor)) as f32, optim.weight_decay);
            match segments.last_mut() {
                Some(last) if last.range.end == param.range.start && last.lr == lr => last.range.end = param.range.end,
                _ => segments.push(Segment { range: param.range.clone(), lr, weight_decay }),
            }
        }
        segments
    }
}

fn check_finite(what: &'static str, value: f64, lr: f64) -> Result<()> {
    if value.is_finite() { Ok(()) } else { Err(Error::NonFinite { what, value, lr, files: Vec::new() }) }
}
