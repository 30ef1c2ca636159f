//! Hosts that talk: cuts, resets, crashes of a peer.

use super::*;
use crate::runtime::{Connection, Listener};
use bytes::{Bytes, BytesMut};
use std::cell::Cell;

/// Two hosts; the second echoes what it is sent on port 9092.
fn echo_world(seed: u64, options: Options) -> (World, Host, Host) {
    let world = World::new(seed, options);
    let (one, two) = (world.host("one"), world.host("two"));
    serve_echo(&two);
    (world, one, two)
}

fn serve_echo(host: &Host) {
    let runtime = host.runtime(ShardIndex(0));
    let task = runtime.clone();
    runtime.spawn(async move {
        let listener = task.listen(SocketAddr::from(([0, 0, 0, 0], 9092))).await.unwrap();
        loop {
            let (handle, _) = listener.accept().await.unwrap();
            let connection = task.adopt(handle);
            task.spawn(async move {
                while let (Ok(1..), bytes) = connection.receive(BytesMut::with_capacity(4096)).await {
                    if connection.send(vec![bytes.freeze()]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// Sends a word over `connection` and waits for it to come back.
async fn echo(connection: &SimulatedConnection, word: &'static [u8]) -> io::Result<()> {
    connection.send(vec![Bytes::from_static(word)]).await?;
    let mut got = BytesMut::new();
    while got.len() < word.len() {
        match connection.receive(BytesMut::with_capacity(64)).await {
            (Ok(0), _) => return Err(io::ErrorKind::UnexpectedEof.into()),
            (Ok(_), bytes) => got.extend_from_slice(&bytes),
            (Err(error), _) => return Err(error),
        }
    }
    assert_eq!(got, word);
    Ok(())
}

/// Echoes every 10 ms for ever and counts; ends at the first error.
fn beat(world: &World, from: &Host, to: &Host) -> (Rc<Cell<u32>>, Rc<Cell<Option<io::ErrorKind>>>) {
    let (beats, end) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(None)));
    let runtime = from.runtime(ShardIndex(0));
    let (task, address) = (runtime.clone(), to.address(9092));
    let (counted, ended) = (Rc::clone(&beats), Rc::clone(&end));
    runtime.spawn(async move {
        let connection = task.connect(address).await.unwrap();
        loop {
            if let Err(error) = echo(&connection, b"beat").await {
                ended.set(Some(error.kind()));
                return;
            }
            counted.set(counted.get() + 1);
            task.sleep(Duration::from_millis(10)).await;
        }
    });
    world.run_for(Duration::from_millis(200));
    assert!(beats.get() > 3, "{} beats", beats.get());
    (beats, end)
}

#[test]
fn a_cut_of_either_way_silences_and_mending_delivers() {
    for seed in 0..20 {
        let (world, one, two) = echo_world(seed, Options::default());
        let (beats, end) = beat(&world, &one, &two);
        for (from, to) in [(&one, &two), (&two, &one)] {
            world.cut(from, to);
            world.run_for(Duration::from_millis(50));
            let before = beats.get();
            world.run_for(Duration::from_secs(20));
            assert_eq!(beats.get(), before, "seed {seed}: a cut let something through");
            world.mend(from, to);
            world.run_for(Duration::from_secs(1));
            assert!(beats.get() > before + 3, "seed {seed}: after the cut nothing goes on");
        }
        assert_eq!(end.get(), None);
    }
}

#[test]
fn a_connect_over_a_cut_times_out() {
    let (world, one, two) = echo_world(1, Options::default());
    world.cut(&two, &one);
    let runtime = one.runtime(ShardIndex(0));
    let (task, address) = (runtime.clone(), two.address(9092));
    let error = world.block_on(&runtime, async move { task.connect(address).await.err().unwrap() });
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(world.now() >= Duration::from_secs(10), "{:?}", world.now());
}

#[test]
fn a_reset_fails_both_ends() {
    let (world, one, two) = echo_world(1, Options::default());
    let (_, end) = beat(&world, &one, &two);
    world.reset_connections(&two, &one);
    world.run_for(Duration::from_millis(100));
    assert!(matches!(end.get(), Some(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)), "{end:?}");
    // A new connection works.
    beat(&world, &one, &two);
}

#[test]
fn resets_are_injected_at_random() {
    let options = Options { reset: 0.05, ..Options::default() };
    let (world, one, two) = echo_world(4, options);
    let runtime = one.runtime(ShardIndex(0));
    let (task, address) = (runtime.clone(), two.address(9092));
    let (failed, fine) = world.block_on(&runtime, async move {
        let (mut failed, mut fine) = (0, 0);
        for _ in 0..200 {
            let connection = task.connect(address).await.unwrap();
            match echo(&connection, b"word").await {
                Ok(()) => fine += 1,
                Err(_) => failed += 1,
            }
        }
        (failed, fine)
    });
    assert!(failed > 5 && fine > 100, "{failed} failed, {fine} did not");
}

#[test]
fn a_crashed_peer_is_silent_until_it_is_back() {
    let (mut told, mut waiting) = (0, 0);
    for seed in 0..20 {
        let (world, one, two) = echo_world(seed, Options::default());
        let (beats, end) = beat(&world, &one, &two);
        two.crash();
        world.run_for(Duration::from_secs(5));
        assert_eq!(end.get(), None, "seed {seed}: somebody told of the crash");
        let before = beats.get();
        two.restart();
        serve_echo(&two);
        world.run_for(Duration::from_secs(5));
        // Who only waits for an answer, all its bytes taken, is never told, as on any network.
        *if end.get().is_some() { &mut told } else { &mut waiting } += 1;
        assert_eq!(beats.get(), before, "seed {seed}: a stream outlived its host's crash");
        beat(&world, &one, &two);
    }
    assert!(told > 0 && waiting > 0, "{told} were told, {waiting} wait for ever");
}

#[test]
fn a_killed_peer_resets_its_streams() {
    let (world, one, two) = echo_world(1, Options::default());
    let (_, end) = beat(&world, &one, &two);
    two.kill();
    world.run_for(Duration::from_secs(1));
    assert!(end.get().is_some());
    let runtime = one.runtime(ShardIndex(0));
    two.restart();
    let (task, address) = (runtime.clone(), two.address(9092));
    let refused = world.block_on(&runtime, async move { task.connect(address).await.err().unwrap() });
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    serve_echo(&two);
    beat(&world, &one, &two);
}

#[test]
fn hosts_have_their_own_loopback() {
    let (world, one, two) = echo_world(1, Options::default());
    for (host, is_open) in [(&one, false), (&two, true)] {
        let runtime = host.runtime(ShardIndex(3));
        let task = runtime.clone();
        let outcome = world.block_on(&runtime, async move {
            task.connect(SocketAddr::from(([127, 0, 0, 1], 9092))).await.is_ok()
        });
        assert_eq!(outcome, is_open, "{}", host.name());
    }
}
