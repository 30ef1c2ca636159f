//! Messages as the serializer of kafka-clients 4.4.0 writes them, every field with a value of its own: the
//! versions that are newer than what the other codecs at hand know, and the two messages that carry most.

use logmill_wire::api::{Message, add_raft_voter, api_versions, fetch, init_producer_id, list_offsets};
use logmill_wire::ids::Uuid;
use logmill_wire::primitives::{Records, Writer};
use std::fmt::Debug;

const TOPIC_ID: Uuid = Uuid([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);

fn check<'a, M: Message<'a> + PartialEq + Debug>(message: &M, version: i16, vector: &'a [u8]) {
    let mut writer = Writer::new();
    message.encode(&mut writer, version).expect("every value has its place in the version");
    assert_eq!(writer.finish().concat(), vector, "{} v{version}", M::NAME);
    assert_eq!(M::decode_body(vector, version).as_ref(), Ok(message), "{} v{version}", M::NAME);
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal digits"))
        .collect()
}

#[test]
fn api_versions_5() {
    let request = api_versions::Request {
        client_software_name: "sw".into(),
        client_software_version: "1.2".into(),
        cluster_id: Some("c".into()),
        node_id: 7,
    };
    check(&request, 5, &bytes("03737704312e3202630000000700"));
    let response = api_versions::Response {
        error_code: 3,
        api_keys: vec![api_versions::ApiVersion { api_key: 1, min_version: 4, max_version: 18 }].into(),
        throttle_time_ms: 9,
        supported_features: vec![api_versions::SupportedFeatureKey {
            name: "f".into(),
            min_version: 0,
            max_version: 2,
        }]
        .into(),
        finalized_features_epoch: 11,
        finalized_features: vec![api_versions::FinalizedFeatureKey {
            name: "f".into(),
            max_version_level: 2,
            min_version_level: 1,
        }]
        .into(),
        zk_migration_ready: true,
    };
    let vector =
        "000302000100040012000000000904000802026600000002000108000000000000000b02080202660002000100030101";
    check(&response, 5, &bytes(vector));
}

#[test]
fn init_producer_id_6() {
    let request = init_producer_id::Request {
        transactional_id: Some("t".into()),
        transaction_timeout_ms: 1000,
        producer_id: 5,
        producer_epoch: 6,
        enable2_pc: true,
        keep_prepared_txn: true,
    };
    check(&request, 6, &bytes("0274000003e800000000000000050006010100"));
    let response = init_producer_id::Response {
        throttle_time_ms: 1,
        error_code: 2,
        producer_id: 3,
        producer_epoch: 4,
        ongoing_txn_producer_id: 5,
        ongoing_txn_producer_epoch: 6,
    };
    check(&response, 6, &bytes("000000010002000000000000000300040000000000000005000600"));
}

#[test]
fn list_offsets_11() {
    let request = list_offsets::Request {
        replica_id: -1,
        isolation_level: 1,
        topics: vec![list_offsets::ListOffsetsTopic {
            name: "t".into(),
            partitions: vec![list_offsets::ListOffsetsPartition {
                partition_index: 2,
                current_leader_epoch: 3,
                timestamp: -6,
            }]
            .into(),
        }]
        .into(),
        timeout_ms: 30,
    };
    check(&request, 11, &bytes("ffffffff01020274020000000200000003fffffffffffffffa00000000001e00"));
    let response = list_offsets::Response {
        throttle_time_ms: 1,
        topics: vec![list_offsets::ListOffsetsTopicResponse {
            name: "t".into(),
            partitions: vec![list_offsets::ListOffsetsPartitionResponse {
                partition_index: 2,
                error_code: 3,
                timestamp: 4,
                offset: 5,
                leader_epoch: 6,
            }]
            .into(),
        }]
        .into(),
    };
    let vector = "00000001020274020000000200030000000000000004000000000000000500000006000000";
    check(&response, 11, &bytes(vector));
}

#[test]
fn add_raft_voter_1() {
    let request = add_raft_voter::Request {
        cluster_id: Some("c".into()),
        timeout_ms: 30,
        voter_id: 2,
        voter_directory_id: TOPIC_ID,
        listeners: vec![add_raft_voter::Listener { name: "l".into(), host: "h".into(), port: 9093 }].into(),
        ack_when_committed: false,
    };
    let vector = "02630000001e000000020102030405060708090a0b0c0d0e0f1002026c02682385000000";
    check(&request, 1, &bytes(vector));
    let response =
        add_raft_voter::Response { throttle_time_ms: 1, error_code: 2, error_message: Some("m".into()) };
    check(&response, 1, &bytes("000000010002026d00"));
}

#[test]
fn fetch_request_18() {
    let request = fetch::Request {
        cluster_id: Some("c".into()),
        replica_id: -1,
        replica_state: fetch::ReplicaState { replica_id: 1, replica_epoch: 2 },
        max_wait_ms: 3,
        min_bytes: 4,
        max_bytes: 5,
        isolation_level: 1,
        session_id: 6,
        session_epoch: 7,
        topics: vec![fetch::FetchTopic {
            topic_id: TOPIC_ID,
            partitions: vec![fetch::FetchPartition {
                partition: 8,
                current_leader_epoch: 9,
                fetch_offset: 10,
                last_fetched_epoch: 11,
                log_start_offset: 12,
                partition_max_bytes: 13,
                replica_directory_id: TOPIC_ID,
                high_watermark: 14,
            }]
            .into(),
            ..Default::default()
        }]
        .into(),
        forgotten_topics_data: vec![fetch::ForgottenTopic {
            topic_id: TOPIC_ID,
            partitions: vec![15, 16].into(),
            ..Default::default()
        }]
        .into(),
        rack_id: "r".into(),
    };
    let vector = "000000030000000400000005010000000600000007020102030405060708090a0b0c0d0e0f10020000000800000009\
                  000000000000000a0000000b000000000000000c0000000d0200100102030405060708090a0b0c0d0e0f1001080000\
                  00000000000e00020102030405060708090a0b0c0d0e0f10030000000f000000100002720200020263010d00000001\
                  000000000000000200";
    check(&request, 18, &bytes(vector));
}

#[test]
fn fetch_response_18() {
    let response = fetch::Response {
        throttle_time_ms: 1,
        error_code: 2,
        session_id: 3,
        responses: vec![fetch::FetchableTopicResponse {
            topic_id: TOPIC_ID,
            partitions: vec![fetch::PartitionData {
                partition_index: 4,
                error_code: 5,
                high_watermark: 6,
                last_stable_offset: 7,
                log_start_offset: 8,
                diverging_epoch: fetch::EpochEndOffset { epoch: 9, end_offset: 10 },
                current_leader: fetch::LeaderIdAndEpoch { leader_id: 11, leader_epoch: 12 },
                snapshot_id: fetch::SnapshotId { end_offset: 13, epoch: 14 },
                aborted_transactions: Some(
                    vec![fetch::AbortedTransaction { producer_id: 15, first_offset: 16 }].into(),
                ),
                preferred_read_replica: 17,
                records: Some(Records::Borrowed(b"batch")),
            }]
            .into(),
            ..Default::default()
        }]
        .into(),
        node_endpoints: vec![fetch::NodeEndpoint {
            node_id: 18,
            host: "h".into(),
            port: 19,
            rack: Some("r".into()),
        }]
        .into(),
    };
    let vector = "00000001000200000003020102030405060708090a0b0c0d0e0f100200000004000500000000000000060000000000\
                  000007000000000000000802000000000000000f0000000000000010000000001106626174636803000d0000000900\
                  0000000000000a0001090000000b0000000c00020d000000000000000d0000000e000001000e020000001202680000\
                  0013027200";
    check(&response, 18, &bytes(vector));
}
