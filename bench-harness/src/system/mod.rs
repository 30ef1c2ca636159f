//! What the standard library does not offer, and the only unsafe code: readiness with deadlines in nanoseconds,
//! signals, durable writes past the page cache.

pub mod direct_file;
pub mod readiness;
pub mod signals;
pub mod thread_time;
