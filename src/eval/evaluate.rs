//! A model on a data set: features of query and gallery, then the ranking.

use super::blocks::Sets;
use super::extract::{ExtractOptions, Extractor};
use super::features_file::FeatureSet;
use super::ranking::{self, RankingOptions, RankingReport};
use crate::Result;
use crate::config::Config;
use crate::data::{Dataset, ImageRecord, Loader, LoaderOptions, Transform};
use crate::device::Device;
use crate::latent_state::LatentStates;
use crate::nn::Network;
use crate::progress::Reporter;
use crate::store::Store;

/// What becomes of an image on its way to the network, in training and in evaluation.
pub fn transform(config: &Config) -> Transform {
    let (model, augment) = (&config.model, &config.augment);
    Transform {
        height: model.height,
        width: model.image_width,
        interpolation: augment.interpolation,
        crop: augment.crop,
        crop_share: config.eval.crop_share,
        crop_scale: augment.crop_scale,
        crop_ratio: augment.crop_ratio,
    }
}

/// Loader threads: what the settings say, or two.
pub fn workers(config: &Config) -> usize {
    if config.train.workers == 0 { 2 } else { config.train.workers }
}

/// Features `[records, dim]` of unit length, and `dim`.
///
/// # Errors
/// An image that cannot be read; `eval-state mean` without stored states.
pub fn extract_features(
    network: &dyn Network,
    store: &mut Store,
    states: &LatentStates,
    records: &[ImageRecord],
    config: &Config,
    device: &Device,
    reporter: &Reporter,
) -> Result<(Vec<f32>, usize)> {
    let options = ExtractOptions {
        flip: config.eval.flip,
        batch: config.eval.batch,
        eval_state: config.ptl.eval_state,
        seed: config.seed,
    };
    let transform = transform(config);
    let mut extractor = Extractor::new(network, store, [transform.height, transform.width], options, device)?;
    let loading = LoaderOptions { transform, augment: None, seed: 0, epoch: 0, workers: workers(config) };
    let mut features = Vec::with_capacity(records.len() * extractor.dim());
    let mut task = reporter.start("features", records.len() as u64, "images");
    for batch in Loader::sequential(Dataset::samples(records), config.eval.batch, loading) {
        let mut batch = batch?;
        extractor.extract(store, states, &mut batch, &mut features)?;
        task.advance(batch.indices.len() as u64, "");
    }
    task.finish("");
    Ok((features, extractor.dim()))
}

/// Features of the queries and of the gallery of `dataset`.
///
/// # Errors
/// As [`extract_features`].
pub fn dataset_features(
    network: &dyn Network,
    store: &mut Store,
    states: &LatentStates,
    dataset: &Dataset,
    config: &Config,
    device: &Device,
    reporter: &Reporter,
) -> Result<[FeatureSet; 2]> {
    let mut side = |records: &[ImageRecord]| -> Result<FeatureSet> {
        let (features, dim) = extract_features(network, store, states, records, config, device, reporter)?;
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

/// How the images of `dataset` are ranked.
pub fn ranking_options(dataset: &Dataset, config: &Config) -> RankingOptions {
    RankingOptions { protocol: dataset.protocol, seed: config.seed, ..RankingOptions::default() }
}

/// Ranks the gallery of `dataset` for its queries.
///
/// # Errors
/// As [`extract_features`] and [`ranking::evaluate`].
pub fn evaluate_dataset(
    network: &dyn Network,
    store: &mut Store,
    states: &LatentStates,
    dataset: &Dataset,
    config: &Config,
    device: &Device,
    reporter: &Reporter,
) -> Result<RankingReport> {
    let [query, gallery] = dataset_features(network, store, states, dataset, config, device, reporter)?;
    let options = ranking_options(dataset, config);
    let (query_labels, gallery_labels) = (query.labels(), gallery.labels());
    let sets = Sets::new(&query.features, query_labels, &gallery.features, gallery_labels, query.dim, device)?;
    sets.distances.say_fallback(reporter);
    ranking::rank_sets(&sets, &options)
}
