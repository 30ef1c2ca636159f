//! DescribeCluster: the cluster's id, controller and brokers (KIP-700, KIP-919, KIP-1073).

use super::call::{Call, Handled, decode};
use super::topics::controller_id;
use crate::runtime::Runtime;
use logmill_state::admission::authorizer::{Operation, Resource};
use logmill_wire::api::describe_cluster::{DescribeClusterBroker, Request, Response};
use logmill_wire::error_codes::ErrorCode;

const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

pub(super) fn handle<R: Runtime>(call: Call<R>) -> Handled {
    let request: Request = decode(&call.body, call.answer.version)?;
    let image = call.services.image();
    let mut response = Response { endpoint_type: BROKERS, ..Response::default() };
    if request.endpoint_type != BROKERS {
        let (error, message) = if request.endpoint_type == CONTROLLERS {
            (
                ErrorCode::MismatchedEndpointType,
                "This listener serves brokers; ask a listener of the controllers.",
            )
        } else {
            (ErrorCode::UnsupportedEndpointType, "The endpoint type is neither brokers nor controllers.")
        };
        response.error_code = error.code();
        response.error_message = Some(message.into());
        return call.answer.ready(&response);
    }
    if request.include_cluster_authorized_operations && call.allows(Operation::Describe, Resource::Cluster) {
        let authorizer = &call.services.state.authorizer;
        response.cluster_authorized_operations =
            authorizer.authorized_operations(&call.context, Resource::Cluster);
    }
    response.cluster_id = image.cluster_id().unwrap_or_default().to_string().into();
    response.controller_id = controller_id(&call.services, &image);
    response.brokers = image
        .brokers()
        .filter(|broker| request.include_fenced_brokers || !broker.fenced)
        .filter_map(|broker| {
            let endpoint = broker.endpoint(&call.context.listener)?;
            Some(DescribeClusterBroker {
                broker_id: broker.id.0,
                host: endpoint.host.clone().into(),
                port: i32::from(endpoint.port),
                rack: broker.rack.clone().map(Into::into),
                is_fenced: broker.fenced,
            })
        })
        .collect();
    call.answer.ready(&response)
}
