//! Workload files: TOML with our keys, or YAML with those of `OpenMessaging` Benchmark.

use super::{Workload, assign, open_messaging};
use crate::failure::Failure;
use std::fs;
use std::path::Path;

/// Reads a workload file, by the ending of its name.
///
/// # Errors
/// [`Failure::File`] if it cannot be read, [`Failure::Usage`] if it is not a workload; both name the file.
pub fn load(path: &Path) -> Result<Workload, Failure> {
    let shown = path.display();
    let text = fs::read_to_string(path).map_err(|cause| Failure::File { path: shown.to_string(), cause })?;
    let read = match path.extension().and_then(|ending| ending.to_str()) {
        Some("toml") => read_toml(&text),
        Some("yaml" | "yml") => open_messaging::read(&text),
        _ => Err("its name ends neither in .toml nor in .yaml; rename it".to_owned()),
    };
    let mut workload = read.map_err(|problem| Failure::Usage(format!("workload {shown}: {problem}")))?;
    if workload.name == Workload::default().name {
        workload.name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    }
    Ok(workload)
}

fn read_toml(text: &str) -> Result<Workload, String> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        format!("it is not TOML; write one `key = value` a line: {}", error.to_string().trim_end())
    })?;
    let mut workload = Workload::default();
    for (key, value) in &table {
        let value = match value {
            toml::Value::String(text) => text.clone(),
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(boolean) => boolean.to_string(),
            other => {
                let kind = other.type_str();
                return Err(format!("`{key}` is of type {kind}; give a number, a text or true or false"));
            }
        };
        assign(&mut workload, key, &value)?;
    }
    Ok(workload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toml_is_read() {
        let workload =
            read_toml("name = \"x\"\nrate = 5_000\nidempotent = true\nacks = 1 # not all\n").unwrap();
        assert_eq!((workload.name.as_str(), workload.rate, workload.idempotent), ("x", 5000, true));
        assert_eq!(workload.acks, super::super::Acks::Leader);
        assert!(read_toml("rate = 1.5").unwrap_err().contains("`rate` is of type float"));
        assert!(read_toml("[rate]\nx = 1").unwrap_err().contains("`rate` is of type table"));
        assert!(read_toml("rate 5").unwrap_err().contains("not TOML"));
        assert!(read_toml("rates = 5").unwrap_err().contains("perhaps `rate` is meant"));
    }

    #[test]
    fn the_files_that_come_along_are_sound() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads");
        let mut count = 0;
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let workload = load(&path).unwrap();
            workload.check().unwrap_or_else(|problem| panic!("{}: {problem}", path.display()));
            assert!(!workload.description.is_empty(), "{}: say what it is for", path.display());
            count += 1;
        }
        assert!(count >= 10, "{count}");
        assert!(load(Path::new("absent.toml")).unwrap_err().to_string().contains("absent.toml"));
        let wrong = load(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock"))).unwrap_err();
        assert!(wrong.to_string().contains("Cargo.lock"), "{wrong}");
    }
}
