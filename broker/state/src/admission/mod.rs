//! What a request may do, and what is remembered of a client between its requests.

pub mod authorizer;
pub mod fetch_sessions;
