//! The metadata quorum, seed by seed, and what must never happen to it.

use logmill::cluster::quorum::{DiskSettings, QuorumSettings, Role};
use logmill_sim::quorum::{Cluster, Outcome, run};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const SEEDS: u64 = 300;

fn settings() -> QuorumSettings {
    QuorumSettings {
        tick: Duration::from_millis(20),
        election_ticks: 10,
        heartbeat_ticks: 2,
        disk: DiskSettings { journal_bytes: 128 << 10 },
        piece_bytes: 1024,
    }
}

/// Three nodes that have agreed on some changes.
fn agreed(seed: u64) -> Cluster {
    let mut cluster = Cluster::new(seed, 3, settings());
    (0..3).for_each(|node| cluster.start(node));
    assert!(cluster.wait(Duration::from_secs(30), |cluster| cluster.leader().is_some()));
    let leader = cluster.leader().expect("just seen");
    (0..5).for_each(|_| cluster.propose(leader));
    let all = |cluster: &Cluster| {
        let last = cluster.checker.borrow().last_acknowledged();
        let has_all = |node| cluster.quorum(node).is_some_and(|quorum| quorum.status().applied >= last);
        cluster.checker.borrow().acknowledged() == 5 && (0..3).all(has_all)
    };
    assert!(cluster.wait(Duration::from_secs(30), all), "{:?}", cluster.checker.borrow().broken());
    cluster
}

#[test]
fn a_seed_is_one_run() {
    for seed in [1, 2] {
        assert_eq!(run(seed), run(seed), "seed {seed} went two ways");
    }
}

#[test]
fn what_was_agreed_on_stays() {
    let seeds = match std::env::var("LOGMILL_SIM_SEEDS") {
        Ok(text) => text.parse().expect("LOGMILL_SIM_SEEDS is a number of seeds"),
        Err(_) => SEEDS,
    };
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut outcomes = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return outcomes;
            }
            outcomes.push((seed, run(seed)));
        }
    };
    let outcomes: Vec<(u64, Outcome)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a seed panicked")).collect()
    });
    let failed: Vec<String> = outcomes
        .iter()
        .filter_map(|(seed, outcome)| Some(format!("seed {seed}: {}", outcome.broken.as_ref()?)))
        .collect();
    assert!(failed.is_empty(), "{} of {seeds} seeds\n{}", failed.len(), failed.join("\n"));
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(|(_, outcome)| of(outcome)).sum::<u64>();
    let (acknowledged, terms, falls) =
        (sum(|outcome| outcome.acknowledged), sum(|outcome| outcome.terms), sum(|outcome| outcome.falls));
    let (wiped, replaced) = (sum(|outcome| outcome.wiped), sum(|outcome| outcome.replaced));
    println!("{acknowledged} changes, {terms} terms, {falls} falls, {wiped} wiped, {replaced} replaced");
    assert!(acknowledged > 50 * seeds && terms > 3 * seeds && falls > 3 * seeds, "too little happened");
    assert!(wiped > seeds / 4 && replaced > seeds / 40, "{wiped} disks wiped, {replaced} replaced");
}

#[test]
fn wiped_voters_neither_elect_nor_acknowledge() {
    for seed in 0..10 {
        let mut cluster = agreed(seed);
        let term = cluster.checker.borrow().last_term_led();
        // The one that remembers must not be the leader that still leads for a moment.
        let leader = cluster.leader().expect("there is one");
        let (one, other) = ((leader + 1) % 3, (leader + 2) % 3);
        cluster.fell(leader, true);
        cluster.fell(one, true);
        cluster.wipe(leader);
        cluster.wipe(one);
        cluster.start(leader);
        cluster.start(one);
        let acknowledged = cluster.checker.borrow().acknowledged();
        for _ in 0..100 {
            (0..3).for_each(|node| cluster.propose(node));
            cluster.world.run_for(Duration::from_millis(200));
        }
        assert_eq!(cluster.checker.borrow().last_term_led(), term, "seed {seed}");
        assert_eq!(cluster.checker.borrow().acknowledged(), acknowledged, "seed {seed}");
        assert_eq!(cluster.checker.borrow().broken(), None, "seed {seed}");
        let role = |node: usize| cluster.quorum(node).expect("it runs").status().role;
        assert!(matches!(role(leader), Role::Fresh | Role::Observer), "{:?}", role(leader));
        assert!(matches!(role(one), Role::Fresh | Role::Observer), "{:?}", role(one));
        assert!(matches!(role(other), Role::Follower | Role::Candidate), "{:?}", role(other));
    }
}

#[test]
fn a_wiped_voter_observes_and_votes_again_once_it_is_added() {
    let mut cluster = agreed(3);
    let leader = cluster.leader().expect("there is one");
    let node = (leader + 1) % 3;
    let former = cluster.key(node);
    cluster.fell(node, true);
    cluster.wipe(node);
    cluster.start(node);
    let now = cluster.key(node);
    let applied = |cluster: &Cluster| cluster.quorum(node).map_or(0, |quorum| quorum.status().applied);
    let last = cluster.checker.borrow().last_acknowledged();
    assert!(cluster.wait(Duration::from_secs(30), |cluster| applied(cluster) >= last), "it has the log");
    assert_eq!(cluster.quorum(node).expect("it runs").status().role, Role::Observer);
    let voters = |cluster: &Cluster| {
        let status = cluster.quorum(leader).expect("it runs").status();
        status.members.voters().map(|member| member.key).collect::<Vec<_>>()
    };
    // While the leader does not know how far it is, it is refused.
    let votes = |cluster: &Cluster| {
        let is_there = voters(cluster).contains(&now);
        if !is_there {
            cluster.change_voter(leader, now, true);
        }
        is_there
    };
    assert!(cluster.wait(Duration::from_secs(5), votes));
    let is_gone = |cluster: &Cluster| {
        let is_there = voters(cluster).contains(&former);
        if is_there {
            cluster.change_voter(leader, former, false);
        }
        !is_there
    };
    assert!(cluster.wait(Duration::from_secs(5), is_gone));
    // Now a quorum is possible without the leader.
    cluster.fell(leader, true);
    let goes_on = |cluster: &Cluster| cluster.leader().is_some_and(|node| node != leader);
    assert!(cluster.wait(Duration::from_secs(30), goes_on));
    let leader = cluster.leader().expect("just seen");
    cluster.propose(leader);
    assert!(cluster.wait(Duration::from_secs(5), |cluster| cluster.checker.borrow().acknowledged() == 6));
    assert_eq!(cluster.checker.borrow().broken(), None);
}

#[test]
fn nobody_begins_a_quorum_while_a_voter_is_missing() {
    let cluster = Cluster::new(5, 3, settings());
    cluster.start(0);
    cluster.start(1);
    assert!(!cluster.wait(Duration::from_secs(20), |cluster| cluster.leader().is_some()));
    cluster.start(2);
    assert!(cluster.wait(Duration::from_secs(20), |cluster| cluster.leader().is_some()));
}

#[test]
fn a_leader_that_is_removed_lets_another_one_lead() {
    let cluster = agreed(6);
    let leader = cluster.leader().expect("there is one");
    cluster.change_voter(leader, cluster.key(leader), false);
    let goes_on = |cluster: &Cluster| cluster.leader().is_some_and(|node| node != leader);
    assert!(cluster.wait(Duration::from_secs(30), goes_on), "{:?}", cluster.checker.borrow().broken());
    let observes = |cluster: &Cluster| {
        let status = cluster.quorum(leader).expect("it runs").status();
        status.role == Role::Observer && status.leader.is_some()
    };
    assert!(cluster.wait(Duration::from_secs(30), observes), "it comes back as an observer");
}
