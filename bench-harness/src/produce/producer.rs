//! One producer: a thread that sends what is due and takes what is answered, and never blocks on either.

use super::frame::{BatchTemplate, Envelope};
use super::link::{InFlight, Link};
use super::{Acks, Errors, ProduceOptions};
use crate::clock::Clock;
use crate::cluster::{self, Topic};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::pacing::{Load, Pacer, Step};
use crate::readiness::{Interest, sharpen_timers, wait};
use crate::report::histogram;
use hdrhistogram::Histogram;
use logmill_wire::api::produce;
use std::collections::BTreeMap;

/// What came of the batches of one or more producers.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) latency: Histogram<u64>,
    pub(super) lag: Histogram<u64>,
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) requests: u64,
    pub(super) unsent: u64,
    pub(super) last_ns: u64,
    pub(super) errors: Errors,
}

impl Outcome {
    pub(super) fn new() -> Self {
        Self {
            latency: histogram(),
            lag: histogram(),
            records: 0,
            bytes: 0,
            requests: 0,
            unsent: 0,
            last_ns: 0,
            errors: Errors::new(),
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        // Both have the same fixed bounds, so adding cannot fail.
        let _ = self.latency.add(&other.latency);
        let _ = self.lag.add(&other.lag);
        self.records += other.records;
        self.bytes += other.bytes;
        self.requests += other.requests;
        self.unsent += other.unsent;
        self.last_ns = self.last_ns.max(other.last_ns);
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
    }
}

/// A partition as a producer sees it.
struct Target {
    link: usize,
    envelope: Envelope,
    next_sequence: Option<i32>,
}

/// A producer that is connected and has everything encoded beforehand.
pub(super) struct Producer {
    links: Vec<Link>,
    targets: Vec<Target>,
    batch: BatchTemplate,
    acks: Acks,
    in_flight_max: usize,
    timeout_ns: u64,
    first_target: usize,
    outcome: Outcome,
}

impl Producer {
    /// Connects to every leader. Producers start at different partitions.
    pub(super) fn connect(options: &ProduceOptions, topic: &Topic, number: u64) -> Result<Self, Failure> {
        let timeout = options.run.timeout();
        let mut bootstrap = Connection::open(&options.run.bootstrap_server, timeout)?;
        let identity =
            if options.idempotent { Some(cluster::producer_identity(&mut bootstrap)?) } else { None };
        let (record_bytes, batch_bytes) = (options.record_size as usize, options.batch_size as usize);
        let unusable = |cause: &dyn core::fmt::Display| {
            Failure::Usage(format!("no batch can be made with --record-size and --batch-size: {cause}"))
        };
        let batch = BatchTemplate::new(record_bytes, batch_bytes, options.codec, identity, number)
            .map_err(|error| unusable(&error))?;
        // Versions up to 12 name topics; 13 needs the id, which old versions of Metadata don't tell (KIP-516).
        let newest = if topic.id.is_zero() { 12 } else { i16::MAX };
        let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        let (mut links, mut targets) = (Vec::new(), Vec::new());
        for (address, partitions) in topic.by_leader() {
            let connection = Connection::open(&address, timeout)?;
            let version = connection.version::<produce::Request<'_>>(newest)?;
            for partition in partitions {
                let acks = options.acks.on_the_wire();
                let envelope = Envelope::new(topic, partition, acks, timeout_ms, version, &batch)
                    .map_err(|error| unusable(&error))?;
                let next_sequence = identity.map(|_| 0);
                targets.push(Target { link: links.len(), envelope, next_sequence });
            }
            links.push(Link::new(connection, version)?);
        }
        Ok(Self {
            first_target: usize::try_from(number).unwrap_or(0) % targets.len().max(1),
            links,
            targets,
            batch,
            acks: options.acks,
            in_flight_max: usize::from(options.in_flight),
            timeout_ns: u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX),
            outcome: Outcome::new(),
        })
    }

    pub(super) const fn batch_records(&self) -> u64 {
        self.batch.records
    }

    /// Sends all batches of the load and waits for their responses; gives up when nothing comes for the
    /// time-out.
    pub(super) fn run(mut self, load: Load, clock: &Clock) -> Result<Outcome, Failure> {
        sharpen_timers();
        let mut pacer = Pacer::new(load);
        let mut target = self.first_target;
        let mut last_progress_ns = clock.now_ns();
        loop {
            if self.exchange(clock)? {
                last_progress_ns = clock.now_ns();
            }
            let now_ns = clock.now_ns();
            let link = &self.links[self.targets[target].link];
            let has_room = !link.is_writing() && link.in_flight.len() < self.in_flight_max;
            let wake_ns = match pacer.step(now_ns, has_room.then_some(link.free_since_ns)) {
                Step::Send { due_ns, lag_ns, measured } => {
                    if measured && load.records_per_second > 0 {
                        self.outcome.lag.saturating_record(lag_ns);
                    }
                    self.send(target, due_ns, measured, pacer.sent(), clock)?;
                    target = (target + 1) % self.targets.len();
                    last_progress_ns = now_ns;
                    continue;
                }
                Step::Finished if self.is_idle() => return Ok(self.outcome),
                Step::Wait { until_ns } if self.is_idle() => {
                    last_progress_ns = now_ns;
                    until_ns
                }
                Step::Wait { until_ns } => until_ns.min(last_progress_ns.saturating_add(self.timeout_ns)),
                Step::Blocked | Step::Finished => last_progress_ns.saturating_add(self.timeout_ns),
            };
            if now_ns.saturating_sub(last_progress_ns) >= self.timeout_ns {
                return Ok(self.given_up(&pacer, now_ns));
            }
            let interests: Vec<_> = self
                .links
                .iter()
                .map(|link| Interest { stream: link.stream(), write: link.is_writing() })
                .collect();
            wait(&interests, wake_ns.saturating_sub(now_ns))
                .map_err(|cause| Failure::File { path: "the sockets' readiness".to_owned(), cause })?;
        }
    }

    fn is_idle(&self) -> bool {
        self.links.iter().all(|link| link.in_flight.is_empty() && !link.is_writing())
    }

    /// Writes what waits and takes what is answered; true if something was.
    fn exchange(&mut self, clock: &Clock) -> Result<bool, Failure> {
        let mut progressed = false;
        for link in &mut self.links {
            if link.is_writing() {
                link.flush()?;
                progressed |= !link.is_writing();
                if !link.is_writing() && link.in_flight.len() < self.in_flight_max {
                    link.free_since_ns = clock.now_ns();
                }
            }
            if link.in_flight.is_empty() {
                continue;
            }
            let was_full = link.in_flight.len() >= self.in_flight_max;
            let answered = link.receive(&mut self.outcome.errors)?;
            if answered.is_empty() {
                continue;
            }
            progressed = true;
            let now_ns = clock.now_ns();
            if was_full {
                link.free_since_ns = now_ns;
            }
            for (request, accepted) in answered {
                if request.measured && accepted {
                    self.outcome.latency.saturating_record(now_ns.saturating_sub(request.due_ns));
                    count(&mut self.outcome, &self.batch, now_ns);
                }
            }
        }
        Ok(progressed)
    }

    fn send(
        &mut self,
        target: usize,
        due_ns: u64,
        measured: bool,
        number: u64,
        clock: &Clock,
    ) -> Result<(), Failure> {
        let target = &mut self.targets[target];
        let link = &mut self.links[target.link];
        self.batch.stamp(clock.wall_ms(), target.next_sequence);
        if let Some(sequence) = &mut target.next_sequence {
            // Sequences wrap from 2³¹-1 to 0 (KIP-98).
            let next = (i64::from(*sequence) + self.batch.records.cast_signed()) % (i64::from(i32::MAX) + 1);
            *sequence = i32::try_from(next).unwrap_or(0);
        }
        let correlation_id = (number & 0x7fff_ffff) as i32;
        link.send(target.envelope.around(&self.batch, correlation_id))?;
        if self.acks == Acks::None {
            if measured {
                count(&mut self.outcome, &self.batch, clock.now_ns());
            }
        } else {
            link.in_flight.push_back(InFlight { correlation_id, due_ns, measured });
        }
        Ok(())
    }

    fn given_up(mut self, pacer: &Pacer, now_ns: u64) -> Outcome {
        let unanswered = self.links.iter().map(|link| link.in_flight.len() as u64).sum();
        let mut missing = BTreeMap::from([("requests without a response".to_owned(), unanswered)]);
        missing.retain(|_, count| *count > 0);
        self.outcome.errors.append(&mut missing);
        self.outcome.unsent = pacer.unsent(now_ns);
        self.outcome
    }
}

fn count(outcome: &mut Outcome, batch: &BatchTemplate, now_ns: u64) {
    outcome.records += batch.records;
    outcome.bytes += batch.bytes().len() as u64;
    outcome.requests += 1;
    outcome.last_ns = outcome.last_ns.max(now_ns);
}
