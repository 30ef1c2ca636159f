//! What a client sees of a node that runs, stops, and runs again.

use super::client::batch;
use super::node::Plan;
use super::turn;
use super::workspace::Folder;

#[test]
fn what_is_acknowledged_is_read_back_and_survives_a_stop_and_a_kill() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let node = Plan::new(folder.path()).start();
    let mut client = node.client();
    client.create_topic("kept", 3);
    assert_eq!(client.append_well("kept", 1, batch(b"one")), 0);
    assert_eq!(client.append_well("kept", 1, batch(b"two")), 1);
    node.stop();

    let node = Plan::new(folder.path()).start();
    let mut client = node.client();
    let fetched = client.fetch("kept", 1, 0);
    assert_eq!((fetched.error, fetched.high_watermark), (0, 2));
    assert_eq!(fetched.values(), [(0, b"one".to_vec()), (1, b"two".to_vec())]);
    assert_eq!(client.append_well("kept", 1, batch(b"three")), 2);
    node.kill();

    let node = Plan::new(folder.path()).start();
    assert_eq!(node.client().read_all("kept", 1, 1), [(1, b"two".to_vec()), (2, b"three".to_vec())]);
    node.stop();
}
