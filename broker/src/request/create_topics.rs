//! CreateTopics.

use super::call::{Call, Handled, decode};
use super::config_resources::source_number;
use crate::cluster::command::{MetadataCommand, creation_error_code};
use crate::runtime::{Runtime, oneshot};
use crate::shard::deadline::within;
use logmill_state::admission::authorizer::{Operation, Resource};
use logmill_state::metadata::{CreateTopicResult, CreatedTopic, NewTopic, PartitionAssignment};
use logmill_state::settings::{BrokerSettings, describe_topic};
use logmill_wire::api::create_topics::{
    CreatableTopic, CreatableTopicConfigs, CreatableTopicResult, Request, Response,
};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::NodeId;
use std::time::Duration;

/// The first version whose response has the topic's numbers and configs (KIP-525).
const DETAILS_FROM: i16 = 5;

/// The least time that a creation gets, in milliseconds.
const TIMEOUT_MIN_MS: u64 = 1_000;

fn new_topic(topic: &CreatableTopic<'_>) -> NewTopic {
    NewTopic {
        name: topic.name.to_string(),
        partition_count: topic.num_partitions,
        replication_factor: topic.replication_factor,
        assignments: topic
            .assignments
            .iter()
            .map(|assignment| PartitionAssignment {
                partition: assignment.partition_index,
                replicas: assignment.broker_ids.iter().map(NodeId).collect(),
            })
            .collect(),
        configs: topic
            .configs
            .iter()
            .map(|config| (config.name.into_owned(), config.value.map(|value| value.into_owned())))
            .collect(),
    }
}

pub(super) fn handle<R: Runtime>(mut call: Call<R>) -> Handled {
    let request: Request<'_> = decode(&call.body, call.answer.version)?;
    let assigned = |topic: &CreatableTopic<'_>| {
        topic.assignments.iter().map(|assignment| 1 + assignment.broker_ids.len()).sum::<usize>()
    };
    let elements = request.topics.iter().map(|topic| 1 + topic.configs.len() + assigned(&topic));
    call.answer.charge(elements.sum())?;
    let may_create = |name: &str| {
        call.allows(Operation::Create, Resource::Cluster)
            || call.allows(Operation::Create, Resource::Topic(name))
    };
    let (topics, denied): (Vec<_>, Vec<_>) =
        request.topics.iter().map(|topic| new_topic(&topic)).partition(|topic| may_create(&topic.name));
    let names: Vec<String> = topics.iter().map(|topic| topic.name.clone()).collect();
    let timeout_ms = u64::try_from(request.timeout_ms).unwrap_or(0).max(TIMEOUT_MIN_MS);
    let (reply, receiver) = oneshot::channel();
    let validate_only = request.validate_only;
    call.services.cluster.send(MetadataCommand::CreateTopics { topics, validate_only, reply });
    let Call { services, answer, .. } = call;
    Ok(Box::pin(async move {
        let version = answer.version;
        let waited = within(&services.runtime, Duration::from_millis(timeout_ms), receiver).await;
        let all = |error: ErrorCode, message: String| -> Vec<_> {
            names.iter().map(|name| refused(name.clone(), error, message.clone())).collect()
        };
        let mut topics = match waited {
            Some(Ok(Ok(results))) => {
                let settings = services.image().effective_settings(services.node_id, &services.settings);
                results.into_iter().map(|result| topic_result(result, &settings, version)).collect()
            }
            Some(Ok(Err(error))) => all(error.error_code(), error.to_string()),
            Some(Err(oneshot::Closed)) => {
                all(ErrorCode::RequestTimedOut, "The broker is stopping.".to_owned())
            }
            None => {
                let text = "The topics were not created in time; they may be created nevertheless.";
                all(ErrorCode::RequestTimedOut, text.to_owned())
            }
        };
        topics.extend(denied.into_iter().map(|topic| {
            refused(topic.name, ErrorCode::TopicAuthorizationFailed, "Authorization failed.".to_owned())
        }));
        answer.reply(&Response { topics: topics.into(), ..Response::default() })
    }))
}

fn refused(name: String, error: ErrorCode, message: String) -> CreatableTopicResult<'static> {
    CreatableTopicResult {
        name: name.into(),
        error_code: error.code(),
        error_message: Some(message.into()),
        configs: Some(Vec::new().into()),
        ..CreatableTopicResult::default()
    }
}

fn topic_result(
    result: CreateTopicResult,
    settings: &BrokerSettings,
    version: i16,
) -> CreatableTopicResult<'static> {
    let CreateTopicResult { name, result } = result;
    match result {
        Err(error) => refused(name, creation_error_code(error.kind), error.message),
        Ok(created) => CreatableTopicResult {
            name: name.into(),
            topic_id: created.topic_id,
            error_message: None,
            num_partitions: created.partition_count,
            replication_factor: created.replication_factor,
            configs: Some(
                if version >= DETAILS_FROM { configs(&created, settings) } else { Vec::new() }.into(),
            ),
            ..CreatableTopicResult::default()
        },
    }
}

fn configs(created: &CreatedTopic, settings: &BrokerSettings) -> Vec<CreatableTopicConfigs<'static>> {
    describe_topic(&created.configs, settings)
        .into_iter()
        .map(|described| CreatableTopicConfigs {
            is_sensitive: described.is_sensitive(),
            config_source: source_number(described.source),
            name: described.name.into_owned().into(),
            value: described.value.map(Into::into),
            read_only: false,
        })
        .collect()
}
