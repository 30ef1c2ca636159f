//! Pure state machines of the broker, without clock, socket, file or random source.
//!
//! They have one shape: `decide(&self, request, now)` looks and answers, `apply(&mut self, …)` is the only
//! mutation. Live traffic and the replay at a restart go through the same `apply`.

pub mod admission;
pub mod group;
pub mod log_plan;
pub mod metadata;
pub mod partition;
pub mod settings;

#[cfg(test)]
mod replication_model;
#[cfg(test)]
mod test_random;
