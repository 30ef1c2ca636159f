//! A load generator and measuring instrument for brokers that speak the Kafka protocol, and a null broker
//! that shows the limit of the instrument itself. It knows the protocol, and no broker's insides.

pub mod chance;
pub mod clock;
pub mod cluster;
pub mod command_line;
pub mod compare;
pub mod connection;
mod consume;
pub mod failure;
mod group;
pub mod latency;
pub mod meter;
pub mod null_broker;
pub mod probe;
pub mod process_probe;
mod produce;
pub mod report;
pub mod run;
pub mod schedule;
pub mod sides;
pub mod sweep;
pub mod system;
pub mod workload;
