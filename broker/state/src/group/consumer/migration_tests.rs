//! Members of the classic protocol in consumer groups, and groups that change their protocol.

use super::embedded::read_assignment;
use super::test_bed::*;
use crate::group::{
    ConsumerHeartbeatRequest, Group, GroupReply, GroupRequest, HeartbeatRequest, JoinReply, JoinRequest,
    LeaveRequest, LeftMember, MemberIdentity, SyncReply, SyncRequest, Ticket,
};
use bytes::Bytes;
use logmill_wire::api::consumer_protocol_subscription::{ConsumerProtocolSubscription, TopicPartition};
use logmill_wire::api::record_bytes;
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{TopicId, Uuid};
use std::collections::BTreeSet;
use std::sync::Arc;

fn identity(member_id: &str) -> MemberIdentity {
    MemberIdentity { member_id: member_id.into(), instance_id: None }
}

fn subscription(owned: &[i32]) -> Bytes {
    let topic = TopicPartition { topic: "t".into(), partitions: owned.to_vec().into() };
    let owned_partitions = if owned.is_empty() { Vec::new() } else { vec![topic] };
    let message = ConsumerProtocolSubscription {
        topics: vec!["t".into()].into(),
        owned_partitions: owned_partitions.into(),
        ..Default::default()
    };
    record_bytes(1, &message, 1).unwrap().into()
}

fn classic_join(member_id: &str, owned: &[i32]) -> JoinRequest {
    JoinRequest {
        group_id: GROUP.into(),
        member: identity(member_id),
        fresh_id: Uuid::from_random(5),
        client_id: "old".into(),
        client_host: "/127.0.0.1".into(),
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: REBALANCE_MS,
        protocol_type: "consumer".into(),
        protocols: vec![("range".into(), subscription(owned)), ("sticky".into(), subscription(owned))],
        reason: None,
        requires_known_member_id: false,
        supports_skipping_assignment: true,
    }
}

fn join(bed: &mut Bed, request: JoinRequest) -> JoinReply {
    match bed.step(GroupRequest::Join(request)) {
        GroupReply::Join(reply) => reply,
        other => panic!("{other:?}"),
    }
}

fn sync_request(member_id: &str, generation: i32) -> SyncRequest {
    SyncRequest {
        group_id: GROUP.into(),
        member: identity(member_id),
        generation,
        protocol_type: Some("consumer".into()),
        protocol_name: Some("range".into()),
        assignments: Vec::new(),
    }
}

fn sync(bed: &mut Bed, request: SyncRequest) -> SyncReply {
    match bed.step(GroupRequest::Sync(request)) {
        GroupReply::Sync(reply) => reply,
        other => panic!("{other:?}"),
    }
}

fn synced(bed: &mut Bed, member_id: &str, generation: i32) -> Vec<i32> {
    let reply = sync(bed, sync_request(member_id, generation));
    assert_eq!(reply.error, ErrorCode::None);
    read_assignment(&reply.assignment).unwrap().into_iter().map(|(_, index)| index.0).collect()
}

fn heartbeat(bed: &mut Bed, member_id: &str, generation: i32) -> ErrorCode {
    let request = HeartbeatRequest { group_id: GROUP.into(), member: identity(member_id), generation };
    match bed.step(GroupRequest::Heartbeat(request)) {
        GroupReply::Heartbeat(error) => error,
        other => panic!("{other:?}"),
    }
}

fn leave(bed: &mut Bed, members: &[MemberIdentity]) -> Vec<LeftMember> {
    let members = members.iter().map(|member| (member.clone(), None)).collect();
    match bed.step(GroupRequest::Leave(LeaveRequest { group_id: GROUP.into(), members })) {
        GroupReply::Leave(Ok(left)) => left,
        other => panic!("{other:?}"),
    }
}

fn own(topic: TopicId, indexes: std::ops::Range<i32>) -> BTreeSet<(TopicId, i32)> {
    indexes.map(|index| (topic, index)).collect()
}

/// A consumer group of `a`, which speaks the consumer protocol, and `b`, which does not; each has two partitions in
/// epoch 2.
fn mixed() -> (Bed, TopicId) {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 4);
    bed.beat(joining("a", &["t"])).unwrap();
    let joined = join(&mut bed, classic_join("b", &[]));
    assert_eq!((joined.error, joined.generation, &*joined.leader), (ErrorCode::None, 2, ""));
    assert_eq!(joined.protocol_name, Some("range".into()));
    assert_eq!(synced(&mut bed, "b", 2), Vec::<i32>::new());
    assert_eq!(heartbeat(&mut bed, "b", 2), ErrorCode::None);
    bed.beat(reporting("a", 1)).unwrap();
    bed.beat(owning("a", 1, &own(topic, 0..2))).unwrap();
    assert_eq!(heartbeat(&mut bed, "b", 2), ErrorCode::RebalanceInProgress);
    assert_eq!(join(&mut bed, classic_join("b", &[])).generation, 2);
    assert_eq!(synced(&mut bed, "b", 2), [2, 3]);
    assert_eq!(heartbeat(&mut bed, "b", 2), ErrorCode::None);
    assert_eq!(bed.group().state(), "Stable");
    (bed, topic)
}

/// A classic group whose one member `old-…` has all four partitions.
fn classic() -> (Bed, TopicId, Arc<str>) {
    let mut bed = Bed::with(&[("group.initial.rebalance.delay.ms", "0")]);
    let topic = bed.topic("t", 4);
    let effects = send(&mut bed, GroupRequest::Join(classic_join("", &[])));
    let mut replies = effects;
    replies.extend(bed.wait(1).replies);
    let Some((_, GroupReply::Join(joined))) = replies.pop() else { panic!("no reply to the join") };
    assert_eq!(joined.error, ErrorCode::None);
    let member_id = joined.member_id;
    let partitions = (0..4).map(|index| ("t".into(), logmill_wire::ids::PartitionIndex(index)));
    let assignment = super::embedded::write_assignment(1, partitions);
    let assignments = vec![(Arc::clone(&member_id), assignment)];
    let reply = sync(&mut bed, SyncRequest { assignments, ..sync_request(&member_id, joined.generation) });
    assert_eq!(reply.error, ErrorCode::None);
    (bed, topic, member_id)
}

fn send(bed: &mut Bed, request: GroupRequest) -> Vec<(Ticket, GroupReply)> {
    let effects = bed.with_context(|groups, cx| groups.step(Ticket(900), request, cx));
    bed.log.extend(effects.records);
    effects.replies
}

fn classic_state(bed: &Bed) -> Option<&'static str> {
    match bed.groups.groups.get(GROUP) {
        Some(Group::Classic(group)) => Some(group.state()),
        _ => None,
    }
}

#[test]
fn a_classic_member_joins_syncs_and_is_assigned_by_the_coordinator() {
    let (mut bed, _) = mixed();
    bed.restart();
    assert_eq!(heartbeat(&mut bed, "b", 2), ErrorCode::None);
}

#[test]
fn a_classic_member_gives_up_between_two_joins() {
    let (mut bed, topic) = mixed();
    let third = bed.beat(joining("c", &["t"])).unwrap();
    assert_eq!(third.member_epoch, 3);
    let told = bed.beat(reporting("a", 2)).unwrap();
    let kept = assigned(&told).unwrap_or_else(|| own(topic, 0..2));
    assert_eq!(heartbeat(&mut bed, "b", 2), ErrorCode::RebalanceInProgress);
    let joined = join(&mut bed, classic_join("b", &[2, 3]));
    let left = synced(&mut bed, "b", joined.generation);
    assert_eq!(kept.len() + left.len(), 3, "one of them gives one up");
    if left.len() == 1 {
        assert_eq!((joined.generation, heartbeat(&mut bed, "b", 2)), (2, ErrorCode::RebalanceInProgress));
        assert_eq!(join(&mut bed, classic_join("b", &left)).generation, 3);
        assert_eq!(synced(&mut bed, "b", 3), left);
    }
    bed.restart();
}

#[test]
fn a_classic_member_without_an_id_is_given_one_first() {
    let (mut bed, _) = mixed();
    let request = JoinRequest { requires_known_member_id: true, ..classic_join("", &[]) };
    let told = join(&mut bed, request);
    assert_eq!(told.error, ErrorCode::MemberIdRequired);
    assert_eq!(*told.member_id, Uuid::from_random(5).to_string());
    assert_eq!(bed.member_ids(), ["a", "b"]);
}

#[test]
fn a_classic_member_must_bring_a_protocol_that_all_have() {
    let (mut bed, _) = mixed();
    let mut request = classic_join("c", &[]);
    request.protocols.remove(0);
    assert_eq!(join(&mut bed, request.clone()).error, ErrorCode::None);
    request.protocols[0].0 = "own".into();
    assert_eq!(join(&mut bed, request.clone()).error, ErrorCode::InconsistentGroupProtocol);
    let connect = JoinRequest { protocol_type: "connect".into(), ..classic_join("d", &[]) };
    assert_eq!(join(&mut bed, connect).error, ErrorCode::InconsistentGroupProtocol);
    let mut unreadable = classic_join("e", &[]);
    unreadable.protocols[0].1 = Bytes::from_static(b"?");
    assert_eq!(join(&mut bed, unreadable).error, ErrorCode::InconsistentGroupProtocol);
}

#[test]
fn a_classic_member_is_fenced_by_generation_and_membership() {
    let (mut bed, _) = mixed();
    assert_eq!(heartbeat(&mut bed, "b", 1), ErrorCode::IllegalGeneration);
    assert_eq!(heartbeat(&mut bed, "x", 2), ErrorCode::UnknownMemberId);
    assert_eq!(heartbeat(&mut bed, "a", 2), ErrorCode::UnknownMemberId);
    assert_eq!(sync(&mut bed, sync_request("b", 1)).error, ErrorCode::IllegalGeneration);
    let other = SyncRequest { protocol_name: Some("sticky".into()), ..sync_request("b", 2) };
    assert_eq!(sync(&mut bed, other).error, ErrorCode::InconsistentGroupProtocol);
    bed.beat(joining("c", &["t"])).unwrap();
    assert_eq!(sync(&mut bed, sync_request("b", 2)).error, ErrorCode::RebalanceInProgress);
}

#[test]
fn a_classic_member_that_does_not_join_again_or_sync_in_time_is_removed() {
    let (mut bed, _) = mixed();
    bed.beat(joining("c", &["t"])).unwrap();
    assert_eq!(heartbeat(&mut bed, "b", 2), ErrorCode::RebalanceInProgress);
    bed.wait(i64::from(REBALANCE_MS) - 1);
    assert_eq!(heartbeat(&mut bed, "b", 2), ErrorCode::RebalanceInProgress);
    bed.wait(1);
    assert_eq!(bed.member_ids(), ["a", "c"]);
    assert_eq!(join(&mut bed, classic_join("d", &[])).error, ErrorCode::None);
    bed.wait(i64::from(REBALANCE_MS));
    assert_eq!(bed.member_ids(), ["a", "c"]);
}

#[test]
fn a_classic_member_has_its_own_session_timeout() {
    let (mut bed, _) = mixed();
    bed.wait(29_999);
    assert_eq!(bed.member_ids(), ["a", "b"]);
    bed.wait(1);
    assert_eq!(bed.member_ids(), ["a"]);
}

#[test]
fn members_leave_by_leave_group_if_they_are_classic_or_an_operator_says_so() {
    let (mut bed, _) = mixed();
    bed.beat(as_instance("i", joining("s", &["t"]))).unwrap();
    let operators = MemberIdentity { member_id: "".into(), instance_id: Some("i".into()) };
    let fenced = MemberIdentity { member_id: "x".into(), instance_id: Some("i".into()) };
    let members = [identity("a"), identity("b"), identity("b"), identity("x"), fenced, operators];
    let errors: Vec<ErrorCode> = leave(&mut bed, &members).into_iter().map(|left| left.error).collect();
    let unknown = ErrorCode::UnknownMemberId;
    let fenced = ErrorCode::FencedInstanceId;
    assert_eq!(errors, [unknown, ErrorCode::None, unknown, unknown, fenced, ErrorCode::None]);
    assert_eq!(bed.member_ids(), ["a"]);
    assert_eq!(bed.group_epoch(), 4);
    bed.restart();
}

#[test]
fn a_classic_group_becomes_a_consumer_group_with_the_first_consumer() {
    let (mut bed, topic, old) = classic();
    let joined = bed.beat(joining("new", &["t"])).unwrap();
    assert_eq!((joined.member_epoch, assigned(&joined)), (2, Some(BTreeSet::new())));
    assert_eq!(bed.member_ids(), ["new", &*old]);
    bed.restart();
    assert_eq!(heartbeat(&mut bed, &old, 1), ErrorCode::RebalanceInProgress);
    assert_eq!(join(&mut bed, classic_join(&old, &[0, 1, 2, 3])).generation, 1);
    let kept = synced(&mut bed, &old, 1);
    assert_eq!(kept.len(), 2);
    assert_eq!(join(&mut bed, classic_join(&old, &kept)).generation, 2);
    assert_eq!(synced(&mut bed, &old, 2), kept);
    let got = assigned(&bed.beat(reporting("new", 2)).unwrap()).unwrap();
    assert_eq!(got.len(), 2);
    assert!(got.is_disjoint(&kept.iter().map(|index| (topic, *index)).collect()));
    bed.restart();
}

#[test]
fn who_waits_in_a_classic_group_that_is_upgraded_joins_again() {
    let (mut bed, _, old) = classic();
    let second = JoinRequest { fresh_id: Uuid::from_random(6), ..classic_join("", &[]) };
    let waits = send(&mut bed, GroupRequest::Join(second));
    assert!(waits.is_empty(), "{waits:?}");
    let replies = send(&mut bed, GroupRequest::ConsumerHeartbeat(joining("new", &["t"])));
    let refused = |(_, reply): &(Ticket, GroupReply)| matches!(reply, GroupReply::Join(joined) if joined.error == ErrorCode::RebalanceInProgress);
    assert_eq!(replies.iter().filter(|reply| refused(reply)).count(), 1);
    assert!(bed.member_ids().iter().any(|id| **id == *old));
    assert_eq!(replies.len(), 2);
}

#[test]
fn a_group_becomes_classic_when_its_last_consumer_goes() {
    for is_silent in [false, true] {
        let (mut bed, _) = mixed();
        if is_silent {
            for _ in 0..3 {
                bed.wait(20_000);
                heartbeat(&mut bed, "b", 2);
            }
        } else {
            bed.beat(reporting("a", -1)).unwrap();
        }
        assert_eq!(classic_state(&bed), Some("PreparingRebalance"), "silent: {is_silent}");
        let generation = bed_generation(&bed);
        let heard = heartbeat(&mut bed, "b", generation);
        assert_eq!(heard, ErrorCode::RebalanceInProgress);
        bed.restart();
        assert_eq!(classic_state(&bed), Some("Stable"));
    }
}

fn bed_generation(bed: &Bed) -> i32 {
    bed.log
        .iter()
        .rev()
        .find_map(|record| match record {
            crate::group::GroupRecord::Classic { value: Some(value), .. } => Some(value.generation),
            _ => None,
        })
        .expect("a generation")
}

#[test]
fn a_static_member_may_go_either_way() {
    let (mut bed, topic) = mixed();
    bed.beat(reporting("a", -1)).unwrap();
    let upgraded = bed.beat(as_instance("i", joining("s", &["t"]))).unwrap();
    assert_eq!(assigned(&upgraded), Some(own(topic, 0..2)));
    let mut back = classic_join("", &[]);
    back.member.instance_id = Some("i".into());
    let joined = join(&mut bed, back);
    assert_eq!(joined.error, ErrorCode::None);
    assert_eq!(classic_state(&bed), Some("PreparingRebalance"));
    bed.restart();
}

#[test]
fn the_policy_forbids() {
    let (mut bed, _, _) = classic();
    for policy in ["disabled", "Downgrade"] {
        bed.settings.consumer_migration_policy = policy.to_owned();
        let written = bed.log.len();
        let refused = bed.beat(joining("new", &["t"])).unwrap_err();
        assert_eq!((refused.code, bed.log.len()), (ErrorCode::GroupIdNotFound, written));
    }
    for policy in ["DISABLED", "upgrade"] {
        let (mut bed, _) = mixed();
        bed.settings.consumer_migration_policy = policy.to_owned();
        bed.beat(reporting("a", -1)).unwrap();
        assert_eq!((classic_state(&bed), bed.member_ids()), (None, vec!["b".to_owned()]));
    }
}

#[test]
fn a_group_of_another_kind_is_not_upgraded() {
    let mut bed = Bed::new();
    let request = JoinRequest { protocol_type: "connect".into(), ..classic_join("", &[]) };
    assert!(send(&mut bed, GroupRequest::Join(request)).is_empty());
    let refused = bed.beat(ConsumerHeartbeatRequest { ..joining("new", &["t"]) }).unwrap_err();
    assert_eq!(refused.code, ErrorCode::GroupIdNotFound);
    assert!(classic_state(&bed).is_some());
}
