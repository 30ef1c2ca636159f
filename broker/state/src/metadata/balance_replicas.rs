//! Replicas move by themselves: away from brokers that are drained or gone for good, apart by racks, and to where there
//! are few.
//!
//! | step | what it lowers | what it never raises |
//! |---|---|---|
//! | a replica leaves a broker that is drained, gone or forgotten | the replicas of such brokers | |
//! | a replica that shares its rack goes to a rack that has none of its partition | the replicas that share a rack with one before them | the one above |
//! | a replica goes from a broker that has many to one that has few | the sum of the squares of the replicas of each broker | those above |
//! | another replica becomes the preferred leader; nothing is copied | the sum of the squares of the preferred leaderships of each broker | those above |
//!
//! A step begins only when nothing is left to do by those before it, but for what is under way. Every move lowers these
//! numbers, read in this order, and none can be lowered for ever: there is an end, and from then on nothing moves. All is
//! counted as it will be when the moves under way are complete, so a plan goes on where the last one ended, whoever
//! made it.
//!
//! Nothing begins while a broker is fenced or stops that is to hold replicas, or while one of its replicas is not in sync
//! and not on its way: balancing must not take part of what a cluster needs to heal.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use logmill_wire::ids::{NodeId, TopicPartition};

use super::balance_layout::Layout;
use super::image::Image;
use super::leadership::{ControllerContext, PartitionPlan};
use super::record::Record;
use crate::settings::{BrokerSettings, BrokerValues};

/// The config of a broker by which it is drained.
pub const DRAINED: &str = "logmill.broker.drained";

/// How much is moved at once, and from when on it is worth it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BalanceLimits {
    /// Partitions that move at the same time, whoever has asked for it.
    pub moves: usize,
    /// Partitions that move at the same time and that one broker leads, gets or gives up.
    pub moves_per_broker: usize,
    /// By how much two brokers may differ, in percent of what brokers hold on average.
    pub threshold_percent: u32,
    /// Whether preferred leaders are balanced, too.
    pub leaders: bool,
}

/// Why nothing is moved for now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BalanceHold {
    /// A broker is held to be dead, and is neither drained nor gone for long.
    Fenced(NodeId),
    /// A broker is being stopped.
    Stopping(NodeId),
    /// A replica that is not on its way is not in sync.
    UnderReplicated(TopicPartition),
}

impl fmt::Display for BalanceHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fenced(node) => write!(
                f,
                "broker {node} is not heard from; start it again, or drain it (`logmill cluster drain {node}`) if it \
                 will not come back"
            ),
            Self::Stopping(node) => write!(f, "broker {node} is being stopped"),
            Self::UnderReplicated(TopicPartition { topic_id, partition }) => {
                write!(f, "partition {partition} of topic {topic_id} is not in sync on all of its brokers")
            }
        }
    }
}

/// A partition that begins to move, or whose preferred leader is another one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaMove {
    /// The partition.
    pub partition: TopicPartition,
    /// Its replicas from then on, the preferred leader first.
    pub replicas: Vec<NodeId>,
}

/// What a look at the balance of replicas does.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReplicaBalance {
    /// What changes.
    pub plan: PartitionPlan,
    /// The same by partitions, in the order in which it was found.
    pub moves: Vec<ReplicaMove>,
    /// How many partitions move once this is done, with those that somebody else has moved.
    pub moving: usize,
    /// How many replicas should leave their broker and cannot: nobody leads their partition, or all others have it.
    pub stuck: usize,
    /// Why nothing is done, if that is so.
    pub hold: Option<BalanceHold>,
}

impl Image {
    /// Whether a broker is drained: it gets no new replicas, and those that it has go to others.
    #[must_use]
    pub fn is_drained(&self, broker: NodeId) -> bool {
        let dynamic = self.broker_configs(Some(broker));
        if !dynamic.contains_key(DRAINED) {
            return false;
        }
        let values = BrokerValues { dynamic: dynamic.clone(), ..BrokerValues::default() };
        BrokerSettings::new(values).is_ok_and(|settings| settings.cluster.drained)
    }

    /// Decides which replicas begin to move. `gone` are brokers that were not heard from for so long that they are not waited
    /// for; those that are heard from again do not count.
    #[must_use]
    pub fn decide_balance_replicas(
        &self,
        gone: &BTreeSet<NodeId>,
        limits: &BalanceLimits,
        context: &ControllerContext<'_>,
    ) -> ReplicaBalance {
        let is_gone = |node: NodeId, fenced: bool| fenced && gone.contains(&node);
        let leaving = self
            .brokers()
            .filter(|broker| self.is_drained(broker.id) || is_gone(broker.id, broker.fenced))
            .map(|broker| broker.id)
            .collect();
        let mut layout = match Layout::of(self, &leaving, limits) {
            Ok(layout) => layout,
            Err(hold) => return ReplicaBalance { hold: Some(hold), ..ReplicaBalance::default() },
        };
        let mut decided = ReplicaBalance { moving: layout.moving, ..ReplicaBalance::default() };
        if layout.is_trivial() {
            return decided;
        }
        if !layout.evacuate() && !layout.part_racks() {
            layout.even_out();
            if limits.leaders && layout.moving == 0 {
                layout.even_out_leaders();
            }
        }
        (decided.moving, decided.stuck) = (layout.moving, layout.stuck);
        let changed = layout.changed.iter().filter_map(|&place| layout.replicas_of(place));
        decided.moves = changed.map(|(partition, replicas)| ReplicaMove { partition, replicas }).collect();
        for ReplicaMove { partition, replicas } in &decided.moves {
            if let Some((topic, current)) = self.located(*partition) {
                let current = (partition.partition, &current);
                self.begin_reassignment(topic, current, replicas, context, &mut decided.plan);
            }
        }
        decided
    }

    /// The record by which a broker that is forgotten is not drained any more: another one may get its id.
    pub(super) fn without_drain(&self, broker: NodeId) -> Option<Record> {
        let mut configs: BTreeMap<String, String> = self.broker_configs(Some(broker)).clone();
        configs.remove(DRAINED)?;
        Some(Record::BrokerConfigsReplaced { broker_id: Some(broker), configs })
    }
}
