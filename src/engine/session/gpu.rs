//! Runs a plan on a GPU: ops get addresses in one arena there, and enqueue launches.

use std::cell::Cell;
use std::ops::Range;

use half::bf16;
use half::slice::HalfFloatSliceExt;

use super::turned::TurnedWeights;
use super::{Memory, Session};
use crate::base::profile;
use crate::base::text::plural;
use crate::engine::device::{Buffer, Gpu, Grid, Ptr, kernels};
use crate::engine::graph::{GpuBackward, GpuForward, GpuGrad, Graph, Mode, Node, TurnedGradient, Value, Var};
use crate::engine::latent_state::LatentStates;
use crate::engine::plan::{Block, Bucket, GradWrite, NodePlan, Plan, guarded_end};
use crate::engine::precision::Precision;
use crate::engine::store::Store;
use crate::{Error, Result};

/// The arena of a plan on a GPU.
pub(super) struct GpuMemory {
    gpu: Gpu,
    arena: Buffer,
    turned: TurnedWeights,
}

/// The addresses of everything outside the arena that a step uses. Recorded launches are valid only for the addresses that they were
/// recorded with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bound {
    /// [`Store::values`]
    pub values: Ptr<f32>,
    /// [`Store::grads`]
    pub grads: Ptr<f32>,
    buffers: Vec<Ptr<f32>>,
    /// Before and after the step.
    states: Vec<[Ptr<f32>; 2]>,
}

impl GpuMemory {
    pub(super) fn new(gpu: &Gpu, graph: &Graph, plan: &Plan, store: &Store) -> Result<GpuMemory> {
        let bytes = plan.arena_bytes();
        let arena = gpu.allocate(bytes).map_err(|error| match error {
            Error::DeviceMemory { needed, free, total, .. } => too_large(graph, needed, free, total),
            other => other,
        })?;
        gpu.counters()?;
        Ok(GpuMemory { gpu: gpu.clone(), arena, turned: TurnedWeights::new(gpu, graph, plan, store)? })
    }

    pub(super) fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    pub(super) fn at<T>(&self, block: Block) -> Ptr<T> {
        Ptr::new(self.arena.ptr::<f32>().add(block.offset).address())
    }

    /// Returns the block's address, or null if it is empty.
    fn at_or_null<T>(&self, block: Block) -> Ptr<T> {
        if block.len == 0 { Ptr::NULL } else { self.at(block) }
    }

    /// Writes `data`, converted to the type of `value`.
    pub(super) fn write(&self, block: Block, value: &Value, data: &[f32]) -> Result<()> {
        let to = self.at::<f32>(block).address();
        if value.element_bytes(&self.gpu) == 4 {
            return self.gpu.upload(to, bytemuck::cast_slice(data));
        }
        let mut short = vec![bf16::ZERO; data.len()];
        short.convert_from_f32_slice(data);
        self.gpu.upload(to, bytemuck::cast_slice(&short))
    }

    /// Returns all numbers of `value` as f32.
    pub(super) fn read(&self, block: Block, value: &Value) -> Result<Vec<f32>> {
        let from = self.at::<f32>(block).address();
        let mut data = vec![0.0f32; value.shape.len()];
        if value.element_bytes(&self.gpu) == 4 {
            self.gpu.download(&mut [(bytemuck::cast_slice_mut(&mut data), from)])?;
        } else {
            let mut short = vec![bf16::ZERO; data.len()];
            self.gpu.download(&mut [(bytemuck::cast_slice_mut(&mut short), from)])?;
            short.convert_to_f32_slice(&mut data);
        }
        Ok(data)
    }

    /// Enqueues a copy of the numbers `range` of one block to another block in f32, from its number `start` on. `exact` says whether the first
    /// block is f32 in every precision.
    pub(super) fn copy(&self, from: Block, exact: bool, range: Range<usize>, to: Block, start: usize) -> Result<()> {
        let (gpu, to, len) = (&self.gpu, self.at::<f32>(to).add(start), range.len());
        if exact || gpu.precision() != Precision::Bf16 {
            return kernels::put_f32(gpu, Grid::any(len), self.at::<f32>(from).add(range.start), to, len as i64, 0);
        }
        kernels::cast_bf16_f32(gpu, Grid::any(len), gpu.offset(self.at(from), range.start).cast(), to, len as i64)
    }

    fn forward(&self, node: &Node, blocks: &Plan, plan: &NodePlan, store: &Offsets, bound: &Bound) -> Result<()> {
        let attached = &node.attachments;
        node.op.gpu_forward(&GpuForward {
            gpu: &self.gpu,
            inputs: node.inputs.iter().map(|v| self.at(blocks.values[v.0])).collect(),
            params: attached.params.iter().map(|id| bound.values.add(store.0[id.0])).collect(),
            turned_weight: self.at_or_null(plan.turned_weight),
            buffers: attached.buffers.iter().map(|id| bound.buffers[id.0]).collect(),
            state: attached.state.map(|id| bound.states[id.0]),
            output: self.at(blocks.values[node.output.0]),
            saved: self.at_or_null(plan.saved),
            workspace: self.at_or_null(plan.forward_workspace),
        })
    }

    /// Enqueues the gradients of a node. Returns whether that of its first parameter is in [`NodePlan::turned_gradient`].
    fn backward(&self, node: &Node, blocks: &Plan, plan: &NodePlan, store: &Offsets, bound: &Bound) -> Result<bool> {
        let written = Cell::new(false);
        let turned = TurnedGradient { data: self.at(plan.turned_gradient), written: &written };
        let attached = &node.attachments;
        let kept = |i: usize| plan.needs.inputs[i].then(|| self.at(blocks.backward_values[node.inputs[i].0]));
        let grad_inputs = node
            .inputs
            .iter()
            .zip(&plan.grad_inputs)
            .map(|(v, &write)| grad(write, || self.at(blocks.grads[v.0].expect("planned with its writers"))));
        let grad_params = (attached.params.iter().zip(&plan.grad_params))
            .map(|(id, &write)| grad(write, || bound.grads.add(store.0[id.0])));
        node.op.gpu_backward(&GpuBackward {
            gpu: &self.gpu,
            inputs: (0..node.inputs.len()).map(|i| kept(i).unwrap_or(Ptr::NULL)).collect(),
            params: attached.params.iter().map(|id| bound.values.add(store.0[id.0])).collect(),
            turned_weight: self.at_or_null(plan.turned_weight),
            turned_gradient: (plan.turned_gradient.len > 0).then_some(turned),
            prev_state: attached.state.map_or(Ptr::NULL, |id| bound.states[id.0][0]),
            output: if plan.needs.output { self.at(blocks.backward_values[node.output.0]) } else { Ptr::NULL },
            grad_output: self.at(blocks.grads[node.output.0].expect("reached by a root")),
            grad_inputs: grad_inputs.collect(),
            grad_params: grad_params.collect(),
            saved: self.at_or_null(plan.saved),
            workspace: self.at_or_null(plan.backward_workspace),
        })?;
        Ok(written.get())
    }

    /// Fills the guard behind each of `blocks` with NaN, and also the content of those with `true`.
    fn poison(&self, blocks: &[(Block, bool)]) -> Result<()> {
        for &(block, contents) in blocks.iter().filter(|(block, _)| block.len > 0) {
            let (from, len) =
                if contents { (0, guarded_end(block.len)) } else { (block.len, guarded_end(block.len) - block.len) };
            let nan = vec![0xffu8; 4 * len];
            self.gpu.upload(self.at::<f32>(block).add(from).address(), &nan)?;
        }
        Ok(())
    }

    /// Returns an error if a node wrote into the guard behind one of `blocks`.
    fn check_guards(&self, op: &str, blocks: &[(Block, bool)]) -> Result<()> {
        for &(block, _) in blocks.iter().filter(|(block, _)| block.len > 0) {
            let mut guard = vec![0u8; 4 * (guarded_end(block.len) - block.len)];
            self.gpu.download(&mut [(&mut guard, self.at::<f32>(block).add(block.len).address())])?;
            if guard.iter().any(|&byte| byte != 0xff) {
                let action = format!("op {op}");
                return Err(Error::Device { device: "GPU", action, reason: "wrote beyond the end of a block".into() });
            }
        }
        Ok(())
    }
}

fn grad<P>(write: GradWrite, data: impl FnOnce() -> P) -> Option<GpuGrad<P>> {
    (write != GradWrite::Skip).then(|| GpuGrad { data: data(), accumulate: write == GradWrite::Accumulate })
}

/// The start of each parameter in the flat buffers.
struct Offsets(Vec<usize>);

/// Returns the error for a plan that does not fit, with an estimate of the batch that would.
fn too_large(graph: &Graph, needed: u64, free: u64, total: u64) -> Error {
    let shape = graph.values.first().map(|v| v.shape);
    let batch = shape.map_or(0, |shape| shape.n);
    let fits = (batch as u64 * free / needed.max(1)) as usize;
    let what = shape.map_or_else(String::new, |shape| {
        format!(" for a batch of {} of {}x{}", plural(batch, "image", "images"), shape.h, shape.w)
    });
    let advice = match fits {
        0 => "not even one image fits; use smaller images or a smaller network".to_string(),
        _ => format!("about {} would fit; use smaller batches, or `precision` bf16", plural(fits, "image", "images")),
    };
    Error::DeviceMemory { purpose: format!("the plan{what}"), needed, free, total, advice }
}

impl Session {
    /// Brings everything that a step uses to the GPU, if it is not there yet, and returns the addresses.
    ///
    /// # Panics
    /// If the session runs on the CPU.
    pub(crate) fn bind(&self, store: &mut Store, states: &mut LatentStates) -> Result<Bound> {
        let gpu = self.gpu().expect("a session on a GPU");
        let moves = self.graph.mode == Mode::Train;
        let buffers = store.buffers.iter_mut().map(|buffer| match moves {
            true => buffer.values.on_device_mut(gpu),
            false => buffer.values.on_device(gpu),
        });
        Ok(Bound {
            buffers: buffers.collect::<Result<_>>()?,
            values: store.values.on_device(gpu)?,
            grads: if self.graph.mode == Mode::Eval { Ptr::NULL } else { store.grads.on_device_mut(gpu)? },
            states: states.on_device(gpu)?,
        })
    }

    /// Enqueues all nodes.
    pub(crate) fn launch_forward(&self, store: &Store, bound: &Bound) -> Result<()> {
        let Memory::Gpu(memory) = &self.memory else { unreachable!("bound to a GPU") };
        let _forward = profile::range("forward");
        let offsets = offsets(store);
        let turned: Vec<(Block, bool)> = self.plan.nodes.iter().map(|plan| (plan.turned_weight, true)).collect();
        self.guarded(memory, "turn_weights", &turned, || {
            memory.turned.launch_weights(&memory.gpu, memory.arena.ptr(), bound)
        })?;
        for (i, (node, plan)) in self.graph.nodes.iter().zip(&self.plan.nodes).enumerate() {
            let _op = profile::range(format_args!("{} {i}", node.op.name()));
            let output = self.plan.values[node.output.0];
            let blocks = [(output, true), (plan.saved, true), (plan.forward_workspace, true)];
            let name = node.op.name();
            self.guarded(memory, name, &blocks, || memory.forward(node, &self.plan, plan, &offsets, bound))?;
        }
        Ok(())
    }

    /// Enqueues the differentiated nodes in reverse. Calls `complete` with the gradients of each of `buckets` as soon as all that writes them is
    /// enqueued.
    pub(crate) fn launch_backward(
        &self,
        store: &Store,
        bound: &Bound,
        buckets: &[Bucket],
        complete: &mut dyn FnMut(&Range<usize>) -> Result<()>,
    ) -> Result<()> {
        let Memory::Gpu(memory) = &self.memory else { unreachable!("bound to a GPU") };
        let _backward = profile::range("backward");
        let offsets = offsets(store);
        let turn = |written: &[(&Node, Block)]| {
            memory.turned.launch_gradients(&memory.gpu, memory.arena.ptr(), bound, store, written)
        };
        let mut written = Vec::new();
        let mut buckets = buckets.iter().peekable();
        let nodes = self.graph.nodes.iter().zip(&self.plan.nodes).enumerate().rev();
        for (i, (node, plan)) in nodes.filter(|(_, (_, plan))| plan.differentiated) {
            let _op = profile::range(format_args!("{} {i} backward", node.op.name()));
            let grads = (node.inputs.iter().zip(&plan.grad_inputs)).filter(|(_, write)| **write != GradWrite::Skip);
            let mut blocks: Vec<(Block, bool)> = grads
                .map(|(v, &write)| (self.plan.grads[v.0].expect("planned"), write == GradWrite::Overwrite))
                .collect();
            blocks.extend([(plan.saved, false), (plan.backward_workspace, true), (plan.turned_gradient, true)]);
            let run = || memory.backward(node, &self.plan, plan, &offsets, bound);
            if self.guarded(memory, node.op.name(), &blocks, run)? {
                written.push((node, plan.turned_gradient));
            }
            while let Some(bucket) = buckets.next_if(|bucket| bucket.node == i) {
                let in_bucket = |(node, _): &mut (&Node, Block)| {
                    bucket.contains(store.param(node.attachments.params[0]).range.start)
                };
                turn(&written.extract_if(.., in_bucket).collect::<Vec<_>>())?;
                bucket.ranges.iter().try_for_each(&mut *complete)?;
            }
        }
        turn(&written)
    }

    /// Returns the address of a kept value.
    ///
    /// # Panics
    /// If the session runs on the CPU.
    pub(crate) fn address(&self, var: Var) -> Ptr {
        let Memory::Gpu(memory) = &self.memory else { unreachable!("a session on a GPU") };
        assert!(self.graph.values[var.0].keep, "value was not kept");
        memory.at(self.plan.values[var.0])
    }

    /// Enqueues the gradient of a loss: `value`, or NaN if the loss is not finite.
    pub(crate) fn launch_grad(&self, loss: Var, value: f32) -> Result<()> {
        let Memory::Gpu(memory) = &self.memory else { unreachable!("a session on a GPU") };
        let block = self.plan.grads[loss.0].expect("a root of a differentiable graph");
        kernels::loss_gradient(&memory.gpu, 1, self.address(loss).cast(), memory.at(block), value)
    }

    /// Runs `work`. In a poisoned session, first fills the `blocks` that are to be written (`true`) and all guards with NaN, and checks the
    /// guards afterwards.
    fn guarded<T>(
        &self,
        memory: &GpuMemory,
        op: &str,
        blocks: &[(Block, bool)],
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        if !self.poison {
            return work();
        }
        memory.poison(blocks)?;
        let result = work()?;
        memory.check_guards(op, blocks)?;
        Ok(result)
    }
}

fn offsets(store: &Store) -> Offsets {
    Offsets(store.params.iter().map(|param| param.range.start).collect())
}
