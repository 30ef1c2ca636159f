//! One core: what tasks of the same shard use among themselves.

pub mod deadline;
pub mod join;
pub mod lost_peers;
pub mod memory;
pub mod short_queue;
pub mod signal;
