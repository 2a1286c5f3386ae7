//! Average pooling. Padding counts as zeros, and the divisor is the whole window (torch's `count_include_pad=True`).

use rayon::prelude::*;

use super::OpCase;
use super::pool_window::Window;
use crate::Result;
use crate::engine::cpu::for_each_isa;
use crate::engine::device::{Gpu, Grid, kernels};
use crate::engine::graph::{Attachments, Backward, Forward, GpuBackward, GpuForward, Graph, Needs, OnnxNode, Op, Var};
use crate::engine::onnx::OnnxAttribute;
use crate::engine::shape::Shape;

#[derive(Debug)]
struct AvgPool {
    window: Window,
}

/// Records the pooling of `x` `[n, h, w, c]` to `[n, oh, ow, c]`, with
/// `oh = ⌊(h + 2·padding[0] - kernel[0])/stride[0]⌋ + 1` and the same for `ow`.
///
/// # Errors
/// The window does not fit the image, the padding is more than half the kernel, or a size is 0.
pub fn avg_pool2d(g: &mut Graph, x: Var, kernel: [usize; 2], stride: [usize; 2], padding: [usize; 2]) -> Result<Var> {
    let window = Window::new("avg_pool2d", g.shape(x), kernel, stride, padding)?;
    g.push(AvgPool { window }, &[x], window.output, Attachments::default())
}

/// Records the mean over the whole image: `[n, h, w, c]` to `[n, 1, 1, c]`.
///
/// # Errors
/// A size is 0.
pub fn global_avg_pool(g: &mut Graph, x: Var) -> Result<Var> {
    let Shape { h, w, .. } = g.shape(x);
    avg_pool2d(g, x, [h, w], [h, w], [0, 0])
}

impl Op for AvgPool {
    fn name(&self) -> &'static str {
        "avg_pool2d"
    }

    fn onnx(&self, cx: &mut OnnxNode<'_>) -> Result<String> {
        let x = cx.inputs[0].clone();
        if self.window.is_global() {
            return Ok(cx.node("GlobalAveragePool", &[&x], Vec::new()));
        }
        let mut attributes = self.window.onnx();
        attributes.push(OnnxAttribute::int("count_include_pad", 1));
        Ok(cx.node("AveragePool", &[&x], attributes))
    }

    fn needs(&self) -> Needs {
        Needs { inputs: vec![false], ..Needs::default() }
    }

    fn forward(&self, cx: &mut Forward<'_>) {
        let (in_len, out_len) = self.window.image_lens();
        let scale = 1.0 / self.window.area() as f32;
        let x = cx.inputs[0];
        cx.output.par_chunks_mut(out_len).enumerate().for_each(|(n, y)| {
            average(&self.window, scale, &x[n * in_len..(n + 1) * in_len], y);
        });
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        let Some(grad) = &mut cx.grad_inputs[0] else { return };
        let (in_len, out_len) = self.window.image_lens();
        let scale = 1.0 / self.window.area() as f32;
        let (dy, accumulate) = (cx.grad_output, grad.accumulate);
        grad.data.par_chunks_mut(in_len).enumerate().for_each(|(n, dx)| {
            if !accumulate {
                dx.fill(0.0);
            }
            spread(&self.window, scale, &dy[n * out_len..(n + 1) * out_len], dx);
        });
    }

    fn gpu_needs(&self, _: &Gpu, _: bool) -> Result<Needs> {
        Ok(self.needs())
    }

    fn gpu_forward(&self, cx: &GpuForward<'_>) -> Result<()> {
        let grid = Grid::any(self.window.output.len());
        kernels::avg_pool(cx.gpu, grid, cx.inputs[0], cx.output, self.window.sizes())
    }

    fn gpu_backward(&self, cx: &GpuBackward<'_>) -> Result<()> {
        let Some(grad) = cx.grad_inputs[0] else { return Ok(()) };
        let (grid, dy, dx, flag) = (Grid::any(self.window.input.len()), cx.grad_output, grad.data, grad.flag());
        kernels::avg_pool_backward(cx.gpu, grid, dy, dx, self.window.sizes(), flag)
    }
}

for_each_isa! {
    /// Computes one image of `y`: `scale` times the sum of each window of `x`.
    fn average(window: &Window, scale: f32, x: &[f32], y: &mut [f32]) {
        let channels = window.input.c;
        y.fill(0.0);
        window.for_each(0, |out, input| {
            let row = &x[input * channels..(input + 1) * channels];
            y[out * channels..(out + 1) * channels].iter_mut().zip(row).for_each(|(y, x)| *y += x);
        });
        y.iter_mut().for_each(|y| *y *= scale);
    }

    /// Adds `scale` times the gradient of each window to all of its pixels, for one image.
    fn spread(window: &Window, scale: f32, dy: &[f32], dx: &mut [f32]) {
        let channels = window.input.c;
        window.for_each(0, |out, input| {
            let row = &dy[out * channels..(out + 1) * channels];
            dx[input * channels..(input + 1) * channels].iter_mut().zip(row).for_each(|(d, g)| *d += g * scale);
        });
    }
}

pub(super) fn cases() -> Vec<OpCase> {
    vec![
        OpCase::new("avg_pool2d 3x2 s2x1 p1", &[Shape::new(2, 6, 5, 4)], &[], |g, _, x, _, _| {
            avg_pool2d(g, x[0], [3, 2], [2, 1], [1, 1])
        }),
        OpCase::new("global_avg_pool", &[Shape::new(3, 4, 2, 5)], &[], |g, _, x, _, _| global_avg_pool(g, x[0])),
    ]
}

pub(super) fn bench_cases() -> Vec<OpCase> {
    vec![OpCase::new("global_avg_pool", &[Shape::new(64, 16, 8, 2048)], &[], |g, _, x, _, _| global_avg_pool(g, x[0]))]
}
