//! What the control groups of this process allow: CPU time and memory, versions 1 and 2.
//!
//! Owns: finding the groups, reading their limits, the tightest of a group and its ancestors.
//! Not: cpusets (they show in the affinity mask), changing anything.
//! G1  a limit that cannot be read is no limit; nothing here fails.

use serde::Serialize;
use std::path::{Path, PathBuf};

/// Version 1 writes "no limit" as the largest multiple of a page; nothing real comes near.
const V1_MEMORY_BYTES_MAX: u64 = 1 << 62;

/// The tightest limits on this process. `None`: not limited.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct CgroupLimits {
    /// CPU time in thousandths of a CPU; 2500 is two and a half CPUs.
    pub cpu_millis: Option<u32>,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
}

/// The limits of the process that calls, as of now.
pub fn limits() -> CgroupLimits {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let mounts = read(Path::new("/proc/self/mountinfo")).unwrap_or_default();
    limits_of(&groups, &mounts, &read)
}

/// The same for given texts of `/proc/self/cgroup` and `/proc/self/mountinfo`.
fn limits_of(groups: &str, mounts: &str, read: &dyn Fn(&Path) -> Option<String>) -> CgroupLimits {
    let mut found = CgroupLimits::default();
    for mount in mounts.lines().filter_map(Mount::parse) {
        for group in groups.lines().filter_map(|line| mount.group_of(line)) {
            for folder in group.ancestors().take_while(|folder| folder.starts_with(&mount.at)) {
                let (cpu, memory) = mount.limits_in(folder, read);
                found.cpu_millis = tighter(found.cpu_millis, cpu);
                found.memory_bytes = tighter(found.memory_bytes, memory);
            }
        }
    }
    found
}

fn tighter<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// One mounted cgroup hierarchy.
struct Mount {
    /// The group that is seen at the mount point.
    root: String,
    /// The mount point.
    at: PathBuf,
    /// Version 1's controllers; `None` is version 2.
    controllers: Option<Vec<String>>,
}

impl Mount {
    /// A line of mountinfo: `id parent dev root at options... - type source super-options`.
    fn parse(line: &str) -> Option<Mount> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, at) = (left.next()?.to_owned(), PathBuf::from(left.next()?));
        let mut right = right.split(' ');
        let controllers = match right.next()? {
            "cgroup2" => None,
            "cgroup" => Some(right.nth(1)?.split(',').map(str::to_owned).collect()),
            _ => return None,
        };
        Some(Mount { root, at, controllers })
    }

    /// The folder of our group, if this line of `/proc/self/cgroup` is about this hierarchy.
    fn group_of(&self, line: &str) -> Option<PathBuf> {
        let mut parts = line.splitn(3, ':');
        let (id, names, path) = (parts.next()?, parts.next()?, parts.next()?);
        let ours = match &self.controllers {
            None => id == "0" && names.is_empty(),
            Some(controllers) => {
                !names.is_empty() && names.split(',').all(|n| controllers.iter().any(|c| c == n))
            }
        };
        // In a container the mount's root is our own group, or the path leaves it with `..`.
        let below = path.strip_prefix(self.root.trim_end_matches('/')).unwrap_or("");
        let below = if below.contains("..") { "" } else { below.trim_start_matches('/') };
        ours.then(|| self.at.join(below))
    }

    /// CPU (thousandths) and memory (bytes) limits that one folder sets.
    fn limits_in(
        &self,
        folder: &Path,
        read: &dyn Fn(&Path) -> Option<String>,
    ) -> (Option<u32>, Option<u64>) {
        let text = |name: &str| read(&folder.join(name)).map(|text| text.trim().to_owned());
        let number = |name: &str| text(name)?.parse::<u64>().ok();
        if self.controllers.is_none() {
            let cpu = text("cpu.max").and_then(|text| {
                let (quota, period) = text.split_once(' ')?;
                millis(quota.parse().ok()?, period.parse().ok()?)
            });
            return (cpu, number("memory.max"));
        }
        let cpu = number("cpu.cfs_quota_us")
            .and_then(|quota| millis(quota, number("cpu.cfs_period_us")?));
        let memory = number("memory.limit_in_bytes").filter(|bytes| *bytes < V1_MEMORY_BYTES_MAX);
        (cpu, memory)
    }
}

fn millis(quota_us: u64, period_us: u64) -> Option<u32> {
    u32::try_from(quota_us.checked_mul(1000)?.checked_div(period_us)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn limits_with(groups: &str, mounts: &str, files: &[(&str, &str)]) -> CgroupLimits {
        let files: BTreeMap<_, _> =
            files.iter().map(|(path, text)| (PathBuf::from(path), text.to_string())).collect();
        limits_of(groups, mounts, &|path| files.get(path).cloned())
    }

    const V2: &str = "41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn the_tightest_limit_of_group_and_ancestors_holds() {
        let limits = limits_with(
            "0::/a/b\n",
            V2,
            &[
                ("/sys/fs/cgroup/a/cpu.max", "150000 100000\n"),
                ("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n"),
                ("/sys/fs/cgroup/a/memory.max", "max\n"),
                ("/sys/fs/cgroup/a/b/memory.max", "1073741824\n"),
            ],
        );
        let expected = CgroupLimits { cpu_millis: Some(1500), memory_bytes: Some(1 << 30) };
        assert_eq!(limits, expected);
    }

    #[test]
    fn version_1_is_read_per_controller() {
        let mounts = "32 31 0:29 / /cg/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                      35 31 0:32 / /cg/memory rw - cgroup cgroup rw,memory\n";
        let mounts = mounts.replace("cgroup rw,cpu,cpuacct", "cpu,cpuacct rw,cpu,cpuacct");
        let files = [
            ("/cg/cpu/x/cpu.cfs_quota_us", "200000"),
            ("/cg/cpu/x/cpu.cfs_period_us", "100000"),
            ("/cg/cpu/cpu.cfs_quota_us", "-1"),
            ("/cg/cpu/cpu.cfs_period_us", "100000"),
            ("/cg/memory/y/memory.limit_in_bytes", "9223372036854771712"),
            ("/cg/memory/memory.limit_in_bytes", "4096"),
        ];
        let limits = limits_with("2:cpu,cpuacct:/x\n4:memory:/y\n", &mounts, &files);
        assert_eq!(limits, CgroupLimits { cpu_millis: Some(2000), memory_bytes: Some(4096) });
    }

    #[test]
    fn a_container_sees_its_own_group_at_the_mount_point() {
        let mounts = "41 31 0:38 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let files = [("/sys/fs/cgroup/memory.max", "8192")];
        for groups in ["0::/docker/abc\n", "0::/../../docker/abc\n", "0::/\n"] {
            assert_eq!(limits_with(groups, mounts, &files).memory_bytes, Some(8192), "{groups}");
        }
    }

    #[test]
    fn g1_what_cannot_be_read_is_no_limit() {
        for (groups, mounts) in [("", ""), ("0::/a", V2), ("nonsense\n::\n", V2), ("0::/", "- -")] {
            assert_eq!(limits_with(groups, mounts, &[]), CgroupLimits::default());
        }
        let odd = [("/sys/fs/cgroup/cpu.max", "7 0"), ("/sys/fs/cgroup/memory.max", "lots")];
        assert_eq!(limits_with("0::/", V2, &odd), CgroupLimits::default());
        limits();
    }
}
