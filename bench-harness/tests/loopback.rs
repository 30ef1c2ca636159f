//! Workloads against the null broker, in one process over loopback.

#![expect(clippy::unwrap_used, reason = "a failed expectation ends the test")]

use clap::Parser;
use logmill_bench::clock::Clock;
use logmill_bench::command_line::run_command::measure;
use logmill_bench::command_line::{self, Command, CommandLine};
use logmill_bench::failure::Failure;
use logmill_bench::null_broker::{NullBroker, NullBrokerOptions};
use logmill_bench::report::Report;
use logmill_bench::run::Outcome;
use std::io::{BufRead, BufReader};

fn null_broker(produce_error: Option<i16>) -> String {
    let options = NullBrokerOptions { listen: "127.0.0.1:0".to_owned(), keep_mib: 64, produce_error };
    NullBroker::start(&options).unwrap().address().to_string()
}

/// `settings` are the workload's, further arguments come after a bar.
fn command(settings: &str, address: &str) -> CommandLine {
    let (settings, rest) = settings.split_once('|').unwrap_or((settings, ""));
    let fixed = ["logmill-bench", "run", "--quiet", "--bootstrap-server", address];
    let settings = settings.split_ascii_whitespace().flat_map(|setting| ["--set", setting]);
    CommandLine::parse_from(fixed.into_iter().chain(settings).chain(rest.split_ascii_whitespace()))
}

fn outcome(settings: &str, address: &str) -> Outcome {
    let Command::Run(options) = command(settings, address).command else { panic!("not a run") };
    measure(&options, &Clock::start()).unwrap()
}

fn report(settings: &str, address: &str) -> Report {
    outcome(settings, address).report
}

#[test]
fn what_was_produced_is_fetched() {
    let address = null_broker(None);
    let load =
        "partitions=3 records=5000 duration=0 record_size=100 batch_size=2000 producers=20 idempotent=true";
    let produced = report(&format!("{load} | --topic t --threads 3"), &address);
    assert_eq!(produced.invalid, Vec::<String>::new());
    let (batch, flow) = (produced.batch_records.unwrap(), produced.produced.unwrap());
    assert_eq!(flow.records, 5000_u64.div_ceil(batch) * batch);
    assert_eq!(flow.latency.percentiles.count, flow.requests);
    assert!(flow.bytes > flow.records * 100);
    let reading = "producers=0 consumers=2 from_beginning=true duration=0 fetch_size=20000 | --topic t";
    let fetched = report(reading, &address);
    assert_eq!(fetched.invalid, Vec::<String>::new());
    let read = fetched.fetched.unwrap();
    assert_eq!((read.records, read.bytes), (flow.records, flow.bytes));
}

#[test]
fn compressed_large_small_and_unacknowledged_batches_arrive() {
    for load in [
        "codec=lz4 batch_size=1000000",
        "batch_size=3000000 in_flight=2",
        "acks=1 codec=zstd",
        "batch_size=1 record_size=50 in_flight=50",
        "acks=0 record_size=10",
    ] {
        let address = null_broker(None);
        let produced = report(&format!("partitions=2 records=9000 duration=0 {load} | --topic t"), &address);
        assert_eq!(produced.invalid, Vec::<String>::new(), "{load}");
        let produced = produced.produced.unwrap();
        let wanted = produced.records;
        let reading = format!("producers=0 consumers=1 from_beginning=true duration=0 records={wanted}");
        let fetched = report(&format!("{reading} | --topic t"), &address);
        let fetched = fetched.fetched.unwrap();
        assert_eq!((fetched.records, fetched.bytes), (produced.records, produced.bytes), "{load}");
    }
}

#[test]
fn an_open_loop_sends_at_its_rate_to_consumers_and_measures_its_process() {
    let address = null_broker(None);
    for arrivals in ["constant", "poisson"] {
        let outcome = outcome(
            &format!(
                "partitions=4 rate=2000 arrivals={arrivals} record_size=100 batch_size=1200 duration=3 warm_up=1 \
                 producers=3 consumers=2 fan_out=2 topics=2 lag_limit_us=1000000 | --pid {}",
                std::process::id()
            ),
            &address,
        );
        let report = &outcome.report;
        let (batch, produced) = (report.batch_records.unwrap(), report.produced.as_ref().unwrap());
        // Two seconds of 2,000 records; a batch that straddles an end may be counted or not, and chance varies.
        let leeway = if arrivals == "constant" { 3 * batch } else { 800 };
        assert!(produced.records.abs_diff(4000) <= leeway, "{arrivals}: {}", produced.records);
        assert_eq!(report.generator_lag.unwrap().count, produced.requests);
        // Each batch reaches each of the two subscriptions.
        assert_eq!(report.end_to_end.as_ref().unwrap().percentiles.count, 2 * produced.requests);
        assert!(report.errors.is_empty(), "{:?}", report.errors);
        assert!(report.broker.unwrap().usage.resident_bytes > 0);
        assert!((2..=3).contains(&report.timeline.len()), "{:?}", report.timeline.len());
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["workload"]["rate"], 2000);
        assert!(json["produced"]["latency"]["p99_99_ns"].as_u64().unwrap() > 0);
        assert!(report.text().contains("records/s"));
        assert!(String::from_utf8(outcome.log.clone()).unwrap().contains("Tag=end-to-end"));
    }
}

#[test]
fn a_backlog_is_read_over_and_over_beside_new_records() {
    let address = null_broker(None);
    let load = "partitions=2 record_size=100 batch_size=5000 backlog_mb=2 backlog_readers=1 duration=2 fetch_size=50000";
    let alone = report(&format!("producers=0 {load}"), &address);
    assert_eq!(alone.invalid, Vec::<String>::new());
    assert!(alone.backlog_fetched.unwrap().bytes > 4_000_000);
    let beside = report(&format!("consumers=1 rate=5000 lag_limit_us=1000000 {load}"), &address);
    assert!(beside.errors.is_empty(), "{:?}", beside.errors);
    let backlog = beside.backlog_fetched.unwrap();
    assert!(backlog.bytes > 4_000_000, "{}", backlog.bytes);
    // Nothing of the backlog counts as new.
    let (produced, fetched) = (beside.produced.unwrap(), beside.fetched.unwrap());
    assert_eq!(fetched.records, produced.records);
    assert_eq!(beside.end_to_end.unwrap().percentiles.count, produced.requests);
}

#[test]
fn an_error_code_fails_the_run() {
    let address = null_broker(Some(6));
    let failed = command_line::run(&command("partitions=1 records=100 duration=0", &address)).unwrap_err();
    assert_eq!(failed.exit_status(), 1);
    let Failure::Unusable(reasons) = failed else { panic!("{failed}") };
    assert!(reasons.iter().any(|reason| reason.contains("NOT_LEADER_OR_FOLLOWER (6)")), "{reasons:?}");
}

#[test]
fn a_rate_that_is_not_reached_and_a_late_generator_spoil_the_run() {
    let address = null_broker(None);
    // More than any host can send one by one.
    let load = "batch_size=1 record_size=100 rate=900000000 in_flight=1 duration=2 lag_limit_us=0";
    let reasons = report(&format!("{load} | --timeout-seconds 1"), &address).invalid.join("; ");
    assert!(reasons.contains("of 900000000 records/s were reached"), "{reasons}");
}

#[test]
fn wrong_usage_and_absent_things_are_told_apart() {
    let address = null_broker(None);
    let failure = |arguments: &str| command_line::run(&command(arguments, &address)).unwrap_err();
    assert_eq!(failure("idempotent=true acks=1").exit_status(), 2);
    assert_eq!(failure("duration=2 warm_up=2").exit_status(), 2);
    assert!(failure("partitons=2").to_string().contains("perhaps `partitions`"));
    assert!(failure("partitions=none").to_string().contains("`partitions` is `none`"));
    let absent = failure("producers=0 consumers=1 duration=1 | --topic absent");
    assert_eq!(absent.exit_status(), 1);
    assert!(absent.to_string().contains("UNKNOWN_TOPIC_OR_PARTITION"), "{absent}");
    report("partitions=2 records=1 duration=0 | --topic two", &address);
    let other = failure("partitions=3 records=1 duration=0 | --topic two");
    assert!(other.to_string().contains("has 2 partitions"), "{other}");
    let refused = command_line::run(&command("records=1", "127.0.0.1:1")).unwrap_err();
    assert!(matches!(refused, Failure::Connect { .. }), "{refused}");
}

#[test]
fn results_are_kept_and_put_side_by_side() {
    let address = null_broker(None);
    let folder = std::env::temp_dir().join(format!("logmill-bench-{}", std::process::id()));
    let path = |name: &str| folder.join(name).display().to_string();
    let load = "name=a/b records=1000 duration=0 rate=5000 lag_limit_us=1000000";
    command_line::run(&command(&format!("{load} | --output {}", folder.display()), &address)).unwrap();
    for name in ["a-b.json", "a-b.hlog", "a-b-produce.hgrm", "a-b.html"] {
        assert!(folder.join(name).metadata().unwrap().len() > 100, "{name}");
    }
    let (json, page) = (path("a-b.json"), path("both.html"));
    let arguments = ["logmill-bench", "report", &json, &json, "--page", &page, "--title", "Both"];
    command_line::run(&CommandLine::parse_from(arguments)).unwrap();
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("<h1>Both</h1>") && html.matches("<tr>").count() == 3, "{html}");
    std::fs::write(path("wrong.json"), "{}x").unwrap();
    let arguments = ["logmill-bench", "report", &path("wrong.json"), "--page", &page];
    let wrong = command_line::run(&CommandLine::parse_from(arguments)).unwrap_err();
    assert!(
        wrong.to_string().contains("wrong.json") && wrong.to_string().contains("not a report"),
        "{wrong}"
    );
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn two_null_brokers_are_compared() {
    let executable = env!("CARGO_BIN_EXE_logmill-bench");
    let folder = std::env::temp_dir().join(format!("logmill-bench-compare-{}", std::process::id()));
    let started = |_: u8| {
        let mut child = std::process::Command::new(executable)
            .args(["null-broker", "--listen", "127.0.0.1:0"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        (child, line.trim_end().rsplit(' ').next().unwrap().to_owned())
    };
    let mut brokers: Vec<_> = (0..2).map(started).collect();
    let side = |index: usize| {
        let (child, address): &(std::process::Child, String) = &brokers[index];
        format!("--side=side{index}={address},pid={},note=nothing is stored", child.id())
    };
    let output = format!("--output={}", folder.display());
    let (one, other) = (side(0), side(1));
    let load = [
        "--set",
        "name=pair",
        "--set",
        "duration=2",
        "--set",
        "partitions=2",
        "--set",
        "lag_limit_us=1000000",
    ];
    let fixed = [
        "logmill-bench",
        "compare",
        &one,
        &other,
        "--quiet",
        "--rounds",
        "2",
        "--rates",
        "1000,2000",
        &output,
    ];
    let run = command_line::run(&CommandLine::parse_from(fixed.into_iter().chain(load)));
    for (child, _) in &mut brokers {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    run.unwrap();
    let summary = std::fs::read_to_string(folder.join("summary.txt")).unwrap();
    assert!(summary.contains("pair-1000, 2 rounds") && summary.contains("pair-2000, 2 rounds"), "{summary}");
    let row = summary.lines().find(|line| line.starts_with("records/s")).unwrap();
    assert!(row.contains('('), "{row}");
    assert!(summary.contains("side0 / side1") && !summary.contains("INVALID"), "{summary}");
    for name in ["pair-1000-1-side0.json", "pair-2000-2-side1.hlog", "summary.json", "report.html"] {
        assert!(folder.join(name).exists(), "{name}");
    }
    // Both did the same work, at the rate that was asked for.
    let lines: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("summary.json")).unwrap()).unwrap();
    let ratio = &lines[0][2][0];
    assert_eq!(ratio["figure"], "records/s");
    assert!((ratio["ratios"][1]["median"].as_f64().unwrap() - 1.0).abs() < 0.05, "{ratio}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_sweep_finds_a_knee() {
    let address = null_broker(None);
    let side = format!("--side=null={address}");
    let load = ["--set", "duration=1", "--set", "batch_size=1100", "--set", "lag_limit_us=1000000"];
    let fixed =
        ["logmill-bench", "sweep", &side, "--quiet", "--start", "500", "--factor", "2", "--rate-max", "1000"];
    command_line::run(&CommandLine::parse_from(fixed.into_iter().chain(load))).unwrap();
    let flat = ["logmill-bench", "sweep", &side, "--factor", "1"];
    assert_eq!(command_line::run(&CommandLine::parse_from(flat)).unwrap_err().exit_status(), 2);
}
