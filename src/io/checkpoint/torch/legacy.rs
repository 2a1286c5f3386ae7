//! Reads torch's format before 1.6: five pickles (magic number, protocol, system, object, keys of its storages), then for each storage
//! its length in elements and its bytes.

use std::collections::HashMap;

use super::{Contents, Storage};
use crate::io::pickle::{self, Heap, Id, Names, Value};

/// 0x1950a86a20f9469cfc6c, little-endian.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const PROTOCOL: i64 = 1001;

/// Returns whether it begins like a pickle; [`read`] checks whether it is torch's.
pub(crate) fn recognises(bytes: &[u8]) -> bool {
    matches!(bytes, [0x80, 0..=5, ..])
}

/// Reads the tensors of the state dict.
///
/// # Errors
/// It is damaged or another pickle, or has something that [`pickle`] refuses.
pub(super) fn read(bytes: &[u8], dictionary: Option<&str>) -> Result<Contents, String> {
    let mut at = 0;
    let mut next = || {
        let (heap, root, len) = pickle::read(&bytes[at..], Names::Torch)?;
        at += len;
        Ok::<_, String>((heap, root))
    };
    let (heap, magic) = next()?;
    if !matches!(heap.get(magic), Value::BigInt(number) if heap.pickle[number.clone()] == MAGIC) {
        return Err(
            "it is a pickle, but none that torch.save wrote: in Python, torch.save a model's state_dict()".into()
        );
    }
    let (heap, protocol) = next()?;
    if *heap.get(protocol) != Value::Int(PROTOCOL) {
        return Err(format!("it has another version of torch's legacy format than {PROTOCOL}"));
    }
    let (heap, system) = next()?;
    if is_big_endian(&heap, system) {
        return Err("it was written on a big-endian machine, which is not read".into());
    }
    let (heap, root) = next()?;
    let (key_heap, keys) = next()?;
    let Value::List(keys) = key_heap.get(keys) else { return Err("it has no list of storages".into()) };

    let sizes: HashMap<&str, usize> = (heap.values.iter())
        .filter_map(|value| match value {
            Value::Storage(storage) => Some((heap.str(&storage.key)?, storage.element.size())),
            _ => None,
        })
        .collect();
    let mut storages = HashMap::new();
    for &key in keys {
        let key = key_heap.text(key).ok_or("it has a storage whose key is no text")?;
        let size = sizes.get(key).ok_or_else(|| format!("it has a storage {key:?} that nothing refers to"))?;
        let cut = || format!("it is cut off: storage {key:?} is not whole");
        let len = bytes.get(at..at + 8).ok_or_else(cut)?;
        let len = u64::from_le_bytes(len.try_into().expect("8 bytes"));
        let start = at + 8;
        let end =
            usize::try_from(len).ok().and_then(|len| len.checked_mul(*size)).and_then(|len| start.checked_add(len));
        at = end.filter(|&end| end <= bytes.len()).ok_or_else(cut)?;
        storages.insert(key, Storage::Stored(start..at));
    }
    super::contents(&heap, root, dictionary, &storages)
}

fn is_big_endian(heap: &Heap<'_>, system: Id) -> bool {
    let Value::Dict(entries) = heap.get(system) else { return false };
    let little = entries.iter().find(|(key, _)| heap.text(*key) == Some("little_endian"));
    little.is_some_and(|(_, value)| *heap.get(*value) == Value::Bool(false))
}
