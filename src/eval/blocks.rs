//! Query and gallery as matrices, checked.

use rayon::prelude::*;

use super::distance::{Distances, largest};
use super::ranking::{Labels, check_counts};
use crate::base::memory;
use crate::engine::device::Device;
use crate::{Error, Result};

/// Queries and gallery, checked.
pub(super) struct Sets<'a> {
    pub query_labels: Labels<'a>,
    pub gallery_labels: Labels<'a>,
    pub distances: Distances<'a>,
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
        check("query", query, query_labels, dim)?;
        check("gallery", gallery, gallery_labels, dim)?;
        if gallery.is_empty() {
            return Err(Error::NoValidQuery { queries: query.len() / dim });
        }
        let distances = Distances::new([query, gallery], dim, device)?;
        Ok(Sets { query_labels, gallery_labels, distances })
    }
}

/// Checks that there is a finite row for each label.
fn check(set: &'static str, features: &[f32], labels: Labels, dim: usize) -> Result<()> {
    check_counts(set, features.len(), dim, labels)?;
    if dim == 0 {
        return Err(Error::FeatureRows { set, values: 0, dim, pids: labels.pids.len(), camids: labels.camids.len() });
    }
    if f32::from_bits(largest(features)).is_finite() {
        return Ok(());
    }
    let row = features.par_chunks(dim).position_first(|row| row.iter().any(|x| !x.is_finite()));
    Err(Error::NotFiniteFeature { set, row: row.expect("a number that is not finite") })
}
