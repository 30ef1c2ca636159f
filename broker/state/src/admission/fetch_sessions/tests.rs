//! Sessions one by one, and clients with sessions against clients without.

use std::collections::BTreeSet;

use super::*;
use crate::test_random::Random;

const MINUTE: u64 = 60_000_000_000;
const LIMITS: FetchSessionLimits = FetchSessionLimits { slots: 2, eviction_ns: 2 * MINUTE };

type Sessions = FetchSessions<u32>;

fn sessions(slots: usize) -> Sessions {
    FetchSessions::new(ShardIndex(3), FetchSessionLimits { slots, ..LIMITS })
}

fn at(minutes: u64) -> MonotonicNs {
    MonotonicNs(minutes * MINUTE)
}

fn from(offset: i64) -> FetchPartition {
    FetchPartition {
        fetch_offset: Offset(offset),
        max_bytes: 1000,
        current_leader_epoch: LeaderEpoch(0),
        last_fetched_epoch: LeaderEpoch::NONE,
        follower_log_start_offset: Offset(-1),
    }
}

fn quiet(high_watermark: i64) -> FetchedPartition {
    FetchedPartition {
        high_watermark: Offset(high_watermark),
        log_start_offset: Offset(0),
        has_records: false,
        has_error: false,
        has_redirection: false,
    }
}

fn with_records(high_watermark: i64) -> FetchedPartition {
    FetchedPartition { has_records: true, ..quiet(high_watermark) }
}

fn error() -> FetchedPartition {
    FetchedPartition { has_error: true, log_start_offset: Offset(-1), ..quiet(-1) }
}

fn request(session_id: i32, epoch: i32, keys: &[u32]) -> FetchSessionRequest<u32> {
    FetchSessionRequest {
        session_id,
        epoch,
        uses_topic_ids: true,
        is_privileged: false,
        partitions: keys.iter().map(|&key| (key, from(0))).collect(),
        forgotten: Vec::new(),
    }
}

fn keys(context: &FetchContext<u32>) -> Vec<u32> {
    context.partitions().iter().map(|(key, _)| *key).collect()
}

/// Begins a session with partitions 0 to `len` - 1, all with high watermark 10; gives its id or 0.
fn open(sessions: &mut Sessions, len: u32, is_privileged: bool, now: MonotonicNs) -> i32 {
    let all: Vec<u32> = (0..len).collect();
    let request = FetchSessionRequest { is_privileged, ..request(NO_SESSION, INITIAL_EPOCH, &all) };
    let context = sessions.begin(request, now).unwrap();
    let fetched: Vec<_> = all.iter().map(|&key| (key, quiet(10))).collect();
    let random_bits = u64::from(len) * 1000 + u64::from(is_privileged) * 100;
    let outcome = sessions.finish(context, &fetched, random_bits, now).unwrap();
    assert!(outcome.included.iter().all(|&included| included));
    outcome.session_id
}

/// Goes on with a session that names nothing new, and gives what of `fetched` is sent.
fn go_on(sessions: &mut Sessions, id: i32, epoch: i32, fetched: &[(u32, FetchedPartition)]) -> Vec<u32> {
    let context = sessions.begin(request(id, epoch, &[]), at(0)).unwrap();
    let outcome = sessions.finish(context, fetched, 0, at(0)).unwrap();
    assert_eq!(outcome.session_id, id);
    fetched.iter().zip(outcome.included).filter(|(_, included)| *included).map(|((key, _), _)| *key).collect()
}

#[test]
fn an_id_tells_its_home_shard() {
    let mut sessions = sessions(10);
    let ids: BTreeSet<i32> = (0..10).map(|_| open(&mut sessions, 1, false, at(0))).collect();
    assert_eq!(ids.len(), 10, "the same random bits give different ids");
    assert!(ids.iter().all(|&id| id > 0 && home_shard(id) == Some(ShardIndex(3))));
    let mut last: Sessions = FetchSessions::new(ShardIndex(255), LIMITS);
    let context = last.begin(request(0, 0, &[1]), at(0)).unwrap();
    let id = last.finish(context, &[(1, quiet(0))], u64::MAX, at(0)).unwrap().session_id;
    assert_eq!((id, home_shard(id)), (i32::MAX, Some(ShardIndex(255))));
    assert_eq!((home_shard(0), home_shard(-1)), (None, None));
    let mut first: Sessions = FetchSessions::new(ShardIndex(0), LIMITS);
    let context = first.begin(request(0, 0, &[1]), at(0)).unwrap();
    assert_ne!(first.finish(context, &[(1, quiet(0))], 0, at(0)).unwrap().session_id, NO_SESSION);
}

#[test]
fn only_what_changed_is_sent() {
    let mut sessions = sessions(1);
    let id = open(&mut sessions, 3, false, at(0));
    assert_eq!(go_on(&mut sessions, id, 1, &[(0, quiet(10)), (1, quiet(10)), (2, quiet(10))]), [0; 0]);
    assert_eq!(go_on(&mut sessions, id, 2, &[(0, quiet(11)), (1, with_records(10)), (2, quiet(10))]), [0, 1]);
    assert_eq!(go_on(&mut sessions, id, 3, &[(0, quiet(11)), (1, quiet(10)), (2, error())]), [2]);
    assert_eq!(go_on(&mut sessions, id, 4, &[(2, error())]), [2], "an error is sent every time");
    assert_eq!(go_on(&mut sessions, id, 5, &[(2, quiet(10))]), [2], "and that it is gone, too");
    let throttled = FetchedPartition { has_error: true, ..quiet(10) };
    assert_eq!(go_on(&mut sessions, id, 6, &[(2, throttled)]), [2]);
    assert_eq!(go_on(&mut sessions, id, 7, &[(2, quiet(10))]), [2], "though only the error changed");
    let moved = FetchedPartition { log_start_offset: Offset(4), ..quiet(10) };
    assert_eq!(go_on(&mut sessions, id, 8, &[(1, moved)]), [1]);
    assert_eq!(go_on(&mut sessions, id, 9, &[(1, moved)]), [0; 0]);
    let diverging = FetchedPartition { has_redirection: true, ..moved };
    assert_eq!(go_on(&mut sessions, id, 10, &[(1, diverging)]), [1]);
    assert_eq!(go_on(&mut sessions, id, 11, &[]), [0; 0], "a throttled response says nothing");
}

#[test]
fn partitions_come_change_and_go() {
    let mut sessions = sessions(1);
    let id = open(&mut sessions, 3, false, at(0));
    let changes = FetchSessionRequest {
        partitions: vec![(7, from(5)), (1, from(9))],
        forgotten: vec![0, 99],
        ..request(id, 1, &[])
    };
    let context = sessions.begin(changes, at(0)).unwrap();
    assert_eq!(context.partitions(), [(1, from(9)), (2, from(0)), (7, from(5))]);
    assert_eq!(sessions.partition_count(), 3);
    let fetched = [(1, quiet(10)), (2, quiet(10)), (7, quiet(0))];
    let outcome = sessions.finish(context, &fetched, 0, at(0)).unwrap();
    assert_eq!(outcome.included, [false, false, true], "a new partition is always sent");
    let nothing_left = FetchSessionRequest { forgotten: vec![1, 2, 7], ..request(id, 2, &[]) };
    let context = sessions.begin(nothing_left, at(0)).unwrap();
    assert_eq!(sessions.finish(context, &[], 0, at(0)).unwrap().session_id, NO_SESSION);
    assert!(sessions.is_empty() && sessions.partition_count() == 0);
}

#[test]
fn who_got_records_waits_for_the_others() {
    let mut sessions = sessions(1);
    let id = open(&mut sessions, 3, false, at(0));
    go_on(&mut sessions, id, 1, &[(0, with_records(11)), (1, quiet(10)), (2, quiet(10))]);
    let context = sessions.begin(request(id, 2, &[]), at(0)).unwrap();
    assert_eq!(keys(&context), [1, 2, 0]);
}

#[test]
fn ids_and_epochs_must_fit() {
    let mut sessions = sessions(2);
    let id = open(&mut sessions, 2, false, at(0));
    let begin = |sessions: &mut Sessions, id, epoch| sessions.begin(request(id, epoch, &[]), at(0)).map(drop);
    assert_eq!(begin(&mut sessions, id + 1, 1), Err(FetchSessionError::NotFound));
    assert_eq!(begin(&mut sessions, NO_SESSION, 1), Err(FetchSessionError::NotFound));
    assert_eq!(begin(&mut sessions, id, 2), Err(FetchSessionError::InvalidEpoch));
    assert_eq!(begin(&mut sessions, id, -2), Err(FetchSessionError::InvalidEpoch));
    let by_name = FetchSessionRequest { uses_topic_ids: false, ..request(id, 1, &[]) };
    assert_eq!(sessions.begin(by_name, at(0)), Err(FetchSessionError::TopicIds));
    let first = sessions.begin(request(id, 1, &[]), at(0)).unwrap();
    assert_eq!(begin(&mut sessions, id, 1), Err(FetchSessionError::InvalidEpoch), "sent twice");
    assert_eq!(begin(&mut sessions, id, 2), Ok(()));
    assert_eq!(sessions.finish(first, &[], 0, at(0)), Err(FetchSessionError::InvalidEpoch), "overtaken");
    assert_eq!((next_epoch(0), next_epoch(i32::MAX)), (1, 1));
}

#[test]
fn a_full_fetch_closes_the_session_that_it_names() {
    let mut sessions = sessions(2);
    let id = open(&mut sessions, 2, false, at(0));
    let context = sessions.begin(request(id, FINAL_EPOCH, &[5]), at(0)).unwrap();
    assert!(sessions.is_empty());
    let outcome = sessions.finish(context, &[(5, quiet(1))], 0, at(0)).unwrap();
    assert_eq!(outcome, FetchOutcome { session_id: NO_SESSION, included: vec![true] });
    let id = open(&mut sessions, 2, false, at(0));
    let context = sessions.begin(request(id, INITIAL_EPOCH, &[5]), at(0)).unwrap();
    let other = sessions.finish(context, &[(5, quiet(1))], 1, at(0)).unwrap().session_id;
    assert!(other != id && other != NO_SESSION && sessions.len() == 1);
}

#[test]
fn sessions_give_way_by_age_size_and_rank() {
    let now_full = |first: (u32, bool), second: (u32, bool)| {
        let mut sessions = sessions(2);
        let ids = [first, second].map(|(len, privileged)| open(&mut sessions, len, privileged, at(0)));
        (sessions, ids)
    };
    let (mut sessions, _) = now_full((5, false), (6, false));
    assert_eq!(open(&mut sessions, 100, false, at(1)), NO_SESSION, "the others are young");
    let follower = open(&mut sessions, 1, true, at(1));
    assert!(
        follower != NO_SESSION && sessions.partition_count() == 7,
        "a follower goes first, over the smallest"
    );

    let (mut sessions, [small, large]) = now_full((5, false), (6, false));
    // Both are old enough to give way, and neither is stale.
    sessions.begin(request(small, 1, &[]), at(2)).unwrap();
    sessions.begin(request(large, 1, &[]), at(2)).unwrap();
    assert_eq!(open(&mut sessions, 5, false, at(3)), NO_SESSION, "it is no larger than the smallest");
    assert_ne!(open(&mut sessions, 6, false, at(3)), NO_SESSION);
    assert_eq!(sessions.begin(request(small, 2, &[]), at(3)), Err(FetchSessionError::NotFound));
    assert!(sessions.begin(request(large, 2, &[]), at(3)).is_ok());

    let (mut sessions, [stale, fresh]) = now_full((50, true), (60, true));
    sessions.begin(request(fresh, 1, &[]), at(2)).unwrap();
    assert_eq!(open(&mut sessions, 100, false, at(2)), NO_SESSION, "a consumer does not displace followers");
    assert_ne!(open(&mut sessions, 1, false, at(3)), NO_SESSION, "unless one is stale");
    assert_eq!(sessions.begin(request(stale, 1, &[]), at(3)), Err(FetchSessionError::NotFound));
    assert_eq!(open(&mut self::sessions(0), 1, true, at(0)), NO_SESSION);
}

#[test]
fn a_fetch_outlives_the_eviction_of_its_session() {
    let mut sessions = sessions(1);
    let id = open(&mut sessions, 2, false, at(0));
    let context = sessions.begin(request(id, 1, &[]), at(0)).unwrap();
    open(&mut sessions, 1, true, at(0));
    let outcome = sessions.finish(context, &[(0, quiet(10)), (1, quiet(10))], 0, at(0)).unwrap();
    assert_eq!(outcome, FetchOutcome { session_id: id, included: vec![true, true] });
    assert_eq!(sessions.begin(request(id, 2, &[]), at(0)), Err(FetchSessionError::NotFound));
}

#[test]
fn what_a_client_makes_a_session_hold_is_bounded() {
    let mut sessions = sessions(1000);
    let too_many = u32::try_from(FETCH_SESSION_PARTITIONS_MAX).unwrap() + 1;
    assert_eq!(open(&mut sessions, too_many, false, at(0)), NO_SESSION);
    let id = open(&mut sessions, too_many - 1, false, at(0));
    assert_ne!(id, NO_SESSION);
    let one_more = sessions.begin(request(id, 1, &[too_many]), at(0));
    assert_eq!(one_more, Err(FetchSessionError::NotFound));
    assert!(sessions.is_empty() && sessions.partition_count() == 0);
    let fitting = SHARD_SESSION_PARTITIONS_MAX / FETCH_SESSION_PARTITIONS_MAX;
    for _ in 0..fitting {
        assert_ne!(open(&mut sessions, too_many - 1, false, at(0)), NO_SESSION);
    }
    assert_eq!(open(&mut sessions, 1, false, at(0)), NO_SESSION);

    let mut sessions = self::sessions(1000);
    for len in [1, 1, 1, 2, 2].map(|part| (too_many - 1) / part) {
        assert_ne!(open(&mut sessions, len, false, at(0)), NO_SESSION);
    }
    let grown = *sessions.sessions.iter().find(|(_, session)| session.len() < 60_000).unwrap().0;
    let one_more = sessions.begin(request(grown, 1, &[too_many]), at(0));
    assert_eq!(one_more, Err(FetchSessionError::NotFound));
    assert_eq!(sessions.len(), 4);
}

#[test]
fn a_partition_named_twice_is_held_once() {
    let mut sessions = sessions(1);
    let context = sessions.begin(request(0, 0, &[4, 4]), at(0)).unwrap();
    let outcome = sessions.finish(context, &[(4, quiet(1)), (4, quiet(1))], 0, at(0)).unwrap();
    assert_ne!(outcome.session_id, NO_SESSION);
    assert_eq!(sessions.partition_count(), 1);
}

/// What a client knows of a partition.
type View = BTreeMap<u32, (i64, i64, bool)>;

fn view_of(fetched: &FetchedPartition) -> (i64, i64, bool) {
    (fetched.high_watermark.0, fetched.log_start_offset.0, fetched.has_error)
}

/// Clients with sessions, of which some are lost, must know after every response what full fetches would have
/// told them, and get every record.
#[test]
fn a_session_tells_as_much_as_full_fetches() {
    let (mut omitted, mut lost) = (0, 0);
    for seed in 0..60 {
        let mut random = Random::seeded(seed);
        let mut sessions: Sessions = FetchSessions::new(ShardIndex(1), LIMITS);
        let mut truth: Vec<FetchedPartition> = (0..12).map(|_| quiet(0)).collect();
        let mut clients: [(i32, i32, View); 4] = Default::default();
        for step in 0..300 {
            let now = MonotonicNs(step * MINUTE / 4);
            for partition in &mut truth {
                match random.below(12) {
                    0 => *partition = error(),
                    1 => *partition = with_records(partition.high_watermark.0.max(0) + 1),
                    2 => {
                        partition.log_start_offset = partition.log_start_offset.max(partition.high_watermark)
                    }
                    _ if partition.has_error => *partition = quiet(i64::from(step as u32)),
                    _ => partition.has_records = false,
                }
            }
            let (id, epoch, view) = &mut clients[random.below(4) as usize];
            let mut request = if *id == NO_SESSION || random.chance(3) {
                let wanted: Vec<u32> = (0..12).filter(|_| random.chance(60)).collect();
                view.clear();
                *epoch = INITIAL_EPOCH;
                view.extend(wanted.iter().map(|&key| (key, (-2, -2, false))));
                request(*id, INITIAL_EPOCH, &wanted)
            } else {
                request(*id, *epoch, &[])
            };
            if *epoch != INITIAL_EPOCH {
                let key = random.below(12) as u32;
                match random.below(4) {
                    0 if view.remove(&key).is_some() => request.forgotten.push(key),
                    1 => {
                        view.entry(key).or_insert((-2, -2, false));
                        request.partitions.push((key, from(1)));
                    }
                    _ => {}
                }
            }
            let context = match sessions.begin(request, now) {
                Ok(context) => context,
                Err(error) => {
                    assert_eq!(error, FetchSessionError::NotFound, "seed {seed}");
                    (*id, *epoch) = (NO_SESSION, INITIAL_EPOCH);
                    lost += 1;
                    continue;
                }
            };
            let fetched: Vec<_> =
                context.partitions().iter().map(|(key, _)| (*key, truth[*key as usize])).collect();
            let outcome = sessions.finish(context, &fetched, random.bits(), now).unwrap();
            for ((key, fetched), included) in fetched.iter().zip(&outcome.included) {
                assert!(*included || !fetched.has_records, "seed {seed}: records are lost");
                if *included {
                    view.insert(*key, view_of(fetched));
                } else {
                    omitted += 1;
                }
            }
            for (key, known) in view.iter() {
                assert_eq!(
                    *known,
                    view_of(&truth[*key as usize]),
                    "seed {seed}, step {step}, partition {key}"
                );
            }
            *id = outcome.session_id;
            *epoch = next_epoch(*epoch);
            let held: usize = sessions.sessions.values().map(Session::len).sum();
            assert_eq!(sessions.partition_count(), held);
            assert!(sessions.len() <= LIMITS.slots);
        }
    }
    assert!(omitted > 1000 && lost > 50, "{omitted} {lost}");
}
