//! How the tensors of a file were matched with those of a model.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::Place;
use crate::base::report::Table;

/// Why a tensor of a file was not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unused {
    /// The model's tensor of this name has another shape.
    Shape {
        /// Sizes in the file, in torch's order.
        file: Vec<usize>,
        /// Sizes in the model, in torch's order.
        model: Vec<usize>,
    },
    /// It belongs to a classifier, which is newly initialised.
    Head,
    /// It is stored in a form that cannot be read; the text is the reason.
    Unread(String),
    /// The model has no tensor of this name.
    Unknown,
}

impl Unused {
    /// Returns whether only the shape differs.
    pub(crate) fn is_shape(&self) -> bool {
        matches!(self, Unused::Shape { .. })
    }
}

impl fmt::Display for Unused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unused::Shape { file, model } => write!(f, "shape {file:?}, the model has {model:?}"),
            Unused::Head => f.write_str("classifier: starts afresh"),
            Unused::Unread(why) => f.write_str(why),
            Unused::Unknown => f.write_str("the model has no such tensor"),
        }
    }
}

/// How the tensors of a file were matched with those of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Names in the model of tensors that were filled.
    pub loaded: Vec<String>,
    /// For each tensor of `loaded`, the name in the file of the tensor that filled it; one may fill several.
    pub sources: Vec<String>,
    /// Names in the file of tensors that were not used, and why.
    pub skipped: Vec<(String, Unused)>,
    /// Names in the model of tensors that keep their initial values.
    pub new: Vec<String>,
    /// If only a part of the backbone was filled: how much, and what the file has instead.
    pub partial: Option<String>,
    /// Where the network is in the file.
    pub place: Place,
}

impl LoadReport {
    /// Returns a table of loaded, skipped and new tensors, grouped by the first parts of their names. Loaded and skipped ones have their
    /// names in the file, new ones those in the model.
    pub fn table(&self) -> Table {
        let mut rows: BTreeMap<(u8, String, String), (usize, String)> = BTreeMap::new();
        let prefix = &self.place.prefix[..];
        let mut add = |kind: u8, name: &str, reason: &str, note: &str| {
            // The two parts after the prefix, if the name has it.
            let parts = if name.starts_with(prefix) { 2 + prefix.matches('.').count() } else { 2 };
            let group: Vec<&str> = name.split('.').take(parts).collect();
            let entry = rows.entry((kind, group.join("."), reason.to_string())).or_insert((0, note.to_string()));
            entry.0 += 1;
        };
        self.sources.iter().collect::<BTreeSet<_>>().into_iter().for_each(|name| add(0, name, "", ""));
        for (name, why) in &self.skipped {
            let note = why.to_string();
            // Different shapes are in one row; other reasons have a row each.
            add(1, name, if why.is_shape() { "shape" } else { &note }, &note);
        }
        self.new.iter().for_each(|name| add(2, name, "", "keeps its start value"));
        let mut table = Table::new(["tensors", "count", "", "note"]);
        for ((kind, group, _), (count, note)) in rows {
            let verdict = ["loaded", "skipped", "new"][kind as usize];
            table.row([group, count.to_string(), verdict.to_string(), note]);
        }
        table
    }
}
