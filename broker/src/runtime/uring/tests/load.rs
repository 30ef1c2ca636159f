//! More shards than processors, under mixed load: no runnable task waits while its thread runs something else.

use super::*;
use crate::runtime::conformance::load::mixed_load;
use crate::runtime::mailbox::Mesh;
use crate::runtime::threads::available_cores;
use std::sync::Mutex;

const SHARDS: u16 = 6;
const DURATION: Duration = Duration::from_secs(2);
const WAIT_NS_MAX: u64 = 50_000_000;

#[test]
fn no_runnable_task_waits_long() {
    let scratch = Scratch::new("load");
    let directory = scratch.0.clone();
    let mut mesh = Mesh::<u64>::new(usize::from(SHARDS), 64);
    let endpoints = (0..SHARDS).map(|shard| mesh.endpoint(ShardIndex(shard)).unwrap()).collect();
    let results = Arc::new(Mutex::new(Vec::new()));
    let collected = Arc::clone(&results);
    let cores = available_cores().into_iter().take(2).collect::<Vec<_>>();
    let options = Options { cores: (0..3).flat_map(|_| cores.clone()).collect(), ..Options::default() };
    let threads = ShardThreads::start(&options, endpoints, None, move |runtime, endpoint| {
        let (directory, collected) = (directory.clone(), Arc::clone(&collected));
        async move {
            let done = mixed_load(runtime.clone(), endpoint, SHARDS, directory, DURATION).await.unwrap();
            collected.lock().unwrap().push((runtime.shard(), done, runtime.stats()));
        }
    })
    .unwrap();
    threads.join();
    let results = results.lock().unwrap();
    assert_eq!(results.len(), usize::from(SHARDS));
    for (shard, done, stats) in results.iter() {
        println!("shard {shard}: {done:?} {stats:?}");
        assert!(done.worst_ns < WAIT_NS_MAX, "shard {shard}: a runnable task waited: {done:?}");
        assert!(done.least() >= 5, "shard {shard}: some of the load starved: {done:?}");
    }
}

/// The processors that the kernel threads of the calling thread's ring may use, as the kernel lists them.
fn workers_processors() -> Vec<String> {
    // SAFETY: no arguments, and it cannot fail.
    let name = format!("iou-wrk-{}", unsafe { libc::gettid() });
    let mut found = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let Ok(status) = std::fs::read_to_string(task.path().join("status")) else { continue };
        if status.contains(&format!("Name:\t{name}\n")) {
            let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:\t")).unwrap();
            found.push(list.to_owned());
        }
    }
    found
}

#[test]
fn kernel_threads_keep_off_the_shards_processors() {
    let cores = available_cores();
    let [first, others @ ..] = &cores[..] else { panic!("a machine has a processor") };
    let scratch = Scratch::new("workers");
    let (path, mine, only_one) = (scratch.0.join("file"), first.to_string(), others.is_empty());
    let options = Options { cores: vec![*first], ..Options::default() };
    let threads = ShardThreads::start(&options, vec![()], None, move |runtime, ()| {
        let (path, mine) = (path.clone(), mine.clone());
        async move {
            assert_eq!(available_cores().len(), 1, "the shard is pinned");
            let file = runtime.open(&path, OpenMode::CreateNew).await.unwrap();
            file.allocate(0, 1 << 20).await.unwrap();
            file.flush().await.unwrap();
            let workers = workers_processors();
            assert!(!workers.is_empty(), "an allocation needs a kernel thread");
            for list in workers {
                let shares =
                    list.split(',').any(|part| part == mine || part.starts_with(&format!("{mine}-")));
                assert_eq!(shares, only_one, "the shard has {mine}, its kernel threads {list}");
            }
        }
    })
    .unwrap();
    threads.join();
}
