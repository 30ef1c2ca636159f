//! What the main thread does meanwhile: second by second it takes what the others saw, and it notices when they are
//! done.

use super::Progress;
use crate::clock::Clock;
use crate::consume::{Ending, Offsets, Reader, Role};
use crate::failure::Failure;
use crate::group::Group;
use crate::meter::{Meter, Tally};
use crate::process_probe::{Sample, Usage, sample, usage};
use crate::produce::Sender;
use crate::report::{IntervalLog, Second};
use crate::system::signals;
use hdrhistogram::serialization::V2DeflateSerializer;
use std::sync::atomic::Ordering;
use std::thread::ScopedJoinHandle;
use std::time::Duration;

const SECOND_NS: u64 = 1_000_000_000;

/// How often the threads are looked at.
const LOOK_NS: u64 = 20_000_000;

type Handle<'scope> = ScopedJoinHandle<'scope, Result<(), Failure>>;

/// Samples of the broker and of this process.
#[derive(Clone, Debug)]
pub(super) struct Costs {
    pids: Vec<u32>,
    /// At the end of the warm-up.
    before: Option<(Sample, Sample)>,
    /// At the end of the last second.
    last: Option<Sample>,
}

impl Costs {
    pub(super) const fn new(pids: Vec<u32>) -> Self {
        Self { pids, before: None, last: None }
    }

    fn begin(&mut self) -> Result<(), Failure> {
        if !self.pids.is_empty() {
            let broker = sample(&self.pids)?;
            self.before = Some((broker.clone(), sample(&[std::process::id()])?));
            self.last = Some(broker);
        }
        Ok(())
    }

    /// CPU seconds of the broker since the last second.
    fn lap(&mut self) -> f64 {
        let Some(last) = &mut self.last else { return 0.0 };
        let Ok(now) = sample(&self.pids) else { return 0.0 };
        let used = usage(last, &now).cpu_seconds();
        *last = now;
        used
    }

    /// What the broker and this process used since the warm-up.
    fn end(&self) -> Result<Option<(Usage, Usage)>, Failure> {
        let Some((broker, own)) = &self.before else { return Ok(None) };
        let (broker_now, own_now) = (sample(&self.pids)?, sample(&[std::process::id()])?);
        Ok(Some((usage(broker, &broker_now), usage(own, &own_now))))
    }
}

/// Everything that was seen.
pub(super) struct Measured {
    pub(super) produced: Tally,
    pub(super) fetched: Tally,
    pub(super) backlog: Tally,
    pub(super) rebalances: Tally,
    pub(super) timeline: Vec<Second>,
    pub(super) measure_from_ns: u64,
    /// Of the broker and of this process.
    pub(super) costs: Option<(Usage, Usage)>,
    /// As `.hlog`.
    pub(super) log: Vec<u8>,
}

pub(super) struct Watch<'a> {
    clock: &'a Clock,
    meters: Vec<(Kind, Meter)>,
    costs: Costs,
    spare: Tally,
    last_take_ns: u64,
    measured: Measured,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Produced,
    Fetched,
    Backlog,
    Rebalances,
}

impl<'a> Watch<'a> {
    pub(super) fn new(
        (senders, readers, group): (&[Sender], &[Reader], Option<&Group>),
        clock: &'a Clock,
        measure_from_ns: u64,
        costs: Costs,
    ) -> Self {
        let produced = senders.iter().map(|sender| (Kind::Produced, sender.meter.clone()));
        let fetched = readers.iter().map(|reader| {
            let kind = if reader.role == Role::Consumer { Kind::Fetched } else { Kind::Backlog };
            (kind, reader.meter.clone())
        });
        let rebalances = group.map(|group| (Kind::Rebalances, group.meter.clone()));
        let measured = Measured {
            produced: Tally::default(),
            fetched: Tally::default(),
            backlog: Tally::default(),
            rebalances: Tally::default(),
            timeline: Vec::new(),
            measure_from_ns,
            costs: None,
            log: Vec::new(),
        };
        let mut watch = Self {
            clock,
            meters: produced.chain(fetched).chain(rebalances).collect(),
            costs,
            spare: Tally::default(),
            last_take_ns: clock.now_ns(),
            measured,
        };
        // What was counted while the backlog was written: errors stay, records go.
        let backlog = watch.take();
        watch.measured.produced.errors = backlog[0].errors.clone();
        watch
    }

    /// Goes on until all threads have ended. `ends` asks where the log ends when nothing more is produced.
    pub(super) fn until_done(
        &mut self,
        ending: &Ending,
        (sending, reading): (&[Handle<'_>], &[Handle<'_>]),
        (name, log): (&str, &mut Vec<u8>),
        show: &mut dyn FnMut(Progress<'_>),
        ends: impl Fn() -> Result<Offsets, Failure>,
    ) -> Result<(), Failure> {
        let from_ns = self.measured.measure_from_ns;
        let since_epoch_ms = from_ns.saturating_sub(self.clock.now_ns()) / 1_000_000;
        let base_ms = self.clock.wall_ms().saturating_add_unsigned(since_epoch_ms);
        let mut serializer = V2DeflateSerializer::new();
        let mut log = IntervalLog::begin(log, &mut serializer, &format!("logmill-bench, {name}"), base_ms)
            .map_err(|cause| Failure::File { path: "the interval log".to_owned(), cause })?;
        let mut next_ns = from_ns - (from_ns.saturating_sub(self.clock.now_ns()) / SECOND_NS) * SECOND_NS;
        let mut outcome = Ok(());
        let mut asked = false;
        loop {
            let now_ns = self.clock.now_ns();
            if now_ns >= from_ns && self.costs.before.is_none() && outcome.is_ok() {
                outcome = self.costs.begin();
            }
            let are_sent = sending.iter().all(ScopedJoinHandle::is_finished);
            let are_done = are_sent && reading.iter().all(ScopedJoinHandle::is_finished);
            if now_ns >= next_ns || are_done {
                let is_whole = now_ns - self.last_take_ns > SECOND_NS / 2;
                let (second, is_measured) = self.lap(now_ns, &mut log);
                // The rest before the first whole second and after the last one would look like a drop.
                if is_whole {
                    show(Progress { broker_name: name, is_measured, second: &second });
                }
                next_ns += SECOND_NS * (1 + now_ns.saturating_sub(next_ns) / SECOND_NS);
            }
            if are_done {
                return outcome;
            }
            if !sending.is_empty() && are_sent && !asked {
                asked = true;
                if !reading.is_empty() {
                    match ends() {
                        Ok(offsets) => drop(ending.ends.set(offsets)),
                        Err(failure) => outcome = Err(failure),
                    }
                }
                ending.is_produced.store(true, Ordering::Relaxed);
            }
            if signals::is_interrupted() && outcome.is_ok() {
                outcome = Err(Failure::Interrupted);
            }
            if outcome.is_err() {
                ending.stop.store(true, Ordering::Relaxed);
            }
            let mut until_ns = next_ns.min(now_ns + LOOK_NS);
            if self.costs.before.is_none() && now_ns < from_ns {
                until_ns = until_ns.min(from_ns);
            }
            self.clock.sleep_until_ns(until_ns);
        }
    }

    /// What each kind of thread saw since the last time.
    fn take(&mut self) -> [Tally; 4] {
        let mut taken: [Tally; 4] = std::array::from_fn(|_| Tally::default());
        for (kind, meter) in &self.meters {
            meter.take(&mut self.spare);
            taken[*kind as usize].merge(&self.spare);
        }
        taken
    }

    /// Takes what was seen and adds it to everything.
    fn lap(&mut self, now_ns: u64, log: &mut IntervalLog<'_>) -> (Second, bool) {
        let [produced, fetched, backlog, rebalances] = self.take();
        let from_ns = self.measured.measure_from_ns;
        let start_ns = self.last_take_ns.max(from_ns);
        let length = Duration::from_nanos(now_ns.saturating_sub(start_ns));
        let start = Duration::from_nanos(start_ns - from_ns);
        for (tag, times) in [
            ("produce", &produced.latency),
            ("fetch", &fetched.latency),
            ("backlog-fetch", &backlog.latency),
            ("end-to-end", &fetched.end_to_end),
            ("generator-lag", &produced.lag),
            ("rebalance", &rebalances.latency),
        ] {
            log.add(tag, start, length, times);
        }
        let main = match self.meters.first() {
            Some((Kind::Fetched, _)) => &fetched,
            Some((Kind::Backlog, _)) => &backlog,
            _ => &produced,
        };
        let seconds = (now_ns - self.last_take_ns).max(1) as f64 / 1e9;
        let per_second = |count: u64| (count as f64 / seconds).round() as u64;
        let is_measured = self.last_take_ns + LOOK_NS >= from_ns;
        let records = main.records + if is_measured { 0 } else { main.warm_up_records };
        let second = Second {
            at: (now_ns as f64 - from_ns as f64) / 1e9,
            records: per_second(records),
            bytes: per_second(main.bytes),
            latency: (&main.latency).into(),
            end_to_end: (&fetched.end_to_end).into(),
            broker_cores: self.costs.lap() / seconds,
        };
        // A rest at the end that is shorter than a second would look like a drop.
        if is_measured && seconds > 0.5 {
            self.measured.timeline.push(second);
        }
        self.measured.produced.merge(&produced);
        self.measured.fetched.merge(&fetched);
        self.measured.backlog.merge(&backlog);
        self.measured.rebalances.merge(&rebalances);
        self.last_take_ns = now_ns;
        (second, is_measured)
    }

    /// Everything, with the costs up to now.
    pub(super) fn finish(mut self) -> Result<Measured, Failure> {
        self.measured.costs = self.costs.end()?;
        Ok(self.measured)
    }
}
