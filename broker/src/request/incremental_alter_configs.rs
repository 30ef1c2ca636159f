//! IncrementalAlterConfigs: changes single configs of a resource (KIP-339).

use super::call::{Call, Handled, Refusal, decode};
use super::config_resources::{Asked, alter};
use crate::runtime::Runtime;
use logmill_state::metadata::{ConfigEdit, ConfigOperation};
use logmill_wire::api::incremental_alter_configs::{
    AlterConfigsResource, AlterConfigsResourceResponse, Request, Response,
};
use logmill_wire::error_codes::ErrorCode;

fn asked(resource: &AlterConfigsResource<'_>) -> Asked {
    let edits = resource.configs.iter().map(|config| {
        let number = config.config_operation;
        let operation = ConfigOperation::from_number(number).ok_or_else(|| {
            Refusal::new(ErrorCode::InvalidRequest, format!("Unknown operations type {number}"))
        })?;
        let value = config.value.map(|value| value.into_owned());
        Ok(ConfigEdit { name: config.name.into_owned(), operation, value })
    });
    Asked {
        resource_type: resource.resource_type,
        name: resource.resource_name.to_string(),
        replaces: false,
        edits: edits.collect(),
    }
}

pub(super) fn handle<R: Runtime>(mut call: Call<R>) -> Handled {
    let request: Request<'_> = decode(&call.body, call.answer.version)?;
    call.answer.charge(request.resources.iter().map(|resource| 1 + resource.configs.len()).sum())?;
    let all = request.resources.iter().map(|resource| asked(&resource)).collect();
    let altered = alter(&call, all, request.validate_only);
    let answer = call.answer;
    Ok(Box::pin(async move {
        let responses = altered.await.into_iter().map(|(resource_type, name, result)| {
            let refusal = result.err();
            AlterConfigsResourceResponse {
                error_code: refusal.as_ref().map_or(ErrorCode::None, |refusal| refusal.code).code(),
                error_message: refusal.map(|refusal| refusal.message.into()),
                resource_type,
                resource_name: name.into(),
            }
        });
        answer.reply(&Response { responses: responses.collect(), ..Response::default() })
    }))
}
