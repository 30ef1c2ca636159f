//! Hosts that give less than a broker would like: it says what it lacks and works, or says why it cannot.

use super::client::{Client, batch};
use super::confine::{
    NOBODY, is_root, ordinary_user, try_prepare, unheard, with_filesystem, without_system_call,
};
use super::node::{Node, Plan, Refusal};
use super::turn;
use super::workspace::Folder;
use logmill_wire::error_codes::ErrorCode;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::time::{Duration, Instant};

fn round_trip(node: &Node, topic: &str) {
    let mut client = node.client();
    client.create_topic(topic, 3);
    for partition in 0..3 {
        for number in 0..10 {
            let value = format!("{partition}/{number}");
            assert_eq!(client.append_well(topic, partition, batch(value.as_bytes())), number);
        }
        assert_eq!(client.read_all(topic, partition, 0).len(), 10);
    }
}

/// Asserts that a start failed as it must: status 1, and an error that holds all of `parts`.
fn assert_refused(refusal: &Refusal, parts: &[&str]) {
    assert_eq!(refusal.status.code(), Some(1), "{}", refusal.stderr);
    for part in parts {
        assert!(refusal.stderr.contains(part), "no {part:?} in:\n{}", refusal.stderr);
    }
    assert!(!refusal.stderr.contains("panicked"), "{}", refusal.stderr);
}

#[test]
fn an_ordinary_user_with_little_lockable_memory_is_served_in_full() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let data = folder.path().join("data");
    let program = folder.path().join("logmill");
    std::fs::create_dir(&data).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_logmill"), &program).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    if is_root() {
        println!("run by root: the node runs as user {NOBODY} with 8 MiB of lockable memory");
        chown(&data, Some(NOBODY), Some(NOBODY)).unwrap();
    } else {
        println!("the node runs as the tests' own user with 8 MiB of lockable memory");
    }
    let plan = || Plan::new(&data).program(&program).prepare(ordinary_user(8 << 20));
    let node = plan().start();
    if is_root() {
        let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
        assert!(status.contains(&format!("Uid:\t{NOBODY}\t{NOBODY}")), "{status}");
    }
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", node.pid())).unwrap();
    let memlock = limits.lines().find(|line| line.starts_with("Max locked memory")).unwrap();
    assert!(memlock.contains("8388608"), "{memlock}");
    round_trip(&node, "modest");
    node.stop();
    let node = plan().start();
    assert_eq!(node.client().read_all("modest", 2, 0).len(), 10);
    node.stop();
}

#[test]
fn without_io_uring_the_start_is_refused_with_cause_and_remedy() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let refusal = Plan::new(folder.path()).prepare(without_system_call(libc::SYS_io_uring_setup)).refused();
    assert_refused(&refusal, &["io_uring", "seccomp"]);
    // Whatever it was, nothing was begun that the next start would stumble over.
    let node = Plan::new(folder.path()).start();
    round_trip(&node, "later");
    node.stop();
}

#[test]
fn a_node_whose_log_nobody_reads_any_more_works_and_stops() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let node = Plan::new(folder.path()).prepare(unheard()).start();
    round_trip(&node, "unheard");
    node.stop();
    let node = Plan::new(folder.path()).start();
    assert_eq!(node.client().read_all("unheard", 2, 0).len(), 10);
    node.stop();
}

#[test]
fn a_filesystem_without_direct_io_is_named_and_works() {
    let _turn = turn::shared();
    let folder = Folder::new();
    // Of the filesystems that any user may mount, ramfs is the one that refuses O_DIRECT.
    let mounted = || with_filesystem("ramfs", "", folder.path());
    if let Err(error) = try_prepare(mounted()) {
        println!("not run: this host lets the tests mount nothing ({error}); run them as root");
        return;
    }
    let node = Plan::new(folder.path()).prepare(mounted()).start();
    let block = node.stdout();
    assert!(block.contains("fdatasync"), "{block}");
    let notice = block.lines().find(|line| line.trim().starts_with("notice") && line.contains("direct I/O"));
    assert!(notice.is_some_and(|line| line.contains("ext4 or XFS")), "{block}");
    round_trip(&node, "buffered");
    node.stop();
}

#[test]
fn a_port_that_is_taken_is_named() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let listeners = format!("PLAINTEXT://127.0.0.1:{port}");
    let refusal = Plan::new(folder.path()).set("listeners", listeners).refused();
    assert_refused(&refusal, &[&port.to_string(), "another", "listeners"]);
}

#[test]
fn a_second_process_on_the_same_directory_is_refused_and_the_first_goes_on() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let mut node = Plan::new(folder.path()).start();
    round_trip(&node, "first");
    let refusal = Plan::new(folder.path()).refused();
    assert_refused(&refusal, &[&folder.path().display().to_string(), "log.dirs"]);
    assert_eq!(node.client().append_well("first", 0, batch(b"unharmed")), 10);
    node.assert_sound();
    node.kill();
    // The lock ends with its process, however that ends.
    let node = Plan::new(folder.path()).start();
    assert_eq!(node.client().fetch("first", 0, 10).values(), [(10, b"unharmed".to_vec())]);
    node.stop();
}

#[test]
fn another_number_of_shards_keeps_all_data() {
    let _turn = turn::shared();
    let folder = Folder::new();
    for (written, shards) in (0..).zip([1, 4, 2, 3, 1]) {
        let node = Plan::new(folder.path()).set("logmill.shards", shards).start();
        let mut client = node.client();
        if written == 0 {
            client.create_topic("moved", 16);
        }
        for partition in 0..16 {
            let values = client.read_all("moved", partition, 0);
            let expected = (0..written).map(|number| (number, format!("{partition}/{number}").into_bytes()));
            assert!(values.into_iter().eq(expected), "partition {partition} with {shards} shards");
            let value = format!("{partition}/{written}");
            assert_eq!(client.append_well("moved", partition, batch(value.as_bytes())), written);
        }
        if written % 2 == 0 { node.kill() } else { node.stop() }
    }
}

/// Appends until the disk is full; returns how many succeeded, and the error of the one that didn't.
fn fill(client: &mut Client, topic: &str) -> (i64, i16) {
    let value = vec![b'f'; 900 << 10];
    for appended in 0..1_000 {
        let outcome = client.append(topic, 0, -1, batch(&value));
        if outcome.error != 0 {
            return (appended, outcome.error);
        }
        assert_eq!(outcome.base_offset, appended);
    }
    panic!("the disk takes everything");
}

#[test]
fn a_full_disk_gives_retriable_errors_and_reads_go_on() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let mounted = || with_filesystem("tmpfs", "size=96m,mode=0777", folder.path());
    if let Err(error) = try_prepare(mounted()) {
        println!("not run: this host lets the tests mount nothing ({error}); run them as root");
        return;
    }
    let mut node = Plan::new(folder.path()).prepare(mounted()).start();
    let mut client = node.client();
    client.create_topic("kept", 1);
    client.create_topic("filling", 1);
    assert_eq!(client.append_well("kept", 0, batch(b"before")), 0);
    let (appended, error) = fill(&mut client, "filling");
    println!("{appended} appends, then error {error}");
    assert!(appended >= 10, "{appended}");
    let error = ErrorCode::from_code(error).expect("a known error");
    assert!(error.is_retriable(), "{}", error.name());

    // Everything that was acknowledged is there, and nothing else.
    for offset in 0..appended {
        assert_eq!(client.fetch("filling", 0, offset).values().first().map(|(at, _)| *at), Some(offset));
    }
    assert_eq!(client.list_offset("filling", 0, -1).2, appended);
    assert_eq!(client.fetch("kept", 0, 0).values(), [(0, b"before".to_vec())]);

    // With space again, a client that tries again succeeds.
    assert_eq!(client.delete_topic("filling"), 0);
    let began = Instant::now();
    let mut tried = client.append("kept", 0, -1, batch(b"after"));
    while tried.error != 0 && began.elapsed() < Duration::from_secs(10) {
        assert!(ErrorCode::from_code(tried.error).is_some_and(ErrorCode::is_retriable), "{tried:?}");
        std::thread::sleep(Duration::from_millis(100));
        tried = client.append("kept", 0, -1, batch(b"after"));
    }
    assert_eq!((tried.error, tried.base_offset), (0, 1));
    node.assert_sound();
    node.stop();
}

#[test]
fn a_start_without_room_for_its_journals_is_refused_with_cause_and_remedy() {
    let _turn = turn::shared();
    let folder = Folder::new();
    // Less than one journal.
    let mounted = || with_filesystem("tmpfs", "size=8m,mode=0777", folder.path());
    if let Err(error) = try_prepare(mounted()) {
        println!("not run: this host lets the tests mount nothing ({error}); run them as root");
        return;
    }
    let refusal = Plan::new(folder.path()).set("logmill.shards", 1).prepare(mounted()).refused();
    assert_refused(&refusal, &["No space left", "logmill.journal.bytes", "make room"]);
}
