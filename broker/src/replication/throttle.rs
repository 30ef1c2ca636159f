//! How fast replicas may catch up (KIP-73).
//!
//! A leader keeps to its own rate for the partitions whose `leader.replication.throttled.replicas` name it, and to that
//! of each follower that their `follower.replication.throttled.replicas` name: who is pushed to cannot hold anybody up
//! without holding up all that comes on the same link, so the one who pushes sees to both. Only replicas out of sync are
//! held up, and those that a reassignment adds even where no list names them, as KIP-542 has it: partitions that move by
//! themselves are named by nobody. Every shard derives its share from the same image: a leader's rate is divided by its shards that have such
//! replicas to bring up to date, a follower's by the leaders that have, and within each by their shards. Shards with
//! nothing to send are not counted, or a single partition would never get more than its shard's part of the rate.

use crate::partition::router::shard_of;
use logmill_state::metadata::{Image, NO_LEADER, Topic};
use logmill_state::settings::{BrokerSettings, BrokerValues, TopicSettings};
use logmill_wire::hashing::HashMap;
use logmill_wire::ids::{MonotonicNs, NodeId, PartitionIndex, ShardIndex, TopicId, TopicPartition};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What is read at once for a replica that is held up: a part of what it may get in a second, so that it gets it evenly.
const READS_PER_SECOND: u64 = 8;

/// What is read at once at the least, in bytes.
const READ_BYTES_MIN: u64 = 4096;

/// By which rates a replica is held up.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct HeldUpBy {
    /// That of this broker, as the leader.
    pub leader: bool,
    /// That of the follower.
    pub follower: bool,
}

/// What one shard may send to replicas that catch up, in bytes a second.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct ThrottlePlan {
    /// The shard's part of `leader.replication.throttled.rate`.
    pub leader_rate: Option<u64>,
    /// The shard's part of the followers' `follower.replication.throttled.rate`.
    pub follower_rates: BTreeMap<NodeId, u64>,
    /// The replicas that are held up: the follower, and the partition, which this shard leads.
    pub replicas: HashMap<(NodeId, TopicPartition), HeldUpBy>,
}

/// A topic's list of replicas.
enum Named {
    All,
    Some(BTreeSet<(i32, i32)>),
}

impl Named {
    fn of(list: &[String]) -> Self {
        if list == ["*"] {
            return Self::All;
        }
        let replica = |item: &String| {
            let (partition, broker) = item.split_once(':')?;
            Some((partition.parse().ok()?, broker.parse().ok()?))
        };
        Self::Some(list.iter().filter_map(replica).collect())
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::Some(replicas) if replicas.is_empty())
    }

    fn has(&self, partition: PartitionIndex, broker: NodeId) -> bool {
        match self {
            Self::All => true,
            Self::Some(replicas) => replicas.contains(&(partition.0, broker.0)),
        }
    }
}

/// A broker's rate, if it is bounded; only what is set on the running cluster counts, as in Kafka.
fn rate(image: &Image, broker: NodeId, of: impl Fn(&BrokerSettings) -> u64) -> Option<u64> {
    let layers = [Some(broker), None].map(|layer| image.broker_configs(layer));
    let is_rate = |key: &String| key.ends_with(".replication.throttled.rate");
    if !layers.iter().any(|layer| layer.keys().any(is_rate)) {
        return None;
    }
    let [dynamic, dynamic_default] = layers.map(BTreeMap::clone);
    let settings = BrokerSettings::new(BrokerValues { dynamic, dynamic_default, fixed: BTreeMap::new() });
    settings.ok().map(|settings| of(&settings)).filter(|&rate| rate < i64::MAX as u64)
}

/// A topic's lists: its leaders, and its followers.
fn named(topic: &Topic) -> Option<(Named, Named)> {
    if !topic.configs.keys().any(|key| key.ends_with(".replication.throttled.replicas")) {
        return None;
    }
    // Brokers have no such lists.
    let broker = BrokerSettings::from_values(BTreeMap::new()).ok()?;
    let settings = TopicSettings::resolve(&topic.configs, &broker).ok()?;
    Some((Named::of(&settings.leader_throttled_replicas), Named::of(&settings.follower_throttled_replicas)))
}

/// Between whom a rate is divided.
#[derive(Default)]
struct Division {
    leader: BTreeSet<ShardIndex>,
    /// The leaders that push to a follower, and the shards of this one that do.
    followers: BTreeMap<NodeId, (BTreeSet<NodeId>, BTreeSet<ShardIndex>)>,
}

impl ThrottlePlan {
    /// The part of the shard `place.0`, of `place.1`, of the broker `local`.
    #[must_use]
    pub fn of(image: &Image, local: NodeId, place: (ShardIndex, u16)) -> Self {
        let of_follower =
            |id| Some((id, rate(image, id, |settings| settings.cluster.follower_throttled_rate)?));
        let mut plan = Self {
            leader_rate: rate(image, local, |settings| settings.cluster.leader_throttled_rate),
            follower_rates: image.brokers().filter_map(|broker| of_follower(broker.id)).collect(),
            replicas: HashMap::default(),
        };
        if plan.leader_rate.is_none() && plan.follower_rates.is_empty() {
            return Self::default();
        }
        let mut division = Division::default();
        let moving: BTreeSet<TopicId> = image.reassignments().map(|partition| partition.topic_id).collect();
        for topic in image.topics() {
            let lists = named(topic).filter(|(led, followed)| !led.is_empty() || !followed.is_empty());
            let lists =
                lists.or_else(|| moving.contains(&topic.id).then(|| (Named::of(&[]), Named::of(&[]))));
            if let Some(lists) = lists {
                plan.add_topic(image, topic, lists, (local, place), &mut division);
            }
        }
        let divide = |rate: u64, parts: usize| rate / (parts.max(1) as u64);
        plan.leader_rate = plan.leader_rate.map(|rate| divide(rate, division.leader.len()));
        for (follower, rate) in &mut plan.follower_rates {
            if let Some((leaders, shards)) = division.followers.get(follower) {
                *rate = divide(divide(*rate, leaders.len()), shards.len());
            }
        }
        plan
    }

    fn add_topic(
        &mut self,
        image: &Image,
        topic: &Topic,
        (led, followed): (Named, Named),
        (local, (here, shards)): (NodeId, (ShardIndex, u16)),
        division: &mut Division,
    ) {
        for index in (0..topic.partition_count()).map(PartitionIndex) {
            let Some(found) = image.partition(topic, index).filter(|found| found.leader != NO_LEADER) else {
                continue;
            };
            let key = TopicPartition { topic_id: topic.id, partition: index };
            let shard = shard_of(key, shards);
            let is_led = found.leader == local;
            let lags = |node: &&NodeId| **node != found.leader && !found.in_sync.contains(node);
            for &follower in found.replicas.iter().filter(lags) {
                let is_added = found.adding.contains(&follower);
                let is_named = (led.has(index, local) || is_added, followed.has(index, follower) || is_added);
                let by = HeldUpBy {
                    leader: is_led && self.leader_rate.is_some() && is_named.0,
                    follower: self.follower_rates.contains_key(&follower) && is_named.1,
                };
                // Nothing is sent to who is held to be dead.
                let counts = image.broker(follower).is_some_and(|broker| !broker.fenced);
                if counts && by.leader {
                    division.leader.insert(shard);
                }
                if counts && by.follower {
                    let (leaders, of_local) = division.followers.entry(follower).or_default();
                    leaders.insert(found.leader);
                    if is_led {
                        of_local.insert(shard);
                    }
                }
                if is_led && shard == here && by != HeldUpBy::default() {
                    self.replicas.insert((follower, key), by);
                }
            }
        }
    }
}

/// What was sent and is not paid for by the time that has gone by.
#[derive(Default)]
struct Debt {
    bytes: Cell<u64>,
    since: Cell<MonotonicNs>,
}

impl Debt {
    fn settle(&self, now: MonotonicNs, rate: u64) -> u64 {
        let paid = u128::from(now.since(self.since.get())) * u128::from(rate) / 1_000_000_000;
        // What is less than a byte counts the next time.
        if paid > 0 {
            self.bytes.set(self.bytes.get().saturating_sub(u64::try_from(paid).unwrap_or(u64::MAX)));
            self.since.set(now);
        }
        self.bytes.get()
    }

    fn add(&self, now: MonotonicNs, rate: u64, bytes: u64) {
        if self.settle(now, rate) == 0 {
            self.since.set(now);
        }
        self.bytes.set(self.bytes.get().saturating_add(bytes));
    }
}

/// What a shard keeps to.
#[derive(Default)]
pub(super) struct Throttle {
    plan: RefCell<ThrottlePlan>,
    leader: Debt,
    followers: RefCell<BTreeMap<NodeId, Debt>>,
}

impl Throttle {
    pub fn set(&self, plan: ThrottlePlan) {
        self.followers.borrow_mut().retain(|node, _| plan.follower_rates.contains_key(node));
        self.plan.replace(plan);
    }

    /// Whether a replica is held up, now or once it has got something.
    pub fn concerns(&self, follower: NodeId, partition: TopicPartition) -> bool {
        let plan = self.plan.borrow();
        !plan.replicas.is_empty() && plan.replicas.contains_key(&(follower, partition))
    }

    /// Calls with each rate that a replica is held up by, and what is owed at that rate.
    fn each(&self, follower: NodeId, partition: TopicPartition, mut action: impl FnMut(u64, &Debt)) {
        let plan = self.plan.borrow();
        let Some(by) = plan.replicas.get(&(follower, partition)) else { return };
        if let Some(rate) = plan.leader_rate.filter(|_| by.leader) {
            action(rate.max(1), &self.leader);
        }
        if let Some(rate) = plan.follower_rates.get(&follower).filter(|_| by.follower) {
            action((*rate).max(1), self.followers.borrow_mut().entry(follower).or_default());
        }
    }

    /// How long a replica has to wait before it gets anything.
    pub fn pause(&self, follower: NodeId, partition: TopicPartition, now: MonotonicNs) -> Duration {
        let mut longest_ns = 0;
        self.each(follower, partition, |rate, debt| {
            let ns = u128::from(debt.settle(now, rate)) * 1_000_000_000 / u128::from(rate);
            longest_ns = longest_ns.max(u64::try_from(ns).unwrap_or(u64::MAX));
        });
        Duration::from_nanos(longest_ns)
    }

    /// What may be read at once for a replica.
    pub fn most(&self, follower: NodeId, partition: TopicPartition, most: usize) -> usize {
        let mut least = most;
        self.each(follower, partition, |rate, _| {
            let part = (rate / READS_PER_SECOND).max(READ_BYTES_MIN);
            least = least.min(usize::try_from(part).unwrap_or(usize::MAX));
        });
        least
    }

    /// A replica gets so many bytes.
    pub fn note(&self, follower: NodeId, partition: TopicPartition, now: MonotonicNs, bytes: u64) {
        self.each(follower, partition, |rate, debt| debt.add(now, rate, bytes));
    }
}
