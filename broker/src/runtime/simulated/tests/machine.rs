//! Tasks, shards, hosts and time.

use super::*;
use crate::runtime::{Durability, File, OpenMode, oneshot};
use std::cell::Cell;

#[test]
fn a_world_is_cheap() {
    let mut steps = 0_u64;
    #[expect(clippy::disallowed_methods, reason = "this measures the simulator, not the simulated")]
    let began = std::time::Instant::now();
    for seed in 0..2000 {
        let (world, _host, runtime) = one_host(seed, Options::default());
        let task = runtime.clone();
        steps += world.block_on(&runtime, async move {
            task.sleep(Duration::from_millis(1)).await;
            1
        });
    }
    let each = began.elapsed() / 2000;
    assert_eq!(steps, 2000);
    assert!(each < Duration::from_millis(1), "a world takes {each:?}");
}

#[test]
fn shards_interleave_and_wake_each_other() {
    let mut orders = std::collections::BTreeSet::new();
    for seed in 0..30 {
        let (world, host, runtime) = one_host(seed, Options::default());
        let order = Rc::new(RefCell::new(Vec::new()));
        let mut waiting = Vec::new();
        for shard in 1..5 {
            let other = host.runtime(ShardIndex(shard));
            let (sender, receiver) = oneshot::channel();
            let (order, task) = (Rc::clone(&order), other.clone());
            other.spawn(async move {
                assert_eq!(task.shard(), ShardIndex(shard));
                order.borrow_mut().push(shard);
                sender.send(shard);
            });
            waiting.push(receiver);
        }
        let sum = world.block_on(&runtime, async move {
            let mut sum = 0;
            for receiver in waiting {
                sum += receiver.await.unwrap();
            }
            sum
        });
        assert_eq!(sum, 10);
        orders.insert(order.borrow().clone());
    }
    assert!(orders.len() > 5, "30 seeds gave {} orders", orders.len());
}

#[test]
fn mailboxes_carry_messages_between_shards() {
    const MESSAGES: u64 = 200;
    for seed in 0..10 {
        let (world, host, first) = one_host(seed, Options::default());
        let second = host.runtime(ShardIndex(1));
        // A narrow mailbox, so that senders wait, too.
        let mut mesh = crate::runtime::mailbox::Mesh::new(2, 4);
        let (here, there) = (mesh.endpoint(ShardIndex(0)).unwrap(), mesh.endpoint(ShardIndex(1)).unwrap());
        second.spawn(async move {
            for _ in 0..MESSAGES {
                let (from, message) = there.recv().await;
                there.send(from, message * 2).await;
            }
        });
        let here = Rc::new(here);
        let sending = Rc::clone(&here);
        first.spawn(async move {
            for message in 0..MESSAGES {
                sending.send(ShardIndex(1), message).await;
            }
        });
        let doubled = world.block_on(&first, async move {
            let mut doubled = Vec::new();
            for _ in 0..MESSAGES {
                doubled.push(here.recv().await.1);
            }
            doubled
        });
        assert_eq!(doubled, (0..MESSAGES).map(|message| message * 2).collect::<Vec<_>>());
    }
}

#[test]
fn tasks_of_a_shard_run_in_any_order() {
    let mut orders = std::collections::BTreeSet::new();
    for seed in 0..30 {
        let (world, _host, runtime) = one_host(seed, Options::default());
        let order = Rc::new(RefCell::new(Vec::new()));
        for number in 0..4 {
            let order = Rc::clone(&order);
            runtime.spawn(async move { order.borrow_mut().push(number) });
        }
        world.run_for(Duration::from_millis(1));
        orders.insert(order.borrow().clone());
    }
    assert!(orders.iter().all(|order| order.len() == 4));
    assert!(orders.len() > 10, "30 seeds gave {} orders of four tasks", orders.len());
}

#[test]
fn a_crash_drops_the_tasks_of_its_host_alone() {
    struct Told(Rc<Cell<u32>>);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }
    let world = World::new(1, Options::default());
    let (one, two) = (world.host("one"), world.host("two"));
    let (dropped, ticks) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    for host in [&one, &two] {
        for shard in 0..3 {
            let runtime = host.runtime(ShardIndex(shard));
            let (task, told, ticks) = (runtime.clone(), Told(Rc::clone(&dropped)), Rc::clone(&ticks));
            runtime.spawn(async move {
                let _told = told;
                loop {
                    task.sleep(Duration::from_millis(1)).await;
                    ticks.set(ticks.get() + 1);
                }
            });
        }
    }
    world.run_for(Duration::from_millis(20));
    let old = one.runtime(ShardIndex(0));
    one.crash();
    assert!(!one.is_up() && two.is_up());
    assert_eq!(dropped.get(), 3);
    // A runtime of the former life starts nothing, in the next one neither.
    let told = Told(Rc::clone(&dropped));
    one.restart();
    old.spawn(async move { drop(told) });
    assert_eq!(dropped.get(), 4);
    let before = ticks.get();
    world.run_for(Duration::from_millis(100));
    assert!(ticks.get() > before + 100, "the other host's tasks stopped");
    drop(world);
    assert_eq!(dropped.get(), 7);
}

#[test]
fn a_task_may_crash_its_own_host() {
    let (world, host, runtime) = one_host(1, Options::default());
    host.put_file(Path::new("/f"), &[]).unwrap();
    let (task, own, went_on) = (runtime.clone(), host.clone(), Rc::new(Cell::new(false)));
    let told = Rc::clone(&went_on);
    runtime.spawn(async move {
        let file = task.open(Path::new("/f"), OpenMode::ReadWrite).await.unwrap();
        own.crash();
        let mut chunk = crate::runtime::buffer::Chunk::with_capacity(4096);
        chunk.append(&[1; 4096]);
        let _ = file.write(chunk.view_all(), 0, Durability::Durable).await;
        told.set(true);
    });
    world.run_for(Duration::from_secs(1));
    assert!(!went_on.get() && !host.is_up());
    assert!(host.read_file(Path::new("/f")).unwrap().is_empty(), "a dead task wrote");
}

#[test]
fn a_paused_host_stands_still() {
    let (world, host, runtime) = one_host(1, Options::default());
    let ticks = Rc::new(Cell::new(0));
    let (task, counted) = (runtime.clone(), Rc::clone(&ticks));
    runtime.spawn(async move {
        loop {
            task.sleep(Duration::from_millis(1)).await;
            counted.set(counted.get() + 1);
        }
    });
    world.run_for(Duration::from_millis(10));
    host.pause();
    let before = ticks.get();
    world.run_for(Duration::from_secs(1));
    assert_eq!(ticks.get(), before);
    host.resume();
    world.run_for(Duration::from_millis(10));
    assert!(ticks.get() > before + 3);
}

#[test]
fn deeds_happen_at_their_time_and_clocks_jump() {
    let (world, host, runtime) = one_host(1, Options::default());
    let wall = runtime.wall_clock();
    let jumping = host.clone();
    world.after(Duration::from_millis(500), move || jumping.set_wall_clock_error(-3_600_000));
    world.run_for(Duration::from_millis(499));
    assert_eq!(runtime.wall_clock().0, wall.0 + 499);
    let before = runtime.monotonic();
    world.run_for(Duration::from_millis(2));
    assert_eq!(runtime.wall_clock().0, wall.0 + 501 - 3_600_000);
    assert_eq!(runtime.monotonic().since(before), 2_000_000);
}

#[test]
#[should_panic(expected = "the simulation hangs")]
fn a_hang_is_told() {
    let (world, _host, runtime) = one_host(1, Options::default());
    world.block_on(&runtime, std::future::pending::<()>());
}

#[test]
fn running_ends_at_a_limit_or_when_nothing_is_left() {
    let (world, _host, runtime) = one_host(1, Options::default());
    assert!(!world.run_until(|| false));
    let task = runtime.clone();
    runtime.spawn(async move {
        loop {
            task.sleep(Duration::from_secs(1)).await;
        }
    });
    assert!(!world.run_until_within(Duration::from_secs(30), || false));
    assert!(world.now() <= Duration::from_secs(31));
}
