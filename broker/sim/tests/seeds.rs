//! The simulation, seed by seed: what was promised survives, and equal seeds are equal runs.
//!
//! `LOGMILL_SIM_SEEDS` says how many seeds; `perf/results/` has the long runs.

use logmill_sim::run::run;
use std::sync::atomic::{AtomicU64, Ordering};

const SEEDS: u64 = 100;

#[test]
fn a_seed_is_one_run() {
    let mut appends = 0;
    for seed in [1, 7, 12] {
        let first = run(seed);
        assert_eq!(first, run(seed), "seed {seed} went two ways");
        appends += first.appends;
    }
    // A disk may fail at the first append of one of them.
    assert!(appends > 100, "only {appends} appends were acknowledged");
}

/// Runs seeds until there are none left, and tells those that failed.
fn run_seeds(next: &AtomicU64, end: u64) -> (u64, u64, Vec<String>) {
    let (mut appends, mut compacted) = (0, 0);
    let mut failed = Vec::new();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return (appends, compacted, failed);
        }
        let outcome = run(seed);
        appends += outcome.appends;
        compacted += outcome.compacted;
        failed.extend(outcome.broken.map(|what| format!("seed {seed}: {what}")));
    }
}

#[test]
fn what_was_promised_survives() {
    let seeds = match std::env::var("LOGMILL_SIM_SEEDS") {
        Ok(text) => text.parse().expect("LOGMILL_SIM_SEEDS is a number of seeds"),
        Err(_) => SEEDS,
    };
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let results: Vec<(u64, u64, Vec<String>)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| run_seeds(&next, seeds))).collect();
        workers.into_iter().map(|worker| worker.join().expect("a seed panicked")).collect()
    });
    let failed: Vec<String> = results.iter().flat_map(|(_, _, failed)| failed.clone()).collect();
    let appends: u64 = results.iter().map(|(appends, ..)| appends).sum();
    let compacted: u64 = results.iter().map(|(_, compacted, _)| compacted).sum();
    assert!(failed.is_empty(), "again: cargo run -p logmill-sim -- --seed SEED\n{}", failed.join("\n"));
    assert!(appends >= seeds * 10, "only {appends} appends were acknowledged in {seeds} seeds");
    assert!(compacted >= seeds, "compaction removed only {compacted} records in {seeds} seeds");
}
