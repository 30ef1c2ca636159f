//! Direct and durable writes into blocks that were written before, and into blocks that are only allocated.

use super::{Finding, merged};
use crate::clock::Clock;
use crate::failure::Failure;
use crate::latency::{histogram, record};
use crate::system::direct_file::{ALIGNMENT_BYTES, AlignedBytes, create_allocated, write_at};
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
    /// Bytes of one write, a multiple of 4096
    #[arg(long, value_name = "BYTES", default_value_t = 65_536, value_parser = clap::value_parser!(u64).range(4096..=64 << 20))]
    pub write_size: u64,
    /// Writes that are under way at the same time
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub depth: u16,
    /// Seconds of each of the four measurements
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    /// 10⁶ bytes of the file, which is written round and round
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

/// Measures durable and plain direct writes, each into allocated and into written blocks.
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
        // Each allocated block can be written for the first time only once.
        findings
            .push(writes(options, clock, &scratch.file, (slots, Some(slots)), is_durable).map_err(failed)?);
        let buffer = AlignedBytes::new(usize::try_from(options.write_size).unwrap_or(0));
        for slot in 0..slots {
            write_at(&scratch.file, buffer.as_slice(), slot * options.write_size, false).map_err(failed)?;
        }
        scratch.file.sync_all().map_err(failed)?;
        findings.push(writes(options, clock, &scratch.file, (slots, None), is_durable).map_err(failed)?);
    }
    Ok(findings)
}

/// Writes one slot after the other from several threads, until the time is over or the limit is reached.
fn writes(
    options: &DiskOptions,
    clock: &Clock,
    file: &File,
    (slots, limit): (u64, Option<u64>),
    is_durable: bool,
) -> io::Result<Finding> {
    let next = AtomicU64::new(0);
    let start_ns = clock.now_ns();
    let end_ns = start_ns + options.seconds * 1_000_000_000;
    let write = || -> io::Result<(Histogram<u64>, u64)> {
        let buffer = AlignedBytes::new(usize::try_from(options.write_size).unwrap_or(0));
        let (mut times, cpu_before_ns) = (histogram(), cpu_ns());
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let begin_ns = clock.now_ns();
            if begin_ns >= end_ns || limit.is_some_and(|limit| number >= limit) {
                return Ok((times, cpu_ns() - cpu_before_ns));
            }
            write_at(file, buffer.as_slice(), number % slots * options.write_size, is_durable)?;
            record(&mut times, clock.now_ns() - begin_ns);
        }
    };
    let results = thread::scope(|scope| {
        let threads: Vec<_> = (0..options.depth).map(|_| scope.spawn(write)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<io::Result<Vec<_>>>()
    })?;
    let seconds = (clock.now_ns() - start_ns) as f64 / 1e9;
    let cpu_seconds = results.iter().map(|result| result.1).sum::<u64>() as f64 / 1e9;
    let times = merged(results.into_iter().map(|result| result.0));
    let what = format!(
        "{} KiB {} into {} blocks, {} at once",
        options.write_size / 1024,
        if is_durable { "durable (RWF_DSYNC)" } else { "direct" },
        if limit.is_some() { "allocated" } else { "written" },
        options.depth
    );
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
        assert_eq!(findings.len(), 4);
        for finding in &findings {
            assert!(finding.latency.count >= 1 && finding.megabytes_per_second > 0.0, "{finding:?}");
        }
        assert!(findings[0].latency.count <= 1_000_000 / 4096);
        assert!(findings[2].what.contains("durable") && findings[2].what.contains("allocated"));
        let stays = |entry: io::Result<fs::DirEntry>| {
            let mark = format!("logmill-bench-probe-{}-", std::process::id());
            entry.unwrap().file_name().to_string_lossy().starts_with(&mark)
        };
        assert!(!fs::read_dir(&folder).unwrap().any(stays));
        let odd = DiskOptions { write_size: 5000, ..options };
        assert!(matches!(measure(&odd, &Clock::start()), Err(Failure::Usage(_))));
    }
}
