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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::device::Device;
    use crate::engine::graph::Mode;
    use crate::engine::latent_state::{LatentStates, StateInit};
    use crate::engine::session::Session;
    use crate::engine::shape::Shape;

    #[test]
    fn logits_of_an_evaluation_are_scaled_cosines_without_margin() {
        let mut store = Store::new();
        let init = Init::Normal { mean: 0.0, std: 1.0 };
        let head = Head::new(&mut Scope::root(&mut store, 3), [4, 3], true, init, HeadKind::ArcFace.scale(Some(16.0)));
        let names: Vec<&str> = store.params.iter().map(|param| param.name.as_str()).collect();
        assert_eq!(names, ["weight"]);
        let mut graph = Graph::new(Mode::Eval);
        let x = graph.input(Shape::vectors(2, 4));
        let logits = head.forward(&mut graph, &store, x).unwrap();
        graph.keep(logits);
        let mut session = Session::new(graph, &store, &Device::cpu()).unwrap();
        let vectors = [3.0, -1.0, 0.5, 2.0, 0.1, 0.2, -0.3, 0.0];
        session.set(x, &vectors).unwrap();
        session.forward(&mut store, &mut LatentStates::new(StateInit::Zeros, 0)).unwrap();
        let weight = store.params[0].to_torch(&store.values[..]);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let length = |a: &[f32]| dot(a, a).sqrt();
        let cosines = vectors.chunks(4).flat_map(|x| weight.chunks(4).map(move |w| dot(x, w) / length(x) / length(w)));
        for (got, cosine) in session.value(logits).unwrap().iter().zip(cosines) {
            assert!((got - 16.0 * cosine).abs() < 1e-4, "{got} {cosine}");
        }
    }
}
