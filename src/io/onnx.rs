//! Writes networks as ONNX files, with their weights inside or in a file beside them.

use std::path::{Path, PathBuf};

use prost::Message;

use crate::Result;
use crate::base::atomic::write_synced;
use crate::base::error::IoContext;
use crate::base::memory;
use crate::engine::onnx::OnnxModel;
use crate::engine::onnx::message::{Entry, Model};

/// The most bytes of weights that a file holds itself: a message of Protocol Buffers ends at 2 GiB.
const LARGEST: usize = 2_000_000_000;
/// Smaller tensors stay in the file itself. Runtimes read the parameters of some operators before they open other files.
const SMALLEST_BESIDE: usize = 1024;
/// Tensors begin at multiples of this in the file beside, as the specification asks for, so that they can be memory-mapped.
const PAGE: usize = 4096;

/// Where the weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightPlace {
    /// In the file itself, or beside it if there are more than 2 GB.
    Auto,
    /// In a file beside it.
    Beside,
}

/// Returns the name of the file of weights beside `path`.
pub fn weight_file(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".data");
    path.with_file_name(name)
}

/// Writes `model` to `path`, and its weights to [`weight_file`] if `place` says so or they do not fit. Returns whether the weights
/// are in that file.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io); [`Error::OutOfMemory`](crate::Error::OutOfMemory).
pub fn write(model: OnnxModel, path: &Path, place: WeightPlace) -> Result<bool> {
    let beside = place == WeightPlace::Beside || model.weight_bytes() > LARGEST;
    let mut message = model.into_message();
    if beside {
        move_weights(&mut message, &weight_file(path))?;
    }
    memory::ensure("the ONNX file", message.encoded_len() as u64)?;
    let bytes = message.encode_to_vec();
    write_synced(path, |file| file.write_all(&bytes)).at("write", path)?;
    Ok(beside)
}

/// Moves the weights of `message` to the file `path`.
fn move_weights(message: &mut Model, path: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    write_synced(path, |file| {
        let mut end = 0;
        for tensor in message.graph.iter_mut().flat_map(|graph| &mut graph.initializer) {
            let Some(bytes) = tensor.raw_data.take_if(|bytes| bytes.len() >= SMALLEST_BESIDE) else { continue };
            let offset = usize::next_multiple_of(end, PAGE);
            file.write_all(&vec![0; offset - end])?;
            file.write_all(&bytes)?;
            end = offset + bytes.len();
            let entry = |key: &str, value: String| Entry { key: key.into(), value };
            tensor.external_data = vec![
                entry("location", name.clone()),
                entry("offset", offset.to_string()),
                entry("length", bytes.len().to_string()),
            ];
            tensor.data_location = Some(1);
        }
        Ok(())
    })
    .at("write", path)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn large_weights_move_beside_and_start_at_pages() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        let model = || {
            let mut model = OnnxModel::default();
            model.weight("small", &[2], || vec![1.0; 2]);
            model.weight("a", &[300], || vec![2.0; 300]);
            model.weight("b", &[16, 20], || vec![3.0; 320]);
            model
        };
        assert!(!write(model(), &path, WeightPlace::Auto).unwrap());
        let inside = Model::decode(&*fs::read(&path).unwrap()).unwrap();
        assert!(!weight_file(&path).exists());
        assert!(write(model(), &path, WeightPlace::Beside).unwrap());
        let beside = Model::decode(&*fs::read(&path).unwrap()).unwrap();
        let data = fs::read(folder.path().join("model.onnx.data")).unwrap();
        assert_eq!(data.len(), 4096 + 320 * 4);
        let tensors = |model: Model| model.graph.unwrap().initializer;
        for (inside, beside) in tensors(inside).into_iter().zip(tensors(beside)) {
            let bytes = inside.raw_data.unwrap();
            let about =
                |key: &str| beside.external_data.iter().find(|entry| entry.key == key).map(|entry| &entry.value[..]);
            match beside.raw_data {
                Some(same) => assert_eq!((same, &beside.name[..], beside.data_location), (bytes, "small", None)),
                None => {
                    let number = |key| about(key).unwrap().parse::<usize>().unwrap();
                    assert_eq!((about("location"), beside.data_location), (Some("model.onnx.data"), Some(1)));
                    assert_eq!(data[number("offset")..][..number("length")], bytes);
                }
            }
        }
    }
}
