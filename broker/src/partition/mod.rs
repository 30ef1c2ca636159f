//! Partitions: the pure leader state driven over journal and log.

pub mod command;
mod reply;
pub mod router;
