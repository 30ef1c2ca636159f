//! Cuts and resets of one log: a power cut at any moment, an error in any step, what a killed process had acknowledged.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]
use logmill::log::StoreSettings;
use logmill::runtime::Runtime;
use logmill::runtime::simulated::{Fault, Host, Operation, Options, World};
use logmill_sim::follower::promise::{End, Promise};
use logmill_sim::follower::replica::{Following, Held, Replica, Shared, Sizes};
use logmill_state::partition::LogChange;
use logmill_wire::ids::{Offset, ShardIndex};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

struct Bench {
    world: World,
    host: Host,
    shared: Shared,
    replica: Rc<Replica>,
}

const fn sizes() -> Sizes {
    let store = StoreSettings {
        journal_bytes: 1 << 20,
        cache_bytes: 256 << 10,
        extent_bytes_min: 16 << 10,
        fill_bytes: 8 << 10,
        checkpoint_extent_bytes: 1 << 20,
        checkpoint_interval_ms: 50,
    };
    Sizes { store, segment_bytes: 16 << 10, batch_bytes_max: 4 << 10 }
}

impl Bench {
    fn new(seed: u64, write_caching: bool) -> Self {
        let world = World::new(seed, Options::drawn(seed));
        let host = world.host("broker");
        let promise = Promise { is_whole: true, write_caching, sequences: vec![0; 3], ..Promise::default() };
        let shared = Rc::new(RefCell::new(Held { promises: vec![promise], ..Held::default() }));
        let replica = Self::start(&world, &host, &shared);
        Self { world, host, shared, replica }
    }

    fn start(world: &World, host: &Host, shared: &Shared) -> Rc<Replica> {
        let (starting, held) = (host.clone(), Rc::clone(shared));
        let start = async move { Replica::start(starting, sizes(), held).await };
        world.block_on(&host.runtime(ShardIndex(0)), start).unwrap()
    }

    fn log(&self) -> Rc<Following> {
        Rc::clone(&self.replica.logs[0])
    }

    fn run<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> T {
        self.world.block_on(&self.host.runtime(ShardIndex(0)), future)
    }

    /// Appends batches of about 1.5 kB, each third with a gap before it, of which some begin segments; every fifth is of
    /// a later leader.
    fn append(&self, count: i64) {
        let log = self.log();
        self.run(async move {
            for number in 0..count {
                let appended = log.append((3, 1_500), if number % 3 == 1 { 2 } else { 0 }, &sizes()).await;
                if appended.is_err() && log.log.health().is_failed() {
                    // A checkpoint has met the error.
                    return;
                }
                appended.unwrap();
                if number % 5 == 4 {
                    log.begin_epoch();
                }
            }
        });
    }

    fn end(&self) -> i64 {
        self.log().promised().end().0
    }

    /// What is left of the log is what was promised, and goes on.
    fn check(&mut self, how: End) {
        match how {
            End::PowerCut => self.host.crash(),
            End::Kill => self.host.kill(),
        }
        self.host.clear_faults();
        self.host.restart();
        self.shared.borrow_mut().how = Some(how);
        self.replica = Self::start(&self.world, &self.host, &self.shared);
        let replica = Rc::clone(&self.replica);
        self.run(async move { replica.check_after_start().await });
        assert_eq!(self.shared.borrow().broken, None);
    }

    /// Has the log changed, as often as it takes; false if it cannot be.
    fn change(&self, change: LogChange) -> bool {
        let log = self.log();
        self.run(async move {
            for _ in 0..5 {
                if log.change(change).await.is_ok() {
                    return true;
                }
                if log.log.health().is_failed() {
                    return false;
                }
                log.rest(Duration::from_millis(1)).await;
            }
            false
        })
    }
}

/// Cuts within the active segment, into closed ones, at a segment's base, and of all; and resets to both sides.
fn changes(bench: &Bench) -> Vec<LogChange> {
    let end = bench.end();
    let cuts = [end - 1, end - 4, end / 2, end / 3 + 1, 5, 1].map(|to| LogChange::Cut { to: Offset(to) });
    let resets = [0, 7, end + 1_000].map(|start| LogChange::Reset { start: Offset(start) });
    cuts.into_iter().chain(resets).collect()
}

#[test]
fn what_is_cut_stays_cut_and_the_log_goes_on() {
    for write_caching in [false, true] {
        let number = changes(&{
            let bench = Bench::new(1, false);
            bench.append(60);
            bench
        })
        .len();
        for at in 0..number {
            let mut bench = Bench::new(at as u64, write_caching);
            bench.append(60);
            let change = changes(&bench)[at];
            assert!(bench.change(change), "{change:?}");
            let end = bench.end();
            assert_eq!(bench.log().log.readable_end(), Offset(end));
            // Nothing is appended in between: what was cut off would fit exactly.
            bench.check(if at % 2 == 0 { End::PowerCut } else { End::Kill });
            assert_eq!(bench.end(), end, "{change:?}");
            bench.append(30);
            let log = bench.log();
            bench.run(async move { log.compare_all().await.unwrap() });
            bench.world.run_for(Duration::from_millis(300));
            bench.check(End::PowerCut);
            assert!(bench.end() > end, "{change:?}");
        }
    }
}

#[test]
fn a_power_cut_at_any_moment_leaves_the_old_log_or_the_cut_one() {
    let (mut old, mut cut) = (0, 0);
    for kind in 0..9 {
        let mut step_us = 0;
        loop {
            let mut bench = Bench::new(kind as u64, kind % 2 == 1);
            bench.append(40);
            let change = changes(&bench)[kind];
            let before = bench.end();
            let is_done = Rc::new(Cell::new(false));
            let (log, done) = (bench.log(), Rc::clone(&is_done));
            let runtime = bench.host.runtime(ShardIndex(0));
            runtime.spawn(async move {
                log.change(change).await.unwrap();
                done.set(true);
            });
            bench.world.run_for(Duration::from_micros(step_us));
            bench.check(End::PowerCut);
            if is_done.get() {
                break;
            }
            let is_old = bench.end() == before;
            (old, cut) = (old + u64::from(is_old), cut + u64::from(!is_old));
            bench.append(3);
            bench.check(End::PowerCut);
            step_us += 150;
        }
    }
    assert!(old > 30 && cut > 30, "{old} old logs, {cut} cut ones");
}

#[test]
fn an_error_in_any_step_leaves_the_old_log_or_the_cut_one() {
    use Operation::{Flush, Length, Names, Open, Read, Write};
    let (mut made, mut failed) = (0, 0);
    for operation in [Read, Write, Flush, Length, Open, Names] {
        for after in 0..8 {
            for kind in [0, 2, 4, 6] {
                let mut bench = Bench::new(after, false);
                bench.append(40);
                let change = changes(&bench)[kind];
                bench.host.inject(Fault::once_after(operation, after));
                if bench.change(change) {
                    made += 1;
                    bench.host.clear_faults();
                    bench.append(3);
                } else {
                    failed += 1;
                }
                bench.check(End::PowerCut);
                bench.append(3);
                bench.check(End::PowerCut);
            }
        }
    }
    assert!(made > 100 && failed > 10, "{made} made, {failed} failed");
}
