//! The Python version: pickled dictionaries, in which an image is a row of an array.

use std::path::Path;

use super::super::refuse;
use super::{IMAGE, interleave, read};
use crate::Result;
use crate::base::text::plural;
use crate::data::DatasetKind;
use crate::io::pickle::{self, Heap, Id, Names, Value};

/// Returns the keys of labels and of the names of classes.
fn keys(kind: DatasetKind) -> [&'static str; 2] {
    match kind {
        DatasetKind::Cifar100 => ["fine_labels", "fine_label_names"],
        _ => ["labels", "label_names"],
    }
}

/// Reads labels and pixels `[n, 32, 32, 3]`.
///
/// # Errors
/// The pickle is truncated, has other content, or names something that is refused.
pub(super) fn images(file: &Path, bytes: &[u8], kind: DatasetKind) -> Result<(Vec<u8>, Vec<u8>)> {
    images_of(bytes, kind).or_else(|reason| refuse(file, reason))
}

fn images_of(bytes: &[u8], kind: DatasetKind) -> Result<(Vec<u8>, Vec<u8>), String> {
    let (heap, root, _) = pickle::read(bytes, Names::Numpy)?;
    let [labels_key, _] = keys(kind);
    let label = |&id: &Id| match *heap.get(id) {
        Value::Int(label) => u8::try_from(label).map_err(|_| format!("it has the label {label}")),
        _ => Err("it has a label that is no whole number".to_string()),
    };
    let labels = list(&heap, root, labels_key)?.iter().map(label).collect::<Result<Vec<u8>, _>>()?;
    let Value::Array(Some(array)) = heap.get(entry(&heap, root, "data")?) else {
        return Err("its \"data\" is no numpy array".into());
    };
    let element = heap.str(&array.element).unwrap_or_default();
    let rows = labels.len();
    if !matches!(element, "u1" | "|u1" | "uint8") || array.shape != [rows, IMAGE] {
        return Err(format!(
            "its images are an array {:?} of {element}, and {} need {:?} of u1",
            array.shape,
            plural(rows, "label", "labels"),
            [rows, IMAGE]
        ));
    }
    let data = heap.bytes(array.data).ok_or("its images are no bytes")?;
    if rows == 0 || data.len() != rows * IMAGE {
        return Err(format!(
            "it has {} and {} bytes of images, {IMAGE} for each are needed",
            plural(rows, "label", "labels"),
            data.len()
        ));
    }
    let mut pixels = Vec::with_capacity(data.len());
    if array.fortran {
        // The bytes of an image are `rows` apart.
        for row in 0..rows {
            let planes: Vec<u8> = data[row..].iter().copied().step_by(rows).collect();
            interleave(&planes, &mut pixels);
        }
    } else {
        data.chunks_exact(IMAGE).for_each(|planes| interleave(planes, &mut pixels));
    }
    Ok((labels, pixels))
}

/// Reads the names of the classes.
///
/// # Errors
/// As [`images`].
pub(super) fn names(file: &Path, kind: DatasetKind) -> Result<Vec<String>> {
    let bytes = read(file)?;
    let names = || {
        let (heap, root, _) = pickle::read(&bytes, Names::Numpy)?;
        let name = |&id: &Id| match heap.bytes(id) {
            Some(name) => Ok(String::from_utf8_lossy(&name).into_owned()),
            None => Err("it has a class whose name is no text".to_string()),
        };
        list(&heap, root, keys(kind)[1])?.iter().map(name).collect::<Result<Vec<String>, String>>()
    };
    names().or_else(|reason| refuse(file, reason))
}

/// Returns the value of a key, which may be text or bytes.
fn entry(heap: &Heap<'_>, root: Id, key: &str) -> Result<Id, String> {
    let Value::Dict(entries) = heap.get(root) else { return Err("its pickle is no dictionary".into()) };
    let found = entries.iter().find(|(id, _)| heap.bytes(*id).is_some_and(|found| *found == *key.as_bytes()));
    found.map(|(_, value)| *value).ok_or_else(|| format!("its dictionary has no {key:?}: it is of another data set"))
}

fn list<'h>(heap: &'h Heap<'_>, root: Id, key: &str) -> Result<&'h [Id], String> {
    match heap.get(entry(heap, root, key)?) {
        Value::List(items) => Ok(items),
        _ => Err(format!("its {key:?} are no list")),
    }
}
