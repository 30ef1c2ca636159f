//! What all commands have in common that talk to a cluster.

use super::{Failure, Output};
use crate::client;
use clap::Args;
use serde::Serialize;
use std::io::{self, Write};

/// The cluster, and how to show what it answers.
#[derive(Args, Clone, Debug)]
pub(super) struct Connect {
    /// The brokers to ask first, separated by commas
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:9092",
        value_delimiter = ',',
        value_parser = address,
        global = true
    )]
    bootstrap_server: Vec<String>,
    #[command(flatten)]
    pub(super) output: Output,
}

impl Connect {
    /// Connects to the cluster.
    ///
    /// # Errors
    /// No broker answers.
    pub(super) fn cluster(&self) -> Result<client::Cluster, Failure> {
        Ok(client::Cluster::connect(self.bootstrap_server.clone())?)
    }
}

fn address(text: &str) -> Result<String, String> {
    let parts = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    match parts.map(|(_, port)| port.parse::<u16>()) {
        Some(Ok(1..)) => Ok(text.to_owned()),
        _ => Err("an address is HOST:PORT, such as 127.0.0.1:9092 or [::1]:9092".to_owned()),
    }
}

/// Reads `KEY=VALUE`.
pub(super) fn key_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("KEY=VALUE is expected".to_owned()),
    }
}

impl From<client::Failure> for Failure {
    fn from(failure: client::Failure) -> Self {
        Self::new(&failure, failure.remedy())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(format!("the output cannot be written: {error}"), "check where it goes")
    }
}

/// Writes one JSON document.
///
/// # Errors
/// The output cannot be written.
pub(super) fn write_json(output: &mut dyn Write, document: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *output, document)?;
    writeln!(output)
}
