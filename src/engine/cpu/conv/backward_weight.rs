//! The gradient of the weight.

use rayon::prelude::*;

use super::forward::InputWindows;
use crate::engine::cpu::microkernel::{self, Isa, MR, Tile};
use crate::engine::geometry::Conv2dGeometry;

/// How many rows of the weight's gradient one task computes.
const WEIGHT_ROWS: usize = 32 * MR;
/// Pixels of a block of the inner dimension.
const PIXEL_BLOCK: usize = 192;
/// A gradient is split into at least this many tasks, by pixels too if its rows give fewer and there are enough pixels.
const WEIGHT_TASKS: usize = 16;
/// The fewest pixels of a split; fewer do not pay for another partial result.
const SPLIT_PIXELS: usize = 512;

/// Returns how many parts the pixels are split into. It depends on the shape only, so that sums have one order.
fn weight_splits(geometry: &Conv2dGeometry) -> usize {
    let row_blocks = geometry.k().div_ceil(WEIGHT_ROWS);
    WEIGHT_TASKS.div_ceil(row_blocks).min(geometry.pixels() / SPLIT_PIXELS).max(1)
}

/// Returns the workspace of [`conv2d_backward_weight`], in f32.
pub fn backward_weight_workspace(geometry: &Conv2dGeometry) -> usize {
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
    let (k, n) = (geometry.k(), geometry.out_c);
    let splits = weight_splits(geometry);
    let windows = InputWindows { geometry, x, zeros: vec![0.0; geometry.in_c] };
    let chunk = geometry.pixels().div_ceil(splits);
    let run = |split: usize, block: usize, rows: &mut [f32], accumulate: bool| {
        let pixels = (split * chunk).min(geometry.pixels())..((split + 1) * chunk).min(geometry.pixels());
        weight_block(isa, &windows, grad_y, block * WEIGHT_ROWS, pixels, rows, accumulate);
    };
    if splits == 1 {
        let blocks = grad_weight.par_chunks_mut(WEIGHT_ROWS * n).enumerate();
        blocks.for_each(|(block, rows)| run(0, block, rows, accumulate));
        return;
    }
    let partial = &mut workspace[..splits * k * n];
    partial.par_chunks_mut(k * n).enumerate().for_each(|(split, part)| {
        let blocks = part.par_chunks_mut(WEIGHT_ROWS * n).enumerate();
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

/// Computes rows of the weight's gradient from `first` on, summed over `pixels`. Both operands are packed block by block.
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
    let groups = rows.div_ceil(MR);
    let mut left = vec![0.0f32; groups * PIXEL_BLOCK * MR];
    let mut right = vec![0.0f32; PIXEL_BLOCK * nr];
    let mut window = vec![0.0f32; windows.geometry.k().max(groups * MR)];
    let mut edge = [0.0f32; MR * microkernel::MAX_NR];
    if pixels.is_empty() && !accumulate {
        out.fill(0.0);
    }
    for start in pixels.clone().step_by(PIXEL_BLOCK) {
        let count = PIXEL_BLOCK.min(pixels.end - start);
        for pixel in 0..count {
            let values = windows.part(start + pixel, first, rows, &mut window);
            for (group, values) in values.chunks(MR).enumerate() {
                left[(group * count + pixel) * MR..][..values.len()].copy_from_slice(values);
            }
        }
        let add = accumulate || start > pixels.start;
        for p in 0..n.div_ceil(nr) {
            let width = nr.min(n - p * nr);
            // The rows of a single panel need no reordering.
            let in_place = n == nr;
            if !in_place {
                for (pixel, row) in right.chunks_exact_mut(nr).take(count).enumerate() {
                    row[..width].copy_from_slice(&grad_y[(start + pixel) * n + p * nr..][..width]);
                    row[width..].fill(0.0);
                }
            }
            let b = if in_place { grad_y[start * n..][..count * nr].as_ptr() } else { right.as_ptr() };
            for group in 0..groups {
                let live = MR.min(rows - group * MR);
                let whole = live == MR && width == nr;
                // All rows of the tile share one base pointer.
                let (base, row_len) = if whole {
                    (out[group * MR * n + p * nr..][..(MR - 1) * n + nr].as_mut_ptr(), n)
                } else {
                    (edge[..MR * nr].as_mut_ptr(), nr)
                };
                // SAFETY: MR rows of `nr` elements, sliced above.
                let c = std::array::from_fn(|r| unsafe { base.add(r * row_len) });
                let base = left[group * count * MR..][..count * MR].as_ptr();
                // SAFETY: element r of the first [k][MR] row; the kernel steps by MR within the slice.
                let segment: [*const f32; MR] = std::array::from_fn(|r| unsafe { base.add(r) });
                let tile = Tile {
                    segments: &raw const segment,
                    segment_count: 1,
                    segment_len: count,
                    offset: 0,
                    b,
                    c,
                    accumulate: add && whole,
                };
                // SAFETY: `left` and `b` hold `count` packed rows, `c` MR rows of `nr`; the ISA was detected.
                unsafe { isa.packed(nr)(&tile) };
                if !whole {
                    for r in 0..live {
                        let c = &mut out[(group * MR + r) * n + p * nr..][..width];
                        c.iter_mut().zip(&edge[r * nr..]).for_each(|(c, t)| *c = if add { *c + t } else { *t });
                    }
                }
            }
        }
    }
}
