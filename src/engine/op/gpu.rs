//! What an op may touch on a GPU, and how it divides its blocks.

use std::marker::PhantomData;

use crate::engine::device::{Gpu, Ptr};

/// Forward on a GPU: as [`super::Forward`], in addresses. Activations have the type of the GPU's precision.
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

/// Backward on a GPU: as [`super::Backward`], in addresses. Inputs and output are null unless [`super::Needs`] asked for them.
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

/// Parts of a block, one after the other, each on a cache line.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parts {
    bytes: usize,
}

/// A part of a block.
#[derive(Debug)]
pub struct Part<T> {
    offset: usize,
    element: PhantomData<T>,
}

impl Parts {
    /// The next part: `count` elements.
    pub fn add<T>(&mut self, count: usize) -> Part<T> {
        self.add_bytes(count * size_of::<T>())
    }

    /// The next part: `bytes` bytes.
    pub fn add_bytes<T>(&mut self, bytes: usize) -> Part<T> {
        let offset = self.bytes;
        self.bytes += bytes.next_multiple_of(64);
        Part { offset, element: PhantomData }
    }

    /// Size of all parts in the words of [`super::Needs`].
    pub fn words(&self) -> usize {
        self.bytes / 4
    }
}

impl<T> Part<T> {
    /// The part's address in `block`.
    pub fn of(&self, block: Ptr) -> Ptr<T> {
        Ptr::new(block.address() + self.offset as u64)
    }
}

/// Blocks that fill a large GPU about twice: long sums are split until there are so many.
pub const ENOUGH_BLOCKS: usize = 264;

/// Rows of each partial sum over `rows` rows: a function of the shape alone, so that sums do not depend on the device.
pub fn split_rows(rows: usize, at_least: usize, most_splits: usize) -> usize {
    rows.div_ceil(most_splits).max(at_least)
}
