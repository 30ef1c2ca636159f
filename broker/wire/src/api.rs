//! Requests and responses, one module per Kafka API, generated at build time from the descriptors in
//! `schema/`.
