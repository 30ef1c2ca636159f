//! More shards than processors, under mixed load: no runnable task waits while its thread runs something else.

use super::*;
use crate::runtime::mailbox::{Endpoint, Mesh};
use crate::runtime::threads::available_cores;
use std::cell::Cell;
use std::sync::Mutex;

const SHARDS: u16 = 6;
const SECONDS: u64 = 2;
const WAIT_NS_MAX: u64 = 50_000_000;

/// What the calling thread has had of the CPU, in user space and in the kernel.
fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local that outlives the call.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) }, 0);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn burn(runtime: &UringRuntime) -> u64 {
    let mut sum = 0_u64;
    while !runtime.should_yield() {
        for number in 0..2000_u64 {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(number));
        }
    }
    sum
}

/// Counts of what got done, to see that every kind of load really ran.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    burns: u64,
    echoes: u64,
    writes: u64,
    messages: u64,
    waits: u64,
    worst_ns: u64,
}

type Counter = Rc<Cell<Done>>;

fn count(done: &Counter, change: impl FnOnce(&mut Done)) {
    let mut now = done.get();
    change(&mut now);
    done.set(now);
}

fn start_burning(runtime: &UringRuntime, done: &Counter) {
    for _ in 0..3 {
        let (own, done) = (runtime.clone(), Rc::clone(done));
        runtime.spawn(async move {
            loop {
                burn(&own);
                count(&done, |done| done.burns += 1);
                own.yield_now().await;
            }
        });
    }
}

async fn start_echoing(runtime: &UringRuntime, done: &Counter) {
    let listener = runtime.listen(loopback()).await.unwrap();
    let client = runtime.connect(listener.local_address()).await.unwrap();
    let (handle, _) = listener.accept().await.unwrap();
    let server = runtime.adopt(handle);
    runtime.spawn(async move {
        loop {
            let (count, buffer) = server.receive(BytesMut::with_capacity(4096)).await;
            assert_ne!(count.unwrap(), 0);
            server.send(vec![buffer.freeze()]).await.unwrap();
        }
    });
    let done = Rc::clone(done);
    runtime.spawn(async move {
        loop {
            client.send(vec![Bytes::from_static(&[1; 512])]).await.unwrap();
            assert_ne!(client.receive(BytesMut::with_capacity(4096)).await.0.unwrap(), 0);
            count(&done, |done| done.echoes += 1);
        }
    });
}

async fn start_writing(runtime: &UringRuntime, done: &Counter, path: PathBuf) {
    let file = runtime.open(&path, OpenMode::CreateNew).await.unwrap();
    let done = Rc::clone(done);
    runtime.spawn(async move {
        let mut chunk = Chunk::with_capacity(4096);
        chunk.append(&[3; 4096]);
        loop {
            file.write(chunk.view_all(), 0, Durability::Cached).await.unwrap();
            count(&done, |done| done.writes += 1);
        }
    });
}

fn start_messaging(runtime: &UringRuntime, done: &Counter, endpoint: Endpoint<u64>) {
    let endpoint = Rc::new(endpoint);
    let next = ShardIndex((runtime.shard().0 + 1) % SHARDS);
    let (sender, own) = (Rc::clone(&endpoint), runtime.clone());
    runtime.spawn(async move {
        loop {
            sender.send(next, 1).await;
            own.yield_now().await;
        }
    });
    let (own, done) = (runtime.clone(), Rc::clone(done));
    runtime.spawn(async move {
        loop {
            endpoint.recv().await;
            count(&done, |done| done.messages += 1);
            if own.should_yield() {
                own.yield_now().await;
            }
        }
    });
}

/// Wakes a task, and measures how much CPU the thread spends until it runs: what it does meanwhile is
/// something else. The CPU that other threads get does not count.
fn start_measuring(runtime: &UringRuntime, done: &Counter) {
    let (own, done) = (runtime.clone(), Rc::clone(done));
    runtime.spawn(async move {
        loop {
            let became_runnable = thread_cpu_ns();
            own.yield_now().await;
            let waited = thread_cpu_ns() - became_runnable;
            count(&done, |done| {
                done.waits += 1;
                done.worst_ns = done.worst_ns.max(waited);
            });
            own.sleep(Duration::from_micros(300)).await;
        }
    });
}

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
            let done = Counter::default();
            start_burning(&runtime, &done);
            start_echoing(&runtime, &done).await;
            start_writing(&runtime, &done, directory.join(runtime.shard().to_string())).await;
            start_messaging(&runtime, &done, endpoint);
            start_measuring(&runtime, &done);
            runtime.sleep(Duration::from_secs(SECONDS)).await;
            collected.lock().unwrap().push((runtime.shard(), done.get(), runtime.stats()));
        }
    })
    .unwrap();
    threads.join();
    let results = results.lock().unwrap();
    assert_eq!(results.len(), usize::from(SHARDS));
    for (shard, done, stats) in results.iter() {
        println!("shard {shard}: {done:?} {stats:?}");
        assert!(done.worst_ns < WAIT_NS_MAX, "shard {shard}: a runnable task waited: {done:?}");
        let least = done.burns.min(done.echoes).min(done.writes).min(done.messages).min(done.waits);
        assert!(least >= 5, "shard {shard}: some of the load starved: {done:?}");
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
