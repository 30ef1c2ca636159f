//! The null broker's answers, one function per API.

use super::Service;
use super::store::Topic;
use bytes::Bytes;
use logmill_wire::api::{
    self, APIS, Message, api_versions, create_topics, delete_topics, fetch, init_producer_id, list_offsets,
    metadata, produce, request_header::RequestHeader,
};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::Uuid;
use logmill_wire::primitives::{DecodeError, EncodeError, Reader, Records};
use logmill_wire::record_batch::BatchView;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// The only broker of the null broker's cluster.
const NODE_ID: i32 = 1;

/// Partitions of a topic that is created without a number.
const DEFAULT_PARTITIONS: i32 = 1;

/// Partitions of one topic: what a request may make the null broker allocate.
const PARTITIONS_MAX: i32 = 100_000;

/// The APIs that are answered.
const ANSWERED: [i16; 8] = [
    produce::KEY,
    fetch::KEY,
    list_offsets::KEY,
    metadata::KEY,
    api_versions::KEY,
    create_topics::KEY,
    delete_topics::KEY,
    init_producer_id::KEY,
];

static NEXT_PRODUCER_ID: AtomicI64 = AtomicI64::new(1);

/// Why a connection is closed.
#[derive(Debug)]
pub(super) enum Refusal {
    Decode(DecodeError),
    Encode(EncodeError),
    UnknownApi(i16),
}

impl core::fmt::Display for Refusal {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Decode(error) => write!(f, "a request cannot be read: {error}"),
            Self::Encode(error) => write!(f, "a response cannot be written: {error}"),
            Self::UnknownApi(key) => write!(f, "the null broker does not answer API {key}"),
        }
    }
}

impl core::error::Error for Refusal {}

impl From<DecodeError> for Refusal {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

impl From<EncodeError> for Refusal {
    fn from(error: EncodeError) -> Self {
        Self::Encode(error)
    }
}

/// The response frame to one request frame, size prefix excluded; empty if none is due (`acks=0`).
pub(super) fn answer(service: &Service, frame: &[u8]) -> Result<Vec<Bytes>, Refusal> {
    let mut reader = Reader::new(frame);
    let header = api::decode_request_header(&mut reader)?;
    let (body, version) = (reader.rest(), header.request_api_version);
    match header.request_api_key {
        produce::KEY => {
            let request = produce::Request::decode_body(body, version)?;
            let response = produced(service, &request);
            if request.acks == 0 { Ok(Vec::new()) } else { respond(&header, &response) }
        }
        fetch::KEY => respond(&header, &fetched(service, &fetch::Request::decode_body(body, version)?)),
        list_offsets::KEY => {
            respond(&header, &listed(service, &list_offsets::Request::decode_body(body, version)?))
        }
        metadata::KEY => {
            respond(&header, &described(service, &metadata::Request::decode_body(body, version)?))
        }
        create_topics::KEY => {
            respond(&header, &created(service, &create_topics::Request::decode_body(body, version)?))
        }
        delete_topics::KEY => {
            respond(&header, &deleted(service, &delete_topics::Request::decode_body(body, version)?))
        }
        init_producer_id::KEY => {
            init_producer_id::Request::decode_body(body, version)?;
            let producer_id = NEXT_PRODUCER_ID.fetch_add(1, Ordering::Relaxed);
            respond(
                &header,
                &init_producer_id::Response { producer_id, producer_epoch: 0, ..Default::default() },
            )
        }
        api_versions::KEY => versions(&header),
        key => Err(Refusal::UnknownApi(key)),
    }
}

fn respond<'a, M: Message<'a>>(header: &RequestHeader<'_>, response: &M) -> Result<Vec<Bytes>, Refusal> {
    let (key, version) = (header.request_api_key, header.request_api_version);
    Ok(api::response_frame(response, key, version, header.correlation_id)?)
}

fn versions(header: &RequestHeader<'_>) -> Result<Vec<Bytes>, Refusal> {
    let known = api_versions::VERSIONS.contains(&header.request_api_version);
    let api_keys =
        APIS.iter().filter(|api| ANSWERED.contains(&api.key)).map(|api| api_versions::ApiVersion {
            api_key: api.key,
            min_version: api.min_version,
            max_version: api.max_version,
        });
    let error = if known { ErrorCode::None } else { ErrorCode::UnsupportedVersion };
    let response = api_versions::Response {
        error_code: error.code(),
        api_keys: api_keys.collect(),
        ..Default::default()
    };
    // An unknown version is answered in version 0, which every client can read (KIP-511).
    let version = if known { header.request_api_version } else { 0 };
    Ok(api::response_frame(&response, api_versions::KEY, version, header.correlation_id)?)
}

fn produced<'a>(service: &Service, request: &produce::Request<'a>) -> produce::Response<'a> {
    let responses = request.topic_data.iter().map(|data| {
        let topic = service.store.topic(&data.name, data.topic_id);
        let partition_responses = data.partition_data.iter().map(|partition| {
            let bytes = partition.records.as_ref().and_then(Records::borrowed).unwrap_or_default();
            let (error, base_offset) = match append(service, topic.as_deref(), partition.index, bytes) {
                Ok(base_offset) => (0, base_offset),
                Err(error) => (error, -1),
            };
            produce::PartitionProduceResponse {
                index: partition.index,
                error_code: error,
                base_offset,
                log_start_offset: if error == 0 { 0 } else { -1 },
                ..Default::default()
            }
        });
        produce::TopicProduceResponse {
            partition_responses: partition_responses.collect(),
            name: data.name.clone(),
            topic_id: data.topic_id,
        }
    });
    let responses = responses.collect();
    service.store.announce_append();
    produce::Response { responses, ..Default::default() }
}

/// Keeps the batch; only its length and format are checked, because a real check is a real broker's cost.
fn append(service: &Service, topic: Option<&Topic>, index: i32, bytes: &[u8]) -> Result<i64, i16> {
    if service.produce_error != 0 {
        return Err(service.produce_error);
    }
    let batch = BatchView::only(bytes).map_err(|error| ErrorCode::from(&error).code())?;
    let mut partition = topic
        .and_then(|topic| topic.partition(index))
        .ok_or_else(|| ErrorCode::UnknownTopicOrPartition.code())?;
    Ok(partition.append(&batch, service.keep_bytes))
}

/// Reads at once, or waits until there is at least one record, an error or the request's time is over. Every
/// fetch is a full one: session id 0 tells the client that it has none (KIP-227).
fn fetched<'a>(service: &Service, request: &fetch::Request<'a>) -> fetch::Response<'a> {
    let mut response = read_now(service, request);
    let worth_sending = |response: &fetch::Response<'_>| {
        response.responses.iter().any(|topic| {
            let mut partitions = topic.partitions.iter();
            partitions
                .any(|data| data.error_code != 0 || data.records.is_some_and(|records| !records.is_empty()))
        })
    };
    if request.min_bytes > 0 && request.max_wait_ms > 0 && !worth_sending(&response) {
        let timeout = Duration::from_millis(u64::from(request.max_wait_ms.unsigned_abs()));
        service.store.wait_until(timeout, || {
            response = read_now(service, request);
            worth_sending(&response)
        });
    }
    response
}

fn read_now<'a>(service: &Service, request: &fetch::Request<'a>) -> fetch::Response<'a> {
    let mut left = usize::try_from(request.max_bytes).unwrap_or(0);
    let mut responses = Vec::with_capacity(request.topics.len());
    for asked in &request.topics {
        let topic = service.store.topic(&asked.topic, asked.topic_id);
        let mut partitions = Vec::with_capacity(asked.partitions.len());
        for partition in &asked.partitions {
            let (data, bytes) = read_partition(topic.as_deref(), &partition, left);
            left = left.saturating_sub(bytes);
            partitions.push(data);
        }
        responses.push(fetch::FetchableTopicResponse {
            topic: asked.topic.clone(),
            topic_id: asked.topic_id,
            partitions: partitions.into(),
        });
    }
    fetch::Response { responses: responses.into(), ..Default::default() }
}

fn read_partition<'a>(
    topic: Option<&Topic>,
    asked: &fetch::FetchPartition,
    bytes_left: usize,
) -> (fetch::PartitionData<'a>, usize) {
    let mut data = fetch::PartitionData {
        partition_index: asked.partition,
        aborted_transactions: None,
        records: Some(Records::default()),
        high_watermark: -1,
        ..Default::default()
    };
    let Some(partition) = topic.and_then(|topic| topic.partition(asked.partition)) else {
        data.error_code = ErrorCode::UnknownTopicOrPartition.code();
        return (data, 0);
    };
    data.high_watermark = partition.end_offset();
    data.last_stable_offset = partition.end_offset();
    data.log_start_offset = partition.start_offset();
    let bytes_max = usize::try_from(asked.partition_max_bytes).unwrap_or(0).min(bytes_left);
    if bytes_left == 0 {
        return (data, 0);
    }
    match partition.read(asked.fetch_offset, bytes_max) {
        None => data.error_code = ErrorCode::OffsetOutOfRange.code(),
        Some(batches) => data.records = Some(batches.into()),
    }
    let bytes = data.records.as_ref().map_or(0, Records::len);
    (data, bytes)
}

fn listed<'a>(service: &Service, request: &list_offsets::Request<'a>) -> list_offsets::Response<'a> {
    let topics = request.topics.iter().map(|asked| {
        let topic = service.store.topic(&asked.name, Uuid::ZERO);
        let partitions = asked.partitions.iter().map(|partition| {
            let found = topic.as_deref().and_then(|topic| topic.partition(partition.partition_index));
            let (error, offset) = match found {
                None => (ErrorCode::UnknownTopicOrPartition, -1),
                Some(found) if partition.timestamp == crate::cluster::LATEST => {
                    (ErrorCode::None, found.end_offset())
                }
                // The null broker keeps no index of times: any time is answered with the log's start.
                Some(found) => (ErrorCode::None, found.start_offset()),
            };
            list_offsets::ListOffsetsPartitionResponse {
                partition_index: partition.partition_index,
                error_code: error.code(),
                offset,
                ..Default::default()
            }
        });
        list_offsets::ListOffsetsTopicResponse { partitions: partitions.collect(), name: asked.name.clone() }
    });
    list_offsets::Response { topics: topics.collect(), ..Default::default() }
}

fn described<'a>(service: &Service, request: &metadata::Request<'a>) -> metadata::Response<'a> {
    let topics = match &request.topics {
        None => service.store.topics().iter().map(|topic| described_topic(topic)).collect(),
        Some(asked) => asked
            .iter()
            .map(|asked| {
                let name = asked.name.clone().unwrap_or_default();
                match service.store.topic(&name, asked.topic_id) {
                    Some(topic) => described_topic(&topic),
                    None => metadata::MetadataResponseTopic {
                        error_code: ErrorCode::UnknownTopicOrPartition.code(),
                        name: Some(name),
                        topic_id: asked.topic_id,
                        ..Default::default()
                    },
                }
            })
            .collect(),
    };
    let broker = metadata::MetadataResponseBroker {
        node_id: NODE_ID,
        host: service.address.ip().to_string().into(),
        port: i32::from(service.address.port()),
        ..Default::default()
    };
    metadata::Response {
        brokers: vec![broker].into(),
        cluster_id: Some("null-broker".into()),
        controller_id: NODE_ID,
        topics,
        ..Default::default()
    }
}

fn described_topic<'a>(topic: &Topic) -> metadata::MetadataResponseTopic<'a> {
    let partitions = (0..topic.partitions.len()).map(|index| metadata::MetadataResponsePartition {
        partition_index: i32::try_from(index).unwrap_or(i32::MAX),
        leader_id: NODE_ID,
        leader_epoch: 0,
        replica_nodes: vec![NODE_ID].into(),
        isr_nodes: vec![NODE_ID].into(),
        ..Default::default()
    });
    metadata::MetadataResponseTopic {
        name: Some(topic.name.clone().into()),
        topic_id: topic.id,
        partitions: partitions.collect(),
        ..Default::default()
    }
}

fn created<'a>(service: &Service, request: &create_topics::Request<'a>) -> create_topics::Response<'a> {
    let topics = request.topics.iter().map(|topic| {
        let count = if topic.num_partitions == -1 { DEFAULT_PARTITIONS } else { topic.num_partitions };
        let error = match usize::try_from(count) {
            Ok(partitions @ 1..) if count <= PARTITIONS_MAX => {
                if request.validate_only || service.store.create(&topic.name, partitions) {
                    ErrorCode::None
                } else {
                    ErrorCode::TopicAlreadyExists
                }
            }
            _ => ErrorCode::InvalidPartitions,
        };
        let stored = service.store.topic(&topic.name, Uuid::ZERO);
        create_topics::CreatableTopicResult {
            topic_id: stored.map_or(Uuid::ZERO, |stored| stored.id),
            error_code: error.code(),
            num_partitions: count,
            replication_factor: 1,
            name: topic.name.clone(),
            error_message: None,
            ..Default::default()
        }
    });
    create_topics::Response { topics: topics.collect(), ..Default::default() }
}

fn deleted<'a>(service: &Service, request: &delete_topics::Request<'a>) -> delete_topics::Response<'a> {
    let named = request.topics.iter().map(|topic| (topic.name, topic.topic_id));
    let named = named.chain(request.topic_names.iter().map(|name| (Some(name), Uuid::ZERO)));
    let responses = named.map(|(name, id)| {
        let is_deleted = service.store.delete(name.as_deref().unwrap_or_default(), id);
        let error = if is_deleted { ErrorCode::None } else { ErrorCode::UnknownTopicOrPartition };
        delete_topics::DeletableTopicResult {
            name,
            topic_id: id,
            error_code: error.code(),
            ..Default::default()
        }
    });
    delete_topics::Response { responses: responses.collect(), ..Default::default() }
}
