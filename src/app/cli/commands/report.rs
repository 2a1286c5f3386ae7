//! `ptl-train report`: finished runs as one HTML page.

use std::path::Path;

use super::shared::{check_outputs, measure_held_out, open_class_test, open_test, set_threads};
use crate::app::cli::ExitCode;
use crate::app::cli::args::RunReportArgs;
use crate::app::cli::output::{stderr_reporter, stop_with_message};
use crate::app::cli::report::{
    Arm, Examined, Ranked, Section, Shown as Amount, costs, figures, of_classes, of_queries, page, settings, states,
    training,
};
use crate::base::atomic::atomic_write;
use crate::base::progress::Reporter;
use crate::base::stats::Bootstrap;
use crate::base::stop::StopFlag;
use crate::base::text::{Shown, listed};
use crate::config::{Config, Overrides};
use crate::eval::calibration::{Calibration, find_calibration};
use crate::eval::report::{Details, Evaluation};
use crate::eval::{classification, dataset_features, ranking_options};
use crate::model::{TrainedModel, model_file};
use crate::nn::TaskKind;
use crate::run_dir::RunDir;
use crate::study::runs::{self, Options, RunComparison};
use crate::{Error, Result};

/// Runs `ptl-train report`.
pub(crate) fn report(args: &RunReportArgs) -> Result<ExitCode> {
    let flags = &args.settings.0;
    if args.no_model
        && let Some((setting, _)) = flags.iter().next()
    {
        return Err(Error::Setting {
            setting: format!("`{}`", setting.path),
            value: "(given)".into(),
            reason: "with --no-model, no network is run: leave one of the two out".into(),
        });
    }
    let inputs: Vec<&Path> = args.runs.iter().map(|run| &**run).collect();
    check_outputs(&[("--out", Some(&args.out))], &inputs)?;
    // Before the bootstrap, which computes.
    let mut threads = Overrides::default();
    flags
        .iter()
        .filter(|(setting, _)| setting.path == "threads")
        .for_each(|(setting, value)| threads.push(setting, value.clone()));
    set_threads(&Config::load(&Config::default(), None, &threads)?)?;
    let reporter = stderr_reporter();
    let bootstrap = Bootstrap { resamples: args.resamples as usize, seed: 0 };
    let (found, arms) = find(args, bootstrap)?;
    let names = arms.iter().map(|arm| arm.name.clone());
    let mut sections = match &found {
        Ok(found) => vec![Section::new("Figures", figures(found))],
        Err(reason) => {
            reporter.message(&format!("no table of figures: {reason}"));
            Vec::new()
        }
    };
    sections.push(Section::new("Curves", training(&arms)?));
    sections.push(Section::new("Latent states", states(&arms)?));
    if !args.no_model {
        let amount = Amount { count: args.queries as usize, heat_maps: !args.no_heat_maps };
        let stop = stop_with_message(&reporter, "stopping; nothing is written; Ctrl-C again stops at once");
        for arm in &arms {
            let html = examine(arm, flags, amount, &stop, &reporter).inspect_err(|error| {
                if !matches!(error, Error::Stopped) {
                    reporter.message(
                        "--no-model makes a report without networks and images; --data names images that have moved",
                    );
                }
            })?;
            sections.push(Section::new(format!("Results of {}", arm.name), html));
        }
    }
    sections.push(Section::new("Settings", settings(&arms)));
    sections.push(Section::new("Costs", costs(&arms)?));
    let title = format!("ptl: {}", listed(names));
    let html = page(&title, &sections);
    atomic_write(&args.out, |file| file.write_all(html.as_bytes()))?;
    let size = html.len().div_ceil(1 << 10);
    reporter.message(&format!("report written to {} ({size} KiB): open it in a browser", args.out.shown()));
    Ok(ExitCode::SUCCESS)
}

/// Returns the comparison of the runs, or why there is none, and the arms. A single run may have no figures to compare.
fn find(args: &RunReportArgs, bootstrap: Bootstrap) -> Result<(Result<RunComparison, String>, Vec<Arm>)> {
    let arm = |name: &str, runs: Vec<RunDir>| -> Result<Arm> {
        let config = runs[0].read_config(&Overrides::default())?;
        Ok(Arm { name: name.into(), runs, config })
    };
    match runs::compare(&args.runs, &Options { bootstrap, baseline: args.baseline.clone() }) {
        Ok(found) => {
            let arms = found.arms.iter().map(|of| {
                let folders = of.runs.iter().map(|run| RunDir::view(&run.folder)).collect::<Result<Vec<_>>>()?;
                arm(&of.name, folders)
            });
            let arms = arms.collect::<Result<Vec<_>>>()?;
            Ok((Ok(found), arms))
        }
        Err(Error::NotComparable { reason }) if args.runs.len() == 1 && args.baseline.is_none() => {
            let Ok(run) = RunDir::view(&args.runs[0]) else { return Err(Error::NotComparable { reason }) };
            let name = run.root().file_name().map_or_else(|| "run".into(), |name| name.to_string_lossy().into_owned());
            Ok((Err(reason), vec![arm(&name, vec![run])?]))
        }
        Err(error) => Err(error),
    }
}

/// Runs the network of the arm's first run on the images that the run was measured on, and returns what the page shows of that.
fn examine(arm: &Arm, flags: &Overrides, shown: Amount, stop: &StopFlag, reporter: &Reporter) -> Result<String> {
    let mut flags = flags.clone();
    let run = arm.runs[0].root();
    let mut trained = TrainedModel::open(run, &flags)?;
    measure_held_out(&mut trained, &mut flags)?;
    reporter.message(&format!("{}: device {}", run.shown(), trained.device));
    let device = trained.device.clone();
    match trained.config.task {
        TaskKind::Reid => {
            let dataset = open_test(&trained, &flags, reporter)?;
            dataset.check_for_evaluation()?;
            let weights = model_file(run)?;
            let origin = trained.feature_origin()?;
            let beside = Calibration::beside(&weights);
            let calibration = find_calibration(None, Some(&beside), Some(&origin))?;
            let (ranking, rerank) = (ranking_options(&dataset, trained.config.seed), trained.config.rerank_options());
            let mut model = trained.model(reporter);
            model.stop = stop.clone();
            let [query, gallery] = &dataset_features(&mut model, &dataset)?;
            let evaluation = Evaluation::new(query, gallery, ranking, rerank, &device, reporter)?;
            let outcome = evaluation.run(Details { roc: true, camera_pairs: true }, reporter)?;
            let mut examined = Examined { model: &mut model, reporter, shown };
            let ranked = Ranked { query, gallery, evaluation: &evaluation, outcome: &outcome };
            of_queries(&ranked, calibration.as_ref(), &mut examined)
        }
        TaskKind::Classify => {
            let dataset = open_class_test(&trained, &flags, reporter)?;
            let mut model = trained.model(reporter);
            model.stop = stop.clone();
            let report = classification::evaluate(&mut model, &dataset.val, &dataset.classes)?;
            of_classes(&report, &dataset, &mut Examined { model: &mut model, reporter, shown })
        }
    }
}
