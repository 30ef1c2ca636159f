//! InitProducerId: the identity of an idempotent producer (KIP-98, KIP-360).

use super::call::{Call, Handled, decode};
use crate::runtime::Runtime;
use logmill_state::admission::authorizer::{Operation, Resource};
use logmill_wire::api::init_producer_id::{Request, Response};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::ProducerId;

fn refused(error: ErrorCode) -> Response {
    Response {
        error_code: error.code(),
        producer_id: ProducerId::NONE.0,
        producer_epoch: -1,
        ..Response::default()
    }
}

pub(super) fn handle<R: Runtime>(call: Call<R>) -> Handled {
    let request: Request<'_> = decode(&call.body, call.answer.version)?;
    let refusal = match request.transactional_id.as_deref() {
        Some("") => Some(ErrorCode::InvalidRequest),
        // There are no transactions. Of the codes that a producer may get here this one ends it at once; with a
        // coordinator "not available" it would try until its timeout, which says nothing to its user.
        Some(_) => Some(ErrorCode::TransactionalIdAuthorizationFailed),
        None if (request.producer_id < 0) != (request.producer_epoch < 0) => Some(ErrorCode::InvalidRequest),
        None if !call.allows(Operation::IdempotentWrite, Resource::Cluster) => {
            Some(ErrorCode::ClusterAuthorizationFailed)
        }
        None => None,
    };
    if let Some(error) = refusal {
        return call.answer.ready(&refused(error));
    }
    let Call { services, answer, .. } = call;
    Ok(Box::pin(async move {
        let response = match services.state.producer_ids.next(&services.cluster).await {
            Ok(id) => Response { producer_id: id.0, producer_epoch: 0, ..Response::default() },
            Err(refusal) => {
                tracing::warn!(cause = %refusal.message, "a producer gets no id");
                refused(refusal.code)
            }
        };
        answer.reply(&response)
    }))
}
