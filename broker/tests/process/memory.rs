//! More work at once than there is memory for: it waits its turn, and nobody else does.

use super::client::{Client, FETCH, PRODUCE, batch, fetch_request, produce_request};
use super::crowd::Crowd;
use super::node::Plan;
use super::observe::{peak_resident_bytes, raise_open_files};
use super::turn;
use super::workspace::Folder;
use bytes::Bytes;
use logmill_wire::api::{Message, produce, request_frame};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const BUDGET_BYTES: u64 = 256 << 20;
const PRODUCERS: usize = 500;
const CONSUMERS: usize = 200;
const PARTITIONS: usize = 8;
/// A frame of one MiB, all in all.
const VALUE_BYTES: usize = (1 << 20) - 200;
/// A fifth of a minute is what a client may be made to wait by others that don't read; Kafka's own give up after
/// half a minute.
const SERVED_WITHIN: Duration = Duration::from_secs(12);

fn frame_of_one_mebibyte(partition: usize) -> Bytes {
    let value = vec![b'x'; VALUE_BYTES];
    let partition = i32::try_from(partition).unwrap();
    let request = produce_request("filled", -1, [(partition, batch(&value))]);
    request_frame(&request, PRODUCE, 1, None).unwrap().concat().into()
}

/// Round trips until `done`; returns the longest and their count.
fn keep_working(mut client: Client, done: &AtomicBool) -> (Duration, usize) {
    client.patience(SERVED_WITHIN);
    let (mut longest, mut rounds) = (Duration::ZERO, 0);
    while !done.load(Ordering::Relaxed) {
        let began = Instant::now();
        let offset = client.append_well("served", 0, batch(b"small"));
        assert_eq!(client.fetch("served", 0, offset).values(), [(offset, b"small".to_vec())]);
        longest = longest.max(began.elapsed());
        rounds += 1;
        std::thread::sleep(Duration::from_millis(5));
    }
    (longest, rounds)
}

/// Sends all frames at once from a few threads, and counts the appends that succeeded.
fn produce_at_once(address: std::net::SocketAddr, frames: &[Bytes]) -> usize {
    const THREADS: usize = 4;
    let appended = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let appended = &appended;
            scope.spawn(move || {
                let own = (thread..PRODUCERS).step_by(THREADS).map(|at| frames[at % PARTITIONS].clone());
                let mut crowd = Crowd::connect(address, own);
                let replies = crowd.exchange(Duration::from_secs(120)).expect("every produce is answered");
                for reply in replies {
                    // The header of the reply: correlation id, no tagged fields.
                    let response = produce::Response::decode_body(&reply[5..], PRODUCE).unwrap();
                    let topic = response.responses.iter().next().unwrap();
                    let result = topic.partition_responses.iter().next().unwrap();
                    assert_eq!(result.error_code, 0);
                    appended.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    appended.into_inner()
}

#[test]
fn memory_stays_within_its_budget_under_more_producers_and_silent_consumers_than_it_holds() {
    let _turn = turn::alone();
    assert!(raise_open_files() >= 4_000, "this test needs some thousand open files");
    let folder = Folder::new();
    let mut node = Plan::new(folder.path()).set("logmill.memory.bytes", BUDGET_BYTES).start();
    let mut client = node.client();
    client.create_topic("filled", PARTITIONS as i32);
    client.create_topic("served", 1);
    let frames: Vec<_> = (0..PARTITIONS).map(frame_of_one_mebibyte).collect();
    for frame in &frames {
        let mut crowd = Crowd::connect(node.address(), vec![frame.clone(); 8]);
        crowd.exchange(Duration::from_secs(60)).expect("the topic is filled");
    }

    let fetches = (0..CONSUMERS).map(|number| {
        let partition = i32::try_from(number % PARTITIONS).unwrap();
        let request = fetch_request("filled", partition, 0, 0, 8 << 20);
        Bytes::from(request_frame(&request, FETCH, 1, None).unwrap().concat())
    });
    let mut silent = Crowd::connect(node.address(), fetches);
    silent.send_only();

    let began = Instant::now();
    let done = AtomicBool::new(false);
    let (appended, (longest, rounds)) = std::thread::scope(|scope| {
        let others = node.client();
        let worker = scope.spawn(|| keep_working(others, &done));
        let appended = produce_at_once(node.address(), &frames);
        done.store(true, Ordering::Relaxed);
        (appended, worker.join().expect("others are served"))
    });
    let peak = peak_resident_bytes(node.pid());
    println!(
        "{appended} appends of 1 MiB in {:?}; others: {rounds} round trips, the longest {longest:?}; peak resident \
         memory {} MiB of a budget of {} MiB",
        began.elapsed(),
        peak >> 20,
        BUDGET_BYTES >> 20
    );
    assert_eq!(appended, PRODUCERS);
    assert!(rounds > 0);
    assert!(peak < BUDGET_BYTES + BUDGET_BYTES / 4, "{peak} bytes");
    node.assert_sound();
    drop(silent);
    // Nothing of it lingers: the next client has the node for itself.
    let began = Instant::now();
    let offset = client.append_well("served", 0, batch(b"after"));
    assert_eq!(client.fetch("served", 0, offset).values(), [(offset, b"after".to_vec())]);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    node.stop();
}
