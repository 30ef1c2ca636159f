//! What processes have used so far, from `/proc`: the costs of a broker, or of all brokers of a cluster, stand beside
//! the throughput.

use crate::failure::Failure;
use crate::system::readiness::ticks_per_second;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;

/// Totals of some processes at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    user_ticks: u64,
    system_ticks: u64,
    resident_bytes: u64,
    read_bytes: Option<u64>,
    written_bytes: Option<u64>,
    /// By thread.
    context_switches: BTreeMap<u32, u64>,
}

/// What the processes used between two samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU seconds in the processes' own code; the kernel counts in ticks of usually 10 ms.
    pub user_seconds: f64,
    /// CPU seconds in the kernel on its behalf.
    pub system_seconds: f64,
    /// Resident memory at the end.
    pub resident_bytes: u64,
    /// Bytes read from storage; absent if another user's process hides them.
    pub read_bytes: Option<u64>,
    /// Bytes that were to be written to storage; absent as above.
    pub written_bytes: Option<u64>,
    /// Voluntary and involuntary ones of all threads that lived at the end.
    pub context_switches: u64,
}

impl Usage {
    /// CPU seconds, user and system.
    #[must_use]
    pub fn cpu_seconds(&self) -> f64 {
        self.user_seconds + self.system_seconds
    }
}

/// Reads the totals of the processes `pids` together.
///
/// # Errors
/// [`Failure::File`] if there is no such process.
pub fn sample(pids: &[u32]) -> Result<Sample, Failure> {
    let mut total = Sample { read_bytes: Some(0), written_bytes: Some(0), ..Sample::default() };
    for pid in pids {
        let one = of_process(*pid)?;
        total.user_ticks += one.user_ticks;
        total.system_ticks += one.system_ticks;
        total.resident_bytes += one.resident_bytes;
        total.read_bytes = total.read_bytes.zip(one.read_bytes).map(|(sum, more)| sum + more);
        total.written_bytes = total.written_bytes.zip(one.written_bytes).map(|(sum, more)| sum + more);
        // A thread's id is its own in the whole host.
        total.context_switches.extend(one.context_switches);
    }
    Ok(total)
}

fn of_process(pid: u32) -> Result<Sample, Failure> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).map_err(|cause| Failure::File { path: path.clone(), cause })?;
    let (user_ticks, system_ticks) = cpu_ticks(&stat).ok_or_else(|| Failure::File {
        path,
        cause: std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            "its fields are not those that are known",
        ),
    })?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let io = fs::read_to_string(format!("/proc/{pid}/io")).ok();
    let io_field = |name| io.as_deref().and_then(|text| labelled(text, name));
    Ok(Sample {
        user_ticks,
        system_ticks,
        resident_bytes: labelled(&status, "VmRSS").unwrap_or(0) * 1024,
        read_bytes: io_field("read_bytes"),
        written_bytes: io_field("write_bytes"),
        context_switches: context_switches(pid),
    })
}

/// What was used from `before` to `after`.
#[must_use]
pub fn usage(before: &Sample, after: &Sample) -> Usage {
    let ticks = ticks_per_second() as f64;
    let difference = |before: Option<u64>, after: Option<u64>| Some(after?.saturating_sub(before?));
    Usage {
        user_seconds: after.user_ticks.saturating_sub(before.user_ticks) as f64 / ticks,
        system_seconds: after.system_ticks.saturating_sub(before.system_ticks) as f64 / ticks,
        resident_bytes: after.resident_bytes,
        read_bytes: difference(before.read_bytes, after.read_bytes),
        written_bytes: difference(before.written_bytes, after.written_bytes),
        context_switches: switches_between(&before.context_switches, &after.context_switches),
    }
}

/// Fields 14 and 15 of `/proc/PID/stat` (proc(5)); the name before them may hold blanks and parentheses.
fn cpu_ticks(stat: &str) -> Option<(u64, u64)> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// The number after `name:` in a file of labelled lines.
fn labelled(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// Of each thread: the process's own status names only those of its first one.
fn context_switches(pid: u32) -> BTreeMap<u32, u64> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return BTreeMap::new() };
    let of_thread = |entry: fs::DirEntry| {
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let switches =
            labelled(&status, "voluntary_ctxt_switches")? + labelled(&status, "nonvoluntary_ctxt_switches")?;
        Some((entry.file_name().to_str()?.parse().ok()?, switches))
    };
    threads.flatten().filter_map(of_thread).collect()
}

/// Those of the threads that live at the end; the ones that have ended took theirs with them.
fn switches_between(before: &BTreeMap<u32, u64>, after: &BTreeMap<u32, u64>) -> u64 {
    let of_thread =
        |(thread, count): (&u32, &u64)| count.saturating_sub(before.get(thread).copied().unwrap_or(0));
    after.iter().map(of_thread).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc() {
        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 120 0 0 20";
        assert_eq!(cpu_ticks(stat), Some((250, 120)));
        assert_eq!(cpu_ticks("7 (a) S 1"), None);
        let io = "rchar: 9\nread_bytes: 4096\nwrite_bytes: 8192\ncancelled_write_bytes: 1\n";
        assert_eq!(labelled(io, "write_bytes"), Some(8192));
        assert_eq!(labelled("VmRSS:\t  1234 kB\n", "VmRSS"), Some(1234));
        assert_eq!(labelled(io, "bytes"), None);
    }

    #[test]
    fn switches_are_those_of_threads_that_live() {
        let before = BTreeMap::from([(1, 100), (2, 5000)]);
        let after = BTreeMap::from([(1, 130), (3, 7)]);
        assert_eq!(switches_between(&before, &after), 37);
    }

    #[test]
    fn this_process_can_be_read() {
        let pid = std::process::id();
        let before = sample(&[pid]).unwrap();
        let after = sample(&[pid]).unwrap();
        assert!(after.resident_bytes > 0);
        assert!(usage(&before, &after).cpu_seconds() >= 0.0);
        assert!(sample(&[pid, u32::MAX]).is_err());
    }

    #[test]
    fn processes_count_together() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let both = sample(&[std::process::id(), child.id()]).unwrap();
        let other = sample(&[child.id()]).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(other.resident_bytes > 0 && both.resident_bytes > other.resident_bytes);
        assert_eq!(other.context_switches.len(), 1);
        assert!(both.context_switches.len() > 1 && both.context_switches.contains_key(&child.id()));
    }
}
