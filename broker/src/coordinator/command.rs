//! Asking a coordinator.

use crate::partition::router::shard_of;
use crate::runtime::oneshot;
use logmill_state::group::{GroupReply, GroupRequest, partition_of};
use logmill_state::metadata::{Image, OFFSETS_TOPIC, Topic};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{LeaderEpoch, NodeId, PartitionIndex, ShardIndex, TopicPartition};
use std::collections::BTreeMap;
use std::rc::Rc;

/// A request for one coordinator, and the way back for its answer. The answer does not come if the shard stops.
pub struct GroupCommand {
    /// The partition of `__consumer_offsets` that the coordinator lives on.
    pub partition: TopicPartition,
    /// What is asked.
    pub request: GroupRequest,
    /// The way back.
    pub reply: oneshot::Sender<GroupReply>,
}

/// Sends requests to coordinators, at home or on another shard. Cheap to clone.
#[derive(Clone)]
pub struct GroupRouter {
    shards: u16,
    send: Rc<dyn Fn(ShardIndex, GroupCommand)>,
}

/// The topic of the groups, if there is one yet.
fn offsets_topic(image: &Image) -> Option<&Topic> {
    image.topic_by_name(OFFSETS_TOPIC).map(|topic| &**topic)
}

/// Where a group's coordinator lives: the partition and its leader. `None` while there is no
/// `__consumer_offsets`.
#[must_use]
pub fn coordinator_of(image: &Image, group_id: &str) -> Option<(TopicPartition, NodeId)> {
    let topic = offsets_topic(image)?;
    let partition = PartitionIndex(partition_of(group_id, topic.partition_count()));
    let leader = image.partition(topic, partition)?.leader;
    Some((TopicPartition { topic_id: topic.id, partition }, leader))
}

/// All coordinators on this broker, by partition, each with the leader epoch that it works in.
#[must_use]
pub fn coordinators_on(image: &Image, node: NodeId) -> BTreeMap<TopicPartition, LeaderEpoch> {
    let Some(topic) = offsets_topic(image) else { return BTreeMap::new() };
    let led = (0..topic.partition_count()).map(PartitionIndex).filter_map(|partition| {
        let placed = image.partition(topic, partition).filter(|placed| placed.leader == node)?;
        Some((TopicPartition { topic_id: topic.id, partition }, placed.leader_epoch))
    });
    led.collect()
}

impl GroupRouter {
    /// A router that hands commands to `send`, which never waits.
    #[must_use]
    pub fn new(shards: u16, send: Rc<dyn Fn(ShardIndex, GroupCommand)>) -> Self {
        Self { shards, send }
    }

    /// Asks one coordinator.
    #[must_use]
    pub fn ask(&self, partition: TopicPartition, request: GroupRequest) -> oneshot::Receiver<GroupReply> {
        let (reply, answer) = oneshot::channel();
        let command = GroupCommand { partition, request, reply };
        (self.send)(shard_of(partition, self.shards), command);
        answer
    }

    /// Asks the coordinator of a group.
    ///
    /// # Errors
    /// COORDINATOR_NOT_AVAILABLE while there is none; NOT_COORDINATOR if it is another broker.
    pub fn ask_group(
        &self,
        image: &Image,
        node: NodeId,
        group_id: &str,
        request: GroupRequest,
    ) -> Result<oneshot::Receiver<GroupReply>, ErrorCode> {
        match coordinator_of(image, group_id) {
            None => Err(ErrorCode::CoordinatorNotAvailable),
            Some((_, leader)) if leader != node => Err(ErrorCode::NotCoordinator),
            Some((partition, _)) => Ok(self.ask(partition, request)),
        }
    }
}
