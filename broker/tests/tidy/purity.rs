//! What decides has no clock, chance or I/O of its own; unsafe stays in its corners; nothing behaves otherwise under
//! test.

use crate::source::{Source, line_of, words};

/// What no rule of the broker may use, and the folders in which it may stand.
const BANNED: &[(&str, &[&str])] = &[
    ("Instant::now", &["broker/src/runtime/", "broker/src/client/"]),
    ("SystemTime::now", &["broker/src/runtime/", "broker/src/client/"]),
    ("thread::sleep", &["broker/src/runtime/", "broker/src/client/"]),
    ("thread::spawn", &["broker/src/runtime/", "broker/src/node/", "broker/src/admin/", "broker/src/cli/"]),
    ("std::collections::HashMap", &["broker/wire/src/hashing.rs", "broker/src/runtime/uring/"]),
    ("std::collections::HashSet", &["broker/wire/src/hashing.rs", "broker/src/runtime/uring/"]),
    ("TcpStream", &["broker/src/runtime/", "broker/src/admin/", "broker/src/client/"]),
    ("TcpListener", &["broker/src/runtime/", "broker/src/admin/"]),
    ("std::fs", &["broker/src/runtime/", "broker/src/config/", "broker/src/node/"]),
    ("std::env", &["broker/src/cli/", "broker/src/runtime/uring/", "broker/src/node/"]),
    ("getrandom", &["broker/src/runtime/"]),
    ("RandomState", &[]),
    ("DefaultHasher", &[]),
];

/// What the pure crates may not use on top of that.
const BANNED_IN_PURE: &[&str] =
    &["std::thread", "std::time::Instant", "SystemTime", "std::process", "UdpSocket", "async"];

/// The corners where unsafe code may stand.
const UNSAFE_CORNERS: &[&str] = &[
    "bench-harness/src/system/",
    "broker/src/node/signals.rs",
    "broker/src/runtime/buffer.rs",
    "broker/src/runtime/doorbell.rs",
    "broker/src/runtime/mailbox",
    "broker/src/runtime/uring/",
    "perf/runtime-comparison/src/",
    "tuning/src/machine.rs",
];

/// How code learns that it is under test or in a simulation.
const SWITCHES: &[&str] = &[
    "cfg!(test",
    "cfg(not(test",
    "cfg!(feature",
    "cfg(feature",
    "cfg(not(feature",
    "is_simulated",
    "in_simulation",
    "is_test_mode",
];

/// The folders whose code runs in production.
const PRODUCTION: &[&str] = &["broker/src/", "broker/state/src/", "broker/wire/src/"];

fn production(sources: &[Source]) -> impl Iterator<Item = &Source> {
    sources.iter().filter(|source| {
        source.is_rust()
            && !source.is_test()
            && PRODUCTION.iter().any(|folder| source.path.starts_with(folder))
    })
}

pub fn check(sources: &[Source]) -> Vec<String> {
    let mut problems = Vec::new();
    for source in production(sources) {
        let code = source.code();
        let is_pure = !source.path.starts_with("broker/src/");
        let here = BANNED
            .iter()
            .filter(|(_, allowed)| !allowed.iter().any(|folder| source.path.starts_with(folder)))
            .map(|(banned, _)| *banned);
        let pure = BANNED_IN_PURE.iter().copied().filter(|_| is_pure);
        for banned in here.chain(pure) {
            for position in words(&code, banned) {
                problems.push(format!("{}:{}: {banned}", source.path, line_of(&code, position)));
            }
        }
    }
    problems
}

pub fn check_unsafe(sources: &[Source]) -> Vec<String> {
    let mut problems = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust() && !source.is_test()) {
        if UNSAFE_CORNERS.iter().any(|corner| source.path.starts_with(corner)) {
            continue;
        }
        let code = source.code();
        for position in words(&code, "unsafe") {
            problems.push(format!(
                "{}:{}: unsafe code outside its corners",
                source.path,
                line_of(&code, position)
            ));
        }
    }
    problems
}

pub fn check_switches(sources: &[Source]) -> Vec<String> {
    let mut problems = Vec::new();
    for source in production(sources) {
        let code = source.code();
        let compact: String = code.chars().filter(|character| *character != ' ').collect();
        for switch in SWITCHES {
            // The messages' samples for tests are a feature of the codec, which no other crate's code turns on.
            let is_of_the_codec = source.path.starts_with("broker/wire/") && switch.contains("feature");
            if !is_of_the_codec && compact.contains(switch) {
                problems.push(format!("{}: {switch}", source.path));
            }
        }
    }
    problems
}

#[test]
fn clocks_and_chance_are_found() {
    let problems = |path, text| check(&[Source::invented(path, text)]).len();
    assert_eq!(problems("broker/state/src/group.rs", "fn f() { std::time::SystemTime::now(); }"), 2);
    assert_eq!(problems("broker/src/log/mod.rs", "fn f() { Instant::now(); }"), 1);
    assert_eq!(problems("broker/src/runtime/uring/mod.rs", "fn f() { Instant::now(); }"), 0);
    assert_eq!(problems("broker/src/log/mod.rs", "use std::fs;"), 1);
    assert_eq!(problems("broker/wire/src/x.rs", "use std::collections::HashMap;"), 1);
    assert_eq!(problems("broker/wire/src/x.rs", "// std::collections::HashMap\n"), 0);
    assert_eq!(problems("broker/state/src/x.rs", "async fn f() {}"), 1);
}

#[test]
fn unsafe_outside_its_corners_is_found() {
    let problems = |path, text| check_unsafe(&[Source::invented(path, text)]).len();
    assert_eq!(problems("broker/src/log/mod.rs", "fn f() { unsafe { g() } }"), 1);
    assert_eq!(problems("broker/src/runtime/buffer.rs", "fn f() { unsafe { g() } }"), 0);
    assert_eq!(problems("broker/src/log/mod.rs", "#![deny(unsafe_op_in_unsafe_fn)] // unsafe\n"), 0);
}

#[test]
fn switches_are_found() {
    let problems = |text| check_switches(&[Source::invented("broker/src/log/mod.rs", text)]).len();
    assert_eq!(problems("fn f() { if cfg!(test) { g() } }"), 1);
    assert_eq!(problems("#[cfg(not(test))] fn f() {}"), 1);
    assert_eq!(problems("#[cfg(feature = \"simulation\")] fn f() {}"), 1);
    assert_eq!(problems("fn f(runtime: R) { if runtime.is_simulated() { g() } }"), 1);
    assert_eq!(problems("#[cfg(test)] mod tests {}"), 0);
}
