//! Manifests keep crates apart.

use crate::source::Source;

/// The crates that may depend on a few others only.
const ALLOWED: &[(&str, &[&str])] = &[
    ("broker/wire/Cargo.toml", &["bytes", "crc32c", "flate2", "lz4_flex", "rkyv", "snap", "zstd"]),
    ("broker/state/Cargo.toml", &["bytes", "logmill-wire", "regex"]),
];

/// The crates that must not depend on some others, for any purpose.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("broker/Cargo.toml", &["glommio", "tokio", "kafka-protocol", "rdkafka"]),
    ("bench-harness/Cargo.toml", &["logmill", "logmill-state"]),
    ("tuning/Cargo.toml", &["logmill", "logmill-state", "logmill-wire"]),
];

pub fn check(sources: &[Source]) -> Vec<String> {
    let mut problems = Vec::new();
    for source in sources.iter().filter(|source| source.path.ends_with("Cargo.toml")) {
        let of = |table: &[(&str, &'static [&'static str])]| {
            table.iter().find(|(path, _)| *path == source.path).map(|(_, names)| *names)
        };
        for (section, name, value) in dependencies(&source.text) {
            if section == "dependencies" && of(ALLOWED).is_some_and(|allowed| !allowed.contains(&name)) {
                problems.push(format!("{}: depends on {name}, which it may not", source.path));
            }
            if of(FORBIDDEN).is_some_and(|forbidden| forbidden.contains(&name)) {
                problems.push(format!("{}: depends on {name}, which it must not", source.path));
            }
            // Not a member of the workspace, so it has versions of its own.
            let is_apart = source.path.starts_with("broker/fuzz/");
            if !is_apart && section != "workspace.dependencies" && !value.contains("workspace") {
                problems
                    .push(format!("{}: {name} has a version of its own; use the workspace's", source.path));
            }
        }
    }
    problems
}

/// The dependencies that a manifest declares: the kind of table, the name, and the rest of the line.
fn dependencies(manifest: &str) -> Vec<(&str, &str, &str)> {
    let (mut section, mut found) = ("", Vec::new());
    for line in manifest.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']');
        } else if let (true, Some((left, value))) = (section.ends_with("dependencies"), line.split_once('='))
        {
            let (name, attribute) = left.trim().split_once('.').unwrap_or((left.trim(), ""));
            let kind = match section {
                "workspace.dependencies" => section,
                _ if section.ends_with("dev-dependencies") => "dev-dependencies",
                _ if section.ends_with("build-dependencies") => "build-dependencies",
                _ => "dependencies",
            };
            if !name.starts_with('#') {
                found.push((kind, name, if attribute.is_empty() { value } else { attribute }));
            }
        }
    }
    found
}

#[test]
fn dependencies_are_read() {
    let text = "[dependencies]\na.workspace = true\n# b = 1\n[target.'cfg(x)'.dev-dependencies]\nc = \"1\"\n[lints]\nd = 1";
    assert_eq!(dependencies(text), [("dependencies", "a", "workspace"), ("dev-dependencies", "c", " \"1\"")]);
}

#[test]
fn forbidden_dependencies_are_found() {
    let problems = |path, text| check(&[Source::invented(path, text)]).len();
    assert_eq!(problems("broker/state/Cargo.toml", "[dependencies]\ntracing.workspace = true"), 1);
    assert_eq!(problems("broker/state/Cargo.toml", "[dev-dependencies]\nproptest.workspace = true"), 0);
    assert_eq!(
        problems("broker/Cargo.toml", "[target.'cfg(unix)'.dependencies]\ntokio = { workspace = true }"),
        1
    );
    assert_eq!(problems("tuning/Cargo.toml", "[dependencies]\nclap = \"4\""), 1);
    assert_eq!(problems("bench-harness/Cargo.toml", "[dependencies]\nlogmill.workspace = true"), 1);
}
