//! What an op is to the planner and the session: what it needs, and how it runs on the CPU and on a GPU. The ops themselves are in
//! `src/engine/op/`.

use crate::engine::device::{Gpu, Ptr};
use crate::{Error, Result};

/// What an op wants kept or lent, in words of 4 bytes; everything else is reused by the planner.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// For each input: backward reads it.
    pub inputs: Vec<bool>,
    /// Backward reads the output.
    pub output: bool,
    /// Written by forward, kept for backward (which may overwrite it).
    pub saved: usize,
    /// Scratch during forward.
    pub forward_workspace: usize,
    /// Scratch during backward.
    pub backward_workspace: usize,
}

/// A recorded operation with one output. Geometry is fixed when it is recorded.
pub trait Op: std::fmt::Debug + Send + Sync {
    /// The op's name in messages and profiles.
    fn name(&self) -> &'static str;

    /// The memory contract.
    fn needs(&self) -> Needs;

    /// Writes all of `cx.output`.
    fn forward(&self, cx: &mut Forward<'_>);

    /// Writes (or adds to, see [`Grad`]) every gradient that is `Some`.
    fn backward(&self, cx: &mut Backward<'_>);

    /// The memory contract on a GPU. An op that has no kernels keeps the defaults of this and of the next two methods; a graph with such
    /// an op runs on the CPU only.
    ///
    /// # Errors
    /// The GPU cannot run the op.
    fn gpu_needs(&self, _: &Gpu) -> Result<Needs> {
        Err(no_kernels(self.name()))
    }

    /// Enqueues forward: writes all of `cx.output`.
    fn gpu_forward(&self, _: &GpuForward<'_>) -> Result<()> {
        Err(no_kernels(self.name()))
    }

    /// Enqueues the gradients that are `Some`.
    fn gpu_backward(&self, _: &GpuBackward<'_>) -> Result<()> {
        Err(no_kernels(self.name()))
    }

    /// The output is f32 in every precision: losses.
    fn exact(&self) -> bool {
        false
    }

    /// Floating-point operations of one forward; 0 where they do not matter.
    fn flops(&self) -> u64 {
        0
    }
}

fn no_kernels(op: &'static str) -> Error {
    Error::NoDevice { device: "GPU", reason: format!("the op {op} has no kernels: use the CPU") }
}

/// What forward may touch. All memory is distinct; `output`, `saved` and `workspace` start with arbitrary bits.
pub struct Forward<'a> {
    pub inputs: Vec<&'a [f32]>,
    pub params: Vec<&'a [f32]>,
    pub buffers: Vec<&'a mut [f32]>,
    /// Latent state before and after this step, for a cell.
    pub state: Option<(&'a [f32], &'a mut [f32])>,
    pub output: &'a mut [f32],
    /// Empty where nothing will be differentiated.
    pub saved: &'a mut [f32],
    pub workspace: &'a mut [f32],
}

/// What backward may touch. Inputs and output are empty unless [`Needs`] asked for them.
pub struct Backward<'a> {
    pub inputs: Vec<&'a [f32]>,
    pub params: Vec<&'a [f32]>,
    pub buffers: Vec<&'a [f32]>,
    /// Latent state before the step, for a cell.
    pub prev_state: &'a [f32],
    pub output: &'a [f32],
    pub grad_output: &'a [f32],
    /// `None` where no gradient is wanted.
    pub grad_inputs: Vec<Option<Grad<'a>>>,
    pub grad_params: Vec<Option<Grad<'a>>>,
    pub saved: &'a mut [f32],
    pub workspace: &'a mut [f32],
}

/// Where a gradient goes: the first writer overwrites, the others add.
pub struct Grad<'a> {
    pub data: &'a mut [f32],
    pub accumulate: bool,
}

impl Grad<'_> {
    /// Stores or adds `value` at `i`.
    #[inline(always)]
    pub fn put(&mut self, i: usize, value: f32) {
        if self.accumulate { self.data[i] += value } else { self.data[i] = value }
    }
}

/// Forward on a GPU: as [`Forward`], in addresses. Activations have the type of the GPU's precision.
pub struct GpuForward<'a> {
    pub gpu: &'a Gpu,
    pub inputs: Vec<Ptr>,
    pub params: Vec<Ptr<f32>>,
    pub buffers: Vec<Ptr<f32>>,
    /// Latent state before and after this step, for a cell.
    pub state: Option<[Ptr<f32>; 2]>,
    pub output: Ptr,
    /// Null where nothing will be differentiated.
    pub saved: Ptr,
    pub workspace: Ptr,
}

/// Backward on a GPU: as [`Backward`], in addresses. Inputs and output are null unless [`Needs`] asked for them.
pub struct GpuBackward<'a> {
    pub gpu: &'a Gpu,
    pub inputs: Vec<Ptr>,
    pub params: Vec<Ptr<f32>>,
    /// Latent state before the step, for a cell.
    pub prev_state: Ptr<f32>,
    pub output: Ptr,
    pub grad_output: Ptr,
    /// `None` where no gradient is wanted.
    pub grad_inputs: Vec<Option<GpuGrad<Ptr>>>,
    pub grad_params: Vec<Option<GpuGrad<Ptr<f32>>>>,
    pub saved: Ptr,
    pub workspace: Ptr,
}

/// Where a gradient goes: the first writer overwrites, the others add.
#[derive(Clone, Copy, Debug)]
pub struct GpuGrad<P> {
    pub data: P,
    pub accumulate: bool,
}

impl<P> GpuGrad<P> {
    /// As kernels take it.
    pub fn flag(&self) -> i32 {
        i32::from(self.accumulate)
    }
}
