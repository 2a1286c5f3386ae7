//! The gradient of the weight.

use rayon::prelude::*;

use super::few_channels::{self, Blocks};
use super::forward::InputWindows;
use super::winograd;
use crate::engine::cpu::for_each_isa;
use crate::engine::cpu::microkernel::{self, Bf16Kernels, Kernels, MR, Strided, StridedKernel};
use crate::engine::cpu::scratch::with_scratch;
use crate::engine::geometry::Conv2dGeometry;
use crate::engine::precision::Precision;

/// How many rows of the weight's gradient one task computes at most.
const WEIGHT_ROWS: usize = 86 * MR;
/// Pixels of a block of the inner dimension.
const PIXEL_BLOCK: usize = 120;
/// A gradient is split into at least this many tasks, by pixels too if its rows give fewer and there are enough pixels.
const WEIGHT_TASKS: usize = 16;
/// A gradient of few pixels is split into at least this many tasks by rows; each of them copies the whole gradient of the output.
const ROW_TASKS: usize = 8;
/// The fewest pixels of a split; fewer do not pay for another partial result.
const SPLIT_PIXELS: usize = 512;

/// Returns the rows of a task: about equal parts, smaller ones where the pixels are too few to be split.
fn task_rows(geometry: &Conv2dGeometry) -> usize {
    let (k, splits) = (geometry.k(), (geometry.pixels() / SPLIT_PIXELS).max(1));
    let blocks = k.div_ceil(WEIGHT_ROWS).max(ROW_TASKS.div_ceil(splits));
    k.div_ceil(blocks).next_multiple_of(MR)
}

/// Returns how many parts the pixels are split into. It depends on the shape only, so that sums have one order.
fn weight_splits(geometry: &Conv2dGeometry) -> usize {
    if few_channels::applies(geometry) {
        return WEIGHT_TASKS.min(Blocks::new(geometry).count());
    }
    let row_blocks = geometry.k().div_ceil(task_rows(geometry));
    WEIGHT_TASKS.div_ceil(row_blocks).min(geometry.pixels() / SPLIT_PIXELS).max(1)
}

/// Returns whether Winograd's method computes the gradient.
fn uses_winograd(geometry: &Conv2dGeometry) -> bool {
    winograd::applies_to_gradients(geometry) && !few_channels::applies(geometry)
}

/// Returns the workspace of [`conv2d_backward_weight`], in f32.
pub fn backward_weight_workspace(geometry: &Conv2dGeometry) -> usize {
    if uses_winograd(geometry) {
        return winograd::weight_gradient_workspace(microkernel::best(), geometry);
    }
    let splits = weight_splits(geometry);
    (splits - 1) * geometry.k() * geometry.out_c
}

/// Computes `grad_weight (+)= Σ_pixels windowᵀ · grad_y`, `[k, out_c]`; the other shapes are as in `conv2d_forward`.
///
/// # Panics
/// If `precision` is bf16 and the processor has no dot products of it ([`InstructionSet::has_bf16`](crate::engine::cpu::InstructionSet)).
/// tf32 is computed in f32.
pub fn conv2d_backward_weight(
    precision: Precision,
    geometry: &Conv2dGeometry,
    x: &[f32],
    grad_y: &[f32],
    grad_weight: &mut [f32],
    accumulate: bool,
    workspace: &mut [f32],
) {
    backward_weight_on(microkernel::of(precision), geometry, x, grad_y, grad_weight, accumulate, workspace);
}

pub(super) fn backward_weight_on(
    kernels: Kernels,
    geometry: &Conv2dGeometry,
    x: &[f32],
    grad_y: &[f32],
    grad_weight: &mut [f32],
    accumulate: bool,
    workspace: &mut [f32],
) {
    if uses_winograd(geometry) {
        return winograd::weight_gradient(kernels, geometry, x, grad_y, grad_weight, accumulate, workspace);
    }
    let n = geometry.out_c;
    let splits = weight_splits(geometry);
    let part = |count: usize, split: usize| split * count / splits..(split + 1) * count / splits;
    if few_channels::applies(geometry) {
        let blocks = Blocks::new(geometry);
        return in_parts(splits, grad_weight, accumulate, workspace, |split, out, accumulate| {
            blocks.weight_gradient(kernels, x, grad_y, part(blocks.count(), split), out, accumulate);
        });
    }
    let task = task_rows(geometry);
    let windows = InputWindows { geometry, x, zeros: vec![0.0; geometry.in_c] };
    in_parts(splits, grad_weight, accumulate, workspace, |split, out, accumulate| {
        out.par_chunks_mut(task * n).enumerate().for_each(|(block, rows)| {
            let pixels = part(geometry.pixels(), split);
            weight_block(kernels, &windows, grad_y, block * task, pixels, rows, accumulate);
        });
    });
}

/// Writes the sum of `splits` parts to `out`, or adds it if `accumulate`. `compute(split, out, accumulate)` computes one part, in a task of its
/// own; the parts are added in their order. `workspace` has room for all of them but the first.
fn in_parts(
    splits: usize,
    out: &mut [f32],
    accumulate: bool,
    workspace: &mut [f32],
    compute: impl Fn(usize, &mut [f32], bool) + Sync,
) {
    let len = out.len();
    let others = &mut workspace[..(splits - 1) * len];
    rayon::join(
        || compute(0, out, accumulate),
        || others.par_chunks_mut(len).enumerate().for_each(|(i, part)| compute(i + 1, part, false)),
    );
    let others = &*others;
    out.par_chunks_mut(4096).enumerate().for_each(|(i, out)| {
        for part in others.chunks_exact(len) {
            out.iter_mut().zip(&part[i * 4096..]).for_each(|(o, p)| *o += p);
        }
    });
}

/// Computes rows of the weight's gradient from `first` on, summed over `pixels`. Both operands are copied block by block, so that a block
/// is in few pages of memory, and its rows do not push each other out of the caches.
fn weight_block(
    kernels: Kernels,
    windows: &InputWindows<'_>,
    grad_y: &[f32],
    first: usize,
    pixels: std::ops::Range<usize>,
    out: &mut [f32],
    accumulate: bool,
) {
    let n = windows.geometry.out_c;
    let nr = kernels.nr(n);
    let rows = out.len() / n;
    let left_step = rows.next_multiple_of(MR);
    if pixels.is_empty() && !accumulate {
        out.fill(0.0);
    }
    let panels = n.div_ceil(nr);
    let (left_len, right_len) = (PIXEL_BLOCK * left_step, PIXEL_BLOCK * panels * nr);
    let window_len = windows.geometry.k().max(left_step);
    with_scratch(left_len + right_len + 2 * window_len, |scratch| {
        let (left, rest) = scratch.split_at_mut(left_len);
        let (right, window_memory) = rest.split_at_mut(right_len);
        for start in pixels.clone().step_by(PIXEL_BLOCK) {
            let count = PIXEL_BLOCK.min(pixels.end - start);
            let grad_y = &grad_y[start * n..][..count * n];
            let block = Block { windows, first, rows, start, count };
            let (kernel, depth, right) = match kernels.bf16 {
                Some(bf16) => {
                    let depth = count.div_ceil(2);
                    let right = &mut right[..panels * depth * nr];
                    block.round_windows(bf16, left, left_step, window_memory);
                    round_panels(bf16, grad_y, n, nr, depth, right);
                    (bf16.tiles.columns(nr), depth, &*right)
                }
                None => {
                    block.copy_windows(left, left_step, window_memory);
                    // The rows of a single panel are in order already.
                    let right = if n == nr {
                        grad_y
                    } else {
                        let right = &mut right[..panels * count * nr];
                        pack_panels(grad_y, n, nr, count, right);
                        &*right
                    };
                    (kernels.tiles.columns(nr), count, right)
                }
            };
            let add = accumulate || start > pixels.start;
            // SAFETY: a kernel for `nr` columns of this processor.
            unsafe { add_product(kernel, left, left_step, right, depth, (n, nr), out, add) };
        }
    });
}

/// The elements `first .. first + rows` of the windows of `count` output pixels from `start` on.
struct Block<'a> {
    windows: &'a InputWindows<'a>,
    first: usize,
    rows: usize,
    start: usize,
    count: usize,
}

impl Block<'_> {
    /// Copies the windows to rows of `step` numbers, filled up with zeros. `memory` has room for a window.
    fn copy_windows(&self, to: &mut [f32], step: usize, memory: &mut [f32]) {
        for (pixel, row) in to.chunks_exact_mut(step).take(self.count).enumerate() {
            row[..self.rows].copy_from_slice(self.windows.part(self.start + pixel, self.first, self.rows, memory));
            row[self.rows..].fill(0.0);
        }
    }

    /// Rounds the windows of two pixels at a time to a row of `step` words. `memory` has room for two windows.
    fn round_windows(&self, bf16: Bf16Kernels, to: &mut [f32], step: usize, memory: &mut [f32]) {
        let (even_memory, odd_memory) = memory.split_at_mut(memory.len() / 2);
        for (i, row) in to.chunks_exact_mut(step).take(self.count.div_ceil(2)).enumerate() {
            let pixel = self.start + 2 * i;
            let even = self.windows.part(pixel, self.first, self.rows, even_memory);
            let odd = if 2 * i + 1 < self.count {
                self.windows.part(pixel + 1, self.first, self.rows, odd_memory)
            } else {
                odd_memory.fill(0.0);
                &odd_memory[..self.rows]
            };
            bf16.rounding.rows([even, odd], row);
        }
    }
}

/// Rounds two rows of `n` numbers at a time to a row of words, in panels `[n / nr][depth][nr]`, filled up with zeros. There are `2 * depth`
/// rows, or one less.
fn round_panels(bf16: Bf16Kernels, from: &[f32], n: usize, nr: usize, depth: usize, to: &mut [f32]) {
    let zeros = [0.0; microkernel::MAX_NR];
    for (i, two) in from.chunks(2 * n).enumerate() {
        let (even, odd) = two.split_at(n);
        for (p, even) in even.chunks(nr).enumerate() {
            let odd = odd.get(p * nr..).map_or(&zeros[..], |odd| if odd.is_empty() { &zeros } else { odd });
            bf16.rounding.rows([even, &odd[..even.len()]], &mut to[(p * depth + i) * nr..][..nr]);
        }
    }
}

/// Computes `out (+)= Σ_pixel a[pixel·a_step + row] · right[pixel]`, `[rows, n]`, for panels `[n / nr][pixels][nr]`. It also
/// reads, and ignores, what follows the last row in `a`, so that whole groups of [`MR`] rows are read. With kernels for words, a pixel here is
/// a pair of pixels.
///
/// # Safety
/// `kernel` is for tiles of `nr` columns, and the processor has its instructions.
#[expect(clippy::too_many_arguments, reason = "a product of two matrices with their sizes")]
pub(super) unsafe fn add_product(
    kernel: StridedKernel,
    a: &[f32],
    a_step: usize,
    right: &[f32],
    pixels: usize,
    (n, nr): (usize, usize),
    out: &mut [f32],
    add: bool,
) {
    let rows = out.len() / n;
    let mut edge = [0.0f32; MR * microkernel::MAX_NR];
    for (p, b) in right.chunks_exact(pixels * nr).enumerate() {
        let width = nr.min(n - p * nr);
        for group in 0..rows.div_ceil(MR) {
            let live = MR.min(rows - group * MR);
            let whole = live == MR && width == nr;
            let (c, c_step) = if whole {
                (out[group * MR * n + p * nr..][..(MR - 1) * n + nr].as_mut_ptr(), n)
            } else {
                (edge[..MR * nr].as_mut_ptr(), nr)
            };
            let a = a[group * MR..][..(pixels - 1) * a_step + MR].as_ptr();
            let accumulate = add && whole;
            let tile = Strided { a, a_step, b: b.as_ptr(), depth: pixels, c, c_step, accumulate };
            // SAFETY: `a`, `b` and `c` were sliced above to what the tile reads and writes; the instruction set was detected.
            unsafe { kernel(&tile) };
            if !whole {
                for r in 0..live {
                    let c = &mut out[(group * MR + r) * n + p * nr..][..width];
                    c.iter_mut().zip(&edge[r * nr..]).for_each(|(c, t)| *c = if add { *c + t } else { *t });
                }
            }
        }
    }
}

for_each_isa! {
    /// Copies rows of `n` numbers to the first rows of panels `[n / nr][panel_rows][nr]`, filled up with zeros. Reads row by row, in the
    /// order of memory.
    pub(super) fn pack_panels(from: &[f32], n: usize, nr: usize, panel_rows: usize, to: &mut [f32]) {
        for (i, row) in from.chunks_exact(n).enumerate() {
            for (p, from) in row.chunks(nr).enumerate() {
                let to = &mut to[(p * panel_rows + i) * nr..][..nr];
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
