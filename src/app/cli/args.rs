//! The arguments of the command line, parsed by clap.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

use super::flags::{
    CalibrateFlags, CompareImagesFlags, EvalFlags, ExportFlags, ExtractFlags, InfoFlags, PredictFlags, ProfileFlags,
    RankFlags, SearchFlags, TrainFlags,
};
use crate::data::DatasetKind;
use crate::data::synth::Gap;
use crate::engine::device::{DeviceKind, VendorUse};
use crate::nn::Arch;

/// Fine-tune person re-identification networks and image classifiers by Progressive Transfer Learning (PTL).
///
/// Settings come from defaults, then a TOML file (--config), then flags; `train --help` lists them all.
#[derive(Debug, Parser)]
#[command(name = "ptl-train", version, max_term_width = 110, arg_required_else_help = true, args_override_self = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show the method at work: draw images, pre-train, fine-tune plainly and with PTL, compare.
    Demo(Box<DemoArgs>),
    /// Compare finished runs; or pre-train on one data set, fine-tune on another plainly and with PTL, and compare.
    ///
    /// ptl-train compare RUN...: runs that differ only in their seed are one arm; each arm is compared with the first by a paired
    /// bootstrap over images and seeds.
    ///
    /// ptl-train compare --source DIR --target DIR: trains the three arms zero-shot, plain and PTL, and compares them.
    Compare(Box<CompareArgs>),
    /// Train with each policy of latent states and evaluate from each state.
    Ablate(Box<AblateArgs>),
    /// Look for faults in a data set, and measure what a training on it will cost.
    ///
    /// Takes the flags of the training that is planned. docs/check.md lists what is looked for. The exit code is 3 if there are problems.
    Check(Box<CheckArgs>),
    /// Train or fine-tune a model.
    Train(Box<TrainArgs>),
    /// Measure a model on a data set: mAP, mINP, CMC, or a classifier's accuracies.
    ///
    /// Settings are those of the model's training, unless a flag changes them; --data names the data set. A checkpoint of another program
    /// has no settings: --arch and the other flags of the network describe it.
    Evaluate(Box<EvaluateArgs>),
    /// Classify the images in a folder.
    Predict(Box<PredictArgs>),
    /// Rank features from files, and measure the ranking: mAP, mINP, CMC.
    Rank(Box<RankArgs>),
    /// Write the features of images to a file.
    Extract(Box<ExtractArgs>),
    /// Measure thresholds for decisions, on identities that the model was not trained on.
    ///
    /// The thresholds are written beside the weights, where compare-images and search find them. Without --data, identities that the training held
    /// out (--val-ids) are measured, or else the test of its data. docs/decisions.md explains the figures.
    Calibrate(Box<CalibrateArgs>),
    /// Decide whether two images show the same identity.
    ///
    /// The exit code is 0 for the same identity, 3 for different ones, and 4 without a threshold.
    CompareImages(Box<CompareImagesArgs>),
    /// Find the nearest images of a gallery, and say which queries are unknown to it.
    ///
    /// The gallery is a file of features, which extract writes once; it may be larger than the memory. Queries are images (--images) or a file of
    /// features (--query).
    Search(Box<SearchArgs>),
    /// Write a model as ONNX, and compare what a runtime makes of it with the model's own features.
    ///
    /// The file computes what extract writes, or predict for a classifier. Without --images, the comparison is on noise. docs/onnx.md describes input,
    /// output and limits.
    Export(Box<ExportArgs>),
    /// Make one HTML page of finished runs: figures with intervals, curves, queries with heat maps, settings, costs.
    ///
    /// Runs that differ only in their seed are one arm, as in compare. The network of each arm's first run is run on the images that it was measured
    /// on. The page needs no network and no other files. docs/report.md describes its parts.
    Report(Box<RunReportArgs>),
    /// Look at the latent states of checkpoints, move them to another model, or measure what they change.
    #[command(subcommand)]
    State(StateCommand),
    /// Generate a data set of drawn pedestrians.
    Synth(SynthArgs),
    /// Convert the published files of a data set to folders of images.
    #[command(subcommand)]
    Convert(ConvertCommand),
    /// Check GPU results against the CPU, on random numbers.
    Selftest(SelftestArgs),
    /// Measure what a training step spends its time on, op by op, on the CPU.
    ///
    /// Images and labels are generated: no data are needed. docs/profiling.md explains the table.
    Profile(Box<ProfileArgs>),
    /// Show the build, the machine and the GPU; or the cost of a network.
    Info(Box<InfoArgs>),
}

#[derive(Args, Debug)]
pub(crate) struct InfoArgs {
    /// Show parameters, operations and memory of this network, plain and with PTL.
    #[arg(long, value_name = "ARCH", value_parser = Arch::NAMES)]
    pub model: Option<String>,
    /// Number of identities or classes.
    #[arg(long, value_name = "N", default_value_t = 1000, requires = "model")]
    pub classes: usize,
    #[command(flatten)]
    pub settings: InfoFlags,
}

#[derive(Args, Debug)]
pub(crate) struct ProfileArgs {
    /// TOML file with settings, as in a run's config.toml.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Number of steps to measure, after one to warm up.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub steps: u32,
    /// Number of identities or classes.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(2..=10_000_000))]
    pub classes: u32,
    /// Measure the evaluation of a batch (--eval-batch) instead of a training step.
    #[arg(long)]
    pub eval: bool,
    /// Print a line for each node of the network, instead of one for each kind of op.
    #[arg(long)]
    pub nodes: bool,
    /// Write everything to this JSON file.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub settings: ProfileFlags,
}

#[derive(Args, Debug)]
pub(crate) struct SelftestArgs {
    /// Device to check: cuda (the first GPU), cuda:1 (the second one), or emulated (the CUDA kernels run by the CPU).
    #[arg(long, default_value = "cuda", value_parser = gpu)]
    pub device: DeviceKind,
    /// Arithmetic of convolutions.
    #[arg(long, default_value = "f32", value_parser = ["f32", "tf32", "bf16"])]
    pub precision: String,
    /// Convolutions by cuDNN and cuBLASLt, on the emulated GPU by a substitute for them: always, never (the crate's own kernels), or auto (the
    /// faster of both).
    #[arg(long, value_name = "WORD", default_value_t = VendorUse::Always)]
    pub vendor: VendorUse,
    /// Seed of the random numbers [default: from the time].
    #[arg(long)]
    pub seed: Option<u64>,
    /// Also check the ops at their sizes in a ResNet-50.
    #[arg(long)]
    pub full: bool,
    /// Write the results to this JSON file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// Folder for the run [default: runs/DATE_TIME-demo].
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Train a few steps only, to see that everything works.
    #[arg(long)]
    pub quick: bool,
    /// Continue this interrupted demo.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["out", "quick"])]
    pub resume: Option<PathBuf>,
    #[command(flatten)]
    pub settings: TrainFlags,
}

#[derive(Args, Debug)]
pub(crate) struct CompareArgs {
    /// Finished runs to compare, or folders (such as a study) with runs up to three levels below.
    #[arg(value_name = "RUN", conflicts_with_all = ["source", "source_dataset", "seeds", "pretrain_epochs", "pretrain_lr", "config"])]
    pub runs: Vec<PathBuf>,
    /// With RUN: the arm that the others are compared with, by name or number [default: the first].
    #[arg(long, value_name = "NAME|N", conflicts_with = "source")]
    pub baseline: Option<String>,
    /// With RUN: number of bootstrap resamples; --seed is their seed.
    #[arg(
        long, value_name = "N", default_value_t = 10_000, conflicts_with = "source",
        value_parser = clap::value_parser!(u32).range(100..=1_000_000)
    )]
    pub resamples: u32,
    /// With RUN: print Markdown tables.
    #[arg(long, conflicts_with = "source")]
    pub markdown: bool,
    /// Data set to pre-train on; --target names the one to fine-tune and measure on.
    #[arg(long, value_name = "DIR", required_unless_present_any = ["runs", "resume"])]
    pub source: Option<PathBuf>,
    /// Kind of the data set --source; takes the words of --target-dataset.
    #[arg(long, value_name = "WORD", default_value = "auto", hide_possible_values = true)]
    pub source_dataset: DatasetKind,
    /// Seeds; each takes a pre-training and two fine-tunings.
    #[arg(long, value_name = "S,S,...", value_delimiter = ',', default_value = "0", value_parser = seed())]
    pub seeds: Vec<u64>,
    /// Epochs of pre-training [default: as for fine-tuning].
    #[arg(long, value_name = "N")]
    pub pretrain_epochs: Option<usize>,
    /// Learning rate of pre-training [default: as for fine-tuning].
    #[arg(long, value_name = "LR", allow_negative_numbers = true)]
    pub pretrain_lr: Option<f64>,
    /// TOML file with settings for fine-tuning.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder for the run, new or empty [default: runs/DATE_TIME-compare]; with RUN, a JSON file for all results.
    #[arg(long, value_name = "PATH")]
    pub out: Option<PathBuf>,
    /// Continue this interrupted comparison of --source and --target; finished arms are kept.
    #[arg(
        long, value_name = "STUDY",
        conflicts_with_all = [
            "runs", "baseline", "resamples", "markdown", "source", "source_dataset", "seeds", "pretrain_epochs", "pretrain_lr",
            "config", "out"
        ]
    )]
    pub resume: Option<PathBuf>,
    #[command(flatten)]
    pub settings: TrainFlags,
}

#[derive(Args, Debug)]
pub(crate) struct AblateArgs {
    /// TOML file with settings.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder for the runs, new or empty [default: runs/DATE_TIME-ablate].
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Start every arm from these weights.
    #[arg(long, value_name = "CHECKPOINT")]
    pub init: Option<PathBuf>,
    /// Continue this interrupted ablation; finished arms are kept.
    #[arg(long, value_name = "STUDY", conflicts_with_all = ["config", "out", "init", "seeds"])]
    pub resume: Option<PathBuf>,
    /// Seeds; each takes a training with every policy.
    #[arg(long, value_name = "S,S,...", value_delimiter = ',', default_value = "0", value_parser = seed())]
    pub seeds: Vec<u64>,
    #[command(flatten)]
    pub settings: TrainFlags,
}

#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// Folder of the data set, or a CSV file that lists images.
    #[arg(value_name = "DATA")]
    pub data: PathBuf,
    /// TOML file with settings, as in a run's config.toml.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Write the report to this JSON file, with all images that it is about.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the report to this HTML file, with small pictures.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Do not measure training batches.
    #[arg(long)]
    pub no_cost: bool,
    #[command(flatten)]
    pub settings: TrainFlags,
}

#[derive(Args, Debug)]
pub(crate) struct TrainArgs {
    /// TOML file with settings, as in a run's config.toml.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder for the run, new or empty [default: runs/DATE_TIME-train].
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Start from these weights: a checkpoint (.safetensors or PyTorch's .pth) or a run; identities may differ.
    #[arg(long, value_name = "CHECKPOINT")]
    pub init: Option<PathBuf>,
    /// Continue this run from its last checkpoint, with its settings; flags may change them.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["config", "out", "init"])]
    pub resume: Option<PathBuf>,
    #[command(flatten)]
    pub ranks: RanksFlag,
    #[command(flatten)]
    pub settings: TrainFlags,
}

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct RanksFlag {
    /// Work by this many processes on this machine, which mpirun starts; each takes a part of the images. Needs a program that was built with MPI.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub ranks: Option<u16>,
}

#[derive(Args, Debug)]
pub(crate) struct EvaluateArgs {
    /// A checkpoint (of this program, .safetensors or PyTorch's .pth), or a run: its best or last one.
    #[arg(long, value_name = "CHECKPOINT")]
    pub checkpoint: PathBuf,
    #[command(flatten)]
    pub report: ReportArgs,
    /// For a classifier: write the confusion matrix, figures of each class, the calibration and each image's prediction to this folder.
    #[arg(long, value_name = "DIR")]
    pub details: Option<PathBuf>,
    #[command(flatten)]
    pub ranks: RanksFlag,
    #[command(flatten)]
    pub settings: EvalFlags,
}

#[derive(Args, Debug)]
pub(crate) struct PredictArgs {
    /// A classifier's checkpoint (of this program, .safetensors or PyTorch's .pth), or a run: its best or last one.
    #[arg(long, value_name = "CHECKPOINT")]
    pub checkpoint: PathBuf,
    /// Folder of images, searched with its subfolders.
    #[arg(long, value_name = "DIR")]
    pub images: PathBuf,
    /// CSV file to write: one line per image, most probable classes first.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Number of classes per image.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub top: u32,
    #[command(flatten)]
    pub settings: PredictFlags,
}

#[derive(Args, Debug)]
pub(crate) struct RankArgs {
    /// Features of the queries: NAME.safetensors or NAME.npy.
    #[arg(long, value_name = "FILE")]
    pub query: PathBuf,
    /// Features of the gallery.
    #[arg(long, value_name = "FILE")]
    pub gallery: PathBuf,
    /// Labels of the queries: CSV with the header path,pid,camid, or one Market-1501 name per line
    /// [default: in the file, or beside it in NAME.csv or NAME.txt].
    #[arg(long, value_name = "FILE")]
    pub query_labels: Option<PathBuf>,
    /// Labels of the gallery.
    #[arg(long, value_name = "FILE")]
    pub gallery_labels: Option<PathBuf>,
    /// Scale every feature to unit length first.
    #[arg(long)]
    pub normalize: bool,
    #[command(flatten)]
    pub report: ReportArgs,
    #[command(flatten)]
    pub settings: RankFlags,
}

/// What an evaluation writes in addition to its table.
#[derive(Args, Debug)]
pub(crate) struct ReportArgs {
    /// Write everything as JSON: protocol, formulas, each query, pairs of cameras, ROC.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Print mAP and Rank-1 for each pair of cameras too.
    #[arg(long)]
    pub camera_pairs: bool,
    /// Print true positive rates at fixed false positive rates and the equal error rate too.
    #[arg(long)]
    pub roc: bool,
    /// Rank items at the same distance as a match before it in CMC and mINP, instead of in the order of the gallery.
    #[arg(long)]
    pub pessimistic_ties: bool,
    /// Draw queries with their ten nearest gallery images into this folder, new or empty.
    #[arg(long, value_name = "DIR")]
    pub gallery_pictures: Option<PathBuf>,
    /// Number of queries to draw, from the first on.
    #[arg(long, value_name = "N", default_value_t = 20, requires = "gallery_pictures")]
    pub pictures: usize,
    /// Draw the queries with the lowest average precision instead.
    #[arg(long, requires = "gallery_pictures")]
    pub pictures_worst: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ExtractArgs {
    /// A checkpoint (of this program, .safetensors or PyTorch's .pth), or a run: its best or last one.
    #[arg(long, value_name = "CHECKPOINT")]
    pub checkpoint: PathBuf,
    /// Folder of images, searched with its subfolders, or an image (instead of --data).
    #[arg(long, value_name = "DIR", conflicts_with = "data.root")]
    pub images: Option<PathBuf>,
    /// File to write: NAME.safetensors (with paths and labels) or NAME.npy (paths in NAME.txt).
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    #[command(flatten)]
    pub ranks: RanksFlag,
    #[command(flatten)]
    pub settings: ExtractFlags,
}

#[derive(Args, Debug)]
pub(crate) struct CalibrateArgs {
    /// A checkpoint (of this program, .safetensors or PyTorch's .pth), or a run: its best or last one.
    #[arg(long, value_name = "CHECKPOINT")]
    pub checkpoint: PathBuf,
    /// Wanted false match rates: shares of pairs of two identities that may be taken for one.
    #[arg(long, value_name = "R,R,...", value_delimiter = ',', default_value = "0.01,0.001,0.0001", value_parser = rate)]
    pub fmr: Vec<f64>,
    /// Wanted false positive identification rates: shares of searches for unknown identities that may find someone.
    #[arg(long, value_name = "R,R,...", value_delimiter = ',', default_value = "0.1,0.01", value_parser = rate)]
    pub fpir: Vec<f64>,
    /// File to write [default: NAME.calibration.json beside the weights].
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub settings: CalibrateFlags,
}

#[derive(Args, Debug)]
pub(crate) struct CompareImagesArgs {
    /// The first image.
    #[arg(value_name = "IMAGE")]
    pub first: PathBuf,
    /// The second image.
    #[arg(value_name = "IMAGE")]
    pub second: PathBuf,
    /// A checkpoint (of this program, .safetensors or PyTorch's .pth), or a run: its best or last one.
    #[arg(long, value_name = "CHECKPOINT")]
    pub checkpoint: PathBuf,
    /// File of thresholds that calibrate has written [default: the one beside the weights].
    #[arg(long, value_name = "FILE")]
    pub calibration: Option<PathBuf>,
    /// Take the threshold of this false match rate [default: 0.001].
    #[arg(long, value_name = "R", value_parser = rate)]
    pub fmr: Option<f64>,
    /// Take this largest distance of the same identity instead.
    #[arg(long, value_name = "DISTANCE", conflicts_with = "fmr", value_parser = distance)]
    pub threshold: Option<f64>,
    /// Write the result to this JSON file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    #[command(flatten)]
    pub settings: CompareImagesFlags,
}

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("searched for").required(true).args(["query", "images"]))]
pub(crate) struct SearchArgs {
    /// Features of the gallery: NAME.safetensors or NAME.npy, as extract writes them.
    #[arg(long, value_name = "FILE")]
    pub gallery: PathBuf,
    /// Features of the queries.
    #[arg(long, value_name = "FILE")]
    pub query: Option<PathBuf>,
    /// An image to search for, or a folder of images with its subfolders; their features are computed with --checkpoint.
    #[arg(long, value_name = "PATH", requires = "checkpoint", conflicts_with = "query")]
    pub images: Option<PathBuf>,
    /// The model of the images: a checkpoint (of this program, .safetensors or PyTorch's .pth), or a run: its best or last one.
    #[arg(long, value_name = "CHECKPOINT", conflicts_with = "query")]
    pub checkpoint: Option<PathBuf>,
    /// Labels of the queries: CSV with the header path,pid,camid, or one Market-1501 name per line
    /// [default: in the file, or beside it in NAME.csv or NAME.txt].
    #[arg(long, value_name = "FILE", requires = "query", conflicts_with = "images")]
    pub query_labels: Option<PathBuf>,
    /// Labels of the gallery.
    #[arg(long, value_name = "FILE")]
    pub gallery_labels: Option<PathBuf>,
    /// Number of images to find for each query, at most 100,000.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub top: u32,
    /// File of thresholds that calibrate has written [default: the one beside the weights of --checkpoint].
    #[arg(long, value_name = "FILE")]
    pub calibration: Option<PathBuf>,
    /// Take the threshold at which this share of searches for unknown identities finds someone [default: 0.01].
    #[arg(long, value_name = "R", value_parser = rate)]
    pub fpir: Option<f64>,
    /// Take the threshold of this false match rate of single pairs instead.
    #[arg(long, value_name = "R", conflicts_with = "fpir", value_parser = rate)]
    pub fmr: Option<f64>,
    /// Take this largest distance instead; farther queries are unknown.
    #[arg(long, value_name = "DISTANCE", conflicts_with_all = ["fpir", "fmr", "calibration"], value_parser = distance)]
    pub threshold: Option<f64>,
    /// CSV file to write: the images that were found for each query.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Write threshold, figures and answers to this JSON file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    #[command(flatten)]
    pub settings: SearchFlags,
}

#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// A checkpoint (of this program, .safetensors or PyTorch's .pth), or a run: its best or last one.
    #[arg(long, value_name = "CHECKPOINT")]
    pub checkpoint: PathBuf,
    /// File to write: NAME.onnx.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// An image, or a folder of images with its subfolders, to compare the runtime's outputs on.
    #[arg(long, value_name = "PATH")]
    pub images: Option<PathBuf>,
    /// Number of images to compare on, spread evenly over those of --images.
    #[arg(long, value_name = "N", requires = "images", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
    /// Largest difference of a number of an output that is taken for rounding.
    #[arg(long, value_name = "X", default_value_t = 1e-5, value_parser = distance)]
    pub tolerance: f64,
    /// Take the image's bytes [batch, height, width, 3] and normalise them in the file, instead of normalised numbers [batch, 3, height, width].
    #[arg(long)]
    pub pixels: bool,
    /// Write the weights to NAME.onnx.data also where there are less than 2 GB.
    #[arg(long)]
    pub external_data: bool,
    /// Write the result of the comparison to this JSON file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    #[command(flatten)]
    pub settings: ExportFlags,
}

#[derive(Args, Debug)]
pub(crate) struct RunReportArgs {
    /// Finished runs, or folders (such as a study) with runs up to three levels below.
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<PathBuf>,
    /// HTML file to write.
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    pub out: PathBuf,
    /// The arm that the others are compared with, by name or number [default: the first].
    #[arg(long, value_name = "NAME|N")]
    pub baseline: Option<String>,
    /// Number of bootstrap resamples of the intervals.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    pub resamples: u32,
    /// Number of queries from good to bad, and of the worst others, for each arm; or twice as many errors of a classifier.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000), conflicts_with = "no_model")]
    pub queries: u32,
    /// Draw no heat maps, which take some fifty runs of the network for each image.
    #[arg(long, conflicts_with = "no_model")]
    pub no_heat_maps: bool,
    /// Run no network: only what the folders of the runs hold.
    #[arg(long)]
    pub no_model: bool,
    #[command(flatten)]
    pub settings: EvalFlags,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StateCommand {
    /// Show size, similarity and drift of the latent states, for each cell and each epoch of a run.
    ///
    /// docs/states.md explains the columns. A checkpoint alone has the figures of its own states.
    Show(StateShowArgs),
    /// Write a checkpoint with the latent states of another one.
    ///
    /// The result is evaluated from these states with --eval-state mean.
    Transfer(StateTransferArgs),
    /// Compare the features of a model between the states that an evaluation may start from: zeros, mean, normal.
    Ablate(Box<StateAblateArgs>),
}

#[derive(Args, Debug)]
pub(crate) struct StateShowArgs {
    /// A run or a checkpoint.
    #[arg(value_name = "CHECKPOINT")]
    pub checkpoint: PathBuf,
    /// Write the figures to this JSON file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct StateTransferArgs {
    /// The run or checkpoint whose latent states are taken: the best or last checkpoint of a run.
    #[arg(long, value_name = "CHECKPOINT")]
    pub from: PathBuf,
    /// The run or checkpoint that gives all else.
    #[arg(long, value_name = "CHECKPOINT")]
    pub to: PathBuf,
    /// Folder to write, new.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct StateAblateArgs {
    /// A run or a checkpoint.
    #[arg(long, value_name = "CHECKPOINT")]
    pub checkpoint: PathBuf,
    /// An image, or a folder of images with its subfolders, instead of a data set that is measured.
    #[arg(long, value_name = "PATH")]
    pub images: Option<PathBuf>,
    /// Write the figures to this JSON file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    #[command(flatten)]
    pub settings: ExtractFlags,
}

#[derive(Args, Debug)]
pub(crate) struct SynthArgs {
    /// Folder to write, new or empty: Market-1501 layout.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Domain to draw.
    #[arg(long, value_enum, default_value_t = Domain::Source)]
    pub domain: Domain,
    /// In what the target differs from the source: cameras-and-clothes (the default), none, light, viewpoint, occlusion, or all (the last
    /// three).
    #[arg(long, value_name = "WORD")]
    pub gap: Option<Gap>,
    /// Number of identities, half of them for training.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..=9999))]
    pub ids: u32,
    /// Number of cameras.
    #[arg(long, value_name = "M", default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=99))]
    pub cams: u32,
    /// Seed; the same seed draws the same images.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConvertCommand {
    /// CUHK03: the new protocol (767/700) in Market-1501 layout, and the splits of the classic one.
    Cuhk03(Cuhk03Args),
}

#[derive(Args, Debug)]
pub(crate) struct Cuhk03Args {
    /// The images, cuhk-03.mat.
    #[arg(long, value_name = "FILE")]
    pub mat: PathBuf,
    /// The new protocol's lists for detected boxes [default: cuhk03_new_protocol_config_detected.mat beside --mat].
    #[arg(long, value_name = "FILE")]
    pub detected_config: Option<PathBuf>,
    /// The new protocol's lists for labeled boxes [default: cuhk03_new_protocol_config_labeled.mat beside --mat].
    #[arg(long, value_name = "FILE")]
    pub labeled_config: Option<PathBuf>,
    /// Folder to write, new or empty.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// Parses the device of a self-test: a GPU, real or emulated.
fn gpu(text: &str) -> Result<DeviceKind, String> {
    match text.parse() {
        Ok(kind @ (DeviceKind::Cuda(_) | DeviceKind::Emulated)) => Ok(kind),
        _ => Err("expected cuda, emulated, or the number of a GPU such as cuda:1".into()),
    }
}

/// Parses a rate: above 0 and below 1.
fn rate(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|rate| (0.0..1.0).contains(rate) && *rate > 0.0);
    value.ok_or_else(|| "expected a number above 0 and below 1".into())
}

/// Parses a distance.
fn distance(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|distance: &f64| distance.is_finite() && *distance >= 0.0);
    value.ok_or_else(|| "expected a number that is not negative".into())
}

/// Parses a seed: a whole number that TOML can hold.
fn seed() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(..=i64::MAX as u64)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Domain {
    Source,
    Target,
}
