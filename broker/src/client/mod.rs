//! A small blocking client, for the commands of our own: one request at a time to each broker, no thread, no runtime.
//!
//! It is a client as any other: it negotiates versions with each broker, follows leaders and coordinators, and knows
//! nothing of the broker that it is linked with.

mod batches;
mod brokers;
mod chance;
mod clock;
mod cluster;
mod connection;
mod coordination;
mod failure;
mod fetcher;
mod groups;
mod member;
mod offsets;
mod partitioner;
mod producer;
mod topics;

pub use brokers::Held;
pub use clock::{Timer, wall_clock_ms};
pub use cluster::{Cluster, EARLIEST, LATEST, Partition, Topic};
pub use failure::Failure;
pub use fetcher::{Consumed, Fetcher, Skipped};
pub use groups::{DescribedGroup, DescribedMember, ListedGroup};
pub use member::{Member, Start};
pub use producer::{Acks, Delivery, Producer, ProducerOptions};
pub use topics::{CreatedTopic, NewTopic};
