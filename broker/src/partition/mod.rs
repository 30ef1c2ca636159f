//! Partitions: the pure leader state driven over journal and log.

pub mod command;
mod deletion;
mod hosted;
mod lookup;
mod reply;
pub mod router;
mod table;

pub use hosted::{Partition, PartitionPolicy};
pub use table::PartitionTable;
