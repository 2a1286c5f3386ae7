//! `ptl-train state`: figures, transfer and ablation of latent states.

use std::fs;
use std::path::Path;
use std::process::Command;

use ptl::eval::features_file::FeatureSet;
use serde_json::Value;

use super::{fails_with, files, fixture, json, path, ptl, succeeds, text, tiny};

/// Returns the values of a tensor in a file.
fn tensor(file: &Path, name: &str) -> (Vec<usize>, Vec<f32>) {
    let file = ptl::io::checkpoint::File::open(file).unwrap();
    (file.shape(name).unwrap(), file.f32(name).unwrap())
}

/// Returns the newest checkpoint of a run.
fn newest(run: &str) -> std::path::PathBuf {
    files(Path::new(run).join("checkpoints")).pop().unwrap()
}

#[test]
fn figures_of_a_run_and_of_a_checkpoint_are_those_of_the_stored_states() {
    let folder = tempfile::tempdir().unwrap();
    let run = &path(&folder, "run");
    let data = &fixture().data;
    // The states of the second epoch start from those of the first, so that its one step has something to drift from.
    succeeds(&tiny(&["train", "--data", data, "--out", run, "--state-policy", "carry-epochs"]));
    let report = path(&folder, "states.json");
    let table = succeeds(&["state", "show", run, "--json", &report]);
    for part in ["cell", "similarity", "drift", "ptl.bconv1", "ptl.bconv6.latent_state"] {
        assert!(table.contains(part), "{part}: {table}");
    }
    let lines = json(&report);
    let lines = lines.as_array().unwrap();
    assert_eq!(lines.iter().map(|line| line["epoch"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
    // The last epoch's states are in the newest checkpoint.
    let (shape, values) = tensor(&newest(run).join("training.safetensors"), "ptl.bconv6.latent_state");
    let last = &lines[1]["ptl.bconv6.latent_state"];
    assert_eq!(last["slots"].as_u64().unwrap() as usize, shape[0]);
    let squares: f64 = values.iter().map(|&x| f64::from(x).powi(2)).sum();
    assert!((last["rms"].as_f64().unwrap() - (squares / values.len() as f64).sqrt()).abs() < 1e-9);
    let slots: Vec<&[f32]> = values.chunks_exact(values.len() / shape[0]).collect();
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let cosine = |a: &[f32], b: &[f32]| product(a, b) / (product(a, a) * product(b, b)).sqrt();
    let pairs = (0..slots.len()).flat_map(|i| (0..i).map(move |j| (i, j)));
    let cosines: Vec<f64> = pairs.map(|(i, j)| cosine(slots[i], slots[j])).collect();
    let mean = cosines.iter().sum::<f64>() / cosines.len() as f64;
    assert!((last["similarity"].as_f64().unwrap() - mean).abs() < 1e-9);
    assert!(last["drift"].as_f64().unwrap() > 0.0);
    assert_eq!(lines[0]["ptl.bconv6.latent_state"]["drift"], Value::Null, "a step from zeros");

    // A checkpoint by itself has no steps to tell drift from.
    let copy = path(&folder, "copy");
    assert!(
        Command::new("cp").args(["-r".as_ref(), newest(run).as_os_str(), copy.as_ref()]).status().unwrap().success()
    );
    succeeds(&["state", "show", &copy, "--json", &report]);
    let alone = &json(&report)[0]["ptl.bconv6.latent_state"];
    assert_eq!(alone["rms"], last["rms"]);
    assert_eq!(alone["drift"], Value::Null);
}

#[test]
fn states_move_from_run_to_run() {
    let folder = tempfile::tempdir().unwrap();
    let (data, from) = (&fixture().data, &fixture().run);
    let (to, out) = (path(&folder, "to"), path(&folder, "moved"));
    succeeds(&tiny(&["train", "--data", data, "--seed", "5", "--out", &to]));
    succeeds(&["state", "transfer", "--from", from, "--to", &to, "--out", &out]);
    let name = "ptl.bconv3.latent_state";
    let stored = |folder: &Path, file: &str, name: &str| tensor(&folder.join(file), name);
    let moved = Path::new(&out);
    assert_eq!(stored(moved, "training.safetensors", name), stored(&newest(from), "training.safetensors", name));
    assert_ne!(stored(moved, "training.safetensors", name), stored(&newest(&to), "training.safetensors", name));
    let model = |folder: &Path| fs::read(folder.join("model.safetensors")).unwrap();
    assert!(model(moved) == model(&newest(&to)));
    // Features from the mean state are others, those from zeros are the same.
    let features = |checkpoint: &str, state: &str, name: &str| {
        let out = path(&folder, name);
        let images = format!("{data}/query");
        succeeds(&["extract", "--checkpoint", checkpoint, "--images", &images, "--eval-state", state, "--out", &out]);
        FeatureSet::read(Path::new(&out), None).unwrap().features
    };
    assert_eq!(features(&out, "zeros", "a.safetensors"), features(&to, "zeros", "b.safetensors"));
    assert_ne!(features(&out, "mean", "c.safetensors"), features(&to, "mean", "d.safetensors"));

    let transfer = |from: &str, to: &str, parts: &[&str]| {
        let out = path(&folder, "refused");
        fails_with(1, &["state", "transfer", "--from", from, "--to", to, "--out", &out], parts);
        assert!(!Path::new(&out).exists());
    };
    fails_with(1, &["state", "transfer", "--from", from, "--to", &to, "--out", &out], &["--out = ", "exists already"]);
    let (plain, wide) = (path(&folder, "plain"), path(&folder, "wide"));
    let with = |flags: &[&'static str], out: &str| {
        let line = tiny(&["train", "--data", data, "--out", out]);
        succeeds(&[&line[..], flags].concat());
    };
    with(&["--arch", "resnet18", "--epochs", "1"], &plain);
    with(&["--height", "64", "--epochs", "1"], &wide);
    transfer(&plain, &to, &["its network, resnet18, has no latent states"]);
    transfer(from, &wide, &["it has the states ptl.bconv1.latent_state 32x", "there are ptl.bconv1.latent_state 16x"]);
    transfer(from, &path(&folder, "none"), &["it does not exist"]);
    fails_with(1, &["state", "show", &plain], &["has no latent states"]);
}

#[test]
fn evaluations_from_each_state_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let (data, run) = (&fixture().data, &fixture().run);
    let report = path(&folder, "report.json");
    let output = ptl(&["state", "ablate", "--checkpoint", run, "--data", data, "--json", &report]);
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(printed.contains("zeros and mean") && printed.contains("evaluated from"), "{printed}");
    let report_of_data = json(&report);
    // The figures are those of evaluate.
    let table = succeeds(&["evaluate", "--checkpoint", run, "--data", data, "--eval-state", "mean"]);
    let map = report_of_data["scores"][1]["mAP"].as_f64().unwrap();
    assert!(table.contains(&format!("{map:.2}")), "{map} in {table}");
    // The cosines are those of features that extract writes.
    let images = format!("{data}/query");
    let features = |state: &str| {
        let out = path(&folder, &format!("{state}.safetensors"));
        succeeds(&["extract", "--checkpoint", run, "--images", &images, "--eval-state", state, "--out", &out]);
        FeatureSet::read(Path::new(&out), None).unwrap()
    };
    let (zeros, mean) = (features("zeros"), features("mean"));
    let rows = zeros.features.chunks_exact(zeros.dim).zip(mean.features.chunks_exact(mean.dim));
    let cosines: Vec<f64> =
        rows.map(|(a, b)| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()).collect();
    succeeds(&["state", "ablate", "--checkpoint", run, "--images", &images, "--json", &report]);
    let pair = &json(&report)["cosines"][0];
    let wanted = cosines.iter().sum::<f64>() / cosines.len() as f64;
    assert!((pair["mean_cosine"].as_f64().unwrap() - wanted).abs() < 1e-6, "{pair} {wanted}");
    assert!(wanted < 1.0 - 1e-9, "the states change the features");

    let line = ["state", "ablate", "--checkpoint", run, "--images", &images];
    fails_with(
        1,
        &[&line[..], &["--eval-state", "mean"]].concat(),
        &["--eval-state = (given): this command does not use it"],
    );
    fails_with(1, &[&line[..], &["--data", data]].concat(), &["--data = (given)"]);
}
