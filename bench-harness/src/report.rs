//! The result of a run: a table for people, JSON for programs. Both say where, when and how it was measured.

use crate::process_probe::Usage;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::fmt::Write as _;
use std::fs;

const GIGABYTE: f64 = 1e9;

/// Where a run was done.
#[derive(Clone, Debug, PartialEq, Serialize)]
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

/// A distribution of times in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
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

/// A histogram of nanoseconds up to one hour, with three significant digits.
#[must_use]
pub fn histogram() -> Histogram<u64> {
    let bounds = Histogram::new_with_bounds(1, 3_600_000_000_000, 3);
    bounds.unwrap_or_else(|_| unreachable!("the bounds are constants that the constructor accepts"))
}

/// The broker's costs, absolute and per unit of work.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct BrokerCost {
    /// What `/proc` says.
    pub usage: Usage,
    /// CPU seconds per 10⁹ bytes of batches.
    pub cpu_seconds_per_gb: f64,
    /// CPU microseconds per record.
    pub cpu_us_per_record: f64,
    /// CPU seconds of the load generator itself in the same time.
    pub generator_cpu_seconds: f64,
}

impl BrokerCost {
    /// Divides the usage by the work that was done meanwhile.
    #[must_use]
    pub fn new(usage: Usage, generator: Usage, records: u64, bytes: u64) -> Self {
        Self {
            usage,
            cpu_seconds_per_gb: usage.cpu_seconds() / (bytes.max(1) as f64 / GIGABYTE),
            cpu_us_per_record: usage.cpu_seconds() * 1e6 / records.max(1) as f64,
            generator_cpu_seconds: generator.cpu_seconds(),
        }
    }
}

/// One measured run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// `produce` or `fetch`.
    pub kind: &'static str,
    /// The start in UTC, RFC 3339.
    pub date: String,
    /// Where it was measured; the broker may be elsewhere.
    pub host: Host,
    /// What an acknowledgement promises, in the words of whoever ran it.
    pub durability: String,
    /// Every option with its value.
    pub options: serde_json::Value,
    /// Records per batch, for a producer.
    pub batch_records: Option<u64>,
    /// Length of the measured part.
    pub seconds: f64,
    /// Measured records: acknowledged, or fetched.
    pub records: u64,
    /// Bytes of their batches as they were on the wire.
    pub bytes: u64,
    /// Measured requests.
    pub requests: u64,
    /// What the latency counts from.
    pub latency_from: &'static str,
    /// Latency per request.
    pub latency: Percentiles,
    /// The generator's own delay before sending, in an open loop.
    pub generator_lag: Option<Percentiles>,
    /// The broker's costs, if its process was named.
    pub broker: Option<BrokerCost>,
    /// Error codes and other errors, with how often each was seen, warm-up included.
    pub errors: std::collections::BTreeMap<String, u64>,
    /// Why the result does not count; empty if it does.
    pub invalid: Vec<String>,
}

impl Report {
    /// Records per second.
    #[must_use]
    pub fn records_per_second(&self) -> f64 {
        self.records as f64 / self.seconds.max(1e-9)
    }

    /// The report as JSON, with what can be derived.
    #[must_use]
    pub fn json(&self) -> String {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        value["records_per_second"] = self.records_per_second().into();
        value["megabytes_per_second"] = (self.bytes as f64 / 1e6 / self.seconds.max(1e-9)).into();
        format!("{value:#}\n")
    }

    /// The report as a table.
    #[must_use]
    pub fn text(&self) -> String {
        let mut rows: Vec<(&str, String)> = vec![
            ("run", format!("{} on {}", self.kind, self.date)),
            ("host", host_text(&self.host)),
            ("durability", self.durability.clone()),
            ("options", self.options.to_string()),
        ];
        if let Some(records) = self.batch_records {
            rows.push(("batch", format!("{records} records")));
        }
        rows.push((
            "measured",
            format!("{} records, {} requests in {:.2} s", self.records, self.requests, self.seconds),
        ));
        let megabytes = self.bytes as f64 / 1e6 / self.seconds.max(1e-9);
        rows.push(("throughput", format!("{:.0} records/s, {megabytes:.1} MB/s", self.records_per_second())));
        rows.push(("latency", format!("{} ({})", percentiles_text(&self.latency), self.latency_from)));
        if let Some(lag) = &self.generator_lag {
            rows.push(("own lag", percentiles_text(lag)));
        }
        if let Some(broker) = &self.broker {
            push_broker(&mut rows, broker);
        }
        for (error, count) in &self.errors {
            rows.push(("errors", format!("{count} × {error}")));
        }
        let verdict = if self.invalid.is_empty() { "valid".to_owned() } else { self.invalid.join("; ") };
        rows.push((if self.invalid.is_empty() { "result" } else { "INVALID" }, verdict));
        let mut table = String::new();
        for (name, value) in rows {
            // Writing to a string cannot fail.
            let _ = writeln!(table, "{name:<12}{value}");
        }
        table
    }
}

fn host_text(host: &Host) -> String {
    let gib = host.memory_bytes as f64 / f64::from(1 << 30);
    format!("{}, {} cores, {gib:.1} GiB, {}", host.cpu_model, host.cores, host.kernel)
}

fn percentiles_text(times: &Percentiles) -> String {
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

fn push_broker(rows: &mut Vec<(&str, String)>, broker: &BrokerCost) {
    let usage = &broker.usage;
    let storage = |bytes: Option<u64>| {
        bytes.map_or("unknown".to_owned(), |bytes| format!("{:.1} MB", bytes as f64 / 1e6))
    };
    rows.push((
        "broker CPU",
        format!(
            "{:.2} s user + {:.2} s system: {:.3} CPU-s/GB, {:.2} CPU-µs/record (generator {:.2} s)",
            usage.user_seconds,
            usage.system_seconds,
            broker.cpu_seconds_per_gb,
            broker.cpu_us_per_record,
            broker.generator_cpu_seconds
        ),
    ));
    rows.push((
        "broker",
        format!(
            "{:.1} MB resident, {} read, {} written, {} context switches",
            usage.resident_bytes as f64 / 1e6,
            storage(usage.read_bytes),
            storage(usage.written_bytes),
            usage.context_switches
        ),
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_come_from_the_histogram() {
        let mut times = histogram();
        for value in 1..=1000 {
            times.saturating_record(value * 1_000_000);
        }
        let found = Percentiles::from(&times);
        let near = |value: u64, expected: u64| value.abs_diff(expected) * 500 <= expected;
        assert_eq!(found.count, 1000);
        assert!(near(found.p50_ns, 500_000_000), "{found:?}");
        assert!(near(found.p99_ns, 990_000_000), "{found:?}");
        assert!(near(found.p99_9_ns, 999_000_000), "{found:?}");
        assert!(near(found.max_ns, 1_000_000_000), "{found:?}");
    }

    #[test]
    fn costs_are_per_byte_and_per_record() {
        let usage = Usage {
            user_seconds: 1.0,
            system_seconds: 0.5,
            resident_bytes: 1,
            read_bytes: None,
            written_bytes: None,
            context_switches: 0,
        };
        let cost = BrokerCost::new(usage, usage, 3_000_000, 500_000_000);
        assert!((cost.cpu_seconds_per_gb - 3.0).abs() < 1e-9);
        assert!((cost.cpu_us_per_record - 0.5).abs() < 1e-9);
    }
}
