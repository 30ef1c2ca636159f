//! `logmill-tuning check`: whether this machine gives the broker what it needs.
//!
//! Exit status: 0 when nothing that the broker requires is missing, 1 when something is, 2 when the command line is
//! wrong.

mod checks;
mod host;
mod machine;
mod report;

use clap::{Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::process::ExitCode;

/// Host settings that the Logmill broker depends on
#[derive(Parser, Debug)]
#[command(name = "logmill-tuning", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Look at this machine, and say what is missing and what to do about it; changes nothing
    Check {
        /// The directory that holds or will hold the broker's data; a small file is written there and removed
        #[arg(long, value_name = "DIR", default_value = "./logmill-data")]
        log_dir: PathBuf,
        /// Whom the output is for
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// People
    Text,
    /// Programs
    Json,
}

fn main() -> ExitCode {
    let Command::Check { log_dir, format } = Arguments::parse().command;
    let findings = checks::run(&machine::Machine, &log_dir);
    let written = match format {
        Format::Text => report::write_text(&findings, &mut std::io::stdout()),
        Format::Json => report::write_json(&findings, &mut std::io::stdout()),
    };
    if let Err(error) = written {
        // Where this cannot be written either, the exit status has to say it.
        let _ = std::io::Write::write_fmt(
            &mut std::io::stderr(),
            format_args!("error: cannot write the findings: {error}\nremedy: check where the output goes\n"),
        );
        return ExitCode::FAILURE;
    }
    if findings.iter().any(checks::Finding::is_failure) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
