//! Kafka's requests: one file per API, a router, and what they work with.

pub mod services;
