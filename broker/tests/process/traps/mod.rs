//! What trips clients of brokers that are almost Kafka: each trap has a test that is named after it.
//!
//! | trap | test |
//! |---|---|
//! | 1 the end of a leader epoch | `traps::the_end_of_a_leader_epoch` |
//! | 2 the list of aborted transactions | with transactions, which are not offered yet |
//! | 3 the last stable offset | with transactions |
//! | 4 aborted records for those who read uncommitted | with transactions |
//! | 5 a fetch inside a batch | `semantics::an_offset_inside_a_batch_returns_the_whole_batch` |
//! | 6 the end of a compacted topic | `traps::compaction::a_position_reaches_the_end_of_a_compacted_topic` |
//! | 6 commits after compaction | `traps::compaction::committed_offsets_outlive_compaction` |
//! | 6, 7 no phantom lag | `traps::no_offset_without_a_record` |
//! | 8 a commit that seems unstable for ever | `traps::committed_offsets_are_stable` |
//! | 9 errors that are taken for success | with transactions |
//! | 10 leader epochs across APIs | `traps::leader_epochs_agree_across_apis` |
//! | 11 `acks=0` | `semantics::a_produce_without_acknowledgement_gets_no_reply` |
//! | 12 special timestamps | `traps::special_timestamps_of_list_offsets`; by version `src/request/tests/lookups.rs` |
//! | 13 all that a config has | `traps::configs::configs_are_told_whole`, `traps::configs::configs_can_be_read_changed_and_written_back` |
//! | 14 throttling | `traps::nobody_is_throttled_and_heartbeats_never_are` |
//! | 15 concurrent rebalances, static members | `state/src/group/classic/tests/statics.rs`, `…/rebalancing.rs`, `…/joining.rs` |
//! | 16 metadata of commits | `traps::commit_metadata_is_kept_to_the_byte` |
//! | 16 `max.message.bytes` | `traps::batches::a_batch_that_is_too_large_is_refused_as_such` |
//! | 16 null keys | `traps::batches::a_compacted_topic_takes_no_null_keys` |
//! | 16 CreatePartitions | `traps::configs::create_partitions_replies_per_topic` |
//! | 16 transaction timeout | with transactions |
//! | 17 OFFSET_NOT_AVAILABLE | `traps::offsets_are_available_right_after_a_restart` |
//! | 18 repeated headers | `traps::batches::headers_keep_their_order_and_their_repeated_keys` |
//! | 19 frames of LZ4 and Snappy | `traps::batches::compressed_batches_pass_through_untouched` |
//! | 20 Java's hash codes | `state/src/group/tests.rs`: `a_group_lies_where_kafka_puts_it` |
//! | 20 the default partitioner | `commands::lines_are_delivered_with_keys_headers_and_every_codec` |

mod batches;
mod compaction;
mod configs;

use super::client::{Client, FETCH, PRODUCE, batch, fetch_request, produce_request};
use super::node::{Node, Plan};
use super::turn;
use super::workspace::Folder;
use bytes::Bytes;
use logmill_wire::api::{
    fetch, find_coordinator, heartbeat, join_group, list_offsets, metadata, offset_commit, offset_fetch,
    produce, sync_group,
};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::TimestampMs;
use logmill_wire::record_batch::{BatchBuilder, BatchView, whole_batches};
use std::time::{Duration, Instant};

const BASE_MS: i64 = 1_700_000_000_000;

/// A version of OffsetCommit that names topics.
const COMMIT: i16 = 9;

fn start(folder: &Folder) -> Node {
    Plan::new(folder.path()).set("group.initial.rebalance.delay.ms", 0).start()
}

/// Ends the node, in either way, and starts it again.
fn restart(node: Node, folder: &Folder, kill: bool) -> Node {
    if kill {
        node.kill()
    } else {
        node.stop()
    }
    start(folder)
}

/// The batches that are stored from `offset` to the end, each as its bytes. A fetch need not go beyond a segment, so
/// there may be several.
fn stored(client: &mut Client, topic: &str, offset: i64) -> Vec<Vec<u8>> {
    let mut batches = Vec::new();
    let mut next = offset;
    loop {
        let fetched = client.fetch(topic, 0, next);
        assert_eq!(fetched.error, 0);
        if fetched.records.is_empty() {
            assert_eq!(next, fetched.high_watermark, "the records end before the log does");
            return batches;
        }
        let mut rest = &fetched.records[..];
        for batch in whole_batches(&fetched.records) {
            let header = *batch.unwrap().header();
            let (one, behind) = rest.split_at(header.total_bytes().unwrap());
            batches.push(one.to_vec());
            rest = behind;
            next = header.base_offset.0 + i64::from(header.last_offset_delta) + 1;
        }
    }
}

/// A batch without what the broker sets: the base offset and the leader epoch.
fn as_sent(batch: &[u8]) -> (&[u8], &[u8]) {
    (&batch[8..12], &batch[16..])
}

/// One partition's part of a commit: partition, offset, leader epoch, metadata.
type Commit<'a> = (i32, i64, i32, Option<&'a str>);

/// Commits without a group membership, and returns each partition's error. While the coordinator begins, it is
/// asked again.
fn commit(client: &mut Client, group: &str, topic: &str, commits: &[Commit<'_>]) -> Vec<(i32, i16)> {
    let began = Instant::now();
    let wait = [
        ErrorCode::CoordinatorLoadInProgress.code(),
        ErrorCode::CoordinatorNotAvailable.code(),
        ErrorCode::NotCoordinator.code(),
    ];
    loop {
        find_coordinator(client, group);
        let partitions = commits.iter().map(|&(partition_index, offset, epoch, metadata)| {
            offset_commit::OffsetCommitRequestPartition {
                partition_index,
                committed_offset: offset,
                committed_leader_epoch: epoch,
                committed_metadata: metadata.map(Into::into),
            }
        });
        let topic = offset_commit::OffsetCommitRequestTopic {
            name: topic.into(),
            partitions: partitions.collect(),
            ..Default::default()
        };
        let request = offset_commit::Request {
            group_id: group.into(),
            topics: vec![topic].into(),
            ..Default::default()
        };
        let answer = client.call(&request, COMMIT);
        let response: offset_commit::Response = answer.body();
        assert_eq!(response.throttle_time_ms, 0);
        let topic = response.topics.iter().next().expect("one topic");
        let errors: Vec<_> =
            topic.partitions.iter().map(|found| (found.partition_index, found.error_code)).collect();
        if !errors.iter().any(|(_, error)| wait.contains(error)) {
            return errors;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "no coordinator: {errors:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Has the coordinators begin.
fn find_coordinator(client: &mut Client, group: &str) {
    let began = Instant::now();
    let request = find_coordinator::Request { key: group.into(), ..Default::default() };
    loop {
        let answer = client.call(&request, 2);
        let error = answer.body::<find_coordinator::Response<'_>>().error_code;
        if error == 0 {
            return;
        }
        assert_eq!(error, ErrorCode::CoordinatorNotAvailable.code());
        assert!(began.elapsed() < Duration::from_secs(20), "no coordinator");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What is known of a committed offset: error, offset, leader epoch, metadata.
type Committed = (i16, i64, i32, Option<String>);

/// Committed offsets, in the way of the consumer that takes none that is about to change.
fn committed(client: &mut Client, group: &str, topic: &str, partition: i32, version: i16) -> Committed {
    let mut request = offset_fetch::Request { require_stable: true, ..Default::default() };
    if version < 8 {
        let topic = offset_fetch::OffsetFetchRequestTopic {
            name: topic.into(),
            partition_indexes: vec![partition].into(),
        };
        request.group_id = group.into();
        request.topics = Some(vec![topic].into());
    } else {
        let topic = offset_fetch::OffsetFetchRequestTopics {
            name: topic.into(),
            partition_indexes: vec![partition].into(),
            ..Default::default()
        };
        let group = offset_fetch::OffsetFetchRequestGroup {
            group_id: group.into(),
            topics: Some(vec![topic].into()),
            ..Default::default()
        };
        request.groups = vec![group].into();
    }
    let answer = client.call(&request, version);
    let response: offset_fetch::Response = answer.body();
    let text = |text: Option<std::borrow::Cow<'_, str>>| text.map(std::borrow::Cow::into_owned);
    if version < 8 {
        assert_eq!(response.error_code, 0);
        let topic = response.topics.iter().next().expect("one topic");
        let found = topic.partitions.iter().next().expect("one partition");
        return (
            found.error_code,
            found.committed_offset,
            found.committed_leader_epoch,
            text(found.metadata),
        );
    }
    let group = response.groups.iter().next().expect("one group");
    assert_eq!(group.error_code, 0);
    let topic = group.topics.iter().next().expect("one topic");
    let found = topic.partitions.iter().next().expect("one partition");
    (found.error_code, found.committed_offset, found.committed_leader_epoch, text(found.metadata))
}

/// ListOffsets in a version that has all special timestamps: error, timestamp, offset, leader epoch.
fn listed(client: &mut Client, topic: &str, timestamp: i64) -> (i16, i64, i64, i32) {
    let partition =
        list_offsets::ListOffsetsPartition { partition_index: 0, timestamp, ..Default::default() };
    let topic = list_offsets::ListOffsetsTopic { name: topic.into(), partitions: vec![partition].into() };
    let request = list_offsets::Request { replica_id: -1, topics: vec![topic].into(), ..Default::default() };
    let answer = client.call(&request, 11);
    let response: list_offsets::Response = answer.body();
    let topic = response.topics.iter().next().expect("one topic");
    let found = topic.partitions.iter().next().expect("one partition");
    (found.error_code, found.timestamp, found.offset, found.leader_epoch)
}

/// A batch of three records, ten milliseconds apart, from this time on.
fn three_from(time: i64) -> Bytes {
    let mut builder = BatchBuilder::new();
    for (at, value) in (0..).zip([b"a", b"b", b"c"]) {
        builder.append(TimestampMs(time + 10 * at), None, Some(value), &[]);
    }
    builder.finish().unwrap().into()
}

/// Java's consumer and kafka-python compare their position with the end of the epoch that they last read: an end
/// before it is reported as lost records, and an end for an epoch that has not been begun hides lost ones.
#[test]
fn the_end_of_a_leader_epoch() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let mut node = start(&folder);
    let mut client = node.client();
    client.create_topic("ends", 1);
    client.append_well("ends", 0, three_from(BASE_MS));
    let first = client.leader_epoch("ends", 0);
    for future in [first + 1, first + 1_000, i32::MAX] {
        assert_eq!(client.end_of_epoch("ends", 0, future), (0, -1, -1), "{future} is yet to come");
    }
    for (kill, end) in [(true, 3), (false, 4)] {
        node = restart(node, &folder, kill);
        client = node.client();
        let epoch = client.leader_epoch("ends", 0);
        assert!(epoch > first);
        assert_eq!(client.end_of_epoch("ends", 0, epoch), (0, epoch, end), "the present one, still empty");
        client.append_well("ends", 0, batch(b"later"));
        // Whoever read all of the past epoch is not told of a loss: its end stays where it was.
        assert_eq!(client.end_of_epoch("ends", 0, first), (0, first, 3));
        assert_eq!(client.end_of_epoch("ends", 0, epoch), (0, epoch, end + 1));
        assert_eq!(client.end_of_epoch("ends", 0, epoch + 1), (0, -1, -1));
    }
    node.stop();
}

/// Tools that watch consumers, and consumers that read to the end, wait for ever if the end counts an entry that
/// no client is given: a lag of one stays when all has been read.
#[test]
fn no_offset_without_a_record() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let mut node = start(&folder);
    node.client().create_topic("counted", 1);
    let mut records = 0;
    // Neither the start of a node nor its end, nor an epoch that begins, takes an offset.
    for round in 0..4 {
        let mut client = node.client();
        let expected: Vec<i64> = (0..records).collect();
        let offsets: Vec<_> = client.read_all("counted", 0, 0).into_iter().map(|(at, _)| at).collect();
        assert_eq!(offsets, expected, "round {round}");
        assert_eq!(client.append_well("counted", 0, three_from(BASE_MS)), records);
        records += 3;
        // From the last batch on: its end is the high watermark.
        let fetched = client.fetch("counted", 0, records - 1);
        let last = fetched.values().last().map(|(offset, _)| *offset);
        assert_eq!((fetched.high_watermark, last), (records, Some(records - 1)));
        let (_, _, end, epoch) = client.list_offset("counted", 0, -1);
        assert_eq!(end, records);
        let committing = commit(&mut client, "reader", "counted", &[(0, records, epoch, None)]);
        assert_eq!(committing, [(0, 0)]);
        let (error, position, ..) = committed(&mut client, "reader", "counted", 0, 8);
        assert_eq!((error, end - position), (0, 0), "who has read everything has no lag");
        node = restart(node, &folder, round % 2 == 0);
    }
    node.stop();
}

/// Java's consumer always asks for stable offsets, and asks again for as long as it is told that there is none:
/// a broker that never settles its answer keeps the consumer from starting.
#[test]
fn committed_offsets_are_stable() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let mut node = start(&folder);
    let mut client = node.client();
    client.create_topic("stable", 2);
    client.append_well("stable", 0, three_from(BASE_MS));
    let epoch = client.leader_epoch("stable", 0);
    assert_eq!(commit(&mut client, "g", "stable", &[(0, 2, epoch, Some("here"))]), [(0, 0)]);
    let told = (0, 2, epoch, Some("here".to_owned()));
    for kill in [true, false] {
        for version in [7, 8, 9] {
            assert_eq!(committed(&mut client, "g", "stable", 0, version), told, "version {version}");
            // Nothing was committed here, and that is stable too.
            let nothing = committed(&mut client, "g", "stable", 1, version);
            assert_eq!((nothing.0, nothing.1, nothing.2), (0, -1, -1), "version {version}");
        }
        node = restart(node, &folder, kill);
        client = node.client();
        // The coordinator may still be reading; a commit waits for it.
        assert_eq!(commit(&mut client, "other", "stable", &[(1, 0, -1, None)]), [(1, 0)]);
        let began = Instant::now();
        while committed_error(&mut client, "g", "stable") != 0 {
            assert!(began.elapsed() < Duration::from_secs(20), "the group is not loaded");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    assert_eq!(committed(&mut client, "g", "stable", 0, 8), told);
    node.stop();
}

/// The error for the group as a whole, which is never that of an offset that is about to change.
fn committed_error(client: &mut Client, group: &str, topic: &str) -> i16 {
    let topic = offset_fetch::OffsetFetchRequestTopics {
        name: topic.into(),
        partition_indexes: vec![0].into(),
        ..Default::default()
    };
    let group = offset_fetch::OffsetFetchRequestGroup {
        group_id: group.into(),
        topics: Some(vec![topic].into()),
        ..Default::default()
    };
    let request =
        offset_fetch::Request { require_stable: true, groups: vec![group].into(), ..Default::default() };
    let answer = client.call(&request, 8);
    let response: offset_fetch::Response = answer.body();
    let group = response.groups.iter().next().expect("one group");
    let unstable = ErrorCode::UnstableOffsetCommit.code();
    let mut errors = group.topics.iter().flat_map(|topic| topic.partitions.into_vec());
    assert!(group.error_code != unstable && errors.all(|found| found.error_code != unstable));
    group.error_code
}

/// A consumer hands the epoch that one API told it to the next API: if one of them knows epochs and another says
/// -1, or they differ, its commits and its checks for truncation stand still.
#[test]
fn leader_epochs_agree_across_apis() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let mut node = start(&folder);
    node.client().create_topic("agreed", 1);
    let mut epochs = Vec::new();
    for round in 0..3_i64 {
        let mut client = node.client();
        let epoch = client.leader_epoch("agreed", 0);
        assert!(epoch >= 0);
        // Before anything is appended in it, and after.
        let end = 3 * round;
        assert_eq!(listed(&mut client, "agreed", -1), (0, -1, end, epoch));
        assert_eq!(client.end_of_epoch("agreed", 0, epoch), (0, epoch, end));
        client.append_well("agreed", 0, three_from(BASE_MS + 1_000 * round));
        epochs.push(epoch);
        assert_eq!(listed(&mut client, "agreed", -1), (0, -1, end + 3, epoch));
        assert_eq!(client.end_of_epoch("agreed", 0, epoch), (0, epoch, end + 3));
        assert_eq!(listed(&mut client, "agreed", -2), (0, -1, 0, epochs[0]));
        let batches = stored(&mut client, "agreed", 0);
        assert_eq!(batches.len(), epochs.len());
        for ((number, known), batch) in (0..).zip(&epochs).zip(&batches) {
            let time = BASE_MS + 1_000 * number + 10;
            assert_eq!(listed(&mut client, "agreed", time), (0, time, 3 * number + 1, *known));
            assert_eq!(BatchView::only(batch).unwrap().header().leader_epoch.0, *known);
            assert_eq!(client.end_of_epoch("agreed", 0, *known), (0, *known, 3 * number + 3));
        }
        // It can be committed, and comes back.
        assert_eq!(commit(&mut client, "g", "agreed", &[(0, end + 3, epoch, None)]), [(0, 0)]);
        let found = committed(&mut client, "g", "agreed", 0, 8);
        assert_eq!((found.0, found.1, found.2), (0, end + 3, epoch));
        node = restart(node, &folder, round % 2 == 0);
    }
    node.stop();
}

/// Admin clients and Kafka's offset tool ask for positions by negative timestamps; what a broker without tiered
/// storage lacks must be told as "nothing", not as an error.
#[test]
fn special_timestamps_of_list_offsets() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let node = start(&folder);
    let mut client = node.client();
    client.create_topic("special", 1);
    let epoch = client.leader_epoch("special", 0);
    assert_eq!(listed(&mut client, "special", -3).2, -1, "an empty log has no largest timestamp");
    // The largest timestamp is not that of the last record.
    client.append_well("special", 0, three_from(BASE_MS + 5_000));
    client.append_well("special", 0, three_from(BASE_MS));
    assert_eq!(listed(&mut client, "special", -1), (0, -1, 6, epoch), "latest");
    assert_eq!(listed(&mut client, "special", -2), (0, -1, 0, epoch), "earliest");
    let largest = listed(&mut client, "special", -3);
    assert_eq!((largest.0, largest.1, largest.2), (0, BASE_MS + 5_020, 2), "the largest timestamp");
    assert_eq!(listed(&mut client, "special", -4), (0, -1, 0, epoch), "earliest on this broker");
    for tiered in [-5, -6] {
        let found = listed(&mut client, "special", tiered);
        assert_eq!((found.0, found.1, found.2), (0, -1, -1), "{tiered}: there are no tiers");
    }
    assert_eq!(listed(&mut client, "special", -7).0, ErrorCode::UnsupportedVersion.code());
    node.stop();
}

/// A client that is told of a throttle stops sending for that time, and librdkafka reports it; a member whose
/// heartbeats wait is taken for dead. No quota is set here, so nobody is told of any, however much comes in.
#[test]
fn nobody_is_throttled_and_heartbeats_never_are() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let node = start(&folder);
    let mut client = node.client();
    client.create_topic("busy", 1);
    find_coordinator(&mut client, "beating");
    let protocol =
        join_group::JoinGroupRequestProtocol { name: "range".into(), metadata: vec![0_u8; 8].into() };
    let request = join_group::Request {
        group_id: "beating".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 10_000,
        protocol_type: "connect".into(),
        protocols: vec![protocol].into(),
        ..Default::default()
    };
    let answer = client.call(&request, 3);
    let joined: join_group::Response = answer.body();
    assert_eq!((joined.error_code, joined.throttle_time_ms), (0, 0));
    let request = sync_group::Request {
        group_id: "beating".into(),
        generation_id: joined.generation_id,
        member_id: joined.member_id.clone(),
        ..Default::default()
    };
    let answer = client.call(&request, 3);
    let synced: sync_group::Response = answer.body();
    assert_eq!((synced.error_code, synced.throttle_time_ms), (0, 0));
    let beat = heartbeat::Request {
        group_id: "beating".into(),
        generation_id: joined.generation_id,
        member_id: joined.member_id.clone(),
        ..Default::default()
    };
    let large = vec![7_u8; 512 << 10];
    for round in 0..30 {
        // All on one connection: a muted one would not answer the heartbeat behind a produce either.
        let answer = client.call(&produce_request("busy", -1, [(0, batch(&large))]), PRODUCE);
        let produced: produce::Response = answer.body();
        assert_eq!(produced.throttle_time_ms, 0, "round {round}");
        let answer = client.call(&fetch_request("busy", 0, round, 0, 1 << 20), FETCH);
        let fetched: fetch::Response = answer.body();
        assert_eq!((fetched.error_code, fetched.throttle_time_ms), (0, 0), "round {round}");
        let answer = client.call(&beat, 3);
        let beaten: heartbeat::Response = answer.body();
        assert_eq!((beaten.error_code, beaten.throttle_time_ms), (0, 0), "round {round}");
        let answer = client.call(&metadata::Request::default(), 12);
        assert_eq!(answer.body::<metadata::Response<'_>>().throttle_time_ms, 0, "round {round}");
    }
    node.stop();
}

/// Streams keeps its times in a commit's metadata, and others keep their own state there: a broker that drops or
/// changes it takes them back. Metadata that is too long has an error of its own, which spoils no other partition.
#[test]
fn commit_metadata_is_kept_to_the_byte() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let mut node = start(&folder);
    let mut client = node.client();
    client.create_topic("noted", 4);
    let odd = "AgAAAY\u{0}\u{1}\r\n {\"a\":[1]} \u{fffd}na\u{ef}ve \u{1f980} ";
    // The default of `offset.metadata.max.bytes`, in bytes and not in characters.
    let longest = "\u{e9}".repeat(2_048);
    let too_long = format!("{longest}x");
    let commits = [
        (0, 1, -1, Some(odd)),
        (1, 2, -1, Some(longest.as_str())),
        (2, 3, -1, Some(too_long.as_str())),
        (3, 4, -1, None),
    ];
    let refused = ErrorCode::OffsetMetadataTooLarge.code();
    let errors = commit(&mut client, "g", "noted", &commits);
    assert_eq!(errors, [(0, 0), (1, 0), (2, refused), (3, 0)]);
    for kill in [true, false] {
        for version in [7, 8] {
            let all: Vec<_> = (0..4)
                .map(|partition| {
                    let (error, offset, _, metadata) =
                        committed(&mut client, "g", "noted", partition, version);
                    (error, offset, metadata.unwrap_or_default())
                })
                .collect();
            let expected = [
                (0, 1, odd.to_owned()),
                (0, 2, longest.clone()),
                (0, -1, String::new()),
                (0, 4, String::new()),
            ];
            assert_eq!(all, expected);
        }
        node = restart(node, &folder, kill);
        client = node.client();
        // A commit of the same group waits until what it had is known again.
        assert_eq!(commit(&mut client, "g", "noted", &[(3, 4, -1, None)]), [(3, 0)]);
    }
    node.stop();
}

/// Schema registries begin with the end of their topic, and some give up at OFFSET_NOT_AVAILABLE, which Kafka says
/// only to new clients and only while a new leader does not know yet how far its followers have come.
#[test]
fn offsets_are_available_right_after_a_restart() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let mut node = start(&folder);
    let mut client = node.client();
    client.create_topic("awake", 8);
    for partition in 0..8 {
        client.append_well("awake", partition, three_from(BASE_MS));
    }
    for kill in [true, false, true] {
        node = restart(node, &folder, kill);
        // The first request of the connection, and nothing is asked twice.
        client = node.client();
        for partition in 0..8 {
            for (timestamp, offset) in [(-1, 3), (-2, 0), (-3, 2), (BASE_MS + 5, 1)] {
                let found = client.list_offset("awake", partition, timestamp);
                assert_eq!((found.0, found.2), (0, offset), "partition {partition}, {timestamp}");
            }
        }
    }
    node.stop();
}
