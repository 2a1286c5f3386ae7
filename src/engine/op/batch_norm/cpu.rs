//! Batch normalisation on the CPU.
//!
//! Loops go over rows of several pixels where pixels have few channels, so that a row fills vectors; the numbers of each channel are then
//! repeated for each pixel of the row.

use std::ops::Range;

use rayon::prelude::*;

use super::BatchNormOp;
use crate::engine::cpu::{InstructionSet, Normalization, Simd, for_each_isa, for_each_vector, par};
use crate::engine::graph::{Backward, Forward, Grad, Recompute};

/// A row has at most this many elements, unless one pixel has more.
const ROW: usize = 64;

/// Returns the elements of a row: a multiple of `channels`.
fn row_len(channels: usize) -> usize {
    channels * (ROW / channels).max(1)
}

/// Repeats the numbers of the channels for each pixel of a row.
fn repeated(values: impl IntoIterator<Item = f32>, row: usize) -> Vec<f32> {
    let values: Vec<f32> = values.into_iter().collect();
    values.repeat(row / values.len())
}

/// Returns two sums for each channel, `[2][channels]`. `add(elements, sums)` adds those of a range of elements to `[2][row]`.
fn two_sums(channels: usize, len: usize, add: impl Fn(Range<usize>, &mut [f32]) + Sync) -> Vec<f64> {
    let row = row_len(channels);
    let sums = par::column_sums(len.div_ceil(row), 2 * row, row, |rows, sums| {
        add(rows.start * row..(rows.end * row).min(len), sums);
    });
    let mut folded = vec![0.0; 2 * channels];
    for (which, sums) in sums.chunks_exact(row).enumerate() {
        sums.iter().enumerate().for_each(|(i, sum)| folded[which * channels + i % channels] += sum);
    }
    folded
}

/// Returns the batch mean and the biased variance. Subtracts the first row before squaring, so that a large mean costs no digits.
pub(in crate::engine::op) fn statistics(channels: usize, x: &[f32]) -> [Vec<f64>; 2] {
    let count = (x.len() / channels) as f64;
    let first = &x[..channels];
    let pivot = repeated(first.iter().copied(), row_len(channels));
    let sums = two_sums(channels, x.len(), |range, sums| add_moments(&x[range], &pivot, sums));
    let mean = (0..channels).map(|c| f64::from(first[c]) + sums[c] / count).collect();
    let var = (0..channels)
        .map(|c| {
            let d = sums[c] / count;
            let var = sums[channels + c] / count - d * d;
            // Rounding may make it negative; NaN stays.
            if var < 0.0 { 0.0 } else { var }
        })
        .collect();
    [mean, var]
}

/// Rounds the numbers of each channel.
pub(in crate::engine::op) fn rounded(numbers: &[f64]) -> Vec<f32> {
    numbers.iter().map(|&number| number as f32).collect()
}

/// Returns mean and biased variance over the batches of all ranks, from those of each, which have as many pixels.
fn of_all_ranks(op: &BatchNormOp, own: [Vec<f64>; 2]) -> [Vec<f64>; 2] {
    if !op.ranks.has_others() {
        return own;
    }
    let (channels, ranks) = (op.channels, op.ranks.ranks() as f64);
    let all = op.ranks.gather(&own.concat());
    let of_ranks = |at: usize| all.iter().skip(at).step_by(2 * channels);
    let mean: Vec<f64> = (0..channels).map(|c| of_ranks(c).sum::<f64>() / ranks).collect();
    let var = |c: usize| {
        let between = of_ranks(c).map(|m| (m - mean[c]).powi(2)).sum::<f64>();
        (of_ranks(channels + c).sum::<f64>() + between) / ranks
    };
    let var = (0..channels).map(var).collect();
    [mean, var]
}

/// Returns the normalisation with these statistics; the parameters are weight and bias.
pub(in crate::engine::op) fn normalization<'a>(
    op: &BatchNormOp,
    mean: &[f32],
    inv_std: &[f32],
    params: [&[f32]; 2],
    residual: Option<&'a [f32]>,
) -> Normalization<'a> {
    let row = row_len(op.channels);
    let scale = inv_std.iter().zip(params[0]).map(|(s, w)| s * w);
    let numbers = [repeated(mean.iter().copied(), row), repeated(scale, row), repeated(params[1].iter().copied(), row)];
    Normalization { numbers, channels: op.channels, residual, relu: op.relu }
}

/// Returns the normalisation with running statistics `[mean, variance]`; the parameters are weight and bias.
pub(in crate::engine::op) fn fixed_normalization<'a>(
    op: &BatchNormOp,
    [mean, var]: [&[f32]; 2],
    params: [&[f32]; 2],
    residual: Option<&'a [f32]>,
) -> Normalization<'a> {
    normalization(op, mean, &inverse_deviation(op, var), params, residual)
}

/// Returns `1/√(variance + ε)` of each channel.
pub(in crate::engine::op) fn inverse_deviation(op: &BatchNormOp, var: &[f32]) -> Vec<f32> {
    var.iter().map(|v| 1.0 / (v + op.eps).sqrt()).collect()
}

pub(super) fn forward(op: &BatchNormOp, cx: &mut Forward<'_>) {
    let channels = op.channels;
    let x = cx.inputs[0];
    let (mean, var) = if op.batch_statistics {
        let [mean, var] = of_all_ranks(op, statistics(channels, x)).map(|numbers| rounded(&numbers));
        let count = (x.len() / channels * op.ranks.ranks()) as f32;
        for (running, (batch, factor)) in cx.buffers.iter_mut().zip([(&mean, 1.0), (&var, count / (count - 1.0))]) {
            for (r, b) in running.iter_mut().zip(batch) {
                *r += op.momentum * (b * factor - *r);
            }
        }
        (mean, var)
    } else {
        (cx.buffers[0].to_vec(), cx.buffers[1].to_vec())
    };
    let inv_std = inverse_deviation(op, &var);
    if !cx.saved.is_empty() {
        cx.saved[..channels].copy_from_slice(&mean);
        cx.saved[channels..].copy_from_slice(&inv_std);
    }
    let residual = op.residual.then(|| cx.inputs[1]);
    normalization(op, &mean, &inv_std, [cx.params[0], cx.params[1]], residual).run(x, cx.output);
}

pub(super) fn recompute(op: &BatchNormOp, cx: &mut Recompute<'_>) {
    let (mean, inv_std) = cx.saved.split_at(op.channels);
    let residual = op.residual.then(|| cx.inputs[1]);
    normalization(op, mean, inv_std, [cx.params[0], cx.params[1]], residual).run(cx.inputs[0], cx.output);
}

pub(super) fn backward(op: &BatchNormOp, cx: &mut Backward<'_>) {
    let (mean, inv_std) = cx.saved.split_at(op.channels);
    let pixels = Pixels { x: cx.inputs[0], y: cx.output, dy: cx.grad_output, mean, inv_std };
    let [grad_x, rest @ ..] = &mut cx.grad_inputs[..] else { unreachable!("batch_norm has an input") };
    let grad_residual = rest.first_mut().and_then(Option::as_mut);
    let [sum, dot] = pixel_gradients(op, &pixels, [cx.params[0], cx.params[1]], grad_x.as_mut(), grad_residual);
    for (grad, total) in cx.grad_params.iter_mut().zip([dot, sum]) {
        if let Some(grad) = grad {
            total.iter().enumerate().for_each(|(c, &v)| grad.put(c, v as f32));
        }
    }
}

/// Pixels that were normalised together: all of a batch, or those of an image.
pub(in crate::engine::op) struct Pixels<'a> {
    pub x: &'a [f32],
    /// The output; only read with a residual and a ReLU.
    pub y: &'a [f32],
    pub dy: &'a [f32],
    /// The mean of each channel.
    pub mean: &'a [f32],
    /// `1/√(variance + ε)` of each channel.
    pub inv_std: &'a [f32],
}

/// Computes the gradients of the inputs, and returns `Σg` and `Σg·x̂` of each channel. The parameters are weight and bias.
pub(in crate::engine::op) fn pixel_gradients(
    op: &BatchNormOp,
    pixels: &Pixels<'_>,
    params: [&[f32]; 2],
    grad_x: Option<&mut Grad<'_>>,
    grad_residual: Option<&mut Grad<'_>>,
) -> [Vec<f64>; 2] {
    let channels = op.channels;
    let &Pixels { x, y, dy, mean, inv_std } = pixels;
    let (count, row) = (x.len() / channels, row_len(channels));
    let centre = repeated(mean.iter().copied(), row);
    let scale = repeated(inv_std.iter().zip(params[0]).map(|(s, w)| s * w), row);
    let bias = repeated(params[1].iter().copied(), row);
    // Without a residual, the input tells what ReLU stopped: the output need not be read.
    let relu = |range: Range<usize>| match (op.relu, op.residual) {
        (false, _) => Relu::Absent,
        (true, true) => Relu::Output(&y[range]),
        (true, false) => Relu::OfInput([&centre, &scale, &bias]),
    };

    let sums = two_sums(channels, x.len(), |range, sums| {
        let (x, dy, relu) = (&x[range.clone()], &dy[range.clone()], relu(range));
        // SAFETY: parts of equal length; the instruction set in use.
        unsafe { add_gradient_sums(InstructionSet::best(), x, relu, dy, &centre, sums) }
    });
    let (sum, dot) = sums.split_at(channels);
    let dot: Vec<f64> = dot.iter().zip(inv_std).map(|(dot, &inv_std)| dot * f64::from(inv_std)).collect();
    // The parameters' gradients are summed over ranks later, with all others; those of the inputs need the sums now.
    let mut total = [sum, &dot].concat();
    op.ranks.sum_f64(&mut total);
    let share = if op.batch_statistics { 1.0 / (count * op.ranks.ranks()) as f64 } else { 0.0 };
    let (total_sum, total_dot) = total.split_at(channels);
    let mean_g = repeated(total_sum.iter().map(|s| (s * share) as f32), row);
    let mean_dot = repeated(total_dot.iter().zip(inv_std).map(|(s, &i)| (s * share) as f32 * i), row);
    let numbers = [&centre[..], &scale, &mean_g, &mean_dot];
    let len = par::task_rows(row) * row;
    let (add_x, add_residual) =
        (grad_x.as_ref().is_some_and(|g| g.accumulate), grad_residual.as_ref().is_some_and(|g| g.accumulate));
    let chunk = |i: usize, dx: &mut [f32], dr: &mut [f32]| {
        let span = i * len..i * len + dx.len().max(dr.len());
        assert!([dx.len(), dr.len()].iter().all(|part| [0, span.len()].contains(part)), "gradients of equal length");
        let (x, dy, dx, dr) = (&x[span.clone()], &dy[span.clone()], (dx, add_x), (dr, add_residual));
        // SAFETY: parts of equal length; the instruction set in use.
        unsafe { gradients(InstructionSet::best(), x, relu(span), dy, numbers, dx, dr) }
    };
    match (grad_x, grad_residual) {
        (Some(dx), Some(dr)) => {
            let chunks = dx.data.par_chunks_mut(len).zip(dr.data.par_chunks_mut(len));
            chunks.enumerate().for_each(|(i, (dx, dr))| chunk(i, dx, dr));
        }
        (Some(dx), None) => dx.data.par_chunks_mut(len).enumerate().for_each(|(i, dx)| chunk(i, dx, &mut [])),
        (None, Some(dr)) => dr.data.par_chunks_mut(len).enumerate().for_each(|(i, dr)| chunk(i, &mut [], dr)),
        (None, None) => {}
    }
    [sum.to_vec(), dot]
}

for_each_isa! {
    /// Adds the sums of `x - pivot` and of its squares to `sums` `[2][row]`.
    fn add_moments(x: &[f32], pivot: &[f32], sums: &mut [f32]) {
        let len = pivot.len();
        let (sum, square) = sums.split_at_mut(len);
        let (fours, rest) = x.split_at(x.len() / (4 * len) * (4 * len));
        for four in fours.chunks_exact(4 * len) {
            let [a, b, c, d] = [0, 1, 2, 3].map(|i| &four[i * len..][..len]);
            for i in 0..len {
                let [a, b, c, d] = [a[i], b[i], c[i], d[i]].map(|x| x - pivot[i]);
                sum[i] += (a + b) + (c + d);
                square[i] += (a * a + b * b) + (c * c + d * d);
            }
        }
        for row in rest.chunks(len) {
            for (((sum, square), x), pivot) in sum.iter_mut().zip(&mut *square).zip(row).zip(pivot) {
                let d = x - pivot;
                *sum += d;
                *square += d * d;
            }
        }
    }
}

for_each_vector! {
    /// Adds the sums of `g` and of `g·(x - mean)` to `sums` `[2][row]`, where `g` is what `relu` passes of `dy`.
    ///
    /// # Safety
    /// The operands have equal lengths, and `sums` is twice as long as `mean` and what `relu` has for a row.
    unsafe fn add_gradient_sums<S>(x: &[f32], relu: Relu<'_>, dy: &[f32], mean: &[f32], sums: &mut [f32]) {
        let (len, row) = (x.len(), mean.len());
        let (sum, dot) = sums.split_at_mut(row);
        let (sum, dot) = (sum.as_mut_ptr(), dot.as_mut_ptr());
        // Two rows at a time, the second of which may be missing or short.
        for start in (0..len).step_by(2 * row) {
            for c in (0..row.min(len - start)).step_by(S::LANES) {
                // SAFETY: the caller's promise; `count` numbers of a row, those of the second row as far as there are any.
                unsafe {
                    let count = S::LANES.min(row - c).min(len - start - c);
                    let mean = S::load_part(mean.as_ptr().add(c), count);
                    let (mut own_sum, mut own_dot) = (S::load_part(sum.add(c), count), S::load_part(dot.add(c), count));
                    for at in [start + c, start + row + c] {
                        let count = count.min(len.saturating_sub(at));
                        if count == 0 {
                            break;
                        }
                        let x = S::load_part(x.as_ptr().add(at), count);
                        let g = relu.passed(x, S::load_part(dy.as_ptr().add(at), count), at, c, count);
                        own_sum = own_sum.add(g);
                        own_dot = g.mul_add(x.sub(mean), own_dot);
                    }
                    own_sum.store_part(sum.add(c), count);
                    own_dot.store_part(dot.add(c), count);
                }
            }
        }
    }

    /// Computes `dx (+)= scale·(g - mean_g - (x - mean)·mean_dot)` and `dr (+)= g`, unless they are empty, where `g` is what `relu`
    /// passes of `dy`. `numbers` are mean, scale, mean_g and mean_dot of a row. The flags say whether to add.
    ///
    /// # Safety
    /// The operands that are not empty have equal lengths, and so have the numbers.
    unsafe fn gradients<S>(
        x: &[f32],
        relu: Relu<'_>,
        dy: &[f32],
        numbers: [&[f32]; 4],
        dx: (&mut [f32], bool),
        dr: (&mut [f32], bool),
    ) {
        let ((dx, add_x), (dr, add_residual)) = (dx, dr);
        let (len, row) = (dy.len(), numbers[0].len());
        for start in (0..len).step_by(row) {
            let end = (start + row).min(len);
            for at in (start..end).step_by(S::LANES) {
                // SAFETY: the caller's promise; `count` numbers of a row.
                unsafe {
                    let count = S::LANES.min(end - at);
                    let x = S::load_part(x.as_ptr().add(at), count);
                    let g = relu.passed(x, S::load_part(dy.as_ptr().add(at), count), at, at - start, count);
                    if !dr.is_empty() {
                        let to = dr.as_mut_ptr().add(at);
                        let sum = if add_residual { S::load_part(to, count).add(g) } else { g };
                        sum.store_part(to, count);
                    }
                    if !dx.is_empty() {
                        let to = dx.as_mut_ptr().add(at);
                        let [mean, scale, mean_g, mean_dot] =
                            numbers.map(|n| S::load_part(n.as_ptr().add(at - start), count));
                        let inner = g.sub(mean_g).sub(x.sub(mean).mul(mean_dot));
                        let sum = if add_x { scale.mul_add(inner, S::load_part(to, count)) } else { scale.mul(inner) };
                        sum.store_part(to, count);
                    }
                }
            }
        }
    }
}

/// The ReLU after batch normalisation, as its gradient needs it.
#[derive(Clone, Copy)]
enum Relu<'a> {
    /// There is none: every gradient passes.
    Absent,
    /// The output is not above zero where it stopped a gradient.
    Output(&'a [f32]),
    /// The output is `(x - mean)·scale + bias`, with mean, scale and bias of a row.
    OfInput([&'a [f32]; 3]),
}

impl Relu<'_> {
    /// Returns the `count` gradients `dy` of the inputs `x`, from element `at` and column `c` of its row on, with zeros where ReLU stopped
    /// them. It stops no NaN, so that a diverged network does not look healthy.
    ///
    /// # Safety
    /// The instruction set must be there, and the numbers within their slices.
    #[inline(always)]
    unsafe fn passed<S: Simd>(self, x: S, dy: S, at: usize, c: usize, count: usize) -> S {
        // SAFETY: the caller's promise.
        unsafe {
            let y = match self {
                Relu::Absent => return dy,
                Relu::Output(y) => S::load_part(y.as_ptr().add(at), count),
                Relu::OfInput(numbers) => {
                    let [mean, scale, bias] = numbers.map(|n| S::load_part(n.as_ptr().add(c), count));
                    // The operations of forward, so that the result has its bits.
                    x.sub(mean).mul(scale).add(bias)
                }
            };
            // Less than the smallest positive number: zero and less.
            y.select_less(S::splat(f32::from_bits(1)), S::splat(0.0), dy)
        }
    }
}
