//! 2-D convolution on NHWC tensors, its gradients, all as matrix products without an im2col copy.
//!
//! Weights are `[kh·kw·in, out]`: the rows of the right matrix. Forward reads input pixels through pointers, padding through a
//! pointer to zeros. The gradient of the input is a product per stride phase (`ih mod sh`, `iw mod sw`), over just the taps
//! that reach that phase. The gradient of the weight is a product over pixels.

use rayon::prelude::*;

use super::gemm::{LeftRows, Product, RightMatrix, Shared};
use super::microkernel::{self, Isa, MR, Tile};
use crate::{Error, Result};

/// Below this many input channels the taps are gathered into a small tile: segments would be too short.
const GATHER_BELOW: usize = 16;
/// Rows of the weight gradient that one task computes.
const WEIGHT_ROWS: usize = 32 * MR;
/// Pixels of a block of the weight gradient's inner dimension.
const PIXEL_BLOCK: usize = 192;
/// Tasks that a weight gradient is split into where its rows alone give fewer, if there are pixels enough.
const WEIGHT_TASKS: usize = 16;
/// Least pixels that make a split worth its partial result.
const SPLIT_PIXELS: usize = 512;

/// Sizes of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dGeometry {
    pub batch: usize,
    pub in_h: usize,
    pub in_w: usize,
    pub in_c: usize,
    pub out_c: usize,
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub padding: [usize; 2],
}

impl Conv2dGeometry {
    /// Checks that the kernel fits.
    ///
    /// # Errors
    /// A size of 0, or a kernel larger than the padded image.
    pub fn new(
        batch: usize,
        [in_h, in_w]: [usize; 2],
        in_c: usize,
        out_c: usize,
        kernel: [usize; 2],
        stride: [usize; 2],
        padding: [usize; 2],
    ) -> Result<Conv2dGeometry> {
        let sizes = [batch, in_h, in_w, in_c, out_c, kernel[0], kernel[1], stride[0], stride[1]];
        let fits = in_h + 2 * padding[0] >= kernel[0] && in_w + 2 * padding[1] >= kernel[1];
        if sizes.contains(&0) || !fits {
            return Err(Error::Shape {
                op: "conv2d",
                detail: format!(
                    "kernel {kernel:?}, stride {stride:?}, padding {padding:?} do not fit [{batch}, {in_h}, {in_w}, {in_c}]: \
                     use larger images or fewer strides"
                ),
            });
        }
        Ok(Conv2dGeometry { batch, in_h, in_w, in_c, out_c, kernel, stride, padding })
    }

    pub fn out_h(&self) -> usize {
        (self.in_h + 2 * self.padding[0] - self.kernel[0]) / self.stride[0] + 1
    }

    pub fn out_w(&self) -> usize {
        (self.in_w + 2 * self.padding[1] - self.kernel[1]) / self.stride[1] + 1
    }

    /// Rows of the weight matrix.
    pub fn k(&self) -> usize {
        self.taps() * self.in_c
    }

    /// Output pixels.
    pub fn pixels(&self) -> usize {
        self.batch * self.out_h() * self.out_w()
    }

    /// Floating-point operations of one pass (forward, or either gradient).
    pub fn flops(&self) -> u64 {
        2 * (self.pixels() * self.k() * self.out_c) as u64
    }

    pub(super) fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Input coordinate that output coordinate `o` reads at kernel offset `k`, if it is not padding.
    fn source(&self, axis: usize, o: usize, k: usize) -> Option<usize> {
        let size = [self.in_h, self.in_w][axis];
        (o * self.stride[axis] + k).checked_sub(self.padding[axis]).filter(|&i| i < size)
    }

    /// Image and coordinates of output pixel `row`.
    fn pixel(&self, row: usize) -> (usize, usize, usize) {
        let (h, w) = (self.out_h(), self.out_w());
        (row / (h * w), row / w % h, row % w)
    }
}

/// Left matrix of the forward product: input pixels under the kernel of each output pixel.
struct InputWindows<'a> {
    geometry: &'a Conv2dGeometry,
    x: &'a [f32],
    zeros: Vec<f32>,
}

impl InputWindows<'_> {
    fn gathers(geometry: &Conv2dGeometry) -> bool {
        geometry.in_c < GATHER_BELOW && geometry.taps() > 1
    }

    /// The window of output pixel `row`, gathered into `out` `[k]`.
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
            // Taps of one kernel row are neighbours in memory: one copy, zeros on both sides.
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

    /// Pointer to the input pixel under tap (kh, kw) of an output pixel, or to zeros.
    fn pointer(&self, (n, oh, ow): (usize, usize, usize), kh: usize, kw: usize) -> *const f32 {
        let g = self.geometry;
        match (g.source(0, oh, kh), g.source(1, ow, kw)) {
            (Some(ih), Some(iw)) => self.x[((n * g.in_h + ih) * g.in_w + iw) * g.in_c..][..g.in_c].as_ptr(),
            _ => self.zeros.as_ptr(),
        }
    }
}

impl LeftRows for InputWindows<'_> {
    fn scratch_len(&self) -> usize {
        if Self::gathers(self.geometry) { super::gemm::MC * self.geometry.k() } else { 0 }
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

/// The forward product of `geometry`, for the cell's epilogue to use as well. `packed` is filled from `weight`.
pub(super) fn with_forward_product<R>(
    geometry: &Conv2dGeometry,
    isa: Isa,
    x: &[f32],
    weight: &[f32],
    gates: bool,
    packed: &mut [f32],
    f: impl FnOnce(&Product<'_, ForwardRows<'_>>) -> R,
) -> R {
    let (k, n) = (geometry.k(), geometry.out_c);
    let nr = if gates { gates_nr(isa) } else { isa.nr(n) };
    let panels = if gates { (n / 4).div_ceil(nr / 4) } else { n.div_ceil(nr) };
    let packed = &mut packed[..k * panels * nr];
    let right = RightMatrix { data: weight, tap_offsets: &[0], depth: k, n, k_stride: n, n_stride: 1, gates };
    right.pack(nr, packed);
    let left = ForwardRows(InputWindows { geometry, x, zeros: vec![0.0; geometry.in_c] });
    let (taps, depth) = if InputWindows::gathers(geometry) { (1, k) } else { (geometry.taps(), geometry.in_c) };
    f(&Product { isa, left: &left, rows: geometry.pixels(), taps, depth, n, packed, nr })
}

/// Rows of the forward product (opaque outside this file).
pub(super) struct ForwardRows<'a>(InputWindows<'a>);

impl LeftRows for ForwardRows<'_> {
    fn scratch_len(&self) -> usize {
        self.0.scratch_len()
    }

    unsafe fn pointers(&self, rows: std::ops::Range<usize>, scratch: &mut [f32], out: &mut Vec<[*const f32; MR]>) {
        // SAFETY: the caller's contract is the same.
        unsafe { self.0.pointers(rows, scratch, out) }
    }
}

/// Panel width of a matrix of gates: a multiple of 4, so that a panel holds all gates of its channels.
pub(super) fn gates_nr(isa: Isa) -> usize {
    isa.nr(usize::MAX / 2)
}

/// Workspace of [`conv2d_forward`], in f32.
pub fn forward_workspace(geometry: &Conv2dGeometry) -> usize {
    let nr = microkernel::best().nr(geometry.out_c);
    RightMatrix::packed_len(geometry.k(), geometry.out_c, nr)
}

/// `y = conv(x, weight) + bias`. `x` `[batch, in_h, in_w, in_c]`, `weight` `[k, out_c]`, `y` `[batch, out_h, out_w, out_c]`.
pub fn conv2d_forward(
    geometry: &Conv2dGeometry,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
    workspace: &mut [f32],
) {
    forward_on(microkernel::best(), geometry, x, weight, bias, y, workspace);
}

fn forward_on(
    isa: Isa,
    geometry: &Conv2dGeometry,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
    workspace: &mut [f32],
) {
    let n = geometry.out_c;
    assert_eq!(y.len(), geometry.pixels() * n);
    let destination = Shared(y.as_mut_ptr());
    with_forward_product(geometry, isa, x, weight, false, workspace, |product| {
        // SAFETY: `y` has `pixels` rows of `n` elements (asserted).
        product.run(false, bias, |row| unsafe { destination.get().add(row * n) });
    });
}

/// One stride phase of the input gradient: input pixels `(phase + i·stride)`, and the taps that reach them.
struct OutputWindows<'a> {
    geometry: &'a Conv2dGeometry,
    grad_y: &'a [f32],
    zeros: Vec<f32>,
    phase: [usize; 2],
    /// Input rows and columns of this phase.
    size: [usize; 2],
    /// Kernel offsets (kh, kw) that reach it.
    taps: Vec<(usize, usize)>,
}

impl OutputWindows<'_> {
    /// Image and input coordinates of row `row` of the product.
    fn pixel(&self, row: usize) -> (usize, usize, usize) {
        let [h, w] = self.size;
        let (n, i, j) = (row / (h * w), row / w % h, row % w);
        (n, self.phase[0] + i * self.geometry.stride[0], self.phase[1] + j * self.geometry.stride[1])
    }

    /// The output coordinate that reads input coordinate `i` at kernel offset `k`.
    fn output(&self, axis: usize, i: usize, k: usize) -> Option<usize> {
        let g = self.geometry;
        let size = [g.out_h(), g.out_w()][axis];
        (i + g.padding[axis]).checked_sub(k).map(|scaled| scaled / g.stride[axis]).filter(|&o| o < size)
    }
}

impl LeftRows for OutputWindows<'_> {
    unsafe fn pointers(&self, rows: std::ops::Range<usize>, _scratch: &mut [f32], out: &mut Vec<[*const f32; MR]>) {
        let g = self.geometry;
        let (out_h, out_w) = (g.out_h(), g.out_w());
        for group in rows.clone().step_by(MR) {
            let pixels: [_; MR] = std::array::from_fn(|r| self.pixel((group + r).min(rows.end - 1)));
            for &(kh, kw) in &self.taps {
                out.push(pixels.map(|(n, ih, iw)| match (self.output(0, ih, kh), self.output(1, iw, kw)) {
                    (Some(oh), Some(ow)) => {
                        self.grad_y[((n * out_h + oh) * out_w + ow) * g.out_c..][..g.out_c].as_ptr()
                    }
                    _ => self.zeros.as_ptr(),
                }));
            }
        }
    }
}

/// Kernel offsets of one axis that reach input coordinates congruent to `phase`.
fn phase_taps(geometry: &Conv2dGeometry, axis: usize, phase: usize) -> Vec<usize> {
    let (stride, padding) = (geometry.stride[axis], geometry.padding[axis]);
    (0..geometry.kernel[axis]).filter(|k| (phase + padding) % stride == k % stride).collect()
}

/// Workspace of [`conv2d_backward_data`], in f32.
pub fn backward_data_workspace(geometry: &Conv2dGeometry) -> usize {
    let nr = microkernel::best().nr(geometry.in_c);
    RightMatrix::packed_len(geometry.taps() * geometry.out_c, geometry.in_c, nr)
}

/// `grad_x (+)= convᵀ(grad_y, weight)`; shapes as in [`conv2d_forward`].
pub fn conv2d_backward_data(
    geometry: &Conv2dGeometry,
    grad_y: &[f32],
    weight: &[f32],
    grad_x: &mut [f32],
    accumulate: bool,
    workspace: &mut [f32],
) {
    backward_data_on(microkernel::best(), geometry, grad_y, weight, grad_x, accumulate, workspace);
}

fn backward_data_on(
    isa: Isa,
    geometry: &Conv2dGeometry,
    grad_y: &[f32],
    weight: &[f32],
    grad_x: &mut [f32],
    accumulate: bool,
    workspace: &mut [f32],
) {
    let g = geometry;
    assert_eq!(grad_x.len(), g.batch * g.in_h * g.in_w * g.in_c);
    let nr = isa.nr(g.in_c);
    let destination = Shared(grad_x.as_mut_ptr());
    for ph in 0..g.stride[0].min(g.in_h) {
        for pw in 0..g.stride[1].min(g.in_w) {
            let columns = phase_taps(g, 1, pw);
            let taps: Vec<(usize, usize)> =
                phase_taps(g, 0, ph).into_iter().flat_map(|kh| columns.iter().map(move |&kw| (kh, kw))).collect();
            let size = [(g.in_h - ph).div_ceil(g.stride[0]), (g.in_w - pw).div_ceil(g.stride[1])];
            let rows = g.batch * size[0] * size[1];
            let offsets: Vec<usize> = taps.iter().map(|(kh, kw)| (kh * g.kernel[1] + kw) * g.in_c * g.out_c).collect();
            let left = OutputWindows { geometry, grad_y, zeros: vec![0.0; g.out_c], phase: [ph, pw], size, taps };
            let row_start = |row: usize| {
                let (n, ih, iw) = left.pixel(row);
                ((n * g.in_h + ih) * g.in_w + iw) * g.in_c
            };
            if offsets.is_empty() {
                if !accumulate {
                    (0..rows).for_each(|row| grad_x_row(destination, row_start(row), g.in_c).fill(0.0));
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
                gates: false,
            };
            let k = offsets.len() * g.out_c;
            let packed = &mut workspace[..RightMatrix::packed_len(k, g.in_c, nr)];
            right.pack(nr, packed);
            let product =
                Product { isa, left: &left, rows, taps: offsets.len(), depth: g.out_c, n: g.in_c, packed, nr };
            // SAFETY: `row_start` is the start of an input pixel of `in_c` elements, each row another pixel.
            product.run(accumulate, None, |row| unsafe { destination.get().add(row_start(row)) });
        }
    }
}

fn grad_x_row<'a>(base: Shared, start: usize, len: usize) -> &'a mut [f32] {
    // SAFETY: called by one thread, for pixels of a buffer that the caller borrows mutably.
    unsafe { std::slice::from_raw_parts_mut(base.get().add(start), len) }
}

/// Parts that the pixels are split into: fixed by the shape, so that sums have one order.
fn weight_splits(geometry: &Conv2dGeometry) -> usize {
    let row_blocks = geometry.k().div_ceil(WEIGHT_ROWS);
    WEIGHT_TASKS.div_ceil(row_blocks).min(geometry.pixels() / SPLIT_PIXELS).max(1)
}

/// Workspace of [`conv2d_backward_weight`], in f32.
pub fn backward_weight_workspace(geometry: &Conv2dGeometry) -> usize {
    let splits = weight_splits(geometry);
    if splits > 1 { splits * geometry.k() * geometry.out_c } else { 0 }
}

/// `grad_weight (+)= Σ_pixels windowᵀ · grad_y`, `[k, out_c]`.
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

fn backward_weight_on(
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

/// Rows `first ..` of the weight gradient, summed over `pixels`: both operands are packed block by block.
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
            // Rows of one panel are packed as they are.
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
                let c = std::array::from_fn(|r| {
                    if whole {
                        out[(group * MR + r) * n + p * nr..][..nr].as_mut_ptr()
                    } else {
                        edge[r * nr..].as_mut_ptr()
                    }
                });
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

impl InputWindows<'_> {
    /// Elements `first .. first + len` of the window of output pixel `row`, in place where they lie together, else gathered
    /// into `scratch` (`[k]`).
    fn part<'a>(&'a self, row: usize, first: usize, len: usize, scratch: &'a mut [f32]) -> &'a [f32] {
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
