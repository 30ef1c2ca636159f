//! Rates from low to high: where the latency goes up, there is the knee.

use crate::latency::Percentiles;
use crate::report::{Report, percentiles_text};
use std::fmt::Write as _;

/// What a rate has to keep to count as carried.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// The largest 99th percentile, in nanoseconds, end to end if there are consumers.
    pub p99_ns: u64,
}

impl Limit {
    /// Whether the run carried its rate: a valid run whose tail is short enough.
    #[must_use]
    pub fn is_kept(&self, report: &Report) -> bool {
        let times = times(report);
        report.invalid.is_empty() && times.count > 0 && times.p99_ns <= self.p99_ns
    }
}

fn times(report: &Report) -> Percentiles {
    let end_to_end = report.end_to_end.as_ref().map(|times| times.percentiles);
    end_to_end.or_else(|| report.main_flow().map(|flow| flow.latency.percentiles)).unwrap_or_default()
}

/// Chooses the rates: first up by a factor until one is not carried, then halfway between the last that was and the
/// first that was not.
#[derive(Clone, Debug)]
pub struct Search {
    next: u64,
    factor: f64,
    rate_max: u64,
    refinements: u32,
    carried: Option<u64>,
    failed: Option<u64>,
}

impl Search {
    /// A search from a rate on, in records per second.
    #[must_use]
    pub const fn new(start: u64, factor: f64, rate_max: u64, refinements: u32) -> Self {
        Self { next: start, factor, rate_max, refinements, carried: None, failed: None }
    }

    /// The next rate to try; `None` at the end.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        let is_new = Some(self.next) != self.carried && Some(self.next) != self.failed;
        (is_new && self.next > 0 && self.next <= self.rate_max).then_some(self.next)
    }

    /// Takes what came of [`Search::next`].
    pub fn tried(&mut self, is_carried: bool) {
        let bound = if is_carried { &mut self.carried } else { &mut self.failed };
        *bound = Some(self.next);
        self.next = match (self.carried, self.failed) {
            (Some(carried), None) => ((carried as f64 * self.factor) as u64).max(carried + 1),
            (Some(carried), Some(failed)) if self.refinements > 0 => {
                self.refinements -= 1;
                u64::midpoint(carried, failed)
            }
            // The very first was too much, or it is known well enough.
            _ => 0,
        };
    }

    /// The highest rate that was carried.
    #[must_use]
    pub const fn knee(&self) -> Option<u64> {
        self.carried
    }
}

/// All rates of one broker as a table, the lowest first, with the knee.
#[must_use]
pub fn text(reports: &[Report], knee: Option<u64>) -> String {
    let mut sorted: Vec<&Report> = reports.iter().collect();
    let rate = |report: &Report| report.workload["rate"].as_u64().unwrap_or(0);
    sorted.sort_by_key(|report| rate(report));
    let name = sorted.first().map_or("", |report| report.broker_name.as_str());
    let mut table = format!("{name}\n{:>12} {:>12} {:>14}  latency\n", "rate", "records/s", "CPU-us/record");
    for report in sorted {
        let reached = report.main_flow().map_or(0.0, |flow| flow.records_per_second);
        let cost = report.broker.map_or("-".to_owned(), |broker| format!("{:.2}", broker.cpu_us_per_record));
        let end = if report.invalid.is_empty() {
            String::new()
        } else {
            format!("  INVALID: {}", report.invalid.join("; "))
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            table,
            "{:>12} {reached:>12.0} {cost:>14}  {}{end}",
            rate(report),
            percentiles_text(&times(report))
        );
    }
    let _ = match knee {
        Some(knee) => writeln!(table, "knee: {knee} records/s were carried"),
        None => writeln!(table, "knee: below the lowest rate; start lower, or allow a longer p99"),
    };
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::Distribution;
    use crate::report::Flow;

    fn tried_rates(mut search: Search, capacity: u64) -> (Vec<u64>, Option<u64>) {
        let mut rates = Vec::new();
        while let Some(rate) = search.next() {
            rates.push(rate);
            search.tried(rate <= capacity);
        }
        (rates, search.knee())
    }

    #[test]
    fn the_search_closes_in_on_the_knee() {
        let search = |refinements| Search::new(1000, 2.0, 100_000, refinements);
        assert_eq!(tried_rates(search(0), 5000), (vec![1000, 2000, 4000, 8000], Some(4000)));
        let (rates, knee) = tried_rates(search(4), 5000);
        assert_eq!(rates, [1000, 2000, 4000, 8000, 6000, 5000, 5500, 5250]);
        assert_eq!(knee, Some(5000));
        assert_eq!(tried_rates(search(3), 10), (vec![1000], None));
        assert_eq!(tried_rates(search(3), 1 << 40).1, Some(64_000));
    }

    #[test]
    fn a_rate_is_carried_if_the_run_is_valid_and_the_tail_is_short() {
        let limit = Limit { p99_ns: 10 };
        let distribution = |p99_ns| Distribution {
            percentiles: Percentiles { count: 1, p99_ns, ..Percentiles::default() },
            ..Distribution::default()
        };
        let run = |p99_ns| Report {
            produced: Some(Flow { latency: distribution(p99_ns), ..Flow::default() }),
            ..Report::default()
        };
        assert!(limit.is_kept(&run(10)) && !limit.is_kept(&run(11)));
        assert!(!limit.is_kept(&Report { invalid: vec!["late".to_owned()], ..run(1) }));
        assert!(!limit.is_kept(&Report { end_to_end: Some(distribution(11)), ..run(1) }));
        assert!(!limit.is_kept(&Report::default()));
    }

    #[test]
    fn the_table_is_sorted_by_rate() {
        let run = |rate: u64| Report { workload: serde_json::json!({ "rate": rate }), ..Report::default() };
        let text = text(&[run(300), run(20)], Some(20));
        assert!(text.find("  20 ").unwrap() < text.find(" 300 ").unwrap(), "{text}");
        assert!(text.contains("knee: 20 records/s"));
    }
}
