//! One command against the image as it will be: what changes, and what is to be told when that is committed.

use super::balancing::Look;
use super::rules::Rules;
use super::sessions::Sessions;
use crate::cluster::command::{Creation, MetadataCommand, MetadataError};
use crate::runtime::oneshot;
use logmill_state::metadata::{
    AlterConfigsContext, AlterPartitionPlan, BrokerError, BrokerStart, CreateTopicResult,
    CreateTopicsContext, Elected, Image, InSyncProposal, NewTopic, PartitionPlan, ProducerIdBlock,
    ProducerIdsError, Record, RegisterBrokerError,
};
use logmill_state::partition::AlterPartitionOutcome;
use logmill_state::settings::{BrokerSettings, TopicSettings};
use logmill_wire::frame::control::Standing;
use logmill_wire::ids::{NodeId, TopicPartition, Uuid};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// The way back of an answer.
pub(in crate::cluster) type Reply<T> = oneshot::Sender<Result<T, MetadataError>>;

/// What the active controller decides.
pub(in crate::cluster) enum ControllerCommand {
    /// What a shard of this node asks for.
    Shard(MetadataCommand),
    /// A broker has started.
    Register {
        /// What it says of itself.
        start: Box<BrokerStart>,
        /// Whether it is this very process: then no other one with its id can have its log directory.
        is_own: bool,
        /// The way back: the place of the registration in the log.
        reply: Reply<Result<u64, RegisterBrokerError>>,
    },
    /// A broker is alive.
    Heartbeat {
        /// The broker and its process.
        sender: (NodeId, Uuid),
        /// How far it has the metadata.
        applied: u64,
        /// Whether it wants to be relieved of its partitions.
        wants_shutdown: bool,
        /// The way back.
        reply: Reply<Result<Standing, BrokerError>>,
    },
    /// A leader wants other in-sync sets.
    AlterPartitions {
        /// The leader and its process.
        sender: (NodeId, Uuid),
        /// What it proposes.
        proposals: Vec<InSyncProposal>,
        /// The way back: one outcome for each.
        reply: Reply<Result<Vec<AlterPartitionOutcome>, BrokerError>>,
    },
    /// Log directories of a broker do not work.
    ReplicasOffline {
        /// The broker and its process.
        sender: (NodeId, Uuid),
        /// The replicas in them.
        partitions: BTreeSet<TopicPartition>,
        /// The way back.
        reply: Reply<Result<(), BrokerError>>,
    },
    /// A broker needs producer ids.
    AllocateProducerIds {
        /// The broker.
        node: NodeId,
        /// The way back.
        reply: Reply<Result<ProducerIdBlock, ProducerIdsError>>,
    },
    /// The session of a broker has ended.
    Fence(NodeId),
    /// The host of a broker refuses connections to it: its process has ended.
    FenceLost {
        /// The broker.
        node: NodeId,
        /// Its process.
        incarnation: Uuid,
        /// How often it had been heard before.
        heard: u64,
    },
    /// Preferred leaders are to lead again.
    Balance,
    /// Replicas are to move that should be elsewhere.
    BalanceReplicas(Look),
}

impl ControllerCommand {
    /// Answers without having done anything.
    pub fn refuse(self, error: MetadataError) {
        match self {
            Self::Shard(command) => command.refuse(error),
            Self::Register { reply, .. } => reply.send(Err(error)),
            Self::Heartbeat { reply, .. } => reply.send(Err(error)),
            Self::AlterPartitions { reply, .. } => reply.send(Err(error)),
            Self::ReplicasOffline { reply, .. } => reply.send(Err(error)),
            Self::AllocateProducerIds { reply, .. } => reply.send(Err(error)),
            Self::Fence(_) | Self::FenceLost { .. } | Self::Balance | Self::BalanceReplicas(_) => {}
        }
    }
}

/// Tells what became of a decision: the place in the log with which it is committed, or why it is not.
pub(super) type Settle = Box<dyn FnOnce(Result<u64, MetadataError>)>;

/// A decision.
pub(super) struct Decision {
    /// What changes.
    pub records: Vec<Record>,
    /// Who leads from then on.
    pub elected: Vec<Elected>,
    /// Whether the shards of this node are to work with it before it is told.
    pub is_for_shards: bool,
    /// Whether it may change the rules for those after it.
    pub changes_rules: bool,
    /// Tells what became of it.
    pub settle: Settle,
}

impl Decision {
    pub(super) fn for_shard(
        records: Vec<Record>,
        settle: impl FnOnce(Result<u64, MetadataError>) + 'static,
    ) -> Self {
        let (settle, elected) = (Box::new(settle) as Settle, Vec::new());
        Self { records, elected, is_for_shards: true, changes_rules: false, settle }
    }

    pub(super) fn for_broker(
        plan: PartitionPlan,
        settle: impl FnOnce(Result<u64, MetadataError>) + 'static,
    ) -> Self {
        let PartitionPlan { records, elected } = plan;
        let settle = Box::new(settle);
        Self { records, elected, is_for_shards: false, changes_rules: false, settle }
    }
}

/// What decisions rest on.
pub(super) struct Decider<'a> {
    /// The image, with all that was decided before.
    pub draft: &'a Image,
    /// The settings of topics.
    pub rules: &'a Rules,
    /// Who lives.
    pub sessions: &'a Rc<RefCell<Sessions>>,
    /// This node.
    pub node: NodeId,
    /// What it was started with.
    pub started_with: &'a BrokerSettings,
    /// A source of 128 random bits.
    pub random: &'a dyn Fn() -> u128,
}

impl Decider<'_> {
    /// Decides on one command.
    pub fn decide(&self, command: ControllerCommand) -> Decision {
        match command {
            ControllerCommand::Shard(command) => self.decide_for_shard(command),
            ControllerCommand::Register { start, is_own, reply } => self.register(*start, is_own, reply),
            ControllerCommand::Heartbeat { sender, applied, wants_shutdown, reply } => {
                match self.heartbeat(sender, applied, wants_shutdown) {
                    Ok((plan, standing)) => Decision::for_broker(plan, move |outcome| {
                        reply.send(outcome.map(|_| Ok(standing)));
                    }),
                    Err(error) => refused(reply, error),
                }
            }
            ControllerCommand::AlterPartitions { sender, proposals, reply } => {
                let decided = self
                    .rules
                    .with_context(|context| self.draft.decide_alter_partition(sender, &proposals, context));
                match decided {
                    Ok(AlterPartitionPlan { plan, results }) => {
                        let pairs = proposals.iter().zip(results);
                        let outcomes = pairs.map(|(asked, result)| outcome_of(sender.0, asked, result));
                        let outcomes: Vec<_> = outcomes.collect();
                        Decision::for_broker(plan, move |outcome| reply.send(outcome.map(|_| Ok(outcomes))))
                    }
                    Err(error) => refused(reply, error),
                }
            }
            ControllerCommand::ReplicasOffline { sender, partitions, reply } => {
                self.replicas_offline(sender, &partitions, reply)
            }
            ControllerCommand::AllocateProducerIds { node, reply } => {
                match self.draft.decide_allocate_producer_ids(node) {
                    Ok((record, block)) => {
                        let plan = PartitionPlan { records: vec![record], ..PartitionPlan::default() };
                        Decision::for_broker(plan, move |outcome| reply.send(outcome.map(|_| Ok(block))))
                    }
                    Err(error) => refused(reply, error),
                }
            }
            ControllerCommand::Fence(node) => {
                // It may have been heard from since.
                let is_silent = !self.sessions.borrow().is_alive(node);
                self.fence(node, is_silent)
            }
            ControllerCommand::FenceLost { node, incarnation, heard } => {
                let is_same = self.draft.broker(node).is_some_and(|broker| broker.incarnation == incarnation);
                let mut sessions = self.sessions.borrow_mut();
                let is_silent = is_same && sessions.heartbeats(node) == heard;
                if is_silent {
                    sessions.note_found_lost(incarnation);
                }
                drop(sessions);
                self.fence(node, is_silent)
            }
            ControllerCommand::Balance => self.balance(),
            ControllerCommand::BalanceReplicas(look) => self.balance_replicas(look),
        }
    }

    fn register(
        &self,
        start: BrokerStart,
        is_own: bool,
        reply: Reply<Result<u64, RegisterBrokerError>>,
    ) -> Decision {
        let (node, incarnation) = (start.registration.broker_id, start.registration.incarnation);
        let is_taken = !is_own
            && self
                .draft
                .broker(node)
                .is_some_and(|broker| self.sessions.borrow().is_taken(broker, &start.directories));
        let decided =
            self.rules.with_context(|context| self.draft.decide_broker_start(&start, is_taken, context));
        match decided {
            Ok(plan) => {
                let sessions = Rc::clone(self.sessions);
                Decision::for_broker(plan, move |outcome| {
                    if let Ok(index) = outcome {
                        sessions.borrow_mut().note_registered(node, incarnation, index);
                    }
                    reply.send(outcome.map(Ok));
                })
            }
            Err(error) => refused(reply, error),
        }
    }

    fn heartbeat(
        &self,
        (node, incarnation): (NodeId, Uuid),
        applied: u64,
        wants_shutdown: bool,
    ) -> Result<(PartitionPlan, Standing), BrokerError> {
        let broker = self.draft.broker(node).ok_or(BrokerError::NotRegistered)?;
        if broker.incarnation != incarnation {
            return Err(BrokerError::StaleIncarnation);
        }
        let has_metadata = applied >= self.sessions.borrow().metadata_wanted(node, incarnation);
        self.rules.with_context(|context| {
            if wants_shutdown {
                let shutdown = self.draft.decide_controlled_shutdown(node, incarnation, context)?;
                let mut plan = shutdown.plan;
                let may_stop = shutdown.still_leads == 0;
                if may_stop {
                    // Whoever may stop is not waited for any more.
                    let mut after = self.draft.clone();
                    let _ = apply_all(&mut after, &plan.records);
                    let fenced = after.decide_fence_broker(node, context);
                    plan.records.extend(fenced.records);
                    plan.elected.extend(fenced.elected);
                }
                return Ok((plan, Standing { is_fenced: broker.fenced || may_stop, may_stop }));
            }
            let plan = if broker.fenced && has_metadata && !broker.in_controlled_shutdown {
                self.draft.decide_unfence_broker(node, incarnation, context)?
            } else {
                PartitionPlan::default()
            };
            let is_fenced = broker.fenced && plan.records.is_empty();
            Ok((plan, Standing { is_fenced, may_stop: false }))
        })
    }

    fn replicas_offline(
        &self,
        sender: (NodeId, Uuid),
        partitions: &BTreeSet<TopicPartition>,
        reply: Reply<Result<(), BrokerError>>,
    ) -> Decision {
        let decided = self
            .rules
            .with_context(|context| self.draft.decide_replicas_offline(sender, partitions, context));
        match decided {
            Ok(plan) => Decision::for_broker(plan, move |outcome| reply.send(outcome.map(|_| Ok(())))),
            Err(error) => refused(reply, error),
        }
    }

    fn fence(&self, node: NodeId, is_silent: bool) -> Decision {
        let plan = if is_silent {
            self.rules.with_context(|context| self.draft.decide_fence_broker(node, context))
        } else {
            PartitionPlan::default()
        };
        let is_change = !plan.records.is_empty();
        Decision::for_broker(plan, move |outcome| match outcome {
            Ok(_) if is_change => tracing::warn!(
                broker = %node,
                "a broker is not heard from any more, and leads nothing until it is; look whether it runs and is reached"
            ),
            Ok(_) => {}
            Err(error) => tracing::warn!(broker = %node, %error, "a broker could not be fenced"),
        })
    }

    fn decide_for_shard(&self, command: MetadataCommand) -> Decision {
        match command {
            MetadataCommand::CreateTopics { topics, validate_only, reply } => {
                let (records, results) = self.create_topics(&topics, validate_only);
                Decision::for_shard(records, move |outcome| reply.send(outcome.map(|_| results)))
            }
            MetadataCommand::CreateMissingTopics { topics, reply } => {
                let (records, results) = self.create_topics(&topics, false);
                let results = results.into_iter().map(Creation::from).collect();
                Decision::for_shard(records, move |outcome| reply.send(outcome.map(|_| results)))
            }
            MetadataCommand::CreatePartitions { topics, validate_only, reply } => {
                let random_bits: Vec<u128> = topics.iter().map(|_| (self.random)()).collect();
                let plan = self.draft.decide_create_partitions(&topics, validate_only, &random_bits);
                Decision::for_shard(plan.records, move |outcome| {
                    reply.send(outcome.map(|_| plan.results));
                })
            }
            MetadataCommand::AlterConfigs { resources, validate_only, reply } => {
                let context = AlterConfigsContext { settings: self.started_with, node_id: self.node };
                let plan = self.draft.decide_alter_configs(&resources, validate_only, &context);
                let decision = Decision::for_shard(plan.records, move |outcome| {
                    reply.send(outcome.map(|_| plan.results));
                });
                Decision { changes_rules: true, ..decision }
            }
            MetadataCommand::DeleteTopics { selectors, reply } => {
                let plan = self.draft.decide_delete_topics(&selectors);
                Decision::for_shard(plan.records, move |outcome| {
                    reply.send(outcome.map(|_| plan.results));
                })
            }
            MetadataCommand::Placement(command) => self.place(command),
            MetadataCommand::AllocateProducerIds { reply } => {
                self.decide(ControllerCommand::AllocateProducerIds { node: self.node, reply })
            }
            // These are for the control plane, which turns them into others.
            command @ (MetadataCommand::AlterPartition { .. }
            | MetadataCommand::Forward { .. }
            | MetadataCommand::ReplicasOffline { .. }
            | MetadataCommand::Quorum(_)) => Decision::for_shard(Vec::new(), move |_| {
                command.refuse(MetadataError::NotController(None));
            }),
        }
    }

    fn create_topics(
        &self,
        topics: &[NewTopic],
        validate_only: bool,
    ) -> (Vec<Record>, Vec<CreateTopicResult>) {
        let random_bits: Vec<u128> = topics.iter().map(|_| (self.random)()).collect();
        let settings = &self.rules.settings;
        let check_configs = |configs: &BTreeMap<String, String>| -> Result<(), String> {
            TopicSettings::resolve(configs, settings).map(drop).map_err(|error| error.kafka_text())
        };
        let context = CreateTopicsContext {
            default_partition_count: settings.cluster.num_partitions,
            default_replication_factor: settings.cluster.default_replication_factor,
            check_configs: &check_configs,
            random_bits: &random_bits,
        };
        let plan = self.draft.decide_create_topics(topics, validate_only, &context);
        (plan.records, plan.results)
    }
}

/// Applies records to an image, or none of them.
pub(super) fn apply_all(image: &mut Image, records: &[Record]) -> Result<(), String> {
    let mut after = image.clone();
    for record in records {
        after.apply(record).map_err(|error| error.to_string())?;
    }
    *image = after;
    Ok(())
}

/// An answer that changes nothing. It waits all the same for what it rests on.
fn refused<T: 'static, E: 'static>(reply: Reply<Result<T, E>>, error: E) -> Decision {
    Decision::for_broker(PartitionPlan::default(), move |outcome| {
        reply.send(outcome.map(|_| Err(error)));
    })
}

/// What a leader is told of its proposal.
fn outcome_of(
    leader: NodeId,
    asked: &InSyncProposal,
    result: Result<logmill_state::metadata::PartitionState, logmill_state::metadata::InSyncError>,
) -> AlterPartitionOutcome {
    use logmill_state::metadata::InSyncError;
    match result {
        // A reassignment that is complete with it may have taken the leadership away.
        Ok(state) if state.leader != leader || state.leader_epoch != asked.leader_epoch => {
            AlterPartitionOutcome::Stale
        }
        Ok(state) => AlterPartitionOutcome::Accepted {
            partition_epoch: state.partition_epoch,
            in_sync: state.in_sync,
            has_eligible: !state.eligible.is_empty(),
        },
        Err(InSyncError::Ineligible { .. }) => AlterPartitionOutcome::Ineligible,
        Err(InSyncError::NewerThanThis) => AlterPartitionOutcome::Unknown,
        Err(
            InSyncError::UnknownPartition
            | InSyncError::FencedLeaderEpoch
            | InSyncError::InvalidUpdateVersion
            | InSyncError::InvalidRequest,
        ) => AlterPartitionOutcome::Stale,
    }
}
