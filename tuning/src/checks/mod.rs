//! The checks, declared: what is looked at, what is wanted, why, what is at risk, and what to do.

mod disk;
mod kernel;
mod memory;
mod processor;

use crate::host::Host;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// How much the broker depends on a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The broker does not start without it.
    Required,
    /// The broker works without it, but slower or less safely.
    Recommended,
}

/// What a look at the machine says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As wanted.
    Ok,
    /// Not as wanted.
    Missing,
    /// It could not be found out.
    Unknown,
}

/// A value with its verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measurement {
    value: String,
    verdict: Verdict,
    /// A remedy that is more to the point than the check's.
    remedy: Option<String>,
}

impl Measurement {
    fn judged(value: impl Into<String>, is_ok: bool) -> Self {
        let verdict = if is_ok { Verdict::Ok } else { Verdict::Missing };
        Self { value: value.into(), verdict, remedy: None }
    }

    fn ok(value: impl Into<String>) -> Self {
        Self::judged(value, true)
    }

    fn missing(value: impl Into<String>) -> Self {
        Self::judged(value, false)
    }

    fn unknown(reason: impl Into<String>) -> Self {
        Self { value: reason.into(), verdict: Verdict::Unknown, remedy: None }
    }

    fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// What a look takes: the machine, and the nearest directory to the data that exists.
pub struct Place<'a> {
    host: &'a dyn Host,
    directory: PathBuf,
}

/// One check, declared.
pub struct Check {
    name: &'static str,
    level: Level,
    wanted: &'static str,
    reason: &'static str,
    risk: &'static str,
    remedy: &'static str,
    look: fn(&Place<'_>) -> Measurement,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check.
    pub name: &'static str,
    /// How much the broker depends on it.
    pub level: Level,
    /// Whether all is well.
    pub verdict: Verdict,
    /// What was found.
    pub value: String,
    /// What was wanted.
    pub wanted: &'static str,
    /// Why it is wanted.
    pub reason: &'static str,
    /// What happens without it.
    pub risk: &'static str,
    /// What to do.
    pub remedy: String,
}

impl Finding {
    /// Whether the broker would not start.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        self.level == Level::Required && self.verdict == Verdict::Missing
    }
}

/// All checks, in the order in which they are reported.
fn all() -> impl Iterator<Item = &'static Check> {
    [kernel::CHECKS, disk::CHECKS, memory::CHECKS, processor::CHECKS].into_iter().flatten()
}

/// Looks at everything.
#[must_use]
pub fn run(host: &dyn Host, log_dir: &Path) -> Vec<Finding> {
    // Without any directory the disk checks fail one by one, each with its reason.
    let directory = host.existing_directory(log_dir).unwrap_or_else(|_| log_dir.to_owned());
    let place = Place { host, directory };
    all()
        .map(|check| {
            let Measurement { value, verdict, remedy } = (check.look)(&place);
            Finding {
                name: check.name,
                level: check.level,
                verdict,
                value,
                wanted: check.wanted,
                reason: check.reason,
                risk: check.risk,
                remedy: remedy.unwrap_or_else(|| check.remedy.to_owned()),
            }
        })
        .collect()
}

/// Reads a kernel file that holds one number.
fn number(place: &Place<'_>, path: &str) -> Result<u64, Measurement> {
    let text = place.host.read(path).map_err(|error| Measurement::unknown(format!("{path}: {error}")))?;
    text.trim()
        .parse()
        .map_err(|_| Measurement::unknown(format!("{path}: {:?} is not a number", text.trim())))
}

/// A size for people.
fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes >> 10),
        1_048_576..1_073_741_824 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{RingProblem, Space};
    use crate::machine::Machine;
    use std::collections::BTreeMap;
    use std::io;

    /// A machine that is as wanted, until a test takes something away.
    struct Invented {
        files: BTreeMap<&'static str, String>,
        ring_error: Option<i32>,
        direct_error: Option<i32>,
        write_error: Option<i32>,
        missing_operations: Vec<&'static str>,
        free_bytes: u64,
        page_bytes: u64,
    }

    impl Invented {
        fn good() -> Self {
            let files = [
                ("/proc/sys/kernel/osrelease", "6.12.4-generic\n"),
                ("/proc/sys/kernel/io_uring_disabled", "0\n"),
                ("/proc/self/status", "Name:\tx\nCapEff:\t0000000000000000\nSeccomp:\t0\n"),
                (
                    "/proc/self/limits",
                    "Limit                     Soft Limit           Hard Limit           Units     \n\
                     Max open files            1048576              1048576              files     \n\
                     Max locked memory         unlimited            unlimited            bytes     \n",
                ),
                (
                    "/proc/self/mountinfo",
                    "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n23 22 8:2 / /data rw - xfs /dev/sdb rw\n\
                     24 22 0:9 / /database rw - nfs4 host:/x rw\n",
                ),
                ("/proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n"),
                ("/proc/sys/vm/swappiness", "60\n"),
                ("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
                ("/proc/sys/net/core/somaxconn", "4096\n"),
                ("/sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n"),
                ("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n"),
                ("/sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "performance\n"),
            ];
            Self {
                files: files.into_iter().map(|(path, text)| (path, text.to_owned())).collect(),
                ring_error: None,
                direct_error: None,
                write_error: None,
                missing_operations: vec![],
                free_bytes: 500 << 30,
                page_bytes: 4096,
            }
        }

        fn with(mut self, path: &'static str, text: &str) -> Self {
            self.files.insert(path, text.to_owned());
            self
        }

        fn without(mut self, path: &str) -> Self {
            self.files.remove(path);
            self
        }
    }

    impl Host for Invented {
        fn read(&self, path: &str) -> io::Result<String> {
            self.files.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
        }

        fn list(&self, path: &str) -> io::Result<Vec<String>> {
            let below = self.files.keys().filter_map(|file| file.strip_prefix(path)?.strip_prefix('/'));
            let mut names: Vec<String> =
                below.filter_map(|rest| rest.split('/').next()).map(str::to_owned).collect();
            names.dedup();
            Ok(names)
        }

        fn try_ring(&self) -> Result<Vec<&'static str>, RingProblem> {
            match self.ring_error {
                Some(code) => Err(RingProblem::Create(io::Error::from_raw_os_error(code))),
                None => Ok(self.missing_operations.clone()),
            }
        }

        fn existing_directory(&self, path: &Path) -> io::Result<PathBuf> {
            Ok(path.to_owned())
        }

        fn try_durable_write(&self, _directory: &Path, is_direct: bool) -> io::Result<()> {
            let error = if is_direct { self.direct_error.or(self.write_error) } else { self.write_error };
            error.map_or(Ok(()), |code| Err(io::Error::from_raw_os_error(code)))
        }

        fn space(&self, _directory: &Path) -> io::Result<Space> {
            Ok(Space { free_bytes: self.free_bytes, total_bytes: 1000 << 30 })
        }

        fn page_bytes(&self) -> u64 {
            self.page_bytes
        }
    }

    fn find(host: &Invented, name: &str) -> Finding {
        let directory = Path::new("/data/logs");
        run(host, directory).into_iter().find(|finding| finding.name == name).expect("declared")
    }

    fn is_missing(host: &Invented, name: &str) -> bool {
        find(host, name).verdict == Verdict::Missing
    }

    #[test]
    fn a_good_machine_passes_every_check() {
        for finding in run(&Invented::good(), Path::new("/data/logs")) {
            assert_eq!(finding.verdict, Verdict::Ok, "{}: {}", finding.name, finding.value);
        }
    }

    #[test]
    fn every_check_says_all_it_has_to() {
        let mut names = std::collections::BTreeSet::new();
        for check in all() {
            assert!(names.insert(check.name), "{} is declared twice", check.name);
            for text in [check.wanted, check.reason, check.risk, check.remedy] {
                assert!(!text.is_empty(), "{}", check.name);
            }
        }
    }

    #[test]
    fn old_kernels_fail() {
        let with = |release| Invented::good().with("/proc/sys/kernel/osrelease", release);
        for (release, missing) in
            [("6.0.12", true), ("5.15.0-91-generic", true), ("6.1.0", false), ("10.0-rc1", false)]
        {
            assert_eq!(is_missing(&with(release), "kernel.version"), missing, "{release}");
        }
        assert_eq!(find(&with("strange"), "kernel.version").verdict, Verdict::Unknown);
        assert!(find(&with("5.15.0"), "kernel.version").is_failure());
    }

    #[test]
    fn a_refused_ring_names_its_cause() {
        let mut host = Invented::good().with("/proc/sys/kernel/io_uring_disabled", "2");
        host.ring_error = Some(libc::EPERM);
        assert!(is_missing(&host, "io_uring.sysctl"));
        assert!(find(&host, "io_uring.ring").remedy.contains("sysctl kernel.io_uring_disabled=0"));
        let mut host = Invented::good().with("/proc/self/status", "Seccomp:\t2\n");
        host.ring_error = Some(libc::EPERM);
        let finding = find(&host, "io_uring.ring");
        assert!(finding.is_failure() && finding.remedy.contains("seccomp"), "{}", finding.remedy);
        for (code, word) in
            [(libc::ENOMEM, "memlock"), (libc::EINVAL, "6.1"), (libc::ENOSYS, "CONFIG_IO_URING")]
        {
            let mut host = Invented::good();
            host.ring_error = Some(code);
            assert!(find(&host, "io_uring.ring").remedy.contains(word), "{word}");
        }
        let mut host = Invented::good();
        host.missing_operations = vec!["ftruncate"];
        let finding = find(&host, "io_uring.operations");
        assert!(!finding.is_failure() && finding.value.contains("ftruncate"));
        let host = Invented::good().without("/proc/sys/kernel/io_uring_disabled");
        assert_eq!(
            find(&host, "io_uring.sysctl").verdict,
            Verdict::Ok,
            "kernels before 6.6 have no such switch"
        );
    }

    #[test]
    fn limits_are_read() {
        let limits = |files: &str, memory: &str| {
            let text = format!(
                "Limit Soft Limit Hard Limit Units\nMax open files            {files}  1048576  files\n\
                 Max locked memory         {memory}  {memory}  bytes\n"
            );
            Invented::good().with("/proc/self/limits", &text)
        };
        assert!(find(&limits("512", "unlimited"), "limit.nofile.least").is_failure());
        let host = limits("4096", "8388608");
        assert!(!is_missing(&host, "limit.nofile.least") && is_missing(&host, "limit.nofile"));
        assert!(is_missing(&host, "limit.memlock"));
        let root = host.with("/proc/self/status", "CapEff:\t000001ffffffffff\n");
        assert!(!is_missing(&root, "limit.memlock"), "the capability lifts the limit");
    }

    #[test]
    fn disks_are_told_apart() {
        let at = |directory: &str| {
            let findings = run(&Invented::good(), Path::new(directory));
            findings.into_iter().find(|finding| finding.name == "log-dir.filesystem").expect("declared")
        };
        assert_eq!(at("/data/logs").value, "xfs on /data");
        assert_eq!(at("/database/logs").value, "nfs4 on /database");
        assert_eq!(at("/database/logs").verdict, Verdict::Missing);
        assert_eq!(at("/home").value, "ext4 on /");
        let mut host = Invented::good();
        host.direct_error = Some(libc::EINVAL);
        assert!(is_missing(&host, "log-dir.direct") && !find(&host, "log-dir.direct").is_failure());
        host.write_error = Some(libc::EACCES);
        assert!(find(&host, "log-dir.write").is_failure());
        host.free_bytes = 50 << 30;
        assert!(is_missing(&host, "log-dir.free") && !is_missing(&host, "log-dir.free.least"));
        host.free_bytes = 100 << 20;
        assert!(find(&host, "log-dir.free.least").is_failure());
    }

    #[test]
    fn memory_and_processors() {
        let swap =
            Invented::good().with("/proc/swaps", "Filename Type Size Used Priority\n/swap file 1 0 -2\n");
        assert!(is_missing(&swap, "memory.swap"));
        assert!(!is_missing(&swap.with("/proc/sys/vm/swappiness", "1"), "memory.swap"));
        let huge = |text| Invented::good().with("/sys/kernel/mm/transparent_hugepage/enabled", text);
        assert!(is_missing(&huge("[always] madvise never"), "memory.huge-pages"));
        assert!(!is_missing(&huge("always madvise [never]"), "memory.huge-pages"));
        let mut host = Invented::good();
        host.page_bytes = 65_536;
        assert!(is_missing(&host, "memory.page"));
        let slow =
            Invented::good().with("/sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave");
        assert_eq!(find(&slow, "processor.governor").value, "powersave on 1 of 2 cores");
        assert!(is_missing(&slow, "processor.governor"));
        let clock = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
        assert!(is_missing(&Invented::good().with(clock, "hpet"), "processor.clock"));
        assert!(is_missing(&Invented::good().with("/proc/sys/net/core/somaxconn", "128"), "net.somaxconn"));
        assert_eq!(find(&Invented::good().without(clock), "processor.clock").verdict, Verdict::Unknown);
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        let findings = run(&Machine, &std::env::temp_dir());
        assert_eq!(findings.len(), all().count());
        let of = |name: &str| findings.iter().find(|finding| finding.name == name).expect("declared");
        assert_ne!(of("kernel.version").verdict, Verdict::Unknown, "{}", of("kernel.version").value);
        assert_eq!(of("log-dir.write").verdict, Verdict::Ok, "{}", of("log-dir.write").value);
        assert_ne!(of("log-dir.filesystem").verdict, Verdict::Unknown, "{}", of("log-dir.filesystem").value);
        assert_ne!(of("limit.nofile").verdict, Verdict::Unknown, "{}", of("limit.nofile").value);
    }
}
