//! The machine's memory, and the limits of the process itself (`ulimit -v`, `ulimit -d`), from files in `/proc`.

use super::Room;

/// Largest part of a limit of the address space that is reserved for threads and libraries.
const RESERVED: u64 = 256 << 20;

/// Reads the machine's memory from the text of `/proc/meminfo`.
pub(super) fn machine(meminfo: &str) -> Option<Room> {
    let available = kib(meminfo, "MemAvailable:")?;
    Some(Room { limit: "the machine's free memory", total: kib(meminfo, "MemTotal:")?, available })
}

/// Reads the process's limits from the texts of `/proc/self/limits` and `/proc/self/status`.
pub(super) fn limits(limits: &str, status: &str) -> Vec<Room> {
    let room = |name: &str, used: &str, limit: &'static str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
        // "unlimited" is no number.
        let total = line.split_whitespace().next()?.parse().ok()?;
        Some(Room::below(limit, total, kib(status, used)?))
    };
    // Every thread reserves addresses that it never uses; at most an eighth of the limit is set aside for them.
    let address_space = room("Max address space", "VmSize:", "the limit of ulimit -v")
        .map(|room| Room { available: room.available.saturating_sub(RESERVED.min(room.total / 8)), ..room });
    [address_space, room("Max data size", "VmData:", "the limit of ulimit -d")].into_iter().flatten().collect()
}

/// Returns the bytes of a line `key  N kB`.
fn kib(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: &str = "\
Limit                     Soft Limit           Hard Limit           Units     
Max cpu time              unlimited            unlimited            seconds   
Max data size             ";

    fn limits_of(data: &str, address_space: &str) -> Vec<Room> {
        let text = format!(
            "{LIMITS}{data:<21}unlimited            bytes     \nMax address space         {address_space:<21}unlimited            bytes     \n"
        );
        limits(&text, "Name:\tptl\nVmPeak:\t 900 kB\nVmSize:\t  600000 kB\nVmData:\t  1000 kB\n")
    }

    #[test]
    fn the_limits_of_the_process_are_read() {
        assert_eq!(limits_of("unlimited", "unlimited"), []);
        let data = Room { limit: "the limit of ulimit -d", total: 2_048_000, available: 1_024_000 };
        assert_eq!(limits_of("2048000", "unlimited"), [data]);
        let total = 1_536_000_000;
        let address_space =
            Room { limit: "the limit of ulimit -v", total, available: total - 600_000 * 1024 - total / 8 };
        assert_eq!(limits_of("unlimited", "1536000000"), [address_space]);
        assert_eq!(limits_of("1000", "1000").iter().map(|room| room.available).max(), Some(0));
        assert_eq!(limits("", ""), []);
        assert_eq!(limits("Max data size\nMax address space  x\n", "VmSize: 1 kB\n"), []);
    }

    #[test]
    fn the_memory_of_the_machine_is_read() {
        let text = "MemTotal:       65 kB\nMemFree:         3 kB\nMemAvailable:   40 kB\n";
        let machine_room = machine(text).unwrap();
        assert_eq!((machine_room.total, machine_room.available), (65 << 10, 40 << 10));
        assert_eq!(machine("MemTotal: 65 kB\nMemAvailable: lots\n"), None);
        assert_eq!(machine(""), None);
    }
}
