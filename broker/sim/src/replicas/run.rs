//! A run: producers, deaths, cut links, wiped disks, as a seed draws them; then everything heals and is held against what
//! was promised.

use super::cluster::{Cluster, Start};
use super::network::Faults;
use logmill::partition::command::Acks;
use logmill::runtime::Runtime;
use logmill::runtime::simulated::{Chance, Options};
use logmill_wire::ids::{LeaderEpoch, NodeId, Offset, TimestampMs};
use logmill_wire::record_batch::{BatchBuilder, batches};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// What clients have seen.
#[derive(Default)]
struct Seen {
    /// What was acknowledged to acks=all: partition and offset, and the number that stands there.
    acknowledged: BTreeMap<(i32, i64), u64>,
    /// The highest end that a leader of an epoch has told.
    ends: BTreeMap<(i32, LeaderEpoch), Offset>,
    broken: Vec<String>,
    next: u64,
}

type Shared = Rc<RefCell<Seen>>;

/// Batches of one record each are as good as others here, but for their boundaries.
fn records(first: u64, count: u64, bytes: usize) -> Vec<u8> {
    let mut batch = BatchBuilder::new();
    for number in first..first + count {
        batch.append(TimestampMs(1), Some(&number.to_be_bytes()), Some(&vec![number as u8; bytes]), &[]);
    }
    batch.finish().unwrap_or_default()
}

/// The number of each record of a log, by offset.
fn numbers(bytes: &[u8]) -> Result<BTreeMap<i64, u64>, String> {
    let mut found = BTreeMap::new();
    for batch in batches(bytes) {
        let batch = batch.map_err(|error| error.to_string())?;
        let contents = batch.contents(1 << 20).map_err(|error| error.to_string())?;
        let base = batch.header().base_offset;
        for record in contents.records() {
            let record = record.map_err(|error| error.to_string())?;
            let number = record.key.and_then(|key| key.first_chunk().copied()).map(u64::from_be_bytes);
            found.insert(base.0 + i64::from(record.offset_delta), number.ok_or("a record has no number")?);
        }
    }
    Ok(found)
}

/// Runs a seed.
///
/// # Errors
/// What was promised and not held.
pub fn run(seed: u64) -> Result<(), String> {
    let mut chance = Chance::new(seed ^ 0x7265_706c_6963_6173);
    let mut configs = BTreeMap::new();
    let min_in_sync = 1 + chance.below(2);
    configs.insert("min.insync.replicas".to_owned(), min_in_sync.to_string());
    let write_caching = chance.one_in(4);
    configs.insert("write.caching".to_owned(), write_caching.to_string());
    // The records are as old as the epoch.
    configs.insert("retention.ms".to_owned(), "-1".to_owned());
    let partitions = 1 + chance.below(2) as i32;
    let start = Start { partitions, configs, ..Start::default() };
    let cluster = Cluster::new(seed, Options::drawn(seed), start);
    let seen = Shared::default();
    let stopped = Rc::new(Cell::new(false));
    for partition in 0..partitions {
        produce(&cluster, partition, &seen, &stopped, Chance::new(chance.next_u64()));
        watch(&cluster, partition, &seen, &stopped);
    }
    let one_in = |chance: &mut Chance| if chance.one_in(2) { 0 } else { 5 + chance.below(100) };
    cluster.network.set_faults(Faults {
        lost: one_in(&mut chance),
        doubled: one_in(&mut chance),
        late: one_in(&mut chance),
        late_metadata: one_in(&mut chance) / 4,
        doubled_proposals: one_in(&mut chance) / 10,
    });
    let mut wrong = Wrong::default();
    for _ in 0..8 + chance.below(14) {
        cluster.world.run_for(Duration::from_millis(20 + chance.below(300)));
        disturb(&cluster, (partitions, write_caching), &mut wrong, &mut chance);
    }
    mend(&cluster, &mut wrong);
    for (node, power) in std::mem::take(&mut wrong.down) {
        cluster.start(node, power);
    }
    heal(&cluster, partitions)?;
    stopped.set(true);
    cluster.world.run_for(Duration::from_secs(4));
    for partition in 0..partitions {
        check(&cluster, partition, &seen)?;
    }
    match seen.borrow_mut().broken.pop() {
        Some(broken) => Err(broken),
        None => Ok(()),
    }
}

fn produce(
    cluster: &Rc<Cluster>,
    partition: i32,
    seen: &Shared,
    stopped: &Rc<Cell<bool>>,
    mut chance: Chance,
) {
    let (cluster, seen, stopped) = (Rc::clone(cluster), Rc::clone(seen), Rc::clone(stopped));
    let runtime = cluster.network.runtime().clone();
    cluster.network.runtime().clone().spawn(async move {
        while !stopped.get() {
            runtime.sleep(Duration::from_micros(chance.below(6_000))).await;
            let (leader, _) = cluster.placed(partition);
            let count = 1 + chance.below(3);
            let first = seen.borrow().next;
            seen.borrow_mut().next += count;
            let acks = if chance.one_in(4) { Acks::Leader } else { Acks::All };
            let bytes_max = if chance.one_in(10) { 20_000 } else { 200 };
            let bytes = chance.below(bytes_max) as usize;
            let answer = cluster.append(leader, partition, records(first, count, bytes), acks);
            let waits = 1 + chance.below(20_000);
            for _ in 0..waits {
                if answer.borrow().is_some() || !cluster.is_up(leader) {
                    break;
                }
                runtime.sleep(Duration::from_micros(100)).await;
            }
            let answered = answer.borrow_mut().take();
            if let (Some(Ok(appended)), Acks::All) = (answered, acks) {
                for number in 0..count {
                    let at = (partition, appended.base_offset.0 + number as i64);
                    let before = seen.borrow_mut().acknowledged.insert(at, first + number);
                    if let Some(before) = before {
                        let what = format!(
                            "NoOffsetMintedTwice: {at:?} was given out twice: {before}, {}",
                            first + number
                        );
                        seen.borrow_mut().broken.push(what);
                    }
                }
            }
        }
    });
}

/// Asks leaders for the end that consumers see.
fn watch(cluster: &Rc<Cluster>, partition: i32, seen: &Shared, stopped: &Rc<Cell<bool>>) {
    let (cluster, seen, stopped) = (Rc::clone(cluster), Rc::clone(seen), Rc::clone(stopped));
    let runtime = cluster.network.runtime().clone();
    cluster.network.runtime().clone().spawn(async move {
        while !stopped.get() {
            for node in cluster.nodes() {
                let answer = cluster.latest(node, partition);
                runtime.sleep(Duration::from_millis(1)).await;
                let Some(Ok(found)) = answer.borrow_mut().take() else { continue };
                let mut seen = seen.borrow_mut();
                let key = (partition, found.leader_epoch);
                let before = seen.ends.range((partition, LeaderEpoch::NONE)..=key).map(|(_, end)| *end).max();
                if before > Some(found.offset) {
                    let what =
                        format!("HighWatermarkStays: it goes back from {before:?} to {found:?} at {node}");
                    seen.broken.push(what);
                }
                seen.ends.insert(key, found.offset);
            }
        }
    });
}

/// What is wrong at the moment: it stays so until another deed, or the end.
#[derive(Default)]
struct Wrong {
    /// Brokers that are down, and whether the power went.
    down: BTreeMap<NodeId, bool>,
    /// The one of them that has lost something for good.
    bereft: Option<NodeId>,
    cut: Vec<(NodeId, NodeId)>,
}

impl Wrong {
    /// Whether the controller may give up a broker. If all others were given up while one that has lost something
    /// still counts, nobody would be left who is known to have everything.
    fn may_fence(&self, node: NodeId) -> bool {
        self.bereft.is_none_or(|bereft| bereft == node)
    }
}

fn disturb(
    cluster: &Rc<Cluster>,
    (partitions, write_caching): (i32, bool),
    wrong: &mut Wrong,
    chance: &mut Chance,
) {
    let nodes = cluster.nodes();
    let mut node = nodes[chance.index(nodes.len())];
    let other = nodes[chance.index(nodes.len())];
    let is_in_sync_everywhere =
        (0..partitions).all(|partition| cluster.placed(partition).1.len() == nodes.len());
    // Who leads is worth more than others.
    if chance.one_in(3) {
        node = cluster.placed(0).0;
    }
    match chance.below(14) {
        0..=2 if cluster.is_up(node) => {
            // What only the write cache has does not survive that the power goes everywhere.
            let power = (write_caching || chance.one_in(2))
                && (!write_caching || is_in_sync_everywhere && wrong.down.is_empty());
            // A disk that had the only copy of something takes it along.
            let wipe = chance.one_in(4) && is_in_sync_everywhere && wrong.down.is_empty();
            cluster.stop(node, power, wipe);
            wrong.down.insert(node, power);
            if wipe || power && write_caching {
                wrong.bereft = Some(node);
            }
            if chance.one_in(3) && wrong.may_fence(node) {
                cluster.world.run_for(Duration::from_millis(chance.below(300)));
                cluster.fence(node);
            }
        }
        3..=6 => {
            if let Some((&node, &power)) = wrong.down.iter().next() {
                wrong.down.remove(&node);
                wrong.bereft.take_if(|bereft| *bereft == node);
                cluster.start(node, power);
            }
        }
        7 | 8 if node != other => {
            cluster.network.set_cut(node, other, true);
            wrong.cut.push((node, other));
        }
        9 => mend(cluster, wrong),
        10 | 11 if wrong.may_fence(node) => cluster.fence(node),
        12 => {
            nodes.iter().filter(|node| !wrong.down.contains_key(node)).for_each(|&node| cluster.unfence(node))
        }
        // Who starts on a full disk says so, and ends.
        13 if cluster.is_up(node) => {
            cluster.limit_disk(node, Some(chance.below(200_000)));
            cluster.world.run_for(Duration::from_millis(chance.below(1_800)));
            cluster.limit_disk(node, None);
        }
        _ => {}
    }
}

fn mend(cluster: &Rc<Cluster>, wrong: &mut Wrong) {
    for (one, two) in wrong.cut.drain(..) {
        cluster.network.set_cut(one, two, false);
    }
}

fn heal(cluster: &Rc<Cluster>, partitions: i32) -> Result<(), String> {
    cluster.network.set_faults(Faults::default());
    for node in cluster.nodes() {
        cluster.unfence(node);
    }
    let all = cluster.nodes().len();
    let is_healed =
        cluster.until(|| (0..partitions).all(|partition| cluster.placed(partition).1.len() == all));
    let placed: Vec<(NodeId, Vec<NodeId>)> =
        (0..partitions).map(|partition| cluster.placed(partition)).collect();
    if is_healed { Ok(()) } else { Err(format!("Heals: after a minute not all are in sync: {placed:?}")) }
}

fn check(cluster: &Rc<Cluster>, partition: i32, seen: &Shared) -> Result<(), String> {
    let (leader, _) = cluster.placed(partition);
    let (end, bytes) = cluster.log(leader, partition)?;
    for node in cluster.nodes() {
        let (other_end, other) = cluster.log(node, partition)?;
        if (other_end, &other) != (end, &bytes) {
            return Err(format!(
                "ReplicasAreEqual: {node} has another log below {other_end} than {leader} has below {end}"
            ));
        }
    }
    let numbers = numbers(&bytes)?;
    for ((_, offset), number) in seen.borrow().acknowledged.range((partition, 0)..(partition + 1, 0)) {
        if numbers.get(offset) != Some(number) {
            let found = numbers.get(offset);
            return Err(format!(
                "NothingAcknowledgedLost: {partition}: {number} was acknowledged at {offset}, where {found:?} stands"
            ));
        }
    }
    Ok(())
}
