//! Futures that are dropped at every point of their lives: what the kernel still uses must stay untouched by
//! others, and everything is given back in the end.

use super::*;
use std::cell::Cell;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Polls a future a number of times, as the completions come in, and then drops it. Whether it had finished.
async fn drop_after<T>(runtime: &UringRuntime, polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    for _ in 0..polls {
        let polled = std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
        if let Poll::Ready(value) = polled {
            return Some(value);
        }
        // A yield may come back before the ring was looked at, a sleep does not.
        match runtime.random_u64() % 4 {
            0 => runtime.yield_now().await,
            some => runtime.sleep(Duration::from_micros(some * 20)).await,
        }
    }
    None
}

/// Memory that counts its owners and is overwritten when it is given back: a kernel that still reads it
/// would send the overwritten bytes.
struct Guarded {
    bytes: Vec<u8>,
    alive: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Guarded {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.bytes.fill(0xEE);
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Sends are dropped while the peer does not read. Whatever arrives was never overwritten.
#[test]
fn a_dropped_send_keeps_its_bytes() {
    block_on(|runtime| async move {
        let alive = Arc::new(AtomicUsize::new(0));
        let listener = runtime.listen(loopback()).await.unwrap();
        for round in 0..60 {
            let client = runtime.connect(listener.local_address()).await.unwrap();
            let (handle, _) = listener.accept().await.unwrap();
            let server = runtime.adopt(handle);
            let parts = (0..50)
                .map(|_| {
                    alive.fetch_add(1, Ordering::Relaxed);
                    Bytes::from_owner(Guarded { bytes: vec![0x11; 200_000], alive: Arc::clone(&alive) })
                })
                .collect();
            // 10 MB do not fit the socket: the send is dropped at its first poll or somewhere in the middle.
            let sent = drop_after(&runtime, round % 5, client.send(parts)).await;
            assert!(sent.is_none(), "a peer that does not read cannot have got it all");
            drop(client);
            let mut total = 0;
            loop {
                let (count, buffer) = server.receive(BytesMut::with_capacity(1 << 20)).await;
                total += buffer.len();
                assert!(buffer.iter().all(|&byte| byte == 0x11), "memory in use was given back");
                if matches!(count, Ok(0) | Err(_)) {
                    break;
                }
            }
            assert!(round % 5 > 0 || total == 0, "a send that was never polled has not begun");
        }
        runtime.sleep(Duration::from_millis(20)).await;
        assert_eq!(alive.load(Ordering::Relaxed), 0, "all memory is given back in the end");
    })
    .unwrap();
}

/// Receives are dropped at random; the allocator hands their memory out again only after the kernel has let
/// go of it, so that what is built in it afterwards stays as it was built.
#[test]
fn a_dropped_receive_never_writes_into_others_memory() {
    block_on(|runtime| async move {
        let listener = runtime.listen(loopback()).await.unwrap();
        let client = runtime.connect(listener.local_address()).await.unwrap();
        let (handle, _) = listener.accept().await.unwrap();
        let server = runtime.adopt(handle);
        let stop = Rc::new(Cell::new(false));
        let (stopped, own) = (Rc::clone(&stop), runtime.clone());
        runtime.spawn(async move {
            while !stopped.get() {
                server.send(vec![Bytes::from(vec![0x77; 30_000])]).await.unwrap();
                own.yield_now().await;
            }
        });
        let mut finished = 0;
        for _ in 0..2000 {
            let polls = (runtime.random_u64() % 4) as usize;
            let receive = client.receive(BytesMut::with_capacity(16_384));
            finished += usize::from(drop_after(&runtime, polls, receive).await.is_some());
            // Most likely the very memory that the receive had, if it was freed.
            let ours = vec![0x22_u8; 16_384];
            runtime.yield_now().await;
            assert!(
                ours.iter().all(|&byte| byte == 0x22),
                "the kernel wrote into memory that was given back"
            );
        }
        assert!(finished > 100, "{finished} receives finished");
        stop.set(true);
    })
    .unwrap();
}

/// Reads and writes of files, dropped likewise, with more of them than may be under way at once.
#[test]
fn dropped_file_operations_keep_their_buffers() {
    let scratch = Scratch::new("cancel");
    let path = scratch.0.join("file");
    block_on(|runtime| async move {
        let file = Rc::new(runtime.open(&path, OpenMode::CreateNew).await.unwrap());
        let page = |byte: u8| {
            let mut chunk = Chunk::with_capacity(4096);
            chunk.append(&[byte; 4096]);
            chunk
        };
        file.write(page(1).view_all(), 0, Durability::Cached).await.unwrap();
        let left = Rc::new(Cell::new(0));
        for number in 0..1500_u64 {
            let (own, file, counter) = (runtime.clone(), Rc::clone(&file), Rc::clone(&left));
            left.set(left.get() + 1);
            let chunk = page(2);
            runtime.spawn(async move {
                let polls = (own.random_u64() % 5) as usize;
                if number % 2 == 0 {
                    let write = file.write(chunk.view_all(), 4096 * (1 + number), Durability::Cached);
                    drop(chunk);
                    drop_after(&own, polls, write).await;
                    let ours = vec![0x33_u8; 4096];
                    own.yield_now().await;
                    drop(ours);
                } else {
                    let read = file.read(Chunk::with_capacity(4096), 0, 4096);
                    let done = drop_after(&own, polls, read).await;
                    let ours = Chunk::with_capacity(4096).spare().to_vec();
                    own.yield_now().await;
                    assert!(ours.iter().all(|&byte| byte == 0), "a dropped read wrote into others' memory");
                    if let Some((count, chunk)) = done {
                        assert_eq!(count.unwrap(), 4096);
                        assert!(chunk.iter().all(|&byte| byte == 1));
                    }
                }
                counter.set(counter.get() - 1);
            });
        }
        while left.get() > 0 {
            runtime.sleep(Duration::from_millis(5)).await;
        }
        let length = file.length().await.unwrap() as usize;
        for position in (4096..length).step_by(4096) {
            let (count, chunk) = file.read(Chunk::with_capacity(4096), position as u64, 4096).await;
            assert_eq!(count.unwrap(), 4096);
            assert!(
                chunk.iter().all(|&byte| byte == chunk[0]) && chunk[0] % 2 == 0,
                "old or new, nothing else"
            );
        }
    })
    .unwrap();
}

/// The stream's end, or an error, within a second: its other side is closed.
async fn ends(runtime: &UringRuntime, connection: &UringConnection) -> bool {
    let mut receive = pin!(connection.receive(BytesMut::with_capacity(10)));
    let mut time = pin!(runtime.sleep(Duration::from_secs(1)));
    std::future::poll_fn(|context| match receive.as_mut().poll(context) {
        Poll::Ready((result, _)) => Poll::Ready(matches!(result, Ok(0) | Err(_))),
        Poll::Pending => time.as_mut().poll(context).map(|()| false),
    })
    .await
}

/// Connections, listeners and files whose operations are dropped are closed once those have ended.
#[test]
fn descriptors_are_closed() {
    let scratch = Scratch::new("closed");
    let path = scratch.0.join("file");
    block_on(|runtime| async move {
        let listener = runtime.listen(loopback()).await.unwrap();
        let address = listener.local_address();
        let mut clients = Vec::new();
        for polls in 0..200 {
            clients.push(runtime.connect(address).await.unwrap());
            drop_after(&runtime, polls % 4, listener.accept()).await;
            drop_after(&runtime, polls % 4, runtime.open(&path, OpenMode::Create)).await;
        }
        drop(listener);
        for client in &clients {
            assert!(ends(&runtime, client).await, "a connection that nobody has is still open");
        }
        let open_files = std::fs::read_dir("/proc/self/fd").unwrap().filter(|entry| {
            let link = entry.as_ref().map(|entry| std::fs::read_link(entry.path()));
            matches!(link, Ok(Ok(target)) if target == path)
        });
        assert_eq!(open_files.count(), 0, "files that nobody has are still open");
        let listener = runtime.listen(loopback()).await.unwrap();
        for polls in 0..20 {
            let client = runtime.connect(listener.local_address()).await.unwrap();
            let server = runtime.adopt(listener.accept().await.unwrap().0);
            drop_after(&runtime, polls % 4, client.receive(BytesMut::with_capacity(10))).await;
            drop(client);
            assert!(ends(&runtime, &server).await, "a connection with a dropped receive is still open");
        }
    })
    .unwrap();
}
