//! Times and sizes of a quorum.

use super::disk::DiskSettings;
use std::time::Duration;

/// After how long a silence an observer is forgotten, as by Kafka's leaders (KIP-836). One that lives asks to be one again.
const OBSERVER_SESSION: Duration = Duration::from_secs(300);

/// Times and sizes of a quorum.
#[derive(Clone, Copy, Debug)]
pub struct QuorumSettings {
    /// The clock's unit.
    pub tick: Duration,
    /// Ticks without a leader after which a voter stands; it waits up to twice as long, by chance.
    pub election_ticks: usize,
    /// Ticks between a leader's signs of life.
    pub heartbeat_ticks: usize,
    /// Of the durable state.
    pub disk: DiskSettings,
    /// Bytes of a snapshot that go in one frame.
    pub piece_bytes: usize,
}

impl QuorumSettings {
    /// The settings for `controller.quorum.election.timeout.ms`.
    #[must_use]
    pub fn with_election_timeout_ms(timeout_ms: u64) -> Self {
        let election_ticks = 10;
        Self {
            tick: Duration::from_millis((timeout_ms / election_ticks).max(1)),
            election_ticks: election_ticks as usize,
            heartbeat_ticks: 2,
            disk: DiskSettings { journal_bytes: 32 << 20 },
            piece_bytes: 256 << 10,
        }
    }

    pub(super) const fn entry_bytes_max(&self) -> u64 {
        self.disk.journal_bytes / 16
    }

    /// Bytes of entries behind the last snapshot that make another one worth while.
    pub(super) const fn snapshot_after_bytes(&self) -> u64 {
        self.disk.journal_bytes / 8
    }

    /// Ticks of silence after which an observer is no member any more.
    pub(super) const fn observer_ticks(&self) -> u32 {
        let tick_ms = self.tick.as_millis();
        let ticks = OBSERVER_SESSION.as_millis() / if tick_ms == 0 { 1 } else { tick_ms };
        if ticks > u32::MAX as u128 { u32::MAX } else { ticks as u32 }
    }
}
