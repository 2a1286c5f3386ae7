//! Processes that were started together, and differ.

use std::path::Path;
use std::process::Command;

use super::{SMALL, alone, launcher, path, program, succeeds, text};

/// Runs two processes with different command lines, which is refused in one sentence with `part`.
fn refused(first: &[&str], second: &[&str], part: &str) {
    let mut both = launcher();
    both.args(["-np", "1", program()]).args(first).args([":", "-np", "1", program()]).args(second);
    let output = both.output().unwrap();
    let said = text(&output);
    assert!(!output.status.success() && said.contains(part), "{first:?} {second:?}: {said}");
    assert_eq!(said.matches("error: ").count(), 1, "{said}");
}

#[test]
fn processes_with_different_command_lines_or_files_are_refused_in_one_sentence() {
    let _alone = alone();
    let [data, run, other, out] = ["people", "alike", "alike-other", "alike-refused"].map(path);
    let small = [&SMALL[..], &["--arch", "resnet18-ptl", "--data", &data, "--max-steps", "1"]].concat();
    for (out, init) in [(&run, None), (&other, Some(&run))] {
        let init = init.map_or(Vec::new(), |init| vec!["--init", &init[..]]);
        succeeds(1, &[&small[..], &["--out", out], &init].concat());
    }
    let train = [&["train"], &small[..], &["--out", &out]].concat();
    let with = |line: &[&'static str]| [&train[..], line].concat();
    let cases: [(Vec<&str>, Vec<&str>, &str); 4] = [
        (
            train.clone(),
            with(&["--threads", "1"]),
            "different settings: --threads = 0 for process 0, --threads = 1 for process 1; start all with the same",
        ),
        (train.clone(), vec!["train", "--resume", &run], "with `train`, and process 1 with `train --resume`"),
        (train.clone(), vec!["evaluate", "--checkpoint", &run], "with `train`, and process 1 with `evaluate`"),
        (
            [&train[..], &["--init", &run]].concat(),
            [&train[..], &["--init", &other]].concat(),
            "process 1 has other weights than process 0: all need the same run folder, or the same file of --init",
        ),
    ];
    for (first, second, part) in cases {
        refused(&first, &second, part);
        assert!(!Path::new(&out).exists());
    }
    // What several processes measure together.
    let features = path("alike.npy");
    for command in ["evaluate", "extract"] {
        let mut line = vec![command, "--checkpoint", &run];
        if command == "extract" {
            line.extend(["--out", &features]);
        }
        let flipped = [&line[..], &["--eval.flip", "false"]].concat();
        refused(&line, &flipped, "--eval.flip = true for process 0, --eval.flip = false for process 1");
        let threads = [&line[..], &["--threads", "1"]].concat();
        refused(&threads, &line, "--threads = 1 for process 0, --threads = 0 for process 1");
        let mut others = line.clone();
        others[2] = &other;
        refused(&line, &others, "process 1 has other weights than process 0: name the same checkpoint for all");
    }
    assert!(!Path::new(&features).exists());
}

/// Tasks of Slurm without MPI: each would train alone.
#[test]
fn tasks_that_slurm_does_not_connect_are_refused() {
    let [data, out] = ["people", "slurm"].map(path);
    let task = |more: &[&str]| {
        let line =
            [&["train"], more, &SMALL, &["--arch", "resnet18", "--data", &data, "--out", &out, "--max-steps", "1"]]
                .concat();
        let mut task = Command::new(program());
        task.args(line).env("SLURM_STEP_NUM_TASKS", "2").env("SLURM_PROCID", "1").output().unwrap()
    };
    let output = task(&[]);
    let said = text(&output);
    assert!(
        said.contains("Slurm has started 2 tasks, and does not connect them") && !output.status.success(),
        "{said}"
    );
    assert!(!Path::new(&out).exists());
    assert!(task(&["--ranks", "1"]).status.success());
}
