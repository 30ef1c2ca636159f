//! How a simulated world behaves, besides its seed.

use super::chance::Chance;
use std::time::Duration;

/// Ranges that the world draws from. Times are nanoseconds of virtual time, from–to, both possible.
#[derive(Clone, Debug)]
pub struct Options {
    /// What one poll of a task costs.
    pub poll_ns: (u64, u64),
    /// How late a timer fires.
    pub timer_late_ns: (u64, u64),
    /// How long offloaded work takes.
    pub offload_ns: (u64, u64),
    /// The probability that the pool is full.
    pub offload_busy: f64,
    /// The way between two ends on one host.
    pub local_latency_ns: (u64, u64),
    /// The way between two hosts, one direction.
    pub network_latency_ns: (u64, u64),
    /// Bytes of one direction that a connection holds before a send waits.
    pub window_bytes: (u64, u64),
    /// The probability that sending a segment resets its connection.
    pub reset: f64,
    /// How long a connect waits for a host that does not answer.
    pub connect_timeout: Duration,
    /// Milliseconds since the Unix epoch when the world begins.
    pub wall_clock_start_ms: i64,
    /// How the disks behave.
    pub disk: DiskOptions,
}

/// How a simulated disk behaves.
#[derive(Clone, Debug)]
pub struct DiskOptions {
    /// How long a read takes.
    pub read_ns: (u64, u64),
    /// How long a write takes.
    pub write_ns: (u64, u64),
    /// How long a flush takes, and what a durable write takes longer.
    pub flush_ns: (u64, u64),
    /// How long opening, listing, renaming and the like take.
    pub names_ns: (u64, u64),
    /// The probability that an operation takes a hundred times as long.
    pub slow: f64,
    /// Whether two writes to one page that are under way together are a bug worth a panic. They may be
    /// applied in either order, so hardly any code means it.
    pub refuse_overlapping_writes: bool,
    /// The probability that a sector that was being written is garbage after a crash.
    pub garbage: f64,
    /// The probability that a read gives one wrong bit; what lies on the disk is right.
    pub read_corruption: f64,
    /// Whether files claim to be open for direct I/O; alignment is demanded in either case.
    pub is_direct: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            poll_ns: (100, 3_000),
            timer_late_ns: (0, 80_000),
            offload_ns: (1_000, 500_000),
            offload_busy: 0.0,
            local_latency_ns: (2_000, 60_000),
            network_latency_ns: (20_000, 2_000_000),
            window_bytes: (4 << 10, 512 << 10),
            reset: 0.0,
            connect_timeout: Duration::from_secs(10),
            wall_clock_start_ms: 1_750_000_000_000,
            disk: DiskOptions::default(),
        }
    }
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self {
            read_ns: (10_000, 300_000),
            write_ns: (10_000, 500_000),
            flush_ns: (50_000, 5_000_000),
            names_ns: (5_000, 500_000),
            slow: 0.001,
            refuse_overlapping_writes: true,
            garbage: 0.1,
            read_corruption: 0.0,
            is_direct: true,
        }
    }
}

impl Options {
    /// Options drawn from a seed, so that seeds differ in their kind of world, too: fast and slow disks,
    /// short and long ways, narrow and wide windows. No faults.
    #[must_use]
    pub fn drawn(seed: u64) -> Self {
        // Another stream than the world's own.
        let mut chance = Chance::new(seed ^ 0x6f70_7469_6f6e_7321);
        let mut options = Self::default();
        options.network_latency_ns.1 = 20_000 << chance.below(10);
        options.window_bytes = (256, 2_048 << chance.below(10));
        options.poll_ns.1 = 100 << chance.below(8);
        let disk = &mut options.disk;
        disk.write_ns.1 = 10_000 << chance.below(11);
        disk.read_ns.1 = 10_000 << chance.below(9);
        disk.flush_ns.1 = 50_000 << chance.below(10);
        disk.slow = if chance.one_in(2) { 0.0 } else { 0.01 };
        disk.garbage = if chance.one_in(3) { 0.0 } else { 0.2 };
        options
    }
}
