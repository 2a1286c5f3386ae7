//! Does one work on the CPU as often as it is told to, for a comparison with PyTorch: `benches/versus_torch/run` starts this program and
//! another in Python, and lets them work in turn.
//!
//! The argument is a work as JSON ([`spec::Spec`]). Once it is set up, each line of standard input is a command, and is answered by a line
//! of JSON:
//!
//! - `check`: does the work from the inputs that both programs have, and reports numbers that must be equal in both
//! - `run N`: does the work N times (once without N), and reports the mean seconds
//! - `quit`: reports the peak memory since the last check, and ends

mod cells;
mod convs;
mod images;
mod inference;
mod loading;
mod pool;
mod process;
mod ranking;
mod spec;
mod steps;
mod weights;
mod work;

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::spec::Spec;
use crate::work::Run;

fn main() {
    // Cargo passes flags of its own.
    let Some(spec) = std::env::args().nth(1).filter(|argument| argument.starts_with('{')) else {
        println!(
            "versus_torch: benches/versus_torch/run compares the CPU path with PyTorch's; it starts this program itself."
        );
        return;
    };
    let spec: Spec = serde_json::from_str(&spec).expect("a work as JSON");
    let mut work = spec.prepare();
    say(&json!({ "ready": true, "isa": process::instructions(), "threads": rayon::current_num_threads() }));
    for line in io::stdin().lines() {
        let line = line.expect("commands as text");
        let (command, count) = line.split_once(' ').unwrap_or((&line, "1"));
        match command {
            "check" => {
                say(&work.check());
                process::forget_peak();
            }
            "run" => {
                let count: usize = count.parse().expect("a number of runs");
                say(&Run::mean((0..count).map(|_| work.run())));
            }
            "quit" => {
                say(&json!({ "peak_kib": process::peak_kib() }));
                return;
            }
            other => say(&json!({ "error": format!("unknown command {other}") })),
        }
    }
}

/// Writes an answer as one line.
fn say(answer: &impl serde::Serialize) {
    let answer: Value = serde_json::to_value(answer).expect("numbers and names");
    let mut out = io::stdout().lock();
    writeln!(out, "{answer}").and_then(|()| out.flush()).expect("a reader of the answers");
}
