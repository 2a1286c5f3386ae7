//! `ptl-train evaluate`.

use std::fs;

use serde_json::{json, to_string_pretty};

use super::ranking::{Subject, check_report, report};
use super::shared::{open_class_test, open_test, set_threads_of};
use crate::app::cli::ExitCode;
use crate::app::cli::args::{EvaluateArgs, ReportArgs};
use crate::app::cli::output::print;
use crate::app::cli::pictures::draw_classification;
use crate::app::cli::ranks;
use crate::base::atomic::atomic_write;
use crate::base::error::IoContext;
use crate::base::progress::Reporter;
use crate::base::text::Shown;
use crate::config::Overrides;
use crate::engine::collective::Collective;
use crate::eval::{classification, dataset_features, ranking_options};
use crate::model::TrainedModel;
use crate::nn::TaskKind;
use crate::{Error, Result};

/// Runs `ptl-train evaluate`.
pub(crate) fn evaluate(args: &EvaluateArgs) -> Result<ExitCode> {
    ranks::together("evaluate", args.ranks, || ranks::device_of(&args.settings.0), |ranks| evaluate_as(args, ranks))
}

/// Evaluates as one of `ranks`, of which the first reports.
fn evaluate_as(args: &EvaluateArgs, ranks: &Collective) -> Result<ExitCode> {
    let flags = &args.settings.0;
    check_report(&args.report)?;
    if args.details.is_none() && flags.has("eval.raw_csv") {
        return Err(unused("--raw-csv", "only --details writes CSV files: add that, or leave it out"));
    }
    let trained = TrainedModel::open_ranks(&args.checkpoint, flags, ranks)?;
    set_threads_of(&trained.config, ranks)?;
    let reporter = ranks::reporter(ranks);
    reporter.message(&format!("device: {}", trained.device));
    trained.say_choice(&reporter);
    match trained.config.task {
        TaskKind::Reid => rank(args, flags, trained, &reporter),
        TaskKind::Classify => classify(args, flags, trained, &reporter),
    }
}

fn rank(args: &EvaluateArgs, flags: &Overrides, mut trained: TrainedModel, reporter: &Reporter) -> Result<ExitCode> {
    if args.details.is_some() {
        return Err(unused("--details", "it needs a classifier: a ranking has --gallery-pictures and --out"));
    }
    let dataset = open_test(&trained, flags, reporter)?;
    dataset.check_for_evaluation()?;
    let [query, gallery] = dataset_features(&mut trained.model(reporter), &dataset)?;
    if !trained.ranks.is_first() {
        return Ok(ExitCode::SUCCESS);
    }
    // Drops the weights: ranking may need their memory.
    let TrainedModel { config, device, trained_on, .. } = trained;
    let evaluated_on = format!("{} ({})", dataset.name, dataset.label);
    let (trained_on, evaluated_on) = (trained_on.as_deref(), &evaluated_on);
    let subject = Subject { query: &query, gallery: &gallery, trained_on, evaluated_on };
    let (ranking, rerank) = (ranking_options(&dataset, config.seed), config.rerank_options());
    report(&subject, ranking, rerank, &device, &args.report, reporter)?;
    Ok(ExitCode::SUCCESS)
}

fn classify(
    args: &EvaluateArgs,
    flags: &Overrides,
    mut trained: TrainedModel,
    reporter: &Reporter,
) -> Result<ExitCode> {
    refuse_ranking(&args.report)?;
    if let Some(folder) = &args.details {
        fs::create_dir_all(folder).at("create", folder)?;
    }
    let dataset = open_class_test(&trained, flags, reporter)?;
    let cells = trained.config.eval.cells();
    let (origin, trained_on) = (trained.origin(), trained.trained_on.clone());
    let report = classification::evaluate(&mut trained.model(reporter), &dataset.val, &dataset.classes)?;
    if !trained.ranks.is_first() {
        return Ok(ExitCode::SUCCESS);
    }
    let evaluated_on = format!("{} ({})", dataset.name, dataset.label);
    if let Some(path) = &args.report.out {
        let json = json!({ "trained_on": trained_on, "evaluated_on": evaluated_on, "report": report });
        let text = to_string_pretty(&json).expect("plain values");
        atomic_write(path, |file| writeln!(file, "{text}"))?;
        reporter.message(&format!("report written to {}", path.shown()));
    }
    if let Some(folder) = &args.details {
        classification::write_files(folder, &report, &dataset.val, &dataset.root, cells)?;
        draw_classification(&report, folder)?;
        reporter.message(&format!(
            "confusion matrix, figures of each class, calibration and predictions in {}",
            folder.shown()
        ));
    }
    print(&format!("{origin}evaluated on {evaluated_on}\n{report}\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Refuses flags that apply to rankings only.
fn refuse_ranking(args: &ReportArgs) -> Result<()> {
    let given = [
        ("--roc", args.roc),
        ("--camera-pairs", args.camera_pairs),
        ("--pessimistic-ties", args.pessimistic_ties),
        ("--gallery-pictures", args.gallery_pictures.is_some()),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(unused(flag, "the model is a classifier, which ranks no gallery: leave it out")),
        None => Ok(()),
    }
}

/// Returns the error for a flag that has no effect here.
fn unused(flag: &str, reason: &str) -> Error {
    Error::Setting { setting: flag.into(), value: "(given)".into(), reason: reason.into() }
}
