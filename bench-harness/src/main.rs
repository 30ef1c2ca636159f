//! The executable `logmill-bench`.

use clap::Parser;
use logmill_bench::command_line::{self, CommandLine};
use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    match command_line::run(&CommandLine::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(io::stderr(), "logmill-bench: {failure}");
            ExitCode::from(failure.exit_status())
        }
    }
}
