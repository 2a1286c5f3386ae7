//! Query and gallery as matrices, checked.

use super::distance::{Distances, squared_norms};
use super::ranking::{Labels, check_counts};
use crate::device::Device;
use crate::{Error, Result, memory};

/// Queries and gallery, checked.
pub(super) struct Sets<'a> {
    pub query_labels: Labels<'a>,
    pub gallery_labels: Labels<'a>,
    pub distances: Distances<'a>,
    /// No distance is larger.
    pub largest: f64,
}

impl<'a> Sets<'a> {
    /// Of `query` `[queries, dim]` and `gallery` `[gallery, dim]`, whose distances `device` computes.
    ///
    /// # Errors
    /// [`Error::FeatureRows`] where features and labels differ in number, [`Error::NotFiniteFeature`],
    /// [`Error::NoValidQuery`] where there is no gallery; the device fails.
    pub fn new(
        query: &'a [f32],
        query_labels: Labels<'a>,
        gallery: &'a [f32],
        gallery_labels: Labels<'a>,
        dim: usize,
        device: &Device,
    ) -> Result<Sets<'a>> {
        // The gallery is packed, which takes as much again.
        memory::ensure("ranking", size_of_val(gallery) as u64)?;
        let query_norms = checked_norms("query", query, query_labels, dim)?;
        let gallery_norms = checked_norms("gallery", gallery, gallery_labels, dim)?;
        if gallery_norms.is_empty() {
            return Err(Error::NoValidQuery { queries: query_norms.len() });
        }
        let longest = |norms: &[f32]| f64::from(norms.iter().copied().fold(0.0, f32::max)).sqrt();
        let largest = longest(&query_norms) + longest(&gallery_norms);
        let distances = Distances::new([query, gallery], [query_norms, gallery_norms], dim, device)?;
        Ok(Sets { query_labels, gallery_labels, distances, largest })
    }
}

/// Squared norms of finite features; one that is not finite gives its row away.
fn checked_norms(set: &'static str, features: &[f32], labels: Labels, dim: usize) -> Result<Vec<f32>> {
    check_counts(set, features.len(), dim, labels)?;
    if dim == 0 {
        return Err(Error::FeatureRows { set, values: 0, dim, pids: labels.pids.len(), camids: labels.camids.len() });
    }
    // A row that is finite may still be too long for the square of a distance.
    let norms = squared_norms(features, dim);
    match norms.iter().position(|&norm| norm.is_nan() || norm > f32::MAX / 8.0) {
        Some(row) => Err(Error::NotFiniteFeature { set, row }),
        None => Ok(norms),
    }
}
