//! A broker's life as the cluster sees it: it registers, is unfenced, gives signs of life, and takes its leave (KIP-631).

use super::command::MetadataError;
use super::control_messages as messages;
use super::control_plane::{CALL_DEADLINE, ControlPlane, Plane, is_final};
use crate::runtime::Runtime;
use crate::shard::deadline::{Either, either, within};
use crate::shard::signal::Signal;
use logmill_state::metadata::{BrokerStart, RegisterBrokerError};
use logmill_wire::frame::control::{ControlAnswer, ControlRequest, Heartbeat, OfflineReplicas};
use logmill_wire::ids::{TopicPartition, Uuid};
use std::cell::Cell;
use std::fmt;
use std::time::Duration;

/// Between heartbeats that ask for something: to be unfenced, or to stop.
const IMPATIENT: Duration = Duration::from_millis(50);

/// How long a controlled shutdown may take, as long as the controller can be reached or comes back.
pub const CONTROLLED_SHUTDOWN_MAX: Duration = Duration::from_secs(30);

/// Why a broker does not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartError {
    /// The registration is refused, and would be again.
    Refused(RegisterBrokerError),
    /// The quorum goes on without this node.
    Quorum(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::Quorum(cause) => f.write_str(cause),
        }
    }
}

impl std::error::Error for StartError {}

/// A registration that is committed and applied on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The cluster.
    pub cluster_id: Uuid,
    /// This process.
    pub incarnation: Uuid,
    /// The place of the registration in the metadata log.
    pub index: u64,
}

/// What the agent of a broker knows.
#[derive(Default)]
pub(super) struct AgentState {
    registered: Cell<Option<Registered>>,
    wants_shutdown: Cell<bool>,
    may_stop: Cell<bool>,
    has_left: Cell<bool>,
    /// Heartbeats are to be sent now.
    nudge: Signal,
    told: Signal,
}

impl AgentState {
    pub fn incarnation(&self) -> Option<Uuid> {
        self.registered.get().map(|registered| registered.incarnation)
    }
}

impl<R: Runtime> ControlPlane<R> {
    /// Registers this process as a new incarnation of its broker, and waits until that is applied here. From then on it
    /// gives signs of life. The incarnation is drawn here, the cluster's id is the quorum's if `start` has none, and a
    /// broker that is not alone is fenced until its shards work with this metadata. Nothing may be appended before.
    ///
    /// # Errors
    /// [`StartError`]. Until there is a controller, and while another process with this id is alive, it is tried again:
    /// the latter for `initial.broker.registration.timeout.ms`.
    pub async fn register(&self, mut start: BrokerStart) -> Result<Registered, StartError> {
        let plane = &self.0;
        if !plane.quorum.wait_until(|status| status.leader.is_some() && !status.cluster_id.is_zero()).await {
            return Err(StartError::Quorum(plane.quorum.failure().unwrap_or_default()));
        }
        let cluster_id = plane.quorum.status().cluster_id;
        if start.registration.cluster_id.is_zero() {
            start.registration.cluster_id = cluster_id;
        }
        let bits = u128::from(plane.runtime.random_u64()) << 64 | u128::from(plane.runtime.random_u64());
        start.registration.incarnation = Uuid::from_random(bits);
        let index = plane.register(&mut start).await?;
        if !plane.quorum.wait_until(|status| status.applied >= index).await {
            return Err(StartError::Quorum(plane.quorum.failure().unwrap_or_default()));
        }
        let registered = Registered { cluster_id, incarnation: start.registration.incarnation, index };
        plane.agent.registered.set(Some(registered));
        let beating = self.clone();
        plane.runtime.spawn(async move { beating.0.give_signs_of_life(registered).await });
        Ok(registered)
    }

    /// Waits until this broker is not fenced, on all of its shards; false if the quorum goes on without this node.
    pub async fn until_unfenced(&self) -> bool {
        let plane = &self.0;
        let Some(registered) = plane.agent.registered.get() else { return false };
        plane.publisher.until_published(registered.index).await;
        plane.agent.nudge.notify_all();
        let (quorum, node) = (plane.quorum.clone(), plane.node);
        let is_active = move || {
            quorum
                .image()
                .broker(node)
                .is_some_and(|broker| broker.incarnation == registered.incarnation && !broker.fenced)
        };
        if !plane.quorum.wait_until(|_| is_active()).await {
            return false;
        }
        plane.publisher.until_published(plane.quorum.status().applied).await;
        true
    }

    /// Waits until this process can go on no longer, and says why: another one has registered with its id.
    pub async fn until_replaced(&self) -> String {
        let plane = &self.0;
        let (quorum, node) = (plane.quorum.clone(), plane.node);
        let is_other = move || {
            let Some(registered) = plane.agent.registered.get() else { return false };
            quorum.image().broker(node).is_some_and(|broker| broker.incarnation != registered.incarnation)
        };
        if !plane.quorum.wait_until(|_| is_other()).await {
            std::future::pending::<()>().await;
        }
        format!("another process has registered with node.id {node}")
    }

    /// Takes leave: waits until others lead what this broker leads, as far as they can, or for `limit`. Does nothing if
    /// there is nobody to take over, or `controlled.shutdown.enable` is off. False if the time was not enough.
    pub async fn shut_down(&self, limit: Duration) -> bool {
        let plane = &self.0;
        let image = plane.quorum.image();
        let has_others = image.brokers().any(|broker| broker.id != plane.node && broker.is_active());
        if plane.agent.registered.get().is_none()
            || !has_others
            || !plane.settings.cluster.controlled_shutdown
        {
            return true;
        }
        plane.agent.wants_shutdown.set(true);
        plane.agent.nudge.notify_all();
        let relieved = async {
            while !plane.agent.may_stop.get() {
                plane.agent.told.wait().await;
            }
        };
        let is_relieved = within(&plane.runtime, limit, relieved).await.is_some();
        plane.agent.has_left.set(true);
        is_relieved
    }
}

impl<R: Runtime> Plane<R> {
    async fn register(&self, start: &mut BrokerStart) -> Result<u64, StartError> {
        let mut tries = 0;
        let mut refused_since = None;
        let patience = Duration::from_millis(self.settings.node.initial_broker_registration_timeout_ms);
        loop {
            start.starts_fenced = !self.is_alone();
            let request = ControlRequest::Register(messages::registration_of(start));
            match self.ask(&request, CALL_DEADLINE).await {
                Ok(ControlAnswer::Registered(index)) => return Ok(index),
                Ok(ControlAnswer::RegistrationRefused(refusal)) => {
                    let error = messages::error_of(refusal, self.node);
                    let now = self.runtime.monotonic();
                    let since = *refused_since.get_or_insert_with(|| {
                        tracing::warn!(%error, "the registration is refused, and tried again");
                        now
                    });
                    if is_final(refusal) || Duration::from_nanos(now.since(since)) >= patience {
                        return Err(StartError::Refused(error));
                    }
                }
                Ok(other) => {
                    tracing::warn!(?other, "the registration is answered by something else");
                }
                Err(error) => {
                    if let Some(failure) = self.quorum.failure() {
                        return Err(StartError::Quorum(failure));
                    }
                    tracing::debug!(%error, "the registration goes out again");
                }
            }
            if self.is_stopping.get() {
                return Err(StartError::Quorum(MetadataError::Stopping.to_string()));
            }
            self.back_off(&mut tries).await;
        }
    }

    /// Tells the controller of replicas in log directories that do not work. Who tells it does so again.
    pub(super) async fn tell_of_offline(&self, partitions: &[TopicPartition]) {
        let Some(incarnation) = self.agent.incarnation() else { return };
        let request = ControlRequest::ReplicasOffline(OfflineReplicas {
            broker_id: self.node.0,
            incarnation: incarnation.0,
            partitions: partitions.iter().map(|log| (log.topic_id.0, log.partition.0)).collect(),
        });
        match self.ask(&request, CALL_DEADLINE).await {
            Ok(ControlAnswer::Altered(_)) => {}
            answer => tracing::debug!(?answer, "the controller is told again of replicas that are offline"),
        }
    }

    /// Whether there is no other node in the cluster: then nobody waits for signs of life.
    fn is_alone(&self) -> bool {
        let status = self.quorum.status();
        let is_sole_member = status.is_current && status.members.iter().count() == 1;
        is_sole_member && self.quorum.image().brokers().all(|broker| broker.id == self.node)
    }

    async fn give_signs_of_life(&self, registered: Registered) {
        let interval = Duration::from_millis(self.settings.node.broker_heartbeat_interval_ms);
        let mut failures = 0;
        while !self.is_stopping.get() && !self.agent.has_left.get() {
            if self.is_alone() && !self.agent.wants_shutdown.get() {
                if !self.quorum.wait_until(|_| !self.is_alone()).await {
                    return;
                }
                continue;
            }
            let nudge = self.agent.nudge.wait();
            let request = ControlRequest::Heartbeat(Heartbeat {
                broker_id: self.node.0,
                incarnation: registered.incarnation.0,
                applied: self.publisher.published(),
                wants_shutdown: self.agent.wants_shutdown.get(),
            });
            let deadline = CALL_DEADLINE.min(interval.max(IMPATIENT));
            let wait = match self.ask(&request, deadline).await {
                Ok(ControlAnswer::Alive(standing)) => {
                    failures = 0;
                    self.agent.may_stop.set(standing.may_stop);
                    self.agent.told.notify_all();
                    let is_impatient = standing.is_fenced || self.agent.wants_shutdown.get();
                    if is_impatient { IMPATIENT.min(interval) } else { interval }
                }
                answer => {
                    // A leader that is one no longer may know less than this node. What counts is this node's image.
                    tracing::debug!(?answer, "a heartbeat goes out again");
                    self.back_off(&mut failures).await;
                    continue;
                }
            };
            if let Either::First(()) = either(nudge, self.runtime.sleep(wait)).await {
                failures = 0;
            }
        }
    }
}
