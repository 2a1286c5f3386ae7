//! What the system knows of this process: its peak memory, and the instruction set that it may use.

use std::fs;

/// Returns the peak of resident memory since the last [`forget_peak`] in KiB, or `None` where the system does not report it.
pub fn peak_kib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Starts the measurement of the peak anew, so that it does not count the memory of setting up. Does nothing where the system cannot.
pub fn forget_peak() {
    // The one that reads the peak later reports a larger one if this fails.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// Returns the largest instruction set that the CPU path may use.
pub fn instructions() -> String {
    std::env::var("PTL_MAX_ISA").unwrap_or_else(|_| "the machine's best".into())
}
