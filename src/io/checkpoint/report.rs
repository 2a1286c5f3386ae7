//! What became of a checkpoint's names.

use std::collections::{BTreeMap, BTreeSet};

use super::Place;
use crate::base::report::Table;

/// How a checkpoint's names were matched with a model's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Names of the model that were filled.
    pub loaded: Vec<String>,
    /// What each of them is called in the file; several may start from one.
    pub sources: Vec<String>,
    /// Names in the file that filled nothing, and why.
    pub skipped: Vec<(String, String)>,
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
    pub fn table<'a>(&'a self) -> Table {
        let mut rows: BTreeMap<(u8, String, &'a str), (usize, String)> = BTreeMap::new();
        let prefix = &self.place.prefix[..];
        let mut add = |kind: u8, name: &str, note: &'a str| {
            // The two parts that follow the prefix, where the name has it.
            let parts = if name.starts_with(prefix) { 2 + prefix.matches('.').count() } else { 2 };
            let group: Vec<&str> = name.split('.').take(parts).collect();
            // Shapes differ from tensor to tensor; other reasons have a row each.
            let reason = if note.starts_with("shape") { "shape" } else { note };
            let entry = rows.entry((kind, group.join("."), reason)).or_insert((0, note.to_string()));
            entry.0 += 1;
        };
        self.sources.iter().collect::<BTreeSet<_>>().into_iter().for_each(|name| add(0, name, ""));
        self.skipped.iter().for_each(|(name, why)| add(1, name, why));
        self.new.iter().for_each(|name| add(2, name, "keeps its start value"));
        let mut table = Table::new(["tensors", "count", "", "note"]);
        for ((kind, group, _), (count, note)) in rows {
            let verdict = ["loaded", "skipped", "new"][kind as usize];
            table.row([group, count.to_string(), verdict.to_string(), note]);
        }
        table
    }
}
