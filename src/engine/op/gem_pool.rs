//! Generalised-mean pooling (GeM; Radenović et al., 2018): `y = (mean of max(x, 1e-6)^p)^(1/p)` over the pixels of each channel, with one
//! trained exponent p. p = 1 is the average of what is positive, and a large p comes near to the maximum.
//!
//! The powers are those of values divided by the largest one, so that none overflows. With `u = max(x, 1e-6)/y`:
//! `dx = dy·u^(p-1)/pixels` where x is at least 1e-6, else 0, and `dp = Σ dy·y/p·(mean of u^p·ln u)`.

use rayon::prelude::*;

use super::workspace::{Part, Parts};
use super::{OpCase, mismatch};
use crate::Result;
use crate::engine::cpu::for_each_isa;
use crate::engine::device::{Gpu, Grid, Ptr, kernels};
use crate::engine::graph::{Attachments, Backward, Forward, GpuBackward, GpuForward, Graph, Needs, OnnxNode, Op, Var};
use crate::engine::shape::Shape;
use crate::engine::store::{Layout, ParamId, Store};

/// Smaller values count as this one. fast-reid has the same limit, and gem_pool.cu too.
const MIN: f32 = 1e-6;

/// Threads of a block of the kernel for backward, each of which takes a channel of an image.
const THREADS: usize = 256;

#[derive(Debug)]
struct GemPool {
    input: Shape,
}

/// Records the pooling of `x` `[n, h, w, c]` to `[n, 1, 1, c]`, with the exponent `p` `[1]`.
///
/// # Errors
/// `p` is not one number, or a size is 0.
pub fn gem_pool(g: &mut Graph, store: &Store, x: Var, p: ParamId) -> Result<Var> {
    let (input, p_param) = (g.shape(x), store.param(p));
    if p_param.range.len() != 1 || input.is_empty() {
        let detail = format!("{} of shape {:?} must be one number, and {input} not empty", p_param.name, p_param.shape);
        return Err(mismatch("gem_pool", detail));
    }
    let attachments = Attachments { params: vec![p], ..Attachments::default() };
    g.push(GemPool { input }, &[x], Shape::vectors(input.n, input.c), attachments)
}

impl GemPool {
    fn image_len(&self) -> usize {
        self.input.h * self.input.w * self.input.c
    }

    /// Returns the length of all outputs together.
    fn vectors(&self) -> usize {
        self.input.n * self.input.c
    }

    /// Returns images, pixels of an image and channels, as kernels take them.
    fn sizes(&self) -> [i32; 3] {
        [self.input.n, self.input.h * self.input.w, self.input.c].map(|size| size as i32)
    }

    /// Returns the workspace of backward on a GPU: a sum for each block.
    fn partials(&self) -> (Part<f32>, Parts) {
        let mut parts = Parts::default();
        (parts.add(self.vectors().div_ceil(THREADS)), parts)
    }
}

impl Op for GemPool {
    fn name(&self) -> &'static str {
        "gem_pool"
    }

    fn onnx(&self, cx: &mut OnnxNode<'_>) -> Result<String> {
        let (x, p, inverse) = (cx.inputs[0].clone(), cx.param(0), 1.0 / cx.values(0).1[0]);
        let least = cx.numbers("min", &[], &[MIN]);
        let inverse = cx.numbers("1/p", &[1], &[inverse]);
        let y = cx.node("Clip", &[&x, &least], Vec::new());
        let y = cx.node("Pow", &[&y, &p], Vec::new());
        let y = cx.node("GlobalAveragePool", &[&y], Vec::new());
        Ok(cx.node("Pow", &[&y, &inverse], Vec::new()))
    }

    fn needs(&self) -> Needs {
        // Saves the output: on a GPU, the one that the next op reads may be rounded to bf16.
        Needs { inputs: vec![true], saved: self.vectors(), ..Needs::default() }
    }

    fn forward(&self, cx: &mut Forward<'_>) {
        let (channels, p) = (self.input.c, cx.params[0][0]);
        let images = cx.inputs[0].par_chunks(self.image_len());
        cx.output.par_chunks_mut(channels).zip(images).for_each(|(y, x)| pool(p, x, y));
        if !cx.saved.is_empty() {
            cx.saved.copy_from_slice(cx.output);
        }
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        let (channels, len, p) = (self.input.c, self.image_len(), cx.params[0][0]);
        let (x, y, dy) = (cx.inputs[0], &*cx.saved, cx.grad_output);
        // Returns the gradient of p that image n causes.
        let of_image = |n: usize, dx: Option<&mut [f32]>, accumulate: bool| {
            let (vector, image) = (n * channels..(n + 1) * channels, n * len..(n + 1) * len);
            let slopes = slopes(p, &x[image], &y[vector.clone()], &dy[vector.clone()], dx, accumulate);
            let terms = slopes.iter().zip(&y[vector.clone()]).zip(&dy[vector]);
            terms.map(|((&slope, &y), &dy)| f64::from(dy) * f64::from(y) * f64::from(slope)).sum::<f64>()
        };
        let of_images: Vec<f64> = match &mut cx.grad_inputs[0] {
            Some(grad) => {
                let accumulate = grad.accumulate;
                let images = grad.data.par_chunks_mut(len).enumerate();
                images.map(|(n, dx)| of_image(n, Some(dx), accumulate)).collect()
            }
            None => (0..self.input.n).into_par_iter().map(|n| of_image(n, None, false)).collect(),
        };
        if let Some(grad) = &mut cx.grad_params[0] {
            grad.put(0, (of_images.iter().sum::<f64>() / f64::from(p)) as f32);
        }
    }

    fn gpu_needs(&self, _: &Gpu, _: bool) -> Result<Needs> {
        Ok(Needs { backward_workspace: self.partials().1.words(), ..self.needs() })
    }

    fn gpu_forward(&self, cx: &GpuForward<'_>) -> Result<()> {
        let (grid, [images, pixels, channels]) = (Grid::any(self.vectors()), self.sizes());
        kernels::gem_pool(
            cx.gpu,
            grid,
            cx.inputs[0],
            cx.params[0],
            cx.output,
            cx.saved.cast(),
            images,
            pixels,
            channels,
        )
    }

    fn gpu_backward(&self, cx: &GpuBackward<'_>) -> Result<()> {
        let (grid, [images, pixels, channels]) = (self.vectors().div_ceil(THREADS), self.sizes());
        let (dx, add_dx) = cx.grad_inputs[0].map_or((Ptr::NULL, 0), |grad| (grad.data, grad.flag()));
        let (dp, add_dp) = cx.grad_params[0].map_or((Ptr::NULL, 0), |grad| (grad.data, grad.flag()));
        kernels::gem_pool_backward(
            cx.gpu,
            grid,
            cx.inputs[0],
            cx.params[0],
            cx.saved.cast(),
            cx.grad_output,
            dx,
            self.partials().0.of(cx.workspace),
            cx.gpu.counters()?,
            dp,
            images,
            pixels,
            channels,
            add_dx,
            add_dp,
        )
    }
}

/// Returns `x`, but at least [`MIN`]. A comparison instead of `max`, so that NaN stays NaN.
#[inline(always)]
fn clamped(x: f32) -> f32 {
    if x < MIN { MIN } else { x }
}

for_each_isa! {
    /// Pools one image.
    fn pool(p: f32, x: &[f32], y: &mut [f32]) {
        let channels = y.len();
        let mut largest = vec![MIN; channels];
        for row in x.chunks_exact(channels) {
            largest.iter_mut().zip(row).for_each(|(m, &x)| *m = if (x > *m) | x.is_nan() { x } else { *m });
        }
        y.fill(0.0);
        for row in x.chunks_exact(channels) {
            let terms = y.iter_mut().zip(row).zip(&largest);
            terms.for_each(|((y, &x), m)| *y += (clamped(x) / m).powf(p));
        }
        let pixels = (x.len() / channels) as f32;
        y.iter_mut().zip(&largest).for_each(|(y, m)| *y = m * (*y / pixels).powf(1.0 / p));
    }

    /// Computes the gradient of one image, if `dx` is there, and returns the mean of `u^p·ln u` of each channel.
    fn slopes(
        p: f32,
        x: &[f32],
        y: &[f32],
        dy: &[f32],
        dx: Option<&mut [f32]>,
        accumulate: bool,
    ) -> Vec<f32> {
        let channels = y.len();
        let pixels = (x.len() / channels) as f32;
        let mut slopes = vec![0.0; channels];
        let mut dx = dx.map(|dx| dx.chunks_exact_mut(channels));
        for row in x.chunks_exact(channels) {
            let mut dx = dx.as_mut().and_then(Iterator::next);
            for (c, &x) in row.iter().enumerate() {
                let u = clamped(x) / y[c];
                let power = u.powf(p - 1.0);
                slopes[c] += power * u * u.ln();
                if let Some(dx) = &mut dx {
                    let d = if x < MIN { 0.0 } else { dy[c] * power / pixels };
                    dx[c] = if accumulate { dx[c] + d } else { d };
                }
            }
        }
        slopes.iter_mut().for_each(|slope| *slope /= pixels);
        slopes
    }
}

/// Records the pooling with an exponent as networks have it, instead of the random one of a case.
fn case_pool(g: &mut Graph, store: &mut Store, x: &[Var], p: &[ParamId], _: &[Var]) -> Result<Var> {
    store.value_mut(p[0])[0] = 3.0;
    gem_pool(g, store, x[0], p[0])
}

pub(super) fn cases() -> Vec<OpCase> {
    let p: [(&[usize], Layout); 1] = [(&[1], Layout::Plain)];
    vec![OpCase::new("gem_pool", &[Shape::new(3, 4, 2, 5)], &p, case_pool)]
}

pub(super) fn bench_cases() -> Vec<OpCase> {
    let p: [(&[usize], Layout); 1] = [(&[1], Layout::Plain)];
    vec![OpCase::new("gem_pool", &[Shape::new(16, 16, 8, 2048)], &p, case_pool)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponents_reach_from_the_average_to_the_maximum() {
        let x = [1.0, -2.0, 4.0, 8.0, 3.0, -6.0];
        let pooled = |p: f32| {
            let mut y = [0.0; 2];
            pool(p, &x, &mut y);
            y
        };
        // The columns are 1, 4, 3 and -2, 8, -6.
        for (p, want) in [(1.0, [8.0 / 3.0, 8.0 / 3.0]), (1e4, [4.0, 8.0])] {
            let y = pooled(p);
            assert!(y.iter().zip(want).all(|(y, want)| (y - want).abs() < 2e-3), "{p}: {y:?}, not {want:?}");
        }
    }

    #[test]
    fn nan_stays_nan() {
        let mut y = [0.0];
        pool(3.0, &[1.0, f32::NAN, 2.0], &mut y);
        assert!(y[0].is_nan());
        let mut dx = [0.0; 3];
        let slopes = slopes(3.0, &[1.0, f32::NAN, 2.0], &y, &[1.0], Some(&mut dx), false);
        assert!(slopes[0].is_nan() && dx[1].is_nan());
    }

    #[test]
    fn an_exponent_for_each_channel_is_refused() {
        let (mut graph, mut store) = (Graph::new(crate::engine::graph::Mode::Train), Store::new());
        let p = store.add_param("pool.p".into(), &[4], Layout::Plain, crate::engine::store::Group::Head);
        let x = graph.input(Shape::new(1, 2, 2, 4));
        let error = gem_pool(&mut graph, &store, x, p).unwrap_err().to_string();
        assert!(error.contains("pool.p of shape [4] must be one number"), "{error}");
    }
}
