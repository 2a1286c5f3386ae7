//! Finds the prefix that a network's names have in a file: a wrapper's `model.`, a training script's `base.`.

use std::collections::{HashMap, HashSet};

use super::tensor::same_numbers;
use super::words::is_averaged;
use super::{File, bad_file};
use crate::Result;
use crate::base::text::Shown;
use crate::engine::store::Store;

/// Number of prefixes that are examined fully: those with most names of the network.
const MAX_CANDIDATES: usize = 16;

/// What a network's tensors may be called in files.
pub trait TensorNames {
    /// Returns the names in a file of pre-trained weights from which the tensor `name` of the network may start, the best one first.
    fn pretrained_names(&self, name: &str) -> Vec<String>;

    /// Returns whether the tensor `name` belongs to the backbone: a file that training starts from must have all of it.
    fn is_backbone(&self, name: &str) -> bool;
}

/// Where a network is in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Prefix of the backbone's names: empty, or with a dot at its end.
    pub(super) prefix: String,
    /// Prefixes of other networks that would fit, such as an average of the weights.
    pub(super) others: Vec<String>,
}

impl Place {
    /// Finds the prefix with most of the backbone's tensors, by name and shape, or by name alone if few have the right shape. An average of
    /// the weights ranks below the weights themselves.
    ///
    /// # Errors
    /// There are several networks that fit equally well.
    pub fn find(store: &Store, file: &File, names: &dyn TensorNames) -> Result<Place> {
        let backbone: Vec<(Vec<String>, Vec<usize>)> = tensors(store)
            .filter(|(name, _)| names.is_backbone(name))
            .map(|(name, shape)| (names.pretrained_names(name), shape))
            .collect();
        let prefixes = prefixes(file, &backbone);
        // With fewer matches, as for a network of another width, single layers match by chance.
        let mut candidates: Vec<Candidate<'_>> = prefixes
            .iter()
            .map(|prefix| Candidate::new(prefix, file, &backbone))
            .filter(|candidate| 2 * candidate.found() > backbone.len())
            .collect();
        candidates.sort_by_key(|candidate| candidate.rank(backbone.len()));
        let Some(best) = candidates.first() else {
            let prefix = prefixes.first().copied().unwrap_or_default().to_string();
            return Ok(Place { prefix, others: Vec::new() });
        };
        // Candidates within each other are usually one network: a trunk, and branches that could start from its last stages.
        let nested =
            |other: &Candidate<'_>| other.prefix.starts_with(best.prefix) || best.prefix.starts_with(other.prefix);
        let equal = |other: &&Candidate<'_>| {
            other.found() == best.found()
                && other.averaged == best.averaged
                && other.sources != best.sources
                && !nested(other)
        };
        if let Some(other) = candidates.iter().find(equal) {
            let named = |prefix: &str| prefix.trim_end_matches('.').shown().to_string();
            let reason = format!(
                "it has several networks that fit, under {} and under {}: name the one that is meant with `train.weights_dict`",
                named(best.prefix),
                named(other.prefix)
            );
            return Err(bad_file(file.path(), reason));
        }
        let mut others: Vec<String> = Vec::new();
        for other in &candidates {
            let apart = other.averaged != best.averaged || !nested(other) || !other.shares_a_tensor(best);
            if apart && other.sources != best.sources && !others.iter().any(|listed| other.prefix.starts_with(listed)) {
                others.push(other.prefix.to_string());
            }
        }
        Ok(Place { prefix: best.prefix.to_string(), others })
    }

    /// Says which of several dictionaries of tensors, or of several networks in one, was taken: ` (its dictionary state_dict; it also
    /// has state_dict_ema: ...)`. Returns an empty text if there was no choice.
    pub(crate) fn choice(&self, file: &File) -> String {
        let shown = |name: &str| name.trim_end_matches('.').shown().to_string();
        let others: Vec<String> =
            file.other_dictionaries.iter().chain(&self.others).take(8).map(|name| shown(name)).collect();
        let mut taken = Vec::new();
        if !file.dictionary.is_empty() {
            taken.push(format!("its dictionary {}", file.dictionary.shown()));
        }
        if !self.others.is_empty() && !self.prefix.is_empty() {
            taken.push(format!("the tensors under {}", shown(&self.prefix)));
        }
        match (taken.is_empty(), others.is_empty()) {
            (true, true) => return String::new(),
            (true, false) => taken.push("the tensors at its top".into()),
            (false, _) => {}
        }
        let taken = taken.join(", ");
        match &others[..] {
            [] => format!(" ({taken})"),
            others => format!(" ({taken}; it also has {}: `train.weights_dict` takes another)", others.join(", ")),
        }
    }

    /// Returns whether the file has any tensor of the backbone here, by its name.
    pub(crate) fn has_backbone(&self, store: &Store, file: &File, names: &dyn TensorNames) -> bool {
        tensors(store)
            .filter(|(name, _)| names.is_backbone(name))
            .any(|(name, _)| self.sources(names, name).iter().any(|source| file.shape(source).is_some()))
    }

    /// Returns the names in the file from which the tensor `name` of the network may start, the best one first. All of a backbone has the
    /// same prefix; other parts, such as a classifier, may have any of the shorter prefixes.
    pub(crate) fn sources(&self, names: &dyn TensorNames, name: &str) -> Vec<String> {
        let own = names.pretrained_names(name);
        let mut prefix = &self.prefix[..];
        let mut sources: Vec<String> = own.iter().map(|name| format!("{prefix}{name}")).collect();
        while !prefix.is_empty() && !names.is_backbone(name) {
            prefix = prefix[..prefix.len() - 1].rfind('.').map_or("", |dot| &prefix[..=dot]);
            sources.extend(own.iter().map(|name| format!("{prefix}{name}")));
        }
        sources
    }
}

/// Returns the names and torch's shapes of parameters and running statistics.
pub(super) fn tensors(store: &Store) -> impl Iterator<Item = (&str, Vec<usize>)> {
    let params = store.params.iter().map(|param| (&param.name[..], param.shape.clone()));
    params.chain(store.buffers.iter().map(|buffer| (&buffer.name[..], vec![buffer.values.len()])))
}

/// A prefix, and for each tensor of the backbone its name in the file, if it is there.
struct Candidate<'f> {
    prefix: &'f str,
    averaged: bool,
    sources: Vec<Option<String>>,
}

impl<'f> Candidate<'f> {
    fn new(prefix: &'f str, file: &File, backbone: &[(Vec<String>, Vec<usize>)]) -> Candidate<'f> {
        let fits = |name: &String, shape: &[usize]| {
            file.unread(name).is_some() || file.shape(name).is_some_and(|found| same_numbers(&found, shape))
        };
        let source = |(names, shape): &(Vec<String>, Vec<usize>)| {
            names.iter().map(|name| format!("{prefix}{name}")).find(|name| fits(name, shape))
        };
        let sources = backbone.iter().map(source).collect();
        Candidate { prefix, averaged: prefix.split('.').any(is_averaged), sources }
    }

    fn found(&self) -> usize {
        self.sources.iter().flatten().count()
    }

    /// Returns whether both have a tensor of the file in common.
    fn shares_a_tensor(&self, other: &Candidate<'_>) -> bool {
        let own: HashSet<&String> = self.sources.iter().flatten().collect();
        other.sources.iter().flatten().any(|source| own.contains(source))
    }

    /// Returns a key for sorting: the best candidate has the lowest.
    fn rank(&self, all: usize) -> (bool, usize, bool, usize) {
        let whole = self.found() == all && !self.averaged;
        (!whole, all - self.found(), self.averaged, self.prefix.len())
    }
}

/// Returns the prefixes of the file's names that are followed by a name of the backbone, those with most names first.
fn prefixes<'f>(file: &'f File, backbone: &[(Vec<String>, Vec<usize>)]) -> Vec<&'f str> {
    let wanted: HashSet<&str> = backbone.iter().flat_map(|(names, _)| names).map(String::as_str).collect();
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for name in file.all_names() {
        let starts = std::iter::once(0).chain(name.match_indices('.').map(|(dot, _)| dot + 1));
        for start in starts.filter(|&start| wanted.contains(&name[start..])) {
            *counts.entry(&name[..start]).or_default() += 1;
        }
    }
    let mut counts: Vec<(&str, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|&(prefix, count)| (std::cmp::Reverse(count), prefix.len(), prefix));
    counts.into_iter().take(MAX_CANDIDATES).map(|(prefix, _)| prefix).collect()
}
