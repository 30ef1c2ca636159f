//! A partition that has other replicas: who leads it, and what this broker becomes when the metadata change.
//!
//! | this broker | the metadata say | then |
//! |---|---|---|
//! | leads | it leads, same epoch | the replicas are brought up to date |
//! | leads | anybody else leads, or nobody | it follows; who waits is sent elsewhere |
//! | follows | it leads | it leads, unless its log is just being cut: then when that is done |
//! | follows | another one leads | it asks that one where their logs part |

use super::command::PartitionError;
use super::following::QueuedPush;
use super::hosted::Partition;
use super::leading::Told;
use super::peers::Peers;
use super::role::{Role, Standing};
use super::waiters::Waiters;
use crate::runtime::Runtime;
use logmill_state::metadata::NO_LEADER;
use logmill_state::partition::{
    Follower, FollowerEffects, LeadError, LeaderEffects, LogChange, ReplicaAssignment,
};
use logmill_wire::ids::{LeaderEpoch, NodeId, TopicPartition, Uuid};
use std::cell::{Cell, Ref, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

/// What the metadata say of a partition with several replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its leader, or `NO_LEADER`.
    pub leader: NodeId,
    /// This broker, and its process as it is registered.
    pub local: (NodeId, Uuid),
    /// Epochs and replicas.
    pub assignment: ReplicaAssignment,
}

/// What a partition with several replicas has besides.
pub(super) struct Replicated {
    pub(super) peers: Rc<dyn Peers>,
    placed: RefCell<Placed>,
    /// Of a leader: appends that wait for the high watermark.
    pub(super) committed_waiters: Waiters,
    /// Of a leader: what followers have been told.
    pub(super) told: RefCell<Vec<(NodeId, Told)>>,
    /// Of a follower: pushes that are not taken yet, oldest first.
    pub(super) pushes: RefCell<VecDeque<QueuedPush>>,
    /// Of a follower: how its log is to be changed.
    pub(super) change: Cell<Option<LogChange>>,
    /// Of a follower: whether it has to tell its leader again where to go on.
    pub(super) must_rewind: Cell<bool>,
}

impl Replicated {
    fn new(peers: Rc<dyn Peers>, placed: Placed) -> Self {
        Self {
            peers,
            placed: RefCell::new(placed),
            committed_waiters: Waiters::default(),
            told: RefCell::default(),
            pushes: RefCell::default(),
            change: Cell::default(),
            must_rewind: Cell::default(),
        }
    }

    pub(super) fn placed(&self) -> Ref<'_, Placed> {
        self.placed.borrow()
    }

    /// Who leads, as far as this broker knows; `NO_LEADER` if nobody does.
    pub(super) fn leader(&self) -> NodeId {
        self.placed.borrow().leader
    }

    /// Has all other replicas get what the leader has for them.
    pub(super) fn push(&self, partition: TopicPartition) {
        self.each_follower(|node| self.peers.push(node, partition));
    }

    /// As [`Replicated::push`], where only watermarks have moved.
    pub(super) fn push_later(&self, partition: TopicPartition) {
        self.each_follower(|node| self.peers.push_later(node, partition));
    }

    fn each_follower(&self, action: impl Fn(NodeId)) {
        let placed = self.placed.borrow();
        for broker in &placed.assignment.replicas {
            if broker.node != placed.local.0 {
                action(broker.node);
            }
        }
    }

    pub(super) fn forget_pushes(&self) {
        self.pushes.take();
    }
}

impl<R: Runtime> Partition<R> {
    /// The leader's and the partition's epoch that were last taken over; `None` of a partition that has no others.
    pub(super) fn placed_epochs(&self) -> Option<(LeaderEpoch, i32)> {
        let replicated = self.replicated.get()?;
        let placed = replicated.placed();
        Some((placed.assignment.leader_epoch, placed.assignment.partition_epoch))
    }

    /// Takes over what the metadata say.
    pub(super) fn place(self: &Rc<Self>, peers: &Rc<dyn Peers>, placed: Placed) {
        if self.is_gone() {
            return;
        }
        let fresh = placed.clone();
        let replicated = self.replicated.get_or_init(|| Box::new(Replicated::new(Rc::clone(peers), fresh)));
        replicated.placed.replace(placed);
        self.assume_role(replicated);
    }

    /// Becomes what the metadata say.
    pub(super) fn assume_role(self: &Rc<Self>, replicated: &Replicated) {
        let placed = replicated.placed().clone();
        let (policy, now) = (self.policy.get().replication(), self.runtime.monotonic());
        let mut role = self.role.borrow_mut();
        let leads = placed.leader == placed.local.0;
        if let Role::Leads(leader) = &mut *role
            && leads
            && leader.leader_epoch() == placed.assignment.leader_epoch
        {
            let effects = leader.update_replicas(placed.local, &placed.assignment, policy, now);
            drop(role);
            // Whoever is new, or another process, is told everything.
            replicated.told.take();
            return self.after_leading(replicated, effects);
        }
        let was_leader = role.leader().is_some();
        let before = std::mem::replace(&mut *role, Role::Follows(Box::default()));
        let mut follower = match before {
            Role::Leads(state) => Box::new(Follower::demoted(state, policy.write_caching)),
            Role::Follows(follower) => follower,
        };
        let mut effects = (LeaderEffects::default(), FollowerEffects::default());
        let mut refused = None;
        *role = if leads {
            match follower.lead(placed.local, &placed.assignment, policy, now) {
                Ok((leader, leading)) => {
                    effects.0 = leading;
                    Role::Leads(leader)
                }
                Err((follower, error)) => {
                    refused = Some(error);
                    Role::Follows(Box::new(follower))
                }
            }
        } else {
            follower.set_write_caching(policy.write_caching);
            if placed.leader != NO_LEADER {
                effects.1 = follower.follow(placed.assignment.leader_epoch);
            }
            Role::Follows(follower)
        };
        let leads_now = role.leader().is_some();
        drop(role);
        self.standing.set(if leads_now { Standing::Leads } else { Standing::Follows });
        if was_leader {
            self.refuse_all(&PartitionError::NotLeader);
        }
        if leads_now {
            replicated.told.take();
            replicated.forget_pushes();
            return self.after_leading(replicated, effects.0);
        }
        if let Some(error @ LeadError::Stale(_)) = refused {
            // What was appended in that epoch was appended by this broker's former process.
            tracing::warn!(log = %self.log.key(), %error, "the partition waits for newer metadata to be led here");
        }
        self.after_following(replicated, effects.1);
    }
}
