//! Retention by size and by age (`cleanup.policy=delete`), seen from outside: where the log starts, what is read from
//! there, and which files are left.

use super::client::Client;
use super::node::{Node, Plan};
use super::observe::wait_until;
use super::turn;
use super::workspace::Folder;
use bytes::Bytes;
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::TimestampMs;
use logmill_wire::record_batch::BatchBuilder;
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Files go with the next checkpoint, which is made every 30 s.
const PATIENCE: Duration = Duration::from_secs(60);
const BATCH_BYTES: i64 = 256 << 10;
const SEGMENT_BYTES: i64 = 1 << 20;

fn start(folder: &Folder) -> Node {
    let plan = Plan::new(folder.path()).set("log.retention.check.interval.ms", 100);
    // What is deleted goes at once.
    plan.set("log.segment.delete.delay.ms", 0).set("log.segment.bytes", SEGMENT_BYTES).start()
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_millis().try_into().unwrap()
}

/// One record in a batch of about `BATCH_BYTES`, whose value begins with the number.
fn large(number: i64, time: i64) -> Bytes {
    let mut value = number.to_string().into_bytes();
    value.resize(BATCH_BYTES as usize - 100, b' ');
    let mut builder = BatchBuilder::new();
    builder.append(TimestampMs(time), None, Some(&value), &[]);
    builder.finish().unwrap().into()
}

fn log_start(client: &mut Client, topic: &str) -> i64 {
    let found = client.list_offset(topic, 0, -2);
    assert_eq!(found.0, 0);
    found.2
}

/// The bases of the segments that a topic's first partition has on disk.
fn segments(folder: &Folder, topic: &str) -> Vec<i64> {
    let files = fs::read_dir(folder.path().join(format!("{topic}-0"))).unwrap();
    let base = |name: String| name.strip_suffix(".log")?.parse().ok();
    let mut bases: Vec<i64> =
        files.filter_map(|file| base(file.unwrap().file_name().into_string().unwrap())).collect();
    bases.sort_unstable();
    bases
}

/// Everything from the log's start on is there, and nothing before it is given.
fn assert_whole(client: &mut Client, topic: &str, start: i64, end: i64) {
    let number = |value: &[u8]| String::from_utf8_lossy(value).trim().parse::<i64>().unwrap();
    let found: Vec<(i64, i64)> =
        client.read_all(topic, 0, start).iter().map(|(offset, value)| (*offset, number(value))).collect();
    assert_eq!(found, (start..end).map(|number| (number, number)).collect::<Vec<_>>());
    if start > 0 {
        assert_eq!(client.fetch(topic, 0, start - 1).error, ErrorCode::OffsetOutOfRange.code());
    }
}

#[test]
fn what_is_more_than_the_retained_size_goes_segment_by_segment() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let mut node = start(&folder);
    let mut client = node.client();
    let retained = 2 * SEGMENT_BYTES;
    client.try_create_topic("sized", 1, &[("retention.bytes", &retained.to_string())]).unwrap();
    client.create_topic("kept", 1);
    let count = 20;
    for number in 0..count {
        client.append_well("sized", 0, large(number, now_ms()));
        client.append_well("kept", 0, large(number, now_ms()));
    }
    // The oldest segments go for as long as the rest is still as large as what is to be kept.
    let is_settled = |start: i64| {
        let bytes = (count - start) * BATCH_BYTES;
        // A batch is a little smaller than that.
        (retained..retained + SEGMENT_BYTES + BATCH_BYTES).contains(&bytes)
    };
    wait_until(PATIENCE, || is_settled(log_start(&mut client, "sized")));
    let from = log_start(&mut client, "sized");
    assert!(is_settled(from), "the log starts at {from}");
    for kill in [true, false] {
        assert_whole(&mut client, "sized", from, count);
        assert!(wait_until(PATIENCE, || segments(&folder, "sized").first() == Some(&from)));
        assert_whole(&mut client, "kept", 0, count);
        if kill {
            node.kill();
        } else {
            node.stop();
        }
        node = start(&folder);
        client = node.client();
        assert_eq!(log_start(&mut client, "sized"), from);
    }
    node.stop();
}

#[test]
fn what_is_older_than_the_retained_time_goes_unless_its_segment_has_younger_records() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let node = start(&folder);
    let mut client = node.client();
    let hour = 3_600_000;
    let config = [("retention.ms", hour.to_string())];
    let config: Vec<(&str, &str)> = config.iter().map(|(name, value)| (*name, value.as_str())).collect();
    for topic in ["young", "mixed", "aged", "aged-later"] {
        client.try_create_topic(topic, 1, &config).unwrap();
    }
    let old = now_ms() - 2 * hour;
    for number in 0..3 {
        client.append_well("young", 0, large(number, now_ms() - hour / 2));
        // The young one first: logs are looked at all the time, and with old ones alone it would go.
        client.append_well("mixed", 0, large(number, if number == 0 { now_ms() } else { old }));
    }
    for topic in ["aged", "aged-later"] {
        // A whole log is looked at between the two.
        for number in 0..9 {
            client.append_well(topic, 0, large(number, old));
        }
        assert!(wait_until(PATIENCE, || log_start(&mut client, topic) == 9), "the active segment goes too");
    }
    assert_whole(&mut client, "young", 0, 3);
    assert_whole(&mut client, "mixed", 0, 3);
    // Offsets go on where they were.
    assert_eq!(client.append_well("aged", 0, large(9, now_ms())), 9);
    node.stop();
    let node = start(&folder);
    client = node.client();
    assert_whole(&mut client, "aged", 9, 10);
    assert_whole(&mut client, "mixed", 0, 3);
    node.stop();
}
