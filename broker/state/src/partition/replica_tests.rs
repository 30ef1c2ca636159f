//! A leader and its followers, one step at a time; `replication_model` has all of them together.

use logmill_wire::ids::{LeaderEpoch, MonotonicNs, NodeId, Offset, Uuid};
use logmill_wire::record_batch::BatchHeader;

use super::append::tests::batch_of;
use super::*;

const LOCAL: (NodeId, Uuid) = (NodeId(0), Uuid([1; 16]));
const POLICY: ReplicationPolicy = ReplicationPolicy { min_in_sync: 2, write_caching: false, lag_max_ms: 100 };
const EPOCH: LeaderEpoch = LeaderEpoch(3);

fn at(ms: u64) -> MonotonicNs {
    MonotonicNs(ms * 1_000_000)
}

fn broker(node: i32) -> ReplicaBroker {
    ReplicaBroker { node: NodeId(node), incarnation: Uuid([node as u8 + 1; 16]), is_active: true }
}

fn follower(node: i32) -> (NodeId, Uuid) {
    (NodeId(node), broker(node).incarnation)
}

fn assigned(partition_epoch: i32, in_sync: &[i32]) -> ReplicaAssignment {
    ReplicaAssignment {
        leader_epoch: EPOCH,
        partition_epoch,
        in_sync: in_sync.iter().copied().map(NodeId).collect(),
        has_eligible: false,
        replicas: (0..3).map(broker).collect(),
    }
}

fn batch(base: i64, records: i32, epoch: i32) -> BatchHeader {
    BatchHeader { base_offset: Offset(base), leader_epoch: LeaderEpoch(epoch), ..batch_of(records) }
}

/// Leads with ten durable records of an earlier epoch, and ten that are not durable.
fn leader(in_sync: &[i32]) -> Leader {
    let mut log = Leader::default();
    log.apply_batch(&batch(0, 10, 1));
    log.advance_durable(Offset(10));
    let follower = Follower::recovered(log, false);
    let (mut leader, effects) = follower.lead(LOCAL, &assigned(1, in_sync), POLICY, at(0)).unwrap();
    assert_eq!(effects, LeaderEffects::default());
    leader.apply_batch(&batch(10, 10, EPOCH.0));
    leader
}

fn ends(end: i64, durable: i64) -> FollowerEnds {
    let (log_end, written, durable) = (Offset(end), Offset(end), Offset(durable));
    FollowerEnds { log_end, written, durable, log_start: Offset(0), rewind: false }
}

fn told(leader: &mut Leader, node: i32, end: i64, durable: i64, now: u64) -> LeaderEffects {
    leader.on_follower_ends(follower(node), EPOCH, ends(end, durable), at(now)).unwrap()
}

fn proposed(effects: &LeaderEffects) -> Vec<i32> {
    let proposal = effects.alter_partition.as_ref();
    proposal.map_or_else(Vec::new, |proposal| proposal.in_sync.iter().map(|(node, _)| node.0).collect())
}

#[test]
fn the_high_watermark_is_the_least_durable_end_in_sync() {
    let mut leader = leader(&[0, 1]);
    assert_eq!(leader.high_watermark(), Offset(0), "what was committed before the restart is not known");
    assert!(!leader.is_high_watermark_current());
    assert!(!leader.advance_durable(Offset(20)));
    assert!(!told(&mut leader, 1, 20, 8, 1).high_watermark_moved || leader.high_watermark() == Offset(8));
    assert!(!leader.is_high_watermark_current(), "KIP-207");
    assert!(told(&mut leader, 1, 20, 15, 2).high_watermark_moved);
    assert_eq!(leader.high_watermark(), Offset(15));
    assert!(leader.is_high_watermark_current());
    assert!(!told(&mut leader, 1, 20, 12, 3).high_watermark_moved, "an answer that was overtaken");
    let ends_behind = leader.on_follower_ends(follower(1), EPOCH, ends(21, 0), at(4));
    let (end, log_end_offset) = (Offset(21), Offset(20));
    assert_eq!(ends_behind, Err(FollowerError::BeyondEnd { end, log_end_offset }));
}

#[test]
fn what_is_only_written_counts_with_write_caching() {
    let mut leader = leader(&[0, 1]);
    leader.advance_durable(Offset(20));
    let policy = ReplicationPolicy { write_caching: true, ..POLICY };
    leader.update_replicas(LOCAL, &assigned(1, &[0, 1]), policy, at(0));
    told(&mut leader, 1, 18, 3, 1);
    assert_eq!(leader.high_watermark(), Offset(18));
}

#[test]
fn who_is_proposed_counts_before_the_controller_has_answered() {
    let mut leader = leader(&[0, 1]);
    leader.advance_durable(Offset(20));
    told(&mut leader, 1, 20, 12, 1);
    assert_eq!(proposed(&told(&mut leader, 2, 20, 11, 2)), [0; 0], "it has less than is committed");
    let joins = told(&mut leader, 2, 20, 12, 3);
    assert_eq!(proposed(&joins), [0, 1, 2]);
    assert!(!told(&mut leader, 1, 20, 20, 4).high_watermark_moved, "broker 2 counts from now on");
    let proposal = joins.alter_partition.unwrap();
    assert_eq!(leader.pending_alter_partition(), Some(&proposal));
    let unknown = leader.on_alter_partition(&proposal, &AlterPartitionOutcome::Unknown);
    assert_eq!(unknown.alter_partition.as_ref(), Some(&proposal));
    let refused = leader.on_alter_partition(&proposal, &AlterPartitionOutcome::Ineligible);
    assert_eq!(proposed(&refused), [0, 1], "the old set, for its partition epoch");
    assert!(leader.is_in_maximal_set(NodeId(2)), "a copy of the refused proposal may still arrive");
    let (in_sync, has_eligible) = (vec![NodeId(0), NodeId(1)], false);
    let accepted = AlterPartitionOutcome::Accepted { partition_epoch: 2, in_sync, has_eligible };
    assert!(leader.on_alter_partition(&refused.alter_partition.unwrap(), &accepted).high_watermark_moved);
    assert_eq!(leader.high_watermark(), Offset(20));
}

#[test]
fn a_replica_joins_with_all_that_was_there_when_the_epoch_began() {
    let mut leader = leader(&[0]);
    let one = ReplicationPolicy { min_in_sync: 3, ..POLICY };
    leader.update_replicas(LOCAL, &assigned(1, &[0]), one, at(0));
    leader.advance_durable(Offset(20));
    assert_eq!(leader.high_watermark(), Offset(0), "too few are in sync for it to move");
    assert_eq!(proposed(&told(&mut leader, 1, 20, 9, 1)), [0; 0]);
    assert_eq!(proposed(&told(&mut leader, 1, 20, 10, 2)), [0, 1]);
}

#[test]
fn the_fenced_and_the_stale_do_not_join() {
    let mut leader = leader(&[0]);
    let mut assignment = assigned(1, &[0]);
    assignment.replicas[1].is_active = false;
    leader.update_replicas(LOCAL, &assignment, POLICY, at(0));
    assert_eq!(proposed(&told(&mut leader, 1, 20, 20, 1)), [0; 0], "KIP-841");
    let other = (NodeId(1), Uuid([77; 16]));
    let stale = leader.on_follower_ends(other, EPOCH, ends(20, 20), at(2));
    assert_eq!(stale, Err(FollowerError::OtherIncarnation { node: NodeId(1) }), "KIP-903");
    let unknown = leader.on_follower_ends((NodeId(7), Uuid([8; 16])), EPOCH, ends(0, 0), at(2));
    assert_eq!(unknown, Err(FollowerError::UnknownReplica { node: NodeId(7) }));
    let old = leader.on_follower_ends(follower(1), LeaderEpoch(2), ends(0, 0), at(2));
    assert_eq!(old, Err(FollowerError::Epoch(EpochCheckError::FencedLeaderEpoch { current: EPOCH })));
    // A new process of broker 1: what the old one said is forgotten.
    assignment.replicas[1] = ReplicaBroker { incarnation: other.1, ..broker(1) };
    assignment.partition_epoch = 2;
    leader.update_replicas(LOCAL, &assignment, POLICY, at(3));
    assert!(leader.on_follower_ends(follower(1), EPOCH, ends(20, 20), at(4)).is_err());
    assert_eq!(proposed(&leader.on_follower_ends(other, EPOCH, ends(20, 20), at(5)).unwrap()), [0, 1]);
}

#[test]
fn who_lags_is_removed_after_its_time() {
    let mut leader = leader(&[0, 1, 2]);
    leader.advance_durable(Offset(20));
    told(&mut leader, 1, 20, 20, 50);
    told(&mut leader, 2, 15, 15, 60);
    assert_eq!(proposed(&leader.shrink_in_sync(at(100))), [0; 0], "a new leader gives everybody time");
    let shrinks = leader.shrink_in_sync(at(101));
    assert_eq!(proposed(&shrinks), [0, 1], "who is at the end stays, however long nothing happens");
    assert_eq!(leader.high_watermark(), Offset(15), "until it is committed, the one who leaves counts");
    assert_eq!(leader.shrink_in_sync(at(500)), LeaderEffects::default(), "one proposal at a time");
    let (in_sync, has_eligible) = (vec![NodeId(0)], true);
    let accepted = AlterPartitionOutcome::Accepted { partition_epoch: 2, in_sync, has_eligible };
    let effects = leader.on_alter_partition(&shrinks.alter_partition.unwrap(), &accepted);
    assert!(effects.not_enough_replicas && !effects.high_watermark_moved);
    assert_eq!(leader.check_in_sync(), Err(NotEnoughReplicas { in_sync: 1, required: 2 }));
}

#[test]
fn who_keeps_up_with_a_moving_end_stays() {
    let mut leader = leader(&[0, 1]);
    for step in 1..10_i64 {
        let now = step as u64 * 60;
        told(&mut leader, 1, 10 * step, 10 * step, now);
        leader.apply_batch(&batch(10 * step + 10, 10, EPOCH.0));
        assert_eq!(proposed(&leader.shrink_in_sync(at(now + 1))), [0; 0], "step {step}");
    }
}

#[test]
fn what_was_pushed_and_does_not_arrive_is_pushed_again() {
    let mut leader = leader(&[0, 1, 2]);
    let next = |leader: &Leader| leader.next_push(NodeId(1)).unwrap();
    told(&mut leader, 1, 10, 10, 0);
    leader.on_pushed(NodeId(1), Offset(20));
    for now in (1..=14).map(|second| second * 1_000) {
        told(&mut leader, 1, 10, 10, now);
        assert_eq!(next(&leader), Offset(20), "it may be on its way");
    }
    told(&mut leader, 1, 15, 15, 14_900);
    told(&mut leader, 1, 15, 15, 29_000);
    assert_eq!(next(&leader), Offset(20), "some of it has come");
    told(&mut leader, 1, 15, 15, 30_000);
    assert_eq!(next(&leader), Offset(15));
    leader.on_pushed(NodeId(1), Offset(20));
    told(&mut leader, 1, 15, 15, 44_000);
    assert_eq!(next(&leader), Offset(20), "it was pushed again not long ago");
    told(&mut leader, 1, 20, 20, 46_000);
    told(&mut leader, 1, 20, 20, 99_000);
    leader.apply_batch(&batch(20, 10, EPOCH.0));
    leader.on_pushed(NodeId(1), Offset(30));
    told(&mut leader, 1, 20, 20, 99_001);
    assert_eq!(next(&leader), Offset(30), "it had everything until now");
}

#[test]
fn one_replica_needs_nobody() {
    let mut alone = assigned(0, &[0]);
    alone.replicas.truncate(1);
    let follower = Follower::recovered(Leader::default(), false);
    let (mut leader, _) = follower.lead(LOCAL, &alone, POLICY, at(0)).unwrap();
    assert!(leader.check_in_sync().is_ok() && leader.in_sync().is_none());
    leader.apply_batch(&batch(0, 5, EPOCH.0));
    assert!(leader.advance_durable(Offset(5)));
    assert_eq!(leader.high_watermark(), Offset(5));
    leader.apply_batch(&batch(5, 5, EPOCH.0));
    leader.update_replicas(LOCAL, &assigned(1, &[0]), POLICY, at(1));
    assert!(!leader.advance_durable(Offset(10)), "with three replicas, two must be in sync");
    assert_eq!(leader.high_watermark(), Offset(5));
}

fn following(log: &[BatchHeader]) -> Follower {
    let mut state = Leader::default();
    log.iter().for_each(|header| state.apply_batch(header));
    state.advance_durable(state.next_offset());
    let mut follower = Follower::recovered(state, false);
    let query = follower.follow(EPOCH).query.unwrap();
    let end = EpochEnd { epoch: query.last_epoch, end_offset: follower.log().next_offset() };
    let answer = DivergenceAnswer { query, end, first_offset: Offset(0) };
    assert!(follower.on_divergence_answer(&answer).answer.is_some_and(|ends| ends.rewind));
    follower
}

fn push(from: i64, high_watermark: i64) -> Push {
    let (log_start, first_offset) = (Offset(0), Offset(0));
    Push {
        leader_epoch: EPOCH,
        from: Offset(from),
        high_watermark: Offset(high_watermark),
        log_start,
        first_offset,
    }
}

#[test]
fn a_push_is_appended_once_and_in_order() {
    let mut follower = following(&[batch(0, 10, 1)]);
    let effects = follower.on_push(&push(10, 5), &[batch(10, 5, 3), batch(15, 5, 3)]).unwrap();
    assert_eq!(effects.append, Some(Batches { skip: 0, count: 2 }));
    assert!(effects.high_watermark_moved);
    assert_eq!(follower.log().high_watermark(), Offset(5));
    let again =
        follower.on_push(&push(10, 19), &[batch(10, 5, 3), batch(15, 5, 3), batch(20, 1, 3)]).unwrap();
    assert_eq!(again.append, Some(Batches { skip: 2, count: 1 }));
    assert_eq!(follower.log().high_watermark(), Offset(10), "no further than is durable here");
    assert!(follower.advance_ends(Offset(21), Offset(20)).high_watermark_moved);
    assert_eq!(follower.log().high_watermark(), Offset(19));
    let gap = follower.on_push(&push(30, 25), &[batch(30, 1, 3)]).unwrap();
    assert_eq!((gap.append, gap.answer.unwrap().rewind), (None, true));
    assert_eq!(follower.log().high_watermark(), Offset(19), "a push that is not taken says nothing");
}

#[test]
fn a_push_that_contradicts_itself_or_the_log_changes_nothing() {
    let mut follower = following(&[batch(0, 10, 1)]);
    let before = follower.clone();
    let older = Push { leader_epoch: LeaderEpoch(2), ..push(10, 0) };
    assert_eq!(follower.on_push(&older, &[]), Err(PushError::FencedLeaderEpoch { current: EPOCH }));
    let newer = Push { leader_epoch: LeaderEpoch(4), ..push(10, 0) };
    assert_eq!(follower.on_push(&newer, &[]), Err(PushError::UnknownLeaderEpoch { current: EPOCH }));
    for wrong in [
        vec![batch(10, 5, 3), batch(14, 5, 3)],
        vec![batch(9, 5, 3)],
        vec![batch(10, 5, 4)],
        vec![batch(10, 5, 3), batch(15, 5, 2)],
        vec![batch(10, 5, -1)],
        vec![batch(i64::MAX - 2, 5, 3)],
        vec![BatchHeader { last_offset_delta: -1, ..batch(10, 5, 3) }],
        vec![BatchHeader { producer_id: logmill_wire::ids::ProducerId(1), ..batch(10, 5, 3) }],
    ] {
        assert!(matches!(follower.on_push(&push(10, 0), &wrong), Err(PushError::Batch(_))), "{wrong:?}");
        assert_eq!(follower, before);
    }
    let other = follower.on_push(&push(0, 0), &[batch(0, 10, 2)]);
    assert_eq!(other, Err(PushError::Diverged { base_offset: Offset(0) }));
    assert!(follower.query().is_some(), "it is matched anew");
}

#[test]
fn a_log_is_cut_by_epochs_until_both_agree() {
    let mut state = Leader::default();
    // Here: epoch 1 up to 10, epoch 2 up to 20. The leader: epoch 0 up to 5, epoch 1 up to 8, epoch 3 from there.
    for header in [batch(0, 5, 0), batch(5, 5, 1), batch(10, 10, 2)] {
        state.apply_batch(&header);
    }
    state.advance_durable(Offset(20));
    let mut follower = Follower::recovered(state, false);
    let query = follower.follow(EPOCH).query.unwrap();
    assert_eq!((query.last_epoch, query.log_end), (LeaderEpoch(2), Offset(20)));
    let answer = |query, epoch, end| {
        let end = EpochEnd { epoch: LeaderEpoch(epoch), end_offset: Offset(end) };
        DivergenceAnswer { query, end, first_offset: Offset(0) }
    };
    let early = Push { from: Offset(20), ..push(0, 20) };
    assert_eq!(follower.on_push(&early, &[]).unwrap().append, None);
    assert_eq!(follower.log().high_watermark(), Offset(0), "KAFKA-14704: it is cut first");
    let change = LogChange::Cut { to: Offset(8) };
    let effects = follower.on_divergence_answer(&answer(query, 1, 8));
    assert_eq!((effects.change, effects.lost_committed), (Some(change), None));
    assert_eq!(follower.on_divergence_answer(&answer(query, 1, 3)), FollowerEffects::default());
    let leads = follower.clone().lead(
        LOCAL,
        &ReplicaAssignment { leader_epoch: LeaderEpoch(4), ..assigned(1, &[0]) },
        POLICY,
        at(0),
    );
    assert!(matches!(leads, Err((_, LeadError::LogIsChanging))));
    let effects = follower.on_log_changed(change, Offset(5), ProducerStates::default());
    assert_eq!(effects.answer.unwrap().log_end, Offset(5), "batches are cut whole");
    assert_eq!(follower.log().epochs().len(), 1);
    assert_eq!(follower.follow(EPOCH), FollowerEffects::default());
}

#[test]
fn an_epoch_that_is_unknown_here_is_asked_about_again() {
    let mut state = Leader::default();
    for header in [batch(0, 5, 0), batch(5, 5, 2)] {
        state.apply_batch(&header);
    }
    state.advance_durable(Offset(10));
    let mut follower = Follower::recovered(state, false);
    let query = follower.follow(EPOCH).query.unwrap();
    let end = EpochEnd { epoch: LeaderEpoch(1), end_offset: Offset(9) };
    let effects = follower.on_divergence_answer(&DivergenceAnswer { query, end, first_offset: Offset(0) });
    assert_eq!(effects.change, Some(LogChange::Cut { to: Offset(5) }));
    let again = follower.on_log_changed(effects.change.unwrap(), Offset(5), ProducerStates::default()).query;
    assert_eq!(again.map(|query| query.last_epoch), Some(LeaderEpoch(0)), "KIP-279");
}

#[test]
fn a_log_that_ends_before_the_leaders_begins_is_emptied() {
    let mut follower = following(&[batch(0, 10, 1)]);
    follower.on_push(&push(10, 10), &[]).unwrap();
    let gone = Push { log_start: Offset(55), first_offset: Offset(50), ..push(50, 60) };
    let effects = follower.on_push(&gone, &[batch(50, 10, 3)]).unwrap();
    let change = LogChange::Reset { start: Offset(50) };
    assert_eq!((effects.change, effects.append, effects.lost_committed), (Some(change), None, None));
    follower.on_log_changed(change, Offset(50), ProducerStates::default());
    assert_eq!(follower.log().high_watermark(), Offset(50), "KAFKA-9491");
    let effects = follower.on_push(&gone, &[batch(50, 10, 3)]).unwrap();
    assert!(effects.append.is_some() && effects.log_start.is_none(), "not beyond the high watermark");
    assert_eq!(follower.advance_ends(Offset(60), Offset(60)).answer.unwrap().durable, Offset(60));
    let later = Push { from: Offset(60), ..gone };
    assert_eq!(follower.on_push(&later, &[]).unwrap().log_start, Some(Offset(55)));
    follower.advance_log_start(Offset(55));
    assert_eq!(follower.log().log_start_offset(), Offset(55));
}

#[test]
fn an_unclean_election_is_noticed() {
    let mut follower = following(&[batch(0, 10, 1)]);
    follower.on_push(&push(10, 8), &[]).unwrap();
    let query = follower.follow(LeaderEpoch(4)).query.unwrap();
    let end = EpochEnd { epoch: LeaderEpoch(1), end_offset: Offset(4) };
    let effects = follower.on_divergence_answer(&DivergenceAnswer { query, end, first_offset: Offset(0) });
    assert_eq!(effects.lost_committed, Some((Offset(4), Offset(8))));
    follower.on_log_changed(effects.change.unwrap(), Offset(4), ProducerStates::default());
    assert_eq!(follower.log().high_watermark(), Offset(4));
}
