//! The binary version: each row is a label (CIFAR-10) or a coarse and a fine one (CIFAR-100), and the planes of an image.

use std::path::Path;

use super::super::refuse;
use super::{IMAGE, interleave, read};
use crate::Result;
use crate::data::DatasetKind;

/// Reads labels and pixels `[n, 32, 32, 3]`; of two labels, the fine one.
///
/// # Errors
/// The length is no multiple of a row.
pub(super) fn images(file: &Path, bytes: &[u8], kind: DatasetKind) -> Result<(Vec<u8>, Vec<u8>)> {
    let labels = if kind == DatasetKind::Cifar100 { 2 } else { 1 };
    let row = labels + IMAGE;
    if bytes.is_empty() || !bytes.len().is_multiple_of(row) {
        return refuse(
            file,
            format!("it has {} bytes, rows of {kind} have {row}: it is cut off or another file", bytes.len()),
        );
    }
    let mut pixels = Vec::with_capacity(bytes.len() / row * IMAGE);
    bytes.chunks_exact(row).for_each(|row| interleave(&row[labels..], &mut pixels));
    Ok((bytes.chunks_exact(row).map(|row| row[labels - 1]).collect(), pixels))
}

/// Reads the names of the classes, one on each line.
///
/// # Errors
/// The file cannot be read, or is no text.
pub(super) fn names(file: &Path) -> Result<Vec<String>> {
    match String::from_utf8(read(file)?) {
        Ok(text) => Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_string).collect()),
        Err(_) => refuse(file, "it is no UTF-8 text"),
    }
}
