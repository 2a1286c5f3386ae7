//! Memory of the machine, asked for before large allocations: a process that the system kills says nothing.

use std::fs;

use crate::{Error, Result};

/// Total and available bytes, where the system tells.
pub fn total_and_available() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let bytes = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
    };
    Some((bytes("MemTotal:")?, bytes("MemAvailable:")?))
}

/// Refuses what cannot fit.
///
/// # Errors
/// [`Error::OutOfMemory`] where more than what is available is asked for.
pub fn ensure(purpose: &'static str, needed: u64) -> Result<()> {
    match total_and_available() {
        Some((_, available)) if needed > available => Err(Error::OutOfMemory { purpose, needed, available }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_there_is_is_refused_with_both_numbers() {
        ensure("a test", 1 << 20).unwrap();
        if total_and_available().is_some() {
            let error = ensure("a test", 1 << 60).unwrap_err().to_string();
            assert!(error.contains("a test") && error.contains("1099511627776 MiB"), "{error}");
        }
    }
}
