//! Evaluates a model on a data set: features of query and gallery, then the ranking.

use super::extract::Output;
use super::features_file::FeatureSet;
use super::model::Model;
use super::ranking::{self, RankingOptions, RankingReport};
use super::sets::Sets;
use crate::Result;
use crate::data::{Dataset, ImageRecord};

/// Computes the features of the queries and of the gallery of `dataset`, in this order. Each feature has unit length, or is all zeros.
///
/// # Errors
/// As [`Model::run`].
pub fn dataset_features(model: &mut Model<'_>, dataset: &Dataset) -> Result<[FeatureSet; 2]> {
    let mut side = |records: &[ImageRecord]| -> Result<FeatureSet> {
        let (features, dim) = model.run(Dataset::samples(records), Output::Feature)?;
        Ok(FeatureSet {
            features,
            dim,
            pids: records.iter().map(|r| r.pid).collect(),
            camids: records.iter().map(|r| r.camid).collect(),
            paths: records.iter().map(|r| r.path.clone()).collect(),
        })
    };
    Ok([side(&dataset.query)?, side(&dataset.gallery)?])
}

/// Returns the options for ranking the images of `dataset`; `seed` is the seed of random galleries.
pub fn ranking_options(dataset: &Dataset, seed: u64) -> RankingOptions {
    RankingOptions { protocol: dataset.protocol, seed, ..RankingOptions::default() }
}

/// Ranks the gallery of `dataset` for its queries.
///
/// # Errors
/// As [`Model::run`] and [`ranking::evaluate`].
pub fn evaluate_dataset(mut model: Model<'_>, dataset: &Dataset) -> Result<RankingReport> {
    let [query, gallery] = dataset_features(&mut model, dataset)?;
    let options = ranking_options(dataset, model.options.seed);
    let (query_labels, gallery_labels) = (query.labels(), gallery.labels());
    let device = model.device;
    let sets = Sets::new(&query.features, query_labels, &gallery.features, gallery_labels, query.dim, device)?;
    sets.distances.report_notices(model.reporter);
    ranking::rank_sets(&sets, &options)
}
