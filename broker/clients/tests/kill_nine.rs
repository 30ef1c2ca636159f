//! kill -9 under load, seen from outside: librdkafka as it is, with acks=all and idempotence, several producers over
//! several partitions and shards, and a consumer that follows, while the broker dies and comes back time and again.
//! Of what was acknowledged nothing is lost; nothing is there twice; and no offset ever has another value.
//!
//! - `LOGMILL_CI_KILLS`: how often the broker is killed (12 unless it says otherwise)
//! - `LOGMILL_CI_SEED`: when it is killed; printed by every run
//! - `LOGMILL_CI_BIN`: the broker's binary; without it cargo builds it

#![expect(clippy::disallowed_methods, reason = "processes and clients run on the real clock")]

use logmill_clients::broker::Broker;
use logmill_clients::chance::{Random, number_from, seed};
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const TOPIC: &str = "load";
const PARTITIONS: i32 = 8;
const PRODUCERS: usize = 3;
/// Records of a producer that wait for their acknowledgement.
const IN_FLIGHT_MAX: usize = 4_000;
/// How long anything may take: a start, the first acknowledgement after it, the end of the reading.
const PATIENCE: Duration = Duration::from_secs(60);

/// The number of a record: its producer in the upper half, its place among the producer's records in the lower.
type Value = u64;
/// What lies where: by partition, then by offset.
type Content = BTreeMap<(i32, i64), Value>;

/// What a producer has sent, by the number of the record: where it was acknowledged, if it was.
#[derive(Default)]
struct Sent {
    places: Vec<Option<(i32, i64)>>,
    acknowledged: usize,
    errors: Vec<String>,
}

struct Acknowledgements(Arc<Mutex<Sent>>);

impl ClientContext for Acknowledgements {
    // What the client says about each lost connection is what this test causes.
    fn log(&self, _: rdkafka::config::RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            self.0.lock().expect("no thread panicked").errors.push(format!("fatal: {reason}"));
        }
    }
}

impl ProducerContext for Acknowledgements {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, at: usize) {
        let mut sent = self.0.lock().expect("no thread panicked");
        match result {
            Ok(message) => {
                let place = (message.partition(), message.offset());
                if let Some(earlier) = sent.places[at].replace(place) {
                    sent.errors.push(format!("record {at} is acknowledged at {earlier:?} and at {place:?}"));
                }
                sent.acknowledged += 1;
            }
            // No record has a time-out, so there is no reason to give one up.
            Err((error, _)) => sent.errors.push(format!("record {at} failed: {error}")),
        }
    }
}

fn client(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap)
        .set("reconnect.backoff.ms", "10")
        .set("reconnect.backoff.max.ms", "100");
    config
}

/// Produces until `stop`, then waits for the last acknowledgement.
fn produce(
    number: usize,
    bootstrap: &str,
    sent: Arc<Mutex<Sent>>,
    stop: &AtomicBool,
    abandoned: &AtomicBool,
) {
    let codecs = ["none", "lz4", "snappy"];
    let producer: BaseProducer<Acknowledgements> = client(bootstrap)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("message.timeout.ms", "0")
        .set("retry.backoff.ms", "20")
        .set("linger.ms", "2")
        .set("batch.num.messages", "100")
        .set("compression.type", codecs[number % codecs.len()])
        .create_with_context(Acknowledgements(Arc::clone(&sent)))
        .expect("the settings are valid");
    let filler = "=".repeat(100);
    while !stop.load(Ordering::Relaxed) {
        let at = {
            let mut sent = sent.lock().expect("no thread panicked");
            let at = sent.places.len();
            if at - sent.acknowledged < IN_FLIGHT_MAX {
                sent.places.push(None);
                Some(at)
            } else {
                None
            }
        };
        let Some(at) = at else {
            producer.poll(Duration::from_millis(5));
            continue;
        };
        let payload = format!("{}:{filler}", value(number, at));
        let partition = i32::try_from(at).unwrap_or(0) % PARTITIONS;
        producer
            .send(
                BaseRecord::<(), str, usize>::with_opaque_to(TOPIC, at)
                    .partition(partition)
                    .payload(&payload),
            )
            .unwrap_or_else(|(error, _)| panic!("a record cannot be sent: {error}"));
        producer.poll(Duration::ZERO);
    }
    let begin = Instant::now();
    while producer.flush(Duration::from_secs(1)).is_err() && !abandoned.load(Ordering::Relaxed) {
        assert!(begin.elapsed() < PATIENCE, "the broker does not take what is left");
    }
}

fn value(producer: usize, at: usize) -> Value {
    ((producer as u64) << 32) | at as u64
}

fn consumer(bootstrap: &str) -> BaseConsumer {
    let consumer: BaseConsumer = client(bootstrap)
        .set("group.id", "not-used")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .set("check.crcs", "true")
        .set("fetch.wait.max.ms", "50")
        .set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg)
        .create()
        .expect("the settings are valid");
    let mut partitions = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        partitions.add_partition_offset(TOPIC, partition, Offset::Offset(0)).expect("a valid offset");
    }
    consumer.assign(&partitions).expect("partitions can be assigned");
    consumer
}

/// Reads one record, if there is one, into the content; a connection that is lost is what this test causes.
fn read_one(consumer: &BaseConsumer, content: &mut Content, problems: &mut Vec<String>) {
    match consumer.poll(Duration::from_millis(50)) {
        None => {}
        Some(Ok(message)) => {
            let payload = message.payload().and_then(|bytes| str::from_utf8(bytes).ok());
            let value = payload.and_then(|text| text.split(':').next()?.parse().ok());
            let place = (message.partition(), message.offset());
            let Some(value) = value else {
                problems.push(format!("{place:?} holds what nobody sent: {payload:?}"));
                return;
            };
            if let Some(earlier) = content.insert(place, value) {
                problems.push(format!("{place:?} comes twice, as {earlier:#x} and as {value:#x}"));
            }
        }
        Some(Err(error)) => match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::Resolve,
            ) => {}
            _ => problems.push(format!("the consumer's error: {error}")),
        },
    }
}

/// Reads every partition from its first offset to its end.
fn read_everything(bootstrap: &str, problems: &mut Vec<String>) -> Content {
    let consumer = consumer(bootstrap);
    let mut content = Content::new();
    let mut expected = 0;
    for partition in 0..PARTITIONS {
        let (start, end) =
            consumer.fetch_watermarks(TOPIC, partition, PATIENCE).expect("the broker knows the partition");
        assert_eq!(start, 0, "nothing is deleted from partition {partition}");
        expected += usize::try_from(end).expect("an end is not negative");
    }
    let begin = Instant::now();
    while content.len() < expected && begin.elapsed() < PATIENCE {
        read_one(&consumer, &mut content, problems);
    }
    if content.len() != expected {
        problems.push(format!("{} of {expected} records can be read", content.len()));
    }
    content
}

/// What is wrong with the content at the end, given what was acknowledged and what was read on the way.
fn judge(acknowledged: &[Vec<Option<(i32, i64)>>], on_the_way: &Content, content: &Content) -> Vec<String> {
    let mut problems = Vec::new();
    let mut places = BTreeMap::new();
    for (place, value) in content {
        if let Some(other) = places.insert(*value, *place) {
            problems.push(format!("{value:#x} is duplicated: {other:?} and {place:?}"));
        }
    }
    for (producer, records) in acknowledged.iter().enumerate() {
        for (at, place) in records.iter().enumerate() {
            let value = value(producer, at);
            let found = places.get(&value);
            match (place, found) {
                (None, _) => problems.push(format!("{value:#x} was never acknowledged")),
                (Some(place), None) => {
                    problems.push(format!("{value:#x} is lost, acknowledged at {place:?}"))
                }
                // For a batch that it had already, the broker may answer without an offset.
                (Some(place), Some(found)) if place.1 >= 0 && place != found => {
                    problems.push(format!("{value:#x} was acknowledged at {place:?} and lies at {found:?}"));
                }
                _ => {}
            }
        }
    }
    for (place, value) in on_the_way {
        if content.get(place) != Some(value) {
            let now = content.get(place);
            problems.push(format!("{place:?} was read as {value:#x} and is {now:x?} at the end"));
        }
    }
    problems
}

/// Kills the broker at moments that the seed decides; after each restart every producer must get on.
fn kill_again_and_again(broker: &mut Broker, kills: u64, random: &mut Random, sent: &[Arc<Mutex<Sent>>]) {
    let acknowledged = || -> Vec<usize> {
        sent.iter().map(|sent| sent.lock().expect("no thread panicked").acknowledged).collect()
    };
    let mut slowest = Duration::ZERO;
    for kill in 0..=kills {
        let before = acknowledged();
        let begin = Instant::now();
        while acknowledged().iter().zip(&before).any(|(now, before)| now <= before) {
            let now = acknowledged();
            let errors = || -> Vec<String> {
                sent.iter()
                    .flat_map(|sent| sent.lock().expect("no thread panicked").errors.clone())
                    .take(20)
                    .collect()
            };
            assert!(
                begin.elapsed() < PATIENCE,
                "after {kill} kills the producers' acknowledged records went from {before:?} to {now:?} only; {:#?}\n{}",
                errors(),
                broker.output(),
            );
            thread::sleep(Duration::from_millis(2));
        }
        slowest = slowest.max(begin.elapsed());
        if kill < kills {
            // Often at once, so that what the start itself writes is cut off too.
            let longest = if random.below(4) == 0 { 20 } else { 600 };
            thread::sleep(Duration::from_millis(random.below(longest)));
            broker.kill();
            broker.start();
        }
    }
    eprintln!("{kills} kills; at most {slowest:?} from a start to every producer's next acknowledgement");
}

#[test]
fn nothing_acknowledged_is_lost_doubled_or_changed() {
    survives_kills("kill-nine", &[]);
}

/// Acknowledged before it is durable, but the process may die.
#[test]
fn write_caching_survives_the_process() {
    survives_kills("kill-nine-caching", &[("logmill.write.caching", "true".to_owned())]);
}

fn survives_kills(name: &str, settings: &[(&str, String)]) {
    let kills = number_from("LOGMILL_CI_KILLS").unwrap_or(12);
    let seed = seed();
    eprintln!("LOGMILL_CI_SEED={seed} LOGMILL_CI_KILLS={kills}");
    let mut settings = settings.to_vec();
    settings.push(("num.partitions", PARTITIONS.to_string()));
    let mut broker = Broker::new(name, &settings);
    broker.start();
    let bootstrap = broker.bootstrap();
    let sent: Vec<Arc<Mutex<Sent>>> = (0..PRODUCERS).map(|_| Arc::default()).collect();
    let [stop_producers, stop_consumer, abandoned] = [const { AtomicBool::new(false) }; 3];
    let (on_the_way, mut problems) = thread::scope(|scope| {
        let producers: Vec<_> = sent
            .iter()
            .enumerate()
            .map(|(number, sent)| {
                let (bootstrap, stop, abandoned) = (&bootstrap, &stop_producers, &abandoned);
                scope.spawn(move || produce(number, bootstrap, Arc::clone(sent), stop, abandoned))
            })
            .collect();
        let follower = scope.spawn(|| {
            let (consumer, mut content, mut problems) = (consumer(&bootstrap), Content::new(), Vec::new());
            while !stop_consumer.load(Ordering::Relaxed) {
                read_one(&consumer, &mut content, &mut problems);
            }
            (content, problems)
        });
        let killing = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            kill_again_and_again(&mut broker, kills, &mut Random::new(seed), &sent);
        }));
        abandoned.store(killing.is_err(), Ordering::Relaxed);
        stop_producers.store(true, Ordering::Relaxed);
        let produced: Vec<_> = producers.into_iter().map(|thread| thread.join()).collect();
        stop_consumer.store(true, Ordering::Relaxed);
        let read = follower.join();
        killing.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        for outcome in produced {
            outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        read.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    // What was only in memory does not count.
    broker.kill();
    broker.start();
    let content = read_everything(&bootstrap, &mut problems);
    let mut acknowledged = Vec::new();
    for sent in &sent {
        let mut sent = sent.lock().expect("no thread panicked");
        problems.append(&mut sent.errors);
        acknowledged.push(std::mem::take(&mut sent.places));
    }
    problems.extend(judge(&acknowledged, &on_the_way, &content));
    let total: usize = acknowledged.iter().map(Vec::len).sum();
    eprintln!("{total} records, {} of them read on the way", on_the_way.len());
    assert!(
        problems.is_empty(),
        "{} problems, such as {:#?}",
        problems.len(),
        &problems[..problems.len().min(20)]
    );
    assert!(!on_the_way.is_empty() && total > PRODUCERS, "the load was none");
}

#[test]
fn the_judge_sees_what_is_wrong() {
    let acknowledged = [vec![Some((0, 0)), Some((1, 0))], vec![Some((0, 1)), Some((1, -1))]];
    let good = Content::from([
        ((0, 0), value(0, 0)),
        ((0, 1), value(1, 0)),
        ((1, 0), value(0, 1)),
        ((1, 1), value(1, 1)),
    ]);
    assert_eq!(judge(&acknowledged, &good, &good), Vec::<String>::new());
    let with = |place, value: Option<Value>| {
        let mut content = good.clone();
        match value {
            Some(value) => content.insert(place, value),
            None => content.remove(&place),
        };
        content
    };
    let sees = |content: &Content, what: &str| {
        let problems = judge(&acknowledged, &good, content);
        assert!(problems.iter().any(|problem| problem.contains(what)), "{what} is not in {problems:?}");
    };
    sees(&with((0, 1), None), "is lost");
    sees(&with((0, 2), Some(value(0, 0))), "is duplicated");
    sees(&with((0, 0), Some(value(1, 0))), "was read as");
    let mut moved = with((0, 1), None);
    moved.insert((0, 2), value(1, 0));
    sees(&moved, "and lies at");
    let unanswered = [vec![None], Vec::new()];
    let one = Content::from([((0, 0), value(0, 0))]);
    assert_eq!(judge(&unanswered, &one, &one), ["0x0 was never acknowledged"]);
}
