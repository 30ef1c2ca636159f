//! The load generator against the null broker, in one process over loopback.

#![expect(clippy::unwrap_used, reason = "a failed expectation ends the test")]

use clap::Parser;
use logmill_bench::clock::Clock;
use logmill_bench::command_line::{self, Command, CommandLine};
use logmill_bench::failure::Failure;
use logmill_bench::null_broker::{NullBroker, NullBrokerOptions};
use logmill_bench::report::Report;
use logmill_bench::{fetch, produce};

fn null_broker(produce_error: Option<i16>) -> String {
    let options = NullBrokerOptions { listen: "127.0.0.1:0".to_owned(), keep_mib: 64, produce_error };
    NullBroker::start(&options).unwrap().address().to_string()
}

fn command(arguments: &str, address: &str) -> CommandLine {
    let (name, rest) = arguments.split_once(' ').unwrap();
    let fixed = ["logmill-bench", name, "--bootstrap-server", address, "--topic", "t"];
    CommandLine::parse_from(fixed.into_iter().chain(rest.split_ascii_whitespace()))
}

fn report(arguments: &str, address: &str) -> Report {
    let clock = Clock::start();
    match command(arguments, address).command {
        Command::Produce(options) => produce::run(&options, &clock).unwrap(),
        Command::Fetch(options) => fetch::run(&options, &clock).unwrap(),
        Command::NullBroker(_) => panic!("it makes no report"),
    }
}

#[test]
fn what_was_produced_is_fetched() {
    let address = null_broker(None);
    let produced = report(
        "produce --partitions 3 --records 5000 --record-size 100 --batch-size 2000 --producers 2 --idempotent",
        &address,
    );
    let batch = produced.batch_records.unwrap();
    assert!(produced.invalid.is_empty(), "{:?}", produced.invalid);
    assert_eq!(produced.records, 5000_u64.div_ceil(batch) * batch);
    assert_eq!(produced.latency.count, produced.requests);
    assert!(produced.bytes > produced.records * 100);
    let fetched = report("fetch --from-beginning --consumers 2 --max-bytes 20000", &address);
    assert!(fetched.invalid.is_empty(), "{:?}", fetched.invalid);
    assert_eq!((fetched.records, fetched.bytes), (produced.records, produced.bytes));
}

#[test]
fn compressed_large_and_unacknowledged_batches_arrive() {
    for options in
        ["--codec lz4 --batch-size 1000000", "--batch-size 3000000 --in-flight 2", "--acks 1 --codec zstd"]
    {
        let address = null_broker(None);
        let produced = report(&format!("produce --partitions 1 --records 9000 {options}"), &address);
        assert!(produced.invalid.is_empty(), "{options}: {:?}", produced.invalid);
        let fetched = report("fetch --from-beginning", &address);
        assert_eq!((fetched.records, fetched.bytes), (produced.records, produced.bytes), "{options}");
    }
    let address = null_broker(None);
    let produced = report("produce --partitions 2 --records 300 --record-size 10 --acks 0", &address);
    assert_eq!((produced.latency.count, produced.invalid.len()), (0, 0));
    let wanted = produced.records;
    let fetched =
        report(&format!("fetch --from-beginning --records {wanted} --timeout-seconds 20"), &address);
    assert_eq!(fetched.records, wanted);
}

#[test]
fn an_open_loop_sends_at_its_rate_and_measures_its_process() {
    let address = null_broker(None);
    let pid = std::process::id();
    let produced = report(
        &format!(
            "produce --partitions 1 --rate 2000 --record-size 100 --batch-size 1200 --duration 2 --warm-up 1 \
             --lag-limit-us 1000000 --pid {pid}"
        ),
        &address,
    );
    let batch = produced.batch_records.unwrap();
    // One second of 2,000 records; a batch that straddles an end may be counted or not.
    assert!(produced.records.abs_diff(2000) <= 2 * batch, "{}", produced.records);
    assert_eq!(produced.generator_lag.unwrap().count, produced.requests);
    assert!(produced.broker.unwrap().usage.resident_bytes > 0);
    let json: serde_json::Value = serde_json::from_str(&produced.json()).unwrap();
    assert_eq!(json["options"]["rate"], 2000);
    assert!(json["latency"]["p99_99_ns"].as_u64().unwrap() > 0);
    assert!(produced.text().contains("records/s"));
}

#[test]
fn an_error_code_fails_the_run() {
    let address = null_broker(Some(6));
    let failed = command_line::run(&command("produce --partitions 1 --records 100", &address)).unwrap_err();
    assert_eq!(failed.exit_status(), 1);
    let Failure::Unusable(reasons) = failed else { panic!("{failed}") };
    assert!(reasons.iter().any(|reason| reason.contains("NOT_LEADER_OR_FOLLOWER (6)")), "{reasons:?}");
}

#[test]
fn wrong_usage_and_absent_things_are_told_apart() {
    let address = null_broker(None);
    let failure = |arguments: &str| command_line::run(&command(arguments, &address)).unwrap_err();
    assert_eq!(failure("produce --idempotent --acks 1").exit_status(), 2);
    assert_eq!(failure("produce --idempotent --in-flight 6").exit_status(), 2);
    assert_eq!(failure("produce --duration 2 --warm-up 2").exit_status(), 2);
    assert_eq!(failure("fetch --max-bytes 100").exit_status(), 2);
    let absent = failure("produce --records 1");
    assert_eq!(absent.exit_status(), 1);
    assert!(absent.to_string().contains("UNKNOWN_TOPIC_OR_PARTITION"), "{absent}");
    let refused = command_line::run(&command("fetch --from-beginning", "127.0.0.1:1")).unwrap_err();
    assert!(matches!(refused, Failure::Connect { .. }), "{refused}");
}
