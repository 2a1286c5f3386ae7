//! Plans a graph: which gradients are computed, which op writes a gradient first and which ones add to it, and the place of everything in
//! one arena.
//!
//! Time is counted in nodes. Of n nodes, node i runs forward at time `i` and backward at time `2n - 1 - i`. A block of memory
//! is alive from its first write to its last read; blocks that are never alive at the same time may share addresses.

use crate::Result;
use crate::engine::device::Gpu;
use crate::engine::graph::{Graph, Mode, Needs, Value};
use crate::engine::store::Store;

/// The offset of a block is a multiple of this many words: a cache line of the CPU; on a GPU the 256 bytes to which its driver aligns
/// memory, and which libraries expect of a workspace.
const HOST_ALIGNMENT: usize = 16;
const GPU_ALIGNMENT: usize = 64;
/// The most words of scratch memory (224 MiB) that a plan keeps from one run of an evaluation to the next. They hold packed weights.
const KEPT: usize = 56 << 20;
/// Words behind each block on a GPU, which tests check for writes beyond the block's end (`Session::poisoned`).
const GUARD: usize = 16;

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
    pub grad_inputs: Vec<GradWrite>,
    pub grad_params: Vec<GradWrite>,
    pub saved: Block,
    pub forward_workspace: Block,
    /// Whether forward's scratch memory is kept from run to run: nothing else gets it.
    pub keeps_workspace: bool,
    pub backward_workspace: Block,
}

/// Where everything lies in the arena, and which gradients each node writes.
#[derive(Debug)]
pub struct Plan {
    pub(crate) values: Vec<Block>,
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

    /// Returns the words that a block of `len` words takes, with those that are kept free behind it.
    fn footprint(&self, len: usize) -> usize {
        match self.gpu {
            None => len.next_multiple_of(HOST_ALIGNMENT),
            Some(_) => guarded_end(len).next_multiple_of(GPU_ALIGNMENT),
        }
    }
}

/// The length and the lifetime of a block; `from` and `to` are included.
struct Request {
    len: usize,
    from: usize,
    to: usize,
}

impl Plan {
    /// Plans `graph` with the parameters of `store`, some of which may be frozen, for the CPU or a GPU.
    ///
    /// # Errors
    /// The GPU cannot run one of the ops.
    pub fn new(graph: &Graph, store: &Store, gpu: Option<&Gpu>) -> Result<Plan> {
        let sizes = Sizes { gpu };
        let count = graph.nodes.len();
        let backward_time = |node: usize| 2 * count - 1 - node;
        let differentiable = graph.mode != Mode::Eval;

        let mut needs_grad: Vec<bool> = graph.values.iter().map(|v| differentiable && v.requires_grad).collect();
        let mut nodes = Vec::with_capacity(count);
        for node in &graph.nodes {
            let trainable = |p: &crate::engine::store::ParamId| store.param(*p).trainable;
            let differentiated = differentiable
                && (node.inputs.iter().any(|v| needs_grad[v.0]) || node.attachments.params.iter().any(trainable));
            needs_grad[node.output.0] = differentiated;
            let needs = gpu.map_or_else(|| Ok(node.op.needs()), |gpu| node.op.gpu_needs(gpu))?;
            // Lifetimes follow from these flags. Without a flag for an input, the output could get the input's memory.
            assert_eq!(needs.inputs.len(), node.inputs.len(), "`Needs::inputs` of {}", node.op.name());
            nodes.push(NodePlan {
                needs,
                differentiated,
                grad_inputs: Vec::new(),
                grad_params: Vec::new(),
                saved: Block::default(),
                forward_workspace: Block::default(),
                keeps_workspace: false,
                backward_workspace: Block::default(),
            });
        }

        let mut room = if graph.mode == Mode::Eval { KEPT } else { 0 };
        for NodePlan { needs, keeps_workspace, .. } in &mut nodes {
            *keeps_workspace = needs.reusable_workspace && needs.forward_workspace <= room;
            room -= if *keeps_workspace { needs.forward_workspace } else { 0 };
        }

        // Gradients come from roots only, so nodes from which no root can be reached take no part in backward.
        let mut reached: Vec<bool> = graph.values.iter().map(|v| v.root).collect();
        for (i, node) in graph.nodes.iter().enumerate().rev() {
            nodes[i].differentiated &= reached[node.output.0];
            if nodes[i].differentiated {
                node.inputs.iter().for_each(|v| reached[v.0] |= needs_grad[v.0]);
            }
        }

        let mut first_write: Vec<Option<usize>> =
            graph.values.iter().map(|v| (v.root && differentiable).then_some(count)).collect();
        let mut param_written = vec![false; store.params.len()];
        for (i, node) in graph.nodes.iter().enumerate().rev() {
            let plan = &mut nodes[i];
            for var in &node.inputs {
                plan.grad_inputs.push(if !plan.differentiated || !needs_grad[var.0] {
                    GradWrite::Skip
                } else if first_write[var.0].is_some() {
                    GradWrite::Accumulate
                } else {
                    first_write[var.0] = Some(backward_time(i));
                    GradWrite::Overwrite
                });
            }
            for id in &node.attachments.params {
                plan.grad_params.push(if !plan.differentiated || !store.param(*id).trainable {
                    GradWrite::Skip
                } else if std::mem::replace(&mut param_written[id.0], true) {
                    GradWrite::Accumulate
                } else {
                    GradWrite::Overwrite
                });
            }
        }

        let (requests, slots) = requests(graph, &nodes, &first_write, &sizes);
        let (offsets, arena_len) = allocate(&requests, |len| sizes.footprint(len));
        let mut blocks = requests.iter().zip(&offsets).map(|(r, &offset)| Block { offset, len: r.len });
        let mut next =
            |wanted: bool| if wanted { blocks.next().expect("one block per request") } else { Block::default() };

        // The same order as in `requests`.
        let values = graph.values.iter().map(|_| next(true)).collect();
        let grads = slots.iter().map(|&wanted| wanted.then(|| next(true))).collect();
        for plan in &mut nodes {
            plan.saved = next(plan.differentiated && plan.needs.saved > 0);
            plan.forward_workspace = next(plan.needs.forward_workspace > 0);
            plan.backward_workspace = next(plan.differentiated && plan.needs.backward_workspace > 0);
        }
        Ok(Plan { values, grads, nodes, param_written, arena_len })
    }

    /// Returns the size of the arena, bytes.
    pub fn arena_bytes(&self) -> usize {
        self.arena_len.saturating_mul(size_of::<f32>())
    }
}

/// Returns the requests for every value, for every gradient that is needed, and for the saved and scratch memory of each node. The second
/// result says for each value whether its gradient is needed.
fn requests(
    graph: &Graph,
    nodes: &[NodePlan],
    first_write: &[Option<usize>],
    sizes: &Sizes<'_>,
) -> (Vec<Request>, Vec<bool>) {
    let count = graph.nodes.len();
    let backward_time = |node: usize| 2 * count - 1 - node;
    let end = 2 * count;
    let mut last_use = vec![0; graph.values.len()];
    let mut born = vec![0; graph.values.len()];
    let mut grad_end = vec![end; graph.values.len()];
    for (i, (node, plan)) in graph.nodes.iter().zip(nodes).enumerate() {
        born[node.output.0] = i;
        last_use[node.output.0] = if plan.differentiated && plan.needs.output { backward_time(i) } else { i };
        for (var, &kept) in node.inputs.iter().zip(&plan.needs.inputs) {
            let time = if plan.differentiated && kept { backward_time(i) } else { i };
            last_use[var.0] = last_use[var.0].max(time);
        }
        if plan.differentiated {
            grad_end[node.output.0] = backward_time(i);
        }
    }
    let mut requests = Vec::new();
    for (i, value) in graph.values.iter().enumerate() {
        let to = if value.keep { end } else { last_use[i] };
        requests.push(Request { len: sizes.words(value), from: born[i], to });
    }
    let mut wanted = Vec::new();
    for (i, value) in graph.values.iter().enumerate() {
        wanted.push(first_write[i].is_some());
        if let Some(from) = first_write[i] {
            requests.push(Request { len: sizes.words(value), from, to: grad_end[i] });
        }
    }
    for (i, plan) in nodes.iter().enumerate() {
        let (needs, back) = (&plan.needs, backward_time(i));
        if plan.differentiated && needs.saved > 0 {
            requests.push(Request { len: needs.saved, from: i, to: back });
        }
        if needs.forward_workspace > 0 {
            let (from, to) = if plan.keeps_workspace { (0, end) } else { (i, i) };
            requests.push(Request { len: needs.forward_workspace, from, to });
        }
        if plan.differentiated && needs.backward_workspace > 0 {
            requests.push(Request { len: needs.backward_workspace, from: back, to: back });
        }
    }
    (requests, wanted)
}

/// Returns an offset for each request, and the arena's length. Places the largest request first, each in the lowest gap that is free during
/// its lifetime. `footprint(len)` is what a block of `len` words takes.
fn allocate(requests: &[Request], footprint: impl Fn(usize) -> usize) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(requests[i].len), requests[i].from, i));
    let mut offsets = vec![0; requests.len()];
    let mut placed: Vec<usize> = Vec::new(); // by offset
    let mut arena_len = 0;
    for i in order {
        let request = &requests[i];
        let len = footprint(request.len);
        let mut offset = 0;
        for &other in &placed {
            let o = &requests[other];
            if o.to < request.from || request.to < o.from {
                continue;
            }
            if offset + len <= offsets[other] {
                break;
            }
            offset = offset.max(offsets[other] + footprint(o.len));
        }
        offsets[i] = offset;
        arena_len = arena_len.max(offset + len);
        let position = placed.partition_point(|&p| offsets[p] <= offset);
        placed.insert(position, i);
    }
    (offsets, arena_len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::{Purpose, stream};
    use crate::engine::op;
    use crate::engine::shape::Shape;
    use crate::engine::store::{Group, Layout};
    use rand::RngExt;

    fn lifetimes(seed: u64, count: usize) -> Vec<Request> {
        let mut rng = stream(seed, Purpose::Test, 0, 0);
        (0..count)
            .map(|_| {
                let from = rng.random_range(0..40);
                Request { len: rng.random_range(1..200), from, to: from + rng.random_range(0..20) }
            })
            .collect()
    }

    #[test]
    fn blocks_alive_together_never_overlap_and_memory_is_reused() {
        for seed in 0..20 {
            let requests = lifetimes(seed, 60);
            let (offsets, arena_len) = allocate(&requests, |len| len.next_multiple_of(HOST_ALIGNMENT));
            for (i, a) in requests.iter().enumerate() {
                assert!(offsets[i] + a.len <= arena_len);
                for (j, b) in requests.iter().enumerate().skip(i + 1) {
                    let together = a.from <= b.to && b.from <= a.to;
                    let overlap = offsets[i] < offsets[j] + b.len && offsets[j] < offsets[i] + a.len;
                    assert!(!(together && overlap), "seed {seed}: {i} and {j}");
                }
            }
            assert!(arena_len < requests.iter().map(|r| r.len).sum());
        }
    }

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
