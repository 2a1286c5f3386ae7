//! `ptl-train evaluate`.

use std::process::ExitCode;

use super::shared::{describe_datasets, evaluated, open_dataset, set_threads};
use crate::Result;
use crate::cli::args::EvaluateArgs;
use crate::cli::output::print;
use crate::eval::{TrainedModel, evaluate_dataset};
use crate::progress::Reporter;

/// `ptl-train evaluate`.
pub fn evaluate(args: &EvaluateArgs) -> Result<ExitCode> {
    let flags = &args.settings.0;
    let TrainedModel { config, network, mut store, states } = TrainedModel::open(&args.checkpoint, flags)?;
    set_threads(&config)?;
    let reporter = Reporter::stderr();
    let (root, kind) = evaluated(&config, flags)?;
    let dataset = open_dataset(root, kind, &config, &reporter)?;
    dataset.check_for_evaluation()?;
    describe_datasets(&reporter, [Some(&dataset), None]);
    let report = evaluate_dataset(network.as_ref(), &mut store, &states, &dataset, &config, &reporter)?;
    print(&format!("{report}\n"))?;
    Ok(ExitCode::SUCCESS)
}
