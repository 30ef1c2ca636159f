//! Makes a ring, finds out what this kernel can do, and says in plain words why it cannot.

use super::system;
use io_uring::{IoUring, Probe, opcode};
use std::fmt;
use std::io;

/// The oldest kernel with everything that is needed: single-issuer rings with deferred task running.
pub const KERNEL_MIN: (u32, u32) = (6, 1);

/// Before this one, a message to a ring with deferred task running may fail to wake it.
const KERNEL_OF_RING_MESSAGES: (u32, u32) = (6, 3);

/// Kernel threads of one ring for file operations that would block, and for the rest.
const WORKERS_MAX: [u32; 2] = [8, 4];

/// Entries that one enter can submit, and completions that the ring holds. More of either wait elsewhere, at
/// a price. A ring of the first size takes about 90 KiB of what the user may lock, of the second about 20.
const SIZES: [(u32, u32); 2] = [(256, 4096), (64, 512)];

const SYSCTL: &str = "/proc/sys/kernel/io_uring_disabled";

/// Why a shard could not be started; the text names the cause and the remedy.
#[derive(Debug)]
pub enum StartError {
    /// The kernel is older than [`KERNEL_MIN`]; holds its release.
    KernelTooOld(String),
    /// `kernel.io_uring_disabled` forbids it; holds its value, 1 or 2.
    DisabledBySysctl(u32),
    /// A system-call filter (of a container, mostly) forbids it; holds the call that was refused.
    Filtered(&'static str),
    /// The memory that may be locked (`RLIMIT_MEMLOCK`) does not suffice for the rings.
    LockedMemory,
    /// The kernel is new enough, but was built without something; holds what is missing.
    MissingFeature(&'static str),
    /// Anything else; holds what was being done.
    Other(&'static str, io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KernelTooOld(release) => write!(
                f,
                "the kernel {release} is too old: Linux {}.{} or later is needed, for io_uring with \
                 single-issuer rings and deferred task running; upgrade the kernel",
                KERNEL_MIN.0, KERNEL_MIN.1
            ),
            Self::DisabledBySysctl(value) => {
                let whom = if *value == 1 { "unprivileged processes" } else { "all processes" };
                write!(
                    f,
                    "the sysctl kernel.io_uring_disabled is {value}, which forbids io_uring to {whom}; set it \
                     to 0 (`sysctl -w kernel.io_uring_disabled=0`)"
                )?;
                if *value == 1 {
                    f.write_str(", or add the user to the group that kernel.io_uring_group names")?;
                }
                Ok(())
            }
            Self::Filtered(call) => write!(
                f,
                "the system call {call} was refused although no sysctl forbids it: a seccomp filter, such as a \
                 container's default profile, blocks io_uring; allow io_uring_setup, io_uring_enter and \
                 io_uring_register in the profile (for a container: `--security-opt seccomp=PROFILE.json`, or \
                 `SystemCallFilter` of a systemd unit)"
            ),
            Self::LockedMemory => f.write_str(
                "there is not enough memory for the rings within RLIMIT_MEMLOCK; raise it (`ulimit -l`, \
                 `LimitMEMLOCK=` of a systemd unit, `--ulimit memlock=` of a container) or use fewer shards",
            ),
            Self::MissingFeature(feature) => write!(
                f,
                "this kernel's io_uring lacks {feature}; use an unrestricted kernel of version {}.{} or later",
                KERNEL_MIN.0, KERNEL_MIN.1
            ),
            Self::Other(what, error) => write!(f, "{what} failed: {error}"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Other(_, error) => Some(error),
            _ => None,
        }
    }
}

/// What the kernel offers beyond what is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// A ring can wake another one (`IORING_OP_MSG_RING`); otherwise an eventfd does.
    pub ring_messages: bool,
    /// Files can be cut through the ring (`IORING_OP_FTRUNCATE`); otherwise a thread does it.
    pub truncate: bool,
    /// Zero-copy sends (`IORING_OP_SENDMSG_ZC`); not used unless measured to pay.
    pub send_zero_copy: bool,
    /// The memory that may be locked sufficed for a small ring only: bursts cost more system calls. Raise
    /// `RLIMIT_MEMLOCK`.
    pub small_ring: bool,
    /// Waiting for completions can be kept out of the "waiting for I/O" figure.
    pub no_iowait: bool,
}

/// The two leading numbers of a kernel release.
fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn sysctl_value() -> u32 {
    std::fs::read_to_string(SYSCTL).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Tells the causes of a refusal apart. `disabled` is the sysctl's value.
fn explain(call: &'static str, error: io::Error, disabled: u32) -> StartError {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES | libc::ENOSYS) if disabled > 0 => {
            StartError::DisabledBySysctl(disabled)
        }
        // A kernel of the right version has the calls, so that a filter, too, is behind ENOSYS.
        Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => StartError::Filtered(call),
        Some(libc::ENOMEM) => StartError::LockedMemory,
        Some(libc::EINVAL) => StartError::MissingFeature("single-issuer rings with deferred task running"),
        _ => StartError::Other(call, error),
    }
}

fn probe(ring: &IoUring, version: (u32, u32)) -> io::Result<(Probe, Features)> {
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let features = Features {
        ring_messages: version >= KERNEL_OF_RING_MESSAGES && probe.is_supported(opcode::MsgRingData::CODE),
        truncate: probe.is_supported(opcode::Ftruncate::CODE),
        send_zero_copy: probe.is_supported(opcode::SendMsgZc::CODE),
        small_ring: ring.params().sq_entries() < SIZES[0].0,
        no_iowait: ring.params().is_feature_no_iowait(),
    };
    Ok((probe, features))
}

/// The largest ring that the memory which may be locked suffices for.
fn build() -> io::Result<IoUring> {
    let mut result = Err(io::ErrorKind::OutOfMemory.into());
    for (submissions, completions) in SIZES {
        result = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(completions)
            .build(submissions);
        if !matches!(&result, Err(error) if error.raw_os_error() == Some(libc::ENOMEM)) {
            break;
        }
    }
    result
}

/// A ring for the calling thread, which alone may use it. The ring's kernel threads stay on `workers`, if the
/// kernel can be told so.
pub(super) fn new_ring(workers: Option<&libc::cpu_set_t>) -> Result<(IoUring, Features), StartError> {
    let release = system::kernel_release();
    let version = version_of(&release).unwrap_or((0, 0));
    if version < KERNEL_MIN {
        return Err(StartError::KernelTooOld(release));
    }
    let ring = build().map_err(|error| explain("io_uring_setup", error, sysctl_value()))?;
    let parameters = ring.params();
    if !parameters.is_feature_nodrop() || !parameters.is_feature_ext_arg() {
        return Err(StartError::MissingFeature("reliable completions and timed waits"));
    }
    let (probe, features) =
        probe(&ring, version).map_err(|error| explain("io_uring_register", error, sysctl_value()))?;
    let needed = [
        (opcode::OpenAt::CODE, "openat"),
        (opcode::Read::CODE, "read"),
        (opcode::Write::CODE, "write"),
        (opcode::Fsync::CODE, "fsync"),
        (opcode::Fallocate::CODE, "fallocate"),
        (opcode::RenameAt::CODE, "renameat"),
        (opcode::UnlinkAt::CODE, "unlinkat"),
        (opcode::Accept::CODE, "accept"),
        (opcode::Connect::CODE, "connect"),
        (opcode::Recv::CODE, "recv"),
        (opcode::Send::CODE, "send"),
        (opcode::SendMsg::CODE, "sendmsg"),
        (opcode::AsyncCancel::CODE, "cancellation"),
    ];
    if let Some((_, name)) = needed.iter().find(|(code, _)| !probe.is_supported(*code)) {
        return Err(StartError::MissingFeature(name));
    }
    ring.submit().map_err(|error| explain("io_uring_enter", error, sysctl_value()))?;
    // What follows only shapes the ring's kernel threads; a kernel that refuses it works without.
    let submitter = ring.submitter();
    if let Err(error) = submitter.register_iowq_max_workers(&mut WORKERS_MAX.clone()) {
        tracing::debug!(%error, "the ring's kernel threads could not be bounded");
    }
    if let Some(processors) = workers
        && let Err(error) = submitter.register_iowq_aff(processors)
    {
        tracing::debug!(%error, "the ring's kernel threads could not be kept off the shards' processors");
    }
    Ok((ring, features))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_releases() {
        assert_eq!(version_of("6.1.0-13-amd64"), Some((6, 1)));
        assert_eq!(version_of("6.18.44-fc-v657"), Some((6, 18)));
        assert_eq!(version_of("5.15"), Some((5, 15)));
        assert_eq!(version_of("10"), None);
        assert_eq!(version_of(""), None);
        assert!((5, 19) < KERNEL_MIN && KERNEL_MIN < (6, 10));
    }

    #[test]
    fn each_refusal_names_its_cause_and_remedy() {
        let of = |code, disabled| {
            explain("io_uring_setup", io::Error::from_raw_os_error(code), disabled).to_string()
        };
        assert!(of(libc::EPERM, 2).contains("io_uring_disabled is 2, which forbids io_uring to all"));
        assert!(of(libc::EPERM, 1).contains("io_uring_group"));
        assert!(of(libc::EPERM, 0).contains("seccomp"));
        assert!(of(libc::ENOSYS, 0).contains("io_uring_setup was refused"));
        assert!(of(libc::ENOMEM, 0).contains("RLIMIT_MEMLOCK"));
        assert!(of(libc::EINVAL, 0).contains("single-issuer"));
        assert!(of(libc::EMFILE, 0).contains("io_uring_setup failed"));
        let old = StartError::KernelTooOld("5.15.0".to_owned()).to_string();
        assert!(old.contains("5.15.0 is too old: Linux 6.1 or later"));
    }
}
