//! Bytes and types: the Kafka protocol's requests, responses and record batches, and Logmill's own
//! frames. Nothing here performs I/O, reads a clock or draws a random number.

pub mod api;
pub mod checksum;
pub mod compression;
pub mod error_codes;
pub mod frame;
pub mod hashing;
pub mod ids;
pub mod limits;
pub mod primitives;
pub mod record_batch;
#[cfg(feature = "samples")]
pub mod samples;
