//! Names say what a thing is, and sources say nothing of the place where they were written.

use crate::source::{Source, line_of, words};

/// Names under which anything can be put, so that everything ends up there.
const EMPTY_NAMES: &[&str] = &[
    "util",
    "utils",
    "utility",
    "utilities",
    "helper",
    "helpers",
    "common",
    "manager",
    "misc",
    "impls",
    "stuff",
];

/// What the public does not know or need. The first characters are apart so that this file does not find itself.
const WORDS: &[&str] = &[
    concat!("/", "work/"),
    concat!("/", "root/"),
    concat!("issue", " #"),
    concat!("this", " session"),
    concat!("previous", " session"),
    concat!("next", " session"),
    concat!("work", "tree"),
    concat!("language", " model"),
    concat!("AI", "-generated"),
    concat!("Cla", "ude"),
    concat!("Anth", "ropic"),
    concat!("Chat", "GPT"),
    concat!("Co", "pilot"),
];

pub fn check(sources: &[Source]) -> Vec<String> {
    let mut problems = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        for part in source.path.trim_end_matches(".rs").split('/') {
            let last_word = part.rsplit('_').next().unwrap_or(part);
            if EMPTY_NAMES.contains(&last_word) {
                problems.push(format!("{}: {part} says nothing about what is inside", source.path));
            }
        }
        let code = source.code();
        for kind in ["struct", "enum", "trait"] {
            for position in words(&code, kind) {
                let name: String = code[position + kind.len()..]
                    .trim_start()
                    .chars()
                    .take_while(|character| character.is_alphanumeric())
                    .collect();
                if ["Manager", "Helper", "Util", "Utils"].iter().any(|ending| name.ends_with(ending)) {
                    let line = line_of(&code, position);
                    problems.push(format!("{}:{line}: {name} says nothing about what it does", source.path));
                }
            }
        }
    }
    problems
}

pub fn check_words(sources: &[Source]) -> Vec<String> {
    let mut problems = Vec::new();
    for source in sources {
        let text = source.text.to_ascii_lowercase();
        for word in WORDS {
            let word = word.to_ascii_lowercase();
            for (position, _) in text.match_indices(&word) {
                // A folder inside a longer path, such as a URL's, is another thing.
                let is_inside = word.starts_with('/')
                    && text[..position].ends_with(|character: char| character.is_ascii_alphanumeric());
                if !is_inside {
                    problems.push(format!("{}:{}: {word}", source.path, line_of(&text, position)));
                }
            }
        }
    }
    problems
}

#[test]
fn empty_names_are_found() {
    let problems = |path, text| check(&[Source::invented(path, text)]).len();
    assert_eq!(problems("broker/src/log/utils.rs", ""), 1);
    assert_eq!(problems("broker/src/group_manager/mod.rs", ""), 1);
    assert_eq!(problems("broker/src/log/mod.rs", "pub struct LogManager;"), 1);
    assert_eq!(problems("broker/src/log/mod.rs", "pub struct Log;"), 0);
}

#[test]
fn words_of_the_place_are_found() {
    let problems = |text: &str| check_words(&[Source::invented("a.md", text)]).len();
    assert_eq!(problems(concat!("see /", "work/x and issue", " #7")), 2);
    assert_eq!(problems("the fetch session of a consumer, home/work/x"), 0);
}
