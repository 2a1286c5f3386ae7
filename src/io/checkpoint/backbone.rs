//! Checks whether a file has exactly the backbone of a network: training would run with a part of it, too, but give worse results.

use std::collections::HashSet;

use super::place::tensors;
use super::words::is_no_weight;
use super::{File, LoadReport, Place, TensorNames};
use crate::base::text::Shown;
use crate::engine::store::Store;

/// Segments before a network's own names that tell nothing about the part of the network below them.
const PLAIN: [&str; 6] = ["model", "net", "network", "student", "encoder_q", "models"];

/// Beginnings of the names of classifiers and embeddings, which may be under a backbone.
const HEADS: [&str; 9] =
    ["fc", "classifier", "head", "linear", "logits", "bottleneck", "reduction", "embedding", "projector"];

/// The difference between the backbone in a file and that of a network.
#[derive(Debug)]
pub(crate) struct Gap {
    /// Number of tensors in the network's backbone.
    pub all: usize,
    /// Number of those that the file does not have, or has in another shape.
    pub missing: usize,
    sentence: String,
}

impl Gap {
    /// Finds the difference that `report` leaves, if there is one.
    pub(super) fn of(
        store: &Store,
        file: &File,
        names: &dyn TensorNames,
        place: &Place,
        report: &LoadReport,
    ) -> Option<Gap> {
        let backbone: Vec<(&str, Vec<usize>)> = tensors(store).filter(|(name, _)| names.is_backbone(name)).collect();
        let new: HashSet<&str> = report.new.iter().map(String::as_str).collect();
        let missing: Vec<&(&str, Vec<usize>)> = backbone.iter().filter(|(name, _)| new.contains(name)).collect();
        let surplus = surplus(store, file, names, place);
        let mut parts = Vec::new();
        if let Some((name, shape)) = missing.first() {
            let there = place.sources(names, name).into_iter().find_map(|source| Some((file.shape(&source)?, source)));
            let why = there.map_or_else(String::new, |(found, source)| {
                format!(": {} has the shape {found:?}, the model has {shape:?}", source.shown())
            });
            parts.push(format!(
                "it lacks {} of the {} tensors of the model's backbone ({name}{why})",
                missing.len(),
                backbone.len()
            ));
        }
        if let Some(name) = surplus.first() {
            parts.push(format!(
                "it has {} of a backbone that the model does not have ({})",
                surplus.len(),
                name.shown()
            ));
        }
        (!parts.is_empty()).then(|| Gap { all: backbone.len(), missing: missing.len(), sentence: parts.join(", and ") })
    }

    /// Says what is missing, and what is surplus.
    pub(super) fn sentence(&self) -> &str {
        &self.sentence
    }
}

/// Returns names in the file that are where its backbone is and that the network does not have: other layers, other kinds of blocks.
fn surplus<'f>(store: &Store, file: &'f File, names: &dyn TensorNames, place: &Place) -> Vec<&'f str> {
    let mut known = HashSet::new();
    let (mut used, mut own_names) = (Vec::new(), Vec::new());
    let counters = store.counters.iter().map(|(name, _)| &name[..]);
    for name in tensors(store).map(|(name, _)| name).chain(counters) {
        let sources = place.sources(names, name);
        if names.is_backbone(name) {
            used.extend(sources.iter().find(|source| file.shape(source).is_some()).cloned());
            own_names.extend(sources.iter().cloned());
        }
        known.extend(sources);
    }
    let root = common_prefix(&used);
    let modules: HashSet<&str> =
        own_names.iter().filter_map(|name| name.strip_prefix(root)).map(first_segment).collect();
    let own = root.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let dedicated = !own.is_empty() && !PLAIN.contains(&own);
    let belongs = |name: &str| {
        let Some(rest) = name.strip_prefix(root) else { return false };
        let first = first_segment(rest);
        let stage = first.strip_prefix("layer").is_some_and(|number| number.parse::<u32>().is_ok());
        let head = rest.split('.').take(2).any(|segment| HEADS.iter().any(|head| segment.starts_with(head)));
        !head && (modules.contains(first) || stage || dedicated)
    };
    file.all_names()
        .filter(|name| !used.is_empty() && !known.contains(*name) && !is_no_weight(name) && belongs(name))
        .collect()
}

/// Returns the longest common prefix of the names that ends in a dot.
fn common_prefix(names: &[String]) -> &str {
    let Some(first) = names.first() else { return "" };
    let shared = names.iter().fold(first.len(), |len, name| {
        let equal = first.bytes().zip(name.bytes()).take(len).take_while(|(a, b)| a == b).count();
        len.min(equal)
    });
    first[..shared].rfind('.').map_or("", |dot| &first[..=dot])
}

fn first_segment(name: &str) -> &str {
    name.split('.').next().unwrap_or_default()
}
