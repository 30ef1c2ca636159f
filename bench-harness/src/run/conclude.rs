//! What came of a run, and whether it counts.

use super::Target;
use super::watch::Measured;
use crate::latency::lag_reason;
use crate::meter::Tally;
use crate::report::{BrokerCost, Flow, Host, Report};
use crate::schedule::Arrivals;
use crate::workload::{Acks, Workload};
use hdrhistogram::Histogram;

/// The share of the asked rate that must have been acknowledged, or else the run did not put that load on.
const RATE_REACHED: f64 = 0.98;

/// How long the last answer may take before the rate counts as not reached.
const LAST_ANSWER_SECONDS: f64 = 0.1;

/// A report with the histograms behind it.
#[derive(Debug)]
pub struct Outcome {
    /// The report.
    pub report: Report,
    /// Each measured distribution under its name, in nanoseconds.
    pub histograms: Vec<(&'static str, Histogram<u64>)>,
    /// Second by second, as `.hlog`.
    pub log: Vec<u8>,
}

pub(super) fn conclude(
    workload: &Workload,
    target: &Target,
    date: String,
    batch_records: Option<u64>,
    measured: Measured,
) -> Outcome {
    let Measured { produced, fetched, backlog, rebalances, .. } = &measured;
    // The slowest consumer ends a run only if there is no producer.
    let others_ns = fetched.last_ns.max(backlog.last_ns).max(rebalances.last_ns);
    let last_ns = if produced.requests > 0 { produced.last_ns } else { others_ns };
    let seconds = last_ns.saturating_sub(measured.measure_from_ns) as f64 / 1e9;
    let is_open = workload.rate > 0;
    let from = match (workload.acks, is_open) {
        (Acks::None, _) => "not measured: nothing is acknowledged",
        (_, false) => "from sending; a closed loop, which hides stalls",
        _ => "from the time at which the batch was due",
    };
    let fetch_from = "from sending the request; a closed loop, waiting for data included";
    let has_producers = workload.producers > 0;
    let produced_flow = has_producers.then(|| flow(produced, seconds, from));
    let fetched_flow = (workload.consumers > 0).then(|| flow(fetched, seconds, fetch_from));
    let backlog_flow = (workload.backlog_readers > 0).then(|| flow(backlog, seconds, fetch_from));
    let mut report = Report {
        name: workload.name.clone(),
        broker_name: target.name.clone(),
        date,
        host: Host::of_this_process(),
        durability: target.durability.clone(),
        workload: serde_json::to_value(workload).unwrap_or_default(),
        batch_records: batch_records.filter(|_| has_producers),
        seconds,
        produced: produced_flow,
        fetched: fetched_flow,
        backlog_fetched: backlog_flow,
        end_to_end: workload.measures_end_to_end().then(|| (&fetched.end_to_end).into()),
        rebalances: (workload.group_members > 0).then(|| (&rebalances.latency).into()),
        generator_lag: (has_producers && is_open).then(|| (&produced.lag).into()),
        timeline: measured.timeline.clone(),
        ..Report::default()
    };
    for tally in [produced, fetched, backlog, rebalances] {
        for (error, count) in &tally.errors {
            *report.errors.entry(error.clone()).or_default() += count;
        }
    }
    report.broker = measured
        .costs
        .zip(report.main_flow())
        .map(|((broker, own), flow)| BrokerCost::new(broker, own, flow));
    report.invalid = reasons_against(workload, &report, &measured);
    let histograms = [
        ("produce", measured.produced.latency),
        ("fetch", measured.fetched.latency),
        ("backlog-fetch", measured.backlog.latency),
        ("end-to-end", measured.fetched.end_to_end),
        ("generator-lag", measured.produced.lag),
        ("rebalance", measured.rebalances.latency),
    ];
    Outcome {
        report,
        histograms: histograms.into_iter().filter(|(_, times)| !times.is_empty()).collect(),
        log: measured.log,
    }
}

fn flow(tally: &Tally, seconds: f64, latency_from: &str) -> Flow {
    let per_second = |count: u64| count as f64 / seconds.max(1e-9);
    Flow {
        records: tally.records,
        bytes: tally.bytes,
        requests: tally.requests,
        records_per_second: per_second(tally.records),
        megabytes_per_second: per_second(tally.bytes) / 1e6,
        latency_from: latency_from.to_owned(),
        latency: (&tally.latency).into(),
    }
}

/// Why the result does not count.
fn reasons_against(workload: &Workload, report: &Report, measured: &Measured) -> Vec<String> {
    let mut reasons: Vec<String> =
        report.errors.iter().map(|(error, count)| format!("{count} errors: {error}")).collect();
    if measured.produced.unsent > 0 {
        reasons.push(format!("{} batches were due and could not be sent in time", measured.produced.unsent));
    }
    for (flow, what) in [
        (&report.produced, "produced"),
        (&report.fetched, "fetched"),
        (&report.backlog_fetched, "fetched of the backlog"),
    ] {
        if flow.as_ref().is_some_and(|flow| flow.requests == 0) {
            reasons.push(format!("nothing was {what} in the measured time"));
        }
    }
    if report.rebalances.as_ref().is_some_and(|times| times.percentiles.count == 0) {
        reasons.push("no rebalance was done in the measured time".to_owned());
    }
    if workload.rate == 0 || workload.producers == 0 {
        return reasons;
    }
    reasons.extend(lag_reason(&measured.produced.lag, workload.lag_limit_us));
    if !is_reached(workload, measured.produced.records, report.batch_records.unwrap_or(1), report.seconds) {
        let reached = measured.produced.records as f64 / report.seconds.max(1e-9);
        reasons.push(format!("{reached:.0} of {} records/s were reached", workload.rate));
    }
    reasons
}

/// Whether so many acknowledged records are the asked rate. The last batches may take their time without that, and
/// chance may have fewer of them come.
fn is_reached(workload: &Workload, records: u64, batch_records: u64, seconds: f64) -> bool {
    let expected = workload.rate as f64 * (seconds - LAST_ANSWER_SECONDS);
    let chance = match workload.arrivals {
        Arrivals::Constant => 0.0,
        // Four times the standard deviation of a Poisson distribution.
        Arrivals::Poisson => 4.0 * (expected.max(0.0) / batch_records as f64).sqrt() * batch_records as f64,
    };
    // With a record count the run ends when the last batch is answered, so that only long runs say something.
    seconds < 1.0 || records as f64 + chance >= expected * RATE_REACHED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_reached_if_only_chance_or_the_last_answer_is_missing() {
        let at = |arrivals| Workload { rate: 1000, arrivals, ..Workload::default() };
        let (constant, poisson) = (at(Arrivals::Constant), at(Arrivals::Poisson));
        assert!(is_reached(&constant, 10_000, 10, 10.1));
        assert!(is_reached(&constant, 9_800, 10, 10.1));
        assert!(!is_reached(&constant, 9_790, 10, 10.1));
        assert!(!is_reached(&constant, 10_000, 10, 11.0));
        // 1,000 batches, give or take 126.
        assert!(is_reached(&poisson, 8_600, 10, 10.1));
        assert!(!is_reached(&poisson, 8_500, 10, 10.1));
        assert!(is_reached(&constant, 1, 10, 0.9));
    }
}
