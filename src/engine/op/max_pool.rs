//! Max pooling; padding counts as -∞. The gradient goes to the first maximum in row-major window order.

use rayon::prelude::*;

use super::OpCase;
use super::pool_window::Window;
use crate::Result;
use crate::engine::cpu::for_each_isa;
use crate::engine::device::{Gpu, Grid, kernels};
use crate::engine::graph::{Attachments, Backward, Forward, GpuBackward, GpuForward, Graph, Needs, OnnxNode, Op, Var};
use crate::engine::shape::Shape;

#[derive(Debug)]
struct MaxPool {
    window: Window,
}

/// Records the pooling of `x` `[n, h, w, c]` to `[n, oh, ow, c]`, with
/// `oh = ⌊(h + 2·padding[0] - kernel[0])/stride[0]⌋ + 1` and the same for `ow`.
///
/// # Errors
/// The window does not fit the image, the padding is more than half the kernel, or a size is 0.
pub fn max_pool2d(g: &mut Graph, x: Var, kernel: [usize; 2], stride: [usize; 2], padding: [usize; 2]) -> Result<Var> {
    let window = Window::new("max_pool2d", g.shape(x), kernel, stride, padding)?;
    g.push(MaxPool { window }, &[x], window.output, Attachments::default())
}

/// Records the maximum over the whole image: `[n, h, w, c]` to `[n, 1, 1, c]`.
///
/// # Errors
/// A size is 0.
pub fn global_max_pool(g: &mut Graph, x: Var) -> Result<Var> {
    let Shape { h, w, .. } = g.shape(x);
    max_pool2d(g, x, [h, w], [h, w], [0, 0])
}

impl Op for MaxPool {
    fn name(&self) -> &'static str {
        "max_pool2d"
    }

    fn onnx(&self, cx: &mut OnnxNode<'_>) -> Result<String> {
        let x = cx.inputs[0].clone();
        if self.window.is_global() {
            return Ok(cx.node("GlobalMaxPool", &[&x], Vec::new()));
        }
        Ok(cx.node("MaxPool", &[&x], self.window.onnx()))
    }

    fn needs(&self) -> Needs {
        // The input row of each winner within its image, as the bits of u32.
        Needs { inputs: vec![false], saved: self.window.output.len(), ..Needs::default() }
    }

    fn forward(&self, cx: &mut Forward<'_>) {
        let (in_len, out_len) = self.window.image_lens();
        let x = cx.inputs[0];
        let run = |n: usize, y: &mut [f32], winner: &mut [u32]| {
            maxima(&self.window, &x[n * in_len..(n + 1) * in_len], y, winner);
        };
        let images = cx.output.par_chunks_mut(out_len).enumerate();
        if cx.saved.is_empty() {
            images.for_each(|(n, y)| run(n, y, &mut []));
        } else {
            let winners: &mut [u32] = bytemuck::cast_slice_mut(cx.saved);
            images.zip(winners.par_chunks_mut(out_len)).for_each(|((n, y), winner)| run(n, y, winner));
        }
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        let Some(grad) = &mut cx.grad_inputs[0] else { return };
        let channels = self.window.input.c;
        let (in_len, out_len) = self.window.image_lens();
        let winners: &[u32] = bytemuck::cast_slice(cx.saved);
        let (dy, accumulate) = (cx.grad_output, grad.accumulate);
        grad.data.par_chunks_mut(in_len).enumerate().for_each(|(n, dx)| {
            if !accumulate {
                dx.fill(0.0);
            }
            let span = n * out_len..(n + 1) * out_len;
            let pixels = winners[span.clone()].chunks_exact(channels).zip(dy[span].chunks_exact(channels));
            for (winners, dy) in pixels {
                for (c, (&winner, &dy)) in winners.iter().zip(dy).enumerate() {
                    dx[winner as usize * channels + c] += dy;
                }
            }
        });
    }

    fn gpu_needs(&self, _: &Gpu, _: bool) -> Result<Needs> {
        Ok(self.needs())
    }

    fn gpu_forward(&self, cx: &GpuForward<'_>) -> Result<()> {
        let (grid, x, y, winners) = (Grid::any(self.window.output.len()), cx.inputs[0], cx.output, cx.saved.cast());
        kernels::max_pool(cx.gpu, grid, x, y, winners, self.window.sizes())
    }

    fn gpu_backward(&self, cx: &GpuBackward<'_>) -> Result<()> {
        let Some(grad) = cx.grad_inputs[0] else { return Ok(()) };
        let (grid, dy, dx, flag) = (Grid::any(self.window.input.len()), cx.grad_output, grad.data, grad.flag());
        let winners = cx.saved.cast();
        kernels::max_pool_backward(cx.gpu, grid, dy, winners, dx, self.window.sizes(), flag)
    }
}

for_each_isa! {
    /// Computes one image of `y`, the maximum of each window of `x`, and the input row of each winner if `winners` is not empty.
    fn maxima(window: &Window, x: &[f32], y: &mut [f32], winners: &mut [u32]) {
        let channels = window.input.c;
        let mut started = usize::MAX;
        window.for_each(0, |out, input| {
            let span = out * channels..(out + 1) * channels;
            let row = &x[input * channels..][..channels];
            let y = &mut y[span.clone()];
            // The first pixel wins even at -∞.
            if started != out {
                started = out;
                y.copy_from_slice(row);
                winners.get_mut(span).into_iter().for_each(|winners| winners.fill(input as u32));
                return;
            }
            // NaN always wins.
            match winners.get_mut(span) {
                Some(winners) => {
                    for c in 0..channels {
                        let wins = (row[c] > y[c]) | row[c].is_nan();
                        y[c] = if wins { row[c] } else { y[c] };
                        winners[c] = if wins { input as u32 } else { winners[c] };
                    }
                }
                None => y.iter_mut().zip(row).for_each(|(y, &v)| *y = if (v > *y) | v.is_nan() { v } else { *y }),
            }
        });
    }
}

pub(super) fn cases() -> Vec<OpCase> {
    vec![
        OpCase::new("max_pool2d 3x3 s2 p1", &[Shape::new(2, 7, 6, 5)], &[], |g, _, x, _, _| {
            max_pool2d(g, x[0], [3, 3], [2, 2], [1, 1])
        })
        .kinked(),
        OpCase::new("max_pool2d ragged", &[Shape::new(1, 7, 5, 3)], &[], |g, _, x, _, _| {
            max_pool2d(g, x[0], [4, 3], [2, 2], [0, 0])
        })
        .kinked(),
        OpCase::new("global_max_pool", &[Shape::new(3, 4, 2, 5)], &[], |g, _, x, _, _| global_max_pool(g, x[0]))
            .kinked(),
    ]
}

pub(super) fn bench_cases() -> Vec<OpCase> {
    vec![
        OpCase::new("max_pool2d 3x3 s2", &[Shape::new(16, 128, 64, 64)], &[], |g, _, x, _, _| {
            max_pool2d(g, x[0], [3, 3], [2, 2], [1, 1])
        }),
        OpCase::new("global_max_pool", &[Shape::new(64, 16, 8, 2048)], &[], |g, _, x, _, _| global_max_pool(g, x[0])),
    ]
}
