//! What the program must stand: files that are damaged or hostile, being ended at any moment, a disk that fails. What was tried, and how
//! to try more, stands in `docs/reliability.md`.

#![cfg(unix)]

mod fuzz;
#[cfg(target_os = "linux")]
mod interrupted;
mod small_run;

/// Writes to the stream itself: the harness swallows what a test prints that passes.
fn say(line: &str) {
    use std::io::Write;
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).expect("stderr takes a line");
}

/// A whole number from the environment.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: a whole number is needed")))
}
