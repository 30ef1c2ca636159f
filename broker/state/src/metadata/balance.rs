//! Preferred leaders come back by themselves: `auto.leader.rebalance.enable`.

use logmill_wire::ids::TopicPartition;

use super::elect_leaders::ElectionType;
use super::image::Image;
use super::leadership::{ControllerContext, PartitionPlan};

/// How many elections are decided at once at most; the rest waits for the next time, as in Kafka.
pub const BALANCE_ELECTIONS_MAX: usize = 1_000;

/// What a look at the balance of leaders does.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BalancePlan {
    /// What changes.
    pub plan: PartitionPlan,
    /// Whether more could be balanced than is decided.
    pub has_more: bool,
}

impl Image {
    /// Decides on elections of preferred leaders, wherever the first replica could lead and does not.
    #[must_use]
    pub fn decide_balance_leaders(&self, context: &ControllerContext<'_>) -> BalancePlan {
        let mut decided = BalancePlan::default();
        // Only a partition that has changed can have another leader than its first replica.
        let changed = self.topics().flat_map(|topic| {
            let partitions = topic.states.iter();
            partitions.map(|(&partition, _)| TopicPartition { topic_id: topic.id, partition })
        });
        let mut wanted = changed.filter(|&key| self.can_be_balanced(key));
        let now: Vec<TopicPartition> = wanted.by_ref().take(BALANCE_ELECTIONS_MAX).collect();
        decided.has_more = wanted.next().is_some();
        decided.plan = self.decide_elect_leaders(Some(&now), ElectionType::Preferred, context).plan;
        decided
    }

    fn can_be_balanced(&self, key: TopicPartition) -> bool {
        self.located(key).is_some_and(|(_, partition)| {
            let preferred = partition.replicas.first().copied();
            // A first replica that is not in sync is on its way.
            preferred.is_some_and(|node| {
                node != partition.leader && partition.in_sync.contains(&node) && self.may_serve(node, key)
            })
        })
    }
}
