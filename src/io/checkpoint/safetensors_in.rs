//! Reads safetensors files.

use std::collections::{BTreeMap, HashMap};

use safetensors::SafeTensors;

use super::tensor::{Entry, View};
use crate::io::Dtype;

/// Returns whether the bytes begin with a safetensors header: a length in 8 bytes, then a JSON object.
pub(crate) fn recognises(bytes: &[u8]) -> bool {
    bytes.len() > 8 && bytes[5..9] == *b"\0\0\0{"
}

/// Reads all tensors and the metadata.
///
/// # Errors
/// The file is damaged.
pub(super) fn read(bytes: &[u8]) -> Result<(BTreeMap<String, Entry>, HashMap<String, String>), String> {
    let damaged = |e: safetensors::SafeTensorError| {
        format!("it is no intact safetensors file ({e}): if it was downloaded, download it again")
    };
    let (header, description) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
    // This checks that the views fill the file without holes.
    let tensors = SafeTensors::deserialize(bytes).map_err(damaged)?;
    let mut entries = BTreeMap::new();
    for (name, info) in description.tensors() {
        tensors.tensor(&name).map_err(damaged)?;
        let start = 8 + header;
        let (from, to) = info.data_offsets;
        let entry = match dtype(info.dtype) {
            Some(dtype) => Entry::View(View::contiguous(dtype, &info.shape, start + from..start + to)),
            None => Entry::Unread(format!("its type {:?} is not read", info.dtype)),
        };
        entries.insert(name, entry);
    }
    Ok((entries, description.metadata().clone().unwrap_or_default()))
}

fn dtype(stored: safetensors::Dtype) -> Option<Dtype> {
    use safetensors::Dtype as Stored;
    Some(match stored {
        Stored::F16 => Dtype::F16,
        Stored::BF16 => Dtype::BF16,
        Stored::F32 => Dtype::F32,
        Stored::F64 => Dtype::F64,
        Stored::I64 => Dtype::I64,
        Stored::I32 => Dtype::I32,
        Stored::I16 => Dtype::I16,
        Stored::I8 => Dtype::I8,
        Stored::U8 => Dtype::U8,
        Stored::BOOL => Dtype::Bool,
        _ => return None,
    })
}
