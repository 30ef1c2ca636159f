//! Which brokers hold which partitions of a topic.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_has_as_many_partitions_as_it_says() {
        let run = PlacementRun {
            partition_count: 100_000,
            leader_epoch: LeaderEpoch(0),
            replicas: vec![NodeId(1)],
        };
        let placement = Placement::from_runs(&[run], |_| 5).unwrap();
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
