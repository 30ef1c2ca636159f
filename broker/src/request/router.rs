//! From a frame to its handler.

use super::call::{Answer, Call, Origin, Pending, RouteError};
use super::services::Services;
use super::versions::{Advertised, advertised, dispatch};
use crate::runtime::Runtime;
use crate::shard::memory::{MemoryClass, Reservation};
use bytes::Bytes;
use logmill_state::admission::authorizer::RequestContext;
use logmill_wire::api;
use logmill_wire::primitives::Reader;
use std::rc::Rc;
use std::sync::Arc;

/// The class in which a request's frame finds room. The answers to Fetch have a class of their own, because who
/// waits for room must not hold room of the same class.
#[must_use]
pub const fn frame_class(key: i16) -> MemoryClass {
    if key == api::produce::KEY { MemoryClass::Produce } else { MemoryClass::Control }
}

/// Whether a connection may begin with a request of this API that is larger than a header needs: a simple
/// producer may begin with its records.
#[must_use]
pub const fn may_begin_large(key: i16) -> bool {
    key == api::produce::KEY
}

/// Begins a request: reads its header, checks that it is offered, and calls its handler. Everything that must
/// happen in the order of a connection's requests has happened when this returns. `connection` takes over the
/// client id of the request.
///
/// # Errors
/// Why the connection must be closed.
pub fn route<R: Runtime>(
    services: &Rc<Services<R>>,
    connection: &mut Rc<RequestContext>,
    frame: &Bytes,
    room: Reservation,
) -> Result<Pending, RouteError> {
    route_from(Origin::Client, services, connection, frame, room)
}

/// As [`route`], of a request that came some other way.
pub(super) fn route_from<R: Runtime>(
    origin: Origin,
    services: &Rc<Services<R>>,
    connection: &mut Rc<RequestContext>,
    frame: &Bytes,
    room: Reservation,
) -> Result<Pending, RouteError> {
    let mut reader = Reader::new(frame);
    let header = api::decode_request_header(&mut reader)?;
    let (key, version) = (header.request_api_key, header.request_api_version);
    let is_of_controllers = services.is_of_controllers(&connection.listener);
    // What another node has forwarded was offered there.
    let is_offered = |api: &Advertised| origin == Origin::Broker || api.is_offered(is_of_controllers);
    let offered = advertised(key).filter(|api| is_offered(api) && api.answers(version));
    let answer = Answer { key, version, correlation_id: header.correlation_id, room };
    if offered.is_none() {
        if key == api::api_versions::KEY {
            return Ok(super::api_versions::unknown_version(answer, is_of_controllers));
        }
        return Err(RouteError::NotOffered { key, version });
    }
    if connection.client_id.as_deref() != header.client_id.as_deref() {
        let client_id = header.client_id.as_deref().map(Arc::from);
        *connection = Rc::new(RequestContext { client_id, ..RequestContext::clone(connection) });
    }
    let context = Rc::clone(connection);
    let body = frame.slice_ref(reader.rest());
    let is_for_controller = offered.is_some_and(|offered| offered.is_for_controller);
    let call = Call { services: Rc::clone(services), context, body, answer, origin };
    if is_for_controller && origin == Origin::Client && services.cluster.has_other_controllers() {
        return Ok(super::forwarding::forward(call, frame.clone()));
    }
    dispatch(call).map_err(RouteError::Decode)
}
