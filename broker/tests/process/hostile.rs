//! Bytes from strangers at a running node: whatever they are, others are served, memory stays bounded, and the
//! process lives.

use super::client::{Client, batch};
use super::node::{Node, Plan};
use super::observe::{peak_resident_bytes, raise_open_files, resident_bytes};
use super::turn;
use super::workspace::Folder;
use logmill_wire::api::{ApiRequest, api_versions, by_key, fetch, produce, request_frame};
use logmill_wire::samples::{self, Pattern, Sample, Shape};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// What the process may hold on top of the memory that it was given: code, stacks, rings, the metadata, and
/// what the allocator keeps.
const OVERHEAD_BYTES: u64 = 96 << 20;

/// What a connection may make the node hold before it has sent a whole header.
const HALF_OPEN_BYTES: u64 = 16 << 10;

const MEMORY_BYTES: u64 = 128 << 20;

fn node(folder: &Folder) -> Node {
    Plan::new(folder.path()).set("logmill.memory.bytes", MEMORY_BYTES).start()
}

/// Appends and reads back, and asserts that each answer comes in time.
fn round_trip(client: &mut Client, round: usize) {
    let began = Instant::now();
    let value = format!("round {round}");
    let offset = client.append_well("served", 0, batch(value.as_bytes()));
    let fetched = client.fetch("served", 0, offset);
    assert_eq!(fetched.values(), [(offset, value.into_bytes())]);
    assert!(began.elapsed() < Duration::from_secs(5), "round {round} took {:?}", began.elapsed());
}

/// A client that creates the topic of the round trips.
fn well_behaved(node: &Node) -> Client {
    let mut client = node.client();
    client.patience(Duration::from_secs(5));
    client.create_topic("served", 1);
    client
}

#[test]
fn sizes_that_lie_end_their_connection() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let mut node = node(&folder);
    let mut client = well_behaved(&node);
    // No request is shorter than its header; 100 MiB is the largest that `socket.request.max.bytes` allows.
    let sizes = [i32::MIN, -1, 0, 1, 7, 104_857_601, 0x4745_5420, i32::MAX];
    for size in sizes {
        for rest in [0, 4, 100] {
            let mut stranger = node.client();
            let mut bytes = size.to_be_bytes().to_vec();
            bytes.resize(4 + rest, 0);
            // The node may close the connection while this is written.
            let _ = stranger.stream.write_all(&bytes);
            assert!(
                stranger.is_closed_within(Duration::from_secs(5)),
                "a size of {size} with {rest} bytes behind it left the connection open"
            );
        }
    }
    round_trip(&mut client, 0);
    node.assert_sound();
    node.stop();
}

#[test]
fn requests_that_end_early_are_given_up() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let mut node = node(&folder);
    let mut client = well_behaved(&node);
    let request = super::client::produce_request("served", -1, [(0, batch(b"never whole"))]);
    let frame = request_frame(&request, super::client::PRODUCE, 1, None).unwrap().concat();
    for length in 0..frame.len() {
        let mut stranger = node.client();
        stranger.stream.write_all(&frame[..length]).unwrap();
        stranger.finish_sending();
        assert!(stranger.is_closed_within(Duration::from_secs(5)), "{length} bytes left the connection open");
    }
    // None of them was appended: a prefix of a request is no request.
    assert_eq!(client.append_well("served", 0, batch(b"first")), 0);
    node.assert_sound();
    node.stop();
}

/// One request frame of a stranger: a valid one that was damaged, or a header with noise behind it.
fn hostile_frame<'a, R: ApiRequest<'a> + Sample>(seed: u64, version: i16) -> Vec<u8> {
    let mut pattern = Pattern::new(Shape::Mixed, seed);
    let shape = [Shape::Full, Shape::Mixed, Shape::Null, Shape::Default][(seed % 4) as usize];
    let mut frame = request_frame(&samples::message::<R>(shape, seed, version), version, 7, Some("stranger"))
        .expect("a sample can be encoded")
        .concat();
    if seed % 5 == 4 {
        frame.truncate(24);
        frame.extend((0..pattern.bits() % 300).map(|_| pattern.bits() as u8));
    } else {
        for _ in 0..seed % 4 {
            damage(&mut frame, &mut pattern);
        }
    }
    let size = i32::try_from(frame.len() - 4).unwrap();
    frame[..4].copy_from_slice(&size.to_be_bytes());
    frame
}

fn damage(frame: &mut Vec<u8>, pattern: &mut Pattern) {
    // The key and the version stay; everything behind them may change.
    let first = 8;
    let at = first + (pattern.bits() as usize) % (frame.len() - first + 1);
    let overwrite = |frame: &mut Vec<u8>, with: &[u8]| {
        frame.iter_mut().skip(at).zip(with).for_each(|(target, byte)| *target = *byte);
    };
    match pattern.bits() % 6 {
        0 => frame.truncate(at),
        1 => frame.insert(at, pattern.bits() as u8),
        2 => overwrite(frame, &[1 << (pattern.bits() % 8)]),
        3 => overwrite(frame, &pattern.bits().to_be_bytes()),
        4 => overwrite(frame, &i32::MAX.to_be_bytes()),
        // Counts that are as large as they can be, in the compact encoding.
        _ => overwrite(frame, &[0xff, 0xff, 0xff, 0xff, 0x0f]),
    }
}

/// Sends one frame on a connection of its own, and asserts that the node answers it or ends the connection.
fn strike(address: SocketAddr, key: i16, version: i16, seed: u64, frame: &[u8]) {
    let mut stranger = Client::connect(address);
    let _ = stranger.stream.write_all(frame);
    stranger.finish_sending();
    // A client that has finished sending is answered, or has gone; either way the connection ends.
    let is_closed = stranger.is_closed_within(Duration::from_secs(10));
    assert!(is_closed, "API {key} version {version} seed {seed}: neither an answer nor an end");
}

/// How many frames each version of each API gets.
const FRAMES_PER_VERSION: u64 = 40;

macro_rules! frames_of {
    ($module:ident, Request, $name:ident, $key:expr, $seed:expr, $version:expr) => {
        if $key == logmill_wire::api::$module::KEY {
            return Some(hostile_frame::<logmill_wire::api::$module::Request>($seed, $version));
        }
    };
    ($module:ident, $message:ident, $name:ident, $key:expr, $seed:expr, $version:expr) => {};
}

#[allow(clippy::needless_return, reason = "one of many arms that a macro writes")]
fn frame_of(key: i16, seed: u64, version: i16) -> Option<Vec<u8>> {
    logmill_wire::for_each_message!(frames_of, key, seed, version);
    None
}

fn advertised(client: &mut Client) -> Vec<(i16, i16, i16)> {
    let answer = client.call(&api_versions::Request::default(), 2);
    let response: api_versions::Response = answer.body();
    response.api_keys.iter().map(|api| (api.api_key, api.min_version, api.max_version)).collect()
}

#[test]
fn damaged_and_random_requests_of_every_api_leave_the_node_well() {
    let _turn = turn::alone();
    let folder = Folder::new();
    let mut node = node(&folder);
    let mut client = well_behaved(&node);
    let apis = advertised(&mut client);
    assert!(apis.iter().any(|(key, _, _)| *key == produce::KEY), "{apis:?}");
    assert!(apis.iter().any(|(key, _, _)| *key == fetch::KEY), "{apis:?}");
    let address = node.address();
    let mut frames = 0;
    for (key, min, max) in apis {
        let known = by_key(key).expect("what is advertised has a descriptor");
        for version in min.max(known.min_version)..=max {
            for seed in 0..FRAMES_PER_VERSION {
                let frame = frame_of(key, seed, version).expect("what is advertised has samples");
                strike(address, key, version, seed, &frame);
                frames += 1;
            }
        }
        round_trip(&mut client, usize::from(key.unsigned_abs()));
        node.assert_sound();
    }
    let peak = peak_resident_bytes(node.pid());
    println!("{frames} hostile requests; peak resident memory {} KiB", peak >> 10);
    assert!(frames > 2_000, "{frames}");
    assert!(peak <= MEMORY_BYTES + OVERHEAD_BYTES, "{peak} bytes");
    node.stop();
}

/// A connection that begins something and then says nothing any more.
fn half_open(address: SocketAddr, kind: usize, frame: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let announced = i32::to_be_bytes(1 << 20);
    let begun: &[u8] = match kind % 4 {
        0 => &[],
        1 => &[0, 0],
        // A large Produce request is announced: nobody's memory may be taken before its bytes come.
        2 => &[&announced[..], &[0, 0, 0, 9, 0, 0, 0, 1]].concat(),
        // The same, and a part of it comes: its memory is taken, but not that of small requests.
        3 if kind % 8 == 7 => &[&announced[..], &[0, 0, 0, 9, 0, 0, 0, 1], &[0; 8192]].concat(),
        _ => &frame[..frame.len() - 1],
    };
    stream.write_all(begun).unwrap();
    stream
}

#[test]
fn a_thousand_half_open_connections_hold_up_nobody_and_take_little_memory() {
    let _turn = turn::alone();
    assert!(raise_open_files() >= 4_000, "this test needs some thousand open files");
    let folder = Folder::new();
    let mut node = node(&folder);
    let mut client = well_behaved(&node);
    (0..20).for_each(|round| round_trip(&mut client, round));
    let before = resident_bytes(node.pid());

    let request = super::client::produce_request("served", -1, [(0, batch(b"never whole"))]);
    let frame = request_frame(&request, super::client::PRODUCE, 1, None).unwrap().concat();
    let mut connections = Vec::new();
    for number in 0..1_000 {
        connections.push(half_open(node.address(), number, &frame));
        if number % 10 == 0 {
            round_trip(&mut client, 100 + number);
        }
    }
    // A newcomer is served as well as who was there before.
    let mut newcomer = node.client();
    newcomer.patience(Duration::from_secs(5));
    (0..50).for_each(|round| round_trip(&mut newcomer, 2_000 + round));
    let taken = resident_bytes(node.pid()).saturating_sub(before);
    println!("1000 half-open connections take {} KiB", taken >> 10);
    // Those who have begun a body have the memory for Produce, which is bounded for all of them together.
    let for_bodies = MEMORY_BYTES / 5;
    assert!(taken <= 1_000 * HALF_OPEN_BYTES + for_bodies, "{taken} bytes");
    drop(connections);
    round_trip(&mut client, 9_999);
    node.assert_sound();
    node.stop();
}
