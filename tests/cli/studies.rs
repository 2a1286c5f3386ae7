//! Interrupted studies continue, and end as without the interruption.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use super::{Device, DeviceKind, DeviceOptions, fails_with, fixture, path, program, ptl, succeeds, text, tiny};

fn start(args: &[&str]) -> (Child, SystemTime) {
    let now = SystemTime::now();
    let child = program().args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    (child, now)
}

/// Waits until the process has written to `file` or has ended.
fn wait_for(file: &Path, child: &mut Child, started: SystemTime) {
    let deadline = Instant::now() + Duration::from_secs(120);
    let written = || fs::metadata(file).is_ok_and(|m| m.len() > 0 && m.modified().unwrap() > started);
    while !written() && child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "{} did not appear", file.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

/// Sends Ctrl-C once `file` exists. The command must then say how to continue.
fn interrupt(args: &[&str], file: &Path, resume: &str) {
    let (mut child, started) = start(args);
    wait_for(file, &mut child, started);
    signal(&child, "-INT");
    let output = child.wait_with_output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains(&format!("stopped; continue with: ptl-train {resume}")), "{stderr}");
}

fn kill(args: &[&str], file: &Path) {
    let (mut child, started) = start(args);
    wait_for(file, &mut child, started);
    signal(&child, "-KILL");
    assert_eq!(child.wait_with_output().unwrap().status.code(), None, "it ended before it was killed");
}

/// Checks that the results of the study and of every arm have the same bytes.
fn same_results(a: &str, b: &str, arms: &[&str]) {
    let read = |run: &str, file: &str| fs::read_to_string(Path::new(run).join(file)).unwrap();
    assert_eq!(read(a, "summary.json"), read(b, "summary.json"));
    for arm in arms {
        for file in ["summary.json", "items.csv"] {
            assert_eq!(read(a, &format!("{arm}/{file}")), read(b, &format!("{arm}/{file}")), "{arm} {file}");
        }
        let weights = |run: &str| {
            let newest = ptl::model::model_file(&Path::new(run).join(arm)).unwrap();
            ptl::io::checkpoint::File::open(&newest).unwrap()
        };
        let (a, b) = (weights(a), weights(b));
        for name in a.names() {
            assert_eq!(a.f32(&name).ok(), b.f32(&name).ok(), "{arm} {name}");
        }
    }
}

/// Flags of arms that take long enough to be interrupted.
const LONG: [&str; 6] = ["--epochs", "30", "--train.log-every", "1", "--train.checkpoint-every", "4"];

#[test]
fn a_comparison_continues_after_ctrl_c_and_after_a_kill() {
    let data = &fixture().data;
    let folder = tempfile::tempdir().unwrap();
    let [whole, broken] = ["whole", "broken"].map(|name| path(&folder, name));
    let compare = |out: &str| -> Vec<String> {
        let args = tiny(&["compare", "--source", data, "--target", data, "--out", out]);
        let args = [&args[..], &LONG, &["--arch", "resnet18"]].concat();
        args.into_iter().map(str::to_owned).collect()
    };
    let args = compare(&whole);
    let table = succeeds(&args.iter().map(String::as_str).collect::<Vec<_>>());

    // Interrupts it before the first checkpoint, then within two arms.
    let args = compare(&broken);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let resume = ["compare", "--resume", &broken];
    let of_arm = |name: &str| Path::new(&broken).join(name);
    kill(&args, &of_arm("pretrain/config.toml"));
    interrupt(&resume, &of_arm("pretrain/metrics.jsonl"), &format!("compare --resume {broken}"));
    fails_with(1, &args, &["is not empty", "--resume"]);
    kill(&resume, &of_arm("plain/metrics.jsonl"));
    interrupt(&resume, &of_arm("ptl/metrics.jsonl"), &format!("compare --resume {broken}"));

    fails_with(1, &["compare", "--resume", &broken, "--lr", "0.5"], &["--lr = 0.5", "the study has 0.001"]);
    fails_with(2, &["compare", "--resume", &broken, "--seeds", "1,2"], &["--seeds"]);
    fails_with(1, &["ablate", "--resume", &broken], &["study of compare", "ptl-train compare --resume"]);
    fails_with(1, &["train", "--resume", &broken], &["study of several runs", "compare"]);
    fails_with(1, &["compare", "--resume", &fixture().run], &["no study", "train --resume"]);

    assert_eq!(succeeds(&[&resume[..], &["--threads", "1"]].concat()), table);
    same_results(&whole, &broken, &["pretrain", "plain", "ptl"]);
    // An arm that was continued by itself no longer belongs to the study.
    let plain = of_arm("plain").display().to_string();
    let copy = path(&folder, "copy");
    assert!(Command::new("cp").args(["-r", &plain, &copy]).status().unwrap().success());
    succeeds(&["train", "--resume", &plain, "--epochs", "31"]);
    fails_with(1, &resume, &["schedule.epochs = 31", "the study 30", "remove the folder"]);
    fs::remove_dir_all(&plain).unwrap();
    fs::rename(&copy, &plain).unwrap();
    // A finished study has nothing left to do.
    let metrics = fs::read(of_arm("ptl/metrics.jsonl")).unwrap();
    assert_eq!(succeeds(&resume), table);
    assert_eq!(fs::read(of_arm("ptl/metrics.jsonl")).unwrap(), metrics);
}

#[test]
fn an_ablation_continues() {
    let data = &fixture().data;
    let folder = tempfile::tempdir().unwrap();
    let [whole, broken] = ["whole", "broken"].map(|name| path(&folder, name));
    let tiny = tiny(&["ablate", "--data", data, "--init", &fixture().run]);
    let ablate = |out| [&tiny[..], &LONG, &["--epochs", "12", "--out", out]].concat();
    let table = succeeds(&ablate(&whole));
    let of_arm = |name: &str| Path::new(&broken).join(name);
    let resume = ["ablate", "--resume", &broken];
    interrupt(&ablate(&broken), &of_arm("carry-epochs/metrics.jsonl"), &format!("ablate --resume {broken}"));
    kill(&resume, &of_arm("reset/metrics.jsonl"));
    assert_eq!(succeeds(&resume), table);
    same_results(&whole, &broken, &["carry", "carry-epochs", "reset"]);
}

/// Interrupts it while it draws, loads, and trains an arm.
#[test]
fn a_demo_continues() {
    let folder = tempfile::tempdir().unwrap();
    let whole = path(&folder, "whole");
    succeeds(&["demo", "--quick", "--out", &whole]);
    for (number, file) in ["log.txt", "source/query", "plain/config.toml"].into_iter().enumerate() {
        let broken = path(&folder, &format!("broken-{number}"));
        let demo = ["demo", "--quick", "--out", &broken];
        let name = if number == 1 { "-KILL" } else { "-INT" };
        let (mut child, started) = start(&demo);
        wait_for(&Path::new(&broken).join(file), &mut child, started);
        signal(&child, name);
        // `None`: killed.
        let code = child.wait().unwrap().code();
        assert_eq!(code, if number == 1 { None } else { Some(130) }, "{file}: not interrupted");
        let output = ptl(&["demo", "--resume", &broken]);
        assert!(output.status.success(), "{file}: {}", text(&output.stderr));
        same_results(&whole, &broken, &["pretrain", "plain", "ptl"]);
    }
}

#[test]
fn drawing_that_is_interrupted_leaves_no_data_set() {
    let folder = tempfile::tempdir().unwrap();
    let out = path(&folder, "drawn");
    let (mut child, started) = start(&["synth", "--out", &out, "--ids", "3000"]);
    wait_for(&Path::new(&out).join("bounding_box_train-unfinished/0001_c1s1_000000_00.jpg"), &mut child, started);
    signal(&child, "-INT");
    let output = child.wait_with_output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("nothing was written"), "{stderr}");
    assert!(!Path::new(&out).exists());
}

#[test]
fn a_study_without_its_gpu_leaves_no_folder() {
    let kind = DeviceKind::Cuda(0);
    if Device::open(&DeviceOptions { kind, ..DeviceOptions::default() }).is_ok() {
        return super::say("SKIPPED: there is a GPU");
    }
    let data = &fixture().data;
    let folder = tempfile::tempdir().unwrap();
    let out = path(&folder, "study");
    let cuda = ["--out", &out, "--device", "cuda"];
    let compare = tiny(&["compare", "--source", data, "--target", data]);
    for args in [
        [&compare[..], &["--arch", "resnet18"], &cuda].concat(),
        [&tiny(&["ablate", "--data", data])[..], &cuda].concat(),
        [&["demo", "--quick"][..], &cuda].concat(),
    ] {
        fails_with(1, &args, &["cuda: ", "--device cpu"]);
        assert!(!Path::new(&out).exists(), "{args:?}");
    }
}

#[test]
fn the_script_of_the_study_continues_with_its_own_settings() {
    use std::os::unix::process::CommandExt;
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (path(&folder, "data"), path(&folder, "out"));
    for domain in ["source", "target"] {
        succeeds(&["synth", "--out", &format!("{data}/{domain}"), "--domain", domain, "--ids", "18", "--cams", "2"]);
    }
    let script = |epochs: &str| {
        let mut script = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/memory-study"));
        script.args([&data, &out]).env("PTL_TRAIN", env!("CARGO_BIN_EXE_ptl-train")).process_group(0);
        script.args("--stage tuning --tasks ids classes --arms plain mean --seeds 1 --jobs 1".split(' '));
        script.args(["--pretrain-epochs", "2", "--epochs", epochs]);
        script.stdout(Stdio::piped()).stderr(Stdio::piped());
        script
    };
    let started = SystemTime::now();
    let mut child = script("2").spawn().unwrap();
    wait_for(&Path::new(&out).join("tuning/ids/1e-3/seed-100/mean/config.toml"), &mut child, started);
    // Sends the signal to the whole group, as a terminal does.
    assert!(Command::new("kill").args(["-INT", "--", &format!("-{}", child.id())]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    let table = || fs::read_to_string(format!("{out}/study.csv")).unwrap();
    let before = table();
    assert_eq!(before.lines().count(), 1 + 3, "plain with each learning rate: {before}");
    let other = script("3").output().unwrap();
    assert!(other.status.code() == Some(1) && text(&other.stderr).contains("other settings"), "{other:?}");
    let output = script("2").output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let after = table();
    // Two tasks, three rates, and `mean` is measured from both states.
    assert!(after.starts_with(&before) && after.lines().count() == 1 + 2 * 3 * 3, "{after}");
    let rows: std::collections::BTreeSet<&str> = after.lines().map(|line| line.rsplit_once(',').unwrap().0).collect();
    assert_eq!(rows.len(), after.lines().count(), "{after}");
    assert!(rows.contains("tuning,classes,mean+collected,1e-3,100,top1"), "{after}");
    assert!(script("2").output().unwrap().status.success());
    assert_eq!(table(), after);
    let report = fs::read_to_string(format!("{out}/report.md")).unwrap();
    assert!(report.contains("### Selection"), "{report}");
}
