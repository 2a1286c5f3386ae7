//! Plans a graph: which gradients are computed, which op writes a gradient first and which ones add to it, and the place of everything in
//! one arena.
//!
//! Time is counted in nodes. Of n nodes, node i runs forward at time `i` and backward at time `2n - 1 - i`. A block of memory
//! is alive from its first write to its last read; blocks that are never alive at the same time may share addresses.

mod allocate;
mod buckets;
mod lifetimes;
mod recompute;

use std::collections::HashMap;

use crate::Result;
use crate::base::memory;
use crate::engine::device::Gpu;
use crate::engine::graph::{Graph, Mode, Needs, Value};
use crate::engine::store::{Layout, ParamId, Store};
use allocate::allocate;
pub(crate) use buckets::Bucket;
use lifetimes::{Readings, readings, requests, run_again, turned_weights};

/// The offset of a block is a multiple of this many words: a cache line of the CPU; on a GPU the 256 bytes to which its driver aligns
/// memory, and which libraries expect of a workspace.
const HOST_ALIGNMENT: usize = 16;
const GPU_ALIGNMENT: usize = 64;
/// The most words of scratch memory (224 MiB) that a plan keeps from one run of an evaluation to the next. They hold packed weights.
const KEPT: usize = 56 << 20;
/// The longest arena, in words, for which no value is computed again (1.5 GiB), if the machine has twice as much left. Time is worth more
/// than so little memory.
const AMPLE: usize = 3 << 27;
/// Words behind each block on a GPU, which tests check for writes beyond the block's end (`Session::poisoned`).
const GUARD: usize = 16;

/// Returns the time of backward of node number `node`; or the number of the node whose backward is at the time `node`.
fn backward_time(graph: &Graph, node: usize) -> usize {
    2 * graph.nodes.len() - 1 - node
}

/// Returns the words from the start of a block of `len` words on a GPU to the end of its guard.
pub(crate) fn guarded_end(len: usize) -> usize {
    len.next_multiple_of(16) + GUARD
}

/// A range of the arena, in words of 4 bytes. A word is one element, or two where activations are bf16 on a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Block {
    pub offset: usize,
    pub len: usize,
}

/// What a node does with one of its gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GradWrite {
    Skip,
    Overwrite,
    Accumulate,
}

#[derive(Debug)]
pub(crate) struct NodePlan {
    pub needs: Needs,
    pub differentiated: bool,
    /// Other nodes, or this one, whose outputs are computed again before this node's backward, which is the first to read them.
    pub again_before: Vec<usize>,
    pub grad_inputs: Vec<GradWrite>,
    pub grad_params: Vec<GradWrite>,
    pub saved: Block,
    pub forward_workspace: Block,
    /// Whether forward's scratch memory is kept from run to run: nothing else gets it.
    pub keeps_workspace: bool,
    pub backward_workspace: Block,
    /// The first parameter in the order of the vendor's libraries, from run to run; empty if no pass takes it
    /// ([`Needs::turned_weight_forward`]). Nodes that share the parameter share the block.
    pub turned_weight: Block,
    /// Its gradient in that order, until the end of backward; empty if the op does not give it or others add to it.
    pub turned_gradient: Block,
}

impl NodePlan {
    /// Returns whether a pass takes the first parameter in the order of the vendor's libraries.
    fn turns_weight(&self) -> bool {
        let needs_input_gradient = self.grad_inputs.first().is_some_and(|write| *write != GradWrite::Skip);
        self.needs.turned_weight_forward || self.needs.turned_weight_backward && needs_input_gradient
    }

    /// Returns whether the gradient of the first parameter has a place in the order of the vendor's libraries.
    fn turns_gradient(&self) -> bool {
        self.needs.turned_gradient && self.grad_params.first() == Some(&GradWrite::Overwrite)
    }
}

/// Where everything lies in the arena, and which gradients each node writes.
#[derive(Debug)]
pub struct Plan {
    pub(crate) values: Vec<Block>,
    /// Where backward reads each value: in the block that forward wrote, or in another one, into which the value is computed again.
    pub(crate) backward_values: Vec<Block>,
    pub(crate) grads: Vec<Option<Block>>,
    pub(crate) nodes: Vec<NodePlan>,
    /// For each parameter, whether backward writes its gradient.
    pub(crate) param_written: Vec<bool>,
    pub(crate) arena_len: usize,
}

/// The sizes that depend on the device of the plan.
struct Sizes<'a> {
    gpu: Option<&'a Gpu>,
}

impl Sizes<'_> {
    fn words(&self, value: &Value) -> usize {
        let len = value.shape.len();
        self.gpu.map_or(len, |gpu| (len * value.element_bytes(gpu)).div_ceil(4))
    }

    /// Returns the words of a parameter in the type of activations.
    fn turned_words(&self, param: ParamId, store: &Store) -> usize {
        let bytes = self.gpu.map_or(4, Gpu::activation_bytes);
        (store.param(param).range.len() * bytes).div_ceil(4)
    }

    /// Returns the words that a block of `len` words takes, with those that are kept free behind it.
    fn footprint(&self, len: usize) -> usize {
        match self.gpu {
            None => len.next_multiple_of(HOST_ALIGNMENT),
            Some(_) => guarded_end(len).next_multiple_of(GPU_ALIGNMENT),
        }
    }
}

impl Plan {
    /// Plans `graph` with the parameters of `store`, some of which may be frozen, for the CPU or a GPU.
    ///
    /// # Errors
    /// The GPU cannot run one of the ops.
    pub fn new(graph: &Graph, store: &Store, gpu: Option<&Gpu>) -> Result<Plan> {
        let half = memory::total_and_available().map_or(u64::MAX, |(_, available)| available / 2);
        let ample = usize::try_from(half / 4).unwrap_or(usize::MAX).min(AMPLE);
        Plan::with_ample(ample, graph, store, gpu)
    }

    /// Does what [`Plan::new`] does. On the CPU, backward computes values again if the arena would be longer than `ample` words otherwise.
    pub(crate) fn with_ample(ample: usize, graph: &Graph, store: &Store, gpu: Option<&Gpu>) -> Result<Plan> {
        let sizes = Sizes { gpu };
        let mut nodes = nodes(graph, store, gpu)?;
        let Written { values: first_write, params: param_written } = gradient_writes(graph, store, &mut nodes);
        let readings = readings(graph, &nodes);
        let mut places = place(graph, store, &mut nodes, &first_write, &readings, &sizes);
        if gpu.is_none() && places.arena_len > ample {
            let mut longer = readings.clone();
            for (i, reader) in recompute::choose(graph, &nodes, &mut longer) {
                nodes[reader].again_before.push(i);
            }
            let saving = place(graph, store, &mut nodes, &first_write, &longer, &sizes);
            if saving.arena_len < places.arena_len {
                places = saving;
            } else {
                nodes.iter_mut().for_each(|plan| plan.again_before.clear());
                places = place(graph, store, &mut nodes, &first_write, &readings, &sizes);
            }
        }
        let Places { values, backward_values, grads, arena_len } = places;
        Ok(Plan { values, backward_values, grads, nodes, param_written, arena_len })
    }

    /// Returns the size of the arena, bytes.
    pub fn arena_bytes(&self) -> usize {
        self.arena_len.saturating_mul(size_of::<f32>())
    }
}

/// Returns what each node needs, and which ones take part in backward.
fn nodes(graph: &Graph, store: &Store, gpu: Option<&Gpu>) -> Result<Vec<NodePlan>> {
    let differentiable = graph.mode != Mode::Eval;
    let mut needs_grad: Vec<bool> = graph.values.iter().map(|v| differentiable && v.requires_grad).collect();
    for node in &graph.nodes {
        let trainable = |p: &ParamId| store.param(*p).trainable;
        let from_inputs = node.inputs.iter().any(|v| needs_grad[v.0]);
        needs_grad[node.output.0] = differentiable && (from_inputs || node.attachments.params.iter().any(trainable));
    }
    // Gradients come from roots only, so nodes from which no root can be reached take no part in backward.
    let mut reached: Vec<bool> = graph.values.iter().map(|v| v.root).collect();
    for node in graph.nodes.iter().rev().filter(|node| needs_grad[node.output.0]) {
        if reached[node.output.0] {
            node.inputs.iter().for_each(|v| reached[v.0] |= needs_grad[v.0]);
        }
    }

    let mut nodes = Vec::with_capacity(graph.nodes.len());
    for node in &graph.nodes {
        let differentiated = needs_grad[node.output.0] && reached[node.output.0];
        let needs = gpu.map_or_else(|| Ok(node.op.needs()), |gpu| node.op.gpu_needs(gpu, differentiated))?;
        // Lifetimes follow from these flags. Without a flag for an input, the output could get the input's memory.
        assert_eq!(needs.inputs.len(), node.inputs.len(), "`Needs::inputs` of {}", node.op.name());
        let turned = needs.turned_weight_forward || needs.turned_weight_backward || needs.turned_gradient;
        let is_conv = |id: &ParamId| store.param(*id).layout == Layout::Conv;
        assert!(!turned || node.attachments.params.first().is_some_and(is_conv), "the layout of {}", node.op.name());
        nodes.push(NodePlan {
            needs,
            differentiated,
            again_before: Vec::new(),
            grad_inputs: Vec::new(),
            grad_params: Vec::new(),
            saved: Block::default(),
            forward_workspace: Block::default(),
            keeps_workspace: false,
            backward_workspace: Block::default(),
            turned_weight: Block::default(),
            turned_gradient: Block::default(),
        });
    }

    let mut room = if graph.mode == Mode::Eval { KEPT } else { 0 };
    for NodePlan { needs, keeps_workspace, .. } in &mut nodes {
        *keeps_workspace = needs.reusable_workspace && needs.forward_workspace <= room;
        room -= if *keeps_workspace { needs.forward_workspace } else { 0 };
    }

    for (node, plan) in graph.nodes.iter().zip(&mut nodes) {
        let wanted = |wanted: bool| if plan.differentiated && wanted { GradWrite::Overwrite } else { GradWrite::Skip };
        plan.grad_inputs = node.inputs.iter().map(|v| wanted(needs_grad[v.0])).collect();
        let trainable = |p: &ParamId| store.param(*p).trainable;
        plan.grad_params = node.attachments.params.iter().map(|p| wanted(trainable(p))).collect();
    }
    Ok(nodes)
}

/// Which gradients are written.
struct Written {
    /// When the gradient of each value is written first.
    values: Vec<Option<usize>>,
    /// Whether the gradient of each parameter is written.
    params: Vec<bool>,
}

/// Lets every writer of a gradient but the first add to it.
fn gradient_writes(graph: &Graph, store: &Store, nodes: &mut [NodePlan]) -> Written {
    let set_before = |v: &Value| (v.root && graph.mode != Mode::Eval).then_some(graph.nodes.len());
    let mut values: Vec<Option<usize>> = graph.values.iter().map(set_before).collect();
    let mut params = vec![false; store.params.len()];
    let mut shared = params.clone();
    for (i, (node, plan)) in graph.nodes.iter().zip(&mut *nodes).enumerate().rev() {
        let inputs = node.inputs.iter().zip(&mut plan.grad_inputs);
        for (var, write) in inputs.filter(|(_, write)| **write != GradWrite::Skip) {
            if values[var.0].is_some() {
                *write = GradWrite::Accumulate;
            } else {
                values[var.0] = Some(backward_time(graph, i));
            }
        }
        let attached = node.attachments.params.iter().zip(&mut plan.grad_params);
        for (id, write) in attached.filter(|(_, write)| **write != GradWrite::Skip) {
            if std::mem::replace(&mut params[id.0], true) {
                *write = GradWrite::Accumulate;
                shared[id.0] = true;
            }
        }
    }
    for (node, plan) in graph.nodes.iter().zip(nodes) {
        plan.needs.turned_gradient &= node.attachments.params.first().is_some_and(|id| !shared[id.0]);
    }
    Written { values, params }
}

/// Where values and gradients lie.
struct Places {
    values: Vec<Block>,
    backward_values: Vec<Block>,
    grads: Vec<Option<Block>>,
    arena_len: usize,
}

/// Finds a place for everything; writes those of `nodes` there.
fn place(
    graph: &Graph,
    store: &Store,
    nodes: &mut [NodePlan],
    first_write: &[Option<usize>],
    readings: &[Readings],
    sizes: &Sizes<'_>,
) -> Places {
    let requests = requests(graph, store, nodes, first_write, readings, sizes);
    let (offsets, arena_len) = allocate(&requests, |len| sizes.footprint(len));
    let mut blocks = requests.iter().zip(&offsets).map(|(r, &offset)| Block { offset, len: r.len });
    let mut next = |wanted: bool| if wanted { blocks.next().expect("one block per request") } else { Block::default() };

    // The same order as in `requests`.
    let values: Vec<Block> = graph.values.iter().map(|_| next(true)).collect();
    let grads = first_write.iter().map(|write| write.map(|_| next(true))).collect();
    for plan in &mut *nodes {
        plan.saved = next(plan.differentiated && plan.needs.saved > 0);
        plan.forward_workspace = next(plan.needs.forward_workspace > 0);
        plan.backward_workspace = next(plan.differentiated && plan.needs.backward_workspace > 0);
        plan.turned_gradient = next(plan.turns_gradient());
    }
    let turned: HashMap<ParamId, Block> = turned_weights(graph, nodes).map(|id| (id, next(true))).collect();
    for (node, plan) in graph.nodes.iter().zip(&mut *nodes).filter(|(_, plan)| plan.turns_weight()) {
        plan.turned_weight = turned[&node.attachments.params[0]];
    }
    let mut backward_values = values.clone();
    for i in run_again(nodes) {
        backward_values[graph.nodes[i].output.0] = next(true);
    }
    Places { values, backward_values, grads, arena_len }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::op;
    use crate::engine::shape::Shape;
    use crate::engine::store::Group;

    #[test]
    fn evaluations_keep_packed_weights_up_to_a_limit() {
        let kept = |mode| {
            let (mut graph, mut store) = (Graph::new(mode), Store::of_shapes());
            let mut x = graph.input(Shape::vectors(1, 1 << 13));
            for (name, inputs, outputs) in [("a", 1 << 13, 1 << 12), ("b", 1 << 12, 1 << 14), ("c", 1 << 14, 16)] {
                let weight = store.add_param(name.into(), &[outputs, inputs, 1, 1], Layout::Conv, Group::Head);
                x = op::linear(&mut graph, &store, x, weight, None).unwrap();
            }
            let plan = Plan::new(&graph, &store, None).unwrap();
            plan.nodes.iter().map(|node| node.keeps_workspace).collect::<Vec<_>>()
        };
        // 32, 64 and 0.25 Mi words, of which 56 Mi fit.
        assert_eq!(kept(Mode::Eval), [true, false, true]);
        assert_eq!(kept(Mode::Train), [false; 3]);
    }
}
