//! The metadata quorum under simulation: several nodes, a network that loses, delays, doubles and cuts, disks that
//! tear and are wiped, and named checkers of what Raft promises.

mod checker;
mod cluster;
mod nemesis;
mod network;

pub use checker::Checker;
pub use cluster::Cluster;
pub use nemesis::{Outcome, run};
pub use network::{Network, Weather};
