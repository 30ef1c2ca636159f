//! The rules of ConsumerGroupHeartbeat, one by one.

use super::test_bed::*;
use super::*;
use crate::group::{
    CommitRequest, GroupRequest, Groups, MemberIdentity, NamedPartition, OffsetAndMetadata, Refused,
};
use crate::group::{ConsumerHeartbeatReply, ListRequest, VisibleTopics};
use logmill_wire::ids::{LeaderEpoch, Offset};
use std::collections::BTreeSet;

fn code(reply: Result<ConsumerHeartbeatReply, Refused>) -> ErrorCode {
    reply.map_or_else(|refused| refused.code, |_| ErrorCode::None)
}

fn own(topic: TopicId, indexes: std::ops::Range<i32>) -> BTreeSet<(TopicId, i32)> {
    indexes.map(|index| (topic, index)).collect()
}

/// A group with one member that has all four partitions of `t` in epoch 1.
fn one_member() -> (Bed, TopicId) {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 4);
    let reply = bed.beat(joining("a", &["t"])).unwrap();
    assert_eq!((reply.member_epoch, assigned(&reply)), (1, Some(own(topic, 0..4))));
    (bed, topic)
}

#[test]
fn requests_that_contradict_themselves_are_refused_and_found_no_group() {
    let mut bed = Bed::new();
    let mut refused = |request: ConsumerHeartbeatRequest| {
        let code = code(bed.beat(request));
        assert!(bed.log.is_empty() && bed.groups.groups.is_empty());
        code
    };
    let full = || joining("a", &["t"]);
    let invalid = [
        ConsumerHeartbeatRequest { group_id: "".into(), ..full() },
        ConsumerHeartbeatRequest { rack_id: Some("".into()), ..full() },
        ConsumerHeartbeatRequest { rebalance_timeout_ms: None, ..full() },
        ConsumerHeartbeatRequest { owned: None, ..full() },
        ConsumerHeartbeatRequest { subscribed_topics: None, ..full() },
        ConsumerHeartbeatRequest { member_epoch: -3, ..full() },
        ConsumerHeartbeatRequest { member_epoch: -2, ..full() },
        owning("a", 0, &own(TopicId::from_random(1), 0..1)),
        reporting("", 1),
        reporting("", -1),
        as_instance("", full()),
        ConsumerHeartbeatRequest { fresh_id: logmill_wire::ids::Uuid::ZERO, ..joining("", &["t"]) },
    ];
    for request in invalid {
        assert_eq!(refused(request.clone()), ErrorCode::InvalidRequest, "{request:?}");
    }
    let assignor = ConsumerHeartbeatRequest { server_assignor: Some("sticky".into()), ..full() };
    assert_eq!(refused(assignor), ErrorCode::UnsupportedAssignor);
    let regex = ConsumerHeartbeatRequest { subscribed_regex: Some("(".into()), ..full() };
    assert_eq!(refused(regex), ErrorCode::InvalidRegularExpression);
    assert_eq!(refused(reporting("a", 3)), ErrorCode::GroupIdNotFound);
    assert_eq!(refused(reporting("a", -1)), ErrorCode::GroupIdNotFound);
}

#[test]
fn the_first_member_gets_everything() {
    let (mut bed, _) = one_member();
    assert_eq!(bed.group().state(), "Stable");
    bed.restart();
    assert_eq!(bed.group().state(), "Stable");
}

#[test]
fn a_member_without_an_id_gets_a_fresh_one() {
    let mut bed = Bed::new();
    let reply = bed.beat(joining("", &["t"])).unwrap();
    assert_eq!(*reply.member_id, logmill_wire::ids::Uuid::from_random(77).to_string());
}

#[test]
fn a_group_without_topics_still_has_an_epoch() {
    let mut bed = Bed::new();
    let reply = bed.beat(joining("a", &[])).unwrap();
    assert_eq!((reply.member_epoch, assigned(&reply)), (1, Some(BTreeSet::new())));
}

#[test]
fn a_report_that_says_nothing_new_writes_nothing_and_is_told_nothing() {
    let (mut bed, _) = one_member();
    let written = bed.log.len();
    let reply = bed.beat(reporting("a", 1)).unwrap();
    assert_eq!((reply.member_epoch, reply.assignment, bed.log.len()), (1, None, written));
    assert_eq!(reply.heartbeat_interval_ms, 5000);
}

#[test]
fn a_full_report_is_told_its_assignment() {
    let (mut bed, topic) = one_member();
    let request = ConsumerHeartbeatRequest { member_epoch: 1, ..joining("a", &["t"]) };
    let reply = bed.beat(ConsumerHeartbeatRequest { ..request }).unwrap();
    assert_eq!(assigned(&reply), Some(own(topic, 0..4)));
}

#[test]
fn a_partition_changes_hands_only_after_it_was_given_up() {
    let (mut bed, topic) = one_member();
    let joined = bed.beat(joining("b", &["t"])).unwrap();
    assert_eq!((joined.member_epoch, assigned(&joined)), (2, Some(BTreeSet::new())));
    assert_eq!(bed.group().state(), "Reconciling");
    let told = bed.beat(reporting("a", 1)).unwrap();
    assert_eq!((told.member_epoch, assigned(&told)), (1, Some(own(topic, 0..2))));
    assert_eq!(bed.beat(reporting("b", 2)).unwrap().assignment, None);
    bed.restart();
    let revoked = bed.beat(owning("a", 1, &own(topic, 0..2))).unwrap();
    assert_eq!((revoked.member_epoch, revoked.assignment), (2, None));
    let got = bed.beat(reporting("b", 2)).unwrap();
    assert_eq!((got.member_epoch, assigned(&got)), (2, Some(own(topic, 2..4))));
    assert_eq!(bed.group().state(), "Stable");
    bed.restart();
}

#[test]
fn a_wrong_epoch_is_fenced_but_the_previous_one_may_come_again() {
    let (mut bed, topic) = one_member();
    assert_eq!(code(bed.beat(reporting("a", 2))), ErrorCode::FencedMemberEpoch);
    bed.beat(joining("b", &["t"])).unwrap();
    bed.beat(reporting("a", 1)).unwrap();
    bed.beat(owning("a", 1, &own(topic, 0..2))).unwrap();
    // The answer with epoch 2 is lost.
    assert_eq!(bed.beat(owning("a", 1, &own(topic, 0..1))).unwrap().member_epoch, 2);
    assert_eq!(code(bed.beat(owning("a", 1, &own(topic, 0..3)))), ErrorCode::FencedMemberEpoch);
    assert_eq!(code(bed.beat(reporting("a", 1))), ErrorCode::FencedMemberEpoch);
}

#[test]
fn a_fenced_member_joins_again_with_epoch_0() {
    let (mut bed, topic) = one_member();
    bed.beat(ConsumerHeartbeatRequest { subscribed_topics: Some(vec![]), ..reporting("a", 1) }).unwrap();
    let reply = bed.beat(joining("a", &["t"])).unwrap();
    assert_eq!((reply.member_epoch, assigned(&reply)), (3, Some(own(topic, 0..4))));
}

#[test]
fn who_is_no_member_must_join() {
    let (mut bed, _) = one_member();
    assert_eq!(code(bed.beat(reporting("b", 1))), ErrorCode::UnknownMemberId);
    assert_eq!(code(bed.beat(reporting("b", -1))), ErrorCode::UnknownMemberId);
    assert_eq!(code(bed.beat(as_instance("i", reporting("b", 1)))), ErrorCode::UnknownMemberId);
}

#[test]
fn a_full_group_takes_no_more_members() {
    let mut bed = Bed::with(&[("group.consumer.max.size", "1")]);
    bed.beat(joining("a", &["t"])).unwrap();
    assert_eq!(code(bed.beat(joining("b", &["t"]))), ErrorCode::GroupMaxSizeReached);
    bed.beat(reporting("a", 1)).unwrap();
}

#[test]
fn who_leaves_is_gone_and_the_next_report_spreads_its_partitions() {
    let (mut bed, topic) = one_member();
    bed.beat(joining("b", &["t"])).unwrap();
    let left = bed.beat(reporting("a", -1)).unwrap();
    assert_eq!((left.member_epoch, left.assignment), (-1, None));
    assert_eq!(bed.group().state(), "Assigning");
    let got = bed.beat(reporting("b", 2)).unwrap();
    assert_eq!((got.member_epoch, assigned(&got)), (3, Some(own(topic, 0..4))));
    bed.beat(reporting("b", -1)).unwrap();
    assert_eq!((bed.group().state(), bed.group_epoch()), ("Empty", 4));
    bed.restart();
}

#[test]
fn who_is_silent_for_a_session_is_removed() {
    let (mut bed, _) = one_member();
    bed.wait(SESSION_MS - 1);
    bed.beat(reporting("a", 1)).unwrap();
    bed.wait(SESSION_MS - 1);
    assert_eq!(bed.member_ids(), ["a"]);
    bed.restart();
    bed.wait(SESSION_MS - 1);
    assert_eq!(bed.member_ids(), ["a"]);
    bed.wait(1);
    assert!(bed.member_ids().is_empty());
    assert_eq!(bed.group_epoch(), 2);
}

#[test]
fn who_could_not_be_heard_stays_and_who_is_gone_is_found_out() {
    let (mut bed, _) = one_member();
    let hold_up = |bed: &mut Bed, milliseconds: u64| {
        bed.now.monotonic = bed.now.monotonic.plus_ns(milliseconds * 1_000_000);
        bed.with_context(Groups::excuse);
        bed.wait(0);
    };
    hold_up(&mut bed, 50_000);
    bed.wait(5_999);
    assert_eq!(bed.member_ids(), ["a"]);
    bed.beat(reporting("a", 1)).unwrap();
    hold_up(&mut bed, 50_000);
    assert_eq!(bed.member_ids(), ["a"], "it was heard of since the last time");
    hold_up(&mut bed, 6_000);
    assert!(bed.member_ids().is_empty());
}

#[test]
fn a_group_has_its_own_times() {
    let (mut bed, _) = one_member();
    let configs = [("consumer.session.timeout.ms", "50000"), ("consumer.heartbeat.interval.ms", "7000")];
    let configs = configs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let group_id = bed.group().id.to_string();
    bed.image.apply(&crate::metadata::Record::GroupConfigsReplaced { group_id, configs }).unwrap();
    assert_eq!(bed.beat(reporting("a", 1)).unwrap().heartbeat_interval_ms, 7_000);
    bed.wait(49_999);
    assert_eq!(bed.member_ids(), ["a"]);
    bed.wait(1);
    assert!(bed.member_ids().is_empty());
}

#[test]
fn who_does_not_give_up_in_time_is_removed() {
    for restarts in [false, true] {
        let (mut bed, topic) = one_member();
        bed.beat(joining("b", &["t"])).unwrap();
        bed.beat(reporting("a", 1)).unwrap();
        if restarts {
            bed.restart();
        }
        bed.wait(i64::from(REBALANCE_MS) - 1);
        bed.beat(owning("a", 1, &own(topic, 0..4))).unwrap();
        assert_eq!(bed.member_ids(), ["a", "b"]);
        bed.wait(1);
        assert_eq!(bed.member_ids(), ["b"]);
    }
}

#[test]
fn who_gave_up_is_not_timed_any_more() {
    let (mut bed, topic) = one_member();
    bed.beat(joining("b", &["t"])).unwrap();
    bed.beat(reporting("a", 1)).unwrap();
    bed.beat(owning("a", 1, &own(topic, 0..2))).unwrap();
    bed.wait(i64::from(REBALANCE_MS) * 2);
    assert_eq!(bed.member_ids(), ["a", "b"]);
}

#[test]
fn another_subscription_moves_the_epoch_and_other_words_do_not() {
    let (mut bed, _) = one_member();
    bed.beat(ConsumerHeartbeatRequest { rack_id: Some("r".into()), ..reporting("a", 1) }).unwrap();
    assert_eq!(bed.group_epoch(), 1);
    let other = bed.topic("u", 1);
    let topics = Some(vec!["u".into(), "t".into(), "u".into()]);
    let request = ConsumerHeartbeatRequest { subscribed_topics: topics, ..reporting("a", 1) };
    let reply = bed.beat(request).unwrap();
    assert_eq!(reply.member_epoch, 2);
    assert!(assigned(&reply).unwrap().contains(&(other, 0)));
}

#[test]
fn topics_that_grow_appear_or_go_move_the_epoch() {
    let (mut bed, topic) = one_member();
    bed.topic("other", 1);
    assert_eq!(bed.beat(reporting("a", 1)).unwrap().member_epoch, 1);
    bed.topic("t", 6);
    let grown = bed.beat(reporting("a", 1)).unwrap();
    assert_eq!((grown.member_epoch, assigned(&grown)), (2, Some(own(topic, 0..6))));
    bed.delete_topic("t");
    let gone = bed.beat(reporting("a", 2)).unwrap();
    assert_eq!((gone.member_epoch, assigned(&gone)), (2, Some(BTreeSet::new())));
    let gone = bed.beat(owning("a", 2, &BTreeSet::new())).unwrap();
    assert_eq!((gone.member_epoch, gone.assignment), (3, None));
    let again = bed.topic("t", 2);
    assert_eq!(assigned(&bed.beat(reporting("a", 3)).unwrap()), Some(own(again, 0..2)));
}

#[test]
fn an_expression_stands_for_the_topics_that_match_also_later_ones() {
    let mut bed = Bed::new();
    let (first, _) = (bed.topic("eu-1", 1), bed.topic("us-1", 1));
    let regex = |text: &str| ConsumerHeartbeatRequest {
        subscribed_topics: None,
        subscribed_regex: Some(text.into()),
        ..joining("a", &[])
    };
    let joined = bed.beat(regex("eu-.*")).unwrap();
    assert_eq!(assigned(&joined), Some(own(first, 0..1)));
    assert!(bed.group().is_subscribed_to("eu-1") && !bed.group().is_subscribed_to("us-1"));
    let second = bed.topic("eu-2", 1);
    bed.wait(1000);
    let more = bed.beat(reporting("a", 1)).unwrap();
    assert_eq!(assigned(&more), Some([(first, 0), (second, 0)].into()));
    bed.restart();
    let none = ConsumerHeartbeatRequest { subscribed_regex: Some("".into()), ..reporting("a", 2) };
    assert_eq!(assigned(&bed.beat(none).unwrap()), Some(BTreeSet::new()));
    assert!(bed.group().regexes.is_empty());
}

#[test]
fn an_expression_stands_for_no_topic_that_its_member_may_not_see() {
    let mut bed = Bed::new();
    let (open, _) = (bed.topic("eu-open", 1), bed.topic("eu-secret", 1));
    let visible = || VisibleTopics::new(|topic| !topic.contains("secret"));
    let request = ConsumerHeartbeatRequest {
        subscribed_topics: None,
        subscribed_regex: Some("eu-.*".into()),
        visible_topics: visible(),
        ..joining("a", &[])
    };
    assert_eq!(assigned(&bed.beat(request).unwrap()), Some(own(open, 0..1)));
    let later = bed.topic("eu-later", 1);
    bed.topic("eu-secret-too", 1);
    bed.wait(1000);
    let report = ConsumerHeartbeatRequest { visible_topics: visible(), ..reporting("a", 1) };
    let told = assigned(&bed.beat(report).unwrap());
    assert_eq!(told, Some([(open, 0), (later, 0)].into()));
    assert!(!bed.group().is_subscribed_to("eu-secret") && !bed.group().is_subscribed_to("eu-secret-too"));
    bed.restart();
    assert!(!bed.group().is_subscribed_to("eu-secret"));
}

#[test]
fn an_expression_that_nobody_has_any_more_is_forgotten() {
    let mut bed = Bed::new();
    bed.topic("t", 2);
    for member in ["a", "b"] {
        let subscribed_regex = Some("t.*".into());
        bed.beat(ConsumerHeartbeatRequest { subscribed_regex, ..joining(member, &[]) }).unwrap();
    }
    bed.beat(reporting("a", -1)).unwrap();
    assert_eq!(bed.group().regexes.len(), 1);
    bed.beat(reporting("b", -1)).unwrap();
    assert_eq!(bed.group().regexes.len(), 0);
}

#[test]
fn the_assignor_that_most_want_is_taken() {
    let mut bed = Bed::new();
    bed.topic("t", 2);
    assert_eq!(describe(&mut bed, |bed| bed.beat(joining("a", &["t"]))).assignor, "uniform".into());
    for member in ["b", "c"] {
        let request =
            ConsumerHeartbeatRequest { server_assignor: Some("range".into()), ..joining(member, &["t"]) };
        bed.beat(request).unwrap();
    }
    let request =
        ConsumerHeartbeatRequest { server_assignor: Some("uniform".into()), ..joining("d", &["t"]) };
    assert_eq!(describe(&mut bed, |bed| bed.beat(request)).assignor, "range".into());
}

fn describe<T, E: std::fmt::Debug>(
    bed: &mut Bed,
    act: impl FnOnce(&mut Bed) -> Result<T, E>,
) -> DescribedConsumerGroup {
    act(bed).unwrap();
    match bed.step(GroupRequest::DescribeConsumer(GROUP.into())) {
        GroupReply::DescribeConsumer(Ok(described)) => described,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_group_is_described_and_listed() {
    let (mut bed, topic) = one_member();
    let described = describe(&mut bed, |bed| bed.beat(joining("b", &["t"])));
    assert_eq!((described.group_epoch, described.assignment_epoch, described.state), (2, 2, "Reconciling"));
    let member = &described.members[0];
    assert_eq!((&*member.member_id, member.member_epoch, member.is_classic), ("a", 1, false));
    assert_eq!(member.assigned[0].partitions.len(), 4);
    assert_eq!((member.target[0].topic_id, member.target[0].partitions.len()), (topic, 2));
    assert_eq!(member.subscribed_topics, ["t".into()]);
    let request = ListRequest { states: vec!["reconciling".into()], types: vec!["consumer".into()] };
    match bed.step(GroupRequest::List(request)) {
        GroupReply::List(groups) => assert_eq!(groups.len(), 1),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_instance_id_is_one_members_until_it_leaves_for_a_while() {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 2);
    bed.beat(as_instance("i", joining("a", &["t"]))).unwrap();
    assert_eq!(code(bed.beat(as_instance("i", joining("b", &["t"])))), ErrorCode::UnreleasedInstanceId);
    assert_eq!(code(bed.beat(as_instance("i", reporting("b", 1)))), ErrorCode::FencedInstanceId);
    assert_eq!(code(bed.beat(as_instance("i", reporting("b", -2)))), ErrorCode::FencedInstanceId);
    // The answer to the join was lost.
    assert_eq!(bed.beat(as_instance("i", joining("a", &["t"]))).unwrap().member_epoch, 1);
    let left = bed.beat(as_instance("i", reporting("a", -2))).unwrap();
    assert_eq!(left.member_epoch, -2);
    bed.restart();
    assert_eq!(code(bed.beat(as_instance("i", reporting("a", 1)))), ErrorCode::FencedMemberEpoch);
    let back = bed.beat(as_instance("i", joining("b", &["t"]))).unwrap();
    assert_eq!((back.member_epoch, assigned(&back)), (1, Some(own(topic, 0..2))));
    assert_eq!((bed.member_ids(), bed.group_epoch()), (vec!["b".to_owned()], 1));
    bed.restart();
}

#[test]
fn a_static_member_that_stays_away_is_removed_and_its_partitions_wait_for_it_until_then() {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 2);
    bed.beat(as_instance("i", joining("a", &["t"]))).unwrap();
    bed.beat(as_instance("i", reporting("a", -2))).unwrap();
    let other = bed.beat(joining("b", &["t"])).unwrap();
    assert_eq!(assigned(&other), Some(BTreeSet::new()));
    bed.wait(SESSION_MS - 1);
    assert_eq!(bed.beat(reporting("b", 2)).unwrap().assignment, None);
    bed.wait(1);
    assert_eq!(bed.member_ids(), ["b"]);
    assert_eq!(assigned(&bed.beat(reporting("b", 2)).unwrap()), Some(own(topic, 0..2)));
}

#[test]
fn a_deleted_group_takes_all_its_records_back() {
    let (mut bed, _) = one_member();
    let delete = || GroupRequest::Delete(GROUP.into());
    assert_eq!(bed.step(delete()), GroupReply::Delete(ErrorCode::NonEmptyGroup));
    bed.beat(reporting("a", -1)).unwrap();
    assert_eq!(bed.step(delete()), GroupReply::Delete(ErrorCode::None));
    assert!(bed.groups.groups.is_empty());
    bed.restart();
    assert!(bed.groups.groups.is_empty());
    let last = |bed: &Bed| {
        let mut values = std::collections::BTreeMap::new();
        for record in &bed.log {
            let encoded = record.encode().unwrap();
            values.insert(encoded.key, encoded.value);
        }
        values
    };
    assert!(last(&bed).values().all(Option::is_none), "a record outlives its group");
}

fn commit(bed: &mut Bed, member_id: &str, epoch: i32, version: i16, indexes: &[i32]) -> ErrorCode {
    let committed =
        OffsetAndMetadata { offset: Offset(1), leader_epoch: LeaderEpoch(-1), metadata: "".into() };
    let offset = |index: &i32| {
        let partition = NamedPartition { topic: "t".into(), partition: PartitionIndex(*index) };
        (partition, TopicId::ZERO, committed.clone())
    };
    let request = CommitRequest {
        group_id: GROUP.into(),
        member: MemberIdentity { member_id: member_id.into(), instance_id: None },
        generation_or_epoch: epoch,
        retention_ms: -1,
        offsets: indexes.iter().map(offset).collect(),
        version,
    };
    match bed.step(GroupRequest::CommitOffsets(request)) {
        GroupReply::CommitOffsets(results) => results[0],
        other => panic!("{other:?}"),
    }
}

#[test]
fn commits_are_taken_from_members_in_their_epoch() {
    let (mut bed, _) = one_member();
    assert_eq!(commit(&mut bed, "a", 1, 9, &[0]), ErrorCode::None);
    assert_eq!(commit(&mut bed, "a", 2, 9, &[0]), ErrorCode::StaleMemberEpoch);
    assert_eq!(commit(&mut bed, "a", 1, 8, &[0]), ErrorCode::UnsupportedVersion);
    assert_eq!(commit(&mut bed, "b", 1, 9, &[0]), ErrorCode::UnknownMemberId);
    assert_eq!(commit(&mut bed, "", -1, 9, &[0]), ErrorCode::UnknownMemberId);
    bed.beat(reporting("a", -1)).unwrap();
    assert_eq!(commit(&mut bed, "", -1, 2, &[0]), ErrorCode::None);
}

#[test]
fn an_older_epoch_commits_what_has_been_held_since_then() {
    let (mut bed, topic) = one_member();
    bed.beat(joining("b", &["t"])).unwrap();
    bed.beat(reporting("a", 1)).unwrap();
    bed.beat(owning("a", 1, &own(topic, 0..2))).unwrap();
    assert_eq!(commit(&mut bed, "a", 1, 9, &[0, 1]), ErrorCode::None);
    assert_eq!(commit(&mut bed, "a", 1, 9, &[0, 3]), ErrorCode::StaleMemberEpoch);
    assert_eq!(commit(&mut bed, "a", 0, 9, &[0]), ErrorCode::StaleMemberEpoch);
}

#[test]
fn offsets_are_fetched_by_members_in_their_epoch() {
    let (bed, _) = one_member();
    assert_eq!(bed.group().admit_fetch("a", 1), Ok(()));
    assert_eq!(bed.group().admit_fetch("a", 0), Err(ErrorCode::StaleMemberEpoch));
    assert_eq!(bed.group().admit_fetch("b", 1), Err(ErrorCode::UnknownMemberId));
    assert_eq!(bed.group().admit_fetch("", -1), Ok(()));
}
