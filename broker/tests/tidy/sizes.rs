//! Files and functions stay small.

use crate::source::{Source, closing_brace, line_of, words};

/// Lines of a file, its tests not counted.
const FILE_LINES_MAX: usize = 800;
/// Lines of a function, from its name to its closing brace.
const FUNCTION_LINES_MAX: usize = 70;

pub fn check_files(sources: &[Source]) -> Vec<String> {
    sources
        .iter()
        .filter(|source| source.is_rust() && !source.is_test())
        .filter_map(|source| {
            let lines = lines_without_tests(source);
            let problem = format!("{}: {lines} lines, more than {FILE_LINES_MAX}", source.path);
            (lines > FILE_LINES_MAX).then_some(problem)
        })
        .collect()
}

fn lines_without_tests(source: &Source) -> usize {
    let all = source.text.lines().count();
    // Comments count, tests do not: cut as many lines as the test modules take.
    let code = source.code();
    let tail = code.trim_end().len();
    let has_tests = source.text.contains("#[cfg(test)]");
    if has_tests { line_of(&code, tail).min(all) } else { all }
}

pub fn check_functions(sources: &[Source]) -> Vec<String> {
    let mut problems = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust() && !source.is_test()) {
        let code = source.code();
        for position in words(&code, "fn") {
            let rest = &code[position + 2..];
            let name: String =
                rest.trim_start().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            // Without a name it is a type; a semicolon first means that there is no body.
            let Some(open) = body(rest).filter(|_| !name.is_empty()) else { continue };
            let Some(close) = closing_brace(&code, position + 2 + open) else { continue };
            let lines = line_of(&code, close) - line_of(&code, position) + 1;
            if lines > FUNCTION_LINES_MAX {
                let line = line_of(&code, position);
                problems.push(format!(
                    "{}:{line}: {name} has {lines} lines, more than {FUNCTION_LINES_MAX}",
                    source.path
                ));
            }
        }
    }
    problems
}

/// Where a function's body begins, counted from its name; an array's length in the signature is in brackets.
fn body(signature: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (position, byte) in signature.bytes().enumerate() {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.checked_sub(1)?,
            b'{' if depth == 0 => return Some(position),
            b';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

#[test]
fn long_files_are_found() {
    let long = "// a line\n".repeat(FILE_LINES_MAX + 1);
    assert_eq!(check_files(&[Source::invented("a/src/b.rs", &long)]).len(), 1);
    assert_eq!(check_files(&[Source::invented("a/tests/b.rs", &long)]).len(), 0);
    let tests = format!("fn a() {{}}\n#[cfg(test)]\nmod tests {{\n{long}}}\n");
    assert_eq!(check_files(&[Source::invented("a/src/b.rs", &tests)]).len(), 0);
}

#[test]
fn long_functions_are_found() {
    let body = "    let x = [0; 2];\n".repeat(FUNCTION_LINES_MAX);
    let problems = |text: &str| check_functions(&[Source::invented("a/src/b.rs", text)]).len();
    assert_eq!(problems(&format!("fn f(a: [u8; 4]) -> R\nwhere\n    T: U,\n{{\n{body}}}\n")), 1);
    assert_eq!(problems(&format!("trait T {{\n    fn f();\n{body}}}\n")), 0);
    assert_eq!(problems(&format!("struct S {{\n    f: fn(u8),\n{body}}}\n")), 0);
    assert_eq!(problems("fn f() {\n}\n"), 0);
}
