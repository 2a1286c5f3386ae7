//! Finds the weights in a checkpoint: at the top, or under a key such as `state_dict`, beside epochs and optimisers.

use std::collections::{HashSet, VecDeque};

use crate::base::text::Shown;
use crate::io::checkpoint::words::is_averaged;
use crate::io::pickle::{Heap, Id, Value};

/// Keys under which training scripts save the weights.
const KNOWN: [&str; 10] = [
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "module",
    "weights",
    "params",
    "net_state_dict",
];

/// Beginnings of keys of other things in a checkpoint that have tensors of their own.
const COMPANIONS: [&str; 12] = [
    "optim",
    "sched",
    "lr_sched",
    "scaler",
    "grad_scaler",
    "amp",
    "callbacks",
    "loops",
    "hyper_parameters",
    "hparams",
    "args",
    "rng",
];

/// Largest depth of nested keys that are followed.
const MAX_DEPTH: usize = 8;

/// A dictionary is taken instead of the top of the file if it has more than this many times as many tensors.
const FAR_MORE: usize = 4;

/// A dictionary of tensors.
pub(crate) struct Found {
    /// Names and tensors.
    pub tensors: Vec<(String, Id)>,
    /// Keys that lead to it, joined by dots; empty if it is the top of the file.
    pub path: String,
    /// Other dictionaries of tensors in the file.
    pub others: Vec<String>,
}

/// Finds the dictionary of weights under `root`: the one that `wanted` names, or if none has that name, the model's. An average of the
/// model's weights is taken only if it is named, or nothing else is there.
///
/// # Errors
/// There is none, or several of which not exactly one has a known key.
pub(super) fn find(heap: &Heap<'_>, root: Id, wanted: Option<&str>) -> Result<Found, String> {
    if let Value::Module(Some(_)) = heap.get(root) {
        return Ok(Found { tensors: attributes(heap, root), path: String::new(), others: Vec::new() });
    }
    let all = dictionaries(heap, root);
    let chosen = match wanted.map(|wanted| named(&all, wanted)) {
        Some(Some(chosen)) => chosen?,
        _ => of_the_model(&all)?,
    };
    let others =
        all.iter().filter(|other| other.id != chosen.id && !other.path.is_empty()).map(Dictionary::name).collect();
    let tensors = tensors(heap, chosen.id).map(|(key, id)| (key.to_string(), id)).collect();
    Ok(Found { tensors, path: chosen.path.join("."), others })
}

struct Dictionary<'h> {
    path: Vec<&'h str>,
    id: Id,
    tensors: usize,
}

impl Dictionary<'_> {
    fn name(&self) -> String {
        if self.path.is_empty() { "the top of the file".into() } else { self.path.join(".") }
    }

    fn is_known(&self) -> bool {
        !self.path.is_empty() && self.path.iter().all(|key| KNOWN.contains(key))
    }

    fn is_averaged(&self) -> bool {
        self.path.iter().any(|key| is_averaged(key))
    }
}

/// Returns all dictionaries with tensors among their entries, the shallowest first; each once, even if it is referred to several times.
fn dictionaries<'h>(heap: &'h Heap<'_>, root: Id) -> Vec<Dictionary<'h>> {
    let mut found = Vec::new();
    let mut seen = HashSet::from([root]);
    let mut queue = VecDeque::from([(root, Vec::new())]);
    while let Some((id, path)) = queue.pop_front() {
        let tensors = tensors(heap, id).count();
        if path.len() < MAX_DEPTH {
            for (key, child) in entries(heap, id) {
                let followed = matches!(heap.get(child), Value::Dict(_)) && !is_companion(key);
                if followed && seen.insert(child) {
                    queue.push_back((child, path.iter().copied().chain([key]).collect()));
                }
            }
        }
        if tensors > 0 {
            found.push(Dictionary { path, id, tensors });
        }
    }
    found
}

fn is_companion(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    COMPANIONS.iter().any(|companion| key.starts_with(companion))
}

/// Returns the dictionary at the path `wanted`, or the only one with that key in its path.
fn named<'a, 'h>(all: &'a [Dictionary<'h>], wanted: &str) -> Option<Result<&'a Dictionary<'h>, String>> {
    if let Some(exact) = all.iter().find(|found| found.path.join(".") == wanted) {
        return Some(Ok(exact));
    }
    let with_key: Vec<&Dictionary<'_>> = all.iter().filter(|found| found.path.contains(&wanted)).collect();
    match with_key[..] {
        [] => None,
        [one] => Some(Ok(one)),
        _ => Some(Err(ambiguous(&with_key))),
    }
}

fn of_the_model<'a, 'h>(all: &'a [Dictionary<'h>]) -> Result<&'a Dictionary<'h>, String> {
    let known: Vec<_> = all.iter().filter(|found| found.is_known()).collect();
    if !known.is_empty() {
        return shallowest(&known);
    }
    let (averaged, rest): (Vec<_>, Vec<_>) = all.iter().partition(|found| found.is_averaged());
    let (top, below): (Vec<_>, Vec<_>) = rest.into_iter().partition(|found| found.path.is_empty());
    let most = below.iter().map(|found| found.tensors).max().unwrap_or(0);
    match top[..] {
        [top] if most <= FAR_MORE * top.tensors => Ok(top),
        _ if !below.is_empty() => shallowest(&below),
        _ if !averaged.is_empty() => shallowest(&averaged),
        _ => Err("it has no dictionary of tensors: save a model's state_dict()".into()),
    }
}

/// Returns the only dictionary that is nearest to the top; several are an error.
fn shallowest<'a, 'h>(found: &[&'a Dictionary<'h>]) -> Result<&'a Dictionary<'h>, String> {
    let depth = found.iter().map(|found| found.path.len()).min().unwrap_or(0);
    let nearest: Vec<_> = found.iter().copied().filter(|found| found.path.len() == depth).collect();
    match nearest[..] {
        [one] => Ok(one),
        _ => Err(ambiguous(&nearest)),
    }
}

fn ambiguous(candidates: &[&Dictionary<'_>]) -> String {
    let names: Vec<String> = candidates.iter().map(|found| found.name().shown().to_string()).take(8).collect();
    format!(
        "it has several dictionaries of tensors ({}): name the one that is meant with `train.weights_dict`",
        names.join(", ")
    )
}

/// Returns the entries of a dictionary, or the attributes of a module, whose keys are text; none for another value.
fn entries<'h>(heap: &'h Heap<'_>, id: Id) -> impl Iterator<Item = (&'h str, Id)> {
    let pairs = match heap.get(id) {
        Value::Dict(pairs) => &pairs[..],
        Value::Module(Some(state)) => match heap.get(*state) {
            Value::Dict(pairs) => &pairs[..],
            _ => &[],
        },
        _ => &[],
    };
    pairs.iter().filter_map(|&(key, value)| Some((heap.text(key)?, value)))
}

fn tensors<'h>(heap: &'h Heap<'_>, id: Id) -> impl Iterator<Item = (&'h str, Id)> {
    entries(heap, id).filter(|(_, value)| is_tensor(heap, *value))
}

fn is_tensor(heap: &Heap<'_>, id: Id) -> bool {
    matches!(heap.get(id), Value::Tensor(_) | Value::OtherTensor(_))
}

/// Returns the tensors of a TorchScript module and its submodules, under their attributes' names joined by dots. A shared module is
/// visited once.
fn attributes(heap: &Heap<'_>, root: Id) -> Vec<(String, Id)> {
    let mut found = Vec::new();
    let mut seen = HashSet::from([root]);
    let mut open = vec![(root, String::new(), 0)];
    while let Some((module, prefix, depth)) = open.pop() {
        for (key, value) in entries(heap, module) {
            match heap.get(value) {
                _ if is_tensor(heap, value) => found.push((format!("{prefix}{key}"), value)),
                Value::Module(_) if depth < MAX_DEPTH && seen.insert(value) => {
                    open.push((value, format!("{prefix}{key}."), depth + 1));
                }
                _ => {}
            }
        }
    }
    found
}
