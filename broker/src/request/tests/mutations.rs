//! Bytes from strangers, through the router: damaged requests of every API and version.

use super::{Fixture, batch};
use crate::request::versions::advertised;
use crate::shard::deadline::within;
use logmill_wire::api::{self, ApiRequest, Message};
use logmill_wire::ids::{PartitionIndex, TopicPartition};
use logmill_wire::primitives::Writer;
use logmill_wire::samples::{self, Pattern, Sample, Shape};
use std::time::Duration;

const CASES_PER_VERSION: u64 = 60;

fn damage(bytes: &mut Vec<u8>, pattern: &mut Pattern) {
    for _ in 0..=pattern.bits() % 3 {
        let at = (pattern.bits() as usize) % (bytes.len() + 1);
        match pattern.bits() % 5 {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, pattern.bits() as u8),
            2 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (pattern.bits() % 8)),
            3 => bytes.iter_mut().skip(at).zip(i32::MAX.to_be_bytes()).for_each(|(byte, with)| *byte = with),
            _ => bytes.iter_mut().skip(at).zip([0xff; 5]).for_each(|(byte, with)| *byte = with),
        }
    }
}

fn frame<'a, Q: ApiRequest<'a> + Sample>(seed: u64, version: i16) -> Vec<u8> {
    let mut pattern = Pattern::new(Shape::Mixed, seed);
    let shape = [Shape::Full, Shape::Mixed, Shape::Null, Shape::Default][(seed % 4) as usize];
    let mut writer = Writer::new();
    let header = api::request_header::RequestHeader {
        request_api_key: Q::KEY,
        request_api_version: version,
        correlation_id: 1,
        client_id: Some("c".into()),
    };
    header.encode(&mut writer, api::header_versions(Q::KEY, version).unwrap().request).unwrap();
    samples::message::<Q>(shape, seed / 4, version).encode(&mut writer, version).unwrap();
    let mut bytes = writer.finish().concat();
    if !seed.is_multiple_of(5) {
        // Key and version stay, or everything would be about the router's first check.
        let mut tail = bytes.split_off(4);
        damage(&mut tail, &mut pattern);
        bytes.extend(tail);
    }
    bytes
}

fn storm<'a, Q: ApiRequest<'a> + Sample>(fixture: &Fixture) -> usize {
    let mut answered = 0;
    let api = advertised(Q::KEY).unwrap();
    for version in api.answered_from..=api.max {
        for seed in 0..CASES_PER_VERSION {
            let frame = frame::<Q>(seed, version);
            let Ok(pending) = fixture.begin(&frame) else {
                assert_ne!(seed % 5, 0, "{} v{version} refuses a sound request (seed {seed})", Q::NAME);
                continue;
            };
            // A wait that a damaged number makes long is cut short.
            let runtime = fixture.runtime.clone();
            let outcome = fixture.world.block_on(&fixture.runtime, async move {
                within(&runtime, Duration::from_secs(2), pending).await
            });
            answered += usize::from(outcome.is_some());
        }
    }
    answered
}

#[test]
fn no_request_panics_or_leaks() {
    let fixture = Fixture::new();
    let topic_id = fixture.create("t", 2);
    fixture.broker.append(TopicPartition { topic_id, partition: PartitionIndex(0) }, &batch(1, 1));
    let mut answered = 0;
    answered += storm::<api::alter_partition_reassignments::Request<'_>>(&fixture);
    answered += storm::<api::add_raft_voter::Request<'_>>(&fixture);
    answered += storm::<api::describe_quorum::Request<'_>>(&fixture);
    answered += storm::<api::remove_raft_voter::Request<'_>>(&fixture);
    answered += storm::<api::update_features::Request<'_>>(&fixture);
    answered += storm::<api::elect_leaders::Request<'_>>(&fixture);
    answered += storm::<api::list_partition_reassignments::Request<'_>>(&fixture);
    answered += storm::<api::unregister_broker::Request>(&fixture);
    answered += storm::<api::api_versions::Request<'_>>(&fixture);
    answered += storm::<api::create_topics::Request<'_>>(&fixture);
    answered += storm::<api::delete_topics::Request<'_>>(&fixture);
    answered += storm::<api::describe_cluster::Request>(&fixture);
    answered += storm::<api::fetch::Request<'_>>(&fixture);
    answered += storm::<api::find_coordinator::Request<'_>>(&fixture);
    answered += storm::<api::init_producer_id::Request<'_>>(&fixture);
    answered += storm::<api::list_offsets::Request<'_>>(&fixture);
    answered += storm::<api::metadata::Request<'_>>(&fixture);
    answered += storm::<api::offset_for_leader_epoch::Request<'_>>(&fixture);
    answered += storm::<api::produce::Request<'_>>(&fixture);
    let of_controllers = Fixture::on_controllers();
    answered += storm::<api::update_raft_voter::Request<'_>>(&of_controllers);
    answered += storm::<api::describe_cluster::Request>(&of_controllers);
    of_controllers.assert_all_room_is_free();
    assert!(answered > 1_000, "{answered}: most damage must get past the decoder, or this tests little");
    fixture.assert_all_room_is_free();
}
