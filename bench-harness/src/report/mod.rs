//! The result of a run: a table and a page for people, JSON and histograms for programs. All say where, when and how
//! it was measured.

mod chart;
mod histograms;
mod page;
mod table;

pub use histograms::{IntervalLog, percentile_file};
pub use page::page;

use crate::failure::Failure;
use crate::latency::{Distribution, Percentiles};
use crate::process_probe::Usage;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const GIGABYTE: f64 = 1e9;

/// Where a run was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// The processor as the kernel names it.
    pub cpu_model: String,
    /// Cores that the process may use.
    pub cores: usize,
    /// Name and release of the kernel.
    pub kernel: String,
    /// Memory in bytes.
    pub memory_bytes: u64,
}

impl Host {
    /// This host, from `/proc`; what cannot be read is said to be unknown.
    #[must_use]
    pub fn of_this_process() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let after_colon = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?.to_owned();
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let unknown = || "unknown".to_owned();
        let memory = after_colon(&text("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let memory_kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
        Self {
            cpu_model: after_colon(&text("/proc/cpuinfo"), "model name").unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: format!("Linux {}", text("/proc/sys/kernel/osrelease").trim()),
            memory_bytes: memory_kib * 1024,
        }
    }
}

/// The broker's costs, absolute and per unit of work.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BrokerCost {
    /// What `/proc` says.
    pub usage: Usage,
    /// CPU seconds per 10⁹ bytes of batches.
    pub cpu_seconds_per_gb: f64,
    /// CPU microseconds per record.
    pub cpu_us_per_record: f64,
    /// CPU microseconds per request.
    pub cpu_us_per_request: f64,
    /// CPU seconds of the load generator itself in the same time.
    pub generator_cpu_seconds: f64,
}

impl BrokerCost {
    /// Divides the usage by the work that was done meanwhile.
    #[must_use]
    pub fn new(usage: Usage, generator: Usage, work: &Flow) -> Self {
        let cpu_seconds = usage.cpu_seconds();
        Self {
            usage,
            cpu_seconds_per_gb: cpu_seconds / (work.bytes.max(1) as f64 / GIGABYTE),
            cpu_us_per_record: cpu_seconds * 1e6 / work.records.max(1) as f64,
            cpu_us_per_request: cpu_seconds * 1e6 / work.requests.max(1) as f64,
            generator_cpu_seconds: generator.cpu_seconds(),
        }
    }
}

/// What went in one direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// Measured records: acknowledged, or fetched.
    pub records: u64,
    /// Bytes of their batches as they were on the wire.
    pub bytes: u64,
    /// Measured requests.
    pub requests: u64,
    /// Records per second.
    pub records_per_second: f64,
    /// 10⁶ bytes per second.
    pub megabytes_per_second: f64,
    /// What the latency counts from.
    pub latency_from: String,
    /// Latency per request.
    pub latency: Distribution,
}

/// One second of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// Seconds from the end of the warm-up to the end of this one.
    pub at: f64,
    /// Records acknowledged in it, if there are producers, otherwise fetched.
    pub records: u64,
    /// Bytes of their batches.
    pub bytes: u64,
    /// Their latency.
    pub latency: Percentiles,
    /// From due to consumed.
    pub end_to_end: Percentiles,
    /// CPU seconds of the broker per second; 0 if its process was not named.
    pub broker_cores: f64,
}

/// One measured run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The workload's name.
    pub name: String,
    /// The broker's name in a comparison; otherwise its address.
    pub broker_name: String,
    /// The start in UTC, RFC 3339.
    pub date: String,
    /// Where it was measured; the broker may be elsewhere.
    pub host: Host,
    /// What an acknowledgement promises, in the words of whoever ran it.
    pub durability: String,
    /// Every key with its value.
    pub workload: serde_json::Value,
    /// Records per batch, for producers.
    pub batch_records: Option<u64>,
    /// Length of the measured part.
    pub seconds: f64,
    /// What producers got acknowledged.
    pub produced: Option<Flow>,
    /// What consumers fetched.
    pub fetched: Option<Flow>,
    /// What readers of the backlog fetched.
    pub backlog_fetched: Option<Flow>,
    /// From the time at which a batch was due to its arrival at a consumer.
    pub end_to_end: Option<Distribution>,
    /// From a member's leaving or joining until all partitions have their new owners.
    pub rebalances: Option<Distribution>,
    /// The generator's own delay before sending, in an open loop.
    pub generator_lag: Option<Percentiles>,
    /// The broker's costs, if its process was named; per byte and record produced, or else fetched.
    pub broker: Option<BrokerCost>,
    /// Second by second.
    pub timeline: Vec<Second>,
    /// Error codes and other errors, with how often each was seen, warm-up included.
    pub errors: BTreeMap<String, u64>,
    /// Why the result does not count; empty if it does.
    pub invalid: Vec<String>,
}

impl Report {
    /// What the throughput and the broker's costs refer to: what was produced, or else fetched.
    #[must_use]
    pub fn main_flow(&self) -> Option<&Flow> {
        self.produced.as_ref().or(self.fetched.as_ref()).or(self.backlog_fetched.as_ref())
    }

    /// The report as JSON.
    #[must_use]
    pub fn json(&self) -> String {
        let value = serde_json::to_value(self).unwrap_or_default();
        format!("{value:#}\n")
    }

    /// The report as a table.
    #[must_use]
    pub fn text(&self) -> String {
        table::text(self)
    }

    /// Reads what [`Report::json`] wrote.
    ///
    /// # Errors
    /// [`Failure::File`] if the file cannot be read or is not such a report.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let failed = |cause| Failure::File { path: path.display().to_string(), cause };
        let text = fs::read_to_string(path).map_err(failed)?;
        serde_json::from_str(&text).map_err(|error| {
            failed(std::io::Error::new(std::io::ErrorKind::InvalidData, format!("not a report: {error}")))
        })
    }
}

/// Times as people read them.
#[must_use]
pub fn percentiles_text(times: &Percentiles) -> String {
    if times.count == 0 {
        return "none measured".to_owned();
    }
    let ms = |ns: u64| ns as f64 / 1e6;
    format!(
        "p50 {:.3} p90 {:.3} p99 {:.3} p99.9 {:.3} p99.99 {:.3} max {:.3} ms",
        ms(times.p50_ns),
        ms(times.p90_ns),
        ms(times.p99_ns),
        ms(times.p99_9_ns),
        ms(times.p99_99_ns),
        ms(times.max_ns)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_per_byte_record_and_request() {
        let usage = Usage { user_seconds: 1.0, system_seconds: 0.5, ..Usage::default() };
        let work = Flow { records: 3_000_000, bytes: 500_000_000, requests: 30_000, ..Flow::default() };
        let cost = BrokerCost::new(usage, usage, &work);
        assert!((cost.cpu_seconds_per_gb - 3.0).abs() < 1e-9);
        assert!((cost.cpu_us_per_record - 0.5).abs() < 1e-9);
        assert!((cost.cpu_us_per_request - 50.0).abs() < 1e-9);
    }

    #[test]
    fn json_is_read_back() {
        let second = Second { at: 1.0, records: 5, ..Second::default() };
        let report = Report {
            name: "x".to_owned(),
            produced: Some(Flow::default()),
            timeline: vec![second],
            errors: BTreeMap::from([("e".to_owned(), 1)]),
            ..Report::default()
        };
        let read: Report = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(read, report);
    }
}
