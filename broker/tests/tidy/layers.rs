//! Names point only downwards.

use crate::source::{Source, line_of, words};

/// The modules of the broker, the lowest layer first. A module names only layers below its own.
const LAYERS: &[&[&str]] = &[
    &["runtime"],
    &["shard"],
    &["journal"],
    &["log"],
    &["cluster", "partition"],
    &["coordinator", "replication"],
    &["request"],
    &["net", "admin"],
    &["node"],
    &["cli"],
    &["main"],
];

/// Names within one layer that are allowed all the same: the cluster applies metadata to partitions, and never the
/// other way round.
const ASIDE: &[(&str, &str)] = &[("cluster", "partition")];

/// Modules outside the layers: what they may name, and who may name them (nobody in the list: everybody may).
const BESIDE: &[(&str, &[&str], &[&str])] =
    &[("metrics", &[], &[]), ("config", &[], &["main", "cli", "node"]), ("client", &[], &["cli"])];

/// Who puts the broker together and may name a backend of the runtime.
const ASSEMBLERS: &[&str] = &["main", "node", "runtime"];

pub fn check(sources: &[Source]) -> Vec<String> {
    let mut problems = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust() && !source.is_test()) {
        let Some(path) = source.path.strip_prefix("broker/src/") else { continue };
        let own: Vec<&str> = path.trim_end_matches(".rs").split('/').filter(|part| *part != "mod").collect();
        // The library's root only declares its modules.
        if own == ["lib"] {
            continue;
        }
        let code = source.code();
        for (position, named) in named_modules(&code, &own) {
            let line = line_of(&code, position);
            if let Err(reason) = judge(own[0], &named) {
                problems.push(format!("{}:{line}: {reason}", source.path));
            }
        }
        for backend in ["uring", "simulated"] {
            let path = format!("runtime::{backend}");
            if !ASSEMBLERS.contains(&own[0]) && words(&code, &path).next().is_some() {
                problems.push(format!("{}: names {path}; be generic over Runtime", source.path));
            }
        }
    }
    problems
}

fn judge(from: &str, to: &str) -> Result<(), String> {
    let layer = |module: &str| LAYERS.iter().position(|layer| layer.contains(&module));
    let beside = |module: &str| BESIDE.iter().find(|(name, _, _)| *name == module);
    if from == to || ASIDE.contains(&(from, to)) {
        return Ok(());
    }
    if let Some((_, names, _)) = beside(from) {
        return if names.contains(&to) { Ok(()) } else { Err(format!("{from} may not name {to}")) };
    }
    if let Some((_, _, named_by)) = beside(to) {
        let is_allowed = named_by.is_empty() || named_by.contains(&from);
        return if is_allowed { Ok(()) } else { Err(format!("{from} may not name {to}")) };
    }
    match (layer(from), layer(to)) {
        (Some(from_layer), Some(to_layer)) if to_layer < from_layer => Ok(()),
        (Some(_), Some(_)) => Err(format!("{from} may not name {to}: names point only downwards")),
        (None, _) => Err(format!("{from} has no layer; give it one in the tidy test")),
        // Not a module, but an item of the library's root.
        (_, None) => Ok(()),
    }
}

/// The modules of the crate's root that the code names, by `crate::` or by as many `super::` as lead there.
fn named_modules(code: &str, own: &[&str]) -> Vec<(usize, String)> {
    let mut named = Vec::new();
    // The executable is a crate of its own and names the library.
    let roots: &[&str] = if own == ["main"] { &["crate", "logmill"] } else { &["crate"] };
    for root in roots {
        for position in words(code, root) {
            let Some(rest) = code[position + root.len()..].strip_prefix("::") else { continue };
            named.extend(first_names(rest).into_iter().map(|name| (position, name)));
        }
    }
    let up = "super::".repeat(own.len());
    for position in words(code, "super").filter(|&position| code[position..].starts_with(&up)) {
        let rest = &code[position + up.len()..];
        let continues = code[..position].ends_with("::");
        if !continues && !rest.starts_with("super::") {
            named.extend(first_names(rest).into_iter().map(|name| (position, name)));
        }
    }
    named
}

/// The name that a path begins with, or the names of a group in braces.
fn first_names(path: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    };
    let Some(group) = path.strip_prefix('{') else { return vec![name(path)] };
    let (mut names, mut depth, mut start) = (Vec::new(), 0_usize, 0);
    for (position, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => {
                names.push(name(&group[start..position]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.push(name(&group[start..position]));
                start = position + 1;
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

#[cfg(test)]
fn problems(path: &str, text: &str) -> usize {
    check(&[Source::invented(path, text)]).len()
}

#[test]
fn upward_names_are_found() {
    assert_eq!(problems("broker/src/log/reader.rs", "use crate::request::Router;"), 1);
    assert_eq!(problems("broker/src/partition/mod.rs", "fn f() { crate::cluster::apply() }"), 1);
    assert_eq!(
        problems("broker/src/log/mod.rs", "use crate::{shard::Turn, replication::{Link, Frame}, net};"),
        2
    );
    assert_eq!(problems("broker/src/log/mod.rs", "use super::request;"), 1);
    assert_eq!(problems("broker/src/log/reader.rs", "use super::super::request;"), 1);
    assert_eq!(problems("broker/src/request/fetch.rs", "use crate::config::Config;"), 1);
    assert_eq!(problems("broker/src/config/mod.rs", "use crate::runtime::Runtime;"), 1);
    assert_eq!(problems("broker/src/client/mod.rs", "use crate::runtime::Runtime;"), 1);
    assert_eq!(problems("broker/src/node/mod.rs", "use crate::client::Cluster;"), 1);
    assert_eq!(problems("broker/src/novelty.rs", "use crate::runtime::Runtime;"), 1);
    assert_eq!(problems("broker/src/log/mod.rs", "use crate::runtime::simulated::Disk;"), 1);
}

#[test]
fn downward_names_are_fine() {
    assert_eq!(
        problems("broker/src/cluster/mod.rs", "use crate::{partition, log, runtime::Runtime, metrics};"),
        0
    );
    assert_eq!(problems("broker/src/log/reader.rs", "use super::segment; // crate::request\n"), 0);
    assert_eq!(problems("broker/src/main.rs", "fn main() { logmill::cli::run(logmill::node::serve) }"), 0);
    assert_eq!(problems("broker/src/cli/mod.rs", "use crate::{client::Cluster, config::Config};"), 0);
    assert_eq!(problems("broker/src/log/mod.rs", "#[cfg(test)]\nmod tests { use crate::request::X; }"), 0);
    assert_eq!(problems("broker/src/node/mod.rs", "use crate::runtime::uring::Ring;"), 0);
}
