//! How consumed records are written: raw for people and pipes, as JSON for programs.

use crate::client::Consumed;
use serde::Serialize;
use std::io::{self, Write};

/// What is written of each record besides its value.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) offset: bool,
    pub(super) headers: bool,
    pub(super) key: bool,
    pub(super) key_separator: String,
}

/// One line: the value as it is, and before it what was asked for. Null is written as `null`, as Kafka's own console
/// consumer does.
///
/// # Errors
/// The output cannot be written.
pub(super) fn write_text(record: &Consumed<'_>, shape: &Shape, output: &mut dyn Write) -> io::Result<()> {
    if shape.offset {
        write!(output, "Partition:{}\tOffset:{}\t", record.partition, record.offset)?;
    }
    if shape.headers {
        let mut is_first = true;
        for header in record.headers() {
            output.write_all(if is_first { b"" } else { b"," })?;
            is_first = false;
            output.write_all(header.key)?;
            output.write_all(b":")?;
            output.write_all(header.value.unwrap_or(b"null"))?;
        }
        output.write_all(if is_first { b"NO_HEADERS\t" } else { b"\t" })?;
    }
    if shape.key {
        output.write_all(record.key().unwrap_or(b"null"))?;
        output.write_all(shape.key_separator.as_bytes())?;
    }
    output.write_all(record.value().unwrap_or(b"null"))?;
    output.write_all(b"\n")
}

/// Bytes as a string, or, if they are not UTF-8, in base64.
#[derive(Serialize)]
#[serde(untagged)]
enum Text<'a> {
    Plain(&'a str),
    Encoded { base64: String },
}

impl<'a> Text<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        std::str::from_utf8(bytes).map_or_else(|_| Self::Encoded { base64: base64(bytes) }, Self::Plain)
    }
}

#[derive(Serialize)]
struct Header<'a> {
    key: Text<'a>,
    value: Option<Text<'a>>,
}

#[derive(Serialize)]
struct Line<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    timestamp_ms: i64,
    headers: Vec<Header<'a>>,
    key: Option<Text<'a>>,
    value: Option<Text<'a>>,
}

/// One JSON object on a line of its own. Bytes that are no text are an object with their base64 form.
///
/// # Errors
/// The output cannot be written.
pub(super) fn write_json(topic: &str, record: &Consumed<'_>, output: &mut dyn Write) -> io::Result<()> {
    let headers = record
        .headers()
        .map(|header| Header { key: Text::new(header.key), value: header.value.map(Text::new) });
    let line = Line {
        topic,
        partition: record.partition,
        offset: record.offset,
        timestamp_ms: record.timestamp_ms.0,
        headers: headers.collect(),
        key: record.key().map(Text::new),
        value: record.value().map(Text::new),
    };
    serde_json::to_writer(&mut *output, &line)?;
    output.write_all(b"\n")
}

/// The standard form with padding (RFC 4648).
fn base64(bytes: &[u8]) -> String {
    const SYMBOLS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut three = [0; 3];
        three[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        for place in 0..4 {
            let symbol = SYMBOLS[(bits >> (18 - 6 * place)) as usize & 0x3f];
            text.push(if place <= chunk.len() { char::from(symbol) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        let cases = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
        ];
        for (plain, encoded) in cases {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }
}
