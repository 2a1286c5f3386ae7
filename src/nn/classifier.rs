//! A classifier of images: torchvision's ResNet with its names, and a PTL branch beside it if asked for.
//!
//! Names: `conv1`, `bn1`, `layer1` and so on, `pool.p` (of a generalised mean), `fc`; `ptl.*`. With PTL, the input of `fc` is
//! `[backbone, cell]`, so its weight is longer.

use super::{GlobalPool, Head, Init, Network, Outputs, Pool, PtlBranch, PtlOptions, ResNet, ResNetConfig, Scope};
use crate::Result;
use crate::engine::graph::{Graph, Var};
use crate::engine::store::Store;
use crate::io::checkpoint::TensorNames;

/// Configuration of a classifier.
#[derive(Clone, Debug)]
pub struct ClassifierConfig {
    /// The ResNet. Its `classes` are ignored, because `fc` belongs to the classifier.
    pub backbone: ResNetConfig,
    /// How a feature map is pooled; by its mean as published.
    pub pool: Pool,
    /// The PTL branch, if any.
    pub ptl: Option<PtlOptions>,
    /// Number of classes.
    pub classes: usize,
    /// The factor of the cosines, if logits are cosines ([`Head`]).
    pub logit_scale: Option<f32>,
}

/// The modules of a classifier.
#[derive(Clone, Debug)]
pub struct Classifier {
    backbone: ResNet,
    ptl: Option<PtlBranch>,
    fc: Head,
    pool: GlobalPool,
}

impl Classifier {
    /// Registers the model in `store` with initial values drawn from `seed`.
    ///
    /// # Errors
    /// The cells do not fit the backbone.
    pub fn new(store: &mut Store, config: &ClassifierConfig, seed: u64) -> Result<Classifier> {
        let ClassifierConfig { backbone, pool, ptl, classes, logit_scale } = config;
        let config = ResNetConfig { classes: None, ..*backbone };
        let backbone = ResNet::new(Scope::root(store, seed), config);
        let mut root = Scope::root(store, seed);
        let ptl = ptl.as_ref().map(|ptl| PtlBranch::new(root.child("ptl"), &backbone, ptl, *pool)).transpose()?;
        let pool = GlobalPool::new(&mut root.child("pool"), *pool);
        let pooled = config.out_channels() + ptl.as_ref().map_or(0, PtlBranch::out_channels);
        let init = Init::Normal { mean: 0.0, std: 1.0 / (pooled as f32).sqrt() };
        let fc = Head::new(&mut root.child("fc"), [pooled, *classes], true, init, *logit_scale);
        Ok(Classifier { backbone, ptl, fc, pool })
    }
}

impl Network for Classifier {
    fn forward(&self, g: &mut Graph, store: &Store, images: Var) -> Result<Outputs> {
        let feature = super::ptl::pooled(&self.backbone, self.ptl.as_ref(), &self.pool, g, store, images)?;
        let logits = self.fc.forward(g, store, feature)?;
        Ok(Outputs { embeddings: Vec::new(), logits: vec![logits], feature })
    }
}

impl TensorNames for Classifier {
    fn pretrained_names(&self, name: &str) -> Vec<String> {
        // In a model for re-identification, the backbone has a prefix.
        vec![name.into(), format!("backbone.{name}")]
    }

    fn is_backbone(&self, name: &str) -> bool {
        !["fc.", "ptl.", "pool."].iter().any(|head| name.starts_with(head))
    }
}
