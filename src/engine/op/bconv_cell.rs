//! BConv-Cell (Yu et al., 2019): a convolution to four gates, and a latent state that it updates and reads.
//!
//! `[i f o g] = conv(x, W)`, `c_t = σ(f)·c_{t-1} + σ(i)·tanh(g)`, `y = σ(o)·tanh(c_t)`. The state before the batch is a
//! constant: gradients flow through time only between the steps within a batch ([`Graph::set_state_steps`]), of which there is one by default.
//! Training saves the activated gates and the states between these steps, and backward turns the gates into the gradients of the
//! pre-activations in place.

use super::cell_launch::{CellLaunch, CellOperands};
use super::conv_launch::{ConvLaunch, Weight};
use super::workspace::{Part, Parts};
use super::{OpCase, mismatch};
use crate::Result;
use crate::engine::cpu::cell;
use crate::engine::cpu::conv::{self, Packed};
use crate::engine::device::{Gpu, Grid, Pass, Ptr, Untyped, kernels};
use crate::engine::geometry::Conv2dGeometry;
use crate::engine::graph::{Attachments, Backward, Forward, GpuBackward, GpuForward, Graph, Needs, OnnxNode, Op, Var};
use crate::engine::onnx::OnnxAttribute;
use crate::engine::shape::Shape;
use crate::engine::store::{Layout, ParamId, Store};

/// Words to which the workspace behind the states is aligned, as libraries expect.
const ALIGNED_WORDS: usize = 64;

#[derive(Debug)]
struct BConvCell {
    /// The convolution to the gates, with 4·channels outputs.
    gates: Conv2dGeometry,
    /// The same for the images of one step of the state.
    step: Conv2dGeometry,
}

/// Records one step of the cell `name`, from `x` `[n, h, w, in]` to `[n, oh, ow, channels]`, and declares its latent state. `weight` is its
/// `gates.weight`, of shape `[4·channels, in, kh, kw]` in torch.
///
/// # Errors
/// The weight has other input channels than `x`, its outputs are not a multiple of 4, or the kernel does not fit; the batch cannot be divided
/// into the graph's steps of the states.
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
    let steps = g.state_steps;
    if steps == 0 || !input.n.is_multiple_of(steps) {
        return Err(mismatch("bconv_cell", format!("{} images are not {steps} parts of the same size", input.n)));
    }
    let of = |images: usize| Conv2dGeometry::new(images, [input.h, input.w], input.c, out, [kh, kw], stride, padding);
    let (gates, step) = (of(input.n)?, of(input.n / steps)?);
    let shape = Shape::new(input.n, gates.out_h(), gates.out_w(), out / 4);
    let state = g.state(name.to_string(), Shape { n: 1, ..shape });
    let attachments = Attachments { params: vec![weight], state: Some(state), ..Attachments::default() };
    g.push(BConvCell { gates, step }, &[x], shape, attachments)
}

/// What forward saves for backward on a GPU.
struct SavedParts {
    /// The activated gates.
    gates: Part<Untyped>,
    /// The states between the steps.
    between: Part<f32>,
    parts: Parts,
}

impl BConvCell {
    /// Returns the number of steps of the state within a batch.
    fn steps(&self) -> usize {
        self.gates.batch / self.step.batch
    }

    /// Returns the numbers of the state, which are also those of the output of a step.
    fn state_len(&self) -> usize {
        self.step.pixels() * self.step.out_c / 4
    }

    /// Returns the numbers of all states between the steps.
    fn between_len(&self) -> usize {
        (self.steps() - 1) * self.state_len()
    }

    /// Returns the numbers of the input of a step.
    fn input_len(&self) -> usize {
        self.step.batch * self.step.in_h * self.step.in_w * self.step.in_c
    }

    fn saved_parts(&self, gpu: &Gpu) -> SavedParts {
        let mut parts = Parts::default();
        let gates = parts.add_bytes(self.gates.pixels() * self.gates.out_c * gpu.activation_bytes());
        let between = parts.add(self.between_len());
        SavedParts { gates, between, parts }
    }
}

impl Op for BConvCell {
    fn name(&self) -> &'static str {
        "bconv_cell"
    }

    fn onnx(&self, cx: &mut OnnxNode<'_>) -> Result<String> {
        let Conv2dGeometry { kernel, stride, padding, .. } = self.step;
        let attributes = OnnxAttribute::window(kernel, stride, padding);
        let x = cx.inputs[0].clone();
        let (weight, gates) = match cx.state {
            Some(_) => (cx.param(0), 4),
            // The forget gate would only multiply zeros.
            None => {
                let (shape, mut values) = cx.values(0);
                let (gate, mut shape) = (values.len() / 4, shape.to_vec());
                shape[0] -= shape[0] / 4;
                values.drain(gate..2 * gate);
                (cx.numbers("weight_without_forget_gate", &shape, &values), 3)
            }
        };
        let preactivations = cx.node("Conv", &[&x, &weight], attributes);
        let gates = cx.split(&preactivations, gates);
        let (input, output, candidate) = (&gates[0], &gates[gates.len() - 2], &gates[gates.len() - 1]);
        let (input, candidate) = (cx.node("Sigmoid", &[input], Vec::new()), cx.node("Tanh", &[candidate], Vec::new()));
        let mut state = cx.node("Mul", &[&input, &candidate], Vec::new());
        if let Some((decl, values)) = cx.state {
            let Shape { h, w, c, .. } = decl.slot;
            let planes: Vec<f32> = (0..c).flat_map(|channel| values.iter().skip(channel).step_by(c).copied()).collect();
            let before = cx.numbers("state", &[1, c, h, w], &planes);
            let forget = cx.node("Sigmoid", &[&gates[1]], Vec::new());
            let kept = cx.node("Mul", &[&forget, &before], Vec::new());
            state = cx.node("Add", &[&kept, &state], Vec::new());
        }
        let (output, state) = (cx.node("Sigmoid", &[output], Vec::new()), cx.node("Tanh", &[&state], Vec::new()));
        Ok(cx.node("Mul", &[&output, &state], Vec::new()))
    }

    fn needs(&self) -> Needs {
        let backward = conv::backward_data_workspace(&self.gates).max(conv::backward_weight_workspace(&self.gates));
        // The gradient of the state, before the gradients of the convolution.
        let backward = if self.steps() > 1 { backward.max(self.state_len()) } else { backward };
        Needs {
            inputs: vec![true],
            saved: self.gates.pixels() * self.gates.out_c + self.between_len(),
            forward_workspace: cell::forward_workspace(&self.step),
            reusable_workspace: true,
            backward_workspace: backward,
            ..Needs::default()
        }
    }

    fn forward(&self, cx: &mut Forward<'_>) {
        let (previous, current) = cx.state.take().expect("a cell has a state");
        let (steps, state_len) = (self.steps(), self.state_len());
        let differentiated = !cx.saved.is_empty();
        let gates_len = if differentiated { 4 * steps * state_len } else { 0 };
        let (gates, between) = cx.saved.split_at_mut(gates_len);
        let mut unsaved = vec![0.0; if differentiated { 0 } else { self.between_len() }];
        let between = if differentiated { between } else { &mut unsaved };
        let mut gates = gates.chunks_exact_mut(4 * state_len);
        let (x, y) = (cx.inputs[0].chunks_exact(self.input_len()), cx.output.chunks_exact_mut(state_len));
        for (step, (x, y)) in x.zip(y).enumerate() {
            let (done, rest) = between.split_at_mut(step * state_len);
            let before = if step == 0 { previous } else { &done[(step - 1) * state_len..] };
            let after = if step + 1 == steps { &mut *current } else { &mut rest[..state_len] };
            let packed = Packed { memory: &mut *cx.workspace, ready: step > 0 || cx.workspace_is_ready };
            cell::bconv_forward(cx.precision, &self.step, x, cx.params[0], before, after, y, gates.next(), packed);
        }
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        let (steps, state_len) = (self.steps(), self.state_len());
        let (gates, between) = cx.saved.split_at_mut(4 * steps * state_len);
        let mut grad_state = (steps > 1).then(|| &mut cx.workspace[..state_len]);
        if let Some(grad_state) = &mut grad_state {
            grad_state.fill(0.0);
        }
        for step in (0..steps).rev() {
            let of_step = step * state_len..(step + 1) * state_len;
            let before = if step == 0 { cx.prev_state } else { &between[of_step.start - state_len..of_step.start] };
            let (gates, grad_y) = (&mut gates[4 * of_step.start..4 * of_step.end], &cx.grad_output[of_step]);
            cell::gate_gradients(self.gates.out_c / 4, gates, before, grad_y, grad_state.as_deref_mut());
        }
        let grad_gates = &*gates;
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
        let (cell, launch) = (CellLaunch::new(gpu, &self.step, differentiated), ConvLaunch::new(gpu, &self.gates));
        // Without backward, the states between the steps are in the workspace.
        let between = if differentiated { 0 } else { self.between_len() };
        let needs = Needs {
            inputs: vec![true],
            saved: self.saved_parts(gpu).parts.words(),
            forward_workspace: between.next_multiple_of(ALIGNED_WORDS) + cell.workspace()?,
            ..Needs::default()
        };
        let needs = if differentiated {
            let grad_state = if self.steps() > 1 { self.state_len() } else { 0 };
            let needs = Needs { backward_workspace: launch.backward_workspace()?.max(grad_state), ..needs };
            launch.turned(&[Pass::BackwardData, Pass::BackwardWeight], needs)?
        } else {
            needs
        };
        Ok(Needs { turned_weight_forward: cell.turns_weight()?, ..needs })
    }

    fn gpu_forward(&self, cx: &GpuForward<'_>) -> Result<()> {
        let (gpu, steps, state_len) = (cx.gpu, self.steps(), self.state_len());
        let SavedParts { gates, between, .. } = self.saved_parts(gpu);
        let ([previous, current], differentiated) = (cx.state.expect("a cell has a state"), cx.saved != Ptr::NULL);
        let (between, workspace) = if differentiated {
            (between.of(cx.saved), cx.workspace)
        } else {
            let words = self.between_len().next_multiple_of(ALIGNED_WORDS);
            (cx.workspace.cast::<f32>(), cx.workspace.cast::<f32>().add(words).cast())
        };
        for step in 0..steps {
            let before = if step == 0 { previous } else { between.add((step - 1) * state_len) };
            let after = if step + 1 == steps { current } else { between.add(step * state_len) };
            let cell = CellOperands {
                x: gpu.offset(cx.inputs[0], step * self.input_len()),
                weight: Weight { own: cx.params[0], turned: cx.turned_weight },
                states: [before, after],
                y: gpu.offset(cx.output, step * state_len),
                gates: if differentiated { gpu.offset(gates.of(cx.saved), 4 * step * state_len) } else { Ptr::NULL },
                workspace,
            };
            CellLaunch::new(gpu, &self.step, differentiated).forward(cell)?;
        }
        Ok(())
    }

    fn gpu_backward(&self, cx: &GpuBackward<'_>) -> Result<()> {
        let (gpu, steps, state_len) = (cx.gpu, self.steps(), self.state_len());
        let (pixels, channels) = (self.step.pixels(), self.step.out_c / 4);
        let SavedParts { gates, between, .. } = self.saved_parts(gpu);
        let (dgates, between, grad_state) = (gates.of(cx.saved), between.of(cx.saved), cx.workspace.cast::<f32>());
        for step in (0..steps).rev() {
            let before = if step == 0 { cx.prev_state } else { between.add((step - 1) * state_len) };
            let (gates, dy) = (gpu.offset(dgates, 4 * step * state_len), gpu.offset(cx.grad_output, step * state_len));
            let after = if step + 1 == steps { Ptr::NULL } else { grad_state };
            let to_before = if step == 0 { Ptr::NULL } else { grad_state };
            let (grid, pixels, channels) = (Grid::any(state_len), pixels as i64, channels as i32);
            kernels::bconv_gate_gradients(gpu, grid, gates, before, dy, after, to_before, pixels, channels)?;
        }
        let launch = ConvLaunch::new(gpu, &self.gates);
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
        OpCase::new("bconv_cell in 3 steps", &[Shape::new(6, 4, 5, 3)], &[(&[20, 3, 3, 3], w)], |g, s, x, p, _| {
            g.set_state_steps(3);
            bconv_cell(g, s, "cell", x[0], p[0], [1, 1], [1, 1])
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
