//! Distributions of times in nanoseconds.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Significant digits that a histogram keeps.
const DIGITS: u8 = 3;

/// Points of a distribution that are kept per halving of the distance to 100 %.
const TICKS_PER_HALVING: u32 = 5;

/// A histogram of nanoseconds, with three significant digits; it grows with what is recorded.
#[must_use]
pub fn histogram() -> Histogram<u64> {
    Histogram::new(DIGITS).unwrap_or_else(|_| unreachable!("the number of digits is one that is allowed"))
}

/// Adds a time. Never fails: the histogram grows up to the largest number.
pub fn record(histogram: &mut Histogram<u64>, nanoseconds: u64) {
    let _ = histogram.record(nanoseconds);
}

/// A distribution of times in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are those of the percentiles")]
pub struct Percentiles {
    pub count: u64,
    pub p50_ns: u64,
    pub p90_ns: u64,
    pub p99_ns: u64,
    pub p99_9_ns: u64,
    pub p99_99_ns: u64,
    pub max_ns: u64,
}

impl From<&Histogram<u64>> for Percentiles {
    fn from(histogram: &Histogram<u64>) -> Self {
        Self {
            count: histogram.len(),
            p50_ns: histogram.value_at_quantile(0.5),
            p90_ns: histogram.value_at_quantile(0.9),
            p99_ns: histogram.value_at_quantile(0.99),
            p99_9_ns: histogram.value_at_quantile(0.999),
            p99_99_ns: histogram.value_at_quantile(0.9999),
            max_ns: histogram.max(),
        }
    }
}

/// A point of a distribution: this share of all times is not above this time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// From 0 to 1.
    pub quantile: f64,
    /// Nanoseconds.
    pub ns: u64,
}

/// A distribution with enough points for its curve.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// The usual percentiles.
    #[serde(flatten)]
    pub percentiles: Percentiles,
    /// From the shortest time to the longest.
    pub curve: Vec<Point>,
}

impl From<&Histogram<u64>> for Distribution {
    fn from(histogram: &Histogram<u64>) -> Self {
        let steps = histogram.iter_quantiles(TICKS_PER_HALVING);
        let curve = steps
            .map(|step| Point {
                quantile: step.quantile_iterated_to().min(1.0),
                ns: step.value_iterated_to(),
            })
            .collect();
        Self { percentiles: histogram.into(), curve }
    }
}

/// Whether the generator itself was late too often, so that the result does not count.
#[must_use]
pub fn lag_reason(lag: &Histogram<u64>, limit_us: u64) -> Option<String> {
    let p99_us = lag.value_at_quantile(0.99) / 1000;
    (p99_us > limit_us)
        .then(|| format!("the generator was late by itself: p99 {p99_us} µs, the limit is {limit_us} µs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_come_from_the_histogram() {
        let mut times = histogram();
        for value in 1..=1000 {
            record(&mut times, value * 1_000_000);
        }
        let found = Percentiles::from(&times);
        let near = |value: u64, expected: u64| value.abs_diff(expected) * 500 <= expected;
        assert_eq!(found.count, 1000);
        assert!(near(found.p50_ns, 500_000_000), "{found:?}");
        assert!(near(found.p99_ns, 990_000_000), "{found:?}");
        assert!(near(found.p99_9_ns, 999_000_000), "{found:?}");
        assert!(near(found.max_ns, 1_000_000_000), "{found:?}");
        let curve = Distribution::from(&times).curve;
        assert!(
            curve.windows(2).all(|pair| pair[0].quantile <= pair[1].quantile && pair[0].ns <= pair[1].ns)
        );
        assert_eq!(curve.last().map(|point| (point.quantile, point.ns)), Some((1.0, found.max_ns)));
    }

    #[test]
    fn an_hour_is_recorded() {
        let mut times = histogram();
        record(&mut times, 3_600_000_000_000);
        assert!(times.max() >= 3_600_000_000_000);
    }

    #[test]
    fn a_late_generator_spoils_the_result() {
        let mut lag = histogram();
        lag.record_n(50_000, 98).unwrap();
        lag.record_n(1_500_000, 2).unwrap();
        assert_eq!(lag_reason(&lag, 1600), None);
        assert!(lag_reason(&lag, 1000).unwrap().contains("late by itself"));
        assert_eq!(lag_reason(&histogram(), 0), None);
    }
}
