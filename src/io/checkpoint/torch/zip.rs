//! Reads torch's format since 1.6: a zip archive of stored entries, `NAME/data.pkl` and one `NAME/data/KEY` for each storage.
//! TorchScript's archives have the same entries, and code, which is not read.
//!
//! Entries are stored uncompressed, so nothing is unpacked, and no archive is larger inside than outside.

use std::collections::HashMap;
use std::io::{self, Cursor};
use std::ops::Range;

use zip::{CompressionMethod, ZipArchive};

use super::{Contents, Storage};
use crate::base::text::Shown;
use crate::io::pickle::{self, Names};

/// Returns whether it is a zip archive.
pub(crate) fn recognises(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04")
}

/// Reads the tensors of the state dict.
///
/// # Errors
/// It is damaged or another archive, or has something that [`pickle`] refuses.
pub(super) fn read(bytes: &[u8], dictionary: Option<&str>) -> Result<Contents, String> {
    let entries = entries(bytes)?;
    let mut pickles = entries.iter().filter(|(name, _)| name.ends_with("/data.pkl") || *name == "data.pkl");
    let (name, place) = match (pickles.next(), pickles.next()) {
        (Some(one), None) => one,
        _ => return Err(other_archive(&entries)),
    };
    let Some(range) = place else {
        return Err(compressed(name));
    };
    let folder = name.strip_suffix("data.pkl").expect("found by its name");
    if let Some(Some(order)) = entries.get(&format!("{folder}byteorder"))
        && bytes[order.clone()] != *b"little"
    {
        return Err("it was written on a big-endian machine, which is not read".into());
    }
    let data = format!("{folder}data/");
    let storage = |(name, place): (&'_ String, &Option<Range<usize>>)| match place {
        Some(range) => Storage::Stored(range.clone()),
        None => Storage::Compressed(name.clone()),
    };
    let storages: HashMap<&str, Storage> =
        entries.iter().filter_map(|entry| Some((entry.0.strip_prefix(&data)?, storage(entry)))).collect();
    let (heap, root, _) = pickle::read(&bytes[range.clone()], Names::Torch)?;
    super::contents(&heap, root, dictionary, &storages)
}

/// Finds the bytes of each entry and verifies its checksum; `None` for a compressed entry.
fn entries(bytes: &[u8]) -> Result<HashMap<String, Option<Range<usize>>>, String> {
    let damaged = |e: &dyn std::fmt::Display| {
        format!("it is a damaged zip archive ({e}): if it was downloaded, download it again")
    };
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|e| damaged(&e))?;
    let mut entries = HashMap::new();
    // Overlapping entries could make checksums take very long; entries of a valid archive are together no longer than the archive.
    let mut checked = 0u64;
    for index in 0..archive.len() {
        // Raw access: a compressed entry is never unpacked.
        let raw = archive.by_index_raw(index).map_err(|e| damaged(&e))?;
        let name = raw.name().map_err(|e| damaged(&e))?.to_string();
        let (size, stored) = (raw.size(), raw.compression() == CompressionMethod::Stored);
        let (start, checksum) = (raw.data_start(), raw.crc32());
        drop(raw);
        let range = if stored {
            checked = checked.saturating_add(size);
            if checked > bytes.len() as u64 {
                return Err(damaged(&"its entries overlap"));
            }
            // torch can be configured not to compute checksums, and then writes 0.
            if checksum != 0 {
                let mut entry = archive.by_index(index).map_err(|e| damaged(&e))?;
                io::copy(&mut entry, &mut io::sink()).map_err(|e| damaged(&format!("{}: {e}", name.shown())))?;
            }
            let start = start.and_then(|at| usize::try_from(at).ok());
            let range = start.and_then(|start| Some(start..start.checked_add(usize::try_from(size).ok()?)?));
            Some(range.filter(|range| range.end <= bytes.len()).ok_or_else(|| damaged(&name.shown()))?)
        } else {
            None
        };
        if entries.insert(name.clone(), range).is_some() {
            return Err(damaged(&format!("{} is there twice", name.shown())));
        }
    }
    Ok(entries)
}

/// Says what to do about a compressed entry.
pub(super) fn compressed(name: &str) -> String {
    format!(
        "the archive's entry {} is compressed, which torch.save never does: unpack the archive and pack it again uncompressed \
         (zip -0 -r)",
        name.shown()
    )
}

/// Says what an archive is that torch did not write.
fn other_archive(entries: &HashMap<String, Option<Range<usize>>>) -> String {
    let with = |ending: &str| entries.keys().filter(|name| name.ends_with(ending)).min();
    if with(".weights.h5").is_some() {
        return "it is a Keras model, which is not read: give weights that torch or safetensors saved".into();
    }
    if with(".npy").is_some() {
        return "it is an archive of numpy arrays, which is not read: torch.save them as a dictionary of tensors"
            .into();
    }
    match [".pth", ".pt", ".safetensors", ".ckpt", ".bin"].into_iter().find_map(with) {
        Some(inside) => format!("it is a zip archive that holds {}: unpack it and give that file", inside.shown()),
        None => "it is a zip archive, but none that torch.save wrote: it does not have exactly one data.pkl".into(),
    }
}
