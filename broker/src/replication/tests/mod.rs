//! Links between brokers whose partitions are fakes.

mod fixture;
mod hostile;
mod lost;
mod steady;
mod tables;
mod throttles;
