//! The rows of all processes of a training, as a loss over the global batch needs them.
//!
//! Every process computes the same from the gathered rows. Therefore backward takes the gradient of its own rows, and needs nothing of the others.

use super::columns::{self, Columns};
use super::mismatch;
use crate::Result;
use crate::engine::collective::Collective;
use crate::engine::cpu::par;
use crate::engine::device::Gpu;
use crate::engine::graph::{Attachments, Backward, Forward, GpuBackward, GpuForward, Graph, Needs, Op, Var};
use crate::engine::shape::Shape;

#[derive(Debug)]
struct GatherBatch {
    /// Numbers of one process.
    len: usize,
    ranks: Collective,
}

/// Records the vectors of all ranks, in their order: `x` `[n, 1, 1, c]` becomes `[ranks·n, 1, 1, c]`. What is computed from them must be the same
/// on every rank. In a single process, returns `x` itself.
///
/// # Errors
/// `x` is not one vector for each image.
pub fn gather_batch(g: &mut Graph, x: Var, ranks: &Collective) -> Result<Var> {
    let shape = g.shape(x);
    if shape != Shape::vectors(shape.n, shape.c) {
        return Err(mismatch("gather_batch", format!("{shape} is not one vector for each image")));
    }
    if !ranks.has_others() {
        return Ok(x);
    }
    let op = GatherBatch { len: shape.len(), ranks: ranks.clone() };
    g.push(op, &[x], Shape::vectors(ranks.ranks() * shape.n, shape.c), Attachments::default())
}

impl Op for GatherBatch {
    fn name(&self) -> &'static str {
        "gather_batch"
    }

    fn needs(&self) -> Needs {
        Needs { inputs: vec![false], ..Needs::default() }
    }

    fn forward(&self, cx: &mut Forward<'_>) {
        self.ranks.gather_into(cx.inputs[0], cx.output);
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        let Some(grad) = &mut cx.grad_inputs[0] else { return };
        let own = &cx.grad_output[self.ranks.rank() * self.len..][..self.len];
        if grad.accumulate {
            par::add_assign(grad.data, own);
        } else {
            grad.data.copy_from_slice(own);
        }
    }

    fn gpu_needs(&self, _: &Gpu, _: bool) -> Result<Needs> {
        Ok(self.needs())
    }

    fn gpu_forward(&self, cx: &GpuForward<'_>) -> Result<()> {
        cx.gpu.all_gather(cx.inputs[0], self.len * cx.gpu.activation_bytes(), cx.output)
    }

    fn gpu_backward(&self, cx: &GpuBackward<'_>) -> Result<()> {
        let Some(grad) = &cx.grad_inputs[0] else { return Ok(()) };
        let own = Columns {
            from: cx.gpu.offset(cx.grad_output, self.ranks.rank() * self.len),
            from_pitch: self.len,
            to: grad.data,
            to_pitch: self.len,
            width: self.len,
            accumulate: grad.accumulate,
        };
        columns::copy(cx.gpu, 1, &[own])
    }
}
