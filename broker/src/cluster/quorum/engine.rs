//! The quorum's decisions: Raft, the members and the image that follows from the log. No I/O: what is to be made durable
//! is handed out as a [`Step`], and only [`Engine::advance`], once it is, hands out the messages that depend on it.

use super::ProposeError;
use super::entry::{decode_records, encode_records};
use super::log_memory::{DurableState, LogMemory, raft_snapshot};
use super::members::{MemberChange, MemberKey, MemberSet};
use super::message::{PeerMessage, SnapshotId, SnapshotOffer};
use super::snapshot::MetadataSnapshot;
use super::transfer::Uploads;
use super::validate::{TERM_MAX, Unfit, View, validate};
use logmill_state::metadata::{Image, Record};
use logmill_wire::ids::{NodeId, Uuid};
use raft::eraftpb::{Entry, EntryType, HardState, Message, MessageType};
use raft::{Config, RawNode, Ready, SnapshotStatus, StateRole};
use std::collections::BTreeMap;

/// Senders that are remembered without being members.
const STRANGERS_MAX: usize = 256;

/// How far an observer may be behind, in entries, to become a voter.
const PROMOTION_LAG_MAX: u64 = 100;

/// What a node is to the quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It has no state, and belongs to no quorum yet.
    Fresh,
    /// It follows the log and does not vote.
    Observer,
    /// A voter that follows.
    Follower,
    /// A voter that stands for election.
    Candidate,
    /// The leader: the active controller.
    Leader,
}

/// How the quorum stands, as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumStatus {
    /// What this node is.
    pub role: Role,
    /// The term, Kafka's leader epoch.
    pub term: u64,
    /// The leader, if one is known.
    pub leader: Option<NodeId>,
    /// Whether this node leads, and has applied everything that earlier leaders committed: it may decide.
    pub is_current: bool,
    /// The last entry that is committed.
    pub committed: u64,
    /// The last entry that is part of the image.
    pub applied: u64,
    /// A digest of all entries that are part of the image, the same on every node that has applied as many.
    pub digest: u64,
    /// The end of the log.
    pub last_index: u64,
    /// The cluster; zero for a fresh node.
    pub cluster_id: Uuid,
    /// The members.
    pub members: MemberSet,
    /// The leader's knowledge of how far each member has the log durably.
    pub matched: Vec<(MemberKey, u64)>,
}

/// What must be durable before the messages of a step may leave.
#[derive(Debug)]
pub(super) struct Persist {
    /// A snapshot that replaces the log.
    pub snapshot: Option<MetadataSnapshot>,
    /// Entries, from the first one's place on.
    pub entries: Vec<Entry>,
    /// Term, vote and commit index, always.
    pub hard_state: HardState,
}

/// What is to be done next.
pub(super) struct Step {
    ready: Ready,
    /// What to make durable first, if anything.
    pub persist: Option<Persist>,
}

/// What follows from a step.
#[derive(Default)]
pub(super) struct Outcome {
    /// Messages, and for whom.
    pub messages: Vec<(MemberKey, PeerMessage)>,
    /// Proposals that are decided: applied at this index, or not.
    pub decided: Vec<(u64, Result<u64, ProposeError>)>,
    /// Whether the image or the members have changed.
    pub has_applied: bool,
}

/// How an engine behaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct EngineSettings {
    /// Ticks without a leader after which a voter stands; it waits up to twice as long, by chance.
    pub election_ticks: usize,
    /// Ticks between a leader's signs of life.
    pub heartbeat_ticks: usize,
    /// The largest entry that is proposed, and about the most that one message carries, in bytes.
    pub entry_bytes_max: u64,
    /// Ticks of silence after which an observer is no member any more.
    pub observer_ticks: u32,
}

struct Proposal {
    term: u64,
    id: u64,
}

pub(super) struct Engine {
    me: MemberKey,
    cluster_id: Uuid,
    settings: EngineSettings,
    raw: RawNode<LogMemory>,
    members: MemberSet,
    image: Image,
    digest: u64,
    random: Box<dyn FnMut() -> u64>,
    /// Ticks after which this node stands, drawn anew with every change of term, role or leader.
    election_timeout: usize,
    seen: (u64, StateRole, u64),
    proposals: BTreeMap<u64, Proposal>,
    lost: Vec<(u64, Result<u64, ProposeError>)>,
    /// A whole snapshot that was handed to Raft.
    incoming: Option<MetadataSnapshot>,
    strangers: BTreeMap<u64, MemberKey>,
    /// Ticks since an observer was heard from, while this node leads.
    silences: BTreeMap<u64, u32>,
    pub uploads: Uploads,
}

impl Engine {
    /// Begins with what is durable.
    ///
    /// # Errors
    /// If Raft cannot work with it.
    pub fn new(
        me: MemberKey,
        cluster_id: Uuid,
        settings: EngineSettings,
        state: DurableState,
        random: Box<dyn FnMut() -> u64>,
    ) -> Result<Self, String> {
        let (members, image, digest) = state
            .snapshot
            .as_ref()
            .map(|snapshot| (snapshot.members.clone(), snapshot.image.clone(), snapshot.digest))
            .unwrap_or_default();
        let store = LogMemory::new(state);
        let config = Config {
            id: me.raft_id(),
            election_tick: settings.election_ticks,
            heartbeat_tick: settings.heartbeat_ticks,
            // Raft's own timeouts come from a thread's generator; these never pass, and ours do.
            min_election_tick: usize::MAX - 1,
            max_election_tick: usize::MAX,
            applied: store.base().index,
            max_size_per_msg: settings.entry_bytes_max,
            max_inflight_msgs: 64,
            check_quorum: true,
            pre_vote: true,
            max_uncommitted_size: settings.entry_bytes_max.saturating_mul(2),
            max_committed_size_per_ready: settings.entry_bytes_max,
            ..Config::default()
        };
        let logger = raft_logger();
        let raw = RawNode::new(&config, store, &logger).map_err(|error| error.to_string())?;
        let mut engine = Self {
            me,
            cluster_id,
            settings,
            raw,
            members,
            image,
            digest,
            random,
            election_timeout: settings.election_ticks,
            seen: (0, StateRole::Follower, u64::MAX),
            proposals: BTreeMap::new(),
            lost: Vec::new(),
            incoming: None,
            strangers: BTreeMap::new(),
            silences: BTreeMap::new(),
            uploads: Uploads::default(),
        };
        engine.note_reset();
        Ok(engine)
    }

    pub const fn cluster_id(&self) -> Uuid {
        self.cluster_id
    }

    pub const fn image(&self) -> &Image {
        &self.image
    }

    pub const fn members(&self) -> &MemberSet {
        &self.members
    }

    pub fn store(&self) -> &LogMemory {
        self.raw.store()
    }

    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    fn applied(&self) -> u64 {
        self.raw.raft.raft_log.applied
    }

    /// The term that this node is in.
    pub fn term(&self) -> u64 {
        self.raw.raft.term
    }

    /// How far a follower has the log durably, by what this node knows as its leader, and how far this node has it.
    pub fn progress_of(&self, follower: MemberKey) -> Option<(u64, u64)> {
        let raft = &self.raw.raft;
        let progress = raft.prs().get(follower.raft_id()).filter(|_| self.is_leader())?;
        Some((progress.matched, raft.raft_log.last_index()))
    }

    /// Whether this node leads and has applied an entry of its own term, and with it all before.
    pub fn is_current(&self) -> bool {
        self.is_leader() && self.raw.store().term_at(self.applied()) == Some(self.raw.raft.term)
    }

    /// The leader that this node knows of.
    pub fn leader(&self) -> Option<NodeId> {
        self.key_of(self.raw.raft.leader_id).map(|key| key.node)
    }

    /// Whether a leader has spoken to this node of late.
    pub fn hears_leader(&self) -> bool {
        let raft = &self.raw.raft;
        raft.leader_id != raft::INVALID_ID
            && (self.is_leader() || raft.election_elapsed < 2 * self.settings.election_ticks)
    }

    /// Whether the members name this very directory as a voter.
    pub fn is_voter(&self) -> bool {
        self.members.get(self.me).is_some_and(|member| member.is_voter)
    }

    fn key_of(&self, raft_id: u64) -> Option<MemberKey> {
        if raft_id == self.me.raft_id() {
            return Some(self.me);
        }
        let member = self.members.by_raft_id(raft_id).map(|member| member.key);
        member.or_else(|| self.strangers.get(&raft_id).copied())
    }

    pub fn status(&self) -> QuorumStatus {
        let raft = &self.raw.raft;
        let role = match raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            StateRole::Follower if self.is_voter() => Role::Follower,
            StateRole::Follower => Role::Observer,
        };
        let matched = if role == Role::Leader {
            let progress = raft.prs().iter();
            let mut matched: Vec<_> =
                progress.filter_map(|(&id, progress)| Some((self.key_of(id)?, progress.matched))).collect();
            matched.sort_unstable();
            matched
        } else {
            Vec::new()
        };
        QuorumStatus {
            role,
            term: raft.term,
            leader: self.leader(),
            is_current: self.is_current(),
            committed: raft.raft_log.committed,
            applied: self.applied(),
            digest: self.digest,
            last_index: raft.raft_log.last_index(),
            cluster_id: self.cluster_id,
            members: self.members.clone(),
            matched,
        }
    }

    /// Draws another election timeout whenever Raft has begun to count anew, and gives up the proposals of a
    /// leadership that is over.
    fn note_reset(&mut self) {
        let raft = &self.raw.raft;
        let now = (raft.term, raft.state, raft.leader_id);
        if now == self.seen {
            return;
        }
        let was_leader =
            self.seen.1 == StateRole::Leader && (self.seen.0 != now.0 || now.1 != StateRole::Leader);
        self.seen = now;
        self.draw_timeout();
        self.silences.clear();
        if was_leader {
            self.uploads.clear();
            let cause =
                "the leadership ended before most voters had the change; look whether it was made".to_owned();
            for proposal in std::mem::take(&mut self.proposals).into_values() {
                self.lost.push((proposal.id, Err(ProposeError::Unknown(cause.clone()))));
            }
        }
    }

    fn draw_timeout(&mut self) {
        let spread = self.settings.election_ticks.max(1) as u64;
        self.election_timeout = self.settings.election_ticks + ((self.random)() % spread) as usize;
    }

    /// Lets one tick pass.
    pub fn tick(&mut self) {
        self.raw.tick();
        let raft = &mut self.raw.raft;
        let stands = raft.state != StateRole::Leader && raft.promotable() && raft.term < TERM_MAX;
        if stands && raft.election_elapsed >= self.election_timeout {
            raft.election_elapsed = 0;
            self.draw_timeout();
            self.campaign();
        }
        let give_up_after = 4 * self.settings.election_ticks as u32;
        for follower in self.uploads.tick(give_up_after) {
            self.raw.report_snapshot(follower, SnapshotStatus::Failure);
        }
        self.forget_silent_observer();
        self.note_reset();
    }

    /// Takes note that a member lives.
    pub fn hear(&mut self, from: MemberKey) {
        self.silences.remove(&from.raft_id());
    }

    /// Lets an observer go that has been silent for too long: whoever left need not say so. Voters stay until somebody
    /// removes them.
    fn forget_silent_observer(&mut self) {
        if !self.is_current() {
            return;
        }
        let mut silent = None;
        for observer in self.members.iter().filter(|member| !member.is_voter && member.key != self.me) {
            let ticks = self.silences.entry(observer.key.raft_id()).or_default();
            *ticks = ticks.saturating_add(1);
            if *ticks >= self.settings.observer_ticks {
                silent = Some(observer.key);
            }
        }
        let Some(silent) = silent else { return };
        // If it is not possible now, the next tick tries again. Nobody waits for 0.
        if self.change_members(0, &MemberChange::Remove(silent)).is_ok() {
            self.silences.remove(&silent.raft_id());
            tracing::info!(observer = %silent, "an observer of the metadata was silent for long, and is forgotten");
        }
    }

    /// Stops waiting for a leader that is said to be gone: whoever asks gets this node's vote, and it may stand itself.
    /// If it votes and follows that leader, returns its place among the other voters, for them not to stand together.
    pub fn doubt_leader(&mut self, node: NodeId) -> Option<usize> {
        if self.leader() != Some(node) || self.raw.raft.state != StateRole::Follower || !self.is_voter() {
            return None;
        }
        let raft = &mut self.raw.raft;
        raft.election_elapsed = raft.election_elapsed.max(self.settings.election_ticks);
        let others = self.members.voters().filter(|member| member.key.node != node);
        Some(others.take_while(|member| member.key != self.me).count())
    }

    /// Whether this node follows a leader of which it has heard nothing for an election timeout, or since it doubted it.
    pub fn doubts_leader(&self) -> bool {
        let raft = &self.raw.raft;
        raft.state == StateRole::Follower && raft.election_elapsed >= self.settings.election_ticks
    }

    /// Stands for election at once.
    pub fn campaign(&mut self) {
        if self.raw.raft.promotable() {
            // It fails only for messages from others.
            let _ = self.raw.campaign();
        }
        self.note_reset();
    }

    /// Whether a sole voter that does not lead should not wait.
    pub fn is_sole_voter(&self) -> bool {
        self.members.is_sole_voter(self.me)
    }

    fn view(&self, from: u64) -> View {
        let raft = &self.raw.raft;
        View {
            id: raft.id,
            term: raft.term,
            role: raft.state,
            last_index: raft.raft_log.last_index(),
            knows_sender: raft.prs().get(from).is_some(),
            knows_members: !self.members.is_empty(),
        }
    }

    /// Takes a peer's message.
    ///
    /// # Errors
    /// Why it was not given to Raft.
    pub fn step(&mut self, from: MemberKey, message: Message) -> Result<(), Unfit> {
        let is_other = |member: &super::Member| member.key != from;
        if message.from != from.raft_id() || self.members.by_raft_id(message.from).is_some_and(is_other) {
            return Err(Unfit::Address);
        }
        // Snapshots come in pieces, and by `install`.
        if message.get_msg_type() == MessageType::MsgSnapshot {
            return Err(Unfit::Kind);
        }
        self.step_checked(from, message)
    }

    fn step_checked(&mut self, from: MemberKey, message: Message) -> Result<(), Unfit> {
        validate(&message, &self.view(message.from))?;
        if self.members.get(from).is_none() {
            if self.strangers.len() >= STRANGERS_MAX {
                self.strangers.clear();
            }
            self.strangers.insert(message.from, from);
        }
        // What Raft refuses beyond that changes nothing.
        let _ = self.raw.step(message);
        self.note_reset();
        Ok(())
    }

    /// Whether a snapshot that is offered is worth fetching. One that is not is answered at once.
    pub fn wants(&mut self, from: MemberKey, offer: &SnapshotOffer) -> bool {
        let raft = &self.raw.raft;
        let is_possible =
            offer.term <= TERM_MAX && (1..=offer.term).contains(&offer.id.term) && offer.term >= raft.term;
        if !is_possible {
            return false;
        }
        if offer.id.index > raft.raft_log.committed {
            return true;
        }
        // Of a place that is committed here, another term would be another log.
        let is_same = offer.id.index < raft.raft_log.committed
            || self.raw.store().term_at(offer.id.index) == Some(offer.id.term);
        let Some(own) = self.raw.store().snapshot().filter(|_| is_same).map(raft_snapshot) else {
            return false;
        };
        let mut message = self.snapshot_message(from, offer.term, own);
        let metadata = message.mut_snapshot().mut_metadata();
        (metadata.index, metadata.term) = (offer.id.index, offer.id.term);
        // Raft answers with what is committed here.
        let _ = self.step_checked(from, message);
        false
    }

    fn snapshot_message(&self, from: MemberKey, term: u64, snapshot: raft::eraftpb::Snapshot) -> Message {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgSnapshot);
        (message.from, message.to, message.term) = (from.raft_id(), self.me.raft_id(), term);
        message.set_snapshot(snapshot);
        message
    }

    /// Gives Raft a snapshot that has arrived whole.
    ///
    /// # Errors
    /// Why not.
    pub fn install(&mut self, from: MemberKey, term: u64, snapshot: MetadataSnapshot) -> Result<(), Unfit> {
        let message = self.snapshot_message(from, term, raft_snapshot(&snapshot));
        self.incoming = Some(snapshot);
        self.step_checked(from, message)
    }

    /// Proposes records, all or none of which will be applied. `id` comes back in [`Outcome::decided`].
    ///
    /// # Errors
    /// Why it was not proposed.
    pub fn propose(&mut self, id: u64, records: &[Record]) -> Result<(), ProposeError> {
        if !self.is_leader() {
            return Err(ProposeError::NotLeader(self.leader()));
        }
        let data = encode_records(records);
        if data.len() as u64 > self.settings.entry_bytes_max {
            return Err(ProposeError::Refused(format!(
                "the change takes {} bytes of the metadata log, and at most {} fit at once; split the request",
                data.len(),
                self.settings.entry_bytes_max
            )));
        }
        self.raw.propose(Vec::new(), data).map_err(|error| self.not_taken(&error))?;
        self.expect(id);
        Ok(())
    }

    fn not_taken(&self, error: &raft::Error) -> ProposeError {
        if self.is_leader() {
            return ProposeError::Refused(format!(
                "too many changes wait for the voters ({error}); try again later"
            ));
        }
        ProposeError::NotLeader(self.leader())
    }

    fn expect(&mut self, id: u64) {
        let raft = &self.raw.raft;
        self.proposals.insert(raft.raft_log.last_index(), Proposal { term: raft.term, id });
    }

    /// Proposes a change of the members. An observer becomes a voter only once it has nearly the whole log.
    ///
    /// # Errors
    /// Why it was not proposed.
    pub fn change_members(&mut self, id: u64, change: &MemberChange) -> Result<(), ProposeError> {
        if !self.is_leader() {
            return Err(ProposeError::NotLeader(self.leader()));
        }
        // A leader must have committed in its term before the members may change, and one change after another.
        if !self.is_current() || self.raw.raft.has_pending_conf() {
            return Err(ProposeError::Refused(
                "another change of the quorum is under way; try again later".into(),
            ));
        }
        self.members.check(change).map_err(ProposeError::Refused)?;
        if let MemberChange::Set(member) = change
            && member.is_voter
            && !self.members.get(member.key).is_some_and(|now| now.is_voter)
        {
            let matched =
                self.raw.raft.prs().get(member.key.raft_id()).map_or(0, |progress| progress.matched);
            if self.members.get(member.key).is_none()
                || matched == 0
                || matched + PROMOTION_LAG_MAX < self.raw.raft.raft_log.last_index()
            {
                return Err(ProposeError::Refused(format!(
                    "{} has not caught up with the metadata log; start it and try again later",
                    member.key
                )));
            }
        }
        self.raw
            .propose_conf_change(change.encode(), change.to_raft())
            .map_err(|error| self.not_taken(&error))?;
        self.expect(id);
        Ok(())
    }

    /// What is to be done next, if anything.
    pub fn take_step(&mut self) -> Option<Step> {
        if !self.raw.has_ready() {
            return None;
        }
        let mut ready = self.raw.ready();
        let hard_state = ready.hs().cloned().unwrap_or_else(|| self.raw.store().hard_state().clone());
        let replaces = !ready.snapshot().is_empty();
        let place = ready.snapshot().get_metadata();
        let place = SnapshotId { index: place.index, term: place.term };
        let snapshot = self.incoming.take().filter(|snapshot| replaces && snapshot.id == place);
        assert!(!replaces || snapshot.is_some(), "Raft has snapshots from here alone");
        let persist = ready.must_sync().then(|| Persist {
            snapshot,
            entries: ready.take_entries(),
            // With entries the commit index is written, too: whoever has a change of the members behind another one
            // knows after a restart that the other was committed, and never stands with members that are two changes old.
            hard_state,
        });
        Some(Step { ready, persist })
    }

    /// Goes on once what a step wanted durable is so.
    ///
    /// # Errors
    /// If the log contradicts itself: this node cannot go on.
    pub fn advance(&mut self, step: Step) -> Result<Outcome, String> {
        let Step { mut ready, persist } = step;
        let mut outcome = Outcome::default();
        if let Some(persist) = persist {
            if let Some(snapshot) = persist.snapshot {
                (self.members, self.image) = (snapshot.members.clone(), snapshot.image.clone());
                self.digest = snapshot.digest;
                self.raw.mut_store().begin_at(snapshot);
                outcome.has_applied = true;
            }
            self.raw.mut_store().append(&persist.entries);
            self.raw.mut_store().set_hard_state(persist.hard_state);
        } else if let Some(hard_state) = ready.hs() {
            self.raw.mut_store().set_hard_state(hard_state.clone());
        }
        let mut messages = ready.take_messages();
        messages.extend(ready.take_persisted_messages());
        self.apply(ready.take_committed_entries(), &mut outcome)?;
        let mut light = self.raw.advance(ready);
        if let Some(commit) = light.commit_index() {
            let mut hard_state = self.raw.store().hard_state().clone();
            hard_state.commit = commit;
            self.raw.mut_store().set_hard_state(hard_state);
        }
        messages.extend(light.take_messages());
        self.apply(light.take_committed_entries(), &mut outcome)?;
        self.raw.advance_apply();
        // A leader that is no voter any more must not count itself.
        if self.is_leader() && !self.is_voter() {
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, raft::INVALID_ID);
        }
        self.note_reset();
        outcome.messages.extend(messages.into_iter().filter_map(|message| self.address(message)));
        outcome.decided.append(&mut self.lost);
        Ok(outcome)
    }

    /// Says whom a message is for; an offer stands for a snapshot.
    fn address(&mut self, message: Message) -> Option<(MemberKey, PeerMessage)> {
        let to = self.key_of(message.to)?;
        if message.get_msg_type() != MessageType::MsgSnapshot {
            return Some((to, PeerMessage::Raft(Box::new(message))));
        }
        let snapshot = self.raw.store().snapshot()?.clone();
        let offer = self.uploads.offer(message.term, message.to, &snapshot);
        Some((to, PeerMessage::SnapshotOffer(offer)))
    }

    fn apply(&mut self, entries: Vec<Entry>, outcome: &mut Outcome) -> Result<(), String> {
        for entry in entries {
            self.digest = digest_with(self.digest, &entry);
            let result = match entry.get_entry_type() {
                // The first entry of a leader.
                EntryType::EntryNormal if entry.data.is_empty() => Ok(()),
                EntryType::EntryNormal => self.apply_records(&entry.data),
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => self.apply_members(&entry)?,
            };
            outcome.has_applied = true;
            if let Err(cause) = &result {
                tracing::warn!(index = entry.index, %cause, "an entry of the metadata log has no effect, here as elsewhere");
            }
            if let Some(proposal) = self.proposals.remove(&entry.index) {
                let result = if proposal.term == entry.term {
                    result.map(|()| entry.index).map_err(ProposeError::Refused)
                } else {
                    Err(ProposeError::NotLeader(self.leader()))
                };
                outcome.decided.push((proposal.id, result));
            }
        }
        Ok(())
    }

    /// All of an entry's records, or none: what contradicts the image has no effect on any node.
    fn apply_records(&mut self, data: &[u8]) -> Result<(), String> {
        let mut image = self.image.clone();
        for record in decode_records(data)? {
            image.apply(&record).map_err(|error| error.to_string())?;
        }
        self.image = image;
        Ok(())
    }

    fn apply_members(&mut self, entry: &Entry) -> Result<Result<(), String>, String> {
        let Some(change) = MemberChange::decode(&entry.context) else {
            return Ok(Err("a change of the members is not one of ours".into()));
        };
        if let Err(cause) = self.members.check(&change) {
            return Ok(Err(cause));
        }
        self.members.apply(&change);
        self.raw
            .apply_conf_change(&change.to_raft())
            .map_err(|error| format!("the members and the log contradict each other: {error}"))?;
        Ok(Ok(()))
    }

    /// A snapshot of what is applied, if it is newer than the last one.
    pub fn make_snapshot(&self) -> Option<MetadataSnapshot> {
        let index = self.applied();
        let term = self.raw.store().term_at(index).filter(|_| index > self.raw.store().base().index)?;
        Some(MetadataSnapshot::new(
            SnapshotId { index, term },
            self.digest,
            self.members.clone(),
            self.image.clone(),
        ))
    }

    /// Lets the log begin behind a snapshot that is durable.
    pub fn compact(&mut self, snapshot: MetadataSnapshot) {
        self.raw.mut_store().begin_at(snapshot);
    }
}

/// The digest of entries and one more.
fn digest_with(digest: u64, entry: &Entry) -> u64 {
    // Of a change of the members, only our own bytes are on every node.
    let bytes = match entry.get_entry_type() {
        EntryType::EntryNormal => crc32c::crc32c(&entry.data),
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => !crc32c::crc32c(&entry.context),
    };
    let place = entry.index ^ entry.term.rotate_left(40);
    (digest ^ place ^ (u64::from(bytes) << 20)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

/// Raft's own log lines go nowhere: the driver tells what an operator should know.
fn raft_logger() -> slog::Logger {
    slog::Logger::root(slog::Discard, slog::o!())
}
