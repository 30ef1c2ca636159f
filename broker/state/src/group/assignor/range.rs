//! The range assignor: topics with equally many partitions and the same subscribers are spread alike, so that
//! partitions of one number meet.

use super::{Assignment, Demand};
use logmill_wire::ids::{PartitionIndex, TopicId};
use std::collections::BTreeMap;

/// The members that want a topic.
#[derive(Default)]
struct Share {
    members: i32,
    /// The first partition that is not given out.
    next: i32,
    /// How many members have had theirs.
    served: i32,
}

pub(super) fn assign(demand: &Demand<'_>) -> Vec<Assignment> {
    let mut shares: BTreeMap<TopicId, Share> = BTreeMap::new();
    for member in &demand.members {
        for topic_id in member.subscribed.iter() {
            shares.entry(*topic_id).or_default().members += 1;
        }
    }
    let mut assignments = vec![Assignment::default(); demand.members.len()];
    for member in in_order(demand) {
        for topic_id in demand.members[member].subscribed.iter() {
            let Some(share) = shares.get_mut(topic_id) else { continue };
            let partitions = demand.partition_count(*topic_id);
            let extra = i32::from(share.served < partitions % share.members);
            let end = share.next + partitions / share.members + extra;
            for partition in share.next..end {
                assignments[member].insert(*topic_id, PartitionIndex(partition));
            }
            share.next = end;
            share.served += 1;
        }
    }
    assignments
}

/// Static members come first, by instance id: they keep their ranges when they come back under another member id.
fn in_order(demand: &Demand<'_>) -> Vec<usize> {
    let mut order: Vec<usize> = (0..demand.members.len()).collect();
    order.sort_by_key(|&member| {
        let member = &demand.members[member];
        match member.instance_id {
            Some(instance_id) => (false, instance_id),
            None => (true, member.member_id),
        }
    });
    order
}
