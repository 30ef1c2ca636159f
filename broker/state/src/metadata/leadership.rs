//! How a partition's state changes: eligible replicas, elections, reassignments that are complete.
//!
//! | who may lead | when |
//! |---|---|
//! | the current leader | it is in sync and active, and its log directory works |
//! | a replica of which that is true, in the order of the replicas | else |
//! | an eligible replica that is active and works (KIP-966) | nobody is in sync |
//! | any active replica that works, with what it has: records are lost | nobody is in sync or eligible, and an unclean election is asked for or allowed |
//! | nobody | else |
//!
//! A replica that leaves the in-sync set while that is, or becomes, smaller than `min.insync.replicas` stays eligible:
//! the high watermark does not move without it. As soon as enough are in sync nobody is eligible any more.

use logmill_wire::ids::{LeaderEpoch, NodeId, PartitionIndex, TopicPartition};

use super::image::{Image, Topic};
use super::partition_state::{NO_LEADER, PartitionState};
use super::record::Record;

/// What decisions about partitions need besides image and request: settings of topics.
#[derive(Clone, Copy)]
pub struct ControllerContext<'a> {
    /// `min.insync.replicas`.
    pub min_in_sync: &'a dyn Fn(&Topic) -> u32,
    /// `unclean.leader.election.enable`.
    pub unclean_election: &'a dyn Fn(&Topic) -> bool,
    /// `write.caching`.
    pub write_caching: &'a dyn Fn(&Topic) -> bool,
}

/// A partition has got another leader, or none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Elected {
    /// The partition.
    pub partition: TopicPartition,
    /// The leader, or [`NO_LEADER`].
    pub leader: NodeId,
    /// Whether records that were acknowledged may be lost by it; to be reported.
    pub is_unclean: bool,
}

/// What a decision about partitions does.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PartitionPlan {
    /// To be committed together.
    pub records: Vec<Record>,
    /// Who leads from then on, where that changes.
    pub elected: Vec<Elected>,
}

/// Which elections are possible.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Election {
    /// Without loss.
    Clean,
    /// Without loss, of the first replica if that is possible.
    Preferred,
    /// With loss, if there is no other way.
    Unclean,
}

/// What is to become of a partition, before the rules of the module are applied.
pub(super) struct Target {
    pub state: PartitionState,
    /// Replicas that have lost records: they are not eligible.
    pub lost: Vec<NodeId>,
    pub election: Election,
}

impl Target {
    pub(super) fn remove_in_sync(&mut self, node: NodeId) {
        self.state.in_sync.retain(|&member| member != node);
    }
}

impl Image {
    pub(super) fn is_active(&self, node: NodeId) -> bool {
        self.broker(node).is_some_and(|broker| broker.is_active())
    }

    /// Whether a replica may lead or join the in-sync set: its broker is active, and its log directory works.
    pub(super) fn may_serve(&self, node: NodeId, partition: TopicPartition) -> bool {
        self.broker(node).is_some_and(|broker| broker.is_active() && !broker.offline.contains(&partition))
    }

    /// Adds the record by which `edit` changes a partition, if it changes it. With `always`, it counts as a change.
    pub(super) fn change_partition(
        &self,
        topic: &Topic,
        partition: PartitionIndex,
        context: &ControllerContext<'_>,
        always: bool,
        plan: &mut PartitionPlan,
        edit: impl FnOnce(&mut Target),
    ) -> Option<PartitionState> {
        let before = self.partition(topic, partition)?.to_state();
        let mut target = Target { state: before.clone(), lost: Vec::new(), election: Election::Clean };
        edit(&mut target);
        complete_reassignment(&mut target.state);
        self.settle_eligible(&before, &mut target, (context.min_in_sync)(topic));
        if (context.unclean_election)(topic) && target.election == Election::Clean {
            target.election = Election::Unclean;
        }
        let key = TopicPartition { topic_id: topic.id, partition };
        let is_unclean = self.elect(key, &mut target);
        let mut state = target.state;
        // An eligible replica that leads may be enough by itself, and then commits without the others.
        if is_enough(&state, (context.min_in_sync)(topic)) {
            state.eligible.clear();
        }
        let leader_changed = state.leader != before.leader;
        let removed = before.replicas.iter().any(|node| !state.replicas.contains(node));
        if leader_changed || removed {
            state.leader_epoch = LeaderEpoch(before.leader_epoch.0.checked_add(1)?);
        }
        if state == before && !always {
            return None;
        }
        state.partition_epoch = before.partition_epoch.checked_add(1)?;
        if leader_changed {
            plan.elected.push(Elected { partition: key, leader: state.leader, is_unclean });
        }
        plan.records.push(Record::PartitionChanged { topic_id: topic.id, partition, state: state.clone() });
        Some(state)
    }

    fn settle_eligible(&self, before: &PartitionState, target: &mut Target, min_in_sync: u32) {
        let state = &mut target.state;
        if is_enough(state, min_in_sync) {
            return;
        }
        let mut eligible = std::mem::take(&mut state.eligible);
        for node in &before.in_sync {
            if !eligible.contains(node) {
                eligible.push(*node);
            }
        }
        eligible.retain(|node| {
            !state.in_sync.contains(node) && !target.lost.contains(node) && state.replicas.contains(node)
        });
        state.eligible = eligible;
    }

    /// Sets the leader; true if that may lose records.
    fn elect(&self, key: TopicPartition, target: &mut Target) -> bool {
        let state = &mut target.state;
        let works = |node: NodeId| self.may_serve(node, key);
        let may_lead = |node: NodeId| state.in_sync.contains(&node) && works(node);
        let preferred = state.replicas.first().copied().filter(|_| target.election == Election::Preferred);
        if let Some(leader) = preferred.into_iter().chain([state.leader]).find(|&node| may_lead(node)) {
            state.leader = leader;
            return false;
        }
        if let Some(&leader) = state.replicas.iter().find(|&&node| may_lead(node)) {
            state.leader = leader;
            return false;
        }
        if state.in_sync.is_empty() {
            let eligible = |node: &&NodeId| state.eligible.contains(node) && works(**node);
            if let Some(&leader) = state.replicas.iter().find(eligible) {
                state.leader = leader;
                state.in_sync = vec![leader];
                state.eligible.retain(|&node| node != leader);
                return false;
            }
        }
        state.leader = NO_LEADER;
        if target.election == Election::Unclean
            && let Some(&leader) = state.replicas.iter().find(|&&node| works(node))
        {
            state.leader = leader;
            state.in_sync = vec![leader];
            state.eligible.clear();
            return true;
        }
        false
    }

    /// The partitions with several replicas of which `node` holds one.
    pub(super) fn replicated_on(&self, node: NodeId) -> Vec<TopicPartition> {
        self.replicated_where(|state| state.replicas.contains(&node))
    }

    /// The partitions with several replicas of which `holds` is true.
    pub(super) fn replicated_where(
        &self,
        holds: impl Fn(&super::Partition<'_>) -> bool,
    ) -> Vec<TopicPartition> {
        let mut found = Vec::new();
        for topic in self.topics() {
            if topic.placement.replication_factor() == 1 && topic.states.is_empty() {
                continue;
            }
            for partition in (0..topic.partition_count()).map(PartitionIndex) {
                let here = |state: super::Partition<'_>| state.replicas.len() > 1 && holds(&state);
                if self.partition(topic, partition).is_some_and(here) {
                    found.push(TopicPartition { topic_id: topic.id, partition });
                }
            }
        }
        found
    }
}

fn is_enough(state: &PartitionState, min_in_sync: u32) -> bool {
    state.in_sync.len() >= (min_in_sync as usize).min(state.replicas.len())
}

/// A reassignment is complete when all new replicas are in sync, and others than those that leave.
fn complete_reassignment(state: &mut PartitionState) {
    if state.adding.is_empty() && state.removing.is_empty() {
        return;
    }
    let stays = |node: &NodeId| !state.removing.contains(node);
    let all_added = state.adding.iter().all(|node| state.in_sync.contains(node));
    if !all_added || !state.in_sync.iter().any(stays) {
        return;
    }
    let removing = std::mem::take(&mut state.removing);
    let stays = |node: &NodeId| !removing.contains(node);
    state.replicas.retain(stays);
    state.in_sync.retain(stays);
    state.eligible.retain(stays);
    state.adding.clear();
}
