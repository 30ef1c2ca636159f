//! The processes of a group of three (`broker/tests/clients/README.md`) with rdkafka: the modes `produce`, `member` and
//! `committed`. `tests/daily_use.rs` has the others' mode `plain`.

#![expect(clippy::disallowed_methods, reason = "clients run on the real clock")]

use logmill_clients::daily::{PATIENCE, create_topic, group_settings, settings};
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{env, process, thread};

const PARTITIONS: i32 = 6;
const RECORDS_PER_S: f64 = 150.0;
const COMMIT_INTERVAL: Duration = Duration::from_millis(500);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["produce", bootstrap, topic] => produce(bootstrap, topic),
        ["member", bootstrap, topic, group, protocol] => member(bootstrap, topic, group, protocol),
        ["committed", bootstrap, topic, group] => committed(bootstrap, topic, group),
        _ => {
            Err("the arguments are those of one of the modes that the README of the suites describes".into())
        }
    }
}

/// Whoever reads the lines gets each of them at once.
fn say(line: &str) {
    // If nobody reads, the process is about to be ended.
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// Whether the standard input has ended.
fn end_of_input() -> Arc<AtomicBool> {
    let ended = Arc::new(AtomicBool::new(false));
    let flag = ended.clone();
    thread::spawn(move || {
        let _ = io::stdin().lock().read_to_end(&mut Vec::new());
        flag.store(true, Ordering::Relaxed);
    });
    ended
}

struct Reports;

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, value: usize) {
        match result {
            Ok(message) => say(&format!("sent {} {} {value}", message.partition(), message.offset())),
            Err((error, _)) => {
                eprintln!("error: record {value} is not delivered: {error}");
                process::exit(1);
            }
        }
    }
}

fn produce(bootstrap: &str, topic: &str) -> Result<(), Box<dyn Error>> {
    create_topic(bootstrap, topic, PARTITIONS);
    let producer: BaseProducer<Reports> =
        settings(bootstrap).set("acks", "all").set("linger.ms", "5").create_with_context(Reports)?;
    let (ended, begin) = (end_of_input(), Instant::now());
    let mut value = 0_usize;
    while !ended.load(Ordering::Relaxed) {
        while (value as f64) < begin.elapsed().as_secs_f64() * RECORDS_PER_S {
            let (key, payload) = (format!("key {value}"), value.to_string());
            let record = BaseRecord::with_opaque_to(topic, value).key(&key).payload(&payload);
            producer.send(record).map_err(|(error, _)| error)?;
            value += 1;
        }
        producer.poll(Duration::from_millis(20));
    }
    Ok(producer.flush(PATIENCE)?)
}

/// By partition, the offset behind the last record.
type Offsets = BTreeMap<i32, i64>;

/// What a member has printed and not committed yet.
struct Membership {
    topic: String,
    uncommitted: Mutex<Offsets>,
}

impl Membership {
    fn note(&self, partition: i32, offset: i64) {
        self.uncommitted.lock().unwrap_or_else(PoisonError::into_inner).insert(partition, offset);
    }

    /// Those of partitions that `wanted` picks, which are not kept.
    fn take(&self, wanted: impl Fn(i32) -> bool) -> Offsets {
        let mut uncommitted = self.uncommitted.lock().unwrap_or_else(PoisonError::into_inner);
        uncommitted.extract_if(.., |partition, _| wanted(*partition)).collect()
    }

    fn commit(&self, consumer: &BaseConsumer<Self>, offsets: &Offsets) -> KafkaResult<()> {
        if offsets.is_empty() {
            return Ok(());
        }
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            list.add_partition_offset(&self.topic, *partition, Offset::Offset(*offset))?;
        }
        consumer.commit(&list, CommitMode::Sync)
    }
}

impl ClientContext for Membership {}

impl ConsumerContext for Membership {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(partitions) = rebalance {
            let offsets = self.take(|partition| partitions.find_partition(&self.topic, partition).is_some());
            if let Err(error) = self.commit(consumer, &offsets) {
                eprintln!("a commit before partitions are handed over: {error}");
            }
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, _: &Rebalance<'_>) {
        let mut line = "owns".to_owned();
        for element in consumer.assignment().unwrap_or_default().elements() {
            line.push_str(&format!(" {}", element.partition()));
        }
        say(&line);
    }
}

/// Whether the group is about to have another generation, so that the commit comes again.
fn is_of_a_rebalance(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{IllegalGeneration, RebalanceInProgress, StaleMemberEpoch};
    let codes = [IllegalGeneration, RebalanceInProgress, StaleMemberEpoch];
    error.rdkafka_error_code().is_some_and(|code| codes.contains(&code))
}

fn member(bootstrap: &str, topic: &str, group: &str, protocol: &str) -> Result<(), Box<dyn Error>> {
    let membership = Membership { topic: topic.to_owned(), uncommitted: Mutex::default() };
    let consumer: BaseConsumer<Membership> =
        group_settings(bootstrap, group, protocol).create_with_context(membership)?;
    consumer.subscribe(&[topic])?;
    let (ended, mut last_commit) = (end_of_input(), Instant::now());
    loop {
        let leaving = ended.load(Ordering::Relaxed);
        if let Some(message) = consumer.poll(Duration::from_millis(50)) {
            let message = message?;
            let (partition, offset) = (message.partition(), message.offset());
            let value: u64 = str::from_utf8(message.payload().unwrap_or_default())?.parse()?;
            // The client does not tell the generation.
            say(&format!("got -1 {partition} {offset} {value}"));
            consumer.context().note(partition, offset + 1);
        }
        if !leaving && last_commit.elapsed() < COMMIT_INTERVAL {
            continue;
        }
        last_commit = Instant::now();
        let offsets = consumer.context().take(|_| true);
        match consumer.context().commit(&consumer, &offsets) {
            Ok(()) if leaving => break,
            Ok(()) => {}
            // It comes again, at the latest when partitions are handed over.
            Err(error) if is_of_a_rebalance(&error) => {
                offsets.into_iter().for_each(|(partition, next)| consumer.context().note(partition, next));
            }
            Err(error) => return Err(error.into()),
        }
    }
    drop(consumer);
    say("left");
    Ok(())
}

fn committed(bootstrap: &str, topic: &str, group: &str) -> Result<(), Box<dyn Error>> {
    let consumer: BaseConsumer = group_settings(bootstrap, group, "classic").create()?;
    let mut asked = TopicPartitionList::new();
    asked.add_partition_range(topic, 0, PARTITIONS - 1);
    for element in consumer.committed_offsets(asked, PATIENCE)?.elements() {
        element.error()?;
        if let Offset::Offset(offset) = element.offset() {
            say(&format!("committed {} {offset}", element.partition()));
        }
    }
    Ok(())
}
