//! The commands; each option is declared once, where its command lives.

use crate::clock::Clock;
use crate::failure::Failure;
use crate::fetch::{self, FetchOptions};
use crate::measured_run::{RunOptions, publish, verdict};
use crate::null_broker::{NullBroker, NullBrokerOptions};
use crate::produce::{self, ProduceOptions};
use crate::report::Report;
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
    /// Send batches, on a schedule or as fast as possible, and measure acknowledgements
    Produce(Box<ProduceOptions>),
    /// Read partitions, check that no offset is missing, and measure throughput
    Fetch(Box<FetchOptions>),
    /// Be a broker that acknowledges everything and stores nothing
    NullBroker(NullBrokerOptions),
}

/// Carries out the command.
///
/// # Errors
/// Whatever stopped it, and a result that does not count.
pub fn run(command_line: &CommandLine) -> Result<(), Failure> {
    let clock = Clock::start();
    match &command_line.command {
        Command::Produce(options) => finish(&options.run, &produce::run(options, &clock)?),
        Command::Fetch(options) => finish(&options.run, &fetch::run(options, &clock)?),
        Command::NullBroker(options) => {
            let broker = NullBroker::start(options)?;
            print(&format!("null broker listens on {}\n", broker.address()))?;
            broker.run();
            Ok(())
        }
    }
}

/// Shows the result, whether it counts or not.
fn finish(options: &RunOptions, report: &Report) -> Result<(), Failure> {
    print(&publish(options, report)?)?;
    verdict(report)
}

/// Writes to standard output.
fn print(text: &str) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
        .map_err(|cause| Failure::File { path: "standard output".to_owned(), cause })
}
