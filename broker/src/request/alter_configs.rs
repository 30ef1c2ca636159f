//! AlterConfigs: replaces all configs of a resource (KIP-133).

use super::config_resources::{Asked, handle_alter};
use logmill_state::metadata::{ConfigEdit, ConfigOperation};
use logmill_wire::api::alter_configs::{
    AlterConfigsResource, AlterConfigsResourceResponse, Request, Response,
};

fn asked(resource: &AlterConfigsResource<'_>) -> Asked {
    let edits = resource.configs.iter().map(|config| ConfigEdit {
        name: config.name.into_owned(),
        operation: ConfigOperation::Set,
        value: config.value.map(|value| value.into_owned()),
    });
    Asked {
        resource_type: resource.resource_type,
        name: resource.resource_name.to_string(),
        replaces: true,
        edits: Ok(edits.collect()),
    }
}

handle_alter!();
