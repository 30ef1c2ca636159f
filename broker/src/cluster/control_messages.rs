//! The control plane's messages as they travel, and the types that decisions are made with.

use super::command::{Creation, Forwarded, MetadataError};
use super::quorum::{MemberKey, OwnChange, VoterEndpoint};
use super::quorum_command::{QuorumCommand, VoterReply};
use bytes::Bytes;
use logmill_state::admission::authorizer::{Principal, RequestContext};
use logmill_state::metadata::{
    BrokerRegistration, BrokerStart, DirectoryLogs, Endpoint, InSyncProposal, NewTopic, RegisterBrokerError,
};
use logmill_state::partition::{AlterPartition, AlterPartitionOutcome};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::frame::control::{
    AcceptedProposal, ControlAnswer, ControllerEndpoint, CreationOutcome, ForwardedRequest, MissingTopic,
    NO_NODE, OfflineReplicas, Proposal, ProposalOutcome, RegisteredEndpoint, RegisteredLogs, Registration,
    RegistrationRefusal, VoterChange, VoterChangeKind,
};
use logmill_wire::ids::{LeaderEpoch, NodeId, PartitionIndex, TopicPartition, Uuid};
use std::collections::{BTreeMap, BTreeSet};

pub fn registration_of(start: &BrokerStart) -> Registration {
    let BrokerStart { registration, directories, logs, lost_writes, starts_fenced } = start;
    let endpoint = |endpoint: &Endpoint| RegisteredEndpoint {
        listener: endpoint.listener.clone(),
        host: endpoint.host.clone(),
        port: endpoint.port,
        security_protocol: endpoint.security_protocol,
    };
    Registration {
        cluster_id: registration.cluster_id.0,
        incarnation: registration.incarnation.0,
        broker_id: registration.broker_id.0,
        rack: registration.rack.clone(),
        endpoints: registration.endpoints.iter().map(endpoint).collect(),
        directories: directories.iter().map(|id| id.0).collect(),
        logs: logs.iter().map(logs_on_wire).collect(),
        lost_writes: *lost_writes,
        starts_fenced: *starts_fenced,
    }
}

fn logs_on_wire(found: &DirectoryLogs) -> RegisteredLogs {
    let mut topics = BTreeMap::<_, Vec<_>>::new();
    for log in &found.logs {
        topics.entry(log.topic_id.0).or_default().push(log.partition.0);
    }
    RegisteredLogs { directory: found.directory.0, topics: topics.into_iter().collect() }
}

fn logs_of(found: RegisteredLogs) -> DirectoryLogs {
    let of_topic = |(topic, partitions): ([u8; 16], Vec<i32>)| {
        let of =
            move |partition| TopicPartition { topic_id: Uuid(topic), partition: PartitionIndex(partition) };
        partitions.into_iter().map(of)
    };
    let logs = found.topics.into_iter().flat_map(of_topic).collect();
    DirectoryLogs { directory: Uuid(found.directory), logs }
}

fn endpoints_on_wire(endpoints: &[VoterEndpoint]) -> Vec<ControllerEndpoint> {
    let on_wire = |endpoint: &VoterEndpoint| ControllerEndpoint {
        listener: endpoint.listener.clone(),
        host: endpoint.host.clone(),
        port: endpoint.port,
    };
    endpoints.iter().map(on_wire).collect()
}

fn endpoints_of(endpoints: Vec<ControllerEndpoint>) -> Vec<VoterEndpoint> {
    let of = |endpoint: ControllerEndpoint| VoterEndpoint {
        listener: endpoint.listener,
        host: endpoint.host,
        port: endpoint.port,
    };
    endpoints.into_iter().map(of).collect()
}

/// What a controller asks for about itself.
pub fn voter_change_of(change: &OwnChange) -> VoterChange {
    let (key, kind) = match change {
        OwnChange::Join(key, endpoints) => (key, VoterChangeKind::Add(endpoints_on_wire(endpoints))),
        OwnChange::LeaveBehind(key) => (key, VoterChangeKind::Remove),
        OwnChange::Update(key, endpoints) => (key, VoterChangeKind::Update(endpoints_on_wire(endpoints))),
    };
    VoterChange { node: key.node.0, directory: key.directory.0, kind }
}

/// The command of it, on the leader.
pub fn voter_command_of(change: VoterChange, reply: VoterReply) -> QuorumCommand {
    let key = MemberKey { node: NodeId(change.node), directory: Uuid(change.directory) };
    let cluster_id = None;
    match change.kind {
        VoterChangeKind::Add(endpoints) => {
            QuorumCommand::AddVoter { cluster_id, key, endpoints: endpoints_of(endpoints), reply }
        }
        VoterChangeKind::Remove => QuorumCommand::RemoveVoter { cluster_id, key, reply },
        VoterChangeKind::Update(endpoints) => {
            QuorumCommand::UpdateVoter { cluster_id, key, endpoints: endpoints_of(endpoints), reply }
        }
    }
}

pub fn start_of(registration: Registration) -> BrokerStart {
    let endpoint = |endpoint: RegisteredEndpoint| Endpoint {
        listener: endpoint.listener,
        host: endpoint.host,
        port: endpoint.port,
        security_protocol: endpoint.security_protocol,
    };
    BrokerStart {
        registration: BrokerRegistration {
            broker_id: NodeId(registration.broker_id),
            cluster_id: Uuid(registration.cluster_id),
            incarnation: Uuid(registration.incarnation),
            rack: registration.rack,
            endpoints: registration.endpoints.into_iter().map(endpoint).collect(),
        },
        directories: registration.directories.into_iter().map(Uuid).collect(),
        logs: registration.logs.into_iter().map(logs_of).collect(),
        lost_writes: registration.lost_writes,
        starts_fenced: registration.starts_fenced,
    }
}

pub fn partitions_of(offline: &OfflineReplicas) -> BTreeSet<TopicPartition> {
    let partition = |&(topic, partition): &([u8; 16], i32)| TopicPartition {
        topic_id: Uuid(topic),
        partition: PartitionIndex(partition),
    };
    offline.partitions.iter().map(partition).collect()
}

pub const fn refusal_of(error: RegisterBrokerError) -> RegistrationRefusal {
    match error {
        RegisterBrokerError::InconsistentClusterId { expected } => {
            RegistrationRefusal::InconsistentClusterId(match expected {
                Some(id) => Some(id.0),
                None => None,
            })
        }
        RegisterBrokerError::DuplicateBroker { .. } => RegistrationRefusal::Duplicate,
        RegisterBrokerError::InvalidRegistration => RegistrationRefusal::Invalid,
        RegisterBrokerError::EpochsExhausted => RegistrationRefusal::EpochsExhausted,
    }
}

pub fn error_of(refusal: RegistrationRefusal, broker_id: NodeId) -> RegisterBrokerError {
    match refusal {
        RegistrationRefusal::InconsistentClusterId(expected) => {
            RegisterBrokerError::InconsistentClusterId { expected: expected.map(Uuid) }
        }
        RegistrationRefusal::Duplicate => RegisterBrokerError::DuplicateBroker { broker_id },
        RegistrationRefusal::Invalid => RegisterBrokerError::InvalidRegistration,
        RegistrationRefusal::EpochsExhausted => RegisterBrokerError::EpochsExhausted,
    }
}

/// The answer where nothing, or nothing known, was changed.
pub fn failure_of(error: MetadataError) -> ControlAnswer {
    match error {
        MetadataError::NotController(leader) => {
            ControlAnswer::NotController(leader.map_or(NO_NODE, |leader| leader.0))
        }
        MetadataError::NotCommitted(cause) => ControlAnswer::NotCommitted(cause),
        MetadataError::Stopping => ControlAnswer::NotController(NO_NODE),
    }
}

/// What an answer means that is not one to the question.
pub fn error_in(answer: ControlAnswer) -> MetadataError {
    match answer {
        ControlAnswer::NotController(leader) => {
            MetadataError::NotController(Some(NodeId(leader)).filter(|leader| leader.0 >= 0))
        }
        ControlAnswer::NotCommitted(cause) => MetadataError::NotCommitted(cause),
        ControlAnswer::NotUnderstood => MetadataError::NotCommitted(
            "the active controller does not understand this broker; run one version on all nodes".to_owned(),
        ),
        _ => MetadataError::NotCommitted("the active controller answers something else".to_owned()),
    }
}

pub fn proposal_on_wire(partition: TopicPartition, proposal: &AlterPartition) -> Proposal {
    Proposal {
        topic_id: partition.topic_id.0,
        partition: partition.partition.0,
        leader_epoch: proposal.leader_epoch.0,
        partition_epoch: proposal.partition_epoch,
        in_sync: proposal.in_sync.iter().map(|(node, incarnation)| (node.0, incarnation.0)).collect(),
    }
}

pub fn proposal_of(proposal: Proposal) -> InSyncProposal {
    InSyncProposal {
        partition: TopicPartition {
            topic_id: Uuid(proposal.topic_id),
            partition: PartitionIndex(proposal.partition),
        },
        leader_epoch: LeaderEpoch(proposal.leader_epoch),
        partition_epoch: proposal.partition_epoch,
        in_sync: proposal
            .in_sync
            .into_iter()
            .map(|(node, incarnation)| (NodeId(node), Uuid(incarnation)))
            .collect(),
    }
}

pub fn outcome_on_wire(outcome: AlterPartitionOutcome) -> ProposalOutcome {
    match outcome {
        AlterPartitionOutcome::Accepted { partition_epoch, in_sync, has_eligible } => {
            ProposalOutcome::Accepted(AcceptedProposal {
                partition_epoch,
                in_sync: in_sync.into_iter().map(|node| node.0).collect(),
                has_eligible,
            })
        }
        AlterPartitionOutcome::Ineligible => ProposalOutcome::Ineligible,
        AlterPartitionOutcome::Stale => ProposalOutcome::Stale,
        AlterPartitionOutcome::Unknown => ProposalOutcome::Unknown,
    }
}

pub fn outcome_of(outcome: ProposalOutcome) -> AlterPartitionOutcome {
    match outcome {
        ProposalOutcome::Accepted(accepted) => AlterPartitionOutcome::Accepted {
            partition_epoch: accepted.partition_epoch,
            in_sync: accepted.in_sync.into_iter().map(NodeId).collect(),
            has_eligible: accepted.has_eligible,
        },
        ProposalOutcome::Ineligible => AlterPartitionOutcome::Ineligible,
        ProposalOutcome::Stale => AlterPartitionOutcome::Stale,
        ProposalOutcome::Unknown => AlterPartitionOutcome::Unknown,
    }
}

pub fn missing_on_wire(topic: NewTopic) -> MissingTopic {
    let NewTopic { name, partition_count, replication_factor, configs, assignments: _ } = topic;
    MissingTopic { name, partition_count, replication_factor, configs }
}

pub fn missing_of(topic: MissingTopic) -> NewTopic {
    let MissingTopic { name, partition_count, replication_factor, configs } = topic;
    NewTopic { name, partition_count, replication_factor, assignments: Vec::new(), configs }
}

pub fn creation_on_wire(creation: Creation) -> CreationOutcome {
    let refusal = creation.refusal.map(|(code, message)| (code.code(), message));
    CreationOutcome { name: creation.name, refusal }
}

pub fn creation_of(outcome: CreationOutcome) -> Creation {
    let refusal = outcome.refusal.map(|(code, message)| {
        (ErrorCode::from_code(code).unwrap_or(ErrorCode::UnknownServerError), message)
    });
    Creation { name: outcome.name, refusal }
}

pub fn forwarded_on_wire(request: &Forwarded) -> ForwardedRequest {
    let context = &request.context;
    ForwardedRequest {
        listener: context.listener.to_string(),
        principal_type: context.principal.principal_type.to_string(),
        principal_name: context.principal.name.to_string(),
        peer: context.peer.to_string(),
        connection_id: context.connection_id,
        frame: request.frame.to_vec(),
    }
}

/// `None` if the address is none. The client's id stands in the request's header.
pub fn forwarded_of(request: ForwardedRequest) -> Option<Forwarded> {
    let context = RequestContext {
        listener: request.listener.into(),
        principal: Principal {
            principal_type: request.principal_type.into(),
            name: request.principal_name.into(),
        },
        connection_id: request.connection_id,
        client_id: None,
        peer: request.peer.parse().ok()?,
    };
    Some(Forwarded { context, frame: Bytes::from(request.frame) })
}
