//! ElectLeaders: the preferred replica, or any one (KIP-460).

use std::fmt;

use logmill_wire::ids::TopicPartition;

use super::image::Image;
use super::leadership::{ControllerContext, Election, PartitionPlan};
use super::partition_state::NO_LEADER;

/// Which leader is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ElectionType {
    /// The first replica, if it is in sync.
    Preferred,
    /// Any replica, for a partition without a leader; records that were acknowledged may be lost.
    Unclean,
}

/// Why nobody is elected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ElectLeaderError {
    /// UNKNOWN_TOPIC_OR_PARTITION.
    UnknownPartition,
    /// ELECTION_NOT_NEEDED.
    NotNeeded,
    /// PREFERRED_LEADER_NOT_AVAILABLE.
    PreferredNotAvailable,
    /// ELIGIBLE_LEADERS_NOT_AVAILABLE.
    EligibleNotAvailable,
}

impl fmt::Display for ElectLeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownPartition => "there is no such partition",
            Self::NotNeeded => "the partition has the leader that is asked for",
            Self::PreferredNotAvailable => {
                "the preferred replica is not in sync, or its broker is not available"
            }
            Self::EligibleNotAvailable => "no broker with a replica of the partition is available",
        })
    }
}

impl std::error::Error for ElectLeaderError {}

/// What an ElectLeaders request does.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ElectLeadersPlan {
    /// What changes.
    pub plan: PartitionPlan,
    /// One for each partition, in their order.
    pub results: Vec<(TopicPartition, Result<(), ElectLeaderError>)>,
}

impl Image {
    /// Decides on elections that somebody asks for. Without a list, those of all partitions that need one.
    #[must_use]
    pub fn decide_elect_leaders(
        &self,
        partitions: Option<&[TopicPartition]>,
        election: ElectionType,
        context: &ControllerContext<'_>,
    ) -> ElectLeadersPlan {
        let mut decided = ElectLeadersPlan::default();
        match partitions {
            Some(partitions) => {
                for &partition in partitions {
                    let repeated = decided.results.iter().any(|&(other, _)| other == partition);
                    if !repeated {
                        let result = self.elect_leader(partition, election, context, &mut decided.plan);
                        decided.results.push((partition, result));
                    }
                }
            }
            None => {
                let all = self.topics().flat_map(|topic| {
                    // Only a partition that has changed can have another leader than its first replica.
                    topic
                        .states
                        .iter()
                        .map(|(&partition, _)| TopicPartition { topic_id: topic.id, partition })
                });
                for partition in all {
                    let result = self.elect_leader(partition, election, context, &mut decided.plan);
                    if result != Err(ElectLeaderError::NotNeeded) {
                        decided.results.push((partition, result));
                    }
                }
            }
        }
        decided
    }

    fn elect_leader(
        &self,
        partition: TopicPartition,
        election: ElectionType,
        context: &ControllerContext<'_>,
        plan: &mut PartitionPlan,
    ) -> Result<(), ElectLeaderError> {
        let (topic, current) = self.located(partition).ok_or(ElectLeaderError::UnknownPartition)?;
        let (unavailable, kind) = match election {
            ElectionType::Preferred => (ElectLeaderError::PreferredNotAvailable, Election::Preferred),
            ElectionType::Unclean => (ElectLeaderError::EligibleNotAvailable, Election::Unclean),
        };
        let preferred = current.replicas.first().copied().unwrap_or(NO_LEADER);
        match election {
            ElectionType::Preferred if current.leader == preferred => {
                return Err(ElectLeaderError::NotNeeded);
            }
            ElectionType::Preferred
                if !current.in_sync.contains(&preferred) || !self.may_serve(preferred, partition) =>
            {
                return Err(unavailable);
            }
            ElectionType::Unclean if current.leader != NO_LEADER => return Err(ElectLeaderError::NotNeeded),
            _ => {}
        }
        self.change_partition(topic, partition.partition, context, false, plan, |target| {
            target.election = kind
        })
        .map(drop)
        .ok_or(unavailable)
    }
}
