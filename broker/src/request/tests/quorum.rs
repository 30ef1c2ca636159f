//! DescribeQuorum, AddRaftVoter, RemoveRaftVoter and UpdateFeatures.

use super::Fixture;
use crate::cluster::command::MetadataError;
use crate::cluster::quorum::{Member, MemberDescription, MemberKey, QuorumDescription, VoterEndpoint};
use crate::cluster::quorum_command::VoterError;
use logmill_wire::api::{
    add_raft_voter, describe_quorum as quorum, remove_raft_voter, update_features, update_raft_voter,
};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{NodeId, TimestampMs, Uuid};

fn code(code: i16) -> ErrorCode {
    ErrorCode::from_code(code).unwrap()
}

fn member(node: i32, is_voter: bool) -> Member {
    let key = MemberKey { node: NodeId(node), directory: Uuid([node as u8; 16]) };
    let endpoint =
        VoterEndpoint { listener: "CONTROLLER".to_owned(), host: format!("host-{node}"), port: 9093 };
    Member { key, is_voter, endpoints: vec![endpoint] }
}

fn described() -> QuorumDescription {
    let of = |node, is_voter, log_end, time: Option<i64>| MemberDescription {
        member: member(node, is_voter),
        log_end,
        last_heard: time.map(TimestampMs),
        last_caught_up: time.map(|time| TimestampMs(time - 5)),
    };
    QuorumDescription {
        leader: Some(NodeId(1)),
        term: 7,
        high_watermark: 40,
        members: vec![of(1, true, 42, Some(100)), of(2, true, 41, Some(90)), of(3, false, -1, None)],
    }
}

fn about(topics: &[(&'static str, &[i32])]) -> quorum::Request<'static> {
    let topics = topics.iter().map(|&(name, partitions)| quorum::TopicData {
        topic_name: name.into(),
        partitions: partitions
            .iter()
            .map(|&partition_index| quorum::PartitionData { partition_index })
            .collect(),
    });
    quorum::Request { topics: topics.collect() }
}

#[test]
fn the_quorum_is_described_in_every_version() {
    let fixture = Fixture::new();
    *fixture.broker.quorum.borrow_mut() = Some(described());
    for version in 0..=2 {
        fixture.ask(&about(&[("__cluster_metadata", &[0])]), version, |response| {
            assert_eq!((response.error_code, response.topics.len()), (0, 1));
            let topic = response.topics.iter().next().unwrap();
            let partition = topic.partitions.iter().next().unwrap();
            assert_eq!((partition.leader_id, partition.leader_epoch, partition.high_watermark), (1, 7, 40));
            let told = |replicas: &logmill_wire::primitives::Array<'_, quorum::ReplicaState>| -> Vec<_> {
                replicas
                    .iter()
                    .map(|replica| {
                        let times = (replica.last_fetch_timestamp, replica.last_caught_up_timestamp);
                        (replica.replica_id, replica.replica_directory_id, replica.log_end_offset, times)
                    })
                    .collect()
            };
            let directory = |node: u8| if version < 2 { Uuid::ZERO } else { Uuid([node; 16]) };
            let times = |heard, caught_up| if version < 1 { (-1, -1) } else { (heard, caught_up) };
            let voters = [(1, directory(1), 42, times(100, 95)), (2, directory(2), 41, times(90, 85))];
            assert_eq!(told(&partition.current_voters), voters, "v{version}");
            assert_eq!(told(&partition.observers), [(3, directory(3), -1, (-1, -1))]);
            let nodes: Vec<_> = response
                .nodes
                .iter()
                .map(|node| {
                    let listener = node.listeners.iter().next().unwrap();
                    (node.node_id, listener.name.into_owned(), listener.host.into_owned(), listener.port)
                })
                .collect();
            let at = |node: i32| (node, "CONTROLLER".to_owned(), format!("host-{node}"), 9093);
            assert_eq!(nodes, if version < 2 { vec![] } else { vec![at(1), at(2)] });
        });
    }
}

#[test]
fn only_the_log_of_the_metadata_has_a_quorum() {
    let fixture = Fixture::new();
    *fixture.broker.quorum.borrow_mut() = Some(described());
    let metadata: (&'static str, &[i32]) = ("__cluster_metadata", &[0]);
    for wrong in [vec![("t", &[0][..])], vec![("__cluster_metadata", &[1][..])], vec![metadata, ("t", &[3])]]
    {
        fixture.ask(&about(&wrong), 2, |response| {
            assert_eq!(response.error_code, 0);
            for topic in response.topics.iter() {
                for partition in topic.partitions.iter() {
                    assert_eq!(code(partition.error_code), ErrorCode::UnknownTopicOrPartition);
                }
            }
            assert_eq!(response.topics.len(), wrong.len());
        });
    }
    *fixture.broker.metadata_error.borrow_mut() = Some(MetadataError::NotController(Some(NodeId(2))));
    fixture.ask(&about(&[metadata]), 2, |response| {
        assert_eq!(code(response.error_code), ErrorCode::NotController);
    });
}

#[test]
fn voters_come_and_go_or_are_refused() {
    let fixture = Fixture::new();
    let add = |voter_id, with_listener, version| {
        let listener = add_raft_voter::Listener { name: "CONTROLLER".into(), host: "h".into(), port: 9093 };
        let listeners = if with_listener { vec![listener] } else { Vec::new() };
        let request = add_raft_voter::Request {
            cluster_id: Some("c".into()),
            timeout_ms: 3_000,
            voter_id,
            voter_directory_id: Uuid([3; 16]),
            listeners: listeners.into(),
            ..Default::default()
        };
        fixture.ask(&request, version, |response| code(response.error_code))
    };
    let remove = || {
        let request =
            remove_raft_voter::Request { cluster_id: None, voter_id: 3, voter_directory_id: Uuid([3; 16]) };
        fixture.ask(&request, 0, |response| {
            assert_eq!(response.error_code != 0, response.error_message.is_some());
            code(response.error_code)
        })
    };
    for version in 0..=1 {
        assert_eq!(add(3, true, version), ErrorCode::None);
    }
    let key = MemberKey { node: NodeId(3), directory: Uuid([3; 16]) };
    assert_eq!(fixture.broker.voters_asked.take(), [(key, 1), (key, 1)]);
    assert_eq!([add(3, false, 1), add(-1, true, 1)], [ErrorCode::InvalidRequest; 2]);
    assert_eq!(fixture.broker.voters_asked.take(), [], "nobody is asked for nonsense");
    assert_eq!(remove(), ErrorCode::None);
    assert_eq!(fixture.broker.voters_asked.take(), [(key, 0)]);
    for (error, expected) in [
        (VoterError::InconsistentClusterId, ErrorCode::InconsistentClusterId),
        (VoterError::DuplicateVoter, ErrorCode::DuplicateVoter),
        (VoterError::VoterNotFound, ErrorCode::VoterNotFound),
        (VoterError::Invalid("x".to_owned()), ErrorCode::InvalidRequest),
        (VoterError::NotNow("x".to_owned()), ErrorCode::RequestTimedOut),
    ] {
        *fixture.broker.voter_error.borrow_mut() = Some(error);
        assert_eq!([add(3, true, 1), remove()], [expected; 2]);
    }
}

#[test]
fn a_voter_says_where_it_is_reached() {
    let fixture = Fixture::on_controllers();
    *fixture.broker.quorum.borrow_mut() = Some(described());
    let update = |voter_id, with_listener, epoch, versions: (i16, i16)| {
        let listener =
            update_raft_voter::Listener { name: "CONTROLLER".into(), host: "h".into(), port: 9093 };
        let request = update_raft_voter::Request {
            cluster_id: Some("c".into()),
            current_leader_epoch: epoch,
            voter_id,
            voter_directory_id: Uuid([3; 16]),
            listeners: if with_listener { vec![listener] } else { Vec::new() }.into(),
            k_raft_version_feature: update_raft_voter::KRaftVersionFeature {
                min_supported_version: versions.0,
                max_supported_version: versions.1,
            },
        };
        fixture.ask(&request, 0, |response| {
            let leader = &response.current_leader;
            let told = (leader.leader_id, leader.leader_epoch, leader.host.to_string(), leader.port);
            (code(response.error_code), told)
        })
    };
    let leader = (1, 7, "host-1".to_owned(), 9093);
    for epoch in [7, -1] {
        assert_eq!(update(3, true, epoch, (0, 1)), (ErrorCode::None, leader.clone()));
    }
    let key = MemberKey { node: NodeId(3), directory: Uuid([3; 16]) };
    assert_eq!(fixture.broker.voters_asked.take(), [(key, 1), (key, 1)]);
    assert_eq!(update(3, true, 6, (0, 1)), (ErrorCode::FencedLeaderEpoch, leader.clone()));
    assert_eq!(update(3, true, 8, (0, 1)), (ErrorCode::UnknownLeaderEpoch, leader.clone()));
    for (id, with_listener, versions) in [(-1, true, (0, 1)), (3, false, (0, 1)), (3, true, (0, 0))] {
        assert_eq!(update(id, with_listener, 7, versions).0, ErrorCode::InvalidRequest);
    }
    assert_eq!(fixture.broker.voters_asked.take(), [], "nobody is asked for nonsense");
    *fixture.broker.voter_error.borrow_mut() = Some(VoterError::VoterNotFound);
    assert_eq!(update(3, true, 7, (1, 1)), (ErrorCode::VoterNotFound, leader));
    *fixture.broker.metadata_error.borrow_mut() = Some(MetadataError::NotController(Some(NodeId(2))));
    let nobody = (-1, -1, String::new(), 0);
    assert_eq!(update(3, true, 7, (1, 1)), (ErrorCode::NotController, nobody));
}

#[test]
fn a_feature_is_at_its_one_level_or_unknown() {
    let fixture = Fixture::new();
    let update = |features: &[(&'static str, i16)], upgrade_type, version| {
        let keys = features.iter().map(|&(feature, max_version_level)| update_features::FeatureUpdateKey {
            feature: feature.into(),
            max_version_level,
            allow_downgrade: false,
            upgrade_type: if version < 1 { 1 } else { upgrade_type },
        });
        let request = update_features::Request { feature_updates: keys.collect(), ..Default::default() };
        fixture.ask(&request, version, |response| {
            assert_eq!(response.error_code != 0, response.error_message.is_some());
            (code(response.error_code), response.results.len())
        })
    };
    for version in 0..=2 {
        let told = if version < 2 { 1 } else { 0 };
        assert_eq!(update(&[("group.version", 1)], 1, version), (ErrorCode::None, told));
        for wrong in [("group.version", 0), ("group.version", 2), ("metadata.version", 1)] {
            let refused = update(&[wrong], 2, version);
            assert_eq!(refused, (ErrorCode::InvalidUpdateVersion, 0), "{wrong:?} v{version}");
        }
        let twice = [("group.version", 1), ("group.version", 1)];
        assert_eq!(update(&twice, 1, version).0, ErrorCode::InvalidRequest);
    }
    assert_eq!(update(&[("group.version", 1)], 4, 2).0, ErrorCode::InvalidRequest);
}
