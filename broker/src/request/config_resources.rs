//! What requests about configs have in common: the resources that they name, and Kafka's numbers.

use super::call::{Call, Origin, Refusal};
use crate::cluster::command::MetadataCommand;
use crate::runtime::{Runtime, oneshot};
use crate::shard::deadline::within;
use logmill_state::admission::authorizer::{Operation, Resource};
use logmill_state::metadata::{AlterConfigsErrorKind, ConfigEdit, ConfigResource, DRAINED, ResourceEdits};
use logmill_state::settings::{Source, ValueType};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::NodeId;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

/// Kafka's number of topics (`ConfigResource.Type`).
pub(super) const TOPIC: i8 = 2;
/// Kafka's number of brokers.
pub(super) const BROKER: i8 = 4;
/// Kafka's number of the loggers of a broker (KIP-412).
pub(super) const BROKER_LOGGER: i8 = 8;
/// Kafka's number of subscriptions to clients' metrics (KIP-714).
pub(super) const CLIENT_METRICS: i8 = 16;
/// Kafka's number of groups.
pub(super) const GROUP: i8 = 32;

/// Kafka's number of a source (`DescribeConfigsResponse.ConfigSource`).
pub(super) const fn source_number(source: Source) -> i8 {
    match source {
        Source::Topic => 1,
        Source::DynamicBroker => 2,
        Source::DynamicDefaultBroker => 3,
        Source::StaticBroker => 4,
        Source::Default => 5,
        Source::Group => 8,
    }
}

/// Kafka's number of a type (`DescribeConfigsResponse.ConfigType`).
pub(super) const fn type_number(value_type: ValueType) -> i8 {
    match value_type {
        ValueType::Boolean => 1,
        ValueType::String => 2,
        ValueType::Int => 3,
        ValueType::Short => 4,
        ValueType::Long => 5,
        ValueType::Double => 6,
        ValueType::List => 7,
        ValueType::Password => 9,
    }
}

/// Whether the sender may do something to the configs of a resource; the error is the one that it gets if not.
pub(super) fn authorize<R: Runtime>(
    call: &Call<R>,
    operation: Operation,
    resource_type: i8,
    name: &str,
) -> Result<(), Refusal> {
    let (resource, error) = match resource_type {
        TOPIC => (Resource::Topic(name), ErrorCode::TopicAuthorizationFailed),
        GROUP => (Resource::Group(name), ErrorCode::GroupAuthorizationFailed),
        _ => (Resource::Cluster, ErrorCode::ClusterAuthorizationFailed),
    };
    if call.allows(operation, resource) { Ok(()) } else { Err(Refusal::plain(error)) }
}

/// One resource of a request to alter configs.
pub(super) struct Asked {
    pub resource_type: i8,
    pub name: String,
    /// Whether everything that is not named is taken back first.
    pub replaces: bool,
    /// What is done; or what is wrong with it already.
    pub edits: Result<Vec<ConfigEdit>, Refusal>,
}

/// The handler of a request to alter configs: the two APIs have requests and responses of their own types, whose fields
/// are the same. The module has an `asked` that reads a resource of its request.
macro_rules! handle_alter {
    () => {
        pub(super) fn handle<R: $crate::runtime::Runtime>(
            mut call: $crate::request::call::Call<R>,
        ) -> $crate::request::call::Handled {
            let request: Request<'_> = $crate::request::call::decode(&call.body, call.answer.version)?;
            call.answer.charge(request.resources.iter().map(|resource| 1 + resource.configs.len()).sum())?;
            let all = request.resources.iter().map(|resource| asked(&resource)).collect();
            let altered = $crate::request::config_resources::alter(&call, all, request.validate_only);
            let answer = call.answer;
            Ok(Box::pin(async move {
                let responses = altered.await.into_iter().map(|(resource_type, name, result)| {
                    let (error_code, error_message) = $crate::request::config_resources::outcome(result);
                    AlterConfigsResourceResponse {
                        error_code,
                        error_message,
                        resource_type,
                        resource_name: name.into(),
                    }
                });
                answer.reply(&Response { responses: responses.collect(), ..Response::default() })
            }))
        }
    };
}
pub(super) use handle_alter;

/// The error code and its text.
pub(super) fn outcome(altered: Altered) -> (i16, Option<Cow<'static, str>>) {
    match altered {
        Ok(()) => (ErrorCode::None.code(), None),
        Err(refusal) => (refusal.code.code(), Some(refusal.message.into())),
    }
}

/// What becomes of one resource of a request to alter configs.
pub(super) type Altered = Result<(), Refusal>;

/// Sends a request to alter configs to where it is decided. The answers come in the order of the resources.
pub(super) fn alter<R: Runtime>(
    call: &Call<R>,
    asked: Vec<Asked>,
    validate_only: bool,
) -> impl Future<Output = Vec<(i8, String, Altered)>> + 'static + use<R> {
    let mut times: BTreeMap<(i8, String), usize> = BTreeMap::new();
    for one in &asked {
        *times.entry((one.resource_type, one.name.clone())).or_default() += 1;
    }
    let mut answers = Vec::with_capacity(asked.len());
    let (mut resources, mut places) = (Vec::new(), Vec::new());
    for one in asked {
        let Asked { resource_type, name, replaces, edits } = one;
        let is_repeated = times.get(&(resource_type, name.clone())).is_some_and(|&times| times > 1);
        let checked = if is_repeated {
            invalid("Each resource must appear at most once.")
        } else {
            edits.and_then(|edits| {
                let resource = resource(call, resource_type, &name, replaces, &edits)?;
                Ok(ResourceEdits { resource, replaces, edits })
            })
        };
        let answer = checked.map(|edits| {
            places.push(answers.len());
            resources.push(edits);
        });
        answers.push((resource_type, name, answer));
    }
    let (reply, receiver) = oneshot::channel();
    if !resources.is_empty() {
        call.services.cluster.send(MetadataCommand::AlterConfigs { resources, validate_only, reply });
    }
    let runtime = call.services.runtime.clone();
    let patience = Duration::from_millis(call.services.settings.network.request_timeout_ms);
    async move {
        if places.is_empty() {
            return answers;
        }
        let outcome = within(&runtime, patience, receiver).await;
        let timed_out = ErrorCode::RequestTimedOut;
        let (code, failure) = match outcome {
            Some(Ok(Ok(results))) => {
                for (place, result) in places.into_iter().zip(results) {
                    let refusal = |error: logmill_state::metadata::AlterConfigsError| {
                        Refusal::new(code_of(error.kind), error.message)
                    };
                    if let Some((_, _, answer)) = answers.get_mut(place) {
                        *answer = result.map_err(refusal);
                    }
                }
                return answers;
            }
            Some(Ok(Err(error))) => (error.error_code(), error.to_string()),
            Some(Err(oneshot::Closed)) => (timed_out, "The broker is stopping.".to_owned()),
            None => (
                timed_out,
                "The configs were not altered in time; they may be altered nevertheless.".to_owned(),
            ),
        };
        for place in places {
            if let Some((_, _, answer)) = answers.get_mut(place) {
                *answer = Err(Refusal::new(code, failure.clone()));
            }
        }
        answers
    }
}

const fn code_of(kind: AlterConfigsErrorKind) -> ErrorCode {
    match kind {
        AlterConfigsErrorKind::InvalidRequest => ErrorCode::InvalidRequest,
        AlterConfigsErrorKind::InvalidConfig => ErrorCode::InvalidConfig,
        AlterConfigsErrorKind::InvalidTopic => ErrorCode::InvalidTopicException,
        AlterConfigsErrorKind::UnknownTopic => ErrorCode::UnknownTopicOrPartition,
    }
}

fn invalid<T>(message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::new(ErrorCode::InvalidRequest, message))
}

/// Whether nothing is altered but whether a broker is drained.
fn is_drain(edits: &[ConfigEdit]) -> bool {
    !edits.is_empty() && edits.iter().all(|edit| edit.name == DRAINED)
}

fn resource<R: Runtime>(
    call: &Call<R>,
    resource_type: i8,
    name: &str,
    replaces: bool,
    edits: &[ConfigEdit],
) -> Result<ConfigResource, Refusal> {
    authorize(call, Operation::AlterConfigs, resource_type, name)?;
    let node = call.services.node_id;
    match resource_type {
        TOPIC => Ok(ConfigResource::Topic(name.to_owned())),
        GROUP => Ok(ConfigResource::Group(name.to_owned())),
        BROKER if name.is_empty() => Ok(ConfigResource::Broker(None)),
        BROKER => match name.parse::<i32>() {
            Ok(id) if id == node.0 => Ok(ConfigResource::Broker(Some(node))),
            // The client has asked another broker, which is to have looked at it; or it is about one that need not run.
            Ok(id)
                if (call.origin == Origin::Broker || is_drain(edits))
                    && call.services.image().broker(NodeId(id)).is_some() =>
            {
                Ok(ConfigResource::Broker(Some(NodeId(id))))
            }
            Ok(_) => invalid(format!("Unexpected broker id, expected {node}, but received {name}")),
            Err(_) => invalid(format!("Node id must be an integer, but it is: {name}")),
        },
        // AlterConfigs does not know loggers (KIP-412).
        BROKER_LOGGER if !replaces => match edits.first() {
            Some(edit) => Err(Refusal::new(
                ErrorCode::InvalidConfig,
                format!("Logger {} does not exist!", edit.name.chars().take(256).collect::<String>()),
            )),
            None => invalid("No logger is named."),
        },
        CLIENT_METRICS => {
            invalid("This broker collects no metrics of clients, so there is nothing to subscribe to.")
        }
        _ => invalid(format!("Unknown resource type {resource_type}")),
    }
}
