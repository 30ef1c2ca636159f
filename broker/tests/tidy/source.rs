//! The project's files, and their code without comments, texts and tests.

use std::path::Path;

/// One file.
pub struct Source {
    /// Its path from the root of the project.
    pub path: String,
    /// Its text.
    pub text: String,
}

impl Source {
    /// A file for a rule's own test.
    #[cfg(test)]
    pub fn invented(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether the whole file is there for tests only.
    pub fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        self.path.contains("/tests/")
            || self.path.contains("/benches/")
            || self.path.contains("/fuzz/")
            || self.path.contains("/conformance/")
            || matches!(name, "tests.rs" | "samples.rs" | "conformance.rs")
            || name.starts_with("test_")
            || name.ends_with("_tests.rs")
    }

    /// The code: comments and the insides of texts are blanked, test modules are cut; lines keep their numbers.
    pub fn code(&self) -> String {
        without_tests(&without_texts(&self.text))
    }
}

/// The number of the line in which a position lies, from 1.
pub fn line_of(text: &str, position: usize) -> usize {
    1 + text.bytes().take(position).filter(|&byte| byte == b'\n').count()
}

/// The positions at which a word stands by itself.
pub fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let is_part = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    code.match_indices(word).map(|(position, _)| position).filter(move |&position| {
        let bytes = code.as_bytes();
        let before = position.checked_sub(1).and_then(|before| bytes.get(before));
        !is_part(before) && !is_part(bytes.get(position + word.len()))
    })
}

/// The position of the brace that closes the one at `open`.
pub fn closing_brace(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (position, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(position);
                }
            }
            _ => {}
        }
    }
    None
}

/// Reads the project's files, in the order of their paths.
pub fn read_all() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the project");
    let mut sources = Vec::new();
    walk(root, root, &mut sources);
    sources.sort_by(|left, right| left.path.cmp(&right.path));
    sources
}

fn walk(root: &Path, directory: &Path, sources: &mut Vec<Source>) {
    for entry in std::fs::read_dir(directory).expect("readable") {
        let path = entry.expect("readable").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if path.is_dir() {
            if !matches!(name.as_str(), "target" | ".git" | "node_modules" | "logmill-data" | "__pycache__") {
                walk(root, &path, sources);
            }
            continue;
        }
        let is_read = [".rs", ".toml", ".md", ".sh", ".py", ".yml", ".yaml", ".json", ".js", ".java", ".go"]
            .iter()
            .any(|ending| name.ends_with(ending));
        if let (true, Ok(text)) = (is_read, std::fs::read_to_string(&path)) {
            let relative = path.strip_prefix(root).expect("below the root");
            sources.push(Source { path: relative.to_string_lossy().into_owned(), text });
        }
    }
}

/// Blanks comments, and the insides of texts and characters.
fn without_texts(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => find(bytes, at, b"\n", 0),
            b'/' if bytes.get(at + 1) == Some(&b'*') => find(bytes, at + 2, b"*/", 2),
            b'"' => end_of_text(bytes, at),
            b'r' if is_raw_text(bytes, at) => end_of_raw_text(bytes, at),
            b'\'' => end_of_character(bytes, at),
            _ => {
                at += 1;
                continue;
            }
        };
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn find(bytes: &[u8], from: usize, wanted: &[u8], plus: usize) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    let found = rest.windows(wanted.len()).position(|window| window == wanted);
    found.map_or(bytes.len(), |position| from + position + plus)
}

fn end_of_text(bytes: &[u8], open: usize) -> usize {
    let mut at = open + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn is_raw_text(bytes: &[u8], at: usize) -> bool {
    let is_word =
        at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_') && bytes[at - 1] != b'b';
    let hashes = bytes[at + 1..].iter().take_while(|&&byte| byte == b'#').count();
    !is_word && bytes.get(at + 1 + hashes) == Some(&b'"')
}

fn end_of_raw_text(bytes: &[u8], at: usize) -> usize {
    let hashes = bytes[at + 1..].iter().take_while(|&&byte| byte == b'#').count();
    let mut close = vec![b'"'];
    close.resize(1 + hashes, b'#');
    find(bytes, at + 2 + hashes, &close, close.len())
}

/// A character, or a lone quote, which begins a lifetime.
fn end_of_character(bytes: &[u8], at: usize) -> usize {
    match (bytes.get(at + 1), bytes.get(at + 2)) {
        (Some(b'\\'), _) => find(bytes, at + 3, b"'", 1),
        (Some(_), Some(b'\'')) => at + 3,
        // Characters outside ASCII have up to four bytes.
        (Some(first), _) if *first >= 0x80 => find(bytes, at + 2, b"'", 1),
        _ => at + 1,
    }
}

/// Cuts what is compiled for tests only.
fn without_tests(code: &str) -> String {
    let mut out = code.to_owned();
    while let Some(start) = ["#[cfg(test)]", "#[cfg(all(test"].iter().filter_map(|mark| out.find(mark)).min()
    {
        let item = &out[start..];
        // What follows is an item with a body, or a statement without.
        let end = match (item.find('{'), item.find(';')) {
            (Some(brace), semicolon) if semicolon.is_none_or(|semicolon| brace < semicolon) => {
                closing_brace(&out, start + brace).map_or(out.len(), |close| close + 1)
            }
            (_, Some(semicolon)) => start + semicolon + 1,
            _ => out.len(),
        };
        let blank: String = out[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        out.replace_range(start..end, &blank);
    }
    out
}

#[test]
fn comments_and_texts_are_blanked() {
    let text = "a // \"x\n/* b\n */ c \"d\\\"{\" 'e' '\\'' b\"f\" r#\"g\"h\"# 'life j";
    let code = without_texts(text);
    assert_eq!(code.split_whitespace().collect::<Vec<_>>(), ["a", "c", "b", "life", "j"]);
    assert_eq!(code.len(), text.len());
    assert_eq!(line_of(&code, code.find('c').expect("kept")), 3);
}

#[test]
fn tests_are_cut() {
    let source =
        Source::invented("a.rs", "fn a() {}\n#[cfg(test)]\nmod tests {\n fn b() { \"}\" }\n}\nfn c() {}");
    let code = source.code();
    assert!(code.contains("fn a") && code.contains("fn c") && !code.contains("fn b"), "{code}");
    assert_eq!(line_of(&code, code.find("fn c").expect("kept")), 6);
    assert!(!Source::invented("a.rs", "#[cfg(test)]\nmod tests;\n").code().contains("mod"));
}

#[test]
fn words_stand_by_themselves() {
    assert_eq!(words("unsafe_op unsafe un_unsafe", "unsafe").collect::<Vec<_>>(), [10]);
}
