//! Depthwise 3x3 convolution with stride 1 and padding 1: each channel is convolved with 9 numbers of its own.
//!
//! The gradient of the input is the same convolution of `dy` with the taps in the opposite order. With `--precision bf16`, its factors are
//! not rounded: it has too few products for each number that it reads to gain from that.

use std::ops::Range;

use super::workspace::{ENOUGH_BLOCKS, split_rows};
use super::{OpCase, mismatch};
use crate::Result;
use crate::engine::cpu::{InstructionSet, Simd, for_each_vector, par};
use crate::engine::device::{Gpu, Grid, Ptr, kernels};
use crate::engine::graph::{Attachments, Backward, Forward, GpuBackward, GpuForward, Graph, Needs, OnnxNode, Op, Var};
use crate::engine::onnx::OnnxAttribute;
use crate::engine::shape::Shape;
use crate::engine::store::{Layout, ParamId, Store};

/// The taps of the kernel, row by row.
const TAPS: usize = 9;

#[derive(Debug)]
struct DepthwiseConv2d {
    shape: Shape,
}

/// Records the convolution of each channel of `x` `[n, h, w, c]` with its own 3x3 kernel, with stride 1 and padding 1, as torch's `Conv2d`
/// with `groups` = c does. The weight has the layout [`Layout::Conv`] and the shape `[c, 1, 3, 3]` in torch.
///
/// # Errors
/// The weight has another shape.
pub fn depthwise_conv2d(g: &mut Graph, store: &Store, x: Var, weight: ParamId) -> Result<Var> {
    let shape = g.shape(x);
    let param = store.param(weight);
    if param.shape != [shape.c, 1, 3, 3] {
        let detail = format!(
            "{} has the shape {:?}, but the input {shape} takes [{}, 1, 3, 3]",
            param.name, param.shape, shape.c
        );
        return Err(mismatch("depthwise_conv2d", detail));
    }
    let attachments = Attachments { params: vec![weight], ..Attachments::default() };
    g.push(DepthwiseConv2d { shape }, &[x], shape, attachments)
}

impl DepthwiseConv2d {
    /// Returns the pixels of all images.
    fn pixels(&self) -> usize {
        self.shape.n * self.shape.h * self.shape.w
    }

    /// Returns the pixels of a partial sum of the weight's gradient on a GPU, and the number of partial sums.
    fn splits(&self) -> (usize, usize) {
        let split = split_rows(self.pixels(), 128, ENOUGH_BLOCKS.div_ceil(self.shape.c.div_ceil(32)));
        (split, self.pixels().div_ceil(split))
    }

    /// Computes `y (+)= x` convolved with the taps, or with the taps in the opposite order if `turned`.
    fn convolve(&self, x: &[f32], weight: &[f32], turned: bool, y: &mut [f32], accumulate: bool) {
        let Shape { h, w, c, .. } = self.shape;
        let row = w * c;
        par::rows_mut(y, row, |first, rows| {
            for (i, y) in rows.chunks_exact_mut(row).enumerate() {
                let lines = Lines::around(x, first + i, h, row);
                // SAFETY: rows of one length, a weight of 9 numbers for each channel; the instruction set in use.
                unsafe { convolve_row(InstructionSet::best(), &lines, weight, turned, y, c, accumulate) }
            }
        });
    }

    fn launch(&self, gpu: &Gpu, [x, y]: [Ptr; 2], weight: Ptr<f32>, turned: bool, accumulate: i32) -> Result<()> {
        let Shape { h, w, c, .. } = self.shape;
        // A thread reads the taps of its channels once, so it should have several pixels.
        let grid = Grid::any(self.shape.len() / 32);
        let [pixels, h, w, c] = [self.pixels(), h, w, c].map(|size| size as i32);
        kernels::depthwise(gpu, grid, x, weight, y, pixels, h, w, c, i32::from(turned), accumulate)
    }
}

/// A row of an image, with the rows above and below it; `None` outside the image.
struct Lines<'a>([Option<&'a [f32]>; 3]);

impl<'a> Lines<'a> {
    /// Returns the rows around row `line` of all images, which have `height` rows of `len` numbers.
    fn around(x: &'a [f32], line: usize, height: usize, len: usize) -> Lines<'a> {
        let at = line % height;
        let row = |line: usize| &x[line * len..(line + 1) * len];
        Lines([(at > 0).then(|| row(line - 1)), Some(row(line)), (at + 1 < height).then(|| row(line + 1))])
    }
}

impl Op for DepthwiseConv2d {
    fn name(&self) -> &'static str {
        "depthwise_conv2d"
    }

    fn onnx(&self, cx: &mut OnnxNode<'_>) -> Result<String> {
        let (x, weight) = (cx.inputs[0].clone(), cx.param(0));
        let mut attributes = OnnxAttribute::window([3, 3], [1, 1], [1, 1]);
        attributes.push(OnnxAttribute::int("group", self.shape.c as i64));
        Ok(cx.node("Conv", &[&x, &weight], attributes))
    }

    fn needs(&self) -> Needs {
        Needs { inputs: vec![true], ..Needs::default() }
    }

    fn forward(&self, cx: &mut Forward<'_>) {
        self.convolve(cx.inputs[0], cx.params[0], false, cx.output, false);
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        let dy = cx.grad_output;
        if let Some(grad) = &mut cx.grad_inputs[0] {
            self.convolve(dy, cx.params[0], true, grad.data, grad.accumulate);
        }
        if let Some(grad) = &mut cx.grad_params[0] {
            let Shape { n, h, w, c } = self.shape;
            let (x, row) = (cx.inputs[0], w * c);
            let sums = par::column_sums(n * h, TAPS * c, row, |rows, sums| {
                // SAFETY: `x` and `dy` have the shape, and the sums 9 numbers for each channel; the instruction set in use.
                unsafe { add_weight_gradient(InstructionSet::best(), x, dy, rows, h, row, sums) }
            });
            sums.iter().enumerate().for_each(|(i, &sum)| grad.put(i, sum as f32));
        }
    }

    fn gpu_needs(&self, _: &Gpu, differentiated: bool) -> Result<Needs> {
        let backward_workspace = if differentiated { self.splits().1 * TAPS * self.shape.c } else { 0 };
        Ok(Needs { backward_workspace, ..self.needs() })
    }

    fn gpu_forward(&self, cx: &GpuForward<'_>) -> Result<()> {
        self.launch(cx.gpu, [cx.inputs[0], cx.output], cx.params[0], false, 0)
    }

    fn gpu_backward(&self, cx: &GpuBackward<'_>) -> Result<()> {
        let (gpu, dy) = (cx.gpu, cx.grad_output);
        if let Some(grad) = cx.grad_inputs[0] {
            self.launch(gpu, [dy, grad.data], cx.params[0], true, grad.flag())?;
        }
        if let Some(grad) = cx.grad_params[0] {
            let Shape { h, w, c, .. } = self.shape;
            let ((split, splits), partials) = (self.splits(), cx.workspace.cast());
            let (grid, count) = ([c.div_ceil(32), splits], TAPS * c);
            let [pixels, h, w, c, split] = [self.pixels(), h, w, c, split].map(|size| size as i32);
            kernels::depthwise_weight(gpu, grid, cx.inputs[0], dy, partials, pixels, h, w, c, split)?;
            let grid = Grid::any(count);
            kernels::sum_partials_f32(gpu, grid, partials, grad.data, splits as i32, count as i64, grad.flag())?;
        }
        Ok(())
    }

    fn flops(&self) -> u64 {
        2 * (TAPS * self.shape.len()) as u64
    }

    fn gradients_are_apart(&self) -> bool {
        true
    }
}

/// Returns `sum` plus the products of the taps of the columns `kx` of the kernel with the pixels around column `at`, for `count` channels
/// from `channel` on.
///
/// # Safety
/// As for all methods of [`Simd`]; the pixels and channels are inside the rows.
#[inline(always)]
unsafe fn products<S: Simd>(
    lines: &Lines<'_>,
    taps: &[S; TAPS],
    kx: Range<usize>,
    [at, channel, count, channels]: [usize; 4],
) -> S {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sum = S::splat(0.0);
        for (ky, line) in lines.0.iter().enumerate() {
            let Some(line) = line else { continue };
            for kx in kx.clone() {
                let x = S::load_part(line.as_ptr().add((at + kx - 1) * channels + channel), count);
                sum = x.mul_add(taps[3 * ky + kx], sum);
            }
        }
        sum
    }
}

/// Computes some channels of a row, as [`convolve_row`] does for all of them.
///
/// # Safety
/// As for [`convolve_row`]; `count` is at most the lanes of a vector.
#[inline(always)]
unsafe fn convolve_channels<S: Simd>(
    lines: &Lines<'_>,
    weight: &[f32],
    turned: bool,
    y: &mut [f32],
    [channel, count, channels]: [usize; 3],
    accumulate: bool,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut taps = [S::splat(0.0); TAPS];
        for (t, tap) in taps.iter_mut().enumerate() {
            let t = if turned { TAPS - 1 - t } else { t };
            *tap = S::load_part(weight.as_ptr().add(t * channels + channel), count);
        }
        let width = y.len() / channels;
        for at in 0..width {
            let place = [at, channel, count, channels];
            let sum = match (at > 0, at + 1 < width) {
                (true, true) => products(lines, &taps, 0..3, place),
                (true, false) => products(lines, &taps, 0..2, place),
                (false, true) => products(lines, &taps, 1..3, place),
                (false, false) => products(lines, &taps, 1..2, place),
            };
            let y = y.as_mut_ptr().add(at * channels + channel);
            let sum = if accumulate { S::load_part(y, count).add(sum) } else { sum };
            sum.store_part(y, count);
        }
    }
}

for_each_vector! {
    /// Computes a row `y (+)=` the middle one of `lines` convolved with the taps, or with the taps in the opposite order if `turned`.
    ///
    /// # Safety
    /// All rows are as long as `y`, whole pixels of `channels` numbers; `weight` has 9 numbers for each channel.
    unsafe fn convolve_row<S>(
        lines: &Lines<'_>,
        weight: &[f32],
        turned: bool,
        y: &mut [f32],
        channels: usize,
        accumulate: bool,
    ) {
        for channel in (0..channels).step_by(S::LANES) {
            // SAFETY: the caller's promise. In whole vectors, the loads of a known count need no branch.
            unsafe {
                let count = channels - channel;
                if count >= S::LANES {
                    convolve_channels::<S>(lines, weight, turned, y, [channel, S::LANES, channels], accumulate);
                } else {
                    convolve_channels::<S>(lines, weight, turned, y, [channel, count, channels], accumulate);
                }
            }
        }
    }

    /// Adds the gradient of the weight by the rows `rows` of all images, which have `height` rows of `len` numbers, to `sums`.
    ///
    /// # Safety
    /// `x` and `dy` have these rows; `sums` has 9 numbers for each channel.
    unsafe fn add_weight_gradient<S>(
        x: &[f32],
        dy: &[f32],
        rows: Range<usize>,
        height: usize,
        len: usize,
        sums: &mut [f32],
    ) {
        let channels = sums.len() / TAPS;
        let width = len / channels;
        for channel in (0..channels).step_by(S::LANES) {
            // SAFETY: the caller's promise; `count` channels of a pixel.
            unsafe {
                let count = S::LANES.min(channels - channel);
                let mut totals = [S::splat(0.0); TAPS];
                for line in rows.clone() {
                    let lines = Lines::around(x, line, height, len);
                    for at in 0..width {
                        let d = S::load_part(dy.as_ptr().add(line * len + at * channels + channel), count);
                        for (ky, line) in lines.0.iter().enumerate() {
                            let Some(line) = line else { continue };
                            for kx in 0..3 {
                                if at + kx == 0 || at + kx > width {
                                    continue;
                                }
                                let x = S::load_part(line.as_ptr().add((at + kx - 1) * channels + channel), count);
                                totals[3 * ky + kx] = x.mul_add(d, totals[3 * ky + kx]);
                            }
                        }
                    }
                }
                for (tap, total) in totals.into_iter().enumerate() {
                    let sum = sums.as_mut_ptr().add(tap * channels + channel);
                    S::load_part(sum, count).add(total).store_part(sum, count);
                }
            }
        }
    }
}

pub(super) fn cases() -> Vec<OpCase> {
    let w = Layout::Conv;
    vec![
        OpCase::new("depthwise_conv2d", &[Shape::new(2, 5, 4, 19)], &[(&[19, 1, 3, 3], w)], |g, s, x, p, _| {
            depthwise_conv2d(g, s, x[0], p[0])
        }),
        OpCase::new(
            "depthwise_conv2d of two rows",
            &[Shape::new(2, 2, 3, 2)],
            &[(&[2, 1, 3, 3], w)],
            |g, s, x, p, _| depthwise_conv2d(g, s, x[0], p[0]),
        ),
        // The weight's second gradient is added, and so is the input's.
        OpCase::new("depthwise_conv2d twice", &[Shape::new(1, 3, 2, 16)], &[(&[16, 1, 3, 3], w)], |g, s, x, p, _| {
            let y = depthwise_conv2d(g, s, x[0], p[0])?;
            let z = depthwise_conv2d(g, s, y, p[0])?;
            super::add(g, x[0], z)
        }),
    ]
}

pub(super) fn bench_cases() -> Vec<OpCase> {
    let w = Layout::Conv;
    vec![
        OpCase::new("depthwise_conv2d 64", &[Shape::new(16, 64, 32, 64)], &[(&[64, 1, 3, 3], w)], |g, s, x, p, _| {
            depthwise_conv2d(g, s, x[0], p[0])
        }),
        OpCase::new("depthwise_conv2d 128", &[Shape::new(16, 16, 8, 128)], &[(&[128, 1, 3, 3], w)], |g, s, x, p, _| {
            depthwise_conv2d(g, s, x[0], p[0])
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::graph::Mode;
    use crate::engine::session::CaseRun;
    use crate::engine::store::Group;

    #[test]
    fn in_a_map_of_one_pixel_only_the_middle_tap_counts() {
        let w = [(&[5, 1, 3, 3][..], Layout::Conv)];
        let case = OpCase::new("depthwise_conv2d", &[Shape::new(2, 1, 1, 5)], &w, |g, s, x, p, _| {
            depthwise_conv2d(g, s, x[0], p[0])
        });
        let mut run = CaseRun::new(&case, Mode::Eval).poisoned();
        let y = run.forward().unwrap().to_vec();
        let middle = &run.store.value(run.params[0])[4 * 5..5 * 5];
        let want = run.input_values[0].iter().zip(middle.iter().cycle()).map(|(x, tap)| x * tap);
        assert_eq!(y, want.collect::<Vec<f32>>());
    }

    #[test]
    fn a_weight_of_another_shape_is_refused() {
        let (mut graph, mut store) = (Graph::new(Mode::Eval), Store::new());
        let x = graph.input(Shape::new(1, 4, 4, 8));
        let weight = store.add_param("conv2.weight".into(), &[8, 8, 3, 3], Layout::Conv, Group::Backbone);
        let error = depthwise_conv2d(&mut graph, &store, x, weight).unwrap_err().to_string();
        assert!(error.contains("conv2.weight") && error.contains("takes [8, 1, 3, 3]"), "{error}");
    }
}
