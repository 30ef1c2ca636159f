//! Several runs side by side, as one HTML file that needs nothing else.

use super::chart::{Axis, Scale, Series, bars, colour, lines, number};
use super::{BrokerCost, Flow, Report};
use crate::latency::Distribution;
use std::fmt::Write as _;

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:1080px;margin:2em auto;padding:0 1em;color:#222}\
table{border-collapse:collapse;margin:1em 0;font-size:13px}th,td{padding:4px 9px;border-bottom:1px solid #ddd;\
text-align:right;white-space:nowrap}th:first-child,td:first-child{text-align:left}\
svg{width:100%;height:auto;margin:.3em 0 1em}svg text{font:12px system-ui,sans-serif;fill:#444}.grid{stroke:#e3e3e3}\
.invalid td{color:#b00020}.note{color:#555;font-size:13px}i.key{display:inline-block;width:.8em;height:.8em;margin-right:.4em}";

/// The page. Runs of workloads with the same name stand together.
#[must_use]
pub fn page(title: &str, reports: &[Report]) -> String {
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>{0}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>{0}</h1>\n",
        escape(title)
    );
    if let Some(first) = reports.first() {
        let host = &first.host;
        let gib = host.memory_bytes as f64 / f64::from(1 << 30);
        // Writing to a string cannot fail.
        let _ = writeln!(
            html,
            "<p class=\"note\">{}, {} cores, {gib:.1} GiB, {}.</p>",
            escape(&host.cpu_model),
            host.cores,
            escape(&host.kernel)
        );
    }
    let mut names: Vec<&str> = Vec::new();
    for report in reports {
        if !names.contains(&report.name.as_str()) {
            names.push(&report.name);
        }
    }
    for name in names {
        let group: Vec<&Report> = reports.iter().filter(|report| report.name == name).collect();
        push_group(&mut html, name, &group);
    }
    html.push_str("</body>\n</html>\n");
    html
}

fn push_group(html: &mut String, name: &str, group: &[&Report]) {
    let _ = writeln!(html, "<h2>{}</h2>", escape(name));
    if let Some(text) = group.first().and_then(|first| first.workload["description"].as_str()) {
        let _ = writeln!(html, "<p class=\"note\">{}</p>", escape(text));
    }
    push_table(html, group);
    let flow = |report: &Report| report.main_flow().map(|flow| flow.latency.clone());
    push_latency(html, "Latency of requests", group, flow);
    push_latency(html, "From due to consumed", group, |report| report.end_to_end.clone());
    push_latency(html, "Rebalances", group, |report| report.rebalances.clone());
    let throughput = series(group, |report| {
        report.timeline.iter().map(|second| (second.at, second.bytes as f64 / 1e6)).collect()
    });
    let seconds = Axis { label: "seconds after the warm-up", scale: Scale::Linear };
    let chart = lines(seconds, Axis { label: "MB/s", scale: Scale::Linear }, &throughput);
    push_chart(html, "Throughput over time", &chart);
    let tail = series(group, |report| {
        report.timeline.iter().map(|second| (second.at, second.latency.p99_ns as f64 / 1e6)).collect()
    });
    let chart = lines(seconds, Axis { label: "p99, ms", scale: Scale::Log }, &tail);
    push_chart(html, "p99 over time", &chart);
    let cost = |figure: fn(&BrokerCost) -> f64| -> Vec<(String, f64)> {
        group.iter().map(|report| (label(report), report.broker.as_ref().map_or(0.0, figure))).collect()
    };
    let charts = [
        bars("broker, CPU-s/GB", &cost(|broker| broker.cpu_seconds_per_gb)),
        bars("broker, CPU-µs/record", &cost(|broker| broker.cpu_us_per_record)),
        bars(
            "broker, bytes written, MB",
            &cost(|broker| broker.usage.written_bytes.unwrap_or(0) as f64 / 1e6),
        ),
    ];
    push_chart(html, "Cost", &charts.concat());
}

fn label(report: &Report) -> String {
    let rate = report.workload["rate"].as_u64().unwrap_or(0);
    if rate == 0 { report.broker_name.clone() } else { format!("{}, {rate}/s", report.broker_name) }
}

fn series(group: &[&Report], points: impl Fn(&Report) -> Vec<(f64, f64)>) -> Vec<Series> {
    group.iter().map(|report| Series { name: label(report), points: points(report) }).collect()
}

fn push_latency(
    html: &mut String,
    title: &str,
    group: &[&Report],
    times: impl Fn(&Report) -> Option<Distribution>,
) {
    let curves = series(group, |report| {
        let times = times(report).unwrap_or_default();
        // The longest time stands where the distribution can still tell it from the others.
        let last = 1.0 - 0.5 / times.percentiles.count.max(1) as f64;
        times.curve.iter().map(|point| (point.quantile.min(last), point.ns as f64 / 1e6)).collect()
    });
    let percentile = Axis { label: "percentile", scale: Scale::Nines };
    push_chart(html, title, &lines(percentile, Axis { label: "ms", scale: Scale::Log }, &curves));
}

fn push_chart(html: &mut String, title: &str, chart: &str) {
    if !chart.is_empty() {
        let _ = writeln!(html, "<h3>{}</h3>\n{chart}", escape(title));
    }
}

fn push_table(html: &mut String, group: &[&Report]) {
    let heads = [
        "broker",
        "records/s",
        "MB/s",
        "p50 ms",
        "p99",
        "p99.9",
        "p99.99",
        "max",
        "end to end p99",
        "CPU-s/GB",
        "CPU-µs/record",
        "RSS MB",
        "written MB",
        "switches",
        "own lag p99 ms",
    ];
    html.push_str("<table><tr>");
    for head in heads {
        let _ = write!(html, "<th>{head}</th>");
    }
    html.push_str("</tr>\n");
    for (index, report) in group.iter().enumerate() {
        let class = if report.invalid.is_empty() { "" } else { " class=\"invalid\"" };
        let _ = write!(
            html,
            "<tr{class}><td><i class=\"key\" style=\"background:{}\"></i>{}</td>",
            colour(index),
            escape(&label(report))
        );
        for cell in cells(report) {
            let _ = write!(html, "<td>{cell}</td>");
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table>\n");
    for report in group {
        let _ = writeln!(
            html,
            "<p class=\"note\">{}, {}. Durability: {}. {}</p>",
            escape(&label(report)),
            escape(&report.date),
            escape(&report.durability),
            escape(&if report.invalid.is_empty() {
                let from = report.main_flow().map_or("", |flow| flow.latency_from.as_str());
                format!("{:.1} s measured. Latency: {from}.", report.seconds)
            } else {
                format!("INVALID: {}", report.invalid.join("; "))
            })
        );
    }
}

fn cells(report: &Report) -> Vec<String> {
    let nothing = Flow::default();
    let flow = report.main_flow().unwrap_or(&nothing);
    let ms = |ns: u64| number(ns as f64 / 1e6);
    let times = &flow.latency.percentiles;
    let mut cells = vec![number(flow.records_per_second.round()), number(flow.megabytes_per_second)];
    let shown = [times.p50_ns, times.p99_ns, times.p99_9_ns, times.p99_99_ns, times.max_ns];
    cells.extend(shown.map(ms));
    cells.push(report.end_to_end.as_ref().map_or("–".to_owned(), |times| ms(times.percentiles.p99_ns)));
    match &report.broker {
        Some(broker) => cells.extend([
            number(broker.cpu_seconds_per_gb),
            number(broker.cpu_us_per_record),
            number(broker.usage.resident_bytes as f64 / 1e6),
            broker.usage.written_bytes.map_or("–".to_owned(), |bytes| number(bytes as f64 / 1e6)),
            broker.usage.context_switches.to_string(),
        ]),
        None => cells.extend(["–"; 5].map(str::to_owned)),
    }
    cells.push(report.generator_lag.as_ref().map_or("–".to_owned(), |lag| ms(lag.p99_ns)));
    cells
}

/// Text as HTML shows it, whatever is in it.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::{Percentiles, histogram, record};
    use crate::report::Second;

    fn run(name: &str, broker_name: &str) -> Report {
        let mut times = histogram();
        let latency = Percentiles { p99_ns: 5, ..Percentiles::default() };
        let second = |at| Second { at: f64::from(at), bytes: 5, latency, ..Second::default() };
        (1..1000).for_each(|value| record(&mut times, value * 1000));
        Report {
            name: name.to_owned(),
            broker_name: broker_name.to_owned(),
            produced: Some(Flow {
                latency: (&times).into(),
                records_per_second: 12_345.0,
                ..Flow::default()
            }),
            timeline: (1..5).map(second).collect(),
            ..Report::default()
        }
    }

    #[test]
    fn what_is_shown_is_escaped() {
        assert_eq!(escape("<a href=\"x\">&'"), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;");
        let mut hostile = run("<script>alert(1)</script>", "\"><img src=x>");
        hostile.durability = "a & b".to_owned();
        hostile.invalid = vec!["<b>".to_owned()];
        hostile.workload = serde_json::json!({ "description": "<i>" });
        let html = page("</title>", &[hostile]);
        for tag in ["<script", "<img", "<b>", "<i>", "</title></title>"] {
            assert!(!html.contains(tag), "{tag}");
        }
        assert!(html.contains("a &amp; b"));
    }

    #[test]
    fn runs_stand_side_by_side_and_need_nothing_from_elsewhere() {
        let html = page("Comparison", &[run("flood", "one"), run("flood", "other"), run("drip", "one")]);
        assert_eq!(html.matches("<h2>").count(), 2);
        assert_eq!(html.matches("<polyline").count(), 3 * 3);
        assert!(html.contains("12345"));
        for elsewhere in ["http:", "https:", "src=", "<link", "<script", "@import"] {
            assert!(!html.contains(elsewhere), "{elsewhere}");
        }
    }
}
