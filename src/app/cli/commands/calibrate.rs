//! `ptl-train calibrate`: thresholds of a model for decisions.

use super::shared::{
    check_outputs, describe_datasets, evaluated, is_of_training, measure_held_out, open_dataset, refuse_classifier,
    refuse_trained, set_threads,
};
use crate::app::cli::ExitCode;
use crate::app::cli::args::CalibrateArgs;
use crate::app::cli::output::{print, stderr_reporter};
use crate::base::progress::Reporter;
use crate::base::text::Shown;
use crate::data::Subsets;
use crate::eval::calibration::{self, Calibration, CalibrationInput, CalibrationRates};
use crate::eval::interval::{Proportion, percent};
use crate::eval::{dataset_features, ranking_options};
use crate::model::{TrainedModel, model_file};
use crate::{Error, Result};

/// A rate is not well known if its interval ends at more than so many times the rate.
const WIDE: f64 = 2.0;

/// Runs `ptl-train calibrate`.
pub(crate) fn calibrate(args: &CalibrateArgs) -> Result<ExitCode> {
    let mut flags = args.settings.0.clone();
    let mut trained = TrainedModel::open(&args.checkpoint, &flags)?;
    refuse_classifier(&trained, &args.checkpoint)?;
    let weights = model_file(&args.checkpoint)?;
    let out = args.out.clone().unwrap_or_else(|| Calibration::beside(&weights));
    check_outputs(&[("--out", Some(&out))], &[&weights])?;
    // Held-out identities of the training are the best choice.
    measure_held_out(&mut trained, &mut flags)?;
    set_threads(&trained.config)?;
    let reporter = stderr_reporter();
    reporter.message(&format!("device: {}", trained.device));
    trained.say_choice(&reporter);
    let (root, kind) = evaluated(&trained.config, &flags)?;
    let dataset = open_dataset(root, kind, Subsets::Test, &trained.config, &reporter)?;
    refuse_trained(&trained, root, &dataset, &flags, &reporter)?;
    dataset.check_for_evaluation()?;
    describe_datasets(&reporter, [Some(&dataset), None]);
    if is_of_training(&trained, root) && trained.config.data.val_ids == 0 {
        let held_out = trained.trained_data.as_ref().is_some_and(|own| own.val_ids > 0);
        reporter.message(&format!(
            "the thresholds are measured on the test of the training's data set, so that other figures of this test do not check them: {}",
            if held_out {
                "without --data, the identities that the training held out are measured"
            } else {
                "a training with --val-ids holds identities out for this"
            }
        ));
    }
    let origin = &trained.feature_origin()?;
    let [query, gallery] = &dataset_features(&mut trained.model(&reporter), &dataset)?;
    let name = &format!("{} ({})", dataset.name, dataset.label);
    let rates = CalibrationRates { fmr: distinct(&args.fmr), fpir: distinct(&args.fpir) };
    let options = ranking_options(&dataset, trained.config.seed);
    let input = CalibrationInput { query, gallery, origin, name };
    let calibration = calibration::calibrate(input, options, &rates, &trained.device, &reporter)?;
    if calibration.verification.is_empty() && calibration.identification.points.is_empty() {
        let few =
            format!("{} pairs of two identities and {} queries", calibration.impostors(), calibration.data.queries);
        let reason = format!("{few} are too few for any of the wanted rates: name larger ones, or use more identities");
        return Err(Error::Setting { setting: "--fmr and --fpir".into(), value: shown(&rates), reason });
    }
    print(&format!("calibrated on {name}\n{}\n", calibration.tables()))?;
    say_weaknesses(&calibration, &rates, &reporter);
    calibration.write(&out)?;
    reporter.message(&format!("thresholds written to {}", out.shown()));
    Ok(ExitCode::SUCCESS)
}

/// Returns the rates in descending order, each once.
fn distinct(rates: &[f64]) -> Vec<f64> {
    let mut rates = rates.to_vec();
    rates.sort_by(|a, b| b.total_cmp(a));
    rates.dedup();
    rates
}

fn shown(rates: &CalibrationRates) -> String {
    rates.fmr.iter().chain(&rates.fpir).map(f64::to_string).collect::<Vec<_>>().join(", ")
}

/// Warns of wanted rates without a threshold, and of thresholds whose rate is not well known.
fn say_weaknesses(calibration: &Calibration, rates: &CalibrationRates, reporter: &Reporter) {
    let fmr = calibration.verification.iter().map(|point| (point.wanted_fmr, &point.fmr)).collect();
    let points = &calibration.identification.points;
    let fpir = points.iter().filter_map(|point| Some((point.wanted_fpir?, &point.fpir))).collect();
    let of: [(_, _, _, Vec<(f64, &Proportion)>); 2] =
        [("FMR", "pairs of two identities", &rates.fmr, fmr), ("FPIR", "queries", &rates.fpir, fpir)];
    for (name, items, wanted, there) in of {
        let is_missing = |rate: &&f64| !there.iter().any(|(known, _)| known == *rate);
        let missing: Vec<String> = wanted.iter().filter(is_missing).map(f64::to_string).collect();
        if !missing.is_empty() {
            reporter.warn(&format!(
                "no threshold for {name} {}: there are too few {items}, or the nearest are at the same distance",
                missing.join(", ")
            ));
        }
        for (wanted, measured) in there.iter().filter(|(_, measured)| measured.interval[1] > WIDE * measured.share) {
            reporter.warn(&format!(
                "at the threshold for {name} {wanted}, the rate may be up to {} %: more identities would tell it better",
                percent(measured.interval[1])
            ));
        }
    }
}
