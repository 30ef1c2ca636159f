//! DescribeConfigs (KIP-133, KIP-226, KIP-569).

use super::call::{Call, Handled, Refusal, decode};
use super::config_resources::{
    BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP, TOPIC, authorize, source_number, type_number,
};
use super::services::Services;
use crate::runtime::Runtime;
use logmill_state::admission::authorizer::Operation;
use logmill_state::metadata::{Image, validate_topic_name};
use logmill_state::settings::{
    BrokerSettings, Described, describe_broker, describe_cluster_default, describe_group, describe_topic,
};
use logmill_wire::api::describe_configs::{
    DescribeConfigsResource, DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
    Request, Response,
};
use logmill_wire::api::{self, Message};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::primitives::{EncodedArray, Format};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

/// What the answer about one resource takes while it is made, in bytes.
const RESOURCE_BYTES: usize = 32 << 10;

/// One resource of the request.
struct Wanted {
    resource_type: i8,
    name: String,
    /// The configs to be told; `None` for all of them.
    keys: Option<BTreeSet<String>>,
    refusal: Option<Refusal>,
}

fn wanted<R: Runtime>(call: &Call<R>, resource: &DescribeConfigsResource<'_>) -> Wanted {
    let name = resource.resource_name.to_string();
    let keys = resource.configuration_keys.as_ref().filter(|keys| !keys.is_empty());
    Wanted {
        resource_type: resource.resource_type,
        refusal: authorize(call, Operation::DescribeConfigs, resource.resource_type, &name).err(),
        name,
        keys: keys.map(|keys| keys.iter().map(|key| key.into_owned()).collect()),
    }
}

pub(super) fn handle<R: Runtime>(mut call: Call<R>) -> Handled {
    let request: Request<'_> = decode(&call.body, call.answer.version)?;
    let keys = |resource: &DescribeConfigsResource<'_>| {
        resource.configuration_keys.as_ref().map_or(0, |keys| keys.len())
    };
    call.answer.charge(request.resources.iter().map(|resource| 1 + keys(&resource)).sum())?;
    let known = [TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP];
    let unknown = request.resources.iter().find(|resource| !known.contains(&resource.resource_type));
    let unknown = unknown.map(|resource| {
        let (number, name) = (resource.resource_type, resource.resource_name.to_string());
        format!("Unexpected resource type {number} for resource {name}")
    });
    let mut all: Vec<Wanted> = request.resources.iter().map(|resource| wanted(&call, &resource)).collect();
    if let Some(message) = unknown {
        // As in Kafka, the whole request fails.
        for wanted in &mut all {
            wanted.refusal = Some(Refusal::new(ErrorCode::InvalidRequest, message.clone()));
        }
    }
    let (synonyms, documentation) = (request.include_synonyms, request.include_documentation);
    let Call { services, mut answer, .. } = call;
    Ok(Box::pin(async move {
        // The request's own room goes before room of the same class is waited for.
        answer.room.resize(0);
        let room = services.answer_room(all.len().saturating_mul(RESOURCE_BYTES)).await;
        let image = services.image();
        let settings = image.effective_settings(services.node_id, &services.settings);
        let mut describer = Describer { services: &services, image, settings, plain_topic: None };
        let version = answer.version;
        let format = api::format::<Response<'_>>(version).unwrap_or(Format { version, flexible: true });
        // Each resource is encoded as it comes: what many of them say is too much to be encoded in one go.
        let mut results = EncodedArray::new(format);
        for wanted in all {
            let described = match &wanted.refusal {
                Some(refusal) => Err(refusal.clone()),
                None => describer.describe(wanted.resource_type, &wanted.name),
            };
            if let Err(error) = results.push(&result(wanted, described, synonyms, documentation)) {
                return answer.not_encoded(Response::NAME, error);
            }
            if services.runtime.should_yield() {
                services.runtime.yield_now().await;
            }
        }
        let outcome = answer.reply(&Response { results: results.view(), ..Response::default() });
        drop(room);
        outcome
    }))
}

fn invalid<T>(message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::new(ErrorCode::InvalidRequest, message))
}

struct Describer<'s, R: Runtime> {
    services: &'s Rc<Services<R>>,
    image: Arc<Image>,
    settings: BrokerSettings,
    /// The configs of a topic that has none of its own, as most have.
    plain_topic: Option<Rc<Vec<Described>>>,
}

impl<R: Runtime> Describer<'_, R> {
    fn describe(&mut self, resource_type: i8, name: &str) -> Result<Rc<Vec<Described>>, Refusal> {
        match resource_type {
            TOPIC => self.describe_topic(name),
            BROKER if name.is_empty() => Ok(describe_cluster_default(self.image.broker_configs(None)).into()),
            BROKER => {
                self.check_broker(name, "expected", " or empty string, but received")?;
                Ok(describe_broker(&self.settings).into())
            }
            BROKER_LOGGER if name.is_empty() => invalid("Broker id must not be empty"),
            BROKER_LOGGER => {
                self.check_broker(name, "expected", " but received")?;
                // There are no loggers that could be altered one by one.
                Ok(Rc::default())
            }
            CLIENT_METRICS if name.is_empty() => {
                invalid("Client metrics subscription name must not be empty")
            }
            CLIENT_METRICS => Ok(Rc::default()),
            GROUP if name.is_empty() => invalid("Group name must not be empty"),
            _ => Ok(describe_group(self.image.group_configs(name), &self.settings).into()),
        }
    }

    fn describe_topic(&mut self, name: &str) -> Result<Rc<Vec<Described>>, Refusal> {
        if let Err(error) = validate_topic_name(name) {
            let message = format!("Topic name is invalid: {error}");
            return Err(Refusal::new(ErrorCode::InvalidTopicException, message));
        }
        let Some(topic) = self.image.topic_by_name(name) else {
            return Err(Refusal::plain(ErrorCode::UnknownTopicOrPartition));
        };
        if !topic.configs.is_empty() {
            return Ok(describe_topic(&topic.configs, &self.settings).into());
        }
        let settings = &self.settings;
        let plain = self.plain_topic.get_or_insert_with(|| describe_topic(&BTreeMap::new(), settings).into());
        Ok(Rc::clone(plain))
    }

    fn check_broker(&self, name: &str, expected: &str, received: &str) -> Result<(), Refusal> {
        let own = self.services.node_id;
        match name.parse::<i32>() {
            Ok(id) if id == own.0 => Ok(()),
            Ok(_) => invalid(format!("Unexpected broker id, {expected} {own}{received} {name}")),
            Err(_) => invalid(format!("Broker id must be an integer, but it is: {name}")),
        }
    }
}

fn result(
    wanted: Wanted,
    described: Result<Rc<Vec<Described>>, Refusal>,
    synonyms: bool,
    documentation: bool,
) -> DescribeConfigsResult<'static> {
    let Wanted { resource_type, name, keys, .. } = wanted;
    let mut result = DescribeConfigsResult {
        error_code: ErrorCode::None.code(),
        error_message: None,
        resource_type,
        resource_name: name.into(),
        configs: Vec::new().into(),
    };
    match described {
        Err(refusal) => {
            result.error_code = refusal.code.code();
            result.error_message = Some(refusal.message.into());
        }
        Ok(described) => {
            let is_wanted =
                |described: &&Described| keys.as_ref().is_none_or(|keys| keys.contains(&*described.name));
            let configs = described.iter().filter(is_wanted);
            result.configs = configs.map(|described| config(described, synonyms, documentation)).collect();
        }
    }
    result
}

fn config(
    described: &Described,
    synonyms: bool,
    documentation: bool,
) -> DescribeConfigsResourceResult<'static> {
    let given = described.synonyms.iter().filter(|_| synonyms).map(|given| DescribeConfigsSynonym {
        name: given.name.to_string().into(),
        value: given.value.clone().map(Into::into),
        source: source_number(given.source),
    });
    let setting = described.setting;
    DescribeConfigsResourceResult {
        name: described.name.to_string().into(),
        value: described.value.clone().map(Into::into),
        read_only: described.is_read_only(),
        config_source: source_number(described.source),
        is_sensitive: described.is_sensitive(),
        synonyms: given.collect(),
        config_type: setting.map_or(0, |setting| type_number(setting.kind.value_type())),
        documentation: setting.filter(|_| documentation).map(|setting| setting.prose().into()),
    }
}
