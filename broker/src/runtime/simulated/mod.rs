//! The simulated machine: hosts with their shards, network, disks and clocks, all in one thread and
//! deterministic to a seed of 64 bits.
//!
//! A [`World`] owns virtual time and everything that happens. It makes [`Host`]s, a host makes one
//! [`SimulatedRuntime`] per shard. Which task runs next, how long an operation takes, how a stream is cut
//! into receives and what a crash leaves of a disk are drawn from the seed, and from nothing else: two runs
//! of a seed have one [`World::trace_hash`]. A panic within a world prints its seed.

mod backend;
mod chance;
mod content;
mod core;
mod disk;
mod executor;
mod file;
mod network;
mod options;
mod stream;
#[cfg(test)]
mod tests;

pub use backend::SimulatedRuntime;
pub use chance::Chance;
pub use disk::{Fault, Operation};
pub use file::{SimulatedFile, SimulatedMapping};
pub use options::{DiskOptions, Options};
pub use stream::{SimulatedConnection, SimulatedHandle, SimulatedListener};

use self::core::{Core, HostState, Kind, Life};
use crate::runtime::Runtime;
use disk::Disk;
use logmill_wire::ids::ShardIndex;
use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// Everything there is: hosts, the network between them, and virtual time.
pub struct World {
    core: Rc<Core>,
    seed: u64,
}

impl World {
    /// A world without hosts, at the beginning of its time.
    #[must_use]
    pub fn new(seed: u64, options: Options) -> Self {
        Self { core: Rc::new(Core::new(seed, options)), seed }
    }

    /// The seed that repeats this world.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// A new host, running, with an empty disk. Its address is 10.0.0.1 for the first one, and so on.
    pub fn host(&self, name: &str) -> Host {
        let mut hosts = self.core.hosts.borrow_mut();
        hosts.push(HostState {
            name: name.to_owned(),
            life: 0,
            is_up: true,
            is_paused: false,
            monotonic_start_ns: self.core.draw(|chance| chance.below(1 << 40)),
            wall_clock_error_ms: 0,
        });
        self.core.disks.borrow_mut().push(Disk::new(self.core.options.disk.clone()));
        Host { core: Rc::clone(&self.core), number: hosts.len() - 1 }
    }

    /// Virtual time since the world's beginning.
    #[must_use]
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.core.now_ns.get())
    }

    /// A number over everything that has happened so far, in its order.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.core.trace_hash()
    }

    /// Draws from the world's chance, for faults and workloads that belong to the seed.
    pub fn draw<T>(&self, draw: impl FnOnce(&mut Chance) -> T) -> T {
        self.core.draw(draw)
    }

    /// Takes one step: everything that is due, then one task, or a leap to the next event. False if nothing
    /// is runnable and nothing will ever happen, or only after `until_ns`.
    fn step(&self, until_ns: u64) -> bool {
        self.core.fire_due_events();
        if self.core.run_one_task() {
            return true;
        }
        match self.core.next_event_ns() {
            Some(at_ns) if at_ns <= until_ns => {
                self.core.now_ns.set(self.core.now_ns.get().max(at_ns));
                true
            }
            _ => false,
        }
    }

    /// Goes on until `condition` holds, which is asked after every step. False if nothing is left that could
    /// ever happen.
    #[must_use]
    pub fn run_until(&self, condition: impl FnMut() -> bool) -> bool {
        self.run_until_within(Duration::from_nanos(u64::MAX), condition)
    }

    /// As [`World::run_until`], and false, too, once `limit` has passed.
    #[must_use]
    pub fn run_until_within(&self, limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
        let limit_ns = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        let until_ns = self.core.now_ns.get().saturating_add(limit_ns);
        loop {
            if condition() {
                return true;
            }
            if self.core.now_ns.get() > until_ns || !self.step(until_ns) {
                // The last event of all may have been a crash.
                return condition();
            }
        }
    }

    /// Lets this much time pass.
    pub fn run_for(&self, duration: Duration) {
        let span_ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let until_ns = self.core.now_ns.get().saturating_add(span_ns);
        while self.core.now_ns.get() < until_ns && self.step(until_ns) {}
        self.core.now_ns.set(self.core.now_ns.get().max(until_ns));
    }

    /// Runs `future` as a task of `runtime`'s shard, and the world until it is done.
    ///
    /// # Panics
    /// If nothing is left to happen before the future is done, or its host is down.
    #[expect(clippy::panic, reason = "a simulation that hangs has failed; the seed is printed with it")]
    pub fn block_on<T: 'static>(
        &self,
        runtime: &SimulatedRuntime,
        future: impl Future<Output = T> + 'static,
    ) -> T {
        let outcome = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&outcome);
        runtime.spawn(async move {
            let value = future.await;
            *slot.borrow_mut() = Some(value);
        });
        let is_done = self.run_until(|| outcome.borrow().is_some());
        let value = outcome.borrow_mut().take();
        match value {
            Some(value) if is_done => value,
            _ => panic!("the simulation hangs: no task is runnable and no event is to come"),
        }
    }

    /// Does `deed` to the world after `delay`: a crash, a cut, whatever the seed prescribes.
    pub fn after(&self, delay: Duration, deed: impl FnOnce() + 'static) {
        let delay_ns = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        self.core.schedule(delay_ns, Kind::Nemesis, None, move |_| deed());
    }

    /// Lets nothing arrive that goes from one host to another; the other direction is not touched.
    pub fn cut(&self, from: &Host, to: &Host) {
        self.core.network.borrow_mut().cut(from.number, to.number, true);
    }

    /// Ends [`World::cut`] for this direction; what was sent meanwhile arrives late.
    pub fn mend(&self, from: &Host, to: &Host) {
        self.core.network.borrow_mut().cut(from.number, to.number, false);
    }

    /// Ends every cut.
    pub fn mend_all(&self) {
        self.core.network.borrow_mut().heal();
    }

    /// Resets every connection between two hosts, at both ends.
    pub fn reset_connections(&self, one: &Host, two: &Host) {
        for stream in self.core.streams_between(one.number, two.number) {
            self.core.reset_stream(stream);
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let passed = self.now();
            eprintln!("the simulation failed after {passed:?} of virtual time; its seed is {:#x}", self.seed);
        }
        // Tasks and events hold the world's inside, which holds them.
        self.core.drop_tasks(|_| true);
        self.core.clear_events();
        self.core.drop_tasks(|_| true);
        // What outlives the world by holding on to itself holds no disks with it: worlds follow each other by the hundred.
        for disk in self.core.disks.borrow_mut().iter_mut() {
            *disk = Disk::new(disk.options.clone());
        }
    }
}

/// A simulated host; a clone is the same host. Its disk outlives its crashes.
#[derive(Clone)]
pub struct Host {
    core: Rc<Core>,
    number: usize,
}

impl Host {
    /// The name that it was given.
    #[must_use]
    pub fn name(&self) -> String {
        self.core.hosts.borrow()[self.number].name.clone()
    }

    /// Its address in the network.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        IpAddr::V4(network::host_ip(self.number))
    }

    /// The address of one of its ports.
    #[must_use]
    pub fn address(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(), port)
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.core.life(self.number).is_some()
    }

    /// The runtime of one of its shards, in its present life.
    ///
    /// # Panics
    /// If the host is down.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a test that starts a shard on a host that is down is wrong")]
    pub fn runtime(&self, shard: ShardIndex) -> SimulatedRuntime {
        let life = self.core.life(self.number).expect("a host must be started before its shards");
        let place = self.core.executor.borrow_mut().shard(life, shard);
        SimulatedRuntime { core: Rc::clone(&self.core), life, place, shard }
    }

    /// Ends the present life: no task runs again, no operation completes.
    fn end_life(&self) -> Option<Life> {
        let life = self.core.life(self.number)?;
        self.core.note(Kind::Nemesis, life.host as u64);
        let mut hosts = self.core.hosts.borrow_mut();
        (hosts[self.number].is_up, hosts[self.number].is_paused) = (false, false);
        Some(life)
    }

    /// Cuts the power: tasks and memory are gone, the disk keeps what was durable and, of everything else,
    /// what chance leaves. Peers are not told.
    pub fn crash(&self) {
        let Some(life) = self.end_life() else { return };
        self.core.end_network_life(life, true);
        self.core.drop_tasks(|other| other == life);
        let mut chance = self.core.chance.borrow_mut();
        self.core.disk(self.number, |disk| disk.crash(&mut chance));
    }

    /// Kills the process: tasks and memory are gone, every write that had completed stays, of one under way
    /// each page has it or has not. The kernel resets the connections.
    pub fn kill(&self) {
        let Some(life) = self.end_life() else { return };
        self.core.end_network_life(life, false);
        self.core.drop_tasks(|other| other == life);
        let mut chance = self.core.chance.borrow_mut();
        self.core.disk(self.number, |disk| disk.kill(&mut chance));
    }

    /// Starts the host again after a crash or a kill; its shards are to be started anew.
    pub fn restart(&self) {
        if self.is_up() {
            return;
        }
        let mut hosts = self.core.hosts.borrow_mut();
        hosts[self.number].life += 1;
        hosts[self.number].is_up = true;
        drop(hosts);
        self.core.reset_former_streams(self.number);
    }

    /// Stops all tasks where they are; disks and network go on.
    pub fn pause(&self) {
        self.core.hosts.borrow_mut()[self.number].is_paused = true;
    }

    /// Lets the tasks go on after [`Host::pause`].
    pub fn resume(&self) {
        self.core.hosts.borrow_mut()[self.number].is_paused = false;
        self.core.reconsider(self.number);
    }

    /// Sets how far the wall clock is off, in milliseconds; it may jump.
    pub fn set_wall_clock_error(&self, milliseconds: i64) {
        self.core.hosts.borrow_mut()[self.number].wall_clock_error_ms = milliseconds;
    }

    /// Adds a fault of the disk. The first that matches an operation and hits decides.
    pub fn inject(&self, fault: Fault) {
        self.core.disk(self.number, |disk| disk.faults.push(fault));
    }

    /// How many such operations the disk was asked for since it was new: to strike in the middle of something.
    #[must_use]
    pub fn operations(&self, operation: Operation) -> u64 {
        self.core.disk(self.number, |disk| disk.operations(operation))
    }

    /// Ends all faults of the disk.
    pub fn clear_faults(&self) {
        self.core.disk(self.number, |disk| disk.faults.clear());
    }

    /// Bytes that the disk's files may take together; whole pages count.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.core.disk(self.number, |disk| disk.capacity_bytes = bytes);
    }

    /// Bytes that the disk's files take together now; whole pages count.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.core.disk(self.number, |disk| disk.taken_bytes())
    }

    /// Makes every operation of the disk take this many times as long.
    pub fn set_slowness(&self, times: u64) {
        self.core.disk(self.number, |disk| disk.slowness = times.max(1));
    }

    /// Replaces the disk by an empty one. The host must be down.
    ///
    /// # Panics
    /// If the host is up.
    pub fn wipe_disk(&self) {
        assert!(!self.is_up(), "a disk is replaced only while its host is down");
        let options = self.core.options.disk.clone();
        self.core.disk(self.number, |disk| *disk = Disk::new(options));
    }

    /// A host of another world, down, with a disk that this one could have if its power went now. Nothing happens to this
    /// host, and its world's chance is not drawn from.
    #[must_use]
    pub fn after_power_cut(&self, other: &World) -> Self {
        let host = other.host(&self.name());
        let copy = self.core.disk(self.number, |disk| disk.copied());
        other.core.disk(host.number, |disk| *disk = copy);
        host.crash();
        host
    }

    /// Lets `count` bits of a range of a file rot, in what is read and what is durable.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn flip_bits(&self, path: &Path, range: Range<u64>, count: usize) -> io::Result<()> {
        let mut chance = self.core.chance.borrow_mut();
        self.core.disk(self.number, |disk| {
            let content = disk.file_at(path)?;
            for _ in 0..count {
                let position = chance.between((range.start, range.end.saturating_sub(1).max(range.start)));
                content.flip_bit(position, chance.below(8) as u32);
            }
            Ok(())
        })
    }

    /// What a file holds now, without any time passing.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.core.disk(self.number, |disk| disk.file_at(path).map(|content| content.bytes()))
    }

    /// Puts a file on the disk, it and its names durable, without any time passing.
    ///
    /// # Errors
    /// If a name on the way is a file.
    pub fn put_file(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.core.disk(self.number, |disk| disk.put_file(path, bytes))
    }
}
