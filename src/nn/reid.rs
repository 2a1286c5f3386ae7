//! The re-identification model: backbone (and PTL branch), pooled embedding, BN neck, classifier.
//!
//! Names: `backbone.*` (torchvision's), `ptl.*`, `reduction.*` (optional), `bottleneck.*` (the BN neck), `classifier.weight`.

use serde::{Deserialize, Serialize};

use super::{Architecture, BatchNorm2d, Init, Linear, PtlBranch, PtlConfig, ResNet, ResNetConfig, Scope};
use crate::graph::{Graph, Var};
use crate::op;
use crate::shape::Shape;
use crate::store::{Group, Store};
use crate::{Error, Result};

/// How a feature map becomes a vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pool {
    #[default]
    Avg,
    Max,
}

/// What a re-identification model is made of.
#[derive(Clone, Debug)]
pub struct ReidConfig {
    pub architecture: Architecture,
    /// Width multiplier; 1 is the published network.
    pub width: f32,
    pub last_stride: usize,
    /// Length of a linear embedding, or 0 for the pooled vector itself.
    pub embedding: usize,
    pub pool: Pool,
    /// The PTL branch, if any.
    pub ptl: Option<PtlConfig>,
    /// Training identities.
    pub classes: usize,
}

/// Recorded outputs.
#[derive(Clone, Copy, Debug)]
pub struct ReidOutput {
    /// Before the neck, `[n, 1, 1, d]`: for the triplet loss.
    pub embedding: Var,
    /// After the neck: the retrieval feature.
    pub feature: Var,
    /// `[n, 1, 1, classes]`.
    pub logits: Var,
}

/// The modules of a model.
#[derive(Clone, Debug)]
pub struct ReidModel {
    pub backbone: ResNet,
    pub ptl: Option<PtlBranch>,
    reduction: Option<Linear>,
    bottleneck: BatchNorm2d,
    classifier: Linear,
    pool: Pool,
}

impl ReidModel {
    /// Registers the model in `store` with start values drawn from `seed`.
    ///
    /// # Errors
    /// Settings that make no network.
    pub fn new(store: &mut Store, config: &ReidConfig, seed: u64) -> Result<ReidModel> {
        let base = (64.0 * config.width).round();
        if !(1.0..=1024.0).contains(&base) {
            return Err(Error::Setting {
                setting: "model.width".into(),
                value: config.width.to_string(),
                reason: "the stem has 64 channels times this: choose from 0.02 to 16".into(),
            });
        }
        let mut root = Scope::root(store, seed);
        let backbone_config = ResNetConfig {
            architecture: config.architecture,
            base: base as usize,
            last_stride: config.last_stride,
            classes: None,
        };
        let backbone = ResNet::new(root.child("backbone"), backbone_config);
        let ptl = match &config.ptl {
            Some(ptl) => Some(PtlBranch::new(root.child("ptl"), &backbone_config, ptl)?),
            None => None,
        };
        let pooled = backbone_config.stage_channels(4) + ptl.as_ref().map_or(0, PtlBranch::out_channels);
        let reduction = (config.embedding > 0)
            .then(|| Linear::new(&mut root.child("reduction"), [pooled, config.embedding], true, Init::KaimingFanIn));
        let dim = if config.embedding > 0 { config.embedding } else { pooled };
        let bottleneck = BatchNorm2d::new(&mut root.child("bottleneck"), dim);
        let classifier = Linear::new(&mut root.child("classifier"), [dim, config.classes], false, Init::Normal(0.001));
        // The neck has no shift, as in the "bag of tricks" baseline (Luo et al., 2019).
        store.params[bottleneck.bias().0].trainable = false;
        Ok(ReidModel { backbone, ptl, reduction, bottleneck, classifier, pool: config.pool })
    }

    /// Records the network on `images` `[n, h, w, 3]`.
    ///
    /// # Errors
    /// Images that are too small or not divisible as the strides need.
    pub fn forward(&self, g: &mut Graph, store: &Store, images: Var) -> Result<ReidOutput> {
        let Shape { h, w, .. } = g.shape(images);
        check_image_size([h, w], self.backbone.config.last_stride)?;
        let pool = |g: &mut Graph, x: Var| match self.pool {
            Pool::Avg => op::global_avg_pool(g, x),
            Pool::Max => op::global_max_pool(g, x),
        };
        let mut embedding = match &self.ptl {
            None => {
                let x = self.backbone.features(g, store, images)?;
                pool(g, x)?
            }
            Some(ptl) => {
                let (x, cell) = ptl.forward(g, store, &self.backbone, images)?;
                let (x, cell) = (pool(g, x)?, pool(g, cell)?);
                op::concat(g, &[x, cell])?
            }
        };
        if let Some(reduction) = &self.reduction {
            embedding = reduction.forward(g, store, embedding)?;
        }
        let feature = self.bottleneck.forward(g, store, embedding)?;
        let logits = self.classifier.forward(g, store, feature)?;
        Ok(ReidOutput { embedding, feature, logits })
    }

    /// The parameters of the identity head: re-initialised when the number of identities differs.
    pub fn is_identity_head(name: &str) -> bool {
        name == "classifier.weight"
    }

    /// Names in a file that a tensor of the model may start from, the best one first: its own, then that of a bare
    /// torchvision network.
    pub fn weight_sources(name: &str) -> Vec<String> {
        std::iter::once(name).chain(name.strip_prefix("backbone.")).map(str::to_string).collect()
    }

    /// Trains everything but the backbone.
    pub fn freeze_backbone(store: &mut Store) {
        store.set_trainable(Group::Backbone, false);
    }
}

/// Both sides must be a multiple of the network's total stride, so that no border pixel is dropped on the way.
///
/// # Errors
/// They are not.
pub fn check_image_size([h, w]: [usize; 2], last_stride: usize) -> Result<()> {
    let stride = 16 * last_stride;
    if h == 0 || w == 0 || !h.is_multiple_of(stride) || !w.is_multiple_of(stride) {
        return Err(Error::Setting {
            setting: "model.height x model.image_width".into(),
            value: format!("{h}x{w}"),
            reason: format!("both must be multiples of {stride}, the network's total stride"),
        });
    }
    Ok(())
}
