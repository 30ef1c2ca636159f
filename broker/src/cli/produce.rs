//! `logmill produce`: lines from standard input become records.

use super::connect::{Connect, key_and_value};
use super::topic::counted;
use super::{Failure, Format};
use crate::client::{Acks, Delivery, Producer, ProducerOptions, Timer};
use clap::Args;
use logmill_wire::compression::Codec;
use serde::Serialize;
use std::io::{self, BufRead, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;

/// Lines that are read ahead.
const LINES_AHEAD: usize = 4096;

#[derive(Args, Clone, Debug)]
pub(super) struct Produce {
    #[command(flatten)]
    connect: Connect,
    /// The topic; the broker may create it on demand
    topic: String,
    /// Splits each line into key and value at its first occurrence
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    key_separator: Option<String>,
    /// Whose acknowledgement to wait for: 0 (nobody's), 1 (the leader's) or all
    #[arg(long, value_name = "ACKS", default_value = "all", value_parser = acks, allow_hyphen_values = true)]
    acks: Acks,
    /// How to compress: none, gzip, snappy, lz4 or zstd
    #[arg(long, value_name = "CODEC", default_value = "none", value_parser = codec)]
    compression: Codec,
    /// The partition; by the key's hash otherwise, or by turns without keys
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// A header of every record; may be repeated
    #[arg(long = "header", value_name = "KEY=VALUE", value_parser = key_and_value)]
    headers: Vec<(String, String)>,
}

fn acks(text: &str) -> Result<Acks, String> {
    match text {
        "0" => Ok(Acks::None),
        "1" => Ok(Acks::Leader),
        "-1" | "all" => Ok(Acks::All),
        _ => Err("0, 1 or all is expected".to_owned()),
    }
}

fn codec(text: &str) -> Result<Codec, String> {
    let names = || Codec::ALL.map(Codec::name).join(", ");
    Codec::from_name(text).ok_or_else(|| format!("one of {} is expected", names()))
}

/// Sends all lines. The summary goes to `errors`, since nothing is asked for but the sending.
pub(super) fn run(produce: &Produce, errors: &mut dyn Write) -> Result<(), Vec<Failure>> {
    let timer = Timer::start();
    let mut cluster = produce.connect.cluster().map_err(|failure| vec![failure])?;
    let options = ProducerOptions {
        acks: produce.acks,
        codec: produce.compression,
        headers: produce.headers.clone(),
        partition: produce.partition,
    };
    let mut producer =
        Producer::new(&mut cluster, &produce.topic, options).map_err(|failure| vec![failure.into()])?;
    let separator = produce.key_separator.as_deref().map(str::as_bytes);
    let sent = send_lines(&mut producer, separator, &read_lines());
    let delivery = producer.finish();
    let mut failures: Vec<Failure> = sent.err().into_iter().collect();
    if let Some(failure) = &delivery.failure {
        let lost = counted(i64::try_from(delivery.failed).unwrap_or(i64::MAX), "line");
        failures.push(Failure::new(format!("{lost} not delivered: {failure}"), failure.remedy()));
    }
    // Where nobody reads the summary, the exit status says what matters.
    let _ = summarise(&delivery, timer, produce, errors);
    if failures.is_empty() { Ok(()) } else { Err(failures) }
}

/// Reads lines on a thread of its own, so that what waits is sent in time when no line comes.
fn read_lines() -> Receiver<io::Result<Vec<u8>>> {
    let (lines, receiver) = sync_channel(LINES_AHEAD);
    thread::spawn(move || {
        let mut input = io::stdin().lock();
        loop {
            let mut line = Vec::new();
            let read = match input.read_until(b'\n', &mut line) {
                Ok(0) => break,
                Ok(_) => {
                    line.pop_if(|last| *last == b'\n');
                    Ok(line)
                }
                Err(error) => Err(error),
            };
            let is_end = read.is_err();
            if lines.send(read).is_err() || is_end {
                break;
            }
        }
    });
    receiver
}

fn send_lines(
    producer: &mut Producer<'_>,
    separator: Option<&[u8]>,
    lines: &Receiver<io::Result<Vec<u8>>>,
) -> Result<(), Failure> {
    let mut number = 0_u64;
    loop {
        let line = match producer.linger_left() {
            None => lines.recv().ok(),
            Some(left) => match lines.recv_timeout(left) {
                Ok(line) => Some(line),
                Err(RecvTimeoutError::Disconnected) => None,
                Err(RecvTimeoutError::Timeout) => {
                    producer.flush()?;
                    continue;
                }
            },
        };
        let Some(line) = line else { return Ok(()) };
        let line = line.map_err(|error| {
            Failure::new(format!("standard input cannot be read: {error}"), "check where it comes from")
        })?;
        number += 1;
        let (key, value) = match separator {
            None => (None, line),
            Some(separator) => {
                let at = line.windows(separator.len()).position(|window| window == separator);
                let at = at.ok_or_else(|| {
                    Failure::new(
                        format!("line {number} has no key separator; it and those after it were not sent"),
                        "give every line a key, or leave out --key-separator",
                    )
                })?;
                (Some(line[..at].to_vec()), line[at + separator.len()..].to_vec())
            }
        };
        producer.send(key, value)?;
    }
}

#[derive(Serialize)]
struct Summary<'a> {
    topic: &'a str,
    delivered: u64,
    delivered_bytes: u64,
    failed: u64,
    partitions: Vec<i32>,
    elapsed_ms: u64,
}

fn summarise(delivery: &Delivery, timer: Timer, produce: &Produce, errors: &mut dyn Write) -> io::Result<()> {
    let elapsed = timer.elapsed();
    if produce.connect.output.format == Format::Json {
        let summary = Summary {
            topic: &produce.topic,
            delivered: delivery.delivered,
            delivered_bytes: delivery.delivered_bytes,
            failed: delivery.failed,
            partitions: delivery.partitions.iter().copied().collect(),
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        };
        serde_json::to_writer(&mut *errors, &summary)?;
        return writeln!(errors);
    }
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let records = counted(number(delivery.delivered), "record");
    let partitions = counted(number(delivery.partitions.len() as u64), "partition");
    let verb = if produce.acks == Acks::None { "sent" } else { "delivered" };
    let (bytes, seconds) = (delivery.delivered_bytes, elapsed.as_secs_f64());
    writeln!(
        errors,
        "{verb} {records} ({bytes} bytes) to {partitions} of {} in {seconds:.2} s",
        produce.topic
    )
}
