//! Partitions: the pure states of leaders and followers driven over journal and log.

mod care;
pub mod command;
mod compaction;
mod contents;
mod deletion;
mod following;
mod hosted;
mod idle_producers;
mod leading;
mod lookup;
mod offline;
pub mod peers;
mod policy;
mod replica;
mod replicas;
mod reply;
mod role;
pub mod router;
mod sizes;
mod table;
mod waiters;

pub use contents::ContentPolicy;
pub use hosted::Partition;
pub use offline::TellOffline;
pub use policy::PartitionPolicy;
pub use replica::Placed;
pub use table::PartitionTable;
