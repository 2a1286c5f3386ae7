//! The gradient of the weight where the input has few channels.
//!
//! Rows of the input are copied with their padding, so that the taps of a kernel row are neighbours in memory. Their windows then start at equal
//! distances, and the microkernel reads them in place. The windows at the start of a row continue those of the row before, after a few windows
//! that belong to no output pixel: there, the copy of the output's gradient has zeros.

use std::ops::Range;

use super::backward_weight::{add_product, pack_panels};
use crate::engine::cpu::microkernel::{Kernels, MR};
use crate::engine::cpu::scratch::with_scratch;
use crate::engine::geometry::Conv2dGeometry;

/// With fewer input channels than this, the method is faster than the others.
const FEW: usize = 32;
/// A block has about this many pixels: what is copied for it stays in the first two cache levels.
const PIXELS: usize = 256;

/// Returns whether this method computes the gradient.
pub(super) fn applies(g: &Conv2dGeometry) -> bool {
    g.kernel[1] > 1 && g.in_c < FEW
}

/// The blocks of output rows of all images, each of one image.
pub(super) struct Blocks<'a> {
    geometry: &'a Conv2dGeometry,
    /// Output rows of a block, and how many blocks an image has.
    rows: usize,
    of_image: usize,
    /// Pixels from one row of a block to the next, with the zeros.
    pitch: usize,
}

impl Blocks<'_> {
    /// Returns the blocks of a convolution.
    pub(super) fn new(geometry: &Conv2dGeometry) -> Blocks<'_> {
        let pitch = geometry.out_w() - 1 + geometry.kernel[1].div_ceil(geometry.stride[1]);
        let fitting = (PIXELS / pitch).clamp(1, geometry.out_h());
        // Equal blocks.
        let of_image = geometry.out_h().div_ceil(fitting);
        Blocks { geometry, rows: geometry.out_h().div_ceil(of_image), of_image, pitch }
    }

    /// Returns how many there are.
    pub(super) fn count(&self) -> usize {
        self.geometry.batch * self.of_image
    }

    /// Computes `out (+)= Σ windowᵀ · grad_y` over the pixels of some blocks; `out` is `[k, out_c]`.
    pub(super) fn weight_gradient(
        &self,
        kernels: Kernels,
        x: &[f32],
        grad_y: &[f32],
        blocks: Range<usize>,
        out: &mut [f32],
        accumulate: bool,
    ) {
        let g = self.geometry;
        let (n, nr) = (g.out_c, kernels.nr(g.out_c));
        if blocks.is_empty() && !accumulate {
            out.fill(0.0);
        }
        // Output row r reads input row r·stride + kh. Input rows are sorted by their remainder modulo the stride, so that the rows that kh
        // needs follow each other.
        let phases = g.stride[0].min(g.kernel[0]);
        let phase_rows = self.rows + (g.kernel[0] - 1) / g.stride[0];
        let line = self.pitch * g.stride[1] * g.in_c;
        let phase_len = phase_rows * line;
        let taps = g.kernel[1] * g.in_c;
        // The last tile of the microkernel reads beyond the last tap.
        let images_len = phases * phase_len + MR;
        with_scratch(images_len + self.rows * self.pitch * n.next_multiple_of(nr), |scratch| {
            let (images, right) = scratch.split_at_mut(images_len);
            images[phases * phase_len..].fill(0.0);
            for block in blocks.clone() {
                let (image, first) = (block / self.of_image, block % self.of_image * self.rows);
                let rows = self.rows.min(g.out_h() - first);
                for (i, line) in images[..phases * phase_len].chunks_exact_mut(line).enumerate() {
                    let row = (first + i % phase_rows) * g.stride[0] + i / phase_rows;
                    self.copy_line(x, image, row, line);
                }
                let pixels = rows * self.pitch - (self.pitch - g.out_w());
                let right = &mut right[..pixels * n.next_multiple_of(nr)];
                self.copy_gradient(grad_y, image * g.out_h() + first, nr, right);
                for kh in 0..g.kernel[0] {
                    let start = kh % g.stride[0] * phase_len + kh / g.stride[0] * line;
                    let out = &mut out[kh * taps * n..][..taps * n];
                    let add = accumulate || block > blocks.start;
                    let (kernel, step) = (kernels.tiles.columns(nr), g.stride[1] * g.in_c);
                    // SAFETY: a kernel for `nr` columns of this processor.
                    unsafe { add_product(kernel, &images[start..], step, right, pixels, (n, nr), out, add) };
                }
            }
        });
    }

    /// Copies a row of the padded input, or the first part of it.
    fn copy_line(&self, x: &[f32], image: usize, row: usize, line: &mut [f32]) {
        let g = self.geometry;
        let Some(row) = row.checked_sub(g.padding[0]).filter(|row| *row < g.in_h) else { return line.fill(0.0) };
        let from = &x[(image * g.in_h + row) * g.in_w * g.in_c..][..g.in_w * g.in_c];
        let left = (g.padding[1] * g.in_c).min(line.len());
        let copied = from.len().min(line.len() - left);
        line[..left].fill(0.0);
        line[left..left + copied].copy_from_slice(&from[..copied]);
        line[left + copied..].fill(0.0);
    }

    /// Copies rows of the output's gradient to panels, from row `first` of all images on, with zeros between two rows.
    fn copy_gradient(&self, grad_y: &[f32], first: usize, nr: usize, right: &mut [f32]) {
        let (n, width) = (self.geometry.out_c, self.geometry.out_w());
        let pixels = right.len() / n.next_multiple_of(nr);
        for (row, start) in (0..pixels).step_by(self.pitch).enumerate() {
            let from = &grad_y[(first + row) * width * n..][..width * n];
            pack_panels(from, n, nr, pixels, &mut right[start * nr..]);
            for panel in right.chunks_exact_mut(pixels * nr) {
                let end = (start + self.pitch).min(pixels);
                panel[(start + width) * nr..end * nr].fill(0.0);
            }
        }
    }
}
