//! The gradient of the weight.

use rayon::prelude::*;

use super::forward::InputWindows;
use super::winograd;
use crate::engine::cpu::for_each_isa;
use crate::engine::cpu::microkernel::{self, Isa, MR, Strided};
use crate::engine::cpu::scratch::with_scratch;
use crate::engine::geometry::Conv2dGeometry;

/// How many rows of the weight's gradient one task computes at most.
const WEIGHT_ROWS: usize = 86 * MR;
/// Pixels of a block of the inner dimension.
const PIXEL_BLOCK: usize = 192;
/// A gradient is split into at least this many tasks, by pixels too if its rows give fewer and there are enough pixels.
const WEIGHT_TASKS: usize = 16;
/// The fewest pixels of a split; fewer do not pay for another partial result.
const SPLIT_PIXELS: usize = 512;

/// Returns the rows of a task: about equal parts.
fn task_rows(geometry: &Conv2dGeometry) -> usize {
    let k = geometry.k();
    k.div_ceil(k.div_ceil(WEIGHT_ROWS)).next_multiple_of(MR)
}

/// Returns how many parts the pixels are split into. It depends on the shape only, so that sums have one order.
fn weight_splits(geometry: &Conv2dGeometry) -> usize {
    let row_blocks = geometry.k().div_ceil(task_rows(geometry));
    WEIGHT_TASKS.div_ceil(row_blocks).min(geometry.pixels() / SPLIT_PIXELS).max(1)
}

/// Returns the workspace of [`conv2d_backward_weight`], in f32.
pub fn backward_weight_workspace(geometry: &Conv2dGeometry) -> usize {
    if winograd::applies_to_gradients(geometry) {
        return winograd::weight_gradient_workspace(microkernel::best(), geometry);
    }
    let splits = weight_splits(geometry);
    if splits > 1 { splits * geometry.k() * geometry.out_c } else { 0 }
}

/// Computes `grad_weight (+)= Σ_pixels windowᵀ · grad_y`, `[k, out_c]`; the other shapes are as in `conv2d_forward`.
pub fn conv2d_backward_weight(
    geometry: &Conv2dGeometry,
    x: &[f32],
    grad_y: &[f32],
    grad_weight: &mut [f32],
    accumulate: bool,
    workspace: &mut [f32],
) {
    backward_weight_on(microkernel::best(), geometry, x, grad_y, grad_weight, accumulate, workspace);
}

pub(super) fn backward_weight_on(
    isa: Isa,
    geometry: &Conv2dGeometry,
    x: &[f32],
    grad_y: &[f32],
    grad_weight: &mut [f32],
    accumulate: bool,
    workspace: &mut [f32],
) {
    if winograd::applies_to_gradients(geometry) {
        return winograd::weight_gradient(isa, geometry, x, grad_y, grad_weight, accumulate, workspace);
    }
    let (k, n) = (geometry.k(), geometry.out_c);
    let (splits, task) = (weight_splits(geometry), task_rows(geometry));
    let windows = InputWindows { geometry, x, zeros: vec![0.0; geometry.in_c] };
    let chunk = geometry.pixels().div_ceil(splits);
    let run = |split: usize, block: usize, rows: &mut [f32], accumulate: bool| {
        let pixels = (split * chunk).min(geometry.pixels())..((split + 1) * chunk).min(geometry.pixels());
        weight_block(isa, &windows, grad_y, block * task, pixels, rows, accumulate);
    };
    if splits == 1 {
        let blocks = grad_weight.par_chunks_mut(task * n).enumerate();
        blocks.for_each(|(block, rows)| run(0, block, rows, accumulate));
        return;
    }
    let partial = &mut workspace[..splits * k * n];
    partial.par_chunks_mut(k * n).enumerate().for_each(|(split, part)| {
        let blocks = part.par_chunks_mut(task * n).enumerate();
        blocks.for_each(|(block, rows)| run(split, block, rows, false));
    });
    let partial = &*partial;
    grad_weight.par_chunks_mut(4096).enumerate().for_each(|(i, out)| {
        for split in 0..splits {
            let part = &partial[split * k * n + i * 4096..][..out.len()];
            if split == 0 && !accumulate {
                out.copy_from_slice(part);
            } else {
                out.iter_mut().zip(part).for_each(|(o, p)| *o += p);
            }
        }
    });
}

/// Computes rows of the weight's gradient from `first` on, summed over `pixels`. Both operands are copied block by block, so that a block
/// is in few pages and in all sets of the caches.
fn weight_block(
    isa: Isa,
    windows: &InputWindows<'_>,
    grad_y: &[f32],
    first: usize,
    pixels: std::ops::Range<usize>,
    out: &mut [f32],
    accumulate: bool,
) {
    let n = windows.geometry.out_c;
    let nr = isa.nr(n);
    let rows = out.len() / n;
    let left_step = rows.next_multiple_of(MR);
    if pixels.is_empty() && !accumulate {
        out.fill(0.0);
    }
    let panels = n.div_ceil(nr);
    let (left_len, right_len) = (PIXEL_BLOCK * left_step, PIXEL_BLOCK * panels * nr);
    let window_len = windows.geometry.k().max(left_step);
    with_scratch(left_len + right_len + window_len, |scratch| {
        let (left, rest) = scratch.split_at_mut(left_len);
        let (right, window) = rest.split_at_mut(right_len);
        let mut edge = [0.0f32; MR * microkernel::MAX_NR];
        for start in pixels.clone().step_by(PIXEL_BLOCK) {
            let count = PIXEL_BLOCK.min(pixels.end - start);
            for (pixel, row) in left.chunks_exact_mut(left_step).take(count).enumerate() {
                row[..rows].copy_from_slice(windows.part(start + pixel, first, rows, window));
                row[rows..].fill(0.0);
            }
            // The rows of a single panel are in order already.
            let right = if n == nr {
                &grad_y[start * n..][..count * n]
            } else {
                let right = &mut right[..panels * count * nr];
                pack_panels(&grad_y[start * n..][..count * n], n, nr, right);
                &*right
            };
            let add = accumulate || start > pixels.start;
            for (p, b) in right.chunks_exact(count * nr).enumerate() {
                let width = nr.min(n - p * nr);
                for group in 0..rows.div_ceil(MR) {
                    let live = MR.min(rows - group * MR);
                    let whole = live == MR && width == nr;
                    let (c, c_step) = if whole {
                        (out[group * MR * n + p * nr..][..(MR - 1) * n + nr].as_mut_ptr(), n)
                    } else {
                        (edge[..MR * nr].as_mut_ptr(), nr)
                    };
                    let a = left[group * MR..][..(count - 1) * left_step + MR].as_ptr();
                    let accumulate = add && whole;
                    let tile = Strided { a, a_step: left_step, b: b.as_ptr(), depth: count, c, c_step, accumulate };
                    // SAFETY: `a`, `b` and `c` were sliced above to what the tile reads and writes; the ISA was detected.
                    unsafe { isa.columns(nr)(&tile) };
                    if !whole {
                        for r in 0..live {
                            let c = &mut out[(group * MR + r) * n + p * nr..][..width];
                            c.iter_mut().zip(&edge[r * nr..]).for_each(|(c, t)| *c = if add { *c + t } else { *t });
                        }
                    }
                }
            }
        }
    });
}

for_each_isa! {
    /// Copies rows of `n` numbers to panels `[n / nr][rows][nr]`, filled up with zeros. Reads row by row, in the order of memory.
    fn pack_panels(from: &[f32], n: usize, nr: usize, to: &mut [f32]) {
        let rows = from.len() / n;
        for (i, row) in from.chunks_exact(n).enumerate() {
            for (p, from) in row.chunks(nr).enumerate() {
                let to = &mut to[(p * rows + i) * nr..][..nr];
                if from.len() == nr {
                    let vectors = to.as_chunks_mut::<8>().0.iter_mut().zip(from.as_chunks::<8>().0);
                    vectors.for_each(|(to, from)| *to = *from);
                } else {
                    to[..from.len()].copy_from_slice(from);
                    to[from.len()..].fill(0.0);
                }
            }
        }
    }
}
