//! TOML: tables and dotted keys flatten to Kafka's names.

use super::source::{ConfigError, Entry, Origin};
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The entries of a file, in the order of their keys.
///
/// # Errors
/// The text is not TOML, or a value has no meaning as a setting.
pub fn parse(text: &str, path: &Path) -> Result<Vec<Entry>, ConfigError> {
    let table = DeTable::parse(text).map_err(|error| syntax_error(text, path, &error))?;
    let mut entries = Vec::new();
    flatten("", table.get_ref(), &mut |key, value| {
        let origin = Origin::File { path: path.to_owned(), line: line_of(text, value.span().start) };
        let value = scalar(value.get_ref()).ok_or_else(|| {
            ConfigError::at(
                &origin,
                format!("the value of {key} is of a kind that no setting has"),
                "use text, a number, true, false, or a list of these",
            )
        })?;
        entries.push(Entry { key, value, origin, was_written_for_kafka: false });
        Ok(())
    })?;
    Ok(entries)
}

fn syntax_error(text: &str, path: &Path, error: &toml::de::Error) -> ConfigError {
    let line = error.span().map_or(1, |span| line_of(text, span.start));
    ConfigError::at(
        &Origin::File { path: path.to_owned(), line },
        format!("not valid TOML: {}", error.message()),
        "put text in quotes; where one key begins like another (max.connections and max.connections.per.ip), put \
         the whole key in quotes; a Java property file must be named .properties",
    )
}

fn line_of(text: &str, position: usize) -> usize {
    1 + text.bytes().take(position).filter(|&byte| byte == b'\n').count()
}

fn flatten<'a, 'i>(
    prefix: &str,
    table: &'a DeTable<'i>,
    take: &mut impl FnMut(String, &'a Spanned<DeValue<'i>>) -> Result<(), ConfigError>,
) -> Result<(), ConfigError> {
    for (name, value) in table {
        let key = if prefix.is_empty() {
            name.get_ref().to_string()
        } else {
            format!("{prefix}.{}", name.get_ref())
        };
        match value.get_ref() {
            DeValue::Table(inner) => flatten(&key, inner, take)?,
            _ => take(key, value)?,
        }
    }
    Ok(())
}

/// A value as Kafka's text; `None` if it has none.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.trim().to_owned()),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).ok().map(|number| number.to_string())
        }
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(flag) => Some(flag.to_string()),
        DeValue::Array(items) => {
            let items: Option<Vec<String>> = items.iter().map(|item| scalar(item.get_ref())).collect();
            items.map(|items| items.join(","))
        }
        DeValue::Table(_) | DeValue::Datetime(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        let entries = parse(text, Path::new("logmill.toml")).expect("valid");
        entries.into_iter().map(|entry| (entry.key, entry.value)).collect()
    }

    #[test]
    fn tables_and_dotted_keys_are_the_same() {
        let expected =
            [("log.dirs".to_owned(), "/a,/b".to_owned()), ("log.roll.ms".to_owned(), "1000".to_owned())];
        for text in [
            "log.dirs = ['/a', '/b']\nlog.roll.ms = 1_000",
            "[log]\ndirs = '/a,/b'\n[log.roll]\nms = 0x3e8",
            "'log.dirs' = '/a,/b'\n'log.roll.ms' = '1000'",
        ] {
            assert_eq!(pairs(text), expected, "{text}");
        }
    }

    #[test]
    fn values_become_text() {
        assert_eq!(
            pairs("a = true\nb = 0.5\nc = -1"),
            [
                ("a".to_owned(), "true".to_owned()),
                ("b".to_owned(), "0.5".to_owned()),
                ("c".to_owned(), "-1".to_owned()),
            ]
        );
    }

    #[test]
    fn errors_have_a_line() {
        let error = parse("a = 1\nb = /tmp\n", Path::new("x.toml")).expect_err("no quotes");
        assert!(error.cause.starts_with("x.toml:2: not valid TOML"), "{}", error.cause);
        let error = parse("a = 1\n\nb = 1979-05-27", Path::new("x.toml")).expect_err("a date");
        assert!(error.cause.starts_with("x.toml:3: the value of b"), "{}", error.cause);
        let error = parse("max.connections = 1\nmax.connections.per.ip = 2", Path::new("x.toml"));
        assert!(error.expect_err("one key is part of the other").remedy.contains("in quotes"));
    }
}
