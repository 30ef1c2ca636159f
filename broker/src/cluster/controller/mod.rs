//! The active controller: it decides on changes of the metadata while this node leads the quorum.
//!
//! What waits is decided together, each command against the image as those before it leave it, and is proposed at once;
//! one proposal is under way at a time. A proposal is bound to the term of the leadership in which it was decided.

mod balancing;
mod decide;
mod placement;
mod probe;
mod rules;
mod sessions;

use super::command::MetadataError;
use super::controller_calls::ControllerCalls;
use super::publisher::Publisher;
use super::quorum::Quorum;
use crate::runtime::Runtime;
use crate::shard::signal::Signal;
pub(in crate::cluster) use decide::{ControllerCommand, Reply};
use decide::{Decider, Settle, apply_all};
use logmill_state::metadata::{Elected, Image, NO_LEADER, Record};
use logmill_state::settings::BrokerSettings;
use logmill_wire::ids::NodeId;
use rules::Rules;
use sessions::Sessions;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of records with which a proposal takes no more commands.
const PROPOSAL_BYTES: usize = 256 << 10;

/// Decides on changes of the metadata. A clone is the same controller.
pub(in crate::cluster) struct Controller<R: Runtime>(Rc<State<R>>);

impl<R: Runtime> Clone for Controller<R> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

struct State<R: Runtime> {
    runtime: R,
    node: NodeId,
    started_with: Arc<BrokerSettings>,
    quorum: Quorum,
    publisher: Publisher,
    queue: RefCell<VecDeque<ControllerCommand>>,
    work: Signal,
    sessions: Rc<RefCell<Sessions>>,
    calls: Rc<dyn ControllerCalls>,
    /// The brokers that are being looked for.
    probing: RefCell<BTreeSet<NodeId>>,
    /// The term in which what was left half done has been finished.
    resumed_in: Cell<u64>,
    is_stopping: Cell<bool>,
}

/// What one proposal is made of.
#[derive(Default)]
struct Batch {
    /// Of each decision.
    changes: Vec<Vec<Record>>,
    elected: Vec<Elected>,
    settles: Vec<Waiting>,
}

/// A decision that is told of when it is committed.
struct Waiting {
    /// Its place among the changes.
    change: usize,
    /// Whether the shards of this node come first.
    is_for_shards: bool,
    settle: Settle,
}

impl<R: Runtime> Controller<R> {
    /// Starts the tasks of a controller, which decides while this node leads the quorum.
    #[must_use]
    pub fn start(
        runtime: R,
        node: NodeId,
        started_with: Arc<BrokerSettings>,
        quorum: Quorum,
        publisher: Publisher,
        calls: Rc<dyn ControllerCalls>,
    ) -> Self {
        let times = &started_with.node;
        let sessions = Sessions::new(times.broker_session_timeout_ms, times.broker_heartbeat_interval_ms);
        let controller = Self(Rc::new(State {
            runtime: runtime.clone(),
            node,
            started_with,
            quorum,
            publisher,
            queue: RefCell::default(),
            work: Signal::default(),
            sessions: Rc::new(RefCell::new(sessions)),
            calls,
            probing: RefCell::default(),
            resumed_in: Cell::new(0),
            is_stopping: Cell::new(false),
        }));
        let (deciding, watching, probing) = (controller.clone(), controller.clone(), controller.clone());
        runtime.spawn(async move { probing.0.watch_links().await });
        if controller.0.started_with.cluster.auto_leader_rebalance {
            let balancing = controller.clone();
            runtime.spawn(async move { balancing.0.balance_leaders().await });
        }
        let moving = controller.clone();
        runtime.spawn(async move { moving.0.balance_replicas().await });
        runtime.spawn(async move { deciding.0.run().await });
        runtime.spawn(async move { watching.0.watch_sessions().await });
        controller
    }

    /// Has a command decided. A heartbeat counts from now on, however long others take to be decided.
    pub fn send(&self, command: ControllerCommand) {
        if let ControllerCommand::Heartbeat { sender: (node, incarnation), .. } = &command {
            let image = self.0.quorum.image();
            if image.broker(*node).is_some_and(|broker| broker.incarnation == *incarnation) {
                let now = self.0.runtime.monotonic();
                self.0.sessions.borrow_mut().hear(*node, *incarnation, now);
            }
        }
        self.0.queue.borrow_mut().push_back(command);
        self.0.work.notify_all();
    }

    /// Ends the tasks.
    pub fn stop(&self) {
        self.0.is_stopping.set(true);
        self.0.work.notify_all();
    }
}

impl<R: Runtime> State<R> {
    async fn run(&self) {
        while !self.is_stopping.get() {
            let work = self.work.wait();
            if self.queue.borrow().is_empty() {
                work.await;
                continue;
            }
            self.decide_waiting().await;
            if self.runtime.should_yield() {
                self.runtime.yield_now().await;
            }
        }
        self.refuse_waiting(&MetadataError::Stopping);
    }

    fn refuse_waiting(&self, error: &MetadataError) {
        let waiting = std::mem::take(&mut *self.queue.borrow_mut());
        for command in waiting {
            command.refuse(error.clone());
        }
    }

    async fn decide_waiting(&self) {
        let status = self.quorum.status();
        if let Some(failure) = self.quorum.failure() {
            return self.refuse_waiting(&MetadataError::NotCommitted(failure));
        }
        if !status.is_current {
            return self.refuse_waiting(&MetadataError::NotController(status.leader));
        }
        self.sessions.borrow_mut().lead(status.term, status.applied, self.runtime.monotonic());
        let mut batch = Batch::default();
        let mut draft = self.quorum.image();
        if draft.cluster_id().is_none() {
            let minted = Record::ClusterIdMinted { cluster_id: status.cluster_id };
            // The image has no id that could differ.
            let _ = draft.apply(&minted);
            batch.changes.push(vec![minted]);
        }
        if self.resumed_in.get() != status.term {
            self.resume(&mut batch, &mut draft);
        }
        self.fill(&mut batch, draft);
        let Batch { changes, elected, settles } = batch;
        let outcomes = self.commit(status.term, status.applied, changes).await;
        let is_whole = outcomes.iter().all(Result::is_ok);
        if is_whole {
            elected.iter().for_each(|elected| self.tell_of(elected));
        }
        // What was committed in part is finished by the next decisions.
        self.resumed_in.set(if is_whole { status.term } else { 0 });
        self.settle(settles, &outcomes);
    }

    /// Proposes changes, in several entries if one does not hold them. Each beginning of a change is safe, and no more is
    /// proposed once a piece is refused. Returns what became of each change.
    async fn commit(
        &self,
        term: u64,
        applied: u64,
        changes: Vec<Vec<Record>>,
    ) -> Vec<Result<u64, MetadataError>> {
        let (pieces, ends) = self.quorum.pieces(changes);
        let (mut indices, mut refused) = (vec![applied], None);
        for piece in pieces {
            match self.quorum.propose_in(term, piece).await {
                Ok(index) => indices.push(index),
                Err(error) => {
                    refused = Some(MetadataError::from(error));
                    break;
                }
            }
        }
        let outcome = |end: usize| match (indices.get(end), &refused) {
            (Some(&index), _) => Ok(index),
            (None, Some(error)) => Err(error.clone()),
            // All pieces have been proposed then.
            (None, None) => Ok(applied),
        };
        ends.into_iter().map(outcome).collect()
    }

    /// Adds what a controller before this one left half done.
    fn resume(&self, batch: &mut Batch, draft: &mut Image) {
        let rules = Rules::new(draft, self.node, &self.started_with);
        let plan = rules.with_context(|context| draft.decide_resume(context));
        match apply_all(draft, &plan.records) {
            Ok(()) => {
                batch.changes.push(plan.records);
                batch.elected.extend(plan.elected);
            }
            Err(cause) => {
                tracing::error!(%cause, "what was left half done cannot be finished; please report this")
            }
        }
    }

    fn fill(&self, batch: &mut Batch, mut draft: Image) {
        let rules = Rules::new(&draft, self.node, &self.started_with);
        let mut bytes = 0;
        while bytes < PROPOSAL_BYTES {
            let Some(command) = self.queue.borrow_mut().pop_front() else { return };
            let decider = Decider {
                draft: &draft,
                rules: &rules,
                sessions: &self.sessions,
                node: self.node,
                started_with: &self.started_with,
                random: &|| self.random_u128(),
            };
            let decision = decider.decide(command);
            if let Err(cause) = apply_all(&mut draft, &decision.records) {
                tracing::error!(%cause, "a decision contradicts the metadata and is dropped; please report this");
                (decision.settle)(Err(MetadataError::NotCommitted(cause)));
                continue;
            }
            bytes += decision.records.iter().map(|record| record.encode().len()).sum::<usize>();
            batch.elected.extend(decision.elected);
            batch.settles.push(Waiting {
                change: batch.changes.len(),
                is_for_shards: decision.is_for_shards,
                settle: decision.settle,
            });
            batch.changes.push(decision.records);
            if decision.changes_rules {
                return;
            }
        }
    }

    fn random_u128(&self) -> u128 {
        (u128::from(self.runtime.random_u64()) << 64) | u128::from(self.runtime.random_u64())
    }

    fn settle(&self, settles: Vec<Waiting>, outcomes: &[Result<u64, MetadataError>]) {
        let mut later = Vec::new();
        for Waiting { change, is_for_shards, settle } in settles {
            match outcomes.get(change) {
                Some(&Ok(index)) if is_for_shards => later.push((index, settle)),
                Some(outcome) => settle(outcome.clone()),
                // There is one for each.
                None => {}
            }
        }
        let Some(&(last, _)) = later.last() else { return };
        let publisher = self.publisher.clone();
        self.runtime.spawn(async move {
            publisher.until_published(last).await;
            later.into_iter().for_each(|(index, settle)| settle(Ok(index)));
        });
    }

    fn tell_of(&self, elected: &Elected) {
        let Elected { partition, leader, is_unclean } = *elected;
        if is_unclean {
            tracing::warn!(
                ?partition, %leader,
                "an unclean election: the new leader may lack records that were acknowledged, and they are lost"
            );
        } else if leader == NO_LEADER {
            tracing::warn!(?partition, "a partition has no leader: no replica that has all records is alive");
        } else {
            tracing::debug!(?partition, %leader, "a partition has another leader");
        }
    }

    /// Waits until this node leads and there is a broker besides its own; false if the quorum goes on without this node.
    async fn until_leading_others(&self) -> bool {
        let (quorum, node) = (self.quorum.clone(), self.node);
        let has_others = move || quorum.image().brokers().any(|broker| broker.id != node);
        self.quorum.wait_until(|status| status.is_current && has_others()).await
    }

    /// Has preferred leaders lead again, now and then, while this node leads and there is another broker.
    async fn balance_leaders(&self) {
        let interval = Duration::from_secs(self.started_with.cluster.leader_imbalance_check_interval_seconds);
        while !self.is_stopping.get() {
            if !self.until_leading_others().await {
                return;
            }
            self.runtime.sleep(interval).await;
            self.queue.borrow_mut().push_back(ControllerCommand::Balance);
            self.work.notify_all();
        }
    }

    /// Looks for sessions that have ended, while this node leads and there is a broker besides its own.
    async fn watch_sessions(&self) {
        let interval = self.sessions.borrow().interval();
        while !self.is_stopping.get() {
            if !self.until_leading_others().await {
                return;
            }
            let status = self.quorum.status();
            let silent_for = |node| self.calls.silent_for(node);
            self.sessions.borrow_mut().lead(status.term, status.applied, self.runtime.monotonic());
            self.sessions.borrow_mut().look_back(&self.quorum.image(), silent_for);
            self.runtime.sleep(interval).await;
            let now = self.runtime.monotonic();
            let silent = self.sessions.borrow_mut().silent(&self.quorum.image(), now, silent_for);
            if !silent.is_empty() {
                self.queue.borrow_mut().extend(silent.into_iter().map(ControllerCommand::Fence));
                self.work.notify_all();
            }
        }
    }
}
