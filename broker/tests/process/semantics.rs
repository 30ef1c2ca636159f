//! What Kafka's clients rely on, seen through the socket.

use super::client::{
    Client, FETCH, PRODUCE, appended, batch, fetch_request, fetched, produce_request, sequenced_batch,
};
use super::node::{Node, Plan};
use super::turn;
use super::workspace::Folder;
use bytes::Bytes;
use logmill_wire::api::{api_versions, fetch, metadata, produce};
use logmill_wire::compression::Codec;
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::TimestampMs;
use logmill_wire::limits::PRODUCER_BATCHES_KEPT;
use logmill_wire::record_batch::BatchBuilder;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

fn start(folder: &Folder) -> Node {
    Plan::new(folder.path()).start()
}

/// A batch of records with the given times, whose values are their numbers.
fn timed_batch(codec: Codec, times: &[i64]) -> Bytes {
    let mut builder = BatchBuilder::new().codec(codec);
    for (number, time) in times.iter().enumerate() {
        builder.append(TimestampMs(*time), None, Some(number.to_string().as_bytes()), &[]);
    }
    builder.finish().unwrap().into()
}

#[test]
fn a_produce_without_acknowledgement_gets_no_reply() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let node = start(&folder);
    let mut client = node.client();
    client.create_topic("silent", 1);
    for value in [b"a", b"b", b"c"] {
        client.send(&produce_request("silent", 0, [(0, batch(value))]), PRODUCE);
    }
    // The next reply on the connection is that of the next request.
    let answer = client.call(&api_versions::Request::default(), 2);
    assert_eq!(answer.body::<api_versions::Response>().error_code, 0);
    assert_eq!(client.append_well("silent", 0, batch(b"d")), 3);
    // An error has no other way to be told than the end of the connection.
    client.send(&produce_request("no-such-topic", 0, [(0, batch(b"lost"))]), PRODUCE);
    assert!(client.is_closed_within(Duration::from_secs(5)));
    node.stop();
}

#[test]
fn pipelined_requests_are_carried_out_and_answered_in_their_order() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let node = start(&folder);
    let mut client = node.client();
    client.create_topic("ordered", 4);
    let mut sent = Vec::new();
    for number in 0..200_i32 {
        let records = batch(number.to_string().as_bytes());
        // Different partitions live on different shards; the order is one nevertheless.
        sent.push(client.send(&produce_request("ordered", -1, [(number % 4, records)]), PRODUCE));
    }
    for (number, id) in (0..).zip(sent) {
        let (received, answer) = client.receive(produce::KEY, PRODUCE);
        assert_eq!(received, id);
        let [(partition, result)] = appended(&answer)[..] else { panic!("one result") };
        assert_eq!((partition, result.error, result.base_offset), (number % 4, 0, i64::from(number / 4)));
    }
    for partition in 0..4 {
        let values = client.read_all("ordered", partition, 0);
        let expected = (0..50_i32).map(|at| (i64::from(at), (at * 4 + partition).to_string().into_bytes()));
        assert!(values.into_iter().eq(expected), "partition {partition}");
    }
    node.stop();
}

#[test]
fn a_fetch_waits_for_data_and_ends_when_it_comes_on_any_shard() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let node = start(&folder);
    let mut producer = node.client();
    // With so many partitions and connections, some pairs are at home on one shard and some are not.
    producer.create_topic("awaited", 4);
    for round in 0..4 {
        let mut consumer = node.client();
        for partition in 0..4 {
            let began = Instant::now();
            consumer.send(&fetch_request("awaited", partition, round, 20_000, 1 << 20), FETCH);
            std::thread::sleep(Duration::from_millis(20));
            let value = format!("{round}/{partition}").into_bytes();
            assert_eq!(producer.append_well("awaited", partition, batch(&value)), round);
            let (_, answer) = consumer.receive(fetch::KEY, FETCH);
            assert_eq!(fetched(&answer).values(), [(round, value)]);
            assert!(began.elapsed() >= Duration::from_millis(20));
            assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        }
    }
    // Without data it waits as long as it was told, and no longer.
    let mut consumer = node.client();
    let began = Instant::now();
    let answer = consumer.call(&fetch_request("awaited", 0, 4, 300, 1 << 20), FETCH);
    assert!(fetched(&answer).records.is_empty());
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(290) && waited < Duration::from_secs(3), "{waited:?}");
    node.stop();
}

/// A fetch within a session: its partitions with their offsets.
fn session_fetch(session: (i32, i32), partitions: &[(i32, i64)]) -> fetch::Request<'static> {
    let partitions: Vec<_> = partitions
        .iter()
        .map(|&(partition, fetch_offset)| fetch::FetchPartition {
            partition,
            fetch_offset,
            partition_max_bytes: 1 << 20,
            ..Default::default()
        })
        .collect();
    let topics = match partitions.is_empty() {
        true => Vec::new(),
        false => vec![fetch::FetchTopic {
            topic: "session".into(),
            partitions: partitions.into(),
            ..Default::default()
        }],
    };
    fetch::Request {
        min_bytes: 0,
        max_bytes: 1 << 20,
        session_id: session.0,
        session_epoch: session.1,
        topics: topics.into(),
        ..Default::default()
    }
}

/// The reply's error, session, and partitions with the bytes that each brought.
fn session_reply(client: &mut Client, request: &fetch::Request<'_>) -> (i16, i32, Vec<(i32, usize)>) {
    let answer = client.call(request, FETCH);
    let response: fetch::Response = answer.body();
    let partitions = response.responses.iter().flat_map(|topic| topic.partitions.into_vec());
    let partitions = partitions
        .map(|found| {
            assert_eq!(found.error_code, 0);
            (found.partition_index, found.records.map_or(0, |records| records.len()))
        })
        .collect();
    (response.error_code, response.session_id, partitions)
}

#[test]
fn a_fetch_session_names_only_what_changed() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let node = start(&folder);
    let mut client = node.client();
    client.create_topic("session", 3);
    let all = session_fetch((0, 0), &[(0, 0), (1, 0), (2, 0)]);
    let (error, session, partitions) = session_reply(&mut client, &all);
    assert_eq!((error, partitions.len()), (0, 3));
    assert_ne!(session, 0);
    // Nothing has changed: an answer without partitions.
    let nothing = session_reply(&mut client, &session_fetch((session, 1), &[]));
    assert_eq!(nothing, (0, session, vec![]));
    client.append_well("session", 1, batch(b"new"));
    let (_, _, changed) = session_reply(&mut client, &session_fetch((session, 2), &[]));
    let [(1, bytes)] = changed[..] else { panic!("{changed:?}") };
    assert!(bytes > 0);
    // Behind the record again, by an update of this partition alone.
    let (_, _, after) = session_reply(&mut client, &session_fetch((session, 3), &[(1, 1)]));
    assert!(after.iter().all(|(_, bytes)| *bytes == 0), "{after:?}");
    // An epoch that is out of turn, and a session that there is not.
    let (wrong_epoch, _, _) = session_reply(&mut client, &session_fetch((session, 9), &[]));
    assert_eq!(wrong_epoch, ErrorCode::InvalidFetchSessionEpoch.code());
    let (unknown, _, _) = session_reply(&mut client, &session_fetch((session ^ 0x55_5555, 1), &[]));
    assert_eq!(unknown, ErrorCode::FetchSessionIdNotFound.code());
    // On another connection it is served, or not known: then a client begins a new one.
    for other in &mut (0..4).map(|_| node.client()).collect::<Vec<_>>() {
        let (error, _, _) = session_reply(other, &session_fetch((session, 4), &[]));
        let expected =
            [0, ErrorCode::FetchSessionIdNotFound.code(), ErrorCode::InvalidFetchSessionEpoch.code()];
        assert!(expected.contains(&error), "{error}");
    }
    node.stop();
}

#[test]
fn an_offset_inside_a_batch_returns_the_whole_batch() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let node = start(&folder);
    let mut client = node.client();
    client.create_topic("whole", 1);
    for codec in [Codec::None, Codec::Zstd, Codec::Lz4] {
        let times = [1_700_000_000_000; 10];
        let first = client.append_well("whole", 0, timed_batch(codec, &times));
        let fetched = client.fetch("whole", 0, first + 7);
        let offsets: Vec<_> = fetched.values().into_iter().map(|(offset, _)| offset).collect();
        assert_eq!(offsets, (first..first + 10).collect::<Vec<_>>());
        // However little was asked for.
        let request = fetch_request("whole", 0, first + 7, 0, 1);
        let answer = client.call(&request, FETCH);
        assert_eq!(super::client::fetched(&answer).values().len(), 10);
    }
    node.stop();
}

#[test]
fn timestamps_are_found_to_the_record_in_compressed_batches_too() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let node = start(&folder);
    let mut client = node.client();
    client.create_topic("timed", 5);
    let base = 1_700_000_000_000;
    let codecs = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
    for (partition, codec) in (0..).zip(codecs) {
        for batch in 0..20 {
            let times: Vec<_> = (0..50).map(|record| base + 10 * (50 * batch + record)).collect();
            client.append_well("timed", partition, timed_batch(codec, &times));
        }
        for target in [0, 1, 10, 4_995, 5_000, 9_989, 9_990] {
            let found = client.list_offset("timed", partition, base + target);
            let record = (target + 9) / 10;
            assert_eq!((found.0, found.1, found.2), (0, base + 10 * record, record), "{codec:?} {target}");
        }
        // Beyond the last record there is none.
        let found = client.list_offset("timed", partition, base + 9_991);
        assert_eq!((found.0, found.1, found.2), (0, -1, -1), "{codec:?}");
        let (error, time, offset, _) = client.list_offset("timed", partition, -3);
        assert_eq!((error, time, offset), (0, base + 9_990, 999), "{codec:?}: the largest timestamp");
        assert_eq!(client.list_offset("timed", partition, -1).2, 1_000);
        assert_eq!(client.list_offset("timed", partition, -2).2, 0);
    }
    node.stop();
}

#[test]
fn timestamps_out_of_the_bounds_of_their_topic_are_refused_as_a_batch() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let node = start(&folder);
    let mut client = node.client();
    let hour_ms = 3_600_000;
    let bounds =
        [("message.timestamp.before.max.ms", "3600000"), ("message.timestamp.after.max.ms", "3600000")];
    client.try_create_topic("bounded", 1, &bounds).unwrap();
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = since.as_millis() as i64;
    let outcome = |client: &mut Client, times: &[i64]| {
        let result = client.append("bounded", 0, -1, timed_batch(Codec::None, times));
        (ErrorCode::from_code(result.error).unwrap(), result.base_offset)
    };
    assert_eq!(outcome(&mut client, &[now, now - hour_ms / 2]), (ErrorCode::None, 0));
    let compressed = timed_batch(Codec::Lz4, &[now, now - 2 * hour_ms]);
    assert_eq!(client.append("bounded", 0, -1, compressed).error, ErrorCode::InvalidTimestamp.code());
    for times in [[now, now - 2 * hour_ms], [now + 2 * hour_ms, now]] {
        assert_eq!(outcome(&mut client, &times), (ErrorCode::InvalidTimestamp, -1));
    }
    assert_eq!(outcome(&mut client, &[now + hour_ms / 2]), (ErrorCode::None, 2), "nothing of them was kept");
    node.stop();
}

#[test]
fn duplicates_of_the_last_batches_are_known_after_a_stop_and_a_kill() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let mut node = start(&folder);
    let mut client = node.client();
    client.create_topic("once", 1);
    let producer = client.producer_id();
    let numbered = |number: i32| {
        let values = [format!("{number}a"), format!("{number}b")];
        let values: Vec<_> = values.iter().map(|value| value.as_bytes()).collect();
        sequenced_batch(producer, number * 2, &values)
    };
    // Two more than are remembered.
    let count = PRODUCER_BATCHES_KEPT as i32 + 2;
    for number in 0..count {
        assert_eq!(client.append_well("once", 0, numbered(number)), i64::from(number) * 2);
    }
    for round in 0..3 {
        let mut client = node.client();
        for number in 2..count {
            let again = client.append("once", 0, -1, numbered(number));
            assert_eq!(
                (again.error, again.base_offset),
                (0, i64::from(number) * 2),
                "batch {number}, round {round}"
            );
        }
        // Older than what is remembered, and not the next one either.
        let old = client.append("once", 0, -1, numbered(0));
        assert!(
            [ErrorCode::OutOfOrderSequenceNumber.code(), ErrorCode::DuplicateSequenceNumber.code()]
                .contains(&old.error),
            "{old:?}"
        );
        let skipping = client.append("once", 0, -1, numbered(count + 2));
        assert_eq!(skipping.error, ErrorCode::OutOfOrderSequenceNumber.code());
        assert_eq!(client.read_all("once", 0, 0).len(), 2 * count as usize, "round {round}");
        match round {
            0 => node.stop(),
            _ => node.kill(),
        }
        node = start(&folder);
    }
    // Ids are not given twice, not even to those before a kill.
    let next = node.client().producer_id();
    assert_ne!(next.0, producer.0);
    assert_eq!(node.client().append_well("once", 0, numbered(count)), 2 * i64::from(count));
    node.stop();
}

#[test]
fn a_topic_that_is_made_again_has_nothing_of_its_former_life() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let mut node = start(&folder);
    let mut former = Vec::new();
    for life in 0..3 {
        let mut client = node.client();
        let id = client.create_topic("reborn", 2);
        assert!(!former.contains(&id), "an id is given once");
        for partition in 0..2 {
            let fetched = client.fetch("reborn", partition, 0);
            assert_eq!((fetched.error, fetched.high_watermark, fetched.records.len()), (0, 0, 0), "{life}");
            let value = format!("life {life}").into_bytes();
            assert_eq!(client.append_well("reborn", partition, batch(&value)), 0);
            assert_eq!(client.fetch("reborn", partition, 0).values(), [(0, value)]);
        }
        // Who asks for a former life by its id is told that it is gone.
        for old in &former {
            let partition = fetch::FetchPartition { partition_max_bytes: 1 << 20, ..Default::default() };
            let topic = fetch::FetchTopic {
                topic_id: *old,
                partitions: vec![partition].into(),
                ..Default::default()
            };
            let request =
                fetch::Request { max_bytes: 1 << 20, topics: vec![topic].into(), ..Default::default() };
            let answer = client.call(&request, 13);
            let response: fetch::Response = answer.body();
            let error = match response.responses.iter().next() {
                Some(topic) => topic.partitions.iter().next().map_or(0, |found| found.error_code),
                None => response.error_code,
            };
            assert_eq!(error, ErrorCode::UnknownTopicId.code());
        }
        former.push(id);
        assert_eq!(client.delete_topic("reborn"), 0);
        assert_eq!(client.delete_topic("reborn"), ErrorCode::UnknownTopicOrPartition.code());
        assert_eq!(
            client.append("reborn", 0, -1, batch(b"nobody")).error,
            ErrorCode::UnknownTopicOrPartition.code()
        );
        match life {
            0 => node.stop(),
            _ => node.kill(),
        }
        node = start(&folder);
    }
    node.stop();
}

#[test]
fn each_start_begins_a_leader_epoch_and_the_ends_of_all_are_known() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let mut node = start(&folder);
    node.client().create_topic("epochs", 1);
    let mut epochs: Vec<i32> = Vec::new();
    for start_number in 0..4_i64 {
        let mut client = node.client();
        let epoch = client.leader_epoch("epochs", 0);
        assert!(epochs.last().is_none_or(|last| epoch > *last), "{epochs:?} then {epoch}");
        epochs.push(epoch);
        for value in [b"x", b"y", b"z"] {
            client.append_well("epochs", 0, batch(value));
        }
        let (_, _, end, latest_epoch) = client.list_offset("epochs", 0, -1);
        assert_eq!((end, latest_epoch), (3 * (start_number + 1), epoch), "one epoch in all APIs");
        for (number, known) in (1..).zip(&epochs) {
            assert_eq!(client.end_of_epoch("epochs", 0, *known), (0, *known, 3 * number));
        }
        // Of an epoch that has not been, nothing is known.
        assert_eq!(client.end_of_epoch("epochs", 0, epoch + 1), (0, -1, -1));
        match start_number % 2 {
            0 => node.kill(),
            _ => node.stop(),
        }
        node = start(&folder);
    }
    // A client with an older epoch than the leader's is told so.
    let mut client = node.client();
    let mut request = fetch_request("epochs", 0, 0, 0, 1 << 20);
    let partition = fetch::FetchPartition {
        current_leader_epoch: epochs[0],
        partition_max_bytes: 1 << 20,
        ..Default::default()
    };
    request.topics = vec![fetch::FetchTopic {
        topic: "epochs".into(),
        partitions: vec![partition].into(),
        ..Default::default()
    }]
    .into();
    let answer = client.call(&request, FETCH);
    assert_eq!(fetched(&answer).error, ErrorCode::FencedLeaderEpoch.code());
    node.stop();
}

#[test]
fn metadata_names_the_address_that_serves() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let node = start(&folder);
    let mut client = node.client();
    client.create_topic("named", 2);
    let answer = client.call(&metadata::Request { topics: None, ..Default::default() }, 12);
    let response: metadata::Response = answer.body();
    let brokers = response.brokers.into_vec();
    assert_eq!(brokers.len(), 1);
    assert_eq!((&*brokers[0].host, brokers[0].port), ("127.0.0.1", i32::from(node.address().port())));
    let topic = response.topics.iter().next().unwrap();
    for partition in topic.partitions.iter() {
        assert_eq!(partition.leader_id, brokers[0].node_id);
        assert_eq!(partition.isr_nodes.into_vec(), [brokers[0].node_id]);
    }
    node.stop();
}
