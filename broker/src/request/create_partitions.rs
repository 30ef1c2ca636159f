//! CreatePartitions (KIP-195).

use super::call::{Call, Handled, decode};
use crate::cluster::command::MetadataCommand;
use crate::runtime::{Runtime, oneshot};
use crate::shard::deadline::within;
use logmill_state::admission::authorizer::{Operation, Resource};
use logmill_state::metadata::{CreatePartitionsErrorKind, CreatePartitionsResult, MorePartitions};
use logmill_wire::api::create_partitions::{
    CreatePartitionsTopic, CreatePartitionsTopicResult, Request, Response,
};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::NodeId;
use std::time::Duration;

/// The least time that the change gets, in milliseconds.
const TIMEOUT_MIN_MS: u64 = 1_000;

const fn code_of(kind: CreatePartitionsErrorKind) -> ErrorCode {
    match kind {
        CreatePartitionsErrorKind::UnknownTopic => ErrorCode::UnknownTopicOrPartition,
        CreatePartitionsErrorKind::InvalidPartitions => ErrorCode::InvalidPartitions,
        CreatePartitionsErrorKind::InvalidReplicaAssignment => ErrorCode::InvalidReplicaAssignment,
        CreatePartitionsErrorKind::InvalidReplicationFactor => ErrorCode::InvalidReplicationFactor,
        CreatePartitionsErrorKind::InvalidRequest => ErrorCode::InvalidRequest,
    }
}

fn wanted(topic: &CreatePartitionsTopic<'_>) -> MorePartitions {
    let assignments = topic.assignments.as_ref();
    MorePartitions {
        name: topic.name.to_string(),
        count: topic.count,
        assignments: assignments.map(|assignments| {
            assignments.iter().map(|assignment| assignment.broker_ids.iter().map(NodeId).collect()).collect()
        }),
    }
}

fn refused(name: String, error: ErrorCode, message: &str) -> CreatePartitionsTopicResult<'static> {
    CreatePartitionsTopicResult {
        name: name.into(),
        error_code: error.code(),
        error_message: Some(message.to_owned().into()),
    }
}

fn topic_result(result: CreatePartitionsResult) -> CreatePartitionsTopicResult<'static> {
    let CreatePartitionsResult { name, result } = result;
    match result {
        Ok(()) => CreatePartitionsTopicResult { name: name.into(), ..CreatePartitionsTopicResult::default() },
        Err(error) => {
            let code = code_of(error.kind);
            refused(name, code, error.message.as_deref().unwrap_or(code.description()))
        }
    }
}

pub(super) fn handle<R: Runtime>(mut call: Call<R>) -> Handled {
    let request: Request<'_> = decode(&call.body, call.answer.version)?;
    let assigned = |topic: &CreatePartitionsTopic<'_>| {
        let replicas = topic.assignments.iter().flatten().map(|assignment| 1 + assignment.broker_ids.len());
        replicas.sum::<usize>()
    };
    call.answer.charge(request.topics.iter().map(|topic| 1 + assigned(&topic)).sum())?;
    let may_alter = |name: &str| call.allows(Operation::Alter, Resource::Topic(name));
    let (topics, denied): (Vec<_>, Vec<_>) =
        request.topics.iter().map(|topic| wanted(&topic)).partition(|topic| may_alter(&topic.name));
    let names: Vec<String> = topics.iter().map(|topic| topic.name.clone()).collect();
    let timeout_ms = u64::try_from(request.timeout_ms).unwrap_or(0).max(TIMEOUT_MIN_MS);
    let (reply, receiver) = oneshot::channel();
    let validate_only = request.validate_only;
    call.services.cluster.send(MetadataCommand::CreatePartitions { topics, validate_only, reply });
    let Call { services, answer, .. } = call;
    Ok(Box::pin(async move {
        let all = |code: ErrorCode, message: &str| -> Vec<_> {
            names.iter().map(|name: &String| refused(name.clone(), code, message)).collect()
        };
        let timed_out = ErrorCode::RequestTimedOut;
        let mut results = match within(&services.runtime, Duration::from_millis(timeout_ms), receiver).await {
            Some(Ok(Ok(results))) => results.into_iter().map(topic_result).collect(),
            Some(Ok(Err(error))) => all(error.error_code(), &error.to_string()),
            Some(Err(oneshot::Closed)) => all(timed_out, "The broker is stopping."),
            None => all(timed_out, "The partitions were not added in time; they may be added nevertheless."),
        };
        let error = ErrorCode::TopicAuthorizationFailed;
        results.extend(denied.into_iter().map(|topic| refused(topic.name, error, error.description())));
        answer.reply(&Response { results: results.into(), ..Response::default() })
    }))
}
