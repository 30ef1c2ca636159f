//! Which brokers hold which partitions of a topic.

use std::collections::BTreeMap;

use logmill_wire::ids::{LeaderEpoch, NodeId, PartitionIndex};

/// Consecutive partitions with the same replicas, as a record carries them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlacementRun {
    /// How many partitions, at least 1.
    pub partition_count: u32,
    /// Their leader epoch at the time of the record.
    pub leader_epoch: LeaderEpoch,
    /// Their replicas, the preferred leader first. Every run of a topic has the same number.
    pub replicas: Vec<NodeId>,
}

/// A run within a [`Placement`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    first_partition: u32,
    /// The leader epoch of its partitions, less the leader's epoch base when the run was applied.
    epoch_above_base: i32,
}

const _: () = assert!(size_of::<Run>() + size_of::<NodeId>() <= 16);

/// Which brokers hold which partitions of a topic: 8 bytes, and 4 for each replica, per run of partitions with
/// the same replicas; a topic on one broker is one run, however many partitions it has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placement {
    runs: Vec<Run>,
    /// `replication_factor` replicas for each run.
    replicas: Vec<NodeId>,
    replication_factor: usize,
    partition_count: u32,
}

impl Placement {
    /// The placement that `runs` describe; `epoch_base` gives a broker's epoch base. `None` if there is no
    /// partition, a run is empty, the number of replicas differs, or there are too many partitions.
    #[must_use]
    pub fn from_runs(runs: &[PlacementRun], epoch_base: impl Fn(NodeId) -> i32) -> Option<Self> {
        let replication_factor = runs.first()?.replicas.len();
        let mut placement = Self {
            runs: Vec::with_capacity(runs.len()),
            replicas: Vec::new(),
            replication_factor,
            partition_count: 0,
        };
        for run in runs {
            let leader = *run.replicas.first()?;
            if run.replicas.len() != replication_factor || run.partition_count == 0 || run.leader_epoch.0 < 0
            {
                return None;
            }
            placement.runs.push(Run {
                first_partition: placement.partition_count,
                epoch_above_base: run.leader_epoch.0.checked_sub(epoch_base(leader))?,
            });
            placement.replicas.extend_from_slice(&run.replicas);
            placement.partition_count = placement.partition_count.checked_add(run.partition_count)?;
        }
        i32::try_from(placement.partition_count).ok()?;
        Some(placement)
    }

    /// This placement with more partitions behind its last one; `None` where [`Placement::from_runs`] would say
    /// so of all of them together.
    #[must_use]
    pub fn extended(&self, more: &[PlacementRun], epoch_base: impl Fn(NodeId) -> i32) -> Option<Self> {
        let mut runs = self.to_runs(&epoch_base);
        runs.extend_from_slice(more);
        (!more.is_empty()).then(|| Self::from_runs(&runs, epoch_base)).flatten()
    }

    /// How many partitions there are.
    #[must_use]
    pub fn partition_count(&self) -> i32 {
        i32::try_from(self.partition_count).unwrap_or(i32::MAX)
    }

    /// How many replicas each partition has.
    #[must_use]
    pub fn replication_factor(&self) -> usize {
        self.replication_factor
    }

    /// The replicas of a partition, the preferred leader first.
    #[must_use]
    pub fn replicas(&self, partition: PartitionIndex) -> Option<&[NodeId]> {
        self.replicas_of_run(self.run_of(partition)?)
    }

    /// The leader epoch of a partition; `epoch_base` gives a broker's epoch base now.
    #[must_use]
    pub fn leader_epoch(
        &self,
        partition: PartitionIndex,
        epoch_base: impl Fn(NodeId) -> i32,
    ) -> Option<LeaderEpoch> {
        let index = self.run_of(partition)?;
        let leader = *self.replicas_of_run(index)?.first()?;
        Some(LeaderEpoch(self.runs.get(index)?.epoch_above_base.saturating_add(epoch_base(leader))))
    }

    /// The runs as a record carries them.
    #[must_use]
    pub fn to_runs(&self, epoch_base: impl Fn(NodeId) -> i32) -> Vec<PlacementRun> {
        let ends = self.runs.iter().skip(1).map(|run| run.first_partition).chain([self.partition_count]);
        let runs = self.runs.iter().zip(ends).zip(self.replicas.chunks_exact(self.replication_factor));
        runs.map(|((run, end), replicas)| PlacementRun {
            partition_count: end - run.first_partition,
            leader_epoch: LeaderEpoch(
                run.epoch_above_base.saturating_add(replicas.first().map_or(0, |&leader| epoch_base(leader))),
            ),
            replicas: replicas.to_vec(),
        })
        .collect()
    }

    fn run_of(&self, partition: PartitionIndex) -> Option<usize> {
        let partition =
            u32::try_from(partition.0).ok().filter(|&partition| partition < self.partition_count)?;
        self.runs.partition_point(|run| run.first_partition <= partition).checked_sub(1)
    }

    fn replicas_of_run(&self, index: usize) -> Option<&[NodeId]> {
        self.replicas.chunks_exact(self.replication_factor).nth(index)
    }
}

/// Joins consecutive partitions with the same replicas into runs, all in leader epoch 0.
pub(super) fn runs_of(partitions: impl IntoIterator<Item = Vec<NodeId>>) -> Vec<PlacementRun> {
    let mut runs: Vec<PlacementRun> = Vec::new();
    for replicas in partitions {
        match runs.last_mut() {
            Some(run) if run.replicas == replicas => run.partition_count += 1,
            _ => runs.push(PlacementRun { partition_count: 1, leader_epoch: LeaderEpoch(0), replicas }),
        }
    }
    runs
}

/// Spreads partitions over brokers: leaders go round, followers are the next brokers in an order in which the
/// racks alternate, so that replicas lie in different racks as long as there are enough. `spread` turns the
/// round, so that not every topic begins at the same broker.
///
/// `replication_factor` must be from 1 to the number of brokers.
pub(super) fn place(
    racks: &BTreeMap<NodeId, Option<&str>>,
    partition_count: u32,
    replication_factor: usize,
    spread: u128,
) -> Vec<PlacementRun> {
    let brokers = alternate_racks(racks);
    assert!(
        (1..=brokers.len()).contains(&replication_factor),
        "replication factor {replication_factor} for {} brokers",
        brokers.len()
    );
    if brokers.len() == 1 {
        return vec![PlacementRun { partition_count, leader_epoch: LeaderEpoch(0), replicas: brokers }];
    }
    let first = usize::try_from(spread % brokers.len() as u128).unwrap_or(0);
    let replicas_of = |partition: u32| {
        let start = (first + partition as usize) % brokers.len();
        brokers.iter().cycle().skip(start).take(replication_factor).copied().collect()
    };
    runs_of((0..partition_count).map(replicas_of))
}

/// The brokers in an order that takes one of each rack in turn.
fn alternate_racks(racks: &BTreeMap<NodeId, Option<&str>>) -> Vec<NodeId> {
    let mut by_rack: BTreeMap<Option<&str>, Vec<NodeId>> = BTreeMap::new();
    for (&broker, &rack) in racks {
        by_rack.entry(rack).or_default().push(broker);
    }
    let longest = by_rack.values().map(Vec::len).max().unwrap_or(0);
    (0..longest)
        .flat_map(|turn| by_rack.values().filter_map(move |brokers| brokers.get(turn).copied()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_broker_is_one_run() {
        let racks = BTreeMap::from([(NodeId(1), None)]);
        let runs = place(&racks, 100_000, 1, 77);
        assert_eq!(runs.len(), 1);
        let placement = Placement::from_runs(&runs, |_| 5).unwrap();
        assert_eq!(placement.partition_count(), 100_000);
        for partition in [0, 1, 99_999] {
            assert_eq!(placement.replicas(PartitionIndex(partition)), Some(&[NodeId(1)][..]));
            assert_eq!(placement.leader_epoch(PartitionIndex(partition), |_| 5), Some(LeaderEpoch(0)));
            assert_eq!(placement.leader_epoch(PartitionIndex(partition), |_| 8), Some(LeaderEpoch(3)));
        }
        assert_eq!(placement.replicas(PartitionIndex(100_000)), None);
        assert_eq!(placement.replicas(PartitionIndex(-1)), None);
    }

    #[test]
    fn leaders_go_round_and_replicas_are_apart() {
        let rack = |id: i32| if id < 3 { "a" } else { "b" };
        let racks: BTreeMap<_, _> = (0..6).map(|id| (NodeId(id), Some(rack(id)))).collect();
        let placement = Placement::from_runs(&place(&racks, 600, 2, 4), |_| 0).unwrap();
        let mut led = [0; 6];
        for partition in 0..600 {
            let replicas = placement.replicas(PartitionIndex(partition)).unwrap();
            led[replicas[0].0 as usize] += 1;
            assert_ne!(rack(replicas[0].0), rack(replicas[1].0), "partition {partition}");
        }
        assert_eq!(led, [100; 6]);
        let all = Placement::from_runs(&place(&racks, 12, 6, 1), |_| 0).unwrap();
        for partition in 0..12 {
            let mut replicas = all.replicas(PartitionIndex(partition)).unwrap().to_vec();
            replicas.sort();
            assert_eq!(replicas, (0..6).map(NodeId).collect::<Vec<_>>());
        }
    }

    #[test]
    fn runs_survive_a_round_trip() {
        let runs = runs_of([vec![NodeId(1)], vec![NodeId(1)], vec![NodeId(2)], vec![NodeId(1)]]);
        assert_eq!(runs.iter().map(|run| run.partition_count).collect::<Vec<_>>(), [2, 1, 1]);
        let placement = Placement::from_runs(&runs, |node| node.0 * 10).unwrap();
        let later = placement.to_runs(|node| node.0 * 10 + node.0);
        assert_eq!(later.iter().map(|run| run.leader_epoch.0).collect::<Vec<_>>(), [1, 2, 1]);
        assert_eq!(Placement::from_runs(&later, |node| node.0 * 11), Some(placement));
    }

    #[test]
    fn nonsense_is_refused() {
        let run = |count, replicas: &[i32]| PlacementRun {
            partition_count: count,
            leader_epoch: LeaderEpoch(0),
            replicas: replicas.iter().copied().map(NodeId).collect(),
        };
        for runs in [
            vec![],
            vec![run(1, &[])],
            vec![run(0, &[1])],
            vec![run(1, &[1]), run(1, &[1, 2])],
            vec![run(u32::MAX, &[1])],
            vec![run(u32::MAX, &[1]), run(1, &[1])],
        ] {
            assert_eq!(Placement::from_runs(&runs, |_| 0), None, "{runs:?}");
        }
    }
}
