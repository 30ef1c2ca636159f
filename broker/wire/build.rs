//! Generates `api.rs` from the descriptors in `schema/`.

#[path = "build/descriptor.rs"]
mod descriptor;
#[path = "build/generate.rs"]
mod generate;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    println!("cargo::rerun-if-changed=schema");
    println!("cargo::rerun-if-changed=build");
    let mut files = Vec::new();
    for entry in fs::read_dir("schema").map_err(|error| format!("schema: {error}"))? {
        files.push(entry.map_err(|error| format!("schema: {error}"))?.path());
    }
    // The order of a directory differs between machines; the generated code must not.
    files.sort();
    let mut descriptors = Vec::new();
    for file in files {
        descriptors.push(read(&file)?);
    }
    let source = generate::generate(&descriptors)?;
    let folder = env::var_os("OUT_DIR").ok_or("OUT_DIR is unset; run this through cargo")?;
    let target = PathBuf::from(folder).join("api.rs");
    fs::write(&target, source).map_err(|error| format!("{}: {error}", target.display()))
}

fn read(file: &Path) -> Result<descriptor::Descriptor, String> {
    let shown = file.display();
    if file.extension().is_none_or(|extension| extension != "api") {
        return Err(format!("{shown}: a descriptor's name ends in .api"));
    }
    let text = fs::read_to_string(file).map_err(|error| format!("{shown}: {error}"))?;
    let parsed =
        descriptor::parse(&text).map_err(|error| format!("{shown}:{}: {}", error.line, error.message))?;
    if file.file_stem().is_none_or(|stem| *stem != *parsed.name) {
        return Err(format!("{shown}:1: the file's name and {} differ", parsed.name));
    }
    Ok(parsed)
}
