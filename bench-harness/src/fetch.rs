//! `logmill-bench fetch`: reads partitions from their leaders, one request at a time on each connection, and
//! checks that no offset is missing.

use crate::clock::Clock;
use crate::cluster::{self, EARLIEST, LATEST, Topic};
use crate::connection::Connection;
use crate::failure::{Failure, error_name};
use crate::measured_run::{Probe, RunOptions, date_now};
use crate::report::{Host, Percentiles, Report, histogram};
use hdrhistogram::Histogram;
use logmill_wire::api::fetch;
use logmill_wire::primitives::Records;
use logmill_wire::record_batch::{crc_matches, whole_batches};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// Options of `fetch`.
#[derive(Clone, Debug, clap::Args, Serialize)]
pub struct FetchOptions {
    /// Those of every run.
    #[command(flatten)]
    #[serde(flatten)]
    pub run: RunOptions,
    /// Consumers, which share the partitions; each has a thread and a connection per leader
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub consumers: u16,
    /// Bytes of one response, and of one partition in it
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20, value_parser = clap::value_parser!(i32).range(1..))]
    pub max_bytes: i32,
    /// Start at the first offset; without --records and --duration, end where the log ends at the start
    #[arg(long)]
    pub from_beginning: bool,
    /// Milliseconds that the broker may wait for the first record
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 500, value_parser = clap::value_parser!(i32).range(0..))]
    pub max_wait_ms: i32,
    /// Leave out the check of each batch's CRC, which Kafka's consumers do
    #[arg(long)]
    pub skip_crc: bool,
}

impl FetchOptions {
    fn check(&self) -> Result<(), Failure> {
        self.run.check()?;
        if !self.from_beginning && self.run.records.is_none() && self.run.duration.is_none() {
            let text = "the run has no end; give --duration, --records or --from-beginning";
            return Err(Failure::Usage(text.to_owned()));
        }
        Ok(())
    }
}

/// What all threads see.
struct Shared<'a> {
    options: &'a FetchOptions,
    topic: &'a Topic,
    clock: &'a Clock,
    measure_from_ns: u64,
    end_ns: Option<u64>,
    records: AtomicU64,
}

/// Where one partition's reading stands.
#[derive(Clone, Copy, Debug)]
struct Position {
    next: i64,
    end: Option<i64>,
}

/// What one thread, or all of them, read.
#[derive(Debug)]
struct Tally {
    latency: Histogram<u64>,
    records: u64,
    bytes: u64,
    requests: u64,
    last_ns: u64,
    errors: BTreeMap<String, u64>,
}

impl Tally {
    fn new() -> Self {
        Self { latency: histogram(), records: 0, bytes: 0, requests: 0, last_ns: 0, errors: BTreeMap::new() }
    }

    fn merge(&mut self, other: Self) {
        // Both have the same fixed bounds, so adding cannot fail.
        let _ = self.latency.add(&other.latency);
        self.records += other.records;
        self.bytes += other.bytes;
        self.requests += other.requests;
        self.last_ns = self.last_ns.max(other.last_ns);
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
    }

    fn error(&mut self, text: String) {
        *self.errors.entry(text).or_default() += 1;
    }
}

/// Reads, and returns the report; errors of the broker's making are in it.
///
/// # Errors
/// Wrong usage, and whatever kept the run from being done.
pub fn run(options: &FetchOptions, clock: &Clock) -> Result<Report, Failure> {
    options.check()?;
    let mut bootstrap = Connection::open(&options.run.bootstrap_server, options.run.timeout())?;
    let topic = cluster::find_topic(&mut bootstrap, &options.run.topic, None, |pause_ns| {
        clock.sleep_until_ns(clock.now_ns() + pause_ns);
    })?;
    let readers = connect(options, &topic)?;
    let date = date_now(clock);
    let start_ns = clock.now_ns();
    let shared = Shared {
        options,
        topic: &topic,
        clock,
        measure_from_ns: start_ns + options.run.warm_up * 1_000_000_000,
        end_ns: options.run.duration.map(|seconds| start_ns + seconds * 1_000_000_000),
        records: AtomicU64::new(0),
    };
    let (tallies, before) = thread::scope(|scope| {
        let shared = &shared;
        let threads: Vec<_> = readers
            .into_iter()
            .map(|(connection, positions)| scope.spawn(move || read(shared, connection, positions)))
            .collect();
        clock.sleep_until_ns(shared.measure_from_ns);
        let before = Probe::take(options.run.pid);
        let tallies: Vec<_> = threads.into_iter().map(thread::ScopedJoinHandle::join).collect();
        (tallies, before)
    });
    let (before, after) = (before?, Probe::take(options.run.pid)?);
    let mut total = Tally::new();
    for tally in tallies {
        total.merge(tally.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
    }
    let mut invalid: Vec<String> =
        total.errors.iter().map(|(error, count)| format!("{count} errors: {error}")).collect();
    if total.records == 0 {
        invalid.push("nothing was measured".to_owned());
    }
    Ok(Report {
        kind: "fetch",
        date,
        host: Host::of_this_process(),
        durability: options.run.durability_note.clone(),
        options: serde_json::to_value(options).unwrap_or_default(),
        batch_records: None,
        seconds: total.last_ns.saturating_sub(shared.measure_from_ns) as f64 / 1e9,
        records: total.records,
        bytes: total.bytes,
        requests: total.requests,
        latency_from: "from sending the request; a closed loop, waiting for data included",
        latency: Percentiles::from(&total.latency),
        generator_lag: None,
        broker: before
            .zip(after)
            .map(|(before, after)| before.cost_until(&after, total.records, total.bytes)),
        errors: total.errors,
        invalid,
    })
}

type Reader = (Connection, BTreeMap<i32, Position>);

/// A connection for each consumer and leader that have a partition in common.
fn connect(options: &FetchOptions, topic: &Topic) -> Result<Vec<Reader>, Failure> {
    let timeout = options.run.timeout();
    let first = if options.from_beginning { EARLIEST } else { LATEST };
    let starts = cluster::offsets(topic, first, timeout)?;
    let until_end = options.run.records.is_none() && options.run.duration.is_none();
    let ends = if until_end { Some(cluster::offsets(topic, LATEST, timeout)?) } else { None };
    let mut readers = Vec::new();
    for consumer in 0..usize::from(options.consumers) {
        for (address, partitions) in topic.by_leader() {
            let own = partitions.iter().skip(consumer).step_by(usize::from(options.consumers));
            let positions: BTreeMap<i32, Position> = own
                .map(|partition| {
                    let end = ends.as_ref().and_then(|ends| ends.get(partition).copied());
                    (*partition, Position { next: starts.get(partition).copied().unwrap_or(0), end })
                })
                .collect();
            if !positions.is_empty() {
                readers.push((Connection::open(&address, timeout)?, positions));
            }
        }
    }
    Ok(readers)
}

fn read(
    shared: &Shared<'_>,
    mut connection: Connection,
    mut positions: BTreeMap<i32, Position>,
) -> Result<Tally, Failure> {
    let mut tally = Tally::new();
    let newest = if shared.topic.id.is_zero() { 12 } else { i16::MAX };
    let version = connection.version::<fetch::Request<'_>>(newest)?;
    let mut last_record_ns = shared.clock.now_ns();
    while tally.errors.is_empty() {
        positions.retain(|_, position| position.end.is_none_or(|end| position.next < end));
        let sent_ns = shared.clock.now_ns();
        let enough =
            shared.options.run.records.is_some_and(|max| shared.records.load(Ordering::Relaxed) >= max);
        if positions.is_empty() || enough || shared.end_ns.is_some_and(|end_ns| sent_ns >= end_ns) {
            break;
        }
        let answer = connection.call_in_version(&request(shared, &positions), version)?;
        let now_ns = shared.clock.now_ns();
        let response: fetch::Response<'_> = connection.decode(&answer)?;
        if response.error_code != 0 {
            tally.error(error_name(response.error_code));
            break;
        }
        let (records, bytes) = take(shared, &response, &mut positions, &mut tally);
        shared.records.fetch_add(records, Ordering::Relaxed);
        if sent_ns >= shared.measure_from_ns {
            tally.latency.saturating_record(now_ns - sent_ns);
            tally.requests += 1;
            tally.records += records;
            tally.bytes += bytes;
            if records > 0 {
                tally.last_ns = now_ns;
            }
        }
        if records > 0 {
            last_record_ns = now_ns;
        } else if shared.end_ns.is_none()
            && now_ns - last_record_ns > shared.options.run.timeout_seconds * 1_000_000_000
        {
            tally.error(format!("no record came for {} s", shared.options.run.timeout_seconds));
        }
    }
    Ok(tally)
}

/// A fetch of all positions outside of any session (KIP-227).
fn request<'a>(shared: &Shared<'a>, positions: &BTreeMap<i32, Position>) -> fetch::Request<'a> {
    let partitions = positions.iter().map(|(&partition, position)| fetch::FetchPartition {
        partition,
        fetch_offset: position.next,
        partition_max_bytes: shared.options.max_bytes,
        ..Default::default()
    });
    let topic = fetch::FetchTopic {
        topic: shared.topic.name.as_str().into(),
        topic_id: shared.topic.id,
        partitions: partitions.collect(),
    };
    fetch::Request {
        max_wait_ms: shared.options.max_wait_ms,
        min_bytes: 1,
        max_bytes: shared.options.max_bytes,
        topics: vec![topic].into(),
        ..Default::default()
    }
}

/// Counts records and bytes, moves the positions on, and notes what is wrong.
fn take(
    shared: &Shared<'_>,
    response: &fetch::Response<'_>,
    positions: &mut BTreeMap<i32, Position>,
    tally: &mut Tally,
) -> (u64, u64) {
    let (mut records, mut bytes) = (0, 0);
    for topic in &response.responses {
        for data in &topic.partitions {
            let Some(position) = positions.get_mut(&data.partition_index) else {
                tally.error(format!("partition {} was not asked for", data.partition_index));
                continue;
            };
            if data.error_code != 0 {
                tally.error(error_name(data.error_code));
                continue;
            }
            let set = data.records.as_ref().and_then(Records::borrowed).unwrap_or_default();
            match advance(position, set, !shared.options.skip_crc) {
                Ok(read) => {
                    records += read.0;
                    bytes += read.1;
                }
                Err(text) => tally.error(format!("partition {}: {text}", data.partition_index)),
            }
        }
    }
    (records, bytes)
}

/// Moves a position over the complete batches of a record set; returns their records from the position on, and
/// their bytes.
fn advance(position: &mut Position, set: &[u8], check_crc: bool) -> Result<(u64, u64), String> {
    let (mut records, mut bytes) = (0, 0);
    for batch in whole_batches(set) {
        let batch = batch.map_err(|error| error.to_string())?;
        let header = batch.header();
        let (base, last) = (header.base_offset.0, header.last_offset().0);
        // The first batch may start before the position; a later one starts where the one before it ended.
        if base > position.next || last < position.next {
            return Err(format!("offsets {base} to {last} came in the place of {}", position.next));
        }
        if check_crc && !crc_matches(batch.bytes()) {
            return Err(format!("the batch at offset {base} has a wrong CRC"));
        }
        records += (last - position.next).unsigned_abs() + 1;
        bytes += batch.bytes().len() as u64;
        position.next = last + 1;
    }
    Ok((records, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use logmill_wire::ids::{Offset, TimestampMs};
    use logmill_wire::record_batch::BatchBuilder;

    fn batch(base_offset: i64, records: usize) -> Vec<u8> {
        let mut builder = BatchBuilder::new().base_offset(Offset(base_offset));
        for _ in 0..records {
            builder.append(TimestampMs(1), None, Some(b"value"), &[]);
        }
        builder.finish().unwrap()
    }

    #[test]
    fn missing_and_damaged_batches_are_found() {
        let set = [batch(10, 3), batch(13, 2)].concat();
        let mut position = Position { next: 11, end: None };
        assert_eq!(advance(&mut position, &set, true), Ok((4, set.len() as u64)));
        assert_eq!(position.next, 15);
        let mut cut = Position { next: 10, end: None };
        assert_eq!(advance(&mut cut, &set[..set.len() - 1], true).map(|read| read.0), Ok(3));
        let gap = [batch(10, 3), batch(14, 2)].concat();
        assert!(
            advance(&mut Position { next: 10, end: None }, &gap, true).unwrap_err().contains("place of 13")
        );
        assert!(advance(&mut Position { next: 15, end: None }, &set, true).is_err());
        let mut damaged = set;
        let end = damaged.len() - 1;
        damaged[end] ^= 1;
        assert!(advance(&mut Position { next: 10, end: None }, &damaged, true).unwrap_err().contains("CRC"));
        assert!(advance(&mut Position { next: 10, end: None }, &damaged, false).is_ok());
    }
}
