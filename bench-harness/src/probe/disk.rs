//! Direct and durable writes into blocks that were written before, and into blocks that are only allocated; direct reads.

use super::{Finding, merged};
use crate::clock::Clock;
use crate::failure::Failure;
use crate::latency::{histogram, record};
use crate::system::direct_file::{ALIGNMENT_BYTES, AlignedBytes, create_allocated, read_at, write_at};
use crate::system::thread_time::cpu_ns;
use hdrhistogram::Histogram;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// Options of `probe disk`.
#[derive(Clone, Debug, clap::Args)]
pub struct DiskOptions {
    /// A folder on the disk; a file is made in it and removed again
    #[arg(long, value_name = "FOLDER")]
    pub folder: PathBuf,
    /// Bytes of one write or read, a multiple of 4096
    #[arg(long, value_name = "BYTES", default_value_t = 65_536, value_parser = clap::value_parser!(u64).range(4096..=64 << 20))]
    pub write_size: u64,
    /// Writes or reads that are under way at the same time
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub depth: u16,
    /// Seconds of each of the five measurements
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    /// 10⁶ bytes of the file, which is written and read round and round
    #[arg(long, value_name = "MB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub file_mb: u64,
}

/// The file, which goes when this does.
struct Scratch {
    path: PathBuf,
    file: File,
}

impl Scratch {
    fn create(path: PathBuf, bytes: u64) -> Result<Self, Failure> {
        let file = create_allocated(&path, bytes).map_err(|cause| {
            let _ = fs::remove_file(&path);
            Failure::File { path: path.display().to_string(), cause }
        })?;
        Ok(Self { path, file })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A file that stays is a nuisance and no error of the measurement.
        let _ = fs::remove_file(&self.path);
    }
}

/// What is done over and over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Writes into allocated blocks, each of which can be written for the first time only once.
    FirstWrites { is_durable: bool },
    /// Writes into written blocks.
    Writes { is_durable: bool },
    /// Reads of written blocks.
    Reads,
}

/// Measures plain and durable direct writes, each into allocated and into written blocks, and direct reads.
///
/// # Errors
/// [`Failure::Usage`] for a size that direct I/O cannot do, [`Failure::File`] for what the disk refuses.
pub fn measure(options: &DiskOptions, clock: &Clock) -> Result<Vec<Finding>, Failure> {
    if !options.write_size.is_multiple_of(ALIGNMENT_BYTES as u64) {
        return Err(Failure::Usage(format!(
            "--write-size is not a multiple of {ALIGNMENT_BYTES}; make it one"
        )));
    }
    let slots = (options.file_mb * 1_000_000 / options.write_size).max(1);
    let mut findings = Vec::new();
    for is_durable in [false, true] {
        let name = format!("logmill-bench-probe-{}-{}", std::process::id(), clock.now_ns());
        let scratch = Scratch::create(options.folder.join(name), slots * options.write_size)?;
        let failed = |cause| Failure::File { path: scratch.path.display().to_string(), cause };
        let mut find = |work| -> Result<(), Failure> {
            findings.push(repeat(options, clock, &scratch.file, (slots, work)).map_err(failed)?);
            Ok(())
        };
        find(Work::FirstWrites { is_durable })?;
        let buffer = AlignedBytes::new(usize::try_from(options.write_size).unwrap_or(0));
        for slot in 0..slots {
            write_at(&scratch.file, buffer.as_slice(), slot * options.write_size, false).map_err(failed)?;
        }
        scratch.file.sync_all().map_err(failed)?;
        find(Work::Writes { is_durable })?;
        if is_durable {
            find(Work::Reads)?;
        }
    }
    Ok(findings)
}

/// Writes or reads one slot after the other from several threads, until the time is over or there is nothing left.
fn repeat(
    options: &DiskOptions,
    clock: &Clock,
    file: &File,
    (slots, work): (u64, Work),
) -> io::Result<Finding> {
    let limit = matches!(work, Work::FirstWrites { .. }).then_some(slots);
    let next = AtomicU64::new(0);
    let start_ns = clock.now_ns();
    let end_ns = start_ns + options.seconds * 1_000_000_000;
    let operate = || -> io::Result<(Histogram<u64>, u64)> {
        let mut buffer = AlignedBytes::new(usize::try_from(options.write_size).unwrap_or(0));
        let (mut times, cpu_before_ns) = (histogram(), cpu_ns());
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let begin_ns = clock.now_ns();
            if begin_ns >= end_ns || limit.is_some_and(|limit| number >= limit) {
                return Ok((times, cpu_ns() - cpu_before_ns));
            }
            let offset = number % slots * options.write_size;
            match work {
                Work::FirstWrites { is_durable } | Work::Writes { is_durable } => {
                    write_at(file, buffer.as_slice(), offset, is_durable)?;
                }
                Work::Reads => read_at(file, buffer.as_mut_slice(), offset)?,
            }
            record(&mut times, clock.now_ns() - begin_ns);
        }
    };
    let results = thread::scope(|scope| {
        let threads: Vec<_> = (0..options.depth).map(|_| scope.spawn(operate)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<io::Result<Vec<_>>>()
    })?;
    let seconds = (clock.now_ns() - start_ns) as f64 / 1e9;
    let cpu_seconds = results.iter().map(|result| result.1).sum::<u64>() as f64 / 1e9;
    let times = merged(results.into_iter().map(|result| result.0));
    let doing = match work {
        Work::FirstWrites { is_durable: false } => "direct into allocated blocks",
        Work::FirstWrites { is_durable: true } => "durable (RWF_DSYNC) into allocated blocks",
        Work::Writes { is_durable: false } => "direct into written blocks",
        Work::Writes { is_durable: true } => "durable (RWF_DSYNC) into written blocks",
        Work::Reads => "read directly",
    };
    let what = format!("{} KiB {doing}, {} at once", options.write_size / 1024, options.depth);
    Ok(Finding::new(what, seconds, times.len() * options.write_size, cpu_seconds, &times))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_write_is_measured_and_nothing_stays() {
        // Memory file systems may have no direct I/O; the build's folder is on a disk.
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target");
        let options =
            DiskOptions { folder: folder.clone(), write_size: 4096, depth: 2, seconds: 1, file_mb: 1 };
        let findings = measure(&options, &Clock::start()).unwrap();
        assert_eq!(findings.len(), 5);
        for finding in &findings {
            assert!(finding.latency.count >= 1 && finding.megabytes_per_second > 0.0, "{finding:?}");
        }
        assert!(findings[0].latency.count <= 1_000_000 / 4096);
        assert!(findings[2].what.contains("durable") && findings[2].what.contains("allocated"));
        assert!(findings[4].what.contains("read") && findings[4].latency.count > 250, "{findings:?}");
        let stays = |entry: io::Result<fs::DirEntry>| {
            let mark = format!("logmill-bench-probe-{}-", std::process::id());
            entry.unwrap().file_name().to_string_lossy().starts_with(&mark)
        };
        assert!(!fs::read_dir(&folder).unwrap().any(stays));
        let odd = DiskOptions { write_size: 5000, ..options };
        assert!(matches!(measure(&odd, &Clock::start()), Err(Failure::Usage(_))));
    }
}
