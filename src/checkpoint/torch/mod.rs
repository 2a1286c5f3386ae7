//! torch's checkpoints (`torch.save`) in: the zip format since torch 1.6 and the legacy one before.
//!
//! Both are a pickle that describes containers and tensors, beside raw storages. The pickle is read as data ([`crate::pickle`]).

mod legacy;
mod state_dict;
mod zip;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::tensor::View;
use crate::pickle::{Heap, Id, Value};

/// Whether it is a zip archive or begins with a pickle.
pub fn recognises(bytes: &[u8]) -> bool {
    zip::recognises(bytes) || legacy::recognises(bytes)
}

/// Views of the tensors of the one state dict in a checkpoint.
///
/// # Errors
/// It is damaged, no checkpoint, holds no or several state dicts, or names what is refused.
pub fn read(bytes: &[u8]) -> Result<BTreeMap<String, View>, String> {
    if zip::recognises(bytes) { zip::read(bytes) } else { legacy::read(bytes) }
}

/// Views of the state dict under `root`; `storages` says where each storage lies in the file.
fn views(heap: &Heap<'_>, root: Id, storages: &HashMap<&str, Range<usize>>) -> Result<BTreeMap<String, View>, String> {
    let mut views = BTreeMap::new();
    for (name, tensor) in state_dict::find(heap, root)? {
        let view = || {
            let Value::Storage(storage) = heap.get(tensor.storage) else {
                return Err("it is a view of what is no storage".to_string());
            };
            let key = heap.str(&storage.key).unwrap_or_default();
            let bytes = storages.get(key).ok_or_else(|| format!("its storage {key:?} is not in the file"))?;
            let len =
                storage.len.checked_mul(storage.dtype.size()).filter(|&len| len <= bytes.len()).ok_or_else(|| {
                    format!(
                        "its storage should have {} elements, the file has {} bytes of it",
                        storage.len,
                        bytes.len()
                    )
                })?;
            let bytes = bytes.start..bytes.start + len;
            View::of_storage(storage.dtype, &tensor.shape, &tensor.strides, tensor.offset, bytes)
        };
        let view = view().map_err(|reason| format!("{name} is damaged: {reason}"))?;
        views.insert(name.to_string(), view);
    }
    Ok(views)
}
