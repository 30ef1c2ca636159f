//! From what a client names to what there is.

use super::services::Services;
use crate::runtime::Runtime;
use logmill_state::metadata::{Image, Topic, validate_topic_name};
use logmill_state::settings::ReplicaSelector;
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{LeaderEpoch, NodeId, PartitionIndex, TopicId, TopicPartition};
use std::sync::Arc;

/// What clients are told of a controller that is not known.
const NO_CONTROLLER: i32 = -1;

/// A partition that this broker leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Led {
    /// The partition.
    pub partition: TopicPartition,
    /// The leader epoch of the metadata.
    pub leader_epoch: LeaderEpoch,
}

/// Where a partition is led, for clients that have not heard of it (KIP-951).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderHint {
    /// The leader.
    pub leader: NodeId,
    /// Its epoch.
    pub leader_epoch: LeaderEpoch,
}

/// The topic that a request names by id or, before topic ids, by name.
///
/// # Errors
/// UNKNOWN_TOPIC_ID or UNKNOWN_TOPIC_OR_PARTITION.
pub fn find(image: &Image, by_id: bool, id: TopicId, name: &str) -> Result<Arc<Topic>, ErrorCode> {
    if by_id {
        image.topic_by_id(id).cloned().ok_or(ErrorCode::UnknownTopicId)
    } else {
        image.topic_by_name(name).cloned().ok_or(ErrorCode::UnknownTopicOrPartition)
    }
}

/// The partition, if this broker leads it.
///
/// # Errors
/// UNKNOWN_TOPIC_OR_PARTITION; NOT_LEADER_OR_FOLLOWER.
pub fn led<R: Runtime>(
    services: &Services<R>,
    image: &Image,
    topic: &Topic,
    partition: i32,
) -> Result<Led, ErrorCode> {
    let index = PartitionIndex(partition);
    let found = image.partition(topic, index).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    if found.leader != services.node_id {
        return Err(ErrorCode::NotLeaderOrFollower);
    }
    let partition = TopicPartition { topic_id: topic.id, partition: index };
    Ok(Led { partition, leader_epoch: found.leader_epoch })
}

/// A partition from which consumers may read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readable {
    /// The partition.
    pub partition: TopicPartition,
    /// The in-sync replica in the client's rack, if that is a better place to read (KIP-392).
    pub preferred: Option<NodeId>,
}

/// The partition, if this broker leads it, or holds a replica from which a client may read that knows of such (KIP-392).
///
/// # Errors
/// UNKNOWN_TOPIC_OR_PARTITION; NOT_LEADER_OR_FOLLOWER.
pub fn readable<R: Runtime>(
    services: &Services<R>,
    image: &Image,
    topic: &Topic,
    partition: i32,
    reader: &Reader<'_>,
) -> Result<Readable, ErrorCode> {
    let index = PartitionIndex(partition);
    let found = image.partition(topic, index).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let partition = TopicPartition { topic_id: topic.id, partition: index };
    if found.leader != services.node_id {
        let is_replica = reader.knows_followers && found.replicas.contains(&services.node_id);
        return if is_replica {
            Ok(Readable { partition, preferred: None })
        } else {
            Err(ErrorCode::NotLeaderOrFollower)
        };
    }
    let is_near = |node: &NodeId| {
        image.broker(*node).is_some_and(|broker| {
            broker.is_active()
                && broker.rack.as_deref() == reader.rack
                && broker.endpoint(reader.listener).is_some()
        })
    };
    let is_selected =
        reader.rack.is_some() && services.settings.cluster.replica_selector == ReplicaSelector::RackAware;
    let preferred = if is_selected && !is_near(&found.leader) {
        found.in_sync.iter().copied().find(is_near)
    } else {
        None
    };
    Ok(Readable { partition, preferred })
}

/// Who reads.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    /// Whether it knows that followers may be read.
    pub knows_followers: bool,
    /// Its rack, if it says so.
    pub rack: Option<&'a str>,
    /// Where it is connected.
    pub listener: &'a str,
}

/// The partition, if this broker leads it, for those who have no use for its epoch.
///
/// # Errors
/// Those of [`led`].
pub fn led_here<R: Runtime>(
    services: &Services<R>,
    image: &Image,
    topic: &Topic,
    partition: i32,
) -> Result<TopicPartition, ErrorCode> {
    let index = PartitionIndex(partition);
    let leader = image.leader(topic, index).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    if leader != services.node_id {
        return Err(ErrorCode::NotLeaderOrFollower);
    }
    Ok(TopicPartition { topic_id: topic.id, partition: index })
}

/// Who leads a partition, if a client that got `error` should look there.
#[must_use]
pub fn hint(image: &Image, error: ErrorCode, topic: Option<&Topic>, partition: i32) -> Option<LeaderHint> {
    if !matches!(error, ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch) {
        return None;
    }
    // The topic may have changed since the request began.
    let topic = image.topic_by_id(topic?.id)?;
    let found = image.partition(topic, PartitionIndex(partition))?;
    Some(LeaderHint { leader: found.leader, leader_epoch: found.leader_epoch })
}

/// Where a broker that is not fenced is reached on a listener: host, port and rack.
#[must_use]
pub fn node_endpoint(image: &Image, node: NodeId, listener: &str) -> Option<(String, i32, Option<String>)> {
    let broker = image.broker(node).filter(|broker| !broker.fenced)?;
    let endpoint = broker.endpoint(listener)?;
    Some((endpoint.host.clone(), i32::from(endpoint.port), broker.rack.clone()))
}

/// Whether a replica cannot be reached by clients of a listener: its broker is not registered, is fenced, does not have the
/// listener, or has it in a log directory that does not work (KIP-112).
#[must_use]
pub fn is_offline(image: &Image, partition: TopicPartition, node: NodeId, listener: &str) -> bool {
    image.broker(node).is_none_or(|broker| {
        broker.fenced || broker.endpoint(listener).is_none() || broker.offline.contains(&partition)
    })
}

/// The broker that clients take for the controller: one that they can reach, and through which the active controller is
/// reached. Controllers do not serve clients (KIP-590), so it is this one if it is not fenced.
#[must_use]
pub fn controller_id<R: Runtime>(services: &Services<R>, image: &Image) -> i32 {
    let is_alive = |node: NodeId| image.broker(node).is_some_and(|broker| !broker.fenced);
    if is_alive(services.node_id) {
        return services.node_id.0;
    }
    image.brokers().find(|broker| !broker.fenced).map_or(NO_CONTROLLER, |broker| broker.id.0)
}

/// Whether a topic could have this name.
#[must_use]
pub fn is_legal_name(name: &str) -> bool {
    validate_topic_name(name).is_ok()
}
