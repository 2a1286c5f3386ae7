//! What a profiler sees of a run: the ranges that reach a small NVTX listener, loaded as Nsight Systems loads its own.

#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;
use std::process::Command;

use ptl::base::stop::StopFlag;
use ptl::data::synth::{self, Domain, SynthConfig};
use tempfile::TempDir;

/// Two steps of a tiny network on `device`, with the listener attached: the ranges, indented by depth.
fn ranges(folder: &TempDir, device: &[&str]) -> Vec<String> {
    let at = |name: &str| folder.path().join(name);
    let (library, data, log) = (at("listener.so"), at("data"), at("ranges.txt"));
    if !data.exists() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nvtx/listener.c");
        // The compiler that built the crate `nvtx`.
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
        let built = Command::new(compiler).args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).status();
        assert!(built.unwrap().success());
        let sizes = SynthConfig { train_ids: 4, test_ids: 2, cams: 2, height: 32, width: 16, ..SynthConfig::default() };
        synth::generate(&data, &SynthConfig { domain: Domain::Source, ..sizes }, &StopFlag::default(), &|_, _| {})
            .unwrap();
    }
    let run = at(&device.join(" "));
    let output = Command::new(env!("CARGO_BIN_EXE_ptl-train"))
        .args(["train", "--data", data.to_str().unwrap(), "--out", run.to_str().unwrap()])
        .args(["--arch", "resnet18-ptl", "--width", "0.0625", "--height", "32", "--image-width", "16"])
        .args([
            "--ids",
            "2",
            "--images",
            "2",
            "--passes",
            "3",
            "--epochs",
            "1",
            "--max-steps",
            "4",
            "--eval-batch",
            "4",
        ])
        .args(device)
        .env("NVTX_INJECTION64_PATH", &library)
        .env("NVTX_LISTENER", &log)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::read_to_string(log).unwrap().lines().map(str::to_string).collect()
}

/// The names one level below the range whose line is `parent`.
fn inside<'a>(ranges: &'a [String], parent: &str) -> Vec<&'a str> {
    let depth = |line: &str| line.len() - line.trim_start().len();
    let start = ranges.iter().position(|line| line.trim_start() == parent);
    let start = start.unwrap_or_else(|| panic!("no range {parent} in {ranges:#?}"));
    let below = ranges[start + 1..].iter().take_while(|line| depth(line) > depth(&ranges[start]));
    below.filter(|line| depth(line) == depth(&ranges[start]) + 2).map(|line| line.trim_start()).collect()
}

#[test]
fn a_profiler_sees_epochs_steps_passes_and_ops() {
    let folder = tempfile::tempdir().unwrap();
    let cpu = ranges(&folder, &["--device", "cpu"]);
    let epoch = inside(&cpu, "epoch 1");
    assert_eq!(epoch[..6], ["data", "step 1", "data", "step 2", "data", "step 3"], "{epoch:?}");
    for behind in ["checkpoint", "evaluation"] {
        assert!(cpu.iter().any(|line| line == behind), "no {behind} beside the epoch in {cpu:#?}");
    }
    assert_eq!(inside(&cpu, "step 2"), ["images", "forward", "backward", "optimizer"]);
    let forward = inside(&cpu, "forward");
    assert!(forward[0] == "conv2d 0" && forward.iter().any(|op| op.starts_with("bconv_cell ")), "{forward:?}");
    // The same ops in reverse, with the numbers that they have in forward.
    let mut backward = inside(&cpu, "backward");
    backward.reverse();
    assert!(backward.iter().all(|op| forward.contains(&op.strip_suffix(" backward").unwrap())), "{backward:?}");
    assert_eq!(backward.len(), forward.len());
    assert_eq!(backward[0], "conv2d 0 backward");
}

#[test]
fn recorded_launches_show_no_ops_and_launched_ones_do() {
    let folder = tempfile::tempdir().unwrap();
    let device = ["--device", "emulated", "--gpu.graph"];
    let launched = ranges(&folder, &[&device[..], &["false"]].concat());
    let step = inside(&launched, "step 1");
    assert_eq!(step, ["images", "forward", "backward", "optimizer", "upload", "wait for the GPU"]);
    assert!(inside(&launched, "forward").iter().any(|op| op.starts_with("bconv_cell ")));

    // The first step warms up. Latent states take turns between two places: two recordings, then replays.
    let recorded = ranges(&folder, &[&device[..], &["true"]].concat());
    let of_step = |n: usize| inside(&recorded, &format!("step {n}"));
    assert!(of_step(1).contains(&"forward"), "{recorded:#?}");
    assert!(of_step(2).contains(&"record") && of_step(3).contains(&"record"), "{recorded:#?}");
    assert!(of_step(4).contains(&"replay"), "{recorded:#?}");
    let steps = (2..=4).flat_map(of_step);
    assert!(steps.into_iter().all(|name| !["forward", "backward", "optimizer"].contains(&name)));
    assert!(inside(&recorded, "record").is_empty());
}
