//! The order of the house, as an ordinary test: which layer may name which, how large a file and a function may grow,
//! what must not appear where. Each rule has a test beside it that shows what it catches.

mod authorization;
mod layers;
mod manifests;
mod names;
mod purity;
mod settings;
mod sizes;
mod source;

use source::{Source, read_all};

/// A rule: the sources in, what breaks it out.
type Rule = fn(&[Source]) -> Vec<String>;

const RULES: &[(&str, Rule)] = &[
    ("names point only downwards", layers::check),
    ("manifests keep crates apart", manifests::check),
    ("files and types are called by what they are", names::check),
    ("sources say nothing of the place where they were written", names::check_words),
    ("what decides has no clock, chance or I/O of its own", purity::check),
    ("unsafe stays in its corners", purity::check_unsafe),
    ("nothing behaves otherwise under test", purity::check_switches),
    ("every API asks the authorizer", authorization::check),
    ("every setting has a reader", settings::check),
    ("files stay small", sizes::check_files),
    ("functions stay small", sizes::check_functions),
];

#[test]
fn the_house_is_in_order() {
    let sources = read_all();
    assert!(sources.len() > 60, "only {} files were found: the walk is broken", sources.len());
    let mut problems = Vec::new();
    for (rule, check) in RULES {
        problems.extend(check(&sources).into_iter().map(|problem| format!("[{rule}] {problem}")));
    }
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}
