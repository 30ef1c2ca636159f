//! The broker as a process: started, spoken to over loopback, watched through /proc, stopped and killed.
//!
//! Tests that measure, or that fill the machine, run alone; the others run side by side (see `turn`).
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "these tests watch a real process in real time, and a panic is how they fail"
)]

mod balancing;
mod client;
mod cluster;
mod commands;
mod confine;
mod consuming;
mod crowd;
mod degraded;
mod directories;
mod fairness;
mod hostile;
mod memory;
mod node;
mod observe;
mod partitions;
mod quorum;
mod retention;
mod round_trip;
mod semantics;
mod sustained;
mod traps;
mod turn;
mod workspace;
