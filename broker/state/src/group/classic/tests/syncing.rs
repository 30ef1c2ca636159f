//! What the members of a generation may do.

use super::stage::{REBALANCE_MS, SESSION_MS, Stage, Who};
use crate::group::{GroupRecord, MemberIdentity};
use logmill_wire::error_codes::ErrorCode;

const SESSION: u64 = SESSION_MS.unsigned_abs() as u64;
const REBALANCE: u64 = REBALANCE_MS.unsigned_abs() as u64;

#[test]
fn followers_wait_for_the_leader_and_the_generation_is_written_with_the_replies() {
    let mut stage = Stage::new();
    let members = stage.completing(&[Who::dynamic("a"), Who::dynamic("b"), Who::dynamic("c")]);
    let follower = stage.sync_with(&members[1], 1, &[]);
    assert!(stage.is_waiting(follower));
    let before = stage.log.len();
    let assignments = [(&members[0].member_id, "A"), (&members[1].member_id, "B"), (&"x".into(), "X")];
    let leader = stage.sync_with(&members[0], 1, &assignments);
    let [GroupRecord::Classic { value: Some(value), .. }] = &stage.log[before..] else {
        panic!("{:?}", stage.log)
    };
    assert_eq!((value.generation, value.protocol.as_deref()), (1, Some("range")));
    assert_eq!(value.leader, Some(members[0].member_id.clone()));
    let stored: Vec<&[u8]> = value.members.iter().map(|member| &*member.assignment).collect();
    assert_eq!(stored, [&b"A"[..], b"B", b""], "whom the leader does not name is assigned nothing");
    assert_eq!(&*value.members[0].subscription, b"range");
    assert_eq!(value.members[0].client_host.as_ref(), "/127.0.0.1");
    let reply = stage.synced(leader);
    assert_eq!((reply.error, &*reply.assignment), (ErrorCode::None, &b"A"[..]));
    assert_eq!(
        (reply.protocol_type.as_deref(), reply.protocol_name.as_deref()),
        (Some("consumer"), Some("range"))
    );
    assert_eq!(stage.synced(follower).assignment, "B");
    let late = stage.sync_with(&members[2], 1, &[]);
    assert_eq!(stage.synced(late).error, ErrorCode::None, "in a stable group there is nothing to wait for");
    assert_eq!(stage.log.len(), before + 1);
}

#[test]
fn a_follower_cannot_assign() {
    let mut stage = Stage::new();
    let members = stage.completing(&[Who::dynamic("a"), Who::dynamic("b")]);
    let follower = stage.sync_with(&members[1], 1, &[(&members[1].member_id, "all")]);
    assert!(stage.is_waiting(follower));
    let leader = stage.sync_with(&members[0], 1, &[(&members[0].member_id, "all")]);
    assert_eq!(stage.synced(leader).assignment, "all");
    assert_eq!(stage.synced(follower).assignment, "");
}

#[test]
fn a_sync_names_what_it_believes_in() {
    let mut stage = Stage::new();
    let members = stage.stable(&[Who::dynamic("a")]);
    for (believed, generation, error) in [
        ((Some("consumer"), Some("range")), 1, ErrorCode::None),
        ((Some("connect"), Some("range")), 1, ErrorCode::InconsistentGroupProtocol),
        ((Some("consumer"), Some("sticky")), 1, ErrorCode::InconsistentGroupProtocol),
        ((None, None), 0, ErrorCode::IllegalGeneration),
        ((None, None), 2, ErrorCode::IllegalGeneration),
    ] {
        let ticket = stage.sync_as(&members[0], generation, &[], believed);
        assert_eq!(stage.synced(ticket).error, error, "{believed:?} {generation}");
    }
    let stranger = stage.sync_with(&Who::dynamic("x").with_id(&"x".into()), 1, &[]);
    assert_eq!(stage.synced(stranger).error, ErrorCode::UnknownMemberId);
}

#[test]
fn while_members_join_nobody_syncs() {
    let mut stage = Stage::new();
    let members = stage.stable(&[Who::dynamic("a"), Who::dynamic("b")]);
    stage.join(&members[0]);
    let ticket = stage.sync_with(&members[1], 1, &[]);
    assert_eq!(stage.synced(ticket).error, ErrorCode::RebalanceInProgress);
}

#[test]
fn who_waits_for_an_assignment_is_sent_off_when_a_rebalance_begins() {
    let mut stage = Stage::new();
    let members = stage.completing(&[Who::dynamic("a"), Who::dynamic("b")]);
    let follower = stage.sync_with(&members[1], 1, &[]);
    let newcomer = stage.join(&Who::dynamic("c"));
    assert_eq!(stage.synced(follower).error, ErrorCode::RebalanceInProgress);
    let late = stage.sync_with(&members[0], 1, &[(&members[0].member_id, "all")]);
    assert_eq!(stage.synced(late).error, ErrorCode::RebalanceInProgress, "the leader comes too late");
    let again = [stage.join(&members[0]), stage.join(&members[1]), newcomer];
    assert_eq!(again.map(|ticket| stage.joined(ticket).generation), [2, 2, 2]);
}

#[test]
fn a_sync_that_is_sent_again_is_answered_once_and_the_older_one_is_sent_off() {
    let mut stage = Stage::new();
    let members = stage.completing(&[Who::dynamic("a"), Who::dynamic("b")]);
    let first = stage.sync_with(&members[1], 1, &[]);
    let second = stage.sync_with(&members[1], 1, &[]);
    assert_eq!(stage.synced(first).error, ErrorCode::NotCoordinator);
    stage.sync_with(&members[0], 1, &[(&members[1].member_id, "B")]);
    assert_eq!(stage.synced(second).assignment, "B");
}

#[test]
fn who_never_syncs_is_removed_after_the_rebalance_timeout() {
    let mut stage = Stage::new();
    let session_ms = REBALANCE_MS + 10_000;
    let clients = [Who { session_ms, ..Who::dynamic("a") }, Who { session_ms, ..Who::dynamic("b") }];
    let members = stage.completing(&clients);
    let leader = stage.sync_with(&members[0], 1, &[]);
    assert_eq!(stage.synced(leader).error, ErrorCode::None);
    stage.pass(REBALANCE - 1);
    assert_eq!(stage.state(), "Stable");
    assert_eq!(stage.heartbeat(&members[1], 1), ErrorCode::None, "heartbeats do not help");
    stage.pass(1);
    assert_eq!(stage.state(), "PreparingRebalance");
    assert_eq!(stage.heartbeat(&members[1], 1), ErrorCode::UnknownMemberId);
    assert_eq!(stage.heartbeat(&members[0], 1), ErrorCode::RebalanceInProgress);
}

#[test]
fn a_leader_that_never_syncs_is_removed_and_its_followers_are_sent_off() {
    let mut stage = Stage::new();
    let session_ms = 2 * REBALANCE_MS;
    let clients = [Who { session_ms, ..Who::dynamic("a") }, Who { session_ms, ..Who::dynamic("b") }];
    let members = stage.completing(&clients);
    let follower = stage.sync_with(&members[1], 1, &[]);
    stage.pass(REBALANCE);
    assert_eq!(stage.synced(follower).error, ErrorCode::RebalanceInProgress);
    assert_eq!(stage.heartbeat(&members[0], 1), ErrorCode::UnknownMemberId);
    let again = stage.join(&members[1]);
    let reply = stage.joined(again);
    assert_eq!((reply.leader, reply.generation), (members[1].member_id.clone(), 2));
}

#[test]
fn a_group_in_which_all_have_synced_waits_for_nobody() {
    let mut stage = Stage::new();
    let session_ms = 10 * REBALANCE_MS;
    stage.stable(&[Who { session_ms, ..Who::dynamic("a") }, Who { session_ms, ..Who::dynamic("b") }]);
    stage.pass(2 * REBALANCE);
    assert_eq!(stage.state(), "Stable");
}

#[test]
fn a_session_that_ran_out_while_waiting_begins_with_the_assignment() {
    let mut stage = Stage::new();
    let clients = [Who { session_ms: 50_000, ..Who::dynamic("a") }, Who::dynamic("b")];
    let tickets = clients.each_ref().map(|who| stage.join(who));
    stage.pass(2 * super::stage::DELAY_MS);
    let ids = tickets.map(|ticket| stage.joined(ticket).member_id);
    let members = [clients[0].with_id(&ids[0]), clients[1].with_id(&ids[1])];
    let follower = stage.sync_with(&members[1], 1, &[]);
    stage.pass(3 * SESSION);
    assert!(stage.is_waiting(follower));
    stage.sync_with(&members[0], 1, &[(&members[1].member_id, "B")]);
    assert_eq!(stage.synced(follower).assignment, "B");
    stage.pass(SESSION - 1);
    assert_eq!(stage.state(), "Stable");
    stage.pass(1);
    assert_eq!(stage.state(), "PreparingRebalance", "its client is gone after all");
}

#[test]
fn heartbeats_tell_the_member_where_it_stands() {
    let mut stage = Stage::new();
    let members = stage.completing(&[Who::dynamic("a"), Who::fixed("i")]);
    assert_eq!(stage.heartbeat(&members[0], 1), ErrorCode::None, "as soon as it has joined");
    assert_eq!(stage.heartbeat(&members[0], 0), ErrorCode::IllegalGeneration);
    assert_eq!(stage.heartbeat(&members[0], 2), ErrorCode::IllegalGeneration);
    let stranger = Who::dynamic("x").with_id(&"x".into());
    assert_eq!(stage.heartbeat(&stranger, 1), ErrorCode::UnknownMemberId);
    let impostor = members[1].with_id(&"x".into());
    assert_eq!(stage.heartbeat(&impostor, 1), ErrorCode::FencedInstanceId);
    let unknown = Who { instance_id: Some("j".into()), ..members[0].clone() };
    assert_eq!(stage.heartbeat(&unknown, 1), ErrorCode::UnknownMemberId);
    stage.join(&Who::dynamic("c"));
    assert_eq!(stage.heartbeat(&members[0], 1), ErrorCode::RebalanceInProgress);
}

#[test]
fn commits_are_admitted_from_members_of_the_generation() {
    let mut stage = Stage::new();
    let members = stage.completing(&[Who::dynamic("a"), Who::fixed("i")]);
    let member = members[0].identity();
    assert_eq!(
        stage.commit(member.clone(), 1),
        ErrorCode::RebalanceInProgress,
        "who owns what is not settled"
    );
    stage.sync_all(&members, 1);
    assert_eq!(stage.commit(member.clone(), 1), ErrorCode::None);
    assert_eq!(stage.commit(member.clone(), 0), ErrorCode::IllegalGeneration);
    assert_eq!(stage.commit(member.clone(), -1), ErrorCode::IllegalGeneration);
    let nobody = MemberIdentity { member_id: "".into(), instance_id: None };
    assert_eq!(stage.commit(nobody.clone(), -1), ErrorCode::UnknownMemberId);
    let stranger = MemberIdentity { member_id: "x".into(), instance_id: None };
    assert_eq!(stage.commit(stranger, 1), ErrorCode::UnknownMemberId);
    let impostor = MemberIdentity { member_id: "x".into(), instance_id: Some("i".into()) };
    assert_eq!(stage.commit(impostor, 1), ErrorCode::FencedInstanceId);
    stage.join(&members[0]);
    assert_eq!(stage.commit(members[1].identity(), 1), ErrorCode::None, "before it joins again");
}

#[test]
fn a_commit_counts_as_a_heartbeat() {
    let mut stage = Stage::new();
    let members = stage.stable(&[Who::dynamic("a")]);
    for _ in 0..4 {
        stage.pass(SESSION - 1);
        assert_eq!(stage.commit(members[0].identity(), 1), ErrorCode::None);
    }
    stage.pass(SESSION);
    assert_eq!(stage.state(), "Empty");
}
