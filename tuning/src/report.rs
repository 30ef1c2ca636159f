//! Findings for people and for programs.

use crate::checks::{Finding, Level, Verdict};
use std::io::{self, Write};

/// Writes the findings for people: one line each, and where something is missing why it matters and what to do.
pub fn write_text(findings: &[Finding], output: &mut dyn Write) -> io::Result<()> {
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    for finding in findings {
        let mark = match (finding.verdict, finding.level) {
            (Verdict::Ok, _) => "ok     ",
            (Verdict::Missing, Level::Required) => "FAIL   ",
            (Verdict::Missing, Level::Recommended) => "advice ",
            (Verdict::Unknown, _) => "unknown",
        };
        writeln!(output, "{mark} {:width$}  {}", finding.name, finding.value)?;
        if finding.verdict != Verdict::Ok {
            writeln!(output, "        wanted: {}", finding.wanted)?;
            writeln!(output, "        reason: {}", finding.reason)?;
            writeln!(output, "        risk:   {}", finding.risk)?;
            writeln!(output, "        remedy: {}", finding.remedy)?;
        }
    }
    let failures = findings.iter().filter(|finding| finding.is_failure()).count();
    let missing = |finding: &&Finding| finding.verdict == Verdict::Missing && !finding.is_failure();
    let advice = findings.iter().filter(missing).count();
    writeln!(output, "{} checks: {failures} failed, {advice} with advice", findings.len())?;
    output.flush()
}

/// Writes the findings for programs.
pub fn write_json(findings: &[Finding], output: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *output, findings)?;
    writeln!(output)?;
    output.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(level: Level, verdict: Verdict) -> Finding {
        Finding {
            name: "kernel.version",
            level,
            verdict,
            value: "5.15".to_owned(),
            wanted: "6.1 or later",
            reason: "because",
            risk: "none starts",
            remedy: "upgrade".to_owned(),
        }
    }

    #[test]
    fn text_explains_only_what_is_missing() {
        let mut output = Vec::new();
        let findings = [
            finding(Level::Required, Verdict::Missing),
            finding(Level::Recommended, Verdict::Missing),
            finding(Level::Required, Verdict::Ok),
        ];
        write_text(&findings, &mut output).expect("memory");
        let text = String::from_utf8(output).expect("UTF-8");
        assert!(text.starts_with("FAIL    kernel.version  5.15\n        wanted: 6.1 or later\n"), "{text}");
        assert_eq!(text.matches("remedy: upgrade").count(), 2);
        assert!(text.ends_with("3 checks: 1 failed, 1 with advice\n"), "{text}");
    }

    #[test]
    fn json_has_every_field() {
        let mut output = Vec::new();
        write_json(&[finding(Level::Required, Verdict::Missing)], &mut output).expect("memory");
        let json: serde_json::Value = serde_json::from_slice(&output).expect("JSON");
        assert_eq!(json[0]["level"], "required");
        assert_eq!(json[0]["verdict"], "missing");
        assert_eq!(json[0]["remedy"], "upgrade");
    }
}
