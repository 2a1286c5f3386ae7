//! Chooses the values that backward computes again instead of keeping them.

use super::lifetimes::Readings;
use super::{NodePlan, backward_time};
use crate::engine::graph::{Graph, Var};

/// The longest chain of values each of which is computed again from the one before.
const LONGEST_CHAIN: usize = 4;

/// Returns the nodes whose outputs backward computes again, in the order of the graph, each with the node before whose backward that happens.
/// Adds their readings to `readings`.
///
/// A value is computed again if the inputs that must be kept longer for it take less memory than the value. An input may be computed again
/// itself; then it is computed first, and its own inputs are needed earlier, too. This comparison ignores that, so the saving is an estimate,
/// and [`Plan::with_ample`](super::Plan::with_ample) compares whole arenas.
pub(super) fn choose(graph: &Graph, nodes: &[NodePlan], readings: &mut [Readings]) -> Vec<(usize, usize)> {
    let words = |var: &Var| graph.shape(*var).len();
    // How many values are computed again after each other, up to this one; 0 for a value that is kept.
    let mut depths = vec![0; graph.values.len()];
    let mut chosen = Vec::new();
    for (i, (node, plan)) in graph.nodes.iter().zip(nodes).enumerate() {
        if !(plan.differentiated && plan.needs.recomputes_output) || graph.values[node.output.0].keep {
            continue;
        }
        let Some((first, _)) = readings[node.output.0].backward else { continue };
        let gone = |var: &&Var| readings[var.0].backward.is_none_or(|(_, last)| last < first);
        let kept_longer: usize = node.inputs.iter().filter(gone).map(words).sum();
        let depth = 1 + node.inputs.iter().map(|var| depths[var.0]).max().unwrap_or(0);
        if kept_longer < words(&node.output) && depth <= LONGEST_CHAIN {
            depths[node.output.0] = depth;
            node.inputs.iter().for_each(|var| readings[var.0].read_backward(first));
            chosen.push(i);
        }
    }
    // A value that is computed again for another one may be needed earlier than its own readers are.
    let mut found = Vec::new();
    for i in chosen.into_iter().rev() {
        let node = &graph.nodes[i];
        let (first, _) = readings[node.output.0].backward.expect("read in backward");
        node.inputs.iter().for_each(|var| readings[var.0].read_backward(first));
        found.push((i, backward_time(graph, first)));
    }
    found.reverse();
    found
}
