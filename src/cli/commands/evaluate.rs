//! `ptl-train evaluate`.

use std::process::ExitCode;

use super::report::{Subject, check_report, report};
use super::shared::{describe_datasets, evaluated_root, open_dataset, set_threads};
use crate::Result;
use crate::cli::args::EvaluateArgs;
use crate::eval::report::rerank_options;
use crate::eval::{TrainedModel, dataset_features, ranking_options};
use crate::progress::Reporter;

/// `ptl-train evaluate`.
pub fn evaluate(args: &EvaluateArgs) -> Result<ExitCode> {
    let flags = &args.settings.0;
    check_report(&args.report)?;
    let TrainedModel { config, model, mut store, states, trained_on } = TrainedModel::open(&args.checkpoint, flags)?;
    set_threads(&config)?;
    let reporter = Reporter::stderr();
    let dataset = open_dataset(evaluated_root(&config, flags)?, &config, &reporter)?;
    dataset.check_for_evaluation()?;
    describe_datasets(&reporter, [Some(&dataset), None]);
    let [query, gallery] = dataset_features(&model, &mut store, &states, &dataset, &config, &reporter)?;
    // The weights are not needed any more; ranking may need the memory.
    drop((model, store, states));
    let subject =
        Subject { query: &query, gallery: &gallery, trained_on: Some(&trained_on), evaluated_on: &dataset.name };
    report(&subject, ranking_options(&dataset, &config), rerank_options(&config), &args.report, &reporter)?;
    Ok(ExitCode::SUCCESS)
}
