//! The eight cells of MGN_PTL at 384x128, and the bytes that they move. A launch moves each tensor that it is given once (the gate
//! gradients read and overwrite the gates: twice). Copies of the weights packed for tensor cores and partial sums are left out.
//! The test of bytes and the bench `kernels` share this file.

use ptl::engine::graph::{Graph, Var};
use ptl::engine::op::{OpCase, bconv_cell};
use ptl::engine::precision::Precision;
use ptl::engine::shape::Shape;
use ptl::engine::store::{Layout, ParamId, Store};

/// A cell of MGN_PTL: 3x3 with padding 1.
#[derive(Clone, Copy)]
pub struct Cell {
    pub input: Shape,
    pub channels: usize,
    pub stride: usize,
    /// The first cell reads images.
    pub input_gradient: bool,
}

/// The eight cells for a batch of `n` images of 384x128.
pub fn cells(n: usize) -> [Cell; 8] {
    let cell = |[h, w, c]: [usize; 3], channels, stride| Cell {
        input: Shape::new(n, h, w, c),
        channels,
        stride,
        input_gradient: c > 3,
    };
    [
        cell([384, 128, 3], 16, 2),
        cell([192, 64, 16], 32, 2),
        cell([96, 32, 64], 64, 1),
        cell([96, 32, 128], 256, 2),
        cell([48, 16, 256], 512, 2),
        cell([24, 8, 512], 128, 2),
        cell([24, 8, 512], 128, 1),
        cell([24, 8, 512], 128, 1),
    ]
}

/// Bytes of a cell's tensors.
pub struct Bytes {
    pub x: usize,
    pub weight: usize,
    /// One of the two.
    pub state: usize,
    pub y: usize,
    pub gates: usize,
}

/// What one step moves.
pub struct Traffic {
    pub evaluation: usize,
    pub training: usize,
}

impl Cell {
    pub fn output(&self) -> Shape {
        let out = |size: usize| (size - 1) / self.stride + 1;
        Shape::new(self.input.n, out(self.input.h), out(self.input.w), self.channels)
    }

    /// Weights and latent states are f32 in every precision.
    pub fn bytes(&self, precision: Precision) -> Bytes {
        let element = if precision == Precision::Bf16 { 2 } else { 4 };
        let (weight, y) = (9 * self.input.c * 4 * self.channels, self.output().len());
        Bytes {
            x: element * self.input.len(),
            weight: 4 * weight,
            state: 4 * y,
            y: element * y,
            gates: element * 4 * y,
        }
    }

    pub fn fused(&self, precision: Precision) -> Traffic {
        let Bytes { x, weight, state, y, gates } = self.bytes(precision);
        let evaluation = x + weight + 2 * state + y;
        let gate_gradients = 2 * gates + state + y;
        let input_gradient = if self.input_gradient { gates + weight + x } else { 0 };
        let weight_gradient = x + gates + weight;
        Traffic { evaluation, training: evaluation + gates + gate_gradients + input_gradient + weight_gradient }
    }

    /// A convolution that writes the pre-activations, and one elementwise kernel that reads them. In training it writes the activated
    /// gates over them; the gradients are the same.
    pub fn unfused(&self, precision: Precision) -> Traffic {
        let (gates, fused) = (self.bytes(precision).gates, self.fused(precision));
        Traffic { evaluation: fused.evaluation + 2 * gates, training: fused.training + 2 * gates }
    }

    /// The cell as an op of its own.
    pub fn case(&self) -> OpCase {
        fn build<const STRIDE: usize>(
            g: &mut Graph,
            s: &mut Store,
            x: &[Var],
            p: &[ParamId],
            _fixed: &[Var],
        ) -> ptl::Result<Var> {
            bconv_cell(g, s, "cell", x[0], p[0], [STRIDE; 2], [1, 1])
        }
        OpCase {
            name: "a cell of MGN_PTL",
            inputs: vec![self.input],
            params: vec![(vec![4 * self.channels, self.input.c, 3, 3], Layout::Conv)],
            build: if self.stride == 1 { build::<1> } else { build::<2> },
            fixed: Vec::new(),
            smooth: true,
            detached: false,
        }
    }
}
