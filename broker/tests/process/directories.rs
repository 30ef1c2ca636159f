//! A node with several log directories.

use super::client::{Client, batch};
use super::node::{Node, Plan};
use super::turn;
use super::workspace::Folder;
use logmill_wire::api::describe_log_dirs;
use logmill_wire::error_codes::ErrorCode;
use std::fs;
use std::path::{Path, PathBuf};

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
