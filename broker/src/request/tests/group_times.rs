//! What the clock does to groups: sessions, their bounds, and when offsets are looked at.

use super::Fixture;
use logmill_wire::api::{consumer_group_heartbeat, join_group};
use logmill_wire::error_codes::ErrorCode;
use std::borrow::Cow;
use std::time::Duration;

fn report(fixture: &Fixture, member_id: &str, member_epoch: i32) -> ErrorCode {
    let is_joining = member_epoch == 0;
    let request = consumer_group_heartbeat::Request {
        group_id: "g".into(),
        member_id: member_id.to_owned().into(),
        member_epoch,
        rebalance_timeout_ms: if is_joining { 60_000 } else { -1 },
        subscribed_topic_names: is_joining.then(|| vec![Cow::from("t")].into()),
        topic_partitions: is_joining.then(|| Vec::new().into()),
        ..Default::default()
    };
    fixture.ask(&request, 1, |response| ErrorCode::from_code(response.error_code).unwrap())
}

#[test]
fn who_waits_for_a_coordinator_that_is_held_up_stays_a_member() {
    let fixture = Fixture::new().with_groups();
    fixture.create("t", 1);
    assert_eq!(report(&fixture, "a", 0), ErrorCode::None);
    // The session of a lasts 45 s, and nobody is answered until the disk has what the joining of b leaves.
    fixture.broker.delay.set(Some(Duration::from_secs(50)));
    assert_eq!(report(&fixture, "b", 0), ErrorCode::None);
    fixture.broker.delay.set(None);
    fixture.pass(Duration::from_millis(5));
    assert_eq!(report(&fixture, "a", 1), ErrorCode::None);
    assert_eq!(report(&fixture, "b", 2), ErrorCode::None);
    // Once there is nothing to wait for, who says nothing is gone when its session is over.
    fixture.pass(Duration::from_millis(45_005));
    assert_eq!(report(&fixture, "a", 2), ErrorCode::UnknownMemberId);
}

#[test]
fn who_is_silent_after_the_coordinator_was_held_up_is_gone() {
    let fixture = Fixture::new().with_groups();
    fixture.create("t", 1);
    assert_eq!(report(&fixture, "a", 0), ErrorCode::None);
    fixture.broker.delay.set(Some(Duration::from_secs(50)));
    assert_eq!(report(&fixture, "b", 0), ErrorCode::None);
    fixture.broker.delay.set(None);
    fixture.pass(Duration::from_millis(6_005));
    assert_eq!(report(&fixture, "a", 1), ErrorCode::UnknownMemberId);
}

#[test]
fn a_session_timeout_lies_within_the_bounds_of_the_settings() {
    let bounds = [("group.min.session.timeout.ms", "8000"), ("group.max.session.timeout.ms", "9000")];
    let fixture = Fixture::with(&bounds).with_groups();
    for (session_timeout_ms, error) in [
        (7_999, ErrorCode::InvalidSessionTimeout),
        (8_000, ErrorCode::MemberIdRequired),
        (9_000, ErrorCode::MemberIdRequired),
        (9_001, ErrorCode::InvalidSessionTimeout),
    ] {
        let protocol =
            join_group::JoinGroupRequestProtocol { name: "range".into(), metadata: Default::default() };
        let request = join_group::Request {
            group_id: "g".into(),
            session_timeout_ms,
            rebalance_timeout_ms: 60_000,
            protocol_type: "consumer".into(),
            protocols: vec![protocol].into(),
            ..Default::default()
        };
        let answer = fixture.ask(&request, 9, |response| ErrorCode::from_code(response.error_code).unwrap());
        assert_eq!(answer, error, "{session_timeout_ms}");
    }
}

#[test]
fn offsets_expire_when_they_are_looked_at() {
    for (interval_ms, kept_s, gone_s) in [("90000", 85, 95), ("20000", 59, 81)] {
        let settings =
            [("offsets.retention.minutes", "1"), ("offsets.retention.check.interval.ms", interval_ms)];
        let fixture = Fixture::with(&settings).with_groups();
        let topic = ("t", fixture.create("t", 1));
        assert_eq!(fixture.commit(topic, &[(0, 7)], 9), [0]);
        fixture.pass(Duration::from_secs(kept_s));
        assert_eq!(fixture.committed().len(), 1, "looked at every {interval_ms} ms, after {kept_s} s");
        fixture.pass(Duration::from_secs(gone_s - kept_s));
        assert_eq!(fixture.committed(), [], "looked at every {interval_ms} ms, after {gone_s} s");
    }
}
