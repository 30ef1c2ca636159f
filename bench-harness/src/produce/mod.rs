//! `logmill-bench produce`: batches on a schedule, or as fast as the in-flight limit allows.

mod frame;
mod link;
mod producer;

use crate::clock::Clock;
use crate::cluster::{self, NewTopic, Topic};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::measured_run::{Probe, RunOptions, date_now};
use crate::pacing::Load;
use crate::report::{Host, Percentiles, Report};
use clap::ValueEnum;
use hdrhistogram::Histogram;
use logmill_wire::compression::Codec;
use producer::{Outcome, Producer};
use serde::Serialize;
use std::collections::BTreeMap;
use std::thread;

/// Time for all threads to be ready before the first batch is due.
const LEAD_NS: u64 = 50_000_000;
/// Without `--duration` and `--records`.
const DEFAULT_SECONDS: u64 = 10;
/// Requests that a broker of the Kafka protocol lets an idempotent producer have in flight (KIP-98).
const IDEMPOTENT_IN_FLIGHT_MAX: usize = 5;
/// The share of the asked rate that must have been acknowledged, or else the run did not put that load on.
const RATE_REACHED: f64 = 0.98;

/// What a broker has done when it acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Acks {
    /// No acknowledgement: nothing is known of latency or success
    #[value(name = "0")]
    #[serde(rename = "0")]
    None,
    /// The leader has it
    #[value(name = "1")]
    #[serde(rename = "1")]
    Leader,
    /// All in-sync replicas have it
    All,
}

impl Acks {
    const fn on_the_wire(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Leader => 1,
            Self::All => -1,
        }
    }
}

/// Options of `produce`.
#[derive(Clone, Debug, clap::Args, Serialize)]
pub struct ProduceOptions {
    /// Those of every run.
    #[command(flatten)]
    #[serde(flatten)]
    pub run: RunOptions,
    /// Create the topic with so many partitions if it is absent
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(i32).range(1..))]
    pub partitions: Option<i32>,
    /// Copies of each partition of a created topic; -1 for the broker's default
    #[arg(long, value_name = "COUNT", default_value_t = -1, allow_negative_numbers = true)]
    pub replication_factor: i16,
    /// Bytes of each record's value; there is no key
    #[arg(long, value_name = "BYTES", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(0..=64 << 20))]
    pub record_size: u32,
    /// Bytes of a batch before compression; at least one record goes in
    #[arg(long, value_name = "BYTES", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..=64 << 20))]
    pub batch_size: u32,
    /// Producers, each with a thread and a connection to each leader
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub producers: u16,
    /// What the broker has done when it acknowledges
    #[arg(long, value_enum, default_value_t = Acks::All)]
    pub acks: Acks,
    /// Send with producer id and sequence (KIP-98)
    #[arg(long)]
    pub idempotent: bool,
    /// none, gzip, snappy, lz4 or zstd; the records are hexadecimal digits
    #[arg(long, value_name = "NAME", default_value = "none", value_parser = codec_named)]
    #[serde(serialize_with = "codec_name")]
    pub codec: Codec,
    /// Records per second of all producers, in an open loop; 0 sends as fast as --in-flight allows
    #[arg(long, value_name = "RECORDS", default_value_t = 0)]
    pub rate: u64,
    /// Requests that each connection may have unanswered
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub in_flight: u16,
    /// In an open loop, the largest 99th percentile of the generator's own lag with which the result counts
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 1000)]
    pub lag_limit_us: u64,
}

fn codec_named(name: &str) -> Result<Codec, String> {
    Codec::from_name(name).ok_or_else(|| "use none, gzip, snappy, lz4 or zstd".to_owned())
}

fn codec_name<S: serde::Serializer>(codec: &Codec, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(codec.name())
}

impl ProduceOptions {
    fn check(&self) -> Result<(), Failure> {
        self.run.check()?;
        let usage = |text: &str| Err(Failure::Usage(text.to_owned()));
        if self.idempotent && self.acks != Acks::All {
            return usage("--idempotent needs --acks all");
        }
        if self.idempotent && usize::from(self.in_flight) > IDEMPOTENT_IN_FLIGHT_MAX {
            return usage("--idempotent allows at most --in-flight 5");
        }
        Ok(())
    }
}

/// Runs the load and returns its report; errors of the broker's making are in it.
///
/// # Errors
/// Wrong usage, and whatever kept the run from being done.
pub fn run(options: &ProduceOptions, clock: &Clock) -> Result<Report, Failure> {
    options.check()?;
    let topic = prepare_topic(options, clock)?;
    let mut producers = Vec::with_capacity(usize::from(options.producers));
    for number in 0..options.producers {
        producers.push(Producer::connect(options, &topic, u64::from(number))?);
    }
    let batch_records = producers.first().map_or(1, Producer::batch_records);
    let date = date_now(clock);
    let start_ns = clock.now_ns() + LEAD_NS;
    let measure_from_ns = start_ns + options.run.warm_up * 1_000_000_000;
    let load = |number: u64| Load {
        producer: number,
        producers: u64::from(options.producers),
        records_per_second: options.rate,
        batch_records,
        start_ns,
        measure_from_ns,
        end_ns: duration_seconds(options).map(|seconds| start_ns + seconds * 1_000_000_000),
        batches_max: options.run.records.map(|records| {
            let (batches, share) = (records.div_ceil(batch_records), u64::from(options.producers));
            batches / share + u64::from(number < batches % share)
        }),
    };
    let (outcomes, before) = thread::scope(|scope| {
        let threads: Vec<_> = producers
            .into_iter()
            .zip(0..)
            .map(|(producer, number)| scope.spawn(move || producer.run(load(number), clock)))
            .collect();
        clock.sleep_until_ns(measure_from_ns);
        let before = Probe::take(options.run.pid);
        let outcomes: Vec<_> = threads.into_iter().map(thread::ScopedJoinHandle::join).collect();
        (outcomes, before)
    });
    let (before, after) = (before?, Probe::take(options.run.pid)?);
    let mut total = Outcome::new();
    for outcome in outcomes {
        let outcome = outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        total.merge(outcome);
    }
    let broker =
        before.zip(after).map(|(before, after)| before.cost_until(&after, total.records, total.bytes));
    let seconds = total.last_ns.saturating_sub(measure_from_ns) as f64 / 1e9;
    let invalid = reasons_against(options, &total, seconds);
    Ok(Report {
        kind: "produce",
        date,
        host: Host::of_this_process(),
        durability: options.run.durability_note.clone(),
        options: serde_json::to_value(options).unwrap_or_default(),
        batch_records: Some(batch_records),
        seconds,
        records: total.records,
        bytes: total.bytes,
        requests: total.requests,
        latency_from: match (options.acks, options.rate) {
            (Acks::None, _) => "not measured: nothing is acknowledged",
            (_, 0) => "from sending; a closed loop, which hides stalls",
            _ => "from the time at which the batch was due",
        },
        latency: Percentiles::from(&total.latency),
        generator_lag: (options.rate > 0).then(|| Percentiles::from(&total.lag)),
        broker,
        errors: total.errors,
        invalid,
    })
}

fn duration_seconds(options: &ProduceOptions) -> Option<u64> {
    options
        .run
        .duration
        .or_else(|| options.run.records.is_none().then_some(DEFAULT_SECONDS + options.run.warm_up))
}

fn prepare_topic(options: &ProduceOptions, clock: &Clock) -> Result<Topic, Failure> {
    let mut bootstrap = Connection::open(&options.run.bootstrap_server, options.run.timeout())?;
    let create = options
        .partitions
        .map(|partitions| NewTopic { partitions, replication_factor: options.replication_factor });
    cluster::find_topic(&mut bootstrap, &options.run.topic, create, |pause_ns| {
        clock.sleep_until_ns(clock.now_ns() + pause_ns);
    })
}

/// Why the result does not count.
fn reasons_against(options: &ProduceOptions, total: &Outcome, seconds: f64) -> Vec<String> {
    let mut reasons: Vec<String> =
        total.errors.iter().map(|(error, count)| format!("{count} errors: {error}")).collect();
    if total.unsent > 0 {
        reasons.push(format!("{} batches were due and could not be sent in time", total.unsent));
    }
    if total.requests == 0 {
        reasons.push("nothing was measured".to_owned());
    }
    reasons.extend(lag_reason(&total.lag, options.lag_limit_us));
    let reached = total.records as f64 / seconds.max(1e-9);
    // With a record count the run ends when the last batch is answered, so that only long runs say something.
    if options.rate > 0 && seconds >= 1.0 && reached < options.rate as f64 * RATE_REACHED {
        reasons.push(format!("{reached:.0} of {} records/s were reached", options.rate));
    }
    reasons
}

/// Whether the generator itself was late too often.
fn lag_reason(lag: &Histogram<u64>, limit_us: u64) -> Option<String> {
    let p99_us = lag.value_at_quantile(0.99) / 1000;
    (p99_us > limit_us)
        .then(|| format!("the generator was late by itself: p99 {p99_us} µs, the limit is {limit_us} µs"))
}

/// Error codes and other errors by name.
type Errors = BTreeMap<String, u64>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::histogram;

    #[test]
    fn a_late_generator_spoils_the_result() {
        let mut lag = histogram();
        lag.saturating_record_n(50_000, 98);
        lag.saturating_record_n(1_500_000, 2);
        assert_eq!(lag_reason(&lag, 1600), None);
        assert!(lag_reason(&lag, 1000).unwrap().contains("late by itself"));
        assert_eq!(lag_reason(&histogram(), 0), None);
    }
}
