//! `ptl-train rank`: ranks features of any program.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::ranking::{Subject, check_report, report};
use super::shared::set_threads;
use crate::app::cli::ExitCode;
use crate::app::cli::args::RankArgs;
use crate::app::cli::output::stderr_reporter;
use crate::base::text::{Shown, are, listed, plural};
use crate::config::Config;
use crate::data::{Protocol, SameCamera};
use crate::engine::device::{Device, DeviceOptions, VendorUse};
use crate::eval::extract::zeros_warning;
use crate::eval::features_file::{FeatureFile, FeatureOrigin, FeatureSet};
use crate::eval::ranking::RankingOptions;
use crate::{Error, Result};

/// Runs `ptl-train rank`.
pub(crate) fn rank(args: &RankArgs) -> Result<ExitCode> {
    check_report(&args.report)?;
    let config = Config::load(&Config::default(), None, &args.settings.0)?;
    args.settings.0.refuse_without_effect(&config, false)?;
    set_threads(&config)?;
    // Distances use the crate's own kernels, so no library is needed.
    let device = Device::open(&DeviceOptions { vendor: VendorUse::Never, ..config.device_options() })?;
    let reporter = stderr_reporter();
    let [query, gallery] = [(&args.query, &args.query_labels), (&args.gallery, &args.gallery_labels)]
        .map(|(path, labels)| FeatureFile::open(path, labels.as_deref()));
    let (query, gallery) = (query?, gallery?);
    let there = args.gallery.shown().to_string();
    FeatureOrigin::check(&args.query, query.origin.as_ref(), gallery.origin.as_ref(), &there)?;
    let read = |path: &Path, file: FeatureFile| -> Result<FeatureSet> {
        let mut set = file.into_set()?;
        let junk = set.drop_junk();
        let note = if junk == 0 { String::new() } else { format!("; {junk} of identity -1 {} left out", are(junk)) };
        reporter.message(&format!(
            "{}: {} of {}{note}",
            path.shown(),
            plural(set.len(), "feature", "features"),
            plural(set.dim, "number", "numbers")
        ));
        if args.normalize
            && let Some(warning) = zeros_warning(set.normalize())
        {
            reporter.warn(&format!("{}: {warning}", path.shown()));
        }
        Ok(set)
    };
    let query = read(&args.query, query)?;
    let gallery = read(&args.gallery, gallery)?;
    let evaluated_on = format!("{} against {}", args.query.shown(), args.gallery.shown());
    let mut options = RankingOptions::default();
    if config.data.same_camera == SameCamera::Keep {
        refuse_shared(&query, &gallery)?;
        options.protocol = Protocol::AnyCamera;
    }
    let subject = Subject { query: &query, gallery: &gallery, trained_on: None, evaluated_on: &evaluated_on };
    report(&subject, options, config.rerank_options(), &device, &args.report, &reporter)?;
    Ok(ExitCode::SUCCESS)
}

/// Refuses queries that are in the gallery too, with the same name and feature: where images of the same camera count, each would be its own
/// nearest match.
fn refuse_shared(query: &FeatureSet, gallery: &FeatureSet) -> Result<()> {
    fn feature(set: &FeatureSet, row: usize) -> impl Iterator<Item = u32> {
        set.features[row * set.dim..][..set.dim].iter().map(|x| x.to_bits())
    }
    let rows: HashMap<&PathBuf, usize> = gallery.paths.iter().zip(0..).collect();
    let is_shared =
        |(q, path): &(usize, &PathBuf)| rows.get(path).is_some_and(|&g| feature(query, *q).eq(feature(gallery, g)));
    let shared: Vec<_> = query.paths.iter().enumerate().filter(is_shared).map(|(_, path)| path.shown()).collect();
    if shared.is_empty() {
        return Ok(());
    }
    Err(Error::Setting {
        setting: "`data.same_camera`".into(),
        value: SameCamera::Keep.to_string(),
        reason: format!(
            "{} in the gallery too, where each would find itself ({}): leave them out of one of the two",
            plural(shared.len(), "query is", "queries are"),
            listed(shared)
        ),
    })
}
