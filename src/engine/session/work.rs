//! What each node has to do: floating-point operations, and the bytes that it must move at least. Profiles compare its time with them.

use std::fmt;

use super::Session;
use crate::engine::graph::{Node, Var};
use crate::engine::plan::{GradWrite, NodePlan};
use crate::engine::shape::Shape;
use crate::engine::store::{ParamId, Store};

/// Bytes of a word of the arena.
const WORD: u64 = 4;

/// What a node computes in one call of its op on the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The output.
    Forward,
    /// The output once more, for backward.
    Recompute,
    /// All gradients, in one call.
    Backward,
    /// The gradients of the inputs.
    InputGradient,
    /// The gradients of the parameters.
    ParamGradient,
}

/// The work of a node in one call of its op.
#[derive(Clone, Debug)]
pub struct Work {
    /// Index of the node in the graph.
    pub node: usize,
    /// Name of its op.
    pub op: &'static str,
    /// What it computes.
    pub part: Part,
    /// Shapes of the node's inputs.
    pub inputs: Vec<Shape>,
    /// Shape of the node's output.
    pub output: Shape,
    /// The node's parameters.
    pub params: Vec<ParamId>,
    /// Floating-point operations; 0 where they do not matter.
    pub flops: u64,
    /// Bytes that are read or written, if each is moved once: all that the call reads (inputs, parameters, output, what forward saved, latent
    /// state, gradient of the output) and writes. A gradient that is added to another one is read and written.
    pub bytes: u64,
}

/// The name of a node's range in profiles.
pub(super) struct RangeName {
    pub op: &'static str,
    pub node: usize,
    pub part: Part,
}

impl Part {
    /// Returns the name for tables.
    pub fn name(self) -> &'static str {
        match self {
            Part::Forward => "forward",
            Part::Recompute => "forward again",
            Part::Backward => "backward",
            Part::InputGradient => "input gradient",
            Part::ParamGradient => "parameter gradient",
        }
    }

    /// Returns what this part of backward does with an input's gradient, for which `write` is planned.
    pub(super) fn of_input(self, write: GradWrite) -> GradWrite {
        if self == Part::ParamGradient { GradWrite::Skip } else { write }
    }

    /// Returns what this part of backward does with a parameter's gradient, for which `write` is planned.
    pub(super) fn of_param(self, write: GradWrite) -> GradWrite {
        if self == Part::InputGradient { GradWrite::Skip } else { write }
    }
}

impl Work {
    /// Returns the name of the range that is open while a session on the CPU does this work.
    pub fn range(&self) -> String {
        RangeName { op: self.op, node: self.node, part: self.part }.to_string()
    }
}

impl fmt::Display for RangeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.op, self.node)?;
        if self.part == Part::Forward { Ok(()) } else { write!(f, " {}", self.part.name()) }
    }
}

/// Returns the calls of the op in backward, in their order.
pub(super) fn backward_parts(node: &Node, plan: &NodePlan) -> Vec<Part> {
    if !node.op.gradients_are_apart() {
        return vec![Part::Backward];
    }
    let written = |writes: &[GradWrite]| writes.iter().any(|write| *write != GradWrite::Skip);
    let inputs = written(&plan.grad_inputs).then_some(Part::InputGradient);
    inputs.into_iter().chain(written(&plan.grad_params).then_some(Part::ParamGradient)).collect()
}

/// Returns how often a gradient is moved.
fn moves(write: GradWrite) -> u64 {
    match write {
        GradWrite::Skip => 0,
        GradWrite::Overwrite => 1,
        GradWrite::Accumulate => 2,
    }
}

impl Session {
    /// Returns the work of forward and of backward on the CPU, in the order in which it is done.
    pub fn work(&self, store: &Store) -> Vec<Work> {
        let nodes = || self.graph.nodes.iter().zip(&self.plan.nodes).enumerate();
        let forward = nodes().map(|(i, _)| (i, Part::Forward));
        let differentiated = nodes().rev().filter(|(_, (_, plan))| plan.differentiated);
        let backward = differentiated.flat_map(|(i, (node, plan))| {
            let again = plan.again_before.iter().map(|&again| (again, Part::Recompute));
            again.chain(backward_parts(node, plan).into_iter().map(move |part| (i, part)))
        });
        forward.chain(backward).map(|(i, part)| self.work_of(i, part, store)).collect()
    }

    /// Returns the work of a part of a node.
    fn work_of(&self, i: usize, part: Part, store: &Store) -> Work {
        let node = &self.graph.nodes[i];
        let (passes, words) = match part {
            Part::Forward | Part::Recompute => (1, self.forward_words(i, store)),
            _ => {
                let gradients = self.gradient_words(i, part, store);
                let computed = gradients.iter().filter(|words| **words > 0).count() as u64;
                (computed, self.read_words(i, part, store) + gradients.iter().sum::<u64>())
            }
        };
        Work {
            node: i,
            op: node.op.name(),
            part,
            inputs: node.inputs.iter().map(|var| self.graph.shape(*var)).collect(),
            output: self.graph.shape(node.output),
            params: node.attachments.params.clone(),
            flops: passes * node.op.flops(),
            bytes: WORD * words,
        }
    }

    /// Returns the words that forward reads and writes.
    fn forward_words(&self, i: usize, store: &Store) -> u64 {
        let node = &self.graph.nodes[i];
        let inputs: u64 = node.inputs.iter().map(|var| self.words(*var)).sum();
        let written = self.words(node.output) + self.plan.nodes[i].saved.len as u64;
        inputs + self.param_words(i, store) + written + 2 * self.state_words(i)
    }

    /// Returns the words that a part of backward reads.
    fn read_words(&self, i: usize, part: Part, store: &Store) -> u64 {
        let (node, plan) = (&self.graph.nodes[i], &self.plan.nodes[i]);
        let kept = node.inputs.iter().zip(&plan.needs.inputs).filter(|(_, kept)| **kept);
        let inputs = if part == Part::InputGradient { 0 } else { kept.map(|(var, _)| self.words(*var)).sum() };
        let params = if part == Part::ParamGradient { 0 } else { self.param_words(i, store) };
        let output = if plan.needs.output { self.words(node.output) } else { 0 };
        let grad_output = self.words(node.output);
        grad_output + inputs + params + output + plan.saved.len as u64 + self.state_words(i)
    }

    /// Returns the words that are moved to write the gradients of the inputs, and those of the parameters.
    fn gradient_words(&self, i: usize, part: Part, store: &Store) -> [u64; 2] {
        let (node, plan) = (&self.graph.nodes[i], &self.plan.nodes[i]);
        let inputs = node.inputs.iter().zip(&plan.grad_inputs);
        let params = node.attachments.params.iter().zip(&plan.grad_params);
        [
            inputs.map(|(var, &write)| moves(part.of_input(write)) * self.words(*var)).sum(),
            params.map(|(id, &write)| moves(part.of_param(write)) * store.param(*id).range.len() as u64).sum(),
        ]
    }

    /// Returns the words of an activation; its gradient has as many.
    fn words(&self, var: Var) -> u64 {
        self.plan.values[var.0].len as u64
    }

    /// Returns the words of a node's parameters.
    fn param_words(&self, i: usize, store: &Store) -> u64 {
        self.graph.nodes[i].attachments.params.iter().map(|id| store.param(*id).range.len() as u64).sum()
    }

    /// Returns the words of a node's latent state.
    fn state_words(&self, i: usize) -> u64 {
        let node = &self.graph.nodes[i];
        let slot = node.attachments.state.map_or(0, |id| self.graph.states[id.0].slot.len());
        (slot * self.graph.shape(node.output).n / self.graph.state_steps) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::profile;
    use crate::engine::device::Device;
    use crate::engine::graph::{Graph, Mode};
    use crate::engine::latent_state::{LatentStates, StateInit};
    use crate::engine::op;
    use crate::engine::store::{Group, Layout};

    const IMAGES: Shape = Shape::new(2, 2, 2, 3);

    /// Returns a store with one convolution from 3 to `out` channels.
    fn store(out: usize) -> (Store, ParamId) {
        let mut store = Store::new();
        let weight = store.add_param("weight".into(), &[out, 3, 1, 1], Layout::Conv, Group::Head);
        (store, weight)
    }

    /// Returns `relu(conv(x)) + conv(x)`, from 24 to 32 numbers by 12 parameters.
    fn session(graph: Graph, images: Var) -> (Session, Store) {
        let (mut graph, (store, weight)) = (graph, store(4));
        let x = op::conv2d(&mut graph, &store, images, weight, None, [1, 1], [0, 0]).unwrap();
        let y = op::relu(&mut graph, x).unwrap();
        let sum = op::add(&mut graph, x, y).unwrap();
        graph.root(sum);
        (Session::new(graph, &store, &Device::cpu()).unwrap(), store)
    }

    /// Returns range, operations and words of each piece of work.
    fn listed(session: &Session, store: &Store) -> Vec<(String, u64, u64)> {
        session.work(store).iter().map(|work| (work.range(), work.flops, work.bytes / 4)).collect()
    }

    fn want(lines: &[(&str, u64, u64)]) -> Vec<(String, u64, u64)> {
        lines.iter().map(|&(range, flops, words)| (range.into(), flops, words)).collect()
    }

    #[test]
    fn operations_and_bytes_are_those_of_the_formulas() {
        let mut graph = Graph::new(Mode::Train);
        let images = graph.input_with_grad(IMAGES);
        let (session, store) = session(graph, images);
        // A product of 8 pixels by 3 by 4 channels. The gradient of x is written by the sum, then relu adds to it.
        let lines = [
            ("conv2d 0", 192, 24 + 12 + 32),
            ("relu 1", 0, 32 + 32),
            ("add 2", 0, 32 + 32 + 32),
            ("add 2 backward", 0, 32 + 32 + 32),
            ("relu 1 backward", 0, 32 + 32 + 2 * 32),
            ("conv2d 0 input gradient", 192, 32 + 12 + 24),
            ("conv2d 0 parameter gradient", 192, 32 + 24 + 12),
        ];
        assert_eq!(listed(&session, &store), want(&lines));
        let work = &session.work(&store)[0];
        assert_eq!((&work.inputs[..], work.output, work.params.len()), (&[IMAGES][..], Shape::new(2, 2, 2, 4), 1));
    }

    #[test]
    fn images_have_no_gradient_and_an_evaluation_has_no_backward() {
        let of = |mode| {
            let mut graph = Graph::new(mode);
            let images = graph.input(IMAGES);
            let (session, store) = session(graph, images);
            session.work(&store).iter().map(|work| (work.node, work.part)).collect::<Vec<_>>()
        };
        let forward = [0, 1, 2].map(|node| (node, Part::Forward));
        let backward = [(2, Part::Backward), (1, Part::Backward), (0, Part::ParamGradient)];
        assert_eq!(of(Mode::Train), [forward, backward].concat());
        assert_eq!(of(Mode::Eval), forward);
    }

    #[test]
    fn a_cell_moves_its_latent_state_and_in_training_its_gates() {
        let listed = |mode| {
            let (mut graph, (store, weight)) = (Graph::new(mode), store(8));
            let images = graph.input_with_grad(IMAGES);
            let y = op::bconv_cell(&mut graph, &store, "cell", images, weight, [1, 1], [0, 0]).unwrap();
            graph.root(y);
            listed(&Session::new(graph, &store, &Device::cpu()).unwrap(), &store)
        };
        let backward = ("bconv_cell 0 backward", 2 * 384, 16 + 24 + 24 + 64 + 16 + 24 + 24);
        assert_eq!(listed(Mode::Train), want(&[("bconv_cell 0", 384, 24 + 24 + 16 + 64 + 2 * 16), backward]));
        assert_eq!(listed(Mode::Eval), want(&[("bconv_cell 0", 384, 24 + 24 + 16 + 2 * 16)]));
    }

    #[test]
    fn a_step_opens_the_range_of_each_piece_of_work_once_and_in_order() {
        let mut graph = Graph::new(Mode::Train);
        let images = graph.input_with_grad(IMAGES);
        let (mut session, mut store) = session(graph, images);
        let mut states = LatentStates::new(StateInit::Zeros, 0);
        let (result, spans) = profile::record(|| {
            session.forward(&mut store, &mut states)?;
            session.backward(&mut store, &mut states)
        });
        result.unwrap();
        let work: Vec<String> = session.work(&store).iter().map(Work::range).collect();
        let around = ["forward", "conv2d 0 backward", "backward"];
        let names: Vec<String> = spans.into_iter().map(|span| span.name).collect();
        assert_eq!(
            names.iter().filter(|name| !around.contains(&name.as_str())).collect::<Vec<_>>(),
            work.iter().collect::<Vec<_>>()
        );
        assert_eq!(names.len(), work.len() + around.len(), "{names:?}");
    }
}
