//! Reads safetensors files.

use std::collections::{BTreeMap, HashMap};

use safetensors::tensor::Metadata;

use super::tensor::{Entry, View};
use crate::io::Dtype;

/// Returns whether the bytes begin with a safetensors header: a length in 8 bytes, then a JSON object.
pub(crate) fn recognises(bytes: &[u8]) -> bool {
    bytes.len() > 8 && bytes[5..9] == *b"\0\0\0{"
}

/// Bytes before the header, which are its length.
pub(super) const LENGTH: usize = 8;
/// Bytes of the longest header that is read, as in the format's own reader.
const LONGEST: u64 = 100_000_000;

/// The tensors of a file by name, and its metadata.
pub(super) type Contents = (BTreeMap<String, Entry>, HashMap<String, String>);

/// Reads all tensors and the metadata.
///
/// # Errors
/// The file is damaged.
pub(super) fn read(bytes: &[u8]) -> Result<Contents, String> {
    let length = header_length(&bytes[..LENGTH])?;
    let header = bytes.get(LENGTH..LENGTH + length).ok_or_else(|| damaged("it ends in its header"))?;
    contents(header, bytes.len() as u64)
}

/// Returns the length of the header, from the first [`LENGTH`] bytes of a file.
///
/// # Errors
/// No header is so long.
pub(super) fn header_length(start: &[u8]) -> Result<usize, String> {
    let length = u64::from_le_bytes(start.try_into().expect("8 bytes"));
    if length > LONGEST { Err(damaged("its header is too long")) } else { Ok(length as usize) }
}

/// Returns the tensors that `header` describes; the file has `length` bytes.
///
/// # Errors
/// The file is damaged.
pub(super) fn contents(header: &[u8], length: u64) -> Result<Contents, String> {
    // This checks that the tensors follow one another without holes.
    let description: Metadata = serde_json::from_slice(header).map_err(|e| damaged(&e.to_string()))?;
    let start = LENGTH + header.len();
    if start.checked_add(description.data_len()).is_none_or(|end| end as u64 != length) {
        return Err(damaged("its length is not what its header says"));
    }
    let mut entries = BTreeMap::new();
    for (name, info) in description.tensors() {
        let (from, to) = info.data_offsets;
        let entry = match dtype(info.dtype) {
            Some(dtype) => Entry::View(View::contiguous(dtype, &info.shape, start + from..start + to)),
            None => Entry::Unread(format!("its type {:?} is not read", info.dtype)),
        };
        entries.insert(name, entry);
    }
    Ok((entries, description.metadata().clone().unwrap_or_default()))
}

/// Returns the sentence about a damaged file.
pub(super) fn damaged(reason: &str) -> String {
    format!("it is no intact safetensors file ({reason}): if it was downloaded, download it again")
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
