//! Coordinators of groups. One lives on each partition of `__consumer_offsets` that this broker leads, on the
//! partition's own shard: it decides, appends what it decided, and answers when that is durable.

pub mod command;
mod group;
mod load;
mod table;

pub use self::group::GroupCoordinator;
pub use self::table::CoordinatorTable;
