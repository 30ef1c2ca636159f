//! Checks of this backend on the machine that builds it.

mod cancellation;
mod load;
mod mailboxes;
mod refusal;

use super::*;
use crate::runtime::buffer::Chunk;
use crate::runtime::conformance::{Effort, cases};
use crate::runtime::{Connection, Durability, File, Listener};
use bytes::{Bytes, BytesMut};
use std::path::PathBuf;
use std::task::Poll;

/// A fresh directory on the disk that holds the test's own executable; removed with what is in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let executable = std::env::current_exe().unwrap();
        let path = executable.with_file_name(format!("scratch-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

#[test]
fn conformance() {
    let scratch = Scratch::new("conformance");
    let directory = scratch.0.clone();
    block_on(|runtime| async move {
        let mut broken = Vec::new();
        for case in cases::<UringRuntime>() {
            let began = runtime.monotonic();
            if let Err(text) = case.run(&runtime, &directory, Effort::FULL).await {
                broken.push((case.name, text));
            }
            println!("{} ms {}", runtime.monotonic().since(began) / 1_000_000, case.name);
        }
        assert!(broken.is_empty(), "{broken:#?}");
    })
    .unwrap();
}

#[test]
fn timers_and_tasks() {
    block_on(|runtime| async move {
        let began = runtime.monotonic();
        let (sender, receiver) = crate::runtime::oneshot::channel();
        let other = runtime.clone();
        runtime.spawn(async move {
            other.sleep(Duration::from_millis(20)).await;
            sender.send(7);
        });
        assert_eq!(receiver.await, Ok(7));
        let waited = runtime.monotonic().since(began);
        assert!((20_000_000..200_000_000).contains(&waited), "{waited}");
        assert_ne!(runtime.random_u64(), runtime.random_u64());
        assert_eq!(runtime.offload(|| 40 + 2).await, Ok(42));
        assert_eq!(runtime.offload(|| panic!("on purpose")).await, Err::<(), _>(OffloadError::Panicked));
    })
    .unwrap();
}

#[test]
fn files_keep_what_was_written() {
    let scratch = Scratch::new("files");
    let path = scratch.0.join("a/b");
    block_on(|runtime| async move {
        runtime.create_directory(&path).await.unwrap();
        let file = runtime.open(&path.join("x"), OpenMode::CreateNew).await.unwrap();
        assert!(file.is_direct());
        let mut chunk = Chunk::with_capacity(3 * 4096);
        chunk.append(&[5; 2 * 4096]);
        file.write(chunk.view_all(), 4096, Durability::Durable).await.unwrap();
        file.flush().await.unwrap();
        assert_eq!(file.length().await.unwrap(), 3 * 4096);
        file.allocate(0, 8 * 4096).await.unwrap();
        file.set_length(3 * 4096 + 100).await.unwrap();
        let (count, read) = file.read(Chunk::with_capacity(8 * 4096), 0, 8 * 4096).await;
        assert_eq!(count.unwrap(), 3 * 4096 + 100);
        assert!(read[..4096].iter().all(|&byte| byte == 0));
        assert!(read[4096..3 * 4096].iter().all(|&byte| byte == 5));
        assert!(file.write(chunk.view(0..100), 0, Durability::Cached).await.is_err());
        let error = runtime.open(&path.join("x"), OpenMode::CreateNew).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        runtime.rename(&path.join("x"), &path.join("y")).await.unwrap();
        runtime.sync_directory(&path).await.unwrap();
        let entries = runtime.read_directory(&path).await.unwrap();
        let entry = DirectoryEntry { name: "y".to_owned(), is_directory: false, length: 3 * 4096 + 100 };
        assert_eq!(entries, [entry]);
        runtime.remove_file(&path.join("y")).await.unwrap();
        runtime.remove_directory(&path).await.unwrap();
        assert_eq!(runtime.open(&path, OpenMode::Read).await.err().unwrap().kind(), io::ErrorKind::NotFound);
    })
    .unwrap();
}

#[test]
fn streams_carry_bytes_both_ways() {
    block_on(|runtime| async move {
        let listener = runtime.listen(loopback()).await.unwrap();
        let address = listener.local_address();
        assert!(runtime.listen(address).await.is_err(), "a port that is held cannot be taken");
        let server = runtime.clone();
        runtime.spawn(async move {
            let (handle, _) = listener.accept().await.unwrap();
            let connection = server.adopt(handle);
            loop {
                let (count, buffer) = connection.receive(BytesMut::with_capacity(64 << 10)).await;
                if count.unwrap() == 0 {
                    break;
                }
                connection.send(vec![buffer.freeze()]).await.unwrap();
            }
        });
        let client = runtime.connect(address).await.unwrap();
        let parts: Vec<Bytes> =
            (0..3000_u32).map(|n| Bytes::from(vec![n as u8; (n % 700) as usize])).collect();
        let expected: Vec<u8> = parts.iter().flatten().copied().collect();
        let sender = client.clone();
        runtime.spawn(async move { sender.send(parts).await.unwrap() });
        let mut echoed = BytesMut::new();
        while echoed.len() < expected.len() {
            echoed.reserve(64 << 10);
            let (count, buffer) = client.receive(echoed).await;
            assert_ne!(count.unwrap(), 0);
            echoed = buffer;
        }
        assert!(echoed == expected);
        client.shutdown();
        assert_eq!(client.receive(BytesMut::with_capacity(10)).await.0.unwrap(), 0);
    })
    .unwrap();
}

#[test]
fn shards_wake_each_other() {
    let (mut senders, mut receivers) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let (sender, receiver) = crate::runtime::oneshot::channel::<u32>();
        senders.push(sender);
        receivers.push(receiver);
    }
    receivers.rotate_left(1);
    let seeds = senders.into_iter().zip(receivers).collect();
    let threads =
        ShardThreads::start(&Options::default(), seeds, None, |runtime, (sender, receiver)| async move {
            runtime.sleep(Duration::from_millis(10 + 30 * u64::from(runtime.shard().0))).await;
            sender.send(u32::from(runtime.shard().0));
            let other = receiver.await.unwrap();
            assert_eq!(other, 1 - u32::from(runtime.shard().0));
        })
        .unwrap();
    threads.join();
}

/// More than the pools' queues hold: offloaded work is refused, directory operations wait.
#[test]
fn full_queues_refuse_work_and_delay_directories() {
    let scratch = Scratch::new("queues");
    let directory = scratch.0.clone();
    block_on(|runtime| async move {
        let (release, held) = std::sync::mpsc::channel::<()>();
        let held = std::sync::Arc::new(std::sync::Mutex::new(held));
        let mut outcomes = Vec::new();
        for _ in 0..1100 {
            let held = Arc::clone(&held);
            outcomes.push(runtime.offload(move || held.lock().is_ok_and(|held| held.recv().is_ok())));
        }
        drop(release);
        let (mut done, mut busy) = (0, 0);
        for outcome in outcomes {
            match outcome.await {
                Ok(_) => done += 1,
                Err(error) => busy += usize::from(error == OffloadError::Busy),
            }
        }
        assert_eq!(done + busy, 1100);
        assert!((1024..=1026).contains(&done), "{done} pieces of work were done");
        let left = Rc::new(std::cell::Cell::new(3000));
        for number in 0..left.get() {
            let (own, path, left) = (runtime.clone(), directory.join(number.to_string()), Rc::clone(&left));
            runtime.spawn(async move {
                own.create_directory(&path).await.unwrap();
                left.set(left.get() - 1);
            });
        }
        while left.get() > 0 {
            runtime.sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(runtime.read_directory(&directory).await.unwrap().len(), 3000);
    })
    .unwrap();
}
