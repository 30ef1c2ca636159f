//! Brokers that start, die, come back and stop, and what that means for their partitions.
//!
//! | event | records |
//! |---|---|
//! | a new incarnation | its registration, which raises the leader epochs of all that it leads |
//! | … that starts fenced | it leaves the in-sync sets, and leads nothing |
//! | … without a log directory that it had | it leaves those of what may have been in it: what it acknowledged may be gone |
//! | … that has lost what was only written | it leaves those of topics with `write.caching`, unless they have nobody else |
//! | no heartbeat for `broker.session.timeout.ms` | fenced: it leaves the in-sync sets, and leads nothing |
//! | a heartbeat with the metadata of its registration | unfenced: it may lead what has no leader |
//! | a log directory does not work | its replicas there are offline until it starts anew: they leave the in-sync sets, and lead nothing |
//! | unregistered | forgotten; it leaves the in-sync and eligible sets, and leads nothing |
//! | a new controller | what another one has left half done is finished |
//! | a controlled shutdown | it leaves the in-sync sets that have others, and leads nothing that others can |
//!
//! A decision of many records may be committed in several steps, and end after any of them: whoever registers is fenced by
//! the first, what is lost is remembered until the last, and the rest is finished by [`Image::decide_resume`] or by whoever
//! asks again.

use std::collections::BTreeSet;
use std::fmt;

use logmill_wire::ids::{NodeId, TopicPartition, Uuid};

use super::brokers::{BrokerRegistration, RegisterBrokerError};
use super::found_logs::{DirectoryLogs, FoundLogs};
use super::image::{Broker, Image, Topic};
use super::leadership::{ControllerContext, PartitionPlan, Target};
use super::partition_state::NO_LEADER;
use super::record::Record;

/// What a broker says when it starts, in a cluster of several.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BrokerStart {
    /// Who it is.
    pub registration: BrokerRegistration,
    /// The ids of its log directories (KIP-858).
    pub directories: Vec<Uuid>,
    /// The logs in each of them, of a broker with several. Without that, all of them may have been in one that is missing.
    pub logs: Vec<DirectoryLogs>,
    /// Whether the host has been restarted since the broker ran last, without a clean mark: what was written and not
    /// durable is gone.
    pub lost_writes: bool,
    /// Whether it is fenced until its heartbeats say that it has the metadata.
    pub starts_fenced: bool,
}

/// Why a broker's wish is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BrokerError {
    /// BROKER_ID_NOT_REGISTERED.
    NotRegistered,
    /// STALE_BROKER_EPOCH: another incarnation is registered.
    StaleIncarnation,
}

impl fmt::Display for BrokerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRegistered => f.write_str("the broker is not registered; register it first"),
            Self::StaleIncarnation => f.write_str("another process has registered with this node.id"),
        }
    }
}

impl std::error::Error for BrokerError {}

/// What a controlled shutdown does.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ShutdownPlan {
    /// What changes.
    pub plan: PartitionPlan,
    /// How many partitions the broker still leads, since nobody else can. It may stop when this is 0, or when it has
    /// waited long enough.
    pub still_leads: usize,
}

impl Image {
    /// Decides on a broker's registration, and on what its new incarnation means for its partitions. The broker
    /// appends nothing before the records are committed.
    ///
    /// # Errors
    /// [`RegisterBrokerError`].
    pub fn decide_broker_start(
        &self,
        start: &BrokerStart,
        previous_is_alive: bool,
        context: &ControllerContext<'_>,
    ) -> Result<PartitionPlan, RegisterBrokerError> {
        let registered = self.decide_register_broker(&start.registration, previous_is_alive)?;
        let node = start.registration.broker_id;
        let before = self.broker(node);
        let is_new = before.is_none_or(|broker| broker.incarnation != start.registration.incarnation);
        let known = before.map_or(&[][..], |broker| &broker.directories);
        let found = FoundLogs::new(start, known);
        let mut after = self.clone();
        let mut plan = PartitionPlan::default();
        // What the image refuses here was decided against it a line above.
        let _ = after.apply(&registered);
        plan.records.push(registered);
        let fenced = if is_new { start.starts_fenced } else { before.is_some_and(|broker| broker.fenced) };
        let changed = |directories: &[Uuid]| Record::BrokerChanged {
            broker_id: node,
            fenced,
            in_controlled_shutdown: false,
            directories: directories.to_vec(),
        };
        if fenced || known != start.directories {
            // Which directories there were is forgotten only once the last partition knows what that means.
            let changed = changed(if found.is_whole() { &start.directories } else { known });
            let _ = after.apply(&changed);
            plan.records.push(changed);
        }
        // Of a process that asks again, the beginning of the plan may have been committed, and not its end.
        if is_new || fenced || !found.is_whole() {
            after.change_all(node, context, &mut plan, |topic, replica, target| {
                let others = target.state.in_sync.iter().chain(&target.state.eligible);
                // Without others nobody has what this one has lost, and it has more than whoever fell behind.
                let is_last = others.copied().all(|member| member == node);
                let lost_writes = start.lost_writes && !is_last && (context.write_caching)(topic);
                let is_lost = lost_writes || found.may_lack(replica);
                if is_lost {
                    target.lost.push(node);
                    target.state.eligible.retain(|&member| member != node);
                }
                if is_lost || fenced {
                    target.remove_in_sync(node);
                }
            });
        }
        if !found.is_whole() {
            plan.records.push(changed(&start.directories));
        }
        Ok(plan)
    }

    /// Decides on what decisions have left undone of which only a beginning is committed: fenced brokers that are in sync,
    /// partitions that somebody could lead and nobody does.
    #[must_use]
    pub fn decide_resume(&self, context: &ControllerContext<'_>) -> PartitionPlan {
        let mut plan = PartitionPlan::default();
        let is_fenced = |node: &NodeId| self.broker(*node).is_none_or(|broker| broker.fenced);
        for partition in
            self.replicated_where(|state| state.leader == NO_LEADER || state.in_sync.iter().any(is_fenced))
        {
            let Some(topic) = self.topic_by_id(partition.topic_id) else { continue };
            self.change_partition(topic, partition.partition, context, false, &mut plan, |target| {
                for node in target.state.in_sync.iter().chain(&target.state.eligible) {
                    if self.broker(*node).is_none() {
                        target.lost.push(*node);
                    }
                }
                target.state.eligible.retain(|node| !target.lost.contains(node));
                target.state.in_sync.retain(|node| !is_fenced(node));
            });
        }
        plan
    }

    /// Decides that a broker is held to be dead.
    #[must_use]
    pub fn decide_fence_broker(&self, node: NodeId, context: &ControllerContext<'_>) -> PartitionPlan {
        let mut plan = PartitionPlan::default();
        let Some(broker) = self.broker(node).filter(|broker| !broker.fenced) else { return plan };
        let after = self.with_broker(broker, true, broker.in_controlled_shutdown, &mut plan);
        after.change_all(node, context, &mut plan, |_, _, target| target.remove_in_sync(node));
        plan
    }

    /// Decides on what a broker says of replicas in log directories that do not work (KIP-112, KIP-858). They are offline
    /// until another process of it registers. Where they were needed they stay eligible, for what they acknowledged is
    /// durable, and there again with the disk; if it was replaced, the directory's id is missing then. With
    /// `write.caching` nobody knows what the disk still has. A partition without other replicas keeps its leader.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub fn decide_replicas_offline(
        &self,
        (node, incarnation): (NodeId, Uuid),
        partitions: &BTreeSet<TopicPartition>,
        context: &ControllerContext<'_>,
    ) -> Result<PartitionPlan, BrokerError> {
        let broker = self.registered(node, incarnation)?;
        let (mut after, mut plan) = (self.clone(), PartitionPlan::default());
        let is_here = |partition: &TopicPartition| {
            self.located(*partition).is_some_and(|(_, state)| state.replicas.contains(&node))
        };
        let here: Vec<_> = partitions.iter().copied().filter(is_here).collect();
        let news: Vec<_> = here.iter().copied().filter(|key| !broker.offline.contains(key)).collect();
        if !news.is_empty() {
            let record = Record::ReplicasOffline { broker_id: node, partitions: news };
            // The broker is there.
            let _ = after.apply(&record);
            plan.records.push(record);
        }
        // Of what was said before, the record may have been committed, and not the rest.
        for partition in here {
            let Some((topic, state)) = after.located(partition) else { continue };
            if state.replicas.len() > 1 {
                after.change_partition(topic, partition.partition, context, false, &mut plan, |target| {
                    let others = target.state.in_sync.iter().chain(&target.state.eligible);
                    let is_last = others.copied().all(|member| member == node);
                    if !is_last && (context.write_caching)(topic) {
                        target.lost.push(node);
                        target.state.eligible.retain(|&member| member != node);
                    }
                    target.remove_in_sync(node);
                });
            }
        }
        Ok(plan)
    }

    /// Decides on a wish to forget a broker that will not come back (KIP-631). What it still holds of records counts as
    /// lost: if it comes back nevertheless it begins as a replica that has to catch up.
    ///
    /// # Errors
    /// [`BrokerError::NotRegistered`].
    pub fn decide_unregister_broker(
        &self,
        node: NodeId,
        context: &ControllerContext<'_>,
    ) -> Result<PartitionPlan, BrokerError> {
        let broker = self.broker(node).ok_or(BrokerError::NotRegistered)?;
        let unregistered =
            Record::BrokerUnregistered { broker_id: node, leader_epoch_base: broker.leader_epoch_base };
        let mut after = self.clone();
        // The broker is there.
        let _ = after.apply(&unregistered);
        let mut plan = PartitionPlan { records: vec![unregistered], ..PartitionPlan::default() };
        after.change_all(node, context, &mut plan, |_, _, target| {
            target.lost.push(node);
            target.state.eligible.retain(|&member| member != node);
            target.remove_in_sync(node);
        });
        plan.records.extend(self.without_drain(node));
        Ok(plan)
    }

    /// Decides that a broker is alive and has the metadata.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub fn decide_unfence_broker(
        &self,
        node: NodeId,
        incarnation: Uuid,
        context: &ControllerContext<'_>,
    ) -> Result<PartitionPlan, BrokerError> {
        let broker = self.registered(node, incarnation)?;
        let mut plan = PartitionPlan::default();
        if !broker.fenced {
            return Ok(plan);
        }
        let after = self.with_broker(broker, false, broker.in_controlled_shutdown, &mut plan);
        after.change_all(node, context, &mut plan, |_, _, _| {});
        Ok(plan)
    }

    /// Decides on a broker's wish to stop. It may be asked again, until nothing is left to lead.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub fn decide_controlled_shutdown(
        &self,
        node: NodeId,
        incarnation: Uuid,
        context: &ControllerContext<'_>,
    ) -> Result<ShutdownPlan, BrokerError> {
        let broker = self.registered(node, incarnation)?;
        let mut shutdown = ShutdownPlan::default();
        let after = if broker.in_controlled_shutdown {
            self.clone()
        } else {
            self.with_broker(broker, broker.fenced, true, &mut shutdown.plan)
        };
        for partition in after.replicated_on(node) {
            let Some((topic, state)) = after.located(partition) else { continue };
            let others =
                state.in_sync.iter().any(|&member| member != node && after.may_serve(member, partition));
            if others && state.in_sync.contains(&node) {
                after.change_partition(
                    topic,
                    partition.partition,
                    context,
                    false,
                    &mut shutdown.plan,
                    |target| {
                        target.remove_in_sync(node);
                    },
                );
            } else if state.leader == node {
                shutdown.still_leads += 1;
            }
        }
        Ok(shutdown)
    }

    pub(super) fn registered(&self, node: NodeId, incarnation: Uuid) -> Result<&Broker, BrokerError> {
        let broker = self.broker(node).ok_or(BrokerError::NotRegistered)?;
        if broker.incarnation == incarnation { Ok(broker) } else { Err(BrokerError::StaleIncarnation) }
    }

    pub(super) fn located(&self, partition: TopicPartition) -> Option<(&Topic, super::Partition<'_>)> {
        let topic = self.topic_by_id(partition.topic_id)?;
        Some((topic, self.partition(topic, partition.partition)?))
    }

    /// This image with a broker that has changed, and the record.
    fn with_broker(
        &self,
        broker: &Broker,
        fenced: bool,
        in_controlled_shutdown: bool,
        plan: &mut PartitionPlan,
    ) -> Self {
        let (broker_id, directories) = (broker.id, broker.directories.clone());
        let changed = Record::BrokerChanged { broker_id, fenced, in_controlled_shutdown, directories };
        let mut after = self.clone();
        // The broker is there.
        let _ = after.apply(&changed);
        plan.records.push(changed);
        after
    }

    fn change_all(
        &self,
        node: NodeId,
        context: &ControllerContext<'_>,
        plan: &mut PartitionPlan,
        edit: impl Fn(&Topic, TopicPartition, &mut Target),
    ) {
        for partition in self.replicated_on(node) {
            if let Some(topic) = self.topic_by_id(partition.topic_id) {
                self.change_partition(topic, partition.partition, context, false, plan, |target| {
                    edit(topic, partition, target)
                });
            }
        }
    }
}
