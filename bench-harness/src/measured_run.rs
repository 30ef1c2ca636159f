//! What produce and fetch runs have in common: options, samples of the processes, the result's output.

use crate::clock::{Clock, date_text};
use crate::failure::Failure;
use crate::process_probe::{Sample, sample, usage};
use crate::report::{BrokerCost, Report};
use clap::ValueEnum;
use serde::Serialize;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// How the result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A table.
    Text,
    /// One JSON object.
    Json,
}

/// Options of every run that measures.
#[derive(Clone, Debug, clap::Args, Serialize)]
pub struct RunOptions {
    /// A broker of the cluster
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9092")]
    pub bootstrap_server: String,
    /// The topic
    #[arg(long, value_name = "NAME")]
    pub topic: String,
    /// End after this many seconds, warm-up included
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub duration: Option<u64>,
    /// End after this many records, warm-up included; whole batches are counted
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub records: Option<u64>,
    /// Leave out the first seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub warm_up: u64,
    /// The broker's process on this host, for its CPU time, memory and I/O
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Write the result as JSON into this file too
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// What an acknowledgement promises in this run, for the report
    #[arg(long, value_name = "TEXT", default_value = "not stated")]
    pub durability_note: String,
    /// Give up when nothing comes from the broker for so long
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout_seconds: u64,
}

impl RunOptions {
    /// How long a silent broker is waited for.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds)
    }

    /// Refuses a warm-up that takes the whole run.
    ///
    /// # Errors
    /// [`Failure::Usage`].
    pub fn check(&self) -> Result<(), Failure> {
        if self.duration.is_some_and(|duration| self.warm_up >= duration) {
            return Err(Failure::Usage(
                "--warm-up takes all of --duration; make it shorter, or the run longer".to_owned(),
            ));
        }
        Ok(())
    }
}

/// Samples of the broker and of this process.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    broker: Sample,
    generator: Sample,
}

impl Probe {
    /// Samples both now; `None` if no broker was named.
    ///
    /// # Errors
    /// [`Failure::File`] if there is no such process.
    pub fn take(pid: Option<u32>) -> Result<Option<Self>, Failure> {
        let Some(pid) = pid else { return Ok(None) };
        Ok(Some(Self { broker: sample(pid)?, generator: sample(std::process::id())? }))
    }

    /// The costs from `self` to `after`, per unit of the work that was done meanwhile.
    #[must_use]
    pub fn cost_until(&self, after: &Self, records: u64, bytes: u64) -> BrokerCost {
        let generator = usage(&self.generator, &after.generator);
        BrokerCost::new(usage(&self.broker, &after.broker), generator, records, bytes)
    }
}

/// The date for the report.
#[must_use]
pub fn date_now(clock: &Clock) -> String {
    date_text(clock.wall_ms())
}

/// Writes the result to `--output` and returns what to print. An unusable result is written like any other,
/// and the failure comes with it.
///
/// # Errors
/// [`Failure::File`].
pub fn publish(options: &RunOptions, report: &Report) -> Result<String, Failure> {
    if let Some(path) = &options.output {
        fs::write(path, report.json())
            .map_err(|cause| Failure::File { path: path.display().to_string(), cause })?;
    }
    Ok(match options.format {
        Format::Text => report.text(),
        Format::Json => report.json(),
    })
}

/// Whether the result counts.
///
/// # Errors
/// [`Failure::Unusable`] with the reasons.
pub fn verdict(report: &Report) -> Result<(), Failure> {
    if report.invalid.is_empty() { Ok(()) } else { Err(Failure::Unusable(report.invalid.clone())) }
}
