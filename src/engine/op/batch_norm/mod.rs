//! Batch normalisation over `n, h, w` for each channel, fused with an optional residual sum and ReLU:
//! `y = relu((x - μ)/√(σ² + ε)·γ + β + residual)`.
//!
//! Training: biased batch variance for normalising, unbiased for the running statistics. With `x̂ = (x-μ)/√(σ²+ε)` and
//! `g` = `dy` masked by the ReLU: `dβ = Σg`, `dγ = Σg·x̂`, `dx = γ/√(σ²+ε)·(g - Σg/M - x̂·Σg·x̂/M)`, `dresidual = g`.
//! With running statistics the two sums drop out of `dx`.

pub(super) mod cpu;
mod gpu;

use super::{OpCase, mismatch};
use crate::Result;
use crate::engine::collective::Collective;
use crate::engine::device::Gpu;
use crate::engine::graph::{
    Attachments, Backward, Forward, GpuBackward, GpuForward, Graph, Mode, Needs, OnnxNode, Op, Recompute, Var,
};
use crate::engine::onnx::OnnxAttribute;
use crate::engine::shape::Shape;
use crate::engine::store::{BufferId, CounterId, Group, Layout, ParamId, Store};

/// The parameters, statistics and settings of a batch normalisation.
#[derive(Clone, Copy, Debug)]
pub struct BatchNorm {
    /// Scale γ, `[c]`.
    pub weight: ParamId,
    /// Offset β, `[c]`.
    pub bias: ParamId,
    /// Running mean, `[c]`.
    pub running_mean: BufferId,
    /// Running unbiased variance, `[c]`.
    pub running_var: BufferId,
    /// Counter of the training batches so far.
    pub num_batches_tracked: CounterId,
    /// ε, which is added to the variance.
    pub eps: f32,
    /// Weight of a batch in the running statistics, as in torch.
    pub momentum: f32,
}

#[derive(Clone, Debug)]
pub(super) struct BatchNormOp {
    pub(super) rows: usize,
    pub(super) channels: usize,
    pub(super) eps: f32,
    momentum: f32,
    /// Normalises with batch statistics and updates the running ones, instead of normalising with the running ones.
    batch_statistics: bool,
    pub(super) residual: bool,
    pub(super) relu: bool,
    /// The processes over whose batches the statistics are computed.
    ranks: Collective,
}

impl BatchNormOp {
    /// Returns the normalisation of one image of `rows` pixels by itself, which keeps no running statistics.
    pub(super) fn of_image(rows: usize, channels: usize, eps: f32, relu: bool) -> BatchNormOp {
        let ranks = Collective::single();
        BatchNormOp { rows, channels, eps, momentum: 0.0, batch_statistics: true, residual: false, relu, ranks }
    }

    /// Returns whether the numbers of each channel are known before the input is.
    pub(super) fn is_fixed(&self) -> bool {
        !self.batch_statistics
    }
}

/// Records the normalisation of `x`, the sum with `residual` if there is one, and ReLU if `relu`.
///
/// # Errors
/// Shapes do not fit, or training would normalise a single value per channel, which has no variance.
pub fn batch_norm(
    g: &mut Graph,
    store: &Store,
    x: Var,
    norm: &BatchNorm,
    residual: Option<Var>,
    relu: bool,
) -> Result<Var> {
    let shape = g.shape(x);
    let weight = store.param(norm.weight);
    if weight.range.len() != shape.c {
        return Err(mismatch("batch_norm", format!("{} has {} values, x is {shape}", weight.name, weight.range.len())));
    }
    if let Some(other) = residual.map(|r| g.shape(r)).filter(|&r| r != shape) {
        return Err(mismatch("batch_norm", format!("residual {other} and x {shape} differ")));
    }
    let frozen = g.freeze_backbone_bn && weight.group == Group::Backbone;
    let batch_statistics = g.mode() == Mode::Train && !frozen;
    if batch_statistics && shape.rows() * g.synchronised.ranks() == 1 {
        return Err(mismatch(
            "batch_norm",
            format!(
                "{}: one value per channel ({shape}) has no variance; train with larger batches or images, or if several processes have \
                 an image each, with `train.sync_bn`",
                weight.name
            ),
        ));
    }
    let op = BatchNormOp {
        rows: shape.rows(),
        channels: shape.c,
        eps: norm.eps,
        momentum: norm.momentum,
        batch_statistics,
        residual: residual.is_some(),
        relu,
        ranks: if batch_statistics { g.synchronised.clone() } else { Collective::single() },
    };
    let inputs: Vec<Var> = std::iter::once(x).chain(residual).collect();
    let attachments = Attachments {
        params: vec![norm.weight, norm.bias],
        buffers: vec![norm.running_mean, norm.running_var],
        counter: batch_statistics.then_some(norm.num_batches_tracked),
        state: None,
    };
    g.push(op, &inputs, shape, attachments)
}

impl Op for BatchNormOp {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn onnx(&self, cx: &mut OnnxNode<'_>) -> Result<String> {
        let inputs = cx.inputs.clone();
        let (scale, bias, mean, var) = (cx.param(0), cx.param(1), cx.buffer(0), cx.buffer(1));
        let attributes = vec![OnnxAttribute::float("epsilon", self.eps)];
        let mut y = cx.node("BatchNormalization", &[&inputs[0], &scale, &bias, &mean, &var], attributes);
        if self.residual {
            y = cx.node("Add", &[&y, &inputs[1]], Vec::new());
        }
        Ok(if self.relu { cx.node("Relu", &[&y], Vec::new()) } else { y })
    }

    fn needs(&self) -> Needs {
        let mut inputs = vec![true];
        inputs.extend(self.residual.then_some(false));
        // Without a residual, the input tells what ReLU stopped.
        Needs {
            inputs,
            output: self.relu && self.residual,
            saved: 2 * self.channels,
            recomputes_output: true,
            ..Needs::default()
        }
    }

    fn forward(&self, cx: &mut Forward<'_>) {
        cpu::forward(self, cx);
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        cpu::backward(self, cx);
    }

    fn recompute(&self, cx: &mut Recompute<'_>) {
        cpu::recompute(self, cx);
    }

    fn gpu_needs(&self, _: &Gpu, _: bool) -> Result<Needs> {
        gpu::needs(self)
    }

    fn gpu_forward(&self, cx: &GpuForward<'_>) -> Result<()> {
        gpu::forward(self, cx)
    }

    fn gpu_backward(&self, cx: &GpuBackward<'_>) -> Result<()> {
        gpu::backward(self, cx)
    }
}

pub(super) fn cases() -> Vec<OpCase> {
    let shape = Shape::new(2, 3, 4, 5);
    let params: [(&[usize], Layout); 2] = [(&[5], Layout::Plain), (&[5], Layout::Plain)];
    vec![
        OpCase::new("batch_norm", &[shape], &params, |g, s, x, p, _| {
            let norm = case_norm(s, p, 5);
            batch_norm(g, s, x[0], &norm, None, false)
        }),
        OpCase::new("batch_norm relu", &[shape], &params, |g, s, x, p, _| {
            let norm = case_norm(s, p, 5);
            batch_norm(g, s, x[0], &norm, None, true)
        })
        .kinked(),
        OpCase::new("batch_norm residual relu", &[shape, shape], &params, |g, s, x, p, _| {
            let norm = case_norm(s, p, 5);
            batch_norm(g, s, x[0], &norm, Some(x[1]), true)
        })
        .kinked(),
    ]
}

/// Returns a batch normalisation, with the statistics that a case cannot declare as parameters.
pub(super) fn case_norm(store: &mut Store, p: &[ParamId], channels: usize) -> BatchNorm {
    BatchNorm {
        weight: p[0],
        bias: p[1],
        running_mean: store.add_buffer("running_mean".into(), channels, 0.1),
        running_var: store.add_buffer("running_var".into(), channels, 0.7),
        num_batches_tracked: store.add_counter("num_batches_tracked".into()),
        eps: 1e-5,
        momentum: 0.1,
    }
}

pub(super) fn bench_cases() -> Vec<OpCase> {
    let params: [(&[usize], Layout); 2] = [(&[256], Layout::Plain), (&[256], Layout::Plain)];
    let shape = Shape::new(16, 64, 32, 256);
    let of_stem: [(&[usize], Layout); 2] = [(&[64], Layout::Plain), (&[64], Layout::Plain)];
    vec![
        OpCase::new("batch_norm", &[shape], &params, |g, s, x, p, _| {
            let norm = case_norm(s, p, 256);
            batch_norm(g, s, x[0], &norm, None, false)
        }),
        OpCase::new("batch_norm relu", &[Shape::new(16, 128, 64, 64)], &of_stem, |g, s, x, p, _| {
            let norm = case_norm(s, p, 64);
            batch_norm(g, s, x[0], &norm, None, true)
        }),
        OpCase::new("batch_norm residual relu", &[shape, shape], &params, |g, s, x, p, _| {
            let norm = case_norm(s, p, 256);
            batch_norm(g, s, x[0], &norm, Some(x[1]), true)
        }),
    ]
}
