//! The kernel: its version, io_uring, and the limits that it sets to a process.

use super::{Check, Level, Measurement, Place, number, size};
use crate::host::RingProblem;

/// The first kernel with single-issuer rings and deferred task running.
const KERNEL_LEAST: (u32, u32) = (6, 1);
const NOFILE_LEAST: u64 = 1024;
const NOFILE_WANTED: u64 = 65_536;
const MEMLOCK_WANTED_BYTES: u64 = 64 << 20;
const SOMAXCONN_WANTED: u64 = 1024;
const SWITCH: &str = "/proc/sys/kernel/io_uring_disabled";
/// The bit of CAP_IPC_LOCK, which lifts the limit on locked memory.
const CAPABILITY_IPC_LOCK_BIT: u32 = 14;

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "kernel.version",
        level: Level::Required,
        wanted: "6.1 or later",
        reason: "rings with a single issuer and deferred task running came with 6.1",
        risk: "the broker does not start",
        remedy: "install a kernel of 6.1 or later",
        look: kernel_version,
    },
    Check {
        name: "io_uring.sysctl",
        level: Level::Required,
        wanted: "kernel.io_uring_disabled = 0",
        reason: "all I/O of the broker goes through io_uring",
        risk: "the broker does not start",
        remedy: "sysctl kernel.io_uring_disabled=0, and put it into /etc/sysctl.d to keep it",
        look: sysctl,
    },
    Check {
        name: "io_uring.ring",
        level: Level::Required,
        wanted: "a ring with single issuer and deferred task running can be made and used",
        reason: "all I/O of the broker goes through io_uring",
        risk: "the broker does not start",
        remedy: "see the kernel's log",
        look: ring,
    },
    Check {
        name: "io_uring.operations",
        level: Level::Recommended,
        wanted: "all operations that the broker can use",
        reason: "newer operations save system calls and copies; the broker does without those that are missing",
        risk: "more CPU time per request",
        remedy: "install a newer kernel",
        look: operations,
    },
    Check {
        name: "limit.nofile.least",
        level: Level::Required,
        wanted: "at least 1024 open files",
        reason: "every connection and every segment in use is an open file",
        risk: "the broker stops accepting connections, or cannot open its logs",
        remedy: "ulimit -n 65536, or LimitNOFILE=1048576 in the systemd unit",
        look: |place| open_files(place, NOFILE_LEAST),
    },
    Check {
        name: "limit.nofile",
        level: Level::Recommended,
        wanted: "at least 65536 open files",
        reason: "every connection and every segment in use is an open file",
        risk: "a storm of connections or many partitions reach the limit",
        remedy: "ulimit -n 65536, or LimitNOFILE=1048576 in the systemd unit",
        look: |place| open_files(place, NOFILE_WANTED),
    },
    Check {
        name: "limit.memlock",
        level: Level::Recommended,
        wanted: "at least 64 MiB of locked memory",
        reason: "buffers that are registered with a ring are locked in memory",
        risk: "the broker registers fewer buffers, and each transfer costs more CPU time",
        remedy: "ulimit -l unlimited, or LimitMEMLOCK=infinity in the systemd unit",
        look: locked_memory,
    },
    Check {
        name: "net.somaxconn",
        level: Level::Recommended,
        wanted: "net.core.somaxconn of at least 1024",
        reason: "it bounds the connections that wait to be accepted",
        risk: "clients that reconnect all at once time out",
        remedy: "sysctl net.core.somaxconn=4096, and put it into /etc/sysctl.d to keep it",
        look: somaxconn,
    },
];

fn kernel_version(place: &Place<'_>) -> Measurement {
    let release = match place.host.read("/proc/sys/kernel/osrelease") {
        Ok(release) => release.trim().to_owned(),
        Err(error) => return Measurement::unknown(error.to_string()),
    };
    let mut numbers = release.split(|character: char| !character.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Measurement::judged(release, (major, minor) >= KERNEL_LEAST),
        _ => Measurement::unknown(release),
    }
}

fn sysctl(place: &Place<'_>) -> Measurement {
    match number(place, SWITCH) {
        Ok(0) => Measurement::ok("0"),
        // 1 leaves it to privileged processes, so whether this process may is the ring's question.
        Ok(1) => Measurement::judged("1 (privileged processes only)", place.host.try_ring().is_ok()),
        Ok(other) => Measurement::missing(other.to_string()),
        // Kernels before 6.6 have no such switch: io_uring is always on.
        Err(_) if place.host.read(SWITCH).is_err() => Measurement::ok("no such switch"),
        Err(unknown) => unknown,
    }
}

fn ring(place: &Place<'_>) -> Measurement {
    match place.host.try_ring() {
        Ok(_) => Measurement::ok("works"),
        Err(RingProblem::Operate(problem)) => Measurement::missing(problem),
        Err(RingProblem::Create(error)) => {
            let is_switched_off = number(place, SWITCH).is_ok_and(|switch| switch != 0);
            let remedy = match error.raw_os_error() {
                Some(libc::EPERM) if is_switched_off => "sysctl kernel.io_uring_disabled=0".to_owned(),
                Some(libc::EPERM | libc::ENOSYS | libc::EACCES) if has_seccomp_filter(place) => {
                    "a seccomp filter forbids io_uring, as container runtimes do by default: allow io_uring_setup, \
                     io_uring_enter and io_uring_register in its profile"
                        .to_owned()
                }
                Some(libc::EPERM | libc::EACCES) => {
                    "a security module forbids it: look into the audit log".to_owned()
                }
                Some(libc::ENOSYS) => "run a kernel that is built with CONFIG_IO_URING".to_owned(),
                Some(libc::ENOMEM) => "raise the memlock limit: ulimit -l unlimited".to_owned(),
                Some(libc::EINVAL) => "install a kernel of 6.1 or later".to_owned(),
                _ => "see the kernel's log".to_owned(),
            };
            Measurement::missing(error.to_string()).with_remedy(remedy)
        }
    }
}

fn operations(place: &Place<'_>) -> Measurement {
    match place.host.try_ring() {
        Ok(missing) if missing.is_empty() => Measurement::ok("all"),
        Ok(missing) => Measurement::missing(format!("without {}", missing.join(", "))),
        Err(_) => Measurement::unknown("no ring to ask"),
    }
}

fn open_files(place: &Place<'_>, wanted: u64) -> Measurement {
    match limit(place, "Max open files") {
        Ok(None) => Measurement::ok("unlimited"),
        Ok(Some(files)) => Measurement::judged(files.to_string(), files >= wanted),
        Err(unknown) => unknown,
    }
}

fn locked_memory(place: &Place<'_>) -> Measurement {
    match limit(place, "Max locked memory") {
        Ok(None) => Measurement::ok("unlimited"),
        Ok(Some(bytes)) if has_capability(place, CAPABILITY_IPC_LOCK_BIT) => {
            Measurement::ok(format!("{}, which CAP_IPC_LOCK lifts", size(bytes)))
        }
        Ok(Some(bytes)) => Measurement::judged(size(bytes), bytes >= MEMLOCK_WANTED_BYTES),
        Err(unknown) => unknown,
    }
}

fn somaxconn(place: &Place<'_>) -> Measurement {
    match number(place, "/proc/sys/net/core/somaxconn") {
        Ok(count) => Measurement::judged(count.to_string(), count >= SOMAXCONN_WANTED),
        Err(unknown) => unknown,
    }
}

/// The soft limit of a name; `None` means unlimited.
fn limit(place: &Place<'_>, name: &str) -> Result<Option<u64>, Measurement> {
    let path = "/proc/self/limits";
    let text = place.host.read(path).map_err(|error| Measurement::unknown(format!("{path}: {error}")))?;
    let soft = text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
    match soft {
        Some("unlimited") => Ok(None),
        Some(number) => {
            number.parse().map(Some).map_err(|_| Measurement::unknown(format!("{name}: {number}")))
        }
        None => Err(Measurement::unknown(format!("{path} has no line for {name}"))),
    }
}

/// A line of the process's status.
fn status(place: &Place<'_>, name: &str) -> Option<String> {
    let text = place.host.read("/proc/self/status").ok()?;
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned()))
}

fn has_seccomp_filter(place: &Place<'_>) -> bool {
    status(place, "Seccomp").is_some_and(|mode| mode != "0")
}

fn has_capability(place: &Place<'_>, bit: u32) -> bool {
    let effective = status(place, "CapEff").and_then(|mask| u64::from_str_radix(&mask, 16).ok());
    effective.is_some_and(|mask| mask & (1 << bit) != 0)
}
