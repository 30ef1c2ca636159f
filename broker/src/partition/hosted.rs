//! One partition on the shard that owns it.
//!
//! Appends are decided and applied in the order in which they come. One that finds the log without room waits
//! in a queue while room is made, and all later ones behind it.

use super::command::{Acks, AppendReply, Appended, PartitionError};
use super::contents::ContentPolicy;
use super::deletion::Deletion;
use crate::log::{Log, LogError, LogSettings, Owner};
use crate::runtime::flags::Flag;
use crate::runtime::{Runtime, oneshot};
use crate::shard::short_queue::ShortQueue;
use bytes::Bytes;
use logmill_state::log_plan::CleanupSettings;
use logmill_state::partition::{AppendDecision, AppendPolicy, Leader, PartitionSnapshot, TimestampType};
use logmill_wire::compression::Codec;
use logmill_wire::ids::{LeaderEpoch, Offset, TimestampMs, TopicPartition};
use logmill_wire::record_batch::{
    BatchHeader, BatchView, ContentRules, set_log_append_time, validate_contents, validate_header,
    validate_records,
};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::{Rc, Weak};

type RollReply = oneshot::Sender<Result<(), LogError>>;

struct QueuedAppend {
    records: Bytes,
    acks: Acks,
    reply: AppendReply,
    /// Whether the records have the form that the topic demands.
    is_in_form: bool,
}

struct Waiter {
    end: Offset,
    answer: Appended,
    reply: AppendReply,
}

/// What a topic's settings mean for its partitions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PartitionPolicy {
    /// What is accepted.
    pub append: AppendPolicy,
    /// What is demanded of the records themselves.
    pub contents: ContentPolicy,
    /// When segments end.
    pub log: LogSettings,
    /// `segment.jitter.ms`: by how much earlier they end at the most.
    pub segment_jitter_ms: i64,
    /// `min.insync.replicas`.
    pub min_insync_replicas: u32,
    /// How old records leave.
    pub cleanup: CleanupSettings,
}

impl PartitionPolicy {
    /// When segments of one partition end: early by a time of its own, so that the partitions of a topic that were begun
    /// together do not all roll together. The time follows from the partition's name: it is the same after a restart.
    #[must_use]
    pub fn log_of(&self, partition: TopicPartition) -> LogSettings {
        let jitter_ms = self.segment_jitter_ms.clamp(0, self.log.segment_ms);
        let drawn = crc32c::crc32c_append(
            crc32c::crc32c(&partition.topic_id.0),
            &partition.partition.0.to_le_bytes(),
        );
        let early_ms = (i128::from(jitter_ms) * i128::from(drawn)) >> u32::BITS;
        let segment_ms = self.log.segment_ms - i64::try_from(early_ms).unwrap_or(0);
        LogSettings { segment_ms, ..self.log }
    }
}

/// The policy in force; partitions of one topic share it.
pub(super) struct PolicyInForce(RefCell<Rc<PartitionPolicy>>);

impl PolicyInForce {
    pub(super) fn get(&self) -> Rc<PartitionPolicy> {
        Rc::clone(&self.0.borrow())
    }
}

/// A partition that this broker leads.
pub struct Partition<R: Runtime> {
    pub(super) runtime: R,
    pub(super) log: Rc<Log<R>>,
    pub(super) leader: RefCell<Leader>,
    pub(super) policy: PolicyInForce,
    /// What the policy says of this partition's segments.
    log_settings: Cell<LogSettings>,
    queue: RefCell<VecDeque<QueuedAppend>>,
    preparing: Cell<bool>,
    roll_asked: RefCell<Option<RollReply>>,
    waiters: RefCell<ShortQueue<Waiter>>,
    pub(super) deletions: RefCell<Vec<Deletion>>,
    watchers: RefCell<Vec<(Offset, Flag)>>,
    watchers_swept_at: Cell<usize>,
    pub(super) gone: Cell<bool>,
}

impl<R: Runtime> Partition<R> {
    /// A partition over its log; `epoch` is the one that the cluster's metadata gives this incarnation.
    ///
    /// # Errors
    /// If the log has seen a later epoch than the metadata.
    pub fn host(
        runtime: R,
        log: Rc<Log<R>>,
        mut leader: Leader,
        epoch: LeaderEpoch,
        policy: Rc<PartitionPolicy>,
    ) -> Result<Rc<Self>, PartitionError> {
        if leader.leader_epoch() < epoch || leader.next_offset() == Offset(0) {
            leader.begin_epoch(epoch).map_err(|error| PartitionError::Storage(error.to_string()))?;
        } else if leader.leader_epoch() > epoch {
            return Err(PartitionError::Storage(format!(
                "the log has seen leader epoch {}, the metadata only {epoch}",
                leader.leader_epoch()
            )));
        }
        let log_key = log.key();
        let partition = Rc::new(Self {
            runtime,
            log,
            leader: RefCell::new(leader),
            log_settings: Cell::new(policy.log_of(log_key)),
            policy: PolicyInForce(RefCell::new(policy)),
            queue: RefCell::default(),
            preparing: Cell::new(false),
            roll_asked: RefCell::default(),
            waiters: RefCell::default(),
            deletions: RefCell::default(),
            watchers: RefCell::default(),
            watchers_swept_at: Cell::new(16),
            gone: Cell::new(false),
        });
        let weak: Weak<Self> = Rc::downgrade(&partition);
        partition.log.set_owner(weak);
        Ok(partition)
    }

    /// The log.
    #[must_use]
    pub const fn log(&self) -> &Rc<Log<R>> {
        &self.log
    }

    /// Takes over changed settings; they hold from the next append on.
    pub fn set_policy(&self, policy: Rc<PartitionPolicy>) {
        self.log_settings.set(policy.log_of(self.log.key()));
        self.policy.0.replace(policy);
    }

    /// Reads a little of all that an append will read or change, and returns something made of it; see
    /// `PartitionTable::append`.
    pub(super) fn look_at(&self) -> u64 {
        let waiting = self.waiters.borrow().is_empty();
        (self.leader.borrow().next_offset().0 as u64) ^ self.log.look_at() ^ u64::from(waiting)
    }

    /// Appends one record set, a range of `bytes` that came at `now`, or queues it.
    // Inlined, the reply goes from hand to hand in registers; in memory it would be read back behind the stores to cold
    // logs.
    #[inline]
    pub fn append(
        self: &Rc<Self>,
        bytes: &Bytes,
        range: Range<usize>,
        acks: Acks,
        now: TimestampMs,
        reply: AppendReply,
    ) {
        if self.gone.get() {
            reply.send(Err(PartitionError::NotHosted));
            return;
        }
        let records = bytes.get(range.clone()).unwrap_or_default();
        let policy = self.policy.get();
        let is_in_form = !policy.contents.concerns(records, policy.append.max_message_bytes);
        let ready = is_in_form
            && !self.preparing.get()
            && self.queue.borrow().is_empty()
            && self.log.can_append(records.len() as u64, now, &self.log_settings.get());
        if ready {
            self.carry_out(records, acks, &policy, now, reply);
            return;
        }
        let records = if records.is_empty() { Bytes::new() } else { bytes.slice(range) };
        self.queue.borrow_mut().push_back(QueuedAppend { records, acks, reply, is_in_form });
        self.start_preparing();
    }

    fn start_preparing(self: &Rc<Self>) {
        if !self.preparing.replace(true) {
            let partition = Rc::clone(self);
            self.runtime.spawn(async move { partition.drain_queue().await });
        }
    }

    /// Begins a new segment at the log's end; appends wait meanwhile.
    pub(super) async fn roll(self: &Rc<Self>) -> Result<(), LogError> {
        let (reply, answer) = oneshot::channel();
        *self.roll_asked.borrow_mut() = Some(reply);
        self.start_preparing();
        answer.await.unwrap_or(Err(LogError::Deleted))
    }

    /// Brings the records of the first append in the queue into the topic's form, or refuses it.
    async fn rework_first(&self, records: Bytes) {
        let policy = self.policy.get();
        let reworked = self.rework(records, policy.contents).await.and_then(|(records, found)| {
            let times = (found.min_timestamp, found.max_timestamp);
            let checked = policy.append.check_record_times(times, self.runtime.wall_clock());
            checked.map(|()| records).map_err(PartitionError::Append)
        });
        let mut queue = self.queue.borrow_mut();
        // Only the partition's end takes appends out of the queue meanwhile, and then all of them.
        match (reworked, queue.front_mut()) {
            (Ok(records), Some(append)) => {
                append.records = records;
                append.is_in_form = true;
            }
            (Err(error), Some(_)) => {
                if let Some(append) = queue.pop_front() {
                    append.reply.send(Err(error));
                }
            }
            (_, None) => {}
        }
    }

    async fn drain_queue(self: Rc<Self>) {
        loop {
            let roll = self.roll_asked.borrow_mut().take();
            if let Some(reply) = roll {
                let next_offset = self.leader.borrow().next_offset();
                reply.send(self.log.roll_at_end(next_offset).await);
            }
            let first = self.queue.borrow().front().map(|append| (append.records.clone(), append.is_in_form));
            let Some((records, is_in_form)) = first else { break };
            if !is_in_form {
                self.rework_first(records).await;
                continue;
            }
            let bytes = records.len();
            let (now, settings) = (self.runtime.wall_clock(), self.log_settings.get());
            if !self.log.can_append(bytes as u64, now, &settings) {
                let next_offset = self.leader.borrow().next_offset();
                let prepared = self.log.prepare(bytes as u64, next_offset, now, &settings).await;
                if let Err(error) = prepared {
                    if let Some(append) = self.queue.borrow_mut().pop_front() {
                        append.reply.send(Err(storage_error(error)));
                    }
                    continue;
                }
            }
            let append = self.queue.borrow_mut().pop_front();
            if let Some(append) = append {
                let QueuedAppend { records, acks, reply, .. } = append;
                self.carry_out(&records, acks, &self.policy.get(), self.runtime.wall_clock(), reply);
            }
            if self.runtime.should_yield() {
                self.runtime.yield_now().await;
            }
        }
        self.preparing.set(false);
    }

    /// Validates, decides and applies one append; the log has room for it.
    #[inline]
    fn carry_out(
        self: &Rc<Self>,
        records: &[u8],
        acks: Acks,
        policy: &PartitionPolicy,
        now: TimestampMs,
        reply: AppendReply,
    ) {
        let (header, decision) = match self.decide(records, acks, policy, now) {
            Ok(decided) => decided,
            Err(error) => return reply.send(Err(error)),
        };
        let log_start_offset = self.leader.borrow().log_start_offset();
        match decision {
            AppendDecision::Append { base_offset, next_offset } => {
                let log_append_time = policy.append.log_append_time(now);
                let told = log_append_time.unwrap_or(TimestampMs(-1));
                let answer = Appended { base_offset, log_append_time: told, log_start_offset };
                // Nobody sees the answer before this returns. It goes first because the processor takes long over the
                // stores that follow, and what is moved behind them waits.
                self.answer_when_due(acks, next_offset, answer, reply);
                let mut leader = self.leader.borrow_mut();
                let epoch = leader.leader_epoch();
                let (header, is_written) =
                    self.write((records, header), base_offset, epoch, log_append_time, now);
                leader.apply_batch(&header);
                drop(leader);
                if is_written {
                    self.on_durable(next_offset);
                }
            }
            AppendDecision::Duplicate { base_offset, last_offset, timestamp } => {
                let stamped = policy.append.timestamp_type == TimestampType::LogAppendTime;
                let log_append_time = if stamped { timestamp } else { TimestampMs(-1) };
                let answer = Appended { base_offset, log_append_time, log_start_offset };
                self.answer_when_due(acks, last_offset.plus(1), answer, reply);
            }
        }
    }

    /// Validates one append, and decides what becomes of it.
    fn decide(
        &self,
        records: &[u8],
        acks: Acks,
        policy: &PartitionPolicy,
        now: TimestampMs,
    ) -> Result<(BatchHeader, AppendDecision), PartitionError> {
        if self.gone.get() {
            return Err(PartitionError::NotHosted);
        }
        if acks == Acks::All && policy.min_insync_replicas > 1 {
            return Err(PartitionError::NotEnoughReplicas {
                in_sync: 1,
                required: policy.min_insync_replicas,
            });
        }
        let batch = BatchView::only(records).map_err(PartitionError::Batch)?;
        validate_header(&batch).map_err(PartitionError::Batch)?;
        let keys_required = policy.contents.keys_required;
        let found = if keys_required && batch.header().attributes.codec_id() == Codec::None.id() {
            let rules = ContentRules { keys_required, limit_bytes: 0 };
            validate_contents(&batch, rules).map(Some).map_err(PartitionError::Batch)?
        } else {
            validate_records(&batch).map_err(PartitionError::Batch)?
        };
        if let Some(found) = found {
            let times = (found.min_timestamp, found.max_timestamp);
            policy.append.check_record_times(times, now).map_err(PartitionError::Append)?;
        }
        let header = *batch.header();
        let decision = self.leader.borrow().decide_append(std::slice::from_ref(&header), &policy.append, now);
        decision.map(|decision| (header, decision)).map_err(PartitionError::Append)
    }

    /// Writes one batch to the log, and returns its header as it stands there, and whether it may be acknowledged.
    fn write(
        self: &Rc<Self>,
        (records, header): (&[u8], BatchHeader),
        base_offset: Offset,
        leader_epoch: LeaderEpoch,
        log_append_time: Option<TimestampMs>,
        now: TimestampMs,
    ) -> (BatchHeader, bool) {
        let write_caching = self.policy.get().log.write_caching;
        let mut header = BatchHeader { base_offset, leader_epoch, ..header };
        let is_written = if let Some(time) = log_append_time {
            let mut stamped = records.to_vec();
            set_log_append_time(&mut stamped, time);
            if let Some(changed) = BatchHeader::parse(&stamped) {
                header = BatchHeader { base_offset, leader_epoch, ..changed };
            }
            self.log.append(&header, &stamped, now, write_caching)
        } else {
            self.log.append(&header, records, now, write_caching)
        };
        (header, is_written)
    }

    #[inline]
    fn answer_when_due(&self, acks: Acks, end: Offset, answer: Appended, reply: AppendReply) {
        let due = acks == Acks::None || self.leader.borrow().durable_end() >= end;
        if due {
            reply.send(Ok(answer));
            return;
        }
        if self.log.health().is_failed() {
            reply.send(Err(self.failure()));
            return;
        }
        let mut waiters = self.waiters.borrow_mut();
        // A duplicate waits for an earlier end than the append before it, so the queue is kept in order.
        let waiter = Waiter { end, answer, reply };
        if waiters.back().is_none_or(|last| last.end <= end) {
            waiters.push_back(waiter);
        } else {
            let at = waiters.partition_point(|other| other.end <= end);
            waiters.insert(at, waiter);
        }
    }

    pub(super) fn failure(&self) -> PartitionError {
        PartitionError::Storage(format!(
            "the log directory is out of service: {}",
            self.log.health().cause().unwrap_or_default()
        ))
    }

    /// Raises `flag` when the high watermark is above `above`; at once if it already is.
    pub fn watch(&self, above: Offset, flag: Flag) {
        if self.gone.get() || self.leader.borrow().high_watermark() > above {
            flag.raise();
            return;
        }
        let mut watchers = self.watchers.borrow_mut();
        // Fetches that timed out leave their flags behind; sweeping when the list has doubled keeps that cheap.
        if watchers.len() >= self.watchers_swept_at.get() {
            watchers.retain(|(_, flag)| !flag.is_abandoned());
            self.watchers_swept_at.set((watchers.len() * 2).max(16));
        }
        watchers.push((above, flag));
    }

    /// Ends the partition: everybody who waits for it is told that it is not here any more.
    pub fn retire(&self) {
        self.gone.set(true);
        for append in std::mem::take(&mut *self.queue.borrow_mut()) {
            append.reply.send(Err(PartitionError::NotHosted));
        }
        for waiter in std::mem::take(&mut *self.waiters.borrow_mut()) {
            waiter.reply.send(Err(PartitionError::NotHosted));
        }
        self.refuse_deletions(&PartitionError::NotHosted);
        for (_, flag) in std::mem::take(&mut *self.watchers.borrow_mut()) {
            flag.raise();
        }
    }
}

impl<R: Runtime> Owner for Partition<R> {
    fn on_durable(&self, end: Offset) {
        let moved = self.leader.borrow_mut().advance_durable(end);
        let high_watermark = self.leader.borrow().high_watermark();
        loop {
            let due = {
                let mut waiters = self.waiters.borrow_mut();
                if waiters.front().is_none_or(|waiter| waiter.end > high_watermark) {
                    break;
                }
                waiters.pop_front()
            };
            if let Some(waiter) = due {
                waiter.reply.send(Ok(waiter.answer));
            }
        }
        if moved {
            self.watchers.borrow_mut().retain(|(above, flag)| {
                if *above < high_watermark {
                    flag.raise();
                }
                *above >= high_watermark
            });
        }
    }

    fn on_start(&self, start: Offset) {
        self.log_starts_at(start);
    }

    fn on_failed(&self) {
        for waiter in std::mem::take(&mut *self.waiters.borrow_mut()) {
            waiter.reply.send(Err(self.failure()));
        }
        self.refuse_deletions(&self.failure());
        for (_, flag) in std::mem::take(&mut *self.watchers.borrow_mut()) {
            flag.raise();
        }
    }

    fn snapshot(&self) -> PartitionSnapshot {
        self.leader.borrow().snapshot()
    }
}

pub(super) fn storage_error(error: LogError) -> PartitionError {
    match error {
        LogError::Damaged(text) => PartitionError::Corrupt(text),
        LogError::Deleted => PartitionError::NotHosted,
        other => PartitionError::Storage(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use logmill_wire::ids::{PartitionIndex, Uuid};

    #[test]
    fn partitions_end_their_segments_at_times_of_their_own() {
        let policy = |segment_ms, segment_jitter_ms| PartitionPolicy {
            append: AppendPolicy::default(),
            contents: ContentPolicy::AS_SENT,
            log: LogSettings { segment_bytes: 1 << 20, segment_ms, write_caching: false },
            segment_jitter_ms,
            min_insync_replicas: 1,
            cleanup: CleanupSettings::KEEP_ALL,
        };
        let times = |policy: PartitionPolicy| -> Vec<i64> {
            let of =
                |partition| TopicPartition { topic_id: Uuid([3; 16]), partition: PartitionIndex(partition) };
            (0..100).map(|partition| policy.log_of(of(partition)).segment_ms).collect()
        };
        let drawn = times(policy(10_000, 4_000));
        assert!(drawn.iter().all(|time| (6_000..=10_000).contains(time)), "{drawn:?}");
        assert!(
            drawn.iter().any(|time| *time < 7_000) && drawn.iter().any(|time| *time > 9_000),
            "{drawn:?}"
        );
        assert_eq!(times(policy(10_000, 4_000)), drawn, "a restart draws nothing else");
        assert_eq!(times(policy(10_000, 0)), [10_000; 100]);
        assert!(times(policy(10, i64::MAX)).iter().all(|time| (0..=10).contains(time)));
    }
}
