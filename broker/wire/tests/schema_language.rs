//! The language of the descriptors: a mistake is reported with its line and cause.

#[path = "../build/descriptor.rs"]
#[expect(dead_code, reason = "the tests look at a few members only")]
mod descriptor;

use descriptor::{Versions, parse};

const SOURCE: &str = "\
api Sample 7 # a comment
about What a sample is for.

request 1-3 flexible 3+
  struct Shared 2+
    Id      uuid        2+
  Topics    []Topic     0+  null 2+
    Name    string      0+  ignorable
    Parts   []Shared    2+
  Leader    Shared      3+  tag 0 3+
  TimeoutMs int32       1-2 default 60000

response 1-3 flexible 3+
";

fn error(from: &str, to: &str) -> (usize, String) {
    assert!(SOURCE.contains(from), "{from} is in the descriptor");
    match parse(&SOURCE.replacen(from, to, 1)) {
        Ok(_) => panic!("{to} for {from} is accepted"),
        Err(error) => (error.line, error.message),
    }
}

#[test]
fn a_descriptor_is_read_as_written() {
    let sample = parse(SOURCE).unwrap_or_else(|error| panic!("line {}: {}", error.line, error.message));
    assert_eq!((sample.name.as_str(), sample.key), ("Sample", Some(7)));
    assert_eq!(sample.about, "What a sample is for.");
    let request = &sample.messages[0];
    assert_eq!(request.versions.to_string(), "1-3");
    assert_eq!(request.fields.len(), 3);
    assert_eq!(
        request.structs.iter().map(|declared| declared.name.as_str()).collect::<Vec<_>>(),
        ["Shared", "Topic"]
    );
    let [topics, leader, timeout] = request.fields.as_slice() else { panic!("three fields") };
    assert!(topics.is_array && topics.nullable.contains(2) && !topics.nullable.contains(1));
    assert_eq!((leader.tag, leader.tagged.to_string().as_str()), (Some(0), "3+"));
    assert_eq!((timeout.default.as_deref(), timeout.versions.to_string().as_str()), (Some("60000"), "1-2"));
    assert!(sample.messages[1].fields.is_empty());
}

#[test]
fn a_mistake_is_reported_with_its_line() {
    for (from, to, line, cause) in [
        ("api Sample 7", "api Sample", 1, "starts with `api NAME KEY`"),
        ("Sample 7", "Sample seven", 1, "`seven` is not a number"),
        ("about What a sample is for.", "about", 2, "one line of prose"),
        ("request 1-3 flexible 3+", "request 1-3", 4, "expected `request VERSIONS flexible VERSIONS`"),
        ("request 1-3", "request 3-1", 4, "`3-1` is not a range"),
        ("Shared 2+\n", "Shared\n", 5, "expected `struct NAME VERSIONS`"),
        ("uuid ", "guid ", 6, "`guid` is neither"),
        ("    Id ", "   Id ", 6, "two spaces a level"),
        ("null 2+", "nil 2+", 7, "`nil` is not an attribute"),
        ("    Name ", "      Name ", 8, "expected an indentation of 4 spaces"),
        ("0+  ignorable", "2+  ignorable", 7, "Topics: an element of the array has no bytes in version 1"),
        ("    Parts   []Shared ", "    Parts   []Sharing", 9, "the struct Sharing has no fields"),
        ("tag 0 3+", "tag x 3+", 10, "`x` is not a tag"),
        ("tag 0 3+", "tag 0 2+", 10, "tagged only in flexible versions"),
        (
            "Leader    Shared      3+  tag 0 3+",
            "Leader    Shared",
            10,
            "at least a name, a type and versions",
        ),
        ("default 60000", "default null", 11, "a default of null needs versions"),
        ("default 60000", "null 1+", 11, "never null"),
        ("1-2 default 60000", "1-2\n    Inner int8 1+", 12, "only a field whose type is a struct"),
        ("response 1-3", "reply 1-3", 13, "expected `response VERSIONS"),
        (
            "  Leader    Shared      3+  tag 0 3+",
            "  Topic     Topic       0+\n    Name  int8  0+",
            4,
            "declared twice",
        ),
    ] {
        let (found_line, message) = error(from, to);
        assert_eq!(found_line, line, "{message}");
        assert!(message.contains(cause), "{message}");
    }
}

#[test]
fn versions_read_as_ranges() {
    for (text, contained, outside) in [("3-13", 13, 14), ("9+", i16::MAX, 8), ("4", 4, 5), ("none", -1, 0)] {
        let versions = Versions::parse(text).expect("a range of versions");
        assert_eq!(versions.to_string(), text);
        assert!(versions.is_empty() || versions.contains(contained));
        assert!(!versions.contains(outside));
    }
    for text in ["", "-1", "+", "2-1", "a", "1-", "1+2"] {
        assert!(Versions::parse(text).is_none(), "{text}");
    }
}
