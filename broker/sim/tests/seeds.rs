//! The simulation itself: equal seeds are equal runs. Whether promises hold is asked seed by seed with
//! `cargo run --profile test-release -p logmill-sim -- --from 0 --count 500`; `perf/results/` has the state of that.

use logmill_sim::run::run;

#[test]
fn a_seed_is_one_run() {
    for seed in [1, 7, 12] {
        let first = run(seed);
        assert_eq!(first, run(seed), "seed {seed} went two ways");
        assert!(first.appends > 0, "seed {seed} did nothing");
    }
}
