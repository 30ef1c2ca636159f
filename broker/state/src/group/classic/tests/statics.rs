//! Static members (KIP-345): they keep their place over a restart, and their old selves are fenced.

use super::stage::{DELAY_MS, REBALANCE_MS, SESSION_MS, Stage, Who};
use crate::group::GroupRecord;
use logmill_wire::error_codes::ErrorCode;

const SESSION: u64 = SESSION_MS.unsigned_abs() as u64;
const REBALANCE: u64 = REBALANCE_MS.unsigned_abs() as u64;

#[test]
fn a_static_member_needs_no_second_join_and_is_named_after_its_instance() {
    let mut stage = Stage::new();
    let ticket = stage.join(&Who { requires_known_id: true, ..Who::fixed("i") });
    stage.pass(DELAY_MS);
    let reply = stage.joined(ticket);
    assert_eq!(reply.error, ErrorCode::None);
    assert!(reply.member_id.starts_with("i-"));
    assert_eq!(reply.members[0].instance_id.as_deref(), Some("i"));
}

#[test]
fn a_follower_that_restarts_gets_its_assignment_without_a_rebalance() {
    let mut stage = Stage::new();
    let members = stage.stable(&[Who::fixed("a"), Who::fixed("b")]);
    let before = stage.log.len();
    let ticket = stage.join(&Who::fixed("b"));
    let reply = stage.joined(ticket);
    assert_eq!((reply.error, reply.generation), (ErrorCode::None, 1));
    assert!(!reply.skip_assignment && reply.members.is_empty());
    assert_ne!(reply.member_id, members[1].member_id);
    let [GroupRecord::Classic { value: Some(value), .. }] = &stage.log[before..] else {
        panic!("{:?}", stage.log)
    };
    assert_eq!(value.generation, 1, "its new id is written");
    assert!(value.members.iter().any(|member| member.member_id == reply.member_id));
    let restarted = members[1].with_id(&reply.member_id);
    let ticket = stage.sync_with(&restarted, 1, &[]);
    assert_eq!(stage.synced(ticket).assignment, "1");
    assert_eq!(stage.state(), "Stable");
}

#[test]
fn the_old_self_of_a_static_member_is_fenced() {
    let mut stage = Stage::new();
    let members = stage.stable(&[Who::fixed("a"), Who::fixed("b")]);
    let restarted = stage.join(&Who::fixed("b"));
    let new = members[1].with_id(&stage.joined(restarted).member_id);
    let old = &members[1];
    assert_eq!(stage.heartbeat(old, 1), ErrorCode::FencedInstanceId);
    assert_eq!(stage.commit(old.identity(), 1), ErrorCode::FencedInstanceId);
    assert_eq!(stage.leave(&[old]), [ErrorCode::FencedInstanceId]);
    let ticket = stage.sync_with(old, 1, &[]);
    assert_eq!(stage.synced(ticket).error, ErrorCode::FencedInstanceId);
    let ticket = stage.join(old);
    assert_eq!(stage.joined(ticket).error, ErrorCode::FencedInstanceId);
    assert_eq!(stage.heartbeat(&new, 1), ErrorCode::None);
}

#[test]
fn an_instance_that_is_not_known_cannot_come_with_a_member_id() {
    let mut stage = Stage::new();
    stage.stable(&[Who::fixed("a")]);
    let ticket = stage.join(&Who::fixed("b").with_id(&"b-1".into()));
    assert_eq!(stage.joined(ticket).error, ErrorCode::UnknownMemberId);
}

#[test]
fn a_leader_that_restarts_is_told_not_to_assign_if_it_understands() {
    let mut stage = Stage::new();
    stage.stable(&[Who::fixed("a"), Who::fixed("b")]);
    let ticket = stage.join(&Who::fixed("a"));
    let reply = stage.joined(ticket);
    assert!(reply.skip_assignment);
    assert_eq!((&reply.leader, reply.members.len()), (&reply.member_id, 2));
    assert_eq!(stage.state(), "Stable");
}

#[test]
fn an_older_leader_that_restarts_takes_itself_for_a_follower() {
    let mut stage = Stage::new();
    let members = stage.stable(&[Who::fixed("a"), Who::fixed("b")]);
    let ticket = stage.join(&Who { can_skip: false, ..Who::fixed("a") });
    let reply = stage.joined(ticket);
    assert_eq!((reply.skip_assignment, reply.members.len()), (false, 0));
    assert_eq!(reply.leader, members[0].member_id, "the id that it had before");
    let restarted = members[0].with_id(&reply.member_id);
    let again = stage.join(&restarted);
    assert!(stage.is_waiting(again), "it leads all the same: joining again begins a rebalance");
}

#[test]
fn a_static_member_that_changes_the_protocol_begins_a_rebalance() {
    let mut stage = Stage::new();
    let members = stage.stable(&[
        Who::fixed("a").with_protocols(&["x", "y"]),
        Who::fixed("b").with_protocols(&["x", "y"]),
        Who::fixed("c").with_protocols(&["y", "x"]),
    ]);
    let ticket = stage.join(&Who::fixed("b").with_protocols(&["y", "x"]));
    assert!(stage.is_waiting(ticket));
    assert_eq!(stage.state(), "PreparingRebalance");
    let others = [stage.join(&members[0]), stage.join(&members[2])];
    assert_eq!(stage.joined(ticket).protocol_name.as_deref(), Some("y"));
    assert_eq!(others.map(|ticket| stage.joined(ticket).generation), [2, 2]);
}

#[test]
fn a_restart_while_members_wait_for_assignments_begins_a_rebalance() {
    let mut stage = Stage::new();
    let members = stage.completing(&[Who::fixed("a"), Who::fixed("b"), Who::fixed("c")]);
    let waiting = [stage.sync_with(&members[1], 1, &[]), stage.sync_with(&members[2], 1, &[])];
    let restarted = stage.join(&Who::fixed("b"));
    assert_eq!(
        waiting.map(|ticket| stage.synced(ticket).error),
        [ErrorCode::FencedInstanceId, ErrorCode::RebalanceInProgress]
    );
    let again = [stage.join(&members[0]), stage.join(&members[2]), restarted];
    assert_eq!(again.map(|ticket| stage.joined(ticket).generation), [2, 2, 2]);
}

#[test]
fn a_restart_while_members_join_fences_the_join_that_waits() {
    let mut stage = Stage::new();
    let members = stage.stable(&[Who::fixed("a"), Who::fixed("b"), Who::fixed("c")]);
    let leader = stage.join(&members[0]);
    let waiting = stage.join(&members[1]);
    let restarted = stage.join(&Who::fixed("b"));
    let fenced = stage.joined(waiting);
    assert_eq!((fenced.error, &fenced.member_id), (ErrorCode::FencedInstanceId, &members[1].member_id));
    assert!(stage.is_waiting(leader) && stage.is_waiting(restarted), "one is missing");
    let last = stage.join(&members[2]);
    assert_eq!([leader, restarted, last].map(|ticket| stage.joined(ticket).generation), [2, 2, 2]);
}

#[test]
fn an_absent_static_member_stays_until_its_session_ends() {
    let mut stage = Stage::new();
    let absent = Who { session_ms: 6 * REBALANCE_MS, ..Who::fixed("b") };
    let members = stage.stable(&[Who::dynamic("a"), absent]);
    let ticket = stage.join(&members[0]);
    stage.pass(REBALANCE);
    let reply = stage.joined(ticket);
    assert_eq!((reply.generation, reply.members.len()), (2, 2), "others rebalance without it, but for it");
    let ticket = stage.sync_with(&members[0], 2, &[(&members[1].member_id, "kept")]);
    assert_eq!(stage.synced(ticket).error, ErrorCode::None);
    let back = stage.join(&Who::fixed("b"));
    let reply = stage.joined(back);
    assert_eq!(reply.generation, 2);
    let ticket = stage.sync_with(&members[1].with_id(&reply.member_id), 2, &[]);
    assert_eq!(stage.synced(ticket).assignment, "kept");
}

#[test]
fn a_rebalance_that_no_static_member_joins_is_tried_until_sessions_end() {
    let mut stage = Stage::new();
    let long = Who { session_ms: 3 * REBALANCE_MS, ..Who::fixed("i") };
    let members = stage.stable(&[long, Who::dynamic("b")]);
    assert_eq!(stage.leave(&[&members[1]]), [ErrorCode::None]);
    stage.pass(REBALANCE + REBALANCE / 2);
    assert_eq!(stage.state(), "PreparingRebalance");
    assert_eq!(stage.heartbeat(&members[0], 1), ErrorCode::RebalanceInProgress);
    stage.pass(3 * REBALANCE);
    assert_eq!(stage.state(), "Empty");
}

#[test]
fn an_absent_static_leader_leads_no_longer() {
    let mut stage = Stage::new();
    let long = Who { session_ms: 6 * REBALANCE_MS, ..Who::fixed("a") };
    let members = stage.stable(&[long, Who::dynamic("b")]);
    let ticket = stage.join(&members[1].with_protocols(&["range", "sticky"]));
    stage.pass(REBALANCE);
    let reply = stage.joined(ticket);
    assert_eq!((&reply.leader, reply.members.len()), (&members[1].member_id, 2));
}

#[test]
fn one_that_comes_back_into_a_rebalance_that_nobody_joined_ends_it() {
    let mut stage = Stage::new();
    let session_ms = 6 * REBALANCE_MS;
    let clients = [Who { session_ms, ..Who::fixed("a") }, Who { session_ms, ..Who::fixed("b") }];
    let members = stage.stable(&[clients[0].clone(), clients[1].clone(), Who::dynamic("c")]);
    assert_eq!(stage.leave(&[&members[2]]), [ErrorCode::None]);
    stage.pass(REBALANCE + 1);
    let ticket = stage.join(&clients[1]);
    assert!(stage.is_waiting(ticket));
    stage.pass(REBALANCE - 1);
    assert_eq!(
        stage.joined(ticket).members.len(),
        2,
        "the other one is not waited for until its session ends"
    );
}

#[test]
fn one_that_restarts_before_it_has_synced_is_waited_for_under_its_new_id() {
    let mut stage = Stage::new();
    let session_ms = 10 * REBALANCE_MS;
    let clients = [Who { session_ms, ..Who::fixed("a") }, Who { session_ms, ..Who::fixed("b") }];
    let members = stage.completing(&clients);
    let ticket = stage.sync_with(&members[0], 1, &[(&members[1].member_id, "B")]);
    assert_eq!(stage.synced(ticket).error, ErrorCode::None);
    let restarted = stage.join(&clients[1]);
    let restarted = clients[1].with_id(&stage.joined(restarted).member_id);
    let ticket = stage.sync_with(&restarted, 1, &[]);
    assert_eq!(stage.synced(ticket).assignment, "B");
    stage.pass(2 * REBALANCE);
    assert_eq!(stage.state(), "Stable", "all have synced");
}

#[test]
fn an_administrator_removes_a_static_member_by_its_instance() {
    let mut stage = Stage::new();
    let members = stage.stable(&[Who::fixed("a"), Who::fixed("b")]);
    let errors = stage.leave(&[&Who::fixed("b"), &Who::fixed("x"), &Who::dynamic("c")]);
    assert_eq!(errors, [ErrorCode::None, ErrorCode::UnknownMemberId, ErrorCode::UnknownMemberId]);
    assert_eq!(stage.heartbeat(&members[1], 1), ErrorCode::UnknownMemberId);
    assert_eq!(stage.heartbeat(&members[0], 1), ErrorCode::RebalanceInProgress);
}

#[test]
fn the_session_of_a_static_member_ends_like_any_other() {
    let mut stage = Stage::new();
    let members = stage.stable(&[Who::dynamic("a"), Who::fixed("b")]);
    for _ in 0..2 {
        stage.pass(SESSION / 2);
        stage.heartbeat(&members[0], 1);
    }
    assert_eq!(stage.state(), "PreparingRebalance");
    assert_eq!(stage.heartbeat(&members[1], 1), ErrorCode::UnknownMemberId);
}
