//! Large requests leave the other clients of their shard their turns.

use super::client::Client;
use super::node::{Node, Plan};
use super::turn;
use super::workspace::Folder;
use logmill_wire::api::{api_versions, metadata};
use std::time::{Duration, Instant};

/// The most that one client's large request may delay another client's small one.
const DELAY_MAX: Duration = Duration::from_millis(10);

/// The machine delays too, but not in every round; a request that does not yield does.
const ROUNDS: usize = 5;

const TOPICS: i32 = 20;
const PARTITIONS_PER_TOPIC: i32 = 5_000;

fn one_shard() -> (Folder, Node) {
    let folder = Folder::new();
    let node = Plan::new(folder.path()).set("logmill.shards", 1).start();
    (folder, node)
}

/// The longest that a small request took while the large ones of another client were carried out.
fn longest_wait(node: &Node, large: impl Fn(&mut Client) + Send) -> Duration {
    let mut small = node.client();
    let mut busy = node.client();
    let request = api_versions::Request::default();
    std::thread::scope(|scope| {
        let work = scope.spawn(move || large(&mut busy));
        let mut longest = Duration::ZERO;
        let mut asked = 0;
        while !work.is_finished() {
            let began = Instant::now();
            small.call(&request, 0);
            longest = longest.max(began.elapsed());
            asked += 1;
        }
        assert!(asked > 5, "only {asked} small requests were under way meanwhile");
        longest
    })
}

fn assert_fair(node: &Node, what: &str, large: impl Fn(&mut Client) + Send + Copy) {
    let waits: Vec<_> = (0..ROUNDS).map(|_| longest_wait(node, large)).collect();
    let best = waits.iter().min().copied().unwrap_or_default();
    eprintln!("{what}: a small request waited at most {waits:?}");
    assert!(best <= DELAY_MAX, "{what}: a small request waited {waits:?}");
}

#[test]
fn metadata_of_a_hundred_thousand_partitions_delays_nobody() {
    let _turn = turn::alone();
    let (_folder, node) = one_shard();
    let mut client = node.client();
    client.patience(Duration::from_secs(60));
    for topic in 0..TOPICS {
        client.create_topic(&format!("wide-{topic}"), PARTITIONS_PER_TOPIC);
    }
    let all = |client: &mut Client| {
        client.patience(Duration::from_secs(60));
        let request = metadata::Request { topics: None, ..Default::default() };
        let answer = client.call(&request, 12);
        let partitions: usize =
            answer.body::<metadata::Response<'_>>().topics.iter().map(|topic| topic.partitions.len()).sum();
        assert_eq!(partitions, (TOPICS * PARTITIONS_PER_TOPIC) as usize);
    };
    assert_fair(&node, "Metadata of 100,000 partitions", all);
}
