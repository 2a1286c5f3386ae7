//! Writes safetensors files: equal tensors and metadata give equal bytes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};

use crate::Result;
use crate::engine::store::{Param, Store};

/// A named tensor to be written.
pub struct Tensor<'a> {
    /// Name in the file.
    pub name: String,
    /// Sizes in torch's order; empty for a scalar.
    pub shape: Vec<usize>,
    data: Data<'a>,
}

enum Data<'a> {
    F32(Cow<'a, [f32]>),
    /// The values of a parameter, which are brought into torch's order when they are written, so that there is never a copy of all.
    Param(&'a Param, &'a [f32]),
    I64(Vec<i64>),
}

impl<'a> Tensor<'a> {
    /// Creates a tensor of f32 values in torch's order.
    ///
    /// # Panics
    /// The number of values is not that of `shape`.
    pub fn f32(name: impl Into<String>, shape: &[usize], values: impl Into<Cow<'a, [f32]>>) -> Tensor<'a> {
        let values = values.into();
        assert_eq!(values.len(), shape.iter().product::<usize>(), "values of a tensor of shape {shape:?}");
        Tensor { name: name.into(), shape: shape.to_vec(), data: Data::F32(values) }
    }

    /// Creates a tensor of i64 values; a scalar has the shape `[]`.
    ///
    /// # Panics
    /// The number of values is not that of `shape`.
    pub fn i64(name: impl Into<String>, shape: &[usize], values: Vec<i64>) -> Tensor<'a> {
        assert_eq!(values.len(), shape.iter().product::<usize>(), "values of a tensor of shape {shape:?}");
        Tensor { name: name.into(), shape: shape.to_vec(), data: Data::I64(values) }
    }

    /// Returns the length of the data, bytes.
    fn len(&self) -> usize {
        match &self.data {
            Data::F32(values) => size_of_val(&values[..]),
            Data::Param(_, values) => size_of_val(*values),
            Data::I64(values) => size_of_val(&values[..]),
        }
    }

    fn write_data(&self, file: &mut dyn Write) -> io::Result<()> {
        match &self.data {
            Data::F32(values) => file.write_all(bytemuck::cast_slice(values)),
            Data::Param(param, values) => file.write_all(bytemuck::cast_slice(&param.to_torch(values))),
            Data::I64(values) => file.write_all(bytemuck::cast_slice(values)),
        }
    }

    fn is_i64(&self) -> bool {
        matches!(self.data, Data::I64(_))
    }
}

/// Writes a safetensors file, which replaces `path` only when it is complete. Names must be unique. (The crate `safetensors` would
/// write the metadata in the random order of a hash map, and copy all tensors once more.)
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, tensors: &[Tensor<'_>], metadata: impl IntoIterator<Item = (String, String)>) -> Result<()> {
    // The widest type comes first, so that every tensor is aligned.
    let mut sorted: Vec<&Tensor<'_>> = tensors.iter().collect();
    sorted.sort_by_key(|t| (!t.is_i64(), &t.name));
    let header = header(&sorted, metadata.into_iter().collect());
    crate::base::atomic::atomic_write(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        sorted.iter().try_for_each(|tensor| tensor.write_data(file))
    })
}

/// Returns the JSON header, padded with spaces to a multiple of 8 bytes.
fn header(tensors: &[&Tensor<'_>], metadata: BTreeMap<String, String>) -> String {
    let mut entries: BTreeMap<&str, Value> = BTreeMap::new();
    if !metadata.is_empty() {
        entries.insert("__metadata__", json!(metadata));
    }
    let mut at = 0;
    for tensor in tensors {
        let end = at + tensor.len();
        let dtype = if tensor.is_i64() { "I64" } else { "F32" };
        let entry = json!({ "dtype": dtype, "shape": tensor.shape, "data_offsets": [at, end] });
        let before = entries.insert(&tensor.name, entry);
        debug_assert!(before.is_none(), "two tensors are called {}", tensor.name);
        at = end;
    }
    let mut text = serde_json::to_string(&entries).expect("plain data");
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    text
}

/// Returns the state dict of a model: parameters, running statistics, and counters (i64 scalars, as in torch).
pub fn state_dict(store: &Store) -> Vec<Tensor<'_>> {
    let params = store.params.iter().map(|param| {
        let values = Data::Param(param, &store.values[param.range.clone()]);
        Tensor { name: param.name.clone(), shape: param.shape.clone(), data: values }
    });
    let buffers = store.buffers.iter().map(|b| Tensor::f32(&b.name, &[b.values.len()], &b.values[..]));
    let counters = store.counters.iter().map(|(name, count)| Tensor::i64(name, &[], vec![*count as i64]));
    params.chain(buffers).chain(counters).collect()
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;
    use crate::io::checkpoint::File;

    fn tensors() -> Vec<Tensor<'static>> {
        vec![
            Tensor::f32("weight", &[2, 3], (0..6).map(|i| i as f32).collect::<Vec<_>>()),
            Tensor::i64("num_batches_tracked", &[], vec![7]),
            Tensor::f32("empty", &[0, 4], vec![]),
        ]
    }

    #[test]
    fn the_crate_and_we_read_what_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        write(&path, &tensors(), [("format".into(), "pt".into()), ("a \"b\"".into(), "ü\n".into())]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let read = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(read.tensor("weight").unwrap().shape(), [2, 3]);
        assert_eq!(read.tensor("num_batches_tracked").unwrap().data(), 7i64.to_le_bytes());
        let file = File::open(&path).unwrap();
        assert_eq!(file.names(), ["empty", "num_batches_tracked", "weight"]);
        assert_eq!(file.f32("weight").unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(file.i64("num_batches_tracked").unwrap(), [7]);
        assert!(file.shape("num_batches_tracked").unwrap().is_empty());
        assert_eq!(file.shape("empty").unwrap(), [0, 4]);
        assert_eq!(file.metadata["a \"b\""], "ü\n");
    }

    #[test]
    fn equal_content_gives_equal_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let write_as = |name: &str, reversed: bool| {
            let path = folder.path().join(name);
            let (mut tensors, mut keys) = (tensors(), ["e", "d", "c", "b", "a"]);
            if reversed {
                tensors.reverse();
                keys.reverse();
            }
            let metadata: std::collections::HashMap<String, String> = keys.map(|k| (k.into(), k.into())).into();
            write(&path, &tensors, metadata).unwrap();
            std::fs::read(path).unwrap()
        };
        assert_eq!(write_as("a", false), write_as("b", true));
    }
}
