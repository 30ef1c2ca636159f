use super::fakes::Asked;
use super::{Fixture, batch};
use crate::partition::command::PartitionError;
use crate::request::call::Outcome;
use bytes::Bytes;
use logmill_state::partition::AppendError;
use logmill_wire::api::produce::{PartitionProduceData, PartitionProduceResponse, Request, TopicProduceData};
use logmill_wire::api::request_frame;
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{NodeId, PartitionIndex, TopicId, TopicPartition};
use logmill_wire::record_batch::{BatchError, RecordError};
use std::time::Duration;

fn partition(topic_id: TopicId, partition: i32) -> TopicPartition {
    TopicPartition { topic_id, partition: PartitionIndex(partition) }
}

fn request<'a>(name: &'a str, id: TopicId, acks: i16, partitions: &[(i32, Option<Bytes>)]) -> Request<'a> {
    let partition_data = partitions
        .iter()
        .map(|(index, records)| PartitionProduceData {
            index: *index,
            records: records.clone().map(Into::into),
        })
        .collect();
    let topic = TopicProduceData { name: name.into(), topic_id: id, partition_data };
    Request { acks, timeout_ms: 2_000, topic_data: vec![topic].into(), ..Request::default() }
}

/// The code, base offset and message of each partition.
fn results(fixture: &Fixture, request: &Request<'_>, version: i16) -> Vec<(ErrorCode, i64, Option<String>)> {
    fixture.ask(request, version, |response| {
        let topics = response.responses.iter();
        let partitions = topics.flat_map(|topic| topic.partition_responses.into_vec());
        partitions
            .map(|partition| {
                let code = ErrorCode::from_code(partition.error_code).unwrap();
                (code, partition.base_offset, partition.error_message.map(|text| text.into_owned()))
            })
            .collect()
    })
}

#[test]
fn records_are_appended_in_every_version() {
    let fixture = Fixture::new();
    let id = fixture.create("t", 1);
    let records = batch(2, 10);
    for version in 3..=13 {
        let request = request("t", id, -1, &[(0, Some(records.clone()))]);
        let expected = 2 * i64::from(version - 3);
        assert_eq!(results(&fixture, &request, version), [(ErrorCode::None, expected, None)], "v{version}");
    }
    let asked = fixture.broker.asked.borrow();
    assert!(asked.iter().all(|asked| *asked == Asked::Append(partition(id, 0), records.len())));
    fixture.assert_all_room_is_free();
}

#[test]
fn of_a_request_that_is_broken_at_its_end_nothing_is_appended() {
    let fixture = Fixture::new();
    let id = fixture.create("t", 1);
    for version in 3..=13 {
        let request = request("t", id, -1, &[(0, Some(batch(2, 10))), (0, Some(batch(2, 10)))]);
        let mut frame = request_frame(&request, version, 1, None).unwrap().concat();
        // Without its last bytes the first append is as sound as before.
        frame.truncate(frame.len() - 3);
        assert!(fixture.begin(&frame[4..]).is_err(), "v{version}");
    }
    assert!(fixture.broker.asked.borrow().is_empty());
    fixture.assert_all_room_is_free();
}

#[test]
fn numbers_are_where_each_version_has_them() {
    let fixture = Fixture::new();
    let id = fixture.create("t", 3);
    for _ in 0..5 {
        fixture.broker.append(partition(id, 2), &batch(1, 1));
    }
    for version in 3..=13 {
        let request = request("t", id, -1, &[(2, Some(batch(1, 10))), (9, None)]);
        let expected = 5 + i64::from(version - 3);
        fixture.ask(&request, version, |response| {
            let topic = response.responses.iter().next().unwrap();
            let (name, topic_id) = if version < 13 { ("t", TopicId::default()) } else { ("", id) };
            assert_eq!((&*topic.name, topic.topic_id), (name, topic_id), "v{version}");
            let partitions = topic.partition_responses.into_vec();
            let log_start_offset = if version < 5 { -1 } else { 0 };
            let good = PartitionProduceResponse {
                index: 2,
                base_offset: expected,
                log_start_offset,
                ..PartitionProduceResponse::default()
            };
            assert_eq!(partitions[0], good, "v{version}");
            assert_eq!((partitions[1].index, partitions[1].error_code), (9, 3), "v{version}");
            assert_eq!(response.throttle_time_ms, 0);
        });
    }
}

#[test]
fn acks_zero_gets_no_answer_at_all() {
    // Trap 11.
    let fixture = Fixture::new();
    let id = fixture.create("t", 1);
    let good = request("t", id, 0, &[(0, Some(batch(1, 1)))]);
    assert!(matches!(fixture.outcome(&good, 9), Outcome::Silence));
    assert_eq!(fixture.broker.append(partition(id, 0), &batch(1, 1)).0, 1, "the record must be there");
    // An error can only be told by closing the connection.
    let unknown = request("nowhere", id, 0, &[(0, Some(batch(1, 1)))]);
    assert!(matches!(fixture.outcome(&unknown, 9), Outcome::Close(_)));
    fixture.assert_all_room_is_free();
}

#[test]
fn acks_must_be_known() {
    let fixture = Fixture::new();
    let id = fixture.create("t", 1);
    let request = request("t", id, 2, &[(0, Some(batch(1, 1)))]);
    assert_eq!(results(&fixture, &request, 9)[0].0, ErrorCode::InvalidRequiredAcks);
    assert!(fixture.broker.asked.borrow().is_empty());
}

#[test]
fn transactional_producers_are_refused_for_good() {
    let fixture = Fixture::new();
    let id = fixture.create("t", 1);
    let mut request = request("t", id, -1, &[(0, Some(batch(1, 1)))]);
    request.transactional_id = Some("tx".into());
    let (error, _, text) = results(&fixture, &request, 11).remove(0);
    assert_eq!(error, ErrorCode::TransactionalIdAuthorizationFailed);
    assert!(!error.is_retriable());
    assert!(text.unwrap().contains("transactional.id"));
    assert!(fixture.broker.asked.borrow().is_empty());
}

#[test]
fn each_partition_has_its_own_error() {
    let fixture = Fixture::new();
    let id = fixture.create("t", 3);
    fixture.broker.errors.borrow_mut().insert(
        partition(id, 1),
        PartitionError::Append(AppendError::MessageTooLarge { bytes: 9, max_bytes: 8 }),
    );
    let records = Some(batch(1, 1));
    let request = request("t", id, 1, &[(0, records.clone()), (1, records.clone()), (2, None), (3, records)]);
    let results = results(&fixture, &request, 9);
    let codes: Vec<_> = results.iter().map(|result| result.0).collect();
    assert_eq!(
        codes,
        [
            ErrorCode::None,
            ErrorCode::MessageTooLarge,
            ErrorCode::InvalidRecord,
            ErrorCode::UnknownTopicOrPartition
        ]
    );
    assert_eq!(results[0].2, None);
    assert!(results[1].2.is_some() && results[1].1 == -1);
}

#[test]
fn each_of_many_partitions_on_several_shards_has_its_own_answer() {
    let fixture = Fixture::new();
    let id = fixture.create("t", 5_000);
    // What is there before tells partitions apart.
    for index in 0..5_000 {
        for _ in 0..index % 7 {
            fixture.broker.append(partition(id, index), &batch(1, 1));
        }
    }
    let too_large = PartitionError::Append(AppendError::MessageTooLarge { bytes: 9, max_bytes: 8 });
    fixture.broker.errors.borrow_mut().insert(partition(id, 4_321), too_large);
    let records = batch(1, 1);
    let partitions: Vec<_> = (0..5_000).rev().map(|index| (index, Some(records.clone()))).collect();
    let results = results(&fixture, &request("t", id, -1, &partitions), 9);
    assert_eq!(results.len(), 5_000);
    for (index, (error, base_offset, _)) in (0..5_000).rev().zip(results) {
        let expected =
            if index == 4_321 { (ErrorCode::MessageTooLarge, -1) } else { (ErrorCode::None, index % 7) };
        assert_eq!((error, base_offset), (expected.0, expected.1.into()), "partition {index}");
    }
    fixture.assert_all_room_is_free();
}

#[test]
fn a_bad_record_is_named() {
    let fixture = Fixture::new();
    let id = fixture.create("t", 1);
    let error = BatchError::Record { index: 3, error: RecordError::MissingKey };
    fixture.broker.errors.borrow_mut().insert(partition(id, 0), PartitionError::Batch(error));
    let request = request("t", id, 1, &[(0, Some(batch(4, 1)))]);
    fixture.ask(&request, 8, |response| {
        let topic = response.responses.iter().next().unwrap();
        let partition = topic.partition_responses.iter().next().unwrap();
        assert_eq!(partition.error_code, ErrorCode::InvalidRecord.code());
        let named: Vec<_> = partition.record_errors.iter().map(|record| record.batch_index).collect();
        assert_eq!(named, [3]);
    });
}

#[test]
fn unknown_topics_are_told_apart_by_how_they_are_named() {
    let fixture = Fixture::new();
    let by_name = request("nowhere", TopicId::ZERO, -1, &[(0, Some(batch(1, 1)))]);
    assert_eq!(results(&fixture, &by_name, 12)[0].0, ErrorCode::UnknownTopicOrPartition);
    let by_id = request("", TopicId::from_random(9), -1, &[(0, Some(batch(1, 1)))]);
    assert_eq!(results(&fixture, &by_id, 13)[0].0, ErrorCode::UnknownTopicId);
}

#[test]
fn who_asks_the_wrong_broker_learns_the_leader() {
    let fixture = Fixture::new();
    let id = fixture.broker.create_led_by("elsewhere", 1, NodeId(2));
    fixture.broker.restart(NodeId(2), 4);
    let request = request("elsewhere", id, -1, &[(0, Some(batch(1, 1)))]);
    fixture.ask(&request, 12, |response| {
        let topic = response.responses.iter().next().unwrap();
        let partition = topic.partition_responses.iter().next().unwrap();
        assert_eq!(partition.error_code, ErrorCode::NotLeaderOrFollower.code());
        assert_eq!((partition.current_leader.leader_id, partition.current_leader.leader_epoch), (2, 3));
        let endpoint = response.node_endpoints.iter().next().unwrap();
        assert_eq!((endpoint.node_id, &*endpoint.host, endpoint.port), (2, "host-2", 9092));
    });
    // Older versions have no place for it.
    assert_eq!(results(&fixture, &request, 9)[0].0, ErrorCode::NotLeaderOrFollower);
}

#[test]
fn an_append_that_takes_too_long_may_still_happen() {
    let fixture = Fixture::new();
    let id = fixture.create("t", 1);
    fixture.broker.delay.set(Some(Duration::from_secs(5)));
    let request = request("t", id, -1, &[(0, Some(batch(1, 1)))]);
    let (error, offset, text) = results(&fixture, &request, 9).remove(0);
    assert_eq!((error, offset), (ErrorCode::RequestTimedOut, -1));
    assert!(text.unwrap().contains("may be appended"));
    fixture.world.run_for(Duration::from_secs(5));
    assert_eq!(fixture.broker.append(partition(id, 0), &batch(1, 1)).0, 1);
}

#[test]
fn appends_are_sent_before_anything_is_waited_for() {
    let fixture = Fixture::new();
    let id = fixture.create("t", 1);
    fixture.broker.delay.set(Some(Duration::from_millis(1)));
    let sizes: Vec<_> = (1..4)
        .map(|records| {
            let records = batch(records, 1);
            let request = request("t", id, -1, &[(0, Some(records.clone()))]);
            // Begun and not driven.
            drop(fixture.begin_request(&request, 9));
            records.len()
        })
        .collect();
    let asked: Vec<_> = sizes.into_iter().map(|size| Asked::Append(partition(id, 0), size)).collect();
    assert_eq!(*fixture.broker.asked.borrow(), asked);
}
