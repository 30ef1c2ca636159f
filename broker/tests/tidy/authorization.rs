//! Every Kafka API asks the authorizer.

use crate::source::Source;

/// Where the APIs are declared, one line each: the module's name, then its versions.
const DECLARATION: &str = "broker/src/request/versions.rs";

/// How a handler asks: of one resource, or through what the APIs of groups share.
const QUESTIONS: &[&str] = &[".allows(", ".authorize(", "ask(&call,", "ask(call,", "ask_for_each(&call,"];

/// Handlers that ask in another file, and the one that answers whoever knocks.
const ELSEWHERE: &[(&str, &str)] = &[
    ("fetch", "fetch_read"),
    ("describe_configs", "config_resources"),
    ("alter_configs", "config_resources"),
    ("incremental_alter_configs", "config_resources"),
];
const OPEN: &[&str] = &["api_versions"];

pub fn check(sources: &[Source]) -> Vec<String> {
    let Some(declaration) = sources.iter().find(|source| source.path == DECLARATION) else {
        return vec![format!("{DECLARATION} is gone; say here where the APIs are declared")];
    };
    let mut problems = Vec::new();
    let apis = declared(&declaration.code());
    if apis.is_empty() {
        problems.push(format!("{DECLARATION}: no API is found there"));
    }
    for api in apis.iter().filter(|api| !OPEN.contains(&api.as_str())) {
        let file =
            ELSEWHERE.iter().find(|(handler, _)| handler == api).map_or(api.as_str(), |(_, file)| file);
        let path = format!("broker/src/request/{file}.rs");
        let asks = sources.iter().any(|source| {
            source.path == path && QUESTIONS.iter().any(|question| source.code().contains(question))
        });
        if !asks {
            problems.push(format!("{path}: the handler of {api} does not ask the authorizer"));
        }
    }
    problems
}

/// The names in front of version ranges.
fn declared(code: &str) -> Vec<String> {
    let name = |line: &str| {
        let mut words = line.split_whitespace();
        let (name, versions) = (words.next()?, words.next()?);
        let is_name = name.chars().all(|character| character.is_ascii_lowercase() || character == '_');
        let (min, max) = versions.split_once("..=")?;
        let are_numbers =
            !min.is_empty() && min.chars().chain(max.chars()).all(|digit| digit.is_ascii_digit());
        (is_name && are_numbers).then(|| name.to_owned())
    };
    code.lines().filter_map(name).collect()
}

#[test]
fn handlers_that_do_not_ask_are_found() {
    let file = |path: &str, text: &str| Source::invented(path, text);
    let declaration = file(DECLARATION, "apis! {\n    list_things 0..=3 \"\";\n    fetch 4..=18 \"\";\n}");
    let handler = file("broker/src/request/list_things.rs", "fn handle() { call.allows(a, b); }");
    let other = file("broker/src/request/fetch_read.rs", "fn read() { authorizer.authorize(a); }");
    assert_eq!(check(&[declaration, handler, other]), Vec::<String>::new());
    let declaration = file(DECLARATION, "apis! {\n    list_things 0..=3 \"\";\n}");
    let silent = file("broker/src/request/list_things.rs", "fn handle() { /* .allows( */ }");
    assert_eq!(check(&[declaration, silent]).len(), 1);
    assert_eq!(check(&[]).len(), 1);
    assert_eq!(check(&[file(DECLARATION, "fn main() {}")]).len(), 1);
}
