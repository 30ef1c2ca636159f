//! A store and the logs in it, put together as a broker does, without partitions.

use super::promise::{Batch, End, Promise};
use logmill::journal::Journal;
use logmill::log::{DirectoryHealth, Log, LogError, LogSettings, Owner, Store, StoreSettings, recover};
use logmill::runtime::Runtime;
use logmill::runtime::simulated::{Host, SimulatedRuntime};
use logmill_state::partition::{Leader, LogChange, PartitionSnapshot};
use logmill_wire::ids::{
    LeaderEpoch, Offset, PartitionIndex, ProducerEpoch, ProducerId, ShardIndex, TimestampMs, TopicPartition,
    Uuid,
};
use logmill_wire::record_batch::{BatchBuilder, BatchHeader, assign};
use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

/// The sizes that a run works with.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Those of the store.
    pub store: StoreSettings,
    /// `segment.bytes`.
    pub segment_bytes: u64,
    /// The largest batch.
    pub batch_bytes_max: u64,
}

/// What outlives the broker.
#[derive(Default)]
pub struct Held {
    /// One of each log.
    pub promises: Vec<Promise>,
    /// How the last life ended; none before the first.
    pub how: Option<End>,
    /// The first promise that was broken.
    pub broken: Option<String>,
    /// Batches appended.
    pub appends: u64,
    /// Logs that were cut.
    pub cuts: u64,
    /// Logs that were emptied.
    pub resets: u64,
    /// Changes that met an error.
    pub refused: u64,
    /// Changes under way when the last life ended.
    pub interrupted: u64,
    /// Those of them that were found made.
    pub made: u64,
}

/// What the tasks and the run share.
pub type Shared = Rc<RefCell<Held>>;

/// A running broker.
pub struct Replica {
    /// Its machine.
    pub runtime: SimulatedRuntime,
    /// Its store.
    pub store: Rc<Store<SimulatedRuntime>>,
    /// Its logs.
    pub logs: Vec<Rc<Following>>,
    /// Whether it is being stopped.
    pub ending: Cell<bool>,
    pub(super) sizes: Sizes,
}

/// A log and the state of its partition.
pub struct Following {
    /// The log.
    pub log: Rc<Log<SimulatedRuntime>>,
    pub(super) at: usize,
    runtime: SimulatedRuntime,
    leader: RefCell<Leader>,
    shared: Shared,
}

impl Owner for Following {
    fn on_durable(&self, end: Offset) {
        self.leader.borrow_mut().advance_durable(end);
        self.promise(|promise| promise.acknowledged = promise.acknowledged.max(end));
    }

    fn on_start(&self, start: Offset) {
        if self.leader.borrow_mut().advance_log_start(start).is_err() {
            self.break_promise(&format!("LogStart: {start} is above what was acknowledged"));
        }
        self.promise(|promise| promise.start = promise.start.max(start));
    }

    fn on_failed(&self) {}

    fn snapshot(&self) -> PartitionSnapshot {
        self.leader.borrow().snapshot()
    }
}

/// The name of a log.
#[must_use]
pub fn key_of(at: usize) -> TopicPartition {
    TopicPartition { topic_id: Uuid([5; 16]), partition: PartitionIndex(at as i32) }
}

impl Replica {
    /// Recovers the log directory, holds what was found against the promises, and starts.
    ///
    /// # Errors
    /// Why it refuses to start.
    pub async fn start(host: Host, sizes: Sizes, shared: Shared) -> Result<Rc<Self>, String> {
        let runtime = host.runtime(ShardIndex(0));
        let path = Path::new("/data");
        let text = |error: &dyn std::fmt::Display| error.to_string();
        runtime.create_directory(path).await.map_err(|error| text(&error))?;
        runtime.sync_directory(Path::new("/")).await.map_err(|error| text(&error))?;
        let recovery = recover(&runtime, path).await.map_err(|error| text(&error))?;
        let bytes = sizes.store.journal_bytes;
        let opened = recovery.begin_run(&runtime, 1, move |_| bytes, |_| ShardIndex(0)).await;
        let opened = opened.map_err(|error| text(&error))?;
        let (id, states) = opened.shards.into_iter().next().ok_or("a run without shards")?;
        let journal = Journal::open_fresh(&runtime, &opened.run.journal(ShardIndex(0)), id).await;
        let journal = journal.map_err(|error| text(&error))?;
        let health = Arc::<DirectoryHealth>::default();
        let store = Store::start(runtime.clone(), opened.run, health, sizes.store, journal, states);
        let logs = shared.borrow().promises.len();
        let logs =
            (0..logs).map(|at| Following::open(&runtime, &store, at, &shared)).collect::<Result<_, _>>()?;
        Ok(Rc::new(Self { runtime, store, logs, ending: Cell::new(false), sizes }))
    }

    /// Reads everything back.
    pub async fn check_after_start(self: &Rc<Self>) {
        for log in &self.logs {
            if let Err(error) = log.compare_all().await {
                log.break_promise(&format!("NothingAcknowledgedLost: {error}"));
            }
        }
    }
}

impl Following {
    fn open(
        runtime: &SimulatedRuntime,
        store: &Rc<Store<SimulatedRuntime>>,
        at: usize,
        shared: &Shared,
    ) -> Result<Rc<Self>, String> {
        let runtime = runtime.clone();
        let key = key_of(at);
        let (log, leader) = match store.state_of(key) {
            Some(state) if state.damage.is_some() => {
                return Err(format!("log {at} is damaged: {:?}", state.damage));
            }
            Some(state) => {
                let (log, snapshot) = Log::from_state(Rc::clone(store), &state);
                (log, Leader::restore(&snapshot).map_err(|error| error.to_string())?)
            }
            None => (Log::fresh(Rc::clone(store), key, format!("t-{at}")), Leader::default()),
        };
        let following =
            Rc::new(Self { log, at, runtime, leader: RefCell::new(leader), shared: Rc::clone(shared) });
        let weak: Weak<Self> = Rc::downgrade(&following);
        following.log.set_owner(weak);
        let snapshot = following.snapshot();
        let mut held = shared.borrow_mut();
        let how = held.how;
        if let (Some(how), Some(promise)) = (how, held.promises.get_mut(at)) {
            let (pending, batches) = (promise.pending, promise.batches.len());
            let found = promise.found(&snapshot, how);
            let is_made = pending.is_some() && promise.batches.len() < batches;
            held.made += u64::from(is_made);
            if let Err(what) = found {
                held.broken.get_or_insert(format!("OldOrCut: log {at}: {what}"));
            }
        }
        Ok(following)
    }

    pub(super) fn promise<T>(&self, action: impl FnOnce(&mut Promise) -> T) -> T {
        let mut held = self.shared.borrow_mut();
        #[expect(clippy::indexing_slicing, reason = "a log has its promise")]
        action(&mut held.promises[self.at])
    }

    /// Lets later appends be of a newer leader.
    pub fn begin_epoch(&self) {
        self.promise(|promise| promise.epoch += 1);
    }

    /// A copy of what was promised.
    #[must_use]
    pub fn promised(&self) -> Promise {
        self.promise(|promise| promise.clone())
    }

    /// Notes the first promise that was broken.
    pub fn break_promise(&self, what: &str) {
        self.shared.borrow_mut().broken.get_or_insert(format!("log {}: {what}", self.at));
    }

    /// Whether something keeps this log from being changed by its owner.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.promise(|promise| promise.pending.is_some())
    }

    /// Appends a batch of so many bytes as a leader of this epoch sent it, `gap` offsets behind the log's end, and
    /// returns its end.
    ///
    /// # Errors
    /// If the log cannot take it.
    pub async fn append(
        self: &Rc<Self>,
        (records, bytes): (i32, usize),
        gap: i64,
        sizes: &Sizes,
    ) -> Result<Offset, LogError> {
        let runtime = &self.runtime;
        let write_caching = self.promise(|promise| promise.write_caching);
        let settings =
            LogSettings { segment_bytes: sizes.segment_bytes, segment_ms: i64::MAX, write_caching };
        let end = self.promise(|promise| promise.end());
        let batch = self.promise(|promise| make_batch(promise, end.plus(gap), records, bytes));
        let length = batch.bytes.len() as u64;
        let now = runtime.wall_clock();
        loop {
            if !self.log.can_append(length, now, &settings) {
                self.log.prepare(length, end, now, &settings).await?;
                runtime.yield_now().await;
            } else if gap > 0 && !self.log.expects_gaps_below(batch.header.base_offset) {
                self.log.expect_gaps_below(batch.header.base_offset).await?;
            } else {
                break;
            }
        }
        let is_written = self.log.append(&batch.header, &batch.bytes, now, write_caching);
        self.leader.borrow_mut().apply_batch(&batch.header);
        let next = batch.header.next_offset();
        self.promise(|promise| promise.take(batch));
        self.shared.borrow_mut().appends += 1;
        if is_written {
            self.on_durable(next);
        }
        Ok(next)
    }

    /// Changes the log as a follower does; after an error it is still pending.
    ///
    /// # Errors
    /// If the log could not be changed.
    pub async fn change(self: &Rc<Self>, change: LogChange) -> Result<(), LogError> {
        self.promise(|promise| {
            promise.pending = Some(change);
            promise.changes += 1;
        });
        let truncated = match self.log.truncate(change).await {
            Ok(truncated) => truncated,
            Err(error) => {
                self.shared.borrow_mut().refused += 1;
                return Err(error);
            }
        };
        let end = truncated.end;
        let start = match change {
            LogChange::Reset { start } => start,
            LogChange::Cut { .. } => end.min(self.promise(|promise| promise.start)),
        };
        if !self.promise(|promise| promise.allows(change, start, end)) {
            self.break_promise(&format!("Truncated: {change:?} led to {end}"));
            return Ok(());
        }
        let before = self.snapshot();
        self.promise(|promise| promise.changed(change, start, end));
        let promise = self.promised();
        let mut snapshot = promise.replayed().snapshot();
        let mut told = before;
        told.producers.clone_from(&snapshot.producers);
        let told_states = told.producer_states();
        if promise.is_whole && told_states != truncated.producers {
            self.break_promise(&format!(
                "ProducersAsReplayed: {change:?} left {:?}, a replay gives {told_states:?}",
                truncated.producers
            ));
        }
        snapshot.log_start_offset = start.0;
        match Leader::restore(&snapshot) {
            Ok(leader) => *self.leader.borrow_mut() = leader,
            Err(error) => self.break_promise(&format!("Harness: {error}")),
        }
        let mut held = self.shared.borrow_mut();
        match change {
            LogChange::Cut { .. } => held.cuts += 1,
            LogChange::Reset { .. } => held.resets += 1,
        }
        Ok(())
    }

    /// Reads everything from the log's start on.
    ///
    /// # Errors
    /// Those of the disk; rot is a broken promise.
    pub async fn compare_all(self: &Rc<Self>) -> Result<(), LogError> {
        let mut offset = self.promise(|promise| promise.start);
        let end = self.log.readable_end();
        while offset < end {
            let expected = self.promise(|promise| promise.stream_from(offset));
            let read = match self.log.read(offset, 100_000, true, None).await {
                // Its start has moved on meanwhile.
                Err(LogError::OutOfRange) if self.promise(|promise| promise.start) > offset => return Ok(()),
                Err(error @ (LogError::Damaged(_) | LogError::OutOfRange)) => {
                    self.break_promise(&format!("NothingAcknowledgedLost: offset {offset}: {error}"));
                    return Err(error);
                }
                read => read?,
            };
            let bytes: Vec<u8> = read.views.iter().flat_map(|view| view.iter().copied()).collect();
            let Some(next) = end_of(&bytes).filter(|_| expected.starts_with(&bytes)) else {
                self.break_promise(&format!("BytesAsGiven: offset {offset} reads as something else"));
                return Ok(());
            };
            offset = next;
        }
        Ok(())
    }

    /// Reads somewhere while the log may be changing: what is served was there at the beginning or at the end.
    pub async fn look(self: &Rc<Self>, offset: Offset, max_bytes: usize) {
        let before = self.promised();
        let outcome = self.log.read(offset, max_bytes, true, None).await;
        let after = self.promised();
        match outcome {
            Ok(read) => {
                let bytes: Vec<u8> = read.views.iter().flat_map(|view| view.iter().copied()).collect();
                let is_of = |promise: &Promise| promise.stream_from(offset).starts_with(&bytes);
                let mut made = after.clone();
                if let Some(change) = after.pending {
                    let (start, end) = after.expected(change);
                    made.changed(change, start, end);
                }
                // If a change was begun and made meanwhile, it may be what was appended and cut off in between.
                let is_known = after.changes <= before.changes + 1;
                if is_known && ![&before, &after, &made].into_iter().any(is_of) {
                    self.break_promise(&format!(
                        "BytesAsGiven: offset {offset} was served as something else"
                    ));
                }
            }
            Err(LogError::Damaged(what)) => self.break_promise(&format!("NoRotSeen: {what}")),
            Err(_) => {}
        }
    }

    /// Sleeps.
    pub async fn rest(&self, time: Duration) {
        self.runtime.sleep(time).await;
    }
}

impl Promise {
    fn take(&mut self, batch: Batch) {
        self.batches.push(batch);
    }
}

/// The end of the last whole batch.
fn end_of(bytes: &[u8]) -> Option<Offset> {
    let (mut at, mut end) = (0, None);
    while let Some(header) = bytes.get(at..).and_then(BatchHeader::parse) {
        let total = header.total_bytes().filter(|total| at + total <= bytes.len());
        let Some(total) = total else { break };
        at += total;
        end = Some(header.next_offset());
    }
    end
}

/// The next batch of a log: no two of a run are alike.
fn make_batch(promise: &mut Promise, base_offset: Offset, records: i32, bytes: usize) -> Batch {
    let number = promise.next_number;
    promise.next_number += 1;
    let mut builder = BatchBuilder::new();
    let producers = promise.sequences.len() as u64;
    let at = (number % (producers + 1)) as usize;
    if let Some(sequence) = promise.sequences.get_mut(at) {
        builder = builder.producer(ProducerId(at as i64), ProducerEpoch(0), *sequence);
        *sequence += records;
    }
    for record in 0..records {
        let mut value = format!("{number}/{record}|").into_bytes();
        value.resize(value.len() + bytes / records as usize, number as u8);
        let key = format!("{number}-{record}");
        builder.append(
            TimestampMs(1_750_000_000_000 + number as i64),
            Some(key.as_bytes()),
            Some(&value),
            &[],
        );
    }
    let mut bytes = builder.finish().unwrap_or_default();
    assign(&mut bytes, base_offset, LeaderEpoch(promise.epoch));
    #[expect(clippy::expect_used, reason = "it was just made")]
    let header = BatchHeader::parse(&bytes).expect("a batch has a header");
    Batch { header, bytes }
}
