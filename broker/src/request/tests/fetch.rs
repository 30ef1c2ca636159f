use super::fakes::Asked;
use super::{Fixture, batch};
use crate::partition::command::PartitionError;
use logmill_state::partition::{EpochCheckError, EpochEnd, FetchCheckError};
use logmill_wire::api::fetch::{FetchPartition, FetchTopic, Request, Response};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{LeaderEpoch, NodeId, Offset, PartitionIndex, TopicId, TopicPartition};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

fn partition(topic_id: TopicId, partition: i32) -> TopicPartition {
    TopicPartition { topic_id, partition: PartitionIndex(partition) }
}

fn request<'a>(name: &'a str, id: TopicId, partitions: &[(i32, i64)]) -> Request<'a> {
    let partitions = partitions
        .iter()
        .map(|&(partition, fetch_offset)| FetchPartition {
            partition,
            fetch_offset,
            partition_max_bytes: 1 << 20,
            ..FetchPartition::default()
        })
        .collect();
    let topic = FetchTopic { topic: name.into(), topic_id: id, partitions };
    Request { max_wait_ms: 0, min_bytes: 1, topics: vec![topic].into(), ..Request::default() }
}

/// Partition, error code, high watermark and bytes of records, in the response's order.
fn partitions(response: &Response<'_>) -> Vec<(i32, ErrorCode, i64, usize)> {
    let topics = response.responses.iter();
    let all = topics.flat_map(|topic| topic.partitions.into_vec());
    all.map(|partition| {
        let error = ErrorCode::from_code(partition.error_code).unwrap();
        let bytes = partition.records.map_or(0, |records| records.len());
        (partition.partition_index, error, partition.high_watermark, bytes)
    })
    .collect()
}

#[test]
fn records_are_read_in_every_version() {
    let fixture = Fixture::new();
    let id = fixture.create("t", 2);
    let records = batch(3, 100);
    fixture.broker.append(partition(id, 1), &records);
    for version in 4..=18 {
        let request = request("t", id, &[(1, 0), (0, 0)]);
        fixture.ask(&request, version, |response| {
            let expected = [(1, ErrorCode::None, 3, records.len()), (0, ErrorCode::None, 0, 0)];
            assert_eq!(partitions(&response), expected, "v{version}");
            let topic = response.responses.iter().next().unwrap();
            let first = topic.partitions.iter().next().unwrap();
            assert_eq!(first.records.unwrap().to_vec(), records, "v{version}");
            assert_eq!(topic.topic_id, if version >= 13 { id } else { TopicId::ZERO });
            assert_eq!(first.aborted_transactions, None, "read_uncommitted has no list");
        });
    }
    fixture.assert_all_room_is_free();
}

#[test]
fn what_comes_in_is_what_goes_out() {
    // Traps 5 and 18: stored bytes are returned as they are, whatever they contain.
    let fixture = Fixture::new();
    let id = fixture.create("t", 1);
    let stored: Vec<u8> = (0..=255).collect();
    fixture.broker.append(partition(id, 0), &stored.clone().into());
    fixture.ask(&request("t", id, &[(0, 0)]), 17, |response| {
        let topic = response.responses.iter().next().unwrap();
        let first = topic.partitions.iter().next().unwrap();
        assert_eq!(first.records.unwrap().to_vec(), stored);
    });
}

#[test]
fn errors_belong_to_their_partition() {
    let fixture = Fixture::new();
    let id = fixture.create("t", 5);
    fixture.broker.append(partition(id, 0), &batch(1, 1));
    fixture.broker.errors.borrow_mut().extend([
        (
            partition(id, 2),
            PartitionError::Fetch(FetchCheckError::Epoch(EpochCheckError::FencedLeaderEpoch {
                current: LeaderEpoch(3),
            })),
        ),
        (partition(id, 3), PartitionError::Corrupt("bits".into())),
        (partition(id, 4), PartitionError::Stopping),
    ]);
    let request = request("t", id, &[(0, 0), (1, 5), (2, 0), (3, 0), (4, 0), (9, 0)]);
    let codes: Vec<_> = fixture.ask(&request, 12, |response| {
        partitions(&response)
            .into_iter()
            .map(|(index, error, high_watermark, _)| (index, error, high_watermark))
            .collect()
    });
    assert_eq!(
        codes,
        [
            (0, ErrorCode::None, 1),
            (1, ErrorCode::OffsetOutOfRange, -1),
            (2, ErrorCode::FencedLeaderEpoch, -1),
            (3, ErrorCode::KafkaStorageError, -1),
            (4, ErrorCode::NotLeaderOrFollower, -1),
            (9, ErrorCode::UnknownTopicOrPartition, -1),
        ]
    );
}

#[test]
fn a_diverging_epoch_is_no_error() {
    let fixture = Fixture::new();
    let id = fixture.create("t", 1);
    let end = EpochEnd { epoch: LeaderEpoch(2), end_offset: Offset(7) };
    let error = PartitionError::Fetch(FetchCheckError::Diverging(end));
    fixture.broker.errors.borrow_mut().insert(partition(id, 0), error);
    fixture.ask(&request("t", id, &[(0, 0)]), 12, |response| {
        let topic = response.responses.iter().next().unwrap();
        let first = topic.partitions.iter().next().unwrap();
        assert_eq!(first.error_code, 0);
        assert_eq!((first.diverging_epoch.epoch, first.diverging_epoch.end_offset), (2, 7));
    });
}

#[test]
fn unknown_topics_and_other_leaders() {
    let fixture = Fixture::new();
    let elsewhere = fixture.broker.create_led_by("elsewhere", 1, NodeId(2));
    let error =
        |request: &Request<'_>, version| fixture.ask(request, version, |response| partitions(&response)[0].1);
    assert_eq!(error(&request("nowhere", TopicId::ZERO, &[(0, 0)]), 12), ErrorCode::UnknownTopicOrPartition);
    assert_eq!(error(&request("", TopicId::from_random(5), &[(0, 0)]), 13), ErrorCode::UnknownTopicId);
    fixture.ask(&request("elsewhere", elsewhere, &[(0, 0)]), 16, |response| {
        let topic = response.responses.iter().next().unwrap();
        let first = topic.partitions.iter().next().unwrap();
        assert_eq!(first.error_code, ErrorCode::NotLeaderOrFollower.code());
        assert_eq!(first.current_leader.leader_id, 2);
        assert_eq!(response.node_endpoints.len(), 1);
    });
}

#[test]
fn the_bound_of_the_response_holds_for_all_partitions() {
    let fixture = Fixture::new();
    let id = fixture.create("t", 4);
    let records = batch(1, 40_000);
    for index in 0..4 {
        for _ in 0..4 {
            fixture.broker.append(partition(id, index), &records);
        }
    }
    let mut request = request("t", id, &[(0, 0), (1, 0), (2, 0), (3, 0)]);
    request.max_bytes = 200_000;
    fixture.ask(&request, 11, |response| {
        let total: usize = partitions(&response).iter().map(|partition| partition.3).sum();
        assert!(total <= 200_000, "{total}");
        assert!(total >= 4 * records.len(), "what is left over is given to who has more: {total}");
    });
    // A bound below the first batch: that one comes, and nothing else.
    request.max_bytes = 10;
    fixture.ask(&request, 11, |response| {
        let bytes: Vec<_> = partitions(&response).into_iter().map(|partition| partition.3).collect();
        assert_eq!(bytes, [records.len(), 0, 0, 0]);
    });
}

#[test]
fn a_large_batch_behind_empty_partitions_is_not_starved() {
    let fixture = Fixture::new();
    let id = fixture.create("t", 3);
    let large = batch(1, 300_000);
    fixture.broker.append(partition(id, 2), &large);
    let mut request = request("t", id, &[(0, 0), (1, 0), (2, 0)]);
    request.max_bytes = 1_000;
    fixture.ask(&request, 11, |response| {
        let bytes: Vec<_> = partitions(&response).into_iter().map(|partition| partition.3).collect();
        assert_eq!(bytes, [0, 0, large.len()]);
    });
}

#[test]
fn a_busy_partition_among_idle_ones_gets_what_is_left() {
    let fixture = Fixture::new();
    let id = fixture.create("t", 100);
    let records = batch(1, 8_000);
    for _ in 0..40 {
        fixture.broker.append(partition(id, 60), &records);
    }
    let all: Vec<_> = (0..100).map(|index| (index, 0)).collect();
    let mut request = request("t", id, &all);
    request.max_bytes = 1 << 20;
    fixture.ask(&request, 11, |response| {
        let bytes: usize = partitions(&response).iter().map(|partition| partition.3).sum();
        assert_eq!(bytes, 40 * records.len());
    });
}

#[test]
fn many_partitions_with_a_little_each_are_read_together() {
    let fixture = Fixture::new();
    let id = fixture.create("t", 100);
    let records = batch(1, 100);
    for index in 0..100 {
        fixture.broker.append(partition(id, index), &records);
    }
    let all: Vec<(i32, i64)> = (0..100).map(|index| (index, 0)).collect();
    let mut request = request("t", id, &all);
    // Room for the records of all, but only for a few shares at a time.
    request.max_bytes = 64 << 10;
    assert!(100 * records.len() < 32 << 10, "the records must fit well");
    fixture.ask(&request, 12, |response| {
        let found = partitions(&response);
        let with_records = found.iter().filter(|(.., bytes)| *bytes == records.len()).count();
        assert_eq!(with_records, 100, "{found:?}");
    });
    fixture.assert_all_room_is_free();
}

#[test]
fn a_long_poll_ends_with_the_first_records() {
    let fixture = Fixture::new();
    let id = fixture.create("t", 2);
    let mut request = request("t", id, &[(0, 0), (1, 0)]);
    request.max_wait_ms = 60_000;
    let pending = fixture.begin_request(&request, 11);
    let broker = Rc::clone(&fixture.broker);
    fixture.world.after(Duration::from_secs(3), move || {
        broker.append(partition(id, 1), &batch(1, 1));
    });
    let began = fixture.world.now();
    let body = super::body(fixture.world.block_on(&fixture.runtime, pending), 1, 11);
    let waited = fixture.world.now() - began;
    assert!((Duration::from_secs(3)..Duration::from_secs(4)).contains(&waited), "{waited:?}");
    let response = <Response<'_> as logmill_wire::api::Message<'_>>::decode_body(&body, 11).unwrap();
    assert_eq!(partitions(&response)[1].2, 1);
    assert!(fixture.broker.asked.borrow().contains(&Asked::Watch(partition(id, 0), 0)));
    fixture.assert_all_room_is_free();
}

#[test]
fn a_long_poll_holds_no_room_while_it_waits() {
    let fixture = Fixture::new();
    let id = fixture.create("t", 1);
    let mut request = request("t", id, &[(0, 0)]);
    request.max_wait_ms = 60_000;
    let pending = fixture.begin_request(&request, 11);
    let is_done = Rc::new(Cell::new(false));
    let done = Rc::clone(&is_done);
    crate::runtime::Runtime::spawn(&fixture.runtime, async move {
        drop(pending.await);
        done.set(true);
    });
    fixture.world.run_for(Duration::from_secs(1));
    assert!(!is_done.get());
    assert_eq!(fixture.broker.watchers(partition(id, 0)), 1);
    fixture.assert_all_room_is_free();
    fixture.world.run_for(Duration::from_secs(60));
    assert!(is_done.get(), "max_wait_ms ends the wait");
}

#[test]
fn min_bytes_is_waited_for() {
    let fixture = Fixture::new();
    let id = fixture.create("t", 1);
    let records = batch(1, 100);
    let mut request = request("t", id, &[(0, 0)]);
    (request.max_wait_ms, request.min_bytes) = (10_000, 3 * records.len() as i32);
    for second in 1..=5 {
        let (broker, records) = (Rc::clone(&fixture.broker), records.clone());
        fixture.world.after(Duration::from_secs(second), move || {
            broker.append(partition(id, 0), &records);
        });
    }
    let began = fixture.world.now();
    fixture.ask(&request, 11, |response| assert_eq!(partitions(&response)[0].3, 3 * records.len()));
    let waited = fixture.world.now() - began;
    assert!((Duration::from_secs(3)..Duration::from_secs(4)).contains(&waited), "{waited:?}");
}

#[test]
fn a_long_poll_reads_again_only_what_has_more() {
    let fixture = Fixture::new();
    let id = fixture.create("t", 50);
    let records = batch(1, 100);
    fixture.broker.append(partition(id, 7), &records);
    let all: Vec<(i32, i64)> = (0..50).map(|index| (index, 0)).collect();
    let mut request = request("t", id, &all);
    (request.max_wait_ms, request.min_bytes) = (10_000, 3 * records.len() as i32);
    for (second, index) in [(1, 11), (2, 11)] {
        let (broker, records) = (Rc::clone(&fixture.broker), records.clone());
        fixture.world.after(Duration::from_secs(second), move || {
            broker.append(partition(id, index), &records);
        });
    }
    fixture.ask(&request, 11, |response| {
        let found = partitions(&response);
        assert_eq!((found[7].3, found[11].3), (records.len(), 2 * records.len()), "{found:?}");
    });
    let asked = fixture.broker.asked.borrow();
    let of = |wanted: i32| {
        let is_read = |asked: &&Asked| matches!(asked, Asked::Read(at, ..) if *at == partition(id, wanted));
        let is_watch = |asked: &&Asked| matches!(asked, Asked::Watch(at, _) if *at == partition(id, wanted));
        (asked.iter().filter(is_read).count(), asked.iter().filter(is_watch).count())
    };
    assert_eq!(of(20), (1, 1), "nothing came, so once is enough");
    assert!(of(7).0 >= 3 && of(11).0 >= 3, "{:?} {:?}", of(7), of(11));
    assert_eq!((of(7).1, of(11).1), (1, 2), "whom a watcher was called for is watched again, and no other");
}

#[test]
fn a_session_names_its_partitions_once() {
    let fixture = Fixture::new();
    let id = fixture.create("t", 2);
    fixture.broker.append(partition(id, 0), &batch(1, 1));
    let mut full = request("t", id, &[(0, 0), (1, 0)]);
    (full.session_id, full.session_epoch) = (0, 0);
    let session_id = fixture.ask(&full, 13, |response| {
        assert_eq!(partitions(&response).len(), 2);
        response.session_id
    });
    assert_ne!(session_id, 0);
    // Nothing new asked for: only the partition with records is answered.
    let next = Request { session_id, session_epoch: 1, min_bytes: 1, ..Request::default() };
    fixture.ask(&next, 13, |response| {
        assert_eq!((response.error_code, response.session_id), (0, session_id));
        assert_eq!(partitions(&response).iter().map(|partition| partition.0).collect::<Vec<_>>(), [0]);
    });
    fixture.ask(&next, 13, |response| {
        assert_eq!(response.error_code, ErrorCode::InvalidFetchSessionEpoch.code());
    });
    let unknown = Request { session_id: session_id ^ 1, session_epoch: 1, ..Request::default() };
    fixture.ask(&unknown, 13, |response| {
        assert_eq!(response.error_code, ErrorCode::FetchSessionIdNotFound.code());
        assert!(response.responses.is_empty());
    });
    let by_name = Request { session_id, session_epoch: 2, ..Request::default() };
    fixture.ask(&by_name, 12, |response| {
        assert_eq!(response.error_code, ErrorCode::FetchSessionTopicIdError.code());
    });
}

#[test]
fn read_committed_gets_a_list_of_aborted_transactions() {
    let fixture = Fixture::new();
    let id = fixture.create("t", 1);
    let mut request = request("t", id, &[(0, 0)]);
    request.isolation_level = 1;
    fixture.ask(&request, 11, |response| {
        let topic = response.responses.iter().next().unwrap();
        assert!(topic.partitions.iter().next().unwrap().aborted_transactions.is_some());
    });
}

#[test]
fn followers_of_kafka_are_turned_away() {
    let fixture = Fixture::new();
    let id = fixture.create("t", 1);
    fixture.broker.append(partition(id, 0), &batch(1, 1));
    let mut request = request("t", id, &[(0, 0)]);
    request.replica_id = 5;
    fixture.ask(&request, 11, |response| {
        assert_eq!(partitions(&response)[0].1, ErrorCode::TopicAuthorizationFailed);
    });
}
