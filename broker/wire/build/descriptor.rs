//! The language of the descriptors in `schema/`, one file per Kafka API.
//!
//! ```text
//! api NAME KEY                        or `header NAME` for the two message headers, or `record NAME [TYPE]`
//! about One line of prose.
//!
//! request 3-13 flexible 9+            then `response …`; others have one section, `fields …`
//!   struct Shared 4+                  a struct that several fields use; its fields are indented under it
//!     …
//!   Field type versions [null V] [tag N V] [default X] [ignorable] [flexible none]
//!     …                               the fields of a struct that this field alone uses
//! ```
//!
//! Indentation is two spaces a level; `#` starts a comment. Versions are `3-13`, `9+`, `4` or `none`. Types
//! are `bool int8 int16 uint16 int32 uint32 int64 float64 string uuid bytes records`, a struct's name, or `[]`
//! and one of these. `null` names the versions in which a value may be null, `tag` a tagged field (KIP-482),
//! `default` what a reader assumes where the field is absent, `ignorable` that a writer may leave out a value
//! that the version cannot carry.

use std::collections::BTreeSet;
use std::fmt;

/// What one file declares.
pub struct Descriptor {
    /// Kafka's name of the API, the header or the record.
    pub name: String,
    /// The API's key; only APIs have one.
    pub key: Option<i16>,
    /// The number by which records of one partition are told apart: a key begins with it.
    pub record_type: Option<i16>,
    /// One line of prose.
    pub about: String,
    /// Request and response of an API, the one message of a header or record.
    pub messages: Vec<Message>,
}

/// A request, a response or a header.
pub struct Message {
    /// `request`, `response` or `fields`.
    pub role: String,
    /// The versions that can be decoded and encoded.
    pub versions: Versions,
    /// The versions with compact lengths and tagged fields.
    pub flexible: Versions,
    /// The fields of the message itself, in order.
    pub fields: Vec<Field>,
    /// All structs that are nested in the message.
    pub structs: Vec<Struct>,
}

/// A struct below a message.
pub struct Struct {
    /// Kafka's name.
    pub name: String,
    /// Its fields in order.
    pub fields: Vec<Field>,
}

/// One field.
pub struct Field {
    /// Kafka's name.
    pub name: String,
    /// The type, without arrays and nullability.
    pub base: Base,
    /// Whether the field is an array of the type.
    pub is_array: bool,
    /// The versions that have the field.
    pub versions: Versions,
    /// The versions in which it may be null.
    pub nullable: Versions,
    /// Its tag, if it is tagged in some versions.
    pub tag: Option<u32>,
    /// The versions in which it is tagged.
    pub tagged: Versions,
    /// The declared default; without one it is zero, false or empty.
    pub default: Option<String>,
    /// Whether a value may be dropped silently in versions without the field.
    pub ignorable: bool,
    /// Whether the field keeps its old encoding in flexible versions.
    pub never_flexible: bool,
    /// Where the field is declared.
    pub line: usize,
}

/// A type that is not an array.
#[derive(Clone, PartialEq, Eq)]
pub enum Base {
    /// One of the protocol's own types, by its name.
    Primitive(&'static str),
    /// A struct, by its name.
    Struct(String),
}

/// An inclusive range of versions; empty if `min > max`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// The first version.
    pub min: i16,
    /// The last version, `i16::MAX` for an open range.
    pub max: i16,
}

/// What is wrong with a descriptor, and in which line.
pub struct ParseError {
    /// Counted from 1.
    pub line: usize,
    /// The cause and what to do.
    pub message: String,
}

const PRIMITIVES: [&str; 12] = [
    "bool", "int8", "int16", "uint16", "int32", "uint32", "int64", "float64", "string", "uuid", "bytes",
    "records",
];

impl Versions {
    /// No version at all.
    pub const NONE: Self = Self { min: 0, max: -1 };

    /// Whether `version` is in the range.
    pub fn contains(self, version: i16) -> bool {
        self.min <= version && version <= self.max
    }

    /// Whether there is no version in the range.
    pub fn is_empty(self) -> bool {
        self.min > self.max
    }

    /// The versions in both ranges.
    pub fn intersect(self, other: Self) -> Self {
        let both = Self { min: self.min.max(other.min), max: self.max.min(other.max) };
        if both.is_empty() { Self::NONE } else { both }
    }

    /// Reads `3-13`, `9+`, `4` or `none`.
    pub fn parse(text: &str) -> Option<Self> {
        let versions = if text == "none" {
            return Some(Self::NONE);
        } else if let Some(min) = text.strip_suffix('+') {
            Self { min: min.parse().ok()?, max: i16::MAX }
        } else if let Some((min, max)) = text.split_once('-') {
            Self { min: min.parse().ok()?, max: max.parse().ok()? }
        } else {
            let only = text.parse().ok()?;
            Self { min: only, max: only }
        };
        (versions.min >= 0 && !versions.is_empty()).then_some(versions)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.min, self.max) {
            (min, max) if min > max => f.write_str("none"),
            (min, i16::MAX) => write!(f, "{min}+"),
            (min, max) if min == max => write!(f, "{min}"),
            (min, max) => write!(f, "{min}-{max}"),
        }
    }
}

/// A line that is neither empty nor only a comment.
struct Line<'a> {
    number: usize,
    depth: usize,
    words: Vec<&'a str>,
}

impl Line<'_> {
    fn error(&self, message: impl Into<String>) -> ParseError {
        ParseError { line: self.number, message: message.into() }
    }
}

fn lines(text: &str) -> Result<Vec<Line<'_>>, ParseError> {
    let mut lines = Vec::new();
    for (index, raw) in text.lines().enumerate() {
        let number = index + 1;
        let content = raw.split('#').next().unwrap_or_default();
        let words: Vec<&str> = content.split_whitespace().collect();
        if words.is_empty() {
            continue;
        }
        let spaces = content.len() - content.trim_start_matches(' ').len();
        if spaces % 2 != 0 || content.trim_start_matches(' ').starts_with('\t') {
            let message = "indent with two spaces a level".to_owned();
            return Err(ParseError { line: number, message });
        }
        lines.push(Line { number, depth: spaces / 2, words });
    }
    Ok(lines)
}

/// Reads one descriptor and checks that it is consistent.
pub fn parse(text: &str) -> Result<Descriptor, ParseError> {
    let lines = lines(text)?;
    let mut rest = lines.as_slice();
    let mut next = |what: &str| {
        let (line, others) = rest.split_first().ok_or_else(|| ParseError {
            line: text.lines().count(),
            message: format!("the file ends where {what} is expected"),
        })?;
        rest = others;
        Ok(line)
    };
    let title = next("`api NAME KEY`, `header NAME` or `record NAME`")?;
    let number = |text: &str| {
        text.parse().map(Some).map_err(|_| title.error(format!("`{text}` is not a number of 16 bits")))
    };
    let (name, key, record_type, roles): (_, _, _, &[&str]) = match title.words.as_slice() {
        ["api", name, key] => (*name, number(key)?, None, &["request", "response"]),
        ["header" | "record", name] => (*name, None, None, &["fields"]),
        ["record", name, record_type] => (*name, None, number(record_type)?, &["fields"]),
        _ => {
            return Err(
                title.error("a descriptor starts with `api NAME KEY`, `header NAME` or `record NAME`")
            );
        }
    };
    let about = next("`about`")?;
    if about.words[0] != "about" || about.words.len() < 2 {
        return Err(about.error("the second line is `about` and one line of prose"));
    }
    let mut descriptor = Descriptor {
        name: name.to_owned(),
        key,
        record_type,
        about: about.words[1..].join(" "),
        messages: Vec::new(),
    };
    for role in roles {
        let (message, others) = parse_message(role, rest, title)?;
        rest = others;
        descriptor.messages.push(message);
    }
    match rest.first() {
        Some(line) => Err(line.error("nothing may follow the last section")),
        None => Ok(descriptor),
    }
}

fn parse_message<'l, 't>(
    role: &str,
    lines: &'l [Line<'t>],
    title: &Line<'_>,
) -> Result<(Message, &'l [Line<'t>]), ParseError> {
    let Some((head, body)) = lines.split_first() else {
        return Err(title.error(format!("the section `{role}` is missing")));
    };
    let wanted = || head.error(format!("expected `{role} VERSIONS flexible VERSIONS`"));
    let &[found, versions, "flexible", flexible] = head.words.as_slice() else { return Err(wanted()) };
    if found != role || head.depth != 0 {
        return Err(wanted());
    }
    let mut message = Message {
        role: role.to_owned(),
        versions: parse_versions(head, versions)?,
        flexible: parse_versions(head, flexible)?,
        fields: Vec::new(),
        structs: Vec::new(),
    };
    let length = body.iter().position(|line| line.depth == 0).unwrap_or(body.len());
    let (mut body, others) = body.split_at(length);
    while let Some(("struct", line)) = body.first().map(|line| (line.words[0], line)) {
        let length = 1 + body[1..].iter().position(|line| line.depth == 1).unwrap_or(body.len() - 1);
        let &["struct", name, _] = line.words.as_slice() else {
            return Err(line.error("expected `struct NAME VERSIONS`"));
        };
        let fields = parse_fields(&body[1..length], 2, &mut message.structs)?;
        message.structs.push(Struct { name: name.to_owned(), fields });
        body = &body[length..];
    }
    message.fields = parse_fields(body, 1, &mut message.structs)?;
    check_message(head, &message)?;
    Ok((message, others))
}

fn parse_fields(
    mut lines: &[Line<'_>],
    depth: usize,
    structs: &mut Vec<Struct>,
) -> Result<Vec<Field>, ParseError> {
    let mut fields = Vec::new();
    while let Some((line, rest)) = lines.split_first() {
        if line.depth != depth {
            return Err(line.error(format!("expected an indentation of {} spaces", 2 * depth)));
        }
        let field = parse_field(line)?;
        let length = rest.iter().position(|line| line.depth <= depth).unwrap_or(rest.len());
        let (nested, rest) = rest.split_at(length);
        if !nested.is_empty() {
            let Base::Struct(name) = &field.base else {
                return Err(nested[0].error("only a field whose type is a struct can have fields below it"));
            };
            let nested_fields = parse_fields(nested, depth + 1, structs)?;
            structs.push(Struct { name: name.clone(), fields: nested_fields });
        }
        fields.push(field);
        lines = rest;
    }
    Ok(fields)
}

fn parse_field(line: &Line<'_>) -> Result<Field, ParseError> {
    let &[name, declared_type, versions, ref attributes @ ..] = line.words.as_slice() else {
        return Err(line.error("a field has at least a name, a type and versions"));
    };
    let (is_array, base) = match declared_type.strip_prefix("[]") {
        Some(base) => (true, base),
        None => (false, declared_type),
    };
    let base = match PRIMITIVES.iter().find(|&&primitive| primitive == base) {
        Some(primitive) => Base::Primitive(primitive),
        None if base.starts_with(|c: char| c.is_ascii_uppercase()) => Base::Struct(base.to_owned()),
        None => return Err(line.error(format!("`{base}` is neither a primitive type nor a struct's name"))),
    };
    let mut field = Field {
        name: name.to_owned(),
        base,
        is_array,
        versions: parse_versions(line, versions)?,
        nullable: Versions::NONE,
        tag: None,
        tagged: Versions::NONE,
        default: None,
        ignorable: false,
        never_flexible: false,
        line: line.number,
    };
    let mut attributes = attributes;
    while !attributes.is_empty() {
        attributes = match *attributes {
            ["null", versions, ref rest @ ..] => {
                field.nullable = parse_versions(line, versions)?;
                rest
            }
            ["tag", tag, versions, ref rest @ ..] => {
                field.tag = Some(tag.parse().map_err(|_| line.error(format!("`{tag}` is not a tag")))?);
                field.tagged = parse_versions(line, versions)?;
                rest
            }
            ["default", value, ref rest @ ..] => {
                field.default = Some(value.to_owned());
                rest
            }
            ["ignorable", ref rest @ ..] => {
                field.ignorable = true;
                rest
            }
            ["flexible", "none", ref rest @ ..] => {
                field.never_flexible = true;
                rest
            }
            [unknown, ..] => return Err(line.error(format!("`{unknown}` is not an attribute of a field"))),
            [] => attributes,
        };
    }
    Ok(field)
}

fn parse_versions(line: &Line<'_>, text: &str) -> Result<Versions, ParseError> {
    Versions::parse(text).ok_or_else(|| line.error(format!("`{text}` is not a range of versions")))
}

fn check_message(head: &Line<'_>, message: &Message) -> Result<(), ParseError> {
    let mut names = BTreeSet::new();
    for declared in &message.structs {
        if !names.insert(declared.name.as_str()) {
            return Err(head.error(format!("the struct {} is declared twice", declared.name)));
        }
    }
    let all_fields = message.structs.iter().map(|declared| &declared.fields).chain([&message.fields]);
    for fields in all_fields {
        for field in fields {
            check_field(field, message, &names).map_err(|message| ParseError {
                line: field.line,
                message: format!("{}: {message}", field.name),
            })?;
        }
    }
    Ok(())
}

fn check_field(field: &Field, message: &Message, structs: &BTreeSet<&str>) -> Result<(), String> {
    if let Base::Struct(name) = &field.base
        && !structs.contains(name.as_str())
    {
        return Err(format!("the struct {name} has no fields; declare them below the field"));
    }
    let can_be_null = field.is_array
        || matches!(field.base, Base::Struct(_) | Base::Primitive("string" | "bytes" | "records"));
    if !field.nullable.is_empty() && !can_be_null {
        return Err("this type is never null".to_owned());
    }
    if field.default.as_deref() == Some("null") && field.nullable.is_empty() {
        return Err("a default of null needs versions in which the field may be null".to_owned());
    }
    let tagged = field.tagged.intersect(message.versions);
    if tagged.intersect(message.flexible) != tagged || tagged.intersect(field.versions) != tagged {
        return Err("a field can be tagged only in flexible versions that have the field".to_owned());
    }
    if let Some(version) = version_without_bytes(field, message) {
        return Err(format!("an element of the array has no bytes in version {version}"));
    }
    if field.default.is_some() && field.is_array && field.default.as_deref() != Some("null") {
        return Err("an array's default is empty or null".to_owned());
    }
    Ok(())
}

/// The first version in which elements of an array would take no bytes, if there is one: the reader holds
/// counts to the bytes that remain, which is right only if every element takes at least one.
fn version_without_bytes(field: &Field, message: &Message) -> Option<i16> {
    let Base::Struct(name) = &field.base else { return None };
    let element = message.structs.iter().find(|declared| declared.name == *name)?;
    (message.versions.min..=message.versions.max)
        .filter(|&version| field.is_array && field.versions.contains(version))
        .filter(|&version| !message.flexible.contains(version))
        .find(|&version| !element.fields.iter().any(|nested| nested.versions.contains(version)))
}
