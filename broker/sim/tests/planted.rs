//! The catalogue of planted bugs (`planted/README.md`) fits the sources: every text that is to be changed stands where
//! it stood, once.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

const SIMULATIONS: [&str; 5] = ["crash", "follower", "replicas", "quorum", "cluster"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_path_buf()
}

fn bugs() -> Vec<Table> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(root().join("broker/sim/planted"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    let tables = |path: PathBuf| {
        let file: Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
        let bugs = file.get("bug").and_then(Value::as_array).cloned().unwrap_or_default();
        bugs.into_iter().map(|bug| bug.as_table().unwrap().clone())
    };
    files.into_iter().flat_map(tables).collect()
}

fn text<'a>(table: &'a Table, key: &str) -> Result<&'a str, String> {
    let found = table.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    found.ok_or_else(|| format!("has no {key}"))
}

/// The place that a bug's edit changes: its file, and from where to where.
fn place(edit: &Table) -> Result<(String, usize, usize), String> {
    let (file, from, to) = (text(edit, "file")?, text(edit, "from")?, text(edit, "to")?);
    if !to.contains("planted!()") {
        return Err(format!("cannot be switched off in {file}"));
    }
    let source = std::fs::read_to_string(root().join(file)).map_err(|error| format!("{file}: {error}"))?;
    let places: Vec<usize> = source.match_indices(from).map(|(position, _)| position).collect();
    match places[..] {
        [start] => Ok((file.to_owned(), start, start + from.len())),
        _ => Err(format!("its text stands {} times in {file}", places.len())),
    }
}

fn check(bug: &Table) -> Result<Vec<(String, usize, usize)>, String> {
    text(bug, "what")?;
    let simulations = bug.get("sim").and_then(Value::as_array).ok_or("names no simulation")?;
    let is_known = |name: &Value| name.as_str().is_some_and(|name| SIMULATIONS.contains(&name));
    if simulations.is_empty() || !simulations.iter().all(is_known) {
        return Err(format!("is for {simulations:?}"));
    }
    match bug.get("edit").and_then(Value::as_array) {
        None => place(bug).map(|place| vec![place]),
        Some(edits) => edits.iter().map(|edit| place(edit.as_table().ok_or("an edit is none")?)).collect(),
    }
}

#[test]
fn every_planted_bug_has_its_place() {
    let bugs = bugs();
    assert!(bugs.len() >= 40, "only {} bugs", bugs.len());
    let mut names = BTreeSet::new();
    let mut places: Vec<(String, usize, usize, String)> = Vec::new();
    let mut wrong = Vec::new();
    for bug in &bugs {
        let name = text(bug, "name").unwrap().to_owned();
        let is_kebab = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
        if !is_kebab || !names.insert(name.clone()) {
            wrong.push(format!("{name} is no name, or that of another one"));
        }
        match check(bug) {
            Ok(found) => {
                places.extend(found.into_iter().map(|(file, start, end)| (file, start, end, name.clone())));
            }
            Err(what) => wrong.push(format!("{name} {what}")),
        }
    }
    places.sort();
    for pair in places.windows(2) {
        let [(file, _, end, one), (other_file, start, _, other)] = pair else { continue };
        if file == other_file && start < end {
            wrong.push(format!("{one} and {other} change the same text of {file}"));
        }
    }
    assert!(wrong.is_empty(), "broker/sim/planted:\n{}", wrong.join("\n"));
}
