//! Partitions with replicas on three brokers: the broker's own code, an in-memory network, the real controller's decisions.
//!
//! `LOGMILL_SIM_SEEDS` says how many seeds the last test takes.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]
use logmill::partition::command::{Acks, AppendResult, PartitionCommand, PartitionError};
use logmill::runtime::simulated::Options;
use logmill_sim::replicas::{Answer, Cluster, Start, run};
use logmill_state::metadata::{PartitionState, Record};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{LeaderEpoch, NodeId, Offset, PartitionIndex, TimestampMs};
use logmill_wire::record_batch::{BatchBuilder, batches};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);

fn batch(text: &str) -> Vec<u8> {
    let mut batch = BatchBuilder::new();
    batch.append(TimestampMs(1), None, Some(text.as_bytes()), &[]);
    batch.finish().unwrap()
}

fn cluster(seed: u64, configs: &[(&str, &str)]) -> Rc<Cluster> {
    // The records are as old as the epoch.
    let configs = configs.iter().chain(&[("retention.ms", "-1")]);
    let configs: BTreeMap<String, String> =
        configs.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let cluster = Cluster::new(seed, Options::default(), Start { configs, ..Start::default() });
    assert!(cluster.until(|| [ONE, TWO, THREE].iter().all(|&node| cluster.is_up(node))));
    cluster
}

fn append(cluster: &Rc<Cluster>, node: NodeId, text: &str, acks: Acks) -> Answer<AppendResult> {
    cluster.append(node, 0, batch(text), acks)
}

fn appended(cluster: &Rc<Cluster>, node: NodeId, text: &str, acks: Acks) -> Offset {
    cluster.wait(&append(cluster, node, text, acks)).unwrap().unwrap().base_offset
}

fn code(cluster: &Rc<Cluster>, node: NodeId, acks: Acks) -> ErrorCode {
    cluster.wait(&append(cluster, node, "refused", acks)).unwrap().unwrap_err().code()
}

/// The batches of a replica below its high watermark, once that is `end`: offset, epoch and checksum.
fn log_to(cluster: &Rc<Cluster>, node: NodeId, end: i64) -> Vec<(Offset, LeaderEpoch, u32)> {
    assert!(cluster.until(|| cluster.is_up(node)));
    let mut found = Err("it was not asked".to_owned());
    for _ in 0..2_000 {
        found = cluster.log(node, 0);
        if let Ok((high_watermark, bytes)) = &found
            && *high_watermark == Offset(end)
        {
            let headers = batches(bytes).map(|batch| *batch.unwrap().header());
            return headers.map(|header| (header.base_offset, header.leader_epoch, header.crc)).collect();
        }
        cluster.world.run_for(Duration::from_millis(5));
    }
    panic!("{node} does not come to {end}: {:?}, {:?}", found.map(|(end, _)| end), cluster.placed(0));
}

fn are_in_sync(cluster: &Rc<Cluster>, nodes: &[NodeId]) -> bool {
    cluster.until(|| {
        let mut in_sync = cluster.placed(0).1;
        in_sync.sort_unstable();
        in_sync == nodes
    })
}

#[test]
fn acks_all_waits_for_every_replica_in_sync_and_acks_1_for_the_leader() {
    let cluster = cluster(1, &[]);
    assert_eq!(appended(&cluster, ONE, "a", Acks::All), Offset(0));
    assert_eq!(code(&cluster, TWO, Acks::All), ErrorCode::NotLeaderOrFollower);
    cluster.network.set_cut(ONE, THREE, true);
    assert_eq!(appended(&cluster, ONE, "b", Acks::Leader), Offset(1));
    let waiting = append(&cluster, ONE, "c", Acks::All);
    cluster.world.run_for(Duration::from_millis(500));
    assert!(waiting.borrow().is_none(), "one of the in-sync set has not got it");
    let seen = cluster.wait(&cluster.read(ONE, 0, Offset(0))).unwrap();
    assert_eq!(seen.high_watermark, Offset(1), "nobody sees what is not committed");
    assert_eq!(seen.records.unwrap().concat().len(), batch("a").len());
    cluster.network.set_cut(ONE, THREE, false);
    assert_eq!(cluster.wait(&waiting).unwrap().unwrap().base_offset, Offset(2));
    let expected = log_to(&cluster, ONE, 3);
    assert_eq!(log_to(&cluster, TWO, 3), expected);
    assert_eq!(log_to(&cluster, THREE, 3), expected);
}

#[test]
fn who_lags_leaves_the_in_sync_set_and_comes_back() {
    let cluster = cluster(2, &[("min.insync.replicas", "2")]);
    cluster.network.set_cut(ONE, THREE, true);
    let waiting = append(&cluster, ONE, "a", Acks::All);
    assert!(cluster.wait(&waiting).unwrap().is_ok(), "who lags is waited for as long as it may lag");
    assert!(are_in_sync(&cluster, &[ONE, TWO]));
    cluster.network.set_cut(ONE, TWO, true);
    // It is appended while two are in sync, and found to be too few when one of them has left.
    assert_eq!(code(&cluster, ONE, Acks::All), ErrorCode::NotEnoughReplicasAfterAppend);
    assert!(are_in_sync(&cluster, &[ONE]));
    assert_eq!(code(&cluster, ONE, Acks::All), ErrorCode::NotEnoughReplicas);
    assert_eq!(appended(&cluster, ONE, "b", Acks::Leader), Offset(2), "acks=1 asks for nobody");
    let end = cluster.wait(&cluster.read(ONE, 0, Offset(0))).unwrap().high_watermark;
    assert_eq!(end, Offset(1), "too few are in sync to commit");
    cluster.network.set_cut(ONE, TWO, false);
    cluster.network.set_cut(ONE, THREE, false);
    assert!(are_in_sync(&cluster, &[ONE, TWO, THREE]));
    let expected = log_to(&cluster, ONE, 3);
    assert_eq!(log_to(&cluster, TWO, 3), expected);
    assert_eq!(log_to(&cluster, THREE, 3), expected);
}

#[test]
fn a_follower_that_was_killed_or_wiped_gets_what_it_has_missed() {
    for wipe in [false, true] {
        let cluster = cluster(3, &[]);
        for number in 0..50 {
            let text = format!("{number} {}", "x".repeat(20_000));
            assert_eq!(appended(&cluster, ONE, &text, Acks::All), Offset(number));
        }
        cluster.stop(TWO, true, wipe);
        cluster.fence(TWO);
        for number in 50..60 {
            assert_eq!(appended(&cluster, ONE, "while it was away", Acks::All), Offset(number));
        }
        let before = cluster.network.pushed_bytes();
        cluster.start(TWO, true);
        assert!(are_in_sync(&cluster, &[ONE, TWO, THREE]));
        let pushed = cluster.network.pushed_bytes() - before;
        assert_eq!(pushed > 1_000_000, wipe, "{pushed} bytes were pushed");
        let expected = log_to(&cluster, ONE, 60);
        assert_eq!(log_to(&cluster, TWO, 60), expected);
        cluster.stop(ONE, true, false);
        cluster.fence(ONE);
        let led_by = cluster.placed(0).0;
        assert_ne!(led_by, ONE);
        cluster.world.run_for(Duration::from_secs(1));
        assert_eq!(appended(&cluster, led_by, "by another", Acks::All), Offset(60));
    }
}

#[test]
fn a_tail_that_no_other_has_is_cut_when_another_leads() {
    let cluster = cluster(4, &[]);
    assert_eq!(appended(&cluster, ONE, "a", Acks::All), Offset(0));
    cluster.network.set_cut(ONE, TWO, true);
    cluster.network.set_cut(ONE, THREE, true);
    for number in 1..4 {
        assert_eq!(appended(&cluster, ONE, "nobody else gets it", Acks::Leader), Offset(number));
    }
    let waiting = append(&cluster, ONE, "nor this", Acks::All);
    cluster.fence(ONE);
    let refused = cluster.wait(&waiting).unwrap().unwrap_err();
    assert_eq!(refused, PartitionError::NotLeader);
    let leader = cluster.placed(0).0;
    // Until it knows that it leads.
    cluster.world.run_for(Duration::from_secs(1));
    assert_eq!(appended(&cluster, leader, "b", Acks::All), Offset(1));
    cluster.network.set_cut(ONE, TWO, false);
    cluster.network.set_cut(ONE, THREE, false);
    cluster.unfence(ONE);
    assert!(are_in_sync(&cluster, &[ONE, TWO, THREE]));
    let expected = log_to(&cluster, leader, 2);
    assert_eq!(log_to(&cluster, ONE, 2), expected);
    cluster.stop(ONE, false, false);
    cluster.start(ONE, false);
    assert!(are_in_sync(&cluster, &[ONE, TWO, THREE]));
    assert_eq!(log_to(&cluster, ONE, 2), expected, "a restart brings nothing back");
}

fn start_of(cluster: &Rc<Cluster>, node: NodeId) -> Option<Offset> {
    assert!(cluster.until(|| cluster.is_up(node)));
    cluster.wait(&cluster.read(node, 0, Offset(0))).map(|reply| reply.log_start_offset)
}

fn come_to(cluster: &Rc<Cluster>, what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if holds() {
            return;
        }
        cluster.world.run_for(Duration::from_millis(5));
    }
    panic!("{what}: never");
}

#[test]
fn followers_delete_what_the_leader_deletes() {
    let cluster = cluster(5, &[]);
    for number in 0..10 {
        assert_eq!(appended(&cluster, ONE, "a", Acks::All), Offset(number));
    }
    let partition = cluster.key(0);
    let delete = |node, before| {
        let deleted = cluster.ask(node, |reply| PartitionCommand::DeleteRecords { partition, before, reply });
        cluster.wait(&deleted).unwrap()
    };
    assert_eq!(delete(TWO, Offset(6)), Err(PartitionError::NotLeader));
    assert_eq!(delete(ONE, Offset(6)), Ok(Offset(6)));
    for node in [TWO, THREE] {
        come_to(&cluster, "the start of a follower", || start_of(&cluster, node) == Some(Offset(6)));
    }
    // A disk that is new begins where records are left.
    cluster.stop(TWO, true, true);
    cluster.fence(TWO);
    cluster.start(TWO, true);
    assert!(are_in_sync(&cluster, &[ONE, TWO, THREE]));
    come_to(&cluster, "the start of a new disk", || start_of(&cluster, TWO) == Some(Offset(6)));
    assert_eq!(appended(&cluster, ONE, "b", Acks::All), Offset(10));
    cluster.stop(THREE, true, false);
    cluster.start(THREE, true);
    come_to(&cluster, "the start after a power cut", || start_of(&cluster, THREE) == Some(Offset(6)));
}

#[test]
fn a_replica_that_is_taken_away_deletes_its_log_and_one_that_is_added_gets_it() {
    let cluster = cluster(6, &[]);
    assert_eq!(appended(&cluster, ONE, "a", Acks::All), Offset(0));
    let place = |replicas: &[NodeId], in_sync: &[NodeId]| {
        let image = cluster.image();
        let topic = image.topic_by_id(cluster.key(0).topic_id).unwrap();
        let before = image.partition(topic, PartitionIndex(0)).unwrap().to_state();
        let partition_epoch = before.partition_epoch + 1;
        let (replicas, in_sync) = (replicas.to_vec(), in_sync.to_vec());
        let state = PartitionState { partition_epoch, replicas, in_sync, ..before };
        let (topic_id, partition) = (topic.id, PartitionIndex(0));
        cluster.commit(&[Record::PartitionChanged { topic_id, partition, state }]);
    };
    place(&[ONE, TWO], &[ONE, TWO]);
    come_to(&cluster, "the end of the replica", || {
        let read = cluster.wait(&cluster.read(THREE, 0, Offset(0))).unwrap();
        read.records == Err(PartitionError::NotHosted)
    });
    let sizes = |node| {
        let partitions = Some(vec![cluster.key(0)]);
        let sizes = cluster.ask(node, |reply| PartitionCommand::Sizes { partitions, reply });
        let held = cluster.wait(&sizes).unwrap();
        held.iter().map(|held| held.sizes.as_ref().unwrap().len()).sum::<usize>()
    };
    assert_eq!((sizes(ONE), sizes(THREE)), (1, 0));
    assert_eq!(appended(&cluster, ONE, "b", Acks::All), Offset(1));
    // One replica alone, and then all of them again.
    place(&[ONE], &[ONE]);
    assert_eq!(appended(&cluster, ONE, "c", Acks::All), Offset(2));
    place(&[ONE, TWO, THREE], &[ONE]);
    assert!(are_in_sync(&cluster, &[ONE, TWO, THREE]));
    assert_eq!(appended(&cluster, ONE, "d", Acks::All), Offset(3));
    let expected = log_to(&cluster, ONE, 4);
    assert_eq!(log_to(&cluster, TWO, 4), expected);
    assert_eq!(log_to(&cluster, THREE, 4), expected);
}

#[test]
fn offsets_that_compaction_removed_are_not_missed_at_a_follower() {
    let cluster = cluster(
        7,
        &[("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0.0"), ("segment.ms", "100")],
    );
    for number in 0..30 {
        let mut batch = BatchBuilder::new();
        batch.append(cluster.now(), Some(b"k"), Some(format!("{number}").as_bytes()), &[]);
        let answer = cluster.append(ONE, 0, batch.finish().unwrap(), Acks::All);
        assert_eq!(cluster.wait(&answer).unwrap().unwrap().base_offset, Offset(number));
        cluster.world.run_for(Duration::from_millis(150));
    }
    come_to(&cluster, "a compaction", || {
        cluster.world.run_for(Duration::from_secs(1));
        log_to(&cluster, ONE, 30).len() < 10
    });
    cluster.stop(TWO, true, true);
    cluster.fence(TWO);
    cluster.start(TWO, true);
    assert!(are_in_sync(&cluster, &[ONE, TWO, THREE]));
    assert_eq!(log_to(&cluster, TWO, 30), log_to(&cluster, ONE, 30));
    cluster.stop(TWO, true, false);
    cluster.start(TWO, true);
    assert_eq!(log_to(&cluster, TWO, 30), log_to(&cluster, ONE, 30), "after a restart, too");
}

#[test]
fn a_follower_whose_disk_is_full_asks_now_and_then_and_comes_back_by_itself() {
    let cluster = cluster(8, &[("segment.bytes", "1048576")]);
    let large = "x".repeat(100_000);
    assert_eq!(appended(&cluster, ONE, &large, Acks::All), Offset(0));
    cluster.limit_disk(TWO, Some(0));
    for _ in 1..30 {
        let _ = append(&cluster, ONE, &large, Acks::Leader);
        cluster.world.run_for(Duration::from_millis(200));
    }
    assert!(are_in_sync(&cluster, &[ONE, THREE]), "it lags");
    let before = cluster.network.pushed_bytes();
    for _ in 0..300 {
        let _ = append(&cluster, ONE, "another", Acks::Leader);
        cluster.world.run_for(Duration::from_millis(10));
    }
    let pushed = cluster.network.pushed_bytes() - before;
    assert!(pushed > 100_000, "it does not ask again");
    assert!(pushed < 8 * 30 * 100_000, "{pushed} bytes were pushed in 3 s to a disk that is full");
    cluster.limit_disk(TWO, None);
    assert!(are_in_sync(&cluster, &[ONE, TWO, THREE]));
    let end = appended(&cluster, ONE, "z", Acks::All).0 + 1;
    assert_eq!(log_to(&cluster, TWO, end), log_to(&cluster, ONE, end));
}

#[test]
fn a_leader_whose_disk_was_full_appends_again() {
    let cluster = cluster(9, &[("segment.bytes", "1048576")]);
    let large = "x".repeat(100_000);
    cluster.limit_disk(ONE, Some(0));
    let mut refused = 0;
    for _ in 0..30 {
        let outcome = cluster.wait(&append(&cluster, ONE, &large, Acks::All)).unwrap();
        refused += usize::from(outcome.is_err());
    }
    assert!(refused > 10, "{refused} of 30");
    cluster.limit_disk(ONE, None);
    let end = appended(&cluster, ONE, "z", Acks::All).0 + 1;
    assert_eq!(end, 31 - refused as i64);
    assert!(are_in_sync(&cluster, &[ONE, TWO, THREE]));
    assert_eq!(log_to(&cluster, TWO, end), log_to(&cluster, ONE, end));
}

#[test]
fn what_was_promised_survives() {
    let seeds: u64 = match std::env::var("LOGMILL_SIM_SEEDS") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => 40,
    };
    let failed: Vec<String> =
        (0..seeds).filter_map(|seed| run(seed).err().map(|what| format!("seed {seed}: {what}"))).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
