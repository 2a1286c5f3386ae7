//! The windows of the pooling ops, in floor mode: windows that do not fit are dropped.

use super::mismatch;
use crate::Result;
use crate::engine::device::kernels::ConvSizes;
use crate::engine::geometry::Conv2dGeometry;
use crate::engine::onnx::OnnxAttribute;
use crate::engine::shape::Shape;

#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub input: Shape,
    pub output: Shape,
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
}

impl Window {
    pub(super) fn new(
        op: &'static str,
        input: Shape,
        kernel: [usize; 2],
        stride: [usize; 2],
        padding: [usize; 2],
    ) -> Result<Window> {
        let mut out = [0; 2];
        for (axis, size) in [input.h, input.w].into_iter().enumerate() {
            let (k, s, p) = (kernel[axis], stride[axis], padding[axis]);
            if k == 0 || s == 0 || 2 * p > k || size + 2 * p < k {
                let detail = format!("kernel {kernel:?}, stride {stride:?}, padding {padding:?} do not fit {input}");
                return Err(mismatch(op, detail));
            }
            out[axis] = (size + 2 * p - k) / s + 1;
        }
        let output = Shape { h: out[0], w: out[1], ..input };
        Ok(Window { input, output, kernel, stride, padding })
    }

    /// Calls `visit(output pixel, input pixel)` for every pixel of every window of image `n`. Pixels are counted over all images.
    #[inline(always)]
    pub(super) fn for_each(&self, n: usize, mut visit: impl FnMut(usize, usize)) {
        let span = |o: usize, axis: usize, size: usize| {
            let start = o * self.stride[axis];
            let from = start.saturating_sub(self.padding[axis]);
            from..(start + self.kernel[axis]).saturating_sub(self.padding[axis]).min(size)
        };
        for oh in 0..self.output.h {
            for ow in 0..self.output.w {
                let out = (n * self.output.h + oh) * self.output.w + ow;
                for ih in span(oh, 0, self.input.h) {
                    for iw in span(ow, 1, self.input.w) {
                        visit(out, (n * self.input.h + ih) * self.input.w + iw);
                    }
                }
            }
        }
    }

    /// Returns the sizes as kernels take them: those of a convolution from `c` channels to as many.
    pub(super) fn sizes(&self) -> ConvSizes {
        let Window { input: Shape { n, h, w, c }, kernel, stride, padding, .. } = *self;
        let geometry = Conv2dGeometry { batch: n, in_h: h, in_w: w, in_c: c, out_c: c, kernel, stride, padding };
        ConvSizes::from(&geometry)
    }

    /// Returns whether the one window is the whole image.
    pub(super) fn is_global(&self) -> bool {
        self.padding == [0, 0] && self.kernel == [self.input.h, self.input.w]
    }

    /// Returns the sizes as ONNX takes them.
    pub(super) fn onnx(&self) -> Vec<OnnxAttribute> {
        OnnxAttribute::window(self.kernel, self.stride, self.padding)
    }

    /// Returns the pixels of a window.
    pub(crate) fn area(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Returns the elements of an input image and of an output image.
    pub(crate) fn image_lens(&self) -> (usize, usize) {
        (self.input.len() / self.input.n, self.output.len() / self.output.n)
    }
}
