//! Groups of parameters whose gradients several processes add up together, while backward goes on.

use std::cmp::Reverse;
use std::ops::Range;

use super::{GradWrite, Plan};
use crate::engine::graph::Graph;
use crate::engine::store::Store;

/// Parameters whose gradients are complete at the same time.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bucket {
    /// The node whose backward writes the last of the gradients.
    pub node: usize,
    /// Where the gradients are in [`Store::grads`], in ascending order. Neighbours are one range.
    pub ranges: Vec<Range<usize>>,
}

impl Bucket {
    /// Returns whether the gradient that begins at `offset` is one of these.
    pub(crate) fn contains(&self, offset: usize) -> bool {
        self.ranges.iter().any(|range| range.contains(&offset))
    }
}

impl Plan {
    /// Divides the parameters that get a gradient into buckets, in the order in which backward completes them. Each bucket but the last has at
    /// least `len` numbers.
    pub(crate) fn buckets(&self, graph: &Graph, store: &Store, len: usize) -> Vec<Bucket> {
        // Backward goes from the last node to the first.
        let mut last_writer = vec![usize::MAX; store.params.len()];
        for (i, (node, plan)) in graph.nodes.iter().zip(&self.nodes).enumerate().rev() {
            let written = node.attachments.params.iter().zip(&plan.grad_params);
            for (id, _) in written.filter(|(_, write)| **write != GradWrite::Skip) {
                last_writer[id.0] = i;
            }
        }
        let mut complete: Vec<usize> = (0..store.params.len()).filter(|&i| self.param_written[i]).collect();
        complete.sort_by_key(|&i| Reverse(last_writer[i]));
        let (mut buckets, mut begun, mut count) = (Vec::new(), Vec::new(), 0);
        for (at, &i) in complete.iter().enumerate() {
            begun.push(store.params[i].range.clone());
            count += store.params[i].range.len();
            // Gradients that are complete together stay together.
            let goes_on = complete.get(at + 1).is_some_and(|&next| last_writer[next] == last_writer[i]);
            if at + 1 == complete.len() || count >= len && !goes_on {
                buckets.push(Bucket { node: last_writer[i], ranges: merged(std::mem::take(&mut begun)) });
                count = 0;
            }
        }
        buckets
    }
}

/// Returns the ranges in ascending order, with neighbours as one.
fn merged(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::graph::Mode;
    use crate::engine::op;
    use crate::engine::shape::Shape;
    use crate::engine::store::{Group, Layout};

    /// Three layers of 4, 16 and 4 numbers, the second of which runs twice; a fourth one of 16 that was registered first runs between them.
    #[test]
    fn a_bucket_ends_with_the_node_that_writes_last() {
        let (mut graph, mut store) = (Graph::new(Mode::Train), Store::new());
        let mut layer = |name: &str, shape: [usize; 4]| store.add_param(name.into(), &shape, Layout::Conv, Group::Head);
        let early = layer("early", [4, 4, 1, 1]);
        let [first, twice, last] = [("first", [4, 1, 1, 1]), ("twice", [4, 4, 1, 1]), ("last", [1, 4, 1, 1])]
            .map(|(name, shape)| layer(name, shape));
        let frozen = layer("frozen", [4, 4, 1, 1]);
        store.params[frozen.0].trainable = false;
        let mut x = graph.input(Shape::vectors(1, 1));
        for weight in [first, twice, early, twice, frozen, last] {
            x = op::linear(&mut graph, &store, x, weight, None).unwrap();
        }
        graph.root(x);
        let plan = Plan::new(&graph, &store, None).unwrap();
        let buckets = |len| {
            let buckets = plan.buckets(&graph, &store, len);
            buckets.iter().map(|Bucket { node, ranges }| format!("{node} {ranges:?}")).collect::<Vec<_>>()
        };
        // In memory: early 0..16, first 16..20, twice 20..36, last 36..40.
        assert_eq!(buckets(1), ["5 [36..40]", "2 [0..16]", "1 [20..36]", "0 [16..20]"]);
        assert_eq!(buckets(10), ["2 [0..16, 36..40]", "1 [20..36]", "0 [16..20]"]);
        assert_eq!(buckets(1000), ["0 [0..40]"]);
    }
}
