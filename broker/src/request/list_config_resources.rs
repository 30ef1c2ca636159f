//! ListConfigResources: what can have configs (KIP-1142).

use super::call::{Call, Handled, decode};
use super::config_resources::{BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP, TOPIC};
use crate::runtime::Runtime;
use logmill_state::admission::authorizer::{Operation, Resource};
use logmill_wire::api::list_config_resources::{ConfigResource, Request, Response};
use logmill_wire::error_codes::ErrorCode;

/// All types that are listed; version 0 only knows subscriptions to clients' metrics.
const TYPES: [i8; 5] = [TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP];
const TYPES_OF_VERSION_0: [i8; 1] = [CLIENT_METRICS];

/// How many resources go by between two looks at the clock.
const STRIDE: usize = 1024;

pub(super) fn handle<R: Runtime>(mut call: Call<R>) -> Handled {
    let version = call.answer.version;
    let request: Request<'_> = decode(&call.body, version)?;
    call.answer.charge(request.resource_types.len())?;
    let failed = |error: ErrorCode| Response { error_code: error.code(), ..Response::default() };
    if !call.allows(Operation::DescribeConfigs, Resource::Cluster) {
        return call.answer.ready(&failed(ErrorCode::ClusterAuthorizationFailed));
    }
    let known: &[i8] = if version == 0 { &TYPES_OF_VERSION_0 } else { &TYPES };
    let mut wanted: Vec<i8> = request.resource_types.iter().collect();
    if wanted.iter().any(|wanted| !known.contains(wanted)) {
        return call.answer.ready(&failed(ErrorCode::UnsupportedVersion));
    }
    if wanted.is_empty() {
        wanted = known.to_vec();
    }
    let Call { services, answer, .. } = call;
    Ok(Box::pin(async move {
        let image = services.image();
        let is_wanted = |resource_type: i8| wanted.contains(&resource_type);
        let brokers = || image.brokers().map(|broker| broker.id.to_string());
        let groups =
            image.groups_with_configs().filter(|_| is_wanted(GROUP)).map(|name| (GROUP, name.to_string()));
        let topics = image.topics().filter(|_| is_wanted(TOPIC)).map(|topic| (TOPIC, topic.name.to_string()));
        let brokers_wanted = brokers().filter(|_| is_wanted(BROKER)).map(|name| (BROKER, name));
        let loggers = brokers().filter(|_| is_wanted(BROKER_LOGGER)).map(|name| (BROKER_LOGGER, name));
        let mut listed = Vec::new();
        for (resource_type, name) in groups.chain(brokers_wanted).chain(loggers).chain(topics) {
            listed.push(ConfigResource { resource_name: name.into(), resource_type });
            if listed.len().is_multiple_of(STRIDE) && services.runtime.should_yield() {
                services.runtime.yield_now().await;
            }
        }
        answer.reply(&Response { config_resources: listed.into(), ..Response::default() })
    }))
}
