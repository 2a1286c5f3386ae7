//! The graph of a training step: the network with its losses.

use super::bank::Bank;
use super::centers::Centers;
use crate::Result;
use crate::config::{ClassWeights, Config, LossOptions};
use crate::engine::collective::Collective;
use crate::engine::graph::{Graph, Mode, Var};
use crate::engine::op::{self, CrossEntropyOptions};
use crate::engine::shape::Shape;
use crate::engine::store::Store;
use crate::nn::Network;

/// The inputs and outputs of a step.
pub(in crate::train) struct StepVars {
    pub(super) images: Var,
    pub(super) labels: Var,
    /// The labels of all ranks; in a single process the same as `labels`.
    pub(super) all_labels: Var,
    /// Target probabilities of the classes, if images are mixed.
    pub(super) targets: Option<Var>,
    /// Weights of the classes, if the cross-entropy has them.
    pub(super) class_weights: Option<Var>,
    pub(super) logits: Vec<Var>,
    /// One for each of `logits`; the loss takes their mean.
    pub(super) cross_entropies: Vec<Var>,
    /// One for each embedding, if any; the loss takes their mean.
    pub(super) triplets: Vec<Var>,
    /// Whether the triplets are those of each rank's own batch.
    pub(super) local_triplets: bool,
    /// Embeddings of earlier batches, if the triplet loss sees them.
    pub(super) bank: Option<Bank>,
    /// Centre losses, one for each embedding; the loss takes their mean. Empty without this loss.
    pub(super) center_losses: Vec<Var>,
    /// The centres, if there is a centre loss.
    pub(super) centers: Option<Centers>,
}

impl StepVars {
    /// Returns the losses: cross-entropies, triplet losses, centre losses.
    pub(super) fn losses(&self) -> [&[Var]; 3] {
        [&self.cross_entropies, &self.triplets, &self.center_losses]
    }

    /// Returns the bytes of the embeddings that the triplet loss remembers, and of the centres.
    pub(in crate::train) fn memory_bytes(&self, graph: &Graph) -> u64 {
        let centers = self.centers.as_ref().map_or(0, |centers| centers.bytes(graph));
        self.bank.as_ref().map_or(0, |bank| bank.bytes(graph)) + centers
    }
}

/// Records the graph of a training step on this rank's part of [`Config::batch`] images.
pub(in crate::train) fn record(
    config: &Config,
    classes: usize,
    network: &dyn Network,
    store: &Store,
    ranks: &Collective,
) -> Result<(Graph, StepVars)> {
    let batch = config.batch() / ranks.ranks();
    let mut graph = Graph::new(Mode::Train).freeze_backbone_bn(config.train.freeze_bn);
    graph.set_state_steps(config.ptl.state_steps);
    if config.train.sync_bn {
        graph.synchronise_bn(ranks);
    }
    let images = graph.input(Shape::new(batch, config.model.height, config.model.image_width, 3));
    let labels = graph.labels(batch);
    let all_labels = if ranks.has_others() { graph.labels(config.batch()) } else { labels };
    let targets = config.mixes().then(|| graph.targets(Shape::vectors(batch, classes)));
    let weighted = config.loss.class_weights != ClassWeights::None;
    let class_weights = weighted.then(|| graph.targets(Shape::vectors(1, classes)));
    let LossOptions { label_smoothing, focal_gamma, .. } = config.loss;
    let entropy = CrossEntropyOptions { label_smoothing, focal_gamma, class_weights };
    let outputs = network.forward(&mut graph, store, images)?;
    let (mut cross_entropies, mut triplets) = (Vec::new(), Vec::new());
    let scale = config.model.head.scale(config.model.head_scale);
    let margin = config.model.head.margin(config.loss.head_margin).zip(scale);
    for &logits in &outputs.logits {
        graph.keep(logits);
        let logits = match margin {
            Some((margin, scale)) => op::margin_logits(&mut graph, logits, labels, margin, scale)?,
            None => logits,
        };
        cross_entropies.push(match targets {
            Some(targets) => op::soft_cross_entropy(&mut graph, logits, targets)?,
            None => op::cross_entropy(&mut graph, logits, labels, entropy)?,
        });
    }
    // Triplets are mined, and centres move, in the batch of all ranks.
    let has_centers = config.loss.center_weight > 0.0 && !outputs.embeddings.is_empty();
    let local_triplets = config.loss.local_mining;
    let mut gathered = Vec::new();
    if has_centers || !local_triplets {
        for &embedding in &outputs.embeddings {
            gathered.push(op::gather_batch(&mut graph, embedding, ranks)?);
        }
    }
    let (mined, mined_labels) = if local_triplets { (&outputs.embeddings, labels) } else { (&gathered, all_labels) };
    let remembers = config.loss.memory > 0 && !outputs.embeddings.is_empty();
    let bank = remembers.then(|| Bank::record(&mut graph, mined, config.loss.memory));
    for (i, &embedding) in mined.iter().enumerate() {
        let (earlier, margin) = (bank.as_ref().map(|bank| bank.inputs(i)), config.loss.triplet_margin);
        triplets.push(op::batch_hard_triplet(&mut graph, embedding, mined_labels, earlier, margin)?);
    }
    let centers =
        has_centers.then(|| Centers::record(&mut graph, &gathered, all_labels, classes, config.loss.center_rate));
    let mut center_losses = Vec::new();
    if let Some(centers) = &centers {
        for (i, &embedding) in gathered.iter().enumerate() {
            center_losses.push(op::center_loss(&mut graph, embedding, all_labels, centers.input(i))?);
        }
    }
    cross_entropies.iter().chain(&triplets).chain(&center_losses).for_each(|&loss| graph.root(loss));
    let vars = StepVars {
        images,
        labels,
        all_labels,
        targets,
        class_weights,
        logits: outputs.logits,
        cross_entropies,
        triplets,
        local_triplets,
        bank,
        center_losses,
        centers,
    };
    Ok((graph, vars))
}
