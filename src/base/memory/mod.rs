//! Checks before large allocations how much memory this process may still take. Otherwise the system would kill it without a message, or
//! a failed allocation would abort it.
//!
//! The smallest of these limits counts: the machine's free memory, those of the process's control groups, and its own (`ulimit`). They
//! are known on Linux; on other systems nothing is refused.

mod cgroup;
mod process;

use std::fs;

use crate::{Error, Result};

/// Advice if no setting reduces the needed memory.
const ADVICE: &str = "free memory, raise the limit, or use a machine with more";

/// A limit, and how much of it is left, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    /// What sets the limit.
    limit: &'static str,
    total: u64,
    available: u64,
}

impl Room {
    /// Describes a limit of `total` bytes, of which `used` are taken.
    fn below(limit: &'static str, total: u64, used: u64) -> Room {
        Room { limit, total, available: total.saturating_sub(used) }
    }
}

/// Returns total and available bytes, if the system tells them.
pub(crate) fn total_and_available() -> Option<(u64, u64)> {
    let rooms = rooms();
    let total = rooms.iter().map(|room| room.total).min()?;
    Some((total, tightest(&rooms)?.available))
}

/// Checks whether `needed` bytes are available.
///
/// # Errors
/// [`Error::OutOfMemory`] if they are not.
pub(crate) fn ensure(purpose: &str, needed: u64) -> Result<()> {
    ensure_or(purpose, needed, ADVICE)
}

/// Checks as [`ensure`] does; `advice` says how to reduce the needed memory.
///
/// # Errors
/// As [`ensure`].
pub(crate) fn ensure_or(purpose: &str, needed: u64, advice: &str) -> Result<()> {
    match tightest(&rooms()) {
        Some(room) if needed > room.available => Err(too_much(purpose, needed, room, advice)),
        _ => Ok(()),
    }
}

/// Returns an empty list with room for exactly `len` elements.
///
/// # Errors
/// [`Error::OutOfMemory`] if the allocation fails.
pub(crate) fn reserved<T>(purpose: &str, len: usize) -> Result<Vec<T>> {
    let mut list = Vec::new();
    if list.try_reserve_exact(len).is_err() {
        let needed = (len as u64).saturating_mul(size_of::<T>() as u64);
        let unknown = Room { limit: "the allocator", total: 0, available: 0 };
        return Err(too_much(purpose, needed, tightest(&rooms()).unwrap_or(unknown), ADVICE));
    }
    Ok(list)
}

fn too_much(purpose: &str, needed: u64, room: Room, advice: &str) -> Error {
    let Room { limit, available, .. } = room;
    Error::OutOfMemory { purpose: purpose.into(), needed, available, limit, advice: advice.into() }
}

fn tightest(rooms: &[Room]) -> Option<Room> {
    rooms.iter().copied().min_by_key(|room| room.available)
}

/// Returns all limits of this process.
fn rooms() -> Vec<Room> {
    let read = |path: &std::path::Path| fs::read_to_string(path).ok();
    let of = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mut rooms: Vec<Room> = process::machine(&of("/proc/meminfo")).into_iter().collect();
    rooms.extend(cgroup::rooms(&of("/proc/self/cgroup"), &of("/proc/self/mountinfo"), read));
    rooms.extend(process::limits(&of("/proc/self/limits"), &of("/proc/self/status")));
    rooms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_there_is_is_refused_with_both_numbers() {
        ensure("a test", 1 << 20).unwrap();
        if total_and_available().is_some() {
            let error = ensure_or("a test", 1 << 60, "test less").unwrap_err().to_string();
            assert!(error.starts_with("a test needs 1099511627776 MiB") && error.ends_with(": test less"), "{error}");
        }
    }

    #[test]
    fn an_allocation_that_fails_is_an_error() {
        assert_eq!(reserved::<u8>("a test", 10).unwrap().capacity(), 10);
        for len in [usize::MAX, usize::MAX / 4, 1 << 46] {
            let error = reserved::<f32>("a test", len).unwrap_err();
            assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
        }
    }

    #[test]
    fn the_smallest_room_counts() {
        let rooms = [Room::below("a", 100, 20), Room::below("b", 300, 290), Room::below("c", 50, 60)];
        assert_eq!(tightest(&rooms), Some(Room { limit: "c", total: 50, available: 0 }));
        assert_eq!(tightest(&rooms[..2]).unwrap().available, 10);
        assert_eq!(tightest(&[]), None);
    }
}
