//! Daily use (`broker/tests/clients/README.md`) with rdkafka.
//!
//! - `LOGMILL_CI_BOOTSTRAP`: the address of a broker to use, whose topics do not exist yet; without it each test starts
//!   one of its own
//! - `LOGMILL_CI_BIN`: the broker's binary; without it cargo builds it

#![expect(clippy::disallowed_methods, reason = "processes and clients run on the real clock")]

use logmill_clients::broker::Broker;
use logmill_clients::daily::{PATIENCE, create_topic, group_settings, settings};
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::{Offset, TopicPartitionList};
use std::process::Command;
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{env, slice};

const PROTOCOLS: [&str; 2] = ["classic", "consumer"];
const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

/// In the past, but not by so much that the records were to be deleted at once.
static BASE_MS: LazyLock<i64> = LazyLock::new(|| {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is set");
    i64::try_from(now.as_millis()).expect("few years") - 3_600_000
});

/// The broker that is used, of which one that is the test's own goes away with the value.
struct Endpoint {
    bootstrap: String,
    _broker: Option<Broker>,
}

impl Endpoint {
    fn new(test: &str) -> Self {
        if let Ok(bootstrap) = env::var("LOGMILL_CI_BOOTSTRAP") {
            return Self { bootstrap, _broker: None };
        }
        // With Kafka's defaults a member that died is missed only after 45 s, and a classic group waits 3 s for its
        // first members.
        let settings = [
            ("auto.create.topics.enable", "false"),
            ("group.initial.rebalance.delay.ms", "0"),
            ("group.consumer.min.session.timeout.ms", "6000"),
            ("group.consumer.session.timeout.ms", "6000"),
            ("group.consumer.min.heartbeat.interval.ms", "1000"),
            ("group.consumer.heartbeat.interval.ms", "1000"),
        ];
        let mut broker =
            Broker::new(&format!("daily-{test}"), &settings.map(|(name, value)| (name, value.to_owned())));
        broker.start();
        Self { bootstrap: broker.bootstrap(), _broker: Some(broker) }
    }

    /// Creates a topic of a name that no other test uses, and returns it.
    fn topic(&self, name: &str, partitions: i32) -> String {
        let topic = format!("rdkafka-{name}");
        create_topic(&self.bootstrap, &topic, partitions);
        topic
    }

    /// Produces records to a partition with a producer of their own; returns where they were acknowledged, in order.
    fn produce(&self, topic: &str, partition: i32, records: &[Record], options: &[(&str, &str)]) -> Vec<i64> {
        let mut config = settings(&self.bootstrap);
        config.set("linger.ms", "5").set("acks", "all");
        for (name, value) in options {
            config.set(*name, *value);
        }
        let producer: BaseProducer<Reports> =
            config.create_with_context(Reports::default()).expect("the settings are valid");
        for record in records {
            let sent = BaseRecord {
                topic,
                partition: Some(partition),
                payload: record.value.as_deref(),
                key: record.key.as_deref(),
                timestamp: record.timestamp,
                headers: record.headers(),
                delivery_opaque: (),
            };
            producer.send(sent).unwrap_or_else(|(error, _)| panic!("{error}"));
        }
        producer.flush(PATIENCE).expect("the records are delivered");
        let places = std::mem::take(&mut *producer.context().places.lock().expect("no thread panicked"));
        assert_eq!(places.len(), records.len());
        assert!(places.iter().all(|(at, _)| *at == partition));
        places.into_iter().map(|(_, offset)| offset).collect()
    }

    /// A consumer of the first partition from its start, in no group.
    fn reader(&self, topic: &str) -> BaseConsumer {
        let consumer: BaseConsumer =
            group_settings(&self.bootstrap, "not-used", "classic").create().expect("the settings are valid");
        consumer.assign(&list(topic, [(0, Offset::Beginning)])).expect("partitions can be assigned");
        consumer
    }

    /// A member that owns the topic's partitions, and what it has read by then.
    fn joined(&self, topic: &str, protocol: &str, partitions: usize) -> (BaseConsumer, Vec<OwnedMessage>) {
        let consumer: BaseConsumer =
            group_settings(&self.bootstrap, topic, protocol).create().expect("the settings are valid");
        consumer.subscribe(&[topic]).expect("the name is valid");
        let (begin, mut found) = (Instant::now(), Vec::new());
        while consumer.assignment().expect("an assignment").count() < partitions {
            assert!(begin.elapsed() < PATIENCE, "the group {topic} assigns nothing");
            found.extend(poll(&consumer));
        }
        (consumer, found)
    }
}

#[derive(Default)]
struct Reports {
    /// Partitions and offsets, in the order of the acknowledgements.
    places: Mutex<Vec<(i32, i64)>>,
}

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        // What is missing from the list is noticed where the list is used; a panic may not leave this callback.
        match result {
            Ok(message) => self
                .places
                .lock()
                .expect("never held in a panic")
                .push((message.partition(), message.offset())),
            Err((error, _)) => eprintln!("a record is not delivered: {error}"),
        }
    }
}

/// A record as it is sent, and as it is expected.
#[derive(Clone, Debug, Default, PartialEq)]
struct Record {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
    timestamp: Option<i64>,
}

impl Record {
    fn new(key: Option<&[u8]>, value: Option<&[u8]>) -> Self {
        Self { key: key.map(<[u8]>::to_vec), value: value.map(<[u8]>::to_vec), ..Self::default() }
    }

    fn headers(&self) -> Option<OwnedHeaders> {
        let insert = |headers: OwnedHeaders, (key, value): &(String, Option<Vec<u8>>)| {
            headers.insert(Header { key, value: value.as_ref() })
        };
        (!self.headers.is_empty()).then(|| self.headers.iter().fold(OwnedHeaders::new(), insert))
    }

    /// What was received, without the timestamp, which the client sets where there is none.
    fn received(message: &OwnedMessage) -> Self {
        let headers = message.headers().into_iter().flat_map(Headers::iter);
        let headers = headers.map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)));
        Self { headers: headers.collect(), ..Self::new(message.key(), message.payload()) }
    }
}

/// Records whose values are their numbers, ten milliseconds apart.
fn numbered(count: i64) -> Vec<Record> {
    let record = |number: i64| {
        let text = number.to_string();
        let timestamp = Some(*BASE_MS + 10 * number);
        Record { timestamp, ..Record::new(Some(text.as_bytes()), Some(text.as_bytes())) }
    };
    (0..count).map(record).collect()
}

fn list(topic: &str, offsets: impl IntoIterator<Item = (i32, Offset)>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in offsets {
        list.add_partition_offset(topic, partition, offset).expect("a valid offset");
    }
    list
}

fn poll<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Option<OwnedMessage> {
    let message = consumer.poll(Duration::from_millis(50))?;
    Some(message.unwrap_or_else(|error| panic!("{error}")).detach())
}

/// That many records, and not one more for a moment.
fn read(consumer: &BaseConsumer, count: usize) -> Vec<OwnedMessage> {
    let (begin, mut found) = (Instant::now(), Vec::new());
    while found.len() < count {
        assert!(begin.elapsed() < PATIENCE, "{} records of {count}", found.len());
        found.extend(poll(consumer));
    }
    assert!(poll(consumer).is_none(), "more than {count} records");
    found
}

fn places(messages: &[OwnedMessage]) -> Vec<(i32, i64)> {
    messages.iter().map(|message| (message.partition(), message.offset())).collect()
}

fn values(messages: &[OwnedMessage]) -> Vec<i64> {
    let number = |message: &OwnedMessage| str::from_utf8(message.payload()?).ok()?.parse().ok();
    messages.iter().map(|message| number(message).expect("a number")).collect()
}

#[test]
fn every_codec_and_every_acknowledgement() {
    let endpoint = Endpoint::new("codecs");
    let record = |number: i32| {
        let key = number.to_string().into_bytes();
        let value = format!("{number} ").repeat(20);
        Record::new((number % 2 == 1).then_some(&key), Some(value.as_bytes()))
    };
    let records: Vec<Record> = (0..200).map(record).collect();
    let offsets: Vec<i64> = (0..200).collect();
    for codec in CODECS {
        for acks in ["0", "1", "all"] {
            let topic = endpoint.topic(&format!("{codec}-{acks}"), 1);
            let options = [("compression.type", codec), ("acks", acks)];
            let acknowledged = endpoint.produce(&topic, 0, &records, &options);
            assert!(acks == "0" || acknowledged == offsets, "{topic}: {acknowledged:?}");
            let found = read(&endpoint.reader(&topic), records.len());
            assert_eq!(found.iter().map(Message::offset).collect::<Vec<_>>(), offsets, "{topic}");
            assert_eq!(found.iter().map(Record::received).collect::<Vec<_>>(), records, "{topic}");
        }
    }
}

#[test]
fn records_come_back_as_they_went_in() {
    let endpoint = Endpoint::new("records");
    let topic = endpoint.topic("records", 1);
    let header =
        |key: &str, value: Option<&str>| (key.to_owned(), value.map(|value| value.as_bytes().to_vec()));
    let headers = vec![
        header("a", Some("1")),
        header("a", Some("2")),
        header("b", None),
        header("c", Some("")),
        header("", Some("4")),
        header("a", Some("3")),
    ];
    let timestamp = *BASE_MS + 123;
    let records = [
        Record { headers, ..Record::new(Some(b"key"), Some(b"value")) },
        Record::new(None, Some(b"value")),
        Record::new(Some(b""), Some(b"")),
        Record::new(Some(b"deleted"), None),
        Record { timestamp: Some(timestamp), ..Record::new(Some(b"\x00\xff"), Some(&[0; 500_000])) },
    ];
    endpoint.produce(&topic, 0, &records, &[]);
    let found = read(&endpoint.reader(&topic), records.len());
    for (found, expected) in found.iter().zip(&records) {
        // Not as a whole: the large one is no pleasure to read.
        let found = Record::received(found);
        assert!(found == Record { timestamp: None, ..expected.clone() }, "{:.500}", format!("{found:?}"));
    }
    assert_eq!(found[4].timestamp().to_millis(), Some(timestamp));
}

/// The committed offset of the first partition and its metadata.
fn committed(consumer: &BaseConsumer, topic: &str) -> Option<(i64, String)> {
    let found = consumer.committed_offsets(list(topic, [(0, Offset::Invalid)]), PATIENCE).expect("an answer");
    let found = found.elements_for_topic(topic).pop().expect("the partition");
    found.error().expect("no error");
    match found.offset() {
        Offset::Offset(offset) => Some((offset, found.metadata().to_owned())),
        _ => None,
    }
}

#[test]
fn commits_are_exact() {
    let endpoint = Endpoint::new("commits");
    for protocol in PROTOCOLS {
        let topic = endpoint.topic(&format!("commits-{protocol}"), 1);
        endpoint.produce(&topic, 0, &numbered(300), &[]);
        for (start, offset, metadata) in [(0, 100, "after the first hundred: ä"), (100, 50, "")] {
            let (consumer, mut found) = endpoint.joined(&topic, protocol, 1);
            found.extend(read(&consumer, 300 - start - found.len()));
            assert_eq!(values(&found), (start as i64..300).collect::<Vec<_>>());
            if start == 0 {
                assert_eq!(committed(&consumer, &topic), None);
            }
            let offsets = list(&topic, [(0, Offset::Offset(offset))]);
            offsets.find_partition(&topic, 0).expect("the partition").set_metadata(metadata);
            consumer.commit(&offsets, CommitMode::Sync).expect("a member may commit");
            drop(consumer);
            let (fresh, mut found) = endpoint.joined(&topic, protocol, 1);
            assert_eq!(committed(&fresh, &topic), Some((offset, metadata.to_owned())));
            let expected = (offset..300).collect::<Vec<_>>();
            found.extend(read(&fresh, expected.len() - found.len()));
            assert_eq!(found.iter().map(Message::offset).collect::<Vec<_>>(), expected);
            // It leaves without a commit, so that the offset stays.
        }
    }
}

/// Seeks, and looks at what comes first.
fn seek(consumer: &BaseConsumer, topic: &str, offset: i64) {
    consumer.seek(topic, 0, Offset::Offset(offset), PATIENCE).expect("the partition is owned");
    let begin = Instant::now();
    loop {
        if let Some(found) = poll(consumer) {
            assert_eq!((found.offset(), values(slice::from_ref(&found))), (offset, vec![offset]));
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "no record at {offset}");
    }
}

#[test]
fn seeks_by_offset_and_by_timestamp() {
    let endpoint = Endpoint::new("seeks");
    for protocol in PROTOCOLS {
        let topic = endpoint.topic(&format!("seek-{protocol}"), 1);
        endpoint.produce(&topic, 0, &numbered(1000), &[]);
        let (consumer, mut found) = endpoint.joined(&topic, protocol, 1);
        // The client seeks only where it reads already.
        let begin = Instant::now();
        while found.is_empty() {
            assert!(begin.elapsed() < PATIENCE, "no record");
            found.extend(poll(&consumer));
        }
        for offset in [990, 7, 999, 0, 500] {
            seek(&consumer, &topic, offset);
        }
        let offset_for = |time: i64| {
            let asked = list(&topic, [(0, Offset::Offset(*BASE_MS + time))]);
            let found = consumer.offsets_for_times(asked, PATIENCE).expect("an answer");
            found.find_partition(&topic, 0).expect("the partition").offset()
        };
        for (time, offset) in [(0, 0), (1, 1), (10, 1), (4995, 500), (9990, 999)] {
            assert_eq!(offset_for(time), Offset::Offset(offset), "{time} ms");
            seek(&consumer, &topic, offset);
        }
        assert_eq!(offset_for(9991), Offset::End, "after the last record");
    }
}

#[test]
fn a_paused_partition_delivers_nothing() {
    let endpoint = Endpoint::new("pauses");
    for protocol in PROTOCOLS {
        let topic = endpoint.topic(&format!("pause-{protocol}"), 2);
        let (consumer, found) = endpoint.joined(&topic, protocol, 2);
        assert_eq!(places(&found), []);
        let paused = list(&topic, [(0, Offset::Invalid)]);
        consumer.pause(&paused).expect("the partition is owned");
        for partition in [0, 1] {
            endpoint.produce(&topic, partition, &numbered(100), &[]);
        }
        let of_partition = |partition| (0..100).map(|offset| (partition, offset)).collect::<Vec<_>>();
        let mut found = read(&consumer, 100);
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(1) {
            found.extend(poll(&consumer));
        }
        assert_eq!(places(&found), of_partition(1));
        consumer.resume(&paused).expect("the partition is owned");
        assert_eq!(places(&read(&consumer, 100)), of_partition(0));
    }
}

/// The script judges: of what was acknowledged nothing is missed, nothing is delivered to two members of one
/// generation, and the committed offsets are the ends.
#[test]
fn groups_of_three_of_which_one_is_killed_and_one_is_added() {
    let endpoint = Endpoint::new("groups");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/clients/group.py");
    let mut command = Command::new("python3");
    command.args(["-B", script, &endpoint.bootstrap]);
    for protocol in PROTOCOLS {
        command.args(["--", "rdkafka", protocol, env!("CARGO_BIN_EXE_group_client")]);
    }
    let output =
        command.output().unwrap_or_else(|error| panic!("python3 cannot be run: {error}; install it"));
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("test result: ok. 2 passed"), "the script found fault");
}
