//! UnregisterBroker: a broker that will not come back is forgotten (KIP-631).

use super::call::{Call, Handled, Refusal, decode};
use super::metadata_change::outcome;
use crate::cluster::command::MetadataCommand;
use crate::cluster::placement_command::PlacementCommand;
use crate::runtime::{Runtime, oneshot};
use logmill_state::admission::authorizer::{Operation, Resource};
use logmill_state::metadata::BrokerError;
use logmill_wire::api::unregister_broker::{Request, Response};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::NodeId;

/// The request has no timeout of its own; this is that of Kafka's clients, in milliseconds.
const TIMEOUT_MS: i32 = 30_000;

pub(super) fn handle<R: Runtime>(call: Call<R>) -> Handled {
    let request: Request = decode(&call.body, call.answer.version)?;
    let broker = NodeId(request.broker_id);
    if !call.allows(Operation::Alter, Resource::Cluster) {
        return call.answer.ready(&response(Err(Refusal::plain(ErrorCode::ClusterAuthorizationFailed))));
    }
    let (reply, receiver) = oneshot::channel();
    let command = PlacementCommand::UnregisterBroker { broker, reply };
    call.services.cluster.send(MetadataCommand::Placement(command));
    let Call { services, answer, .. } = call;
    Ok(Box::pin(async move {
        let outcome = outcome(&services, TIMEOUT_MS, receiver).await.and_then(|decided| {
            decided.map_err(|error| match error {
                BrokerError::NotRegistered => Refusal::new(
                    ErrorCode::BrokerIdNotRegistered,
                    format!("Broker ID {broker} is not currently registered"),
                ),
                BrokerError::StaleIncarnation => Refusal::plain(ErrorCode::StaleBrokerEpoch),
            })
        });
        answer.reply(&response(outcome))
    }))
}

fn response(outcome: Result<(), Refusal>) -> Response<'static> {
    let refusal = outcome.err();
    Response {
        error_code: refusal.as_ref().map_or(0, |refusal| refusal.code.code()),
        error_message: refusal.map(|refusal| refusal.message.into()),
        ..Response::default()
    }
}
