//! Leaving.

use super::stage::{DELAY_MS, Stage, Who};
use logmill_wire::error_codes::ErrorCode;

#[test]
fn members_leave_together_and_each_is_told() {
    let mut stage = Stage::new();
    let members = stage.stable(&[Who::dynamic("a"), Who::fixed("b"), Who::dynamic("c")]);
    let stranger = Who::dynamic("x").with_id(&"x".into());
    let impostor = members[1].with_id(&"y".into());
    let errors = stage.leave(&[&members[0], &stranger, &impostor, &members[0], &members[1]]);
    assert_eq!(
        errors,
        [
            ErrorCode::None,
            ErrorCode::UnknownMemberId,
            ErrorCode::FencedInstanceId,
            ErrorCode::UnknownMemberId,
            ErrorCode::None
        ]
    );
    let ticket = stage.join(&members[2]);
    let reply = stage.joined(ticket);
    assert_eq!((reply.generation, reply.members.len()), (2, 1));
    assert_eq!(reply.leader, members[2].member_id);
}

#[test]
fn who_is_refused_changes_nothing() {
    let mut stage = Stage::new();
    stage.stable(&[Who::dynamic("a")]);
    let stranger = Who::dynamic("x").with_id(&"x".into());
    assert_eq!(stage.leave(&[&stranger]), [ErrorCode::UnknownMemberId]);
    assert_eq!(stage.state(), "Stable");
}

#[test]
fn the_last_one_to_be_waited_for_ends_the_join_phase_by_leaving() {
    let mut stage = Stage::new();
    let members = stage.stable(&[Who::dynamic("a"), Who::dynamic("b")]);
    let ticket = stage.join(&members[0]);
    assert!(stage.is_waiting(ticket));
    assert_eq!(stage.leave(&[&members[1]]), [ErrorCode::None]);
    assert_eq!(stage.joined(ticket).members.len(), 1);
}

#[test]
fn an_id_that_was_given_out_can_be_given_back() {
    let mut stage = Stage::new();
    let members = stage.stable(&[Who::dynamic("a")]);
    let client = Who { requires_known_id: true, ..Who::dynamic("b") };
    let ticket = stage.join(&client);
    let pending = client.with_id(&stage.joined(ticket).member_id);
    let ticket = stage.join(&members[0]);
    assert!(stage.is_waiting(ticket));
    assert_eq!(stage.leave(&[&pending]), [ErrorCode::None]);
    assert_eq!(stage.joined(ticket).generation, 2);
    let ticket = stage.join(&pending);
    assert_eq!(stage.joined(ticket).error, ErrorCode::UnknownMemberId);
}

#[test]
fn requests_of_a_member_that_is_removed_are_answered() {
    let mut stage = Stage::new();
    let members = stage.completing(&[Who::dynamic("a"), Who::dynamic("b")]);
    let syncing = stage.sync_with(&members[1], 1, &[]);
    stage.leave(&[&members[1]]);
    assert_eq!(stage.synced(syncing).error, ErrorCode::UnknownMemberId);
    let newcomer = stage.join(&Who::dynamic("c"));
    let joining = stage.join(&members[0]);
    assert_eq!(stage.joined(newcomer).generation, 2);
    let newcomer =
        stage.joined(joining).members.iter().find(|m| m.member_id != members[0].member_id).cloned();
    let newcomer = Who::dynamic("c").with_id(&newcomer.unwrap().member_id);
    let joining = stage.join(&members[0].with_protocols(&["range", "more"]));
    assert!(stage.is_waiting(joining));
    stage.leave(&[&members[0]]);
    let reply = stage.joined(joining);
    assert_eq!((reply.error, &*reply.member_id), (ErrorCode::UnknownMemberId, ""));
    assert_eq!(stage.heartbeat(&newcomer, 2), ErrorCode::RebalanceInProgress);
}

#[test]
fn an_initial_rebalance_that_everybody_leaves_ends_in_its_time() {
    let mut stage = Stage::new();
    let client = Who { requires_known_id: true, ..Who::dynamic("a") };
    let ticket = stage.join(&client);
    let member = client.with_id(&stage.joined(ticket).member_id);
    let ticket = stage.join(&member);
    stage.leave(&[&member]);
    assert_eq!(stage.joined(ticket).error, ErrorCode::UnknownMemberId);
    assert_eq!(stage.state(), "PreparingRebalance");
    stage.pass(DELAY_MS);
    assert_eq!(stage.state(), "Empty");
    assert_eq!(stage.groups.next_deadline(), None, "no session is left");
}
