//! The simulated machine under the conformance suite, and what only it promises.

use super::*;
use crate::runtime::conformance::{Effort, run_all};

fn conformance_trace(seed: u64) -> u64 {
    let world = World::new(seed, Options::drawn(seed));
    let host = world.host("one");
    let runtime = host.runtime(ShardIndex(0));
    let again = runtime.clone();
    let verdicts = world
        .block_on(&runtime, async move { run_all(again, Path::new("/conformance"), Effort::QUICK).await });
    let broken: Vec<_> = verdicts.iter().filter(|(_, verdict)| verdict.is_err()).collect();
    assert!(broken.is_empty(), "seed {seed}: {broken:?}");
    world.trace_hash()
}

#[test]
fn conformance_over_many_seeds() {
    let mut traces = Vec::new();
    for seed in 0..20 {
        traces.push(conformance_trace(seed));
    }
    traces.sort_unstable();
    traces.dedup();
    assert_eq!(traces.len(), 20, "seeds share their traces");
}

#[test]
fn one_seed_has_one_trace() {
    for seed in [3, 99] {
        assert_eq!(conformance_trace(seed), conformance_trace(seed));
    }
}
