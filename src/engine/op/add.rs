//! Elementwise sum of two tensors: `y = a + b`, `da = dy`, `db = dy`.

use super::{OpCase, mismatch};
use crate::Result;
use crate::engine::cpu::{for_each_isa, par};
use crate::engine::device::{Gpu, Grid, kernels};
use crate::engine::graph::{Attachments, Backward, Forward, GpuBackward, GpuForward, Graph, Needs, OnnxNode, Op, Var};
use crate::engine::shape::Shape;

#[derive(Debug)]
struct Add {
    len: usize,
}

/// Records `a + b`; both have the same shape.
///
/// # Errors
/// The shapes differ, or `a` and `b` are the same tensor.
pub fn add(g: &mut Graph, a: Var, b: Var) -> Result<Var> {
    let (left, right) = (g.shape(a), g.shape(b));
    if left != right {
        return Err(mismatch("add", format!("{left} + {right}: shapes differ")));
    }
    g.push(Add { len: left.len() }, &[a, b], left, Attachments::default())
}

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn onnx(&self, cx: &mut OnnxNode<'_>) -> Result<String> {
        let (a, b) = (cx.inputs[0].clone(), cx.inputs[1].clone());
        Ok(cx.node("Add", &[&a, &b], Vec::new()))
    }

    fn needs(&self) -> Needs {
        Needs { inputs: vec![false, false], ..Needs::default() }
    }

    fn forward(&self, cx: &mut Forward<'_>) {
        let (a, b) = (cx.inputs[0], cx.inputs[1]);
        par::rows_mut(cx.output, 1, |first, y| sum(&a[first..], &b[first..], y));
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        for grad in cx.grad_inputs.iter_mut().flatten() {
            par::put(grad.data, cx.grad_output, grad.accumulate);
        }
    }

    fn gpu_needs(&self, _: &Gpu, _: bool) -> Result<Needs> {
        Ok(self.needs())
    }

    fn gpu_forward(&self, cx: &GpuForward<'_>) -> Result<()> {
        kernels::add(cx.gpu, Grid::any(self.len), cx.inputs[0], cx.inputs[1], cx.output, self.len as i64)
    }

    fn gpu_backward(&self, cx: &GpuBackward<'_>) -> Result<()> {
        cx.grad_inputs.iter().flatten().try_for_each(|grad| {
            kernels::put(cx.gpu, Grid::any(self.len), cx.grad_output, grad.data, self.len as i64, grad.flag())
        })
    }
}

for_each_isa! {
    /// Computes `y = a + b`.
    fn sum(a: &[f32], b: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(a.iter().zip(b)).for_each(|(y, (a, b))| *y = a + b);
    }
}

pub(super) fn cases() -> Vec<OpCase> {
    let shape = Shape::new(2, 3, 2, 5);
    vec![OpCase::new("add", &[shape, shape], &[], |g, _, x, _, _| add(g, x[0], x[1]))]
}

pub(super) fn bench_cases() -> Vec<OpCase> {
    let shape = Shape::new(16, 64, 32, 256);
    vec![OpCase::new("add", &[shape, shape], &[], |g, _, x, _, _| add(g, x[0], x[1]))]
}
