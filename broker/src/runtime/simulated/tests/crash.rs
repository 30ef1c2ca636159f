//! What a crash may and must leave, checked against a bookkeeping that knows nothing of versions.

use super::*;
use crate::runtime::buffer::{Chunk, ChunkView};
use crate::runtime::{Durability, File, OpenMode};
use logmill_wire::limits::{PAGE_BYTES, SECTOR_BYTES};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

const PAGE: u64 = PAGE_BYTES as u64;
const PAGES: u64 = 6;

/// Pages full of one number, so that every sector tells which write it is of.
fn stamped(stamp: u64, pages: usize) -> ChunkView {
    let mut chunk = Chunk::with_capacity(pages * PAGE_BYTES);
    for _ in 0..pages * PAGE_BYTES / 8 {
        chunk.append(&stamp.to_le_bytes());
    }
    chunk.view_all()
}

/// The stamp of a sector; `None` if its bytes are not of one write.
fn stamp_of(sector: &[u8]) -> Option<u64> {
    let first: [u8; 8] = sector[..8].try_into().unwrap();
    sector.chunks(8).all(|word| word == first).then(|| u64::from_le_bytes(first))
}

/// What each page may hold after a crash: the stamps since the last one that is certain, with the moment
/// at which their writes completed.
#[derive(Default)]
struct Books {
    certain: BTreeMap<u64, u64>,
    possible: BTreeMap<u64, Vec<(u64, Option<u64>)>>,
    moment: u64,
    durable_length: u64,
    length: u64,
    completed_length: Vec<(u64, u64)>,
}

impl Books {
    fn begin(&mut self, page: u64, stamp: u64) {
        self.possible.entry(page).or_default().push((stamp, None));
    }

    fn complete(&mut self, page: u64, stamp: u64, is_durable: bool) {
        self.moment += 1;
        let moment = self.moment;
        let possible = self.possible.entry(page).or_default();
        let place = possible.iter().position(|&(known, _)| known == stamp).unwrap();
        possible[place].1 = Some(moment);
        self.length = self.length.max((page + 1) * PAGE);
        self.completed_length.push((moment, self.length));
        if is_durable {
            possible.drain(..=place);
            self.certain.insert(page, stamp);
            self.durable_length = self.durable_length.max((page + 1) * PAGE);
        }
    }

    fn flushed(&mut self, asked: u64) {
        for (page, possible) in &mut self.possible {
            let covered = possible.iter().rposition(|&(_, at)| at.is_some_and(|at| at <= asked));
            if let Some(place) = covered {
                let (stamp, _) = possible.drain(..=place).next_back().unwrap();
                self.certain.insert(*page, stamp);
            }
        }
        let lengths = self.completed_length.iter().filter(|&&(at, _)| at <= asked);
        self.durable_length = lengths.map(|&(_, length)| length).max().unwrap_or(0).max(self.durable_length);
    }
}

/// What was seen over all seeds: a model that never tears would pass the check, too.
#[derive(Default)]
struct Seen {
    torn: u32,
    old: u32,
    new: u32,
    garbage: u32,
    in_flight: u32,
    shorter: u32,
}

/// One writer per page, so that writes to a page follow one another; flushes beside them.
fn workload(runtime: &SimulatedRuntime, books: &Rc<RefCell<Books>>) {
    let stamps = Rc::new(Cell::new(0_u64));
    for page in 0..PAGES {
        let (task, books, stamps) = (runtime.clone(), Rc::clone(books), Rc::clone(&stamps));
        runtime.spawn(async move {
            let file = task.open(Path::new("/data/file"), OpenMode::ReadWrite).await.unwrap();
            loop {
                stamps.set(stamps.get() + 1);
                let stamp = stamps.get();
                let is_durable = task.random_u64().is_multiple_of(4);
                books.borrow_mut().begin(page, stamp);
                let durability = if is_durable { Durability::Durable } else { Durability::Cached };
                file.write(stamped(stamp, 1), page * PAGE, durability).await.unwrap();
                books.borrow_mut().complete(page, stamp, is_durable);
                task.sleep(Duration::from_micros(task.random_u64() % 2000)).await;
            }
        });
    }
    let (task, books) = (runtime.clone(), Rc::clone(books));
    runtime.spawn(async move {
        let file = task.open(Path::new("/data/file"), OpenMode::ReadWrite).await.unwrap();
        loop {
            task.sleep(Duration::from_micros(task.random_u64() % 8000)).await;
            let asked = books.borrow().moment;
            file.flush().await.unwrap();
            books.borrow_mut().flushed(asked);
        }
    });
}

fn check(seed: u64, left: &[u8], books: &Books, is_crash: bool, seen: &mut Seen) {
    assert!(left.len() as u64 >= books.durable_length, "seed {seed}: the file lost durable length");
    seen.shorter += u32::from((left.len() as u64) < books.length);
    for (page, bytes) in (0..).zip(left.chunks(PAGE_BYTES)) {
        let certain = books.certain.get(&page).copied().unwrap_or(0);
        let none = Vec::new();
        let possible = books.possible.get(&page).unwrap_or(&none);
        let in_flight: Vec<u64> =
            possible.iter().filter(|(_, at)| at.is_none()).map(|&(stamp, _)| stamp).collect();
        let mut stamps = BTreeSet::new();
        for sector in bytes.chunks(SECTOR_BYTES) {
            let Some(stamp) = stamp_of(sector) else {
                assert!(
                    is_crash && !in_flight.is_empty(),
                    "seed {seed}: garbage where nothing was in flight"
                );
                seen.garbage += 1;
                continue;
            };
            let is_allowed = stamp == certain || possible.iter().any(|&(known, _)| known == stamp);
            assert!(
                is_allowed,
                "seed {seed}: page {page} holds {stamp}, not {certain} or one of {possible:?}"
            );
            seen.old += u32::from(stamp == certain && !possible.is_empty());
            seen.new += u32::from(stamp != certain);
            seen.in_flight += u32::from(in_flight.contains(&stamp));
            stamps.insert(stamp);
        }
        seen.torn += u32::from(stamps.len() > 1);
        if !is_crash {
            assert!(stamps.len() == 1, "seed {seed}: a kill tore page {page}: {stamps:?}");
            let last =
                possible.iter().rev().find(|(_, at)| at.is_some()).map_or(certain, |&(stamp, _)| stamp);
            let stamp = *stamps.first().unwrap();
            assert!(
                stamp == last || in_flight.contains(&stamp),
                "seed {seed}: a kill lost a completed write: page {page} holds {stamp}, not {last}"
            );
        }
    }
}

fn run(seed: u64, is_crash: bool, seen: &mut Seen) {
    let (world, host, runtime) = one_host(seed, Options::drawn(seed));
    host.put_file(Path::new("/data/file"), &[]).unwrap();
    let books = Rc::new(RefCell::new(Books::default()));
    workload(&runtime, &books);
    world.run_for(Duration::from_micros(world.draw(|chance| chance.below(30_000))));
    if is_crash {
        host.crash();
    } else {
        host.kill();
    }
    let left = host.read_file(Path::new("/data/file")).unwrap();
    check(seed, &left, &books.borrow(), is_crash, seen);
    if is_crash {
        // What the crash has left is certain from then on.
        host.restart();
        host.crash();
        let again = host.read_file(Path::new("/data/file")).unwrap();
        assert_eq!(left, again, "seed {seed}: a second crash changed the disk");
    }
}

#[test]
fn a_crash_leaves_what_the_tear_model_allows() {
    let mut seen = Seen::default();
    for seed in 0..1500 {
        run(seed, true, &mut seen);
    }
    let Seen { torn, old, new, garbage, in_flight, shorter } = seen;
    for (what, count) in [
        ("torn pages", torn),
        ("old sectors", old),
        ("new sectors", new),
        ("garbage", garbage),
        ("sectors of writes in flight", in_flight),
        ("lost lengths", shorter),
    ] {
        assert!(count > 20, "in 1500 crashes {what} were seen {count} times");
    }
}

#[test]
fn a_kill_loses_nothing_that_completed() {
    let mut seen = Seen::default();
    for seed in 0..300 {
        run(seed, false, &mut seen);
    }
    assert!(seen.in_flight > 20, "writes under way survived a kill {} times", seen.in_flight);
}

/// Opens a file, has `first` done to it, crashes at once, and gives back what the disk then holds.
fn after_crash<F: Future<Output = ()> + 'static>(
    seed: u64,
    first: impl FnOnce(SimulatedRuntime, SimulatedFile) -> F + 'static,
) -> Vec<u8> {
    let (world, host, runtime) = one_host(seed, Options::default());
    host.put_file(Path::new("/f"), &stamped(1, 4)).unwrap();
    let task = runtime.clone();
    world.block_on(&runtime, async move {
        let file = task.open(Path::new("/f"), OpenMode::ReadWrite).await.unwrap();
        first(task, file).await;
    });
    host.crash();
    host.read_file(Path::new("/f")).unwrap()
}

#[test]
fn a_cut_is_lost_whole_or_kept_whole_unless_flushed() {
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..60 {
        let left = after_crash(seed, |_, file| async move { file.set_length(PAGE + 512).await.unwrap() });
        match left.len() {
            length if length == 4 * PAGE_BYTES => {
                assert_eq!(left, *stamped(1, 4), "seed {seed}: a lost cut damaged the file");
                lost += 1;
            }
            length => {
                assert_eq!((length, &left[..]), (PAGE_BYTES + 512, &stamped(1, 4)[..PAGE_BYTES + 512]));
                kept += 1;
            }
        }
        let extended = after_crash(seed, |_, file| async move {
            file.set_length(PAGE).await.unwrap();
            file.set_length(3 * PAGE).await.unwrap();
        });
        if extended.len() < 4 * PAGE_BYTES {
            assert!(extended[PAGE_BYTES..].iter().all(|&byte| byte == 0), "seed {seed}: cut bytes came back");
        }
        let flushed = after_crash(seed, |_, file| async move {
            file.set_length(PAGE).await.unwrap();
            file.flush().await.unwrap();
            file.set_length(3 * PAGE).await.unwrap();
        });
        assert_eq!(flushed[..PAGE_BYTES], stamped(1, 1)[..]);
        assert!(flushed[PAGE_BYTES..].iter().all(|&byte| byte == 0), "seed {seed}: cut bytes came back");
    }
    assert!(lost > 5 && kept > 5, "lost {lost}, kept {kept}");
}

#[test]
fn a_durable_write_makes_the_length_that_it_needs_durable() {
    for seed in 0..60 {
        let left = after_crash(seed, |_, file| async move {
            file.allocate(0, 64 * PAGE).await.unwrap();
            file.write(stamped(7, 1), 9 * PAGE, Durability::Durable).await.unwrap();
        });
        assert!(left.len() >= 10 * PAGE_BYTES, "seed {seed}: the file is {} bytes long", left.len());
        assert_eq!(left[9 * PAGE_BYTES..10 * PAGE_BYTES], stamped(7, 1)[..], "seed {seed}");
        assert_eq!(left[..4 * PAGE_BYTES], stamped(1, 4)[..], "seed {seed}");
        assert!(left[10 * PAGE_BYTES..].iter().all(|&byte| byte == 0), "seed {seed}");
    }
}

#[test]
fn unflushed_space_may_vanish() {
    let mut lengths = BTreeSet::new();
    for seed in 0..60 {
        let left = after_crash(seed, |_, file| async move { file.allocate(0, 64 * PAGE).await.unwrap() });
        lengths.insert(left.len() / PAGE_BYTES);
    }
    assert_eq!(lengths, BTreeSet::from([4, 64]));
}

#[test]
fn a_flush_does_not_cover_what_completes_after_it_was_asked_for() {
    let mut lost = 0;
    for seed in 0..80 {
        let left = after_crash(seed, |_, file| async move {
            let flush = file.flush();
            file.write(stamped(2, 1), 0, Durability::Cached).await.unwrap();
            flush.await.unwrap();
        });
        lost += u32::from(left[..PAGE_BYTES] == stamped(1, 1)[..]);
        let covered = after_crash(seed, |_, file| async move {
            file.write(stamped(2, 1), 0, Durability::Cached).await.unwrap();
            file.flush().await.unwrap();
        });
        assert_eq!(
            covered[..PAGE_BYTES],
            stamped(2, 1)[..],
            "seed {seed}: a flush did not cover a completed write"
        );
    }
    assert!(lost > 5, "the write outlived {} of 80 crashes", 80 - lost);
}

#[test]
fn a_durable_write_covers_its_own_bytes_alone() {
    let mut lost = 0;
    for seed in 0..80 {
        let left = after_crash(seed, |_, file| async move {
            file.write(stamped(2, 1), 0, Durability::Cached).await.unwrap();
            file.write(stamped(3, 1), PAGE, Durability::Durable).await.unwrap();
        });
        lost += u32::from(left[..PAGE_BYTES] == stamped(1, 1)[..]);
        assert_eq!(
            left[PAGE_BYTES..2 * PAGE_BYTES],
            stamped(3, 1)[..],
            "seed {seed}: a durable write was lost"
        );
    }
    assert!(lost > 5, "the other write outlived {} of 80 crashes", 80 - lost);
}

#[test]
fn a_failed_flush_loses_writes_that_a_later_flush_does_not_bring_back() {
    let (mut lost, mut silent) = (0, 0);
    for seed in 0..120 {
        let (world, host, runtime) = one_host(seed, Options::default());
        host.put_file(Path::new("/f"), &stamped(1, 1)).unwrap();
        host.inject(Fault::once_after(Operation::Flush, 0));
        let task = runtime.clone();
        world.block_on(&runtime, async move {
            let file = task.open(Path::new("/f"), OpenMode::ReadWrite).await.unwrap();
            file.write(stamped(2, 1), 0, Durability::Cached).await.unwrap();
            let failed = file.flush().await.unwrap_err();
            assert_eq!(failed.raw_os_error(), Some(libc::EIO));
            file.flush().await.unwrap();
        });
        let read = host.read_file(Path::new("/f")).unwrap();
        host.crash();
        let left = host.read_file(Path::new("/f")).unwrap();
        lost += u32::from(left != *stamped(2, 1));
        silent += u32::from(read == *stamped(2, 1) && left != read);
    }
    assert!(lost > 20 && silent > 5, "lost {lost}, of these unseen before the crash {silent}");
}
