//! The control shard's way to the active controller, wherever that is, and the controller for as long as it is here.
//!
//! What shards ask is decided here while this node leads the quorum, and asked of the leader otherwise. The same
//! questions come from other nodes. A call that was lost may have been carried out; what is asked again is made so that
//! it does no harm twice: registrations and heartbeats name their incarnation, proposals their epochs, a block of producer
//! ids that nobody got is no loss, a topic that is there is there. A client's request that is forwarded twice may be
//! answered that its topic exists, as with Kafka.

use super::command::{Forwarded, Forwarding, MetadataCommand, MetadataError};
use super::control_messages as messages;
use super::controller::{Controller, ControllerCommand, Reply};
use super::controller_calls::{CONTROL_CALL, ControllerCalls};
use super::links::CallHandler;
use super::publisher::Publisher;
use super::quorum::{Quorum, QuorumStatus};
use super::quorum_command::QuorumCommand;
use super::voters::carry_out;
use crate::runtime::{Runtime, oneshot};
use crate::shard::deadline::{Either, either, within};
use crate::shard::signal::Signal;
use bytes::Bytes;
use logmill_state::metadata::{BrokerError, Image, NewTopic, ProducerIdBlock, ProducerIdsError};
use logmill_state::settings::BrokerSettings;
use logmill_wire::frame::control::{
    ControlAnswer, ControlRequest, Creations, ForwardedResponse, NO_NODE, ProducerIdRange,
    RegistrationRefusal, VoterChange, decode_answer, decode_request, encode_answer, encode_request,
};
use logmill_wire::ids::{MonotonicNs, NodeId, ProducerId, Uuid};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How long an answer to a call is waited for that takes the controller no more than one commit.
pub(super) const CALL_DEADLINE: Duration = Duration::from_secs(2);

/// The shortest and the longest time between two tries, of which half is by chance.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// Carries out a client's request on a shard of this node; the response with its size before it, if there is one.
pub type CarryOut = Rc<dyn Fn(Forwarded) -> Pin<Box<dyn Future<Output = Option<Bytes>>>>>;

/// The control plane of a node. A clone is the same one.
pub struct ControlPlane<R: Runtime>(pub(super) Rc<Plane<R>>);

impl<R: Runtime> Clone for ControlPlane<R> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

pub(super) struct Plane<R: Runtime> {
    pub runtime: R,
    pub node: NodeId,
    pub settings: Arc<BrokerSettings>,
    pub quorum: Quorum,
    pub publisher: Publisher,
    pub controller: Controller<R>,
    calls: Rc<dyn ControllerCalls>,
    carry_out: RefCell<Option<CarryOut>>,
    pub agent: super::broker_agent::AgentState,
    pub proposals: super::proposals::Proposals,
    pub is_stopping: Cell<bool>,
    /// Told when the node begins to stop.
    pub changed: Signal,
}

impl<R: Runtime> ControlPlane<R> {
    /// Starts the controller of this node and what speaks to that of others.
    #[must_use]
    pub fn start(
        runtime: R,
        settings: Arc<BrokerSettings>,
        quorum: Quorum,
        publisher: Publisher,
        calls: Rc<dyn ControllerCalls>,
    ) -> Self {
        let node = settings.node.node_id;
        let controller = Controller::start(
            runtime.clone(),
            node,
            Arc::clone(&settings),
            quorum.clone(),
            publisher.clone(),
            Rc::clone(&calls),
        );
        let plane = Self(Rc::new(Plane {
            runtime: runtime.clone(),
            node,
            settings,
            quorum,
            publisher,
            controller,
            calls,
            carry_out: RefCell::default(),
            agent: Default::default(),
            proposals: Default::default(),
            is_stopping: Cell::new(false),
            changed: Signal::default(),
        }));
        let proposing = plane.clone();
        runtime.spawn(async move { proposing.0.send_proposals().await });
        plane
    }

    /// Says how requests are carried out that other brokers forward to this node.
    pub fn carry_out_with(&self, carry_out: CarryOut) {
        *self.0.carry_out.borrow_mut() = Some(carry_out);
    }

    /// The image as of the last change that is applied here.
    #[must_use]
    pub fn image(&self) -> Image {
        self.0.quorum.image()
    }

    /// What answers the calls of other nodes.
    #[must_use]
    pub fn call_handler(&self) -> CallHandler {
        let plane = self.clone();
        Rc::new(move |from, operation, payload| {
            let plane = plane.clone();
            Box::pin(async move { plane.0.answer_call(from, operation, &payload).await })
        })
    }

    /// Carries out what a shard of this node asks for.
    pub fn handle(&self, command: MetadataCommand) {
        let plane = Rc::clone(&self.0);
        match command {
            MetadataCommand::AllocateProducerIds { reply } => {
                self.0.runtime.spawn(async move { reply.send(plane.allocate_producer_ids().await) });
            }
            MetadataCommand::CreateMissingTopics { topics, reply } if !plane.is_active() => {
                self.0.runtime.spawn(async move { reply.send(plane.create_missing(topics).await) });
            }
            MetadataCommand::Forward { reply, .. } if plane.is_active() => reply.send(Forwarding::Here),
            MetadataCommand::Forward { request, reply } => {
                self.0.runtime.spawn(async move { reply.send(plane.forward(&request).await) });
            }
            MetadataCommand::AlterPartition { partition, proposal, reply } => {
                plane.proposals.add(partition, proposal, reply);
            }
            MetadataCommand::Quorum(command @ QuorumCommand::Members { .. }) => {
                carry_out(&plane.runtime, &plane.quorum, command);
            }
            MetadataCommand::ReplicasOffline { partitions } => {
                self.0.runtime.spawn(async move { plane.tell_of_offline(&partitions).await });
            }
            MetadataCommand::Quorum(command) if plane.is_active() => {
                carry_out(&plane.runtime, &plane.quorum, command);
            }
            command => plane.controller.send(ControllerCommand::Shard(command)),
        }
    }

    /// Ends the tasks. What is under way is answered as if the controller could not be reached.
    pub fn stop(&self) {
        self.0.is_stopping.set(true);
        self.0.changed.notify_all();
        self.0.proposals.wake();
        self.0.controller.stop();
    }
}

impl<R: Runtime> Plane<R> {
    /// Whether this node is the active controller.
    pub fn is_active(&self) -> bool {
        self.quorum.status().is_current
    }

    async fn answer_call(&self, from: NodeId, operation: u16, payload: &[u8]) -> Option<Bytes> {
        if operation != CONTROL_CALL {
            return None;
        }
        let answer = match decode_request(payload) {
            Ok(request) if sender_of(&request).is_none_or(|sender| sender == from) => {
                self.answer(request, false).await
            }
            _ => ControlAnswer::NotUnderstood,
        };
        let too_large = || ControlAnswer::NotCommitted("the answer is too large".to_owned());
        encode_answer(&answer).or_else(|_| encode_answer(&too_large())).map(Bytes::from).ok()
    }

    /// Has a command decided here.
    async fn decide<T: 'static>(
        &self,
        command: impl FnOnce(Reply<T>) -> ControllerCommand,
    ) -> Result<T, ControlAnswer> {
        let (reply, answer) = oneshot::channel();
        self.controller.send(command(reply));
        match answer.await {
            Ok(outcome) => outcome.map_err(messages::failure_of),
            Err(oneshot::Closed) => Err(ControlAnswer::NotController(NO_NODE)),
        }
    }

    /// Answers a question, of another node or (`is_own`) of this one.
    async fn answer(&self, request: ControlRequest, is_own: bool) -> ControlAnswer {
        match self.try_answer(request, is_own).await {
            Ok(answer) | Err(answer) => answer,
        }
    }

    async fn try_answer(
        &self,
        request: ControlRequest,
        is_own: bool,
    ) -> Result<ControlAnswer, ControlAnswer> {
        match request {
            ControlRequest::Register(registration) => {
                let start = Box::new(messages::start_of(registration));
                let registered =
                    self.decide(|reply| ControllerCommand::Register { start, is_own, reply }).await?;
                Ok(registered.map_or_else(
                    |error| ControlAnswer::RegistrationRefused(messages::refusal_of(error)),
                    ControlAnswer::Registered,
                ))
            }
            ControlRequest::Heartbeat(beat) => {
                let sender = (NodeId(beat.broker_id), Uuid(beat.incarnation));
                let (applied, wants_shutdown) = (beat.applied, beat.wants_shutdown);
                let command = |reply| ControllerCommand::Heartbeat { sender, applied, wants_shutdown, reply };
                Ok(self.decide(command).await?.map_or_else(refused_broker, ControlAnswer::Alive))
            }
            ControlRequest::AlterPartitions(asked) => {
                let sender = (NodeId(asked.broker_id), Uuid(asked.incarnation));
                let proposals = asked.proposals.into_iter().map(messages::proposal_of).collect();
                let command = |reply| ControllerCommand::AlterPartitions { sender, proposals, reply };
                Ok(self.decide(command).await?.map_or_else(refused_broker, |outcomes| {
                    ControlAnswer::Altered(outcomes.into_iter().map(messages::outcome_on_wire).collect())
                }))
            }
            ControlRequest::AllocateProducerIds(broker_id) => {
                let node = NodeId(broker_id);
                let command = |reply| ControllerCommand::AllocateProducerIds { node, reply };
                Ok(match self.decide(command).await? {
                    Ok(ProducerIdBlock { first, count }) => {
                        ControlAnswer::ProducerIds(ProducerIdRange { first: first.0, count })
                    }
                    Err(ProducerIdsError::BrokerNotRegistered(_)) => ControlAnswer::NotRegistered,
                    Err(ProducerIdsError::Exhausted) => ControlAnswer::ProducerIdsExhausted,
                })
            }
            ControlRequest::CreateMissingTopics(topics) => {
                let topics = topics.into_iter().map(messages::missing_of).collect();
                let command =
                    |reply| ControllerCommand::Shard(MetadataCommand::CreateMissingTopics { topics, reply });
                let outcomes = self.decide(command).await?.into_iter().map(messages::creation_on_wire);
                let applied = self.quorum.status().applied;
                Ok(ControlAnswer::Created(Creations { outcomes: outcomes.collect(), applied }))
            }
            ControlRequest::ChangeVoters(change) => Ok(self.change_voters(change).await),
            ControlRequest::ReplicasOffline(offline) => {
                let sender = (NodeId(offline.broker_id), Uuid(offline.incarnation));
                let partitions = messages::partitions_of(&offline);
                let command = |reply| ControllerCommand::ReplicasOffline { sender, partitions, reply };
                let told = self.decide(command).await?;
                Ok(told.map_or_else(refused_broker, |()| ControlAnswer::Altered(Vec::new())))
            }
            ControlRequest::Forward(request) => {
                let Some(request) = messages::forwarded_of(request) else {
                    return Ok(ControlAnswer::NotUnderstood);
                };
                Ok(self.carry_out(request).await)
            }
        }
    }

    async fn change_voters(&self, change: VoterChange) -> ControlAnswer {
        let status = self.quorum.status();
        if !status.is_current {
            return not_controller(&status);
        }
        let (reply, answer) = oneshot::channel();
        carry_out(&self.runtime, &self.quorum, messages::voter_command_of(change, reply));
        match answer.await {
            Ok(Ok(Ok(()))) => ControlAnswer::VotersChanged,
            Ok(Ok(Err(error))) => ControlAnswer::VotersUnchanged(error.to_string()),
            Ok(Err(error)) => messages::failure_of(error),
            Err(oneshot::Closed) => ControlAnswer::NotController(NO_NODE),
        }
    }

    /// Carries out a forwarded request as if its client were connected to this node.
    async fn carry_out(&self, request: Forwarded) -> ControlAnswer {
        let carry_out = self.carry_out.borrow().clone();
        let began = self.quorum.status();
        let Some(carry_out) = carry_out.filter(|_| began.is_current) else {
            return not_controller(&began);
        };
        let response = carry_out(request).await;
        let status = self.quorum.status();
        // If the leadership ended meanwhile, the response may be an error that says so, and not meant for the client.
        if !status.is_current || status.term != began.term {
            return not_controller(&status);
        }
        match response {
            Some(response) => ControlAnswer::Forwarded(ForwardedResponse {
                response: response.to_vec(),
                applied: status.applied,
            }),
            None => ControlAnswer::NotUnderstood,
        }
    }

    /// Asks the active controller once, and gives an error of [`messages::error_in`] where it gives no answer.
    pub async fn ask(
        &self,
        request: &ControlRequest,
        deadline: Duration,
    ) -> Result<ControlAnswer, MetadataError> {
        let Some(leader) = self.quorum.status().leader else {
            return Err(MetadataError::NotController(None));
        };
        let answer = if leader == self.node {
            // The decision is the same, and may take as long.
            within(&self.runtime, deadline, self.answer(request.clone(), true)).await
        } else {
            let Ok(payload) = encode_request(request) else {
                return Err(MetadataError::NotCommitted("the request is too large".to_owned()));
            };
            let called = self.calls.call(leader, CONTROL_CALL, payload.into(), deadline);
            // Who leads no more may be gone, and is not waited for.
            let deposed = self.quorum.wait_until(|now| now.leader.is_some_and(|now| now != leader));
            match either(called, deposed).await {
                Either::First(Ok(answer)) => {
                    Some(decode_answer(&answer).unwrap_or(ControlAnswer::NotUnderstood))
                }
                Either::First(Err(_)) | Either::Second(_) => None,
            }
        };
        match answer {
            Some(
                failed @ (ControlAnswer::NotController(_)
                | ControlAnswer::NotCommitted(_)
                | ControlAnswer::NotUnderstood),
            ) => Err(messages::error_in(failed)),
            Some(answer) => Ok(answer),
            None => Err(MetadataError::NotCommitted(format!(
                "node {leader}, the active controller, does not answer"
            ))),
        }
    }

    /// Asks until there is an answer, or the time is over.
    async fn ask_until(
        &self,
        request: &ControlRequest,
        end: MonotonicNs,
    ) -> Result<ControlAnswer, MetadataError> {
        let mut tries = 0;
        loop {
            let remaining = Duration::from_nanos(end.since(self.runtime.monotonic()));
            match self.ask(request, remaining).await {
                Ok(answer) => return Ok(answer),
                Err(_) if self.is_stopping.get() => return Err(MetadataError::Stopping),
                Err(error) if self.runtime.monotonic() >= end => return Err(error),
                Err(_) => self.back_off(&mut tries).await,
            }
        }
    }

    /// Waits before another try: a while that grows, or until the quorum has another leader.
    pub async fn back_off(&self, tries: &mut u32) {
        let whole = BACKOFF_MIN.saturating_mul(1 << (*tries).min(8)).min(BACKOFF_MAX);
        *tries = tries.saturating_add(1);
        let half_ns = (whole.as_nanos() as u64 / 2).max(1);
        let wait = Duration::from_nanos(half_ns + self.runtime.random_u64() % half_ns);
        let before = self.quorum.status();
        let is_other = |now: &QuorumStatus| {
            now.leader.is_some() && (now.leader, now.is_current) != (before.leader, before.is_current)
        };
        let has_ended = within(&self.runtime, wait, self.quorum.wait_until(is_other)).await == Some(false);
        if has_ended {
            // Nothing will change any more; those who ask give up when their time is over.
            self.runtime.sleep(wait).await;
        }
    }

    fn patience(&self) -> MonotonicNs {
        let patience_ns = self.settings.network.request_timeout_ms.saturating_mul(1_000_000);
        MonotonicNs(self.runtime.monotonic().0.saturating_add(patience_ns))
    }

    async fn allocate_producer_ids(
        &self,
    ) -> Result<Result<ProducerIdBlock, ProducerIdsError>, MetadataError> {
        let request = ControlRequest::AllocateProducerIds(self.node.0);
        match self.ask_until(&request, self.patience()).await? {
            ControlAnswer::ProducerIds(ProducerIdRange { first, count }) => {
                Ok(Ok(ProducerIdBlock { first: ProducerId(first), count }))
            }
            ControlAnswer::ProducerIdsExhausted => Ok(Err(ProducerIdsError::Exhausted)),
            ControlAnswer::NotRegistered => Ok(Err(ProducerIdsError::BrokerNotRegistered(self.node))),
            other => Err(messages::error_in(other)),
        }
    }

    async fn create_missing(
        &self,
        topics: Vec<NewTopic>,
    ) -> Result<Vec<super::command::Creation>, MetadataError> {
        let topics = topics.into_iter().map(messages::missing_on_wire).collect();
        let end = self.patience();
        match self.ask_until(&ControlRequest::CreateMissingTopics(topics), end).await? {
            ControlAnswer::Created(Creations { outcomes, applied }) => {
                self.wait_for_metadata(applied, end).await;
                Ok(outcomes.into_iter().map(messages::creation_of).collect())
            }
            other => Err(messages::error_in(other)),
        }
    }

    async fn forward(&self, request: &Forwarded) -> Forwarding {
        let end = self.patience();
        let asked = ControlRequest::Forward(messages::forwarded_on_wire(request));
        let mut tries = 0;
        loop {
            if self.is_active() {
                return Forwarding::Here;
            }
            let remaining = Duration::from_nanos(end.since(self.runtime.monotonic()));
            let is_elsewhere = self.quorum.status().leader != Some(self.node);
            if is_elsewhere && let Ok(ControlAnswer::Forwarded(answer)) = self.ask(&asked, remaining).await {
                self.wait_for_metadata(answer.applied, end).await;
                return Forwarding::Answered(answer.response.into());
            }
            if self.is_stopping.get() || self.runtime.monotonic() >= end {
                return Forwarding::Failed;
            }
            self.back_off(&mut tries).await;
        }
    }

    /// Waits until the shards of this node have what the controller has changed: who asks here next shall see it.
    async fn wait_for_metadata(&self, applied: u64, end: MonotonicNs) {
        let remaining = Duration::from_nanos(end.since(self.runtime.monotonic()));
        let _ = within(&self.runtime, remaining, self.publisher.until_published(applied)).await;
    }
}

/// The broker for which a request speaks, if it is one in particular.
const fn sender_of(request: &ControlRequest) -> Option<NodeId> {
    match request {
        ControlRequest::Register(registration) => Some(NodeId(registration.broker_id)),
        ControlRequest::Heartbeat(heartbeat) => Some(NodeId(heartbeat.broker_id)),
        ControlRequest::AlterPartitions(asked) => Some(NodeId(asked.broker_id)),
        ControlRequest::ReplicasOffline(offline) => Some(NodeId(offline.broker_id)),
        ControlRequest::AllocateProducerIds(broker_id) => Some(NodeId(*broker_id)),
        ControlRequest::ChangeVoters(change) => Some(NodeId(change.node)),
        ControlRequest::CreateMissingTopics(_) | ControlRequest::Forward(_) => None,
    }
}

fn not_controller(status: &QuorumStatus) -> ControlAnswer {
    ControlAnswer::NotController(status.leader.map_or(NO_NODE, |leader| leader.0))
}

const fn refused_broker(error: BrokerError) -> ControlAnswer {
    match error {
        BrokerError::NotRegistered => ControlAnswer::NotRegistered,
        BrokerError::StaleIncarnation => ControlAnswer::StaleIncarnation,
    }
}

/// Whether another try may be answered otherwise.
pub(super) const fn is_final(refusal: RegistrationRefusal) -> bool {
    match refusal {
        // The old process may be on its way out, or the cluster may be getting its id.
        RegistrationRefusal::Duplicate | RegistrationRefusal::InconsistentClusterId(None) => false,
        RegistrationRefusal::InconsistentClusterId(Some(_))
        | RegistrationRefusal::Invalid
        | RegistrationRefusal::EpochsExhausted => true,
    }
}
