//! The filesystem of the data.

use super::{Check, Level, Measurement, Place, size};
use std::path::Path;

/// Room for a journal per shard of a small machine and the first segments.
const FREE_LEAST_BYTES: u64 = 256 << 20;
const FREE_WANTED_PERCENT: u64 = 10;
/// Filesystems on which durable direct writes are known to work as the broker counts on.
const FILESYSTEMS_WANTED: &[&str] = &["ext4", "xfs"];

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "log-dir.write",
        level: Level::Required,
        wanted: "a page can be written durably and read back",
        reason: "an acknowledged record is on the disk",
        risk: "the broker does not start",
        remedy: "make the directory writable for the broker's user, on a disk with room",
        look: |place| durable_write(place, false),
    },
    Check {
        name: "log-dir.direct",
        level: Level::Recommended,
        wanted: "direct I/O (O_DIRECT) works",
        reason: "the broker caches by itself, and a durable direct write is one operation of the disk",
        risk: "buffered writes, each followed by a flush: slower, and the page cache competes for memory",
        remedy: "put the data on ext4 or XFS on a local disk, not on overlayfs or a network",
        look: |place| durable_write(place, true),
    },
    Check {
        name: "log-dir.filesystem",
        level: Level::Recommended,
        wanted: "ext4 or XFS on a local disk",
        reason: "the broker is tried on these; others differ in what a durable write and a flush promise",
        risk: "slower writes; on memory or network filesystems, lost records",
        remedy: "put the data on ext4 or XFS on a local disk",
        look: filesystem,
    },
    Check {
        name: "log-dir.free.least",
        level: Level::Required,
        wanted: "at least 256 MiB free",
        reason: "the journals take their space when the broker starts",
        risk: "the broker does not start",
        remedy: "free some space, or choose a directory on another disk",
        look: |place| free(place, |free_bytes, _| free_bytes >= FREE_LEAST_BYTES),
    },
    Check {
        name: "log-dir.free",
        level: Level::Recommended,
        wanted: "at least a tenth of the filesystem free",
        reason: "filesystems slow down and scatter files when they are nearly full",
        risk: "long pauses, and no room when retention lags behind producers",
        remedy: "free some space, or keep less: log.retention.ms and log.retention.bytes",
        look: |place| free(place, |free_bytes, total| free_bytes >= total / 100 * FREE_WANTED_PERCENT),
    },
];

fn durable_write(place: &Place<'_>, is_direct: bool) -> Measurement {
    let directory = &place.directory;
    match place.host.try_durable_write(directory, is_direct) {
        Ok(()) => Measurement::ok(format!("works in {}", directory.display())),
        Err(error) => Measurement::missing(format!("{}: {error}", directory.display())),
    }
}

/// The mount that holds the directory: of all mount points above it the longest, and of those mounted over each
/// other the last.
fn filesystem(place: &Place<'_>) -> Measurement {
    let mounts = match place.host.read("/proc/self/mountinfo") {
        Ok(mounts) => mounts,
        Err(error) => return Measurement::unknown(format!("/proc/self/mountinfo: {error}")),
    };
    let holding =
        mounts.lines().filter_map(mount).filter(|(point, _)| place.directory.starts_with(Path::new(point)));
    match holding.max_by_key(|(point, _)| point.len()) {
        Some((point, kind)) => {
            Measurement::judged(format!("{kind} on {point}"), FILESYSTEMS_WANTED.contains(&kind))
        }
        None => Measurement::unknown(format!("no mount holds {}", place.directory.display())),
    }
}

/// A mount's point and filesystem (proc(5)): the fields after a lone dash begin with the filesystem.
fn mount(line: &str) -> Option<(String, &str)> {
    let (before, after) = line.split_once(" - ")?;
    // Blanks in the point are written in octal.
    let point = before.split(' ').nth(4)?.replace("\\040", " ");
    Some((point, after.split(' ').next()?))
}

fn free(place: &Place<'_>, is_enough: fn(u64, u64) -> bool) -> Measurement {
    match place.host.space(&place.directory) {
        Ok(space) => Measurement::judged(
            format!("{} of {}", size(space.free_bytes), size(space.total_bytes)),
            is_enough(space.free_bytes, space.total_bytes),
        ),
        Err(error) => Measurement::unknown(format!("{}: {error}", place.directory.display())),
    }
}
