//! Partitions: the pure leader state driven over journal and log.

mod care;
pub mod command;
mod compaction;
mod contents;
mod deletion;
mod hosted;
mod idle_producers;
mod lookup;
pub mod peers;
mod reply;
pub mod router;
mod table;

pub use contents::ContentPolicy;
pub use hosted::{Partition, PartitionPolicy};
pub use table::PartitionTable;
