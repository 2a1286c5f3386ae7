//! One training step: batch in, parameters moved, losses out.

use crate::config::Config;
use crate::graph::{Graph, Mode, Var};
use crate::latent_state::{LatentStates, StatePolicy};
use crate::nn::{Network, NetworkConfig};
use crate::op;
use crate::optim::{self, Optimizer, Segment};
use crate::session::Session;
use crate::shape::Shape;
use crate::store::{Group, Store};
use crate::{Error, Result};

/// A model with its numbers, memory and optimiser.
pub struct Trainer {
    pub store: Store,
    pub network: Box<dyn Network>,
    pub states: LatentStates,
    pub optimizer: Optimizer,
    session: Session,
    ends: Ends,
    config: Config,
}

/// What a step sets and reads.
struct Ends {
    images: Var,
    labels: Var,
    logits: Vec<Var>,
    /// One for each of `logits`; their mean counts.
    cross_entropies: Vec<Var>,
    /// One for each embedding; their mean counts.
    triplets: Vec<Var>,
}

/// What a step reports.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepReport {
    /// Weighted sum of the two below.
    pub loss: f64,
    /// Mean over the network's classifiers.
    pub cross_entropy: f64,
    /// Mean over the network's embeddings.
    pub triplet: f64,
    /// Share of the batch whose identity has the largest logit, mean over the classifiers.
    pub accuracy: f64,
    /// Gradient norm, before clipping.
    pub grad_norm: f64,
}

/// The network's settings from the run's.
///
/// # Errors
/// An unknown architecture.
pub fn network_config(config: &Config, classes: usize) -> Result<NetworkConfig> {
    let model = &config.model;
    Ok(NetworkConfig {
        arch: model.arch.parse()?,
        width: model.width,
        last_stride: model.last_stride,
        embedding: model.embedding,
        pool: model.pool,
        cells: config.ptl.branch(),
        classes,
    })
}

impl Trainer {
    /// Builds the network for batches of P·K images of `classes` identities. `init` may fill the fresh store.
    ///
    /// # Errors
    /// Settings that make no network.
    pub fn new(
        config: &Config,
        classes: usize,
        init: impl FnOnce(&dyn Network, &mut Store) -> Result<()>,
    ) -> Result<Trainer> {
        let mut store = Store::new();
        let network = network_config(config, classes)?.build(&mut store, config.seed)?;
        init(network.as_ref(), &mut store)?;
        if config.train.freeze_backbone {
            store.set_trainable(Group::Backbone, false);
        }
        let batch = config.sampler.ids * config.sampler.images;
        let mut graph = Graph::new(Mode::Train).freeze_backbone_bn(config.train.freeze_bn);
        let images = graph.input(Shape::new(batch, config.model.height, config.model.image_width, 3));
        let labels = graph.input(Shape::vectors(batch, 1));
        let outputs = network.forward(&mut graph, &store, images)?;
        let (mut cross_entropies, mut triplets) = (Vec::new(), Vec::new());
        for &logits in &outputs.logits {
            graph.keep(logits);
            cross_entropies.push(op::cross_entropy(&mut graph, logits, labels, config.loss.label_smoothing)?);
        }
        for &embedding in &outputs.embeddings {
            triplets.push(op::batch_hard_triplet(&mut graph, embedding, labels, config.loss.triplet_margin)?);
        }
        cross_entropies.iter().chain(&triplets).for_each(|&loss| graph.root(loss));
        let session = Session::new(graph, &store)?;
        let optimizer = Optimizer::new(&config.optim.optimizer(), store.values.len())?;
        Ok(Trainer {
            states: LatentStates::new(config.ptl.state_init, config.seed),
            store,
            network,
            optimizer,
            session,
            ends: Ends { images, labels, logits: outputs.logits, cross_entropies, triplets },
            config: config.clone(),
        })
    }

    /// Forgets the latent states where the policy asks for it at the start of an epoch.
    pub fn begin_epoch(&mut self) {
        if self.config.ptl.state_policy == StatePolicy::Carry {
            self.states.reset();
        }
    }

    /// Forward, backward and update with learning rate `lr` on `images` `[batch, h, w, 3]`.
    ///
    /// # Errors
    /// A loss or gradient that is not finite; the parameters are then as they were.
    pub fn step(&mut self, images: &[f32], labels: &[u32], lr: f64) -> Result<StepReport> {
        if self.config.ptl.state_policy == StatePolicy::Reset {
            self.states.reset();
        }
        let Ends { images: image_input, labels: label_input, logits, cross_entropies, triplets } = &self.ends;
        let session = &mut self.session;
        session.set(*image_input, images);
        session.set(*label_input, bytemuck::cast_slice(labels));
        session.forward(&mut self.store, &mut self.states);
        let mean = |of: &dyn Fn(&Var) -> f64, vars: &[Var]| vars.iter().map(of).sum::<f64>() / vars.len() as f64;
        let value = |var: &Var| f64::from(session.value(*var)[0]);
        let (cross_entropy, triplet) = (mean(&value, cross_entropies), mean(&value, triplets));
        let weights = [self.config.loss.ce_weight, self.config.loss.triplet_weight];
        let mut report = StepReport {
            loss: f64::from(weights[0]) * cross_entropy + f64::from(weights[1]) * triplet,
            cross_entropy,
            triplet,
            accuracy: mean(&|var| accuracy(session.value(*var), labels), logits),
            grad_norm: 0.0,
        };
        if !report.loss.is_finite() {
            return Err(Error::NonFinite { what: "loss", value: report.loss, lr, files: Vec::new() });
        }
        for (losses, weight) in [(cross_entropies, weights[0]), (triplets, weights[1])] {
            losses.iter().for_each(|&loss| session.set_grad(loss, &[weight / losses.len() as f32]));
        }
        session.backward(&mut self.store, &self.states);

        let segments = self.segments(lr);
        report.grad_norm = if self.config.optim.clip_norm > 0.0 {
            optim::clip_grad_norm(&mut self.store.grads, &segments, f64::from(self.config.optim.clip_norm))
        } else {
            optim::global_norm(&self.store.grads, &segments)
        };
        if !report.grad_norm.is_finite() {
            return Err(Error::NonFinite { what: "gradient norm", value: report.grad_norm, lr, files: Vec::new() });
        }
        self.optimizer.step(&mut self.store.values, &self.store.grads, &segments);
        Ok(report)
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
    pub fn state_decls(&self) -> &[crate::graph::StateDecl] {
        self.session.graph().states()
    }

    /// The parameters that get a gradient, each with its learning rate: neighbours with the same settings are merged.
    fn segments(&self, lr: f64) -> Vec<Segment> {
        let optim = &self.config.optim;
        let mut segments: Vec<Segment> = Vec::new();
        for (i, param) in self.store.params.iter().enumerate() {
            if !self.session.has_grad(i) {
                continue;
            }
            let factor = match param.group {
                Group::Backbone | Group::Branches => 1.0,
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

fn accuracy(logits: &[f32], labels: &[u32]) -> f64 {
    let classes = logits.len() / labels.len();
    let best = |row: &[f32]| (0..classes).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0);
    let hits = logits.chunks_exact(classes).zip(labels).filter(|(row, label)| best(row) == **label as usize).count();
    hits as f64 / labels.len() as f64
}
