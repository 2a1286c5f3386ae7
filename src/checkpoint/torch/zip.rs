//! torch's format since 1.6: a zip archive of stored entries, `NAME/data.pkl` and one `NAME/data/KEY` for each storage.
//!
//! Entries lie in the file as they are, so nothing is unpacked and no archive can be larger inside than outside.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Cursor};
use std::ops::Range;

use zip::{CompressionMethod, ZipArchive};

use super::View;
use crate::pickle::{self, Names};

/// Whether it is a zip archive.
pub fn recognises(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04")
}

/// Views of the tensors of the one state dict.
///
/// # Errors
/// It is damaged or another archive, or holds what [`pickle`] refuses.
pub fn read(bytes: &[u8]) -> Result<BTreeMap<String, View>, String> {
    let entries = entries(bytes)?;
    let mut pickles = entries.iter().filter(|(name, _)| name.ends_with("/data.pkl") || *name == "data.pkl");
    let (name, range) = match (pickles.next(), pickles.next()) {
        (Some(one), None) => one,
        _ => return Err("it is a zip archive, but none that torch.save wrote: it has not one data.pkl".into()),
    };
    let folder = name.strip_suffix("data.pkl").expect("found by its name");
    if let Some(order) = entries.get(&format!("{folder}byteorder"))
        && bytes[order.clone()] != *b"little"
    {
        return Err("it was written on a big-endian machine, which is not read".into());
    }
    let data = format!("{folder}data/");
    let storages: HashMap<&str, Range<usize>> =
        entries.iter().filter_map(|(name, range)| Some((name.strip_prefix(&data)?, range.clone()))).collect();
    let (heap, root, _) = pickle::read(&bytes[range.clone()], Names::Torch)?;
    super::views(&heap, root, &storages)
}

/// Where each entry lies, its checksum verified.
fn entries(bytes: &[u8]) -> Result<HashMap<String, Range<usize>>, String> {
    let damaged = |e: &dyn std::fmt::Display| format!("it is a damaged zip archive ({e})");
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|e| damaged(&e))?;
    let mut entries = HashMap::new();
    // Entries that overlap could make the checksums a long work; those of an honest archive are together no longer than it.
    let mut checked = 0u64;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(|e| damaged(&e))?;
        let name = entry.name().map_err(|e| damaged(&e))?.to_string();
        if entry.compression() != CompressionMethod::Stored {
            return Err(format!("its entry {name} is compressed, which torch.save never does"));
        }
        checked = checked.saturating_add(entry.size());
        if checked > bytes.len() as u64 {
            return Err(damaged(&"its entries overlap"));
        }
        let start = entry.data_start().and_then(|at| usize::try_from(at).ok());
        io::copy(&mut entry, &mut io::sink()).map_err(|e| damaged(&format!("{name}: {e}")))?;
        let range = start.and_then(|start| Some(start..start.checked_add(usize::try_from(entry.size()).ok()?)?));
        let range = range.filter(|range| range.end <= bytes.len()).ok_or_else(|| damaged(&name))?;
        if entries.insert(name.clone(), range).is_some() {
            return Err(damaged(&format!("{name} is there twice")));
        }
    }
    Ok(entries)
}
