//! Batch normalisation on the CPU.

use super::BatchNormOp;
use crate::engine::cpu::par;
use crate::engine::graph::{Backward, Forward};

/// Returns the batch mean and the biased variance. Subtracts the first row before squaring, so that a large mean costs no digits.
fn statistics(channels: usize, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
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

pub(super) fn forward(op: &BatchNormOp, cx: &mut Forward<'_>) {
    let channels = op.channels;
    let x = cx.inputs[0];
    let (mean, var) = if op.batch_statistics {
        let (mean, var) = statistics(channels, x);
        let count = (x.len() / channels) as f32;
        for (running, (batch, factor)) in cx.buffers.iter_mut().zip([(&mean, 1.0), (&var, count / (count - 1.0))]) {
            for (r, b) in running.iter_mut().zip(batch) {
                *r += op.momentum * (b * factor - *r);
            }
        }
        (mean, var)
    } else {
        (cx.buffers[0].to_vec(), cx.buffers[1].to_vec())
    };
    let inv_std: Vec<f32> = var.iter().map(|v| 1.0 / (v + op.eps).sqrt()).collect();
    if !cx.saved.is_empty() {
        cx.saved[..channels].copy_from_slice(&mean);
        cx.saved[channels..].copy_from_slice(&inv_std);
    }
    let scale: Vec<f32> = inv_std.iter().zip(cx.params[0]).map(|(s, w)| s * w).collect();
    let bias = cx.params[1];
    let residual = op.residual.then(|| cx.inputs[1]);
    let floor = if op.relu { 0.0 } else { f32::NEG_INFINITY };
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

pub(super) fn backward(op: &BatchNormOp, cx: &mut Backward<'_>) {
    let channels = op.channels;
    let (x, y, dy) = (cx.inputs[0], cx.output, cx.grad_output);
    let (mean, inv_std) = cx.saved.split_at(channels);
    let rows = x.len() / channels;
    // Without ReLU every gradient passes: no number is at or below NaN, and `dy` serves as `y`, which was not kept.
    let (y, floor) = if op.relu { (y, 0.0) } else { (dy, f32::NAN) };
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
        let share = if op.batch_statistics { 1.0 / rows as f64 } else { 0.0 };
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

/// Returns whether ReLU stopped the value. False for NaN, so that a diverged network does not look healthy.
#[inline(always)]
fn blocked(y: f32, floor: f32) -> bool {
    y <= floor
}

/// Returns `max(floor, value)`, or NaN for NaN, so that a diverged network does not look healthy.
#[inline(always)]
fn at_least(floor: f32, value: f32) -> f32 {
    if value < floor { floor } else { value }
}
