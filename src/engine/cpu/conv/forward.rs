//! The forward pass: windows of the input as rows of pointers.

use rayon::prelude::*;

use super::winograd;
use crate::engine::cpu::gemm::{LeftRows, MC, Product, RightMatrix, Shared, Then, gate_column};
use crate::engine::cpu::microkernel::{self, Kernels, MR};
use crate::engine::cpu::normalize::Normalization;
use crate::engine::cpu::par;
use crate::engine::geometry::Conv2dGeometry;
use crate::engine::precision::Precision;

/// With fewer input channels than this, the taps are gathered into a small tile, because segments would be too short.
const GATHER_BELOW: usize = 16;

/// The left matrix of the forward product: the input pixels under the kernel of each output pixel.
pub(in crate::engine::cpu) struct InputWindows<'a> {
    pub geometry: &'a Conv2dGeometry,
    pub x: &'a [f32],
    pub zeros: Vec<f32>,
}

impl InputWindows<'_> {
    fn gathers(geometry: &Conv2dGeometry) -> bool {
        geometry.in_c < GATHER_BELOW && geometry.taps() > 1
    }

    /// Gathers the window of output pixel `row` into `out` `[k]`.
    fn gather(&self, row: usize, out: &mut [f32]) {
        let g = self.geometry;
        let (n, oh, ow) = g.pixel(row);
        let depth = g.in_c;
        for kh in 0..g.kernel[0] {
            let line = &mut out[kh * g.kernel[1] * depth..(kh + 1) * g.kernel[1] * depth];
            let Some(ih) = g.source(0, oh, kh) else {
                line.fill(0.0);
                continue;
            };
            // The taps of one kernel row are neighbours in memory: one copy, with zeros on both sides.
            let start = ow * g.stride[1];
            let left = g.padding[1].saturating_sub(start).min(g.kernel[1]);
            let right = (start + g.kernel[1]).saturating_sub(g.in_w + g.padding[1]).min(g.kernel[1] - left);
            let (taps_from, taps_to) = (left, g.kernel[1] - right);
            line[..taps_from * depth].fill(0.0);
            line[taps_to * depth..].fill(0.0);
            if taps_from < taps_to {
                let iw = start + taps_from - g.padding[1];
                let source = ((n * g.in_h + ih) * g.in_w + iw) * depth;
                line[taps_from * depth..taps_to * depth]
                    .copy_from_slice(&self.x[source..source + (taps_to - taps_from) * depth]);
            }
        }
    }

    /// Returns a pointer to the input pixel under tap (kh, kw) of an output pixel, or to zeros.
    fn pointer(&self, (n, oh, ow): (usize, usize, usize), kh: usize, kw: usize) -> *const f32 {
        let g = self.geometry;
        match (g.source(0, oh, kh), g.source(1, ow, kw)) {
            (Some(ih), Some(iw)) => self.x[((n * g.in_h + ih) * g.in_w + iw) * g.in_c..][..g.in_c].as_ptr(),
            _ => self.zeros[..g.in_c].as_ptr(),
        }
    }

    /// Returns the elements `first .. first + len` of the window of output pixel `row`: in place if they are contiguous, else gathered into
    /// `scratch` (`[k]`).
    pub(crate) fn part<'a>(&'a self, row: usize, first: usize, len: usize, scratch: &'a mut [f32]) -> &'a [f32] {
        let g = self.geometry;
        if Self::gathers(g) {
            self.gather(row, &mut scratch[..g.k()]);
            return &scratch[first..first + len];
        }
        let pixel = g.pixel(row);
        let segment = |at: usize, len: usize| {
            let (tap, from) = (at / g.in_c, at % g.in_c);
            let source = self.pointer(pixel, tap / g.kernel[1], tap % g.kernel[1]);
            let len = len.min(g.in_c - from);
            // SAFETY: `pointer` is valid for `in_c` elements, `from + len <= in_c`.
            unsafe { std::slice::from_raw_parts(source.add(from), len) }
        };
        let whole = segment(first, len);
        if whole.len() == len {
            return whole;
        }
        let mut at = 0;
        while at < len {
            let source = segment(first + at, len - at);
            scratch[at..at + source.len()].copy_from_slice(source);
            at += source.len();
        }
        &scratch[..len]
    }
}

// SAFETY: each pointer is that of an input pixel's `in_c` elements, of as many zeros, or of a gathered window of `k` elements in `scratch`.
unsafe impl LeftRows for InputWindows<'_> {
    fn taps(&self) -> usize {
        if Self::gathers(self.geometry) { 1 } else { self.geometry.taps() }
    }

    fn depth(&self) -> usize {
        if Self::gathers(self.geometry) { self.geometry.k() } else { self.geometry.in_c }
    }

    fn scratch_len(&self) -> usize {
        if Self::gathers(self.geometry) { MC * self.geometry.k() } else { 0 }
    }

    unsafe fn pointers(&self, rows: std::ops::Range<usize>, scratch: &mut [f32], out: &mut Vec<[*const f32; MR]>) {
        let g = self.geometry;
        if !scratch.is_empty() {
            let k = g.k();
            for (row, window) in rows.clone().zip(scratch.chunks_exact_mut(k)) {
                self.gather(row, window);
            }
            let last = rows.len() - 1;
            for group in (0..rows.len()).step_by(MR) {
                out.push(std::array::from_fn(|r| scratch[(group + r).min(last) * k..][..k].as_ptr()));
            }
            return;
        }
        for group in rows.clone().step_by(MR) {
            let pixels: [_; MR] = std::array::from_fn(|r| g.pixel((group + r).min(rows.end - 1)));
            for kh in 0..g.kernel[0] {
                for kw in 0..g.kernel[1] {
                    out.push(pixels.map(|pixel| self.pointer(pixel, kh, kw)));
                }
            }
        }
    }
}

/// The memory of a packed weight, in the form that forward needs.
pub struct Packed<'a> {
    /// As many numbers as [`forward_workspace`] says.
    pub memory: &'a mut [f32],
    /// Whether the weight is there already, from an earlier forward with the same weight, geometry and precision.
    pub ready: bool,
}

impl<'a> Packed<'a> {
    /// Returns memory without a packed weight.
    pub fn empty(memory: &'a mut [f32]) -> Packed<'a> {
        Packed { memory, ready: false }
    }
}

/// Calls a function with the forward product of `geometry`, whose right side is packed from `weight`; the cell uses it too.
pub(in crate::engine::cpu) fn with_forward_product<R>(
    geometry: &Conv2dGeometry,
    kernels: Kernels,
    x: &[f32],
    weight: &[f32],
    gates: bool,
    Packed { memory, ready }: Packed<'_>,
    f: impl FnOnce(&Product<'_, InputWindows<'_>>) -> R,
) -> R {
    let (k, n) = (geometry.k(), geometry.out_c);
    let (nr, columns) = if gates { (gates_nr(kernels), gates_columns(kernels, n)) } else { (kernels.nr(n), n) };
    let packed = &mut memory[..RightMatrix::packed_len(k, columns, nr)];
    let gates = gates.then_some(kernels);
    let right = RightMatrix { data: weight, tap_offsets: &[0], depth: k, n, k_stride: n, n_stride: 1, gates };
    let left = InputWindows { geometry, x, zeros: vec![0.0; geometry.in_c] };
    if !ready {
        right.pack_for(kernels, &left, nr, packed);
    }
    f(&Product { kernels, left: &left, rows: geometry.pixels(), n, packed, nr })
}

/// Returns the width of panels of gates, the largest one.
fn gates_nr(kernels: Kernels) -> usize {
    kernels.nr(usize::MAX / 2)
}

/// Returns how many panels hold the four gates of a vector of channels.
pub(in crate::engine::cpu) fn panels_of_gates(kernels: Kernels) -> usize {
    4 * kernels.lanes / gates_nr(kernels)
}

/// Returns the workspace of [`winograd_gates`], in f32.
pub(in crate::engine::cpu) fn winograd_gates_workspace(kernels: Kernels, gates: &Conv2dGeometry) -> usize {
    winograd::packed_len(gates.in_c, gates_columns(kernels, gates.out_c), gates_nr(kernels))
}

/// Transforms the weight of a cell's gates for Winograd's method.
pub(in crate::engine::cpu) fn winograd_gates<'a>(
    kernels: Kernels,
    gates: &Conv2dGeometry,
    weight: &[f32],
    packed: Packed<'a>,
) -> winograd::Weight<'a> {
    let columns = (gates_columns(kernels, gates.out_c), gates_nr(kernels));
    let source = |column| gate_column(kernels, column, gates.out_c / 4);
    winograd::Weight::new(kernels, gates.stride[0], weight, [gates.in_c, gates.out_c], columns, source, packed)
}

/// Returns the columns of all panels for `n` columns of gates: whole groups of four vectors.
pub(in crate::engine::cpu) fn gates_columns(kernels: Kernels, n: usize) -> usize {
    (n / 4).next_multiple_of(kernels.lanes) * 4
}

/// Returns the workspace of [`conv2d_forward`], in f32.
pub fn forward_workspace(geometry: &Conv2dGeometry) -> usize {
    let kernels = microkernel::best();
    if winograd::applies(geometry) {
        return winograd::workspace(kernels, geometry);
    }
    RightMatrix::packed_len(geometry.k(), geometry.out_c, kernels.nr(geometry.out_c))
}

/// Computes `y = conv(x, weight) + bias`, and packs the weight first unless that is done. `x` is `[batch, in_h, in_w, in_c]`, `weight` `[k, out_c]`, `y` `[batch, out_h, out_w, out_c]`.
///
/// # Panics
/// If `precision` is bf16 and the processor has no dot products of it ([`InstructionSet::has_bf16`](crate::engine::cpu::InstructionSet)).
/// tf32 is computed in f32.
pub fn conv2d_forward(
    precision: Precision,
    geometry: &Conv2dGeometry,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
    packed: Packed<'_>,
) {
    let then = bias.map_or(Then::Nothing, Then::AddBias);
    forward_on(microkernel::of(precision), geometry, x, weight, then, y, packed);
}

/// Computes the convolution without bias, and normalises it while it is in registers or in a cache. Shapes are those of [`conv2d_forward`];
/// the residual has that of `y`.
pub(in crate::engine) fn conv2d_forward_normalized(
    precision: Precision,
    geometry: &Conv2dGeometry,
    x: &[f32],
    weight: &[f32],
    normalization: &Normalization<'_>,
    y: &mut [f32],
    packed: Packed<'_>,
) {
    forward_on(microkernel::of(precision), geometry, x, weight, Then::Normalize(normalization), y, packed);
}

pub(super) fn forward_on(
    kernels: Kernels,
    geometry: &Conv2dGeometry,
    x: &[f32],
    weight: &[f32],
    then: Then<'_>,
    y: &mut [f32],
    packed: Packed<'_>,
) {
    let n = geometry.out_c;
    assert_eq!(y.len(), geometry.pixels() * n);
    if let Then::AddBias(bias) = then {
        assert_eq!(bias.len(), n, "the bias of a convolution");
    }
    if winograd::applies(geometry) {
        let normalization = if let Then::Normalize(norm) = then { Some(norm) } else { None };
        winograd::convolve(kernels, geometry, x, weight, normalization, y, false, packed);
        if let Then::AddBias(bias) = then {
            y.par_chunks_mut(n).for_each(|pixel| par::add_assign(pixel, bias));
        }
        return;
    }
    let destination = Shared(y.as_mut_ptr());
    with_forward_product(geometry, kernels, x, weight, false, packed, |product| {
        // SAFETY: `y`, which is borrowed mutably, has `pixels` rows of `n` elements (asserted).
        unsafe { product.run(false, then, |row| destination.get().add(row * n)) };
    });
}
