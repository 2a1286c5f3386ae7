//! `ptl-train compare-images`: whether two images show the same identity.

use serde_json::json;

use super::shared::{check_outputs, find_threshold, open_images, refuse_classifier, set_threads};
use crate::app::cli::ExitCode;
use crate::app::cli::args::CompareImagesArgs;
use crate::app::cli::output::{print, stderr_reporter};
use crate::base::atomic::atomic_write;
use crate::base::text::Shown;
use crate::data::Dataset;
use crate::eval::Output;
use crate::eval::calibration::{Calibration, WantedRate, find_calibration};
use crate::eval::interval::percent;
use crate::eval::search::distance;
use crate::model::{TrainedModel, model_file};
use crate::{Error, Result};

/// False match rate of the threshold, if none is given.
const FMR: f64 = 1e-3;
/// Exit code for different identities.
const DIFFERENT: u8 = 3;
/// Exit code without a threshold.
const NO_DECISION: u8 = 4;

/// Runs `ptl-train compare-images`.
pub(crate) fn compare_images(args: &CompareImagesArgs) -> Result<ExitCode> {
    if let Some(path) = [&args.first, &args.second].into_iter().find(|path| !path.is_file()) {
        let reason = "it is no file: name two images".into();
        return Err(Error::Setting { setting: "IMAGE".into(), value: path.shown().to_string(), reason });
    }
    let mut flags = args.settings.0.clone();
    // A batch of the usual size would be computed for two images.
    if !flags.has("eval.batch") {
        flags.add("eval.batch", "2")?;
    }
    let mut trained = TrainedModel::open(&args.checkpoint, &flags)?;
    refuse_classifier(&trained, &args.checkpoint)?;
    let weights = model_file(&args.checkpoint)?;
    let mut inputs = vec![&*args.first, &args.second, &weights];
    inputs.extend(args.calibration.as_deref());
    let beside = Calibration::beside(&weights);
    inputs.push(&beside);
    check_outputs(&[("--json", args.json.as_deref())], &inputs)?;
    let reporter = stderr_reporter();
    let origin = trained.feature_origin()?;
    // A threshold that is given needs no calibration.
    let usual = Some(&*beside).filter(|_| args.threshold.is_none());
    let calibration = find_calibration(args.calibration.as_deref(), usual, Some(&origin))?;
    let wanted = args.fmr.map(WantedRate::Fmr);
    let threshold = match args.threshold {
        Some(distance) => Some((distance, None)),
        None => find_threshold(calibration.as_ref(), wanted, WantedRate::Fmr(FMR), &reporter)?
            .map(|(distance, rate)| (distance, Some(rate))),
    };
    set_threads(&trained.config)?;
    reporter.message(&format!("device: {}", trained.device));
    trained.say_choice(&reporter);
    let mut records = Vec::new();
    for path in [&args.first, &args.second] {
        records.extend(open_images(path, &trained.config, &reporter)?);
    }
    let [_, _] = &records[..] else {
        let reason = "an image was left out because it cannot be read: both are needed".into();
        return Err(Error::Setting { setting: "`data.skip_broken`".into(), value: "true".into(), reason });
    };
    let (features, dim) = trained.model(&reporter).run(Dataset::samples(&records), Output::Feature)?;
    let (first, second) = features.split_at(dim);
    for (path, feature) in [(&args.first, first), (&args.second, second)] {
        if feature.iter().all(|value| *value == 0.0) {
            let reason = "the network gives zeros for this image, which have no distance that means something".into();
            return Err(Error::FeatureFile { path: path.clone(), reason });
        }
    }
    let distance = distance(first, second);
    // Both features have unit length.
    let cosine = 1.0 - 0.5 * distance * distance;
    let same = threshold.map(|(threshold, _)| distance <= threshold);
    let rates = calibration.as_ref().map(|calibration| calibration.histogram.rates(distance));

    let mut text = format!("distance {distance:.4}, cosine similarity {cosine:.4}\n");
    match threshold {
        None => {
            text +=
                "no decision: there is no threshold; write one with ptl-train calibrate, or name it with --threshold\n"
        }
        Some((threshold, wanted)) => {
            let verdict = if distance <= threshold { "same identity" } else { "different identities" };
            let of = wanted.map_or_else(String::new, |wanted| format!(" ({wanted})"));
            text += &format!("{verdict}: images up to distance {threshold:.4}{of} are taken for the same\n");
        }
    }
    if let Some([fmr, tmr]) = rates {
        text += &format!(
            "at this distance or nearer: {} % of the pairs of two identities, {} % of the pairs of one\n",
            percent(fmr),
            percent(tmr)
        );
    }
    if let Some(path) = &args.json {
        let value = json!({
            "images": [args.first.shown().to_string(), args.second.shown().to_string()],
            "distance": distance,
            "cosine": cosine,
            "same": same,
            "threshold": threshold.map(|(threshold, _)| threshold),
            "threshold_from": threshold.map(|(_, wanted)| wanted.map_or_else(|| "as given".into(), |wanted| wanted.to_string())),
            "fmr_at_distance": rates.map(|[fmr, _]| fmr),
            "tmr_at_distance": rates.map(|[_, tmr]| tmr),
        });
        atomic_write(path, |file| writeln!(file, "{value:#}"))?;
    }
    print(&text)?;
    Ok(match same {
        Some(true) => ExitCode::SUCCESS,
        Some(false) => ExitCode::from(DIFFERENT),
        None => ExitCode::from(NO_DECISION),
    })
}
