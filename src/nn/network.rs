//! The interface of networks for training and evaluation.

use std::fmt;

use crate::Result;
use crate::engine::graph::{Graph, Var};
use crate::engine::store::Store;
use crate::io::checkpoint::TensorNames;

/// A network whose parameters are in a [`Store`].
pub trait Network: TensorNames + fmt::Debug + Send + Sync {
    /// Records the network on `images` `[n, h, w, 3]`.
    ///
    /// # Errors
    /// The network cannot take this image size.
    fn forward(&self, g: &mut Graph, store: &Store, images: Var) -> Result<Outputs>;
}

/// Recorded outputs of a network.
#[derive(Clone, Debug)]
pub struct Outputs {
    /// `[n, 1, 1, d]` each, for triplet losses, whose mean is the loss. A classifier has none.
    pub embeddings: Vec<Var>,
    /// `[n, 1, 1, classes]` each, for cross-entropies, whose mean is the loss.
    pub logits: Vec<Var>,
    /// The retrieval feature, or the input of a classifier's last layer, `[n, 1, 1, d]`.
    pub feature: Var,
}
