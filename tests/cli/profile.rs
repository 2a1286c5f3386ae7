//! `profile`: what it prints, and the figures in its file.

use serde_json::Value;

use super::{fails_with, json, path, succeeds};

/// A network of a moment, with batches of four images.
const SMALL: [&str; 11] = [
    "profile",
    "--arch",
    "resnet18-ptl",
    "--width",
    "0.125",
    "--height",
    "32",
    "--image-width",
    "16",
    "--device",
    "cpu",
];

fn small<'a>(flags: &[&'a str]) -> Vec<&'a str> {
    [&SMALL[..], flags].concat()
}

/// Returns the entry of `op` in a list.
fn entry<'a>(list: &'a Value, op: &str) -> &'a Value {
    let found = list.as_array().unwrap().iter().find(|entry| entry["op"] == op);
    found.unwrap_or_else(|| panic!("no {op} in {list:#}"))
}

#[test]
fn a_training_step_is_divided_into_ops() {
    let folder = tempfile::tempdir().unwrap();
    let out = path(&folder, "new/profile.json");
    let flags = ["--ids", "2", "--images", "2", "--classes", "5", "--steps", "2", "--ema", "0.9", "--out", &out];
    let table = succeeds(&small(&flags));
    let kinds = [
        "conv2d forward",
        "conv2d input gradient",
        "conv2d parameter gradient",
        "batch_norm forward",
        "batch_norm backward",
        "bconv_cell forward",
        "bconv_cell backward",
        "batch_hard_triplet backward",
        "optimiser",
        "moving average",
        "input images",
        "the rest",
        "step",
    ];
    for part in kinds.iter().chain(&["resnet18-ptl (reid), 4 images of 32x16, 5 identities", "this machine: product"]) {
        assert!(table.contains(part), "{part} is not in: {table}");
    }

    let report = json(&out);
    assert_eq!((report["batch"].as_u64(), report["steps_ms"].as_array().unwrap().len()), (Some(4), 2));
    assert!(
        report["machine"]["gflop_per_s"].as_f64() > Some(0.0) && report["machine"]["gb_per_s"].as_f64() > Some(0.0)
    );
    for list in ["ops", "nodes"] {
        let sum = |key: &str| report[list].as_array().unwrap().iter().map(|entry| entry[key].as_f64().unwrap()).sum();
        let (shares, time): (f64, f64) = (sum("share"), sum("ms"));
        let steps: f64 = report["steps_ms"].as_array().unwrap().iter().map(|time| time.as_f64().unwrap()).sum();
        assert!((shares - 1.0).abs() < 1e-6 && (time - steps / 2.0).abs() < 1e-6, "{list}: {shares} {time} {steps}");
    }

    // The stem: 4x32x16 pixels of 3 channels, 7x7 weights, 4x16x8 pixels of 8 channels. Images have no gradient.
    let stem = entry(&report["nodes"], "conv2d 0");
    assert_eq!(stem["shapes"], "[4, 32, 16, 3] → [4, 16, 8, 8]");
    assert_eq!(stem["parameter"], "backbone.conv1.weight");
    let (input, weight, output) = (6144, 8 * 3 * 49, 4096);
    let figures = |entry: &Value| ["calls", "flops", "bytes"].map(|key| entry[key].as_f64().unwrap());
    let flops = f64::from(2 * 3 * 49 * output);
    assert_eq!(figures(stem), [1.0, flops, f64::from(4 * (input + weight + output))]);
    let gradient = entry(&report["nodes"], "conv2d 0 parameter gradient");
    assert_eq!(figures(gradient), figures(stem));
    let nodes = report["nodes"].as_array().unwrap();
    assert!(nodes.iter().all(|node| node["op"] != "conv2d 0 input gradient"), "{nodes:#?}");

    // Each convolution has one forward and one gradient of its weight; all but the stem have a gradient of their input.
    let calls = |op: &str| entry(&report["ops"], op)["calls"].as_f64().unwrap();
    assert_eq!(calls("conv2d forward"), calls("conv2d parameter gradient"));
    assert_eq!(calls("conv2d forward"), calls("conv2d input gradient") + 1.0);
    assert_eq!((calls("optimiser"), calls("input images"), calls("bconv_cell backward")), (1.0, 1.0, 6.0));
    assert_eq!(figures(entry(&report["ops"], "input images"))[2], f64::from(5 * input));
    let optimiser = entry(&report["ops"], "optimiser");
    assert!(optimiser["share_of_copy"].as_f64() > Some(0.0) && optimiser["share_of_product"].is_null());
}

#[test]
fn nodes_have_a_line_each_and_an_evaluation_has_no_gradients() {
    let table = succeeds(&small(&["--ids", "2", "--images", "2", "--steps", "1", "--nodes"]));
    for part in ["conv2d 0 parameter gradient", "[4, 32, 16, 3] → [4, 16, 8, 8]", "backbone.conv1.weight", "the rest"]
    {
        assert!(table.contains(part), "{part} is not in: {table}");
    }
    let folder = tempfile::tempdir().unwrap();
    let out = path(&folder, "profile.json");
    let table = succeeds(&small(&["--eval", "--eval-batch", "3", "--steps", "1", "--out", &out]));
    assert!(table.contains("evaluation: ") && !table.contains("gradient") && !table.contains("optimiser"), "{table}");
    let report = json(&out);
    // The images and their mirror images.
    assert_eq!(
        (report["batch"].as_u64(), entry(&report["nodes"], "conv2d_batch_norm 0")["calls"].as_f64()),
        (Some(3), Some(2.0))
    );
    assert!(report["nodes"].as_array().unwrap().iter().all(|node| !node["op"].as_str().unwrap().ends_with("backward")));
}

#[test]
fn a_gpu_and_flags_without_effect_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    fails_with(1, &["profile", "--device", "cpu", "--out", out], &["--out = ", "it is a folder"]);
    fails_with(1, &["profile", "--device", "emulated"], &["--device = emulated", "--device cpu", "nsys"]);
    fails_with(1, &["profile", "--device", "cuda"], &["--device = cuda", "docs/profiling.md"]);
    fails_with(1, &small(&["--eval", "--optim", "sgd"]), &["--optim = ", "it has no effect with --eval"]);
    fails_with(1, &small(&["--eval-batch", "4"]), &["--eval-batch = 4", "it has no effect without --eval"]);
    fails_with(1, &small(&["--batch", "4"]), &["--batch = 4", "--task classify"]);
    fails_with(1, &small(&["--mixup", "0.2"]), &["mixup"]);
    fails_with(2, &small(&["--lr", "0.1"]), &["--lr"]);
}
