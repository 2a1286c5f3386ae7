//! Tests every reader of foreign bytes on mutations of good files. A reader must read them or refuse them with an error; it must not
//! panic, end the program, take long or ask for much memory.
//!
//! `cargo test` tries a few hundred inputs for each reader, always the same ones; `scripts/fuzz` tries as many others as wanted.

mod classes;
mod features;
mod images;
mod memory;
mod mutate;
mod published;
mod runs;
mod weights;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::common::say;
use crate::number;

/// Largest number of bytes of memory that an input of at most [`LONGEST`] may take.
const MEMORY: usize = 1 << 30;
/// Longest time for one input; a busy machine needs a thousandth of it.
const TIME: Duration = Duration::from_secs(30);
/// Bytes of the longest input.
const LONGEST: usize = 1 << 20;
/// Number of failures after which no more inputs are tried on a reader.
const ENOUGH: usize = 20;

/// Lets one reader run at a time, because memory is counted for the whole process.
static ALONE: Mutex<()> = Mutex::new(());

/// How much is tried.
struct Plan {
    /// Seed of all mutations.
    seed: u64,
    /// Number of the first input.
    first: u64,
    inputs: u64,
    /// Longest time for each call of `fuzz`, seconds, if set.
    seconds: Option<u64>,
}

impl Plan {
    fn of_environment() -> Plan {
        let seconds = number("PTL_FUZZ_SECONDS");
        let inputs = number("PTL_FUZZ_INPUTS").unwrap_or(if seconds.is_some() { u64::MAX } else { 300 });
        Plan {
            seed: number("PTL_FUZZ_SEED").unwrap_or(0),
            first: number("PTL_FUZZ_FIRST").unwrap_or(0),
            inputs,
            seconds,
        }
    }
}

/// Tries `reader` on `seeds`, which it must read, and then on mutations of them. `read` gets an empty folder that stays the same, and
/// the bytes; it asserts what holds of a file that was read.
///
/// # Panics
/// An input made it panic, or took too much memory. Such inputs stay in `target/fuzz`.
fn fuzz(reader: &str, seeds: &[Vec<u8>], read: impl Fn(&Path, &[u8]) -> ptl::Result<()>) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let plan = Plan::of_environment();
    let folder = tempfile::tempdir().unwrap();
    let (mut tried, mut accepted, mut peak, mut slowest) = (0, 0, 0, Duration::ZERO);
    let mut failures = Vec::new();
    let watch = Watch::new();
    let begun = Instant::now();
    for number in plan.first..plan.first.saturating_add(plan.inputs) {
        let late = plan.seconds.is_some_and(|seconds| begun.elapsed() >= Duration::from_secs(seconds));
        if late || failures.len() >= ENOUGH {
            break;
        }
        let whole = seeds.get(number as usize);
        let bytes = whole.cloned().unwrap_or_else(|| mutate::mutated(reader, plan.seed, number, seeds));
        // The input is written before it is tried, so that it remains if the program is ended.
        let kept = Kept::new(reader, plan.seed, number, &bytes);
        let (outcome, took, memory) =
            watch.over(&kept, || catch_unwind(AssertUnwindSafe(|| read(folder.path(), &bytes))));
        (tried, peak, slowest) = (tried + 1, peak.max(memory), slowest.max(took));
        let failure = match outcome {
            _ if memory > MEMORY => Some(format!("took {} MB", memory >> 20)),
            Err(_) => Some("panicked".to_string()),
            Ok(Err(error)) if whole.is_some() => Some(format!("is a good file and was refused: {error}")),
            Ok(Err(error)) if error.to_string().is_empty() => Some("was refused without a word".to_string()),
            Ok(result) => {
                accepted += usize::from(result.is_ok());
                None
            }
        };
        match failure {
            Some(what) => failures.push(format!("{what}: {}", kept.recipe())),
            None => kept.forget(),
        }
    }
    say(&format!(
        "fuzz {reader:20} {tried:>8} inputs {accepted:>8} read {:>8} refused {:>3} failures {:>7.1} MB at most {:>6} ms at most",
        tried - accepted - failures.len(),
        failures.len(),
        peak as f64 / 1e6,
        slowest.as_millis()
    ));
    assert!(failures.is_empty(), "{reader}:\n{}", failures.join("\n"));
}

/// An input in a file of its own.
struct Kept {
    path: PathBuf,
    repeat: String,
}

impl Kept {
    fn new(reader: &str, seed: u64, number: u64, bytes: &[u8]) -> Kept {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fuzz");
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("{reader}-{seed}-{number}"));
        fs::write(&path, bytes).unwrap();
        let repeat =
            format!("PTL_FUZZ_SEED={seed} PTL_FUZZ_FIRST={number} PTL_FUZZ_INPUTS=1 cargo test --test faults fuzz");
        Kept { path, repeat }
    }

    fn recipe(&self) -> String {
        format!("{} (again: {})", self.path.display(), self.repeat)
    }

    fn forget(self) {
        fs::remove_file(&self.path).unwrap();
    }
}

/// Ends the program when one input takes too long.
struct Watch {
    /// When the trial of the current input began, and how to repeat it.
    current: Arc<Mutex<Option<(Instant, String)>>>,
    /// Dropped at the end.
    _running: Sender<()>,
}

impl Watch {
    fn new() -> Watch {
        let current: Arc<Mutex<Option<(Instant, String)>>> = Arc::default();
        let (running, ended) = channel();
        let seen = Arc::clone(&current);
        std::thread::spawn(move || {
            while ended.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
                if let Some((_, recipe)) = seen.lock().unwrap().as_ref().filter(|(begun, _)| begun.elapsed() > TIME) {
                    say(&format!("no end after {} s: {recipe}", TIME.as_secs()));
                    std::process::abort();
                }
            }
        });
        Watch { current, _running: running }
    }

    /// Runs `read`. Returns its result, how long it took and its largest use of memory, bytes.
    fn over<T>(&self, kept: &Kept, read: impl FnOnce() -> T) -> (T, Duration, usize) {
        let begun = Instant::now();
        *self.current.lock().unwrap() = Some((begun, kept.recipe()));
        let before = memory::restart();
        let result = read();
        let memory = memory::peak().saturating_sub(before);
        *self.current.lock().unwrap() = None;
        (result, begun.elapsed(), memory)
    }
}

/// Writes `bytes` to `folder/name`, and returns that path.
fn written(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    // Removed first: some file systems wait for the disk when a file is overwritten.
    let _ = fs::remove_file(&path);
    fs::write(&path, bytes).unwrap();
    path
}

/// Reads a file of the tests' fixtures.
fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
