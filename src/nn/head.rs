//! The last layer of a network, which gives each class a logit.

use super::{Init, Linear, Scope};
use crate::Result;
use crate::base::settings::choice;
use crate::engine::graph::{Graph, Var};
use crate::engine::op::{self, Margin};
use crate::engine::store::Store;

choice! {
    /// What logits are, and what training makes of them.
    pub enum HeadKind {
        /// A fully connected layer.
        #[default]
        Linear = "linear",
        /// Scaled cosines, in training with the margin of ArcFace (Deng et al., CVPR 2019).
        ArcFace = "arcface",
        /// Scaled cosines, in training with the weights and margin of the circle loss (Sun et al., CVPR 2020).
        Circle = "circle",
    }
}

impl HeadKind {
    /// Returns the factor of the cosines: `chosen`, or that of the publication. `None` for a fully connected layer.
    pub fn scale(self, chosen: Option<f32>) -> Option<f32> {
        let published = match self {
            HeadKind::Linear => return None,
            HeadKind::ArcFace => 64.0,
            HeadKind::Circle => 256.0,
        };
        Some(chosen.unwrap_or(published))
    }

    /// Returns the margin: `chosen`, or that of the publication. `None` for a fully connected layer.
    pub fn margin(self, chosen: Option<f32>) -> Option<Margin> {
        match self {
            HeadKind::Linear => None,
            HeadKind::ArcFace => Some(Margin::Arc(chosen.unwrap_or(0.5))),
            HeadKind::Circle => Some(Margin::Circle(chosen.unwrap_or(0.25))),
        }
    }
}

/// A fully connected layer; or the scaled cosines between its input and the rows of the same weight, without a bias.
#[derive(Clone, Debug)]
pub struct Head {
    linear: Linear,
    /// The factor of the cosines, if logits are cosines.
    scale: Option<f32>,
}

impl Head {
    /// Registers the layer; `sizes` are inputs and classes. `bias` and `init` are those of a fully connected layer: cosines have no bias, and
    /// only the directions of their initial weights matter.
    pub fn new(scope: &mut Scope<'_>, sizes: [usize; 2], bias: bool, init: Init, scale: Option<f32>) -> Head {
        Head { linear: Linear::new(scope, sizes, bias && scale.is_none(), init), scale }
    }

    /// Records the logits of `x` `[n, 1, 1, in]`: `[n, 1, 1, classes]`.
    ///
    /// # Errors
    /// `x` has other channels than the weight.
    pub fn forward(&self, g: &mut Graph, store: &Store, x: Var) -> Result<Var> {
        match self.scale {
            None => self.linear.forward(g, store, x),
            Some(scale) => op::cosine_linear(g, store, x, self.linear.weight, scale),
        }
    }
}
