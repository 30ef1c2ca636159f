//! Connections of clients: accepting them, reading requests off them, sending replies back in order.

pub mod acceptor;
mod affinity;
pub mod connection;
pub mod counts;
pub mod first_bytes;
mod frames;
mod pace;
mod replies;

#[cfg(test)]
mod tests;
