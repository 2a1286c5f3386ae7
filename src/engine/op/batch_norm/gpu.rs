//! Batch normalisation on a GPU: partial sums over the rows, their total, then one pass over all elements; the same backward.

use super::BatchNormOp;
use crate::Result;
use crate::engine::device::{COUNTERS, Grid, Ptr, kernels};
use crate::engine::graph::{GpuBackward, GpuForward, GpuGrad, Needs, Op};
use crate::engine::op::mismatch;
use crate::engine::op::workspace::{ENOUGH_BLOCKS, Part, Parts, split_rows};

// From what backward knows which values the ReLU let through, as in batch_norm.cu: there is no ReLU; y; or y computed again from x.
const NO_RELU: i32 = 0;
const RELU_OF_Y: i32 = 1;
const RELU_OF_X: i32 = 2;

/// The workspace of forward.
struct ForwardParts {
    /// Mean and 1/√(variance + ε), if they are not saved for backward.
    statistics: Part<f32>,
    partials: Part<f32>,
    /// Mean and 1/√(variance + ε) of this rank, and of each rank, where they are over several.
    own: Part<f32>,
    of_each: Part<f32>,
    parts: Parts,
}

/// The workspace of backward.
struct BackwardParts {
    sums: Part<f32>,
    partials: Part<f32>,
    parts: Parts,
}

impl BatchNormOp {
    /// Returns the rows of a partial sum, and the number of partial sums.
    fn splits(&self) -> (usize, usize) {
        let split = split_rows(self.rows, 128, ENOUGH_BLOCKS.div_ceil(self.channels.div_ceil(32)));
        (split, self.rows.div_ceil(split))
    }

    /// Returns from what backward knows which values the ReLU let through.
    fn relu_of(&self) -> i32 {
        match (self.relu, self.residual) {
            (false, _) => NO_RELU,
            (true, true) => RELU_OF_Y,
            (true, false) => RELU_OF_X,
        }
    }

    fn forward_parts(&self) -> ForwardParts {
        let mut parts = Parts::default();
        let statistics = parts.add(2 * self.channels);
        let partials = parts.add(if self.batch_statistics { self.splits().1 * 2 * self.channels } else { 0 });
        let ranks = if self.ranks.has_others() { self.ranks.ranks() } else { 0 };
        let own = parts.add(if ranks > 0 { 2 * self.channels } else { 0 });
        let of_each = parts.add(ranks * 2 * self.channels);
        ForwardParts { statistics, partials, own, of_each, parts }
    }

    fn backward_parts(&self) -> BackwardParts {
        let mut parts = Parts::default();
        let sums = parts.add(2 * self.channels);
        let partials = parts.add(self.splits().1 * 2 * self.channels);
        BackwardParts { sums, partials, parts }
    }
}

pub(super) fn needs(op: &BatchNormOp) -> Result<Needs> {
    if op.channels.div_ceil(32) > COUNTERS {
        let detail = format!("{} channels: on a GPU at most {}", op.channels, 32 * COUNTERS);
        return Err(mismatch("batch_norm", detail));
    }
    let forward_workspace = op.forward_parts().parts.words();
    let backward_workspace = op.backward_parts().parts.words();
    Ok(Needs { output: op.relu_of() == RELU_OF_Y, forward_workspace, backward_workspace, ..op.needs() })
}

pub(super) fn forward(op: &BatchNormOp, cx: &GpuForward<'_>) -> Result<()> {
    let (gpu, x, c, rows) = (cx.gpu, cx.inputs[0], op.channels as i32, op.rows as i64);
    let ForwardParts { statistics, partials, own, of_each, .. } = op.forward_parts();
    let mean = if cx.saved == Ptr::NULL { statistics.of(cx.workspace) } else { cx.saved.cast() };
    let inv_std = mean.add(op.channels);
    let (running_mean, running_var) = (cx.buffers[0], cx.buffers[1]);
    if op.batch_statistics {
        let (split, splits) = op.splits();
        let (partials, grid) = (partials.of(cx.workspace), [op.channels.div_ceil(32), splits]);
        let (split, eps, momentum) = (split as i32, op.eps, op.momentum);
        // Over several ranks, the kernel computes this rank's statistics, and leaves the running ones alone.
        let shared = op.ranks.has_others();
        let (own, of_each) = (own.of(cx.workspace), of_each.of(cx.workspace));
        let [to_mean, to_inv_std] = if shared { [own, own.add(op.channels)] } else { [mean, inv_std] };
        let [to_running_mean, to_running_var] = if shared { [Ptr::NULL; 2] } else { [running_mean, running_var] };
        kernels::batch_norm_statistics(
            gpu,
            grid,
            x,
            partials,
            gpu.counters()?,
            to_mean,
            to_inv_std,
            to_running_mean,
            to_running_var,
            rows,
            c,
            split,
            eps,
            momentum,
        )?;
        if shared {
            gpu.all_gather(own, 4 * 2 * op.channels, of_each)?;
            let (ranks, grid) = (op.ranks.ranks() as i32, op.channels.div_ceil(64));
            kernels::batch_norm_of_ranks(
                gpu,
                grid,
                of_each,
                mean,
                inv_std,
                running_mean,
                running_var,
                ranks,
                rows,
                c,
                eps,
                momentum,
            )?;
        }
    } else {
        let grid = op.channels.div_ceil(64);
        kernels::batch_norm_from_running(gpu, grid, running_mean, running_var, mean, inv_std, c, op.eps)?;
    }
    let residual = if op.residual { cx.inputs[1] } else { Ptr::NULL };
    let (weight, bias, relu) = (cx.params[0], cx.params[1], i32::from(op.relu));
    let grid = Grid::any(op.rows * op.channels);
    kernels::batch_norm_apply(gpu, grid, x, residual, mean, inv_std, weight, bias, cx.output, rows, c, relu)
}

pub(super) fn backward(op: &BatchNormOp, cx: &GpuBackward<'_>) -> Result<()> {
    let (gpu, x, y, dy) = (cx.gpu, cx.inputs[0], cx.output, cx.grad_output);
    let (c, rows) = (op.channels as i32, op.rows as i64);
    let BackwardParts { sums, partials, .. } = op.backward_parts();
    let (sums, partials) = (sums.of(cx.workspace), partials.of(cx.workspace));
    let mean: Ptr<f32> = cx.saved.cast();
    let inv_std = mean.add(op.channels);
    let (split, splits) = op.splits();
    let grid = [op.channels.div_ceil(32), splits];
    let (weight, bias, relu) = (cx.params[0], cx.params[1], op.relu_of());
    let or_null = |grad: Option<GpuGrad<Ptr<f32>>>| grad.map_or((Ptr::NULL, 0), |g| (g.data, g.flag()));
    let ((dweight, add_weight), (dbias, add_bias)) = (or_null(cx.grad_params[0]), or_null(cx.grad_params[1]));
    kernels::batch_norm_backward_sums(
        gpu,
        grid,
        x,
        y,
        dy,
        mean,
        inv_std,
        weight,
        bias,
        partials,
        gpu.counters()?,
        sums,
        dweight,
        dbias,
        rows,
        c,
        split as i32,
        relu,
        add_weight,
        add_bias,
    )?;

    // The kernel below divides by the rows of this rank: the means of the sums are those over all rows then.
    if op.ranks.has_others() {
        gpu.all_reduce(sums, 2 * op.channels, true)?;
    }
    let or_null = |grad: Option<GpuGrad<Ptr>>| grad.map_or((Ptr::NULL, 0), |g| (g.data, g.flag()));
    let (dx, add_dx) = or_null(cx.grad_inputs[0]);
    let (dresidual, add_dresidual) = or_null(cx.grad_inputs.get(1).copied().flatten());
    if dx == Ptr::NULL && dresidual == Ptr::NULL {
        return Ok(());
    }
    kernels::batch_norm_backward_apply(
        gpu,
        Grid::any(op.rows * op.channels),
        x,
        y,
        dy,
        mean,
        inv_std,
        weight,
        bias,
        sums,
        dx,
        dresidual,
        rows,
        c,
        i32::from(op.batch_statistics),
        relu,
        add_dx,
        add_dresidual,
    )
}
