//! `ptl-train report`: finished runs as one HTML page.

use std::path::Path;

use super::shared::{check_outputs, open_class_test, open_test, refuse_unused, set_threads};
use crate::app::cli::ExitCode;
use crate::app::cli::args::RunReportArgs;
use crate::app::cli::output::stderr_reporter;
use crate::app::cli::report::{
    Amount, Arm, Examined, Ranked, Section, costs, figures, of_classes, of_queries, page, paragraph, settings, states,
    training,
};
use crate::base::atomic::atomic_write;
use crate::base::progress::Reporter;
use crate::base::stats::Bootstrap;
use crate::base::text::{Shown, listed};
use crate::config::{Config, Overrides};
use crate::engine::latent_state::EvalState;
use crate::eval::calibration::{Calibration, find_calibration};
use crate::eval::report::{Details, Evaluation};
use crate::eval::{classification, dataset_features, ranking_options};
use crate::model::{TrainedModel, model_file};
use crate::nn::TaskKind;
use crate::run_dir::RunDir;
use crate::study::runs::{self, Options, RunComparison};
use crate::{Error, Result};

/// Figures of a run that differ by less, in [0, 1], are the same.
const ROUNDING: f64 = 1e-4;

/// Runs `ptl-train report`.
pub(crate) fn report(args: &RunReportArgs) -> Result<ExitCode> {
    let flags = &args.settings.0;
    check_flags(args)?;
    let inputs: Vec<&Path> = args.runs.iter().map(|run| &**run).collect();
    check_outputs(&[("--out", Some(&args.out))], &inputs)?;
    // Before the bootstrap, which computes.
    let mut threads = Overrides::default();
    let given = flags.iter().filter(|(setting, _)| setting.path == "threads");
    given.for_each(|(setting, value)| threads.push(setting, value.clone()));
    set_threads(&Config::load(&Config::default(), None, &threads)?)?;
    let reporter = stderr_reporter();
    let Found { arms, comparison } = find(args)?;
    let mut sections = match &comparison {
        Ok(found) => vec![Section::new("Figures", figures(found))],
        Err(reason) => {
            reporter.message(&format!("no table of figures: {reason}"));
            vec![Section::new("Figures", paragraph(&format!("There are none: {reason}.")))]
        }
    };
    sections.push(Section::new("Curves", training(&arms)?));
    sections.push(Section::new("Latent states", states(&arms)?));
    if !args.no_model {
        let amount = Amount { count: args.queries as usize, heat_maps: !args.no_heat_maps };
        for arm in &arms {
            let html = examine(arm, flags, amount, &reporter)?;
            sections.push(Section::new(format!("Results of {}", arm.name), html));
        }
    }
    sections.push(Section::new("Settings", settings(&arms)));
    sections.push(Section::new("Costs", costs(&arms)?));
    let title = format!("ptl: {}", listed(arms.iter().map(|arm| arm.name.clone())));
    let html = page(&title, &sections);
    atomic_write(&args.out, |file| file.write_all(html.as_bytes()))?;
    let size = html.len().div_ceil(1 << 10);
    reporter.message(&format!("report written to {} ({size} KiB): open it in a browser", args.out.shown()));
    Ok(ExitCode::SUCCESS)
}

/// Refuses flags without effect, and a file to write that is no page.
fn check_flags(args: &RunReportArgs) -> Result<()> {
    let flags = &args.settings.0;
    refuse_unused(flags, &["eval.raw_csv"])?;
    if args.no_model
        && let Some((setting, _)) = flags.iter().find(|(setting, _)| setting.path != "threads")
    {
        return Err(Error::Setting {
            setting: format!("`{}`", setting.path),
            value: "(given)".into(),
            reason: "with --no-model, no network is run: leave one of the two out".into(),
        });
    }
    if !args.out.is_dir() && args.out.extension().is_none_or(|ending| ending != "html") {
        let reason = "the report is a page: give it the ending .html".into();
        return Err(Error::Setting { setting: "--out".into(), value: args.out.shown().to_string(), reason });
    }
    // A link may lead to an image or to a file of a run.
    if args.out.is_symlink() || (args.out.exists() && !args.out.is_file() && !args.out.is_dir()) {
        let reason = "it is a link or no regular file: name a file".into();
        return Err(Error::Setting { setting: "--out".into(), value: args.out.shown().to_string(), reason });
    }
    Ok(())
}

/// The runs, sorted into arms.
struct Found {
    arms: Vec<Arm>,
    /// Or why they have no figures that can be compared.
    comparison: Result<RunComparison, String>,
}

/// Finds the runs. A single run may have no figures of single queries.
fn find(args: &RunReportArgs) -> Result<Found> {
    let arm = |name: &str, runs: Vec<RunDir>, measured| -> Result<Arm> {
        let config = runs[0].read_config(&Overrides::default())?;
        Ok(Arm { name: name.into(), runs, config, measured })
    };
    let bootstrap = Bootstrap { resamples: args.resamples as usize, seed: 0 };
    match runs::compare(&args.runs, &Options { bootstrap, baseline: args.baseline.clone() }) {
        Ok(found) => {
            let arms = found.arms.iter().map(|of| {
                let folders = of.runs.iter().map(|run| RunDir::view(&run.folder)).collect::<Result<Vec<_>>>()?;
                arm(&of.name, folders, Some((found.items, of.runs[0].figures[found.figure])))
            });
            Ok(Found { arms: arms.collect::<Result<Vec<_>>>()?, comparison: Ok(found) })
        }
        Err(Error::NotComparable { reason }) if args.baseline.is_none() => {
            let [path] = &args.runs[..] else {
                return Err(Error::NotComparable {
                    reason: format!("{reason}; a report of one run has what else there is"),
                });
            };
            // A study has settings too, but no results of its own.
            let run = RunDir::view(path).ok().filter(|run| run.items_path().is_file());
            let Some(run) = run else { return Err(Error::NotComparable { reason }) };
            let name = path.file_name().map_or_else(|| "run".into(), |name| name.to_string_lossy().into_owned());
            Ok(Found { arms: vec![arm(&name, vec![run], None)?], comparison: Err(reason) })
        }
        Err(error) => Err(error),
    }
}

/// Runs the network of the arm's first run on the images that the run was measured on, and returns what the page shows of that.
fn examine(arm: &Arm, flags: &Overrides, amount: Amount, reporter: &Reporter) -> Result<String> {
    let run = arm.runs[0].root();
    let mut trained = TrainedModel::open(run, flags)?;
    let flags = &as_measured(&mut trained, flags)?;
    reporter.message(&format!("{}: device {}", run.shown(), trained.device));
    let moved = |_: &Error| {
        reporter.message("--data names images that have moved; --no-model makes a report without networks and images");
    };
    let is_noisy = trained.config.ptl.eval_state == EvalState::Normal;
    if is_noisy && amount.heat_maps {
        reporter.message("no heat maps: with random states, each run of the network gives something else");
    }
    let amount = Amount { heat_maps: amount.heat_maps && !is_noisy, ..amount };
    let device = trained.device.clone();
    let about = |images: String| format!("Run {}, seed {}, measured on {images}.", run.shown(), arm.config.seed);
    match trained.config.task {
        TaskKind::Reid => {
            let dataset = &open_test(&trained, flags, reporter).inspect_err(moved)?;
            dataset.check_for_evaluation()?;
            let origin = trained.feature_origin()?;
            let beside = Calibration::beside(&model_file(run)?);
            let calibration = find_calibration(None, Some(&beside), Some(&origin));
            let (ranking, rerank) = (ranking_options(dataset, trained.config.seed), trained.config.rerank_options());
            let mut model = trained.model(reporter);
            let [query, gallery] = &dataset_features(&mut model, dataset)?;
            let evaluation = Evaluation::new(query, gallery, ranking, rerank, &device, reporter)?;
            let outcome = evaluation.run(Details { roc: true, camera_pairs: true }, reporter)?;
            let plain = &outcome.plain;
            let results = plain.per_query.iter().flatten().count();
            let note = compare_with_run(arm, results, plain.map, "queries")?;
            let (name, label) = (&dataset.name, &dataset.label);
            let images = format!("{name} ({label}): {} queries, {} gallery images", query.len(), gallery.len());
            let ranked = Ranked { query, gallery, evaluation: &evaluation, outcome: &outcome, dataset };
            let mut examined = Examined { model: &mut model, reporter, amount };
            Ok(paragraph(&about(images)) + &note + &of_queries(&ranked, &calibration, &mut examined)?)
        }
        TaskKind::Classify => {
            let dataset = open_class_test(&trained, flags, reporter).inspect_err(moved)?;
            let mut model = trained.model(reporter);
            let report = classification::evaluate(&mut model, &dataset.val, &dataset.classes)?;
            let note = compare_with_run(arm, report.images, report.top1, "images")?;
            let images = format!("{} ({}): {} images", dataset.name, dataset.label, report.images);
            let html = of_classes(&report, &dataset, &mut Examined { model: &mut model, reporter, amount })?;
            Ok(paragraph(&about(images)) + &note + &html)
        }
    }
}

/// Takes the settings that say which images the training measured, also where `--data` names the place that these images are at now. Returns the
/// flags with them.
fn as_measured(trained: &mut TrainedModel, flags: &Overrides) -> Result<Overrides> {
    let mut flags = flags.clone();
    let Some(own) = trained.trained_data.clone() else { return Ok(flags) };
    let data = &mut trained.config.data;
    if flags.has("data.root") {
        if !flags.has("data.kind") {
            let kind = if own.target.is_some() { own.target_kind } else { own.kind };
            flags.add("data.kind", &kind.to_string())?;
            data.kind = kind;
        }
        if !flags.has("data.name_pattern") {
            data.name_pattern.clone_from(&own.name_pattern);
        }
        if !flags.has("data.same_camera") {
            data.same_camera = own.same_camera;
        }
    }
    if own.val_ids > 0 && !flags.has("data.val_ids") {
        flags.add("data.val_ids", &own.val_ids.to_string())?;
        data.val_ids = own.val_ids;
    }
    if trained.config.task == TaskKind::Classify && !flags.has("data.val_share") {
        flags.add("data.val_share", &own.val_share.to_string())?;
        data.val_share = own.val_share;
    }
    if !flags.has("data.split") {
        data.split = own.split;
    }
    Ok(flags)
}

/// Refuses other images than those of the run, and returns a note if the figure is another one, as after a change of settings.
fn compare_with_run(arm: &Arm, count: usize, figure: f64, what: &str) -> Result<String> {
    let Some((items, own)) = arm.measured else { return Ok(String::new()) };
    if count != items {
        let reason = format!(
            "{} was measured on {items} {what}, and {count} are here: --data must name the images of the run",
            arm.runs[0].root().shown()
        );
        return Err(Error::NotComparable { reason });
    }
    if (figure - own).abs() <= ROUNDING {
        return Ok(String::new());
    }
    let [here, own] = [figure, own].map(|share| format!("{:.2}", 100.0 * share));
    Ok(paragraph(&format!("These results are not those of the run, whose main figure is {own} % and not {here} %.")))
}
