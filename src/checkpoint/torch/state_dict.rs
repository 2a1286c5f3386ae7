//! Where in a checkpoint the weights are: at the top, or under a key such as `state_dict`, beside epochs and optimisers.

use crate::pickle::{Heap, Id, Tensor, Value};

/// Keys under which training scripts put the weights.
const KNOWN: [&str; 9] =
    ["state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights", "params"];

/// Known keys one under the other that are followed.
const MAX_DEPTH: usize = 8;

/// The named tensors of the one dictionary of tensors under `root`.
///
/// # Errors
/// There is none, or several of which no single one has a known key.
pub fn find<'h>(heap: &'h Heap<'_>, root: Id) -> Result<Vec<(&'h str, &'h Tensor)>, String> {
    let mut at = root;
    for _ in 0..MAX_DEPTH {
        let children: Vec<(&str, Id)> =
            entries(heap, at).filter(|(_, id)| matches!(heap.get(*id), Value::Dict(_))).collect();
        let with_tensors: Vec<(&str, Id)> =
            children.iter().copied().filter(|(_, id)| tensors(heap, *id).next().is_some()).collect();
        match (&known(&with_tensors)[..], &with_tensors[..]) {
            ([(_, one)], _) => return Ok(tensors(heap, *one).collect()),
            ([], _) if tensors(heap, at).next().is_some() => return Ok(tensors(heap, at).collect()),
            ([], [(_, one)]) => return Ok(tensors(heap, *one).collect()),
            ([], []) => {}
            (candidates @ [_, ..], _) | ([], candidates) => return Err(ambiguous(candidates)),
        }
        match known(&children)[..] {
            [(_, one)] => at = one,
            [] => break,
            ref several => return Err(ambiguous(several)),
        }
    }
    Err("it has no dictionary of tensors: save a model's state_dict()".into())
}

/// Those with a known key.
fn known<'k>(children: &[(&'k str, Id)]) -> Vec<(&'k str, Id)> {
    children.iter().copied().filter(|(key, _)| KNOWN.contains(key)).collect()
}

fn ambiguous(candidates: &[(&str, Id)]) -> String {
    let keys: Vec<&str> = candidates.iter().map(|(key, _)| *key).take(8).collect();
    format!(
        "it has several dictionaries of tensors ({}): save the one that is meant alone, or under the key state_dict",
        keys.join(", ")
    )
}

/// Entries of a dictionary whose keys are text; none of another value.
fn entries<'h>(heap: &'h Heap<'_>, id: Id) -> impl Iterator<Item = (&'h str, Id)> {
    let pairs = match heap.get(id) {
        Value::Dict(pairs) => &pairs[..],
        _ => &[],
    };
    pairs.iter().filter_map(|&(key, value)| Some((heap.text(key)?, value)))
}

fn tensors<'h>(heap: &'h Heap<'_>, id: Id) -> impl Iterator<Item = (&'h str, &'h Tensor)> {
    entries(heap, id).filter_map(|(key, value)| match heap.get(value) {
        Value::Tensor(tensor) => Some((key, tensor)),
        _ => None,
    })
}
