//! ListPartitionReassignments: which partitions are moving (KIP-455).

use super::call::{Call, Handled, decode};
use crate::runtime::Runtime;
use logmill_state::admission::authorizer::{Operation, Resource};
use logmill_state::metadata::{Image, Topic};
use logmill_wire::api::list_partition_reassignments::{
    OngoingPartitionReassignment, OngoingTopicReassignment, Request, Response,
};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{NodeId, PartitionIndex, TopicId};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn handle<R: Runtime>(mut call: Call<R>) -> Handled {
    let request: Request<'_> = decode(&call.body, call.answer.version)?;
    let topics = request.topics.iter().flatten();
    call.answer.charge(topics.map(|topic| 1 + topic.partition_indexes.len()).sum())?;
    if !call.allows(Operation::Describe, Resource::Cluster) {
        let error = ErrorCode::ClusterAuthorizationFailed;
        return call.answer.ready(&Response {
            error_code: error.code(),
            error_message: Some(error.description().into()),
            ..Response::default()
        });
    }
    let image = call.services.image();
    let wanted: Option<BTreeMap<TopicId, BTreeSet<i32>>> = request.topics.as_ref().map(|topics| {
        let mut wanted = BTreeMap::<TopicId, BTreeSet<i32>>::new();
        for topic in topics {
            // A topic that is not there has nothing that moves.
            if let Some(found) = image.topic_by_name(&topic.name) {
                wanted.entry(found.id).or_default().extend(topic.partition_indexes.iter());
            }
        }
        wanted
    });
    let mut moving: BTreeMap<TopicId, Vec<OngoingPartitionReassignment<'static>>> = BTreeMap::new();
    for key in image.reassignments() {
        let is_wanted = wanted.as_ref().is_none_or(|wanted| {
            wanted.get(&key.topic_id).is_some_and(|partitions| partitions.contains(&key.partition.0))
        });
        let topic = image.topic_by_id(key.topic_id).filter(|_| is_wanted);
        let told = topic.and_then(|topic| ongoing(&image, topic, key.partition));
        if let Some(told) = told {
            moving.entry(key.topic_id).or_default().push(told);
        }
    }
    let topics = moving.into_iter().filter_map(|(id, partitions)| {
        let name = image.topic_by_id(id)?.name.to_string();
        Some(OngoingTopicReassignment { name: name.into(), partitions: partitions.into() })
    });
    call.answer.ready(&Response { error_message: None, topics: topics.collect(), ..Response::default() })
}

fn ongoing(
    image: &Image,
    topic: &Topic,
    index: PartitionIndex,
) -> Option<OngoingPartitionReassignment<'static>> {
    let partition = image.partition(topic, index)?;
    let told = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect::<Vec<_>>();
    Some(OngoingPartitionReassignment {
        partition_index: index.0,
        replicas: told(partition.replicas).into(),
        adding_replicas: told(partition.adding).into(),
        removing_replicas: told(partition.removing).into(),
    })
}
