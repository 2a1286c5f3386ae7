//! Tests that the program survives damaged or hostile files, kills at any moment, and a disk that fails. `docs/reliability.md` says what
//! was tried, and how to try more.

#![cfg(unix)]

#[path = "../common/mod.rs"]
mod common;
mod fuzz;
#[cfg(target_os = "linux")]
mod interrupted;
mod small_run;

/// Reads a whole number from the environment.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: a whole number is needed")))
}
