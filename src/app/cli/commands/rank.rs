//! `ptl-train rank`: ranks features of any program.

use std::path::Path;
use std::process::ExitCode;

use super::report::{Subject, check_report, report};
use super::shared::set_threads;
use crate::Result;
use crate::app::cli::args::RankArgs;
use crate::app::cli::output::stderr_reporter;
use crate::base::text::{Shown, are, plural};
use crate::config::Config;
use crate::engine::device::{Device, DeviceOptions, VendorUse};
use crate::eval::extract::zeros_warning;
use crate::eval::features_file::FeatureSet;
use crate::eval::ranking::RankingOptions;

/// Runs `ptl-train rank`.
pub(crate) fn rank(args: &RankArgs) -> Result<ExitCode> {
    check_report(&args.report)?;
    let config = Config::load(&Config::default(), None, &args.settings.0)?;
    args.settings.0.refuse_without_effect(&config, false)?;
    set_threads(&config)?;
    // Distances use the crate's own kernels, so no library is needed.
    let device = Device::open(&DeviceOptions { vendor: VendorUse::Never, ..config.device_options() })?;
    let reporter = stderr_reporter();
    let read = |path: &Path, labels: Option<&Path>| -> Result<FeatureSet> {
        let mut set = FeatureSet::read(path, labels)?;
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
    let query = read(&args.query, args.query_labels.as_deref())?;
    let gallery = read(&args.gallery, args.gallery_labels.as_deref())?;
    let evaluated_on = format!("{} against {}", args.query.shown(), args.gallery.shown());
    let subject = Subject { query: &query, gallery: &gallery, trained_on: None, evaluated_on: &evaluated_on };
    report(&subject, RankingOptions::default(), config.rerank_options(), &device, &args.report, &reporter)?;
    Ok(ExitCode::SUCCESS)
}
