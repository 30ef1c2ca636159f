//! One reader: a thread with a connection.

use super::batches::{Due, Taken, advance};
use super::session::Session;
use super::{Offsets, Position, Role};
use crate::clock::Clock;
use crate::cluster::Topic;
use crate::connection::{Answer, Connection};
use crate::failure::{Failure, error_name};
use crate::latency::record;
use crate::meter::Meter;
use crate::workload::Workload;
use logmill_wire::api::fetch;
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::Uuid;
use logmill_wire::primitives::Records;
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// When readers are done.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    /// Set when the run is to end at once.
    pub(crate) stop: AtomicBool,
    /// Set when backlog readers are to end, and consumers are given their ends.
    pub(crate) is_produced: AtomicBool,
    /// Where the log ends when nothing more is produced.
    pub(crate) ends: OnceLock<Offsets>,
    /// On the run's clock; without producers.
    pub(crate) end_ns: Option<u64>,
    /// Measured records of all consumers.
    pub(crate) records: AtomicU64,
}

impl Ending {
    /// Ends the whole run if one of its threads fails.
    pub(crate) fn note(&self, result: Result<(), Failure>) -> Result<(), Failure> {
        if result.is_err() {
            self.stop.store(true, Ordering::Relaxed);
        }
        result
    }
}

/// What all readers of a run see.
#[derive(Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    pub(crate) workload: &'a Workload,
    pub(crate) clock: &'a Clock,
    pub(crate) ending: &'a Ending,
    /// Before it, only consumers of what is produced then are at work.
    pub(crate) start_ns: u64,
    pub(crate) measure_from_ns: u64,
    pub(crate) timeout_ns: u64,
    /// Marks the batches of this run.
    pub(crate) run: u64,
}

/// A reader that is connected.
pub(crate) struct Reader {
    connection: Connection,
    version: i16,
    pub(crate) role: Role,
    topic: usize,
    topic_name: String,
    topic_id: Uuid,
    positions: BTreeMap<i32, Position>,
    session: Session,
    /// Whether the positions have got their last ends.
    has_ends: bool,
    pub(crate) meter: Meter,
}

impl Reader {
    pub(super) fn new(
        connection: Connection,
        role: Role,
        (index, topic): (usize, &Topic),
        positions: BTreeMap<i32, Position>,
    ) -> Result<Self, Failure> {
        let newest = if topic.id.is_zero() { 12 } else { i16::MAX };
        let version = connection.version::<fetch::Request<'_>>(newest)?;
        Ok(Self {
            connection,
            version,
            role,
            topic: index,
            topic_name: topic.name.clone(),
            topic_id: topic.id,
            positions,
            session: Session::default(),
            has_ends: false,
            meter: Meter::default(),
        })
    }

    /// Reads until the ending says so.
    pub(crate) fn run(&mut self, around: Surroundings<'_>) -> Result<(), Failure> {
        if around.workload.producers == 0 {
            around.clock.sleep_until_ns(around.start_ns);
        }
        let mut last_record_ns = around.clock.now_ns();
        while !self.is_done(around) {
            let sent_ns = around.clock.now_ns();
            let answer = self.ask(around)?;
            let now_ns = around.clock.now_ns();
            let taken = self.take(&answer, around)?;
            self.connection.recycle(answer);
            let Some((taken, errors)) = taken else { continue };
            let has_failed = !errors.is_empty();
            self.count(&taken, around, (sent_ns, now_ns), errors);
            if has_failed {
                break;
            }
            if taken.records > 0 {
                last_record_ns = now_ns;
            } else if self.is_overdue(now_ns.saturating_sub(last_record_ns), around) {
                let seconds = around.timeout_ns / 1_000_000_000;
                self.meter.tally().error(format!("no record came for {seconds} s"));
                break;
            }
        }
        Ok(())
    }

    fn count(
        &self,
        taken: &Taken,
        around: Surroundings<'_>,
        (sent_ns, now_ns): (u64, u64),
        errors: Vec<String>,
    ) {
        around.ending.records.fetch_add(taken.records, Ordering::Relaxed);
        let mut tally = self.meter.tally();
        errors.into_iter().for_each(|error| tally.error(error));
        // A response without records tells how long the broker was asked to wait.
        if taken.records > 0 {
            tally.answered(now_ns >= around.measure_from_ns, taken.records, taken.bytes, now_ns);
            if sent_ns >= around.measure_from_ns {
                tally.latency(now_ns - sent_ns);
            }
        }
        for due in &taken.due {
            let due_ns = match due {
                Due::Stamped(stamp) if stamp.run == around.run => stamp.due_ns,
                Due::Stamped(_) => continue,
                Due::AtMs(ms) => {
                    let age_ms = u64::try_from(around.clock.wall_ms() - ms).unwrap_or(0);
                    now_ns.saturating_sub(age_ms.saturating_mul(1_000_000))
                }
            };
            if due_ns >= around.measure_from_ns {
                record(&mut tally.end_to_end, now_ns.saturating_sub(due_ns));
            }
        }
    }

    /// Whether records are missing that must be there by now.
    fn is_overdue(&self, silent_ns: u64, around: Surroundings<'_>) -> bool {
        let has_end = self.positions.values().any(|position| position.end.is_some());
        let waits_for_records = around.ending.end_ns.is_none() && around.workload.producers == 0;
        (has_end || waits_for_records) && silent_ns > around.timeout_ns
    }

    /// Drops what is read to its end, or begins it again; true if nothing is left to do.
    fn is_done(&mut self, around: Surroundings<'_>) -> bool {
        let ending = around.ending;
        let is_over = ending.end_ns.is_some_and(|end_ns| around.clock.now_ns() >= end_ns);
        if is_over || ending.stop.load(Ordering::Relaxed) {
            return true;
        }
        if self.role == Role::BacklogReader {
            let session = &mut self.session;
            for (partition, position) in &mut self.positions {
                if position.end.is_some_and(|end| position.next >= end) {
                    position.next = position.first;
                    session.moved(*partition);
                }
            }
            return ending.is_produced.load(Ordering::Relaxed);
        }
        let wanted = around.workload.records;
        if around.workload.producers == 0 && wanted > 0 && ending.records.load(Ordering::Relaxed) >= wanted {
            return true;
        }
        if let Some(ends) = ending.ends.get().filter(|_| !self.has_ends) {
            self.has_ends = true;
            for (partition, position) in &mut self.positions {
                position.end = ends.get(&(self.topic, *partition)).copied();
            }
        }
        let session = &mut self.session;
        self.positions.retain(|partition, position| {
            let is_kept = position.end.is_none_or(|end| position.next < end);
            if !is_kept {
                session.forget(*partition);
            }
            is_kept
        });
        self.positions.is_empty()
    }

    fn ask(&mut self, around: Surroundings<'_>) -> Result<Answer, Failure> {
        let max_bytes = i32::try_from(around.workload.fetch_size).unwrap_or(i32::MAX);
        let named = self.session.to_name(&self.positions);
        let partitions = named.into_iter().map(|(partition, fetch_offset)| fetch::FetchPartition {
            partition,
            fetch_offset,
            partition_max_bytes: max_bytes,
            ..Default::default()
        });
        let topic = fetch::FetchTopic {
            topic: self.topic_name.as_str().into(),
            topic_id: self.topic_id,
            partitions: partitions.collect(),
        };
        let has_partitions = !topic.partitions.is_empty();
        let mut request = fetch::Request {
            max_wait_ms: i32::try_from(around.workload.fetch_wait_ms).unwrap_or(i32::MAX),
            min_bytes: 1,
            max_bytes,
            topics: if has_partitions { vec![topic].into() } else { Vec::new().into() },
            ..Default::default()
        };
        self.session.fill(&mut request, |partitions| fetch::ForgottenTopic {
            topic: self.topic_name.as_str().into(),
            topic_id: self.topic_id,
            partitions: partitions.into(),
        });
        self.connection.call_in_version(&request, self.version)
    }

    /// Moves the positions on, and notes what is wrong; `None` if the session was lost.
    fn take(
        &mut self,
        answer: &Answer,
        around: Surroundings<'_>,
    ) -> Result<Option<(Taken, Vec<String>)>, Failure> {
        let response: fetch::Response<'_> = self.connection.decode(answer)?;
        if !self.session.answered(response.error_code, response.session_id) {
            return Ok(None);
        }
        let (mut all, mut errors) = (Taken::default(), Vec::new());
        if response.error_code != 0 {
            errors.push(error_name(response.error_code));
        }
        let look_for_due = self.role == Role::Consumer && around.workload.measures_end_to_end();
        for topic in &response.responses {
            for data in &topic.partitions {
                let partition = data.partition_index;
                let Some(position) = self.positions.get_mut(&partition) else {
                    errors.push(format!("partition {partition} was not asked for"));
                    continue;
                };
                if data.error_code == ErrorCode::OffsetOutOfRange.code() && self.role == Role::BacklogReader {
                    // Retention has removed the front of the backlog meanwhile.
                    position.first = data.log_start_offset.max(position.first);
                    position.next = position.first;
                    self.session.moved(partition);
                    continue;
                }
                if data.error_code != 0 {
                    errors.push(error_name(data.error_code));
                    continue;
                }
                let set = data.records.as_ref().and_then(Records::borrowed).unwrap_or_default();
                match advance(position, set, around.workload.check_crc, look_for_due) {
                    Ok(taken) => {
                        if taken.records > 0 {
                            self.session.moved(partition);
                        }
                        all.records += taken.records;
                        all.bytes += taken.bytes;
                        all.due.extend(taken.due);
                    }
                    Err(text) => errors.push(format!("partition {partition}: {text}")),
                }
            }
        }
        Ok(Some((all, errors)))
    }
}
