//! Proposals of other in-sync sets on their way to the active controller: those that wait go in one call.

use super::command::MetadataError;
use super::control_messages as messages;
use super::control_plane::{CALL_DEADLINE, Plane};
use crate::runtime::{Runtime, oneshot};
use crate::shard::signal::Signal;
use logmill_state::partition::{AlterPartition, AlterPartitionOutcome};
use logmill_wire::frame::control::{AlterPartitions, ControlAnswer, ControlRequest, ProposalOutcome};
use logmill_wire::ids::{TopicPartition, Uuid};
use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};

/// Proposals in one call.
const PROPOSALS_MAX: usize = 2_000;

struct Waiting {
    partition: TopicPartition,
    proposal: AlterPartition,
    reply: oneshot::Sender<AlterPartitionOutcome>,
}

/// The proposals that wait.
#[derive(Default)]
pub(super) struct Proposals {
    waiting: RefCell<VecDeque<Waiting>>,
    work: Signal,
}

impl Proposals {
    pub fn add(
        &self,
        partition: TopicPartition,
        proposal: AlterPartition,
        reply: oneshot::Sender<AlterPartitionOutcome>,
    ) {
        self.waiting.borrow_mut().push_back(Waiting { partition, proposal, reply });
        self.work.notify_all();
    }

    pub fn wake(&self) {
        self.work.notify_all();
    }

    /// Those of the next call: one for each partition, in the order in which they came.
    fn take(&self) -> Vec<Waiting> {
        let mut waiting = self.waiting.borrow_mut();
        let (mut taken, mut left, mut seen) = (Vec::new(), VecDeque::new(), BTreeSet::new());
        for one in waiting.drain(..) {
            if taken.len() < PROPOSALS_MAX && seen.insert(one.partition) {
                taken.push(one);
            } else {
                left.push_back(one);
            }
        }
        *waiting = left;
        taken
    }
}

impl<R: Runtime> Plane<R> {
    pub async fn send_proposals(&self) {
        let mut failures = 0;
        while !self.is_stopping.get() {
            let work = self.proposals.work.wait();
            if self.proposals.waiting.borrow().is_empty() {
                work.await;
                continue;
            }
            let Some(incarnation) = self.agent.incarnation() else {
                // Whoever is not registered leads nothing.
                self.proposals.waiting.borrow_mut().clear();
                continue;
            };
            self.send_some(incarnation, &mut failures).await;
        }
    }

    async fn send_some(&self, incarnation: Uuid, failures: &mut u32) {
        let taken = self.proposals.take();
        let proposals = taken.iter().map(|one| messages::proposal_on_wire(one.partition, &one.proposal));
        let request = ControlRequest::AlterPartitions(AlterPartitions {
            broker_id: self.node.0,
            incarnation: incarnation.0,
            proposals: proposals.collect(),
        });
        let answer = self.ask(&request, CALL_DEADLINE).await;
        let outcomes = match answer {
            Ok(ControlAnswer::Altered(outcomes)) if outcomes.len() == taken.len() => outcomes,
            Ok(ControlAnswer::StaleIncarnation | ControlAnswer::NotRegistered) => Vec::new(),
            Ok(other) => {
                tracing::warn!(?other, "proposals of in-sync sets are answered by something else");
                Vec::new()
            }
            Err(MetadataError::NotController(_)) => Vec::new(),
            Err(error) => {
                tracing::debug!(%error, "proposals of in-sync sets go out again");
                Vec::new()
            }
        };
        if outcomes.is_empty() {
            // Those who are told so propose again at once.
            self.back_off(failures).await;
        } else {
            *failures = 0;
        }
        let unknown = std::iter::repeat(ProposalOutcome::Unknown);
        for (one, outcome) in taken.into_iter().zip(outcomes.into_iter().chain(unknown)) {
            one.reply.send(messages::outcome_of(outcome));
        }
    }
}
