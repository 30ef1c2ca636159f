//! `logmill consume`: records to standard output, alone or as a member of a group.

use super::connect::Connect;
use super::record_output::{self, Shape};
use super::{Failure, Format, timestamp};
use crate::client::{
    Cluster, Consumed, EARLIEST, Failure as ClientFailure, Fetcher, LATEST, Member, Start, Timer, Topic,
};
use crate::node::on_termination;
use clap::Args;
use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long to wait for records before looking at what else there is to do.
const WAIT: Duration = Duration::from_millis(250);

/// How long a member waits for partitions before `--exit-at-end` takes it that others have them all.
const PATIENCE_WITHOUT_PARTITIONS: Duration = Duration::from_secs(10);

#[derive(Args, Clone, Debug)]
pub(super) struct Consume {
    #[command(flatten)]
    connect: Connect,
    /// The topic
    topic: String,
    /// Start at the first record that is there; with --group, where the group has committed nothing
    #[arg(long, conflicts_with_all = ["offset", "timestamp"])]
    from_beginning: bool,
    /// Start at this offset, or that many records before the end if it is negative
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        requires = "partition",
        conflicts_with_all = ["timestamp", "group"]
    )]
    offset: Option<i64>,
    /// Start at the first record that is not earlier: milliseconds since 1970, or a time as in RFC 3339
    #[arg(long, value_name = "TIME", value_parser = timestamp::parse, conflicts_with = "group")]
    timestamp: Option<i64>,
    /// Read this partition only
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..), conflicts_with = "group")]
    partition: Option<i32>,
    /// Share the topic with the members of this group, and go on where it has stopped
    #[arg(long, value_name = "GROUP", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    group: Option<String>,
    /// Stop after so many records
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_messages: Option<u64>,
    /// Stop at what is now the end
    #[arg(long, short = 'e')]
    exit_at_end: bool,
    /// Write the key before the value
    #[arg(long)]
    print_key: bool,
    /// What stands between key and value
    #[arg(long, value_name = "TEXT", default_value = "\t")]
    key_separator: String,
    /// Write the headers before key and value
    #[arg(long)]
    print_headers: bool,
    /// Write partition and offset before everything else
    #[arg(long)]
    print_offset: bool,
}

/// Why consuming ended early.
enum Ending {
    /// Nobody reads the output any more, which is no failure.
    NobodyReads,
    Failed(Failure),
}

impl From<ClientFailure> for Ending {
    fn from(failure: ClientFailure) -> Self {
        Self::Failed(failure.into())
    }
}

impl From<io::Error> for Ending {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::NobodyReads } else { Self::Failed(error.into()) }
    }
}

/// A consumer at work.
struct Work<'a> {
    consume: &'a Consume,
    cluster: Cluster,
    fetcher: Fetcher,
    member: Option<Member>,
    output: BufWriter<&'a mut dyn Write>,
    /// The positions up to which everything was written.
    written: BTreeMap<i32, i64>,
    left: Option<u64>,
    without_partitions: Timer,
}

/// Consumes until told to stop. What was passed over is said on `errors`.
pub(super) fn run(
    consume: &Consume,
    output: &mut dyn Write,
    errors: &mut dyn Write,
) -> Result<(), Vec<Failure>> {
    let stopped = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&stopped);
    on_termination(move || stop.store(true, Ordering::Relaxed)).map_err(|error| {
        vec![Failure::new(format!("signals cannot be handled: {error}"), "check the limits on threads")]
    })?;
    let mut work = Work::new(consume, output).map_err(|failure| vec![failure])?;
    let mut failures = Vec::new();
    match work.run(&stopped, errors) {
        Ok(()) | Err(Ending::NobodyReads) => {}
        Err(Ending::Failed(failure)) => failures.push(failure),
    }
    // Whatever happened, the group is left, so that others go on at once.
    if let Some(member) = work.member.take() {
        let left = member.leave(&mut work.cluster, &mut work.fetcher, &work.written);
        failures.extend(left.err().map(Failure::from));
    }
    if failures.is_empty() { Ok(()) } else { Err(failures) }
}

impl<'a> Work<'a> {
    fn new(consume: &'a Consume, output: &'a mut dyn Write) -> Result<Self, Failure> {
        let mut cluster = consume.connect.cluster()?;
        let topic = cluster.topic(&consume.topic, false)?;
        let start = if consume.from_beginning { Start::Earliest } else { Start::Latest };
        let member = consume.group.as_deref().map(|group| Member::new(group, start));
        let positions = match member {
            Some(_) => BTreeMap::new(),
            None => positions(consume, &mut cluster, &topic)?,
        };
        let mut fetcher = Fetcher::new(topic);
        fetcher.add(positions);
        let mut work = Self {
            consume,
            cluster,
            fetcher,
            member,
            output: BufWriter::with_capacity(1 << 16, output),
            written: BTreeMap::new(),
            left: consume.max_messages,
            without_partitions: Timer::start(),
        };
        work.find_ends()?;
        Ok(work)
    }

    fn run(&mut self, stopped: &AtomicBool, errors: &mut dyn Write) -> Result<(), Ending> {
        while !stopped.load(Ordering::Relaxed) {
            if let Some(member) = &mut self.member
                && member.keep_up(&mut self.cluster, &mut self.fetcher, &self.written)?
            {
                // Nothing of the new partitions is read yet, and of those that are gone nothing counts any more.
                self.written.clone_from(self.fetcher.positions());
                self.find_ends()?;
            }
            if self.is_at_end() {
                break;
            }
            let flow = self.poll()?;
            self.output.flush()?;
            self.written.clone_from(self.fetcher.positions());
            for skipped in self.fetcher.take_skipped() {
                // Where nobody reads it, it cannot be said.
                let _ = writeln!(
                    errors,
                    "note: partition {}: offsets {} to {} are gone; going on at {}",
                    skipped.partition,
                    skipped.from,
                    skipped.to - 1,
                    skipped.to
                );
            }
            if flow.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn poll(&mut self) -> Result<ControlFlow<()>, Ending> {
        let shape = Shape {
            offset: self.consume.print_offset,
            headers: self.consume.print_headers,
            key: self.consume.print_key,
            key_separator: self.consume.key_separator.clone(),
        };
        let is_json = self.consume.connect.output.format == Format::Json;
        let (output, left, topic) = (&mut self.output, &mut self.left, &self.consume.topic);
        if self.fetcher.positions().is_empty() {
            // Without partitions the group's next heartbeat is all there is to wait for.
            Timer::wait(WAIT);
            return Ok(ControlFlow::Continue(()));
        }
        self.fetcher.poll(&mut self.cluster, WAIT, |record: &Consumed<'_>| {
            if is_json {
                record_output::write_json(topic, record, output)?;
            } else {
                record_output::write_text(record, &shape, output)?;
            }
            if let Some(left) = left {
                *left -= 1;
                if *left == 0 {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    fn find_ends(&mut self) -> Result<(), ClientFailure> {
        if self.fetcher.positions().is_empty() {
            self.without_partitions = Timer::start();
        }
        if self.consume.exit_at_end {
            let partitions: Vec<i32> = self.fetcher.positions().keys().copied().collect();
            self.fetcher.stop_at(self.cluster.offsets(&self.consume.topic, &partitions, LATEST)?);
        }
        Ok(())
    }

    fn is_at_end(&self) -> bool {
        if !self.consume.exit_at_end {
            return false;
        }
        if self.fetcher.positions().is_empty() {
            return self.member.is_none() || self.without_partitions.elapsed() >= PATIENCE_WITHOUT_PARTITIONS;
        }
        self.fetcher.is_at_end()
    }
}

/// Where to start without a group.
fn positions(consume: &Consume, cluster: &mut Cluster, topic: &Topic) -> Result<BTreeMap<i32, i64>, Failure> {
    let all = || topic.partitions.iter().map(|partition| partition.index).collect::<Vec<i32>>();
    let partitions = consume.partition.map_or_else(all, |partition| vec![partition]);
    if let Some(missing) = partitions.iter().find(|partition| topic.partition(**partition).is_none()) {
        let count = topic.partitions.len();
        return Err(Failure::new(
            format!("topic {} has no partition {missing}, but {count}, counted from 0", topic.name),
            "name one of them",
        ));
    }
    let mut ask = |timestamp| cluster.offsets(&topic.name, &partitions, timestamp);
    if let (Some(offset), Some(partition)) = (consume.offset, consume.partition) {
        let (starts, ends) = (ask(EARLIEST)?, ask(LATEST)?);
        let bound = |found: &BTreeMap<i32, i64>| found.get(&partition).copied().unwrap_or(0);
        let (start, end) = (bound(&starts), bound(&ends));
        let position = if offset < 0 { end.saturating_add(offset).max(start) } else { offset };
        if !(start..=end).contains(&position) {
            return Err(Failure::new(
                format!(
                    "partition {partition} of {} has the offsets from {start} to before {end}",
                    topic.name
                ),
                format!("name an offset from {start} to {end}"),
            ));
        }
        return Ok(BTreeMap::from([(partition, position)]));
    }
    if consume.from_beginning {
        return Ok(ask(EARLIEST)?);
    }
    let mut positions = ask(LATEST)?;
    if let Some(timestamp) = consume.timestamp {
        // Partitions whose records are all earlier start at the end.
        positions.extend(ask(timestamp)?);
    }
    Ok(positions)
}
