//! What became of a checkpoint's names.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::Place;
use crate::base::report::Table;

/// Why a tensor of a file filled nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unused {
    /// Its shape is another than that of the model's tensor of its name.
    Shape { file: Vec<usize>, model: Vec<usize> },
    /// It is a classifier's, which starts afresh.
    Head,
    /// It is stored in a form that is not read; the reason.
    Unread(String),
    /// The model has no tensor of its name.
    Unknown,
}

impl Unused {
    /// Whether only the shape is another.
    pub fn is_shape(&self) -> bool {
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

/// How a checkpoint's names were matched with a model's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Names of the model that were filled.
    pub loaded: Vec<String>,
    /// What each of them is called in the file; several may start from one.
    pub sources: Vec<String>,
    /// Names in the file that filled nothing, and why.
    pub skipped: Vec<(String, Unused)>,
    /// Names of the model that keep their start values.
    pub new: Vec<String>,
    /// Where only a part of the backbone was filled: how much, and what the file has instead.
    pub partial: Option<String>,
    /// Where the network lies in the file.
    pub place: Place,
}

impl LoadReport {
    /// Makes the table of what was loaded, skipped and new, grouped by the first parts of the names. What the file has is called as
    /// in the file, what is new as in the model.
    pub fn table(&self) -> Table {
        let mut rows: BTreeMap<(u8, String, String), (usize, String)> = BTreeMap::new();
        let prefix = &self.place.prefix[..];
        let mut add = |kind: u8, name: &str, reason: &str, note: &str| {
            // The two parts that follow the prefix, where the name has it.
            let parts = if name.starts_with(prefix) { 2 + prefix.matches('.').count() } else { 2 };
            let group: Vec<&str> = name.split('.').take(parts).collect();
            let entry = rows.entry((kind, group.join("."), reason.to_string())).or_insert((0, note.to_string()));
            entry.0 += 1;
        };
        self.sources.iter().collect::<BTreeSet<_>>().into_iter().for_each(|name| add(0, name, "", ""));
        for (name, why) in &self.skipped {
            let note = why.to_string();
            // Shapes differ from tensor to tensor and share a row; other reasons have a row each.
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
