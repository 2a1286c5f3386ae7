//! Trains by several processes, which `mpirun` starts, and compares them with one: `cargo test --features mpi --test parallel`.

#![cfg(unix)]

mod alike;
mod ends;
mod equal;
mod network;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use serde_json::Value;
use tempfile::TempDir;

/// Flags of a small training. Learning rates are small, so that differences of rounding do not grow.
const SMALL: [&str; 16] = [
    "--height",
    "32",
    "--image-width",
    "16",
    "--width",
    "0.125",
    "--ids",
    "4",
    "--images",
    "2",
    "--epochs",
    "20",
    "--train.log-every",
    "1",
    "--lr",
    "1e-5",
];

/// Returns the program that trains.
fn program() -> &'static str {
    env!("CARGO_BIN_EXE_ptl-train")
}

/// Returns `mpirun` on a machine that may have fewer cores than processes.
fn launcher() -> Command {
    let mut command = Command::new("mpirun");
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1").arg("--oversubscribe");
    command
}

/// Returns `mpirun` for `ranks` processes.
fn mpirun(ranks: usize) -> Command {
    let mut command = launcher();
    command.args(["-np", &ranks.to_string()]);
    command
}

/// Waits until no other test trains: processes that wait for each other take all cores.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Trains with these flags by `ranks` processes.
fn train(ranks: usize, args: &[&str]) -> Output {
    output(ranks, &[&["train"], args].concat())
}

/// Runs a command line by `ranks` processes.
fn output(ranks: usize, args: &[&str]) -> Output {
    let mut command = if ranks == 1 { Command::new(program()) } else { mpirun(ranks) };
    if ranks > 1 {
        command.arg(program());
    }
    command.args(args).output().expect("mpirun is there")
}

fn succeeds(ranks: usize, args: &[&str]) -> String {
    let output = train(ranks, args);
    assert!(output.status.success(), "{ranks} {args:?}: {}", text(&output));
    text(&output)
}

/// Runs a command line by `ranks` processes, which succeeds.
fn run(ranks: usize, args: &[&str]) {
    let output = output(ranks, args);
    assert!(output.status.success(), "{ranks} {args:?}: {}", text(&output));
}

/// Returns the messages of a run, then its results.
fn text(output: &Output) -> String {
    [&output.stderr, &output.stdout].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

/// The folder of all tests, with a small data set of eight identities.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let made = || {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("people");
        let draw = Command::new(program()).args(["synth", "--ids", "8", "--cams", "2", "--out"]).arg(data).output();
        assert!(draw.unwrap().status.success());
        folder
    };
    FOLDER.get_or_init(made).path()
}

fn path(name: &str) -> String {
    folder().join(name).display().to_string()
}

/// Returns the lines of the metrics of a run.
fn metrics(run: &str) -> Vec<Value> {
    let text = fs::read_to_string(format!("{run}/metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
