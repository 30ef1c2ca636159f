//! UpdateFeatures: the levels of features (KIP-584). Every feature that this version has is on, at its one level: what
//! asks for just that succeeds, everything else is refused.

use super::api_versions::FEATURES;
use super::call::{Call, Handled, Refusal, decode};
use crate::runtime::Runtime;
use logmill_state::admission::authorizer::{Operation, Resource};
use logmill_wire::api::update_features::{FeatureUpdateKey, Request, Response, UpdatableFeatureResult};
use logmill_wire::error_codes::ErrorCode;
use std::collections::BTreeSet;

/// The first version with kinds of upgrades instead of a flag.
const KINDS_FROM: i16 = 1;

const UPGRADE: i8 = 1;
const UNSAFE_DOWNGRADE: i8 = 3;

pub(super) fn handle<R: Runtime>(mut call: Call<R>) -> Handled {
    let version = call.answer.version;
    let request: Request<'_> = decode(&call.body, version)?;
    call.answer.charge(request.feature_updates.len())?;
    let mut seen = BTreeSet::new();
    let decided = if call.allows(Operation::Alter, Resource::Cluster) {
        request.feature_updates.iter().try_for_each(|update| {
            if !seen.insert(update.feature.to_string()) {
                let text = format!("The request has the feature {} more than once.", update.feature);
                return Err(Refusal::new(ErrorCode::InvalidRequest, text));
            }
            check(&update, version)
        })
    } else {
        Err(Refusal::plain(ErrorCode::ClusterAuthorizationFailed))
    };
    let results = request.feature_updates.iter().map(|update| UpdatableFeatureResult {
        feature: update.feature.to_string().into(),
        error_code: 0,
        error_message: None,
    });
    let response = match decided {
        Ok(()) => Response { error_message: None, results: results.collect(), ..Response::default() },
        // All or nothing: one refusal is that of the whole request.
        Err(refusal) => Response {
            error_code: refusal.code.code(),
            error_message: Some(refusal.message.into()),
            ..Response::default()
        },
    };
    call.answer.ready(&response)
}

fn check(update: &FeatureUpdateKey<'_>, version: i16) -> Result<(), Refusal> {
    let (feature, wanted) = (&update.feature, update.max_version_level);
    if version >= KINDS_FROM && !(UPGRADE..=UNSAFE_DOWNGRADE).contains(&update.upgrade_type) {
        let text = format!("{} is no kind of upgrade.", update.upgrade_type);
        return Err(Refusal::new(ErrorCode::InvalidRequest, text));
    }
    let level = FEATURES.iter().find(|(name, _)| *feature == *name).map(|&(_, level)| level);
    let text = match level {
        None => {
            format!("Invalid update version {wanted} for feature {feature}: this cluster does not have it.")
        }
        Some(level) if level == wanted => return Ok(()),
        Some(level) => format!(
            "Invalid update version {wanted} for feature {feature}: this cluster has it at level {level} only."
        ),
    };
    Err(Refusal::new(ErrorCode::InvalidUpdateVersion, text))
}
