//! How a rebalance begins and ends.

use super::stage::{DELAY_MS, REBALANCE_MS, SESSION_MS, Stage, Who};
use crate::group::GroupRecord;
use logmill_wire::error_codes::ErrorCode;
use std::sync::Arc;

const SESSION: u64 = SESSION_MS.unsigned_abs() as u64;
const REBALANCE: u64 = REBALANCE_MS.unsigned_abs() as u64;

#[test]
fn the_first_rebalance_waits_for_more_members() {
    let mut stage = Stage::new();
    let first = stage.join(&Who::dynamic("a"));
    stage.pass(DELAY_MS - 1);
    assert!(stage.is_waiting(first));
    stage.pass(1);
    assert_eq!(stage.joined(first).generation, 1);
}

#[test]
fn each_newcomer_extends_the_first_rebalance_up_to_the_rebalance_timeout() {
    let mut stage = Stage::new();
    let rebalance_ms = 10_000;
    let mut tickets = vec![stage.join(&Who { rebalance_ms, ..Who::dynamic("m0") })];
    for number in 1..5 {
        stage.pass(2_000);
        tickets.push(stage.join(&Who { rebalance_ms, ..Who::dynamic(&format!("m{number}")) }));
    }
    // Delays of 3, 3, 3 and 1 s: ten in all, however late the last one comes.
    stage.pass(1_500);
    tickets.push(stage.join(&Who { rebalance_ms, ..Who::dynamic("late") }));
    stage.pass(499);
    assert!(tickets.iter().all(|ticket| stage.is_waiting(*ticket)));
    stage.pass(1);
    for ticket in tickets {
        assert_eq!(stage.joined(ticket).generation, 1);
    }
}

#[test]
fn without_a_newcomer_the_delay_is_not_extended() {
    let mut stage = Stage::new();
    let first = stage.join(&Who::dynamic("a"));
    stage.pass(1_000);
    let second = stage.join(&Who::dynamic("b"));
    stage.pass(2 * DELAY_MS - 1_001);
    assert!(stage.is_waiting(first) && stage.is_waiting(second), "one newcomer, one extension");
    stage.pass(1);
    assert_eq!(stage.joined(first).members.len(), 2);
}

#[test]
fn a_delay_of_zero_ends_at_once() {
    let mut stage = Stage::new();
    stage.settings.initial_rebalance_delay_ms = 0;
    let ticket = stage.join(&Who::dynamic("a"));
    stage.pass(0);
    assert_eq!(stage.joined(ticket).generation, 1);
}

#[test]
fn the_protocol_of_most_votes_among_the_common_ones_wins() {
    let mut stage = Stage::new();
    let clients = [
        Who::dynamic("a").with_protocols(&["x", "z", "y"]),
        Who::dynamic("b").with_protocols(&["z", "y"]),
        Who::dynamic("c").with_protocols(&["y", "z"]),
    ];
    let tickets = clients.each_ref().map(|who| stage.join(who));
    stage.pass(2 * DELAY_MS);
    let replies = tickets.map(|ticket| stage.joined(ticket));
    for reply in &replies {
        assert_eq!(reply.protocol_name.as_deref(), Some("z"));
        assert_eq!(reply.protocol_type.as_deref(), Some("consumer"));
    }
    let metadata: Vec<&[u8]> = replies[0].members.iter().map(|member| &*member.metadata).collect();
    assert_eq!(metadata, [b"z", b"z", b"z"], "what they say for the protocol that was chosen");
}

#[test]
fn equal_votes_go_to_the_first_by_name() {
    let mut stage = Stage::new();
    let clients =
        [Who::dynamic("a").with_protocols(&["z", "y"]), Who::dynamic("b").with_protocols(&["y", "z"])];
    let tickets = clients.each_ref().map(|who| stage.join(who));
    stage.pass(2 * DELAY_MS);
    assert_eq!(stage.joined(tickets[0]).protocol_name.as_deref(), Some("y"));
}

#[test]
fn the_leader_begins_a_rebalance_by_joining_and_a_follower_does_not() {
    let mut stage = Stage::new();
    let members = stage.stable(&[Who::dynamic("a"), Who::dynamic("b")]);
    let follower = stage.join(&members[1]);
    let reply = stage.joined(follower);
    assert_eq!((reply.error, reply.generation, reply.members.len()), (ErrorCode::None, 1, 0));
    assert_eq!(reply.leader, members[0].member_id);
    assert_eq!(stage.state(), "Stable");
    let leader = stage.join(&members[0]);
    assert!(stage.is_waiting(leader));
    assert_eq!(stage.state(), "PreparingRebalance");
}

#[test]
fn a_follower_that_has_changed_begins_a_rebalance() {
    let mut stage = Stage::new();
    let members = stage.stable(&[Who::dynamic("a"), Who::dynamic("b")]);
    let changed = stage.join(&members[1].with_protocols(&["range", "sticky"]));
    assert!(stage.is_waiting(changed));
    assert_eq!(stage.heartbeat(&members[0], 1), ErrorCode::RebalanceInProgress);
    let leader = stage.join(&members[0]);
    assert_eq!(stage.joined(leader).generation, 2);
    assert_eq!(stage.joined(changed).generation, 2);
}

#[test]
fn who_missed_the_reply_to_its_join_gets_it_again() {
    let mut stage = Stage::new();
    let members = stage.completing(&[Who::dynamic("a"), Who::dynamic("b")]);
    for (who, count) in members.iter().zip([2, 0]) {
        let ticket = stage.join(who);
        let reply = stage.joined(ticket);
        assert_eq!((reply.error, reply.generation, reply.members.len()), (ErrorCode::None, 1, count));
    }
    let changed = stage.join(&members[1].with_protocols(&["range", "sticky"]));
    assert!(stage.is_waiting(changed), "but with other metadata all join again");
    assert_eq!(stage.state(), "PreparingRebalance");
}

#[test]
fn who_does_not_join_within_the_longest_rebalance_timeout_is_removed() {
    let mut stage = Stage::new();
    let quick = Who { rebalance_ms: 20_000, ..Who::dynamic("a") };
    let slow = Who { rebalance_ms: 40_000, ..Who::dynamic("b") };
    let members = stage.stable(&[quick, slow]);
    let joining = stage.join(&members[0]);
    for _ in 0..8 {
        assert_eq!(stage.heartbeat(&members[1], 1), ErrorCode::RebalanceInProgress);
        assert!(stage.is_waiting(joining));
        stage.pass(5_000);
    }
    let reply = stage.joined(joining);
    assert_eq!((reply.generation, reply.members.len()), (2, 1));
    assert_eq!(stage.heartbeat(&members[1], 1), ErrorCode::UnknownMemberId);
}

#[test]
fn another_one_leads_if_the_leader_does_not_join() {
    let mut stage = Stage::new();
    let members = stage.stable(&[Who::dynamic("a"), Who::dynamic("b")]);
    let joining = stage.join(&members[1].with_protocols(&["range", "sticky"]));
    stage.pass(REBALANCE);
    let reply = stage.joined(joining);
    assert_eq!((reply.leader, reply.members.len()), (members[1].member_id.clone(), 1));
}

#[test]
fn a_silent_member_is_removed_and_the_others_rebalance() {
    let mut stage = Stage::new();
    let members = stage.stable(&[Who::dynamic("a"), Who::dynamic("b")]);
    stage.pass(SESSION - 1);
    assert_eq!(stage.heartbeat(&members[0], 1), ErrorCode::None);
    assert_eq!(stage.state(), "Stable");
    stage.pass(1);
    assert_eq!(stage.state(), "PreparingRebalance");
    assert_eq!(stage.heartbeat(&members[1], 1), ErrorCode::UnknownMemberId);
    let joining = stage.join(&members[0]);
    assert_eq!(stage.joined(joining).generation, 2);
}

#[test]
fn who_waits_for_the_others_is_not_silent() {
    let mut stage = Stage::new();
    let members = stage.stable(&[Who::dynamic("a"), Who::dynamic("b")]);
    let joining = stage.join(&members[0]);
    for _ in 0..5 {
        stage.pass(SESSION - 1);
        assert_eq!(stage.heartbeat(&members[1], 1), ErrorCode::RebalanceInProgress);
    }
    assert!(stage.is_waiting(joining));
    let other = stage.join(&members[1]);
    assert_eq!(stage.joined(joining).error, ErrorCode::None);
    assert_eq!(stage.joined(other).error, ErrorCode::None);
    stage.pass(SESSION - 1);
    assert_eq!(stage.heartbeat(&members[0], 2), ErrorCode::None, "its session begins with the reply");
}

#[test]
fn the_last_member_that_goes_leaves_an_empty_group_of_the_next_generation() {
    let mut stage = Stage::new();
    stage.stable(&[Who::dynamic("a")]);
    stage.pass(SESSION);
    assert_eq!(stage.state(), "Empty");
    let Some(GroupRecord::Classic { value: Some(value), .. }) = stage.log.last() else { panic!("no record") };
    assert_eq!((value.generation, value.members.len()), (2, 0));
    assert_eq!((&value.protocol, &value.leader), (&None, &None));
    assert_eq!(&*value.protocol_type, "consumer");
    assert_eq!(value.state_timestamp, Some(stage.wall()));
    assert_eq!(stage.groups.next_deadline(), None, "nothing is left to happen");
}

#[test]
fn absent_static_members_that_allow_no_time_are_not_looked_for_at_one_instant_for_ever() {
    let mut stage = Stage::new();
    let members = stage.stable(&[Who::fixed("a"), Who::dynamic("b")]);
    let ticket = stage.join(&Who { rebalance_ms: 0, ..Who::fixed("a") });
    let member = members[0].with_id(&stage.joined(ticket).member_id);
    assert_eq!(stage.leave(&[&members[1]]), [ErrorCode::None]);
    stage.pass(SESSION - 1);
    assert_eq!(stage.state(), "PreparingRebalance");
    stage.pass(1);
    assert_eq!(stage.state(), "Empty");
    assert_eq!(stage.heartbeat(&member, 1), ErrorCode::UnknownMemberId);
}

#[test]
fn who_could_not_be_heard_stays_and_who_is_gone_is_found_out() {
    let mut stage = Stage::new();
    let members = stage.stable(&[Who::dynamic("a"), Who::dynamic("b")]);
    stage.hold_up(SESSION + 700);
    assert_eq!(stage.state(), "Stable");
    stage.pass(5_999);
    assert_eq!(stage.heartbeat(&members[0], 1), ErrorCode::None);
    stage.hold_up(700);
    assert_eq!(stage.heartbeat(&members[1], 1), ErrorCode::UnknownMemberId, "it was silent for long enough");
    let joining = stage.join(&members[0]);
    assert_eq!(stage.joined(joining).generation, 2);
    let syncing = stage.sync_with(&members[0], 2, &[]);
    assert_eq!(stage.synced(syncing).error, ErrorCode::None);
    stage.hold_up(SESSION);
    assert_eq!(stage.heartbeat(&members[0], 2), ErrorCode::None, "it was heard of since the last time");
}

#[test]
fn a_rebalance_waits_once_more_for_those_that_could_not_be_told_of_it() {
    let mut stage = Stage::new();
    let clients = ["a", "b"].map(|name| Who { session_ms: 120_000, ..Who::dynamic(name) });
    let members = stage.stable(&clients);
    let joining = stage.join(&members[0]);
    stage.hold_up(REBALANCE);
    assert!(stage.is_waiting(joining));
    stage.pass(5_999);
    let other = stage.join(&members[1]);
    assert_eq!(stage.joined(joining).generation, 2);
    assert_eq!(stage.joined(other).error, ErrorCode::None);
    let again = stage.join(&members[0].with_protocols(&["range", "more"]));
    stage.hold_up(REBALANCE);
    stage.hold_up(6_000);
    assert_eq!(stage.joined(again).members.len(), 1, "a second time it does not wait");
}

#[test]
fn who_could_not_sync_has_more_time_once() {
    let mut stage = Stage::new();
    let clients = ["a", "b"].map(|name| Who { session_ms: 120_000, ..Who::dynamic(name) });
    let members = stage.completing(&clients);
    let leader = stage.sync_with(&members[0], 1, &[]);
    assert_eq!(stage.synced(leader).error, ErrorCode::None);
    stage.hold_up(REBALANCE);
    assert_eq!(stage.state(), "Stable");
    stage.hold_up(6_000);
    assert_eq!(stage.state(), "PreparingRebalance");
    assert_eq!(stage.heartbeat(&members[1], 1), ErrorCode::UnknownMemberId);
}

#[test]
fn a_thousand_members_rebalance_and_beat() {
    let mut stage = Stage::new();
    let clients: Vec<Who> = (0..1000).map(|number| Who::dynamic(&format!("m{number:04}"))).collect();
    let members = stage.completing(&clients);
    let names: Vec<String> = (0..1000).map(|place| place.to_string()).collect();
    let assignments: Vec<(&Arc<str>, &str)> =
        members.iter().zip(&names).map(|(who, name)| (&who.member_id, &**name)).collect();
    let followers: Vec<_> = members[1..].iter().map(|who| stage.sync_with(who, 1, &[])).collect();
    let leader = stage.sync_with(&members[0], 1, &assignments);
    assert_eq!(stage.synced(leader).assignment, "0");
    for (place, ticket) in followers.into_iter().enumerate() {
        assert_eq!(stage.synced(ticket).assignment, names[place + 1]);
    }
    for _ in 0..10 {
        stage.pass(SESSION / 2);
        assert!(members.iter().all(|who| stage.heartbeat(who, 1) == ErrorCode::None));
    }
}
