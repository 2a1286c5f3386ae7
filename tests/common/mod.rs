//! What several test binaries share.

use std::io::Write;

/// Writes a line to stderr itself: the test harness swallows what a passing test prints.
pub fn say(line: &str) {
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).expect("stderr takes a line");
}
