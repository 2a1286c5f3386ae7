//! The trait of all ops: how much memory an op needs, and how it runs on the CPU and on a GPU. The ops themselves are in
//! `src/engine/op/`.

use std::any::Any;
use std::cell::Cell;

use super::{Attachments, StateDecl};
use crate::engine::device::{Gpu, Ptr};
use crate::engine::onnx::{OnnxAttribute, OnnxModel};
use crate::engine::precision::Precision;
use crate::engine::store::{Layout, Store};
use crate::{Error, Result};

/// The memory that an op needs, in words of 4 bytes. The planner reuses everything else.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// For each input, whether backward reads it. There must be as many as the op has inputs.
    pub inputs: Vec<bool>,
    /// Whether backward reads the output.
    pub output: bool,
    /// Size of what forward saves for backward. Backward may overwrite it.
    pub saved: usize,
    /// Size of the scratch memory of forward.
    pub forward_workspace: usize,
    /// Whether a later forward with the same parameters can use the content of forward's scratch memory again
    /// ([`Forward::workspace_is_ready`]). Then the content must depend on nothing but the parameters.
    pub reusable_workspace: bool,
    /// Size of the scratch memory of backward.
    pub backward_workspace: usize,
    /// Whether [`Op::recompute`] writes the output again in little time. Then the CPU need not keep it for backward where it keeps the
    /// inputs.
    pub recomputes_output: bool,
    /// Whether forward, on a GPU, takes its first parameter in the order of the vendor's libraries too ([`GpuForward::turned_weight`]).
    /// This flag and the next two need a parameter of [`Layout::Conv`](crate::engine::store::Layout::Conv).
    pub turned_weight_forward: bool,
    /// Whether backward takes it to compute the input's gradient ([`GpuBackward::turned_weight`]).
    pub turned_weight_backward: bool,
    /// Whether backward may give that parameter's gradient in the same order ([`GpuBackward::turned_gradient`]).
    pub turned_gradient: bool,
}

/// An operation with one output. Its sizes are fixed when it is recorded.
pub trait Op: Any + std::fmt::Debug + Send + Sync {
    /// Returns the op's name for messages and profiles.
    fn name(&self) -> &'static str;

    /// Returns the memory that the op needs on the CPU.
    fn needs(&self) -> Needs;

    /// Writes all of `cx.output`.
    fn forward(&self, cx: &mut Forward<'_>);

    /// Writes every gradient that is `Some`, or adds to it (see [`Grad`]).
    fn backward(&self, cx: &mut Backward<'_>);

    /// Writes all of `cx.output` again, with the same bits as forward, from the inputs, the parameters and what forward saved. Backward calls
    /// it before the first node that reads the output, and only if [`Needs::recomputes_output`] is set.
    fn recompute(&self, _: &mut Recompute<'_>) {
        unreachable!("{} does not compute its output again", self.name())
    }

    /// Returns the memory that the op needs on a GPU, where backward follows if `differentiated`. An op without kernels keeps the defaults of
    /// this and of the next two methods; a graph with such an op runs on the CPU only.
    ///
    /// # Errors
    /// The GPU cannot run the op.
    fn gpu_needs(&self, _: &Gpu, _: bool) -> Result<Needs> {
        Err(no_kernels(self.name()))
    }

    /// Enqueues forward, which writes all of `cx.output`.
    ///
    /// # Errors
    /// The op has no kernels, or a launch fails.
    fn gpu_forward(&self, _: &GpuForward<'_>) -> Result<()> {
        Err(no_kernels(self.name()))
    }

    /// Enqueues backward, which writes every gradient that is `Some`, or adds to it.
    ///
    /// # Errors
    /// The op has no kernels, or a launch fails.
    fn gpu_backward(&self, _: &GpuBackward<'_>) -> Result<()> {
        Err(no_kernels(self.name()))
    }

    /// Returns an op that does the work of this op and then that of `next`, whose first input is this op's output. It runs forward on the CPU
    /// only. Its inputs are those of this op, then those of `next` without the first; its parameters and running statistics are those of this
    /// op, then those of `next`. It runs at the place of `next`, so this op must not change a latent state. `None` if there is no such op.
    fn fused_with(&self, _next: &dyn Op) -> Option<Box<dyn Op>> {
        None
    }

    /// Adds to `cx` what the op computes in evaluation, and returns the name of the output. Tensors are `[n, c, h, w]` there, so channels are
    /// axis 1, and rows axis 2. Losses, which evaluation does not compute, keep the default.
    ///
    /// # Errors
    /// ONNX has nothing for the op.
    fn onnx(&self, _: &mut OnnxNode<'_>) -> Result<String> {
        Err(Error::Onnx { reason: format!("the op {} has no form in ONNX", self.name()) })
    }

    /// Returns whether the output is f32 in every precision, as losses are.
    fn exact(&self) -> bool {
        false
    }

    /// Returns the floating-point operations of one forward; 0 where they do not matter.
    fn flops(&self) -> u64 {
        0
    }

    /// Returns whether the gradients of the inputs do not read the inputs, those of the parameters do not read the parameters, and neither
    /// needs anything of the other. Then [`Op::backward`] is called for the first and again for the second, so that profiles tell them
    /// apart.
    fn gradients_are_apart(&self) -> bool {
        false
    }
}

fn no_kernels(op: &'static str) -> Error {
    Error::NoDevice { device: "GPU", reason: format!("the op {op} has no kernels: use the CPU") }
}

/// The operands of forward. All memory is distinct; `output`, `saved` and, unless it is ready, `workspace` hold arbitrary bits at the start.
pub struct Forward<'a> {
    /// What convolutions compute in.
    pub precision: Precision,
    /// Inputs, each `[n, h, w, c]`, in the order of recording.
    pub inputs: Vec<&'a [f32]>,
    /// Parameters, in the order of [`Attachments::params`](super::Attachments::params).
    pub params: Vec<&'a [f32]>,
    /// Running statistics, which forward may update.
    pub buffers: Vec<&'a mut [f32]>,
    /// The latent state before and after this step, for a cell.
    pub state: Option<(&'a [f32], &'a mut [f32])>,
    /// Output `[n, h, w, c]`, to be written.
    pub output: &'a mut [f32],
    /// Empty if there will be no backward.
    pub saved: &'a mut [f32],
    /// Scratch memory of [`Needs::forward_workspace`] words.
    pub workspace: &'a mut [f32],
    /// Whether `workspace` has the content that an earlier forward with the same parameters left there. It is never set without
    /// [`Needs::reusable_workspace`].
    pub workspace_is_ready: bool,
}

/// The operands of [`Op::recompute`].
pub struct Recompute<'a> {
    /// Inputs, as in forward.
    pub inputs: Vec<&'a [f32]>,
    /// Parameters, as in forward.
    pub params: Vec<&'a [f32]>,
    /// What forward saved.
    pub saved: &'a [f32],
    /// Output `[n, h, w, c]`, to be written.
    pub output: &'a mut [f32],
}

/// The operands of backward. Inputs and output are empty unless [`Needs`] asked for them.
pub struct Backward<'a> {
    /// What convolutions compute in.
    pub precision: Precision,
    /// Inputs, each `[n, h, w, c]`.
    pub inputs: Vec<&'a [f32]>,
    /// Parameters, as in forward.
    pub params: Vec<&'a [f32]>,
    /// Running statistics.
    pub buffers: Vec<&'a [f32]>,
    /// The latent state before the step, for a cell.
    pub prev_state: &'a [f32],
    /// Output of forward.
    pub output: &'a [f32],
    /// Gradient of the output, with its shape.
    pub grad_output: &'a [f32],
    /// `None` where no gradient is needed.
    pub grad_inputs: Vec<Option<Grad<'a>>>,
    /// `None` where no gradient is needed.
    pub grad_params: Vec<Option<Grad<'a>>>,
    /// What forward saved.
    pub saved: &'a mut [f32],
    /// Scratch memory of [`Needs::backward_workspace`] words.
    pub workspace: &'a mut [f32],
}

/// A gradient to write: the first writer overwrites, the others add.
pub struct Grad<'a> {
    /// The memory of the gradient.
    pub data: &'a mut [f32],
    /// Whether to add to what is there.
    pub accumulate: bool,
}

impl Grad<'_> {
    /// Stores `value` at `i`, or adds it.
    #[inline(always)]
    pub fn put(&mut self, i: usize, value: f32) {
        if self.accumulate { self.data[i] += value } else { self.data[i] = value }
    }
}

/// The operands of forward on a GPU: those of [`Forward`] as addresses. Activations have the type of the GPU's precision.
pub struct GpuForward<'a> {
    /// The GPU.
    pub gpu: &'a Gpu,
    /// Inputs, each `[n, h, w, c]`.
    pub inputs: Vec<Ptr>,
    /// Parameters.
    pub params: Vec<Ptr<f32>>,
    /// The first parameter as `[out, kh, kw, in]` in the type of activations; null unless
    /// [`Needs::turned_weight_forward`] or [`Needs::turned_weight_backward`].
    pub turned_weight: Ptr,
    /// Running statistics, which forward may update.
    pub buffers: Vec<Ptr<f32>>,
    /// The latent state before and after this step, for a cell.
    pub state: Option<[Ptr<f32>; 2]>,
    /// Output `[n, h, w, c]`, to be written.
    pub output: Ptr,
    /// Null if there will be no backward.
    pub saved: Ptr,
    /// Scratch memory; null if the op needs none.
    pub workspace: Ptr,
}

/// The operands of backward on a GPU: those of [`Backward`] as addresses. Inputs and output are null unless [`Needs`] asked for them.
pub struct GpuBackward<'a> {
    /// The GPU.
    pub gpu: &'a Gpu,
    /// Inputs, each `[n, h, w, c]`.
    pub inputs: Vec<Ptr>,
    /// Parameters.
    pub params: Vec<Ptr<f32>>,
    /// The first parameter, as [`GpuForward::turned_weight`].
    pub turned_weight: Ptr,
    /// The latent state before the step, for a cell.
    pub prev_state: Ptr<f32>,
    /// Output of forward.
    pub output: Ptr,
    /// Gradient of the output, with its shape.
    pub grad_output: Ptr,
    /// `None` where no gradient is needed.
    pub grad_inputs: Vec<Option<GpuGrad<Ptr>>>,
    /// `None` where no gradient is needed.
    pub grad_params: Vec<Option<GpuGrad<Ptr<f32>>>>,
    /// Another place for the gradient of the first parameter. `None` unless [`Needs::turned_gradient`], and where several gradients are
    /// added.
    pub turned_gradient: Option<TurnedGradient<'a>>,
    /// What forward saved; null if that is nothing.
    pub saved: Ptr,
    /// Scratch memory; null if the op needs none.
    pub workspace: Ptr,
}

/// A gradient to write: the first writer overwrites, the others add.
#[derive(Clone, Copy, Debug)]
pub struct GpuGrad<P> {
    /// Address of the gradient.
    pub data: P,
    /// Whether to add to what is there.
    pub accumulate: bool,
}

impl<P> GpuGrad<P> {
    /// Returns `accumulate` as kernels take it.
    pub fn flag(&self) -> i32 {
        i32::from(self.accumulate)
    }
}

/// A place for the gradient of a weight as `[out, kh, kw, in]` in the type of activations.
#[derive(Clone, Copy)]
pub struct TurnedGradient<'a> {
    /// The place.
    pub data: Ptr,
    /// To be set if the gradient was written there, and not to [`GpuBackward::grad_params`].
    pub written: &'a Cell<bool>,
}

/// The operands of [`Op::onnx`].
pub struct OnnxNode<'a> {
    /// The network, to which nodes are added.
    pub(super) model: &'a mut OnnxModel,
    /// The op's place in the network, such as `backbone.layer1.0.conv1`, by which its nodes are named.
    pub(super) name: String,
    /// Names of the inputs, each `[n, c, h, w]`.
    pub inputs: Vec<String>,
    pub(super) store: &'a Store,
    pub(super) attachments: &'a Attachments,
    /// What every slot of the latent state holds, `[h, w, c]`, with its declaration. `None` for zeros.
    pub state: Option<(&'a StateDecl, &'a [f32])>,
}

impl OnnxNode<'_> {
    /// Adds a node with one output, and returns the output's name.
    pub fn node(&mut self, op_type: &str, inputs: &[&str], attributes: Vec<OnnxAttribute>) -> String {
        self.model.node(op_type, &self.name, inputs, attributes)
    }

    /// Adds a node whose outputs are `parts` equal parts of the channels of `input`, and returns their names.
    pub fn split(&mut self, input: &str, parts: usize) -> Vec<String> {
        self.model.nodes("Split", &self.name, &[input], vec![OnnxAttribute::int("axis", 1)], parts)
    }

    /// Adds a list of whole numbers, and returns its name.
    pub fn integers(&mut self, name: &str, values: &[i64]) -> String {
        self.model.integers(&format!("{}/{name}", self.name), values)
    }

    /// Adds numbers of a given shape, and returns their name.
    pub fn numbers(&mut self, name: &str, shape: &[usize], values: &[f32]) -> String {
        self.model.numbers(&format!("{}/{name}", self.name), shape, values)
    }

    /// Returns the shape and the numbers of a parameter in torch's order.
    pub fn values(&self, param: usize) -> (&[usize], Vec<f32>) {
        let id = self.attachments.params[param];
        let param = self.store.param(id);
        (&param.shape, param.to_torch(self.store.value(id)))
    }

    /// Adds a parameter under its own name, and returns that. A matrix of a fully connected layer becomes a convolution's weight.
    pub fn param(&mut self, param: usize) -> String {
        let id = self.attachments.params[param];
        let param = self.store.param(id);
        let mut shape = param.shape.clone();
        if param.layout == Layout::Conv {
            shape.resize(4, 1);
        }
        self.model.weight(&param.name, &shape, || param.to_torch(self.store.value(id)))
    }

    /// Adds running statistics under their own name, and returns that.
    pub fn buffer(&mut self, buffer: usize) -> String {
        let buffer = &self.store.buffers[self.attachments.buffers[buffer].0];
        self.model.weight(&buffer.name, &[buffer.values.len()], || buffer.values.to_vec())
    }
}
