//! How a broker joins.

use std::fmt;

use logmill_wire::ids::{NodeId, Uuid};

use super::image::{Broker, Image};
use super::record::{Endpoint, Record};

/// What a broker says of itself when it starts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BrokerRegistration {
    /// `node.id`.
    pub broker_id: NodeId,
    /// The cluster that its log directories belong to.
    pub cluster_id: Uuid,
    /// Drawn anew by every process.
    pub incarnation: Uuid,
    /// `broker.rack`.
    pub rack: Option<String>,
    /// `advertised.listeners`.
    pub endpoints: Vec<Endpoint>,
}

/// Why a broker is not registered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegisterBrokerError {
    /// INCONSISTENT_CLUSTER_ID: it belongs to another cluster.
    InconsistentClusterId {
        /// This cluster's id, if it has one.
        expected: Option<Uuid>,
    },
    /// DUPLICATE_BROKER_REGISTRATION: another process with this id is alive.
    DuplicateBroker {
        /// The id of both.
        broker_id: NodeId,
    },
    /// INVALID_REGISTRATION: the id is negative, the incarnation missing, or there is no listener.
    InvalidRegistration,
    /// UNKNOWN_SERVER_ERROR: the broker has been started 2^31 times.
    EpochsExhausted,
}

impl fmt::Display for RegisterBrokerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InconsistentClusterId { expected: Some(expected) } => write!(
                f,
                "this is cluster {expected} and the broker belongs to another; check log.dirs and \
                 controller.quorum.voters"
            ),
            Self::InconsistentClusterId { expected: None } => {
                f.write_str("the cluster has no id yet; try again")
            }
            Self::DuplicateBroker { broker_id } => {
                write!(f, "another broker with node.id {broker_id} is alive; give this one another id")
            }
            Self::InvalidRegistration => {
                f.write_str("a registration needs a node.id from 0, an incarnation and a listener")
            }
            Self::EpochsExhausted => {
                f.write_str("the broker's leader epochs are used up; give it another node.id")
            }
        }
    }
}

impl std::error::Error for RegisterBrokerError {}

impl Broker {
    /// The record that makes this broker out of one that has only registered, if they differ.
    pub(super) fn change_record(&self) -> Option<Record> {
        let differs = self.fenced || self.in_controlled_shutdown || !self.directories.is_empty();
        differs.then(|| Record::BrokerChanged {
            broker_id: self.id,
            fenced: self.fenced,
            in_controlled_shutdown: self.in_controlled_shutdown,
            directories: self.directories.clone(),
        })
    }

    /// The record of its replicas in log directories that do not work, if there are any.
    pub(super) fn offline_record(&self) -> Option<Record> {
        (!self.offline.is_empty()).then(|| Record::ReplicasOffline {
            broker_id: self.id,
            partitions: self.offline.iter().copied().collect(),
        })
    }
}

impl Image {
    /// Decides on a broker's registration. A new incarnation raises the leader epochs of all partitions that
    /// the broker leads, with this one record: the log may hold offsets that were handed to followers and
    /// never written here, and an offset must not be given out twice in one epoch. The broker appends
    /// nothing before the record is committed.
    ///
    /// `previous_is_alive` says whether the incarnation that is registered now still answers.
    ///
    /// # Errors
    /// [`RegisterBrokerError`].
    pub fn decide_register_broker(
        &self,
        registration: &BrokerRegistration,
        previous_is_alive: bool,
    ) -> Result<Record, RegisterBrokerError> {
        if self.cluster_id() != Some(registration.cluster_id) {
            return Err(RegisterBrokerError::InconsistentClusterId { expected: self.cluster_id() });
        }
        let broker_id = registration.broker_id;
        if broker_id.0 < 0 || registration.incarnation.is_zero() || registration.endpoints.is_empty() {
            return Err(RegisterBrokerError::InvalidRegistration);
        }
        let leader_epoch_base = match self.broker(broker_id) {
            None => self
                .forgotten_epoch_base(broker_id)
                .map_or(Some(0), |base| base.checked_add(1))
                .ok_or(RegisterBrokerError::EpochsExhausted)?,
            Some(current) if current.incarnation == registration.incarnation => current.leader_epoch_base,
            Some(_) if previous_is_alive => {
                return Err(RegisterBrokerError::DuplicateBroker { broker_id });
            }
            Some(current) => {
                current.leader_epoch_base.checked_add(1).ok_or(RegisterBrokerError::EpochsExhausted)?
            }
        };
        Ok(Record::BrokerRegistered {
            broker_id,
            incarnation: registration.incarnation,
            leader_epoch_base,
            rack: registration.rack.clone(),
            endpoints: registration.endpoints.clone(),
        })
    }
}
