//! Checkpoints: what lets the journal forget.

use super::LogError;
use super::appender::Log;
use super::store::Store;
use crate::runtime::buffer::Chunk;
use crate::runtime::{Durability, File, OffloadError, OpenMode, Runtime};
use crate::shard::join::{Boxed, join_all};
use logmill_state::partition::{EpochEntry, PartitionSnapshot, ProducerBatch, ProducerSnapshot, has_expired};
use logmill_wire::frame::checkpoint::{self as frame, Checkpoint, LogState};
use logmill_wire::ids::{LeaderEpoch, Offset, PartitionIndex, TimestampMs, TopicPartition, Uuid};
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Logs that are settled together when the journal waits for it, and when it has room: each takes writes and a flush of
/// its own, and those of a thousand logs at once would delay every commit for a while.
const SETTLED_TOGETHER_MAX: usize = 16;
const SETTLED_GENTLY_MAX: usize = 4;

/// The longest pause between logs that are settled gently.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// How long after a checkpoint found no space it is tried again, and how long after the pool was busy.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
const BUSY_INTERVAL: Duration = Duration::from_millis(5);

/// States that are copied before other tasks get their turn.
const COPIED_TOGETHER_MAX: usize = 256;

/// A log at the moment of a cut.
pub(super) struct AtCut<R: Runtime> {
    pub(super) log: Rc<Log<R>>,
    /// Its state; the first attempt at the checkpoint takes it.
    pub(super) state: Option<LogState>,
    /// What must be durable before the state may be: the end of the segment that it names.
    pub(super) segment_base: Offset,
    pub(super) end: u64,
    /// Segments before this one have no journal entries after the cut.
    pub(super) free_below: Offset,
    /// How often the log had been truncated.
    pub(super) truncations: u64,
}

impl<R: Runtime> AtCut<R> {
    /// Whether the log was truncated since: then all that it was at the cut was settled, and nothing holds of where.
    fn is_truncated(&self) -> bool {
        self.truncations != self.log.truncation.count()
    }
}

/// Which log a state is of.
#[must_use]
pub fn key_of(state: &LogState) -> TopicPartition {
    TopicPartition { topic_id: Uuid(state.topic_id), partition: PartitionIndex(state.partition) }
}

/// What a checkpoint keeps of a log.
pub(super) fn to_state<R: Runtime>(
    log: &Log<R>,
    snapshot: &PartitionSnapshot,
    base: Offset,
    end: u64,
) -> LogState {
    LogState {
        segment_opened_at: log.inner.borrow().segment_opened_at.map_or(-1, |at| at.0),
        damage: log.damage(),
        ..state_of(log.key, &log.directory_name, snapshot, (base, end))
    }
}

/// A log's state without what only the running log knows.
pub(super) fn state_of(
    key: TopicPartition,
    directory: &str,
    snapshot: &PartitionSnapshot,
    (base, end): (Offset, u64),
) -> LogState {
    LogState {
        topic_id: key.topic_id.0,
        partition: key.partition.0,
        directory: directory.to_owned(),
        segment_base: base.0,
        end_position: end,
        log_start_offset: snapshot.log_start_offset,
        next_offset: snapshot.next_offset,
        leader_epoch: snapshot.leader_epoch,
        epochs: snapshot.epochs.iter().map(|entry| (entry.epoch.0, entry.start_offset.0)).collect(),
        producers: snapshot.producers.iter().map(to_producer).collect(),
        segment_opened_at: -1,
        damage: None,
    }
}

impl<R: Runtime> Store<R> {
    /// Forgets the producers that the log's last state names and that have been idle for `expiration_ms`. The next
    /// checkpoint keeps this; for a log that nobody appends to, that is the one of an orderly stop, so that an idle broker
    /// writes nothing.
    pub fn expire_producers(&self, log: TopicPartition, now: TimestampMs, expiration_ms: i64) {
        let mut states = self.states.borrow_mut();
        let Some(state) = states.get_mut(&log) else { return };
        state.producers.retain_mut(|producer| {
            let mut last_active = producer.last_active_ms.map(TimestampMs);
            let is_kept = !has_expired(&mut last_active, now, expiration_ms);
            let last_active_ms = last_active.map(|time| time.0);
            if !is_kept || last_active_ms != producer.last_active_ms {
                self.aged.set(true);
            }
            producer.last_active_ms = last_active_ms;
            is_kept
        });
    }
}

fn to_producer(producer: &ProducerSnapshot) -> frame::Producer {
    frame::Producer {
        producer_id: producer.producer_id,
        producer_epoch: producer.producer_epoch,
        last_offset: producer.last_offset,
        last_active_ms: producer.last_active_ms,
        batches: producer
            .batches
            .iter()
            .map(|batch| frame::ProducerBatch {
                base_offset: batch.base_offset.0,
                max_timestamp: batch.max_timestamp.0,
                first_sequence: batch.first_sequence,
                last_offset_delta: batch.last_offset_delta,
            })
            .collect(),
    }
}

/// The partition's state that a checkpoint kept. All of it was durable.
#[must_use]
pub fn from_state(state: &LogState) -> PartitionSnapshot {
    PartitionSnapshot {
        log_start_offset: state.log_start_offset,
        next_offset: state.next_offset,
        durable_end: state.next_offset,
        high_watermark: state.next_offset,
        leader_epoch: state.leader_epoch,
        epochs: state
            .epochs
            .iter()
            .map(|&(epoch, start)| EpochEntry { epoch: LeaderEpoch(epoch), start_offset: Offset(start) })
            .collect(),
        producers: state
            .producers
            .iter()
            .map(|producer| ProducerSnapshot {
                producer_id: producer.producer_id,
                producer_epoch: producer.producer_epoch,
                last_offset: producer.last_offset,
                last_active_ms: producer.last_active_ms,
                batches: producer
                    .batches
                    .iter()
                    .map(|batch| ProducerBatch {
                        base_offset: Offset(batch.base_offset),
                        max_timestamp: TimestampMs(batch.max_timestamp),
                        first_sequence: batch.first_sequence,
                        last_offset_delta: batch.last_offset_delta,
                    })
                    .collect(),
            })
            .collect(),
    }
}

/// Makes a checkpoint of the logs as they were at a cut, and then frees the journal before `sequence`.
pub(super) async fn make<R: Runtime>(
    store: Rc<Store<R>>,
    journal_id: Uuid,
    sequence: u64,
    cut: u64,
    mut logs: Vec<AtCut<R>>,
) {
    loop {
        match try_make(&store, journal_id, sequence, cut, &mut logs).await {
            Ok(()) => {
                store.starved.set(false);
                store.completed_cut.set(cut);
                store.release_before.set(sequence);
                break;
            }
            // The journal keeps what the checkpoint would have freed, and appends are refused once it is full.
            Err(LogError::NoSpace) if !store.health.is_failed() => {
                if !store.starved.replace(true) {
                    tracing::warn!("no space is left for a checkpoint; it is tried again until there is");
                }
                store.progress.notify_all();
                if store.stopping.get() {
                    break;
                }
                store.runtime.sleep(RETRY_INTERVAL).await;
            }
            // A log directory that cannot be settled may have lost what it was given; nothing is tried twice.
            Err(error) => {
                store.health.fail(format!("a checkpoint failed: {error}"));
                break;
            }
        }
    }
    store.extent_bytes_since_cut.set(0);
    store.checkpoint_running.set(false);
    store.work.notify_all();
    store.progress.notify_all();
}

async fn try_make<R: Runtime>(
    store: &Rc<Store<R>>,
    journal_id: Uuid,
    sequence: u64,
    cut: u64,
    logs: &mut [AtCut<R>],
) -> Result<(), LogError> {
    let mut rest = &*logs;
    while !rest.is_empty() {
        let gently = !store.checkpoint_is_urgent();
        let count = if gently { SETTLED_GENTLY_MAX } else { SETTLED_TOGETHER_MAX };
        let (together, later) = rest.split_at(count.min(rest.len()));
        rest = later;
        let begun = store.runtime.monotonic();
        let settling: Vec<Boxed<'_, Result<(), LogError>>> = together
            .iter()
            .map(|at| {
                let log = Rc::clone(&at.log);
                Box::pin(async move {
                    match log.settle().await {
                        // Its segments went while they were being settled.
                        Err(_) if log.deleted.get() => Ok(()),
                        outcome => outcome,
                    }
                }) as _
            })
            .collect();
        for outcome in join_all(settling).await {
            outcome?;
        }
        if gently && !rest.is_empty() {
            // Half of the time is for those who commit.
            let taken = Duration::from_nanos(store.runtime.monotonic().since(begun));
            store.runtime.sleep(taken.min(PAUSE_MAX)).await;
        }
    }
    wait_until_durable(store, logs).await?;
    for at in logs.iter_mut() {
        at.log.in_checkpoint.set(true);
        if let Some(state) = at.state.take() {
            store.states.borrow_mut().insert(at.log.key, state);
        }
    }
    // A log that was deleted before the last cut has nothing in the journal after this one.
    let is_over = |deleted_in: u64| deleted_in + 1 < cut;
    for (log, _) in store.doomed.borrow().iter().filter(|(_, deleted_in)| is_over(*deleted_in)) {
        store.states.borrow_mut().remove(log);
    }
    let states = copy_states(store).await;
    for (log, _) in store.doomed.borrow().iter().filter(|(_, deleted_in)| *deleted_in < cut) {
        store.states.borrow_mut().remove(log);
    }
    let checkpoint = Checkpoint {
        journal_id: journal_id.0,
        replay_from_sequence: sequence,
        written_from_sequence: store.written_from(),
        logs: states,
    };
    let shard = store.runtime.shard();
    write(&store.runtime, &store.run.checkpoint(shard), &store.run.path(), checkpoint).await?;
    store.doomed.borrow_mut().retain(|(_, deleted_in)| !is_over(*deleted_in));
    store.remove_forgotten();
    for at in logs.iter().filter(|at| !at.is_truncated()) {
        at.log.set_free(at.free_below);
    }
    Ok(())
}

/// Waits until the journal has all that the logs had at the cut.
async fn wait_until_durable<R: Runtime>(store: &Rc<Store<R>>, logs: &[AtCut<R>]) -> Result<(), LogError> {
    for at in logs {
        while !at.is_truncated() && !at.log.is_durable_to(at.segment_base, at.end) {
            if store.health.is_failed() {
                return Err(LogError::DirectoryFailed(store.health.cause().unwrap_or_default()));
            }
            store.progress.wait().await;
        }
    }
    Ok(())
}

/// Copies the states in steps: there may be a hundred thousand of them.
async fn copy_states<R: Runtime>(store: &Rc<Store<R>>) -> Vec<LogState> {
    let mut copied = Vec::new();
    let mut lower = Bound::Unbounded;
    loop {
        let before = copied.len();
        for (key, state) in store.states.borrow().range((lower, Bound::Unbounded)).take(COPIED_TOGETHER_MAX) {
            copied.push(state.clone());
            lower = Bound::Excluded(*key);
        }
        if copied.len() < before + COPIED_TOGETHER_MAX {
            return copied;
        }
        store.runtime.yield_now().await;
    }
}

/// Writes a checkpoint file so that either the old one or the new one is there after a crash.
///
/// # Errors
/// Those of the disk.
pub async fn write<R: Runtime>(
    runtime: &R,
    path: &Path,
    parent: &Path,
    checkpoint: Checkpoint,
) -> io::Result<()> {
    let sealed = seal(runtime, checkpoint).await?;
    let fresh = path.with_extension("new");
    let mut chunk = Chunk::with_capacity(sealed.len());
    chunk.append(&sealed);
    chunk.pad_to(logmill_wire::limits::PAGE_BYTES);
    let file = runtime.open(&fresh, OpenMode::Create).await?;
    file.set_length(0).await?;
    file.write(chunk.view_all(), 0, Durability::Cached).await?;
    file.flush().await?;
    runtime.rename(&fresh, path).await?;
    runtime.sync_directory(parent).await
}

/// Encodes a checkpoint on the pool, however long that is busy.
async fn seal<R: Runtime>(runtime: &R, checkpoint: Checkpoint) -> io::Result<Vec<u8>> {
    let checkpoint = Arc::new(checkpoint);
    loop {
        let work = Arc::clone(&checkpoint);
        match runtime.offload(move || frame::seal(&work)).await {
            Ok(sealed) => return sealed.map_err(|_| io::Error::other("the checkpoint could not be encoded")),
            Err(OffloadError::Busy) => runtime.sleep(BUSY_INTERVAL).await,
            Err(OffloadError::Panicked) => {
                return Err(io::Error::other("the encoding of the checkpoint panicked"));
            }
        }
    }
}
