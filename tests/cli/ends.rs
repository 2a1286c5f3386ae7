//! How the program ends on request, and how a run continues after any end.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::{fails_with, files, fixture, long_run, path, program, ptl, succeeds, text, tiny};

fn send(signal: &str, child: &Child) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn ended(child: Child, code: i32) -> String {
    let output = child.wait_with_output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    stderr
}

#[test]
fn every_request_to_end_saves_a_run_that_resumes() {
    let folder = tempfile::tempdir().unwrap();
    for (signal, code) in [("-TERM", 143), ("-HUP", 129), ("-USR1", 138)] {
        let run = path(&folder, signal);
        let child = long_run(&run);
        send(signal, &child);
        // `timeout` sends it twice.
        send(signal, &child);
        let stderr = ended(child, code);
        assert!(stderr.contains("stopping after this step") && stderr.contains("--resume"), "{stderr}");
        let checkpoints = files(Path::new(&run).join("checkpoints"));
        assert_eq!(checkpoints.len(), 1, "{checkpoints:?}");
        assert!(!checkpoints[0].ends_with("step-0"));
        succeeds(&["train", "--resume", &run, "--max-steps", "1"]);
    }
}

/// The program does not wait for a step that takes seconds.
#[test]
fn a_second_request_ends_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let run = path(&folder, "run");
    let mut args = tiny(&["train", "--data", &fixture().data, "--out", &run]);
    args.extend(["--width", "1", "--height", "256", "--image-width", "128", "--ids", "4", "--images", "12"]);
    let mut command = program();
    let child = command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("the settings", || Path::new(&run).join("config.toml").exists());
    send("-TERM", &child);
    std::thread::sleep(Duration::from_millis(300));
    send("-INT", &child);
    let begun = Instant::now();
    ended(child, 130);
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!(files(Path::new(&run).join("checkpoints/step-0")).len(), 3);
}

#[test]
fn a_run_under_nohup_continues_without_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let run = path(&folder, "run");
    let args = tiny(&["train", "--data", &fixture().data, "--out", &run]);
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_ptl-train")]);
    command.args(args).args(["--epochs", "100000", "--train.log-every", "1", "--width", "0.5", "--ids", "4"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let metrics = || fs::metadata(Path::new(&run).join("metrics.jsonl")).map_or(0, |file| file.len());
    until("no step was logged", || metrics() > 0);
    send("-HUP", &child);
    std::thread::sleep(Duration::from_millis(200));
    let before = metrics();
    until("it ended", || metrics() > before);
    send("-KILL", &child);
    child.wait_with_output().unwrap();
    // Killed within its first epoch, the run continues from its start.
    succeeds(&["train", "--resume", &run, "--max-steps", "1"]);
}

#[test]
fn one_process_at_a_time_writes_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let run = path(&folder, "run");
    let child = long_run(&run);
    let busy = ["is being written by another ptl-train"];
    fails_with(1, &["train", "--resume", &run], &busy);
    fails_with(1, &tiny(&["train", "--data", &fixture().data, "--out", &run]), &["--resume"]);
    send("-KILL", &child);
    child.wait_with_output().unwrap();
    // The lock was released when its process ended.
    succeeds(&["train", "--resume", &run, "--max-steps", "1"]);
}

#[test]
fn a_run_that_never_began_is_started_again() {
    let folder = tempfile::tempdir().unwrap();
    let run = path(&folder, "run");
    fs::create_dir_all(Path::new(&run).join("checkpoints/.step-0.tmp")).unwrap();
    fs::write(Path::new(&run).join("log.txt"), "earlier words\n").unwrap();
    fails_with(1, &["train", "--resume", &run], &["start it again", "--out"]);
    succeeds(&tiny(&["train", "--data", &fixture().data, "--out", &run, "--max-steps", "1"]));
    let log = fs::read_to_string(Path::new(&run).join("log.txt")).unwrap();
    assert!(log.starts_with("earlier words\n") && log.contains("saved "), "{log}");
}

/// An extraction ends at once on request, and writes nothing.
#[test]
fn an_extraction_ends_promptly_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let images = path(&folder, "images");
    fs::create_dir(&images).unwrap();
    let one = files(format!("{}/query", fixture().data)).remove(0);
    (0..4000).for_each(|i| fs::hard_link(&one, format!("{images}/{i}.jpg")).unwrap());
    let out = path(&folder, "new/features.npy");
    let mut command = program();
    command.args(["extract", "--checkpoint", &fixture().run, "--images", &images, "--out", &out, "--threads", "1"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("the folder for the features", || Path::new(&out).parent().unwrap().is_dir());
    send("-TERM", &child);
    let begun = Instant::now();
    ended(child, 143);
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(files(Path::new(&out).parent().unwrap()).is_empty());
}

#[test]
fn a_file_that_may_not_grow_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let run = path(&folder, "run");
    assert!(Command::new("cp").args(["-r", &fixture().run, &run]).status().unwrap().success());
    let line = "ulimit -f 128; exec $0 train --resume $1 --epochs 3";
    let output = Command::new("bash").args(["-c", line, env!("CARGO_BIN_EXE_ptl-train"), &run]).output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("error: cannot write"), "{stderr}");
    // The log says how it ended.
    let log = fs::read_to_string(Path::new(&run).join("log.txt")).unwrap();
    assert!(log.contains("error: cannot write"), "{log}");
}

#[test]
fn the_result_is_shown_once() {
    let folder = tempfile::tempdir().unwrap();
    let run = path(&folder, "run");
    let Output { stdout, stderr, .. } = ptl(&tiny(&["train", "--data", &fixture().data, "--out", &run]));
    let tables = |text: &str| text.matches("mINP").count();
    assert_eq!((tables(&text(&stdout)), tables(&text(&stderr))), (1, 0), "{}", text(&stderr));
    assert_eq!(tables(&fs::read_to_string(Path::new(&run).join("log.txt")).unwrap()), 1);
}

#[test]
fn fewer_epochs_than_are_done_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let run = path(&folder, "run");
    assert!(Command::new("cp").args(["-r", &fixture().run, &run]).status().unwrap().success());
    let content =
        || ["config.toml", "summary.json", "log.txt"].map(|name| fs::read(Path::new(&run).join(name)).unwrap());
    let before = content();
    fails_with(1, &["train", "--resume", &run, "--epochs", "1"], &["2 epochs done", "nothing was changed"]);
    assert_eq!(content(), before);
    fails_with(1, &["train", "--resume", &run, "--epochs", "4", "--optim", "sgd"], &["--optim = sgd"]);
    assert_eq!(content(), before);
    let empty = path(&folder, "empty");
    fs::create_dir(&empty).unwrap();
    fails_with(1, &["train", "--resume", &empty], &["it is empty", "--out"]);
}
