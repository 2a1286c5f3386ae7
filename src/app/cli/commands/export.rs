//! `ptl-train export`: a model as ONNX, compared with itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::Rng;
use serde_json::json;

use super::shared::{check_outputs, open_images, set_threads};
use crate::app::cli::ExitCode;
use crate::app::cli::args::ExportArgs;
use crate::app::cli::output::{print, stderr_reporter};
use crate::base::atomic::{atomic_write, sync_folder};
use crate::base::error::IoContext;
use crate::base::rng::{Purpose, stream};
use crate::base::text::{Shown, plural};
use crate::data::{Dataset, ImageSource, MEAN, PackedImages, STD, Sample};
use crate::engine::onnx::OPSET;
use crate::engine::precision::Precision;
use crate::eval::Output;
use crate::eval::onnx::{OnnxInput, RUNTIME, output_name};
use crate::io::onnx::{self, WeightPlace};
use crate::model::{TrainedModel, model_file};
use crate::nn::TaskKind;
use crate::{Error, Result};

/// Images of noise to compare on, without images of the user.
const NOISE: usize = 8;

/// Runs `ptl-train export`.
pub(crate) fn export(args: &ExportArgs) -> Result<ExitCode> {
    let flags = &args.settings.0;
    let refuse =
        |setting: &str, value: String, reason: String| Err(Error::Setting { setting: setting.into(), value, reason });
    if args.out.extension().is_none_or(|ending| ending != "onnx") {
        return refuse("--out", args.out.shown().to_string(), "give it the ending .onnx".into());
    }
    let data = onnx::weight_file(&args.out);
    if let Some(existing) = [&args.out, &data].into_iter().find(|path| path.exists()) {
        return refuse(
            "--out",
            args.out.shown().to_string(),
            format!("{} exists already: choose another name", existing.shown()),
        );
    }
    if RUNTIME.is_none() && (args.json.is_some() || args.images.is_some()) {
        let reason =
            "this build has no ONNX runtime, so nothing is compared: build it with the feature onnx-runtime".into();
        let given = if args.json.is_some() { "--json" } else { "--images" };
        return refuse(given, "(given)".into(), reason);
    }
    let mut trained = TrainedModel::open(&args.checkpoint, flags)?;
    let config = trained.config.clone();
    if config.precision != Precision::F32 {
        let reason =
            "a network in ONNX computes in f32, and would be compared with rounded results: leave it out".into();
        return refuse("`precision`", config.precision.to_string(), reason);
    }
    let weights = model_file(&args.checkpoint)?;
    check_outputs(&[("--json", args.json.as_deref())], &[&weights, &args.out, &data])?;
    set_threads(&config)?;
    let reporter = stderr_reporter();
    trained.say_choice(&reporter);
    let images = match &args.images {
        Some(path) => Some(Dataset::samples(&open_images(path, &config, &reporter)?)),
        None => None,
    };
    let samples = match &images {
        Some(all) => spread(all, args.limit as usize),
        None => noise(config.seed, [config.model.height, config.model.image_width]),
    };
    let folder = TemporaryFolder::beside(&args.out)?;
    let written = folder.0.join(args.out.file_name().expect("a file with an ending has a name"));

    let output = match config.task {
        TaskKind::Reid => Output::Feature,
        TaskKind::Classify => Output::Probabilities,
    };
    let input = if args.pixels { OnnxInput::Pixels } else { OnnxInput::Normalized };
    let mut network = trained.model(&reporter).onnx(output, input)?;
    let origin = trained.feature_origin()?;
    let numbers = |values: [f32; 3]| values.map(|value| value.to_string()).join(",");
    network.describe("ptl.weights", origin.weights.clone());
    network.describe("ptl.settings", json!(origin.settings).to_string());
    network.describe("ptl.mean", numbers(MEAN));
    network.describe("ptl.std", numbers(STD));
    if output == Output::Probabilities && !trained.class_names.is_empty() {
        network.describe("ptl.classes", json!(trained.class_names).to_string());
    }
    let nodes = network.node_count();
    let bytes = network.weight_bytes();
    let place = if args.external_data { WeightPlace::Beside } else { WeightPlace::Auto };
    let beside = onnx::write(network, &written, place)?;

    let mut text = format!(
        "{}: ONNX opset {OPSET}, {}, {:.1} MB of weights{}\n",
        args.out.shown(),
        plural(nodes, "node", "nodes"),
        bytes as f64 / 1e6,
        if beside { format!(" in {}", data.shown()) } else { String::new() }
    );
    let sizes = if args.pixels {
        format!("[batch, {}, {}, 3] u8", config.model.height, config.model.image_width)
    } else {
        format!("[batch, 3, {}, {}] f32", config.model.height, config.model.image_width)
    };
    match RUNTIME {
        None => {
            text += &format!("takes images {sizes}\n");
            reporter.warn(
                "the file was not compared with the model: this build has no ONNX runtime (feature onnx-runtime)",
            );
        }
        Some(runtime) => {
            let agreement = trained.model(&reporter).compare_onnx(&written, samples, output, input)?;
            let compared = match &images {
                Some(all) if all.len() > agreement.images => {
                    format!("{} of {}", agreement.images, plural(all.len(), "image", "images"))
                }
                Some(_) => plural(agreement.images, "image", "images"),
                None => plural(agreement.images, "image of noise", "images of noise"),
            };
            text += &format!("takes images {sizes}, gives {} [batch, {}] f32\n", output_name(output), agreement.dim);
            text += &format!(
                "compared with the model on {compared}, by {runtime}: largest difference {:.1e}, smallest cosine {:.9}\n",
                agreement.largest_difference, agreement.smallest_cosine
            );
            let agrees = agreement.largest_difference <= args.tolerance;
            if let Some(path) = &args.json {
                let value = json!({
                    "file": args.out.shown().to_string(),
                    "opset": OPSET,
                    "runtime": runtime,
                    "images": agreement.images,
                    "noise": images.is_none(),
                    "dim": agreement.dim,
                    "largest_difference": agreement.largest_difference,
                    "smallest_cosine": agreement.smallest_cosine,
                    "worst": agreement.worst.shown().to_string(),
                    "tolerance": args.tolerance,
                    "agrees": agrees,
                });
                atomic_write(path, |file| writeln!(file, "{value:#}"))?;
            }
            if !agrees {
                let reason = format!(
                    "by {runtime} the outputs of {} differ by up to {:.1e} from the model's, more than the tolerance {:.1e}: nothing was \
                     written; if the difference is only rounding, raise `tolerance`",
                    agreement.worst.shown(),
                    agreement.largest_difference,
                    args.tolerance
                );
                return Err(Error::Onnx { reason });
            }
        }
    }
    // The weights first: a file without its weights would be an error, weights without their file are none.
    if beside {
        let from = onnx::weight_file(&written);
        fs::rename(&from, &data).at("write", &data)?;
    }
    fs::rename(&written, &args.out).at("write", &args.out)?;
    sync_folder(&args.out);
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Returns `limit` samples, or all if there are fewer, at even distances.
fn spread(all: &Arc<[Sample]>, limit: usize) -> Arc<[Sample]> {
    let count = limit.min(all.len());
    (0..count).map(|i| all[i * all.len() / count].clone()).collect()
}

/// Returns images of noise, of the network's size.
fn noise(seed: u64, [height, width]: [usize; 2]) -> Arc<[Sample]> {
    let mut rng = stream(seed, Purpose::Test, 0, 0);
    let mut pixels = vec![0; NOISE * height * width * 3];
    rng.fill_bytes(&mut pixels);
    let images = Arc::new(PackedImages { file: PathBuf::from("noise"), height, width, channels: 3, pixels });
    let image = |index| ImageSource::Packed { images: images.clone(), index };
    (0..NOISE).map(|index| Sample { image: image(index), label: 0 }).collect()
}

/// A hidden folder that goes when the command ends, whatever happens.
struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    /// Creates the folder beside `path`, and the folder of `path`.
    fn beside(path: &Path) -> Result<TemporaryFolder> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let folder = path.with_file_name(format!(".{name}.tmp"));
        fs::create_dir_all(&folder).at("create", &folder)?;
        Ok(TemporaryFolder(folder))
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // What cannot be removed is overwritten by the next export to this name.
        let _ = fs::remove_dir_all(&self.0);
    }
}
