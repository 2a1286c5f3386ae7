//! Runs a plan on the CPU: ops get slices of one arena.

use std::ops::Range;

use super::work::{self, Part, RangeName};
use crate::Result;
use crate::base::{memory, profile};
use crate::engine::graph::{Backward, Forward, Grad, Graph, Recompute, Var};
use crate::engine::latent_state::LatentStates;
use crate::engine::plan::{Block, GradWrite, Plan};
use crate::engine::precision::Precision;
use crate::engine::store::{Buffer, Store};

/// A cache line of the arena, so that every block is aligned for vector loads.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// One allocation that all blocks of a plan share.
pub(super) struct Arena {
    lines: Vec<Line>,
    precision: Precision,
    /// Version of the parameters whose scratch memory is kept ([`NodePlan::keeps_workspace`](crate::engine::plan::NodePlan)).
    prepared: Option<u64>,
}

impl Arena {
    /// Allocates the arena of `plan`, whose convolutions compute in `precision`.
    ///
    /// # Errors
    /// It is larger than the available memory.
    pub(super) fn new(plan: &Plan, precision: Precision) -> Result<Arena> {
        let (purpose, len) = ("the memory for activations and gradients", plan.arena_len.div_ceil(16));
        let advice = "use smaller batches, smaller images or a smaller network";
        memory::ensure_or(purpose, plan.arena_bytes() as u64, advice)?;
        let mut lines = memory::reserved(purpose, len)?;
        lines.resize(len, Line([0.0; 16]));
        Ok(Arena { lines, precision, prepared: None })
    }

    fn base(&mut self) -> ArenaPtr {
        ArenaPtr { data: self.lines.as_mut_ptr().cast(), len: self.lines.len() * 16 }
    }

    pub(crate) fn slice_mut(&mut self, block: Block) -> &mut [f32] {
        // SAFETY: `&mut self`: no other slice of the arena is alive.
        unsafe { self.base().get_mut(block) }
    }

    pub(super) fn slice(&self, block: Block) -> &[f32] {
        // SAFETY: `Line` is 16 f32 without padding; the view covers exactly the allocation.
        let all = unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast::<f32>(), self.lines.len() * 16) };
        &all[block.offset..block.offset + block.len]
    }

    /// Runs all nodes.
    pub(super) fn forward(&mut self, graph: &Graph, plan: &Plan, store: &mut Store, states: &mut LatentStates) {
        let _forward = profile::range("forward");
        let blocks = plan;
        let base = self.base();
        let prepared = self.is_prepared(store);
        for (i, (node, plan)) in graph.nodes.iter().zip(&plan.nodes).enumerate() {
            let _op = profile::range(RangeName { op: node.op.name(), node: i, part: Part::Forward });
            let attached = &node.attachments;
            let Store { params, values, buffers, .. } = store;
            let ids: Vec<usize> = attached.buffers.iter().map(|id| id.0).collect();
            // SAFETY: blocks that are alive at the same time do not overlap in the plan. The inputs, the output, the saved block and
            // the workspace are all alive at this node, and the inputs differ from each other (`Graph::push`).
            unsafe {
                node.op.forward(&mut Forward {
                    precision: self.precision,
                    inputs: node.inputs.iter().map(|v| base.get(blocks.values[v.0])).collect(),
                    params: attached.params.iter().map(|id| &values[params[id.0].range.clone()]).collect(),
                    buffers: pick_mut(buffers, &ids),
                    state: attached.state.map(|id| states.step(id)),
                    output: base.get_mut(blocks.values[node.output.0]),
                    saved: base.get_mut(plan.saved),
                    workspace: base.get_mut(plan.forward_workspace),
                    workspace_is_ready: plan.keeps_workspace && prepared,
                });
            }
        }
        self.prepared = Some(store.values.version());
    }

    /// Returns whether the kept scratch memory is that of the parameters of `store`.
    fn is_prepared(&self, store: &Store) -> bool {
        self.prepared == Some(store.values.version())
    }

    /// Runs the differentiated nodes in reverse.
    pub(super) fn backward(&mut self, graph: &Graph, plan: &Plan, store: &mut Store, states: &LatentStates) {
        let _backward = profile::range("backward");
        let blocks = plan;
        let base = self.base();
        for (i, (node, plan)) in graph.nodes.iter().zip(&plan.nodes).enumerate().rev() {
            if !plan.differentiated {
                continue;
            }
            for &again in &plan.again_before {
                self.recompute(graph, blocks, again, store);
            }
            let range = |part| profile::range(RangeName { op: node.op.name(), node: i, part });
            let _op = range(Part::Backward);
            let Store { params, values, grads, buffers, .. } = store;
            let attached = &node.attachments;
            let ranges: Vec<_> = attached.params.iter().map(|id| params[id.0].range.clone()).collect();
            let kept = |i: usize| {
                if plan.needs.inputs[i] { blocks.backward_values[node.inputs[i].0] } else { Block::default() }
            };
            let output = if plan.needs.output { blocks.backward_values[node.output.0] } else { Block::default() };
            for part in work::backward_parts(node, plan) {
                let _part = (part != Part::Backward).then(|| range(part));
                let grad_params = split_mut(grads, &ranges);
                // SAFETY: as in `forward`. Gradients are blocks of their own that are alive together with all that this node reads, and
                // distinct inputs have distinct gradients.
                unsafe {
                    node.op.backward(&mut Backward {
                        precision: self.precision,
                        inputs: (0..node.inputs.len()).map(|i| base.get(kept(i))).collect(),
                        params: ranges.iter().map(|range| &values[range.clone()]).collect(),
                        buffers: attached.buffers.iter().map(|id| &buffers[id.0].values[..]).collect(),
                        prev_state: attached.state.map_or(&[], |id| states.previous(id)),
                        output: base.get(output),
                        grad_output: base.get(blocks.grads[node.output.0].expect("reached by a root")),
                        grad_inputs: (node.inputs.iter().zip(&plan.grad_inputs))
                            .map(|(v, &write)| {
                                grad(part.of_input(write), || {
                                    base.get_mut(blocks.grads[v.0].expect("planned with its writers"))
                                })
                            })
                            .collect(),
                        grad_params: (grad_params.into_iter().zip(&plan.grad_params))
                            .map(|(data, &write)| grad(part.of_param(write), || data))
                            .collect(),
                        saved: base.get_mut(plan.saved),
                        workspace: base.get_mut(plan.backward_workspace),
                    });
                }
            }
        }
    }

    /// Computes the output of node number `i` again, before the first node in backward that reads it.
    fn recompute(&mut self, graph: &Graph, plan: &Plan, i: usize, store: &Store) {
        let (node, blocks, plan) = (&graph.nodes[i], plan, &plan.nodes[i]);
        let _op = profile::range(RangeName { op: node.op.name(), node: i, part: Part::Recompute });
        let base = self.base();
        // SAFETY: as in `forward`: all these blocks are alive now in the plan, and the inputs are those that forward read.
        unsafe {
            node.op.recompute(&mut Recompute {
                inputs: node.inputs.iter().map(|v| base.get(blocks.backward_values[v.0])).collect(),
                params: node
                    .attachments
                    .params
                    .iter()
                    .map(|id| &store.values[store.param(*id).range.clone()])
                    .collect(),
                saved: base.get(plan.saved),
                output: base.get_mut(blocks.backward_values[node.output.0]),
            });
        }
    }

    /// Fills everything with NaN but the inputs and the scratch memory that the next forward with the parameters of `store` uses again.
    pub(crate) fn poison(&mut self, graph: &Graph, plan: &Plan, store: &Store) {
        let prepared = self.is_prepared(store);
        let inputs = (0..graph.values.len()).filter(|&i| graph.is_input(Var(i))).map(|i| plan.values[i]);
        let workspaces =
            plan.nodes.iter().filter(|node| prepared && node.keeps_workspace).map(|node| node.forward_workspace);
        let kept: Vec<(Block, Vec<f32>)> =
            inputs.chain(workspaces).map(|block| (block, self.slice(block).to_vec())).collect();
        self.lines.fill(Line([f32::NAN; 16]));
        kept.into_iter().for_each(|(block, data)| self.slice_mut(block).copy_from_slice(&data));
    }
}

/// The address and length of the arena during a step.
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

fn grad<'a>(write: GradWrite, data: impl FnOnce() -> &'a mut [f32]) -> Option<Grad<'a>> {
    (write != GradWrite::Skip).then(|| Grad { data: data(), accumulate: write == GradWrite::Accumulate })
}

/// Returns the disjoint `ranges` of `data` as mutable slices.
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

fn pick_mut<'a>(buffers: &'a mut [Buffer], ids: &[usize]) -> Vec<&'a mut [f32]> {
    let mut picked: Vec<Option<&mut [f32]>> = ids.iter().map(|_| None).collect();
    for (i, buffer) in buffers.iter_mut().enumerate() {
        if let Some(slot) = ids.iter().position(|&id| id == i) {
            picked[slot] = Some(&mut buffer.values);
        }
    }
    picked.into_iter().map(|b| b.expect("a buffer of the store, named once")).collect()
}

#[cfg(test)]
mod tests {
    use crate::base::rng::{Purpose, stream};
    use crate::engine::device::Device;
    use crate::engine::graph::{Graph, Mode};
    use crate::engine::latent_state::{LatentStates, StateInit};
    use crate::engine::op::{self, BatchNorm, OpCase, cases};
    use crate::engine::plan::Plan;
    use crate::engine::session::{CaseRun, Memory, Session};
    use crate::engine::shape::Shape;
    use crate::engine::store::{Group, Layout, Store};
    use rand::RngExt;

    /// Returns whether the next forward would use kept scratch memory.
    fn is_prepared(run: &CaseRun) -> bool {
        let Memory::Host(arena) = &run.session.memory else { unreachable!("cases run on the CPU") };
        arena.is_prepared(&run.store)
    }

    fn bits(run: &mut CaseRun) -> Vec<u32> {
        run.forward().unwrap().iter().map(|v| v.to_bits()).collect()
    }

    #[test]
    fn an_evaluation_uses_packed_weights_again_until_a_parameter_changes() {
        let mut keeping = 0;
        for case in cases().iter().filter(|case| !case.params.is_empty()) {
            let new = |case: &OpCase| CaseRun::new(case, Mode::Eval).poisoned();
            let change = |run: &mut CaseRun| run.store.value_mut(run.params[0])[0] += 0.5;
            let (mut run, mut changed) = (new(case), new(case));
            keeping += usize::from(run.session.plan().nodes.iter().any(|node| node.keeps_workspace));
            assert!(!is_prepared(&run), "{}", case.name);
            let first = bits(&mut run);
            assert!(is_prepared(&run), "{}", case.name);
            assert_eq!(bits(&mut run), first, "{}", case.name);
            change(&mut run);
            assert!(!is_prepared(&run), "{}", case.name);
            change(&mut changed);
            let want = bits(&mut changed);
            assert!(want != first, "{}", case.name);
            assert_eq!(bits(&mut run), want, "{}", case.name);
        }
        assert!(keeping > 5, "{keeping} cases with convolutions");
    }

    /// Trains a chain of eight blocks, of which seven have residuals, and a concatenation for one step. Values are computed again if the
    /// arena would have more than `ample` words. Returns all gradients, the words of the arena, and how many outputs were computed again.
    fn step_of_a_chain(ample: usize) -> (Vec<u32>, usize, usize) {
        const CHANNELS: usize = 16;
        let (mut graph, mut store) = (Graph::new(Mode::Train), Store::new());
        let norm = |store: &mut Store, i: usize| BatchNorm {
            weight: store.add_param(format!("weight{i}"), &[CHANNELS], Layout::Plain, Group::Head),
            bias: store.add_param(format!("bias{i}"), &[CHANNELS], Layout::Plain, Group::Head),
            running_mean: store.add_buffer(format!("mean{i}"), CHANNELS, 0.0),
            running_var: store.add_buffer(format!("var{i}"), CHANNELS, 1.0),
            num_batches_tracked: store.add_counter(format!("batches{i}")),
            eps: 1e-5,
            momentum: 0.1,
        };
        let conv = |store: &mut Store, i: usize, inputs: usize| {
            store.add_param(format!("conv{i}"), &[CHANNELS, inputs, 3, 3], Layout::Conv, Group::Head)
        };
        let images = graph.input_with_grad(Shape::new(2, 6, 5, 3));
        let mut x = images;
        let mut blocks = Vec::new();
        for i in 0..8 {
            let weight = conv(&mut store, i, if i == 0 { 3 } else { CHANNELS });
            let norm = norm(&mut store, i);
            let y = op::conv2d(&mut graph, &store, x, weight, None, [1, 1], [1, 1]).unwrap();
            let residual = (i > 0).then_some(x);
            x = op::batch_norm(&mut graph, &store, y, &norm, residual, true).unwrap();
            blocks.push(x);
        }
        let both = op::concat(&mut graph, &[blocks[1], x]).unwrap();
        let weight = conv(&mut store, 8, 2 * CHANNELS);
        let y = op::conv2d(&mut graph, &store, both, weight, None, [1, 1], [1, 1]).unwrap();
        graph.root(y);

        let mut rng = stream(3, Purpose::Test, 0, 0);
        let mut numbers = |len: usize| -> Vec<f32> { (0..len).map(|_| rng.random_range(-0.5..0.5)).collect() };
        let drawn = numbers(store.values.len());
        store.values.copy_from_slice(&drawn);
        let plan = Plan::with_ample(ample, &graph, &store, None).unwrap();
        let mut session = Session::with_plan(graph, plan, &store, &Device::cpu()).unwrap().poisoned();
        session.set(images, &numbers(2 * 6 * 5 * 3)).unwrap();
        let mut states = LatentStates::new(StateInit::Zeros, 0);
        session.forward(&mut store, &mut states).unwrap();
        session.set_grad(y, &numbers(2 * 6 * 5 * CHANNELS)).unwrap();
        session.backward(&mut store, &mut states).unwrap();
        let of_images = session.grad(images).unwrap();
        let gradients = store.grads.iter().chain(of_images.iter()).map(|v| v.to_bits()).collect();
        let plan = session.plan();
        (gradients, plan.arena_len, plan.nodes.iter().map(|node| node.again_before.len()).sum())
    }

    #[test]
    fn outputs_that_are_computed_again_give_the_same_gradients_in_less_memory() {
        let (gradients, words, again) = step_of_a_chain(0);
        let (kept_gradients, kept_words, kept_again) = step_of_a_chain(usize::MAX);
        assert_eq!(gradients, kept_gradients);
        assert!(gradients.iter().all(|&bits| f32::from_bits(bits).is_finite()));
        // Four blocks, not the fifth, three more, and the concatenation.
        assert_eq!((again, kept_again), (8, 0));
        assert!(words < kept_words, "{words} and {kept_words}");
    }
}
