//! The broker under simulation: its own journal, logs and partitions on a simulated disk that tears, reorders
//! and forgets writes, judged by checkers that know nothing of how it works.
//!
//! A run is a seed. It has several generations: start, load, then a power cut, a kill, or an orderly stop, at a
//! moment that the seed draws; each start must bring back what the [`model`] has been promised.

pub mod check;
pub mod cluster;
pub mod faults;
pub mod follower;
pub mod model;
pub mod node;
pub mod quorum;
pub mod replicas;
pub mod rot;
pub mod run;
pub mod workload;
