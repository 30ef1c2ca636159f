use super::*;
use crate::ids::Uuid;
use crate::primitives::Records;
use std::borrow::Cow;

fn encoded<'a, M: Message<'a>>(message: &M, version: i16) -> Vec<u8> {
    let mut writer = Writer::new();
    message.encode(&mut writer, version).unwrap();
    writer.finish().concat()
}

#[test]
fn a_find_coordinator_request_has_the_documented_bytes() {
    let old = find_coordinator::Request { key: "g".into(), ..Default::default() };
    assert_eq!(encoded(&old, 0), [0, 1, b'g']);
    assert_eq!(encoded(&old, 1), [0, 1, b'g', 0]);
    assert_eq!(encoded(&old, 3), [2, b'g', 0, 0]);
    let batched = find_coordinator::Request {
        coordinator_keys: vec!["g".into()].into(),
        key_type: 1,
        ..Default::default()
    };
    assert_eq!(encoded(&batched, 4), [1, 2, 2, b'g', 0]);
}

#[test]
fn a_value_without_a_place_is_an_error_unless_it_may_be_ignored() {
    let transactional = find_coordinator::Request { key_type: 1, ..Default::default() };
    assert_eq!(transactional.encode(&mut Writer::new(), 0), Err(EncodeError::NotInVersion("KeyType")));
    let batched = find_coordinator::Request { key: "g".into(), ..Default::default() };
    assert_eq!(batched.encode(&mut Writer::new(), 4), Err(EncodeError::NotInVersion("Key")));
    let named = api_versions::Request { client_software_name: "x".into(), ..Default::default() };
    assert_eq!(encoded(&named, 0), []);
    let all_topics = metadata::Request { topics: None, ..Default::default() };
    assert_eq!(all_topics.encode(&mut Writer::new(), 0), Err(EncodeError::UnexpectedNull("Topics")));
    assert_eq!(encoded(&all_topics, 1), [0xff; 4]);
    assert_eq!(all_topics.encode(&mut Writer::new(), 99), Err(EncodeError::UnsupportedVersion));
}

#[test]
fn defaults_are_those_of_kafka() {
    let fetch = fetch::Request::default();
    assert_eq!((fetch.replica_id, fetch.max_bytes, fetch.session_epoch), (-1, i32::MAX, -1));
    assert_eq!(fetch.replica_state, fetch::ReplicaState { replica_id: -1, replica_epoch: -1 });
    assert_eq!(fetch.cluster_id, None);
    assert_eq!(fetch::FetchPartition::default().high_watermark, i64::MAX);
    assert!(metadata::Request::default().allow_auto_topic_creation);
    assert_eq!(metadata::Response::default().cluster_authorized_operations, i32::MIN);
    assert_eq!(produce::PartitionProduceData::default().records, None);
    assert_eq!(create_topics::CreatableTopicResult::default().error_message, Some(Cow::Borrowed("")));
}

#[test]
fn a_response_decodes_to_what_was_built() {
    let response = fetch::Response {
        session_id: 7,
        responses: vec![fetch::FetchableTopicResponse {
            topic_id: Uuid([3; 16]),
            partitions: vec![fetch::PartitionData {
                partition_index: 2,
                high_watermark: 40,
                current_leader: fetch::LeaderIdAndEpoch { leader_id: 1, leader_epoch: 5 },
                aborted_transactions: None,
                records: Some(Records::Borrowed(b"batch")),
                ..Default::default()
            }]
            .into(),
            ..Default::default()
        }]
        .into(),
        ..Default::default()
    };
    let bytes = encoded(&response, 17);
    assert_eq!(fetch::Response::decode_body(&bytes, 17), Ok(response));
    let mut longer = bytes.clone();
    longer.push(0);
    assert_eq!(fetch::Response::decode_body(&longer, 17), Err(DecodeError::TrailingBytes));
    assert_eq!(fetch::Response::decode_body(&bytes, 3), Err(DecodeError::UnsupportedVersion));
    for length in 0..bytes.len() {
        assert!(fetch::Response::decode_body(&bytes[..length], 17).is_err());
    }
}

#[test]
fn tagged_fields_are_sent_only_when_set() {
    let mut response = produce::Response::default();
    assert_eq!(encoded(&response, 10), [1, 0, 0, 0, 0, 0]);
    response.node_endpoints =
        vec![produce::NodeEndpoint { node_id: 1, host: "h".into(), port: 2, rack: None }].into();
    // One tagged field: tag 0, 13 bytes: the array of one, the node, and the node's own empty tags.
    let tagged = [2, 0, 0, 0, 1, 2, b'h', 0, 0, 0, 2, 0, 0];
    let mut expected = vec![1, 0, 0, 0, 0, 1, 0, tagged.len() as u8];
    expected.extend(tagged);
    assert_eq!(encoded(&response, 10), expected);
    assert_eq!(produce::Response::decode_body(&expected, 10), Ok(response.clone()));
    assert_eq!(response.encode(&mut Writer::new(), 9), Err(EncodeError::NotInVersion("NodeEndpoints")));
}

#[test]
fn a_request_names_its_response() {
    fn empty_response<'a, R: ApiRequest<'a>>() -> Vec<u8> {
        encoded(&R::Response::default(), *R::VERSIONS.end())
    }
    assert_eq!(produce::Request::KEY, 0);
    assert_eq!(empty_response::<produce::Request<'_>>(), [1, 0, 0, 0, 0, 0]);
}

#[test]
fn headers_follow_the_version() {
    let of =
        |key, version| header_versions(key, version).map(|versions| (versions.request, versions.response));
    assert_eq!(of(produce::KEY, 8), Some((1, 0)));
    assert_eq!(of(produce::KEY, 9), Some((2, 1)));
    assert_eq!(of(api_versions::KEY, 2), Some((1, 0)));
    assert_eq!(of(api_versions::KEY, 3), Some((2, 0)));
    assert_eq!(of(api_versions::KEY, 99), Some((2, 0)));
    assert_eq!(of(12_345, 0), None);
}

#[test]
fn a_request_header_keeps_its_old_client_id_in_flexible_versions() {
    let bytes = [0, 18, 0, 3, 0, 0, 0, 9, 0, 2, b'm', b'e', 0, 0xaa];
    let mut reader = Reader::new(&bytes);
    let header = decode_request_header(&mut reader).unwrap();
    assert_eq!(header.request_api_key, api_versions::KEY);
    assert_eq!(header.request_api_version, 3);
    assert_eq!(header.correlation_id, 9);
    assert_eq!(header.client_id.as_deref(), Some("me"));
    assert_eq!(reader.rest(), [0xaa]);
    assert_eq!(encoded(&header, 2), bytes[..13]);
    let unknown = decode_request_header(&mut Reader::new(&[0x7f, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff]));
    assert_eq!(unknown, Err(DecodeError::UnknownApiKey));
}

#[test]
fn the_table_is_sorted_and_finds_every_api() {
    assert!(APIS.is_sorted_by(|left, right| left.key < right.key));
    assert_eq!(by_key(metadata::KEY).map(|api| api.name), Some("Metadata"));
    assert_eq!(by_key(-1), None);
}

#[test]
fn frames_carry_size_header_and_body() {
    let request = init_producer_id::Request { transaction_timeout_ms: 9, ..Default::default() };
    let request = init_producer_id::Request { transactional_id: None, ..request };
    let frame = request_frame(&request, 2, 5, Some("me")).unwrap().concat();
    assert_eq!(frame, [0, 0, 0, 19, 0, 22, 0, 2, 0, 0, 0, 5, 0, 2, b'm', b'e', 0, 0, 0, 0, 0, 9, 0]);
    let mut reader = Reader::new(&frame[4..]);
    let header = decode_request_header(&mut reader).unwrap();
    assert_eq!(header.correlation_id, 5);
    assert_eq!(
        init_producer_id::Request::decode_body(reader.rest(), header.request_api_version),
        Ok(request)
    );

    let response = find_coordinator::Response::default();
    let frame = response_frame(&response, find_coordinator::KEY, 4, 5).unwrap().concat();
    assert_eq!(frame, [0, 0, 0, 11, 0, 0, 0, 5, 0, 0, 0, 0, 0, 1, 0]);
    let versions = api_versions::Response { error_code: 35, ..Default::default() };
    let frame = response_frame(&versions, api_versions::KEY, 0, 5).unwrap().concat();
    assert_eq!(frame, [0, 0, 0, 10, 0, 0, 0, 5, 0, 35, 0, 0, 0, 0]);
    assert_eq!(response_frame(&versions, 12_345, 0, 5), Err(EncodeError::UnsupportedVersion));
}

#[test]
fn the_newest_common_version_lies_in_both_ranges() {
    let newest = newest_common_version::<find_coordinator::Request<'_>>;
    assert_eq!([newest(0..=99), newest(0..=2), newest(6..=7)], [Some(6), Some(2), Some(6)]);
    assert_eq!([newest(7..=9), newest(-3..=-1)], [None, None]);
}

#[test]
fn a_responses_header_ends_where_its_body_begins() {
    for (version, header) in [(2, 4), (3, 5)] {
        let frame = response_frame(&find_coordinator::Response::default(), 10, version, 77).unwrap().concat();
        let mut reader = Reader::new(&frame[4..]);
        let decoded = decode_response_header(&mut reader, 10, version).unwrap();
        assert_eq!((decoded.correlation_id, frame.len() - 4 - reader.remaining()), (77, header));
    }
    assert!(decode_response_header(&mut Reader::new(&[0; 8]), 999, 0).is_err());
}
