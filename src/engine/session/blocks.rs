//! The addresses of what a node uses, for tests and tools that inspect launches.

use super::{Memory, Session};
use crate::engine::plan::Block;

/// A tensor of a node on a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its role: `input 0`, `output`, `saved`, `workspace`, `turned weight`, `gradient of input 0`, `gradient of output`, `gradient of
    /// turned weight`.
    pub name: String,
    /// Address on the GPU, bytes.
    pub address: u64,
    /// Size in bytes, rounded up to whole words of 4 bytes.
    pub bytes: usize,
}

/// A pass over the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// From the inputs to the outputs.
    Forward,
    /// From the gradients of the roots to those of inputs and parameters.
    Backward,
}

impl Session {
    /// Returns what node number `node` has in the arena during `pass`; nothing on the CPU. Parameters and latent states lie elsewhere.
    pub fn blocks(&self, node: usize, pass: Pass) -> Vec<Placed> {
        let Memory::Gpu(memory) = &self.memory else { return Vec::new() };
        let (node, plan) = (&self.graph.nodes[node], &self.plan.nodes[node]);
        let (values, grads) = (&self.plan.values, &self.plan.grads);
        let mut named: Vec<(String, Option<Block>)> = vec![
            ("output".into(), Some(values[node.output.0])),
            ("saved".into(), Some(plan.saved)),
            (
                "workspace".into(),
                Some(if pass == Pass::Forward { plan.forward_workspace } else { plan.backward_workspace }),
            ),
        ];
        named.extend(node.inputs.iter().enumerate().map(|(i, v)| (format!("input {i}"), Some(values[v.0]))));
        named.push(("turned weight".into(), Some(plan.turned_weight)));
        if pass == Pass::Backward {
            named.push(("gradient of turned weight".into(), Some(plan.turned_gradient)));
            named.push(("gradient of output".into(), grads[node.output.0]));
            let inputs = node.inputs.iter().enumerate();
            named.extend(inputs.map(|(i, v)| (format!("gradient of input {i}"), grads[v.0])));
        }
        let present = named.into_iter().filter_map(|(name, block)| Some((name, block.filter(|block| block.len > 0)?)));
        let placed = present.map(|(name, block)| Placed {
            name,
            address: memory.at::<f32>(block).address(),
            bytes: 4 * block.len,
        });
        placed.collect()
    }
}
