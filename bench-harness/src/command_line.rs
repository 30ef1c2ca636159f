//! The commands; each option is declared once, where its command lives.

use crate::failure::Failure;
use crate::null_broker::{NullBroker, NullBrokerOptions};
use clap::{Parser, Subcommand};
use std::io::{self, Write};

/// Puts load on a broker that speaks the Kafka protocol, and measures latency, throughput and the broker's
/// use of the host
#[derive(Clone, Debug, Parser)]
#[command(name = "logmill-bench", version)]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Be a broker that acknowledges everything and stores nothing
    NullBroker(NullBrokerOptions),
}

/// Carries out the command.
///
/// # Errors
/// Whatever stopped it, and a result that does not count.
pub fn run(command_line: &CommandLine) -> Result<(), Failure> {
    match &command_line.command {
        Command::NullBroker(options) => {
            let broker = NullBroker::start(options)?;
            print(&format!("null broker listens on {}\n", broker.address()))?;
            broker.run();
            Ok(())
        }
    }
}

/// Writes to standard output.
fn print(text: &str) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
        .map_err(|cause| Failure::File { path: "standard output".to_owned(), cause })
}
