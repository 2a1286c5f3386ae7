//! The gradient of the input.

use rayon::prelude::*;

use super::winograd;
use crate::engine::cpu::gemm::{LeftRows, Product, RightMatrix, Shared, Then};
use crate::engine::cpu::microkernel::{self, Kernels, MR};
use crate::engine::geometry::Conv2dGeometry;
use crate::engine::precision::Precision;

/// The fewest pixels of a task that sets them to zero.
const ZEROED: usize = 1 << 10;

/// One stride phase of the input's gradient: the input pixels `phase + i·stride`, and the taps that reach them.
struct OutputWindows<'a> {
    geometry: &'a Conv2dGeometry,
    grad_y: &'a [f32],
    zeros: Vec<f32>,
    phase: [usize; 2],
    /// How many input rows and columns this phase has.
    size: [usize; 2],
    /// For each tap that reaches this phase: the output pixel that reads the phase's first input pixel. It may be outside the image.
    origins: Vec<[isize; 2]>,
}

impl OutputWindows<'_> {
    /// Returns the image of row `row` of the product, and the place of its pixel in this phase.
    fn place(&self, row: usize) -> (usize, [usize; 2]) {
        let [h, w] = self.size;
        (row / (h * w), [row / w % h, row % w])
    }

    /// Returns where the input pixel of row `row` of the product starts.
    fn start(&self, row: usize) -> usize {
        let (g, (n, place)) = (self.geometry, self.place(row));
        let [ih, iw] = [0, 1].map(|axis| self.phase[axis] + place[axis] * g.stride[axis]);
        ((n * g.in_h + ih) * g.in_w + iw) * g.in_c
    }
}

// SAFETY: each pointer is that of an output pixel's `out_c` elements, or of as many zeros.
unsafe impl LeftRows for OutputWindows<'_> {
    fn taps(&self) -> usize {
        self.origins.len()
    }

    fn depth(&self) -> usize {
        self.geometry.out_c
    }

    unsafe fn pointers(&self, rows: std::ops::Range<usize>, _scratch: &mut [f32], out: &mut Vec<[*const f32; MR]>) {
        let g = self.geometry;
        let (out_h, out_w) = (g.out_h(), g.out_w());
        for group in rows.clone().step_by(MR) {
            let places: [_; MR] = std::array::from_fn(|r| self.place((group + r).min(rows.end - 1)));
            for &[top, left] in &self.origins {
                out.push(places.map(|(n, [i, j])| {
                    // A negative number wraps around, and is then larger than any size.
                    let (oh, ow) = (i.wrapping_add_signed(top), j.wrapping_add_signed(left));
                    if oh >= out_h || ow >= out_w {
                        return self.zeros[..g.out_c].as_ptr();
                    }
                    self.grad_y[((n * out_h + oh) * out_w + ow) * g.out_c..][..g.out_c].as_ptr()
                }));
            }
        }
    }
}

/// Returns the kernel offsets of one axis that reach the input coordinates of `phase`.
fn phase_taps(geometry: &Conv2dGeometry, axis: usize, phase: usize) -> Vec<usize> {
    let (stride, padding) = (geometry.stride[axis], geometry.padding[axis]);
    (0..geometry.kernel[axis]).filter(|k| (phase + padding) % stride == k % stride).collect()
}

/// Returns the workspace of [`conv2d_backward_data`], in f32.
pub fn backward_data_workspace(geometry: &Conv2dGeometry) -> usize {
    let kernels = microkernel::best();
    if winograd::applies_to_gradients(geometry) {
        return winograd::input_gradient_workspace(kernels, geometry);
    }
    RightMatrix::packed_len(geometry.taps() * geometry.out_c, geometry.in_c, kernels.nr(geometry.in_c))
}

/// Computes `grad_x (+)= convᵀ(grad_y, weight)`; shapes as in `conv2d_forward`.
///
/// # Panics
/// If `precision` is bf16 and the processor has no dot products of it ([`InstructionSet::has_bf16`](crate::engine::cpu::InstructionSet)).
/// tf32 is computed in f32.
pub fn conv2d_backward_data(
    precision: Precision,
    geometry: &Conv2dGeometry,
    grad_y: &[f32],
    weight: &[f32],
    grad_x: &mut [f32],
    accumulate: bool,
    workspace: &mut [f32],
) {
    backward_data_on(microkernel::of(precision), geometry, grad_y, weight, grad_x, accumulate, workspace);
}

pub(super) fn backward_data_on(
    kernels: Kernels,
    geometry: &Conv2dGeometry,
    grad_y: &[f32],
    weight: &[f32],
    grad_x: &mut [f32],
    accumulate: bool,
    workspace: &mut [f32],
) {
    let g = geometry;
    assert_eq!(grad_x.len(), g.batch * g.in_h * g.in_w * g.in_c);
    if winograd::applies_to_gradients(g) {
        return winograd::input_gradient(kernels, g, grad_y, weight, grad_x, accumulate, workspace);
    }
    let nr = kernels.nr(g.in_c);
    let destination = Shared(grad_x.as_mut_ptr());
    for ph in 0..g.stride[0].min(g.in_h) {
        for pw in 0..g.stride[1].min(g.in_w) {
            let columns = phase_taps(g, 1, pw);
            let taps: Vec<(usize, usize)> =
                phase_taps(g, 0, ph).into_iter().flat_map(|kh| columns.iter().map(move |&kw| (kh, kw))).collect();
            let size = [(g.in_h - ph).div_ceil(g.stride[0]), (g.in_w - pw).div_ceil(g.stride[1])];
            let rows = g.batch * size[0] * size[1];
            let offsets: Vec<usize> = taps.iter().map(|(kh, kw)| (kh * g.kernel[1] + kw) * g.in_c * g.out_c).collect();
            let phase = [ph, pw];
            // The division leaves no remainder, because the taps reach this phase.
            let origin = |axis: usize, k: usize| {
                ((phase[axis] + g.padding[axis]) as isize - k as isize) / g.stride[axis] as isize
            };
            let origins = taps.iter().map(|(kh, kw)| [origin(0, *kh), origin(1, *kw)]).collect();
            let left = OutputWindows { geometry, grad_y, zeros: vec![0.0; g.out_c], phase, size, origins };
            let row_start = |row: usize| left.start(row);
            if offsets.is_empty() {
                if !accumulate {
                    (0..rows).into_par_iter().with_min_len(ZEROED).for_each(|row| {
                        // SAFETY: as below, and `grad_x` is borrowed mutably.
                        unsafe { std::slice::from_raw_parts_mut(destination.get().add(row_start(row)), g.in_c) }
                            .fill(0.0);
                    });
                }
                continue;
            }
            let right = RightMatrix {
                data: weight,
                tap_offsets: &offsets,
                depth: g.out_c,
                n: g.in_c,
                k_stride: 1,
                n_stride: g.out_c,
                gates: None,
            };
            let k = offsets.len() * g.out_c;
            let packed = &mut workspace[..RightMatrix::packed_len(k, g.in_c, nr)];
            right.pack_for(kernels, &left, nr, packed);
            let product = Product { kernels, left: &left, rows, n: g.in_c, packed, nr };
            // SAFETY: `row_start` is the start of an input pixel of `in_c` elements, and each row is another pixel.
            unsafe { product.run(accumulate, Then::Nothing, |row| destination.get().add(row_start(row))) };
        }
    }
}
