//! Who may join, and as whom.

use super::stage::{DELAY_MS, SESSION_MS, Stage, Who};
use crate::group::{GroupRecord, MemberIdentity};
use logmill_wire::error_codes::ErrorCode;

fn join_error(stage: &mut Stage, who: &Who) -> ErrorCode {
    let ticket = stage.join(who);
    stage.joined(ticket).error
}

#[test]
fn a_dynamic_member_is_given_an_id_to_come_again_with() {
    let mut stage = Stage::new();
    let client = Who { requires_known_id: true, ..Who::dynamic("c") };
    let ticket = stage.join(&client);
    let reply = stage.joined(ticket);
    assert_eq!(reply.error, ErrorCode::MemberIdRequired);
    assert!(reply.member_id.starts_with("c-") && reply.member_id.len() == 38, "{}", reply.member_id);
    assert_eq!(stage.state(), "Empty");
    let member = client.with_id(&reply.member_id);
    let ticket = stage.join(&member);
    assert!(stage.is_waiting(ticket));
    stage.pass(DELAY_MS);
    let joined = stage.joined(ticket);
    assert_eq!((joined.error, joined.generation), (ErrorCode::None, 1));
    assert_eq!((&joined.leader, &joined.member_id), (&member.member_id, &member.member_id));
}

#[test]
fn an_id_that_is_not_used_expires_with_the_session_timeout() {
    let mut stage = Stage::new();
    let client = Who { requires_known_id: true, ..Who::dynamic("c") };
    let ticket = stage.join(&client);
    let id = stage.joined(ticket).member_id;
    stage.pass(u64::try_from(SESSION_MS).unwrap());
    assert_eq!(join_error(&mut stage, &client.with_id(&id)), ErrorCode::UnknownMemberId);
}

#[test]
fn a_rebalance_waits_for_an_id_that_was_given_out() {
    let mut stage = Stage::new();
    let members = stage.stable(&[Who::dynamic("a")]);
    let pending = Who { requires_known_id: true, ..Who::dynamic("b") };
    let ticket = stage.join(&pending);
    let id = stage.joined(ticket).member_id;
    let again = stage.join(&members[0]);
    assert!(stage.is_waiting(again), "the other one is expected");
    let other = stage.join(&pending.with_id(&id));
    let (again, other) = (stage.joined(again), stage.joined(other));
    assert_eq!((again.generation, other.generation), (2, 2));
    assert_eq!((again.members.len(), other.members.len()), (2, 0), "only the leader hears of all");
}

#[test]
fn a_pending_member_cannot_be_static() {
    let mut stage = Stage::new();
    let client = Who { requires_known_id: true, ..Who::dynamic("c") };
    let ticket = stage.join(&client);
    let id = stage.joined(ticket).member_id;
    let odd = Who { instance_id: Some("i".into()), ..client.with_id(&id) };
    assert_eq!(join_error(&mut stage, &odd), ErrorCode::UnknownServerError);
}

#[test]
fn an_unknown_member_id_founds_no_group_and_joins_none() {
    let mut stage = Stage::new();
    let stranger = Who::dynamic("c").with_id(&"c-1".into());
    assert_eq!(join_error(&mut stage, &stranger), ErrorCode::UnknownMemberId);
    assert_eq!(stage.log, []);
    stage.stable(&[Who::dynamic("a")]);
    assert_eq!(join_error(&mut stage, &stranger), ErrorCode::UnknownMemberId);
}

#[test]
fn session_timeouts_are_bounded() {
    let mut stage = Stage::new();
    for (session_ms, error) in [
        (-1, ErrorCode::InvalidSessionTimeout),
        (5_999, ErrorCode::InvalidSessionTimeout),
        (1_800_001, ErrorCode::InvalidSessionTimeout),
        (6_000, ErrorCode::MemberIdRequired),
        (1_800_000, ErrorCode::MemberIdRequired),
    ] {
        let client = Who { session_ms, requires_known_id: true, ..Who::dynamic("c") };
        assert_eq!(join_error(&mut stage, &client), error, "{session_ms}");
    }
    stage.settings.min_session_timeout_ms = 0;
    let client = Who { session_ms: -1, ..Who::dynamic("c") };
    assert_eq!(join_error(&mut stage, &client), ErrorCode::InvalidSessionTimeout);
}

#[test]
fn a_group_that_is_founded_is_written_at_once() {
    let mut stage = Stage::new();
    stage.join(&Who::dynamic("c"));
    let [GroupRecord::Classic { value: Some(value), .. }] = &stage.log[..] else { panic!("{:?}", stage.log) };
    assert_eq!((value.generation, &*value.protocol_type, value.members.len()), (0, "", 0));
    assert_eq!(value.state_timestamp, Some(stage.wall()));
    stage.join(&Who::dynamic("d"));
    assert_eq!(stage.log.len(), 1);
}

#[test]
fn an_empty_group_takes_any_protocols_but_none() {
    let mut stage = Stage::new();
    let none = Who::dynamic("c").with_protocols(&[]);
    assert_eq!(join_error(&mut stage, &none), ErrorCode::InconsistentGroupProtocol);
    let untyped = Who { protocol_type: "".into(), ..Who::dynamic("c") };
    assert_eq!(join_error(&mut stage, &untyped), ErrorCode::InconsistentGroupProtocol);
}

#[test]
fn a_member_must_share_type_and_a_protocol_with_all_others() {
    let mut stage = Stage::new();
    let members = stage.stable(&[
        Who::dynamic("a").with_protocols(&["x", "y"]),
        Who::dynamic("b").with_protocols(&["y", "z"]),
    ]);
    let odd = Who { protocol_type: "connect".into(), ..Who::dynamic("c").with_protocols(&["y"]) };
    assert_eq!(join_error(&mut stage, &odd), ErrorCode::InconsistentGroupProtocol);
    // Each is supported by one of them, none by both.
    let odd = Who::dynamic("c").with_protocols(&["x", "z"]);
    assert_eq!(join_error(&mut stage, &odd), ErrorCode::InconsistentGroupProtocol);
    let odd = members[0].with_protocols(&["z"]);
    assert_eq!(join_error(&mut stage, &odd), ErrorCode::InconsistentGroupProtocol);
    assert_eq!(stage.state(), "Stable");
    let fitting = stage.join(&Who::dynamic("c").with_protocols(&["y"]));
    assert!(stage.is_waiting(fitting));
}

#[test]
fn a_full_group_takes_no_more() {
    let mut stage = Stage::new();
    stage.settings.max_size = 2;
    let clients = [Who::dynamic("a"), Who::dynamic("b"), Who::dynamic("c")];
    let tickets = clients.each_ref().map(|who| stage.join(who));
    let refused = stage.joined(tickets[2]);
    assert_eq!((refused.error, &*refused.member_id), (ErrorCode::GroupMaxSizeReached, ""));
    stage.pass(2 * DELAY_MS);
    let first = stage.joined(tickets[0]);
    assert_eq!(first.members.len(), 2);
    assert_eq!(join_error(&mut stage, &clients[2]), ErrorCode::GroupMaxSizeReached);
    let member = clients[0].with_id(&first.member_id);
    assert_eq!(join_error(&mut stage, &member), ErrorCode::None, "who is in stays in");
}

#[test]
fn a_join_that_is_sent_again_is_answered_once_and_the_older_one_is_sent_off() {
    let mut stage = Stage::new();
    let members = stage.stable(&[Who::dynamic("a"), Who::dynamic("b")]);
    let first = stage.join(&members[0]);
    let second = stage.join(&members[0]);
    assert_eq!(stage.joined(first).error, ErrorCode::NotCoordinator);
    let other = stage.join(&members[1]);
    assert_eq!(stage.joined(second).generation, 2);
    assert_eq!(stage.joined(other).generation, 2);
}

#[test]
fn a_new_member_whose_client_is_gone_does_not_wait_for_ever() {
    let mut stage = Stage::new();
    let patient = i32::MAX;
    let members = stage.stable(&[Who { rebalance_ms: patient, ..Who::dynamic("a") }]);
    let joining = stage.join(&Who::dynamic("b"));
    for _ in 0..60 {
        assert_eq!(stage.heartbeat(&members[0], 1), ErrorCode::RebalanceInProgress);
        assert!(stage.is_waiting(joining));
        stage.pass(5_000);
    }
    let reply = stage.joined(joining);
    assert_eq!((reply.error, &*reply.member_id), (ErrorCode::UnknownMemberId, ""));
}

#[test]
fn a_member_of_a_group_that_was_emptied_joins_anew() {
    let mut stage = Stage::new();
    let members = stage.stable(&[Who::dynamic("a")]);
    stage.leave(&[&members[0]]);
    assert_eq!(stage.state(), "Empty");
    assert_eq!(join_error(&mut stage, &members[0]), ErrorCode::UnknownMemberId);
    let identity = MemberIdentity { member_id: "".into(), instance_id: None };
    assert_eq!(stage.commit(identity, -1), ErrorCode::None, "anybody may commit to an empty group");
}
