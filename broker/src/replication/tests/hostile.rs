//! What strangers send.

use super::fixture::*;
use super::steady::{A, B, Pair};
use crate::runtime::simulated::{Options, SimulatedRuntime};
use crate::runtime::{Connection, Runtime};
use crate::shard::deadline::within;
use crate::shard::memory::MemoryClass;
use bytes::BytesMut;
use logmill_wire::frame::prefix::PEER_PREFIX_BYTES;
use logmill_wire::frame::replication::{self, Hello, Link, PushBuilder, PushedPartition};
use logmill_wire::frame::replication::{EpochAnswer, EpochQuery, PartitionEnds};
use logmill_wire::ids::{LeaderEpoch, NodeId, Offset, ShardIndex, Uuid};
use std::time::Duration;

fn hello(cluster: u128, broker: NodeId, starts: i32) -> Hello {
    Hello {
        cluster_id: Uuid::from_random(cluster),
        broker_id: broker,
        incarnation: incarnation(broker, starts),
        version_min: 0,
        version_max: 0,
        shard: ShardIndex(3),
        link: Link::Live,
    }
}

/// Sends bytes to A as a stranger, and reads until it is closed: how many bytes came back, and whether it was closed
/// within so long.
fn say(pair: &Pair, bytes: Vec<u8>, limit: Duration) -> (usize, bool) {
    let stranger: SimulatedRuntime = pair.hosts[1].runtime(ShardIndex(7));
    let address = pair.hosts[0].address(9092);
    let runtime = stranger.clone();
    pair.world.block_on(&stranger, async move {
        let connection = runtime.connect(address).await.unwrap();
        let _ = connection.send(vec![bytes.into()]).await;
        let mut heard = 0;
        let reading = async {
            loop {
                let (result, _) = connection.receive(BytesMut::with_capacity(4096)).await;
                let count = result.unwrap_or(0);
                heard += count;
                if count == 0 {
                    return;
                }
            }
        };
        let closed = within(&runtime, limit, reading).await.is_some();
        connection.shutdown();
        (heard, closed)
    })
}

fn frames() -> Vec<Vec<u8>> {
    let partition = partition_of(A, 0);
    let (leader_epoch, first_offset) = (LeaderEpoch(1), Offset(0));
    let ends = PartitionEnds {
        partition,
        leader_epoch,
        log_end: Offset(0),
        written: Offset(0),
        durable: Offset(0),
        log_start: Offset(0),
        rewind: false,
    };
    let query = EpochQuery { partition, leader_epoch, last_epoch: LeaderEpoch(0), log_end: Offset(0) };
    let answer = EpochAnswer { query, epoch: LeaderEpoch(0), end_offset: Offset(0), first_offset };
    let pushed = PushedPartition {
        partition,
        leader_epoch,
        from: Offset(0),
        high_watermark: Offset(0),
        log_start: Offset(0),
        first_offset,
        batch_bytes: 0,
        batch_starts_crc: 0,
    };
    let mut builder = PushBuilder::default();
    let batches = [batch(0, 80), batch(1, 300)].concat();
    builder.add(pushed, &[&batches]).unwrap();
    vec![
        replication::encode_hello(&hello(CLUSTER, B, 1)).unwrap(),
        replication::encode_ends(&[ends; 3]).unwrap(),
        replication::encode_queries(&[query; 2]).unwrap(),
        replication::encode_answers(&[answer]).unwrap(),
        [builder.finish().unwrap(), batches].concat(),
    ]
}

fn assert_unharmed(pair: &Pair) {
    pair.world.run_for(Duration::from_secs(2));
    for shard in &pair.a.shards {
        assert_eq!(shard.memory.free(MemoryClass::Peers), shard.memory.size(MemoryClass::Peers));
    }
    pair.a.append(partition_of(A, 0), 100);
    pair.settle(Duration::from_secs(5));
}

#[test]
fn every_kind_of_frame_is_taken_as_it_is() {
    let pair = Pair::new(50, Options::default(), [2, 1], 64 << 20);
    pair.a_leads(1);
    pair.settle(Duration::from_secs(5));
    let [greeting, rest @ ..] = &frames()[..] else { panic!("there are frames") };
    let (heard, closed) = say(&pair, [&greeting[..], &rest.concat()].concat(), Duration::from_millis(400));
    assert!(!closed && heard >= greeting.len());
    assert_eq!(pair.a.sum(|counters| counters.refused.get()), 0);
    assert_unharmed(&pair);
}

#[test]
fn changed_frames_end_their_connection_and_nothing_else() {
    let pair = Pair::new(51, Options::default(), [1, 1], 64 << 20);
    pair.a_leads(1);
    pair.settle(Duration::from_secs(5));
    let all = frames();
    let greeting = all[0].clone();
    for (kind, frame) in all.iter().enumerate() {
        for place in (0..frame.len()).step_by(if kind == 4 { 5 } else { 3 }) {
            let mut changed = frame.clone();
            changed[place] ^= 1 << (place % 8);
            // Behind the first bytes of a batch stands what its own checksum covers, which the partition looks at.
            let payload_at = frame.len().saturating_sub(380);
            if kind == 4 && place >= payload_at {
                let within_batch = (place - payload_at) % 80;
                if place - payload_at >= 80 + 21 || (place - payload_at < 80 && within_batch >= 21) {
                    continue;
                }
            }
            let bytes = if kind == 0 { changed } else { [&greeting[..], &changed].concat() };
            let (_, closed) = say(&pair, bytes, Duration::from_secs(5));
            assert!(closed, "byte {place} of frame {kind}");
        }
    }
    assert_unharmed(&pair);
}

#[test]
fn what_breaks_off_is_not_waited_for_long() {
    let pair = Pair::new(52, Options::default(), [1, 1], 64 << 20);
    pair.a_leads(1);
    pair.settle(Duration::from_secs(5));
    let all = frames();
    for (kind, frame) in all.iter().enumerate() {
        for length in [1, 3, PEER_PREFIX_BYTES - 1, PEER_PREFIX_BYTES, frame.len() - 1] {
            let cut = frame[..length].to_vec();
            let bytes = if kind == 0 { cut } else { [&all[0][..], &cut].concat() };
            let (_, closed) = say(&pair, bytes, Duration::from_millis(1500));
            assert!(closed, "{length} bytes of frame {kind}");
        }
    }
    assert_unharmed(&pair);
}

#[test]
fn strangers_are_refused() {
    let pair = Pair::new(53, Options::default(), [1, 1], 64 << 20);
    pair.apply_images([1, 2]);
    let refused = |hello: Hello| {
        let before = pair.a.sum(|counters| counters.refused.get());
        let (heard, closed) =
            say(&pair, replication::encode_hello(&hello).unwrap(), Duration::from_millis(200));
        assert!(closed, "{hello:?}");
        assert_eq!(pair.a.sum(|counters| counters.refused.get()), before + 1);
        heard
    };
    // Who may be wrong about the metadata is told nothing and comes again; the others are told who is here.
    assert_eq!(refused(hello(CLUSTER, B, 1)), 0, "an old process");
    assert_eq!(refused(hello(CLUSTER, B, 3)), 0, "a process that is not known yet");
    assert_eq!(refused(hello(CLUSTER, NodeId(9), 1)), 0, "no broker");
    assert_eq!(refused(hello(CLUSTER, A, 1)), 0, "this broker itself");
    assert!(refused(hello(CLUSTER + 1, B, 2)) > 0, "another cluster");
    assert!(refused(Hello { version_min: 7, version_max: 9, ..hello(CLUSTER, B, 2) }) > 0, "other versions");
}

#[test]
fn a_broker_of_another_cluster_is_not_spoken_to() {
    let pair = Pair::new(54, Options::default(), [1, 1], 64 << 20);
    pair.b.apply_image(&image(CLUSTER + 1, &pair.addresses([1, 1])));
    pair.a_leads(1);
    pair.a.append(partition_of(A, 0), 100);
    pair.world.run_for(Duration::from_secs(5));
    assert!(!pair.is_settled());
    assert_eq!(pair.a.sum(|counters| counters.connects.get()), 0);
    assert_eq!((pair.a.losses(), pair.b.losses()), (0, 0));
    pair.apply_images([1, 1]);
    pair.settle(Duration::from_secs(5));
}
