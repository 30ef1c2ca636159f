//! The commands; each option is declared once, where its command lives.

pub mod compare_command;
mod output;
pub mod run_command;

use compare_command::{CompareOptions, SweepOptions};
pub use output::OutputOptions;
use run_command::RunOptions;

use crate::clock::Clock;
use crate::failure::Failure;
use crate::null_broker::{NullBroker, NullBrokerOptions};
use crate::probe::Finding;
use crate::probe::disk::{self, DiskOptions};
use crate::probe::loopback::{self, LoopbackOptions};
use crate::report::{Report, page};
use crate::system::{readiness, signals};
use clap::{Parser, Subcommand};
use std::fs;
use std::path::PathBuf;

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
    /// Run a workload once
    Run(Box<RunOptions>),
    /// Run a workload on several brokers in turns, the others stopped meanwhile, and show ratios with their spread
    Compare(Box<CompareOptions>),
    /// Raise the rate until the latency goes up: where is the knee?
    Sweep(Box<SweepOptions>),
    /// Measure what disk or loopback can do without any broker
    #[command(subcommand)]
    Probe(ProbeCommand),
    /// Put earlier results side by side, as one HTML page
    Report(ReportOptions),
    /// Be a broker that acknowledges everything and stores nothing
    NullBroker(NullBrokerOptions),
}

/// What to probe.
#[derive(Clone, Debug, Subcommand)]
pub enum ProbeCommand {
    /// Direct and durable writes, into allocated and into written blocks
    Disk(DiskOptions),
    /// A stream, and small requests with responses, over loopback
    Loopback(LoopbackOptions),
}

/// Options of `report`.
#[derive(Clone, Debug, clap::Args)]
pub struct ReportOptions {
    /// Results that `--output` has written, as JSON
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// The page to write
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    pub page: PathBuf,
    /// Its title
    #[arg(long, value_name = "TEXT", default_value = "Measurements")]
    pub title: String,
}

/// Carries out the command.
///
/// # Errors
/// Whatever stopped it, and a result that does not count.
pub fn run(command_line: &CommandLine) -> Result<(), Failure> {
    let clock = Clock::start();
    readiness::raise_descriptor_limit();
    signals::note_interruptions();
    match &command_line.command {
        Command::Run(options) => run_command::run(options, &clock),
        Command::Compare(options) => compare_command::run_compare(options, &clock),
        Command::Sweep(options) => compare_command::run_sweep(options, &clock),
        Command::Probe(probe) => {
            let findings = match probe {
                ProbeCommand::Disk(options) => disk::measure(options, &clock)?,
                ProbeCommand::Loopback(options) => loopback::measure(options, &clock)?,
            };
            output::print(&findings.iter().map(Finding::text).collect::<String>())
        }
        Command::Report(options) => {
            let reports =
                options.files.iter().map(|path| Report::load(path)).collect::<Result<Vec<_>, _>>()?;
            let failed = |cause| Failure::File { path: options.page.display().to_string(), cause };
            fs::write(&options.page, page(&options.title, &reports)).map_err(failed)
        }
        Command::NullBroker(options) => {
            let broker = NullBroker::start(options)?;
            output::print(&format!("null broker listens on {}\n", broker.address()))?;
            broker.run();
            Ok(())
        }
    }
}
