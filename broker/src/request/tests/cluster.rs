//! What clients are told of a cluster of several brokers, some of which are dead.

use super::{Fixture, NODE, batch};
use crate::runtime::Runtime;
use crate::shard::lost_peers::{HELD_BACK_MAX, NAMED_FOR};
use logmill_state::metadata::{NO_LEADER, OFFSETS_TOPIC, PartitionState, Record};
use logmill_wire::api::{
    describe_cluster, describe_topic_partitions, find_coordinator, list_offsets, metadata, produce,
};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{LeaderEpoch, NodeId, PartitionIndex, TopicId, TopicPartition};
use std::rc::Rc;

const OTHER: NodeId = NodeId(2);

/// A topic whose partition is replicated on both brokers, led by the second replica.
fn replicated(fixture: &Fixture) -> TopicPartition {
    let key = TopicPartition { topic_id: fixture.create("t", 1), partition: PartitionIndex(0) };
    fixture.broker.change_partition(key, |state| {
        *state = PartitionState {
            leader: NODE,
            leader_epoch: LeaderEpoch(8),
            replicas: vec![OTHER, NODE],
            in_sync: vec![NODE],
            eligible: vec![OTHER],
            ..state.clone()
        };
    });
    key
}

fn described(fixture: &Fixture, version: i16) -> (ErrorCode, i32, i32, [Vec<i32>; 3]) {
    let topic = metadata::MetadataRequestTopic { name: Some("t".into()), ..Default::default() };
    let request = metadata::Request { topics: Some(vec![topic].into()), ..Default::default() };
    fixture.ask(&request, version, |response| {
        let topic = response.topics.iter().next().unwrap();
        let partition = topic.partitions.iter().next().unwrap();
        let nodes = [&partition.replica_nodes, &partition.isr_nodes, &partition.offline_replicas];
        let code = ErrorCode::from_code(partition.error_code).unwrap();
        (code, partition.leader_id, partition.leader_epoch, nodes.map(|nodes| nodes.clone().into_vec()))
    })
}

#[test]
fn metadata_tells_the_partition_as_the_controller_left_it() {
    let fixture = Fixture::new();
    let key = replicated(&fixture);
    assert_eq!(described(&fixture, 13), (ErrorCode::None, 1, 8, [vec![2, 1], vec![1], vec![]]));
    fixture.broker.fence(OTHER, true);
    assert_eq!(described(&fixture, 13), (ErrorCode::None, 1, 8, [vec![2, 1], vec![1], vec![2]]));
    fixture.broker.change_partition(key, |state| {
        (state.leader, state.leader_epoch) = (NO_LEADER, LeaderEpoch(9));
    });
    let nobody = [vec![2, 1], vec![1], vec![2]];
    assert_eq!(described(&fixture, 13), (ErrorCode::LeaderNotAvailable, -1, 9, nobody));
}

#[test]
fn the_first_version_of_metadata_does_not_name_unknown_replicas() {
    let fixture = Fixture::new();
    let key = replicated(&fixture);
    fixture.broker.change_partition(key, |state| state.replicas.insert(0, NodeId(9)));
    let (error, leader, _, [replicas, ..]) = described(&fixture, 0);
    assert_eq!((error, leader, replicas), (ErrorCode::ReplicaNotAvailable, 1, vec![2, 1]));
    let (error, _, _, [replicas, _, offline]) = described(&fixture, 5);
    assert_eq!((error, replicas, offline), (ErrorCode::None, vec![9, 2, 1], vec![9]));
}

#[test]
fn a_leader_without_the_clients_listener_is_told_as_none() {
    let fixture = Fixture::new();
    fixture.broker.add_broker(NodeId(3), "OTHER");
    fixture.broker.create_led_by("t", 1, NodeId(3));
    assert_eq!(described(&fixture, 5).0, ErrorCode::LeaderNotAvailable);
    let (error, leader, _, [.., offline]) = described(&fixture, 13);
    assert_eq!((error, leader, offline), (ErrorCode::ListenerNotFound, -1, vec![3]));
}

#[test]
fn the_sole_replica_of_a_dead_broker_leads_nothing() {
    let fixture = Fixture::new();
    fixture.broker.create_led_by("t", 1, OTHER);
    assert_eq!(described(&fixture, 13).1, 2);
    fixture.broker.fence(OTHER, true);
    let (error, leader, ..) = described(&fixture, 13);
    assert_eq!((error, leader), (ErrorCode::LeaderNotAvailable, -1));
    fixture.broker.fence(OTHER, false);
    assert_eq!(described(&fixture, 13).1, 2);
}

#[test]
fn dead_brokers_are_left_out_unless_they_are_asked_for() {
    let fixture = Fixture::new();
    fixture.broker.fence(OTHER, true);
    let all = metadata::Request { topics: None, ..Default::default() };
    fixture.ask(&all, 13, |response| {
        assert_eq!(response.brokers.iter().map(|broker| broker.node_id).collect::<Vec<_>>(), [1]);
    });
    let brokers = |include_fenced_brokers, version| {
        let request = describe_cluster::Request { include_fenced_brokers, ..Default::default() };
        fixture.ask(&request, version, |response| {
            let brokers = response.brokers.iter();
            let told: Vec<_> = brokers.map(|broker| (broker.broker_id, broker.is_fenced)).collect();
            (response.controller_id, told)
        })
    };
    assert_eq!(brokers(false, 0), (1, vec![(1, false)]));
    assert_eq!(brokers(false, 2), (1, vec![(1, false)]));
    assert_eq!(brokers(true, 2), (1, vec![(1, false), (2, true)]));
    // A broker that is held to be dead sends clients to one that is not.
    fixture.broker.fence(OTHER, false);
    fixture.broker.fence(NODE, true);
    assert_eq!(brokers(false, 2), (2, vec![(2, false)]));
    fixture.broker.fence(OTHER, true);
    assert_eq!(brokers(false, 2), (-1, vec![]));
    fixture.ask(&all, 13, |response| assert_eq!(response.controller_id, -1));
}

#[test]
fn the_pages_of_partitions_have_the_eligible_replicas() {
    let fixture = Fixture::new();
    let key = replicated(&fixture);
    let ask = || {
        let topic = describe_topic_partitions::TopicRequest { name: "t".into() };
        let request = describe_topic_partitions::Request { topics: vec![topic].into(), ..Default::default() };
        fixture.ask(&request, 0, |response| {
            let topic = response.topics.iter().next().unwrap();
            let partition = topic.partitions.iter().next().unwrap();
            let eligible = partition.eligible_leader_replicas.clone().unwrap();
            let lists =
                [&partition.replica_nodes, &partition.isr_nodes, &eligible, &partition.offline_replicas];
            (partition.leader_id, partition.leader_epoch, lists.map(|nodes| nodes.clone().into_vec()))
        })
    };
    assert_eq!(ask(), (1, 8, [vec![2, 1], vec![1], vec![2], vec![]]));
    fixture.broker.fence(OTHER, true);
    fixture.broker.change_partition(key, |state| {
        (state.leader, state.leader_epoch) = (NO_LEADER, LeaderEpoch(9));
    });
    assert_eq!(ask(), (-1, 9, [vec![2, 1], vec![1], vec![2], vec![2]]));
}

fn produced(fixture: &Fixture, id: TopicId) -> (ErrorCode, (i32, i32), Vec<i32>) {
    let records = Some(batch(1, 1).into());
    let data = produce::PartitionProduceData { index: 0, records };
    let topic =
        produce::TopicProduceData { name: "".into(), topic_id: id, partition_data: vec![data].into() };
    let request = produce::Request {
        acks: -1,
        timeout_ms: 2_000,
        topic_data: vec![topic].into(),
        ..Default::default()
    };
    fixture.ask(&request, 13, |response| {
        let topic = response.responses.iter().next().unwrap();
        let partition = topic.partition_responses.iter().next().unwrap();
        let leader = partition.current_leader;
        (
            ErrorCode::from_code(partition.error_code).unwrap(),
            (leader.leader_id, leader.leader_epoch),
            response.node_endpoints.iter().map(|node| node.node_id).collect(),
        )
    })
}

#[test]
fn records_go_to_the_leader_of_the_metadata() {
    let fixture = Fixture::new();
    let key = replicated(&fixture);
    // The first replica is another broker, and this one leads.
    assert_eq!(produced(&fixture, key.topic_id).0, ErrorCode::None);
    let leads = |leader, epoch| {
        fixture.broker.change_partition(key, |state| {
            (state.leader, state.leader_epoch) = (leader, LeaderEpoch(epoch));
            state.in_sync = vec![NODE, OTHER];
            state.eligible.clear();
        });
    };
    leads(OTHER, 9);
    let elsewhere = ErrorCode::NotLeaderOrFollower;
    assert_eq!(produced(&fixture, key.topic_id), (elsewhere, (2, 9), vec![2]));
    let partition = list_offsets::ListOffsetsPartition { timestamp: -1, ..Default::default() };
    let topic = list_offsets::ListOffsetsTopic { name: "t".into(), partitions: vec![partition].into() };
    let request = list_offsets::Request { topics: vec![topic].into(), ..Default::default() };
    fixture.ask(&request, 7, |response| {
        let topic = response.topics.iter().next().unwrap();
        assert_eq!(topic.partitions.iter().next().unwrap().error_code, elsewhere.code());
    });
    leads(NO_LEADER, 10);
    assert_eq!(produced(&fixture, key.topic_id), (elsewhere, (-1, 10), vec![]));
}

#[test]
fn the_coordinator_is_the_leader_of_the_groups_partition() {
    let fixture = Fixture::new();
    let topic_id = fixture.create(OFFSETS_TOPIC, 1);
    let key = TopicPartition { topic_id, partition: PartitionIndex(0) };
    let find = || {
        let request =
            find_coordinator::Request { coordinator_keys: vec!["g".into()].into(), ..Default::default() };
        fixture.ask(&request, 6, |response| {
            let found = response.coordinators.iter().next().unwrap();
            (ErrorCode::from_code(found.error_code).unwrap(), found.node_id)
        })
    };
    assert_eq!(find(), (ErrorCode::None, 1));
    fixture.broker.change_partition(key, |state| {
        state.leader_epoch.0 += 1;
        (state.replicas, state.in_sync, state.leader) = (vec![NODE, OTHER], vec![NODE, OTHER], OTHER);
    });
    assert_eq!(find(), (ErrorCode::None, 2));
    fixture.broker.fence(OTHER, true);
    assert_eq!(find(), (ErrorCode::CoordinatorNotAvailable, -1));
}

#[test]
fn an_answer_waits_for_the_next_leader_when_the_last_one_was_just_lost() {
    let fixture = Fixture::new();
    let key = replicated(&fixture);
    fixture.broker.change_partition(key, |state| {
        (state.leader, state.leader_epoch, state.in_sync) = (OTHER, LeaderEpoch(9), vec![OTHER, NODE]);
        state.eligible.clear();
    });
    let ask = || {
        let begin = fixture.runtime.monotonic();
        let (_, leader, epoch, _) = described(&fixture, 13);
        (leader, epoch, fixture.runtime.monotonic().since(begin) / 1_000_000)
    };
    assert_eq!(ask(), (2, 9, 0), "nobody is lost");
    // Nothing changes: in the end the answer is what is known.
    fixture.services.lost_peers.note(OTHER, fixture.runtime.monotonic());
    let (leader, epoch, waited) = ask();
    assert_eq!((leader, epoch), (2, 9));
    assert!(waited >= HELD_BACK_MAX.as_millis() as u64, "answered after {waited} ms");
    // The metadata change while the answer waits.
    fixture.services.lost_peers.note(OTHER, fixture.runtime.monotonic());
    let (broker, runtime) = (Rc::clone(&fixture.broker), fixture.runtime.clone());
    fixture.runtime.spawn(async move {
        runtime.sleep(HELD_BACK_MAX / 3).await;
        broker.change_partition(key, |state| (state.leader, state.leader_epoch) = (NODE, LeaderEpoch(10)));
    });
    let (leader, epoch, waited) = ask();
    assert_eq!((leader, epoch), (1, 10));
    assert!(waited < HELD_BACK_MAX.as_millis() as u64, "answered after {waited} ms");
    // What the lost broker does not lead is told at once.
    fixture.services.lost_peers.note(OTHER, fixture.runtime.monotonic());
    assert_eq!(ask(), (1, 10, 0));
    // It is named for some time though it is fenced.
    fixture.broker.fence(OTHER, true);
    let brokers = || {
        let request = metadata::Request::default();
        fixture
            .ask(&request, 13, |response| response.brokers.iter().map(|one| one.node_id).collect::<Vec<_>>())
    };
    assert_eq!(brokers(), [1, 2]);
    fixture.world.run_for(NAMED_FOR);
    assert_eq!(brokers(), [1]);
}

#[test]
fn of_a_topic_that_goes_while_an_answer_waits_nothing_is_told() {
    for (by_name, by_id, told) in [
        (false, false, vec![]),
        (true, false, vec![ErrorCode::UnknownTopicOrPartition.code()]),
        (false, true, vec![ErrorCode::UnknownTopicId.code()]),
    ] {
        let fixture = Fixture::new();
        let key = replicated(&fixture);
        fixture.broker.change_partition(key, |state| {
            (state.leader, state.leader_epoch, state.in_sync) = (OTHER, LeaderEpoch(9), vec![OTHER, NODE]);
            state.eligible.clear();
        });
        fixture.services.lost_peers.note(OTHER, fixture.runtime.monotonic());
        let (broker, runtime) = (Rc::clone(&fixture.broker), fixture.runtime.clone());
        fixture.runtime.spawn(async move {
            runtime.sleep(HELD_BACK_MAX / 3).await;
            // With the next start of that broker its leader epochs go up: the topic was gone before.
            broker.apply(&[Record::TopicDeleted { topic_id: key.topic_id }]);
            broker.restart(OTHER, 5);
        });
        let named = metadata::MetadataRequestTopic {
            name: by_name.then(|| "t".into()),
            topic_id: if by_id { key.topic_id } else { TopicId::ZERO },
        };
        let topics = (by_name || by_id).then(|| vec![named].into());
        let request = metadata::Request { topics, ..Default::default() };
        let answered = fixture.ask(&request, 13, |response| {
            response.topics.iter().map(|topic| (topic.error_code, topic.partitions.len())).collect::<Vec<_>>()
        });
        assert_eq!(answered, told.into_iter().map(|code| (code, 0)).collect::<Vec<_>>());
    }
}
