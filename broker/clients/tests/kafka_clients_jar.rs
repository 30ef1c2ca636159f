//! The descriptors against Kafka's own message definitions, which the `kafka-clients` jar carries: field by
//! field and version by version.
//!
//! `LOGMILL_KAFKA_JARS` has the paths of the jars of kafka-clients 4.4.0 and kafka-group-coordinator 4.3.1, which has the
//! records of groups, with a colon between them. Without it nothing is compared, except that in the Java stage
//! (`CI=true` and `LOGMILL_JAVA_STAGE=1`) its absence is a failure.

#[path = "../../wire/build/descriptor.rs"]
#[expect(dead_code, reason = "the prose is for the generated code")]
mod descriptor;

use descriptor::{Base, Descriptor, Field, Message, Versions};
use flate2::read::DeflateDecoder;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Where the jar keeps the definitions.
const FOLDER: &str = "common/message/";

/// The members of a field that Kafka's definitions may have. A new one needs a decision, so it fails the test.
const KNOWN_MEMBERS: [&str; 14] = [
    // These decide about bytes, and are compared.
    "name",
    "type",
    "versions",
    "nullableVersions",
    "tag",
    "taggedVersions",
    "default",
    "ignorable",
    "flexibleVersions",
    "fields",
    // These do not.
    "about",
    "entityType",
    "mapKey",
    "zeroCopy",
];

#[test]
fn every_descriptor_is_that_of_kafka() {
    let Some(jars) = jar_paths(&|name| env::var(name).ok()) else {
        eprintln!("skipped: LOGMILL_KAFKA_JARS does not name the jars with Kafka's message definitions");
        return;
    };
    let definitions: BTreeMap<String, Value> =
        jars.iter().flat_map(|jar| definitions(&fs::read(jar).expect("the jar can be read"))).collect();
    let mut compared = 0;
    for descriptor in descriptors() {
        for message in &descriptor.messages {
            let name = kafka_name(&descriptor, message);
            let definition = definitions.get(&name).unwrap_or_else(|| panic!("no jar has {name}"));
            compared += compare(&name, &descriptor, message, definition);
        }
    }
    assert!(compared > 1000, "only {compared} fields were compared");
}

#[test]
fn the_jar_may_be_missing_only_outside_the_java_stage() {
    let with = |set: &'static [(&str, &str)]| {
        move |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    };
    assert_eq!(jar_paths(&with(&[])), None);
    assert_eq!(jar_paths(&with(&[("CI", "true")])), None);
    let two = vec![PathBuf::from("a.jar"), PathBuf::from("b.jar")];
    assert_eq!(jar_paths(&with(&[("LOGMILL_KAFKA_JARS", "a.jar:b.jar")])), Some(two));
    let missing = || jar_paths(&with(&[("CI", "true"), ("LOGMILL_JAVA_STAGE", "1")]));
    assert!(std::panic::catch_unwind(missing).is_err());
}

#[test]
fn a_difference_is_found() {
    const SOURCE: &str = "api Sample 1\nabout Nothing.\nrequest 0-2 flexible 2+\n  Names  []string  1+  null 2+\n  \
                          Epoch  int32  0+  default -1  ignorable\nresponse 0-2 flexible 2+\n";
    const DEFINITION: &str = r#"{ "apiKey": 1, "validVersions": "0-2", "flexibleVersions": "2+", "fields": [
        { "name": "Names", "type": "[]string", "versions": "1+", "nullableVersions": "2+", "about": "a // b" },
        { "name": "Epoch", "type": "int32", "versions": "0+", "default": -1, "ignorable": true } // the epoch
    ]}"#;
    let differs = |from: &str, to: &str| {
        let descriptor = parse(&SOURCE.replace(from, to));
        let definition = json(DEFINITION);
        std::panic::catch_unwind(|| {
            compare("SampleRequest", &descriptor, &descriptor.messages[0], &definition)
        })
        .is_err()
    };
    assert!(!differs("Names", "Names"), "the descriptor is the definition's");
    for (from, to) in [
        ("Names", "Nimes"),
        ("[]string", "[]bytes"),
        ("[]string", "string"),
        ("1+", "0+"),
        ("1+  null", "1-1  null"),
        ("null 2+", "null 1+"),
        ("null 2+", "null 2+  default null"),
        ("null 2+", "tag 0 2+"),
        ("default -1", "default 1"),
        ("  ignorable", ""),
        ("  ignorable", "  ignorable  flexible none"),
        ("  ignorable", "  ignorable\n  More  int8  0+"),
        ("  Names  []string  1+  null 2+\n", ""),
        ("request 0-2 flexible 2+", "request 0-2 flexible 1+"),
        ("request 0-2", "request 0-1"),
        ("Sample 1", "Sample 2"),
    ] {
        assert!(differs(from, to), "{to} for {from} goes unnoticed");
    }
}

fn jar_paths(variable: &dyn Fn(&str) -> Option<String>) -> Option<Vec<PathBuf>> {
    let paths = variable("LOGMILL_KAFKA_JARS").map(|paths| paths.split(':').map(PathBuf::from).collect());
    let java_stage =
        variable("CI").as_deref() == Some("true") && variable("LOGMILL_JAVA_STAGE").as_deref() == Some("1");
    assert!(
        paths.is_some() || !java_stage,
        "the Java stage needs LOGMILL_KAFKA_JARS, the paths of the jars of kafka-clients and kafka-group-coordinator"
    );
    paths
}

fn descriptors() -> Vec<Descriptor> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wire/schema");
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("the schema folder exists")
        .map(|entry| entry.expect("the schema folder can be listed").path())
        .collect();
    files.sort();
    files.iter().map(|file| parse(&fs::read_to_string(file).expect("a descriptor can be read"))).collect()
}

fn parse(source: &str) -> Descriptor {
    descriptor::parse(source).unwrap_or_else(|error| panic!("line {}: {}", error.line, error.message))
}

fn kafka_name(descriptor: &Descriptor, message: &Message) -> String {
    let suffix = match message.role.as_str() {
        "request" => "Request",
        "response" => "Response",
        _ => "",
    };
    format!("{}{suffix}", descriptor.name)
}

/// Compares one message and returns how many fields there were, counted once per version.
fn compare(name: &str, descriptor: &Descriptor, message: &Message, definition: &Value) -> usize {
    let number = descriptor.key.or(descriptor.record_type);
    assert_eq!(number.map(i64::from), definition["apiKey"].as_i64(), "the key of {name}");
    let valid = versions(&definition["validVersions"]);
    assert_eq!(message.versions.to_string(), valid.to_string(), "the versions of {name}");
    let flexible = versions(&definition["flexibleVersions"]);
    let mut compared = 0;
    for version in valid.min..=valid.max {
        assert_eq!(
            message.flexible.contains(version),
            flexible.contains(version),
            "{name} v{version} flexible"
        );
        let mut ours = Vec::new();
        our_fields(message, &message.fields, version, 1, &mut ours);
        let mut theirs = Vec::new();
        their_fields(definition, &definition["fields"], version, 1, &mut theirs);
        assert_eq!(ours, theirs, "the fields of {name} v{version}, ours left");
        compared += ours.len();
    }
    compared
}

/// What one field is in one version, in words.
struct Shown<'a> {
    name: &'a str,
    declared_type: &'a str,
    present: bool,
    nullable: bool,
    tag: Option<u64>,
    default: String,
    ignorable: bool,
    never_flexible: bool,
}

impl Shown<'_> {
    fn line(&self, depth: usize) -> String {
        let Self { name, declared_type, present, nullable, tag, default, ignorable, never_flexible } = self;
        format!(
            "{:indent$}{name}: {declared_type}, present {present}, nullable {nullable}, tag {tag:?}, \
             default {default}, ignorable {ignorable}, never flexible {never_flexible}",
            "",
            indent = 2 * depth
        )
    }
}

fn our_fields(message: &Message, fields: &[Field], version: i16, depth: usize, out: &mut Vec<String>) {
    for field in fields {
        let base = match &field.base {
            Base::Primitive(name) => name,
            Base::Struct(name) => name.as_str(),
        };
        let declared_type = format!("{}{base}", if field.is_array { "[]" } else { "" });
        let shown = Shown {
            name: &field.name,
            declared_type: &declared_type,
            present: field.versions.contains(version),
            nullable: field.nullable.contains(version),
            tag: field.tag.map(u64::from).filter(|_| field.tagged.contains(version)),
            default: default(&declared_type, field.default.as_deref()),
            ignorable: field.ignorable,
            never_flexible: field.never_flexible,
        };
        out.push(shown.line(depth));
        if let Base::Struct(name) = &field.base {
            let nested = message.structs.iter().find(|declared| declared.name == *name);
            let nested = nested.expect("the parser knows every struct");
            our_fields(message, &nested.fields, version, depth + 1, out);
        }
    }
}

fn their_fields(definition: &Value, fields: &Value, version: i16, depth: usize, out: &mut Vec<String>) {
    for field in fields.as_array().expect("fields are a list") {
        for member in field.as_object().expect("a field is an object").keys() {
            assert!(KNOWN_MEMBERS.contains(&member.as_str()), "a field has the unknown member {member}");
        }
        let declared_type = field["type"].as_str().expect("a field has a type");
        let declared_default = match &field["default"] {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        };
        let shown = Shown {
            name: field["name"].as_str().expect("a field has a name"),
            declared_type,
            present: versions(&field["versions"]).contains(version),
            nullable: versions(&field["nullableVersions"]).contains(version),
            tag: field["tag"].as_u64().filter(|_| versions(&field["taggedVersions"]).contains(version)),
            default: default(declared_type, declared_default.as_deref()),
            ignorable: field["ignorable"] == true,
            never_flexible: field["flexibleVersions"] == "none",
        };
        out.push(shown.line(depth));
        let base = declared_type.trim_start_matches("[]");
        if !base.starts_with(char::is_uppercase) {
            continue;
        }
        let shared = definition["commonStructs"].as_array().into_iter().flatten();
        let shared = shared.into_iter().find(|shared| shared["name"] == base).map(|shared| &shared["fields"]);
        let nested = field.get("fields").or(shared).expect("a struct has fields");
        their_fields(definition, nested, version, depth + 1, out);
    }
}

/// The default that applies, so that leaving it out and writing out the usual one are the same.
fn default(declared_type: &str, declared: Option<&str>) -> String {
    let declared = declared.filter(|text| !text.is_empty());
    match declared_type {
        "bool" => declared.unwrap_or("false").to_owned(),
        "int8" | "int16" | "uint16" | "int32" | "uint32" | "int64" => {
            let text = declared.unwrap_or("0");
            let number = match text.strip_prefix("0x") {
                Some(digits) => i64::from_str_radix(digits, 16),
                None => text.parse(),
            };
            number.expect("a number's default is a number").to_string()
        }
        "records" => "null".to_owned(),
        _ => declared.unwrap_or("empty").to_owned(),
    }
}

fn versions(text: &Value) -> Versions {
    text.as_str().map_or(Versions::NONE, |text| {
        Versions::parse(text).unwrap_or_else(|| panic!("{text} is not a range of versions"))
    })
}

/// Kafka's JSON has comments.
fn json(source: &str) -> Value {
    let without_comments: Vec<&str> = source.lines().map(|line| &line[..comment_start(line)]).collect();
    serde_json::from_str(&without_comments.join("\n")).expect("a definition is JSON")
}

fn comment_start(line: &str) -> usize {
    let mut in_string = false;
    let mut previous = 0;
    for (at, byte) in line.bytes().enumerate() {
        match byte {
            b'"' if previous != b'\\' => in_string = !in_string,
            b'/' if previous == b'/' && !in_string => return at - 1,
            _ => {}
        }
        previous = byte;
    }
    line.len()
}

/// The definitions in a jar, by name, read through the zip archive's central directory.
fn definitions(jar: &[u8]) -> BTreeMap<String, Value> {
    const END_BYTES: usize = 22;
    let end = (0..=jar.len() - END_BYTES)
        .rev()
        .find(|&at| jar[at..].starts_with(b"PK\x05\x06"))
        .expect("a jar is a zip archive");
    let count = number(jar, end + 10, 2);
    let mut at = number(jar, end + 16, 4);
    let mut definitions = BTreeMap::new();
    for _ in 0..count {
        assert!(jar[at..].starts_with(b"PK\x01\x02"), "an entry of the central directory");
        let name_length = number(jar, at + 28, 2);
        let name = &jar[at + 46..at + 46 + name_length];
        let name = std::str::from_utf8(name).expect("a file's name is UTF-8");
        if let Some(name) = name.strip_prefix(FOLDER).and_then(|name| name.strip_suffix(".json")) {
            definitions.insert(name.to_owned(), json(&content(jar, at)));
        }
        at += 46 + name_length + number(jar, at + 30, 2) + number(jar, at + 32, 2);
    }
    definitions
}

/// The text of the file whose entry in the central directory is at `entry`.
fn content(jar: &[u8], entry: usize) -> String {
    let method = number(jar, entry + 10, 2);
    let packed_bytes = number(jar, entry + 20, 4);
    let local = number(jar, entry + 42, 4);
    let start = local + 30 + number(jar, local + 26, 2) + number(jar, local + 28, 2);
    let packed = &jar[start..start + packed_bytes];
    let mut text = String::new();
    match method {
        0 => text.push_str(std::str::from_utf8(packed).expect("a definition is UTF-8")),
        8 => {
            DeflateDecoder::new(packed).read_to_string(&mut text).expect("a definition can be inflated");
        }
        other => panic!("a definition is packed with the unknown method {other}"),
    }
    text
}

/// A little-endian number of the zip format.
fn number(bytes: &[u8], at: usize, length: usize) -> usize {
    bytes[at..at + length].iter().rev().fold(0, |number, &byte| number << 8 | usize::from(byte))
}
