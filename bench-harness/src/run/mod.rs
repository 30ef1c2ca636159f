//! One run of a workload against one cluster.

mod conclude;
mod options;
mod watch;

pub use conclude::Outcome;
pub use options::{Target, TargetOptions};

use crate::clock::{Clock, date_text};
use crate::cluster::{self, NewTopic, Topic};
use crate::connection::Connection;
use crate::consume::{self, Ending, Reader, Surroundings};
use crate::failure::Failure;
use crate::group::Group;
use crate::produce::{self, Sender, frame};
use crate::report::Second;
use crate::schedule::Load;
use crate::system::readiness::go_ahead_of_others;
use crate::workload::Workload;
use frame::Stamp;
use std::io::{self, Write};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;
use watch::{Costs, Watch};

/// Time for all threads to be ready before the first batch is due.
const LEAD_NS: u64 = 50_000_000;

/// What is shown while a run goes on.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The broker's name.
    pub broker_name: &'a str,
    /// Whether the measured part has begun.
    pub is_measured: bool,
    /// The last second; `at` is negative during the warm-up, and then only records are counted.
    pub second: &'a Second,
}

/// Runs the workload and returns what came of it; errors of the broker's making are in the report.
///
/// # Errors
/// A workload that contradicts itself, and whatever kept the run from being done.
pub fn run(
    workload: &Workload,
    target: &Target,
    clock: &Clock,
    show: &mut dyn FnMut(Progress<'_>),
) -> Result<Outcome, Failure> {
    workload.check().map_err(|problem| Failure::Usage(format!("workload {}: {problem}", workload.name)))?;
    let timeout = target.timeout();
    let mut bootstrap = Connection::open(&target.bootstrap_server, timeout)?;
    let names = target.topic_names(workload);
    let topics = prepare_topics(workload, &names, (&mut bootstrap, clock), timeout)?;
    let threads = target.threads.unwrap_or_else(|| Target::default_threads(workload));
    // Somebody has to write the backlog.
    let producers = if workload.backlog_mb > 0 { workload.producers.max(1) } else { workload.producers };
    let sending = Workload { producers, ..workload.clone() };
    let mut senders = produce::connect(&sending, &topics, (&mut bootstrap, clock), threads, timeout)?;
    let run = Stamp::mark(clock);
    fill_backlog(workload, &mut senders, clock, run)?;
    let readers = consume::connect(workload, &topics, timeout)?;
    let group = Group::connect(workload, &topics[0], &mut bootstrap, (clock, run), timeout)?;
    let batch_records = senders.first().and_then(Sender::batch_records);
    let mut crew = Crew { senders, readers, group };
    let date = date_text(clock.wall_ms());
    let outcome = measure(workload, target, &topics, &mut crew, (clock, run), show)
        .map(|measured| conclude::conclude(workload, target, date, batch_records, measured));
    // Close the connections before their topics go.
    drop(crew);
    if target.deletes_topics {
        delete_topics(&mut bootstrap, &names);
    }
    outcome
}

/// What stays is no reason to throw a result away.
fn delete_topics(bootstrap: &mut Connection, names: &[String]) {
    for name in names {
        if let Err(failure) = cluster::delete_topic(bootstrap, name) {
            let _ = writeln!(io::stderr(), "logmill-bench: the topic {name} stays: {failure}");
        }
    }
}

fn prepare_topics(
    workload: &Workload,
    names: &[String],
    (bootstrap, clock): (&mut Connection, &Clock),
    timeout: Duration,
) -> Result<Vec<Topic>, Failure> {
    let partitions = i32::try_from(workload.partitions).unwrap_or(i32::MAX);
    let create = NewTopic { partitions, replication_factor: workload.replication_factor };
    // What is only read has to be there.
    let create =
        (workload.producers > 0 || workload.backlog_mb > 0 || workload.group_members > 0).then_some(create);
    let mut topics = Vec::with_capacity(names.len());
    for name in names {
        let topic = cluster::find_topic(bootstrap, name, create, |pause_ns| {
            clock.sleep_until_ns(clock.now_ns() + pause_ns);
        })?;
        if create.is_some() && topic.leaders.len() != workload.partitions as usize {
            return Err(Failure::Usage(format!(
                "the topic {name} has {} partitions and the workload wants {}; change `partitions`, or use another \
                 topic",
                topic.leaders.len(),
                workload.partitions
            )));
        }
        // Leaders that do not know yet that they are would refuse the first batches.
        cluster::patiently(clock, || cluster::offsets(&topic, cluster::LATEST, timeout))?;
        topics.push(topic);
    }
    Ok(topics)
}

/// Writes what is to be there before the run.
fn fill_backlog(
    workload: &Workload,
    senders: &mut Vec<Sender>,
    clock: &Clock,
    run: u64,
) -> Result<(), Failure> {
    if workload.backlog_mb == 0 {
        return Ok(());
    }
    let batch_records = senders.first().and_then(Sender::batch_records).unwrap_or(1);
    let batches = (workload.backlog_mb * 1_000_000).div_ceil(u64::from(workload.batch_size));
    let load = Workload { rate: 0, records: batches * batch_records, duration: 0, ..workload.clone() };
    let now_ns = clock.now_ns();
    set_loads(senders, &load, batch_records, (now_ns, u64::MAX));
    let stop = AtomicBool::new(false);
    let course = produce::Course { clock, stop: &stop, run };
    let results = thread::scope(|scope| {
        let threads: Vec<_> =
            senders.iter_mut().map(|sender| scope.spawn(move || sender.run(course))).collect();
        threads.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>()
    });
    for result in results {
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    }
    if workload.producers == 0 {
        senders.clear();
    }
    Ok(())
}

/// Does a thread's work, ahead of all ordinary threads of the host if the workload says so.
fn urgently(workload: &Workload, work: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    if workload.realtime {
        go_ahead_of_others().map_err(|cause| Failure::File {
            path: "real-time scheduling; run as root, or set `realtime` = false".to_owned(),
            cause,
        })?;
    }
    work()
}

/// All who take part in a run.
struct Crew {
    senders: Vec<Sender>,
    readers: Vec<Reader>,
    group: Option<Group>,
}

/// Gives all senders their parts of a load that starts at the first time and is measured from the second.
fn set_loads(
    senders: &mut [Sender],
    workload: &Workload,
    batch_records: u64,
    (start_ns, measure_from_ns): (u64, u64),
) {
    let producers = senders.iter().map(Sender::producer_count).sum::<usize>() as u64;
    let load = |number: u64| Load {
        producer: number,
        producers,
        records_per_second: workload.rate,
        arrivals: workload.arrivals,
        batch_records,
        start_ns,
        measure_from_ns,
        end_ns: (workload.duration > 0).then(|| start_ns + workload.duration * 1_000_000_000),
        batches_max: (workload.records > 0).then(|| {
            let batches = workload.records.div_ceil(batch_records);
            batches / producers + u64::from(number < batches % producers)
        }),
    };
    senders.iter_mut().for_each(|sender| sender.set_load(load));
}

/// Starts all threads, watches them and takes what they saw.
fn measure(
    workload: &Workload,
    target: &Target,
    topics: &[Topic],
    crew: &mut Crew,
    (clock, run): (&Clock, u64),
    show: &mut dyn FnMut(Progress<'_>),
) -> Result<watch::Measured, Failure> {
    let Crew { senders, readers, group } = crew;
    let start_ns = clock.now_ns() + LEAD_NS;
    let measure_from_ns = start_ns + workload.warm_up * 1_000_000_000;
    let batch_records = senders.first().and_then(Sender::batch_records).unwrap_or(1);
    set_loads(senders, workload, batch_records, (start_ns, measure_from_ns));
    let has_producers = !senders.is_empty();
    let ending = Ending {
        end_ns: (!has_producers && workload.duration > 0)
            .then(|| start_ns + workload.duration * 1_000_000_000),
        ..Ending::default()
    };
    let around = Surroundings {
        workload,
        clock,
        ending: &ending,
        start_ns,
        measure_from_ns,
        timeout_ns: target.timeout_seconds * 1_000_000_000,
        run,
    };
    let course = produce::Course { clock, stop: &ending.stop, run };
    let mut watch = Watch::new(
        (senders, readers, group.as_ref()),
        clock,
        measure_from_ns,
        Costs::new(target.pids.clone()),
    );
    let mut log = Vec::new();
    let results = thread::scope(|scope| {
        let sending: Vec<_> = senders
            .iter_mut()
            .map(|sender| scope.spawn(|| ending.note(urgently(workload, || sender.run(course)))))
            .collect();
        let mut reading: Vec<_> = readers
            .iter_mut()
            .map(|reader| scope.spawn(|| ending.note(urgently(workload, || reader.run(around)))))
            .collect();
        reading.extend(
            group.iter_mut().map(|group| {
                scope.spawn(|| ending.note(group.run(workload, clock, &ending, measure_from_ns)))
            }),
        );
        let watched = watch.until_done(&ending, (&sending, &reading), (&target.name, &mut log), show, || {
            consume::offsets_of_all(topics, cluster::LATEST, target.timeout())
        });
        let joined = sending.into_iter().chain(reading).map(thread::ScopedJoinHandle::join);
        (watched, joined.collect::<Vec<_>>())
    });
    let (watched, joined) = results;
    for result in joined {
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    }
    watched?;
    let mut measured = watch.finish()?;
    measured.log = log;
    Ok(measured)
}
