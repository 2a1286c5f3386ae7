//! Checked features and labels of query and gallery.

use super::distance::Distances;
use super::labels::Labels;
use super::products::check_finite;
use crate::base::memory;
use crate::engine::device::Device;
use crate::{Error, Result};

/// Distances between checked queries and a checked gallery, and the labels of both.
pub(super) struct Sets<'a> {
    pub query_labels: Labels<'a>,
    pub gallery_labels: Labels<'a>,
    pub distances: Distances<'a>,
}

impl<'a> Sets<'a> {
    /// Checks `query` `[queries, dim]` and `gallery` `[gallery, dim]`, whose distances `device` will compute.
    ///
    /// # Errors
    /// [`Error::FeatureRows`] where features and labels differ in number, [`Error::NotFiniteFeature`],
    /// [`Error::NoValidQuery`] where there is no gallery; the device fails.
    pub(super) fn new(
        query: &'a [f32],
        query_labels: Labels<'a>,
        gallery: &'a [f32],
        gallery_labels: Labels<'a>,
        dim: usize,
        device: &Device,
    ) -> Result<Sets<'a>> {
        // The packed copy of the gallery takes as much memory as the gallery.
        memory::ensure("ranking", size_of_val(gallery) as u64)?;
        check("query", query, query_labels, dim)?;
        check("gallery", gallery, gallery_labels, dim)?;
        if gallery.is_empty() {
            return Err(Error::NoValidQuery { queries: query.len() / dim });
        }
        let distances = Distances::new([query, gallery], dim, device)?;
        Ok(Sets { query_labels, gallery_labels, distances })
    }
}

/// Checks that there is a row for each label, and that all numbers are finite; otherwise identifies the offending row.
fn check(set: &'static str, features: &[f32], labels: Labels, dim: usize) -> Result<()> {
    labels.check_counts(set, features.len(), dim)?;
    if dim == 0 {
        return Err(Error::FeatureRows { set, values: 0, dim, pids: labels.pids.len(), camids: labels.camids.len() });
    }
    check_finite(set, features, dim, 0)
}
