//! Limits of the process's control groups, versions 1 and 2: those of a container, a batch system, a service.
//!
//! Groups are nested folders of a file system of the kernel, and each may have a limit. The process's own group and all above it count,
//! as far up as they are mounted.
//!
//! Source: the kernel's documentation, *Control Group v2* and *Memory Resource Controller* (v1).

use std::path::{Component, Path, PathBuf};

use super::Room;

const LIMIT: &str = "the limit of the control group";
/// A limit of at least this means no limit in version 1, for any size of pages.
const UNLIMITED: u64 = 1 << 62;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A group of the process: its folder, and that of the topmost visible group above it.
#[derive(Debug, PartialEq)]
struct Group {
    version: Version,
    folder: PathBuf,
    top: PathBuf,
}

/// Returns the limits of all groups that have one, from the texts of `/proc/self/cgroup` and `/proc/self/mountinfo`; `read` returns the
/// text of a file.
pub(super) fn rooms(cgroup: &str, mountinfo: &str, read: impl Fn(&Path) -> Option<String>) -> Vec<Room> {
    let groups = groups(cgroup, mountinfo);
    let nested = groups.iter().flat_map(|group| {
        let folders = group.folder.ancestors().take_while(|folder| folder.starts_with(&group.top));
        folders.map(|folder| (group.version, folder))
    });
    nested.filter_map(|(version, folder)| room(version, |name| read(&folder.join(name)))).collect()
}

/// Returns the groups that limit memory.
fn groups(cgroup: &str, mountinfo: &str) -> Vec<Group> {
    let of = |line: &str| {
        // number:controllers:path; version 2 has the number 0 and no controllers.
        let mut parts = line.splitn(3, ':');
        let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let version = match () {
            () if controllers.split(',').any(|name| name == "memory") => Version::One,
            () if number == "0" && controllers.is_empty() => Version::Two,
            () => return None,
        };
        let (root, top) = mountinfo.lines().find_map(|line| mount(line, version))?;
        // A path that is not below the mounted one, as in a container: its own group is mounted at the top.
        let below = Path::new(path).strip_prefix(&root).ok();
        let inside = below.filter(|path| path.components().all(|part| matches!(part, Component::Normal(_))));
        Some(Group { version, folder: inside.map_or_else(|| top.clone(), |path| top.join(path)), top })
    };
    cgroup.lines().filter_map(of).collect()
}

/// Returns the group at the top of a mounted file system, and where it is mounted; `None` for another file system.
fn mount(line: &str, version: Version) -> Option<(PathBuf, PathBuf)> {
    let (place, kind) = line.split_once(" - ")?;
    let mut kind = kind.split(' ');
    let (name, options) = (kind.next()?, kind.nth(1)?);
    let matches = match version {
        Version::One => name == "cgroup" && options.split(',').any(|option| option == "memory"),
        Version::Two => name == "cgroup2",
    };
    let mut place = place.split(' ').skip(3).map(|path| PathBuf::from(path.replace("\\040", " ")));
    matches.then_some((place.next()?, place.next()?))
}

/// Returns the limit of a group; `None` if it has none.
fn room(version: Version, read: impl Fn(&str) -> Option<String>) -> Option<Room> {
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    let (limit, used, files) = match version {
        Version::One => {
            ("memory.limit_in_bytes", "memory.usage_in_bytes", ["total_inactive_file", "total_active_file"])
        }
        Version::Two => ("memory.max", "memory.current", ["inactive_file", "active_file"]),
    };
    // In version 2, "max" means no limit.
    let limit = number(limit).filter(|&limit| limit < UNLIMITED)?;
    // The page cache is freed when memory is needed.
    let stat = read("memory.stat").unwrap_or_default();
    let reclaimable = files.iter().filter_map(|key| {
        let line = stat.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
        line.trim().parse::<u64>().ok()
    });
    let used = number(used)?.saturating_sub(reclaimable.fold(0, u64::saturating_add));
    Some(Room::below(LIMIT, limit, used))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const V2: &str = "\
22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
";
    const V1: &str = "\
33 32 0:29 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu,cpuacct
34 32 0:30 / /sys/fs/cgroup/memory rw shared:10 master:2 - cgroup cgroup rw,memory
";

    fn rooms_of(cgroup: &str, mountinfo: &str, files: &[(&str, &str)]) -> Vec<(u64, u64)> {
        let files: BTreeMap<&str, &str> = files.iter().copied().collect();
        let rooms = rooms(cgroup, mountinfo, |path| files.get(path.to_str()?).map(ToString::to_string));
        rooms.iter().map(|room| (room.total, room.available)).collect()
    }

    #[test]
    fn nested_groups_of_version_2_all_count() {
        let files = [
            ("/sys/fs/cgroup/memory.current", "1"),
            ("/sys/fs/cgroup/job/memory.max", "1000\n"),
            ("/sys/fs/cgroup/job/memory.current", "900\n"),
            ("/sys/fs/cgroup/job/memory.stat", "anon 500\ninactive_file 300\nactive_file 50\nslab 1\n"),
            ("/sys/fs/cgroup/job/step/memory.max", "max\n"),
            ("/sys/fs/cgroup/job/step/memory.current", "800\n"),
            ("/sys/fs/cgroup/job/step/task/memory.max", "700\n"),
            ("/sys/fs/cgroup/job/step/task/memory.current", "200\n"),
            ("/sys/fs/cgroup/other/memory.max", "1\n"),
            ("/sys/fs/cgroup/other/memory.current", "1\n"),
        ];
        assert_eq!(rooms_of("0::/job/step/task\n", V2, &files), [(700, 500), (1000, 450)]);
        assert_eq!(rooms_of("0::/job\n", V2, &files), [(1000, 450)]);
        assert_eq!(rooms_of("0::/\n", V2, &files), []);
    }

    #[test]
    fn groups_of_version_1_are_those_of_the_memory_controller() {
        let cgroup = "5:cpu,cpuacct:/a\n4:memory:/slurm/job_7\n1:name=systemd:/x\n0::/x\n";
        let files = [
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "5\n"),
            ("/sys/fs/cgroup/memory/slurm/job_7/memory.limit_in_bytes", "4096\n"),
            ("/sys/fs/cgroup/memory/slurm/job_7/memory.usage_in_bytes", "3000\n"),
            (
                "/sys/fs/cgroup/memory/slurm/job_7/memory.stat",
                "inactive_file 1\ntotal_inactive_file 900\ntotal_active_file 96\n",
            ),
        ];
        assert_eq!(rooms_of(cgroup, V1, &files), [(4096, 2092)]);
        // More was taken than is allowed: nothing is left.
        let over = [files[2], ("/sys/fs/cgroup/memory/slurm/job_7/memory.usage_in_bytes", "5000")];
        assert_eq!(rooms_of(cgroup, V1, &over), [(4096, 0)]);
    }

    /// A container sees its own group at the top of the mount, whatever it is called outside.
    #[test]
    fn a_container_finds_its_own_group() {
        let files = [("/sys/fs/cgroup/memory.max", "64"), ("/sys/fs/cgroup/memory.current", "4")];
        assert_eq!(rooms_of("0::/\n", V2, &files), [(64, 60)]);
        assert_eq!(rooms_of("0::/../../escaped\n", V2, &files), [(64, 60)]);
        let bound = V2.replace("0:26 / ", "0:26 /docker/abc ");
        assert_eq!(rooms_of("0::/docker/abc\n", &bound, &files), [(64, 60)]);
        assert_eq!(rooms_of("0::/elsewhere\n", &bound, &files), [(64, 60)]);
        let inner =
            [("/sys/fs/cgroup/in/memory.max", "32"), ("/sys/fs/cgroup/in/memory.current", "2"), files[0], files[1]];
        assert_eq!(rooms_of("0::/docker/abc/in\n", &bound, &inner), [(32, 30), (64, 60)]);
    }

    #[test]
    fn what_cannot_be_read_limits_nothing() {
        for cgroup in ["", "0::", "nonsense", "4:memory", "0::/job\n"] {
            assert_eq!(rooms_of(cgroup, "", &[]), []);
            assert_eq!(rooms_of(cgroup, V2, &[("/sys/fs/cgroup/job/memory.max", "many")]), []);
        }
        assert_eq!(rooms_of("0::/job\n", V2, &[("/sys/fs/cgroup/job/memory.max", "7")]), [], "use is not known");
    }
}
