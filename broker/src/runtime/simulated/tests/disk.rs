//! Names, faults and the limits of a simulated disk.

use super::*;
use crate::runtime::buffer::{Chunk, ChunkView};
use crate::runtime::{Durability, File, OpenMode};
use logmill_wire::limits::PAGE_BYTES;
use std::collections::BTreeSet;
use std::path::PathBuf;

const PAGE: u64 = PAGE_BYTES as u64;

fn page(byte: u8) -> ChunkView {
    let mut chunk = Chunk::with_capacity(PAGE_BYTES);
    chunk.append(&[byte; PAGE_BYTES]);
    chunk.view_all()
}

/// The paths of all files beneath `/`.
fn files(world: &World, runtime: &SimulatedRuntime) -> BTreeSet<String> {
    let task = runtime.clone();
    world.block_on(runtime, async move {
        let (mut found, mut work) = (BTreeSet::new(), vec![PathBuf::from("/")]);
        while let Some(directory) = work.pop() {
            for entry in task.read_directory(&directory).await.unwrap() {
                let path = directory.join(&entry.name);
                if entry.is_directory {
                    work.push(path);
                } else {
                    found.insert(path.to_str().unwrap().to_owned());
                }
            }
        }
        found
    })
}

/// The files after `deeds` and a crash.
fn files_after_crash<F: Future<Output = ()> + 'static>(
    seed: u64,
    deeds: impl FnOnce(SimulatedRuntime) -> F + 'static,
) -> BTreeSet<String> {
    let (world, host, runtime) = one_host(seed, Options::default());
    host.put_file(Path::new("/d/kept"), b"x").unwrap();
    let task = runtime.clone();
    world.block_on(&runtime, async move { deeds(task).await });
    host.crash();
    host.restart();
    files(&world, &host.runtime(ShardIndex(0)))
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn a_crash_keeps_a_prefix_of_the_names_unless_they_are_synced() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..200 {
        outcomes.insert(files_after_crash(seed, |task| async move {
            for name in ["/d/1", "/d/2", "/d/3"] {
                task.open(Path::new(name), OpenMode::CreateNew).await.unwrap();
            }
            task.remove_file(Path::new("/d/kept")).await.unwrap();
        }));
        let synced = files_after_crash(seed, |task| async move {
            task.open(Path::new("/d/1"), OpenMode::CreateNew).await.unwrap();
            task.rename(Path::new("/d/1"), Path::new("/d/kept")).await.unwrap();
            task.sync_directory(Path::new("/d")).await.unwrap();
            task.rename(Path::new("/d/kept"), Path::new("/d/moved")).await.unwrap();
        });
        assert!(synced == set(&["/d/kept"]) || synced == set(&["/d/moved"]), "seed {seed}: {synced:?}");
    }
    let all = ["/d/1", "/d/2", "/d/3"];
    let expected: BTreeSet<_> = (0..=3)
        .map(|count| {
            let mut names = set(&all[..count]);
            names.insert("/d/kept".to_owned());
            names
        })
        .chain([set(&all)])
        .collect();
    assert_eq!(outcomes, expected);
}

#[test]
fn a_move_between_directories_is_one_deed() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..200 {
        outcomes.insert(files_after_crash(seed, |task| async move {
            task.create_directory(Path::new("/e")).await.unwrap();
            task.sync_directory(Path::new("/")).await.unwrap();
            task.rename(Path::new("/d/kept"), Path::new("/e/moved")).await.unwrap();
        }));
        let synced = files_after_crash(seed, |task| async move {
            task.create_directory(Path::new("/e")).await.unwrap();
            task.rename(Path::new("/d/kept"), Path::new("/e/moved")).await.unwrap();
            task.sync_directory(Path::new("/e")).await.unwrap();
            task.sync_directory(Path::new("/")).await.unwrap();
        });
        assert_eq!(synced, set(&["/e/moved"]), "seed {seed}");
    }
    assert_eq!(outcomes, BTreeSet::from([set(&["/d/kept"]), set(&["/e/moved"])]));
}

#[test]
fn a_directory_without_a_durable_name_takes_its_files_with_it() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..100 {
        outcomes.insert(files_after_crash(seed, |task| async move {
            task.create_directory(Path::new("/new")).await.unwrap();
            task.open(Path::new("/new/file"), OpenMode::CreateNew).await.unwrap();
            task.sync_directory(Path::new("/new")).await.unwrap();
        }));
    }
    assert_eq!(outcomes, BTreeSet::from([set(&["/d/kept"]), set(&["/d/kept", "/new/file"])]));
}

#[test]
fn a_removed_file_that_comes_back_has_its_bytes() {
    let mut came_back = 0;
    for seed in 0..60 {
        let (world, host, runtime) = one_host(seed, Options::default());
        host.put_file(Path::new("/d/file"), &page(7)).unwrap();
        let task = runtime.clone();
        world.block_on(&runtime, async move {
            task.remove_file(Path::new("/d/file")).await.unwrap();
            task.open(Path::new("/d/file"), OpenMode::CreateNew).await.unwrap();
        });
        host.crash();
        match host.read_file(Path::new("/d/file")) {
            Ok(bytes) if !bytes.is_empty() => {
                assert_eq!(bytes, *page(7));
                came_back += 1;
            }
            _ => {}
        }
    }
    assert!(came_back > 10, "{came_back}");
}

#[test]
fn faults_strike_when_they_are_told_to() {
    let (world, host, runtime) = one_host(1, Options::default());
    host.put_file(Path::new("/log/a"), &page(1)).unwrap();
    host.put_file(Path::new("/log/b"), &page(1)).unwrap();
    host.inject(Fault { path_contains: "/b".to_owned(), ..Fault::once_after(Operation::Read, 2) });
    let mut full = Fault::always(Operation::Write);
    full.error = libc::ENOSPC;
    host.inject(full);
    let task = runtime.clone();
    world.block_on(&runtime, async move {
        let a = task.open(Path::new("/log/a"), OpenMode::ReadWrite).await.unwrap();
        let b = task.open(Path::new("/log/b"), OpenMode::Read).await.unwrap();
        let mut outcomes = Vec::new();
        for _ in 0..5 {
            assert!(a.read(Chunk::with_capacity(1), 0, PAGE_BYTES).await.0.is_ok());
            outcomes.push(b.read(Chunk::with_capacity(1), 0, PAGE_BYTES).await.0.is_ok());
        }
        assert_eq!(outcomes, [true, true, false, true, true]);
        let error = a.write(page(2), 0, Durability::Durable).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    });
    host.clear_faults();
    let task = runtime.clone();
    world.block_on(&runtime, async move {
        let a = task.open(Path::new("/log/a"), OpenMode::ReadWrite).await.unwrap();
        a.write(page(3), 0, Durability::Durable).await.unwrap();
    });
    assert_eq!(host.read_file(Path::new("/log/a")).unwrap(), *page(3));
}

#[test]
fn space_runs_out_and_comes_back() {
    let (world, host, runtime) = one_host(1, Options::default());
    host.set_capacity(Some(10 * PAGE));
    let task = runtime.clone();
    world.block_on(&runtime, async move {
        let a = task.open(Path::new("/a"), OpenMode::Create).await.unwrap();
        let b = task.open(Path::new("/b"), OpenMode::Create).await.unwrap();
        a.allocate(0, 8 * PAGE).await.unwrap();
        b.write(page(1), 0, Durability::Cached).await.unwrap();
        b.write(page(1), 5 * PAGE, Durability::Cached).await.unwrap();
        let full = b.write(page(1), PAGE, Durability::Cached).await.unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        assert!(b.allocate(0, 4 * PAGE).await.is_err());
        // What has its space already can be written.
        a.write(page(1), 7 * PAGE, Durability::Cached).await.unwrap();
        b.write(page(2), 5 * PAGE, Durability::Cached).await.unwrap();
        a.set_length(PAGE).await.unwrap();
        b.allocate(0, 6 * PAGE).await.unwrap();
        // A removed file keeps its space while it is open.
        task.remove_file(Path::new("/b")).await.unwrap();
        assert!(a.allocate(0, 8 * PAGE).await.is_err());
        drop(b);
        a.allocate(0, 8 * PAGE).await.unwrap();
    });
}

#[test]
fn bits_rot_where_they_are_told_to() {
    let (_world, host, _runtime) = one_host(1, Options::default());
    host.put_file(Path::new("/f"), &[0; 3 * PAGE_BYTES]).unwrap();
    host.flip_bits(Path::new("/f"), PAGE..PAGE + 10, 1).unwrap();
    host.crash();
    let bytes = host.read_file(Path::new("/f")).unwrap();
    let flipped: Vec<usize> = (0..bytes.len()).filter(|&place| bytes[place] != 0).collect();
    assert!(matches!(flipped[..], [place] if (PAGE_BYTES..PAGE_BYTES + 10).contains(&place)), "{flipped:?}");
    assert_eq!(bytes[flipped[0]].count_ones(), 1);
    assert!(host.flip_bits(Path::new("/nowhere"), 0..1, 1).is_err());
}

/// Two writes to one page under way together.
fn overlap(refuse: bool, seed: u64) -> Vec<u8> {
    let mut options = Options::default();
    options.disk.refuse_overlapping_writes = refuse;
    let (world, host, runtime) = one_host(seed, options);
    let task = runtime.clone();
    world.block_on(&runtime, async move {
        let file = Rc::new(task.open(Path::new("/f"), OpenMode::Create).await.unwrap());
        let (sender, receiver) = crate::runtime::oneshot::channel();
        let first = Rc::clone(&file);
        task.spawn(async move {
            first.write(page(1), 0, Durability::Cached).await.unwrap();
            sender.send(());
        });
        file.write(page(2), 0, Durability::Cached).await.unwrap();
        receiver.await.unwrap();
    });
    host.read_file(Path::new("/f")).unwrap()
}

#[test]
fn overlapping_writes_end_in_any_order() {
    let seen: BTreeSet<u8> = (0..40).map(|seed| overlap(false, seed)[0]).collect();
    assert_eq!(seen, BTreeSet::from([1, 2]));
}

#[test]
fn a_read_beside_a_write_sees_old_and_new_sectors() {
    let mut mixtures = 0;
    for seed in 0..40 {
        let (world, host, runtime) = one_host(seed, Options::default());
        host.put_file(Path::new("/f"), &page(1)).unwrap();
        let task = runtime.clone();
        let read = world.block_on(&runtime, async move {
            let file = task.open(Path::new("/f"), OpenMode::ReadWrite).await.unwrap();
            task.spawn({
                let write = file.write(page(2), 0, Durability::Cached);
                async move { write.await.unwrap() }
            });
            task.yield_now().await;
            file.read(Chunk::with_capacity(PAGE_BYTES), 0, PAGE_BYTES).await.1
        });
        assert!(read.iter().all(|&byte| byte == 1 || byte == 2));
        mixtures += u32::from(read.contains(&1) && read.contains(&2));
    }
    assert!(mixtures > 5, "of 40 reads beside a write {mixtures} were mixed");
}

#[test]
#[should_panic(expected = "under way together")]
fn overlapping_writes_are_refused() {
    overlap(true, 1);
}

#[test]
#[should_panic(expected = "position of direct I/O")]
fn unaligned_positions_are_refused() {
    let (world, _host, runtime) = one_host(1, Options::default());
    let task = runtime.clone();
    world.block_on(&runtime, async move {
        let file = task.open(Path::new("/f"), OpenMode::Create).await.unwrap();
        let _ = file.write(page(1), 512, Durability::Cached).await;
    });
}

#[test]
#[should_panic(expected = "memory of direct I/O")]
fn unaligned_memory_is_refused() {
    let (world, _host, runtime) = one_host(1, Options::default());
    let task = runtime.clone();
    world.block_on(&runtime, async move {
        let file = task.open(Path::new("/f"), OpenMode::Create).await.unwrap();
        let mut chunk = Chunk::with_capacity(2 * PAGE_BYTES);
        chunk.append(b"x");
        let _ = file.read(chunk, 0, PAGE_BYTES).await;
    });
}
