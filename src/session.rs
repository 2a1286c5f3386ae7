//! Running a planned graph: forward, then backward, on one arena that is allocated once.
//!
//! The only unsafe code of the engine is here: slices of the arena are handed to ops by the plan's offsets.

use std::ops::Range;

use crate::graph::{Graph, Mode, Var};
use crate::latent_state::LatentStates;
use crate::op::{Backward, Forward, Grad};
use crate::plan::{Block, GradWrite, Plan};
use crate::store::Store;
use crate::{Result, memory};

/// A cache line of the arena; aligns every block for vector loads.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// One allocation that all blocks of a plan share.
struct Arena {
    lines: Vec<Line>,
}

impl Arena {
    fn new(len: usize) -> Arena {
        Arena { lines: vec![Line([0.0; 16]); len.div_ceil(16)] }
    }

    fn base(&mut self) -> ArenaPtr {
        ArenaPtr { data: self.lines.as_mut_ptr().cast(), len: self.lines.len() * 16 }
    }

    fn slice(&self, block: Block) -> &[f32] {
        // SAFETY: `Line` is 16 f32 without padding; the view covers exactly the allocation.
        let all = unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast::<f32>(), self.lines.len() * 16) };
        &all[block.offset..block.offset + block.len]
    }
}

/// Address and length of the arena for the time of one step.
#[derive(Clone, Copy)]
struct ArenaPtr {
    data: *mut f32,
    len: usize,
}

impl ArenaPtr {
    /// # Safety
    /// No mutable slice of an overlapping block may be alive.
    unsafe fn get<'a>(self, block: Block) -> &'a [f32] {
        assert!(block.offset + block.len <= self.len, "plan exceeds the arena");
        // SAFETY: in bounds (checked above) and initialised; the caller rules out a mutable alias.
        unsafe { std::slice::from_raw_parts(self.data.add(block.offset), block.len) }
    }

    /// # Safety
    /// No other slice of an overlapping block may be alive.
    unsafe fn get_mut<'a>(self, block: Block) -> &'a mut [f32] {
        assert!(block.offset + block.len <= self.len, "plan exceeds the arena");
        // SAFETY: in bounds (checked above) and initialised; the caller rules out every alias.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(block.offset), block.len) }
    }
}

/// A graph with its plan and memory.
pub struct Session {
    graph: Graph,
    plan: Plan,
    arena: Arena,
    poison: bool,
}

impl Session {
    /// Plans `graph` and allocates its arena.
    ///
    /// # Errors
    /// The arena is larger than the memory that is available.
    pub fn new(graph: Graph, store: &Store) -> Result<Session> {
        let plan = Plan::new(&graph, store);
        memory::ensure("the memory for activations and gradients", plan.arena_bytes() as u64)?;
        let arena = Arena::new(plan.arena_len);
        Ok(Session { graph, plan, arena, poison: false })
    }

    /// Fills all memory that must not be read with NaN before each forward (for tests).
    pub fn poisoned(mut self) -> Session {
        self.poison = true;
        self
    }

    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Sets an input; class labels go in as the bits of u32 ([`bytemuck::cast_slice`]).
    ///
    /// # Panics
    /// If the length is not that of `var`: a bug of the caller, never of a user.
    pub fn set(&mut self, var: Var, data: &[f32]) {
        self.input_mut(var).copy_from_slice(data);
    }

    /// The memory of an input.
    pub fn input_mut(&mut self, var: Var) -> &mut [f32] {
        let block = self.plan.values[var.0];
        // SAFETY: `&mut self`: no other slice of the arena is alive.
        unsafe { self.arena.base().get_mut(block) }
    }

    /// Sets the gradient of a root before [`Session::backward`].
    pub fn set_grad(&mut self, var: Var, data: &[f32]) {
        let block = self.plan.grads[var.0].expect("a root of a differentiable graph");
        // SAFETY: `&mut self`: no other slice of the arena is alive.
        unsafe { self.arena.base().get_mut(block) }.copy_from_slice(data);
    }

    /// A kept value after forward.
    pub fn value(&self, var: Var) -> &[f32] {
        assert!(self.graph.values[var.0].keep, "value was not kept");
        self.arena.slice(self.plan.values[var.0])
    }

    /// The gradient of an input after backward.
    pub fn grad(&self, var: Var) -> &[f32] {
        self.arena.slice(self.plan.grads[var.0].expect("input recorded with gradient"))
    }

    /// Runs all nodes. Latent states move one step; running statistics and their counters as the ops say.
    pub fn forward(&mut self, store: &mut Store, states: &mut LatentStates) {
        if self.poison {
            self.poison_arena();
        }
        let batch = self.graph.values.first().map_or(0, |v| v.shape.n);
        states.begin_step(&self.graph.states, batch);
        let base = self.arena.base();
        for (node, plan) in self.graph.nodes.iter().zip(&self.plan.nodes) {
            let attached = &node.attachments;
            if let Some(counter) = attached.counter {
                store.counters[counter.0].1 += 1;
            }
            let Store { params, values, buffers, .. } = store;
            let ids: Vec<usize> = attached.buffers.iter().map(|id| id.0).collect();
            // SAFETY: the plan gives blocks that are alive at the same time disjoint places: the inputs, the output, the
            // saved block and the workspace are all alive at this node, inputs differ from each other (`Graph::push`).
            unsafe {
                node.op.forward(&mut Forward {
                    inputs: node.inputs.iter().map(|v| base.get(self.plan.values[v.0])).collect(),
                    params: attached.params.iter().map(|id| &values[params[id.0].range.clone()]).collect(),
                    buffers: pick_mut(buffers, &ids),
                    state: attached.state.map(|id| states.step(id)),
                    output: base.get_mut(self.plan.values[node.output.0]),
                    saved: base.get_mut(plan.saved),
                    workspace: base.get_mut(plan.forward_workspace),
                });
            }
        }
    }

    /// Runs the differentiated nodes in reverse. Afterwards the gradients of the parameters named by
    /// [`Session::has_grad`] stand in `store.grads`; other parts of `store.grads` are untouched.
    pub fn backward(&mut self, store: &mut Store, states: &LatentStates) {
        assert_ne!(self.graph.mode, Mode::Eval, "an evaluation graph keeps nothing for backward");
        let base = self.arena.base();
        for (node, plan) in self.graph.nodes.iter().zip(&self.plan.nodes).rev() {
            if !plan.differentiated {
                continue;
            }
            let Store { params, values, grads, buffers, .. } = store;
            let attached = &node.attachments;
            let ranges: Vec<_> = attached.params.iter().map(|id| params[id.0].range.clone()).collect();
            let grad_params = split_mut(grads, &ranges);
            let kept =
                |i: usize| if plan.needs.inputs[i] { self.plan.values[node.inputs[i].0] } else { Block::default() };
            let output = if plan.needs.output { self.plan.values[node.output.0] } else { Block::default() };
            // SAFETY: as in `forward`; gradients are blocks of their own, alive with what this node reads, and the
            // gradients of distinct inputs are distinct blocks.
            unsafe {
                node.op.backward(&mut Backward {
                    inputs: (0..node.inputs.len()).map(|i| base.get(kept(i))).collect(),
                    params: ranges.iter().map(|range| &values[range.clone()]).collect(),
                    buffers: attached.buffers.iter().map(|id| buffers[id.0].values.as_slice()).collect(),
                    prev_state: attached.state.map_or(&[], |id| states.previous(id)),
                    output: base.get(output),
                    grad_output: base.get(self.plan.grads[node.output.0].expect("reached by a root")),
                    grad_inputs: (node.inputs.iter().zip(&plan.grad_inputs))
                        .map(|(v, &write)| {
                            grad(write, || base.get_mut(self.plan.grads[v.0].expect("planned with its writers")))
                        })
                        .collect(),
                    grad_params: (grad_params.into_iter().zip(&plan.grad_params))
                        .map(|(data, &write)| grad(write, || data))
                        .collect(),
                    saved: base.get_mut(plan.saved),
                    workspace: base.get_mut(plan.backward_workspace),
                });
            }
        }
    }

    /// True if backward writes a gradient for parameter number `index` of the store.
    pub fn has_grad(&self, index: usize) -> bool {
        self.plan.param_written[index]
    }

    fn poison_arena(&mut self) {
        let inputs: Vec<(Block, Vec<f32>)> = (self.graph.values.iter().zip(&self.plan.values))
            .enumerate()
            .filter(|(i, _)| !self.graph.nodes.iter().any(|n| n.output.0 == *i))
            .map(|(_, (_, &block))| (block, self.arena.slice(block).to_vec()))
            .collect();
        self.arena.lines.fill(Line([f32::NAN; 16]));
        for (block, data) in inputs {
            // SAFETY: `&mut self`: no other slice of the arena is alive.
            unsafe { self.arena.base().get_mut(block) }.copy_from_slice(&data);
        }
    }
}

fn grad<'a>(write: GradWrite, data: impl FnOnce() -> &'a mut [f32]) -> Option<Grad<'a>> {
    (write != GradWrite::Skip).then(|| Grad { data: data(), accumulate: write == GradWrite::Accumulate })
}

/// Disjoint mutable parts of `data`, in the order of `ranges`.
fn split_mut<'a>(mut data: &'a mut [f32], ranges: &[Range<usize>]) -> Vec<&'a mut [f32]> {
    let mut order: Vec<usize> = (0..ranges.len()).collect();
    order.sort_by_key(|&i| ranges[i].start);
    let mut parts: Vec<&mut [f32]> = ranges.iter().map(|_| &mut [][..]).collect();
    let mut consumed = 0;
    for i in order {
        let (_, rest) = data.split_at_mut(ranges[i].start - consumed);
        let (part, rest) = rest.split_at_mut(ranges[i].len());
        parts[i] = part;
        consumed = ranges[i].end;
        data = rest;
    }
    parts
}

fn pick_mut<'a>(buffers: &'a mut [crate::store::Buffer], ids: &[usize]) -> Vec<&'a mut [f32]> {
    let mut picked: Vec<Option<&mut [f32]>> = ids.iter().map(|_| None).collect();
    for (i, buffer) in buffers.iter_mut().enumerate() {
        if let Some(slot) = ids.iter().position(|&id| id == i) {
            picked[slot] = Some(&mut buffer.values);
        }
    }
    picked.into_iter().map(|b| b.expect("a buffer of the store, named once")).collect()
}
