//! Tests the program: what it writes, its messages about bad input, and how it stops.

#![cfg(unix)]

mod check;
mod classify;
#[path = "../common/mod.rs"]
mod common;
mod decisions;
mod effect;
mod ends;
mod export;
mod held_out;
mod memory;
mod names;
mod own_data;
mod profile;
mod rank;
mod report;
mod state;
mod studies;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use ptl::engine::device::{Device, DeviceKind, DeviceOptions};
use serde_json::Value;
use tempfile::TempDir;

use common::say;

/// Flags of a model so small that a run takes a moment.
const TINY: [&str; 20] = [
    "--arch",
    "resnet18-ptl",
    "--width",
    "0.125",
    "--height",
    "32",
    "--image-width",
    "16",
    "--ids",
    "3",
    "--images",
    "2",
    "--epochs",
    "2",
    "--lr",
    "1e-3",
    "--augment.pad",
    "2",
    "--eval-batch",
    "8",
];

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ptl-train"))
}

fn ptl(args: &[&str]) -> Output {
    program().args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs a command that must succeed, and returns its standard output.
fn succeeds(args: &[&str]) -> String {
    let output = ptl(args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Runs a command that must end with `code` and one sentence that contains all `parts`.
fn fails_with(code: i32, args: &[&str], parts: &[&str]) {
    let output = ptl(args);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    let last = stderr.lines().filter(|line| line.starts_with("error: ")).collect::<Vec<_>>();
    assert_eq!(last.len(), 1, "{args:?}: {stderr}");
    assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{args:?}: {part:?} is not in: {stderr}");
    }
}

fn tiny<'a>(command: &[&'a str]) -> Vec<&'a str> {
    [command, &TINY].concat()
}

/// A drawn data set and a run trained on it, which all tests share.
struct Fixture {
    folder: TempDir,
    data: String,
    run: String,
}

fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let [data, run] = ["data", "run"].map(|name| folder.path().join(name).display().to_string());
        succeeds(&["synth", "--out", &data, "--domain", "target", "--ids", "8", "--cams", "2"]);
        succeeds(&tiny(&["train", "--data", &data, "--out", &run]));
        Fixture { folder, data, run }
    })
}

fn path(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).display().to_string()
}

fn json(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Copies the fixture's data, so that a test may change them.
fn own_data(folder: &TempDir) -> String {
    let target = path(folder, "data");
    let copied = Command::new("cp").args(["-r", &fixture().data, &target]).status().unwrap();
    assert!(copied.success());
    target
}

fn files(folder: impl AsRef<Path>) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn the_demo_compares_three_arms_and_leaves_a_run_folder() {
    let folder = tempfile::tempdir().unwrap();
    let out = path(&folder, "run");
    let table = succeeds(&["demo", "--quick", "--out", &out]);
    for part in ["mAP", "mINP", "Rank-1", "zero-shot", "plain", "PTL"] {
        assert!(table.contains(part), "{table}");
    }
    let run = Path::new(&out);
    let summary = json(run.join("summary.json"));
    for arm in ["zero_shot", "plain", "ptl"] {
        for figure in ["mAP", "mINP", "rank1"] {
            let value = summary[arm][figure].as_f64().unwrap();
            assert!((0.0..=100.0).contains(&value), "{arm} {figure} {value}");
        }
    }
    for file in ["config.toml", "log.txt", "curves.svg", "scores.svg"] {
        assert!(fs::metadata(run.join(file)).unwrap().len() > 0, "{file}");
    }
    for arm in ["pretrain", "plain", "ptl"] {
        let arm = run.join(arm);
        for file in ["config.toml", "log.txt", "metrics.jsonl", "summary.json", "curves.svg"] {
            assert!(fs::metadata(arm.join(file)).unwrap().len() > 0, "{} {file}", arm.display());
        }
        assert!(files(files(arm.join("checkpoints")).last().unwrap()).len() == 3);
    }
    let before = fs::read(run.join("summary.json")).unwrap();
    fails_with(1, &["demo", "--quick", "--out", &out], &["is not empty", "--out"]);
    assert_eq!(fs::read(run.join("summary.json")).unwrap(), before);
}

#[test]
fn a_run_can_be_evaluated_extracted_resumed_and_fine_tuned() {
    let Fixture { data, run, .. } = fixture();
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.toml", "log.txt", "metrics.jsonl", "summary.json", "curves.svg", "checkpoints"] {
        assert!(Path::new(run).join(file).exists(), "{file}");
    }
    let config = fs::read_to_string(Path::new(run).join("config.toml")).unwrap();
    assert!(config.contains("arch = \"resnet18-ptl\"") && config.contains("width = 0.125"), "{config}");
    let report = succeeds(&["evaluate", "--checkpoint", run, "--data", data]);
    for part in ["mAP", "mINP", "Rank-1", "Rank-10", "step formula", "trapezoid"] {
        assert!(report.contains(part), "{report}");
    }
    // The figures are those at the end of the training.
    let trained = json(Path::new(run).join("summary.json"))["mAP"].as_f64().unwrap();
    assert!(report.contains(&format!("{trained:.2}")), "{trained} in {report}");

    let npy = path(&folder, "features.npy");
    succeeds(&["extract", "--checkpoint", run, "--data", data, "--out", &npy]);
    assert!(fs::read(&npy).unwrap().starts_with(b"\x93NUMPY"));
    fails_with(1, &["extract", "--checkpoint", run, "--data", data, "--out", &npy], &["exists already"]);
    let images = format!("{data}/query");
    let tensors = path(&folder, "new/folder/features.safetensors");
    succeeds(&["extract", "--checkpoint", run, "--images", &images, "--out", &tensors]);
    assert_eq!(
        ptl::io::checkpoint::File::open(Path::new(&tensors)).unwrap().shape("features").unwrap()[0],
        files(&images).len()
    );

    // Refused settings change nothing in a run.
    let before = fs::read(Path::new(run).join("config.toml")).unwrap();
    let other = ["train", "--resume", run, "--epochs", "9"];
    let parts = ["--arch = resnet34: the run has resnet18-ptl", "belongs to another model"];
    fails_with(1, &[&other[..], &["--arch", "resnet34"]].concat(), &parts);
    fails_with(1, &[&other[..], &["--width", "0.3"]].concat(), &["--width = 0.3: the run has 0.125, and"]);
    fails_with(
        1,
        &[&other[..], &["--optim", "sgd"]].concat(),
        &["--optim = sgd: the run has adam", "another optimiser: "],
    );
    fails_with(
        1,
        &["train", "--resume", run, "--lr", "0.5"],
        &["--lr = 0.5", "the run is finished", "nothing is left to train"],
    );
    assert_eq!(fs::read(Path::new(run).join("config.toml")).unwrap(), before);

    // A finished run that is resumed has nothing left to do; more epochs give it something.
    let copy = path(&folder, "copy");
    assert!(Command::new("cp").args(["-r", run, &copy]).status().unwrap().success());
    succeeds(&["train", "--resume", &copy]);
    succeeds(&["train", "--resume", &copy, "--epochs", "3"]);
    let log = fs::read_to_string(Path::new(&copy).join("log.txt")).unwrap();
    assert!(log.contains("resuming after step") && log.contains("epoch 3/3"), "{log}");

    let tuned = path(&folder, "tuned");
    succeeds(&tiny(&["train", "--data", data, "--init", run, "--out", &tuned, "--epochs", "1", "--seed", "3"]));
    // Weights that do not fit leave no folder, so the next attempt can use its name.
    let (narrow, wide) = (path(&folder, "narrow"), path(&folder, "wide"));
    let mut narrow_args = tiny(&["train", "--data", data, "--out", &narrow]);
    narrow_args.extend(["--arch", "resnet18", "--epochs", "1"]);
    succeeds(&narrow_args);
    let mut wide_args = tiny(&["train", "--data", data, "--init", &narrow, "--out", &wide]);
    wide_args.extend(["--arch", "resnet18", "--width", "0.25"]);
    fails_with(1, &wide_args, &["no weight fits", "the model has"]);
    assert!(!Path::new(&wide).exists());
}

#[test]
fn metrics_are_written_for_tensorboard_too_and_a_resumed_run_writes_them_anew() {
    let folder = tempfile::tempdir().unwrap();
    let run = path(&folder, "run");
    let log = ["--train.log-every", "1", "--tensorboard"];
    succeeds(&[&tiny(&["train", "--data", &fixture().data, "--out", &run])[..], &log].concat());
    let events = || {
        let [file] = &files(Path::new(&run).join("tensorboard"))[..] else { panic!("one event file") };
        fs::read(file).unwrap()
    };
    let count = |tag: &str| events().windows(tag.len()).filter(|bytes| *bytes == tag.as_bytes()).count();
    let lines = |kind: &str| {
        let metrics = fs::read_to_string(Path::new(&run).join("metrics.jsonl")).unwrap();
        metrics.lines().filter(|line| line.contains(&format!("\"type\":\"{kind}\""))).count()
    };
    let check = || {
        for (tag, kind) in [("train/grad_norm", "step"), ("epoch/loss", "epoch"), ("eval/mAP", "evaluation")] {
            assert_eq!(count(tag), lines(kind), "{tag}");
        }
    };
    check();
    let before = lines("step");
    succeeds(&["train", "--resume", &run, "--epochs", "3"]);
    assert!(lines("step") > before);
    check();
    assert!(!Path::new(&fixture().run).join("tensorboard").exists());
}

/// Writes the fixture's weights as another program would: without a header.
fn foreign_weights(folder: &TempDir, rename: impl Fn(&str) -> String) -> String {
    use ptl::io::checkpoint::{File, Tensor, write};
    let checkpoints = files(Path::new(&fixture().run).join("checkpoints"));
    let file = File::open(&checkpoints.last().unwrap().join("model.safetensors")).unwrap();
    let tensors: Vec<Tensor> = file
        .names()
        .iter()
        .map(|name| {
            let shape = file.shape(name).unwrap();
            match file.f32(name) {
                Ok(values) => Tensor::f32(rename(name), &shape, values),
                Err(_) => Tensor::i64(rename(name), &shape, file.i64(name).unwrap()),
            }
        })
        .collect();
    let target = path(folder, "foreign.bin");
    write(Path::new(&target), &tensors, []).unwrap();
    target
}

/// Writes the tensors of `weights` once under each of `prefixes`.
fn two_networks(folder: &TempDir, weights: &str, prefixes: [&str; 2]) -> String {
    use ptl::io::checkpoint::{File, Tensor, write};
    let file = File::open(Path::new(weights)).unwrap();
    let named = |prefix: &str, name: &String| {
        let (name_there, shape) = (format!("{prefix}{name}"), file.shape(name).unwrap());
        match file.f32(name) {
            Ok(values) => Tensor::f32(name_there, &shape, values),
            Err(_) => Tensor::i64(name_there, &shape, file.i64(name).unwrap()),
        }
    };
    let names = file.names();
    let tensors: Vec<Tensor> =
        prefixes.iter().flat_map(|prefix| names.iter().map(|name| named(prefix, name))).collect();
    let target = path(folder, "two.bin");
    write(Path::new(&target), &tensors, []).unwrap();
    target
}

#[test]
fn weights_of_other_programs_are_measured_with_flags_that_name_their_network() {
    let Fixture { data, run, .. } = fixture();
    let folder = tempfile::tempdir().unwrap();
    let weights = foreign_weights(&folder, |name| format!("module.{name}"));
    let evaluate = ["evaluate", "--checkpoint", &weights, "--data", data];
    let network = ["--width", "0.125", "--height", "32", "--image-width", "16"];
    let arch = ["--arch", "resnet18-ptl"];
    let report = succeeds(&[&evaluate[..], &network, &arch].concat());
    let trained = json(Path::new(run).join("summary.json"))["mAP"].as_f64().unwrap();
    assert!(report.contains(&format!("{trained:.2}")), "{trained} in {report}");
    fails_with(1, &[&evaluate[..], &network].concat(), &["does not name its network", "--arch"]);
    fails_with(1, &[&evaluate[..], &arch].concat(), &["another model", "the model has"]);
    let npy = path(&folder, "features.npy");
    let extract = ["extract", "--checkpoint", &weights, "--data", data, "--out", &npy];
    succeeds(&[&extract[..], &network, &arch].concat());
    // With two networks in a file, a message says which was taken.
    let both = two_networks(&folder, &weights, ["model.", "ema."]);
    let output = ptl(&[&["evaluate", "--checkpoint", &both, "--data", data][..], &network, &arch].concat());
    let said = "weights: (the tensors under model; it also has ema: --weights-dict takes another)";
    assert!(text(&output.stderr).contains(said), "{}", text(&output.stderr));
    let out = path(&folder, "tuned");
    let output = ptl(&tiny(&["train", "--data", data, "--init", &both, "--out", &out, "--max-steps", "1"]));
    let log = text(&output.stderr);
    assert!(log.contains("two.bin (the tensors under model; it also has ema: --weights-dict"), "{log}");
    // A message names tensors as the file does.
    for part in ["model.backbone.layer1 ", "ema.backbone ", "model.classifier.weight "] {
        assert!(log.contains(part), "{part:?} is not in: {log}");
    }
    let headless = foreign_weights(&folder, |name| name.replace("classifier", "other"));
    fails_with(1, &[&["evaluate", "--checkpoint", &headless][..], &arch].concat(), &["no classifier", "--init"]);

    // Checkpoints of this program describe their network.
    let own = ["evaluate", "--checkpoint", run, "--data", data];
    assert_eq!(succeeds(&[&own[..], &arch].concat()), succeeds(&own));
    for flags in [["--arch", "resnet18"], ["--embedding", "8"], ["--pool", "max"], ["--width", "0.25"]] {
        fails_with(1, &[&own[..], &flags].concat(), &[&flags[0][2..].replace('-', "_"), "omit this flag"]);
    }
}

/// Writes the fixture's weights with one tensor changed, as another program would.
fn changed_weights(folder: &TempDir, name: &str, change: impl Fn(&mut Vec<f32>)) -> String {
    use ptl::io::checkpoint::{File, Tensor, write};
    let file = File::open(Path::new(&foreign_weights(folder, str::to_string))).unwrap();
    let mut tensors = Vec::new();
    for tensor in file.names() {
        let shape = file.shape(&tensor).unwrap();
        tensors.push(match file.f32(&tensor) {
            Ok(mut values) => {
                if tensor == name {
                    change(&mut values);
                }
                Tensor::f32(tensor, &shape, values)
            }
            Err(_) => Tensor::i64(tensor.clone(), &shape, file.i64(&tensor).unwrap()),
        });
    }
    let target = path(folder, "changed.safetensors");
    write(Path::new(&target), &tensors, []).unwrap();
    target
}

#[test]
fn weights_that_are_not_finite_are_named_and_no_such_feature_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let data = &fixture().data;
    let network = ["--width", "0.125", "--height", "32", "--image-width", "16", "--arch", "resnet18-ptl"];
    let features = path(&folder, "features.npy");
    let name = "backbone.layer2.0.conv1.weight";
    let weights = changed_weights(&folder, name, |values| values[3] = f32::NAN);
    let images = format!("{data}/query");
    let extract = ["extract", "--checkpoint", &weights, "--images", &images, "--out", &features];
    fails_with(1, &[&extract[..], &network].concat(), &["1 of the", name, "not finite"]);
    fails_with(1, &[&["evaluate", "--checkpoint", &weights, "--data", data][..], &network].concat(), &[name]);
    let out = path(&folder, "run");
    fails_with(
        1,
        &tiny(&["train", "--data", data, "--init", &weights, "--out", &out]),
        &[name, "take a checkpoint from before"],
    );
    assert!(!Path::new(&out).exists());
    // The weights are finite, but their products are not.
    let weights = changed_weights(&folder, "bottleneck.weight", |values| values.fill(3e38));
    let extract = ["extract", "--checkpoint", &weights, "--images", &images, "--out", &features];
    fails_with(1, &[&extract[..], &network].concat(), &["the features of image", ".jpg are not finite"]);
    assert!(!Path::new(&features).exists());
}

/// The header asks for a huge network, and the file has a tensor of one number.
#[test]
fn a_header_without_matching_tensors_is_refused() {
    use ptl::io::checkpoint::{Tensor, write};
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = files(Path::new(&fixture().run).join("checkpoints"));
    let own = ptl::io::checkpoint::File::open(&checkpoints.last().unwrap().join("model.safetensors")).unwrap();
    let mut header: Value = serde_json::from_str(&own.metadata["ptl"]).unwrap();
    header["class_names"] = serde_json::json!([]);
    let refused = |change: &dyn Fn(&mut Value), part: &str| {
        let mut header = header.clone();
        change(&mut header);
        let target = path(&folder, "bomb.safetensors");
        let metadata = [("ptl".to_string(), header.to_string())];
        write(Path::new(&target), &[Tensor::f32("x", &[1], vec![0.0])], metadata).unwrap();
        fails_with(1, &["evaluate", "--checkpoint", &target, "--data", &fixture().data], &[part]);
    };
    refused(&|header| header["class_names"] = serde_json::json!(["a"]), "and names 1");
    let twice = serde_json::json!(vec!["a"; header["classes"].as_u64().unwrap() as usize]);
    refused(&|header| header["class_names"] = twice.clone(), "names the class a twice");
    refused(&|header| header["classes"] = 16_777_216.into(), "tensors are missing");
    refused(&|header| header["classes"] = 4_000_000_000u64.into(), "16777216");
    refused(
        &|header| {
            header["config"]["model"]["width"] = 16.into();
            header["config"]["model"]["arch"] = "resnet101-ptl".into();
        },
        "tensors are missing",
    );
    refused(&|header| header["config"]["ptl"]["cell_channels"] = vec![16384; 4].into(), "tensors are missing");
    refused(&|header| header["config"]["model"]["embedding"] = 65536.into(), "tensors are missing");
    let height = "bomb.safetensors: its header says model.height = 1099511627776: ";
    refused(&|header| header["config"]["model"]["height"] = (1u64 << 40).into(), height);
    // A message shortens a list of a thousand numbers.
    refused(&|header| header["config"]["ptl"]["stages"] = vec![1; 1000].into(), "1, 1…: name one or more");
}

#[test]
fn a_part_of_a_backbone_is_an_error_unless_it_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let data = &fixture().data;
    let weights = foreign_weights(&folder, |name| name.replace("layer2.0.bn1.", "layer2.0.bn1.BN."));
    let out = path(&folder, "run");
    let mut args = tiny(&["train", "--data", data, "--init", &weights, "--out", &out, "--max-steps", "1"]);
    fails_with(1, &args, &["lacks 4 of the", "layer2.0.bn1.weight", "layer2.0.bn1.BN.bias", "--init-partial"]);
    assert!(!Path::new(&out).exists());
    args.push("--init-partial");
    succeeds(&args);
    let log = fs::read_to_string(Path::new(&out).join("log.txt")).unwrap();
    assert!(log.contains("4 of the 100 tensors of the backbone start from random values"), "{log}");
}

#[test]
fn hostile_and_useless_weights_are_refused_before_the_run_exists() {
    let folder = tempfile::tempdir().unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/ckpt");
    let cases = [
        ("evil_os_system_zip.pth", "it names "),
        ("evil_eval_legacy.pth", "it names "),
        ("evil_raw_pickle.pkl", "names posix.system"),
        ("corrupt_oob_size_zip.pth", "beyond its storage"),
    ];
    for (name, part) in cases {
        let weights = golden.join(name).display().to_string();
        let out = path(&folder, name);
        let output = program()
            .args(tiny(&["train", "--data", &fixture().data, "--init", &weights, "--out", &out]))
            .current_dir(folder.path())
            .output()
            .unwrap();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}: {stderr}");
        assert!(stderr.contains(part) && stderr.contains(name), "{name}: {stderr}");
        assert!(!Path::new(&out).exists(), "{name} left a run folder");
    }
    assert!(files(folder.path()).is_empty(), "something was run: {:?}", files(folder.path()));
}

#[test]
fn an_ablation_trains_every_policy_and_evaluates_every_state() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (&fixture().data, path(&folder, "ablation"));
    let mut args = tiny(&["ablate", "--data", data, "--out", &out, "--seeds", "0,1", "--max-steps", "2"]);
    let table = succeeds(&args);
    let summary = json(Path::new(&out).join("summary.json"));
    let arms = summary["arms"].as_array().unwrap();
    assert_eq!(arms.len(), 9);
    for arm in arms {
        let [policy, state] = ["state_policy", "eval_state"].map(|key| arm[key].as_str().unwrap());
        assert!(table.contains(&format!("trained {policy}, evaluated {state}")), "{table}");
        assert_eq!(arm["seeds"].as_array().unwrap().len(), 2);
        assert!((0.0..=100.0).contains(&arm["mean"]["mAP"].as_f64().unwrap()));
    }
    assert!(table.contains('±'), "{table}");
    assert!(Path::new(&out).join("seed-1/carry-epochs/checkpoints").is_dir());
    let again = path(&folder, "again");
    args.extend(["--out", &again, "--arch", "resnet18"]);
    fails_with(1, &args, &["no latent states", "-ptl"]);
    assert!(!Path::new(&again).exists());
}

#[test]
fn an_evaluation_reports_reranking_cameras_and_roc_and_draws_ranked_lists() {
    let Fixture { data, run, .. } = fixture();
    let folder = tempfile::tempdir().unwrap();
    let (report, pictures) = (path(&folder, "new/report.json"), path(&folder, "pictures"));
    let plain = succeeds(&["evaluate", "--checkpoint", run, "--data", data]);
    assert!(plain.starts_with(&format!("trained on {data}, evaluated on {data} (")), "{plain}");
    assert!(!plain.contains("re-ranked") && !plain.contains("equal error rate"), "{plain}");
    let args =
        ["evaluate", "--checkpoint", run, "--data", data, "--rerank", "--k1", "4", "--k2", "2", "--lambda", "0.5"];
    let outputs = ["--out", &report, "--camera-pairs", "--roc", "--gallery-pictures", &pictures, "--pictures", "2"];
    let text = succeeds(&[&args[..], &outputs].concat());
    for part in ["re-ranked %", "zhong, k1 4, k2 2, lambda 0.5", "equal error rate", "camera 2"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let queries = files(format!("{data}/query"));
    let drawn: Vec<_> = files(&pictures).iter().map(|p| p.file_stem().unwrap().to_owned()).collect();
    let first: Vec<_> = queries[..2].iter().map(|p| p.file_stem().unwrap().to_owned()).collect();
    assert_eq!(drawn, first);
    let written = json(&report);
    assert_eq!((written["rerank"]["variant"].as_str(), written["rerank"]["k1"].as_u64()), (Some("zhong"), Some(4)));
    assert_eq!((written["trained_on"].as_str(), written["protocol"].as_str()), (Some(&data[..]), Some("cross-camera")));
    assert_eq!(written["queries"].as_array().unwrap().len(), queries.len());
    for (part, title) in [("plain", "%"), ("reranked", "re-ranked %")] {
        let map = 100.0 * written[part]["mAP"].as_f64().unwrap();
        assert!(text.contains(&format!("{map:.2}")), "{title}: {map} in {text}");
    }
    assert!(written["camera_pairs"][0]["rank1"].is_f64() && written["roc"]["eer"].is_f64());
    fails_with(1, &[&args[..], &outputs].concat(), &["is not empty"]);
    fails_with(1, &["evaluate", "--checkpoint", run, "--data", data, "--k1", "0"], &["eval.k1"]);
    fails_with(2, &["evaluate", "--checkpoint", run, "--data", data, "--rerank", "best"], &["best", "torchreid"]);
    fails_with(2, &["extract", "--checkpoint", run, "--data", data, "--out", "x.npy", "--rerank"], &["--rerank"]);
}

#[test]
fn features_in_files_rank_as_the_network_that_made_them() {
    let Fixture { data, run, .. } = fixture();
    let folder = tempfile::tempdir().unwrap();
    let extract = |images: &str, out: &str| {
        let (images, out) = (format!("{data}/{images}"), path(&folder, out));
        succeeds(&["extract", "--checkpoint", run, "--images", &images, "--out", &out]);
        out
    };
    let evaluated = succeeds(&["evaluate", "--checkpoint", run, "--data", data, "--rerank", "ptl"]);
    let (_, table) = evaluated.split_once('\n').unwrap();
    for ending in ["safetensors", "npy"] {
        // The file has no labels: they are in the names of the images.
        let query = extract("query", &format!("q.{ending}"));
        let gallery = extract("bounding_box_test", &format!("g.{ending}"));
        assert_eq!(succeeds(&["rank", "--query", &query, "--gallery", &gallery, "--rerank", "ptl"]), table, "{ending}");
    }
    let (query, gallery) = (path(&folder, "q.npy"), path(&folder, "g.npy"));
    // Repeats this on the emulated GPU, if this build has one.
    let emulated = ptl(&["rank", "--query", &query, "--gallery", &gallery, "--rerank", "ptl", "--device", "emulated"]);
    match emulated.status.success() {
        true => assert_eq!(text(&emulated.stdout), table),
        false => {
            assert!(text(&emulated.stderr).contains("this build has no emulator"), "{}", text(&emulated.stderr));
            say("SKIPPED ranking on the emulated GPU: this build has no emulator");
        }
    }
    let out = path(&folder, "r.json");
    succeeds(&["rank", "--query", &query, "--gallery", &gallery, "--out", &out, "--normalize"]);
    assert!(json(&out)["plain"]["mAP"].is_f64());

    let rank = |q: &str, g: &str, more: &[&str], parts: &[&str]| {
        fails_with(1, &[&["rank", "--query", q, "--gallery", g][..], more].concat(), parts);
    };
    let labels = path(&folder, "labels.csv");
    fs::write(&labels, "path,pid,camid\na.jpg,1,1\n").unwrap();
    rank(&query, &gallery, &["--query-labels", &labels], &["q.npy", "labels.csv has 1 image"]);
    rank(&query, "/none.npy", &[], &["/none.npy"]);
    rank(&labels, &gallery, &[], &["labels.csv", ".npy"]);
    let bytes = fs::read(&query).unwrap();
    let spoil = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let (mut bytes, file) = (bytes.clone(), path(&folder, name));
        change(&mut bytes);
        fs::write(&file, bytes).unwrap();
        fs::copy(path(&folder, "q.txt"), Path::new(&file).with_extension("txt")).unwrap();
        file
    };
    let replace = |bytes: &mut Vec<u8>, from: &[u8], to: &[u8]| {
        let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
        bytes[at..at + to.len()].copy_from_slice(to);
    };
    rank(&spoil("big.npy", &|b| replace(b, b"<f4", b">f4")), &gallery, &[], &["big.npy", "big-endian"]);
    rank(&spoil("cut.npy", &|b| b.truncate(b.len() - 5)), &gallery, &[], &["cut.npy", "shorter than its shape"]);
    let nan = spoil("nan.npy", &|b| {
        let end = b.len();
        b[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    rank(&nan, &gallery, &[], &["of the query features is not finite"]);
    fs::remove_file(path(&folder, "nan.txt")).unwrap();
    rank(&nan, &gallery, &[], &["it has no labels", "--query-labels"]);
}

#[test]
fn a_file_and_flags_say_the_same_and_flags_win() {
    let Fixture { data, .. } = fixture();
    let folder = tempfile::tempdir().unwrap();
    let file = path(&folder, "mine.toml");
    fs::write(&file, "seed = 5\n[model]\narch = \"resnet18\"\nwidth = 0.125\nheight = 48\nimage_width = 16\n").unwrap();
    let run = path(&folder, "run");
    let flags = ["--height", "32", "--ids", "2", "--images", "2", "--epochs", "1", "--max-steps", "1"];
    succeeds(&[&["train", "--config", &file, "--data", data, "--out", &run][..], &flags].concat());
    let config: toml::Table = fs::read_to_string(Path::new(&run).join("config.toml")).unwrap().parse().unwrap();
    assert_eq!(config["seed"].as_integer(), Some(5));
    assert_eq!(config["model"]["height"].as_integer(), Some(32));
    assert_eq!(config["model"]["image_width"].as_integer(), Some(16));
    assert_eq!(config["sampler"]["ids"].as_integer(), Some(2));
}

#[test]
fn what_cannot_work_is_refused_before_the_work() {
    let Fixture { data, run, folder, .. } = fixture();
    let new = path(folder, "never");
    let train = |args: &[&str], parts: &[&str]| {
        fails_with(1, &[&tiny(&["train", "--out", &new])[..], args].concat(), parts);
        assert!(!Path::new(&new).exists(), "{args:?} left a run folder");
    };
    train(&[], &["--data = (none)"]);
    train(&["--data", "/no/such/folder"], &["/no/such/folder", "no such folder"]);
    train(&["--data", run], &["no folder bounding_box_train"]);
    train(&["--data", data, "--ids", "5"], &["4 training identities", "needs 5", "--ids"]);
    train(&["--data", data, "--height", "50"], &["50", "16"]);
    train(&["--data", data, "--lr", "-1"], &["optim.lr"]);
    train(&["--data", data, "--init", "/no/such/file"], &["/no/such/file"]);
    train(&["--data", data, "--init", data], &["no run"]);
    train(&["--data", data, "--init", &format!("{run}/config.toml")], &["checkpoint", "config.toml"]);
    let compare = ["compare", "--source", data, "--target", data, "--out", &new];
    let compare = |args: &[&str], parts: &[&str]| {
        fails_with(1, &[&compare[..], &TINY, &["--arch", "resnet18"], args].concat(), parts);
        assert!(!Path::new(&new).exists(), "{args:?} left a run folder");
    };
    compare(&["--arch", "resnet18-ptl"], &["resnet18-ptl", "plain network"]);
    compare(&["--data", data], &["--data = (given)", "does not use it"]);
    compare(&["--seeds", "1,2,1"], &["seeds", "once"]);
    compare(&["--pretrain-lr", "-1"], &["optim.lr"]);
    compare(&["--ids", "5"], &["4 training identities"]);
    compare(&["--source", "/none"], &["/none"]);
    fails_with(1, &["train", "--resume", "/no/such/run"], &["/no/such/run"]);
    fails_with(1, &["train", "--resume", data], &["not a run folder"]);
    fails_with(1, &["evaluate", "--checkpoint", &format!("{run}/log.txt"), "--data", data], &["log.txt"]);
    fails_with(1, &["evaluate", "--checkpoint", run, "--data", "/none"], &["/none"]);
    fails_with(1, &["extract", "--checkpoint", run, "--data", data, "--out", "x.csv"], &["x.csv", ".npy"]);
    fails_with(1, &tiny(&["train", "--data", data, "--out", run]), &["is not empty"]);
    let inside_a_file = format!("{run}/log.txt/sub");
    fails_with(1, &tiny(&["train", "--data", data, "--out", &inside_a_file]), &["log.txt"]);
    fails_with(1, &["synth", "--out", data], &["is not empty"]);
    fails_with(2, &["synth", "--out", "x", "--gap", "weather"], &["weather", "viewpoint"]);
    fails_with(1, &["synth", "--out", "x", "--gap", "light"], &["--gap = light", "or add --domain target"]);
    fails_with(2, &["train", "--no-such-flag"], &["--no-such-flag"]);
    fails_with(2, &["train", "--arch", "vgg16"], &["vgg16", "resnet50"]);
    fails_with(2, &["tarin"], &["train"]);
}

#[test]
fn an_mgn_says_which_images_it_takes() {
    let data = &fixture().data;
    let reason = "the height must be a multiple of 96, the width of 32";
    fails_with(1, &["train", "--data", data, "--arch", "mgn-ptl", "--height", "256"], &["256x128", reason]);
    fails_with(1, &["train", "--data", data, "--arch", "mgn", "--pool", "avg"], &["model.pool", "maximum"]);
    fails_with(2, &["train", "--data", data, "--arch", "mgn-resnet18"], &["mgn-resnet101-ptl"]);
}

#[test]
fn a_file_of_settings_is_checked_line_by_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = path(&folder, "mine.toml");
    let cases = [
        ("[optim]\nlearning_rate = 1.0\n", vec!["line 2", "learning_rate"]),
        ("[optim]\nlr = \"fast\"\n", vec!["line 2", "lr"]),
        ("[optmi]\n", vec!["line 1", "optmi", "optim"]),
        ("lr = \n", vec!["line 1"]),
    ];
    for (content, parts) in cases {
        fs::write(&file, content).unwrap();
        fails_with(1, &["train", "--config", &file], &parts);
    }
}

#[test]
fn broken_images_are_named_or_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let data = own_data(&folder);
    let broken = files(format!("{data}/bounding_box_train"))[0].clone();
    let bytes = fs::read(&broken).unwrap();
    fs::write(&broken, &bytes[..bytes.len() / 2]).unwrap();
    fs::write(format!("{data}/bounding_box_train/0004_c9s1_000000_99.jpg"), b"").unwrap();
    fs::write(format!("{data}/query/holiday.jpg"), &bytes).unwrap();
    let name = broken.file_name().unwrap().to_str().unwrap();
    fails_with(
        1,
        &tiny(&["train", "--data", &data, "--out", &path(&folder, "a")]),
        &["2 of 17 images cannot be decoded", name],
    );
    let output = ptl(&tiny(&["train", "--data", &data, "--skip-broken", "--out", &path(&folder, "b")]));
    let stderr = text(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("warning: ") && stderr.contains("holiday.jpg") && stderr.contains(name), "{stderr}");
}

#[test]
fn pipes_and_devices_among_the_images_are_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let data = own_data(&folder);
    let pipe = format!("{data}/bounding_box_train/0001_c1s1_9.jpg");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let train = ["train", "--data", &data, "--out", &path(&folder, "a")];
    fails_with(1, &tiny(&train), &["it is a pipe, not a file"]);
    fs::remove_file(&pipe).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &pipe).unwrap();
    fails_with(1, &tiny(&train), &["it is a device, not a file"]);
    let classify = ["train", "--task", "classify", "--data", "/dev/zero", "--out", &path(&folder, "b")];
    fails_with(1, &classify, &["/dev/zero"]);
}

#[test]
fn only_training_needs_training_images() {
    let folder = tempfile::tempdir().unwrap();
    let data = own_data(&folder);
    let run = &fixture().run;
    let evaluate = ["evaluate", "--checkpoint", run, "--data", &data];
    let whole = succeeds(&evaluate);
    let train = Path::new(&data).join("bounding_box_train");
    fs::write(&files(&train)[0], b"broken").unwrap();
    assert_eq!(succeeds(&evaluate), whole);
    fs::remove_dir_all(train).unwrap();
    assert_eq!(succeeds(&evaluate), whole);
    let npy = path(&folder, "features.npy");
    succeeds(&["extract", "--checkpoint", run, "--data", &data, "--out", &npy]);
    let out = path(&folder, "tuned");
    let onto = ["train", "--data", &fixture().data, "--target", &data, "--out", &out, "--max-steps", "1"];
    succeeds(&tiny(&onto));
    fails_with(1, &tiny(&["train", "--data", &data]), &["no folder bounding_box_train"]);
    // With another data set to measure, the training data need no queries.
    let (elsewhere, source) = (tempfile::tempdir().unwrap(), fixture().data.clone());
    let own = own_data(&elsewhere);
    fs::write(&files(format!("{own}/query"))[0], b"broken").unwrap();
    let out = path(&elsewhere, "tuned");
    succeeds(&tiny(&["train", "--data", &own, "--target", &source, "--out", &out, "--max-steps", "1"]));
    fs::write(&files(format!("{data}/query"))[0], b"broken").unwrap();
    fails_with(1, &evaluate, &["cannot be decoded"]);
}

#[test]
fn an_evaluation_without_a_cross_camera_match_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data = own_data(&folder);
    for file in files(format!("{data}/bounding_box_test")) {
        let camera_one = file.to_str().unwrap().replace("_c2s", "_c1s");
        fs::rename(&file, camera_one.replace(".jpg", "x.jpg")).unwrap();
    }
    for file in files(format!("{data}/query")).into_iter().filter(|f| f.to_str().unwrap().contains("_c2s")) {
        fs::remove_file(file).unwrap();
    }
    fails_with(1, &["evaluate", "--checkpoint", &fixture().run, "--data", &data], &["another camera"]);
}

#[test]
fn a_loss_that_is_no_number_ends_the_run_with_its_cause() {
    let folder = tempfile::tempdir().unwrap();
    let run = path(&folder, "run");
    let args = ["train", "--data", &fixture().data, "--out", &run, "--optim", "sgd"];
    fails_with(1, &[&tiny(&args)[..], &["--lr", "1e30"]].concat(), &["the loss became", "--lr", ".jpg"]);
    assert!(Path::new(&run).join("log.txt").exists());
}

/// Starts a long run and waits for its first steps.
fn long_run(run: &str) -> std::process::Child {
    let args = [
        &tiny(&["train", "--data", &fixture().data, "--out", run])[..],
        &["--epochs", "100000", "--train.log-every", "1"],
    ]
    .concat();
    let child = program().args(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let metrics = Path::new(run).join("metrics.jsonl");
    while fs::metadata(&metrics).map_or(true, |m| m.len() == 0) {
        assert!(Instant::now() < deadline, "no step was logged");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

#[test]
fn ctrl_c_saves_a_run_that_resumes() {
    let folder = tempfile::tempdir().unwrap();
    let run = path(&folder, "run");
    let child = long_run(&run);
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("--resume") && stderr.contains(&run), "{stderr}");
    assert_eq!(files(Path::new(&run).join("checkpoints")).len(), 1);
    succeeds(&["train", "--resume", &run, "--max-steps", "1"]);
}

#[test]
fn closed_and_full_outputs_are_no_panic() {
    let Fixture { data, run, .. } = fixture();
    let shell = |line: &str| {
        let output =
            Command::new("sh").args(["-c", line, env!("CARGO_BIN_EXE_ptl-train"), run, data]).output().unwrap();
        let stderr = text(&output.stderr);
        assert!(!stderr.contains("panicked"), "{line}: {stderr}");
        (output.status.code(), stderr)
    };
    assert_eq!(shell("$0 train --help | true").0, Some(0));
    assert_eq!(shell("$0 evaluate --checkpoint $1 --data $2 2>&- >/dev/null").0, Some(0));
    assert_eq!(shell("$0 evaluate --checkpoint $1 --data $2 | true").0, Some(0));
    if Path::new("/dev/full").exists() {
        let (code, stderr) = shell("$0 evaluate --checkpoint $1 --data $2 >/dev/full");
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains("standard output"), "{stderr}");
    }
}

#[test]
fn a_full_disk_keeps_the_last_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let run = path(&folder, "run");
    assert!(Command::new("cp").args(["-r", &fixture().run, &run]).status().unwrap().success());
    let before = files(Path::new(&run).join("checkpoints"));
    // Files may not grow beyond 64 KiB: writing a checkpoint fails as on a full disk.
    let line = "trap '' XFSZ; ulimit -f 128; exec $0 train --resume $1 --epochs 3";
    let output = Command::new("bash").args(["-c", line, env!("CARGO_BIN_EXE_ptl-train"), &run]).output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("error: cannot write") && !stderr.contains("panicked"), "{stderr}");
    assert_eq!(files(Path::new(&run).join("checkpoints")), before);
    succeeds(&["train", "--resume", &run, "--epochs", "3"]);
}

#[test]
fn info_says_what_this_build_can_do() {
    let info = succeeds(&["info"]);
    for part in ["version", "processor", "instructions", "CUDA"] {
        assert!(info.contains(part), "{info}");
    }
    assert!(succeeds(&["--version"]).contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_gpu_that_is_not_there_is_one_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let data = own_data(&folder);
    let (out, kind) = (path(&folder, "run"), DeviceKind::Cuda(0));
    if Device::open(&DeviceOptions { kind, ..DeviceOptions::default() }).is_err() {
        fails_with(1, &["selftest"], &["cuda: "]);
        for device in ["cuda", "cuda:3"] {
            fails_with(1, &["train", "--data", &data, "--out", &out, "--device", device], &["cuda: ", "--device cpu"]);
        }
        assert!(succeeds(&["info"]).contains("GPU:"));
    }
    fails_with(2, &["train", "--data", &data, "--device", "cuda:x"], &["--device", "cuda:1"]);
    fails_with(2, &["selftest", "--device", "cpu"], &["--device", "emulated"]);
    // A precision that the CPU does not have is refused.
    let cpu = ["--device", "cpu", "--precision", "tf32"];
    let args = [&["train", "--data", &data, "--out", &out][..], &cpu].concat();
    fails_with(1, &args, &["precision = tf32", "needs a GPU"]);
}

#[test]
fn the_emulated_gpu_passes_its_self_test_and_writes_it_down() {
    let options = DeviceOptions { kind: DeviceKind::Emulated, ..DeviceOptions::default() };
    if let Err(error) = Device::open(&options) {
        return say(&format!("SKIPPED: {error}"));
    }
    let folder = tempfile::tempdir().unwrap();
    let report = path(&folder, "report.json");
    let args = ["selftest", "--device", "emulated", "--precision", "bf16", "--seed", "5", "--json", &report];
    let table = succeeds(&args);
    assert!(table.contains("conv2d 3x3 bias (Train)") && table.contains("optimiser adam amsgrad"), "{table}");
    let report = json(report);
    assert_eq!((report["failed"].as_u64(), report["seed"].as_u64()), (Some(0), Some(5)));
    assert!(report["checks"].as_array().unwrap().len() > 40);
}

/// Writes small files in the published form of CUHK03 to a folder of their own.
fn cuhk03_files(folder: &TempDir) -> String {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/cuhk03");
    for kind in ["detected", "labeled"] {
        let name = format!("cuhk03_new_protocol_config_{kind}.mat");
        fs::copy(golden.join(&name), folder.path().join(&name)).unwrap();
    }
    let mut images = flate2::read::GzDecoder::new(fs::File::open(golden.join("cuhk-03.mat.gz")).unwrap());
    let mat = path(folder, "cuhk-03.mat");
    std::io::copy(&mut images, &mut fs::File::create(&mat).unwrap()).unwrap();
    mat
}

#[test]
fn cuhk03_is_converted_with_the_lists_beside_it_and_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    let (mat, out) = (cuhk03_files(&folder), path(&folder, "cuhk03"));
    let output = ptl(&["convert", "cuhk03", "--mat", &mat, "--out", &out]);
    let stderr = text(&output.stderr);
    assert!(output.status.success() && output.stdout.is_empty(), "{stderr}");
    // 122 detected and 120 labeled images, once for each protocol.
    for part in ["warning: detected: people", "484 images written", "--dataset cuhk03-classic-labeled"] {
        assert!(stderr.contains(part), "{part} is not in: {stderr}");
    }
    let left: Vec<String> = files(&out).iter().map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect();
    assert_eq!(left, ["classic", "detected", "labeled"]);
    fails_with(1, &["convert", "cuhk03", "--mat", &mat, "--out", &out], &["is not empty"]);
    fails_with(1, &tiny(&["train", "--data", &out]), &["cuhk03-np-detected seems to be in"]);

    let run = path(&folder, "run");
    let short = ["train", "--data", &out, "--dataset", "cuhk03-np-detected", "--out", &run, "--max-steps", "1"];
    succeeds(&tiny(&short));
    let summary = json(Path::new(&run).join("summary.json"));
    assert_eq!(
        (&summary["data"], &summary["evaluated_on"]),
        (&"cuhk03-np-detected".into(), &"cuhk03-np-detected".into())
    );
    assert!(summary["mAP"].is_number());
    let log = fs::read_to_string(Path::new(&run).join("log.txt")).unwrap();
    assert!(log.contains("counts do not match cuhk03-np-detected: train has"), "{log}");
}

#[test]
fn cuhk03_without_lists_gives_the_classic_splits_and_swapped_ones_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (mat, out) = (cuhk03_files(&folder), path(&folder, "cuhk03"));
    let [detected, labeled] =
        ["detected", "labeled"].map(|kind| path(&folder, &format!("cuhk03_new_protocol_config_{kind}.mat")));
    let base = ["convert", "cuhk03", "--mat", &mat, "--out", &out];
    let swapped = [&base[..], &["--detected-config", &labeled, "--labeled-config", &detected]].concat();
    fails_with(1, &swapped, &["images that it lists", "swapped?"]);
    assert!(!Path::new(&out).exists());
    fs::remove_file(&detected).unwrap();
    fs::remove_file(&labeled).unwrap();
    let output = ptl(&base);
    assert!(output.status.success() && text(&output.stderr).contains("only the classic splits are written"));
    assert_eq!(files(&out).len(), 1);
    fails_with(1, &["convert", "cuhk03", "--mat", &path(&folder, "none.mat"), "--out", &out], &["cannot read"]);
    let short = |split| tiny(&["train", "--data", &out, "--dataset", "cuhk03-classic-labeled", "--split", split]);
    fails_with(1, &short("20"), &["data.split = 20", "20 splits"]);
}

#[test]
fn a_folder_of_another_data_set_is_refused_with_the_expected_files() {
    let Fixture { data, run, .. } = fixture();
    fails_with(1, &tiny(&["train", "--data", data, "--dataset", "msmt17"]), &["msmt17 needs the lists", "MSMT17_V1"]);
    fails_with(2, &["train", "--data", data, "--dataset", "market"], &["market1501"]);
    // The `data.kind` of the run does not apply to a folder that a flag names.
    let table = succeeds(&["evaluate", "--checkpoint", run, "--data", data]);
    assert!(table.contains("mAP"), "{table}");
    assert_eq!(json(Path::new(run).join("summary.json"))["data"], "Market-1501 layout");
}
