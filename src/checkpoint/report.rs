//! What became of a checkpoint's names.

use std::collections::BTreeMap;

use crate::report::Table;

/// How a checkpoint's names were matched with a model's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Names of the model that were filled.
    pub loaded: Vec<String>,
    /// Names in the file that filled nothing, and why.
    pub skipped: Vec<(String, String)>,
    /// Names of the model that keep their start values.
    pub new: Vec<String>,
    /// Where only a part of the backbone was filled: how much, and what the file has instead.
    pub partial: Option<String>,
}

impl LoadReport {
    /// The table of what was loaded, skipped and new, grouped by the first parts of the names.
    pub fn table<'a>(&'a self) -> Table {
        let mut rows: BTreeMap<(u8, String, &'a str), (usize, String)> = BTreeMap::new();
        let mut add = |kind: u8, name: &str, note: &'a str| {
            let group: Vec<&str> = name.split('.').take(2).collect();
            // Shapes differ from tensor to tensor; other reasons have a row each.
            let reason = if note.starts_with("shape") { "shape" } else { note };
            let entry = rows.entry((kind, group.join("."), reason)).or_insert((0, note.to_string()));
            entry.0 += 1;
        };
        self.loaded.iter().for_each(|name| add(0, name, ""));
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
