//! The pure code of the hot paths, to be counted under callgrind: `perf/instructions.sh` runs it, and compares what it
//! counts with `perf/instructions.txt`.
//!
//! Every case is done once to warm up and then [`OPERATIONS`] times within one call of [`counted`], which callgrind counts
//! and nothing else. For each case one line is printed, in the order of the counts: its name, and how many units of what
//! one operation is.

#![expect(clippy::unwrap_used, reason = "a case that cannot be set up ends the run, as a test would")]

use bytes::Bytes;
use logmill_state::group::{
    ConsumerHeartbeatRequest, Context, Effects, GroupReply, GroupRequest, Groups, HeartbeatRequest,
    JoinRequest, MemberIdentity, Now, SyncRequest, Ticket, VisibleTopics,
};
use logmill_state::metadata::{Image, PlacementRun, Record};
use logmill_state::partition::{AppendDecision, AppendPolicy, Leader};
use logmill_state::settings::{BrokerSettings, GroupSettings};
use logmill_wire::api::produce::{PartitionProduceData, TopicProduceData};
use logmill_wire::api::produce_walk::ProduceWalk;
use logmill_wire::api::{self, Message, fetch, metadata, produce};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{
    LeaderEpoch, MonotonicNs, NodeId, Offset, PartitionIndex, ProducerEpoch, ProducerId, TimestampMs, Uuid,
};
use logmill_wire::primitives::{EncodedArray, Records, Writer};
use logmill_wire::record_batch::{BatchBuilder, BatchHeader, BatchView, validate_header, validate_records};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::io::{self, Write};
use std::sync::Arc;

/// How often a case is done while it is counted; `perf/instructions.sh` divides by it.
const OPERATIONS: usize = 64;

/// Partitions of a request that has many.
const MANY: usize = 1_000;

const NOW: TimestampMs = TimestampMs(1_700_000_000_000);
const PRODUCE_VERSION: i16 = 12;
const FETCH_VERSION: i16 = 17;
const METADATA_VERSION: i16 = 12;

struct Case {
    name: &'static str,
    /// How many of `unit` one operation is.
    units: usize,
    unit: &'static str,
    operation: Box<dyn FnMut()>,
}

fn case(name: &'static str, units: usize, unit: &'static str, operation: impl FnMut() + 'static) -> Case {
    Case { name, units, unit, operation: Box::new(operation) }
}

/// Does a case. Callgrind writes down what it has counted when this returns.
#[inline(never)]
fn counted(operation: &mut dyn FnMut()) {
    repeat(operation);
    // A call in the last place would be a jump, from which nothing returns here.
    black_box(());
}

/// Callgrind counts from here on: it can do one thing at a function's name, so there have to be two of them.
#[inline(never)]
fn repeat(operation: &mut dyn FnMut()) {
    for _ in 0..OPERATIONS {
        operation();
    }
}

fn main() -> io::Result<()> {
    let cases = produce_cases().chain(batch_cases()).chain(leader_cases()).chain(fetch_cases());
    let mut output = io::stdout().lock();
    for mut case in cases.chain(group_cases()).chain(metadata_cases()) {
        (case.operation)();
        counted(&mut case.operation);
        writeln!(output, "{} {} {}", case.name, case.units, case.unit)?;
    }
    Ok(())
}

/// A batch of as many records of `record_bytes` as fit into `batch_bytes`, one at least.
fn batch(record_bytes: usize, batch_bytes: usize) -> Vec<u8> {
    let value: Vec<u8> = (0..record_bytes).map(|at| (at * 31 % 251) as u8).collect();
    let mut builder = BatchBuilder::new();
    while builder.record_count() == 0 || builder.uncompressed_bytes() + record_bytes + 20 <= batch_bytes {
        builder.append(NOW, None, Some(&value), &[]);
    }
    builder.finish().unwrap()
}

fn encoded<'a>(message: &impl Message<'a>, version: i16) -> Vec<u8> {
    let mut writer = Writer::new();
    message.encode(&mut writer, version).unwrap();
    writer.finish().concat()
}

fn produce_body(partitions: usize, records: &[u8]) -> Vec<u8> {
    let data = |index| PartitionProduceData { index, records: Some(Records::Borrowed(records)) };
    let topic = TopicProduceData {
        name: "a-topic".into(),
        partition_data: (0..partitions as i32).map(data).collect::<Vec<_>>().into(),
        ..TopicProduceData::default()
    };
    let request = produce::Request {
        acks: -1,
        timeout_ms: 1500,
        topic_data: vec![topic].into(),
        ..produce::Request::default()
    };
    encoded(&request, PRODUCE_VERSION)
}

fn walk(body: &[u8]) -> usize {
    let mut walk = ProduceWalk::begin(black_box(body), PRODUCE_VERSION).unwrap();
    let mut bytes = 0;
    while let Some(head) = walk.next_topic().unwrap() {
        black_box(&head);
        while let Some(partition) = walk.next_partition().unwrap() {
            bytes += black_box(partition).records.map_or(0, |records| records.len());
        }
    }
    bytes
}

fn produce_cases() -> impl Iterator<Item = Case> {
    let (one, many) = (produce_body(1, &batch(1024, 16_384)), produce_body(MANY, &batch(100, 0)));
    assert!(walk(&one) > 15_000 && walk(&many) > 100 * MANY);
    let walk_one = case("produce-walk-1-partition", 1, "request", move || {
        black_box(walk(&one));
    });
    let walk_many = case("produce-walk-1000-partitions", MANY, "partition", move || {
        black_box(walk(&many));
    });
    [walk_one, walk_many].into_iter()
}

fn validate(bytes: &[u8]) -> BatchHeader {
    let batch = BatchView::only(black_box(bytes)).unwrap();
    validate_header(&batch).unwrap();
    black_box(validate_records(&batch).unwrap());
    *batch.header()
}

fn batch_cases() -> impl Iterator<Item = Case> {
    let (kibibytes, small) = (batch(1024, 16_384), batch(100, 131_072));
    let records = BatchView::only(&small).unwrap().header().record_count;
    assert!(records > 1_100);
    let bytes = kibibytes.len();
    let large_records = case("validate-16-kib-of-1-kib-records", bytes, "byte", move || {
        black_box(validate(&kibibytes));
    });
    let small_records = case("validate-128-kib-of-100-b-records", records as usize, "record", move || {
        black_box(validate(&small));
    });
    [large_records, small_records].into_iter()
}

/// An append's decision, and what follows from it.
fn append(leader: &mut Leader, header: &BatchHeader) {
    let decision =
        leader.decide_append(std::slice::from_ref(black_box(header)), &AppendPolicy::default(), NOW);
    let Ok(AppendDecision::Append { base_offset, next_offset }) = decision else { panic!("{decision:?}") };
    let leader_epoch = leader.leader_epoch();
    leader.apply_batch(&BatchHeader { base_offset, leader_epoch, ..*header });
    assert!(leader.advance_durable(next_offset));
}

fn leader_cases() -> impl Iterator<Item = Case> {
    let leader = || {
        let mut leader = Leader::starting_at(Offset(0));
        leader.begin_epoch(LeaderEpoch(0)).unwrap();
        leader
    };
    let header = validate(&batch(1024, 16_384));
    let mut plain = leader();
    let plain = case("leader-append", 1, "batch", move || append(&mut plain, &header));
    let (mut idempotent, mut sequence) = (leader(), 0);
    let idempotent = case("leader-append-idempotent", 1, "batch", move || {
        let (producer_id, producer_epoch) = (ProducerId(7), ProducerEpoch(0));
        append(
            &mut idempotent,
            &BatchHeader { producer_id, producer_epoch, base_sequence: sequence, ..header },
        );
        sequence += header.record_count;
    });
    [plain, idempotent].into_iter()
}

fn fetch_body(partitions: usize) -> Vec<u8> {
    let partition = |index| fetch::FetchPartition {
        partition: index,
        current_leader_epoch: 3,
        fetch_offset: 1_000_000 + i64::from(index),
        partition_max_bytes: 1 << 20,
        ..fetch::FetchPartition::default()
    };
    let topic = fetch::FetchTopic {
        topic_id: Uuid([5; 16]),
        partitions: (0..partitions as i32).map(partition).collect::<Vec<_>>().into(),
        ..fetch::FetchTopic::default()
    };
    let request = fetch::Request {
        max_wait_ms: 500,
        min_bytes: 1,
        topics: vec![topic].into(),
        ..fetch::Request::default()
    };
    encoded(&request, FETCH_VERSION)
}

fn read_fetch(body: &[u8]) -> usize {
    let request = fetch::Request::decode_body(black_box(body), FETCH_VERSION).unwrap();
    let mut partitions = 0;
    for topic in &request.topics {
        partitions +=
            topic.partitions.iter().filter(|partition| black_box(partition.fetch_offset) > 0).count();
    }
    partitions
}

fn write_fetch(partitions: usize, records: &Bytes) -> usize {
    let data = |index| fetch::PartitionData {
        partition_index: index,
        high_watermark: 2_000_000,
        last_stable_offset: 2_000_000,
        log_start_offset: 0,
        aborted_transactions: None,
        records: Some(Records::Parts(vec![records.clone()])),
        ..fetch::PartitionData::default()
    };
    let topic = fetch::FetchableTopicResponse {
        topic_id: Uuid([5; 16]),
        partitions: (0..partitions as i32).map(data).collect::<Vec<_>>().into(),
        ..fetch::FetchableTopicResponse::default()
    };
    let response = fetch::Response { responses: vec![topic].into(), ..fetch::Response::default() };
    let mut writer = Writer::framed();
    response.encode(&mut writer, FETCH_VERSION).unwrap();
    writer.finish().len()
}

fn fetch_cases() -> impl Iterator<Item = Case> {
    let (one, many) = (fetch_body(1), fetch_body(MANY));
    assert_eq!((read_fetch(&one), read_fetch(&many)), (1, MANY));
    let records = Bytes::from(batch(1024, 16_384));
    let more_records = records.clone();
    let cases = [
        case("fetch-request-1-partition", 1, "request", move || {
            black_box(read_fetch(&one));
        }),
        case("fetch-request-1000-partitions", MANY, "partition", move || {
            black_box(read_fetch(&many));
        }),
        case("fetch-response-1-partition", 1, "response", move || {
            black_box(write_fetch(1, &records));
        }),
        case("fetch-response-1000-partitions", MANY, "partition", move || {
            black_box(write_fetch(MANY, &more_records));
        }),
    ];
    cases.into_iter()
}

/// A coordinator's groups, a topic to subscribe to, and a clock.
struct Coordinator {
    groups: Groups,
    settings: GroupSettings,
    image: Image,
    now: Now,
    ticket: u64,
}

impl Coordinator {
    fn new() -> Self {
        let now = Now { monotonic: MonotonicNs(0), wall: NOW };
        let settings = BrokerSettings::from_values(BTreeMap::new()).unwrap().groups;
        Self { groups: Groups::default(), settings, image: image(6), now, ticket: 0 }
    }

    fn act(&mut self, act: impl FnOnce(&mut Groups, Ticket, &Context<'_>) -> Effects) -> Effects {
        self.ticket += 1;
        let cx = Context { now: self.now, settings: &self.settings, image: &self.image };
        act(&mut self.groups, Ticket(self.ticket), &cx)
    }

    fn step(&mut self, request: GroupRequest) -> Effects {
        self.act(|groups, ticket, cx| groups.step(ticket, request, cx))
    }

    /// A classic group of one member, stable.
    fn classic_member(&mut self) -> (MemberIdentity, i32) {
        self.step(GroupRequest::Join(JoinRequest {
            group_id: "group".into(),
            member: MemberIdentity { member_id: "".into(), instance_id: None },
            fresh_id: Uuid([9; 16]),
            client_id: "client".into(),
            client_host: "/127.0.0.1".into(),
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 60_000,
            protocol_type: "consumer".into(),
            protocols: vec![("range".into(), Bytes::from_static(b"metadata"))],
            reason: None,
            requires_known_member_id: false,
            supports_skipping_assignment: true,
        }));
        // The group waits for others before its first generation.
        self.now.monotonic = self.groups.next_deadline().unwrap();
        let joined = self.act(|groups, _, cx| groups.expire(cx)).replies;
        let [(_, GroupReply::Join(joined))] = joined.as_slice() else { panic!("{joined:?}") };
        let member = MemberIdentity { member_id: Arc::clone(&joined.member_id), instance_id: None };
        self.step(GroupRequest::Sync(SyncRequest {
            group_id: "group".into(),
            member: member.clone(),
            generation: joined.generation,
            protocol_type: None,
            protocol_name: None,
            assignments: vec![(Arc::clone(&joined.member_id), Bytes::from_static(b"assignment"))],
        }));
        (member, joined.generation)
    }
}

fn consumer_heartbeat(member_id: &Arc<str>, member_epoch: i32) -> ConsumerHeartbeatRequest {
    let joins = member_epoch == 0;
    ConsumerHeartbeatRequest {
        group_id: "group".into(),
        member: MemberIdentity { member_id: Arc::clone(member_id), instance_id: None },
        fresh_id: Uuid([9; 16]),
        member_epoch,
        rack_id: None,
        rebalance_timeout_ms: joins.then_some(60_000),
        subscribed_topics: joins.then(|| vec!["a-topic".into()]),
        subscribed_regex: None,
        visible_topics: VisibleTopics::new(|_| true),
        server_assignor: None,
        owned: joins.then(Vec::new),
        client_id: "client".into(),
        client_host: "/127.0.0.1".into(),
    }
}

fn group_cases() -> impl Iterator<Item = Case> {
    let mut classic = Coordinator::new();
    let (member, generation) = classic.classic_member();
    let classic = case("heartbeat", 1, "request", move || {
        let member = member.clone();
        let beat = HeartbeatRequest { group_id: "group".into(), member, generation };
        let effects = classic.step(GroupRequest::Heartbeat(beat));
        let [(_, GroupReply::Heartbeat(ErrorCode::None))] = effects.replies.as_slice() else {
            panic!("{effects:?}")
        };
    });
    let mut consumer = Coordinator::new();
    let member_id: Arc<str> = "0123456789abcdef".into();
    consumer.step(GroupRequest::ConsumerHeartbeat(consumer_heartbeat(&member_id, 0)));
    let consumer = case("consumer-group-heartbeat", 1, "request", move || {
        let beat = GroupRequest::ConsumerHeartbeat(consumer_heartbeat(&member_id, 1));
        let effects = consumer.step(beat);
        let [(_, GroupReply::ConsumerHeartbeat(Ok(_)))] = effects.replies.as_slice() else {
            panic!("{effects:?}")
        };
    });
    [classic, consumer].into_iter()
}

/// A cluster of one broker with one topic.
fn image(partitions: u32) -> Image {
    let mut image = Image::default();
    let placement =
        PlacementRun { partition_count: partitions, leader_epoch: LeaderEpoch(0), replicas: vec![NodeId(1)] };
    let created = Record::TopicCreated {
        topic_id: Uuid([5; 16]),
        name: "a-topic".into(),
        configs: BTreeMap::new(),
        placement: vec![placement],
    };
    image.apply(&created).unwrap();
    image
}

/// A topic's part of the answer to a Metadata request, as the broker makes it: element by element, out of the image.
fn describe(image: &Image) -> usize {
    let format = api::format::<metadata::Response<'_>>(METADATA_VERSION).unwrap();
    let mut partitions = EncodedArray::new(format);
    let topic = image.topics().next().unwrap();
    for index in 0..topic.partition_count() {
        let partition = image.partition(topic, PartitionIndex(index)).unwrap();
        let replicas = || partition.replicas.iter().map(|node| node.0).collect::<Vec<_>>();
        let described = metadata::MetadataResponsePartition {
            partition_index: index,
            leader_id: partition.leader.0,
            leader_epoch: partition.leader_epoch.0,
            replica_nodes: replicas().into(),
            isr_nodes: replicas().into(),
            ..metadata::MetadataResponsePartition::default()
        };
        partitions.push(&described).unwrap();
    }
    let described = metadata::MetadataResponseTopic {
        name: Some(topic.name.to_string().into()),
        topic_id: topic.id,
        partitions: partitions.view(),
        ..metadata::MetadataResponseTopic::default()
    };
    let response = metadata::Response { topics: vec![described].into(), ..metadata::Response::default() };
    encoded(&response, METADATA_VERSION).len()
}

fn metadata_cases() -> impl Iterator<Item = Case> {
    let image = image(MANY as u32);
    assert!(describe(&image) > 20 * MANY);
    let all = case("metadata-1000-partitions", MANY, "partition", move || {
        black_box(describe(&image));
    });
    [all].into_iter()
}
