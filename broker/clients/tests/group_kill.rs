//! kill -9 under groups, seen from outside: librdkafka as it is, one group of the classic protocol and one of the
//! consumer protocol (KIP-848), three members each, that commit what they have read, while the broker dies and comes
//! back time and again. Committed offsets never go back, generations and epochs never decrease, every member reads on
//! within 2 s of the port being open, and each group reads every record.
//!
//! - `LOGMILL_CI_GROUP_KILLS`: how often the broker is killed (8 unless it says otherwise)
//! - `LOGMILL_CI_SEED`: when it is killed; printed by every run
//! - `LOGMILL_CI_BIN`: the broker's binary; without it cargo builds it
//!
//! The clients' settings that bear on the 2 s: reconnect.backoff.ms=10, reconnect.backoff.max.ms=100,
//! retry.backoff.ms=20, session.timeout.ms=45000, heartbeat.interval.ms=500.

#![expect(clippy::disallowed_methods, reason = "processes and clients run on the real clock")]

use logmill_clients::broker::Broker;
use logmill_clients::chance::{Random, number_from, seed};
use logmill_wire::api::{Message as _, consumer_group_metadata_key, group_metadata_key};
use logmill_wire::api::{consumer_group_metadata_value, group_metadata_value};
use logmill_wire::primitives::Reader;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const TOPIC: &str = "load";
const PARTITIONS: i32 = 6;
const MEMBERS: usize = 3;
const GROUPS: [(&str, &str); 2] = [("classic-group", "classic"), ("consumer-group", "consumer")];
/// Partitions of `__consumer_offsets`: fewer than by default, so that they are read in no time at the end.
const OFFSETS_PARTITIONS: i32 = 4;
/// How soon after the port is open every member must have read on.
const RESUMPTION_MAX: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(60);

struct Quiet;

impl ClientContext for Quiet {
    // What the client says about each lost connection is what this test causes.
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}
    fn error(&self, _: rdkafka::error::KafkaError, _: &str) {}
}

impl ConsumerContext for Quiet {}

fn client(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap)
        .set("reconnect.backoff.ms", "10")
        .set("reconnect.backoff.max.ms", "100")
        .set("retry.backoff.ms", "20")
        .set("retry.backoff.max.ms", "100");
    config
}

/// What one group has done.
#[derive(Default)]
struct Progress {
    /// Records read by each member.
    read: [AtomicU64; MEMBERS],
    /// Commits that were acknowledged.
    commits: AtomicU64,
    /// By partition, the largest offset whose commit was acknowledged.
    acknowledged: Mutex<BTreeMap<i32, i64>>,
    /// What was read.
    values: Mutex<BTreeSet<u64>>,
    problems: Mutex<Vec<String>>,
}

impl Progress {
    fn problem(&self, text: String) {
        self.problems.lock().expect("no thread panicked").push(text);
    }

    fn values(&self) -> usize {
        self.values.lock().expect("no thread panicked").len()
    }
}

/// Reads as a member, and commits by and by, until `stop`.
fn consume(member: usize, bootstrap: &str, group: (&str, &str), progress: &Progress, stop: &AtomicBool) {
    let mut config = client(bootstrap);
    config
        .set("group.id", group.0)
        .set("group.protocol", group.1)
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("fetch.wait.max.ms", "50")
        .set("client.id", format!("{}-{member}", group.0));
    if group.1 == "classic" {
        config.set("session.timeout.ms", "45000").set("heartbeat.interval.ms", "500");
    }
    let consumer: BaseConsumer<Quiet> = config.create_with_context(Quiet).expect("the settings are valid");
    consumer.subscribe(&[TOPIC]).expect("the name is valid");
    let mut last_commit = Instant::now();
    let mut positions = BTreeMap::new();
    while !stop.load(Ordering::Relaxed) {
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(20)) {
            let value = message.payload().and_then(|bytes| str::from_utf8(bytes).ok()?.parse().ok());
            match value {
                Some(value) => {
                    progress.values.lock().expect("no thread panicked").insert(value);
                }
                None => progress.problem(format!("{:?} holds what nobody sent", message.offset())),
            }
            positions.insert(message.partition(), message.offset() + 1);
            progress.read[member].fetch_add(1, Ordering::Relaxed);
        }
        if last_commit.elapsed() > Duration::from_millis(30) && !positions.is_empty() {
            last_commit = Instant::now();
            commit(&consumer, &mut positions, progress);
        }
    }
}

fn commit(consumer: &BaseConsumer<Quiet>, positions: &mut BTreeMap<i32, i64>, progress: &Progress) {
    let mut offsets = TopicPartitionList::new();
    let owned = consumer.assignment().unwrap_or_default();
    // A partition that has moved on is another member's to commit.
    positions.retain(|partition, _| owned.find_partition(TOPIC, *partition).is_some());
    for (partition, offset) in positions.iter() {
        offsets.add_partition_offset(TOPIC, *partition, Offset::Offset(*offset)).expect("a valid offset");
    }
    if positions.is_empty() || consumer.commit(&offsets, CommitMode::Sync).is_err() {
        return;
    }
    progress.commits.fetch_add(1, Ordering::Relaxed);
    let mut acknowledged = progress.acknowledged.lock().expect("no thread panicked");
    for (partition, offset) in std::mem::take(positions) {
        let known = acknowledged.entry(partition).or_insert(offset);
        *known = (*known).max(offset);
    }
}

/// Looks again and again at what the group has committed: never less than before, nor than was acknowledged.
fn watch(bootstrap: &str, group: &str, progress: &Progress, stop: &AtomicBool) -> u64 {
    let consumer: BaseConsumer<Quiet> =
        client(bootstrap).set("group.id", group).create_with_context(Quiet).expect("the settings are valid");
    let mut asked = TopicPartitionList::new();
    asked.add_partition_range(TOPIC, 0, PARTITIONS - 1);
    let (mut seen, mut looks) = (BTreeMap::<i32, i64>::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        let at_least = progress.acknowledged.lock().expect("no thread panicked").clone();
        let Ok(committed) = consumer.committed_offsets(asked.clone(), Duration::from_secs(2)) else {
            continue;
        };
        if committed.elements().iter().any(|element| element.error().is_err()) {
            continue;
        }
        looks += 1;
        for (partition, floor) in at_least {
            let before = seen.entry(partition).or_insert(floor);
            *before = (*before).max(floor);
        }
        for element in committed.elements() {
            let offset = if let Offset::Offset(offset) = element.offset() { offset } else { -1 };
            let before = seen.entry(element.partition()).or_insert(offset);
            if offset < *before {
                let partition = element.partition();
                progress.problem(format!("{group}: partition {partition} went from {before} to {offset}"));
            }
            *before = (*before).max(offset);
        }
        thread::sleep(Duration::from_millis(20));
    }
    looks
}

/// Produces numbers, one after the other, until `stop`; returns how many.
fn produce(bootstrap: &str, stop: &AtomicBool) -> u64 {
    let producer: BaseProducer = client(bootstrap)
        .set("enable.idempotence", "true")
        .set("message.timeout.ms", "0")
        .set("linger.ms", "2")
        .set_log_level(RDKafkaLogLevel::Emerg)
        .create()
        .expect("the settings are valid");
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..20 {
            let payload = number.to_string();
            let partition = i32::try_from(number % PARTITIONS.unsigned_abs() as u64).unwrap_or(0);
            let record = BaseRecord::<(), str>::to(TOPIC).partition(partition).payload(&payload);
            if producer.send(record).is_ok() {
                number += 1;
            }
        }
        producer.poll(Duration::ZERO);
        // While the broker is away nobody reads either.
        while producer.in_flight_count() > 2_000 && !stop.load(Ordering::Relaxed) {
            producer.poll(Duration::from_millis(5));
        }
        thread::sleep(Duration::from_millis(5));
    }
    producer.flush(PATIENCE).expect("the broker takes what is left");
    number
}

/// Waits until every member of every group has read, and every group committed, since `since`.
fn wait_for_all(
    progress: &[Progress],
    since: Instant,
    limit: Duration,
    broker: &Broker,
    what: &str,
) -> Duration {
    let counts = |progress: &Progress| -> Vec<u64> {
        let read = progress.read.iter().map(|read| read.load(Ordering::Relaxed));
        read.chain([progress.commits.load(Ordering::Relaxed)]).collect()
    };
    let before: Vec<_> = progress.iter().map(counts).collect();
    loop {
        let now: Vec<_> = progress.iter().map(counts).collect();
        let have_all =
            now.iter().zip(&before).all(|(now, before)| now.iter().zip(before).all(|(n, b)| n > b));
        if have_all {
            return since.elapsed();
        }
        assert!(
            since.elapsed() < limit,
            "{what}: from {before:?} (records of each member, commits) to {now:?} in {limit:?}\n{}",
            broker.output()
        );
        thread::sleep(Duration::from_millis(2));
    }
}

/// By group, the generations or epochs in the order in which `__consumer_offsets` keeps them.
fn generations(bootstrap: &str) -> BTreeMap<String, Vec<i32>> {
    let consumer: BaseConsumer<Quiet> = client(bootstrap)
        .set("group.id", "not-used")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "false")
        .create_with_context(Quiet)
        .expect("the settings are valid");
    let mut partitions = TopicPartitionList::new();
    let mut ends = BTreeMap::new();
    for partition in 0..OFFSETS_PARTITIONS {
        let (start, end) = consumer
            .fetch_watermarks("__consumer_offsets", partition, PATIENCE)
            .expect("the partition is there");
        if end > start {
            partitions
                .add_partition_offset("__consumer_offsets", partition, Offset::Offset(start))
                .expect("a valid offset");
            ends.insert(partition, end);
        }
    }
    consumer.assign(&partitions).expect("partitions can be assigned");
    let mut found = BTreeMap::<String, Vec<i32>>::new();
    let begin = Instant::now();
    while !ends.is_empty() {
        assert!(begin.elapsed() < PATIENCE, "__consumer_offsets does not end: {ends:?}");
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else { continue };
        if ends.get(&message.partition()).is_some_and(|end| message.offset() + 1 >= *end) {
            ends.remove(&message.partition());
        }
        if let (Some(key), Some(value)) = (message.key(), message.payload())
            && let Some((group, generation)) = generation_of(key, value)
        {
            found.entry(group).or_default().push(generation);
        }
    }
    found
}

/// The group and its generation or epoch, if the record tells one.
fn generation_of(key: &[u8], value: &[u8]) -> Option<(String, i32)> {
    let number = |bytes: &[u8]| Some(i16::from_be_bytes(bytes.get(..2)?.try_into().ok()?));
    let (key_rest, value_rest) = (key.get(2..)?, value.get(2..)?);
    match number(key)? {
        group_metadata_key::RECORD_TYPE => {
            let key = group_metadata_key::GroupMetadataKey::decode(&mut Reader::new(key_rest), 0).ok()?;
            let value = group_metadata_value::GroupMetadataValue::decode(
                &mut Reader::new(value_rest),
                number(value)?,
            )
            .ok()?;
            Some((key.group.into_owned(), value.generation))
        }
        consumer_group_metadata_key::RECORD_TYPE => {
            let mut reader = Reader::new(key_rest);
            let key = consumer_group_metadata_key::ConsumerGroupMetadataKey::decode(&mut reader, 0).ok()?;
            let mut reader = Reader::new(value_rest);
            let value = consumer_group_metadata_value::ConsumerGroupMetadataValue::decode(
                &mut reader,
                number(value)?,
            )
            .ok()?;
            Some((key.group_id.into_owned(), value.epoch))
        }
        _ => None,
    }
}

fn kill_again_and_again(broker: &mut Broker, kills: u64, random: &mut Random, progress: &[Progress]) {
    wait_for_all(progress, Instant::now(), PATIENCE, broker, "at the start");
    let mut resumptions = Vec::new();
    for kill in 1..=kills {
        thread::sleep(Duration::from_millis(random.below(500)));
        broker.kill();
        let open = broker.start();
        let what = format!("after kill {kill}");
        resumptions.push(wait_for_all(progress, open, RESUMPTION_MAX, broker, &what));
    }
    resumptions.sort_unstable();
    eprintln!(
        "{kills} kills; from the open port to a record for each member and a commit of each group: median {:?}, at most {:?}",
        resumptions.get(resumptions.len() / 2),
        resumptions.last()
    );
}

/// Waits until each group has read all records.
fn drain(progress: &[Progress], total: u64, problems: &mut Vec<String>) {
    let begin = Instant::now();
    for (progress, (group, _)) in progress.iter().zip(GROUPS) {
        while (progress.values() as u64) < total && begin.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(10));
        }
        if progress.values() as u64 != total {
            problems.push(format!("{group} has read {} of {total} records", progress.values()));
        }
    }
}

#[test]
fn groups_keep_what_they_committed_and_go_on() {
    let kills = number_from("LOGMILL_CI_GROUP_KILLS").unwrap_or(8);
    let seed = seed();
    eprintln!("LOGMILL_CI_SEED={seed} LOGMILL_CI_GROUP_KILLS={kills}");
    let mut broker = Broker::new(
        "group-kill",
        &[
            ("num.partitions", PARTITIONS.to_string()),
            ("offsets.topic.num.partitions", OFFSETS_PARTITIONS.to_string()),
            ("group.initial.rebalance.delay.ms", "100".to_owned()),
            ("group.consumer.heartbeat.interval.ms", "500".to_owned()),
            ("group.consumer.min.heartbeat.interval.ms", "500".to_owned()),
        ],
    );
    broker.start();
    let bootstrap = broker.bootstrap();
    let progress: [Progress; 2] = Default::default();
    let [stop_producer, stop_members, stop_watchers] = [const { AtomicBool::new(false) }; 3];
    let mut problems = Vec::new();
    let looks = thread::scope(|scope| {
        let producer = scope.spawn(|| produce(&bootstrap, &stop_producer));
        let mut watchers = Vec::new();
        for (progress, group) in progress.iter().zip(GROUPS) {
            for member in 0..MEMBERS {
                let (bootstrap, stop) = (&bootstrap, &stop_members);
                scope.spawn(move || consume(member, bootstrap, group, progress, stop));
            }
            let (bootstrap, stop) = (&bootstrap, &stop_watchers);
            watchers.push(scope.spawn(move || watch(bootstrap, group.0, progress, stop)));
        }
        let killing = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            kill_again_and_again(&mut broker, kills, &mut Random::new(seed), &progress);
        }));
        stop_producer.store(true, Ordering::Relaxed);
        let produced = producer.join();
        if let (Ok(()), Ok(total)) = (&killing, &produced) {
            drain(&progress, *total, &mut problems);
            eprintln!("{total} records");
        }
        stop_watchers.store(true, Ordering::Relaxed);
        let looks: Vec<_> = watchers.into_iter().map(|watcher| watcher.join()).collect();
        stop_members.store(true, Ordering::Relaxed);
        killing.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        produced.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        looks
    });
    for looks in looks {
        assert!(looks.is_ok_and(|looks| looks > kills), "committed offsets were hardly looked at");
    }
    let generations = generations(&bootstrap);
    for (group, _) in GROUPS {
        let of_group = generations.get(group).cloned().unwrap_or_default();
        if of_group.is_empty() || !of_group.is_sorted() {
            problems.push(format!("the generations of {group}: {of_group:?}"));
        }
    }
    for progress in &progress {
        problems.append(&mut progress.problems.lock().expect("no thread panicked"));
    }
    assert!(
        problems.is_empty(),
        "{} problems, such as {:#?}",
        problems.len(),
        &problems[..problems.len().min(20)]
    );
}
