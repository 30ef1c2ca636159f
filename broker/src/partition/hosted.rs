//! One partition on the shard that owns it.
//!
//! Appends are decided and applied in the order in which they come. One that finds the log without room waits
//! in a queue while room is made, and all later ones behind it.

use super::command::{Acks, AppendReply, Appended, PartitionError};
use super::deletion::Deletion;
use super::policy::{PartitionPolicy, PolicyInForce};
use super::replica::Replicated;
use super::role::{Role, Standing};
use super::waiters::{Waiters, Watchers};
use crate::log::{Log, LogError, LogSettings, Owner};
use crate::runtime::{Runtime, oneshot};
use bytes::Bytes;
use logmill_state::partition::{AppendDecision, Follower, Leader, PartitionSnapshot, TimestampType};
use logmill_wire::compression::Codec;
use logmill_wire::ids::{LeaderEpoch, Offset, TimestampMs};
use logmill_wire::record_batch::{
    BatchHeader, BatchView, ContentRules, set_log_append_time, validate_contents, validate_header,
    validate_records,
};
use std::cell::{Cell, OnceCell, RefCell};
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

/// A partition of which this broker has a replica.
pub struct Partition<R: Runtime> {
    pub(super) runtime: R,
    pub(super) log: Rc<Log<R>>,
    pub(super) role: RefCell<Role>,
    pub(super) policy: PolicyInForce,
    /// What the policy says of this partition's segments.
    pub(super) log_settings: Cell<LogSettings>,
    queue: RefCell<VecDeque<QueuedAppend>>,
    /// How often the queue was emptied because this broker does not lead any more.
    queues_refused: Cell<u64>,
    /// Whether a task makes room in the log, or changes it otherwise: nobody else appends meanwhile.
    pub(super) preparing: Cell<bool>,
    roll_asked: RefCell<Option<RollReply>>,
    /// Appends that wait for this broker's disk.
    pub(super) waiters: Waiters,
    pub(super) deletions: RefCell<Vec<Deletion>>,
    pub(super) watchers: Watchers,
    pub(super) standing: Cell<Standing>,
    /// What there is to know of other replicas, once there was one.
    pub(super) replicated: OnceCell<Box<Replicated>>,
}

impl<R: Runtime> Partition<R> {
    /// A partition over its log, led by this broker alone; `epoch` is the one that the cluster's metadata gives this
    /// incarnation.
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
        Ok(Self::over(runtime, log, Role::Leads(leader), policy))
    }

    /// One of several replicas, over its log; it follows until it is told to lead.
    pub fn host_replica(runtime: R, log: Rc<Log<R>>, state: Leader, policy: Rc<PartitionPolicy>) -> Rc<Self> {
        let follower = Follower::recovered(state, policy.log.write_caching);
        Self::over(runtime, log, Role::Follows(Box::new(follower)), policy)
    }

    fn over(runtime: R, log: Rc<Log<R>>, role: Role, policy: Rc<PartitionPolicy>) -> Rc<Self> {
        let log_key = log.key();
        let standing = if role.leader().is_some() { Standing::Leads } else { Standing::Follows };
        let partition = Rc::new(Self {
            runtime,
            log,
            role: RefCell::new(role),
            log_settings: Cell::new(policy.log_of(log_key)),
            policy: PolicyInForce::new(policy),
            queue: RefCell::default(),
            queues_refused: Cell::default(),
            preparing: Cell::new(false),
            roll_asked: RefCell::default(),
            waiters: Waiters::default(),
            deletions: RefCell::default(),
            watchers: Watchers::default(),
            standing: Cell::new(standing),
            replicated: OnceCell::new(),
        });
        let weak: Weak<Self> = Rc::downgrade(&partition);
        partition.log.set_owner(weak);
        partition
    }

    /// The log.
    #[must_use]
    pub const fn log(&self) -> &Rc<Log<R>> {
        &self.log
    }

    /// Takes over changed settings; they hold from the next append on.
    pub fn set_policy(&self, policy: Rc<PartitionPolicy>) {
        self.log_settings.set(policy.log_of(self.log.key()));
        self.policy.set(policy);
    }

    /// Whether the partition has ended here.
    pub(super) fn is_gone(&self) -> bool {
        self.standing.get() == Standing::Gone
    }

    /// Why nothing is appended here.
    pub(super) fn refusal(&self) -> PartitionError {
        if self.is_gone() { PartitionError::NotHosted } else { PartitionError::NotLeader }
    }

    /// Reads a little of all that an append will read or change, and returns something made of it; see
    /// `PartitionTable::append`.
    pub(super) fn look_at(&self) -> u64 {
        let is_idle = self.waiters.is_empty() ^ self.queue.borrow().is_empty() ^ self.is_gone();
        let next_offset = self.role.borrow().log().next_offset();
        (next_offset.0 ^ self.log_settings.get().segment_ms) as u64 ^ self.log.look_at() ^ u64::from(is_idle)
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
        if self.standing.get() != Standing::Leads {
            reply.send(Err(self.refusal()));
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

    pub(super) fn start_preparing(self: &Rc<Self>) {
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
        let (policy, queues_refused) = (self.policy.get(), self.queues_refused.get());
        let reworked = self.rework(records, policy.contents).await.and_then(|(records, found)| {
            let times = (found.min_timestamp, found.max_timestamp);
            let checked = policy.append.check_record_times(times, self.runtime.wall_clock());
            checked.map(|()| records).map_err(PartitionError::Append)
        });
        if self.queues_refused.get() != queues_refused {
            return;
        }
        let mut queue = self.queue.borrow_mut();
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
                let next_offset = self.role.borrow().log().next_offset();
                reply.send(self.log.roll_at_end(next_offset).await);
            }
            if let Some(replicated) = self.replicated.get()
                && self.follow_on(replicated).await
            {
                continue;
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
                let next_offset = self.role.borrow().log().next_offset();
                let queues_refused = self.queues_refused.get();
                let prepared = self.log.prepare(bytes as u64, next_offset, now, &settings).await;
                if self.queues_refused.get() != queues_refused {
                    continue;
                }
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
        let log_start_offset = self.role.borrow().log().log_start_offset();
        match decision {
            AppendDecision::Append { base_offset, next_offset } => {
                let log_append_time = policy.append.log_append_time(now);
                let told = log_append_time.unwrap_or(TimestampMs(-1));
                let answer = Appended { base_offset, log_append_time: told, log_start_offset };
                // Nobody sees the answer before this returns. It goes first because the processor takes long over the
                // stores that follow, and what is moved behind them waits.
                self.answer_when_due(acks, next_offset, answer, reply);
                let mut role = self.role.borrow_mut();
                let Some(leader) = role.leader_mut() else { return };
                let epoch = leader.leader_epoch();
                let write_caching = policy.log.write_caching;
                let header = BatchHeader { base_offset, leader_epoch: epoch, ..header };
                let (header, is_written) = self.write((records, header), log_append_time, now, write_caching);
                leader.apply_batch(&header);
                drop(role);
                if is_written {
                    self.on_durable(next_offset);
                }
                if let Some(replicated) = self.replicated.get() {
                    replicated.push(self.log.key());
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
    // Inlined, as `write` is, the header need not be moved from place to place.
    #[inline]
    fn decide(
        &self,
        records: &[u8],
        acks: Acks,
        policy: &PartitionPolicy,
        now: TimestampMs,
    ) -> Result<(BatchHeader, AppendDecision), PartitionError> {
        let role = self.role.borrow();
        let Some(leader) = role.leader().filter(|_| self.standing.get() == Standing::Leads) else {
            return Err(self.refusal());
        };
        if acks == Acks::All {
            leader.check_in_sync().map_err(PartitionError::NotEnoughReplicas)?;
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
        let decision = leader.decide_append(std::slice::from_ref(&header), &policy.append, now);
        decision.map(|decision| (header, decision)).map_err(PartitionError::Append)
    }

    /// Writes one batch, whose header is as it is to stand in the log, and returns the header that it has there, and
    /// whether it may be acknowledged.
    #[inline]
    fn write(
        self: &Rc<Self>,
        (records, mut header): (&[u8], BatchHeader),
        log_append_time: Option<TimestampMs>,
        now: TimestampMs,
        write_caching: bool,
    ) -> (BatchHeader, bool) {
        let is_written = if let Some(time) = log_append_time {
            let mut stamped = records.to_vec();
            set_log_append_time(&mut stamped, time);
            if let Some(changed) = BatchHeader::parse(&stamped) {
                let BatchHeader { base_offset, leader_epoch, .. } = header;
                header = BatchHeader { base_offset, leader_epoch, ..changed };
            }
            self.log.append(&header, &stamped, now, write_caching)
        } else {
            self.log.append(&header, records, now, write_caching)
        };
        (header, is_written)
    }

    pub(super) fn failure(&self) -> PartitionError {
        PartitionError::Storage(format!(
            "the log directory is out of service: {}",
            self.log.health().cause().unwrap_or_default()
        ))
    }

    /// Refuses the appends that wait for room.
    pub(super) fn refuse_queued(&self, error: &PartitionError) {
        self.queues_refused.set(self.queues_refused.get() + 1);
        for append in self.queue.take() {
            append.reply.send(Err(error.clone()));
        }
    }

    /// Ends the partition: everybody who waits for it is told that it is not here any more.
    pub fn retire(&self) {
        self.standing.set(Standing::Gone);
        self.refuse_all(&PartitionError::NotHosted);
        if let Some(replicated) = self.replicated.get() {
            replicated.forget_pushes();
        }
    }
}

impl<R: Runtime> Owner for Partition<R> {
    fn on_durable(&self, end: Offset) {
        let mut role = self.role.borrow_mut();
        let Some(leader) = role.leader_mut() else {
            drop(role);
            return self.followed_to(end, end);
        };
        let moved = leader.advance_durable(end);
        let (durable_end, high_watermark) = (leader.durable_end(), leader.high_watermark());
        drop(role);
        self.waiters.answer(durable_end, None);
        if moved {
            self.watchers.wake(high_watermark);
            if let Some(replicated) = self.replicated.get() {
                self.committed(replicated, high_watermark);
            }
        }
    }

    fn on_start(&self, start: Offset) {
        self.log_starts_at(start);
    }

    fn on_failed(&self) {
        self.refuse_waiting(&self.failure());
    }

    fn snapshot(&self) -> PartitionSnapshot {
        self.role.borrow().log().snapshot()
    }
}

pub(super) fn storage_error(error: LogError) -> PartitionError {
    match error {
        LogError::Damaged(text) => PartitionError::Corrupt(text),
        LogError::Deleted => PartitionError::NotHosted,
        other => PartitionError::Storage(other.to_string()),
    }
}
