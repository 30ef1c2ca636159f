//! `logmill consume` while what it reads from changes: a leader that has moved, a log that grows, a broker that dies and
//! comes back, a group that has thrown the member out.

use super::client::Client;
use super::commands::{Bench, lines};
use super::node::Plan;
use super::observe::wait_until;
use super::turn;
use super::workspace::Folder;
use logmill_wire::api::{ApiRequest, Message, fetch, header_versions, metadata, response_frame};
use logmill_wire::error_codes::ErrorCode;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// `logmill consume` at work; what it has written so far.
struct Consumer {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Consumer {
    fn start(address: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_logmill"));
        command.arg("consume").args(arguments).args(["--bootstrap-server", address]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).env_clear();
        let mut child = command.spawn().expect("the executable runs");
        let output = BufReader::new(child.stdout.take().unwrap());
        let lines = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&lines);
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                written.lock().unwrap().push(line);
            }
        });
        Self { child, lines }
    }

    fn count(&self) -> usize {
        self.lines.lock().unwrap().len()
    }

    fn signal(&self, signal: libc::c_int) {
        // SAFETY: it signals the test's own child, which has not been waited for.
        assert_eq!(unsafe { libc::kill(self.child.id().cast_signed(), signal) }, 0);
    }

    /// Waits until it has written so many lines.
    fn wait_for(&mut self, count: usize) {
        wait_until(PATIENCE, || self.count() >= count || self.child.try_wait().unwrap().is_some());
        assert!(self.count() >= count, "{} lines of {count}", self.count());
    }

    /// Has it end well, and returns all that it wrote, sorted.
    fn stop(mut self) -> Vec<String> {
        self.signal(libc::SIGTERM);
        assert!(self.child.wait().unwrap().success());
        let mut lines = std::mem::take(&mut *self.lines.lock().unwrap());
        lines.sort_unstable();
        lines
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What was produced as [`lines`], without the keys, sorted.
fn values(counts: &[usize]) -> Vec<String> {
    let values = counts.iter().flat_map(|count| (0..*count).map(|number| format!("value {number}")));
    let mut values: Vec<String> = values.collect();
    values.sort_unstable();
    values
}

/// Stands between clients and the node, and holds fetches up, or answers them in its place, for as long as it is told to.
struct Between {
    listener: TcpListener,
    /// Whether fetches are held up, and how many were.
    held: Arc<Mutex<(bool, u32)>>,
    /// How many fetches are still to be refused, and the APIs of all requests since the first of those, on connections
    /// on which something was fetched.
    seen: Arc<Mutex<(u32, Vec<i16>)>>,
}

impl Between {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self { listener, held: Arc::default(), seen: Arc::default() }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    fn serve(&self, node: SocketAddr) {
        let (listener, held, seen) =
            (self.listener.try_clone().unwrap(), Arc::clone(&self.held), Arc::clone(&self.seen));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (held, seen) = (Arc::clone(&held), Arc::clone(&seen));
                let node = TcpStream::connect(node).unwrap();
                // A connection ends with its client.
                thread::spawn(move || relay(client, node, &held, &seen));
            }
        });
    }
}

fn relay(
    mut client: TcpStream,
    mut node: TcpStream,
    held: &Mutex<(bool, u32)>,
    seen: &Mutex<(u32, Vec<i16>)>,
) -> io::Result<()> {
    let mut has_fetched = false;
    loop {
        let request = frame(&mut client)?;
        let short = |at: usize| i16::from_be_bytes([request[at], request[at + 1]]);
        let (key, version) = (short(4), short(6));
        has_fetched |= key == fetch::Request::KEY;
        if key == fetch::Request::KEY && held.lock().unwrap().0 {
            held.lock().unwrap().1 += 1;
            wait_until(PATIENCE, || !held.lock().unwrap().0);
        }
        let is_refused = {
            let mut seen = seen.lock().unwrap();
            let is_refused = key == fetch::Request::KEY && seen.0 > 0;
            seen.0 -= u32::from(is_refused);
            if is_refused || (has_fetched && !seen.1.is_empty()) {
                seen.1.push(key);
            }
            is_refused
        };
        if is_refused {
            client.write_all(&not_the_leader(&request, version))?;
        } else {
            node.write_all(&request)?;
            client.write_all(&frame(&mut node)?)?;
        }
    }
}

/// A whole frame, its size included.
fn frame(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    stream.read_exact(&mut bytes)?;
    let size = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
    bytes.resize(4 + size, 0);
    stream.read_exact(&mut bytes[4..])?;
    Ok(bytes)
}

/// NOT_LEADER_OR_FOLLOWER for each partition of a fetch.
fn not_the_leader(request: &[u8], version: i16) -> Vec<u8> {
    let correlation_id = i32::from_be_bytes(request[8..12].try_into().unwrap());
    let client_id = usize::from(u16::from_be_bytes([request[12], request[13]]));
    let tags = usize::from(header_versions(fetch::Request::KEY, version).unwrap().request >= 2);
    let body = fetch::Request::decode_body(&request[14 + client_id + tags..], version).unwrap();
    let topic = |topic: fetch::FetchTopic<'_>| fetch::FetchableTopicResponse {
        topic: topic.topic.into_owned().into(),
        topic_id: topic.topic_id,
        partitions: topic
            .partitions
            .iter()
            .map(|partition| fetch::PartitionData {
                partition_index: partition.partition,
                error_code: ErrorCode::NotLeaderOrFollower.code(),
                high_watermark: -1,
                ..Default::default()
            })
            .collect(),
    };
    let response =
        fetch::Response { responses: body.topics.iter().map(topic).collect(), ..Default::default() };
    response_frame(&response, fetch::Request::KEY, version, correlation_id).unwrap().concat()
}

#[test]
fn a_leader_that_has_moved_is_looked_for_again() {
    let _turn = turn::shared();
    let between = Between::new();
    let folder = Folder::new();
    let advertised = format!("PLAINTEXT://{}", between.address());
    let bench = Bench::with(Plan::new(folder.path()).set("advertised.listeners", advertised), folder);
    between.serve(bench.node().address());
    bench.run(&["topic", "create", "moved", "--partitions", "2"]).well();
    bench.run_with_input(&["produce", "moved", "--key-separator", ":"], &lines(200)).well();
    let mut consumer = Consumer::start(&between.address().to_string(), &["moved", "--from-beginning"]);
    consumer.wait_for(200);
    between.seen.lock().unwrap().0 = 2;
    assert!(wait_until(PATIENCE, || between.seen.lock().unwrap().0 == 0), "fetches are refused");
    bench.run_with_input(&["produce", "moved", "--key-separator", ":"], &lines(300)).well();
    consumer.wait_for(500);
    assert_eq!(consumer.stop(), values(&[200, 300]));
    let seen = std::mem::take(&mut between.seen.lock().unwrap().1);
    // After each refusal the leader is looked for before anything is fetched again.
    let mut apis = seen.iter();
    for _ in 0..2 {
        assert_eq!(apis.next(), Some(&fetch::Request::KEY));
        assert_eq!(apis.next(), Some(&metadata::Request::KEY), "{seen:?}");
    }
}

#[test]
fn what_comes_after_the_end_that_was_found_is_not_read() {
    let _turn = turn::shared();
    let between = Between::new();
    let folder = Folder::new();
    let advertised = format!("PLAINTEXT://{}", between.address());
    let bench = Bench::with(Plan::new(folder.path()).set("advertised.listeners", advertised), folder);
    between.serve(bench.node().address());
    bench.run(&["topic", "create", "ends"]).well();
    bench.run_with_input(&["produce", "ends", "--key-separator", ":"], &lines(100)).well();
    between.held.lock().unwrap().0 = true;
    let mut consumer = Consumer::start(&between.address().to_string(), &["ends", "--from-beginning", "-e"]);
    assert!(
        wait_until(PATIENCE, || between.held.lock().unwrap().1 > 0),
        "the end is found, and something fetched"
    );
    bench.run_with_input(&["produce", "ends", "--key-separator", ":"], &lines(50)).well();
    between.held.lock().unwrap().0 = false;
    assert!(wait_until(PATIENCE, || consumer.child.try_wait().unwrap().is_some()));
    assert!(consumer.child.wait().unwrap().success());
    wait_until(PATIENCE, || consumer.count() >= 100);
    let mut found = consumer.lines.lock().unwrap().clone();
    found.sort_unstable();
    assert_eq!(found, values(&[100]));
}

#[test]
fn a_consumer_goes_on_when_its_broker_has_come_back() {
    let _turn = turn::shared();
    let folder = Folder::new();
    // The same port after each start.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let plan = |folder: &Folder| {
        Plan::new(folder.path())
            .set("listeners", format!("PLAINTEXT://{address}"))
            .set("group.consumer.min.heartbeat.interval.ms", 100)
            .set("group.consumer.heartbeat.interval.ms", 100)
    };
    let mut bench = Bench::with(plan(&folder), folder);
    bench.run(&["topic", "create", "t", "--partitions", "3"]).well();
    bench.run_with_input(&["produce", "t", "--key-separator", ":"], &lines(100)).well();
    let mut alone = Consumer::start(&address.to_string(), &["t", "--from-beginning"]);
    let mut member = Consumer::start(&address.to_string(), &["t", "--from-beginning", "--group", "g"]);
    let mut expected = vec![100];
    for kill in [true, false] {
        let total = expected.iter().sum();
        alone.wait_for(total);
        member.wait_for(total);
        bench.restart(kill, plan);
        bench.run_with_input(&["produce", "t", "--key-separator", ":"], &lines(50)).well();
        expected.push(50);
    }
    let total = expected.iter().sum();
    alone.wait_for(total);
    member.wait_for(total);
    assert_eq!(alone.stop(), values(&expected));
    // The member has been one all the time, so it gets nothing twice, and its group has everything.
    assert_eq!(member.stop(), values(&expected));
    let described = bench.run(&["group", "describe", "g", "--format", "json"]).well().json();
    for partition in described["groups"][0]["partitions"].as_array().unwrap() {
        assert_eq!(partition["lag"], 0, "{partition}");
    }
}

/// The members of a group by their ids, and how many partitions each of them has.
fn members(bench: &Bench, group: &str) -> BTreeMap<String, usize> {
    let described = bench.run(&["group", "describe", group, "--format", "json"]);
    if described.status != 0 {
        return BTreeMap::new();
    }
    let id = |member: &Value| member["member_id"].as_str().unwrap().to_owned();
    let partitions = |member: &Value| member["assignment"][0]["partitions"].as_array().map_or(0, Vec::len);
    let members = described.json()["groups"][0]["members"].as_array().unwrap().clone();
    members.iter().map(|member| (id(member), partitions(member))).collect()
}

#[test]
fn a_member_that_was_thrown_out_joins_again() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let plan = Plan::new(folder.path())
        .set("group.consumer.min.heartbeat.interval.ms", 100)
        .set("group.consumer.heartbeat.interval.ms", 100)
        .set("group.consumer.min.session.timeout.ms", 1_000)
        .set("group.consumer.session.timeout.ms", 1_000);
    let bench = Bench::with(plan, folder);
    bench.run(&["topic", "create", "t", "--partitions", "2"]).well();
    let start = || Consumer::start(bench.address(), &["t", "--from-beginning", "--group", "g"]);
    let mut asleep = start();
    assert!(wait_until(PATIENCE, || members(&bench, "g").len() == 1));
    let (first, _) = members(&bench, "g").pop_first().unwrap();
    bench.run_with_input(&["produce", "t", "--key-separator", ":"], &lines(100)).well();
    asleep.wait_for(100);
    asleep.signal(libc::SIGSTOP);
    assert!(wait_until(PATIENCE, || members(&bench, "g").is_empty()), "its session ends");
    let mut other = start();
    assert!(wait_until(PATIENCE, || members(&bench, "g").len() == 1));
    bench.run_with_input(&["produce", "t", "--key-separator", ":"], &lines(60)).well();
    // What the first one had read and not committed comes again, and what is new; the first one gets none of it.
    other.wait_for(60);
    assert_eq!(asleep.count(), 100);
    asleep.signal(libc::SIGCONT);
    let have_one_each = || members(&bench, "g").values().eq(&[1, 1]);
    assert!(
        wait_until(PATIENCE, have_one_each),
        "it joins again, and gets its part: {:?}",
        members(&bench, "g")
    );
    assert!(members(&bench, "g").contains_key(&first), "under its own id");
    let mut client = Client::connect(bench.node().address());
    let end = |client: &mut Client, partition| client.list_offset("t", partition, -1).2;
    let before = [end(&mut client, 0), end(&mut client, 1)];
    for partition in ["0", "1"] {
        bench.run_with_input(&["produce", "t", "--partition", partition], b"new\n").well();
    }
    let count_new =
        |consumer: &Consumer| consumer.lines.lock().unwrap().iter().filter(|line| *line == "new").count();
    // Each of them has one of the two partitions.
    assert!(wait_until(PATIENCE, || count_new(&asleep) == 1 && count_new(&other) == 1));
    let (asleep, other) = (asleep.stop(), other.stop());
    let is_twice = |lines: &[String]| lines.windows(2).any(|pair| pair[0] == pair[1]);
    assert_eq!(asleep.iter().filter(|line| *line == "new").count(), 1);
    assert!(!is_twice(&asleep), "what it has read before does not come again");
    assert!(other.len() >= 61);
    let described = bench.run(&["group", "describe", "g", "--format", "json"]).well().json();
    for (partition, before) in described["groups"][0]["partitions"].as_array().unwrap().iter().zip(before) {
        assert_eq!((&partition["committed"], &partition["lag"]), (&(before + 1).into(), &0.into()));
    }
}
