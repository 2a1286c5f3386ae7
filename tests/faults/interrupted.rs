//! Tests trainings that are killed at random moments and at chosen system calls, or whose disk fails. The command that the program names
//! must continue the run, and its final files must equal those of an undisturbed run.
//!
//! `cargo test` tries twenty kills and four failing calls; `scripts/kill-tests` as many as wanted.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use ptl::base::rng::{Purpose, stream};
use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::common::say;
use crate::number;
use crate::small_run::{Task, resume};

/// Calls that change what is on disk, as `shim.c` names them.
const KINDS: [&str; 7] = ["open", "write", "fsync", "rename", "unlink", "rmdir", "mkdir"];
/// Number of undisturbed commands after which a run must have ended.
const COMMANDS: usize = 3;

/// What happens to a command.
#[derive(Clone, Debug)]
enum Fault {
    /// It is killed after a while.
    Moment(Duration),
    /// It is killed at a call; with `torn`, after half of the bytes that the call writes.
    Call { number: usize, torn: bool, call: String },
    /// A call fails; with `stays`, so do all later calls that need space.
    Error { number: usize, errno: i32, stays: bool, call: String },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Moment(time) => write!(f, "killed after {} ms", time.as_millis()),
            Fault::Call { torn, call, .. } => {
                write!(f, "killed at call {call}{}", if *torn { ", half written" } else { "" })
            }
            Fault::Error { errno, stays, call, .. } => {
                write!(f, "errno {errno} at call {call}{}", if *stays { " and later ones" } else { "" })
            }
        }
    }
}

/// Returns the library that makes calls fail; `None` without a C compiler.
fn shim() -> Option<&'static Path> {
    static SHIM: OnceLock<Option<TempDir>> = OnceLock::new();
    let built = SHIM.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/shim.c");
        let mut compiler = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
        compiler
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .arg(folder.path().join("shim.so"))
            .arg(source);
        let output = compiler.arg("-ldl").output().ok()?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(folder)
    });
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    built.as_ref().map(|folder| PATH.get_or_init(|| folder.path().join("shim.so")).as_path())
}

/// Lets the shim see the calls of `command` below `out`.
fn observed<'c>(command: &'c mut Command, out: &Path) -> &'c mut Command {
    command.env("LD_PRELOAD", shim().expect("a compiled shim")).env("FAULT_FOLDER", out)
}

/// Runs `command` on `out` and disturbs it.
fn disturbed(mut command: Command, out: &Path, fault: &Fault) -> Output {
    match fault {
        Fault::Moment(time) => {
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            std::thread::sleep(*time);
            // It may have ended.
            let _ = child.kill();
            child.wait_with_output().unwrap()
        }
        Fault::Call { number, torn, .. } => {
            let command = observed(&mut command, out).env("FAULT_MODE", if *torn { "torn" } else { "kill" });
            command.env("FAULT_AT", number.to_string()).output().unwrap()
        }
        Fault::Error { number, errno, stays, .. } => {
            let command = observed(&mut command, out).env("FAULT_MODE", errno.to_string());
            if *stays {
                command.env("FAULT_STAYS", "1");
            }
            command.env("FAULT_AT", number.to_string()).output().unwrap()
        }
    }
}

/// Returns the calls of an undisturbed run: number, kind, path below the run's folder.
fn calls(task: Task) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let (out, log) = (folder.path().join("run"), folder.path().join("calls"));
    let output = observed(&mut task.train(&out), &out).env("FAULT_LOG", &log).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let root = format!("{}/", out.display());
    fs::read_to_string(log).unwrap().lines().map(|line| line.replace(&root, "")).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Starts a run and disturbs each command by one of the `faults`, then continues until the run has ended. The error says what was wrong.
fn survives(task: Task, faults: &[Fault]) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut command = task.train(&out);
    let mut faults = faults.iter();
    let mut left = COMMANDS;
    loop {
        let Some(fault) = faults.next() else {
            let output = command.output().unwrap();
            if output.status.success() {
                return same(task.whole(), &out);
            }
            if left == 0 {
                return Err(format!("no way on: {}", last_words(&output)));
            }
            left -= 1;
            command = named(task, &out, &output)?;
            continue;
        };
        let output = disturbed(command, &out, fault);
        let killed = output.status.signal() == Some(9);
        let asked_to = !matches!(fault, Fault::Error { .. });
        if !(output.status.success() || killed && asked_to) {
            one_sentence(&output)?;
        }
        command = resume(&out);
    }
}

/// Returns the command that an error names: the same again, or `--resume`.
fn named(task: Task, out: &Path, output: &Output) -> Result<Command, String> {
    one_sentence(output)?;
    match text(&output.stderr) {
        words if words.contains("--resume") => Ok(resume(out)),
        _ => Ok(task.train(out)),
    }
}

/// Checks that a command ended with an error in one sentence.
fn one_sentence(output: &Output) -> Result<(), String> {
    let words = text(&output.stderr);
    let sentences = words.lines().filter(|line| line.starts_with("error: ")).count();
    if output.status.code() == Some(1) && sentences == 1 && !words.contains("panicked") {
        return Ok(());
    }
    Err(format!("{}: {}", output.status, last_words(output)))
}

fn last_words(output: &Output) -> String {
    let words = text(&output.stderr);
    let lines: Vec<&str> = words.lines().collect();
    lines[lines.len().saturating_sub(4)..].join(" | ")
}

/// Checks that two runs have the same files with the same content, apart from times.
fn same(whole: &Path, out: &Path) -> Result<(), String> {
    let [whole, out] = [whole, out].map(content);
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    if names(&whole) != names(&out) {
        let missing: Vec<_> = whole.keys().filter(|name| !out.contains_key(*name)).collect();
        let more: Vec<_> = out.keys().filter(|name| !whole.contains_key(*name)).collect();
        return Err(format!("files that are missing: {missing:?}, that are left: {more:?}"));
    }
    let differing: Vec<_> = whole.iter().filter(|(name, bytes)| out[*name] != **bytes).map(|(name, _)| name).collect();
    if differing.is_empty() { Ok(()) } else { Err(format!("other content: {differing:?}")) }
}

/// Returns the files and empty folders below `root`, without what depends on time.
fn content(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let metrics = fs::read(root.join("metrics.jsonl")).unwrap();
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_path_buf();
            if path.is_dir() {
                found.insert(name, Vec::new());
                folders.push(path);
                continue;
            }
            let bytes = fs::read(&path).unwrap();
            let bytes = match path.file_name().and_then(|name| name.to_str()) {
                Some("log.txt") => Vec::new(),
                Some("metrics.jsonl") => timeless(&bytes),
                Some("record.json") => in_lines(&bytes, &metrics),
                _ => bytes,
            };
            found.insert(name, bytes);
        }
    }
    found
}

/// Returns the lines of metrics without the figure that differs between all runs.
fn timeless(bytes: &[u8]) -> Vec<u8> {
    let line = |line: &str| match serde_json::from_str::<Map<String, Value>>(line) {
        Ok(mut figures) => {
            figures.remove("images_per_second");
            json!(figures).to_string()
        }
        Err(_) => line.to_string(),
    };
    text(bytes).split('\n').map(line).collect::<Vec<_>>().join("\n").into_bytes()
}

/// Returns a checkpoint's record, with the length of the metrics in lines instead of bytes: figures of speed vary in their digits.
fn in_lines(record: &[u8], metrics: &[u8]) -> Vec<u8> {
    let mut record: Value = serde_json::from_slice(record).unwrap();
    let before = record["metrics"].as_u64().and_then(|bytes| metrics.get(..bytes as usize));
    record["metrics"] =
        json!(before.filter(|text| text.ends_with(b"\n")).map(|text| text.split(|byte| *byte == b'\n').count()));
    record.to_string().into_bytes()
}

/// Chooses the faults: at least one kill at each kind of call and three at random moments, or what the environment asks for.
fn plan(task: Task, calls: &[String], time: Duration) -> Vec<Vec<Fault>> {
    let rng = &mut stream(number("PTL_KILL_SEED").unwrap_or(0), Purpose::Test, task as u64, 0);
    let kind = |call: &str| call.split(' ').nth(1).expect("number, kind, path").to_string();
    let kill = |index: usize, torn: bool| Fault::Call { number: index + 1, torn, call: calls[index].clone() };
    let error = |index: usize, errno: i32, stays: bool| Fault::Error {
        number: index + 1,
        errno,
        stays,
        call: calls[index].clone(),
    };
    let (eio, enospc) = (5, 28);
    // Left out: weights are written in many equivalent blocks, and the log is not part of the results.
    let matters = |call: &str| kind(call) != "write" || !(call.contains("safetensors") || call.contains("log.txt"));
    let every = |stride: u64| (0..calls.len()).filter(|index| matters(&calls[*index])).step_by(stride as usize);
    if let Some(stride) = number("PTL_KILL_CALLS") {
        return every(stride).map(|index| vec![kill(index, false)]).collect();
    }
    if let Some(stride) = number("PTL_FAIL_CALLS") {
        return every(stride).map(|index| vec![error(index, eio, false)]).collect();
    }
    let random = |rng: &mut ChaCha8Rng| match rng.random_range(0..10) {
        0..5 => Fault::Moment(time.mul_f64(rng.random())),
        5..9 => kill(rng.random_range(0..calls.len()), rng.random()),
        _ => error(rng.random_range(0..calls.len()), enospc, true),
    };
    if let Some(kills) = number("PTL_KILLS") {
        return (0..kills).map(|_| (0..rng.random_range(1..=2)).map(|_| random(rng)).collect()).collect();
    }
    let mut plan: Vec<Vec<Fault>> = Vec::new();
    for wanted in KINDS {
        let of_kind: Vec<usize> = (0..calls.len()).filter(|&index| kind(&calls[index]) == wanted).collect();
        if let Some(&index) = of_kind.choose(rng) {
            plan.push(vec![kill(index, wanted == "write")]);
        }
    }
    plan.extend((0..3).map(|_| vec![Fault::Moment(time.mul_f64(rng.random()))]));
    plan.extend(
        [(eio, false), (enospc, true)]
            .map(|(errno, stays)| vec![error(rng.random_range(0..calls.len()), errno, stays)]),
    );
    plan
}

fn interrupted(task: Task) {
    if shim().is_none() {
        return say("SKIPPED: there is no C compiler: nothing is killed at system calls");
    }
    task.whole();
    let begun = Instant::now();
    let calls = calls(task);
    let plan = plan(task, &calls, begun.elapsed());
    let failures: Vec<String> = plan
        .iter()
        .enumerate()
        .filter_map(|(done, faults)| {
            if done > 0 && done % 50 == 0 {
                say(&format!("{task:?}: {done} of {} runs", plan.len()));
            }
            let names: Vec<String> = faults.iter().map(Fault::to_string).collect();
            survives(task, faults).err().map(|error| format!("{}: {error}", names.join(", then ")))
        })
        .collect();
    say(&format!(
        "{task:?}: {} calls in a run, {} runs disturbed {} times, {} of them wrong",
        calls.len(),
        plan.len(),
        plan.iter().map(Vec::len).sum::<usize>(),
        failures.len()
    ));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_training_of_identities_survives() {
    interrupted(Task::Reid);
}

#[test]
fn a_training_of_classes_survives() {
    interrupted(Task::Classify);
}
