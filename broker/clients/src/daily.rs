//! Daily use (`broker/tests/clients/README.md`) with rdkafka: what its tests and the members of its groups share.

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

/// How long a step may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The settings of a client.
#[must_use]
pub fn settings(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap);
    config
}

/// The settings of a consumer in a group; `protocol` is `classic` or `consumer`.
#[must_use]
pub fn group_settings(bootstrap: &str, group: &str, protocol: &str) -> ClientConfig {
    let mut config = settings(bootstrap);
    config
        .set("group.id", group)
        .set("group.protocol", protocol)
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("check.crcs", "true");
    if protocol == "classic" {
        config
            .set("session.timeout.ms", "6000")
            .set("heartbeat.interval.ms", "1000")
            .set("partition.assignment.strategy", "cooperative-sticky");
    }
    config
}

/// Creates a topic of one replica.
///
/// # Panics
/// If that fails.
pub fn create_topic(bootstrap: &str, name: &str, partitions: i32) {
    let admin: AdminClient<DefaultClientContext> =
        settings(bootstrap).create().expect("the settings are valid");
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    let topics = [NewTopic::new(name, partitions, TopicReplication::Fixed(1))];
    let results = block_on(admin.create_topics(&topics, &options)).expect("an answer");
    assert_eq!(results, [Ok(name.to_owned())]);
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The client has threads of its own that fulfil what it promises; this one only waits.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}
