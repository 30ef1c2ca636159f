//! A load generator and measuring instrument for brokers that speak the Kafka protocol, and a null broker
//! that shows the limit of the instrument itself. It knows the protocol, and no broker's insides.

pub mod clock;
pub mod cluster;
pub mod command_line;
pub mod connection;
pub mod failure;
pub mod fetch;
pub mod measured_run;
pub mod null_broker;
pub mod pacing;
pub mod process_probe;
pub mod produce;
pub mod readiness;
pub mod report;
