//! One coordinator: the groups of one partition of `__consumer_offsets`.
//!
//! A request is decided at once. What it leaves to be appended is gathered and goes out in one batch as soon as the
//! batch before it is durable; its reply, and every later one, waits for that. If an append fails, what is in memory
//! may be ahead of the log: it is thrown away and read again.

use super::load::load;
use crate::partition::command::{Acks, PartitionCommand, PartitionError};
use crate::partition::router::PartitionRouter;
use crate::runtime::{Runtime, oneshot};
use crate::shard::deadline::{Either, either};
use crate::shard::signal::Signal;
use logmill_state::group::{Context, Effects, GroupReply, GroupRequest, Groups, Now, Ticket};
use logmill_state::metadata::Image;
use logmill_state::settings::GroupSettings;
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{LeaderEpoch, MonotonicNs, TopicPartition};
use logmill_wire::primitives::EncodeError;
use logmill_wire::record_batch::BatchBuilder;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How long after a failure the partition is read again.
const RELOAD_AFTER: Duration = Duration::from_millis(100);

/// How late the coordinator may be with what is due until it is taken for having been held up. Meanwhile requests were not
/// answered, and most clients send none before they have the answer to the last one.
const HELD_UP_NS: u64 = 100_000_000;

/// The size from which a batch takes no more steps.
const BATCH_BYTES: usize = 256 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Loading,
    Active,
    Gone,
}

/// The coordinator on one partition.
pub struct GroupCoordinator<R: Runtime> {
    runtime: R,
    key: TopicPartition,
    leader_epoch: LeaderEpoch,
    partitions: PartitionRouter,
    settings: Arc<GroupSettings>,
    image: RefCell<Arc<Image>>,
    phase: Cell<Phase>,
    groups: RefCell<Groups>,
    /// Who waits for an answer.
    callers: RefCell<BTreeMap<Ticket, oneshot::Sender<GroupReply>>>,
    next_ticket: Cell<u64>,
    /// What was decided since the append under way began.
    gathered: RefCell<VecDeque<Effects>>,
    appending: Cell<bool>,
    offsets_checked: Cell<MonotonicNs>,
    /// The deadline that the task waits for, while it does.
    sleeps_until: Cell<Option<MonotonicNs>>,
    /// Something is gathered, a deadline has come nearer, or the coordinator has to go.
    changed: Signal,
}

impl<R: Runtime> GroupCoordinator<R> {
    /// Starts a coordinator, which reads its partition first. It works in one leader epoch.
    pub fn start(
        runtime: R,
        (key, leader_epoch): (TopicPartition, LeaderEpoch),
        partitions: PartitionRouter,
        settings: Arc<GroupSettings>,
        image: Arc<Image>,
    ) -> Rc<Self> {
        let coordinator = Rc::new(Self {
            offsets_checked: Cell::new(runtime.monotonic()),
            runtime: runtime.clone(),
            key,
            leader_epoch,
            partitions,
            settings,
            image: RefCell::new(image),
            phase: Cell::new(Phase::Loading),
            groups: RefCell::default(),
            callers: RefCell::default(),
            next_ticket: Cell::new(0),
            gathered: RefCell::default(),
            appending: Cell::new(false),
            sleeps_until: Cell::new(None),
            changed: Signal::default(),
        });
        let running = Rc::clone(&coordinator);
        runtime.spawn(async move { running.run().await });
        coordinator
    }

    /// The epoch that it works in.
    pub const fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }

    /// Takes over a newer image: offsets of topics that are gone are forgotten.
    pub fn set_image(&self, image: Arc<Image>, some_topic_is_gone: bool) {
        *self.image.borrow_mut() = image;
        if some_topic_is_gone && self.phase.get() == Phase::Active {
            self.forget_topics();
        }
    }

    fn forget_topics(&self) {
        let image = Arc::clone(&self.image.borrow());
        let effects = self.groups.borrow_mut().forget_topics(&|name| image.topic_by_name(name).is_none());
        self.carry_out(effects);
    }

    /// Ends the coordinator: this broker does not lead the partition any more.
    pub fn retire(&self) {
        self.phase.set(Phase::Gone);
        self.give_up(ErrorCode::NotCoordinator);
        self.changed.notify_all();
    }

    /// Decides on a request.
    pub fn handle(&self, request: GroupRequest, reply: oneshot::Sender<GroupReply>) {
        match self.phase.get() {
            Phase::Loading => {
                reply.send(GroupReply::Unavailable(ErrorCode::CoordinatorLoadInProgress));
                return;
            }
            Phase::Gone => {
                reply.send(GroupReply::Unavailable(ErrorCode::NotCoordinator));
                return;
            }
            Phase::Active => {}
        }
        let ticket = Ticket(self.next_ticket.get());
        self.next_ticket.set(ticket.0 + 1);
        self.callers.borrow_mut().insert(ticket, reply);
        let effects = self.with_context(|groups, cx| groups.step(ticket, request, cx));
        self.carry_out(effects);
    }

    fn with_context<T>(&self, work: impl FnOnce(&mut Groups, &Context<'_>) -> T) -> T {
        let image = Arc::clone(&self.image.borrow());
        let now = Now { monotonic: self.runtime.monotonic(), wall: self.runtime.wall_clock() };
        let cx = Context { now, settings: &self.settings, image: &image };
        work(&mut self.groups.borrow_mut(), &cx)
    }

    fn carry_out(&self, effects: Effects) {
        let must_wait = self.appending.get() || !self.gathered.borrow().is_empty();
        if effects.records.is_empty() && !must_wait {
            self.answer(effects.replies);
        } else {
            self.gathered.borrow_mut().push_back(effects);
        }
        // A deadline that went further away is no reason to wake: most heartbeats do nothing else.
        let is_earlier = self.sleeps_until.get().is_some_and(|until| self.next_deadline() < until);
        if is_earlier || !self.gathered.borrow().is_empty() {
            self.changed.notify_all();
        }
    }

    fn answer(&self, replies: Vec<(Ticket, GroupReply)>) {
        for (ticket, reply) in replies {
            let caller = self.callers.borrow_mut().remove(&ticket);
            if let Some(caller) = caller {
                caller.send(reply);
            }
        }
    }

    fn give_up(&self, error: ErrorCode) {
        self.gathered.borrow_mut().clear();
        for (_, caller) in std::mem::take(&mut *self.callers.borrow_mut()) {
            caller.send(GroupReply::Unavailable(error));
        }
    }

    async fn run(&self) {
        while self.phase.get() != Phase::Gone {
            let outcome = match self.load().await {
                Ok(groups) => self.serve(groups).await,
                Err(error) => Err(error),
            };
            let Err(error) = outcome else { continue };
            if self.phase.get() == Phase::Gone || error == PartitionError::Stopping {
                return;
            }
            self.phase.set(Phase::Loading);
            self.give_up(match error {
                PartitionError::NotHosted | PartitionError::Epoch(_) => ErrorCode::NotCoordinator,
                _ => ErrorCode::CoordinatorNotAvailable,
            });
            tracing::warn!(
                partition = %self.key,
                error = error.message(),
                "the groups of a partition of __consumer_offsets are read again"
            );
            self.runtime.sleep(RELOAD_AFTER).await;
        }
    }

    async fn load(&self) -> Result<Groups, PartitionError> {
        let is_wanted = || self.phase.get() != Phase::Gone;
        load(&self.runtime, &self.partitions, (self.key, self.leader_epoch), is_wanted).await
    }

    /// Serves until the coordinator has to go, or an append fails.
    async fn serve(&self, groups: Groups) -> Result<(), PartitionError> {
        if self.phase.get() == Phase::Gone {
            return Ok(());
        }
        *self.groups.borrow_mut() = groups;
        self.with_context(|groups, cx| groups.loaded(cx));
        self.phase.set(Phase::Active);
        self.forget_topics();
        while self.phase.get() == Phase::Active {
            if !self.gathered.borrow().is_empty() {
                self.append_gathered().await?;
                continue;
            }
            let changed = self.changed.wait();
            let due = self.next_deadline();
            let left = due.since(self.runtime.monotonic());
            if left > 0 {
                self.sleeps_until.set(Some(due));
                let timer = self.runtime.sleep(Duration::from_nanos(left));
                let woken = either(changed, timer).await;
                self.sleeps_until.set(None);
                if let Either::First(()) = woken {
                    continue;
                }
            }
            self.expire();
        }
        Ok(())
    }

    fn next_deadline(&self) -> MonotonicNs {
        let offsets = self.offsets_due();
        self.groups.borrow().next_deadline().map_or(offsets, |deadline| deadline.min(offsets))
    }

    fn offsets_due(&self) -> MonotonicNs {
        let interval_ms = self.settings.offsets_retention_check_interval_ms;
        self.offsets_checked.get().plus_ns(interval_ms.saturating_mul(1_000_000))
    }

    fn expire(&self) {
        let now = self.runtime.monotonic();
        let due = self.groups.borrow().next_deadline();
        if due.is_some_and(|due| now.since(due) > HELD_UP_NS) {
            self.with_context(Groups::excuse);
        }
        let mut effects = self.with_context(Groups::expire);
        if self.offsets_due() <= now {
            self.offsets_checked.set(now);
            let expired = self.with_context(|groups, cx| groups.expire_offsets(cx));
            effects.records.extend(expired.records);
            effects.replies.extend(expired.replies);
        }
        self.carry_out(effects);
    }

    /// Appends as much of what is gathered as fits one batch, and answers when it is durable.
    async fn append_gathered(&self) -> Result<(), PartitionError> {
        let (batch, replies) = self.take_batch()?;
        if let Some(batch) = batch {
            self.appending.set(true);
            let outcome = self.append(batch).await;
            self.appending.set(false);
            outcome?;
        }
        if self.phase.get() == Phase::Active {
            self.answer(replies);
        }
        Ok(())
    }

    #[expect(clippy::type_complexity, reason = "a batch and whom to answer then")]
    fn take_batch(&self) -> Result<(Option<Vec<u8>>, Vec<(Ticket, GroupReply)>), PartitionError> {
        let now = self.runtime.wall_clock();
        let mut builder = BatchBuilder::new();
        let (mut records, mut replies) = (0_usize, Vec::new());
        while builder.uncompressed_bytes() < BATCH_BYTES {
            let Some(effects) = self.gathered.borrow_mut().pop_front() else { break };
            for record in &effects.records {
                let encoded = record.encode().map_err(|error| not_encoded(record.group_id(), &error))?;
                builder.append(now, Some(&encoded.key), encoded.value.as_deref(), &[]);
                records += 1;
            }
            replies.extend(effects.replies);
        }
        let batch = (records > 0).then(|| builder.finish()).transpose().map_err(PartitionError::Batch)?;
        Ok((batch, replies))
    }

    async fn append(&self, batch: Vec<u8>) -> Result<(), PartitionError> {
        let (command, mut answers) = PartitionCommand::append(self.key, batch.into(), Acks::All);
        self.partitions.send(command);
        (&mut answers).await;
        let result = answers.into_answers().pop().flatten();
        result.unwrap_or(Err(PartitionError::Stopping)).map(|_| ())
    }
}

fn not_encoded(group_id: &str, error: &EncodeError) -> PartitionError {
    PartitionError::Storage(format!("a record of group {group_id} cannot be encoded: {error}"))
}
