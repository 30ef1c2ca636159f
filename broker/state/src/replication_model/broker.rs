//! One broker of the model: a disk that may lose what is not durable, and a replica over it.

use logmill_wire::ids::{
    LeaderEpoch, MonotonicNs, NodeId, Offset, ProducerEpoch, ProducerId, TimestampMs, Uuid,
};
use logmill_wire::record_batch::{Attributes, BatchHeader};

use crate::partition::{
    Follower, FollowerEffects, Leader, LeaderEffects, LogChange, ProducerStates, Push, ReplicaAssignment,
    ReplicationPolicy,
};
use crate::test_random::Random;

/// A batch of records; its value is unique.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Batch {
    pub base: i64,
    pub count: i32,
    pub epoch: i32,
    pub value: u64,
}

impl Batch {
    pub fn end(self) -> i64 {
        self.base + i64::from(self.count)
    }

    pub fn header(self) -> BatchHeader {
        BatchHeader {
            base_offset: Offset(self.base),
            batch_length: 49 + 10 * self.count,
            leader_epoch: LeaderEpoch(self.epoch),
            magic: 2,
            crc: 0,
            attributes: Attributes(0),
            last_offset_delta: self.count - 1,
            base_timestamp: TimestampMs(0),
            max_timestamp: TimestampMs(0),
            producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch(-1),
            base_sequence: -1,
            record_count: self.count,
        }
    }
}

/// What a replica has of its log, and how much of it survives what.
#[derive(Clone, Default, Debug)]
pub struct Disk {
    pub log: Vec<Batch>,
    pub start: i64,
    pub end: i64,
    /// The end of what survives the process.
    pub written: i64,
    /// The end of what survives a power loss.
    pub durable: i64,
}

impl Disk {
    pub fn append(&mut self, batch: Batch) {
        assert!(batch.base >= self.end, "the disk has {} and is to append {batch:?}", self.end);
        self.end = batch.end();
        self.log.push(batch);
    }

    pub fn change(&mut self, change: LogChange) {
        match change {
            LogChange::Cut { to } => {
                let cut = self.log.partition_point(|batch| batch.end() <= to.0);
                self.end = self.log.get(cut).map_or(self.end, |batch| batch.base).min(to.0);
                self.log.truncate(cut);
                self.start = self.start.min(self.end);
            }
            LogChange::Reset { start } => {
                self.log.clear();
                (self.start, self.end) = (start.0, start.0);
                (self.written, self.durable) = (start.0, start.0);
            }
        }
        self.written = self.written.min(self.end);
        self.durable = self.durable.min(self.end);
    }

    pub fn start_at(&mut self, start: i64) {
        self.start = self.start.max(start);
        self.log.retain(|batch| batch.end() > start);
    }

    /// Loses a part of what is not safe; whole batches go.
    pub fn crash(&mut self, is_safe_to: i64, random: &mut Random) {
        let kept = |batch: &Batch| batch.end() <= is_safe_to;
        let unsafe_from = self.log.iter().take_while(|batch| kept(batch)).count();
        let more = random.below((self.log.len() - unsafe_from) as u64 + 1) as usize;
        self.log.truncate(unsafe_from + more);
        self.end = self.log.last().map_or(self.start.max(is_safe_to.min(self.end)), |batch| batch.end());
        (self.written, self.durable) = (self.end, self.end);
    }

    /// The end that counts for the high watermark.
    pub fn counted(&self, write_caching: bool) -> i64 {
        if write_caching { self.written } else { self.durable }
    }

    pub fn value_at(&self, offset: i64) -> Option<u64> {
        let at = self.log.partition_point(|batch| batch.end() <= offset);
        self.log.get(at).filter(|batch| batch.base <= offset).map(|batch| batch.value)
    }

    /// The state that a restart makes of it.
    pub fn recover(&self) -> Leader {
        let mut state = Leader::starting_at(Offset(
            self.start.min(self.log.first().map_or(self.end, |batch| batch.base)),
        ));
        for batch in &self.log {
            state.apply_batch(&batch.header());
        }
        state.advance_durable(Offset(self.end));
        assert!(state.advance_log_start(Offset(self.start)).is_ok());
        assert_eq!(state.next_offset(), Offset(self.end));
        state
    }
}

#[derive(Debug)]
pub enum Role {
    /// The process does not run.
    Down,
    /// The broker has no replica of the partition.
    Nothing,
    Leader(Leader),
    Follower(Follower),
}

#[derive(Debug)]
pub struct Broker {
    pub node: NodeId,
    pub incarnation: Uuid,
    pub directory: Uuid,
    pub disk: Disk,
    pub role: Role,
    /// The index of the image that it knows.
    pub seen: usize,
    pub paused: bool,
    /// Whether the host has lost power since the last registration.
    pub lost_power: bool,
    pub changing: Option<LogChange>,
    /// Who leads, as far as it knows.
    pub leader: NodeId,
}

impl Broker {
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            incarnation: Uuid::ZERO,
            directory: Uuid([node.0 as u8 + 1; 16]),
            disk: Disk::default(),
            role: Role::Down,
            seen: 0,
            paused: false,
            lost_power: false,
            changing: None,
            leader: NodeId(-1),
        }
    }

    pub fn is_up(&self) -> bool {
        !matches!(self.role, Role::Down)
    }

    pub fn crash(&mut self, power: bool, write_caching: bool, random: &mut Random) {
        let is_safe_to = if !power && write_caching { self.disk.written } else { self.disk.durable };
        self.disk.crash(is_safe_to, random);
        if let Some(change) = self.changing.take().filter(|_| random.chance(50)) {
            self.disk.change(change);
        }
        self.lost_power |= power;
        self.role = Role::Down;
        self.paused = false;
    }

    pub fn high_watermark(&self) -> Option<i64> {
        match &self.role {
            Role::Down | Role::Nothing => None,
            Role::Leader(leader) => Some(leader.high_watermark().0),
            Role::Follower(follower) => Some(follower.log().high_watermark().0),
        }
    }

    /// Takes over the metadata. Gives the effects of leading or following; nothing if the broker has to try again.
    pub fn on_metadata(
        &mut self,
        leader: NodeId,
        assignment: &ReplicaAssignment,
        policy: ReplicationPolicy,
        now: MonotonicNs,
    ) -> Option<(LeaderEffects, FollowerEffects)> {
        self.leader = leader;
        let local = (self.node, self.incarnation);
        let mut leads = LeaderEffects::default();
        let mut follows = FollowerEffects::default();
        let is_replica = assignment.replicas.iter().any(|broker| broker.node == self.node);
        if !is_replica {
            self.role = Role::Nothing;
            self.disk = Disk::default();
            self.changing = None;
            return Some((leads, follows));
        }
        let role = std::mem::replace(&mut self.role, Role::Nothing);
        let epoch = assignment.leader_epoch;
        let mut retry = false;
        self.role = match role {
            Role::Down => Role::Down,
            Role::Leader(mut state) if leader == self.node && state.leader_epoch() == epoch => {
                leads = state.update_replicas(local, assignment, policy, now);
                Role::Leader(state)
            }
            other => {
                let mut follower = match other {
                    Role::Leader(state) => Follower::demoted(state, policy.write_caching),
                    Role::Follower(follower) => follower,
                    Role::Nothing | Role::Down => {
                        Follower::recovered(self.disk.recover(), policy.write_caching)
                    }
                };
                if leader == self.node {
                    match follower.lead(local, assignment, policy, now) {
                        Ok((state, effects)) => {
                            leads = effects;
                            Role::Leader(state)
                        }
                        Err((follower, _)) => {
                            retry = true;
                            Role::Follower(follower)
                        }
                    }
                } else {
                    if leader.0 >= 0 {
                        follows = follower.follow(epoch);
                    }
                    Role::Follower(follower)
                }
            }
        };
        (!retry).then_some((leads, follows))
    }

    /// The disk makes progress; true if the high watermark of a leader moved.
    pub fn progress(&mut self, random: &mut Random, all: bool) -> (bool, FollowerEffects) {
        let boundary = |disk: &Disk, from: i64, random: &mut Random| {
            let ends: Vec<i64> = disk.log.iter().map(|batch| batch.end()).filter(|&end| end > from).collect();
            if ends.is_empty() {
                return from;
            }
            if all { disk.end } else { ends[random.below(ends.len() as u64) as usize] }
        };
        self.disk.written = boundary(&self.disk, self.disk.written, random);
        if all || random.chance(60) {
            self.disk.durable = boundary(&self.disk, self.disk.durable, random).min(self.disk.written);
        }
        let (written, durable) = (Offset(self.disk.written), Offset(self.disk.durable));
        match &mut self.role {
            // A change of the log is under way; the ends are told when it is done.
            Role::Follower(_) if self.changing.is_some() => (false, FollowerEffects::default()),
            Role::Follower(follower) => (false, follower.advance_ends(written, durable)),
            Role::Leader(_) | Role::Down | Role::Nothing => (false, FollowerEffects::default()),
        }
    }

    pub fn finish_change(&mut self) -> FollowerEffects {
        let Some(change) = self.changing.take() else { return FollowerEffects::default() };
        self.disk.change(change);
        match &mut self.role {
            Role::Follower(follower) => {
                follower.on_log_changed(change, Offset(self.disk.end), ProducerStates::default())
            }
            Role::Down | Role::Nothing | Role::Leader(_) => FollowerEffects::default(),
        }
    }

    /// What is pushed to a follower next: at most `count` batches, maybe none.
    pub fn next_push(&mut self, to: NodeId, count: usize) -> Option<(Push, Vec<Batch>)> {
        let Role::Leader(leader) = &mut self.role else { return None };
        let from = leader.next_push(to)?;
        let batches = self.disk.log.iter().filter(|batch| batch.end() > from.0);
        let batches: Vec<Batch> = batches.take(count).copied().collect();
        if let Some(last) = batches.last() {
            leader.on_pushed(to, Offset(last.end()));
        }
        let from = batches.first().map_or(from, |first| from.min(Offset(first.base)));
        let push =
            Push {
                leader_epoch: leader.leader_epoch(),
                from,
                high_watermark: leader.high_watermark(),
                log_start: leader.log_start_offset(),
                first_offset: self.disk.log.first().map_or(leader.log_start_offset(), |batch| {
                    leader.log_start_offset().min(Offset(batch.base))
                }),
            };
        Some((push, batches))
    }
}
