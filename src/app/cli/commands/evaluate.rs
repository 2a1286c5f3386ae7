//! `ptl-train evaluate`.

use std::fs;

use serde_json::{json, to_string_pretty};

use super::report::{Subject, check_report, report};
use super::shared::{
    describe_classes, describe_datasets, evaluated, is_of_training, open_classes, open_dataset, refuse_trained,
    set_threads,
};
use crate::app::cli::ExitCode;
use crate::app::cli::args::{EvaluateArgs, ReportArgs};
use crate::app::cli::output::{print, stderr_reporter};
use crate::app::cli::pictures::draw_classification;
use crate::base::atomic::atomic_write;
use crate::base::error::IoContext;
use crate::base::progress::Reporter;
use crate::base::text::Shown;
use crate::config::Overrides;
use crate::data::{Subsets, ValidationImages};
use crate::eval::{classification, dataset_features, ranking_options};
use crate::model::TrainedModel;
use crate::nn::TaskKind;
use crate::{Error, Result};

/// Runs `ptl-train evaluate`.
pub(crate) fn evaluate(args: &EvaluateArgs) -> Result<ExitCode> {
    let flags = &args.settings.0;
    check_report(&args.report)?;
    if args.details.is_none() && flags.has("eval.raw_csv") {
        return Err(unused("--raw-csv", "only --details writes CSV files: add that, or leave it out"));
    }
    let trained = TrainedModel::open(&args.checkpoint, flags)?;
    set_threads(&trained.config)?;
    let reporter = stderr_reporter();
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
    let (root, kind) = evaluated(&trained.config, flags)?;
    let dataset = open_dataset(root, kind, Subsets::Test, &trained.config, reporter)?;
    refuse_trained(&trained, root, &dataset, flags, reporter)?;
    dataset.check_for_evaluation()?;
    describe_datasets(reporter, [Some(&dataset), None]);
    let [query, gallery] = dataset_features(&mut trained.model(reporter), &dataset)?;
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
    let (root, kind) = evaluated(&trained.config, flags)?;
    // Of the data set of the training, only held-out images are measured; of other data sets, all.
    let held_out = flags.has("data.val_share") || is_of_training(&trained, root);
    let share = held_out.then_some(trained.config.data.val_share);
    let mut dataset = open_classes(root, kind, Subsets::Test, share, &trained.config, reporter)?;
    if dataset.validation == ValidationImages::All && dataset.classes == trained.class_names {
        reporter.warn(
            "all images of these data are measured; if the model was trained on them, say which were held out with the \
             --val-share and --split of its training",
        );
    }
    dataset.take_labels_of(&trained.class_names, trained.classes)?;
    dataset.check_for_evaluation()?;
    describe_classes(reporter, &dataset);
    let cells = trained.config.eval.cells();
    let (origin, trained_on) = (trained.origin(), trained.trained_on.clone());
    let report = classification::evaluate(trained.model(reporter), &dataset.val, &dataset.classes)?;
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
