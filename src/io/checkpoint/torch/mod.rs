//! Reads torch's checkpoints (`torch.save`): the zip format since torch 1.6, and the legacy one before.
//!
//! Both have a pickle that describes containers and tensors, and raw storages. The pickle is read as data ([`crate::io::pickle`]).

mod legacy;
mod state_dict;
mod zip;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::tensor::{Entry, View};
use crate::base::text::Shown;
use crate::io::pickle::{Element, Heap, Id, Tensor, Value};

/// The tensors of a checkpoint.
pub(crate) struct Contents {
    pub entries: BTreeMap<String, Entry>,
    /// The dictionary with these tensors: its keys joined by dots; empty if it is the top of the file.
    pub dictionary: String,
    /// Other dictionaries of tensors.
    pub others: Vec<String>,
}

/// Returns whether it is a zip archive or begins with a pickle.
pub(crate) fn recognises(bytes: &[u8]) -> bool {
    zip::recognises(bytes) || legacy::recognises(bytes)
}

/// Reads the tensors of the state dict in a checkpoint; of several state dicts, the one that `dictionary` names.
///
/// # Errors
/// It is damaged or no checkpoint, has no or several state dicts, or refers to a name that is refused.
pub(super) fn read(bytes: &[u8], dictionary: Option<&str>) -> Result<Contents, String> {
    if zip::recognises(bytes) { zip::read(bytes, dictionary) } else { legacy::read(bytes, dictionary) }
}

/// Finds the state dict under `root`; `storages` has the storages by their keys.
fn contents(
    heap: &Heap<'_>,
    root: Id,
    dictionary: Option<&str>,
    storages: &HashMap<&str, Storage>,
) -> Result<Contents, String> {
    let found = state_dict::find(heap, root, dictionary)?;
    let mut entries = BTreeMap::new();
    for (name, id) in found.tensors {
        let entry = match heap.get(id) {
            Value::Tensor(tensor) => {
                entry(heap, tensor, storages).map_err(|reason| format!("{} is damaged: {reason}", name.shown()))?
            }
            Value::OtherTensor(what) => Entry::Unread(format!("it is {what}")),
            _ => continue,
        };
        entries.insert(name, entry);
    }
    Ok(Contents { entries, dictionary: found.path, others: found.others })
}

/// Where a storage's bytes are.
enum Storage {
    /// In the file as they are.
    Stored(Range<usize>),
    /// In a compressed entry of the archive; the text is its name.
    Compressed(String),
}

fn entry(heap: &Heap<'_>, tensor: &Tensor, storages: &HashMap<&str, Storage>) -> Result<Entry, String> {
    let dtype = match tensor.element {
        Element::Known(dtype) => dtype,
        Element::Other(name, _) => return Ok(Entry::Unread(format!("its type {name} is not read"))),
    };
    let Value::Storage(storage) = heap.get(tensor.storage) else {
        return Err("it is a view of something that is no storage".to_string());
    };
    let key = heap.str(&storage.key).unwrap_or_default();
    let bytes = match storages.get(key) {
        Some(Storage::Stored(bytes)) => bytes,
        Some(Storage::Compressed(entry)) => {
            return Err(zip::compressed(entry));
        }
        None => return Err(format!("its storage {key:?} is not in the file")),
    };
    let len = storage.len.checked_mul(storage.element.size()).filter(|&len| len <= bytes.len()).ok_or_else(|| {
        format!("its storage should have {} elements, but the file has {} bytes of it", storage.len, bytes.len())
    })?;
    let bytes = bytes.start..bytes.start + len;
    View::of_storage(dtype, &tensor.shape, &tensor.strides, tensor.offset, bytes).map(Entry::View)
}
