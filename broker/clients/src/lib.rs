//! Tests of the broker with clients and codecs of other projects; the library holds what several of them need.

#![expect(clippy::disallowed_methods, reason = "processes and clients run on the real clock")]

pub mod broker;
pub mod chance;
pub mod daily;
