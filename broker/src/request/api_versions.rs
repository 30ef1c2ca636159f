//! ApiVersions: what the broker speaks (KIP-35, KIP-511, KIP-584).

use super::call::{Answer, Call, Handled, Pending, decode};
use super::versions::ADVERTISED;
use crate::runtime::Runtime;
use logmill_wire::api::api_versions::{
    ApiVersion, FinalizedFeatureKey, Request, Response, SupportedFeatureKey,
};
use logmill_wire::error_codes::ErrorCode;

/// A feature stands here only when it works: leaders from among the eligible replicas (KIP-966), groups of the consumer
/// protocol (KIP-848), and voters that come and go at run time (KIP-853).
pub(super) const FEATURES: &[(&str, i16)] =
    &[("eligible.leader.replicas.version", 1), ("group.version", 1), ("kraft.version", 1)];

/// The epoch of the finalized features: they do not change while the broker runs.
const FEATURES_EPOCH: i64 = 0;

fn response(error: ErrorCode, is_of_controllers: bool) -> Response<'static> {
    let offered = ADVERTISED.iter().filter(|api| api.is_offered(is_of_controllers));
    let api_keys =
        offered.map(|api| ApiVersion { api_key: api.key, min_version: api.min, max_version: api.max });
    let supported = FEATURES.iter().map(|&(name, max_version)| SupportedFeatureKey {
        name: name.into(),
        min_version: 1,
        max_version,
    });
    let finalized = FEATURES.iter().map(|&(name, level)| FinalizedFeatureKey {
        name: name.into(),
        max_version_level: level,
        min_version_level: level,
    });
    Response {
        error_code: error.code(),
        api_keys: api_keys.collect(),
        supported_features: supported.collect(),
        finalized_features_epoch: FEATURES_EPOCH,
        finalized_features: finalized.collect(),
        ..Response::default()
    }
}

/// A name or version of client software as KIP-511 allows it: it ends up in metrics, and so must be tame.
fn is_tame(text: &str) -> bool {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric();
    let inner = |byte: &u8| is_word(byte) || matches!(byte, b'-' | b'.');
    let bytes = text.as_bytes();
    bytes.first().is_some_and(is_word) && bytes.last().is_some_and(is_word) && bytes.iter().all(inner)
}

pub(super) fn handle<R: Runtime>(call: Call<R>) -> Handled {
    let is_of_controllers = call.services.is_of_controllers(&call.context.listener);
    let Call { body, answer, .. } = call;
    let request: Request<'_> = decode(&body, answer.version)?;
    let names_are_tame = answer.version < 3
        || (is_tame(&request.client_software_name) && is_tame(&request.client_software_version));
    answer.ready(&if names_are_tame {
        response(ErrorCode::None, is_of_controllers)
    } else {
        Response { error_code: ErrorCode::InvalidRequest.code(), ..Response::default() }
    })
}

/// The answer to a version that the broker does not know: error 35 and the list, in the format of version 0, which
/// every client can read, so that it comes back with a version that both know (KIP-511).
pub(super) fn unknown_version(answer: Answer, is_of_controllers: bool) -> Pending {
    let listed = response(ErrorCode::UnsupportedVersion, is_of_controllers);
    let outcome = Answer { version: 0, ..answer }.reply(&listed);
    Box::pin(std::future::ready(outcome))
}
