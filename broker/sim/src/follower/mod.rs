//! The log of a follower under simulation: batches of several leaders, with gaps, cuts and resets, while it is read,
//! compacted and moved on at its start; and what is found after a power cut or a kill at any moment.
//!
//! A run is a seed, as with the broker's. It works on the log itself, for what a follower appends is its leader's.

mod load;
pub mod promise;
pub mod replica;

use crate::faults;
use crate::follower::promise::{End, Promise};
use crate::follower::replica::{Held, Replica, Shared, Sizes};
use logmill::log::StoreSettings;
use logmill::runtime::Runtime;
use logmill::runtime::simulated::{Chance, Host, Options, World};
use logmill_wire::ids::ShardIndex;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// How long a start, a stop or a check may take, in virtual time.
const PATIENCE: Duration = Duration::from_secs(600);

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The first promise that was broken, if one was.
    pub broken: Option<String>,
    /// A number over everything that happened.
    pub trace_hash: u64,
    /// Batches appended.
    pub appends: u64,
    /// Logs that were cut.
    pub cuts: u64,
    /// Logs that were emptied.
    pub resets: u64,
    /// Changes that met an error of the disk.
    pub refused: u64,
    /// Changes that a power cut or a kill interrupted.
    pub interrupted: u64,
    /// Of those, which a restart found made.
    pub made: u64,
}

impl Outcome {
    /// Adds what another run came to.
    pub fn add(&mut self, other: &Self) {
        self.appends += other.appends;
        self.cuts += other.cuts;
        self.resets += other.resets;
        self.refused += other.refused;
        self.interrupted += other.interrupted;
        self.made += other.made;
    }
}

struct Run {
    world: World,
    host: Host,
    chance: Chance,
    sizes: Sizes,
    shared: Shared,
    outcome: Outcome,
}

/// Runs one seed.
#[must_use]
pub fn run(seed: u64) -> Outcome {
    let world = World::new(seed, Options::drawn(seed));
    let host = world.host("broker");
    let mut chance = Chance::new(seed ^ 0xf0110);
    let store = StoreSettings {
        journal_bytes: (128 << 10) << chance.below(4),
        cache_bytes: (64 << 10) << chance.below(6),
        extent_bytes_min: (4 << 10) << chance.below(6),
        fill_bytes: (4 << 10) << chance.below(8),
        checkpoint_extent_bytes: (64 << 10) << chance.below(6),
        checkpoint_interval_ms: 5 << chance.below(8),
    };
    let sizes =
        Sizes { store, segment_bytes: (8 << 10) << chance.below(6), batch_bytes_max: 500 << chance.below(6) };
    let logs = 1 + chance.below(4);
    let promises = (0..logs)
        .map(|_| Promise {
            is_whole: true,
            write_caching: chance.one_in(3),
            sequences: vec![0; 1 + chance.below(4) as usize],
            ..Promise::default()
        })
        .collect();
    let shared = Rc::new(RefCell::new(Held { promises, ..Held::default() }));
    let mut run = Run { world, host, chance, sizes, shared, outcome: Outcome::default() };
    let generations = 2 + run.chance.below(5);
    for generation in 0..generations {
        if !run.generation(generation + 1 == generations) {
            break;
        }
    }
    let held = run.shared.borrow();
    Outcome {
        broken: held.broken.clone(),
        trace_hash: run.world.trace_hash(),
        appends: held.appends,
        cuts: held.cuts,
        resets: held.resets,
        refused: held.refused,
        ..run.outcome.clone()
    }
}

impl Run {
    fn break_promise(&self, what: String) {
        self.shared.borrow_mut().broken.get_or_insert(what);
    }

    fn drive<T: 'static>(&self, what: &str, future: impl Future<Output = T> + 'static) -> Option<T> {
        let slot = Rc::new(RefCell::new(None));
        let place = Rc::clone(&slot);
        self.host.runtime(ShardIndex(0)).spawn(async move {
            let value = future.await;
            *place.borrow_mut() = Some(value);
        });
        let host = self.host.clone();
        if !self.world.run_until_within(PATIENCE, || slot.borrow().is_some() || !host.is_up()) {
            self.break_promise(format!("Progress: {what} did not end"));
        }
        slot.borrow_mut().take()
    }

    /// One generation; false if the run ends here.
    fn generation(&mut self, is_last: bool) -> bool {
        self.host.restart();
        if self.chance.one_in(5) {
            self.cut_a_start();
        }
        let start = Replica::start(self.host.clone(), self.sizes, Rc::clone(&self.shared));
        let replica = match self.drive("a start", start) {
            Some(Ok(replica)) => replica,
            Some(Err(error)) => {
                self.break_promise(format!("NothingAcknowledgedLost: the start was refused: {error}"));
                return false;
            }
            None => return false,
        };
        let interrupted = self.shared.borrow().interrupted;
        let checked = Rc::clone(&replica);
        let _ = self.drive("the check after a start", async move { checked.check_after_start().await });
        {
            let held = self.shared.borrow();
            self.outcome.interrupted += interrupted;
            self.outcome.made += held.made;
        }
        self.shared.borrow_mut().made = 0;
        if is_last || self.shared.borrow().broken.is_some() {
            return false;
        }
        load::begin(&replica, &mut self.chance);
        faults::draw(&self.world, &self.host, &mut self.chance);
        let span = Duration::from_millis(10 + self.chance.below(600));
        let waits = self.chance.one_in(3);
        let is_struck = waits && faults::await_moment(&self.world, &self.host, &mut self.chance, span);
        if !waits {
            self.world.run_for(span);
        }
        self.end_generation(&replica, is_struck);
        self.shared.borrow().broken.is_none()
    }

    /// A start that ends in the middle of something.
    fn cut_a_start(&mut self) {
        self.shared.borrow_mut().how = Some(End::PowerCut);
        let start = Replica::start(self.host.clone(), self.sizes, Rc::clone(&self.shared));
        self.host.runtime(ShardIndex(0)).spawn(async move {
            let _ = start.await;
        });
        if self.chance.one_in(2) {
            let limit = Duration::from_millis(200);
            faults::await_moment(&self.world, &self.host, &mut self.chance, limit);
        } else {
            self.world.run_for(Duration::from_micros(self.chance.below(20_000)));
        }
        self.host.crash();
        self.host.restart();
    }

    fn end_generation(&mut self, replica: &Rc<Replica>, is_struck: bool) {
        if self.chance.one_in(2) {
            faults::end(&self.host);
        }
        let how = match self.chance.below(5) {
            0 if !is_struck => {
                let stopping = Rc::clone(replica);
                stopping.ending.set(true);
                let _ = self.drive("a stop", async move { stopping.store.stop().await });
                self.host.kill();
                End::Kill
            }
            1 => {
                self.host.kill();
                End::Kill
            }
            _ => {
                self.host.crash();
                End::PowerCut
            }
        };
        let mut held = self.shared.borrow_mut();
        held.how = Some(how);
        held.interrupted = held.promises.iter().filter(|promise| promise.pending.is_some()).count() as u64;
        drop(held);
        faults::end(&self.host);
    }
}
