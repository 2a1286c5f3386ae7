//! BConv-Cell (Yu et al., 2019): a convolution to four gates, and a latent state that it updates and reads.
//!
//! `[i f o g] = conv(x, W)`, `c_t = σ(f)·c_{t-1} + σ(i)·tanh(g)`, `y = σ(o)·tanh(c_t)`. The state before the step is a
//! constant: no gradient flows through time. Training saves only the activated gates, and backward turns them into the
//! gradients of the pre-activations in place.

use super::cell_launch::{CellLaunch, CellOperands};
use super::conv_launch::{ConvLaunch, Weight};
use super::{OpCase, mismatch};
use crate::Result;
use crate::engine::cpu::cell;
use crate::engine::cpu::conv::{self, Packed};
use crate::engine::device::{Gpu, Grid, Pass, Ptr, kernels};
use crate::engine::geometry::Conv2dGeometry;
use crate::engine::graph::{Attachments, Backward, Forward, GpuBackward, GpuForward, Graph, Needs, Op, Var};
use crate::engine::shape::Shape;
use crate::engine::store::{Layout, ParamId, Store};

#[derive(Debug)]
struct BConvCell {
    /// The convolution to the gates, with 4·channels outputs.
    gates: Conv2dGeometry,
}

/// Records one step of the cell `name`, from `x` `[n, h, w, in]` to `[n, oh, ow, channels]`, and declares its latent state. `weight` is its
/// `gates.weight`, of shape `[4·channels, in, kh, kw]` in torch.
///
/// # Errors
/// The weight has other input channels than `x`, its outputs are not a multiple of 4, or the kernel does not fit.
pub fn bconv_cell(
    g: &mut Graph,
    store: &Store,
    name: &str,
    x: Var,
    weight: ParamId,
    stride: [usize; 2],
    padding: [usize; 2],
) -> Result<Var> {
    let input = g.shape(x);
    let param = store.param(weight);
    let &[out, weight_in, kh, kw] = param.shape.as_slice() else {
        return Err(mismatch("bconv_cell", format!("{} has shape {:?}, not 4 sizes", param.name, param.shape)));
    };
    if weight_in != input.c || out % 4 != 0 {
        let detail = format!("{} of shape {:?} does not fit an input {input}", param.name, param.shape);
        return Err(mismatch("bconv_cell", detail));
    }
    let gates = Conv2dGeometry::new(input.n, [input.h, input.w], input.c, out, [kh, kw], stride, padding)?;
    let shape = Shape::new(input.n, gates.out_h(), gates.out_w(), out / 4);
    let state = g.state(name.to_string(), Shape { n: 1, ..shape });
    let attachments = Attachments { params: vec![weight], state: Some(state), ..Attachments::default() };
    g.push(BConvCell { gates }, &[x], shape, attachments)
}

impl Op for BConvCell {
    fn name(&self) -> &'static str {
        "bconv_cell"
    }

    fn needs(&self) -> Needs {
        let backward = conv::backward_data_workspace(&self.gates).max(conv::backward_weight_workspace(&self.gates));
        Needs {
            inputs: vec![true],
            saved: self.gates.batch * self.gates.out_h() * self.gates.out_w() * self.gates.out_c,
            forward_workspace: cell::forward_workspace(&self.gates),
            reusable_workspace: true,
            backward_workspace: backward,
            ..Needs::default()
        }
    }

    fn forward(&self, cx: &mut Forward<'_>) {
        let (previous, current) = cx.state.take().expect("a cell has a state");
        let saved = (!cx.saved.is_empty()).then_some(&mut *cx.saved);
        let packed = Packed { memory: cx.workspace, ready: cx.workspace_is_ready };
        cell::bconv_forward(
            cx.precision,
            &self.gates,
            cx.inputs[0],
            cx.params[0],
            previous,
            current,
            cx.output,
            saved,
            packed,
        );
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        cell::gate_gradients(self.gates.out_c / 4, cx.saved, cx.prev_state, cx.grad_output);
        let grad_gates = &*cx.saved;
        if let Some(grad) = &mut cx.grad_inputs[0] {
            let (weight, workspace) = (cx.params[0], &mut *cx.workspace);
            conv::conv2d_backward_data(
                cx.precision,
                &self.gates,
                grad_gates,
                weight,
                grad.data,
                grad.accumulate,
                workspace,
            );
        }
        if let Some(grad) = &mut cx.grad_params[0] {
            let (x, workspace) = (cx.inputs[0], &mut *cx.workspace);
            conv::conv2d_backward_weight(
                cx.precision,
                &self.gates,
                x,
                grad_gates,
                grad.data,
                grad.accumulate,
                workspace,
            );
        }
    }

    fn gpu_needs(&self, gpu: &Gpu, differentiated: bool) -> Result<Needs> {
        let (cell, launch) = (CellLaunch::new(gpu, &self.gates, differentiated), ConvLaunch::new(gpu, &self.gates));
        let gates = self.gates.pixels() * self.gates.out_c * gpu.activation_bytes();
        let needs = Needs {
            inputs: vec![true],
            saved: gates.div_ceil(4),
            forward_workspace: cell.workspace()?,
            ..Needs::default()
        };
        let needs = if differentiated {
            let needs = Needs { backward_workspace: launch.backward_workspace()?, ..needs };
            launch.turned(&[Pass::BackwardData, Pass::BackwardWeight], needs)?
        } else {
            needs
        };
        Ok(Needs { turned_weight_forward: cell.turns_weight()?, ..needs })
    }

    fn gpu_forward(&self, cx: &GpuForward<'_>) -> Result<()> {
        let cell = CellOperands {
            x: cx.inputs[0],
            weight: Weight { own: cx.params[0], turned: cx.turned_weight },
            states: cx.state.expect("a cell has a state"),
            y: cx.output,
            gates: cx.saved,
            workspace: cx.workspace,
        };
        CellLaunch::new(cx.gpu, &self.gates, cx.saved != Ptr::NULL).forward(cell)
    }

    fn gpu_backward(&self, cx: &GpuBackward<'_>) -> Result<()> {
        let (pixels, channels) = (self.gates.pixels(), self.gates.out_c / 4);
        let (grid, dgates) = (Grid::any(pixels * channels), cx.saved);
        let (prev, dy) = (cx.prev_state, cx.grad_output);
        kernels::bconv_gate_gradients(cx.gpu, grid, dgates, prev, dy, pixels as i64, channels as i32)?;
        let launch = ConvLaunch::new(cx.gpu, &self.gates);
        if let Some(grad) = cx.grad_inputs[0] {
            let weight = Weight { own: cx.params[0], turned: cx.turned_weight };
            launch.backward_data(dgates, weight, grad, cx.workspace)?;
        }
        if let Some(grad) = cx.grad_params[0] {
            launch.backward_weight(cx.inputs[0], dgates, grad, cx.turned_gradient, cx.workspace)?;
        }
        Ok(())
    }

    fn flops(&self) -> u64 {
        self.gates.flops()
    }
}

pub(super) fn cases() -> Vec<OpCase> {
    let w = Layout::Conv;
    vec![
        OpCase::new("bconv_cell 3x3 stride 2", &[Shape::new(2, 7, 6, 3)], &[(&[20, 3, 3, 3], w)], |g, s, x, p, _| {
            bconv_cell(g, s, "cell", x[0], p[0], [2, 2], [1, 1])
        }),
        OpCase::new("bconv_cell 1x1", &[Shape::new(3, 3, 4, 18)], &[(&[72, 18, 1, 1], w)], |g, s, x, p, _| {
            bconv_cell(g, s, "cell", x[0], p[0], [1, 1], [0, 0])
        }),
        OpCase::new("bconv_cell 2x5", &[Shape::new(1, 5, 8, 4)], &[(&[8, 4, 2, 5], w)], |g, s, x, p, _| {
            bconv_cell(g, s, "cell", x[0], p[0], [1, 2], [1, 2])
        }),
    ]
}

pub(super) fn bench_cases() -> Vec<OpCase> {
    let w = Layout::Conv;
    vec![
        OpCase::new("bconv_cell 3-16 s2", &[Shape::new(16, 256, 128, 3)], &[(&[64, 3, 3, 3], w)], |g, s, x, p, _| {
            bconv_cell(g, s, "cell", x[0], p[0], [2, 2], [1, 1])
        }),
        OpCase::new("bconv_cell 64-64", &[Shape::new(16, 64, 32, 64)], &[(&[256, 64, 3, 3], w)], |g, s, x, p, _| {
            bconv_cell(g, s, "cell", x[0], p[0], [1, 1], [1, 1])
        }),
        OpCase::new(
            "bconv_cell 128-128 s2",
            &[Shape::new(16, 32, 16, 128)],
            &[(&[512, 128, 3, 3], w)],
            |g, s, x, p, _| bconv_cell(g, s, "cell", x[0], p[0], [2, 2], [1, 1]),
        ),
    ]
}
