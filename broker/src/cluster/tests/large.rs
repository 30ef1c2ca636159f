//! More partitions than one entry of the metadata log has room for.

use super::{Cluster, SECOND, id};
use crate::cluster::command::MetadataCommand;
use logmill_state::metadata::{NO_LEADER, NewTopic, PartitionAssignment};
use logmill_wire::ids::{NodeId, PartitionIndex};

const PARTITIONS: i32 = 100_000;

/// How many partitions a broker leads, and in how many sets it is.
fn held(cluster: &Cluster, node: NodeId) -> (usize, usize) {
    let image = cluster.image();
    let Some(topic) = image.topic_by_name("large") else { return (0, 0) };
    let states = (0..PARTITIONS).filter_map(|index| image.partition(topic, PartitionIndex(index)));
    states.fold((0, 0), |(leads, member), state| {
        assert_ne!(state.leader, NO_LEADER);
        let is_member = state.in_sync.contains(&node) || state.eligible.contains(&node);
        (leads + usize::from(state.leader == node), member + usize::from(is_member))
    })
}

#[test]
fn a_broker_that_leads_100_000_partitions_is_fenced_and_comes_back() {
    let cluster = Cluster::of_three_with_journals(3, 32 << 20);
    let controller = cluster.controller().unwrap();
    let (dead, other) = ((controller + 1) % 3, (controller + 2) % 3);
    let replicas = [dead, other, controller].map(id).to_vec();
    let assignment = |partition| PartitionAssignment { partition, replicas: replicas.clone() };
    let topic = NewTopic {
        name: "large".to_owned(),
        partition_count: -1,
        replication_factor: -1,
        assignments: (0..PARTITIONS).map(assignment).collect(),
        configs: Vec::new(),
    };
    let created = cluster.answer(controller, |reply| MetadataCommand::CreateTopics {
        topics: vec![topic],
        validate_only: false,
        reply,
    });
    assert!(created.unwrap().iter().all(|created| created.result.is_ok()));
    assert_eq!(held(&cluster, id(dead)), (PARTITIONS as usize, PARTITIONS as usize));
    let before = cluster.quorum(controller).unwrap().status().applied;
    cluster.kill(dead);
    assert!(cluster.wait(20 * SECOND, |cluster| cluster.is_fenced(dead)));
    let last_is_led = |cluster: &Cluster| {
        let image = cluster.image();
        let topic = image.topic_by_name("large").unwrap();
        image.leader(topic, PartitionIndex(PARTITIONS - 1)) != Some(id(dead))
    };
    assert!(cluster.wait(20 * SECOND, last_is_led));
    assert_eq!(held(&cluster, id(dead)), (0, 0));
    let entries = cluster.quorum(controller).unwrap().status().applied - before;
    assert!(entries > 1, "one entry does not hold it");
    cluster.start(dead);
    assert!(cluster.wait(20 * SECOND, |cluster| cluster.is_started(dead)));
}
