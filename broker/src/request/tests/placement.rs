//! ElectLeaders, AlterPartitionReassignments, ListPartitionReassignments and UnregisterBroker.

use super::{Fixture, NODE};
use crate::cluster::command::MetadataError;
use logmill_state::metadata::NO_LEADER;
use logmill_wire::api::{
    alter_partition_reassignments as alter, elect_leaders as elect, list_partition_reassignments as list,
    metadata, unregister_broker,
};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{NodeId, PartitionIndex, TopicPartition};

const OTHER: NodeId = NodeId(2);

/// `t-0` on brokers 2 and 1, led by 1 with both in sync; `t-1` on broker 1 alone.
fn replicated(fixture: &Fixture) -> TopicPartition {
    let key = TopicPartition { topic_id: fixture.create("t", 2), partition: PartitionIndex(0) };
    fixture.broker.change_partition(key, |state| {
        state.leader_epoch.0 += 1;
        (state.leader, state.replicas) = (NODE, vec![OTHER, NODE]);
        state.in_sync = vec![OTHER, NODE];
    });
    key
}

fn code(code: i16) -> ErrorCode {
    ErrorCode::from_code(code).unwrap()
}

type Told = Vec<(String, i32, ErrorCode, Option<String>)>;

fn elect(
    fixture: &Fixture,
    election_type: i8,
    wanted: Option<&[(&str, &[i32])]>,
    version: i16,
) -> (ErrorCode, Told) {
    let topic = |&(topic, partitions): &(&'static str, &[i32])| elect::TopicPartitions {
        topic: topic.into(),
        partitions: partitions.to_vec().into(),
    };
    let wanted: Option<Vec<(&'static str, &[i32])>> = wanted.map(|wanted| {
        wanted
            .iter()
            .map(|&(name, partitions)| (if name == "t" { "t" } else { "missing" }, partitions))
            .collect()
    });
    let topic_partitions = wanted.map(|wanted| wanted.iter().map(topic).collect::<Vec<_>>().into());
    let request = elect::Request { election_type, topic_partitions, timeout_ms: 3_000 };
    fixture.ask(&request, version, |response| {
        let mut told = Told::new();
        for topic in response.replica_election_results.iter() {
            for partition in topic.partition_result.iter() {
                let message = partition.error_message.map(|message| message.into_owned());
                told.push((
                    topic.topic.to_string(),
                    partition.partition_id,
                    code(partition.error_code),
                    message,
                ));
            }
        }
        (code(response.error_code), told)
    })
}

fn leader(fixture: &Fixture, key: TopicPartition) -> NodeId {
    let image = fixture.services.image();
    image.leader(image.topic_by_id(key.topic_id).unwrap(), key.partition).unwrap()
}

#[test]
fn the_preferred_leader_is_elected_in_every_version() {
    for version in 0..=2 {
        let fixture = Fixture::new();
        let key = replicated(&fixture);
        let (error, told) = elect(&fixture, 0, Some(&[("t", &[0, 1, 7]), ("x", &[3])]), version);
        assert_eq!(error, ErrorCode::None);
        let unknown = ErrorCode::UnknownTopicOrPartition;
        let needless = ErrorCode::ElectionNotNeeded;
        let text = |text: &str| Some(text.to_owned());
        let expected = [
            ("missing".to_owned(), 3, unknown, text("No such topic as missing")),
            ("t".to_owned(), 0, ErrorCode::None, None),
            ("t".to_owned(), 1, needless, text(needless.description())),
            ("t".to_owned(), 7, unknown, text("No such partition as t-7")),
        ];
        assert_eq!(told, expected, "v{version}");
        assert_eq!(leader(&fixture, key), OTHER);
        // Of all partitions only those are told that need an election.
        assert_eq!(elect(&fixture, 0, None, version), (ErrorCode::None, vec![]));
    }
}

#[test]
fn an_unclean_election_needs_to_be_asked_for() {
    let fixture = Fixture::new();
    let key = replicated(&fixture);
    fixture.broker.change_partition(key, |state| {
        state.leader_epoch.0 += 1;
        (state.leader, state.in_sync, state.eligible) = (NO_LEADER, vec![], vec![OTHER]);
    });
    fixture.broker.fence(OTHER, true);
    let preferred = ErrorCode::PreferredLeaderNotAvailable;
    assert_eq!(elect(&fixture, 0, Some(&[("t", &[0])]), 2).1[0].2, preferred);
    assert_eq!(leader(&fixture, key), NO_LEADER);
    assert_eq!(elect(&fixture, 1, None, 2).1[0].2, ErrorCode::None);
    assert_eq!(leader(&fixture, key), NODE);
    assert_eq!(elect(&fixture, 5, Some(&[("t", &[0])]), 2).0, ErrorCode::InvalidRequest);
}

#[test]
fn an_election_that_could_not_be_committed_is_told_of_each_partition() {
    let fixture = Fixture::new();
    replicated(&fixture);
    *fixture.broker.metadata_error.borrow_mut() = Some(MetadataError::NotController(None));
    for version in 0..=2 {
        let (error, told) = elect(&fixture, 0, Some(&[("t", &[0])]), version);
        let expected = ErrorCode::NotController;
        assert_eq!(error, if version == 0 { ErrorCode::None } else { expected });
        assert_eq!((told.len(), told[0].2), (1, expected), "v{version}");
    }
}

fn reassign(
    fixture: &Fixture,
    partitions: &[(i32, Option<&[i32]>)],
    allow_factor_change: bool,
    version: i16,
) -> Vec<(ErrorCode, Option<String>)> {
    let partitions: Vec<_> = partitions
        .iter()
        .map(|&(partition_index, replicas)| alter::ReassignablePartition {
            partition_index,
            replicas: replicas.map(|replicas| replicas.to_vec().into()),
        })
        .collect();
    let topic = alter::ReassignableTopic { name: "t".into(), partitions: partitions.into() };
    let request = alter::Request {
        allow_replication_factor_change: allow_factor_change,
        topics: vec![topic].into(),
        ..alter::Request::default()
    };
    fixture.ask(&request, version, |response| {
        assert_eq!((response.error_code, response.allow_replication_factor_change), (0, allow_factor_change));
        let topics = response.responses.iter().flat_map(|topic| topic.partitions.into_vec());
        topics
            .map(|partition| {
                (code(partition.error_code), partition.error_message.map(|message| message.into_owned()))
            })
            .collect()
    })
}

type Moving = Vec<(i32, [Vec<i32>; 3])>;

fn moving(fixture: &Fixture, wanted: Option<&[i32]>) -> Moving {
    let topic = wanted.map(|partitions| list::ListPartitionReassignmentsTopics {
        name: "t".into(),
        partition_indexes: partitions.to_vec().into(),
    });
    let missing =
        list::ListPartitionReassignmentsTopics { name: "missing".into(), partition_indexes: vec![0].into() };
    let topics = topic.map(|topic| vec![missing, topic].into());
    fixture.ask(&list::Request { topics, ..list::Request::default() }, 0, |response| {
        assert_eq!(response.error_code, 0);
        let mut told = Moving::new();
        for topic in response.topics.iter() {
            assert_eq!(topic.name, "t");
            for partition in topic.partitions.iter() {
                let lists = [&partition.replicas, &partition.adding_replicas, &partition.removing_replicas];
                told.push((partition.partition_index, lists.map(|nodes| nodes.clone().into_vec())));
            }
        }
        told
    })
}

#[test]
fn a_partition_moves_and_is_listed_until_it_is_there() {
    let fixture = Fixture::new();
    let key = replicated(&fixture);
    fixture.broker.add_broker(NodeId(3), "PLAINTEXT");
    assert_eq!(moving(&fixture, None), []);
    assert_eq!(reassign(&fixture, &[(0, Some(&[3, 2]))], false, 1), [(ErrorCode::None, None)]);
    let told = (0, [vec![3, 2, 1], vec![3], vec![1]]);
    assert_eq!(moving(&fixture, None), std::slice::from_ref(&told));
    assert_eq!(moving(&fixture, Some(&[0, 1, 5])), [told]);
    assert_eq!(moving(&fixture, Some(&[1])), []);
    assert_eq!(reassign(&fixture, &[(0, None)], true, 0), [(ErrorCode::None, None)]);
    assert_eq!(moving(&fixture, None), []);
    // Where the new replicas are in sync already it is there at once.
    assert_eq!(reassign(&fixture, &[(0, Some(&[1]))], true, 0), [(ErrorCode::None, None)]);
    assert_eq!((moving(&fixture, None), leader(&fixture, key)), (vec![], NODE));
}

#[test]
fn each_partition_has_its_refusal() {
    let fixture = Fixture::new();
    replicated(&fixture);
    let wanted: [(i32, Option<&[i32]>); 5] =
        [(0, None), (9, Some(&[1])), (1, Some(&[])), (1, Some(&[8])), (0, Some(&[1]))];
    let told = reassign(&fixture, &wanted, true, 1);
    let codes: Vec<_> = told.iter().map(|(code, _)| *code).collect();
    let invalid = ErrorCode::InvalidReplicaAssignment;
    let unknown = ErrorCode::UnknownTopicOrPartition;
    let twice = invalid;
    assert_eq!(codes, [ErrorCode::NoReassignmentInProgress, unknown, invalid, twice, twice]);
    assert_eq!(told[1].1.as_deref(), Some("Unable to find partition t:9."));
    let fewer = reassign(&fixture, &[(0, Some(&[1]))], false, 1);
    let text = "The replication factor is changed from 2 to 1".to_owned();
    assert_eq!(fewer, [(ErrorCode::InvalidReplicationFactor, Some(text))]);
    let topic = alter::ReassignableTopic {
        name: "missing".into(),
        partitions: vec![alter::ReassignablePartition::default()].into(),
    };
    let request = alter::Request { topics: vec![topic].into(), ..alter::Request::default() };
    fixture.ask(&request, 1, |response| {
        let topic = response.responses.iter().next().unwrap();
        let partition = topic.partitions.iter().next().unwrap();
        assert_eq!(code(partition.error_code), unknown);
        let text = Some("Unable to find a topic named missing.");
        assert_eq!(partition.error_message.as_deref(), text);
    });
    *fixture.broker.metadata_error.borrow_mut() = Some(MetadataError::Stopping);
    fixture.ask(&request, 1, |response| {
        assert_eq!(code(response.error_code), ErrorCode::RequestTimedOut);
        assert!(response.error_message.is_some() && response.responses.is_empty());
    });
}

#[test]
fn a_broker_is_forgotten_once() {
    let fixture = Fixture::new();
    let key = replicated(&fixture);
    fixture.broker.fence(OTHER, true);
    let unregister = |broker_id| {
        fixture.ask(&unregister_broker::Request { broker_id }, 0, |response| {
            (code(response.error_code), response.error_message.map(|message| message.into_owned()))
        })
    };
    assert_eq!(unregister(2), (ErrorCode::None, None));
    let text = "Broker ID 2 is not currently registered".to_owned();
    assert_eq!(unregister(2), (ErrorCode::BrokerIdNotRegistered, Some(text)));
    let image = fixture.services.image();
    let partition = image.partition(image.topic_by_id(key.topic_id).unwrap(), key.partition).unwrap();
    assert_eq!((partition.leader, partition.in_sync), (NODE, &[NODE][..]));
    fixture.ask(&metadata::Request { topics: None, ..Default::default() }, 12, |response| {
        assert_eq!(response.brokers.len(), 1);
    });
}
