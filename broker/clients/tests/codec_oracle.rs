//! The message codec against `kafka-protocol`, which is generated from Kafka 4.1's definitions: for every
//! message and version that both know, each decodes what the other encodes, and encodes it to the same bytes.

use bytes::Bytes;
use kafka_protocol::protocol::{Decodable, Encodable, Message as OracleMessage};
use logmill_wire::api::Message;
use logmill_wire::primitives::Writer;
use logmill_wire::samples::{self, Sample, Shape};
use std::fmt::Debug;

/// Random mixtures per message and version, beside the samples of the other shapes.
const MIXED_SAMPLES: u64 = 300;

/// Versions that the oracle's release of Kafka does not have.
const BEYOND_THE_ORACLE: [(&str, i16); 13] = [
    ("AddRaftVoterRequest", 1),
    ("AddRaftVoterResponse", 1),
    ("ApiVersionsRequest", 5),
    ("ApiVersionsResponse", 5),
    ("DeleteGroupsRequest", 3),
    ("DeleteGroupsResponse", 3),
    ("DescribeLogDirsRequest", 5),
    ("DescribeLogDirsResponse", 5),
    ("InitProducerIdRequest", 6),
    ("ListOffsetsRequest", 11),
    ("ListOffsetsResponse", 11),
    ("OffsetCommitRequest", 10),
    ("OffsetFetchRequest", 10),
];

fn ours<'a, M: Message<'a>>(message: &M, version: i16) -> Bytes {
    let mut writer = Writer::new();
    message.encode(&mut writer, version).expect("a sample can be encoded");
    writer.finish().concat().into()
}

/// The bytes come back from the oracle unchanged.
fn through_the_oracle<O: Encodable + Decodable + Debug>(bytes: &Bytes, version: i16, what: &str) -> Bytes {
    let mut rest = bytes.clone();
    let decoded = O::decode(&mut rest, version)
        .unwrap_or_else(|error| panic!("{what}: the oracle refuses it: {error}"));
    assert!(rest.is_empty(), "{what}: the oracle leaves {} bytes", rest.len());
    // The oracle carries along tags that it does not know, which would hide a wrong tag of ours.
    let shown = format!("{decoded:?}");
    let tags = shown.matches("unknown_tagged_fields: {").count();
    assert_eq!(tags, shown.matches("unknown_tagged_fields: {}").count(), "{what}: unknown tags in {shown}");
    theirs(&decoded, version, what)
}

fn theirs<O: Encodable>(message: &O, version: i16, what: &str) -> Bytes {
    let mut encoded = bytes::BytesMut::new();
    message
        .encode(&mut encoded, version)
        .unwrap_or_else(|error| panic!("{what}: the oracle cannot encode it: {error}"));
    encoded.freeze()
}

macro_rules! check_message {
    ($module:ident, $message:ident, $name:ident, $beyond:expr, $compared:expr) => {{
        type Oracle = kafka_protocol::messages::$name;
        let known = <Oracle as OracleMessage>::VERSIONS;
        for version in logmill_wire::api::$module::VERSIONS {
            if version < known.min || version > known.max {
                $beyond.push((stringify!($name), version));
                continue;
            }
            let shapes = [(Shape::Full, 0), (Shape::Null, 0), (Shape::Default, 0)];
            let mixed = (0..MIXED_SAMPLES).map(|seed| (Shape::Mixed, seed));
            for (shape, seed) in shapes.into_iter().chain(mixed) {
                let what = format!("{} v{version} {shape:?} {seed}", stringify!($name));
                let sample = sample::<logmill_wire::api::$module::$message>(shape, seed, version);
                let bytes = ours(&sample, version);
                let returned = through_the_oracle::<Oracle>(&bytes, version, &what);
                assert_eq!(returned, bytes, "{what}");
                let decoded = logmill_wire::api::$module::$message::decode_body(&returned, version).unwrap();
                assert_eq!(decoded, sample, "{what}");
                $compared += 1;
            }
        }
    }};
}

fn sample<'a, M: Message<'a> + Sample>(shape: Shape, seed: u64, version: i16) -> M {
    samples::message::<M>(shape, seed, version)
}

#[test]
fn every_shared_version_has_the_same_bytes_in_both_codecs() {
    let mut beyond = Vec::new();
    let mut compared = 0_u64;
    logmill_wire::for_each_message!(check_message, beyond, compared);
    beyond.sort_unstable();
    assert_eq!(beyond, BEYOND_THE_ORACLE);
    assert!(compared > 150 * MIXED_SAMPLES, "only {compared} samples were compared");
}

macro_rules! check_default {
    ($module:ident, $message:ident, $name:ident) => {{
        type Oracle = kafka_protocol::messages::$name;
        let known = <Oracle as OracleMessage>::VERSIONS;
        for version in logmill_wire::api::$module::VERSIONS
            .filter(|version| known.min <= *version && *version <= known.max)
        {
            let what = format!("the default {} v{version}", stringify!($name));
            let bytes = theirs(&Oracle::default(), version, &what);
            let default = logmill_wire::api::$module::$message::default();
            assert_eq!(ours(&default, version), bytes, "{what}");
            assert_eq!(
                logmill_wire::api::$module::$message::decode_body(&bytes, version),
                Ok(default),
                "{what}"
            );
        }
    }};
}

#[test]
fn defaults_are_the_same_in_both_codecs() {
    logmill_wire::for_each_message!(check_default);
}
