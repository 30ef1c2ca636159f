//! The machine that this process runs on.

use crate::host::{Host, RingProblem, Space};
use io_uring::{IoUring, Probe, opcode};
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The page of direct I/O.
const PAGE_BYTES: usize = 4096;

/// One page, placed as direct I/O wants it.
#[repr(align(4096))]
struct Page([u8; PAGE_BYTES]);

/// The machine that this process runs on.
pub struct Machine;

impl Host for Machine {
    fn read(&self, path: &str) -> io::Result<String> {
        std::fs::read_to_string(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let mut names: Vec<String> = std::fs::read_dir(path)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<_>>()?;
        names.sort();
        Ok(names)
    }

    fn try_ring(&self) -> Result<Vec<&'static str>, RingProblem> {
        let mut ring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(8)
            .map_err(RingProblem::Create)?;
        let operation = opcode::Nop::new().build().user_data(7);
        // SAFETY: a no-op refers to no memory.
        let pushed = unsafe { ring.submission().push(&operation) };
        pushed.map_err(|_| RingProblem::Operate("its queue of 8 is full at once".to_owned()))?;
        ring.submit_and_wait(1).map_err(|error| RingProblem::Operate(error.to_string()))?;
        match ring.completion().next() {
            Some(done) if done.user_data() == 7 && done.result() == 0 => {}
            other => return Err(RingProblem::Operate(format!("a no-op came back as {other:?}"))),
        }
        let mut probe = Probe::new();
        ring.submitter()
            .register_probe(&mut probe)
            .map_err(|error| RingProblem::Operate(error.to_string()))?;
        let wanted = [
            ("accept", opcode::Accept::CODE),
            ("recv", opcode::Recv::CODE),
            ("sendmsg", opcode::SendMsg::CODE),
            ("msg_ring", opcode::MsgRingData::CODE),
            ("send_zc", opcode::SendZc::CODE),
            ("ftruncate", opcode::Ftruncate::CODE),
        ];
        Ok(wanted.into_iter().filter(|(_, code)| !probe.is_supported(*code)).map(|(name, _)| name).collect())
    }

    fn existing_directory(&self, path: &Path) -> io::Result<PathBuf> {
        let absolute = std::path::absolute(path)?;
        let existing = absolute.ancestors().find(|ancestor| ancestor.is_dir());
        existing.unwrap_or(Path::new("/")).canonicalize()
    }

    fn try_durable_write(&self, directory: &Path, is_direct: bool) -> io::Result<()> {
        let path = directory.join(format!(".logmill-tuning-{}", std::process::id()));
        let flags = libc::O_DSYNC | if is_direct { libc::O_DIRECT } else { 0 };
        // `create_new`: a file of somebody else's is never touched.
        let file =
            OpenOptions::new().read(true).write(true).create_new(true).custom_flags(flags).open(&path)?;
        let outcome = write_and_read_back(&file);
        drop(file);
        std::fs::remove_file(&path)?;
        outcome
    }

    fn space(&self, directory: &Path) -> io::Result<Space> {
        let path = CString::new(directory.as_os_str().as_bytes())?;
        let mut answer = std::mem::MaybeUninit::<libc::statvfs>::uninit();
        // SAFETY: the path ends in a zero byte, and the answer has room for the structure.
        let status = unsafe { libc::statvfs(path.as_ptr(), answer.as_mut_ptr()) };
        if status != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call succeeded, so it has filled the structure.
        let answer = unsafe { answer.assume_init() };
        Ok(Space {
            free_bytes: answer.f_bavail.saturating_mul(answer.f_frsize),
            total_bytes: answer.f_blocks.saturating_mul(answer.f_frsize),
        })
    }

    fn page_bytes(&self) -> u64 {
        // SAFETY: the call has no preconditions.
        let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        u64::try_from(bytes).unwrap_or(0)
    }
}

fn write_and_read_back(file: &File) -> io::Result<()> {
    let written = Page([0xa5; PAGE_BYTES]);
    file.write_all_at(&written.0, 0)?;
    let mut read = Page([0; PAGE_BYTES]);
    file.read_exact_at(&mut read.0, 0)?;
    if read.0 != written.0 {
        return Err(io::Error::other("the page read back is not the page written"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("logmill-tuning-test-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("made");
        path
    }

    #[test]
    fn a_probe_leaves_nothing_behind() {
        let path = directory("probe");
        Machine.try_durable_write(&path, false).expect("an ordinary filesystem");
        assert_eq!(std::fs::read_dir(&path).expect("there").count(), 0);
        let missing = path.join("a/b");
        assert_eq!(Machine.existing_directory(&missing).expect("found"), path.canonicalize().expect("there"));
        assert!(Machine.try_durable_write(&missing, false).is_err());
        let space = Machine.space(&path).expect("there");
        assert!(space.free_bytes <= space.total_bytes && space.total_bytes > 0);
        std::fs::remove_dir(&path).expect("empty");
    }

    #[test]
    fn the_machine_answers() {
        assert!(Machine.page_bytes() >= 4096);
        assert!(Machine.read("/proc/sys/kernel/osrelease").expect("Linux").contains('.'));
        assert!(Machine.list("/proc/self").expect("Linux").contains(&"status".to_owned()));
    }
}
