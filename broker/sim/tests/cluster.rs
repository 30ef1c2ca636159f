//! Whole clusters, seed by seed: what was promised survives all faults, and equal seeds are equal runs.
//!
//! `LOGMILL_SIM_SEEDS` says how many seeds the parts' own simulations take; [`seeds`] how many clusters that makes.

use logmill_sim::cluster::{Plan, Size, run, run_large, run_plan};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

const SEEDS: u64 = 24;

#[test]
fn a_seed_is_one_run() {
    let mut acknowledged = 0;
    for seed in [1, 3] {
        let first = run(seed);
        assert_eq!(first, run(seed), "seed {seed} went two ways");
        acknowledged += first.acknowledged;
    }
    assert!(acknowledged > 100, "only {acknowledged} records were acknowledged");
}

#[test]
fn a_broker_that_is_added_gets_its_part_and_a_drained_one_is_left_with_nothing() {
    for seed in 0..4 {
        let outcome = run_plan(seed, Plan { grows: true, ..Plan::default() });
        assert_eq!(outcome.broken, None, "seed {seed}: {:?}", outcome.deeds);
        assert!(outcome.acknowledged > 50, "seed {seed}: {}", outcome.acknowledged);
    }
}

#[test]
fn a_broker_that_loses_a_log_directory_goes_on_with_the_other() {
    let plan = Plan {
        span: std::time::Duration::from_secs(2),
        has_faults: false,
        loses_directory: true,
        ..Plan::default()
    };
    for seed in [0, 1, 2, 4, 5, 6] {
        let outcome = run_plan(seed, plan);
        assert_eq!(outcome.broken, None, "seed {seed}");
        let brokers = outcome.starts - 1;
        assert!(outcome.offline > 0, "seed {seed}: only the operator has started one anew");
        assert!((3..=5).contains(&brokers), "seed {seed}: {brokers} brokers");
    }
}

/// With `LOGMILL_SIM_BROKERS` another number of brokers; each has a hundred partitions, and every tenth is lost.
#[test]
fn many_brokers_lose_some_at_once() {
    let brokers = std::env::var("LOGMILL_SIM_BROKERS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let size = Size { brokers, partitions: brokers * 100, lost: brokers / 10 };
    let figures = run_large(1, size).expect("the cluster converges");
    println!("{size:?}: {figures:?}");
    assert!(figures.led < 10_000, "it took {} ms until all partitions had leaders again", figures.led);
}

/// Seeds of one process. What a simulated process leaves behind, objects that hold one another, goes with a real one.
const SEEDS_PER_PROCESS: u64 = 15;

/// A cluster takes as long as dozens of logs: in short runs there is one for ten of those, in long ones there are more, and
/// 300 for 500.
fn seeds() -> u64 {
    match std::env::var("LOGMILL_SIM_SEEDS") {
        Ok(text) => {
            let of_parts: u64 = text.parse().expect("LOGMILL_SIM_SEEDS is a number of seeds");
            (of_parts / 10).max(of_parts.saturating_sub(250) * 6 / 5).max(1)
        }
        Err(_) => SEEDS,
    }
}

/// What one process wrote: its report, and whether it found nothing.
fn run_some(from: u64, count: u64) -> (String, bool) {
    let arguments = ["--cluster", "--from", &from.to_string(), "--count", &count.to_string()];
    let ran = Command::new(env!("CARGO_BIN_EXE_logmill-sim")).args(arguments).output().expect("it starts");
    let told = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    (told, ran.status.success())
}

/// Runs seeds until there are none left.
fn run_seeds(next: &AtomicU64, end: u64) -> Vec<(String, bool)> {
    let mut reports = Vec::new();
    loop {
        let from = next.fetch_add(SEEDS_PER_PROCESS, Ordering::Relaxed);
        if from >= end {
            return reports;
        }
        reports.push(run_some(from, SEEDS_PER_PROCESS.min(end - from)));
    }
}

/// How much of something all reports count together.
fn total(reports: &[(String, bool)], what: &str) -> u64 {
    let of_line = |line: &str| -> Option<u64> {
        let (_, counts) = line.strip_prefix("seeds ")?.split_once(": ")?;
        let count = counts.split(", ").find_map(|count| count.strip_suffix(what))?;
        count.trim().parse().ok()
    };
    reports.iter().flat_map(|(report, _)| report.lines()).filter_map(of_line).sum()
}

#[test]
fn what_was_promised_survives() {
    let seeds = seeds();
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let reports: Vec<(String, bool)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| run_seeds(&next, seeds))).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a thread panicked")).collect()
    });
    let failed: Vec<&str> =
        reports.iter().filter(|(_, is_well)| !is_well).map(|(report, _)| report.as_str()).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    let counted = |what: &str| total(&reports, what);
    let simulated = counted(" milliseconds simulated") / 1000;
    assert!(simulated >= 10 * seeds, "{simulated} s of {seeds} seeds");
    assert!(counted(" answers") > 50 * simulated, "{} answers in {simulated} s", counted(" answers"));
    assert!(counted(" faults") > 10 * seeds, "{} faults in {seeds} seeds", counted(" faults"));
    let offline = counted(" replicas offline");
    assert!(seeds < 60 || offline > seeds / 60, "{offline} replicas were offline in {seeds} seeds");
    let (acknowledged, committed) = (counted(" records acknowledged"), counted(" commits"));
    assert!(acknowledged > 100 * seeds && committed > 20 * seeds, "{acknowledged} and {committed}");
}
