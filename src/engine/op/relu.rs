//! `y = max(x, 0)`; `dx = dy` where `y > 0`, else 0 (also at 0).

use super::OpCase;
use crate::Result;
use crate::engine::cpu::{for_each_isa, par};
use crate::engine::device::{Gpu, Grid, kernels};
use crate::engine::graph::{Attachments, Backward, Forward, GpuBackward, GpuForward, Graph, Needs, OnnxNode, Op, Var};
use crate::engine::shape::Shape;

#[derive(Debug)]
struct Relu {
    len: usize,
}

/// Records the rectified linear unit of `x`, of any shape.
pub fn relu(g: &mut Graph, x: Var) -> Result<Var> {
    let shape = g.shape(x);
    g.push(Relu { len: shape.len() }, &[x], shape, Attachments::default())
}

impl Op for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn onnx(&self, cx: &mut OnnxNode<'_>) -> Result<String> {
        let x = cx.inputs[0].clone();
        Ok(cx.node("Relu", &[&x], Vec::new()))
    }

    fn needs(&self) -> Needs {
        Needs { inputs: vec![false], output: true, ..Needs::default() }
    }

    fn forward(&self, cx: &mut Forward<'_>) {
        let x = cx.inputs[0];
        par::rows_mut(cx.output, 1, |first, y| positive_part(&x[first..], y));
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        let Some(grad) = &mut cx.grad_inputs[0] else { return };
        let (y, dy, accumulate) = (cx.output, cx.grad_output, grad.accumulate);
        par::rows_mut(grad.data, 1, |first, dx| pass_where_positive(&y[first..], &dy[first..], dx, accumulate));
    }

    fn gpu_needs(&self, _: &Gpu, _: bool) -> Result<Needs> {
        Ok(self.needs())
    }

    fn gpu_forward(&self, cx: &GpuForward<'_>) -> Result<()> {
        kernels::relu(cx.gpu, Grid::any(self.len), cx.inputs[0], cx.output, self.len as i64)
    }

    fn gpu_backward(&self, cx: &GpuBackward<'_>) -> Result<()> {
        let Some(grad) = cx.grad_inputs[0] else { return Ok(()) };
        let len = self.len as i64;
        kernels::relu_backward(cx.gpu, Grid::any(self.len), cx.output, cx.grad_output, grad.data, len, grad.flag())
    }
}

for_each_isa! {
    /// Computes `y = max(0, x)`.
    fn positive_part(x: &[f32], y: &mut [f32]) {
        // A comparison instead of `max`, so that NaN stays NaN.
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = if x < 0.0 { 0.0 } else { x });
    }

    /// Computes `dx (+)= dy` where `y` is positive, and 0 elsewhere.
    fn pass_where_positive(y: &[f32], dy: &[f32], dx: &mut [f32], accumulate: bool) {
        let values = dx.iter_mut().zip(y.iter().zip(dy));
        if accumulate {
            values.for_each(|(dx, (y, dy))| *dx += if *y > 0.0 { *dy } else { 0.0 });
        } else {
            values.for_each(|(dx, (y, dy))| *dx = if *y > 0.0 { *dy } else { 0.0 });
        }
    }
}

pub(super) fn cases() -> Vec<OpCase> {
    vec![OpCase::new("relu", &[Shape::new(2, 3, 2, 5)], &[], |g, _, x, _, _| relu(g, x[0])).kinked()]
}

pub(super) fn bench_cases() -> Vec<OpCase> {
    vec![OpCase::new("relu", &[Shape::new(16, 128, 64, 64)], &[], |g, _, x, _, _| relu(g, x[0]))]
}
