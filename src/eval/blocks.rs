//! Query and gallery as matrices, and the walk over blocks of their distances: the whole matrix is never held.

use super::distance::{Gallery, block_rows, squared_norms};
use super::ranking::{Labels, check_counts};
use crate::{Error, Result};

/// Queries and gallery, checked.
pub(super) struct Sets<'a> {
    /// `[queries, dim]`
    pub query: &'a [f32],
    pub query_labels: Labels<'a>,
    /// `[gallery, dim]`
    pub gallery: &'a [f32],
    pub gallery_labels: Labels<'a>,
    pub dim: usize,
    query_norms: Vec<f32>,
    packed: Gallery,
    /// No distance is larger.
    pub largest: f64,
}

impl<'a> Sets<'a> {
    /// # Errors
    /// [`Error::FeatureRows`] where features and labels differ in number, [`Error::NotFiniteFeature`],
    /// [`Error::NoValidQuery`] where there is no gallery.
    pub fn new(
        query: &'a [f32],
        query_labels: Labels<'a>,
        gallery: &'a [f32],
        gallery_labels: Labels<'a>,
        dim: usize,
    ) -> Result<Sets<'a>> {
        let query_norms = checked_norms("query", query, query_labels, dim)?;
        let gallery_norms = checked_norms("gallery", gallery, gallery_labels, dim)?;
        if gallery_norms.is_empty() {
            return Err(Error::NoValidQuery { queries: query_norms.len() });
        }
        let longest = |norms: &[f32]| f64::from(norms.iter().copied().fold(0.0, f32::max)).sqrt();
        let largest = longest(&query_norms) + longest(&gallery_norms);
        let packed = Gallery::new(gallery, gallery_norms, dim);
        Ok(Sets { query, query_labels, gallery, gallery_labels, dim, query_norms, packed, largest })
    }

    pub fn queries(&self) -> usize {
        self.query_norms.len()
    }

    pub fn gallery_len(&self) -> usize {
        self.packed.len()
    }

    /// Products of the queries `rows` with the gallery.
    pub fn products(&self, rows: std::ops::Range<usize>, block: &mut [f32]) {
        self.packed.products(&self.query[rows.start * self.dim..rows.end * self.dim], block);
    }

    /// Turns such products into Euclidean distances.
    pub fn to_euclidean(&self, rows: std::ops::Range<usize>, block: &mut [f32]) {
        self.packed.to_euclidean(&self.query_norms[rows], block);
    }

    /// Ranges of queries whose distances are held together.
    pub fn blocks(&self) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
        let (step, queries) = (block_rows(self.gallery_len()), self.queries());
        (0..queries).step_by(step).map(move |start| start..(start + step).min(queries))
    }
}

/// Calls `each` with the Euclidean distances `[rows, gallery]` of block after block of queries.
pub(super) fn for_each_block(sets: &Sets, mut each: impl FnMut(std::ops::Range<usize>, &[f32])) {
    let mut block = Vec::new();
    for rows in sets.blocks() {
        block.resize(rows.len() * sets.gallery_len(), 0.0);
        sets.products(rows.clone(), &mut block);
        sets.to_euclidean(rows.clone(), &mut block);
        each(rows, &block);
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
