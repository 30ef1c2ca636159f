//! Consumers: each reads its partitions from one leader, one request at a time, and checks that no offset is missing.

mod batches;
mod reader;
mod session;

pub(crate) use reader::{Ending, Reader, Surroundings};

use crate::cluster::{self, EARLIEST, LATEST, Topic};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::workload::Workload;
use std::collections::BTreeMap;
use std::time::Duration;

/// Offsets by topic (its place in the run) and partition.
pub(crate) type Offsets = BTreeMap<(usize, i32), i64>;

/// Where one partition's reading stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    next: i64,
    /// Where to begin again, for a reader of the backlog.
    first: i64,
    /// Where reading ends, or begins again.
    end: Option<i64>,
}

/// What a reader is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Reads what is produced.
    Consumer,
    /// Reads what was there before, over and over.
    BacklogReader,
}

/// The same offset of every partition of every topic: [`EARLIEST`] or [`LATEST`].
///
/// # Errors
/// Those of [`cluster::offsets`].
pub(crate) fn offsets_of_all(topics: &[Topic], position: i64, timeout: Duration) -> Result<Offsets, Failure> {
    let mut found = Offsets::new();
    for (index, topic) in topics.iter().enumerate() {
        let offsets = cluster::offsets(topic, position, timeout)?;
        found.extend(offsets.into_iter().map(|(partition, offset)| ((index, partition), offset)));
    }
    Ok(found)
}

/// Connects all consumers and backlog readers: a connection for each of them and each leader of its partitions.
///
/// # Errors
/// Those of the connections.
pub(crate) fn connect(
    workload: &Workload,
    topics: &[Topic],
    timeout: Duration,
) -> Result<Vec<Reader>, Failure> {
    if workload.consumers + workload.backlog_readers == 0 {
        return Ok(Vec::new());
    }
    let first = offsets_of_all(topics, EARLIEST, timeout)?;
    let last = offsets_of_all(topics, LATEST, timeout)?;
    let mut readers = Vec::new();
    for (index, topic) in topics.iter().enumerate() {
        for _ in 0..if workload.consumers > 0 { workload.fan_out } else { 0 } {
            let until_end = workload.reads_to_the_end();
            let position = |at: &(usize, i32)| {
                let start = if workload.from_beginning { first[at] } else { last[at] };
                Position { next: start, first: start, end: until_end.then(|| last[at]) }
            };
            add(&mut readers, (index, topic), (Role::Consumer, workload.consumers), position, timeout)?;
        }
        let position =
            |at: &(usize, i32)| Position { next: first[at], first: first[at], end: Some(last[at]) };
        // Each of them reads everything.
        for _ in 0..workload.backlog_readers {
            add(&mut readers, (index, topic), (Role::BacklogReader, 1), position, timeout)?;
        }
    }
    Ok(readers)
}

/// Adds the readers of one topic's partitions, which so many of them share.
fn add(
    readers: &mut Vec<Reader>,
    (index, topic): (usize, &Topic),
    (role, shares): (Role, u32),
    position: impl Fn(&(usize, i32)) -> Position,
    timeout: Duration,
) -> Result<(), Failure> {
    for share in 0..shares as usize {
        for (address, partitions) in topic.by_leader() {
            let own = partitions.iter().skip(share).step_by(shares as usize);
            let positions: BTreeMap<i32, Position> =
                own.map(|partition| (*partition, position(&(index, *partition)))).collect();
            // A reader of the backlog has nothing to do where there is none.
            if positions.values().any(|position| position.end != Some(position.first)) {
                let connection = Connection::open(&address, timeout)?;
                readers.push(Reader::new(connection, role, (index, topic), positions)?);
            }
        }
    }
    Ok(())
}
