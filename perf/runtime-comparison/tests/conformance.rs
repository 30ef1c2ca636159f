//! What the runtime interface promises, on glommio.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use logmill::runtime::Runtime;
use logmill::runtime::conformance::{Effort, cases};
use logmill_glommio::{GlommioRuntime, block_on};
use std::path::PathBuf;

/// What glommio does not do, each with its reason. A case that starts to pass fails the test, so that it leaves this list.
const CANNOT: &[(&str, &str)] = &[];

/// A fresh directory on the disk that holds the test's own executable; removed with what is in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let executable = std::env::current_exe().unwrap();
        let path = executable.with_file_name(format!("scratch-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn conformance() {
    let scratch = Scratch::new("glommio");
    let directory = scratch.0.clone();
    let outcomes = block_on(|runtime| async move {
        let mut outcomes = Vec::new();
        for case in cases::<GlommioRuntime>() {
            let began = runtime.monotonic();
            let verdict = case.run(&runtime, &directory, Effort::FULL).await;
            println!("{} ms {} {verdict:?}", runtime.monotonic().since(began) / 1_000_000, case.name);
            outcomes.push((case.name, verdict));
        }
        outcomes
    })
    .unwrap();
    let is_excused = |name: &str| CANNOT.iter().any(|(case, _)| *case == name);
    let broken: Vec<_> =
        outcomes.iter().filter(|(name, verdict)| verdict.is_err() && !is_excused(name)).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    let mended: Vec<_> =
        outcomes.iter().filter(|(name, verdict)| verdict.is_ok() && is_excused(name)).collect();
    assert!(mended.is_empty(), "these pass now: take them off the list: {mended:#?}");
    let unknown: Vec<_> =
        CANNOT.iter().filter(|(case, _)| outcomes.iter().all(|(name, _)| name != case)).collect();
    assert!(unknown.is_empty(), "no such cases: {unknown:#?}");
}
