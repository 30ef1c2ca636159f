//! The task that brings the engine, the disk and the link together, and the handle by which others reach it.
//!
//! Each turn takes what has come (frames, commands, at most one tick), then does the engine's steps: durable first, then
//! the messages, then the answers. A slow disk makes turns long and their ticks few, so its node does not stand for
//! election because of it.

use super::description::{FollowerTimes, QuorumDescription};
use super::disk::{Found, QuorumDisk, QuorumDiskError};
use super::division::divide;
use super::engine::{Engine, EngineSettings, Outcome, QuorumStatus, Role};
use super::founding::Founding;
use super::link::QuorumLink;
use super::log_memory::DurableState;
use super::members::{Member, MemberChange, MemberKey, MemberSet, VoterEndpoint};
use super::message::{Envelope, PeerMessage, SnapshotId, decode, encode};
use super::settings::QuorumSettings;
use super::snapshot::MetadataSnapshot;
use super::transfer::{Download, Progress};
use super::validate::Unfit;
use super::{ProposeError, message};
use crate::log::DirectoryHealth;
use crate::runtime::{Runtime, oneshot};
use crate::shard::signal::Signal;
use bytes::Bytes;
use logmill_state::metadata::{Image, Record};
use logmill_wire::frame::quorum::IdentityHeader;
use logmill_wire::ids::{NodeId, TimestampMs, Uuid};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Frames that wait for the driver; more are lost, as on any network.
const FRAMES_MAX: usize = 1024;

/// Ticks between the hellos of a node that belongs to no quorum.
const HELLO_TICKS: u32 = 3;

/// When the first voter stands that has heard of the leader's end, and how much later each next one: long enough for all
/// of them to have heard, and for an election.
const STAND_AFTER_MS: (u64, u64) = (20, 30);

/// The place in the log, and the term, of the founding snapshot.
const FOUNDING: SnapshotId = SnapshotId { index: 1, term: 1 };

/// Who takes part, and where its state is.
pub struct QuorumConfig {
    /// This node and the id of its log directory.
    pub key: MemberKey,
    /// Where its controller listener is reached.
    pub endpoints: Vec<VoterEndpoint>,
    /// The configured voters.
    pub voters: Vec<NodeId>,
    /// Where the state is: `LOG.DIR/quorum`.
    pub directory: PathBuf,
    /// The cluster that the log directory is known to belong to: its quorum's state must be there.
    pub known_cluster: Option<Uuid>,
    /// The log directory's health.
    pub health: Arc<DirectoryHealth>,
}

enum Command {
    /// With the term to which it is bound, if it is.
    Propose(Option<u64>, Vec<Record>, Reply),
    ChangeMembers(MemberChange, Reply),
}

type Reply = oneshot::Sender<Result<u64, ProposeError>>;

struct Shared {
    frames: RefCell<VecDeque<Bytes>>,
    commands: RefCell<VecDeque<Command>>,
    has_ticked: Cell<bool>,
    /// A node of which it was said that it is gone.
    gone: Cell<Option<NodeId>>,
    /// The term in which this node wanted to stand because the leader was gone.
    stands_in: Cell<Option<u64>>,
    entry_bytes_max: usize,
    /// Whether this node leads and has no peers: then time means nothing, and an idle node sleeps.
    is_alone: Cell<bool>,
    is_stopping: Cell<bool>,
    /// Why the driver has ended.
    ended: RefCell<Option<String>>,
    work: Signal,
    status: RefCell<QuorumStatus>,
    times: RefCell<FollowerTimes>,
    me: MemberKey,
    image: RefCell<Image>,
    changed: Signal,
}

/// The handle of a running quorum; a clone is the same one.
#[derive(Clone)]
pub struct Quorum(Rc<Shared>);

impl Quorum {
    /// Reads the durable state and starts the driver on this shard.
    ///
    /// # Errors
    /// If the state cannot be read.
    pub async fn start<R: Runtime, L: QuorumLink>(
        runtime: R,
        link: L,
        config: QuorumConfig,
        settings: QuorumSettings,
    ) -> Result<Self, QuorumDiskError> {
        let found =
            QuorumDisk::open(&runtime, &config.directory, config.key.directory, &config.health).await?;
        check_cluster(&config, found.as_ref().map(|found| found.cluster_id))?;
        let shared = Rc::new(Shared {
            frames: RefCell::default(),
            commands: RefCell::default(),
            has_ticked: Cell::new(false),
            gone: Cell::new(None),
            stands_in: Cell::new(None),
            entry_bytes_max: settings.entry_bytes_max() as usize,
            is_alone: Cell::new(false),
            is_stopping: Cell::new(false),
            ended: RefCell::default(),
            work: Signal::default(),
            status: RefCell::new(fresh_status()),
            times: RefCell::default(),
            me: config.key,
            image: RefCell::default(),
            changed: Signal::default(),
        });
        let link = Rc::new(link);
        runtime.spawn(receive(Rc::clone(&shared), Rc::clone(&link)));
        runtime.spawn(count_time(Rc::clone(&shared), runtime.clone(), settings.tick));
        let me = Member { key: config.key, is_voter: false, endpoints: config.endpoints.clone() };
        let founding = Founding::new(me, &config.voters);
        let mut driver = Driver {
            runtime: runtime.clone(),
            link,
            config,
            settings,
            shared: Rc::clone(&shared),
            founding,
            phase: Phase::Fresh,
            download: None,
            hinted: None,
            hello_ticks: HELLO_TICKS,
            replies: BTreeMap::new(),
            next_reply: 1,
        };
        if let Some(Found { disk, cluster_id, state }) = found {
            driver
                .enter(disk, cluster_id, state)
                .map_err(|what| QuorumDiskError::Damaged(driver.config.directory.clone(), what))?;
        }
        driver.tell_state();
        runtime.spawn(driver.run());
        Ok(Self(shared))
    }

    /// Proposes records, all or none of which will be applied. Returns the index at which they were.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub async fn propose(&self, records: Vec<Record>) -> Result<u64, ProposeError> {
        self.ask(|reply| Command::Propose(None, records, reply)).await
    }

    /// As [`Quorum::propose`], if this node still leads in `term`: for records that were decided against the image of
    /// that leadership.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub async fn propose_in(&self, term: u64, records: Vec<Record>) -> Result<u64, ProposeError> {
        self.ask(|reply| Command::Propose(Some(term), records, reply)).await
    }

    /// Divides changes into pieces, in their order, of which each fits one proposal. A change that fits is in one piece; a larger
    /// one begins a piece, and a record that is too large by itself is alone. Comes with how many pieces hold all up to each
    /// change.
    #[must_use]
    pub fn pieces(&self, changes: Vec<Vec<Record>>) -> (Vec<Vec<Record>>, Vec<usize>) {
        divide(changes, self.0.entry_bytes_max)
    }

    /// Makes an observer a voter (KIP-853's AddRaftVoter); it must have caught up.
    ///
    /// # Errors
    /// [`ProposeError`]; another change of the members under way is one.
    pub async fn add_voter(
        &self,
        key: MemberKey,
        endpoints: Vec<VoterEndpoint>,
    ) -> Result<u64, ProposeError> {
        self.change_members(MemberChange::Set(Member { key, is_voter: true, endpoints })).await
    }

    /// Removes a member (KIP-853's RemoveRaftVoter). While it runs it comes back as an observer.
    ///
    /// # Errors
    /// [`ProposeError`]; another change of the members under way is one.
    pub async fn remove_voter(&self, key: MemberKey) -> Result<u64, ProposeError> {
        self.change_members(MemberChange::Remove(key)).await
    }

    /// Changes the members.
    ///
    /// # Errors
    /// [`ProposeError`]; another change of the members under way is one.
    pub async fn change_members(&self, change: MemberChange) -> Result<u64, ProposeError> {
        self.ask(|reply| Command::ChangeMembers(change, reply)).await
    }

    async fn ask(&self, command: impl FnOnce(Reply) -> Command) -> Result<u64, ProposeError> {
        let (reply, answer) = oneshot::channel();
        self.0.commands.borrow_mut().push_back(command(reply));
        self.0.work.notify_all();
        let stopped = |_| Err(ProposeError::Unknown("the node is stopping".into()));
        answer.await.unwrap_or_else(stopped)
    }

    /// How the quorum stands.
    #[must_use]
    pub fn status(&self) -> QuorumStatus {
        self.0.status.borrow().clone()
    }

    /// How the members stand at a time, as this node knows it if it leads.
    #[must_use]
    pub fn describe(&self, now: TimestampMs) -> QuorumDescription {
        self.0.times.borrow().describe(self.0.me, &self.0.status.borrow(), now)
    }

    /// The image as of [`QuorumStatus::applied`].
    #[must_use]
    pub fn image(&self) -> Image {
        self.0.image.borrow().clone()
    }

    /// Why the driver has ended, if it has.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.0.ended.borrow().clone()
    }

    /// Waits until `holds` of the status, or until the driver has ended: false.
    pub async fn wait_until(&self, holds: impl Fn(&QuorumStatus) -> bool) -> bool {
        loop {
            let changed = self.0.changed.wait();
            if holds(&self.0.status.borrow()) {
                return true;
            }
            if self.0.ended.borrow().is_some() {
                return false;
            }
            changed.await;
        }
    }

    /// Says that the process of a node has ended: if it led, nobody needs to wait until its silence shows it. It may be
    /// said in error; then most voters still hear the leader, and refuse to elect another one.
    pub fn is_gone(&self, node: NodeId) {
        self.0.gone.set(Some(node));
        self.0.work.notify_all();
    }

    /// Ends the driver. What was proposed and is not decided may be committed later.
    pub fn stop(&self) {
        self.0.is_stopping.set(true);
        self.0.work.notify_all();
    }
}

/// A log directory that has lost the quorum's state, or has another cluster's, must not vote as if it were fresh.
fn check_cluster(config: &QuorumConfig, found: Option<Uuid>) -> Result<(), QuorumDiskError> {
    let Some(known) = config.known_cluster.filter(|&known| found != Some(known)) else { return Ok(()) };
    let what = match found {
        Some(found) => {
            format!("the state is that of cluster {found}, and the log directory belongs to {known}")
        }
        None => format!("the quorum's state is missing, and the log directory belongs to cluster {known}"),
    };
    Err(QuorumDiskError::Damaged(config.directory.clone(), what))
}

const fn fresh_status() -> QuorumStatus {
    QuorumStatus {
        role: Role::Fresh,
        term: 0,
        leader: None,
        is_current: false,
        committed: 0,
        applied: 0,
        digest: 0,
        last_index: 0,
        cluster_id: Uuid::ZERO,
        members: MemberSet::EMPTY,
        matched: Vec::new(),
    }
}

async fn receive<L: QuorumLink>(shared: Rc<Shared>, link: Rc<L>) {
    while !shared.is_stopping.get() {
        let frame = link.receive().await;
        let mut frames = shared.frames.borrow_mut();
        if frames.len() < FRAMES_MAX {
            frames.push_back(frame);
        }
        drop(frames);
        shared.work.notify_all();
    }
}

async fn count_time<R: Runtime>(shared: Rc<Shared>, runtime: R, tick: Duration) {
    while !shared.is_stopping.get() {
        if shared.is_alone.get() {
            shared.changed.wait().await;
            continue;
        }
        runtime.sleep(tick).await;
        shared.has_ticked.set(true);
        shared.work.notify_all();
    }
}

enum Phase<R: Runtime> {
    Fresh,
    Running(Box<Running<R>>),
}

struct Running<R: Runtime> {
    engine: Engine,
    disk: QuorumDisk<R>,
}

struct Driver<R: Runtime, L: QuorumLink> {
    runtime: R,
    link: Rc<L>,
    config: QuorumConfig,
    settings: QuorumSettings,
    shared: Rc<Shared>,
    founding: Founding,
    phase: Phase<R>,
    download: Option<Download>,
    /// The leader that somebody has named.
    hinted: Option<NodeId>,
    /// Ticks since the last hello.
    hello_ticks: u32,
    replies: BTreeMap<u64, Reply>,
    next_reply: u64,
}

impl<R: Runtime, L: QuorumLink> Driver<R, L> {
    async fn run(mut self) {
        let mut outcome = self.found_or_stand().await;
        while outcome.is_ok() && !self.shared.is_stopping.get() {
            let work = self.shared.work.wait();
            let is_idle = self.shared.frames.borrow().is_empty() && self.shared.commands.borrow().is_empty();
            let is_told = self.shared.gone.get().is_some() || self.shared.stands_in.get().is_some();
            if is_idle && !is_told && !self.shared.has_ticked.get() {
                work.await;
                continue;
            }
            outcome = self.turn().await;
        }
        let cause = outcome.err().unwrap_or_else(|| "the node is stopping".to_owned());
        if !self.shared.is_stopping.get() {
            tracing::error!(%cause, "the metadata quorum goes on without this node; restart it once the cause is gone");
        }
        *self.shared.ended.borrow_mut() = Some(cause.clone());
        self.shared.status.borrow_mut().is_current = false;
        for reply in std::mem::take(&mut self.replies).into_values() {
            reply.send(Err(ProposeError::Unknown(cause.clone())));
        }
        self.shared.changed.notify_all();
        while !self.shared.is_stopping.get() {
            let work = self.shared.work.wait();
            self.shared.frames.borrow_mut().clear();
            let commands = std::mem::take(&mut *self.shared.commands.borrow_mut());
            for Command::Propose(_, _, reply) | Command::ChangeMembers(_, reply) in commands {
                reply.send(Err(ProposeError::Unknown(cause.clone())));
            }
            work.await;
        }
        self.shared.commands.borrow_mut().clear();
    }

    async fn turn(&mut self) -> Result<(), String> {
        // What came before the tick may say that the leader is there.
        loop {
            let frame = self.shared.frames.borrow_mut().pop_front();
            let Some(frame) = frame else { break };
            match decode(&frame) {
                Ok((envelope, message)) => self.hear(envelope, message).await?,
                Err(error) => tracing::warn!(?error, "a frame of the metadata quorum is not intact"),
            }
        }
        loop {
            let command = self.shared.commands.borrow_mut().pop_front();
            let Some(command) = command else { break };
            self.carry_out(command);
        }
        self.go_on_without_leader();
        if self.shared.has_ticked.take() {
            self.tick().await?;
        }
        self.settle().await
    }

    /// Doubts a leader that is said to be gone, and stands some time later if nobody else leads by then.
    fn go_on_without_leader(&mut self) {
        let (gone, stands_in) = (self.shared.gone.take(), self.shared.stands_in.take());
        let Phase::Running(running) = &mut self.phase else { return };
        let engine = &mut running.engine;
        if stands_in == Some(engine.term()) && engine.doubts_leader() {
            engine.campaign();
        }
        let Some(place) = gone.and_then(|node| engine.doubt_leader(node)) else { return };
        let (first, next) = STAND_AFTER_MS;
        let drawn = first + place as u64 * next + self.runtime.random_u64() % (next / 3);
        let (shared, runtime, term) = (Rc::clone(&self.shared), self.runtime.clone(), engine.term());
        self.runtime.spawn(async move {
            runtime.sleep(Duration::from_millis(drawn)).await;
            shared.stands_in.set(Some(term));
            shared.work.notify_all();
        });
    }

    /// Begins to work with a durable state.
    fn enter(&mut self, disk: QuorumDisk<R>, cluster_id: Uuid, state: DurableState) -> Result<(), String> {
        let settings = EngineSettings {
            election_ticks: self.settings.election_ticks,
            heartbeat_ticks: self.settings.heartbeat_ticks,
            entry_bytes_max: self.settings.entry_bytes_max(),
            observer_ticks: self.settings.observer_ticks(),
        };
        let runtime = self.runtime.clone();
        let random = Box::new(move || runtime.random_u64());
        let engine = Engine::new(self.config.key, cluster_id, settings, state, random)?;
        self.phase = Phase::Running(Box::new(Running { engine, disk }));
        Ok(())
    }

    /// What a restart finds is known from the beginning.
    fn tell_state(&self) {
        if let Phase::Running(running) = &self.phase {
            *self.shared.status.borrow_mut() = running.engine.status();
            *self.shared.image.borrow_mut() = running.engine.image().clone();
        }
    }

    /// Makes a first state durable and enters it.
    async fn leave_freshness(&mut self, cluster_id: Uuid, state: DurableState) -> Result<(), String> {
        let ids = IdentityHeader {
            journal_id: self.random_uuid().0,
            cluster_id: cluster_id.0,
            directory_id: self.config.key.directory.0,
            ..IdentityHeader::default()
        };
        let (directory, health) = (&self.config.directory, &self.config.health);
        let disk =
            QuorumDisk::create(&self.runtime, directory, self.settings.disk, ids, &state, health).await;
        let disk = disk.map_err(|error| error.to_string())?;
        self.enter(disk, cluster_id, state)
    }

    fn random_uuid(&self) -> Uuid {
        let bits = (u128::from(self.runtime.random_u64()) << 64) | u128::from(self.runtime.random_u64());
        Uuid::from_random(bits)
    }

    /// Founds the quorum if it is for this node to do, and stands at once if nobody else could.
    async fn found_or_stand(&mut self) -> Result<(), String> {
        if let (Phase::Fresh, Some(members)) = (&self.phase, self.founding.decide()) {
            let snapshot = MetadataSnapshot::new(FOUNDING, 0, members, Image::default());
            let mut state = DurableState { snapshot: Some(snapshot), ..DurableState::default() };
            (state.hard_state.term, state.hard_state.commit) = (FOUNDING.term, FOUNDING.index);
            let cluster_id = self.random_uuid();
            self.leave_freshness(cluster_id, state).await?;
        }
        // What is known to be committed is applied before anything else: it may change who votes.
        self.settle().await?;
        if let Phase::Running(running) = &mut self.phase
            && running.engine.is_sole_voter()
            && !running.engine.is_leader()
        {
            running.engine.campaign();
        }
        self.settle().await
    }

    async fn tick(&mut self) -> Result<(), String> {
        self.hello_ticks += 1;
        if self.hello_ticks >= HELLO_TICKS {
            self.hello_ticks = 0;
            self.say_hello();
        }
        if let Phase::Fresh = self.phase {
            return self.found_or_stand().await;
        }
        if let Phase::Running(running) = &mut self.phase {
            running.engine.tick();
        }
        let give_up_after = 2 * self.settings.election_ticks as u32;
        if let Some(download) = &mut self.download {
            match download.tick(2, give_up_after) {
                None => self.download = None,
                Some(false) => {}
                Some(true) => {
                    let (to, request) = (download.from, download.request());
                    self.send(to, &request);
                }
            }
        }
        Ok(())
    }

    /// A node that hears of no leader asks all that may know one: perhaps it is no member, or is none any more, which those
    /// who have removed it need not have told it.
    fn say_hello(&self) {
        let mut to: BTreeSet<NodeId> = self.founding.others().chain(self.hinted).collect();
        let is_fresh = match &self.phase {
            Phase::Fresh => true,
            Phase::Running(running) => {
                let engine = &running.engine;
                if engine.hears_leader() {
                    return;
                }
                to.extend(engine.members().iter().map(|member| member.key.node));
                false
            }
        };
        to.remove(&self.config.key.node);
        for node in to {
            self.send(MemberKey { node, directory: Uuid::ZERO }, &PeerMessage::Hello { is_fresh });
        }
    }

    fn send(&self, to: MemberKey, message: &PeerMessage) {
        let cluster_id = match &self.phase {
            Phase::Fresh => Uuid::ZERO,
            Phase::Running(running) => running.engine.cluster_id(),
        };
        let envelope =
            Envelope { cluster_id, from: self.config.key, to: to.node, to_directory: to.directory };
        if let Some(frame) = encode(&envelope, message) {
            self.link.send(to.node, frame.into());
        }
    }

    async fn hear(&mut self, envelope: Envelope, message: PeerMessage) -> Result<(), String> {
        let key = self.config.key;
        let is_for_any = envelope.to_directory.is_zero() && matches!(message, PeerMessage::Hello { .. });
        // What was meant for the disk that this node had before is not for it.
        if envelope.to != key.node || !(is_for_any || envelope.to_directory == key.directory) {
            return Ok(());
        }
        if let Phase::Fresh = self.phase {
            let is_quorum = !envelope.cluster_id.is_zero()
                && matches!(message, PeerMessage::Raft(_) | PeerMessage::SnapshotOffer(_));
            if !is_quorum {
                self.hear_fresh(envelope, &message);
                return Ok(());
            }
            // A candidate or a leader counts on this directory.
            self.leave_freshness(envelope.cluster_id, DurableState::default()).await?;
        }
        let Phase::Running(running) = &mut self.phase else { return Ok(()) };
        let is_known = envelope.cluster_id == running.engine.cluster_id();
        let is_hello = matches!(message, PeerMessage::Hello { .. } | PeerMessage::HelloReply { .. });
        if !(is_known || is_hello && envelope.cluster_id.is_zero()) {
            tracing::warn!(
                from = %envelope.from, cluster = %envelope.cluster_id,
                "a node of another cluster speaks to the metadata quorum; correct controller.quorum.voters"
            );
            return Ok(());
        }
        running.engine.hear(envelope.from);
        match message {
            PeerMessage::Hello { .. } => self.welcome(envelope.from),
            PeerMessage::HelloReply { leader, .. } => self.hinted = leader,
            PeerMessage::Raft(message) => {
                note_unfit(envelope.from, running.engine.step(envelope.from, *message));
                if let Some((matched, end)) = running.engine.progress_of(envelope.from) {
                    let (term, now) = (running.engine.term(), self.runtime.wall_clock());
                    self.shared.times.borrow_mut().hear(term, envelope.from, matched, end, now);
                }
            }
            PeerMessage::SnapshotOffer(offer) => self.consider(envelope.from, offer),
            PeerMessage::SnapshotFetch { id, position } => {
                let piece_bytes = self.settings.piece_bytes;
                let to = envelope.from.raft_id();
                let piece = running.engine.uploads.piece(to, id, position, piece_bytes);
                self.send(envelope.from, &piece);
            }
            PeerMessage::SnapshotChunk { id, position, bytes } => {
                return self.take_piece(envelope.from, id, position, bytes.as_ref()).await;
            }
        }
        Ok(())
    }

    fn hear_fresh(&mut self, envelope: Envelope, message: &PeerMessage) {
        match message {
            PeerMessage::Hello { .. } => {
                self.send(envelope.from, &PeerMessage::HelloReply { is_fresh: true, leader: None });
            }
            PeerMessage::HelloReply { is_fresh, leader } => {
                self.founding.hear(envelope.from, *is_fresh);
                self.hinted = leader.or(self.hinted);
            }
            _ => {}
        }
    }

    /// Answers a hello; the leader makes an observer of whoever is no member yet.
    fn welcome(&mut self, from: MemberKey) {
        let Phase::Running(running) = &mut self.phase else { return };
        let engine = &mut running.engine;
        let reply = PeerMessage::HelloReply { is_fresh: false, leader: engine.leader() };
        if engine.is_current() && engine.members().get(from).is_none() {
            let former =
                engine.members().iter().find(|member| member.key.node == from.node && !member.is_voter);
            let change = match former {
                // What observed from the disk that the node had before will not come back.
                Some(former) => MemberChange::Remove(former.key),
                None => MemberChange::Set(Member { key: from, is_voter: false, endpoints: Vec::new() }),
            };
            // If it is not possible now, the next hello asks again. Nobody waits for 0.
            let _ = engine.change_members(0, &change);
        }
        self.send(from, &reply);
    }

    fn consider(&mut self, from: MemberKey, offer: message::SnapshotOffer) {
        let Phase::Running(running) = &mut self.phase else { return };
        let is_same = self.download.as_ref().is_some_and(|known| known.from == from && known.offer == offer);
        if is_same || !running.engine.wants(from, &offer) {
            return;
        }
        self.download = Download::begin(from, offer);
        if let Some(download) = &self.download {
            self.send(from, &download.request());
        }
    }

    async fn take_piece(
        &mut self,
        from: MemberKey,
        id: SnapshotId,
        position: u64,
        piece: Option<&Bytes>,
    ) -> Result<(), String> {
        let Some(download) = &mut self.download else { return Ok(()) };
        match download.take(from, id, position, piece) {
            Progress::None => {}
            Progress::Going => {
                let request = download.request();
                self.send(from, &request);
            }
            Progress::Failed => self.download = None,
            Progress::Whole(snapshot) => {
                let term = download.offer.term;
                self.download = None;
                // Nothing may be between Raft's taking it and its durability.
                self.settle().await?;
                if let Phase::Running(running) = &mut self.phase {
                    note_unfit(from, running.engine.install(from, term, *snapshot));
                }
                self.settle().await?;
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, command: Command) {
        let Phase::Running(running) = &mut self.phase else {
            let (Command::Propose(_, _, reply) | Command::ChangeMembers(_, reply)) = command;
            reply.send(Err(ProposeError::NotLeader(self.hinted)));
            return;
        };
        let id = self.next_reply;
        self.next_reply += 1;
        let (outcome, reply) = match command {
            Command::Propose(Some(term), _, reply) if term != running.engine.term() => {
                (Err(ProposeError::NotLeader(running.engine.leader())), reply)
            }
            Command::Propose(_, records, reply) => (running.engine.propose(id, &records), reply),
            Command::ChangeMembers(change, reply) => (running.engine.change_members(id, &change), reply),
        };
        match outcome {
            Ok(()) => {
                self.replies.insert(id, reply);
            }
            Err(error) => reply.send(Err(error)),
        }
    }

    /// Does the engine's steps until there are none left, and tells those who wait.
    async fn settle(&mut self) -> Result<(), String> {
        let Phase::Running(running) = &mut self.phase else { return Ok(()) };
        let mut decided = Vec::new();
        let mut messages = Vec::new();
        while let Some(step) = running.engine.take_step() {
            if let Some(persist) = &step.persist {
                running
                    .disk
                    .persist(persist, running.engine.store())
                    .await
                    .map_err(|error| format!("the quorum's state cannot be made durable: {error}"))?;
            }
            let Outcome { messages: more, decided: now, has_applied } = running.engine.advance(step)?;
            messages.extend(more);
            decided.extend(now);
            if has_applied {
                *self.shared.image.borrow_mut() = running.engine.image().clone();
            }
        }
        let wants_snapshot = running.engine.store().take_snapshot_wish();
        if wants_snapshot || running.engine.store().entry_bytes() > self.settings.snapshot_after_bytes() {
            running.compact().await?;
        }
        let status = running.engine.status();
        for (to, message) in &messages {
            self.send(*to, message);
        }
        let is_new = *self.shared.status.borrow() != status;
        if is_new {
            let is_alone = status.role == Role::Leader && status.members.iter().count() == 1;
            self.shared.is_alone.set(is_alone);
            self.tell_leader(&status);
            *self.shared.status.borrow_mut() = status;
        }
        for (id, result) in decided {
            if let Some(reply) = self.replies.remove(&id) {
                reply.send(result);
            }
        }
        if is_new {
            self.shared.changed.notify_all();
        }
        Ok(())
    }

    fn tell_leader(&self, now: &QuorumStatus) {
        let before = self.shared.status.borrow();
        if before.leader != now.leader || (before.term != now.term && now.leader.is_some()) {
            match now.leader {
                Some(leader) => tracing::info!(%leader, term = now.term, "the metadata quorum has a leader"),
                None => tracing::info!(term = now.term, "the metadata quorum has no leader"),
            }
        }
    }
}

impl<R: Runtime> Running<R> {
    async fn compact(&mut self) -> Result<(), String> {
        let Some(snapshot) = self.engine.make_snapshot() else { return Ok(()) };
        let is_done = self.disk.compact(&snapshot, self.engine.store()).await;
        if is_done.map_err(|error| format!("a snapshot of the metadata cannot be made: {error}"))? {
            self.engine.compact(snapshot);
        }
        Ok(())
    }
}

fn note_unfit(from: MemberKey, outcome: Result<(), Unfit>) {
    match outcome {
        Ok(()) | Err(Unfit::Stale) => {}
        Err(unfit) => tracing::debug!(%from, ?unfit, "a message of the metadata quorum is not taken"),
    }
}
