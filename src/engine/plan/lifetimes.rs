//! Says from when to when each block of a plan is alive.

use std::collections::HashSet;

use super::allocate::Request;
use super::{NodePlan, Sizes, backward_time};
use crate::engine::graph::Graph;
use crate::engine::store::{ParamId, Store};

/// When a value is read.
#[derive(Clone, Copy, Default)]
pub(super) struct Readings {
    /// The last time in forward, or the time at which it is written.
    pub forward: usize,
    /// The first and the last time in backward.
    pub backward: Option<(usize, usize)>,
}

impl Readings {
    /// Adds a reading in backward.
    pub(super) fn read_backward(&mut self, time: usize) {
        self.backward = Some(self.backward.map_or((time, time), |(first, last)| (first.min(time), last.max(time))));
    }
}

/// Returns when each value is read.
pub(super) fn readings(graph: &Graph, nodes: &[NodePlan]) -> Vec<Readings> {
    let mut readings = vec![Readings::default(); graph.values.len()];
    for (i, (node, plan)) in graph.nodes.iter().zip(nodes).enumerate().filter(|(_, (_, plan))| plan.differentiated) {
        let kept = node.inputs.iter().zip(&plan.needs.inputs).filter(|(_, kept)| **kept).map(|(var, _)| *var);
        let time = backward_time(graph, i);
        kept.chain(plan.needs.output.then_some(node.output)).for_each(|var| readings[var.0].read_backward(time));
    }
    for (i, node) in graph.nodes.iter().enumerate() {
        node.inputs.iter().chain([&node.output]).for_each(|var| readings[var.0].forward = i);
    }
    readings
}

/// Returns the requests for every value, for every gradient that is needed, for the saved and scratch memory of each node,
/// for turned weights and their gradients, and for every value that is computed again.
pub(super) fn requests(
    graph: &Graph,
    store: &Store,
    nodes: &[NodePlan],
    first_write: &[Option<usize>],
    readings: &[Readings],
    sizes: &Sizes<'_>,
) -> Vec<Request> {
    let end = 2 * graph.nodes.len();
    let mut born = vec![0; graph.values.len()];
    let mut grad_end = vec![end; graph.values.len()];
    for (i, (node, plan)) in graph.nodes.iter().zip(nodes).enumerate() {
        born[node.output.0] = i;
        if plan.differentiated {
            grad_end[node.output.0] = backward_time(graph, i);
        }
    }
    let mut again = vec![false; graph.values.len()];
    run_again(nodes).for_each(|i| again[graph.nodes[i].output.0] = true);
    let mut requests = Vec::new();
    for (i, value) in graph.values.iter().enumerate() {
        let Readings { forward, backward } = readings[i];
        let to = match backward {
            _ if value.keep => end,
            Some((_, last)) if !again[i] => last,
            _ => forward,
        };
        requests.push(Request { len: sizes.words(value), from: born[i], to });
    }
    for (i, value) in graph.values.iter().enumerate() {
        if let Some(from) = first_write[i] {
            requests.push(Request { len: sizes.words(value), from, to: grad_end[i] });
        }
    }
    for (i, (node, plan)) in graph.nodes.iter().zip(nodes).enumerate() {
        let (needs, back) = (&plan.needs, backward_time(graph, i));
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
        if plan.turns_gradient() {
            let len = sizes.turned_words(node.attachments.params[0], store);
            requests.push(Request { len, from: back, to: end });
        }
    }
    requests.extend(turned_weights(graph, nodes).map(|id| Request {
        len: sizes.turned_words(id, store),
        from: 0,
        to: end,
    }));
    for i in run_again(nodes) {
        let output = graph.nodes[i].output.0;
        let (from, to) = readings[output].backward.expect("a value that backward reads");
        requests.push(Request { len: sizes.words(&graph.values[output]), from, to });
    }
    requests
}

/// Returns the nodes whose outputs are computed again.
pub(super) fn run_again(nodes: &[NodePlan]) -> impl Iterator<Item = usize> {
    nodes.iter().flat_map(|plan| plan.again_before.iter().copied())
}

/// Returns each parameter that a node takes in the order of the vendor's libraries, once.
pub(super) fn turned_weights(graph: &Graph, nodes: &[NodePlan]) -> impl Iterator<Item = ParamId> {
    let taking = graph.nodes.iter().zip(nodes).filter(|(_, plan)| plan.turns_weight());
    let mut seen = HashSet::new();
    taking.map(|(node, _)| node.attachments.params[0]).filter(move |id| seen.insert(*id))
}
