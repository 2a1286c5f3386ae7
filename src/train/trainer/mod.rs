//! A training step: forward, backward, update.

mod bank;
mod centers;
mod cpu;
mod gpu;
mod graph;
mod numbers;
pub(super) mod ranks;
mod recorded;

use crate::base::profile;
use crate::config::{Config, LossOptions};
use crate::data::Batch;
use crate::engine::collective::Collective;
use crate::engine::device::{Device, Mirrored};
use crate::engine::graph::Var;
use crate::engine::latent_state::{LatentStates, StatePolicy};
use crate::engine::optim::{Ema, Optimizer, Segment};
use crate::engine::plan::Bucket;
use crate::engine::session::{Session, Work};
use crate::engine::store::{Group, Store};
use crate::model::StepReport;
use crate::nn::Network;
use crate::{Error, Result};
pub(super) use bank::Remembered;
use graph::StepVars;
pub(super) use graph::record;
use recorded::{Part, Recorded};

/// A network in training, with its weights, latent states and optimiser.
pub struct Trainer {
    /// Parameters, gradients and running statistics.
    pub store: Store,
    /// The network.
    pub network: Box<dyn Network>,
    /// Latent states of the BConv-Cells.
    pub states: LatentStates,
    /// The optimiser with its state.
    pub optimizer: Optimizer,
    /// The device that computes.
    pub device: Device,
    /// The processes that train this network together.
    pub ranks: Collective,
    session: Session,
    vars: StepVars,
    /// Gradients that the processes add up together, in the order in which backward on a GPU completes them; none in a single process.
    buckets: Vec<Bucket>,
    /// Recorded steps, on a GPU.
    recorded: Option<Recorded>,
    /// Sum of the gradients of the current group of batches; empty if every batch updates.
    summed: Mirrored,
    /// Batches of the current group that are done.
    batches_done: usize,
    ema: Option<Ema>,
    /// The weights of classes, where the loss has such weights; empty before they are set.
    class_weights: Vec<f32>,
    config: Config,
}

impl Trainer {
    /// Builds the network for `classes` identities or classes and batches of [`Config::batch`] images. `init` may load weights into
    /// the store.
    ///
    /// # Errors
    /// Settings from which no network can be built; a device that cannot be used; an error of `init`.
    pub fn new(
        config: &Config,
        classes: usize,
        init: impl FnOnce(&dyn Network, &mut Store) -> Result<()>,
    ) -> Result<Trainer> {
        Trainer::on(Device::open(&config.device_options())?, config, classes, init)
    }

    /// Builds the network as [`Trainer::new`] does, on a device that is already open.
    ///
    /// # Errors
    /// As [`Trainer::new`].
    pub fn on(
        device: Device,
        config: &Config,
        classes: usize,
        init: impl FnOnce(&dyn Network, &mut Store) -> Result<()>,
    ) -> Result<Trainer> {
        Trainer::of_ranks(Collective::single(), device, config, classes, init)
    }

    /// Builds the network as [`Trainer::on`] does, for a training of several processes. Each rank has an equal part of a batch of
    /// [`Config::batch`] images, and all ranks have the same weights. All of them must call the same functions.
    ///
    /// # Errors
    /// As [`Trainer::new`]; settings that several processes cannot share.
    pub fn of_ranks(
        ranks: Collective,
        device: Device,
        config: &Config,
        classes: usize,
        init: impl FnOnce(&dyn Network, &mut Store) -> Result<()>,
    ) -> Result<Trainer> {
        ranks::check(&ranks, config, &device)?;
        ranks::connect(&ranks, &device)?;
        let mut shapes = Store::of_shapes();
        config.network(classes)?.build(&mut shapes, config.seed)?;
        let mut store = Store::with_room(shapes.count(None))?;
        let network = config.network(classes)?.build(&mut store, config.seed)?;
        init(network.as_ref(), &mut store)?;
        if config.train.freeze_backbone {
            store.set_trainable(Group::Backbone, false);
        }
        let (graph, vars) = record(config, classes, network.as_ref(), &store, &ranks)?;
        let mut session = Session::new(graph, &store, &device)?;
        if let Some(bank) = &vars.bank {
            bank.set_labels(&mut session)?;
        }
        if let Some(centers) = &vars.centers {
            centers.reset(&mut session)?;
        }
        let optimizer = Optimizer::new(&config.optim.rule(), store.values.len())?;
        let recorded = device.gpu().map(|gpu| Recorded::new(gpu, vars.logits.len(), config.gpu.graph)).transpose()?;
        let bucket = (f64::from(config.gpu.bucket_mb) * f64::from(1 << 20)) as usize / size_of::<f32>();
        let by_gpus = ranks.has_others() && device.gpu().is_some();
        let buckets = if by_gpus { session.buckets(&store, bucket) } else { Vec::new() };
        let states = config.latent_states(classes).of_ranks(&ranks);
        let summed = Mirrored::zeros(if config.train.accumulate > 1 { store.values.len() } else { 0 });
        let ema = (config.train.ema > 0.0).then(|| Ema::new(config.train.ema, &store));
        let config = config.clone();
        let (batches_done, class_weights) = (0, Vec::new());
        Ok(Trainer {
            states,
            store,
            network,
            optimizer,
            device,
            ranks,
            session,
            vars,
            buckets,
            recorded,
            summed,
            batches_done,
            ema,
            class_weights,
            config,
        })
    }

    /// Weighs the classes by the numbers of their training images, as `loss.class_weights` says; does nothing if that is `none`.
    ///
    /// # Errors
    /// The device fails.
    ///
    /// # Panics
    /// `images` is not one number for each class.
    pub fn weigh_classes(&mut self, images: &[usize]) -> Result<()> {
        let LossOptions { class_weights, class_beta, .. } = self.config.loss;
        if let Some(weights) = self.vars.class_weights {
            self.class_weights = class_weights.of(images, class_beta);
            self.session.set(weights, &self.class_weights)?;
        }
        Ok(())
    }

    /// Begins an epoch: resets the latent states if the policy says so.
    pub fn begin_epoch(&mut self) {
        if self.config.ptl.state_policy == StatePolicy::Carry {
            self.states.reset();
        }
    }

    /// Runs forward, backward and update on `batch` with learning rate `lr`. With [`accumulate`](crate::config::TrainOptions::accumulate),
    /// only the last batch of each group updates, by the mean of the group's gradients; latent states, the memory of embeddings and centres
    /// change with every batch. Uploads `next`, the following batch, to a GPU while this step runs.
    ///
    /// # Errors
    /// A loss or gradient that is not finite, which leaves the parameters unchanged; a device that fails; `loss.class_weights` without a call
    /// of [`Trainer::weigh_classes`].
    pub fn step(&mut self, batch: &Batch, next: Option<&Batch>, lr: f64) -> Result<StepReport> {
        if self.vars.class_weights.is_some() && self.class_weights.is_empty() {
            return Err(Error::Setting {
                setting: "loss.class_weights".into(),
                value: self.config.loss.class_weights.to_string(),
                reason: "`Trainer::weigh_classes` was not called with the numbers of images".into(),
            });
        }
        if self.config.ptl.state_policy == StatePolicy::Reset {
            self.states.reset();
        }
        let all_labels = self.ranks.gather(&batch.labels);
        self.states.set_labels(&all_labels);
        self.session.set_images(self.vars.images, batch)?;
        self.session.set(self.vars.labels, bytemuck::cast_slice(&batch.labels))?;
        if self.ranks.has_others() {
            self.session.set(self.vars.all_labels, bytemuck::cast_slice(&all_labels))?;
        }
        if let Some(targets) = self.vars.targets {
            let classes = self.session.graph().shape(targets).c;
            self.session.set(targets, &batch.targets(classes, self.config.loss.label_smoothing))?;
        }
        let part = Part::new(self.batches_done, self.config.train.accumulate);
        let remembers = self.optimizer.steps() >= self.config.loss.memory_from;
        let gpu = self.session.gpu().cloned();
        let report = match &gpu {
            None => self.step_on_cpu(&batch.labels, &all_labels, part, lr)?,
            Some(gpu) => self.step_on_gpu(gpu, &batch.labels, &all_labels, part, next, lr)?,
        };
        if let Some(bank) = self.vars.bank.as_mut().filter(|_| remembers) {
            let _memory = profile::range("memory");
            bank.add(&mut self.session, &all_labels)?;
        }
        if let Some(centers) = &self.vars.centers {
            let _centers = profile::range("centres");
            centers.follow(&mut self.session)?;
        }
        self.batches_done = if part.updates() { 0 } else { self.batches_done + 1 };
        if let Some(ema) = self.ema.as_mut().filter(|_| part.updates()) {
            let _average = profile::range("average");
            ema.update(&mut self.store, self.optimizer.steps(), gpu.as_ref())?;
        }
        Ok(report)
    }

    /// Returns each loss with its weight in the sum that training minimises. The weights are divided by the number of batches of an update,
    /// so the sum of the gradients is their mean. The gradients of all ranks are added up: a loss of this rank's batch counts by `share`, and one
    /// of the batch of all ranks, which all compute, as a whole.
    fn loss_weights(&self, share: f32) -> Vec<(Var, f32)> {
        let StepVars { cross_entropies, triplets, center_losses, local_triplets, .. } = &self.vars;
        let triplet_share = if *local_triplets { share } else { 1.0 };
        let LossOptions { ce_weight, triplet_weight, center_weight, .. } = self.config.loss;
        let batches = self.config.train.accumulate as f32;
        let weighted = |vars: &[Var], weight: f32| -> Vec<(Var, f32)> {
            vars.iter().map(|&var| (var, weight / vars.len() as f32 / batches)).collect()
        };
        let weights = [
            weighted(cross_entropies, share * ce_weight),
            weighted(triplets, triplet_share * triplet_weight),
            weighted(center_losses, center_weight),
        ];
        weights.concat()
    }

    /// Computes the report of a step from the values of [`StepVars::losses`] and the correct predictions of `batch` images.
    fn report(&self, losses: [&[f64]; 3], hits: &[f64], batch: usize) -> StepReport {
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let [cross_entropies, triplets, centers] = losses;
        let [triplet, center] = [triplets, centers].map(|values| (!values.is_empty()).then(|| mean(values)));
        let cross_entropy = mean(cross_entropies);
        let LossOptions { ce_weight, triplet_weight, center_weight, .. } = self.config.loss;
        let weighted = |weight: f32, loss: Option<f64>| f64::from(weight) * loss.unwrap_or(0.0);
        let identity = f64::from(ce_weight) * cross_entropy + weighted(triplet_weight, triplet);
        StepReport {
            loss: identity + weighted(center_weight, center),
            cross_entropy,
            triplet,
            center,
            accuracy: mean(hits) / batch as f64,
            grad_norm: None,
        }
    }

    /// Returns whether the next batch begins a group. A checkpoint is saved only then, because it does not hold accumulated gradients.
    pub fn between_updates(&self) -> bool {
        self.batches_done == 0
    }

    /// Swaps the weights with their moving average; does nothing if there is none (`train.ema`).
    pub fn swap_average(&mut self) {
        if let Some(ema) = &mut self.ema {
            ema.swap(&mut self.store);
        }
    }

    /// Restarts the moving average, if there is one, at the current weights.
    pub fn start_average(&mut self) {
        if self.averages() {
            self.ema = Some(Ema::new(self.config.train.ema, &self.store));
        }
    }

    /// Copies all numbers of a checkpoint to the host but those of `Trainer::remembered` and `Trainer::centers`. Until the next step, reading them cannot fail.
    ///
    /// # Errors
    /// The device was lost.
    pub fn fetch(&self) -> Result<()> {
        self.store.fetch()?;
        self.optimizer.fetch()?;
        self.states.fetch()?;
        self.ema.as_ref().map_or(Ok(()), Ema::fetch)
    }

    /// Returns the embeddings that the triplet loss remembers, if it has a memory.
    ///
    /// # Errors
    /// The device was lost.
    pub(super) fn remembered(&self) -> Result<Option<Remembered>> {
        self.vars.bank.as_ref().map(|bank| bank.content(&self.session)).transpose()
    }

    /// Returns the number of embeddings for which the memory has places, and their lengths for each of the network's embeddings.
    pub(super) fn memory_size(&self) -> Option<(usize, Vec<usize>)> {
        self.vars.bank.as_ref().map(|bank| (bank.places(), bank.dims(self.session.graph())))
    }

    /// Restores the memory; does nothing if there is none.
    ///
    /// # Errors
    /// The device was lost.
    pub(super) fn remember(&mut self, content: Remembered) -> Result<()> {
        self.vars.bank.as_mut().map_or(Ok(()), |bank| bank.restore(&mut self.session, content))
    }

    /// Returns the centres of the identities for each of the network's embeddings; none without a centre loss.
    ///
    /// # Errors
    /// The device was lost.
    pub(super) fn centers(&self) -> Result<Vec<Vec<f32>>> {
        self.vars.centers.as_ref().map_or(Ok(Vec::new()), |centers| centers.content(&self.session))
    }

    /// Returns the number of centres and their length for each of the network's embeddings; none without a centre loss.
    pub(super) fn center_sizes(&self) -> Vec<[usize; 2]> {
        self.vars.centers.as_ref().map_or(Vec::new(), |centers| centers.sizes(self.session.graph()))
    }

    /// Restores what [`Trainer::centers`] returned; does nothing without a centre loss.
    ///
    /// # Errors
    /// The device was lost.
    pub(super) fn restore_centers(&mut self, content: &[Vec<f32>]) -> Result<()> {
        self.vars.centers.as_ref().map_or(Ok(()), |centers| centers.restore(&mut self.session, content))
    }

    /// Returns whether there is a moving average of the weights.
    pub fn averages(&self) -> bool {
        self.ema.is_some()
    }

    /// Returns the settings of the run.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the bytes of activations, their gradients and scratch memory.
    pub fn arena_bytes(&self) -> usize {
        self.session.plan().arena_bytes()
    }

    /// Returns the number of parameters that get a gradient.
    pub fn trained_parameters(&self) -> usize {
        let trained = self.store.params.iter().enumerate().filter(|(i, _)| self.session.has_grad(*i));
        trained.map(|(_, param)| param.range.len()).sum()
    }

    /// Returns the floating-point operations of the forward pass of a batch.
    pub fn forward_flops(&self) -> u64 {
        self.session.graph().flops()
    }

    /// Returns the work of forward and backward of a batch on the CPU, in the order in which it is done.
    pub fn work(&self) -> Vec<Work> {
        self.session.work(&self.store)
    }

    /// Returns the declarations of the latent states, for checkpoints.
    pub fn state_decls(&self) -> &[crate::engine::graph::StateDecl] {
        self.session.graph().states()
    }

    /// Returns the ranges of parameters that get a gradient, with their learning rates; merges neighbours with equal settings.
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

/// Refuses a value that is not finite.
fn check_finite(what: &'static str, value: f64, lr: f64) -> Result<()> {
    if value.is_finite() { Ok(()) } else { Err(Error::NonFinite { what, value, lr, files: Vec::new() }) }
}
