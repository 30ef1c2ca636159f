//! Where new partitions lie: in stripes over racks and brokers, by the rules of KRaft's controller (KIP-631).
//!
//! | rule | |
//! |---|---|
//! | leaders go round the racks, and within each rack round its brokers | a broker that is fenced begins as nobody's leader |
//! | the other replicas come from the racks that follow, one of each in turn | replicas lie in different racks as long as there are enough |
//! | within a rack, brokers that are fenced come last | what they get is not in sync until they are back |
//! | a broker that is drained gets nothing, if there are enough others | |
//! | after as many partitions as there are live brokers, racks and brokers are shuffled | the partitions of a broker that dies go to all others |

use std::collections::BTreeMap;
use std::fmt;

use logmill_wire::ids::{LeaderEpoch, NodeId, PartitionIndex, TopicId};

use super::image::Image;
use super::partition_state::PartitionState;
use super::placement::{PlacementRun, runs_of};
use super::record::Record;

/// Why replicas cannot be placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PlaceError {
    /// There are fewer brokers than replicas.
    TooFewBrokers {
        /// The replicas that are asked for.
        wanted: usize,
        /// The brokers that are registered and do not shut down.
        brokers: usize,
    },
    /// Nobody could lead.
    AllFenced,
}

impl fmt::Display for PlaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFewBrokers { wanted, brokers } => write!(
                f,
                "The target replication factor of {wanted} cannot be reached because only {brokers} broker(s) are \
                 registered."
            ),
            Self::AllFenced => f.write_str("All brokers are currently fenced or in controlled shutdown."),
        }
    }
}

/// A sequence of numbers from one seed (SplitMix64).
struct Draws(u64);

impl Draws {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let bound = bound.max(1) as u64;
        usize::try_from((bits ^ (bits >> 31)) % bound).unwrap_or(0)
    }

    fn shuffle<T>(&mut self, all: &mut [T]) {
        for last in (1..all.len()).rev() {
            all.swap(last, self.below(last + 1));
        }
    }
}

/// Brokers that take turns: with every partition that uses them another one is the first.
#[derive(Default)]
struct Round {
    brokers: Vec<NodeId>,
    first: usize,
    /// The partition that it serves, and how many of its brokers that has got.
    serves: Option<u64>,
    given: usize,
}

impl Round {
    fn next(&mut self, partition: u64) -> Option<NodeId> {
        if self.brokers.is_empty() {
            return None;
        }
        if self.serves != Some(partition) {
            (self.serves, self.given) = (Some(partition), 0);
            self.first = (self.first + 1) % self.brokers.len();
        }
        if self.given == self.brokers.len() {
            return None;
        }
        let at = (self.first + self.given) % self.brokers.len();
        self.given += 1;
        self.brokers.get(at).copied()
    }

    fn begin_anywhere(&mut self, draws: &mut Draws) {
        (self.serves, self.first) = (None, draws.below(self.brokers.len()));
    }
}

#[derive(Default)]
struct Rack {
    alive: Round,
    fenced: Round,
}

impl Rack {
    fn next(&mut self, partition: u64) -> Option<NodeId> {
        self.alive.next(partition).or_else(|| self.fenced.next(partition))
    }
}

/// The brokers of a cluster on which replicas can be placed.
struct Racks {
    racks: Vec<Rack>,
    first: usize,
    alive: u64,
    brokers: usize,
    placed: u64,
    draws: Draws,
}

impl Racks {
    fn new(image: &Image, seed: u128, with_drained: bool) -> Self {
        let mut by_name: BTreeMap<Option<&str>, Rack> = BTreeMap::new();
        let (mut alive, mut brokers) = (0, 0);
        let takes_part = |id| with_drained || !image.is_drained(id);
        for broker in image.brokers().filter(|broker| !broker.in_controlled_shutdown && takes_part(broker.id))
        {
            let rack = by_name.entry(broker.rack.as_deref()).or_default();
            let round = if broker.fenced { &mut rack.fenced } else { &mut rack.alive };
            round.brokers.push(broker.id);
            alive += u64::from(!broker.fenced);
            brokers += 1;
        }
        let mut draws = Draws((seed as u64) ^ ((seed >> 64) as u64));
        let mut racks: Vec<Rack> = by_name.into_values().collect();
        for rack in &mut racks {
            rack.alive.begin_anywhere(&mut draws);
            rack.fenced.begin_anywhere(&mut draws);
        }
        let first = draws.below(racks.len());
        Self { racks, first, alive, brokers, placed: 0, draws }
    }

    fn shuffle(&mut self) {
        let Self { racks, draws, .. } = self;
        draws.shuffle(racks);
        for round in racks.iter_mut().flat_map(|rack| [&mut rack.alive, &mut rack.fenced]) {
            draws.shuffle(&mut round.brokers);
            round.begin_anywhere(draws);
        }
    }

    /// The replicas of one more partition, the leader first. There is an alive broker, and there are as many brokers.
    fn next(&mut self, replicas: usize) -> Vec<NodeId> {
        if self.placed > 0 && self.placed.is_multiple_of(self.alive.max(1)) {
            self.shuffle();
        }
        let (partition, count, start) = (self.placed, self.racks.len(), self.first % self.racks.len().max(1));
        let leads = (0..count).map(|step| (start + step) % count).find_map(|at| {
            let leader = self.racks.get_mut(at)?.alive.next(partition)?;
            Some((at, leader))
        });
        let Some((of_leader, leader)) = leads else { return Vec::new() };
        let mut chosen = vec![leader];
        let mut passes_over_leader = true;
        let mut at = start;
        while chosen.len() < replicas {
            if at == of_leader && passes_over_leader {
                passes_over_leader = false;
            } else if let Some(rack) = self.racks.get_mut(at) {
                chosen.extend(rack.next(partition));
            }
            at = (at + 1) % count;
        }
        self.placed += 1;
        self.first += 1;
        chosen
    }
}

impl Image {
    /// Places partitions with so many replicas each; `seed` says where the rounds begin.
    pub(super) fn place(
        &self,
        partition_count: u32,
        replication_factor: usize,
        seed: u128,
    ) -> Result<Vec<PlacementRun>, PlaceError> {
        let mut racks = Racks::new(self, seed, false);
        if replication_factor > racks.brokers || racks.alive == 0 {
            racks = Racks::new(self, seed, true);
        }
        if replication_factor == 0 || replication_factor > racks.brokers {
            return Err(PlaceError::TooFewBrokers { wanted: replication_factor, brokers: racks.brokers });
        }
        if racks.alive == 0 {
            return Err(PlaceError::AllFenced);
        }
        if racks.brokers == 1 {
            // One run, however many partitions there are.
            let replicas = racks.next(replication_factor);
            return Ok(vec![PlacementRun { partition_count, leader_epoch: LeaderEpoch(0), replicas }]);
        }
        Ok(runs_of((0..partition_count).map(|_| racks.next(replication_factor))))
    }

    /// The records by which new partitions begin where some of their brokers are not active: those are not in sync, and
    /// do not lead. `None` if none of a partition's brokers is active.
    pub(super) fn begin_without_inactive(
        &self,
        topic_id: TopicId,
        first_partition: i32,
        placement: &[PlacementRun],
    ) -> Option<Vec<Record>> {
        let mut records = Vec::new();
        let mut partition = first_partition;
        for run in placement {
            let active: Vec<NodeId> =
                run.replicas.iter().copied().filter(|&node| self.is_active(node)).collect();
            let leader = *active.first()?;
            let end = partition.saturating_add(i32::try_from(run.partition_count).unwrap_or(i32::MAX));
            // Where all are active, a partition begins as its placement says.
            let begins = if active.len() < run.replicas.len() { partition..end } else { end..end };
            records.extend(begins.map(|index| Record::PartitionChanged {
                topic_id,
                partition: PartitionIndex(index),
                state: PartitionState {
                    leader,
                    leader_epoch: run.leader_epoch,
                    partition_epoch: 1,
                    replicas: run.replicas.clone(),
                    in_sync: active.clone(),
                    ..PartitionState::default()
                },
            }));
            partition = end;
        }
        Some(records)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Endpoint, Placement};
    use super::*;
    use logmill_wire::ids::Uuid;
    use std::collections::BTreeSet;

    /// Brokers with their racks, `-` for none, and a `!` for those that are fenced.
    fn image(brokers: &[(i32, &str)]) -> Image {
        let mut image = Image::default();
        image.apply(&Record::ClusterIdMinted { cluster_id: Uuid([9; 16]) }).unwrap();
        for &(id, rack) in brokers {
            let (broker_id, name) = (NodeId(id), rack.trim_end_matches('!'));
            let endpoint =
                Endpoint { listener: "L".to_owned(), host: "h".to_owned(), port: 1, security_protocol: 0 };
            let registered = Record::BrokerRegistered {
                broker_id,
                incarnation: Uuid([1; 16]),
                leader_epoch_base: 0,
                rack: (name != "-").then(|| name.to_owned()),
                endpoints: vec![endpoint],
            };
            image.apply(&registered).unwrap();
            let (fenced, in_controlled_shutdown) = (rack.ends_with('!'), false);
            let directories = Vec::new();
            image
                .apply(&Record::BrokerChanged { broker_id, fenced, in_controlled_shutdown, directories })
                .unwrap();
        }
        image
    }

    fn placed(image: &Image, count: u32, replicas: usize, seed: u128) -> Vec<Vec<i32>> {
        let runs = image.place(count, replicas, seed).unwrap();
        let placement = Placement::from_runs(&runs, |_| 0).unwrap();
        (0..count)
            .map(|index| placement.replicas(PartitionIndex(index as i32)).unwrap())
            .map(|replicas| replicas.iter().map(|node| node.0).collect())
            .collect()
    }

    #[test]
    fn one_broker_is_one_run() {
        let runs = image(&[(1, "-")]).place(100_000, 1, 77).unwrap();
        assert_eq!((runs.len(), runs[0].partition_count), (1, 100_000));
        assert_eq!(runs[0].replicas, [NodeId(1)]);
    }

    #[test]
    fn leaders_go_round_and_replicas_are_in_different_racks() {
        let racks = [(0, "a"), (1, "a"), (2, "a"), (3, "b"), (4, "b"), (5, "b")];
        let image = image(&racks);
        for seed in [0, 4, u128::MAX] {
            let mut led = [0; 6];
            for replicas in placed(&image, 600, 2, seed) {
                led[replicas[0] as usize] += 1;
                assert_ne!(replicas[0] / 3, replicas[1] / 3, "{replicas:?}");
            }
            assert_eq!(led, [100; 6]);
            for mut replicas in placed(&image, 12, 6, seed) {
                replicas.sort_unstable();
                assert_eq!(replicas, [0, 1, 2, 3, 4, 5]);
            }
        }
    }

    #[test]
    fn a_small_rack_has_a_replica_of_everything() {
        let image = image(&[(0, "a"), (1, "a"), (2, "a"), (3, "b")]);
        let all = placed(&image, 40, 2, 5);
        assert!(all.iter().all(|replicas| replicas.contains(&3)), "{all:?}");
        let seconds: BTreeSet<_> = all.iter().flatten().copied().collect();
        assert_eq!(seconds.len(), 4);
    }

    #[test]
    fn the_partitions_of_a_dead_broker_go_to_all_others() {
        let image = image(&[(0, "-"), (1, "-"), (2, "-"), (3, "-")]);
        let all = placed(&image, 400, 3, 1);
        let next: BTreeSet<i32> =
            all.iter().filter(|replicas| replicas[0] == 0).map(|replicas| replicas[1]).collect();
        assert_eq!(next, BTreeSet::from([1, 2, 3]));
        assert_ne!(placed(&image, 40, 3, 1), placed(&image, 40, 3, 2));
    }

    #[test]
    fn who_is_fenced_follows_and_is_not_in_sync() {
        let mut image = image(&[(0, "-"), (1, "-!"), (2, "-")]);
        for replicas in placed(&image, 60, 2, 3) {
            assert!(!replicas.contains(&1), "there are enough others: {replicas:?}");
        }
        let runs = image.place(6, 3, 3).unwrap();
        let topic_id = Uuid([5; 16]);
        let records = image.begin_without_inactive(topic_id, 0, &runs).unwrap();
        let (name, configs) = ("t".to_owned(), BTreeMap::new());
        image.apply(&Record::TopicCreated { topic_id, name, configs, placement: runs }).unwrap();
        records.iter().for_each(|record| image.apply(record).unwrap());
        let topic = image.topic_by_name("t").unwrap();
        for index in 0..6 {
            let partition = image.partition(topic, PartitionIndex(index)).unwrap();
            assert_eq!((partition.replicas.len(), partition.replicas[2]), (3, NodeId(1)));
            assert_eq!(
                (partition.leader, partition.in_sync),
                (partition.replicas[0], &partition.replicas[..2])
            );
            assert_eq!((partition.leader_epoch.0, partition.eligible), (0, &[][..]));
        }
    }

    #[test]
    fn what_cannot_be_placed_is_refused() {
        let dead = image(&[(0, "-!"), (1, "a!")]);
        assert_eq!(dead.place(1, 1, 0), Err(PlaceError::AllFenced));
        let two = image(&[(0, "-"), (1, "a!")]);
        assert_eq!(two.place(1, 3, 0), Err(PlaceError::TooFewBrokers { wanted: 3, brokers: 2 }));
        assert_eq!(two.place(1, 0, 0), Err(PlaceError::TooFewBrokers { wanted: 0, brokers: 2 }));
        let run =
            PlacementRun { partition_count: 1, leader_epoch: LeaderEpoch(0), replicas: vec![NodeId(1)] };
        assert_eq!(two.begin_without_inactive(Uuid([5; 16]), 0, &[run]), None);
    }
}
