//! Batch normalisation over `n, h, w` for each channel, fused with an optional residual sum and ReLU:
//! `y = relu((x - μ)/√(σ² + ε)·γ + β + residual)`.
//!
//! Training: biased batch variance for normalising, unbiased for the running statistics. With `x̂ = (x-μ)/√(σ²+ε)` and
//! `g` = `dy` masked by the ReLU: `dβ = Σg`, `dγ = Σg·x̂`, `dx = γ/√(σ²+ε)·(g - Σg/M - x̂·Σg·x̂/M)`, `dresidual = g`.
//! With running statistics the two sums drop out of `dx`.

use super::workspace::{ENOUGH_BLOCKS, Part, Parts, split_rows};
use super::{OpCase, mismatch};
use crate::Result;
use crate::engine::cpu::par;
use crate::engine::device::{Gpu, Grid, Ptr, kernels};
use crate::engine::graph::{
    Attachments, Backward, Forward, GpuBackward, GpuForward, GpuGrad, Graph, Mode, Needs, Op, Var,
};
use crate::engine::shape::Shape;
use crate::engine::store::{BufferId, CounterId, Group, Layout, ParamId, Store};

/// What a batch normalisation needs beside its input.
#[derive(Clone, Copy, Debug)]
pub struct BatchNorm {
    pub weight: ParamId,
    pub bias: ParamId,
    pub running_mean: BufferId,
    pub running_var: BufferId,
    pub num_batches_tracked: CounterId,
    pub eps: f32,
    pub momentum: f32,
}

#[derive(Debug)]
struct BatchNormOp {
    rows: usize,
    channels: usize,
    eps: f32,
    momentum: f32,
    /// Batch statistics (and the running ones move), not running statistics.
    batch_statistics: bool,
    residual: bool,
    relu: bool,
}

/// Normalises `x`; adds `residual` and applies ReLU where asked.
///
/// # Errors
/// Shapes that do not fit; training on a single value per channel, which has no variance.
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
    if batch_statistics && shape.rows() == 1 {
        return Err(mismatch(
            "batch_norm",
            format!(
                "{}: one value per channel ({shape}) has no variance; train with larger batches or images",
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

impl BatchNormOp {
    /// Batch mean and biased variance; one pass over `x`, with the first row subtracted so that a large mean costs no digits.
    fn statistics(&self, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let channels = self.channels;
        let (rows, pivot) = (x.len() / channels, &x[..channels]);
        let sums = par::column_sums(rows, 2 * channels, channels, |range, sums| {
            let (sum, square) = sums.split_at_mut(channels);
            for row in x[range.start * channels..range.end * channels].chunks_exact(channels) {
                for (((sum, square), x), pivot) in sum.iter_mut().zip(&mut *square).zip(row).zip(pivot) {
                    let d = x - pivot;
                    *sum += d;
                    *square += d * d;
                }
            }
        });
        let count = rows as f64;
        let mean = (0..channels).map(|c| (f64::from(pivot[c]) + sums[c] / count) as f32).collect();
        let var = (0..channels)
            .map(|c| {
                let d = sums[c] / count;
                (sums[channels + c] / count - d * d).max(0.0) as f32
            })
            .collect();
        (mean, var)
    }
}

/// Workspace of forward on a GPU.
struct ForwardParts {
    /// Mean and 1/√(variance + ε), where they are not kept.
    statistics: Part<f32>,
    partials: Part<f32>,
    parts: Parts,
}

/// Workspace of backward on a GPU.
struct BackwardParts {
    sums: Part<f32>,
    partials: Part<f32>,
    parts: Parts,
}

impl BatchNormOp {
    /// Rows of a partial sum on a GPU, and the number of those.
    fn splits(&self) -> (usize, usize) {
        let split = split_rows(self.rows, 128, ENOUGH_BLOCKS.div_ceil(self.channels.div_ceil(32)));
        (split, self.rows.div_ceil(split))
    }

    fn forward_parts(&self) -> ForwardParts {
        let mut parts = Parts::default();
        let statistics = parts.add(2 * self.channels);
        let partials = parts.add(if self.batch_statistics { self.splits().1 * 2 * self.channels } else { 0 });
        ForwardParts { statistics, partials, parts }
    }

    fn backward_parts(&self) -> BackwardParts {
        let mut parts = Parts::default();
        let sums = parts.add(2 * self.channels);
        let partials = parts.add(self.splits().1 * 2 * self.channels);
        BackwardParts { sums, partials, parts }
    }
}

impl Op for BatchNormOp {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn needs(&self) -> Needs {
        let mut inputs = vec![true];
        inputs.extend(self.residual.then_some(false));
        Needs { inputs, output: self.relu, saved: 2 * self.channels, ..Needs::default() }
    }

    fn forward(&self, cx: &mut Forward<'_>) {
        let channels = self.channels;
        let x = cx.inputs[0];
        let (mean, var) = if self.batch_statistics {
            let (mean, var) = self.statistics(x);
            let count = (x.len() / channels) as f32;
            for (running, (batch, factor)) in cx.buffers.iter_mut().zip([(&mean, 1.0), (&var, count / (count - 1.0))]) {
                for (r, b) in running.iter_mut().zip(batch) {
                    *r += self.momentum * (b * factor - *r);
                }
            }
            (mean, var)
        } else {
            (cx.buffers[0].to_vec(), cx.buffers[1].to_vec())
        };
        let inv_std: Vec<f32> = var.iter().map(|v| 1.0 / (v + self.eps).sqrt()).collect();
        if !cx.saved.is_empty() {
            cx.saved[..channels].copy_from_slice(&mean);
            cx.saved[channels..].copy_from_slice(&inv_std);
        }
        let scale: Vec<f32> = inv_std.iter().zip(cx.params[0]).map(|(s, w)| s * w).collect();
        let bias = cx.params[1];
        let residual = self.residual.then(|| cx.inputs[1]);
        let floor = if self.relu { 0.0 } else { f32::NEG_INFINITY };
        par::rows_mut(cx.output, channels, |first, y| {
            let start = first * channels;
            let (mean, scale, bias) = (&mean[..channels], &scale[..channels], &bias[..channels]);
            for (i, y) in y.chunks_exact_mut(channels).enumerate() {
                let at = start + i * channels;
                let x = &x[at..at + channels];
                match residual {
                    None => {
                        for c in 0..channels {
                            y[c] = at_least(floor, (x[c] - mean[c]) * scale[c] + bias[c]);
                        }
                    }
                    Some(residual) => {
                        let r = &residual[at..at + channels];
                        for c in 0..channels {
                            y[c] = at_least(floor, (x[c] - mean[c]) * scale[c] + bias[c] + r[c]);
                        }
                    }
                }
            }
        });
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        let channels = self.channels;
        let (x, y, dy) = (cx.inputs[0], cx.output, cx.grad_output);
        let (mean, inv_std) = cx.saved.split_at(channels);
        let rows = x.len() / channels;
        // Without ReLU every gradient passes: nothing is at or below NaN, and `dy` stands in for `y`.
        let (y, floor) = if self.relu { (y, 0.0) } else { (dy, f32::NAN) };
        let row_of = |row: usize| row * channels..(row + 1) * channels;

        let sums = par::column_sums(rows, 2 * channels, channels, |range, sums| {
            let (sum, dot) = sums.split_at_mut(channels);
            let (mean, inv_std) = (&mean[..channels], &inv_std[..channels]);
            for row in range {
                let span = row_of(row);
                let (x, y, dy) = (&x[span.clone()], &y[span.clone()], &dy[span]);
                for c in 0..channels {
                    let g = if blocked(y[c], floor) { 0.0 } else { dy[c] };
                    sum[c] += g;
                    dot[c] += g * ((x[c] - mean[c]) * inv_std[c]);
                }
            }
        });
        let (sum, dot) = sums.split_at(channels);
        for (grad, total) in cx.grad_params.iter_mut().zip([dot, sum]) {
            if let Some(grad) = grad {
                total.iter().enumerate().for_each(|(c, &v)| grad.put(c, v as f32));
            }
        }
        if let Some(grad) = &mut cx.grad_inputs[0] {
            let accumulate = grad.accumulate;
            let scale: Vec<f32> = inv_std.iter().zip(cx.params[0]).map(|(s, w)| s * w).collect();
            let share = if self.batch_statistics { 1.0 / rows as f64 } else { 0.0 };
            let mean_g: Vec<f32> = sum.iter().map(|s| (s * share) as f32).collect();
            let mean_dot: Vec<f32> = dot.iter().zip(inv_std).map(|(s, &i)| (s * share) as f32 * i).collect();
            par::rows_mut(grad.data, channels, |first, dx| {
                let (mean, scale) = (&mean[..channels], &scale[..channels]);
                let (mean_g, mean_dot) = (&mean_g[..channels], &mean_dot[..channels]);
                for (i, dx) in dx.chunks_exact_mut(channels).enumerate() {
                    let span = row_of(first + i);
                    let (x, y, dy) = (&x[span.clone()], &y[span.clone()], &dy[span]);
                    for c in 0..channels {
                        let g = if blocked(y[c], floor) { 0.0 } else { dy[c] };
                        let value = scale[c] * (g - mean_g[c] - (x[c] - mean[c]) * mean_dot[c]);
                        dx[c] = value + if accumulate { dx[c] } else { 0.0 };
                    }
                }
            });
        }
        if let Some(Some(grad)) = cx.grad_inputs.get_mut(1) {
            let accumulate = grad.accumulate;
            par::rows_mut(grad.data, channels, |first, dr| {
                let span = first * channels..first * channels + dr.len();
                for ((dr, y), dy) in dr.iter_mut().zip(&y[span.clone()]).zip(&dy[span]) {
                    let g = if blocked(*y, floor) { 0.0 } else { *dy };
                    *dr = g + if accumulate { *dr } else { 0.0 };
                }
            });
        }
    }

    fn gpu_needs(&self, _: &Gpu) -> Result<Needs> {
        let forward_workspace = self.forward_parts().parts.words();
        let backward_workspace = self.backward_parts().parts.words();
        Ok(Needs { forward_workspace, backward_workspace, ..self.needs() })
    }

    fn gpu_forward(&self, cx: &GpuForward<'_>) -> Result<()> {
        let (gpu, x, c, rows) = (cx.gpu, cx.inputs[0], self.channels as i32, self.rows as i64);
        let ForwardParts { statistics, partials, .. } = self.forward_parts();
        let mean = if cx.saved == Ptr::NULL { statistics.of(cx.workspace) } else { cx.saved.cast() };
        let inv_std = mean.add(self.channels);
        let (running_mean, running_var) = (cx.buffers[0], cx.buffers[1]);
        let finish = self.channels.div_ceil(64);
        if self.batch_statistics {
            let (split, splits) = self.splits();
            let (partials, grid) = (partials.of(cx.workspace), [self.channels.div_ceil(32), splits]);
            kernels::batch_norm_partials(gpu, grid, x, partials, rows, c, split as i32)?;
            let (splits, eps, momentum) = (splits as i32, self.eps, self.momentum);
            kernels::batch_norm_finish(
                gpu,
                finish,
                x,
                partials,
                mean,
                inv_std,
                running_mean,
                running_var,
                splits,
                rows,
                c,
                eps,
                momentum,
            )?;
        } else {
            kernels::batch_norm_from_running(gpu, finish, running_mean, running_var, mean, inv_std, c, self.eps)?;
        }
        let residual = if self.residual { cx.inputs[1] } else { Ptr::NULL };
        let (weight, bias, relu) = (cx.params[0], cx.params[1], i32::from(self.relu));
        let grid = Grid::any(self.rows * self.channels);
        kernels::batch_norm_apply(gpu, grid, x, residual, mean, inv_std, weight, bias, cx.output, rows, c, relu)
    }

    fn gpu_backward(&self, cx: &GpuBackward<'_>) -> Result<()> {
        let (gpu, x, y, dy) = (cx.gpu, cx.inputs[0], cx.output, cx.grad_output);
        let (c, rows) = (self.channels as i32, self.rows as i64);
        let BackwardParts { sums, partials, .. } = self.backward_parts();
        let (sums, partials) = (sums.of(cx.workspace), partials.of(cx.workspace));
        let mean: Ptr<f32> = cx.saved.cast();
        let inv_std = mean.add(self.channels);
        let (split, splits) = self.splits();
        let grid = [self.channels.div_ceil(32), splits];
        kernels::batch_norm_backward_partials(gpu, grid, x, y, dy, mean, inv_std, partials, rows, c, split as i32)?;

        let or_null = |grad: Option<GpuGrad<Ptr<f32>>>| grad.map_or((Ptr::NULL, 0), |g| (g.data, g.flag()));
        let ((dweight, add_weight), (dbias, add_bias)) = (or_null(cx.grad_params[0]), or_null(cx.grad_params[1]));
        let finish = self.channels.div_ceil(64);
        let splits = splits as i32;
        kernels::batch_norm_backward_finish(
            gpu, finish, partials, sums, dweight, dbias, splits, c, add_weight, add_bias,
        )?;

        let or_null = |grad: Option<GpuGrad<Ptr>>| grad.map_or((Ptr::NULL, 0), |g| (g.data, g.flag()));
        let (dx, add_dx) = or_null(cx.grad_inputs[0]);
        let (dresidual, add_dresidual) = or_null(cx.grad_inputs.get(1).copied().flatten());
        if dx == Ptr::NULL && dresidual == Ptr::NULL {
            return Ok(());
        }
        kernels::batch_norm_backward_apply(
            gpu,
            Grid::any(self.rows * self.channels),
            x,
            y,
            dy,
            mean,
            inv_std,
            cx.params[0],
            sums,
            dx,
            dresidual,
            rows,
            c,
            i32::from(self.batch_statistics),
            add_dx,
            add_dresidual,
        )
    }
}

/// Whether ReLU stopped the value; not if it is NaN, so that a diverged network does not look healthy.
#[inline(always)]
fn blocked(y: f32, floor: f32) -> bool {
    y <= floor
}

/// `max(floor, value)` that lets NaN through, so that a diverged network does not look healthy.
#[inline(always)]
fn at_least(floor: f32, value: f32) -> f32 {
    if value < floor { floor } else { value }
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

/// The parts that a case cannot declare as parameters.
fn case_norm(store: &mut Store, p: &[ParamId], channels: usize) -> BatchNorm {
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
    let shape = Shape::new(16, 64, 32, 256);
    let params: [(&[usize], Layout); 2] = [(&[256], Layout::Plain), (&[256], Layout::Plain)];
    vec![OpCase::new("batch_norm residual relu", &[shape, shape], &params, |g, s, x, p, _| {
        let norm = case_norm(s, p, 256);
        batch_norm(g, s, x[0], &norm, Some(x[1]), true)
    })]
}
