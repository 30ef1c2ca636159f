//! `logmill-bench run`.

use super::output::{self, Format, OutputOptions};
use crate::clock::Clock;
use crate::failure::Failure;
use crate::report::page;
use crate::run::{self, Outcome, Target, TargetOptions};
use crate::workload::{self, Workload};
use std::fs;
use std::path::PathBuf;

/// What load to put on.
#[derive(Clone, Debug, clap::Args)]
pub struct WorkloadOptions {
    /// A workload: TOML, or YAML with the keys of `OpenMessaging` Benchmark
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Give a key of the workload another value, such as `rate=5000`; can be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
}

impl WorkloadOptions {
    /// The workload of the file with the changes, checked.
    ///
    /// # Errors
    /// [`Failure::Usage`] or [`Failure::File`].
    pub fn workload(&self) -> Result<Workload, Failure> {
        let mut workload = match &self.file {
            Some(path) => workload::load(path)?,
            None => Workload::default(),
        };
        for setting in &self.settings {
            let assigned = match setting.split_once('=') {
                Some((key, value)) => workload::assign(&mut workload, key.trim(), value.trim()),
                None => Err("it is not KEY=VALUE".to_owned()),
            };
            assigned.map_err(|problem| Failure::Usage(format!("--set {setting}: {problem}")))?;
        }
        workload
            .check()
            .map_err(|problem| Failure::Usage(format!("workload {}: {problem}", workload.name)))?;
        Ok(workload)
    }
}

/// Options of `run`.
#[derive(Clone, Debug, clap::Args)]
pub struct RunOptions {
    /// What load to put on.
    #[command(flatten)]
    pub workload: WorkloadOptions,
    /// A broker of the cluster
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9092")]
    pub bootstrap_server: String,
    /// What to call the broker in the result; by default its address
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// The broker's process on this host, for its CPU time, memory and I/O; may be repeated for those of a cluster
    #[arg(long = "pid", value_name = "PID")]
    pub pids: Vec<u32>,
    /// What an acknowledgement promises in this run, for the report
    #[arg(long, value_name = "TEXT", default_value = "not stated")]
    pub durability_note: String,
    /// How the run is done.
    #[command(flatten)]
    pub target: TargetOptions,
    /// Where the result goes.
    #[command(flatten)]
    pub output: OutputOptions,
}

/// Runs the workload without showing or keeping anything.
///
/// # Errors
/// Those of [`run::run`].
pub fn measure(options: &RunOptions, clock: &Clock) -> Result<Outcome, Failure> {
    let name = options.name.as_deref().unwrap_or(&options.bootstrap_server);
    let address = (name, options.bootstrap_server.as_str());
    let target =
        Target::new(&options.target, address, &options.pids, &options.durability_note, clock.wall_ms());
    let mut silent = |_: run::Progress<'_>| {};
    let mut loud = output::show;
    let show: &mut dyn FnMut(run::Progress<'_>) = if options.output.quiet { &mut silent } else { &mut loud };
    run::run(&options.workload.workload()?, &target, clock, show)
}

pub(super) fn run(options: &RunOptions, clock: &Clock) -> Result<(), Failure> {
    let outcome = measure(options, clock)?;
    let report = &outcome.report;
    if let Some(folder) = &options.output.output {
        let stem = output::file_stem(&report.name);
        output::keep(folder, &stem, &outcome)?;
        let path = folder.join(format!("{stem}.html"));
        fs::write(&path, page(&report.name, std::slice::from_ref(report)))
            .map_err(|cause| Failure::File { path: path.display().to_string(), cause })?;
    }
    output::print(&match options.output.format {
        Format::Text => report.text(),
        Format::Json => report.json(),
    })?;
    if report.invalid.is_empty() { Ok(()) } else { Err(Failure::Unusable(report.invalid.clone())) }
}
