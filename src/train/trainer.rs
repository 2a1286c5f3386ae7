//! One training step: batch in, parameters moved, losses out.

use crate::config::Config;
use crate::graph::{Graph, Mode, Var};
use crate::latent_state::{LatentStates, StatePolicy};
use crate::nn::{ReidConfig, ReidModel};
use crate::op;
use crate::optim::{self, Optimizer, Segment};
use crate::session::Session;
use crate::shape::Shape;
use crate::store::{Group, Store};
use crate::{Error, Result};

/// A model with its numbers, memory and optimiser.
pub struct Trainer {
    pub store: Store,
    pub model: ReidModel,
    pub states: LatentStates,
    pub optimizer: Optimizer,
    session: Session,
    inputs: Inputs,
    config: Config,
}

#[derive(Clone, Copy)]
struct Inputs {
    images: Var,
    labels: Var,
    logits: Var,
    cross_entropy: Var,
    triplet: Var,
}

/// What a step reports.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepReport {
    /// Weighted sum of the two below.
    pub loss: f64,
    pub cross_entropy: f64,
    pub triplet: f64,
    /// Share of the batch whose identity has the largest logit.
    pub accuracy: f64,
    /// Gradient norm, before clipping.
    pub grad_norm: f64,
}

/// The model's settings from the run's.
///
/// # Errors
/// An unknown architecture.
pub fn model_config(config: &Config, classes: usize) -> Result<ReidConfig> {
    let arch = config.model.arch.as_str();
    let (base, ptl) = arch.strip_suffix("-ptl").map_or((arch, false), |base| (base, true));
    Ok(ReidConfig {
        architecture: base.parse()?,
        width: config.model.width,
        last_stride: config.model.last_stride,
        embedding: config.model.embedding,
        pool: config.model.pool,
        ptl: ptl.then(|| config.ptl.branch()),
        classes,
    })
}

impl Trainer {
    /// Builds the network for batches of P·K images of `classes` identities. `init` may fill the fresh store.
    ///
    /// # Errors
    /// Settings that make no network.
    pub fn new(config: &Config, classes: usize, init: impl FnOnce(&mut Store) -> Result<()>) -> Result<Trainer> {
        let mut store = Store::new();
        let model = ReidModel::new(&mut store, &model_config(config, classes)?, config.seed)?;
        init(&mut store)?;
        if config.train.freeze_backbone {
            ReidModel::freeze_backbone(&mut store);
        }
        let batch = config.sampler.ids * config.sampler.images;
        let mut graph = Graph::new(Mode::Train).freeze_backbone_bn(config.train.freeze_bn);
        let images = graph.input(Shape::new(batch, config.model.height, config.model.image_width, 3));
        let labels = graph.input(Shape::vectors(batch, 1));
        let output = model.forward(&mut graph, &store, images)?;
        let cross_entropy = op::cross_entropy(&mut graph, output.logits, labels, config.loss.label_smoothing)?;
        let triplet = op::batch_hard_triplet(&mut graph, output.embedding, labels, config.loss.triplet_margin)?;
        graph.keep(output.logits);
        graph.root(cross_entropy);
        graph.root(triplet);
        let session = Session::new(graph, &store)?;
        let optimizer = Optimizer::new(&config.optim.optimizer(), store.values.len())?;
        Ok(Trainer {
            states: LatentStates::new(config.ptl.state_init, config.seed),
            store,
            model,
            optimizer,
            session,
            inputs: Inputs { images, labels, logits: output.logits, cross_entropy, triplet },
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
        let inputs = self.inputs;
        self.session.set(inputs.images, images);
        self.session.set(inputs.labels, bytemuck::cast_slice(labels));
        self.session.forward(&mut self.store, &mut self.states);
        let weights = [self.config.loss.ce_weight, self.config.loss.triplet_weight];
        let [cross_entropy, triplet] =
            [inputs.cross_entropy, inputs.triplet].map(|v| f64::from(self.session.value(v)[0]));
        let mut report = StepReport {
            loss: f64::from(weights[0]) * cross_entropy + f64::from(weights[1]) * triplet,
            cross_entropy,
            triplet,
            accuracy: accuracy(self.session.value(inputs.logits), labels),
            grad_norm: 0.0,
        };
        if !report.loss.is_finite() {
            return Err(Error::NonFinite { what: "loss", value: report.loss, lr, files: Vec::new() });
        }
        self.session.set_grad(inputs.cross_entropy, &[weights[0]]);
        self.session.set_grad(inputs.triplet, &[weights[1]]);
        self.session.backward(&mut self.store, &self.states);

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
                Group::Backbone => 1.0,
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
