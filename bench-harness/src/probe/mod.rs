//! What kernel and hardware allow without any broker: the limit beside which its figures stand.

pub mod disk;
pub mod loopback;

use crate::latency::{Percentiles, histogram};
use crate::report::percentiles_text;
use hdrhistogram::Histogram;
use serde::Serialize;

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// What was done.
    pub what: String,
    /// 10⁶ bytes per second.
    pub megabytes_per_second: f64,
    /// Operations per second.
    pub operations_per_second: f64,
    /// CPU microseconds per operation, of all who took part.
    pub cpu_us_per_operation: f64,
    /// CPU seconds per 10⁹ bytes, of all who took part.
    pub cpu_seconds_per_gb: f64,
    /// Of one operation; a closed loop.
    pub latency: Percentiles,
}

impl Finding {
    fn new(what: String, seconds: f64, bytes: u64, cpu_seconds: f64, times: &Histogram<u64>) -> Self {
        let operations = times.len().max(1) as f64;
        Self {
            what,
            megabytes_per_second: bytes as f64 / 1e6 / seconds.max(1e-9),
            operations_per_second: times.len() as f64 / seconds.max(1e-9),
            cpu_us_per_operation: cpu_seconds * 1e6 / operations,
            cpu_seconds_per_gb: cpu_seconds / (bytes.max(1) as f64 / 1e9),
            latency: times.into(),
        }
    }

    /// One line for people.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "{:<44} {:>9.1} MB/s {:>9.0}/s {:>8.1} CPU-us each {:>7.3} CPU-s/GB  {}\n",
            self.what,
            self.megabytes_per_second,
            self.operations_per_second,
            self.cpu_us_per_operation,
            self.cpu_seconds_per_gb,
            percentiles_text(&self.latency)
        )
    }
}

/// All histograms in one.
fn merged(parts: impl IntoIterator<Item = Histogram<u64>>) -> Histogram<u64> {
    let mut total = histogram();
    for part in parts {
        // All have the same digits and grow, so adding cannot fail.
        let _ = total.add(&part);
    }
    total
}
