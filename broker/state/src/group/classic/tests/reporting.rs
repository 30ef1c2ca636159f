//! What a group tells of itself: in words, and to the offsets that it keeps.

use super::stage::{DELAY_MS, GROUP, Stage, Who, subscription};
use crate::group::classic::ClassicGroup;
use crate::group::{Aging, Group, GroupRecord};
use logmill_wire::ids::TimestampMs;

fn group(stage: &Stage) -> &ClassicGroup {
    match stage.groups.groups.get(GROUP) {
        Some(Group::Classic(group)) => group,
        other => panic!("{other:?}"),
    }
}

fn consumer(name: &str, topics: &[&str]) -> Who {
    Who { protocols: vec![("range".into(), subscription(topics))], ..Who::dynamic(name) }
}

#[test]
fn consumers_are_subscribed_to_what_any_of_them_says() {
    let mut stage = Stage::new();
    stage.stable(&[consumer("a", &["t", "u"]), consumer("b", &["u", "v"])]);
    let subscribed = ["t", "u", "v", "w"].map(|topic| group(&stage).is_subscribed_to(topic));
    assert_eq!(subscribed, [true, true, true, false]);
    stage.restart();
    let subscribed = ["t", "u", "v", "w"].map(|topic| group(&stage).is_subscribed_to(topic));
    assert_eq!(subscribed, [true, true, true, false], "also after a restart");
}

#[test]
fn consumers_that_are_not_understood_may_be_subscribed_to_anything() {
    let mut stage = Stage::new();
    stage.stable(&[consumer("a", &["t"]), Who::dynamic("b")]);
    assert!(group(&stage).is_subscribed_to("w"));
    assert_eq!(group(&stage).aging(), Aging::Never);
}

#[test]
fn others_than_consumers_are_subscribed_to_nothing() {
    let mut stage = Stage::new();
    stage.stable(&[Who { protocol_type: "connect".into(), ..consumer("a", &["t"]) }]);
    assert!(!group(&stage).is_subscribed_to("t"));
    assert_eq!(group(&stage).aging(), Aging::Never, "who knows what they read");
}

#[test]
fn offsets_age_as_the_group_needs_them() {
    assert_eq!(ClassicGroup::new("g".into(), TimestampMs(1)).aging(), Aging::SinceCommit, "no members ever");
    let mut stage = Stage::new();
    let ticket = stage.join(&consumer("a", &["t"]));
    assert_eq!(group(&stage).aging(), Aging::Never, "members join");
    stage.pass(DELAY_MS);
    let member = consumer("a", &["t"]).with_id(&stage.joined(ticket).member_id);
    assert_eq!(group(&stage).aging(), Aging::Never, "members wait for their assignment");
    stage.sync_all(std::slice::from_ref(&member), 1);
    assert_eq!(group(&stage).aging(), Aging::SinceCommit, "topics that nobody subscribes to any more");
    stage.leave(&[&member]);
    let left_at = stage.wall();
    stage.pass(1000);
    assert_eq!(group(&stage).aging(), Aging::Since(left_at));
    stage.restart();
    assert_eq!(group(&stage).aging(), Aging::Since(left_at), "also after a restart");
    assert!(!group(&stage).is_subscribed_to("t"));
    let Some(GroupRecord::Classic { value: Some(value), .. }) = stage.log.last_mut() else {
        panic!("no record")
    };
    value.state_timestamp = None;
    stage.restart();
    assert_eq!(group(&stage).aging(), Aging::SinceCommit, "an old record does not say when");
}

#[test]
fn a_group_is_described_with_its_members() {
    let mut stage = Stage::new();
    let members = stage.completing(&[Who::dynamic("a"), Who::fixed("b")]);
    let described = stage.describe();
    assert_eq!((described.state, &*described.protocol_name), ("CompletingRebalance", ""));
    assert!(described.members.iter().all(|member| member.metadata.is_empty()));
    stage.sync_all(&members, 1);
    let described = stage.describe();
    assert_eq!((described.state, &*described.protocol_name), ("Stable", "range"));
    assert_eq!(&*described.protocol_type, "consumer");
    let shown: Vec<_> =
        described.members.iter().map(|member| (&*member.metadata, &*member.assignment)).collect();
    assert_eq!(shown, [(&b"range"[..], &b"0"[..]), (b"range", b"1")]);
    assert_eq!(described.members[1].instance_id.as_deref(), Some("b"));
    assert_eq!((&*described.members[0].client_id, &*described.members[0].client_host), ("a", "/127.0.0.1"));
}
