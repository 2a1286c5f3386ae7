//! `ptl-train evaluate`.

use std::process::ExitCode;

use super::report::{Subject, check_report, report};
use super::shared::{describe_datasets, evaluated, open_dataset, set_threads};
use crate::Result;
use crate::cli::args::EvaluateArgs;
use crate::data::Subsets;
use crate::eval::report::rerank_options;
use crate::eval::{TrainedModel, dataset_features, ranking_options};
use crate::progress::Reporter;

/// `ptl-train evaluate`.
pub fn evaluate(args: &EvaluateArgs) -> Result<ExitCode> {
    let flags = &args.settings.0;
    check_report(&args.report)?;
    let TrainedModel { config, network, mut store, states, device, trained_on } =
        TrainedModel::open(&args.checkpoint, flags)?;
    set_threads(&config)?;
    let reporter = Reporter::stderr();
    reporter.message(&format!("device: {device}"));
    let (root, kind) = evaluated(&config, flags)?;
    let dataset = open_dataset(root, kind, Subsets::Test, &config, &reporter)?;
    dataset.check_for_evaluation()?;
    describe_datasets(&reporter, [Some(&dataset), None]);
    let [query, gallery] =
        dataset_features(network.as_ref(), &mut store, &states, &dataset, &config, &device, &reporter)?;
    // The weights are not needed any more; ranking may need the memory.
    drop((network, store, states));
    let evaluated_on = format!("{} ({})", dataset.name, dataset.label);
    let (trained_on, evaluated_on) = (trained_on.as_deref(), &evaluated_on);
    let subject = Subject { query: &query, gallery: &gallery, trained_on, evaluated_on };
    let (ranking, rerank) = (ranking_options(&dataset, &config), rerank_options(&config));
    report(&subject, ranking, rerank, &device, &args.report, &reporter)?;
    Ok(ExitCode::SUCCESS)
}
