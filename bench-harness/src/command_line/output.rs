//! Where results go: standard output, files, and a line per second while a run goes on.

use crate::failure::Failure;
use crate::report::percentile_file;
use crate::run::{Outcome, Progress};
use clap::ValueEnum;
use serde::Serialize;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// How the result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A table.
    Text,
    /// One JSON object.
    Json,
}

/// Options of every command that has results.
#[derive(Clone, Debug, clap::Args)]
pub struct OutputOptions {
    /// How the result is printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Write results into this folder: JSON, `.hlog`, a `.hgrm` for each distribution, and an HTML page
    #[arg(long, value_name = "FOLDER")]
    pub output: Option<PathBuf>,
    /// Show nothing while a run goes on
    #[arg(long)]
    pub quiet: bool,
}

/// Writes what a run has to tell into files that begin with `stem`.
///
/// # Errors
/// [`Failure::File`].
pub fn keep(folder: &Path, stem: &str, outcome: &Outcome) -> Result<(), Failure> {
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(format!("{stem}{name}"));
        fs::write(&path, bytes).map_err(|cause| Failure::File { path: path.display().to_string(), cause })
    };
    fs::create_dir_all(folder)
        .map_err(|cause| Failure::File { path: folder.display().to_string(), cause })?;
    write(".json", outcome.report.json().as_bytes())?;
    write(".hlog", &outcome.log)?;
    for (name, times) in &outcome.histograms {
        write(&format!("-{name}.hgrm"), percentile_file(times).as_bytes())?;
    }
    Ok(())
}

/// A name that can stand in a file's name.
#[must_use]
pub fn file_stem(name: &str) -> String {
    let keep = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    name.chars().map(|character| if keep(character) { character } else { '-' }).collect()
}

/// Writes a line on the last second to standard error.
pub fn show(progress: Progress<'_>) {
    let second = progress.second;
    let ms = |ns: u64| ns as f64 / 1e6;
    let mut line = format!(
        "{:<16}{:>5.0} s{} {:>10} records/s {:>8.1} MB/s",
        progress.broker_name,
        second.at,
        if progress.is_measured { "  " } else { " w" },
        second.records,
        second.bytes as f64 / 1e6
    );
    for (name, times) in [("", &second.latency), (" | end to end", &second.end_to_end)] {
        if times.count > 0 {
            let (p50, p99) = (ms(times.p50_ns), ms(times.p99_ns));
            let (p99_9, max) = (ms(times.p99_9_ns), ms(times.max_ns));
            line += &format!("{name}  p50 {p50:.3} p99 {p99:.3} p99.9 {p99_9:.3} max {max:.3} ms");
        }
    }
    if second.broker_cores > 0.0 {
        line += &format!("  broker {:.0} % CPU", second.broker_cores * 100.0);
    }
    // Who does not read it misses nothing that is not in the result.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Writes to standard output.
///
/// # Errors
/// [`Failure::File`].
pub fn print(text: &str) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
        .map_err(|cause| Failure::File { path: "standard output".to_owned(), cause })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_have_no_folders() {
        assert_eq!(file_stem("1 producer / ../x"), "1-producer---..-x");
    }
}
