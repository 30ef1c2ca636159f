//! The simulated machine under the conformance suite, and what only it promises.

mod crash;
mod disk;
mod machine;
mod network;

use super::*;
use crate::runtime::conformance::{Effort, run_all};

/// A world with one host and its first shard.
fn one_host(seed: u64, options: Options) -> (World, Host, SimulatedRuntime) {
    let world = World::new(seed, options);
    let host = world.host("one");
    let runtime = host.runtime(ShardIndex(0));
    (world, host, runtime)
}

fn conformance_trace(seed: u64) -> u64 {
    let (world, _host, runtime) = one_host(seed, Options::drawn(seed));
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
    for seed in 0..40 {
        traces.push(conformance_trace(seed));
    }
    traces.sort_unstable();
    traces.dedup();
    assert_eq!(traces.len(), 40, "seeds share their traces");
}

#[test]
fn one_seed_has_one_trace() {
    for seed in [3, 99] {
        assert_eq!(conformance_trace(seed), conformance_trace(seed));
    }
}
