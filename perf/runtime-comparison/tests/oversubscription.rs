//! More shards than processors, under mixed load, on either runtime.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test panics where it fails, and says what it measured"
)]

use logmill::runtime::conformance::load::{Done, mixed_load};
use logmill::runtime::mailbox::Mesh;
use logmill::runtime::threads::{ThreadedRuntime, available_cores};
use logmill::runtime::uring::UringRuntime;
use logmill_glommio::GlommioRuntime;
use logmill_wire::ids::ShardIndex;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SHARDS: u16 = 6;
const DURATION: Duration = Duration::from_secs(2);

/// What the broker's own runtime keeps to.
const WAIT_NS_MAX: u64 = 50_000_000;

fn run<R: ThreadedRuntime>(name: &str) -> Vec<Done> {
    let executable = std::env::current_exe().unwrap();
    let directory = executable.with_file_name(format!("scratch-load-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let mut mesh = Mesh::<u64>::new(usize::from(SHARDS), 64);
    let endpoints = (0..SHARDS).map(|shard| mesh.endpoint(ShardIndex(shard)).unwrap()).collect();
    let results = Arc::new(Mutex::new(Vec::new()));
    let (collected, path) = (Arc::clone(&results), directory.clone());
    let two = available_cores().into_iter().take(2).collect::<Vec<_>>();
    let cores = two.iter().copied().cycle().take(usize::from(SHARDS)).collect();
    R::run_shards(cores, endpoints, None, move |runtime: R, endpoint| {
        let (path, collected) = (path.clone(), Arc::clone(&collected));
        async move {
            let outcome = mixed_load(runtime, endpoint, SHARDS, path, DURATION).await;
            collected.lock().unwrap().push(outcome.unwrap());
        }
    })
    .unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    let results = results.lock().unwrap().clone();
    for done in &results {
        println!("{name}: {done:?}");
    }
    assert_eq!(results.len(), usize::from(SHARDS));
    results
}

// One test for both: they would take each other's processors.
#[test]
fn no_runnable_task_waits_long() {
    let (own, glommio) = (run::<UringRuntime>("uring"), run::<GlommioRuntime>("glommio"));
    for done in &own {
        assert!(done.least() >= 5, "some of the load starved: {done:?}");
    }
    // How much an executor of glommio gets done is printed and not demanded: it may sleep while it has runnable tasks,
    // up to `SLEEP_MAX` in each of its turns (README), and then does a few turns in the whole time.
    for done in own.iter().chain(&glommio) {
        assert!(done.worst_ns < WAIT_NS_MAX, "a runnable task waited: {done:?}");
    }
}
