//! Several brokers with the partitions' own code, joined by a network that loses, repeats and delays, under a controller
//! that decides as the real one does.
//!
//! What is held against it: nothing that was acknowledged to acks=all is missing, replicas have the same batches below
//! the high watermark, and nobody sees the high watermark go back.

mod cluster;
mod network;
mod run;

pub use cluster::{Answer, Cluster, Start};
pub use network::{Faults, Network};
pub use run::run;
