//! The commands that talk to a cluster, as a user runs them.

use super::node::{Node, Plan};
use super::observe::wait_until;
use super::turn;
use super::workspace::Folder;
use logmill_wire::record_batch::whole_batches;
use serde_json::Value;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a command did.
pub struct Ran {
    pub status: i32,
    stdout: Vec<u8>,
    pub stderr: String,
}

impl Ran {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("text")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// Asserts that all went well.
    pub fn well(self) -> Self {
        assert_eq!(self.status, 0, "{}{}", self.text(), self.stderr);
        self
    }
}

/// Runs a command to its end, with `input` as its standard input.
pub fn run_with_input(arguments: &[&str], input: &[u8]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_logmill"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.env_clear().spawn().expect("the executable runs");
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // The command may end without having read everything.
    let writer = thread::spawn(move || drop(stdin.write_all(&input)));
    let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let (stdout, stderr) = (thread::spawn(|| read(stdout)), thread::spawn(|| read(stderr)));
    let mut status = None;
    wait_until(PATIENCE, || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    if status.is_none() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    writer.join().unwrap();
    let (stdout, stderr) = (stdout.join().unwrap(), String::from_utf8(stderr.join().unwrap()).expect("text"));
    assert!(!stderr.contains("panicked"), "{stderr}");
    let status = status.unwrap_or_else(|| panic!("{arguments:?} does not end: {stderr}"));
    Ran { status: status.code().expect("a status"), stdout, stderr }
}

fn read(mut output: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    output.read_to_end(&mut bytes).unwrap();
    bytes
}

/// A node, and the commands that name it.
pub struct Bench {
    node: Option<Node>,
    folder: Folder,
    address: String,
}

impl Bench {
    fn new() -> Self {
        let folder = Folder::new();
        Self::with(Plan::new(folder.path()), folder)
    }

    /// A node as planned, with its data in the folder.
    pub fn with(plan: Plan, folder: Folder) -> Self {
        let node = plan.start();
        let address = node.address().to_string();
        Self { node: Some(node), folder, address }
    }

    pub fn node(&self) -> &Node {
        self.node.as_ref().expect("the node runs")
    }

    /// Where the node listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Ends the node, in either way, and starts it again as planned.
    pub fn restart(&mut self, kill: bool, plan: impl Fn(&Folder) -> Plan) {
        let node = self.node.take().expect("the node runs");
        if kill {
            node.kill();
        } else {
            node.stop();
        }
        self.node = Some(plan(&self.folder).start());
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with_input(arguments, b"")
    }

    pub fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Ran {
        run_with_input(&[arguments, &["--bootstrap-server", &self.address]].concat(), input)
    }
}

/// Lines `k0:value 0` and so on, with keys that repeat.
pub fn lines(count: usize) -> Vec<u8> {
    (0..count).flat_map(|number| format!("k{}:value {number}\n", number % 100).into_bytes()).collect()
}

#[test]
fn topics_are_created_described_listed_and_deleted() {
    let _turn = turn::shared();
    let bench = Bench::new();
    let created =
        bench.run(&["topic", "create", "orders", "--partitions", "3", "--config", "retention.ms=-1"]);
    assert_eq!(created.well().text(), "created topic orders with 3 partitions, 1 replica each\n");
    bench.run_with_input(&["produce", "orders", "--partition", "2"], b"one\ntwo").well();
    let described = bench.run(&["topic", "describe", "orders"]).well();
    let rows: Vec<Vec<&str>> =
        described.text().lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0][..2], ["topic", "orders"]);
    assert_eq!(rows[1], ["PARTITION", "LEADER", "EPOCH", "REPLICAS", "IN", "SYNC", "START", "END"]);
    assert_eq!(rows[4], ["2", "1", "0", "1", "1", "0", "2"]);
    let described = bench.run(&["topic", "describe", "--format", "json"]).well().json();
    let topic = &described["topics"][0];
    assert_eq!(topic["name"], "orders");
    assert_eq!(topic["partitions"].as_array().map(Vec::len), Some(3));
    assert_eq!(topic["partitions"][2]["end"], 2);
    let created = bench.run(&["topic", "create", "a", "--format", "json", "--partitions", "2"]).well().json();
    assert_eq!((&created["partitions"], &created["replication_factor"]), (&2.into(), &1.into()));
    let listed = bench.run(&["topic", "list"]).well();
    let names: Vec<&str> = listed.text().lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(names, ["TOPIC", "a", "orders"]);
    let deleted = bench.run(&["topic", "delete", "a", "nope", "orders"]);
    assert_eq!((deleted.status, deleted.text()), (1, "deleted topic a\ndeleted topic orders\n"));
    assert!(deleted.stderr.starts_with("error: topic nope cannot be deleted"), "{}", deleted.stderr);
    let listed = bench.run(&["topic", "list", "--format", "json"]).well().json();
    assert_eq!(listed["topics"].as_array().map(Vec::len), Some(0));
    bench.node.unwrap().stop();
}

#[test]
fn lines_are_delivered_with_keys_headers_and_every_codec() {
    let _turn = turn::shared();
    let bench = Bench::new();
    let mut client = bench.node().client();
    bench.run(&["topic", "create", "keyed", "--partitions", "4"]).well();
    let produced = bench.run_with_input(&["produce", "keyed", "--key-separator", ":"], &lines(10_000)).well();
    assert!(produced.stderr.starts_with("delivered 10000 records ("), "{}", produced.stderr);
    let mut total = 0;
    for partition in 0..4 {
        let values = client.read_all("keyed", partition, 0);
        total += values.len();
        // One key is in one partition, and its records are in order.
        let number = |value: &[u8]| -> usize {
            String::from_utf8_lossy(value).strip_prefix("value ").unwrap().parse().unwrap()
        };
        let numbers: Vec<usize> = values.iter().map(|(_, value)| number(value)).collect();
        let keys: std::collections::BTreeSet<usize> = numbers.iter().map(|number| number % 100).collect();
        assert_eq!(numbers.len(), keys.len() * 100);
        assert!(numbers.is_sorted());
    }
    assert_eq!(total, 10_000);
    // Kafka's producers put this key into partition 3 of 4: murmur2 is -1486304829, whose amount is 1 modulo 4.
    let line = b"a-little-bit-longer-string:kafka";
    bench.run_with_input(&["produce", "keyed", "--key-separator", ":"], line).well();
    let place = (-1_486_304_829_i32 & 0x7fff_ffff) % 4;
    assert!(client.read_all("keyed", place, 0).iter().any(|(_, value)| value == b"kafka"));

    for (id, codec) in (0..).zip(["none", "gzip", "snappy", "lz4", "zstd"]) {
        let arguments = ["produce", codec, "--compression", codec, "--header", "a=b", "--format", "json"];
        let produced = bench.run_with_input(&arguments, b"one\n\nthree\r\n").well();
        let summary: Value = serde_json::from_str(&produced.stderr).expect("a summary");
        assert_eq!((&summary["delivered"], &summary["failed"]), (&3.into(), &0.into()));
        let values = [(0, b"one".to_vec()), (1, Vec::new()), (2, b"three\r".to_vec())];
        assert_eq!(client.read_all(codec, 0, 0), values, "{codec}");
        let stored = client.fetch(codec, 0, 0).records;
        let batch = whole_batches(&stored).next().expect("a batch").unwrap();
        assert_eq!(batch.header().attributes.codec_id(), id, "{codec}");
        for record in batch.contents(1 << 20).unwrap().records() {
            let headers: Vec<_> =
                record.unwrap().headers().map(|header| (header.key, header.value)).collect();
            assert_eq!(headers, [(&b"a"[..], Some(&b"b"[..]))], "{codec}");
        }
    }
    for acks in ["0", "1", "-1"] {
        bench.run_with_input(&["produce", "acks", "--acks", acks], b"x").well();
    }
    assert_eq!(client.read_all("acks", 0, 0).len(), 3);
}

#[test]
fn ten_thousand_lines_come_back_byte_by_byte() {
    let _turn = turn::shared();
    let bench = Bench::new();
    bench.run(&["topic", "create", "one"]).well();
    let input = lines(10_000);
    let with_keys = ["one", "--key-separator", ":"];
    let halves = input.split_at(input.iter().position(|byte| *byte == b'\n').unwrap() + 1);
    bench.run_with_input(&[&["produce"], &with_keys[..]].concat(), halves.0).well();
    thread::sleep(Duration::from_millis(20));
    let arguments = [&["produce", "--compression", "zstd", "--header", "h=v"], &with_keys[..]].concat();
    bench.run_with_input(&arguments, halves.1).well();
    let consume = |arguments: &[&str]| {
        bench.run(&[&["consume", "--print-key"], &with_keys[..], arguments].concat()).well().stdout
    };
    let tail = |from: usize| -> Vec<u8> {
        input.split_inclusive(|byte| *byte == b'\n').skip(from).flatten().copied().collect()
    };
    assert!(consume(&["--from-beginning", "-e"]) == input);
    assert!(consume(&["--partition", "0", "--offset", "9000", "-e"]) == tail(9000));
    assert!(consume(&["--partition", "0", "--offset", "-5", "--max-messages", "5"]) == tail(9995));
    let last = bench.run(&["consume", "one", "--partition", "0", "--offset", "-1", "-e", "--format", "json"]);
    let last = last.well().json();
    assert_eq!((&last["offset"], &last["key"]), (&9999.into(), &"k99".into()));
    assert_eq!((&last["value"], &last["headers"][0]["key"]), (&"value 9999".into(), &"h".into()));
    // The first record of the second run, by its timestamp.
    let second = bench.run(&["consume", "one", "--partition", "0", "--offset", "1", "--max-messages", "1"]);
    assert_eq!(second.well().text(), "value 1\n");
    let json =
        ["consume", "one", "--partition", "0", "--offset", "1", "--max-messages", "1", "--format", "json"];
    let at = bench.run(&json).well().json()["timestamp_ms"].to_string();
    assert!(consume(&["--timestamp", &at, "-e"]) == tail(1));
    assert!(consume(&["--timestamp", "1999-12-31T23:59:59Z", "-e"]) == input);
    assert!(consume(&["--timestamp", "2999-12-31T23:59:59Z", "-e"]).is_empty());
    assert!(consume(&["-e"]).is_empty());
    let all =
        ["--print-offset", "--print-headers", "--partition", "0", "--offset", "0", "--max-messages", "2"];
    let expected = "Partition:0\tOffset:0\tNO_HEADERS\tk0:value 0\nPartition:0\tOffset:1\th:v\tk1:value 1\n";
    assert_eq!(String::from_utf8(consume(&all)).unwrap(), expected);
    let beyond = bench.run(&["consume", "one", "--partition", "0", "--offset", "10001"]);
    assert_eq!(beyond.status, 1);
    assert!(beyond.stderr.ends_with("remedy: name an offset from 0 to 10000\n"), "{}", beyond.stderr);
    let absent = bench.run(&["consume", "nope"]);
    assert!(absent.stderr.starts_with("error: there is no topic nope\nremedy: "), "{}", absent.stderr);
    assert_eq!(absent.status, 1);
    // What is no text is base64 in JSON.
    bench.run_with_input(&["produce", "bytes"], b"\xff\xfe\n").well();
    let bytes = bench.run(&["consume", "bytes", "--from-beginning", "-e", "--format", "json"]).well().json();
    assert_eq!(bytes["value"]["base64"], "//4=");
}

#[test]
fn a_group_goes_on_where_it_stopped() {
    let _turn = turn::shared();
    let bench = Bench::new();
    bench.run(&["topic", "create", "shared", "--partitions", "3"]).well();
    bench.run_with_input(&["produce", "shared", "--key-separator", ":"], &lines(5000)).well();
    let group = ["consume", "shared", "--group", "readers", "--from-beginning"];
    let count = |ran: &Ran| ran.text().lines().count();
    let first = bench.run(&[&group[..], &["--max-messages", "2000"]].concat()).well();
    assert_eq!(count(&first), 2000);
    let second = bench.run(&[&group[..], &["-e"]].concat()).well();
    assert_eq!(count(&second), 3000);
    let mut all: Vec<&str> = first.text().lines().chain(second.text().lines()).collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 5000);
    bench.run_with_input(&["produce", "shared"], b"new").well();
    let third = bench.run(&[&group[..], &["-e"]].concat()).well();
    assert_eq!(third.text(), "new\n");

    // A member that is told to stop commits what it has written and leaves, so that the next one need not wait.
    let child = Command::new(env!("CARGO_BIN_EXE_logmill"))
        .args(group)
        .args(["--bootstrap-server", &bench.address])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env_clear()
        .spawn()
        .unwrap();
    let mut child = child;
    bench.run_with_input(&["produce", "shared"], b"while it runs").well();
    let mut line = String::new();
    let stdout = child.stdout.as_mut().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
    assert_eq!(line, "while it runs\n");
    let described = bench.run(&["group", "describe", "readers", "--format", "json"]).well().json();
    let described = &described["groups"][0];
    assert_eq!((&described["type"], &described["state"]), (&"consumer".into(), &"Stable".into()));
    assert_eq!(described["members"].as_array().map(Vec::len), Some(1));
    assert_eq!(described["members"][0]["client_id"], "logmill-cli");
    assert_eq!(described["members"][0]["assignment"][0]["topic"], "shared");
    assert_eq!(described["partitions"][2]["member_id"], described["members"][0]["member_id"]);
    let refused = bench.run(&["group", "delete", "readers"]);
    assert_eq!(refused.status, 1);
    assert!(refused.stderr.contains("(NON_EMPTY_GROUP)\nremedy: stop"), "{}", refused.stderr);
    // SAFETY: it signals the test's own child, which has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id().cast_signed(), libc::SIGTERM) }, 0);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    bench.run_with_input(&["produce", "shared"], b"last").well();
    let fourth = bench.run(&[&group[..], &["--max-messages", "1"]].concat()).well();
    assert_eq!(fourth.text(), "last\n");
    groups_are_shown_and_deleted(&bench);
}

/// The group has read everything; what comes after that is its lag.
fn groups_are_shown_and_deleted(bench: &Bench) {
    bench.run_with_input(&["produce", "shared", "--partition", "1"], b"a\nb\nc").well();
    let listed = bench.run(&["group", "list"]).well();
    let rows: Vec<Vec<&str>> = listed.text().lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["GROUP", "TYPE", "STATE", "COORDINATOR"]);
    assert_eq!(rows[1], ["readers", "consumer", "Empty", "1"]);
    let described = bench.run(&["group", "describe", "readers"]).well();
    let rows: Vec<Vec<&str>> =
        described.text().lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[1], ["TOPIC", "PARTITION", "COMMITTED", "END", "LAG", "MEMBER"]);
    let ends: Vec<(&str, &str, &str)> = rows[2..].iter().map(|row| (row[0], row[1], row[4])).collect();
    assert_eq!(ends, [("shared", "0", "0"), ("shared", "1", "3"), ("shared", "2", "0")]);
    assert_eq!(bench.run(&["group", "delete", "readers"]).well().text(), "deleted group readers\n");
    let listed = bench.run(&["group", "list", "--format", "json"]).well().json();
    assert_eq!(listed["groups"].as_array().map(Vec::len), Some(0));
    let absent = bench.run(&["group", "describe", "readers"]);
    assert_eq!(absent.status, 1);
    assert!(absent.stderr.contains("(GROUP_ID_NOT_FOUND)\nremedy: check the name"), "{}", absent.stderr);
}

#[test]
fn what_cannot_be_delivered_is_said_and_the_rest_is_delivered() {
    let _turn = turn::shared();
    let bench = Bench::new();
    let mut client = bench.node().client();
    bench.run(&["topic", "create", "small", "--config", "max.message.bytes=1000"]).well();
    // Many lines in one batch are more than the topic takes, but only one line by itself.
    let mut input: Vec<u8> = lines(100);
    input.extend(vec![b'x'; 3000]);
    input.push(b'\n');
    input.extend(lines(100));
    let produced = bench.run_with_input(&["produce", "small"], &input);
    assert_eq!(produced.status, 1);
    assert!(produced.stderr.contains("error: 1 line not delivered: "), "{}", produced.stderr);
    assert!(produced.stderr.contains("(MESSAGE_TOO_LARGE)\nremedy: "), "{}", produced.stderr);
    let values: Vec<u8> = client
        .read_all("small", 0, 0)
        .into_iter()
        .flat_map(|(_, value)| [value, b"\n".to_vec()].concat())
        .collect();
    assert_eq!(values, [lines(100), lines(100)].concat());

    let produced = bench.run_with_input(&["produce", "small", "--key-separator", ":"], b"a:b\nc\nd:e\n");
    assert_eq!(produced.status, 1);
    assert!(produced.stderr.contains("error: line 2 has no key separator"), "{}", produced.stderr);
    assert_eq!(client.read_all("small", 0, 0).len(), 201);
    let produced = bench.run_with_input(&["produce", "small", "--partition", "9"], b"a");
    assert_eq!(produced.status, 1);
    assert!(produced.stderr.contains("error: topic small has no partition 9"), "{}", produced.stderr);
}

#[test]
fn wrong_usage_is_2_and_an_unreachable_broker_1_with_a_remedy() {
    let _turn = turn::shared();
    for wrong in [
        &["topic"][..],
        &["topic", "create"],
        &["topic", "create", "x", "--partitions", "0"],
        &["topic", "list", "--bootstrap-server", "nowhere"],
        &["topic", "list", "--format", "xml"],
        &["produce"],
        &["produce", "x", "--acks", "2"],
        &["produce", "x", "--compression", "brotli"],
        &["produce", "x", "--header", "novalue"],
        &["consume"],
        &["group", "describe"],
        &["consume", "x", "--offset", "5"],
        &["consume", "x", "--offset", "5", "--partition", "0", "--from-beginning"],
        &["consume", "x", "--group", "g", "--partition", "0"],
        &["consume", "x", "--timestamp", "yesterday"],
        &["consume", "x", "--max-messages", "0"],
    ] {
        let ran = run_with_input(wrong, b"");
        assert_eq!((ran.status, ran.text()), (2, ""), "{wrong:?}: {}", ran.stderr);
    }
    // Nobody listens on a port that was just given back.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = format!("127.0.0.1:{port},localhost:{port}");
    for command in [&["topic", "list"][..], &["produce", "x"], &["consume", "x"], &["group", "list"]] {
        let ran = run_with_input(&[command, &["--bootstrap-server", &server]].concat(), b"line\n");
        assert_eq!((ran.status, ran.text()), (1, ""), "{command:?}");
        let expected = format!("error: no broker can be reached: 127.0.0.1:{port}: Connection refused");
        assert!(ran.stderr.starts_with(&expected), "{}", ran.stderr);
        assert!(ran.stderr.contains("\nremedy: start a broker"), "{}", ran.stderr);
    }
}
