//! One thread that drives many producers: it sends what is due, takes what is answered, and blocks on neither.

use super::frame::Stamp;
use super::link::{InFlight, Link};
use super::{Acks, Producer};
use crate::clock::Clock;
use crate::failure::Failure;
use crate::latency::record;
use crate::meter::{Meter, Tally};
use crate::schedule::{Load, Pacer, Step};
use crate::system::readiness::{Poller, sharpen_timers};
use core::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Batches that one producer sends before others have their turn.
const BURST: usize = 64;

/// How long a wait lasts at most, so that the end of the run is noticed.
const WAIT_NS_MAX: u64 = 100_000_000;

/// Memory for responses of one read.
const CHUNK_BYTES: usize = 64 << 10;

/// What the senders of a run share.
#[derive(Clone, Copy)]
pub(crate) struct Course<'a> {
    pub(crate) clock: &'a Clock,
    /// Set when the run is to end early.
    pub(crate) stop: &'a AtomicBool,
    /// Marks the batches of this run.
    pub(crate) run: u64,
}

/// Producers with their connections; they stay connected from one load to the next.
pub(crate) struct Sender {
    producers: Vec<Producer>,
    links: Vec<Link>,
    poller: Poller,
    wakes: BinaryHeap<Reverse<(u64, usize)>>,
    /// Producers that have more to do at once.
    runnable: Vec<usize>,
    /// Requests without a response.
    outstanding: u64,
    timeout_ns: u64,
    chunk: Vec<u8>,
    pub(crate) meter: Meter,
}

impl Sender {
    pub(super) fn new(timeout: Duration) -> Result<Self, Failure> {
        let failed = |cause| Failure::File { path: "the sockets' readiness".to_owned(), cause };
        Ok(Self {
            producers: Vec::new(),
            links: Vec::new(),
            poller: Poller::new().map_err(failed)?,
            wakes: BinaryHeap::new(),
            runnable: Vec::new(),
            outstanding: 0,
            timeout_ns: u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX),
            chunk: vec![0; CHUNK_BYTES],
            meter: Meter::default(),
        })
    }

    pub(crate) const fn producer_count(&self) -> usize {
        self.producers.len()
    }

    pub(super) fn add_link(&mut self, link: Link) -> Result<usize, Failure> {
        let token = self.links.len();
        let added = self.poller.add(link.stream(), token);
        added.map_err(|cause| link.failed("it was prepared", cause))?;
        self.links.push(link);
        Ok(token)
    }

    pub(super) fn add_producer(&mut self, producer: Producer) {
        self.producers.push(producer);
    }

    /// Records in a batch of the first producer; those of the others differ by little.
    pub(crate) fn batch_records(&self) -> Option<u64> {
        self.producers.first().map(|producer| producer.batch.records)
    }

    /// Gives every producer its part of the next load.
    pub(crate) fn set_load(&mut self, load: impl Fn(u64) -> Load) {
        for (index, producer) in self.producers.iter_mut().enumerate() {
            producer.load = load(producer.load.producer);
            producer.pacer = Pacer::new(producer.load);
            producer.wake_ns = None;
            producer.is_finished = false;
            self.runnable.push(index);
        }
    }

    /// Sends all batches of the load and waits for their responses; gives up when nothing comes for the time-out.
    pub(crate) fn run(&mut self, course: Course<'_>) -> Result<(), Failure> {
        sharpen_timers();
        let mut last_progress_ns = course.clock.now_ns();
        while !course.stop.load(Ordering::Relaxed) {
            for index in core::mem::take(&mut self.runnable) {
                self.advance(index, course)?;
            }
            let now_ns = course.clock.now_ns();
            self.wake(now_ns);
            let is_waiting = self.outstanding > 0 || self.links.iter().any(Link::has_unsent);
            if !is_waiting {
                if self.producers.iter().all(|producer| producer.is_finished) {
                    self.count_unsent(now_ns);
                    return Ok(());
                }
                last_progress_ns = now_ns;
            } else if now_ns.saturating_sub(last_progress_ns) >= self.timeout_ns {
                self.give_up(now_ns);
                return Ok(());
            }
            let next_ns = self.wakes.peek().map_or(u64::MAX, |Reverse((wake_ns, _))| *wake_ns);
            let wait_ns =
                if self.runnable.is_empty() { next_ns.saturating_sub(now_ns).min(WAIT_NS_MAX) } else { 0 };
            let ready = self
                .poller
                .wait(wait_ns)
                .map_err(|cause| Failure::File { path: "the sockets' readiness".to_owned(), cause })?;
            for link in ready {
                if self.exchange(link, course)? {
                    last_progress_ns = course.clock.now_ns();
                }
            }
            self.wake(course.clock.now_ns());
        }
        Ok(())
    }

    /// Makes producers runnable whose next batch is due.
    fn wake(&mut self, now_ns: u64) {
        while let Some(&Reverse((wake_ns, index))) = self.wakes.peek()
            && wake_ns <= now_ns
        {
            self.wakes.pop();
            let producer = &mut self.producers[index];
            // What was put there earlier may be out of date.
            if producer.wake_ns == Some(wake_ns) {
                producer.wake_ns = None;
                self.runnable.push(index);
            }
        }
    }

    /// Sends what the producer may send now.
    fn advance(&mut self, index: usize, course: Course<'_>) -> Result<(), Failure> {
        let producer = &mut self.producers[index];
        let meter = self.meter.clone();
        for round in 0.. {
            if round == BURST {
                self.runnable.push(index);
                break;
            }
            let now_ns = course.clock.now_ns();
            let token = producer.targets[producer.next_target].link;
            let link = &mut self.links[token];
            let free_since_ns = link.has_room(producer.in_flight_max).then_some(link.free_since_ns);
            match producer.pacer.step(now_ns, free_since_ns) {
                Step::Send { due_ns, lag_ns, measured } => {
                    if measured && producer.load.records_per_second > 0 {
                        record(&mut meter.tally().lag, lag_ns);
                    }
                    self.outstanding += send(producer, link, due_ns, measured, course, &meter)?;
                    if link.is_full {
                        watch(&self.poller, link, token)?;
                    }
                }
                Step::Wait { until_ns } => {
                    if producer.wake_ns != Some(until_ns) {
                        producer.wake_ns = Some(until_ns);
                        self.wakes.push(Reverse((until_ns, index)));
                    }
                    break;
                }
                Step::Blocked => break,
                Step::Finished => {
                    producer.is_finished = true;
                    break;
                }
            }
        }
        self.flush_collected(index)
    }

    /// Lets small requests leave that were collected.
    fn flush_collected(&mut self, index: usize) -> Result<(), Failure> {
        let mut last = None;
        for target in &self.producers[index].targets {
            // Partitions of one leader follow each other.
            if last.replace(target.link) == Some(target.link) {
                continue;
            }
            let link = &mut self.links[target.link];
            if link.has_unsent() && !link.is_full {
                link.flush()?;
                if link.is_full {
                    watch(&self.poller, link, target.link)?;
                }
            }
        }
        Ok(())
    }

    /// Writes what waits and takes what is answered; true if something was.
    fn exchange(&mut self, token: usize, course: Course<'_>) -> Result<bool, Failure> {
        let link = &mut self.links[token];
        let producer = &self.producers[link.producer];
        let had_room = link.has_room(producer.in_flight_max);
        let mut has_progressed = false;
        if link.is_full {
            link.flush()?;
            if !link.is_full {
                has_progressed = true;
                watch(&self.poller, link, token)?;
            }
        }
        let mut tally = self.meter.tally();
        let answered = link.receive(&mut self.chunk, &mut tally.errors)?;
        let now_ns = course.clock.now_ns();
        for (request, accepted) in &answered {
            if *accepted {
                if request.measured {
                    tally.latency(now_ns.saturating_sub(request.due_ns));
                }
                count(&mut tally, producer, request.measured, now_ns);
            }
        }
        drop(tally);
        self.outstanding -= answered.len() as u64;
        if !had_room && link.has_room(producer.in_flight_max) {
            link.free_since_ns = now_ns;
        }
        if !producer.is_finished && producer.wake_ns.is_none() {
            self.runnable.push(link.producer);
        }
        Ok(has_progressed || !answered.is_empty())
    }

    fn give_up(&mut self, now_ns: u64) {
        let mut tally = self.meter.tally();
        if self.outstanding > 0 {
            *tally.errors.entry("requests without a response".to_owned()).or_default() += self.outstanding;
        }
        drop(tally);
        self.count_unsent(now_ns);
    }

    fn count_unsent(&self, now_ns: u64) {
        let unsent = self.producers.iter().map(|producer| producer.pacer.unsent(now_ns)).sum::<u64>();
        self.meter.tally().unsent += unsent;
    }
}

/// Waits for room to write as long as there is none.
fn watch(poller: &Poller, link: &Link, token: usize) -> Result<(), Failure> {
    let set = poller.set_writing(link.stream(), token, link.is_full);
    set.map_err(|cause| link.failed("a batch was sent", cause))
}

/// Sends one batch; returns how many responses are due for it.
fn send(
    producer: &mut Producer,
    link: &mut Link,
    due_ns: u64,
    measured: bool,
    course: Course<'_>,
    meter: &Meter,
) -> Result<u64, Failure> {
    let number = producer.pacer.sent();
    let records = producer.batch.records;
    let target = &mut producer.targets[producer.next_target];
    let stamp = Stamp { run: course.run, due_ns };
    producer.batch.stamp(course.clock.wall_ms(), stamp, target.next_sequence);
    if let Some(sequence) = &mut target.next_sequence {
        // Sequences wrap from 2³¹-1 to 0 (KIP-98).
        let next = (i64::from(*sequence) + records.cast_signed()) % (i64::from(i32::MAX) + 1);
        *sequence = i32::try_from(next).unwrap_or(0);
    }
    let correlation_id = (number & 0x7fff_ffff) as i32;
    link.send(target.envelope.around(&producer.batch, correlation_id))?;
    producer.next_target = (producer.next_target + 1) % producer.targets.len();
    if producer.acks == Acks::None {
        count(&mut meter.tally(), producer, measured, course.clock.now_ns());
        return Ok(0);
    }
    link.in_flight.push_back(InFlight { correlation_id, due_ns, measured });
    Ok(1)
}

fn count(tally: &mut Tally, producer: &Producer, measured: bool, now_ns: u64) {
    tally.answered(measured, producer.batch.records, producer.batch.bytes().len() as u64, now_ns);
}
