//! A partition's state in ordinary types, as a checkpoint keeps it.

use std::fmt;

use logmill_wire::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs};

use super::epochs::{EpochEntry, EpochHistory};
use super::leader::Leader;
use super::producers::{ProducerBatch, ProducerState, ProducerStates};

/// Everything that a [`Leader`] knows. At a restart it is read back, and the batches of the log from
/// `next_offset` on are applied to it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PartitionSnapshot {
    /// The first offset that can be read.
    pub log_start_offset: i64,
    /// The log's end when the snapshot was taken.
    pub next_offset: i64,
    /// The end of what was durable.
    pub durable_end: i64,
    /// The high watermark.
    pub high_watermark: i64,
    /// The leader epoch, -1 before the first.
    pub leader_epoch: i32,
    /// Which epoch began where, oldest first.
    pub epochs: Vec<EpochEntry>,
    /// The idempotent producers, by id.
    pub producers: Vec<ProducerSnapshot>,
}

/// One idempotent producer in a [`PartitionSnapshot`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ProducerSnapshot {
    /// The producer.
    pub producer_id: i64,
    /// Its newest epoch.
    pub producer_epoch: i16,
    /// The offset of its newest record or marker.
    pub last_offset: i64,
    /// Milliseconds since the Unix epoch when it was last found active; `None` if it was active after that.
    pub last_active_ms: Option<i64>,
    /// Its newest batches, oldest first.
    pub batches: Vec<ProducerBatch>,
}

impl ProducerSnapshot {
    pub(super) fn of(id: ProducerId, state: &ProducerState) -> Self {
        Self {
            producer_id: id.0,
            producer_epoch: state.epoch().0,
            last_offset: state.last_offset().0,
            last_active_ms: state.last_active().map(|time| time.0),
            batches: state.batches().to_vec(),
        }
    }
}

/// What is wrong with a snapshot; it is then to be thrown away and the state rebuilt from the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SnapshotError {
    /// The offsets, or the newest epoch, are not in the order that always holds.
    Order,
    /// The epoch with this index does not follow the one before it.
    Epoch(usize),
    /// The producer with this index is there twice, contradicts itself, or is one too many.
    Producer(usize),
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Order => f.write_str("the snapshot's offsets and epochs contradict one another"),
            Self::Epoch(index) => write!(f, "the snapshot's epoch {index} does not follow the one before it"),
            Self::Producer(index) => write!(f, "the snapshot's producer {index} contradicts itself"),
        }
    }
}

impl std::error::Error for SnapshotError {}

impl Leader {
    /// The state as a checkpoint keeps it.
    #[must_use]
    pub fn snapshot(&self) -> PartitionSnapshot {
        let producers = self.producers.iter().map(|(id, state)| ProducerSnapshot::of(id, state));
        PartitionSnapshot {
            log_start_offset: self.log_start_offset.0,
            next_offset: self.next_offset.0,
            durable_end: self.durable_end.0,
            high_watermark: self.high_watermark.0,
            leader_epoch: self.leader_epoch.0,
            epochs: self.epochs.iter().collect(),
            producers: producers.collect(),
        }
    }

    /// The state that a checkpoint kept. No epoch has begun in it for this incarnation: call
    /// [`Leader::begin_epoch`] after the replay and before the first append.
    ///
    /// # Errors
    /// [`SnapshotError`], if the snapshot contradicts itself.
    pub fn restore(snapshot: &PartitionSnapshot) -> Result<Self, SnapshotError> {
        let epochs = EpochHistory::restore(snapshot.epochs.iter().copied()).map_err(SnapshotError::Epoch)?;
        let mut producers = ProducerStates::default();
        for (index, producer) in snapshot.producers.iter().enumerate() {
            let restored = producer.last_offset < snapshot.next_offset
                && producers.restore(
                    ProducerId(producer.producer_id),
                    ProducerEpoch(producer.producer_epoch),
                    Offset(producer.last_offset),
                    producer.last_active_ms.map(TimestampMs),
                    &producer.batches,
                );
            if !restored {
                return Err(SnapshotError::Producer(index));
            }
        }
        let leader = Self {
            log_start_offset: Offset(snapshot.log_start_offset),
            next_offset: Offset(snapshot.next_offset),
            durable_end: Offset(snapshot.durable_end),
            high_watermark: Offset(snapshot.high_watermark),
            leader_epoch: LeaderEpoch(snapshot.leader_epoch),
            epochs,
            producers,
            replicas: None,
        };
        if leader.leader_epoch < LeaderEpoch::NONE || !leader.is_in_order() {
            return Err(SnapshotError::Order);
        }
        Ok(leader)
    }
}
