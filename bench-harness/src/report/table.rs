//! The report as a table for a terminal.

use super::{BrokerCost, Flow, Host, Report, percentiles_text};
use std::fmt::Write as _;

pub(super) fn text(report: &Report) -> String {
    let mut rows: Vec<(&str, String)> = vec![
        ("run", format!("{} on {}, {}", report.name, report.broker_name, report.date)),
        ("host", host_text(&report.host)),
        ("durability", report.durability.clone()),
        ("workload", report.workload.to_string()),
        ("measured", format!("{:.2} s", report.seconds)),
    ];
    if let Some(records) = report.batch_records {
        rows.push(("batch", format!("{records} records")));
    }
    let flows =
        [("produced", &report.produced), ("fetched", &report.fetched), ("backlog", &report.backlog_fetched)];
    for (name, flow) in flows {
        if let Some(flow) = flow {
            push_flow(&mut rows, name, flow);
        }
    }
    for (name, times) in [("end to end", &report.end_to_end), ("rebalance", &report.rebalances)] {
        if let Some(times) = times {
            rows.push((name, percentiles_text(&times.percentiles)));
        }
    }
    if let Some(lag) = &report.generator_lag {
        rows.push(("own lag", percentiles_text(lag)));
    }
    if let Some(broker) = &report.broker {
        push_broker(&mut rows, broker);
    }
    for (error, count) in &report.errors {
        rows.push(("errors", format!("{count} × {error}")));
    }
    let verdict = if report.invalid.is_empty() { "valid".to_owned() } else { report.invalid.join("; ") };
    rows.push((if report.invalid.is_empty() { "result" } else { "INVALID" }, verdict));
    let mut table = String::new();
    for (name, value) in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(table, "{name:<12}{value}");
    }
    table
}

fn push_flow(rows: &mut Vec<(&str, String)>, name: &'static str, flow: &Flow) {
    rows.push((
        name,
        format!(
            "{:.0} records/s, {:.1} MB/s ({} records in {} requests)",
            flow.records_per_second, flow.megabytes_per_second, flow.records, flow.requests
        ),
    ));
    rows.push(("", format!("{} ({})", percentiles_text(&flow.latency.percentiles), flow.latency_from)));
}

fn host_text(host: &Host) -> String {
    let gib = host.memory_bytes as f64 / f64::from(1 << 30);
    format!("{}, {} cores, {gib:.1} GiB, {}", host.cpu_model, host.cores, host.kernel)
}

fn push_broker(rows: &mut Vec<(&str, String)>, broker: &BrokerCost) {
    let usage = &broker.usage;
    let storage = |bytes: Option<u64>| {
        bytes.map_or("unknown".to_owned(), |bytes| format!("{:.1} MB", bytes as f64 / 1e6))
    };
    rows.push((
        "broker CPU",
        format!(
            "{:.2} s user + {:.2} s system: {:.3} CPU-s/GB, {:.2} CPU-µs/record, {:.1} CPU-µs/request \
             (generator {:.2} s)",
            usage.user_seconds,
            usage.system_seconds,
            broker.cpu_seconds_per_gb,
            broker.cpu_us_per_record,
            broker.cpu_us_per_request,
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
