//! Examples of ops with sizes, for gradient checks, comparisons of devices and benches.

use crate::Result;
use crate::engine::graph::{Graph, Var};
use crate::engine::shape::Shape;
use crate::engine::store::{Layout, ParamId, Store};

pub(super) type Build = fn(&mut Graph, &mut Store, &[Var], &[ParamId], &[Var]) -> Result<Var>;

/// An op with the sizes of its operands.
pub struct OpCase {
    /// Name of the case: the op, and what is special about the sizes.
    pub name: &'static str,
    /// Shapes of the differentiated inputs.
    pub inputs: Vec<Shape>,
    /// torch shapes and layouts of the parameters.
    pub params: Vec<(Vec<usize>, Layout)>,
    /// Records the op; the last argument has the [`OpCase::fixed`] inputs.
    pub build: Build,
    /// Inputs that are not differentiated, with their numbers: class labels (bits of u32), class probabilities, embeddings.
    pub fixed: Vec<(Shape, Vec<f32>)>,
    /// False for a piecewise-linear op: finite differences use smaller steps then, which seldom cross a kink.
    pub smooth: bool,
    /// Whether backward takes a part of what forward computes as a constant. Finite differences show another gradient then.
    pub detached: bool,
}

impl OpCase {
    pub(super) fn new(name: &'static str, inputs: &[Shape], params: &[(&[usize], Layout)], build: Build) -> OpCase {
        let params = params.iter().map(|(shape, layout)| (shape.to_vec(), *layout)).collect();
        OpCase { name, inputs: inputs.to_vec(), params, build, fixed: Vec::new(), smooth: true, detached: false }
    }

    pub(super) fn labels(mut self, labels: &[u32]) -> OpCase {
        self.fixed.push((Shape::vectors(labels.len(), 1), bytemuck::cast_slice(labels).to_vec()));
        self
    }

    pub(super) fn targets(mut self, shape: Shape, numbers: &[f32]) -> OpCase {
        self.fixed.push((shape, numbers.to_vec()));
        self
    }

    pub(super) fn detached(mut self) -> OpCase {
        self.detached = true;
        self
    }

    pub(super) fn kinked(mut self) -> OpCase {
        self.smooth = false;
        self
    }
}
