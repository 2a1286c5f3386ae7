//! Runs a graph: allocates the memory of its plan on the CPU or on a GPU, and runs the steps.

mod blocks;
mod case;
mod gpu;
mod host;
mod images;
mod turned;
mod work;

use std::borrow::Cow;
use std::ops::Range;

pub use blocks::{Pass, Placed};
pub use case::CaseRun;
pub(crate) use gpu::Bound;
use gpu::GpuMemory;
use host::Arena;
pub use images::ImageBatch;
use images::Staging;
pub use work::{Part, Work};

use crate::Result;
use crate::engine::device::{Device, Gpu};
use crate::engine::graph::{Graph, Mode, Var};
use crate::engine::latent_state::LatentStates;
use crate::engine::plan::{Bucket, Plan};
use crate::engine::shape::Shape;
use crate::engine::store::Store;

/// A graph with its plan and memory.
pub struct Session {
    graph: Graph,
    plan: Plan,
    memory: Memory,
    /// Batches that are uploaded to a GPU.
    staging: Option<Staging>,
    poison: bool,
}

enum Memory {
    Host(Arena),
    Gpu(GpuMemory),
}

impl Session {
    /// Plans `graph` for `device` and allocates its arena there. On the CPU, a graph without backward gets fused ops where there are some.
    ///
    /// # Errors
    /// The GPU cannot run one of the ops, or the arena is larger than the available memory.
    pub fn new(graph: Graph, store: &Store, device: &Device) -> Result<Session> {
        let graph = if device.gpu().is_some() { graph } else { graph.fused() };
        let plan = Plan::new(&graph, store, device.gpu())?;
        Session::with_plan(graph, plan, store, device)
    }

    /// Allocates the arena of the `plan` of `graph` on `device`.
    fn with_plan(graph: Graph, plan: Plan, store: &Store, device: &Device) -> Result<Session> {
        let memory = match device {
            Device::Cpu(cpu) => Memory::Host(Arena::new(&plan, cpu.precision())?),
            Device::Gpu(gpu) => Memory::Gpu(GpuMemory::new(gpu, &graph, &plan, store)?),
        };
        Ok(Session { graph, plan, memory, staging: None, poison: false })
    }

    /// Returns the session in a mode for tests: it fills memory that must not be read with NaN. On a GPU it also checks that no op writes
    /// beyond the end of a block.
    pub fn poisoned(mut self) -> Session {
        self.poison = true;
        self
    }

    /// Returns the graph that the session runs.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Returns the graph's plan: which memory holds what.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Returns the GPU that the session runs on, or `None` on the CPU.
    pub fn gpu(&self) -> Option<&Gpu> {
        match &self.memory {
            Memory::Host(_) => None,
            Memory::Gpu(memory) => Some(memory.gpu()),
        }
    }

    /// Sets an input. Class labels are given as the bits of u32 ([`bytemuck::cast_slice`]).
    ///
    /// # Errors
    /// The GPU fails.
    ///
    /// # Panics
    /// If the length is not that of `var`, which is a bug of the caller.
    pub fn set(&mut self, var: Var, data: &[f32]) -> Result<()> {
        assert_eq!(data.len(), self.graph.shape(var).len(), "the length of an input");
        let block = self.plan.values[var.0];
        match &mut self.memory {
            Memory::Host(arena) => arena.slice_mut(block).copy_from_slice(data),
            Memory::Gpu(memory) => memory.write(block, &self.graph.values[var.0], data)?,
        }
        Ok(())
    }

    /// Copies the rows (images) `rows` of the kept value `from` into the input `to` ([`Graph::targets`]), from its row `first` on. What
    /// an input holds stays there until it is set again.
    ///
    /// # Errors
    /// The GPU fails.
    ///
    /// # Panics
    /// If `from` is not kept, `to` is no such input, or the rows are beyond one of the two.
    pub(crate) fn copy_rows(&mut self, from: Var, rows: Range<usize>, to: Var, first: usize) -> Result<()> {
        let (of_from, of_to) = (self.graph.shape(from), self.graph.shape(to));
        let fits = rows.end <= of_from.n && first + rows.len() <= of_to.n && Shape { n: of_to.n, ..of_from } == of_to;
        assert!(fits && self.graph.values[from.0].keep && self.graph.is_target(to), "rows {rows:?} to {first}");
        let row = of_from.len() / of_from.n;
        let (numbers, start) = (rows.start * row..rows.end * row, first * row);
        match &mut self.memory {
            Memory::Host(arena) => {
                let copied = arena.slice(self.plan.values[from.0])[numbers].to_vec();
                arena.slice_mut(self.plan.values[to.0])[start..start + copied.len()].copy_from_slice(&copied);
                Ok(())
            }
            Memory::Gpu(memory) => {
                let exact = self.graph.values[from.0].exact;
                memory.copy(self.plan.values[from.0], exact, numbers, self.plan.values[to.0], start)
            }
        }
    }

    /// Sets the gradient of a root before [`Session::backward`].
    ///
    /// # Errors
    /// The GPU fails.
    ///
    /// # Panics
    /// If `var` is no root of a differentiable graph, or the length is not that of `var`.
    pub fn set_grad(&mut self, var: Var, data: &[f32]) -> Result<()> {
        let block = self.plan.grads[var.0].expect("a root of a differentiable graph");
        match &mut self.memory {
            Memory::Host(arena) => arena.slice_mut(block).copy_from_slice(data),
            Memory::Gpu(memory) => memory.write(block, &self.graph.values[var.0], data)?,
        }
        Ok(())
    }

    /// Returns a kept value ([`Graph::keep`]) after forward.
    ///
    /// # Errors
    /// The GPU fails.
    ///
    /// # Panics
    /// If `var` is not kept.
    pub fn value(&self, var: Var) -> Result<Cow<'_, [f32]>> {
        assert!(self.graph.values[var.0].keep, "value was not kept");
        match &self.memory {
            Memory::Host(arena) => Ok(arena.slice(self.plan.values[var.0]).into()),
            Memory::Gpu(memory) => Ok(memory.read(self.plan.values[var.0], &self.graph.values[var.0])?.into()),
        }
    }

    /// Returns the gradient of an input ([`Graph::input_with_grad`]) after backward.
    ///
    /// # Errors
    /// The GPU fails.
    ///
    /// # Panics
    /// If no gradient is computed for `var`.
    pub fn grad(&self, var: Var) -> Result<Cow<'_, [f32]>> {
        let block = self.plan.grads[var.0].expect("input recorded with gradient");
        match &self.memory {
            Memory::Host(arena) => Ok(arena.slice(block).into()),
            Memory::Gpu(memory) => Ok(memory.read(block, &self.graph.values[var.0])?.into()),
        }
    }

    /// Runs all nodes. Latent states advance by one step, and training updates the running statistics.
    ///
    /// # Errors
    /// The GPU fails.
    pub fn forward(&mut self, store: &mut Store, states: &mut LatentStates) -> Result<()> {
        self.begin_step(store, states)?;
        match &mut self.memory {
            Memory::Host(arena) => {
                if self.poison {
                    arena.poison(&self.graph, &self.plan, store);
                }
                arena.forward(&self.graph, &self.plan, store, states);
            }
            Memory::Gpu(_) => {
                let bound = self.bind(store, states)?;
                self.launch_forward(store, &bound)?;
            }
        }
        self.end_step(states)
    }

    /// Runs the differentiated nodes in reverse. Writes the gradients of the parameters for which [`Session::has_grad`] is true to
    /// `store.grads`, and leaves the rest of it as it is.
    ///
    /// # Errors
    /// The GPU fails.
    ///
    /// # Panics
    /// If the graph's mode is [`Mode::Eval`].
    pub fn backward(&mut self, store: &mut Store, states: &mut LatentStates) -> Result<()> {
        assert_ne!(self.graph.mode, Mode::Eval, "an evaluation graph keeps nothing for backward");
        match &mut self.memory {
            Memory::Host(arena) => {
                arena.backward(&self.graph, &self.plan, store, states);
                Ok(())
            }
            Memory::Gpu(_) => {
                let bound = self.bind(store, states)?;
                self.launch_backward(store, &bound, &[], &mut |_| Ok(()))
            }
        }
    }

    /// Returns true if backward writes a gradient for parameter number `index` of the store.
    pub fn has_grad(&self, index: usize) -> bool {
        self.plan.param_written[index]
    }

    /// Returns the parameters that get a gradient in buckets of at least `len` numbers: see [`Plan::buckets`].
    pub(crate) fn buckets(&self, store: &Store, len: usize) -> Vec<Bucket> {
        self.plan.buckets(&self.graph, store, len)
    }

    /// Makes the changes of a step that belong to the host: the current states become the previous ones, and the counters of batches go up.
    pub(crate) fn begin_step(&self, store: &mut Store, states: &mut LatentStates) -> Result<()> {
        states.begin_step(&self.graph.states, self.slots(), self.gpu())?;
        for counter in self.graph.nodes.iter().filter_map(|node| node.attachments.counter) {
            store.counters[counter.0].1 += 1;
        }
        Ok(())
    }

    /// Takes the states after forward into what they keep from step to step.
    pub(crate) fn end_step(&self, states: &mut LatentStates) -> Result<()> {
        states.end_step(&self.graph.states, self.slots(), self.gpu())
    }

    /// Returns the slots of the latent states: the images of a batch, or of the part of it that is a step of the states.
    fn slots(&self) -> usize {
        self.graph.values.first().map_or(0, |v| v.shape.n) / self.graph.state_steps
    }
}
