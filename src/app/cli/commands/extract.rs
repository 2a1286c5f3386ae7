//! `ptl-train extract`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::shared::{open_images_alone, open_test, set_threads_of};
use crate::app::cli::ExitCode;
use crate::app::cli::args::ExtractArgs;
use crate::app::cli::ranks;
use crate::base::error::IoContext;
use crate::base::text::{Shown, plural};
use crate::data::{Dataset, ImageRecord};
use crate::engine::collective::Collective;
use crate::eval::Output;
use crate::eval::features_file::{FeatureFormat, FeatureTable};
use crate::model::TrainedModel;
use crate::nn::TaskKind;
use crate::{Error, Result};

/// Runs `ptl-train extract`.
pub(crate) fn extract(args: &ExtractArgs) -> Result<ExitCode> {
    ranks::together("extract", args.ranks, || ranks::device_of(&args.settings.0), |ranks| extract_as(args, ranks))
}

/// Computes features as one of `ranks`, of which the first writes those of all.
fn extract_as(args: &ExtractArgs, ranks: &Collective) -> Result<ExitCode> {
    let flags = &args.settings.0;
    // A .npy file has a file of paths beside it, and one of labels. Without labels, another one would be read as theirs.
    let beside: &[&str] = if FeatureFormat::of(&args.out)? == FeatureFormat::Npy { &["txt", "csv"] } else { &[] };
    let beside = beside.iter().map(|ending| args.out.with_extension(ending));
    if let Some(existing) = std::iter::once(args.out.clone()).chain(beside).find(|path| path.exists()) {
        return Err(Error::Setting {
            setting: "--out".into(),
            value: args.out.shown().to_string(),
            reason: format!("{} exists already: choose another name", existing.shown()),
        });
    }
    let mut trained = TrainedModel::open_ranks(&args.checkpoint, flags, ranks)?;
    if let Some(folder) = args.out.parent() {
        fs::create_dir_all(folder).at("create", folder)?;
    }
    let config = trained.config.clone();
    set_threads_of(&config, ranks)?;
    let reporter = ranks::reporter(ranks);
    reporter.message(&format!("device: {}", trained.device));
    trained.say_choice(&reporter);
    if config.task == TaskKind::Classify && args.images.is_none() {
        return Err(Error::Setting {
            setting: "--images".into(),
            value: "(none)".into(),
            reason: "the data of a classifier have no identities to write with the features: name a folder of images"
                .into(),
        });
    }
    let mut names = BTreeMap::new();
    let records: Vec<ImageRecord> = match &args.images {
        Some(folder) => open_images_alone(folder, &config, flags, &reporter)?,
        None => {
            let dataset = open_test(&trained, flags, &reporter)?;
            names = dataset.names.ids;
            dataset.query.into_iter().chain(dataset.gallery).collect()
        }
    };
    let pids: Vec<i64> = records.iter().map(|r| r.pid).collect();
    let camids: Vec<i64> = records.iter().map(|r| r.camid).collect();
    let paths: Vec<PathBuf> = records.iter().map(|r| r.path.clone()).collect();
    FeatureFormat::of(&args.out)?.check_paths(&paths)?;
    let (features, dim) = trained.model(&reporter).run(Dataset::samples(&records), Output::Feature)?;
    if !ranks.is_first() {
        return Ok(ExitCode::SUCCESS);
    }
    let labels = args.images.is_none().then_some((&pids[..], &camids[..]));
    let origin = Some(&trained.feature_origin()?);
    FeatureTable { features: &features, dim, paths: &paths, labels, origin, names: Some(&names) }.write(&args.out)?;
    reporter.message(&format!(
        "{} of {} written to {}",
        plural(paths.len(), "feature", "features"),
        plural(dim, "number", "numbers"),
        args.out.shown()
    ));
    Ok(ExitCode::SUCCESS)
}
