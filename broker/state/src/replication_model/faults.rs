//! The runs of the model: what is drawn in each step, and what must come after everything has healed.

use std::collections::BTreeMap;

use logmill_wire::ids::{NodeId, Offset, Uuid};

use super::broker::Role;
use super::{BROKERS, CLUSTER, MIN_IN_SYNC, Model, PARTITION, TOPIC, endpoint};
use crate::metadata::{BrokerRegistration, BrokerStart, ElectionType, NO_LEADER, Record};
use crate::test_random::Random;

const STEPS: u64 = 700;

impl Model {
    pub(super) fn start(&mut self, at: usize) {
        let incarnation = Uuid(self.next_incarnation.to_be_bytes());
        self.next_incarnation += 1;
        let starts_fenced = self.random.chance(60);
        let broker = &self.brokers[at];
        let start = BrokerStart {
            registration: BrokerRegistration {
                broker_id: broker.node,
                cluster_id: CLUSTER,
                incarnation,
                rack: None,
                endpoints: vec![endpoint()],
            },
            directories: vec![broker.directory],
            logs: Vec::new(),
            lost_writes: broker.lost_power,
            starts_fenced,
        };
        self.decide(|image, context| {
            (image.decide_broker_start(&start, false, context).unwrap().records, ())
        });
        let broker = &mut self.brokers[at];
        broker.incarnation = incarnation;
        broker.lost_power = false;
        broker.role = Role::Nothing;
        broker.paused = false;
        let newest = self.images.len() - 1;
        self.brokers[at].seen = newest;
        self.see(at, newest);
    }

    fn crash(&mut self, at: usize) {
        let power = self.random.chance(50);
        // A power loss of everybody that has a record that is only written loses it; that is no promise.
        let (image, node) = (self.image(), self.brokers[at].node);
        let partition = image.partition(image.topic_by_id(TOPIC).unwrap(), PARTITION.partition).unwrap();
        let intact = |member: &NodeId| *member != node && !self.brokers[member.0 as usize].lost_power;
        let spared = self.write_caching && !partition.in_sync.iter().any(intact);
        let write_caching = self.write_caching;
        self.brokers[at].crash(power && !spared, write_caching, &mut self.random);
        self.truth.on_down(node);
        self.count("crashes");
    }

    fn wipe(&mut self, at: usize) {
        let broker = &mut self.brokers[at];
        if broker.is_up() {
            return;
        }
        broker.disk = super::broker::Disk::default();
        broker.directory.0[15] = broker.directory.0[15].wrapping_add(1);
        self.wiped = true;
        self.count("wipes");
    }

    fn administer(&mut self) {
        let node = NodeId(self.random.below(BROKERS as u64) as i32);
        let incarnation = self.brokers[node.0 as usize].incarnation;
        match self.random.below(5) {
            0 => self.decide(|image, context| {
                let election =
                    image.decide_elect_leaders(Some(&[PARTITION]), ElectionType::Preferred, context);
                (election.plan.records, ())
            }),
            1 => self.decide(|image, context| {
                let shutdown = image.decide_controlled_shutdown(node, incarnation, context);
                (shutdown.map(|shutdown| shutdown.plan.records).unwrap_or_default(), ())
            }),
            2 => {
                let min = 1 + self.random.below(3);
                let configs = BTreeMap::from([(MIN_IN_SYNC.to_owned(), min.to_string())]);
                self.decide(|_, _| (vec![Record::TopicConfigsReplaced { topic_id: TOPIC, configs }], ()));
            }
            3 => {
                let wanted: Vec<NodeId> =
                    (0..BROKERS).map(NodeId).filter(|&other| other != node).take(3).collect();
                self.decide(|image, context| {
                    (image.decide_reassign(&[(PARTITION, Some(wanted))], true, context).plan.records, ())
                });
            }
            _ => self.decide(|image, context| {
                (image.decide_reassign(&[(PARTITION, None)], true, context).plan.records, ())
            }),
        }
        self.count("administered");
    }

    fn step(&mut self) {
        self.now = self.now.plus_ns(self.random.below(4) * 1_000_000);
        let at = self.random.below(BROKERS as u64) as usize;
        let runs = self.brokers[at].is_up() && !self.brokers[at].paused;
        match self.random.below(1000) {
            0..=349 => self.deliver_one(),
            350..=449 if runs => self.push(at, 2),
            450..=549 if runs => self.progress(at, false),
            550..=649 if runs => {
                let acks_all = self.random.chance(70);
                self.produce(at, acks_all);
            }
            650..=729 if runs => {
                let effects = self.brokers[at].finish_change();
                self.after_follower(at, effects);
            }
            730..=819 if runs => {
                let (seen, newest) = (self.brokers[at].seen, self.images.len() - 1);
                let index = seen + self.random.below((newest - seen) as u64 + 1) as usize;
                self.see(at, index);
            }
            820..=889 if runs => self.care(at),
            890..=909 if runs => self.ask_as_client(at),
            910..=919 if runs => self.delete_records(at),
            920..=926 if self.brokers[at].is_up() => self.crash(at),
            927..=954 if !self.brokers[at].is_up() => self.start(at),
            955 => self.wipe(at),
            956..=969 => {
                self.brokers[at].paused = !self.brokers[at].paused && self.random.chance(15);
            }
            970..=979 => {
                let node = NodeId(at as i32);
                if !runs || self.random.chance(20) {
                    self.decide(|image, context| (image.decide_fence_broker(node, context).records, ()));
                }
            }
            980..=984 => self.administer(),
            985..=989 => self.cuts.clear(),
            990..=994 => {
                let end = |random: &mut Random| random.below(BROKERS as u64 + 1) as i32 - 1;
                let cut = (end(&mut self.random), end(&mut self.random));
                self.cuts.push(cut);
            }
            995 => self.now = self.now.plus_ns(150_000_000),
            _ => {}
        }
        self.check();
    }

    fn deliver_one(&mut self) {
        if self.network.is_empty() {
            return;
        }
        // Mostly the oldest come first.
        let among = if self.random.chance(80) { self.network.len().min(3) } else { self.network.len() };
        let index = self.random.below(among as u64) as usize;
        let message = if self.random.chance(self.replay) {
            self.network[index].clone()
        } else {
            self.network.remove(index)
        };
        let (from, to) = message.ends();
        let is_paused = |at: i32| usize::try_from(at).is_ok_and(|at| self.brokers[at].paused);
        if is_paused(to) || self.cuts.contains(&(from, to)) {
            return;
        }
        self.deliver(message);
        if self.network.len() > 60 {
            let index = self.random.below(self.network.len() as u64) as usize;
            self.network.remove(index);
        }
    }

    fn delete_records(&mut self, at: usize) {
        let broker = &mut self.brokers[at];
        let Role::Leader(leader) = &mut broker.role else { return };
        let (start, end) = (leader.log_start_offset().0, leader.high_watermark().0);
        if self.random.chance(30) {
            let to = start + self.random.below((end - start) as u64 + 1) as i64;
            leader.advance_log_start(Offset(to)).unwrap();
            broker.disk.start_at(to);
        }
    }

    /// Everything heals. Then there must be a leader, all replicas must come into sync, and appends must get through.
    fn heal(&mut self, seed: u64) {
        (self.loss, self.replay) = (0, 0);
        self.cuts.clear();
        for at in 0..BROKERS as usize {
            self.brokers[at].paused = false;
            // A broker that was shutting down is started again.
            let stuck =
                self.image().broker(NodeId(at as i32)).is_some_and(|broker| broker.in_controlled_shutdown);
            if stuck && self.brokers[at].is_up() {
                let write_caching = self.write_caching;
                self.brokers[at].crash(false, write_caching, &mut self.random);
                self.truth.on_down(NodeId(at as i32));
            }
            if !self.brokers[at].is_up() {
                self.start(at);
            }
        }
        let configs = BTreeMap::from([(MIN_IN_SYNC.to_owned(), "2".to_owned())]);
        self.decide(|_, _| (vec![Record::TopicConfigsReplaced { topic_id: TOPIC, configs }], ()));
        let mut acknowledged = None;
        for round in 0..60 {
            self.round();
            if round == 40 {
                let leader =
                    self.leader_at().unwrap_or_else(|| panic!("seed {seed}: no leader after healing"));
                acknowledged = Some(self.truth.acknowledged());
                self.produce(leader, true);
            }
            let lost = self.wiped || self.write_caching;
            if round == 20 && lost && self.has_nobody() {
                return;
            }
        }
        let image = self.image();
        let partition = image.partition(image.topic_by_id(TOPIC).unwrap(), PARTITION.partition).unwrap();
        assert_eq!(
            partition.in_sync.len(),
            partition.replicas.len(),
            "seed {seed}: {partition:?} stays behind"
        );
        assert!(
            acknowledged.is_some_and(|before| self.truth.acknowledged() > before),
            "seed {seed}: no progress"
        );
        let end = self.truth.committed_end();
        for replica in partition.replicas {
            let broker = &self.brokers[replica.0 as usize];
            assert_eq!(
                (broker.disk.end, broker.high_watermark()),
                (end, Some(end)),
                "seed {seed}: {replica}"
            );
        }
    }

    fn round(&mut self) {
        self.now = self.now.plus_ns(10_000_000);
        for at in 0..BROKERS as usize {
            let newest = self.images.len() - 1;
            self.see(at, newest);
            self.care(at);
            self.progress(at, true);
            let effects = self.brokers[at].finish_change();
            self.after_follower(at, effects);
            self.push(at, 1000);
        }
        for message in std::mem::take(&mut self.network) {
            self.deliver(message);
        }
        self.check();
    }

    fn leader_at(&self) -> Option<usize> {
        self.brokers.iter().position(|broker| {
            matches!(&broker.role, Role::Leader(leader) if Some(leader.leader_epoch()) == self.image().leader_epoch(PARTITION))
        })
    }

    fn has_nobody(&self) -> bool {
        let image = self.image();
        let partition = image.partition(image.topic_by_id(TOPIC).unwrap(), PARTITION.partition).unwrap();
        partition.leader == NO_LEADER && partition.in_sync.is_empty() && partition.eligible.is_empty()
    }
}

fn run(seed: u64) -> Model {
    let mut model = Model::new(seed);
    for _ in 0..STEPS {
        model.step();
    }
    model.heal(seed);
    model
}

/// Runs the seeds; each of the events must have happened often enough for the run to have shown anything.
fn run_all(seeds: std::ops::Range<u64>) {
    let runs = seeds.end - seeds.start;
    let mut events: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in seeds {
        let model = match std::panic::catch_unwind(|| run(seed)) {
            Ok(model) => model,
            Err(_) => panic!(
                "seed {seed} failed; REPLICATION_SEEDS={seed}..{} cargo test -p logmill-state replication_model \
                 repeats it",
                seed + 1
            ),
        };
        for (event, count) in model.events {
            *events.entry(event).or_default() += count;
        }
        *events.entry("acknowledged").or_default() += model.truth.acknowledged() as u64;
    }
    if runs < 1000 {
        return;
    }
    let often =
        ["leaders", "alterations", "crashes", "administered", "acknowledged"].map(|event| (event, 100));
    let seldom = [("cuts", 20), ("resets", 3), ("ineligible", 2), ("wipes", 5)];
    for (event, in_100_runs) in often.into_iter().chain(seldom) {
        let count = events.get(event).copied().unwrap_or(0);
        assert!(count * 100 > in_100_runs * runs, "{event} is too seldom: {events:?}");
    }
}

/// Other seeds than the usual ones, if this was compiled with them.
fn seeds() -> std::ops::Range<u64> {
    let given = option_env!("REPLICATION_SEEDS").and_then(|text| text.split_once(".."));
    given.map_or(0..4000, |(from, to)| from.parse().unwrap()..to.parse().unwrap())
}

fn middle() -> u64 {
    seeds().start.midpoint(seeds().end)
}

#[test]
fn replication_keeps_its_promises() {
    run_all(seeds().start..middle());
}

/// The other half of the seeds, for another core.
#[test]
fn replication_keeps_its_promises_with_other_seeds() {
    run_all(middle()..seeds().end);
}
