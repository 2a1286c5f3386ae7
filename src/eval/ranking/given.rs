//! Ranking by a distance matrix.

use super::{Labels, Ranker, RankingOptions, RankingReport};
use crate::eval::products::{Pairs, Row, Width};
use crate::{Error, Result};

/// A matrix of distances.
pub(crate) struct GivenDistances<'a> {
    /// Distances, `[queries, columns]`.
    distances: &'a [f32],
    columns: usize,
    zeros: Vec<f32>,
}

impl<'a> GivenDistances<'a> {
    pub(crate) fn new(distances: &'a [f32], columns: usize) -> GivenDistances<'a> {
        GivenDistances { distances, columns, zeros: vec![0.0; columns] }
    }

    /// Returns the rows of all queries; their bounds are the distances themselves.
    pub(crate) fn rows(&self) -> Vec<Row<'_>> {
        let width = Width { own: 0.0, factors: [0.0; 2], of: [&self.zeros; 2] };
        let rows = self.distances.chunks_exact(self.columns.max(1)).enumerate();
        rows.map(|(query, row)| Row::new(query, row, width, self)).collect()
    }
}

impl Pairs for GivenDistances<'_> {
    fn exact(&self, query: usize, item: usize) -> f64 {
        f64::from(self.distances[query * self.columns + item])
    }

    fn distance(&self, exact: f64) -> f64 {
        exact
    }
}

/// Ranks by distances `[queries, gallery]` of any kind, such as those of another program.
///
/// # Errors
/// [`Error::FeatureRows`] where distances and labels differ in number, [`Error::NotFiniteFeature`] where a distance is NaN,
/// [`Error::NoValidQuery`].
pub fn evaluate_distances(
    distances: &[f32],
    query_labels: Labels,
    gallery_labels: Labels,
    options: &RankingOptions,
) -> Result<RankingReport> {
    let (queries, n_gallery) = (query_labels.pids.len(), gallery_labels.pids.len());
    query_labels.check_counts("query", distances.len(), n_gallery)?;
    gallery_labels.check_counts("gallery", distances.len(), queries)?;
    if let Some(at) = distances.iter().position(|d| d.is_nan()) {
        return Err(Error::NotFiniteFeature { set: "query", row: at / n_gallery });
    }
    let mut ranker = Ranker::new(query_labels, gallery_labels, options);
    ranker.add(&GivenDistances::new(distances, n_gallery).rows());
    ranker.finish()
}
