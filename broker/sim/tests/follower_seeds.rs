//! The log of a follower, seed by seed: after a power cut or a kill at any moment it is what it was, or what it was to
//! become, and equal seeds are equal runs.
//!
//! `LOGMILL_SIM_SEEDS` says how many seeds.

use logmill_sim::follower::{Outcome, run};
use std::sync::atomic::{AtomicU64, Ordering};

const SEEDS: u64 = 100;

#[test]
fn a_seed_is_one_run() {
    for seed in [2, 5, 9] {
        assert_eq!(run(seed), run(seed), "seed {seed} went two ways");
    }
}

/// Runs seeds until there are none left, and tells those that failed.
fn run_seeds(next: &AtomicU64, end: u64) -> (Outcome, Vec<String>) {
    let mut total = Outcome::default();
    let mut failed = Vec::new();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return (total, failed);
        }
        let outcome = run(seed);
        total.add(&outcome);
        failed.extend(outcome.broken.map(|what| format!("seed {seed}: {what}")));
    }
}

#[test]
fn a_log_is_what_it_was_or_what_it_was_to_become() {
    let seeds = match std::env::var("LOGMILL_SIM_SEEDS") {
        Ok(text) => text.parse().expect("LOGMILL_SIM_SEEDS is a number of seeds"),
        Err(_) => SEEDS,
    };
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let results: Vec<(Outcome, Vec<String>)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| run_seeds(&next, seeds))).collect();
        workers.into_iter().map(|worker| worker.join().expect("a seed panicked")).collect()
    });
    let mut total = Outcome::default();
    results.iter().for_each(|(outcome, _)| total.add(outcome));
    let failed: Vec<String> = results.into_iter().flat_map(|(_, failed)| failed).collect();
    assert!(failed.is_empty(), "again: logmill-sim --follower --seed SEED\n{}", failed.join("\n"));
    assert!(total.appends >= seeds * 20, "{total:?}");
    assert!(total.cuts >= seeds && total.resets * 4 >= seeds, "{total:?}");
    assert!(total.interrupted * 8 >= seeds && total.made > 0 && total.refused > 0, "{total:?}");
}
