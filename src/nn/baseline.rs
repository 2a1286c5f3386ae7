//! The baseline for re-identification: ResNet (with or without a PTL branch), pooled embedding, BN neck, classifier (Luo et al., 2019).
//!
//! Names: `backbone.*` (torchvision's), `ptl.*`, `pool.p` (of a generalised mean), `reduction.*` (optional),
//! `bottleneck.*` (the BN neck), `classifier.weight`.

use super::{
    Architecture, BatchNorm2d, GlobalPool, Head, Ibn, Init, Linear, Network, Outputs, Pool, PtlBranch, PtlOptions,
    ResNet, ResNetConfig, Scope, StemKind,
};
use crate::Result;
use crate::engine::graph::{Graph, Var};
use crate::engine::store::Store;
use crate::io::checkpoint::TensorNames;

/// Configuration of a baseline.
#[derive(Clone, Debug)]
pub struct BaselineConfig {
    /// The ResNet.
    pub architecture: Architecture,
    /// Where the ResNet normalises by image, if it does.
    pub ibn: Option<Ibn>,
    /// Channels of the stem; as published 64, or 16 for CIFAR.
    pub base: usize,
    /// How images enter the ResNet.
    pub stem: StemKind,
    /// Stride of the ResNet's last stage: 2 as published, 1 keeps a larger map.
    pub last_stride: usize,
    /// Length of a linear embedding; 0 for the pooled vector itself.
    pub embedding: usize,
    /// How the feature map becomes a vector.
    pub pool: Pool,
    /// The PTL branch, if any.
    pub ptl: Option<PtlOptions>,
    /// Number of training identities.
    pub classes: usize,
    /// The factor of the cosines, if logits are cosines ([`Head`]).
    pub logit_scale: Option<f32>,
}

/// The modules of a baseline.
#[derive(Clone, Debug)]
pub struct Baseline {
    /// The ResNet, without a classifier of its own.
    pub backbone: ResNet,
    /// The PTL branch, if any.
    pub ptl: Option<PtlBranch>,
    reduction: Option<Linear>,
    bottleneck: BatchNorm2d,
    classifier: Head,
    pool: GlobalPool,
}

impl Baseline {
    /// Registers the model in `store` with initial values drawn from `seed`.
    ///
    /// # Errors
    /// The settings of the PTL branch do not fit the ResNet.
    pub fn new(store: &mut Store, config: &BaselineConfig, seed: u64) -> Result<Baseline> {
        let mut root = Scope::root(store, seed);
        let backbone_config = ResNetConfig {
            architecture: config.architecture,
            ibn: config.ibn,
            base: config.base,
            stem: config.stem,
            last_stride: config.last_stride,
            classes: None,
        };
        let backbone = ResNet::new(root.child("backbone"), backbone_config);
        let ptl = match &config.ptl {
            Some(ptl) => Some(PtlBranch::new(root.child("ptl"), &backbone, ptl, config.pool)?),
            None => None,
        };
        let pool = GlobalPool::new(&mut root.child("pool"), config.pool);
        let pooled = backbone_config.out_channels() + ptl.as_ref().map_or(0, PtlBranch::out_channels);
        let reduction = (config.embedding > 0)
            .then(|| Linear::new(&mut root.child("reduction"), [pooled, config.embedding], true, Init::KaimingFanIn));
        let dim = if config.embedding > 0 { config.embedding } else { pooled };
        let bottleneck = BatchNorm2d::new(&mut root.child("bottleneck"), dim);
        // The lengths of the weights do not change cosines, but short weights would turn fast. 0.01 is fast-reid's.
        let std = if config.logit_scale.is_some() { 0.01 } else { 0.001 };
        let classifier = Head::new(
            &mut root.child("classifier"),
            [dim, config.classes],
            false,
            Init::Normal { mean: 0.0, std },
            config.logit_scale,
        );
        // The neck's bias is not trained, as in the "bag of tricks" baseline (Luo et al., 2019).
        store.params[bottleneck.bias().0].trainable = false;
        Ok(Baseline { backbone, ptl, reduction, bottleneck, classifier, pool })
    }
}

impl Network for Baseline {
    fn forward(&self, g: &mut Graph, store: &Store, images: Var) -> Result<Outputs> {
        let mut embedding = super::ptl::pooled(&self.backbone, self.ptl.as_ref(), &self.pool, g, store, images)?;
        if let Some(reduction) = &self.reduction {
            embedding = reduction.forward(g, store, embedding)?;
        }
        let feature = self.bottleneck.forward(g, store, embedding)?;
        let logits = self.classifier.forward(g, store, feature)?;
        Ok(Outputs { embeddings: vec![embedding], logits: vec![logits], feature })
    }
}

impl TensorNames for Baseline {
    fn pretrained_names(&self, name: &str) -> Vec<String> {
        // A bare torchvision ResNet has no prefix.
        let bare = name.strip_prefix("backbone.").map(String::from);
        // fast-reid's heads; its neck follows a reduction, if there is one.
        let heads = match (name, name.strip_prefix("bottleneck.")) {
            ("pool.p", _) => vec!["heads.pool_layer.p".into()],
            ("classifier.weight", _) => vec!["heads.classifier.weight".into(), "heads.weight".into()],
            (_, Some(rest)) => {
                ["bottleneck.1", "bottleneck.0", "bnneck"].map(|neck| format!("heads.{neck}.{rest}")).into()
            }
            _ => Vec::new(),
        };
        std::iter::once(name.to_string()).chain(bare).chain(heads).collect()
    }

    fn is_backbone(&self, name: &str) -> bool {
        name.starts_with("backbone.")
    }
}
