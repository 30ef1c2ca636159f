//! One core: what tasks of the same shard use among themselves.

pub mod join;
pub mod signal;
