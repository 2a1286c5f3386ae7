//! Flags that change nothing are refused, and leave nothing.

use super::{fails_with, fixture, path, program, text, tiny};

#[test]
fn the_instruction_set_can_be_limited() {
    let info = |limit: &str| program().arg("info").env("PTL_MAX_ISA", limit).output().unwrap();
    let portable = info("portable");
    assert!(
        portable.status.success() && text(&portable.stdout).contains("matrix products use portable"),
        "{portable:?}"
    );
    let unknown = info("sse9");
    assert_eq!(unknown.status.code(), Some(1));
    let message = text(&unknown.stderr);
    assert!(["PTL_MAX_ISA = sse9", "avx2"].iter().all(|part| message.contains(part)), "{message}");
}

#[test]
fn a_flag_without_effect_is_refused_before_the_run_exists() {
    let data = &fixture().data;
    let folder = tempfile::tempdir().unwrap();
    let out = path(&folder, "run");
    let refused = |command: &[&str], flags: &[&str], parts: &[&str]| {
        fails_with(1, &[command, flags].concat(), &[&["it has no effect"], parts].concat());
        assert!(!std::path::Path::new(&out).exists(), "{flags:?} left a folder");
    };
    let train = tiny(&["train", "--data", data, "--out", &out]);
    refused(&train, &["--keep-head"], &["--keep-head = true", "without --init"]);
    refused(&train, &["--target-dataset", "market1501"], &["without --target"]);
    refused(&train, &["--freeze-bn"], &["without --freeze-backbone"]);
    refused(&train, &["--batch", "8"], &["--batch = 8", "--task classify"]);
    refused(&train, &["--momentum", "0.5"], &["--optim sgd"]);
    refused(&train, &["--triplet-memory-from", "5"], &["without --triplet-memory"]);
    refused(&train, &["--arch", "resnet18", "--state-policy", "reset"], &["BConv-Cells"]);
    let classify = ["train", "--task", "classify", "--data", data, "--out", &out];
    refused(&classify, &["--ids", "4"], &["--ids = 4", "with --task classify"]);
    refused(&classify, &["--margin", "1"], &["--margin = 1"]);
    refused(&classify, &["--triplet-memory", "64"], &["--triplet-memory = 64", "with --task classify"]);
    refused(&["rank", "--query", "q.npy", "--gallery", "g.npy"], &["--k1", "4"], &["without --rerank"]);
    let evaluate = ["evaluate", "--checkpoint", &fixture().run, "--data", data];
    refused(&evaluate, &["--lambda", "0.5"], &["without --rerank"]);
    refused(&evaluate, &["--val-share", "0.5"], &["--task classify"]);
    refused(&["info", "--model", "resnet18"], &["--batch", "8"], &["--task classify"]);
    let study = tiny(&["ablate", "--data", data, "--out", &out]);
    refused(&study, &["--keep-head"], &["without --init"]);
    let compare = tiny(&["compare", "--source", data, "--target", data, "--out", &out]);
    refused(&compare, &["--arch", "resnet18", "--balanced"], &["--task classify"]);
    fails_with(1, &[&compare[..], &["--arch", "resnet18", "--keep-head"]].concat(), &["does not use it"]);
    fails_with(1, &["demo", "--quick", "--split", "2", "--out", &out], &["does not use it"]);
    fails_with(1, &[&evaluate[..], &["--raw-csv"]].concat(), &["--details"]);
    let images = format!("{data}/query");
    let extract = ["extract", "--checkpoint", &fixture().run, "--images", &images, "--out", &path(&folder, "f.npy")];
    fails_with(1, &[&extract[..], &["--dataset", "market1501"]].concat(), &["does not use it"]);
}

/// The settings of a resumed run are not checked as flags, and flags are checked with the run's task.
#[test]
fn a_resumed_run_keeps_settings_without_effect_and_refuses_such_flags() {
    let folder = tempfile::tempdir().unwrap();
    let copy = path(&folder, "copy");
    let copied = std::process::Command::new("cp").args(["-r", &fixture().run, &copy]).status().unwrap();
    assert!(copied.success());
    fails_with(1, &["train", "--resume", &copy, "--batch", "4"], &["--batch = 4", "it has no effect"]);
    fails_with(1, &["train", "--resume", &copy, "--keep-head"], &["without --init"]);
    super::succeeds(&["train", "--resume", &copy, "--ids", "3"]);
}
