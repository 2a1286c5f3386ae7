//! The op contract, and one file per op: constructor with its shape rule, CPU path, backward, test cases.
//!
//! To add an op: write `src/engine/op/x.rs` with a function that records it ([`crate::engine::graph::Graph::push`]), an [`Op`] for the
//! work and `cases()` and `bench_cases()` for the gradient check and the benches; then add it to the two lists below.

pub mod add;
pub mod avg_pool;
pub mod batch_norm;
pub mod bconv_cell;
mod case;
pub mod concat;
pub mod conv2d;
mod conv_launch;
pub mod cross_entropy;
mod gpu;
pub mod max_pool;
pub mod narrow;
mod pool_window;
pub mod relu;
pub mod soft_cross_entropy;
pub mod triplet;

pub use add::add;
pub use avg_pool::{avg_pool2d, global_avg_pool};
pub use batch_norm::{BatchNorm, batch_norm};
pub use bconv_cell::bconv_cell;
pub use case::{CaseRun, OpCase};
pub use concat::concat;
pub use conv2d::{conv2d, linear};
pub use cross_entropy::cross_entropy;
pub use gpu::{GpuBackward, GpuForward, GpuGrad};
pub use max_pool::{global_max_pool, max_pool2d};
pub use narrow::narrow_rows;
pub use relu::relu;
pub use soft_cross_entropy::soft_cross_entropy;
pub use triplet::batch_hard_triplet;

use crate::engine::device::Gpu;
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

/// Lists what every op file offers under one name.
macro_rules! from_every_op {
    ($list:ident) => {
        [
            add::$list(),
            avg_pool::$list(),
            batch_norm::$list(),
            bconv_cell::$list(),
            concat::$list(),
            conv2d::$list(),
            cross_entropy::$list(),
            max_pool::$list(),
            narrow::$list(),
            relu::$list(),
            soft_cross_entropy::$list(),
            triplet::$list(),
        ]
        .into_iter()
        .flatten()
        .collect()
    };
}

/// Small cases of every op, for proofs of correctness.
pub fn cases() -> Vec<OpCase> {
    from_every_op!(cases)
}

/// Cases of every op at the size of a ResNet-50 on 256x128 images, for benches.
pub fn bench_cases() -> Vec<OpCase> {
    from_every_op!(bench_cases)
}

/// The error of an op that cannot take its operands.
fn mismatch(op: &'static str, detail: String) -> Error {
    Error::Shape { op, detail }
}
