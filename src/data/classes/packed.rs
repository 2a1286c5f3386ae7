//! Helpers for data sets with many images in one file.

use std::path::Path;
use std::sync::Arc;

use super::refuse;
use crate::Result;
use crate::data::{ImageSource, PackedImages, Sample};

/// Combines images with their labels, one for each.
///
/// # Errors
/// A label is not less than `classes`; the error names `labels_in`, the file of the labels.
pub(super) fn samples(images: PackedImages, labels: &[u8], classes: usize, labels_in: &Path) -> Result<Vec<Sample>> {
    if let Some((index, label)) = labels.iter().enumerate().find(|&(_, &label)| usize::from(label) >= classes) {
        return refuse(labels_in, format!("image {index} has the label {label}, but labels are 0 to {}", classes - 1));
    }
    let images = Arc::new(images);
    let sample = |(index, &label): (usize, &u8)| Sample {
        image: ImageSource::Packed { images: Arc::clone(&images), index },
        label: label.into(),
    };
    Ok(labels.iter().enumerate().map(sample).collect())
}

/// Returns `"0"`, `"1"`, ... for classes without names.
pub(super) fn numbers(classes: usize) -> Vec<String> {
    (0..classes).map(|label| label.to_string()).collect()
}
