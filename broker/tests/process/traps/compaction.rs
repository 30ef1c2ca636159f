//! Compacted topics, as those see them who keep their state there.

use super::super::node::Plan;
use super::{
    BASE_MS, BatchBuilder, BatchView, Client, Folder, Instant, Node, TimestampMs, commit, committed, listed,
    stored, turn,
};
use std::path::Path;
use std::time::Duration;

const VALUE_BYTES: usize = 300_000;

fn start_compacting(folder: &Folder) -> Node {
    Plan::new(folder.path())
        .set("group.initial.rebalance.delay.ms", 0)
        .set("log.cleaner.backoff.ms", 50)
        .set("offsets.topic.num.partitions", 1)
        .set("offsets.topic.segment.bytes", 1 << 20)
        .start()
}

/// Waits until everything before `end` was compacted; what is closed is looked at right after a restart.
fn until_compacted(partition: &Path, end: i64) {
    let began = Instant::now();
    let cleaned_to = || {
        let note = std::fs::read_to_string(partition.join("cleaner-offset")).ok()?;
        note.lines().find_map(|line| line.strip_prefix("cleaned_to: "))?.parse::<i64>().ok()
    };
    while cleaned_to().is_none_or(|cleaned_to| cleaned_to < end) {
        assert!(began.elapsed() < Duration::from_secs(30), "{} was not compacted", partition.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn keyed(key: &str, number: i64) -> bytes::Bytes {
    let mut builder = BatchBuilder::new();
    let mut value = number.to_be_bytes().to_vec();
    value.resize(VALUE_BYTES, 7);
    builder.append(TimestampMs(BASE_MS + number), Some(key.as_bytes()), Some(&value), &[]);
    builder.finish().unwrap().into()
}

/// The offsets and the keys from here to the end.
fn left(client: &mut Client, topic: &str, offset: i64) -> Vec<(i64, String)> {
    let mut left = Vec::new();
    for batch in stored(client, topic, offset) {
        let batch = BatchView::only(&batch).unwrap();
        for record in batch.contents(1 << 20).unwrap().records() {
            let record = record.unwrap();
            let key = String::from_utf8(record.key.unwrap().to_vec()).unwrap();
            left.push((record.offset(batch.header()).0, key));
        }
    }
    left
}

/// A consumer is done with a topic when its position is the topic's end: Kafka Streams restores its stores so, and
/// schema registries wait for it before they serve. Compaction must not take the way there.
#[test]
fn a_position_reaches_the_end_of_a_compacted_topic() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let node = start_compacting(&folder);
    let mut client = node.client();
    let configs =
        [("cleanup.policy", "compact"), ("segment.bytes", "1048576"), ("min.cleanable.dirty.ratio", "0")];
    client.try_create_topic("latest", 1, &configs).unwrap();
    for number in 0..10 {
        client.append_well("latest", 0, keyed(if number % 2 == 0 { "even" } else { "odd" }, number));
    }
    node.stop();
    let mut node = start_compacting(&folder);
    until_compacted(&folder.path().join("latest-0"), 9);
    for kill in [true, false] {
        let mut client = node.client();
        for offset in 0..=10 {
            // That the position reaches the end is checked there.
            let left = left(&mut client, "latest", offset);
            assert!(left.iter().all(|(at, _)| *at >= offset));
            assert_eq!(left.first().map(|(at, _)| *at), (offset < 10).then_some(offset.max(7)));
        }
        let expected = [(7, "odd"), (8, "even"), (9, "odd")].map(|(at, key)| (at, key.to_owned()));
        assert_eq!(left(&mut client, "latest", 0), expected, "the last of each key, where it was");
        assert_eq!((listed(&mut client, "latest", -2).2, listed(&mut client, "latest", -1).2), (0, 10));
        assert_eq!(listed(&mut client, "latest", BASE_MS + 1).2, 7);
        node = again(node, &folder, kill);
    }
    node.client().append_well("latest", 0, keyed("even", 10));
    assert_eq!(left(&mut node.client(), "latest", 8).len(), 3);
    node.stop();
}

fn again(node: Node, folder: &Folder, kill: bool) -> Node {
    if kill {
        node.kill();
    } else {
        node.stop();
    }
    start_compacting(folder)
}

/// A group that finds its commits gone begins anew, or at the end, and nobody notices what it has missed.
#[test]
fn committed_offsets_outlive_compaction() {
    const PARTITIONS: i32 = 60;
    let _turn = turn::shared();
    let folder = Folder::new();
    let node = start_compacting(&folder);
    let mut client = node.client();
    client.create_topic("read", PARTITIONS);
    let metadata = "m".repeat(4_000);
    let rounds = 14;
    for round in 1..=rounds {
        let commits: Vec<_> =
            (0..PARTITIONS).map(|partition| (partition, round, -1, Some(metadata.as_str()))).collect();
        // One partition is committed once, at the beginning.
        let commits = if round == 1 { &commits[..] } else { &commits[1..] };
        let errors = commit(&mut client, "readers", "read", commits);
        assert!(errors.iter().all(|(_, error)| *error == 0), "{errors:?}");
    }
    node.stop();
    let mut node = start_compacting(&folder);
    let offsets = folder.path().join("__consumer_offsets-0");
    until_compacted(&offsets, 1);
    let first = std::fs::metadata(offsets.join("00000000000000000000.log"));
    assert!(first.map_or(0, |file| file.len()) < 500_000, "most of the first segment has gone");
    for _ in 0..2 {
        node = again(node, &folder, true);
        let mut client = node.client();
        // It waits until the groups have been read.
        assert_eq!(commit(&mut client, "others", "read", &[(0, 1, -1, None)]), [(0, 0)]);
        for partition in 0..PARTITIONS {
            let found = committed(&mut client, "readers", "read", partition, 8);
            let expected = if partition == 0 { 1 } else { rounds };
            assert_eq!((found.0, found.1), (0, expected), "partition {partition}");
            assert_eq!(found.3.as_deref(), Some(metadata.as_str()));
        }
    }
    node.stop();
}
