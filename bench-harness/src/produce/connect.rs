//! Connects producers and encodes what they send.

use super::frame::{BatchTemplate, Envelope, Recipe};
use super::link::Link;
use super::sender::Sender;
use super::{Producer, Target};
use crate::clock::Clock;
use crate::cluster::{self, Topic};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::schedule::{Load, Pacer};
use crate::workload::Workload;
use logmill_wire::api::produce;
use std::time::Duration;

/// A load that has not begun: no producer sends before it gets a real one.
fn no_load(producer: u64) -> Load {
    Load {
        producer,
        producers: 1,
        records_per_second: 0,
        arrivals: crate::schedule::Arrivals::Constant,
        batch_records: 1,
        start_ns: 0,
        measure_from_ns: 0,
        end_ns: Some(0),
        batches_max: Some(0),
    }
}

/// Senders, each with its share of the workload's producers connected to every leader of their topic. Producers
/// start at different partitions.
///
/// # Errors
/// [`Failure::Usage`] if no batch can be made; those of the connections.
pub(crate) fn connect(
    workload: &Workload,
    topics: &[Topic],
    (bootstrap, clock): (&mut Connection, &Clock),
    threads: usize,
    timeout: Duration,
) -> Result<Vec<Sender>, Failure> {
    let per_topic = workload.producers as usize;
    let count = topics.len() * per_topic;
    let threads = threads.clamp(1, count.max(1)).min(count);
    let mut senders = (0..threads).map(|_| Sender::new(timeout)).collect::<Result<Vec<_>, _>>()?;
    for number in 0..count {
        let sender = &mut senders[number % threads];
        let topic = &topics[number / per_topic];
        add_producer(sender, workload, topic, (&mut *bootstrap, clock), number as u64, timeout)?;
    }
    Ok(senders)
}

fn add_producer(
    sender: &mut Sender,
    workload: &Workload,
    topic: &Topic,
    (bootstrap, clock): (&mut Connection, &Clock),
    number: u64,
    timeout: Duration,
) -> Result<(), Failure> {
    let unusable = |cause: &dyn core::fmt::Display| {
        Failure::Usage(format!("no batch can be made with `record_size` and `batch_size`: {cause}"))
    };
    let identity = if workload.idempotent {
        Some(cluster::patiently(clock, || cluster::producer_identity(bootstrap))?)
    } else {
        None
    };
    let recipe = Recipe {
        record_bytes: workload.record_size as usize,
        batch_bytes: workload.batch_size as usize,
        key_bytes: workload.key_size as usize,
        distinct_keys: workload.distinct_keys,
        codec: workload.codec,
        is_stamped: workload.measures_end_to_end(),
    };
    let batch = BatchTemplate::new(&recipe, identity, number).map_err(|error| unusable(&error))?;
    // Versions up to 12 name topics; 13 needs the id, which old versions of Metadata don't tell (KIP-516).
    let newest = if topic.id.is_zero() { 12 } else { i16::MAX };
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let mut targets = Vec::with_capacity(topic.leaders.len());
    for (address, partitions) in topic.by_leader() {
        let connection = Connection::open(&address, timeout)?;
        let version = connection.version::<produce::Request<'_>>(newest)?;
        let link = sender.add_link(Link::new(sender.producer_count(), connection, version)?)?;
        for partition in partitions {
            let acks = workload.acks.on_the_wire();
            let envelope = Envelope::new(topic, partition, acks, timeout_ms, version, &batch)
                .map_err(|error| unusable(&error))?;
            targets.push(Target { link, envelope, next_sequence: identity.map(|_| 0) });
        }
    }
    let load = no_load(number);
    sender.add_producer(Producer {
        next_target: usize::try_from(number).unwrap_or(0) % targets.len().max(1),
        targets,
        batch,
        acks: workload.acks,
        in_flight_max: workload.in_flight as usize,
        pacer: Pacer::new(load),
        load,
        wake_ns: None,
        is_finished: true,
    });
    Ok(())
}
