//! DeleteTopics, by name or by id (KIP-516).

use super::call::{Call, Handled, decode};
use crate::cluster::command::MetadataCommand;
use crate::runtime::{Runtime, oneshot};
use crate::shard::deadline::within;
use logmill_state::admission::authorizer::{Operation, Resource};
use logmill_state::metadata::{DeleteTopicError, DeleteTopicResult, TopicSelector};
use logmill_wire::api::delete_topics::{DeletableTopicResult, Request, Response};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{TopicId, Uuid};
use std::time::Duration;

/// The first version that names topics by id too.
const TOPIC_IDS_FROM: i16 = 6;
/// The first version that knows TOPIC_DELETION_DISABLED (KIP-322).
const DISABLED_CODE_FROM: i16 = 3;

/// The least time that a deletion gets, in milliseconds.
const TIMEOUT_MIN_MS: u64 = 1_000;

fn selectors(
    request: &Request<'_>,
    version: i16,
) -> Vec<Result<TopicSelector, DeletableTopicResult<'static>>> {
    if version < TOPIC_IDS_FROM {
        return request.topic_names.iter().map(|name| Ok(TopicSelector::Name(name.into_owned()))).collect();
    }
    let selector = |name: Option<String>, id: TopicId| match name {
        None => Ok(TopicSelector::Id(id)),
        Some(name) if id.is_zero() => Ok(TopicSelector::Name(name)),
        Some(name) => {
            let text = "A topic is named by its name or by its id, not by both.";
            Err(refused(Some(name), id, ErrorCode::InvalidRequest, text))
        }
    };
    request
        .topics
        .iter()
        .map(|topic| selector(topic.name.map(|name| name.into_owned()), topic.topic_id))
        .collect()
}

fn refused(
    name: Option<String>,
    topic_id: TopicId,
    error: ErrorCode,
    message: &str,
) -> DeletableTopicResult<'static> {
    DeletableTopicResult {
        name: name.map(Into::into),
        topic_id,
        error_code: error.code(),
        error_message: Some(message.to_owned().into()),
    }
}

fn refused_selector(
    selector: TopicSelector,
    error: ErrorCode,
    message: &str,
) -> DeletableTopicResult<'static> {
    match selector {
        TopicSelector::Name(name) => refused(Some(name), Uuid::ZERO, error, message),
        TopicSelector::Id(id) => refused(None, id, error, message),
    }
}

pub(super) fn handle<R: Runtime>(mut call: Call<R>) -> Handled {
    let version = call.answer.version;
    let request: Request<'_> = decode(&call.body, version)?;
    call.answer.charge(request.topics.len() + request.topic_names.len())?;
    let image = call.services.image();
    let mut wanted = Vec::new();
    let mut results = Vec::new();
    for selector in selectors(&request, version) {
        match selector {
            Err(result) => results.push(result),
            Ok(selector) => {
                let name = match &selector {
                    TopicSelector::Name(name) => Some(name.as_str()),
                    TopicSelector::Id(id) => image.topic_by_id(*id).map(|topic| &*topic.name),
                };
                if name.is_none_or(|name| call.allows(Operation::Delete, Resource::Topic(name))) {
                    wanted.push(selector);
                } else {
                    let error = ErrorCode::TopicAuthorizationFailed;
                    results.push(refused_selector(selector, error, error.description()));
                }
            }
        }
    }
    if !call.services.settings.cluster.delete_topic {
        let error = if version >= DISABLED_CODE_FROM {
            ErrorCode::TopicDeletionDisabled
        } else {
            ErrorCode::InvalidRequest
        };
        let text = "Topics cannot be deleted here: delete.topic.enable is false.";
        results.extend(wanted.into_iter().map(|selector| refused_selector(selector, error, text)));
        return call.answer.ready(&Response { responses: results.into(), ..Response::default() });
    }
    let timeout_ms = u64::try_from(request.timeout_ms).unwrap_or(0).max(TIMEOUT_MIN_MS);
    let (reply, receiver) = oneshot::channel();
    call.services.cluster.send(MetadataCommand::DeleteTopics { selectors: wanted.clone(), reply });
    let Call { services, answer, .. } = call;
    Ok(Box::pin(async move {
        let all = |code: ErrorCode, message: &str| -> Vec<_> {
            wanted.into_iter().map(|selector| refused_selector(selector, code, message)).collect()
        };
        let timed_out = ErrorCode::RequestTimedOut;
        results.extend(match within(&services.runtime, Duration::from_millis(timeout_ms), receiver).await {
            Some(Ok(Ok(deleted))) => deleted.into_iter().map(topic_result).collect(),
            Some(Ok(Err(error))) => all(error.error_code(), &error.to_string()),
            Some(Err(oneshot::Closed)) => all(timed_out, "The broker is stopping."),
            None => all(timed_out, "The topics were not deleted in time; they may be deleted nevertheless."),
        });
        answer.reply(&Response { responses: results.into(), ..Response::default() })
    }))
}

fn topic_result(result: DeleteTopicResult) -> DeletableTopicResult<'static> {
    let DeleteTopicResult { name, topic_id, result } = result;
    let (error, text) = match result {
        Ok(()) => {
            return DeletableTopicResult {
                name: name.map(Into::into),
                topic_id,
                ..DeletableTopicResult::default()
            };
        }
        Err(DeleteTopicError::UnknownTopicName) => {
            (ErrorCode::UnknownTopicOrPartition, "There is no topic with this name.")
        }
        Err(DeleteTopicError::UnknownTopicId) => {
            (ErrorCode::UnknownTopicId, "There is no topic with this id.")
        }
        Err(DeleteTopicError::Repeated) => {
            (ErrorCode::InvalidRequest, "The request names this topic more than once.")
        }
        Err(DeleteTopicError::NoTopicId) => {
            (ErrorCode::InvalidRequest, "The request names a topic neither by name nor by id.")
        }
    };
    refused(name, topic_id, error, text)
}
