//! Regular expressions of RE2's language (KIP-848: `subscribedTopicRegex`), which matches in linear time, run by
//! an engine of the same kind. What the two languages write differently is translated; what RE2 does not know is
//! refused.

use regex::{Regex, RegexBuilder};

/// The memory that one expression may take, in bytes.
const SIZE_MAX: usize = 1 << 20;
/// How deep groups may nest.
const NESTING_MAX: u32 = 250;
/// The highest bound of a repetition that RE2 takes.
const REPETITIONS_MAX: u32 = 1000;

/// An expression that matches whole topic names.
///
/// # Errors
/// What is wrong with it.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    let translated = translate(pattern)?;
    // By itself first: what is unbalanced must not be balanced by the brackets around it.
    build(&translated)?;
    build(&format!(r"\A(?:{translated})\z"))
}

fn build(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(pattern)
        .size_limit(SIZE_MAX)
        .nest_limit(NESTING_MAX)
        .build()
        .map_err(|error| error.to_string().lines().last().unwrap_or("it cannot be read").to_owned())
}

fn translate(pattern: &str) -> Result<String, String> {
    let mut translated = String::with_capacity(pattern.len() + 8);
    let mut rest = pattern;
    while let Some(next) = rest.chars().next() {
        rest = match next {
            '\\' => escape(rest, &mut translated)?,
            '[' => class(rest, &mut translated)?,
            '(' => {
                check_flags(rest)?;
                copy(rest, 1, &mut translated)
            }
            '{' => {
                check_repetition(rest)?;
                repetition(rest, &mut translated)
            }
            _ => copy(rest, next.len_utf8(), &mut translated),
        };
    }
    Ok(translated)
}

fn copy<'a>(rest: &'a str, bytes: usize, translated: &mut String) -> &'a str {
    let (head, tail) = rest.split_at(bytes);
    translated.push_str(head);
    tail
}

/// An escape; `\Q…\E` quotes, and what only the engine knows is refused.
fn escape<'a>(rest: &'a str, translated: &mut String) -> Result<&'a str, String> {
    if let Some(quoted) = rest.strip_prefix(r"\Q") {
        let (literal, tail) = quoted.split_once(r"\E").unwrap_or((quoted, ""));
        translated.push_str(&regex::escape(literal));
        return Ok(tail);
    }
    let Some(escaped) = rest[1..].chars().next() else { return Err("it ends with a backslash".to_owned()) };
    let is_known = match escaped {
        letter if letter.is_ascii_alphabetic() => "AaBbDdfnPpSsrtvWwxz".contains(letter),
        // An octal number; a back reference is not of this language.
        digit if digit.is_ascii_digit() => {
            return octal(rest, translated).ok_or_else(|| format!("\\{digit} refers back"));
        }
        '<' | '>' => false,
        _ => true,
    };
    if !is_known || (escaped == 'b' && rest[2..].starts_with('{')) {
        return Err(format!("the escape \\{escaped} is not known"));
    }
    // Only punctuation may be escaped for the engine; RE2 takes any such character for itself.
    if escaped.is_ascii() || escaped.is_alphanumeric() {
        Ok(copy(rest, 1 + escaped.len_utf8(), translated))
    } else {
        translated.push(escaped);
        Ok(&rest[1 + escaped.len_utf8()..])
    }
}

fn octal<'a>(rest: &'a str, translated: &mut String) -> Option<&'a str> {
    let digits: String = rest[1..].chars().take(3).take_while(|digit| ('0'..='7').contains(digit)).collect();
    if digits.is_empty() || (digits.len() == 1 && digits != "0") {
        return None;
    }
    let code = u32::from_str_radix(&digits, 8).ok()?;
    translated.push_str(&format!(r"\x{{{code:x}}}"));
    Some(&rest[1 + digits.len()..])
}

/// A class: the engine's own operators in it, and a class within, mean the characters themselves in RE2.
fn class<'a>(rest: &'a str, translated: &mut String) -> Result<&'a str, String> {
    let mut tail = copy(rest, 1, translated);
    if let Some(negated) = tail.strip_prefix('^') {
        translated.push('^');
        tail = negated;
    }
    if let Some(literal) = tail.strip_prefix(']') {
        translated.push_str(r"\]");
        tail = literal;
    }
    while let Some(next) = tail.chars().next() {
        tail = match next {
            ']' => return Ok(copy(tail, 1, translated)),
            '\\' => escape(tail, translated)?,
            '[' if tail.starts_with("[:") && tail.contains(":]") => {
                let end = tail.find(":]").map_or(tail.len(), |at| at + 2);
                copy(tail, end, translated)
            }
            '[' | '&' | '~' => {
                translated.push('\\');
                copy(tail, 1, translated)
            }
            _ => copy(tail, next.len_utf8(), translated),
        };
    }
    Err("a class has no end".to_owned())
}

/// RE2 knows the flags `imsU`.
fn check_flags(rest: &str) -> Result<(), String> {
    let Some(group) = rest.strip_prefix("(?") else { return Ok(()) };
    if group.starts_with("P<") || group.starts_with('<') {
        return Ok(());
    }
    let flags: String = group.chars().take_while(|flag| !matches!(flag, ':' | ')')).collect();
    if flags.chars().all(|flag| "imsU-".contains(flag)) {
        Ok(())
    } else {
        Err(format!("the group (?{flags} is not known"))
    }
}

/// The bounds of a repetition `{n}`, `{n,}` or `{n,m}`; `None` if it is none, and a brace is a brace.
fn bounds(rest: &str) -> Option<(&str, &str)> {
    let inner = rest.strip_prefix('{')?.split_once('}')?.0;
    let (low, high) = inner.split_once(',').unwrap_or((inner, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    (!low.is_empty() && is_number(low) && is_number(high)).then_some((low, high))
}

fn check_repetition(rest: &str) -> Result<(), String> {
    let Some((low, high)) = bounds(rest) else { return Ok(()) };
    let fits = |text: &str| text.is_empty() || text.parse().is_ok_and(|bound: u32| bound <= REPETITIONS_MAX);
    if fits(low) && fits(high) { Ok(()) } else { Err(format!("a bound is above {REPETITIONS_MAX}")) }
}

fn repetition<'a>(rest: &'a str, translated: &mut String) -> &'a str {
    if bounds(rest).is_none() {
        translated.push('\\');
    }
    copy(rest, 1, translated)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        compile(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}")).is_match(name)
    }

    #[test]
    fn an_expression_matches_whole_names() {
        assert!(matches("orders-.*", "orders-eu"));
        assert!(!matches("orders", "orders-eu"));
        assert!(!matches("eu", "orders-eu"));
        assert!(matches("a|ab", "ab"));
        assert!(matches("", ""));
        assert!(!matches("", "a"));
    }

    #[test]
    fn what_re2_writes_differently_means_what_re2_means() {
        assert!(matches(r"\Qa.b\E.", "a.bc"));
        assert!(!matches(r"\Qa.b\E", "axb"));
        assert!(matches("[[a]", "["));
        assert!(matches("[a&&b]+", "a&b"));
        assert!(matches("[]a]+", "]a"));
        assert!(matches("[[:digit:]]+", "42"));
        assert!(matches("[a~~b]+", "a~b"));
        assert!(matches(r"t\055x", "t-x"));
        assert!(matches("a{2,3}", "aaa"));
        assert!(matches("a{,3}", "a{,3}"));
        assert!(matches("(?i)ORDERS", "orders"));
        assert!(matches("(?P<name>a)(?<other>b)(?:c)", "abc"));
        assert!(matches(r"[\d\-_]+", "4-2_"));
    }

    #[test]
    fn what_re2_does_not_know_is_refused() {
        for pattern in [
            "(",
            ")",
            "a)|(b",
            "[",
            "[a",
            "*",
            r"\",
            r"\1",
            r"(a)\2",
            "(?=a)",
            "(?!a)",
            "(?<=a)",
            "(?x)a",
            r"\b{start}",
            r"\<a",
            r"\u0041",
            "a{1001}",
            "a{2,1001}",
            r"\Z",
            "(?>a)",
        ] {
            assert!(compile(pattern).is_err(), "{pattern} was taken");
        }
    }

    #[test]
    fn an_expression_of_a_stranger_has_bounded_size() {
        assert!(compile("((((a{1000}){1000}){1000}){1000})").is_err());
        assert!(compile(&"(".repeat(100_000)).is_err());
        assert!(compile(&format!("{}a{}", "(".repeat(100_000), ")".repeat(100_000))).is_err());
        assert!(matches("(a*)*b", &format!("{}b", "a".repeat(10_000))));
    }
}
