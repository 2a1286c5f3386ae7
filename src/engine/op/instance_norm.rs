//! Instance normalisation (Ulyanov et al., 2016; torch's `InstanceNorm2d(affine=True)`): each channel of each image by the mean and the biased
//! variance of its own pixels, fused with an optional ReLU: `y = relu((x - μ)/√(σ² + ε)·γ + β)`. There are no running statistics: training and
//! evaluation are alike.
//!
//! The arithmetic is that of a batch normalisation of one image ([`batch_norm`](mod@super::batch_norm)); `dγ` and `dβ` are sums over the images.

use rayon::prelude::*;

use super::batch_norm::BatchNormOp;
use super::batch_norm::cpu::{Pixels, inverse_deviation, normalization, pixel_gradients, rounded, statistics};
use super::workspace::{Part, Parts};
use super::{OpCase, mismatch};
use crate::Result;
use crate::engine::device::{COUNTERS, Gpu, Grid, Ptr, kernels};
use crate::engine::graph::{
    Attachments, Backward, Forward, GpuBackward, GpuForward, GpuGrad, Grad, Graph, Needs, OnnxNode, Op, Recompute, Var,
};
use crate::engine::onnx::OnnxAttribute;
use crate::engine::shape::Shape;
use crate::engine::store::{Layout, ParamId, Store};

/// The largest second size of a grid on a GPU.
const MOST_IMAGES: usize = 65535;

#[derive(Debug)]
struct InstanceNorm {
    images: usize,
    /// The normalisation of one image.
    norm: BatchNormOp,
}

/// The workspace on a GPU of backward: the sums of each image, and of all together.
struct Sums {
    of_images: Part<f32>,
    totals: Part<f32>,
    parts: Parts,
}

/// Records the normalisation of `x`, and ReLU if `relu`. `weight` and `bias` are γ and β, `[c]`; `eps` is added to the variance.
///
/// # Errors
/// A parameter has another length, or an image has a single value per channel, which has no variance.
pub fn instance_norm(
    g: &mut Graph,
    store: &Store,
    x: Var,
    [weight, bias]: [ParamId; 2],
    eps: f32,
    relu: bool,
) -> Result<Var> {
    let shape = g.shape(x);
    for param in [weight, bias].map(|id| store.param(id)) {
        if param.range.len() != shape.c {
            let detail = format!("{} has {} values, x is {shape}", param.name, param.range.len());
            return Err(mismatch("instance_norm", detail));
        }
    }
    let pixels = shape.h * shape.w;
    if pixels < 2 {
        let name = &store.param(weight).name;
        let detail =
            format!("{name}: an image with one value per channel ({shape}) has no variance; take larger images");
        return Err(mismatch("instance_norm", detail));
    }
    let op = InstanceNorm { images: shape.n, norm: BatchNormOp::of_image(pixels, shape.c, eps, relu) };
    g.push(op, &[x], shape, Attachments { params: vec![weight, bias], ..Attachments::default() })
}

impl InstanceNorm {
    /// Returns the elements of an image.
    fn image_len(&self) -> usize {
        self.norm.rows * self.norm.channels
    }

    /// Writes the output from the statistics of each image, `[images][mean, 1/deviation][channels]`.
    fn apply(&self, x: &[f32], statistics: &[f32], params: [&[f32]; 2], output: &mut [f32]) {
        let (len, channels) = (self.image_len(), self.norm.channels);
        let images = output.par_chunks_mut(len).zip(x.par_chunks(len)).zip(statistics.par_chunks(2 * channels));
        images.for_each(|((y, x), statistics)| {
            let (mean, inv_std) = statistics.split_at(channels);
            normalization(&self.norm, mean, inv_std, params, None).run(x, y);
        });
    }

    fn sums(&self) -> Sums {
        let mut parts = Parts::default();
        let of_images = parts.add(2 * self.images * self.norm.channels);
        Sums { of_images, totals: parts.add(2 * self.norm.channels), parts }
    }

    /// Returns the grid of the kernels that go over all elements.
    fn grid(&self) -> [usize; 2] {
        let [blocks, ..] = Grid::any(self.image_len()).blocks;
        [blocks, self.images]
    }

    /// Returns the grid of the kernels that sum over the pixels.
    fn channel_grid(&self) -> [usize; 2] {
        [self.norm.channels.div_ceil(32), self.images]
    }

    /// Returns pixels and channels of an image, and whether a ReLU follows, as kernels take them.
    fn sizes(&self) -> [i32; 3] {
        [self.norm.rows as i32, self.norm.channels as i32, i32::from(self.norm.relu)]
    }
}

impl Op for InstanceNorm {
    fn name(&self) -> &'static str {
        "instance_norm"
    }

    fn onnx(&self, cx: &mut OnnxNode<'_>) -> Result<String> {
        let (x, weight, bias) = (cx.inputs[0].clone(), cx.param(0), cx.param(1));
        let attributes = vec![OnnxAttribute::float("epsilon", self.norm.eps)];
        let y = cx.node("InstanceNormalization", &[&x, &weight, &bias], attributes);
        Ok(if self.norm.relu { cx.node("Relu", &[&y], Vec::new()) } else { y })
    }

    fn needs(&self) -> Needs {
        let saved = 2 * self.images * self.norm.channels;
        Needs { inputs: vec![true], saved, recomputes_output: true, ..Needs::default() }
    }

    fn forward(&self, cx: &mut Forward<'_>) {
        let channels = self.norm.channels;
        let of_image = |x: &[f32]| {
            let [mean, var] = statistics(channels, x).map(|numbers| rounded(&numbers));
            [mean, inverse_deviation(&self.norm, &var)].concat()
        };
        let statistics: Vec<f32> = cx.inputs[0].par_chunks(self.image_len()).flat_map_iter(of_image).collect();
        if !cx.saved.is_empty() {
            cx.saved.copy_from_slice(&statistics);
        }
        self.apply(cx.inputs[0], &statistics, [cx.params[0], cx.params[1]], cx.output);
    }

    fn recompute(&self, cx: &mut Recompute<'_>) {
        self.apply(cx.inputs[0], cx.saved, [cx.params[0], cx.params[1]], cx.output);
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        let (len, channels) = (self.image_len(), self.norm.channels);
        let (x, dy, saved, params) = (cx.inputs[0], cx.grad_output, &*cx.saved, [cx.params[0], cx.params[1]]);
        // Returns Σg and Σg·x̂ of an image.
        let of_image = |n: usize, dx: Option<&mut Grad<'_>>| {
            let (mean, inv_std) = saved[2 * n * channels..2 * (n + 1) * channels].split_at(channels);
            let image = n * len..(n + 1) * len;
            let pixels = Pixels { x: &x[image.clone()], y: &[], dy: &dy[image], mean, inv_std };
            pixel_gradients(&self.norm, &pixels, params, dx, None)
        };
        let of_images: Vec<[Vec<f64>; 2]> = match &mut cx.grad_inputs[0] {
            Some(grad) => {
                let accumulate = grad.accumulate;
                let images = grad.data.par_chunks_mut(len).enumerate();
                images.map(|(n, data)| of_image(n, Some(&mut Grad { data, accumulate }))).collect()
            }
            None => (0..self.images).into_par_iter().map(|n| of_image(n, None)).collect(),
        };
        for (grad, which) in cx.grad_params.iter_mut().zip([1, 0]) {
            if let Some(grad) = grad {
                for c in 0..channels {
                    grad.put(c, of_images.iter().map(|sums| sums[which][c]).sum::<f64>() as f32);
                }
            }
        }
    }

    fn gpu_needs(&self, _: &Gpu, _: bool) -> Result<Needs> {
        if self.norm.channels.div_ceil(32) > COUNTERS || self.images > MOST_IMAGES {
            let (images, channels, most) = (self.images, self.norm.channels, 32 * COUNTERS);
            let detail =
                format!("{images} images with {channels} channels: on a GPU at most {MOST_IMAGES} with at most {most}");
            return Err(mismatch("instance_norm", detail));
        }
        let needs = self.needs();
        // The statistics, if they are not saved for backward.
        let forward_workspace = needs.saved;
        Ok(Needs { forward_workspace, backward_workspace: self.sums().parts.words(), ..needs })
    }

    fn gpu_forward(&self, cx: &GpuForward<'_>) -> Result<()> {
        let (gpu, x, [pixels, channels, relu]) = (cx.gpu, cx.inputs[0], self.sizes());
        let place = if cx.saved == Ptr::NULL { cx.workspace } else { cx.saved };
        let statistics: Ptr<f32> = place.cast();
        kernels::instance_norm_statistics(gpu, self.channel_grid(), x, statistics, pixels, channels, self.norm.eps)?;
        let (weight, bias) = (cx.params[0], cx.params[1]);
        kernels::instance_norm_apply(gpu, self.grid(), x, statistics, weight, bias, cx.output, pixels, channels, relu)
    }

    fn gpu_backward(&self, cx: &GpuBackward<'_>) -> Result<()> {
        let (gpu, x, dy, [pixels, channels, relu]) = (cx.gpu, cx.inputs[0], cx.grad_output, self.sizes());
        let (statistics, weight, bias) = (cx.saved.cast(), cx.params[0], cx.params[1]);
        let Sums { of_images, totals, .. } = self.sums();
        let sums = of_images.of(cx.workspace);
        let or_null = |grad: Option<GpuGrad<Ptr<f32>>>| grad.map_or((Ptr::NULL, 0), |g| (g.data, g.flag()));
        let ((dweight, add_weight), (dbias, add_bias)) = (or_null(cx.grad_params[0]), or_null(cx.grad_params[1]));
        kernels::instance_norm_backward_sums(
            gpu,
            self.channel_grid(),
            x,
            dy,
            statistics,
            weight,
            bias,
            sums,
            gpu.counters()?,
            totals.of(cx.workspace),
            dweight,
            dbias,
            self.images as i32,
            pixels,
            channels,
            relu,
            add_weight,
            add_bias,
        )?;
        let Some(grad) = cx.grad_inputs[0] else { return Ok(()) };
        let (grid, dx, flag) = (self.grid(), grad.data, grad.flag());
        kernels::instance_norm_backward_apply(
            gpu, grid, x, dy, statistics, weight, bias, sums, dx, pixels, channels, relu, flag,
        )
    }
}

pub(super) fn cases() -> Vec<OpCase> {
    let shape = Shape::new(3, 3, 4, 5);
    let params: [(&[usize], Layout); 2] = [(&[5], Layout::Plain), (&[5], Layout::Plain)];
    vec![
        OpCase::new("instance_norm", &[shape], &params, |g, s, x, p, _| {
            instance_norm(g, s, x[0], [p[0], p[1]], 1e-5, false)
        }),
        OpCase::new("instance_norm relu", &[shape], &params, |g, s, x, p, _| {
            instance_norm(g, s, x[0], [p[0], p[1]], 1e-5, true)
        })
        .kinked(),
    ]
}

pub(super) fn bench_cases() -> Vec<OpCase> {
    let params: [(&[usize], Layout); 2] = [(&[256], Layout::Plain), (&[256], Layout::Plain)];
    vec![OpCase::new("instance_norm relu", &[Shape::new(16, 64, 32, 256)], &params, |g, s, x, p, _| {
        instance_norm(g, s, x[0], [p[0], p[1]], 1e-5, true)
    })]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::graph::Mode;
    use crate::engine::store::Group;

    #[test]
    fn an_image_of_one_pixel_and_parameters_of_other_lengths_are_refused() {
        let (mut graph, mut store) = (Graph::new(Mode::Train), Store::new());
        let mut param = |len| store.add_param(format!("bn{len}.weight"), &[len], Layout::Plain, Group::Head);
        let (three, four) = (param(3), param(4));
        let mut error = |shape, params| {
            let x = graph.input(shape);
            instance_norm(&mut graph, &store, x, params, 1e-5, false).unwrap_err().to_string()
        };
        let text = error(Shape::new(2, 1, 1, 4), [four, four]);
        assert!(text.contains("bn4.weight: an image with one value per channel") && text.contains("larger"), "{text}");
        let text = error(Shape::new(2, 2, 2, 4), [four, three]);
        assert!(text.contains("bn3.weight has 3 values, x is"), "{text}");
    }
}
