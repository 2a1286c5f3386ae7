//! `ptl-train export`: a model as ONNX, compared with the model's own outputs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::Rng;
use serde_json::json;

use super::shared::{check_outputs, open_some_images, refuse_unused, set_threads};
use crate::app::cli::ExitCode;
use crate::app::cli::args::ExportArgs;
use crate::app::cli::output::{print, stderr_reporter, stop_with_message};
use crate::base::atomic::{atomic_write, sync_folder};
use crate::base::error::IoContext;
use crate::base::rng::{Purpose, stream};
use crate::base::text::{Shown, plural};
use crate::data::{Dataset, ImageSource, MEAN, PackedImages, STD, Sample};
use crate::engine::onnx::{OPSET, OnnxModel};
use crate::engine::precision::Precision;
use crate::eval::Output;
use crate::eval::onnx::{Agreement, OnnxInput, RUNTIME, output_name};
use crate::io::onnx::{self, WeightPlace};
use crate::model::{TrainedModel, model_file};
use crate::nn::TaskKind;
use crate::{Error, Result};

/// Images of noise to compare on, without images of the user.
const NOISE: usize = 8;

/// Runs `ptl-train export`.
pub(crate) fn export(args: &ExportArgs) -> Result<ExitCode> {
    let (flags, out, data) = (&args.settings.0, &args.out, onnx::weight_file(&args.out));
    check_names(args, &data)?;
    if args.images.is_none() {
        refuse_unused(flags, &["data.skip_broken"])?;
    }
    let mut trained = TrainedModel::open(&args.checkpoint, flags)?;
    let config = trained.config.clone();
    if config.precision != Precision::F32 {
        let reason = "a network in ONNX computes in f32, and would be compared with rounded results: leave it out";
        return Err(refused("`precision`", config.precision.to_string(), reason.into()));
    }
    let weights = model_file(&args.checkpoint)?;
    check_outputs(&[("--out", Some(out)), ("--out", Some(&data)), ("--json", args.json.as_deref())], &[&weights])?;
    set_threads(&config)?;
    let reporter = stderr_reporter();
    trained.say_choice(&reporter);
    let output = match config.task {
        TaskKind::Reid => Output::Feature,
        TaskKind::Classify => Output::Probabilities,
    };
    let input = if args.pixels { OnnxInput::Pixels } else { OnnxInput::Normalized };
    let mut network = trained.model(&reporter).onnx(output, input)?;
    describe(&mut network, &trained)?;
    let (samples, all) = match &args.images {
        Some(path) => {
            let (records, all) = open_some_images(path, args.limit as usize, &config, &reporter)?;
            (Dataset::samples(&records), Some(all))
        }
        None => (noise(config.seed, [config.model.height, config.model.image_width]), None),
    };

    // From here on an interruption ends in order, so that the folder goes.
    let stop = stop_with_message(&reporter, "stopping: no ONNX file is written; Ctrl-C again stops at once");
    let folder = TemporaryFolder::beside(out)?;
    let (nodes, bytes) = (network.node_count(), network.weight_bytes());
    let place = if args.external_data { WeightPlace::Beside } else { WeightPlace::Auto };
    let written = folder.0.join(out.file_name().expect("a file with an ending has a name"));
    let beside = onnx::write(network, &written, place)?;
    let nodes = plural(nodes, "node", "nodes");
    let place = if beside { format!(" in {}", data.shown()) } else { String::new() };
    let mut text =
        format!("{}: ONNX opset {OPSET}, {nodes}, {:.1} MB of weights{place}\n", out.shown(), bytes as f64 / 1e6);
    let (height, width) = (config.model.height, config.model.image_width);
    text += &match input {
        OnnxInput::Normalized => format!("takes images [batch, 3, {height}, {width}] f32"),
        OnnxInput::Pixels => format!("takes images [batch, {height}, {width}, 3] u8"),
    };
    match RUNTIME {
        None => {
            reporter.warn(
                "the file was not compared with the model: this build has no ONNX runtime (feature onnx-runtime)",
            );
            text += "\n";
        }
        Some(runtime) => {
            let mut model = trained.model(&reporter);
            model.stop = stop.clone();
            let agreement = model.compare_onnx(&written, samples, output, input)?;
            text += &format!(", gives {} [batch, {}] f32\n", output_name(output), agreement.dim);
            text += &compared(&agreement, all, runtime);
            let agrees = agreement.largest_difference <= args.tolerance;
            if let Some(path) = &args.json {
                write_report(path, args, &agreement, runtime)?;
            }
            if !agrees {
                let reason = format!(
                    "by {runtime} the outputs of {} differ by up to {:.1e} from the model's, more than the tolerance {}: no ONNX file was \
                     written; if the difference is only rounding, raise `tolerance`",
                    agreement.worst.shown(),
                    agreement.largest_difference,
                    args.tolerance
                );
                return Err(Error::Onnx { reason });
            }
        }
    }
    if stop.requested() {
        return Err(Error::Stopped);
    }
    // Somebody else may have written them meanwhile.
    check_names(args, &data)?;
    // The weights first: a file without its weights would be an error, weights without their file are none.
    if beside {
        fs::rename(onnx::weight_file(&written), &data).at("write", &data)?;
    }
    fs::rename(&written, out).at("write", out)?;
    sync_folder(out);
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn refused(setting: &str, value: String, reason: String) -> Error {
    Error::Setting { setting: setting.into(), value, reason }
}

/// Checks the names of the files to write, and that this build can do what is asked for.
fn check_names(args: &ExportArgs, data: &Path) -> Result<()> {
    let refuse = |reason: String| Err(refused("--out", args.out.shown().to_string(), reason));
    if args.out.extension().is_none_or(|ending| ending != "onnx") {
        return refuse("give it the ending .onnx".into());
    }
    let text = args.out.to_string_lossy();
    if text.ends_with(std::path::is_separator) {
        return refuse("it is a folder: name a file in it".into());
    }
    // A file with its weights beside it names their file, and some runtimes take a backslash for a separator.
    if args.out.file_name().and_then(|name| name.to_str()).is_none_or(|name| name.contains('\\')) {
        return refuse("the name must be UTF-8 without a backslash: choose another name".into());
    }
    if let Some(existing) = [&args.out, data].into_iter().find(|path| path.exists()) {
        return refuse(format!("{} exists already: choose another name", existing.shown()));
    }
    if RUNTIME.is_none() && (args.json.is_some() || args.images.is_some()) {
        let reason = "this build has no ONNX runtime, so nothing is compared: build it with the feature onnx-runtime";
        let given = if args.json.is_some() { "--json" } else { "--images" };
        return Err(refused(given, "(given)".into(), reason.into()));
    }
    Ok(())
}

/// Adds what users of the file need to know: settings, preprocessing, names of classes.
fn describe(network: &mut OnnxModel, trained: &TrainedModel) -> Result<()> {
    let origin = trained.feature_origin()?;
    let numbers = |values: [f32; 3]| values.map(|value| value.to_string()).join(",");
    network.describe("ptl.weights", origin.weights);
    network.describe("ptl.settings", json!(origin.settings).to_string());
    network.describe("ptl.mean", numbers(MEAN));
    network.describe("ptl.std", numbers(STD));
    if trained.config.task == TaskKind::Classify && !trained.class_names.is_empty() {
        network.describe("ptl.classes", json!(trained.class_names).to_string());
    }
    Ok(())
}

/// Returns the line about a comparison on images of the user, of which there are `all`, or on noise.
fn compared(agreement: &Agreement, all: Option<usize>, runtime: &str) -> String {
    let Agreement { images, largest_difference, smallest_cosine, .. } = *agreement;
    let images = match all {
        Some(all) if all > images => format!("{images} of {}", plural(all, "image", "images")),
        Some(_) => plural(images, "image", "images"),
        None => plural(images, "image of noise", "images of noise"),
    };
    format!(
        "compared with the model on {images}, by {runtime}: largest difference {largest_difference:.1e}, smallest cosine {smallest_cosine:.9}\n"
    )
}

/// Writes the result of a comparison as JSON.
fn write_report(path: &Path, args: &ExportArgs, agreement: &Agreement, runtime: &str) -> Result<()> {
    let value = json!({
        "file": args.out.shown().to_string(),
        "opset": OPSET,
        "runtime": runtime,
        "images": agreement.images,
        "noise": args.images.is_none(),
        "dim": agreement.dim,
        "largest_difference": agreement.largest_difference,
        "smallest_cosine": agreement.smallest_cosine,
        "worst": agreement.worst.shown().to_string(),
        "tolerance": args.tolerance,
        "agrees": agreement.largest_difference <= args.tolerance,
    });
    atomic_write(path, |file| writeln!(file, "{value:#}"))
}

/// Returns images of noise, of the network's size.
fn noise(seed: u64, [height, width]: [usize; 2]) -> Arc<[Sample]> {
    let mut pixels = vec![0; NOISE * height * width * 3];
    stream(seed, Purpose::Test, 0, 0).fill_bytes(&mut pixels);
    let images = Arc::new(PackedImages { file: PathBuf::from("noise"), height, width, channels: 3, pixels });
    let image = |index| ImageSource::Packed { images: images.clone(), index };
    (0..NOISE).map(|index| Sample { image: image(index), label: 0 }).collect()
}

/// A hidden folder of this process, which is removed when the command ends, also by an error or after the first Ctrl-C.
struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    /// Creates the folder beside `path`, after the folder of `path`.
    fn beside(path: &Path) -> Result<TemporaryFolder> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).at("create", folder)?;
        }
        let folder = path.with_file_name(format!(".ptl-export-{}", std::process::id()));
        fs::create_dir(&folder).at("create", &folder)?;
        Ok(TemporaryFolder(folder))
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // Nothing can be done about what cannot be removed.
        let _ = fs::remove_dir_all(&self.0);
    }
}
