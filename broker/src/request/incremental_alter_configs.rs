//! IncrementalAlterConfigs: changes single configs of a resource (KIP-339).

use super::call::Refusal;
use super::config_resources::{Asked, handle_alter};
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

handle_alter!();
