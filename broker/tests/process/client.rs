//! A blocking client of one connection, on the broker's own codec.

use bytes::Bytes;
use logmill_wire::api::{
    ApiRequest, Message, create_topics, delete_topics, fetch, header_versions, init_producer_id,
    list_offsets, metadata, offset_for_leader_epoch, produce, request_frame,
};
use logmill_wire::ids::{Offset, ProducerEpoch, ProducerId, TimestampMs, Uuid};
use logmill_wire::record_batch::{BatchBuilder, BatchView, whole_batches};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// How long a reply may take unless a test says otherwise.
const PATIENCE: Duration = Duration::from_secs(30);

pub const PRODUCE: i16 = 9;
pub const FETCH: i16 = 11;

/// A connection.
pub struct Client {
    pub stream: TcpStream,
    next_correlation_id: i32,
}

/// A reply, still encoded.
pub struct Answer {
    body: Vec<u8>,
    version: i16,
}

impl Answer {
    pub fn body<'a, M: Message<'a>>(&'a self) -> M {
        M::decode_body(&self.body, self.version).expect("a reply that can be read")
    }
}

/// What is known of an append after it was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub error: i16,
    pub base_offset: i64,
}

/// What a fetch of one partition returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    pub error: i16,
    pub high_watermark: i64,
    pub records: Vec<u8>,
}

impl Fetched {
    /// The values of all whole batches, each with its offset.
    pub fn values(&self) -> Vec<(i64, Vec<u8>)> {
        let mut values = Vec::new();
        for batch in whole_batches(&self.records) {
            let batch = batch.expect("a batch");
            let contents = batch.contents(64 << 20).expect("records");
            for record in contents.records() {
                let record = record.expect("a record");
                let value = record.value.map(<[u8]>::to_vec).unwrap_or_default();
                values.push((record.offset(batch.header()).0, value));
            }
        }
        values
    }
}

/// A batch of one record.
pub fn batch(value: &[u8]) -> Bytes {
    let mut builder = BatchBuilder::new();
    builder.append(TimestampMs(1_700_000_000_000), None, Some(value), &[]);
    builder.finish().unwrap().into()
}

/// A batch of an idempotent producer.
pub fn sequenced_batch(producer: (i64, i16), sequence: i32, values: &[&[u8]]) -> Bytes {
    let mut builder =
        BatchBuilder::new().producer(ProducerId(producer.0), ProducerEpoch(producer.1), sequence);
    for value in values {
        builder.append(TimestampMs(1_700_000_000_000), None, Some(value), &[]);
    }
    let bytes = builder.finish().unwrap();
    assert_eq!(BatchView::only(&bytes).unwrap().header().base_offset, Offset(0));
    bytes.into()
}

/// A request to append to partitions of one topic.
pub fn produce_request<'a>(
    topic: &'a str,
    acks: i16,
    partitions: impl IntoIterator<Item = (i32, Bytes)>,
) -> produce::Request<'a> {
    let partition_data = partitions
        .into_iter()
        .map(|(index, records)| produce::PartitionProduceData { index, records: Some(records.into()) })
        .collect();
    let topic = produce::TopicProduceData { name: topic.into(), partition_data, ..Default::default() };
    produce::Request { acks, timeout_ms: 30_000, topic_data: vec![topic].into(), ..Default::default() }
}

/// A request to fetch one partition, outside any session.
pub fn fetch_request(
    topic: &str,
    partition: i32,
    offset: i64,
    max_wait_ms: i32,
    max_bytes: i32,
) -> fetch::Request<'_> {
    let partition = fetch::FetchPartition {
        partition,
        fetch_offset: offset,
        partition_max_bytes: max_bytes,
        ..Default::default()
    };
    let topic =
        fetch::FetchTopic { topic: topic.into(), partitions: vec![partition].into(), ..Default::default() };
    fetch::Request { max_wait_ms, min_bytes: 1, max_bytes, topics: vec![topic].into(), ..Default::default() }
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the node listens");
        stream.set_nodelay(true).unwrap();
        let client = Self { stream, next_correlation_id: 1 };
        client.patience(PATIENCE);
        client
    }

    /// How long a reply may take from now on.
    pub fn patience(&self, patience: Duration) {
        self.stream.set_read_timeout(Some(patience)).unwrap();
        self.stream.set_write_timeout(Some(patience)).unwrap();
    }

    /// Sends a request, and returns its correlation id.
    pub fn send<'a, R: ApiRequest<'a>>(&mut self, request: &R, version: i16) -> i32 {
        let id = self.next_correlation_id;
        self.next_correlation_id += 1;
        let frame = request_frame(request, version, id, Some("process-test")).expect("a request").concat();
        self.stream.write_all(&frame).expect("the node reads");
        id
    }

    /// The next reply: its correlation id, and everything behind it.
    pub fn receive_frame(&mut self) -> io::Result<(i32, Vec<u8>)> {
        let mut prefix = [0; 8];
        self.stream.read_exact(&mut prefix)?;
        let number = |bytes: &[u8]| i32::from_be_bytes(bytes.try_into().unwrap());
        let size = usize::try_from(number(&prefix[..4])).expect("a size");
        let mut rest = vec![0; size.checked_sub(4).expect("a correlation id")];
        self.stream.read_exact(&mut rest)?;
        Ok((number(&prefix[4..]), rest))
    }

    /// The next reply, to a request of this API and version.
    pub fn receive(&mut self, key: i16, version: i16) -> (i32, Answer) {
        let (id, mut body) = self.receive_frame().expect("a reply in time");
        if header_versions(key, version).expect("a known API").response == 1 {
            assert_eq!(body.first(), Some(&0), "no tagged fields in the header");
            body.remove(0);
        }
        (id, Answer { body, version })
    }

    /// Sends a request and waits for its reply.
    pub fn call<'a, R: ApiRequest<'a>>(&mut self, request: &R, version: i16) -> Answer {
        let sent = self.send(request, version);
        let (id, answer) = self.receive(R::KEY, version);
        assert_eq!(id, sent);
        answer
    }

    /// Whether the node closes the connection within `patience`, whatever it sends before.
    pub fn is_closed_within(&mut self, patience: Duration) -> bool {
        self.stream.set_read_timeout(Some(patience)).unwrap();
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == io::ErrorKind::ConnectionReset,
            }
        }
    }

    pub fn finish_sending(&self) {
        // The node may have closed it already.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Creates a topic with settings of its own, and returns its error.
    pub fn try_create_topic(
        &mut self,
        name: &str,
        partitions: i32,
        configs: &[(&str, &str)],
    ) -> Result<Uuid, i16> {
        let configs = configs
            .iter()
            .map(|(name, value)| create_topics::CreatableTopicConfig {
                name: (*name).into(),
                value: Some((*value).into()),
            })
            .collect();
        let topic = create_topics::CreatableTopic {
            name: name.into(),
            num_partitions: partitions,
            replication_factor: 1,
            configs,
            ..Default::default()
        };
        let request = create_topics::Request { topics: vec![topic].into(), ..Default::default() };
        let answer = self.call(&request, 7);
        let response: create_topics::Response = answer.body();
        let result = response.topics.iter().next().expect("one result");
        if result.error_code == 0 { Ok(result.topic_id) } else { Err(result.error_code) }
    }

    pub fn create_topic(&mut self, name: &str, partitions: i32) -> Uuid {
        self.try_create_topic(name, partitions, &[]).expect("the topic is created")
    }

    /// Deletes a topic, and returns the error.
    pub fn delete_topic(&mut self, name: &str) -> i16 {
        let request = delete_topics::Request { topic_names: vec![name.into()].into(), ..Default::default() };
        let answer = self.call(&request, 5);
        let response: delete_topics::Response = answer.body();
        response.responses.iter().next().expect("one result").error_code
    }

    /// Appends one batch.
    pub fn append(&mut self, topic: &str, partition: i32, acks: i16, batch: Bytes) -> Appended {
        let answer = self.call(&produce_request(topic, acks, [(partition, batch)]), PRODUCE);
        appended(&answer).first().map(|(_, appended)| *appended).expect("one result")
    }

    /// Appends one batch, which must succeed, and returns its offset.
    pub fn append_well(&mut self, topic: &str, partition: i32, batch: Bytes) -> i64 {
        let appended = self.append(topic, partition, -1, batch);
        assert_eq!(appended.error, 0, "{appended:?}");
        appended.base_offset
    }

    /// Fetches from one partition, without waiting for data.
    pub fn fetch(&mut self, topic: &str, partition: i32, offset: i64) -> Fetched {
        let answer = self.call(&fetch_request(topic, partition, offset, 0, 64 << 20), FETCH);
        fetched(&answer)
    }

    /// All records from `offset` to the end, however many fetches that takes: one need not go beyond a segment.
    pub fn read_all(&mut self, topic: &str, partition: i32, offset: i64) -> Vec<(i64, Vec<u8>)> {
        let mut all: Vec<(i64, Vec<u8>)> = Vec::new();
        loop {
            let next = all.last().map_or(offset, |(last, _)| last + 1);
            let fetched = self.fetch(topic, partition, next);
            assert_eq!(fetched.error, 0);
            let values = fetched.values();
            if values.is_empty() {
                assert_eq!(next, fetched.high_watermark, "the records end before the log does");
                return all;
            }
            all.extend(values.into_iter().filter(|(at, _)| *at >= next));
        }
    }

    /// The offset for a timestamp or a special position: error, timestamp, offset, leader epoch.
    pub fn list_offset(&mut self, topic: &str, partition: i32, timestamp: i64) -> (i16, i64, i64, i32) {
        let partition = list_offsets::ListOffsetsPartition {
            partition_index: partition,
            timestamp,
            ..Default::default()
        };
        let topic = list_offsets::ListOffsetsTopic { name: topic.into(), partitions: vec![partition].into() };
        let request =
            list_offsets::Request { replica_id: -1, topics: vec![topic].into(), ..Default::default() };
        let answer = self.call(&request, 7);
        let response: list_offsets::Response = answer.body();
        let topic = response.topics.iter().next().expect("one topic");
        let found = topic.partitions.iter().next().expect("one partition");
        (found.error_code, found.timestamp, found.offset, found.leader_epoch)
    }

    /// An idempotent producer's id and epoch.
    pub fn producer_id(&mut self) -> (i64, i16) {
        let request = init_producer_id::Request {
            transactional_id: None,
            transaction_timeout_ms: 60_000,
            ..Default::default()
        };
        let answer = self.call(&request, 4);
        let response: init_producer_id::Response = answer.body();
        assert_eq!(response.error_code, 0);
        (response.producer_id, response.producer_epoch)
    }

    /// Where a leader epoch's log ends: error, epoch, end offset.
    pub fn end_of_epoch(&mut self, topic: &str, partition: i32, epoch: i32) -> (i16, i32, i64) {
        let partition = offset_for_leader_epoch::OffsetForLeaderPartition {
            partition,
            leader_epoch: epoch,
            ..Default::default()
        };
        let topic = offset_for_leader_epoch::OffsetForLeaderTopic {
            topic: topic.into(),
            partitions: vec![partition].into(),
        };
        let request = offset_for_leader_epoch::Request { topics: vec![topic].into(), ..Default::default() };
        let answer = self.call(&request, 4);
        let response: offset_for_leader_epoch::Response = answer.body();
        let topic = response.topics.iter().next().expect("one topic");
        let end = topic.partitions.iter().next().expect("one partition");
        (end.error_code, end.leader_epoch, end.end_offset)
    }

    /// The leader epoch that Metadata names.
    pub fn leader_epoch(&mut self, topic: &str, partition: i32) -> i32 {
        let topic = metadata::MetadataRequestTopic { name: Some(topic.into()), ..Default::default() };
        let request = metadata::Request { topics: Some(vec![topic].into()), ..Default::default() };
        let answer = self.call(&request, 12);
        let response: metadata::Response = answer.body();
        let topic = response.topics.iter().next().expect("one topic");
        assert_eq!(topic.error_code, 0);
        let found = topic.partitions.iter().find(|found| found.partition_index == partition);
        found.expect("the partition").leader_epoch
    }
}

/// The results in a reply to Produce, each with its partition.
pub fn appended(answer: &Answer) -> Vec<(i32, Appended)> {
    let response: produce::Response = answer.body();
    let topics = response.responses.iter();
    topics
        .flat_map(|topic| topic.partition_responses.into_vec())
        .map(|result| (result.index, Appended { error: result.error_code, base_offset: result.base_offset }))
        .collect()
}

/// The one partition in a reply to Fetch.
pub fn fetched(answer: &Answer) -> Fetched {
    let response: fetch::Response = answer.body();
    assert_eq!(response.error_code, 0);
    let topic = response.responses.iter().next().expect("one topic");
    let found = topic.partitions.iter().next().expect("one partition");
    Fetched {
        error: found.error_code,
        high_watermark: found.high_watermark,
        records: found.records.map(|records| records.to_vec()).unwrap_or_default(),
    }
}
