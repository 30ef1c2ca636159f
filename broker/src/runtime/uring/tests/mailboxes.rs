//! Mailboxes between shards that really run, sleep and wake each other.

use super::*;
use crate::runtime::mailbox::{Endpoint, Mesh};
use crate::runtime::oneshot;
use std::sync::atomic::{AtomicU64, Ordering};

fn endpoints<M: Send>(shards: u16, capacity: usize) -> Vec<Endpoint<M>> {
    let mut mesh = Mesh::new(usize::from(shards), capacity);
    (0..shards).map(|shard| mesh.endpoint(ShardIndex(shard)).unwrap()).collect()
}

/// Every shard sends to every shard, itself included, faster than the small mailboxes take; each pair's
/// messages arrive all and in order.
#[test]
fn all_pairs_keep_their_order() {
    const SHARDS: u16 = 4;
    const MESSAGES: u64 = 3000;
    let threads = ShardThreads::start(
        &Options::default(),
        endpoints::<u64>(SHARDS, 16),
        None,
        |runtime, endpoint| async move {
            let endpoint = Rc::new(endpoint);
            let mut senders = Vec::new();
            for to in 0..SHARDS {
                let (own, sender) = (runtime.clone(), Rc::clone(&endpoint));
                let (finished, sender_finished) = oneshot::channel();
                senders.push(sender_finished);
                runtime.spawn(async move {
                    for message in 0..MESSAGES {
                        sender.send(ShardIndex(to), message).await;
                        // Now and then everybody goes to sleep.
                        if message % 1000 == 999 {
                            own.sleep(Duration::from_millis(2)).await;
                        }
                    }
                    finished.send(());
                });
            }
            let mut next = [0; SHARDS as usize];
            for _ in 0..MESSAGES * u64::from(SHARDS) {
                let (from, message) = endpoint.recv().await;
                let expected = &mut next[usize::from(from.0)];
                assert_eq!(message, *expected);
                *expected += 1;
            }
            assert!(endpoint.try_recv().is_none());
            for sender in senders {
                sender.await.unwrap();
            }
        },
    )
    .unwrap();
    threads.join();
}

/// Tasks of one shard that wait for room get it in the order in which they came, and a dropped one is no gap.
#[test]
fn waiting_senders_take_turns() {
    block_on(|runtime| async move {
        let endpoint = Rc::new(endpoints::<u32>(1, 1).remove(0));
        let home = ShardIndex(0);
        assert!(endpoint.try_send(home, 0).is_ok());
        for message in 1..=6 {
            let (own, sender) = (runtime.clone(), Rc::clone(&endpoint));
            runtime.spawn(async move {
                if message % 2 == 1 {
                    sender.send(home, message).await;
                    return;
                }
                let mut dropped = Box::pin(sender.send(home, message));
                assert!(
                    std::future::poll_fn(|context| Poll::Ready(dropped.as_mut().poll(context)))
                        .await
                        .is_pending()
                );
                own.sleep(Duration::from_millis(5)).await;
                drop(dropped);
            });
        }
        runtime.yield_now().await;
        assert!(endpoint.try_send(home, 9).is_err(), "nobody overtakes those who wait");
        runtime.sleep(Duration::from_millis(20)).await;
        let mut received = Vec::new();
        for _ in 0..4 {
            received.push(endpoint.recv().await.1);
        }
        assert_eq!(received, [0, 1, 3, 5]);
    })
    .unwrap();
}

/// A shard that sleeps is woken by another, and nobody spins meanwhile.
fn wake_sleepers(wake_by_ring: bool) {
    let options = Options { wake_by_ring, ..Options::default() };
    let worst_ns = Arc::new(AtomicU64::new(0));
    let worst = Arc::clone(&worst_ns);
    let threads = ShardThreads::start(&options, endpoints::<u64>(2, 4), None, move |runtime, endpoint| {
        let worst = Arc::clone(&worst);
        async move {
            let other = ShardIndex(1 - runtime.shard().0);
            if other.0 == 1 {
                for _ in 0..20 {
                    runtime.sleep(Duration::from_millis(5)).await;
                    endpoint.send(other, runtime.monotonic().0).await;
                    assert_eq!(endpoint.recv().await, (other, 0));
                }
                return;
            }
            for _ in 0..20 {
                let sent = MonotonicNs(endpoint.recv().await.1);
                let late = runtime.monotonic().since(sent);
                worst.fetch_max(late, Ordering::Relaxed);
                endpoint.send(other, 0).await;
            }
        }
    })
    .unwrap();
    let stats: Vec<_> = threads.stats().to_vec();
    threads.join();
    assert!(worst_ns.load(Ordering::Relaxed) < 50_000_000, "{worst_ns:?} ns until a sleeper answered");
    for stats in stats {
        let turns = stats.turns.load(Ordering::Relaxed);
        assert!(turns < 200, "{stats:?}: an idle shard turns only when something happens");
        let kicks = stats.kicks.load(Ordering::Relaxed);
        assert!(if wake_by_ring { kicks >= 19 } else { kicks == 0 }, "{stats:?}");
    }
}

#[test]
fn sleepers_are_woken_by_rings() {
    wake_sleepers(true);
}

#[test]
fn sleepers_are_woken_by_eventfds() {
    wake_sleepers(false);
}

/// A shard with nothing to do turns a few times at its start and then no more, with a timer and without.
#[test]
fn an_idle_shard_uses_no_cpu() {
    let (sender, receiver) = oneshot::channel();
    let seeds = vec![(Some(sender), None), (None, Some(receiver))];
    let threads = ShardThreads::start(&Options::default(), seeds, None, |runtime, seed| async move {
        let (sender, receiver) = seed;
        if let Some(receiver) = receiver {
            assert_eq!(receiver.await, Ok(7));
            return;
        }
        runtime.sleep(Duration::from_millis(400)).await;
        if let Some(sender) = sender {
            sender.send(7);
        }
    })
    .unwrap();
    let stats: Vec<_> = threads.stats().to_vec();
    threads.join();
    for stats in stats {
        assert!(stats.turns.load(Ordering::Relaxed) < 8, "{stats:?}");
    }
}
