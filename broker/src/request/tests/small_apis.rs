//! ApiVersions, DescribeCluster, FindCoordinator and InitProducerId, and what the router refuses.

use super::{Fixture, body};
use crate::cluster::command::MetadataError;
use crate::cluster::quorum::{Member, MemberDescription, MemberKey, QuorumDescription, VoterEndpoint};
use crate::request::call::RouteError;
use crate::request::versions::{ADVERTISED, advertised};
use logmill_wire::api::{Message, api_versions, describe_cluster, find_coordinator, init_producer_id};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{NodeId, Uuid};
use std::collections::BTreeSet;

fn software<'a>() -> api_versions::Request<'a> {
    api_versions::Request {
        client_software_name: "apache-kafka-java".into(),
        client_software_version: "4.3.1".into(),
        ..api_versions::Request::default()
    }
}

#[test]
fn what_is_advertised_is_what_is_declared() {
    let fixture = Fixture::new();
    for version in 0..=4 {
        fixture.ask(&software(), version, |response| {
            assert_eq!(response.error_code, 0);
            let listed = response.api_keys.iter().map(|api| (api.api_key, api.min_version, api.max_version));
            let offered = ADVERTISED.iter().filter(|api| api.is_offered(false));
            assert!(listed.eq(offered.map(|api| (api.key, api.min, api.max))), "v{version}");
            let features = response.finalized_features.iter();
            let finalized: Vec<_> =
                features.map(|feature| (feature.name.into_owned(), feature.max_version_level)).collect();
            let every = ["eligible.leader.replicas.version", "group.version", "kraft.version"];
            let told = if version < 3 { &[][..] } else { &every[..] };
            let expected: Vec<_> = told.iter().map(|&name| (name.to_owned(), 1)).collect();
            assert_eq!(finalized, expected, "v{version}");
        });
    }
}

#[test]
fn an_unknown_version_gets_the_list_in_version_0() {
    let fixture = Fixture::new();
    // Version 5 can be decoded, but is not advertised; 100 cannot.
    for version in [5_i16, 100] {
        let mut frame = vec![0, 18];
        frame.extend(version.to_be_bytes());
        frame.extend(77_i32.to_be_bytes());
        frame.extend([0xff, 0xff, 0, 1, 2, 3]);
        let pending = fixture.begin(&frame).unwrap();
        let outcome = fixture.world.block_on(&fixture.runtime, pending);
        let body = body(outcome, 18, 0);
        let response = api_versions::Response::decode_body(&body, 0).unwrap();
        assert_eq!(response.error_code, ErrorCode::UnsupportedVersion.code());
        assert_eq!(response.api_keys.len(), ADVERTISED.iter().filter(|api| api.is_offered(false)).count());
    }
}

#[test]
fn odd_names_of_client_software_are_refused() {
    let fixture = Fixture::new();
    for name in ["", "-", "a b", "a-", "\u{e4}", "a\n"] {
        let request = api_versions::Request { client_software_name: name.into(), ..software() };
        fixture.ask(&request, 3, |response| {
            assert_eq!(response.error_code, ErrorCode::InvalidRequest.code(), "{name:?}");
        });
    }
}

#[test]
fn what_is_not_advertised_ends_the_connection() {
    let fixture = Fixture::new();
    let begin = |key: i16, version: i16| {
        let mut frame = Vec::new();
        frame.extend(key.to_be_bytes());
        frame.extend(version.to_be_bytes());
        frame.extend(1_i32.to_be_bytes());
        frame.extend([0xff, 0xff, 0]);
        fixture.begin(&frame).err()
    };
    // Advertised for the sake of librdkafka, and refused.
    assert_eq!(begin(0, 2), Some(RouteError::NotOffered { key: 0, version: 2 }));
    assert_eq!(begin(1, 3), Some(RouteError::NotOffered { key: 1, version: 3 }));
    assert_eq!(begin(22, 6), Some(RouteError::NotOffered { key: 22, version: 6 }));
    assert!(matches!(begin(3, -1), Some(RouteError::NotOffered { .. })));
    assert!(matches!(begin(9999, 0), Some(RouteError::Decode(_))));
    assert!(matches!(fixture.begin(&[0, 3]).err(), Some(RouteError::Decode(_))));
    fixture.assert_all_room_is_free();
}

#[test]
fn controllers_offer_what_is_for_them() {
    let (brokers, controllers) = (Fixture::new(), Fixture::on_controllers());
    let listed = |fixture: &Fixture| -> Vec<i16> {
        fixture.ask(&software(), 4, |response| response.api_keys.iter().map(|api| api.api_key).collect())
    };
    let (on_brokers, on_controllers) = (listed(&brokers), listed(&controllers));
    // Metadata is for brokers, UpdateRaftVoter for controllers, DescribeQuorum for both.
    let is_listed = |key| (on_brokers.contains(&key), on_controllers.contains(&key));
    assert_eq!([3, 82, 55].map(is_listed), [(true, false), (false, true), (true, true)]);
    let all = [18, 19, 20, 32, 33, 37, 43, 44, 45, 46, 55, 57, 60, 64, 80, 81, 82];
    assert_eq!(on_controllers, all, "what a controller of Kafka offers, as far as it is there");
    let begin = |fixture: &Fixture, key: i16| {
        let mut frame = key.to_be_bytes().to_vec();
        frame.extend([0, if key == 3 { 4 } else { 0 }, 0, 0, 0, 1, 0xff, 0xff, 0, 0]);
        fixture.begin(&frame).err()
    };
    assert_eq!(begin(&controllers, 3), Some(RouteError::NotOffered { key: 3, version: 4 }));
    assert_eq!(begin(&brokers, 82), Some(RouteError::NotOffered { key: 82, version: 0 }));
}

#[test]
fn controllers_tell_of_controllers() {
    let fixture = Fixture::on_controllers();
    let member = |node: i32, is_voter, listener: &str| {
        let key = MemberKey { node: NodeId(node), directory: Uuid([node as u8; 16]) };
        let endpoint =
            VoterEndpoint { listener: listener.to_owned(), host: format!("host-{node}"), port: 9093 };
        MemberDescription {
            member: Member { key, is_voter, endpoints: vec![endpoint] },
            log_end: 1,
            last_heard: None,
            last_caught_up: None,
        }
    };
    *fixture.broker.quorum.borrow_mut() = Some(QuorumDescription {
        leader: Some(NodeId(2)),
        term: 7,
        high_watermark: 40,
        members: vec![
            member(1, true, "CONTROLLER"),
            member(2, true, "CONTROLLER"),
            member(3, false, "CONTROLLER"),
            member(4, true, "OTHER"),
        ],
    });
    for version in 1..=2 {
        let request = describe_cluster::Request {
            endpoint_type: 2,
            include_cluster_authorized_operations: true,
            ..Default::default()
        };
        fixture.ask(&request, version, |response| {
            assert_eq!((response.error_code, response.endpoint_type), (0, 2));
            assert_eq!(response.cluster_id, fixture.services.image().cluster_id().unwrap().to_string());
            assert_eq!((response.controller_id, response.cluster_authorized_operations), (2, 8096));
            let told = response.brokers.iter();
            let told: Vec<_> = told.map(|node| (node.broker_id, node.host.into_owned(), node.port)).collect();
            assert_eq!(told, [(1, "host-1".to_owned(), 9093), (2, "host-2".to_owned(), 9093)]);
        });
    }
    let mismatched = [(0, 1), (1, 1)];
    for (version, endpoint_type) in mismatched {
        let request = describe_cluster::Request { endpoint_type, ..Default::default() };
        fixture.ask(&request, version, |response| {
            assert_eq!(response.error_code, ErrorCode::MismatchedEndpointType.code());
        });
    }
}

#[test]
fn the_cluster_is_described() {
    let fixture = Fixture::new();
    for version in 0..=2 {
        let request =
            describe_cluster::Request { include_cluster_authorized_operations: true, ..Default::default() };
        fixture.ask(&request, version, |response| {
            assert_eq!(response.error_code, 0);
            assert_eq!(response.cluster_id, fixture.services.image().cluster_id().unwrap().to_string());
            assert_eq!(response.controller_id, 1);
            let brokers: Vec<_> = response.brokers.iter().map(|broker| broker.broker_id).collect();
            assert_eq!(brokers, [1, 2]);
            assert_eq!(response.cluster_authorized_operations, 8096);
        });
    }
    for (endpoint_type, error) in
        [(2, ErrorCode::MismatchedEndpointType), (7, ErrorCode::UnsupportedEndpointType)]
    {
        let request = describe_cluster::Request { endpoint_type, ..Default::default() };
        fixture.ask(&request, 1, |response| {
            assert_eq!(response.error_code, error.code());
            assert!(response.brokers.is_empty());
        });
    }
}

#[test]
fn groups_find_their_coordinator_and_transactions_are_refused() {
    let fixture = Fixture::new();
    let expected = |key_type, version| match key_type {
        0 => ErrorCode::None,
        1 => ErrorCode::TransactionalIdAuthorizationFailed,
        2 if version >= 6 => ErrorCode::CoordinatorNotAvailable,
        _ => ErrorCode::InvalidRequest,
    };
    for version in 0..=6 {
        for key_type in if version == 0 { 0..=0 } else { 0..=3 } {
            let request = if version < 4 {
                find_coordinator::Request { key: "g".into(), key_type, ..Default::default() }
            } else {
                find_coordinator::Request {
                    coordinator_keys: vec!["g".into(), "h".into()].into(),
                    key_type,
                    ..Default::default()
                }
            };
            fixture.ask(&request, version, |response| {
                let code = expected(key_type, version).code();
                if version < 4 {
                    assert_eq!(
                        (response.error_code, response.node_id > 0),
                        (code, code == 0),
                        "v{version} {key_type}"
                    );
                } else {
                    let answers: Vec<_> = response
                        .coordinators
                        .iter()
                        .map(|one| (one.key.into_owned(), one.error_code, one.node_id > 0))
                        .collect();
                    assert_eq!(
                        answers,
                        [("g".to_owned(), code, code == 0), ("h".to_owned(), code, code == 0)],
                        "v{version} {key_type}"
                    );
                }
            });
        }
    }
}

#[test]
fn producer_ids_are_given_out_once() {
    let fixture = Fixture::new();
    let mut seen = BTreeSet::new();
    for asked in 0..2_500 {
        let request = init_producer_id::Request { transactional_id: None, ..Default::default() };
        fixture.ask(&request, (asked % 6) as i16, |response| {
            assert_eq!((response.error_code, response.producer_epoch), (0, 0));
            assert!(seen.insert(response.producer_id), "{} twice", response.producer_id);
        });
    }
    assert_eq!(fixture.broker.metadata_commands.get(), 3, "ids come in blocks");
}

#[test]
fn who_asks_while_a_block_is_on_its_way_waits_for_it() {
    let fixture = Fixture::new();
    fixture.broker.delay.set(Some(std::time::Duration::from_millis(50)));
    let request = init_producer_id::Request { transactional_id: None, ..Default::default() };
    let pending: Vec<_> = (0..20).map(|_| fixture.begin_request(&request, 4)).collect();
    let outcomes =
        fixture.world.block_on(&fixture.runtime, async move { crate::shard::join::join_all(pending).await });
    let ids: BTreeSet<_> = outcomes
        .into_iter()
        .map(|outcome| {
            let body = body(outcome, 22, 4);
            init_producer_id::Response::decode_body(&body, 4).unwrap().producer_id
        })
        .collect();
    assert_eq!(ids.len(), 20);
    assert_eq!(fixture.broker.metadata_commands.get(), 1);
}

#[test]
fn producers_are_refused_with_a_code_that_says_why() {
    let fixture = Fixture::new();
    let ask = |request: &init_producer_id::Request<'_>| {
        fixture.ask(request, 5, |response| {
            assert_eq!((response.producer_id, response.producer_epoch), (-1, -1));
            ErrorCode::from_code(response.error_code).unwrap()
        })
    };
    let transactional = |id: &'static str| init_producer_id::Request {
        transactional_id: Some(id.into()),
        ..Default::default()
    };
    assert_eq!(ask(&transactional("tx")), ErrorCode::TransactionalIdAuthorizationFailed);
    assert_eq!(ask(&transactional("")), ErrorCode::InvalidRequest);
    let half = init_producer_id::Request {
        transactional_id: None,
        producer_id: 5,
        producer_epoch: -1,
        ..Default::default()
    };
    assert_eq!(ask(&half), ErrorCode::InvalidRequest);
    *fixture.broker.metadata_error.borrow_mut() = Some(MetadataError::Stopping);
    let plain = init_producer_id::Request { transactional_id: None, ..Default::default() };
    let error = ask(&plain);
    assert!(error.is_retriable(), "{error:?}");
    // The failure is not remembered.
    fixture.broker.metadata_error.borrow_mut().take();
    fixture.ask(&plain, 5, |response| assert_eq!(response.error_code, 0));
}

#[test]
fn every_advertised_api_has_a_handler() {
    let fixture = Fixture::new();
    for api in ADVERTISED {
        assert_eq!(advertised(api.key), Some(api));
        let mut frame = Vec::new();
        frame.extend(api.key.to_be_bytes());
        frame.extend(api.max.to_be_bytes());
        frame.extend([0; 64]);
        // Whatever it makes of zeros, it does not panic for want of a handler.
        let _ = fixture.begin(&frame);
    }
}

#[test]
fn a_request_of_many_tiny_elements_is_refused() {
    let fixture = Fixture::new();
    let topics = vec![logmill_wire::api::metadata::MetadataRequestTopic::default(); 300_000];
    let request = logmill_wire::api::metadata::Request {
        topics: Some(topics.into()),
        allow_auto_topic_creation: false,
        ..Default::default()
    };
    let frame = logmill_wire::api::request_frame(&request, 9, 1, None).unwrap().concat();
    assert!(matches!(fixture.begin(&frame[4..]).err(), Some(RouteError::Decode(_))));
    fixture.assert_all_room_is_free();
}
