//! Memory over time: what was written is forgotten, whether it went to few partitions or to many.

use super::client::{PRODUCE, appended, batch, produce_request};
use super::crowd::Crowd;
use super::node::Plan;
use super::observe::{peak_resident_bytes, raise_open_files};
use super::turn;
use super::workspace::Folder;
use bytes::Bytes;
use logmill_wire::api::request_frame;
use std::time::Duration;

const BUDGET_BYTES: u64 = 128 << 20;
/// Code, stacks, rings, metadata, and what the allocator keeps.
const OVERHEAD_BYTES: u64 = 32 << 20;

#[test]
fn several_times_the_memory_goes_through_few_partitions() {
    const ROUNDS: usize = 60;
    const CONNECTIONS: usize = 8;
    let _turn = turn::alone();
    let folder = Folder::new();
    let mut node = Plan::new(folder.path()).set("logmill.memory.bytes", BUDGET_BYTES).start();
    node.client().create_topic("stream", CONNECTIONS as i32);
    let frames: Vec<Bytes> = (0..CONNECTIONS)
        .map(|partition| {
            let partition = i32::try_from(partition).unwrap();
            let request = produce_request("stream", -1, [(partition, batch(&vec![b's'; 1_000_000]))]);
            request_frame(&request, PRODUCE, 1, None).unwrap().concat().into()
        })
        .collect();
    for _ in 0..ROUNDS {
        Crowd::connect(node.address(), frames.iter().cloned())
            .exchange(Duration::from_secs(60))
            .expect("every append is answered");
    }
    let peak = peak_resident_bytes(node.pid());
    println!(
        "{} MB through a budget of {} MiB: peak resident memory {} MiB",
        ROUNDS * CONNECTIONS,
        BUDGET_BYTES >> 20,
        peak >> 20
    );
    assert!(peak < BUDGET_BYTES + OVERHEAD_BYTES, "{peak} bytes");
    // From the disk as well as from memory, everything is there.
    let mut client = node.client();
    for offset in [0, 1, 29, 58, 59] {
        let fetched = client.fetch("stream", 7, offset);
        assert_eq!(fetched.values().first().map(|(at, value)| (*at, value.len())), Some((offset, 1_000_000)));
    }
    node.assert_sound();
    node.stop();
}

#[test]
fn a_small_append_to_each_of_many_partitions_stays_within_the_memory() {
    const PARTITIONS: i32 = 4_000;
    const TOGETHER: i32 = 1_000;
    let _turn = turn::alone();
    raise_open_files();
    let folder = Folder::new();
    let mut node = Plan::new(folder.path()).set("logmill.memory.bytes", BUDGET_BYTES).start();
    let mut client = node.client();
    client.create_topic("wide", PARTITIONS);
    let records = batch(b"one small record");
    for round in 0..2 {
        for first in (0..PARTITIONS).step_by(TOGETHER as usize) {
            let parts = (first..first + TOGETHER).map(|index| (index, records.clone()));
            let answer = client.call(&produce_request("wide", -1, parts), PRODUCE);
            let results = appended(&answer);
            assert_eq!(results.len(), TOGETHER as usize);
            for (partition, result) in results {
                assert_eq!((result.error, result.base_offset), (0, round), "partition {partition}");
            }
        }
    }
    let peak = peak_resident_bytes(node.pid());
    println!("one append to each of {PARTITIONS} partitions, twice: peak resident memory {} MiB", peak >> 20);
    assert!(peak < BUDGET_BYTES + OVERHEAD_BYTES, "{peak} bytes");
    for partition in [0, 1, 1_999, 3_999] {
        assert_eq!(client.read_all("wide", partition, 0).len(), 2);
    }
    node.assert_sound();
    node.stop();
}
