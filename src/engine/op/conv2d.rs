//! 2-D convolution (cross-correlation) and the fully connected layer, which is a 1x1 convolution of 1x1 images.
//!
//! `dx` is the transposed convolution of `dy`, `dW` the correlation of `x` with `dy`; see [`crate::engine::cpu::conv`].

use std::any::Any;

use super::batch_norm::BatchNormOp;
use super::conv_launch::{ConvLaunch, Weight};
use super::conv2d_norm::Conv2dNorm;
use super::{OpCase, mismatch};
use crate::Result;
use crate::engine::cpu::conv::{self, Packed};
use crate::engine::cpu::par;
use crate::engine::device::{Gpu, Pass, Ptr};
use crate::engine::geometry::Conv2dGeometry;
use crate::engine::graph::{Attachments, Backward, Forward, GpuBackward, GpuForward, Graph, Needs, OnnxNode, Op, Var};
use crate::engine::onnx::OnnxAttribute;
use crate::engine::shape::Shape;
use crate::engine::store::{Layout, ParamId, Store};

#[derive(Debug)]
struct Conv2d {
    geometry: Conv2dGeometry,
    bias: bool,
}

/// Records the convolution of `x` `[n, h, w, in]` to `[n, oh, ow, out]`. The weight has the layout [`Layout::Conv`] and the shape
/// `[out, in, kh, kw]` in torch; the optional bias is `[out]`.
///
/// # Errors
/// The weight has other input channels than `x`, the bias other channels than the weight, or the kernel does not fit.
pub fn conv2d(
    g: &mut Graph,
    store: &Store,
    x: Var,
    weight: ParamId,
    bias: Option<ParamId>,
    stride: [usize; 2],
    padding: [usize; 2],
) -> Result<Var> {
    let input = g.shape(x);
    let param = store.param(weight);
    let kernel = [param.shape.get(2).copied().unwrap_or(1), param.shape.get(3).copied().unwrap_or(1)];
    if param.shape[1] != input.c {
        let detail = format!("{} has {} input channels, the input is {input}", param.name, param.shape[1]);
        return Err(mismatch("conv2d", detail));
    }
    if let Some(bias) = bias.map(|bias| store.param(bias)).filter(|bias| bias.shape != [param.shape[0]]) {
        let detail =
            format!("{} has the shape {:?}, the output has {} channels", bias.name, bias.shape, param.shape[0]);
        return Err(mismatch("conv2d", detail));
    }
    let geometry = Conv2dGeometry::new(input.n, [input.h, input.w], input.c, param.shape[0], kernel, stride, padding)?;
    let shape = Shape::new(input.n, geometry.out_h(), geometry.out_w(), geometry.out_c);
    let params = std::iter::once(weight).chain(bias).collect();
    g.push(Conv2d { geometry, bias: bias.is_some() }, &[x], shape, Attachments { params, ..Attachments::default() })
}

/// Records `x Wᵀ + b` for vectors `[n, 1, 1, in]`. The weight has the layout [`Layout::Conv`] and the shape `[out, in]` in torch.
///
/// # Errors
/// As [`conv2d`].
pub fn linear(g: &mut Graph, store: &Store, x: Var, weight: ParamId, bias: Option<ParamId>) -> Result<Var> {
    conv2d(g, store, x, weight, bias, [1, 1], [0, 0])
}

impl Op for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn onnx(&self, cx: &mut OnnxNode<'_>) -> Result<String> {
        let Conv2dGeometry { kernel, stride, padding, .. } = self.geometry;
        let mut inputs = vec![cx.inputs[0].clone()];
        inputs.extend((0..1 + usize::from(self.bias)).map(|param| cx.param(param)));
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        Ok(cx.node("Conv", &inputs, OnnxAttribute::window(kernel, stride, padding)))
    }

    fn needs(&self) -> Needs {
        let backward =
            conv::backward_data_workspace(&self.geometry).max(conv::backward_weight_workspace(&self.geometry));
        Needs {
            inputs: vec![true],
            forward_workspace: conv::forward_workspace(&self.geometry),
            reusable_workspace: true,
            backward_workspace: backward,
            ..Needs::default()
        }
    }

    fn forward(&self, cx: &mut Forward<'_>) {
        let bias = cx.params.get(1).copied();
        let packed = Packed { memory: cx.workspace, ready: cx.workspace_is_ready };
        conv::conv2d_forward(cx.precision, &self.geometry, cx.inputs[0], cx.params[0], bias, cx.output, packed);
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        let geometry = &self.geometry;
        if let Some(grad) = &mut cx.grad_inputs[0] {
            conv::conv2d_backward_data(
                cx.precision,
                geometry,
                cx.grad_output,
                cx.params[0],
                grad.data,
                grad.accumulate,
                cx.workspace,
            );
        }
        if let Some(grad) = &mut cx.grad_params[0] {
            let (x, dy) = (cx.inputs[0], cx.grad_output);
            conv::conv2d_backward_weight(cx.precision, geometry, x, dy, grad.data, grad.accumulate, cx.workspace);
        }
        if let Some(Some(grad)) = cx.grad_params.get_mut(1) {
            let channels = geometry.out_c;
            let dy = cx.grad_output;
            let sums = par::column_sums(dy.len() / channels, channels, channels, |rows, sums| {
                for row in dy[rows.start * channels..rows.end * channels].chunks_exact(channels) {
                    par::add_assign(sums, row);
                }
            });
            sums.iter().enumerate().for_each(|(i, &sum)| grad.put(i, sum as f32));
        }
    }

    fn gpu_needs(&self, gpu: &Gpu, differentiated: bool) -> Result<Needs> {
        let launch = ConvLaunch::new(gpu, &self.geometry);
        let needs = Needs { inputs: vec![true], forward_workspace: launch.forward_workspace()?, ..Needs::default() };
        if !differentiated {
            return launch.turned(&[Pass::Forward], needs);
        }
        launch.turned(&Pass::ALL, Needs { backward_workspace: launch.backward_workspace()?, ..needs })
    }

    fn gpu_forward(&self, cx: &GpuForward<'_>) -> Result<()> {
        let bias = cx.params.get(1).copied().unwrap_or(Ptr::NULL);
        let launch = ConvLaunch::new(cx.gpu, &self.geometry);
        let weight = Weight { own: cx.params[0], turned: cx.turned_weight };
        launch.forward(cx.inputs[0], weight, bias, cx.output, cx.workspace)
    }

    fn gpu_backward(&self, cx: &GpuBackward<'_>) -> Result<()> {
        let launch = ConvLaunch::new(cx.gpu, &self.geometry);
        if let Some(grad) = cx.grad_inputs[0] {
            let weight = Weight { own: cx.params[0], turned: cx.turned_weight };
            launch.backward_data(cx.grad_output, weight, grad, cx.workspace)?;
        }
        if let Some(grad) = cx.grad_params[0] {
            launch.backward_weight(cx.inputs[0], cx.grad_output, grad, cx.turned_gradient, cx.workspace)?;
        }
        if let Some(Some(grad)) = cx.grad_params.get(1) {
            launch.backward_bias(cx.grad_output, *grad, cx.workspace)?;
        }
        Ok(())
    }

    fn fused_with(&self, next: &dyn Op) -> Option<Box<dyn Op>> {
        let norm = (next as &dyn Any).downcast_ref::<BatchNormOp>()?;
        let possible = !self.bias && norm.is_fixed();
        possible.then(|| Box::new(Conv2dNorm { geometry: self.geometry, norm: norm.clone() }) as Box<dyn Op>)
    }

    fn flops(&self) -> u64 {
        self.geometry.flops()
    }

    fn gradients_are_apart(&self) -> bool {
        true
    }
}

pub(super) fn cases() -> Vec<OpCase> {
    let w = Layout::Conv;
    vec![
        OpCase::new("conv2d twice by one weight", &[Shape::new(2, 4, 3, 5)], &[(&[5, 5, 3, 3], w)], |g, s, x, p, _| {
            let y = conv2d(g, s, x[0], p[0], None, [1, 1], [1, 1])?;
            conv2d(g, s, y, p[0], None, [1, 1], [1, 1])
        }),
        OpCase::new("conv2d 1x1", &[Shape::new(2, 4, 3, 5)], &[(&[7, 5, 1, 1], w)], |g, s, x, p, _| {
            conv2d(g, s, x[0], p[0], None, [1, 1], [0, 0])
        }),
        OpCase::new(
            "conv2d 3x3 bias",
            &[Shape::new(2, 5, 4, 3)],
            &[(&[6, 3, 3, 3], w), (&[6], Layout::Plain)],
            |g, s, x, p, _| conv2d(g, s, x[0], p[0], Some(p[1]), [1, 1], [1, 1]),
        ),
        OpCase::new("conv2d 3x3 stride 2", &[Shape::new(2, 7, 6, 17)], &[(&[5, 17, 3, 3], w)], |g, s, x, p, _| {
            conv2d(g, s, x[0], p[0], None, [2, 2], [1, 1])
        }),
        OpCase::new("conv2d 5x2 stride 3x1", &[Shape::new(1, 9, 5, 2)], &[(&[3, 2, 5, 2], w)], |g, s, x, p, _| {
            conv2d(g, s, x[0], p[0], None, [3, 1], [2, 0])
        }),
        OpCase::new("conv2d 1x1 stride 2", &[Shape::new(2, 5, 4, 18)], &[(&[4, 18, 1, 1], w)], |g, s, x, p, _| {
            conv2d(g, s, x[0], p[0], None, [2, 2], [0, 0])
        }),
        OpCase::new("linear", &[Shape::vectors(5, 6)], &[(&[9, 6], w), (&[9], Layout::Plain)], |g, s, x, p, _| {
            linear(g, s, x[0], p[0], Some(p[1]))
        }),
    ]
}

pub(super) fn bench_cases() -> Vec<OpCase> {
    let w = Layout::Conv;
    vec![
        OpCase::new("conv2d 1x1 256-64", &[Shape::new(16, 64, 32, 256)], &[(&[64, 256, 1, 1], w)], |g, s, x, p, _| {
            conv2d(g, s, x[0], p[0], None, [1, 1], [0, 0])
        }),
        OpCase::new("conv2d 3x3 128", &[Shape::new(16, 32, 16, 128)], &[(&[128, 128, 3, 3], w)], |g, s, x, p, _| {
            conv2d(g, s, x[0], p[0], None, [1, 1], [1, 1])
        }),
        OpCase::new("conv2d 7x7 s2", &[Shape::new(16, 256, 128, 3)], &[(&[64, 3, 7, 7], w)], |g, s, x, p, _| {
            conv2d(g, s, x[0], p[0], None, [2, 2], [3, 3])
        }),
        OpCase::new("linear 2048-751", &[Shape::vectors(16, 2048)], &[(&[751, 2048], w)], |g, s, x, p, _| {
            linear(g, s, x[0], p[0], None)
        }),
    ]
}
