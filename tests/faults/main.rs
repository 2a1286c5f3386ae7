//! What the program must survive: damaged or hostile files, being killed at any moment, a disk that fails.
//! `docs/reliability.md` says what was tried, and how to try more.

#![cfg(unix)]

#[path = "../common/mod.rs"]
mod common;
mod fuzz;
#[cfg(target_os = "linux")]
mod interrupted;
mod small_run;

/// A whole number from the environment.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: a whole number is needed")))
}
