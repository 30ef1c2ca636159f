//! Requests on their way to the active controller, and back.

use super::{Fixture, body};
use crate::cluster::command::Forwarding;
use crate::request::call::Outcome;
use crate::request::forwarding::answer_forwarded;
use logmill_wire::api::create_topics::{CreatableTopic, Request, Response};
use logmill_wire::api::{Message, alter_configs, metadata};
use logmill_wire::error_codes::ErrorCode;
use std::rc::Rc;

const VERSION: i16 = 7;

fn create(name: &'static str) -> Request<'static> {
    let topic = CreatableTopic {
        name: name.into(),
        num_partitions: 1,
        replication_factor: 1,
        ..CreatableTopic::default()
    };
    Request { topics: vec![topic].into(), timeout_ms: 1_000, ..Request::default() }
}

fn codes(bytes: &[u8]) -> Vec<i16> {
    let response = Response::decode_body(bytes, VERSION).unwrap();
    response.topics.iter().map(|topic| topic.error_code).collect()
}

#[test]
fn the_controllers_answer_is_the_clients() {
    let fixture = Fixture::with_other_controllers();
    *fixture.broker.forwarding.borrow_mut() = Forwarding::Answered(b"an answer".as_slice().into());
    let Outcome::Reply(reply) = fixture.outcome(&create("orders"), VERSION) else { panic!() };
    assert_eq!(reply.parts.concat(), b"an answer");
    assert_eq!(reply.room.bytes(), 9);
    drop(reply);
    let request = fixture.broker.forwarded.borrow_mut().remove(0);
    assert_eq!(request.context.principal, fixture.context.principal);
    assert_eq!(request.context.peer, fixture.context.peer);
    assert!(fixture.broker.image().topic_by_name("orders").is_none(), "nothing is decided here");
    fixture.assert_all_room_is_free();

    // On the controller it is carried out, and not forwarded again.
    let controller = Fixture::with_other_controllers();
    let services = Rc::clone(&controller.services);
    let answering = answer_forwarded(services, request.clone());
    let frame = controller.world.block_on(&controller.runtime, answering).unwrap();
    assert!(controller.broker.image().topic_by_name("orders").is_some());
    assert!(controller.broker.forwarded.borrow().is_empty());
    // Size, correlation id and tags stand before the body.
    assert_eq!(codes(&frame[9..]), [0]);
    controller.assert_all_room_is_free();
}

#[test]
fn who_is_the_controller_or_finds_none_answers() {
    let fixture = Fixture::with_other_controllers();
    assert_eq!(codes(&body(fixture.outcome(&create("orders"), VERSION), 19, VERSION)), [0]);
    assert_eq!(fixture.broker.forwarded.borrow().len(), 1);
    *fixture.broker.forwarding.borrow_mut() = Forwarding::Failed;
    *fixture.broker.metadata_error.borrow_mut() =
        Some(crate::cluster::command::MetadataError::NotController(None));
    let code = ErrorCode::NotController.code();
    assert_eq!(codes(&body(fixture.outcome(&create("more"), VERSION), 19, VERSION)), [code]);
}

#[test]
fn only_what_the_controller_decides_is_forwarded() {
    let fixture = Fixture::with_other_controllers();
    fixture.outcome(&metadata::Request::default(), 12);
    assert!(fixture.broker.forwarded.borrow().is_empty());
    fixture.outcome(&alter_configs::Request::default(), 2);
    let mut request = fixture.broker.forwarded.borrow_mut().remove(0);
    for frame in [&[0_u8, 3, 0, 12][..], &[0], &[], &[0, 19, 0, 99, 0, 0], &[0, 19, 0, 7, 1]] {
        request.frame = bytes::Bytes::copy_from_slice(frame);
        let answering = answer_forwarded(Rc::clone(&fixture.services), request.clone());
        assert_eq!(fixture.world.block_on(&fixture.runtime, answering), None, "{frame:?}");
    }
    fixture.assert_all_room_is_free();
}
