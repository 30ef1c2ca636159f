//! What a coordinator makes of the log.

use super::stage::{GROUP, REBALANCE_MS, SESSION_MS, Stage, Who};
use crate::group::classic::record::{ClassicGroupValue, ClassicMemberValue};
use crate::group::{EncodedRecord, GroupRecord, RecordError};
use crate::test_random::Random;
use bytes::Bytes;
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::TimestampMs;
use logmill_wire::primitives::DecodeError;

const SESSION: u64 = SESSION_MS.unsigned_abs() as u64;

fn value() -> ClassicGroupValue {
    ClassicGroupValue {
        protocol_type: "consumer".into(),
        generation: 7,
        protocol: Some("range".into()),
        leader: Some("m".into()),
        state_timestamp: Some(TimestampMs(5)),
        members: vec![ClassicMemberValue {
            member_id: "m".into(),
            instance_id: Some("i".into()),
            client_id: "c".into(),
            client_host: "/h".into(),
            rebalance_timeout_ms: 300,
            session_timeout_ms: 10,
            subscription: Bytes::from_static(b"S"),
            assignment: Bytes::from_static(b"AA"),
        }],
    }
}

fn record(value: Option<ClassicGroupValue>) -> GroupRecord {
    GroupRecord::Classic { group_id: "g".into(), value }
}

/// The fields of `value`, as the version of the value has them.
fn bytes_of_version(version: u8) -> Vec<u8> {
    let mut bytes = vec![0, version];
    let mut put = |more: &[u8]| bytes.extend_from_slice(more);
    put(b"\0\x08consumer\0\0\0\x07\0\x05range\0\x01m");
    if version >= 2 {
        put(&5_i64.to_be_bytes());
    }
    put(b"\0\0\0\x01\0\x01m");
    if version >= 3 {
        put(b"\0\x01i");
    }
    put(b"\0\x01c\0\x02/h");
    if version >= 1 {
        put(&300_i32.to_be_bytes());
    }
    put(&10_i32.to_be_bytes());
    put(b"\0\0\0\x01S\0\0\0\x02AA");
    bytes
}

#[test]
fn a_record_is_that_of_kafka() {
    let encoded = record(Some(value())).encode().unwrap();
    assert_eq!(encoded, EncodedRecord { key: b"\0\x02\0\x01g".to_vec(), value: Some(bytes_of_version(3)) });
    let tombstone = record(None).encode().unwrap();
    assert_eq!(tombstone, EncodedRecord { key: b"\0\x02\0\x01g".to_vec(), value: None });
    assert_eq!(GroupRecord::decode(Some(&tombstone.key), None), Ok(Some(record(None))));
}

#[test]
fn records_of_all_versions_are_read() {
    let key = b"\0\x02\0\x01g";
    for version in 0..=3 {
        let mut expected = value();
        if version < 3 {
            expected.members[0].instance_id = None;
        }
        if version < 2 {
            expected.state_timestamp = None;
        }
        if version < 1 {
            expected.members[0].rebalance_timeout_ms = -1;
        }
        let bytes = bytes_of_version(version);
        assert_eq!(
            GroupRecord::decode(Some(key), Some(&bytes)),
            Ok(Some(record(Some(expected)))),
            "{version}"
        );
    }
    let flexible = b"\0\x04\x09consumer\0\0\0\x07\x06range\x02m\0\0\0\0\0\0\0\x05\x02\
        \x02m\x02i\x02c\x03/h\0\0\x01\x2c\0\0\0\x0a\x02S\x03AA\0\0";
    assert_eq!(GroupRecord::decode(Some(key), Some(flexible)), Ok(Some(record(Some(value())))));
    let unknown = GroupRecord::decode(Some(key), Some(&[0, 5, 0]));
    assert_eq!(unknown, Err(RecordError::Decode(DecodeError::UnsupportedVersion)));
}

#[test]
fn a_damaged_record_is_an_error_or_another_record() {
    let mut random = Random::seeded(5);
    let good = bytes_of_version(3);
    for end in 0..good.len() {
        assert!(GroupRecord::decode(Some(b"\0\x02\0\x01g"), Some(&good[..end])).is_err(), "cut at {end}");
    }
    for _ in 0..5000 {
        let mut bytes = good.clone();
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << random.below(8);
        }
        if let Ok(Some(other)) = GroupRecord::decode(Some(b"\0\x02\0\x01g"), Some(&bytes)) {
            let mut stage = Stage::new();
            stage.log.push(other);
            // Whatever it says, it can be loaded, looked at, and waited for.
            stage.restart();
            stage.describe();
            stage.pass(100);
        }
    }
}

#[test]
fn a_generation_survives_its_coordinator() {
    let mut stage = Stage::new();
    let members = stage.stable(&[Who::dynamic("a"), Who::fixed("b")]);
    let before = stage.describe();
    stage.pass(SESSION - 1);
    stage.restart();
    assert_eq!(stage.describe(), before);
    stage.pass(SESSION - 1);
    for who in &members {
        assert_eq!(stage.heartbeat(who, 1), ErrorCode::None, "sessions begin anew");
    }
    let ticket = stage.sync_with(&members[1], 1, &[]);
    assert_eq!(stage.synced(ticket).assignment, "1");
    stage.pass(SESSION);
    assert_eq!(stage.state(), "Empty", "and end");
    stage.restart();
    assert_eq!(stage.state(), "Empty");
    assert_eq!(&*stage.describe().protocol_type, "consumer");
    let ticket = stage.join(&Who::dynamic("c"));
    stage.pass(super::stage::DELAY_MS);
    assert_eq!(stage.joined(ticket).generation, 3, "generations go on");
}

#[test]
fn a_loaded_member_that_never_comes_is_removed_after_its_session() {
    let mut stage = Stage::new();
    stage.stable(&[Who::dynamic("a")]);
    stage.restart();
    stage.pass(SESSION - 1);
    assert_eq!(stage.state(), "Stable");
    stage.pass(1);
    assert_eq!(stage.state(), "Empty");
}

#[test]
fn a_generation_that_nobody_was_assigned_is_forgotten() {
    let mut stage = Stage::new();
    let members = stage.stable(&[Who::dynamic("a"), Who::dynamic("b")]);
    let tickets = [stage.join(&members[0]), stage.join(&members[1])];
    assert_eq!(tickets.map(|ticket| stage.joined(ticket).generation), [2, 2]);
    stage.restart();
    assert_eq!(stage.heartbeat(&members[0], 2), ErrorCode::IllegalGeneration);
    assert_eq!(stage.heartbeat(&members[0], 1), ErrorCode::None);
}

#[test]
fn of_a_loaded_member_only_the_chosen_protocol_is_known() {
    let mut stage = Stage::new();
    let clients = ["a", "b"].map(|name| Who::dynamic(name).with_protocols(&["x", "y"]));
    let members = stage.stable(&clients);
    stage.restart();
    let same = stage.join(&members[1].with_protocols(&["x"]));
    assert_eq!(stage.joined(same).generation, 1);
    let other = stage.join(&members[1]);
    assert!(stage.is_waiting(other), "what it supports besides is new");
}

#[test]
fn an_old_record_lets_the_rebalance_take_as_long_as_a_session() {
    let mut stage = Stage::new();
    let mut old = value();
    old.members[0].rebalance_timeout_ms = -1;
    old.members[0].session_timeout_ms = 40_000;
    stage.log.push(record(Some(old)));
    stage.restart();
    let ticket = stage.join(&Who { rebalance_ms: 0, ..Who::dynamic("b") });
    stage.pass(39_999);
    assert!(stage.is_waiting(ticket));
    stage.pass(1);
    assert_eq!(stage.joined(ticket).error, ErrorCode::None);
}

#[test]
fn a_loaded_group_that_has_become_too_large_rebalances() {
    let mut stage = Stage::new();
    let members = stage.stable(&[Who::dynamic("a"), Who::dynamic("b"), Who::dynamic("c")]);
    stage.settings.max_size = 2;
    stage.restart();
    assert_eq!(stage.state(), "PreparingRebalance");
    let tickets = [stage.join(&members[2]), stage.join(&members[0])];
    let late = stage.join(&members[1]);
    assert_eq!(stage.joined(late).error, ErrorCode::GroupMaxSizeReached);
    stage.pass(u64::try_from(REBALANCE_MS).unwrap());
    let replies = tickets.map(|ticket| stage.joined(ticket));
    assert_eq!(replies.map(|reply| reply.generation), [2, 2]);
}

#[test]
fn a_tombstone_ends_a_group() {
    let mut stage = Stage::new();
    stage.log.push(record(Some(value())));
    stage.log.push(record(None));
    stage.restart();
    let ticket = stage.send(crate::group::GroupRequest::DescribeClassic(GROUP.into()));
    let Some(crate::group::GroupReply::DescribeClassic(Err(refused))) = stage.take(ticket) else {
        panic!("the group is there")
    };
    assert_eq!(refused.code, ErrorCode::GroupIdNotFound);
}
