//! Several brokers under the same workload: in turns, several rounds, and each figure as a ratio with its spread.

use crate::clock::Clock;
use crate::failure::Failure;
use crate::report::Report;
use crate::run::{self, Outcome, Progress, TargetOptions};
use crate::sides::Turns;
use crate::workload::Workload;
use serde::Serialize;
use std::fmt::Write as _;

/// A figure of a report.
type Figure = fn(&Report) -> Option<f64>;

/// What is compared, with its unit.
const FIGURES: &[(&str, Figure)] = &[
    ("records/s", |report| report.main_flow().map(|flow| flow.records_per_second)),
    ("MB/s", |report| report.main_flow().map(|flow| flow.megabytes_per_second)),
    ("CPU-s/GB", |report| report.broker.map(|broker| broker.cpu_seconds_per_gb)),
    ("CPU-us/record", |report| report.broker.map(|broker| broker.cpu_us_per_record)),
    ("CPU-us/request", |report| report.broker.map(|broker| broker.cpu_us_per_request)),
    ("p50 ms", |report| main_ms(report, |times| times.p50_ns)),
    ("p99 ms", |report| main_ms(report, |times| times.p99_ns)),
    ("p99.9 ms", |report| main_ms(report, |times| times.p99_9_ns)),
    ("max ms", |report| main_ms(report, |times| times.max_ns)),
    ("end to end p50 ms", |report| end_to_end_ms(report, |times| times.p50_ns)),
    ("end to end p99 ms", |report| end_to_end_ms(report, |times| times.p99_ns)),
    ("rebalance p50 ms", |report| {
        report.rebalances.as_ref().map(|times| times.percentiles.p50_ns as f64 / 1e6)
    }),
    ("RSS MB", |report| report.broker.map(|broker| broker.usage.resident_bytes as f64 / 1e6)),
    ("written/produced", written_per_produced),
    ("switches/request", |report| {
        let requests = report.main_flow()?.requests.max(1) as f64;
        report.broker.map(|broker| broker.usage.context_switches as f64 / requests)
    }),
];

fn main_ms(report: &Report, pick: fn(&crate::latency::Percentiles) -> u64) -> Option<f64> {
    let times = &report.main_flow()?.latency.percentiles;
    (times.count > 0).then(|| pick(times) as f64 / 1e6)
}

fn end_to_end_ms(report: &Report, pick: fn(&crate::latency::Percentiles) -> u64) -> Option<f64> {
    report.end_to_end.as_ref().map(|times| pick(&times.percentiles) as f64 / 1e6)
}

fn written_per_produced(report: &Report) -> Option<f64> {
    let produced = report.produced.as_ref()?.bytes.max(1) as f64;
    report.broker?.usage.written_bytes.map(|bytes| bytes as f64 / produced)
}

/// A figure's median with its extremes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of all values; `None` if there is none.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self { median, min, max })
    }
}

/// One line of a comparison: a figure on each side, and each side's ratio to the first one, round by round.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// What is compared.
    pub figure: &'static str,
    /// For each side.
    pub sides: Vec<Option<Spread>>,
    /// The first side's value divided by this side's in the same round; `None` for the first.
    pub ratios: Vec<Option<Spread>>,
}

/// What came of a comparison.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// The sides' names, in order.
    pub names: Vec<String>,
    /// One list of runs for each round, in the order of the sides.
    pub rounds: Vec<Vec<Report>>,
}

impl Comparison {
    /// Every figure that at least one side has. Invalid runs are left out, with the whole round for ratios.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        let value = |report: &Report, figure: Figure| {
            figure(report).filter(|value| report.invalid.is_empty() && value.is_finite())
        };
        let line = |(name, figure): &(&'static str, Figure)| {
            let of_side = |side: usize| {
                Spread::of(self.rounds.iter().filter_map(|round| value(round.get(side)?, *figure)).collect())
            };
            let ratio_of = |side: usize| {
                let ratio = |round: &Vec<Report>| {
                    let (first, other) = (value(round.first()?, *figure)?, value(round.get(side)?, *figure)?);
                    (other > 0.0).then(|| first / other)
                };
                if side == 0 { None } else { Spread::of(self.rounds.iter().filter_map(ratio).collect()) }
            };
            let count = self.names.len();
            Line {
                figure: name,
                sides: (0..count).map(of_side).collect(),
                ratios: (0..count).map(ratio_of).collect(),
            }
        };
        FIGURES.iter().map(line).filter(|line| line.sides.iter().any(Option::is_some)).collect()
    }

    /// The comparison as a table, invalid runs with their reasons below it.
    #[must_use]
    pub fn text(&self) -> String {
        let first = self.names.first().map_or("", String::as_str);
        let mut table = format!("{:<20}", "median (min-max)");
        for (index, name) in self.names.iter().enumerate() {
            table += &format!("{name:<36}");
            if index > 0 {
                table += &format!("{:<26}", format!("{first} / {name}"));
            }
        }
        let shown = |spread: &Option<Spread>| {
            spread.map_or("-".to_owned(), |spread| {
                format!("{} ({}-{})", short(spread.median), short(spread.min), short(spread.max))
            })
        };
        for line in self.lines() {
            // Writing to a string cannot fail.
            let _ = write!(table, "\n{:<20}", line.figure);
            for (index, (side, ratio)) in line.sides.iter().zip(&line.ratios).enumerate() {
                let _ = write!(table, "{:<36}", shown(side));
                if index > 0 {
                    let _ = write!(table, "{:<26}", shown(ratio));
                }
            }
        }
        table.push('\n');
        for (number, round) in (1..).zip(&self.rounds) {
            for report in round.iter().filter(|report| !report.invalid.is_empty()) {
                let reasons = report.invalid.join("; ");
                let _ =
                    writeln!(table, "INVALID, left out: round {number}, {}: {reasons}", report.broker_name);
            }
        }
        table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
    }

    /// Whether every side has a valid run.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let has_valid = |side: usize| {
            self.rounds.iter().any(|round| round.get(side).is_some_and(|report| report.invalid.is_empty()))
        };
        (0..self.names.len()).all(has_valid)
    }
}

fn short(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 1000.0 => 0,
        size if size >= 10.0 => 1,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// Runs the workload on all sides, round by round. Each round begins with another side, so that none always has the
/// same neighbour. `keep` gets each run as soon as it is there.
///
/// # Errors
/// Whatever kept a run from being done.
pub fn compare(
    workload: &Workload,
    turns: &Turns,
    rounds: u32,
    options: &TargetOptions,
    clock: &Clock,
    show: &mut dyn FnMut(Progress<'_>),
    keep: &mut dyn FnMut(u32, &Outcome) -> Result<(), Failure>,
) -> Result<Comparison, Failure> {
    let sides = turns.sides();
    let names = sides.iter().map(|side| side.name.clone()).collect();
    let mut comparison = Comparison { names, rounds: Vec::new() };
    for round in 0..rounds {
        let mut reports = vec![Report::default(); sides.len()];
        for turn in 0..sides.len() {
            let index = (turn + round as usize) % sides.len();
            let side = &sides[index];
            let target = side.target(options, clock);
            let outcome = turns.with(side, clock, || run::run(workload, &target, clock, show))?;
            keep(round + 1, &outcome)?;
            reports[index] = outcome.report;
        }
        comparison.rounds.push(reports);
    }
    Ok(comparison)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Flow;

    fn run(records_per_second: f64, invalid: &[&str]) -> Report {
        let invalid = invalid.iter().map(|reason| (*reason).to_owned()).collect();
        let produced = Some(Flow { records_per_second, ..Flow::default() });
        Report { produced, invalid, ..Report::default() }
    }

    #[test]
    fn medians_have_their_extremes() {
        let spread = |median, min, max| Some(Spread { median, min, max });
        assert_eq!(Spread::of(vec![3.0, 1.0, 2.0]), spread(2.0, 1.0, 3.0));
        assert_eq!(Spread::of(vec![4.0, 1.0]), spread(2.5, 1.0, 4.0));
        assert_eq!(Spread::of(Vec::new()), None);
    }

    #[test]
    fn ratios_are_of_the_same_round_and_invalid_runs_are_left_out() {
        let comparison = Comparison {
            names: vec!["ours".to_owned(), "theirs".to_owned()],
            rounds: vec![
                vec![run(30.0, &[]), run(10.0, &[])],
                vec![run(40.0, &[]), run(20.0, &[])],
                vec![run(900.0, &["late"]), run(30.0, &[])],
            ],
        };
        let lines = comparison.lines();
        let line = lines.iter().find(|line| line.figure == "records/s").unwrap();
        assert_eq!(line.sides[0], Some(Spread { median: 35.0, min: 30.0, max: 40.0 }));
        assert_eq!(line.sides[1], Some(Spread { median: 20.0, min: 10.0, max: 30.0 }));
        assert_eq!(line.ratios, [None, Some(Spread { median: 2.5, min: 2.0, max: 3.0 })]);
        let text = comparison.text();
        assert!(text.contains("ours / theirs") && text.contains("2.500 (2.000-3.000)"), "{text}");
        assert!(text.contains("INVALID, left out: round 3") && comparison.is_complete());
        let invalid = Comparison { rounds: vec![vec![run(1.0, &["late"]), run(1.0, &[])]], ..comparison };
        assert!(!invalid.is_complete());
    }
}
