//! A node with several log directories.

use super::client::{Client, batch};
use super::node::{Node, Plan};
use super::observe::wait_until;
use super::turn;
use super::workspace::Folder;
use logmill_wire::api::{describe_log_dirs, metadata};
use logmill_wire::error_codes::ErrorCode;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

const PARTITIONS: i32 = 8;

fn start(directories: &[PathBuf; 2]) -> Node {
    let names = directories.each_ref().map(|directory| directory.display().to_string());
    Plan::new(Path::new(&names.join(","))).start()
}

fn logs_in(directory: &Path) -> Vec<i32> {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter_map(|name| name.to_str()?.strip_prefix("t-")?.parse().ok()).collect()
}

/// The error and the partitions of topic `t` that DescribeLogDirs has for each directory.
fn described(client: &mut Client) -> Vec<(String, i16, Vec<i32>)> {
    let answer = client.call(&describe_log_dirs::Request { topics: None }, 4);
    let response: describe_log_dirs::Response<'_> = answer.body();
    let mut described = Vec::new();
    for result in response.results.iter() {
        let mut partitions = Vec::new();
        for topic in result.topics.iter() {
            if &*topic.name == "t" {
                partitions.extend(topic.partitions.iter().map(|found| found.partition_index));
            }
        }
        partitions.sort_unstable();
        described.push(((*result.log_dir).to_owned(), result.error_code, partitions));
    }
    described
}

#[test]
fn a_directory_that_cannot_be_opened_is_offline_and_the_broker_goes_on_with_the_other() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let directories = ["a", "b"].map(|name| folder.path().join(name));
    let node = start(&directories);
    let mut client = node.client();
    client.create_topic("t", PARTITIONS);
    for partition in 0..PARTITIONS {
        let value = format!("value {partition}");
        assert_eq!(client.append_well("t", partition, batch(value.as_bytes())), 0);
    }
    let mut held = directories.each_ref().map(|directory| logs_in(directory));
    held.iter_mut().for_each(|logs| logs.sort_unstable());
    assert_eq!(held.each_ref().map(Vec::len), [4, 4]);
    let names = directories.each_ref().map(|directory| directory.display().to_string());
    let expected: Vec<_> =
        names.iter().zip(&held).map(|(name, held)| (name.clone(), 0, held.clone())).collect();
    assert_eq!(described(&mut client), expected);
    node.stop();

    let aside = folder.path().join("aside");
    fs::rename(&directories[1], &aside).unwrap();
    fs::write(&directories[1], "not a directory").unwrap();
    let node = start(&directories);
    assert!(node.stdout().contains("offline") && node.stdout().contains(&names[1]), "{}", node.stdout());
    let mut client = node.client();
    let storage_error = ErrorCode::KafkaStorageError.code();
    for partition in 0..PARTITIONS {
        let appended = client.append("t", partition, -1, batch(b"later"));
        let is_lost = held[1].contains(&partition);
        assert_eq!((appended.error, is_lost), (if is_lost { storage_error } else { 0 }, is_lost));
    }
    let expected = vec![(names[0].clone(), 0, held[0].clone()), (names[1].clone(), storage_error, vec![])];
    assert_eq!(described(&mut client), expected);
    client.create_topic("new", 2);
    assert_eq!(client.append_well("new", 1, batch(b"new")), 0);
    node.stop();

    fs::remove_file(&directories[1]).unwrap();
    fs::rename(&aside, &directories[1]).unwrap();
    let node = start(&directories);
    let mut client = node.client();
    for partition in 0..PARTITIONS {
        let mut values = vec![(0, format!("value {partition}").into_bytes())];
        if held[0].contains(&partition) {
            values.push((1, b"later".to_vec()));
        }
        assert_eq!(client.read_all("t", partition, 0), values);
    }
    assert_eq!(client.read_all("new", 1, 0), [(0, b"new".to_vec())]);
    node.stop();
}

/// The partitions of topic `t` with a replica that Metadata says to be offline.
fn offline(client: &mut Client) -> Vec<i32> {
    let answer = client.call(&metadata::Request { topics: None, ..Default::default() }, 12);
    let response: metadata::Response<'_> = answer.body();
    let mut offline = Vec::new();
    for topic in response.topics.iter().filter(|topic| topic.name.as_deref() == Some("t")) {
        let of_topic = topic.partitions.iter().filter(|found| !found.offline_replicas.is_empty());
        offline.extend(of_topic.map(|found| found.partition_index));
    }
    offline.sort_unstable();
    offline
}

#[test]
fn a_directory_that_is_lost_mid_run_takes_its_partitions_offline_and_no_others() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let directories = ["a", "b"].map(|name| folder.path().join(name));
    let node = start(&directories);
    let mut client = node.client();
    client.create_topic("t", PARTITIONS);
    for partition in 0..PARTITIONS {
        assert_eq!(client.append_well("t", partition, batch(b"first")), 0);
    }
    let mut held = directories.each_ref().map(|directory| logs_in(directory));
    held.iter_mut().for_each(|logs| logs.sort_unstable());
    assert!(held.iter().all(|logs| logs.len() > 1), "{held:?}");
    assert!(offline(&mut client).is_empty());

    // Files that are open stay, but the next checkpoint, half a minute after an append, finds no directory.
    let aside = folder.path().join("aside");
    fs::rename(&directories[1], &aside).unwrap();
    let is_told = wait_until(Duration::from_secs(120), || {
        thread::sleep(Duration::from_millis(50));
        offline(&mut client) == held[1]
    });
    assert!(is_told, "{:?} are offline, and not {:?}", offline(&mut client), held[1]);
    let storage_error = ErrorCode::KafkaStorageError.code();
    for partition in 0..PARTITIONS {
        let error = if held[1].contains(&partition) { storage_error } else { 0 };
        assert_eq!(client.append("t", partition, -1, batch(b"later")).error, error);
        assert_eq!(client.fetch("t", partition, 0).error, error);
    }
    client.create_topic("new", PARTITIONS);
    for partition in 0..PARTITIONS {
        assert_eq!(client.append_well("new", partition, batch(b"new")), 0);
    }
    node.stop();

    fs::rename(&aside, &directories[1]).unwrap();
    let node = start(&directories);
    let mut client = node.client();
    assert!(offline(&mut client).is_empty());
    for partition in 0..PARTITIONS {
        let mut values = vec![(0, b"first".to_vec())];
        if held[0].contains(&partition) {
            values.push((1, b"later".to_vec()));
        }
        assert_eq!(client.read_all("t", partition, 0), values);
        assert_eq!(client.append_well("t", partition, batch(b"last")), values.len() as i64);
        assert_eq!(client.read_all("new", partition, 0), [(0, b"new".to_vec())]);
    }
    node.stop();
}
