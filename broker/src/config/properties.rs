//! Java's property files, by the rules of `java.util.Properties.load`.
//!
//! A logical line is a natural line, joined with the next one where it ends in an odd number of backslashes; the
//! blanks at the start of the next one are dropped. A line whose first character is `#` or `!` is a comment, except
//! where it continues another. The key ends at the first `=`, `:` or blank that has no backslash.

use super::source::{ConfigError, Entry, Origin};
use std::path::Path;

/// The entries of a file, in their order; Java lets the last one of a key win.
///
/// # Errors
/// A `\u` is not followed by four hexadecimal digits.
pub fn parse(text: &str, path: &Path) -> Result<Vec<Entry>, ConfigError> {
    let mut entries = Vec::new();
    for (line, logical) in logical_lines(text) {
        let origin = Origin::File { path: path.to_owned(), line };
        let (key, value) = split(&logical);
        let unescaped = |part| {
            unescape(part).map_err(|escape| {
                ConfigError::at(
                    &origin,
                    format!("{escape} is not an escape"),
                    "write \\u and four hexadecimal digits, or \\\\ for a backslash",
                )
            })
        };
        let (key, value) = (unescaped(key)?, unescaped(value)?);
        entries.push(Entry { key, value: value.trim().to_owned(), origin, was_written_for_kafka: true });
    }
    Ok(entries)
}

const fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\u{c}')
}

/// The logical lines that are neither empty nor comments, each with the number of its first natural line.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let unified = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut logical: Vec<(usize, String)> = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (index, natural) in unified.split('\n').enumerate() {
        let stripped = natural.trim_start_matches(is_blank);
        // A continuation of nothing is a fresh line, in which a comment may begin.
        let (line, mut so_far) = match open.take().filter(|(_, so_far)| !so_far.is_empty()) {
            Some(continued) => continued,
            None if stripped.is_empty() || stripped.starts_with(['#', '!']) => continue,
            None => (index + 1, String::new()),
        };
        let backslashes = stripped.len() - stripped.trim_end_matches('\\').len();
        if backslashes % 2 == 1 {
            so_far.push_str(&stripped[..stripped.len() - 1]);
            open = Some((line, so_far));
        } else {
            so_far.push_str(stripped);
            logical.push((line, so_far));
        }
    }
    logical.extend(open);
    logical.retain(|(_, line)| !line.is_empty());
    logical
}

/// A logical line's key and value, still with their escapes.
fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line
        .char_indices()
        .find(|&(_, character)| {
            let ends = !escaped && (is_blank(character) || character == '=' || character == ':');
            escaped = character == '\\' && !escaped;
            ends
        })
        .map_or(line.len(), |(position, _)| position);
    let (key, rest) = line.split_at(end);
    let rest = rest.trim_start_matches(is_blank);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (key, rest.trim_start_matches(is_blank))
}

/// Resolves escapes; an error is the escape that is none.
fn unescape(text: &str) -> Result<String, String> {
    // UTF-16, because `\u` names units of it: a character beyond the first plane is written as two escapes.
    let mut units: Vec<u16> = Vec::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        let resolved = match character {
            '\\' => match characters.next() {
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('f') => '\u{c}',
                Some('u') => {
                    let digits: String = characters.by_ref().take(4).collect();
                    let is_hex = digits.len() == 4 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
                    match u16::from_str_radix(&digits, 16) {
                        Ok(unit) if is_hex => units.push(unit),
                        _ => return Err(format!("\\u{digits}")),
                    }
                    continue;
                }
                Some(other) => other,
                None => continue,
            },
            other => other,
        };
        units.extend_from_slice(resolved.encode_utf16(&mut [0; 2]));
    }
    Ok(String::from_utf16_lossy(&units))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(usize, String, String)> {
        parse(text, Path::new("server.properties"))
            .expect("valid")
            .into_iter()
            .map(|entry| match entry.origin {
                Origin::File { line, .. } => (line, entry.key, entry.value),
                other => panic!("{other}"),
            })
            .collect()
    }

    fn pair(text: &str) -> (String, String) {
        let (_, key, value) = pairs(text).pop().expect("one");
        (key, value)
    }

    #[test]
    fn separators() {
        for text in ["a.b=c", "a.b:c", "a.b c", "a.b\tc", "  a.b = c", "a.b : c", "a.b=c  "] {
            assert_eq!(pair(text), ("a.b".into(), "c".into()), "{text}");
        }
        assert_eq!(pair("a=b=c"), ("a".into(), "b=c".into()));
        assert_eq!(pair("a = :b"), ("a".into(), ":b".into()));
        assert_eq!(pair("alone"), ("alone".into(), String::new()));
        assert_eq!(pair("listeners=PLAINTEXT://:9092"), ("listeners".into(), "PLAINTEXT://:9092".into()));
    }

    #[test]
    fn comments_and_line_ends() {
        let text = "# one\r\n  ! two\r\rkey=value # not a comment\n\n\u{c}\nlast=1";
        assert_eq!(
            pairs(text),
            [(4, "key".into(), "value # not a comment".into()), (7, "last".into(), "1".into())]
        );
    }

    #[test]
    fn continuations() {
        assert_eq!(
            pairs("a=1,\\\n   2,\\\n\t# 3\nb=x"),
            [(1, "a".into(), "1,2,# 3".into()), (4, "b".into(), "x".into())]
        );
        assert_eq!(pair("path=c:\\\\"), ("path".into(), "c:\\".into()), "an even number does not continue");
        assert_eq!(pairs("a=1\\\n\nb=2").len(), 2, "an empty line ends the continuation");
        assert_eq!(pair("a=1\\"), ("a".into(), "1".into()));
        assert_eq!(pairs("# comment \\\na=1"), [(2, "a".into(), "1".into())]);
        assert_eq!(pairs("\\\n\\\n"), []);
        assert_eq!(pairs("\\\n# comment\na=1"), [(3, "a".into(), "1".into())]);
    }

    #[test]
    fn escapes() {
        assert_eq!(pair("a\\ b\\=c\\:d=e"), ("a b=c:d".into(), "e".into()));
        assert_eq!(pair("k=\\u00e9\\t\\uD83D\\uDE00\\z"), ("k".into(), "\u{e9}\t\u{1f600}z".into()));
        for text in ["k=\\u12", "k=\\u12g4", "k=\\u+123"] {
            let error = parse(text, Path::new("f")).expect_err("not an escape");
            assert!(error.cause.starts_with("f:1: \\u"), "{}", error.cause);
        }
    }
}
