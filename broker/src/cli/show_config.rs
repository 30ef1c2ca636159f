//! `logmill config`: every setting, its value and where it comes from.

use crate::config::{Config, PassedOver};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};

#[derive(Serialize)]
struct Report<'a> {
    settings: BTreeMap<&'static str, Row<'a>>,
    passed_over: Vec<Passed<'a>>,
    notices: &'a [String],
}

#[derive(Serialize)]
struct Row<'a> {
    value: Option<&'a str>,
    origin: String,
    meaning: &'static str,
}

#[derive(Serialize)]
struct Passed<'a> {
    key: &'a str,
    origin: String,
    is_known: bool,
}

/// Writes the settings for people, or for programs as JSON.
///
/// # Errors
/// The output cannot be written.
pub(super) fn write(config: &Config, as_json: bool, output: &mut dyn Write) -> io::Result<()> {
    if as_json { write_json(config, output) } else { write_text(config, output) }
}

fn write_text(config: &Config, output: &mut dyn Write) -> io::Result<()> {
    let all = config.effective();
    let width = all.iter().map(|effective| effective.setting.name.len()).max().unwrap_or(0);
    for effective in all {
        let value = match effective.value {
            Some(value) => value,
            None if effective.setting.is_sensitive() => "[hidden]",
            None => "",
        };
        writeln!(output, "{:width$} = {value}  # {}", effective.setting.name, effective.origin)?;
    }
    for passed in &config.passed_over {
        writeln!(output, "# {}", describe(passed))?;
    }
    for notice in &config.notices {
        writeln!(output, "# {notice}")?;
    }
    output.flush()
}

/// One line about a key that changes nothing.
fn describe(passed: &PassedOver) -> String {
    let PassedOver { key, origin, is_known, suggestion } = passed;
    match (is_known, suggestion) {
        (true, _) => format!("{origin}: {key} changes nothing here"),
        (false, Some(name)) => format!("{origin}: {key} is unknown; did you mean {name}?"),
        (false, None) => format!("{origin}: {key} is unknown"),
    }
}

fn write_json(config: &Config, output: &mut dyn Write) -> io::Result<()> {
    let settings = config
        .effective()
        .into_iter()
        .map(|effective| {
            let row = Row {
                value: effective.value,
                origin: effective.origin.to_string(),
                meaning: effective.setting.prose(),
            };
            (effective.setting.name, row)
        })
        .collect();
    let passed_over = config
        .passed_over
        .iter()
        .map(|passed| Passed {
            key: &passed.key,
            origin: passed.origin.to_string(),
            is_known: passed.is_known,
        })
        .collect();
    let report = Report { settings, passed_over, notices: &config.notices };
    serde_json::to_writer_pretty(&mut *output, &report)?;
    writeln!(output)?;
    output.flush()
}
