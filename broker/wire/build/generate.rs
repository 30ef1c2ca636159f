//! Turns descriptors into Rust: one module per API, with a struct per message and per nested struct.

use crate::descriptor::{Base, Descriptor, Field, Message, Struct, Versions};
use std::collections::BTreeSet;
use std::fmt::Write;

/// A struct to generate: a message itself or one nested in it.
struct Item<'d> {
    rust_name: String,
    kafka_name: String,
    fields: &'d [Field],
}

/// What the fields of one message share.
struct Context<'d> {
    versions: Versions,
    flexible: Versions,
    items: Vec<Item<'d>>,
    /// Kafka names of structs that hold views of the decoded message, and so a lifetime.
    borrowing: BTreeSet<&'d str>,
    root_borrows: bool,
}

/// The source of all modules.
pub fn generate(descriptors: &[Descriptor]) -> Result<String, String> {
    let mut out = String::new();
    for descriptor in descriptors {
        module(&mut out, descriptor).map_err(|message| format!("{}: {message}", descriptor.name))?;
    }
    table(&mut out, descriptors);
    each_message(&mut out, descriptors);
    Ok(out)
}

macro_rules! line {
    ($out:expr, $($argument:tt)*) => {{
        // Writing to a string cannot fail.
        let _ = writeln!($out, $($argument)*);
    }};
}

fn module(out: &mut String, descriptor: &Descriptor) -> Result<(), String> {
    let name = &descriptor.name;
    line!(out, "/// {}", descriptor.about);
    line!(
        out,
        "#[allow(clippy::style, clippy::complexity, reason = \"nobody reads or edits generated code\")]"
    );
    line!(out, "pub mod {} {{", snake(name));
    line!(out, "use super::generated_prelude::*;");
    let first = &descriptor.messages[0];
    if descriptor.messages.iter().any(|message| message.versions != first.versions) {
        return Err("request and response must have the same versions".to_owned());
    }
    if let Some(key) = descriptor.key {
        line!(out, "/// The API's key.\npub const KEY: i16 = {key};");
        line!(out, "/// Kafka's name of the API.\npub const API_NAME: &str = {name:?};");
    }
    if let Some(record_type) = descriptor.record_type {
        line!(
            out,
            "/// The type that keys of such records begin with.\npub const RECORD_TYPE: i16 = {record_type};"
        );
    }
    line!(out, "/// The versions that can be decoded and encoded.");
    line!(
        out,
        "pub const VERSIONS: core::ops::RangeInclusive<i16> = {}..={};",
        first.versions.min,
        first.versions.max
    );
    line!(out, "/// The first version with compact lengths and tagged fields (KIP-482).");
    line!(out, "pub const FLEXIBLE_FROM: i16 = {};", flexible_from(first));
    let taken: BTreeSet<&str> = first.structs.iter().map(|declared| declared.name.as_str()).collect();
    let mut contexts = Vec::new();
    for message in &descriptor.messages {
        let context = context(descriptor, message, &taken);
        for index in 0..context.items.len() {
            item(out, &context, index);
        }
        message_impl(out, message, &context);
        contexts.push(context);
    }
    if let (Some(key), [request, response]) = (descriptor.key, contexts.as_slice()) {
        line!(out, "impl<'a> ApiRequest<'a> for Request{} {{", lifetime(request.root_borrows));
        line!(out, "const KEY: i16 = {key};");
        line!(out, "type Response<'b> = Response{};", if response.root_borrows { "<'b>" } else { "" });
        line!(out, "}}");
    }
    line!(out, "}}");
    Ok(())
}

fn context<'d>(
    descriptor: &Descriptor,
    message: &'d Message,
    request_structs: &BTreeSet<&str>,
) -> Context<'d> {
    let root = root_name(descriptor, message);
    let mut items = vec![Item {
        rust_name: root.to_owned(),
        kafka_name: kafka_name(descriptor, root),
        fields: &message.fields,
    }];
    for Struct { name, fields } in &message.structs {
        // Kafka lets a request and its response use one name for two structs.
        let prefix = if message.role == "response" && request_structs.contains(name.as_str()) {
            "Response"
        } else {
            ""
        };
        items.push(Item { rust_name: format!("{prefix}{name}"), kafka_name: name.clone(), fields });
    }
    let mut borrowing = BTreeSet::new();
    loop {
        let before = borrowing.len();
        for Struct { name, fields } in &message.structs {
            if fields.iter().any(|field| borrows(field, &borrowing)) {
                borrowing.insert(name.as_str());
            }
        }
        if borrowing.len() == before {
            break;
        }
    }
    let root_borrows = message.fields.iter().any(|field| borrows(field, &borrowing));
    Context { versions: message.versions, flexible: message.flexible, items, borrowing, root_borrows }
}

fn borrows(field: &Field, borrowing: &BTreeSet<&str>) -> bool {
    field.is_array
        || match &field.base {
            Base::Primitive(name) => matches!(*name, "string" | "bytes" | "records"),
            Base::Struct(name) => borrowing.contains(name.as_str()),
        }
}

fn lifetime(borrows: bool) -> &'static str {
    if borrows { "<'a>" } else { "" }
}

fn flexible_from(message: &Message) -> i16 {
    if message.flexible.is_empty() { i16::MAX } else { message.flexible.min }
}

impl Context<'_> {
    fn borrows(&self, index: usize) -> bool {
        if index == 0 {
            self.root_borrows
        } else {
            self.borrowing.contains(self.items[index].kafka_name.as_str())
        }
    }

    /// The Rust type of a value of the field that is not null.
    fn value_type(&self, field: &Field) -> String {
        let base = match &field.base {
            Base::Primitive(name) => match *name {
                "bool" => "bool",
                "int8" => "i8",
                "int16" => "i16",
                "uint16" => "u16",
                "int32" => "i32",
                "uint32" => "u32",
                "int64" => "i64",
                "float64" => "f64",
                "uuid" => "Uuid",
                "string" => "Cow<'a, str>",
                "bytes" => "Cow<'a, [u8]>",
                _ => "Records<'a>",
            }
            .to_owned(),
            Base::Struct(name) => {
                let index = self
                    .items
                    .iter()
                    .skip(1)
                    .position(|item| item.kafka_name == *name)
                    .map_or(0, |at| at + 1);
                format!("{}{}", self.items[index].rust_name, lifetime(self.borrows(index)))
            }
        };
        if field.is_array { format!("Array<'a, {base}>") } else { base }
    }

    /// A condition over `format.version`: whether it is in `versions`. `None` if that is always so.
    fn condition(&self, versions: Versions) -> Option<String> {
        let clamped = versions.intersect(self.versions);
        if clamped.is_empty() {
            return Some("false".to_owned());
        }
        let from = (clamped.min > self.versions.min).then(|| format!("format.version >= {}", clamped.min));
        let to = (clamped.max < self.versions.max).then(|| format!("format.version <= {}", clamped.max));
        match (from, to) {
            (Some(_), Some(_)) => {
                Some(format!("({}..={}).contains(&format.version)", clamped.min, clamped.max))
            }
            (one, None) | (None, one) => one,
        }
    }
}

/// Whether the Rust type is an `Option`.
fn is_option(field: &Field) -> bool {
    !field.nullable.is_empty()
}

fn default_is_null(field: &Field) -> bool {
    // A record set's default is null wherever it can be.
    field.default.as_deref() == Some("null")
        || (is_option(field) && !field.is_array && field.base == Base::Primitive("records"))
}

/// The default of a value that is not null.
fn default_value(field: &Field) -> String {
    if field.is_array {
        return "Array::default()".to_owned();
    }
    let declared = field.default.as_deref();
    match &field.base {
        Base::Struct(_) | Base::Primitive("uuid" | "records") => "Default::default()".to_owned(),
        Base::Primitive("bool") => declared.unwrap_or("false").to_owned(),
        Base::Primitive("string") => format!("Cow::Borrowed({:?})", declared.unwrap_or_default()),
        Base::Primitive("bytes") => "Cow::Borrowed(&[])".to_owned(),
        Base::Primitive("float64") => format!("{}_f64", declared.unwrap_or("0")),
        Base::Primitive(_) => declared.unwrap_or("0").to_owned(),
    }
}

/// The default of the field as its struct has it.
fn default_field(field: &Field) -> String {
    if default_is_null(field) {
        "None".to_owned()
    } else if is_option(field) {
        format!("Some({})", default_value(field))
    } else {
        default_value(field)
    }
}

/// A condition: whether the field differs from its default.
fn differs(field: &Field) -> String {
    let name = rust_field(&field.name);
    if default_is_null(field) {
        return format!("self.{name}.is_some()");
    }
    let by_length = field.is_array
        || field.base == Base::Primitive("bytes")
        || field.base == Base::Primitive("records")
        || (field.base == Base::Primitive("string") && field.default.is_none());
    match (by_length, is_option(field)) {
        (true, true) => format!("self.{name}.as_ref().is_none_or(|value| !value.is_empty())"),
        (true, false) => format!("!self.{name}.is_empty()"),
        (false, true) => {
            format!("self.{name}.as_ref().is_none_or(|value| *value != {})", default_value(field))
        }
        (false, false) if field.base == Base::Primitive("bool") => {
            if default_value(field) == "true" {
                format!("!self.{name}")
            } else {
                format!("self.{name}")
            }
        }
        (false, false) => format!("self.{name} != {}", default_value(field)),
    }
}

fn item(out: &mut String, context: &Context<'_>, index: usize) {
    let Item { rust_name, kafka_name, fields } = &context.items[index];
    let generics = lifetime(context.borrows(index));
    line!(
        out,
        "/// Kafka's `{kafka_name}`.\n#[derive(Clone, Debug, PartialEq)]\npub struct {rust_name}{generics} {{"
    );
    for field in *fields {
        field_docs(out, field);
        let value_type = context.value_type(field);
        let field_type = if is_option(field) { format!("Option<{value_type}>") } else { value_type };
        line!(out, "pub {}: {field_type},", rust_field(&field.name));
    }
    line!(out, "}}\nimpl{generics} Default for {rust_name}{generics} {{\nfn default() -> Self {{\nSelf {{");
    for field in *fields {
        line!(out, "{}: {},", rust_field(&field.name), default_field(field));
    }
    line!(out, "}}\n}}\n}}\nimpl<'a> WireType<'a> for {rust_name}{generics} {{");
    read(out, context, fields);
    write(out, context, fields);
    line!(out, "}}\n#[cfg(feature = \"samples\")]\nimpl{generics} Sample for {rust_name}{generics} {{");
    sample(out, context, fields);
    line!(out, "}}");
}

fn field_docs(out: &mut String, field: &Field) {
    let mut docs = format!("Kafka's `{}`; versions {}", field.name, field.versions);
    if is_option(field) {
        let _ = write!(docs, ", `None` for null in versions {}", field.nullable);
    }
    if let Some(tag) = field.tag {
        let _ = write!(docs, ", tagged with {tag} in versions {}", field.tagged);
    }
    if let Some(default) = &field.default {
        let _ = write!(docs, ", by default {default}");
    }
    line!(out, "/// {docs}.");
}

/// The versions in which the field has its place among the untagged ones.
fn untagged(context: &Context<'_>, field: &Field) -> Versions {
    let tagged = field.tagged.intersect(context.versions);
    if tagged.is_empty() {
        return field.versions;
    }
    field.versions.intersect(Versions { min: 0, max: tagged.min - 1 })
}

fn tagged_fields<'d>(context: &Context<'_>, fields: &'d [Field]) -> Vec<(u32, Versions, &'d Field)> {
    let mut tagged: Vec<_> = fields
        .iter()
        .filter_map(|field| Some((field.tag?, field.tagged.intersect(context.versions), field)))
        .filter(|(_, versions, _)| !versions.is_empty())
        .collect();
    tagged.sort_by_key(|&(tag, ..)| tag);
    tagged
}

fn format_argument(field: &Field) -> &'static str {
    if field.never_flexible { "Format { flexible: false, ..format }" } else { "format" }
}

fn guarded(out: &mut String, condition: Option<&str>, body: &str) {
    match condition {
        None => line!(out, "{body}"),
        Some("false") => {}
        Some(condition) => line!(out, "if {condition} {{ {body} }}"),
    }
}

/// How null is told from a value; a struct has its own way among the tagged fields.
fn nullable_kind(context: &Context<'_>, field: &Field, versions: Versions) -> &'static str {
    let is_struct = matches!(field.base, Base::Struct(_)) && !field.is_array;
    let is_tagged = untagged(context, field).intersect(versions) != versions;
    if is_struct && is_tagged { "tagged_nullable" } else { "nullable" }
}

fn read_expression(context: &Context<'_>, field: &Field, versions: Versions) -> String {
    let format = format_argument(field);
    let value_type = context.value_type(field);
    let plain = format!("<{value_type} as WireType<'a>>::read(reader, {format})?");
    if !is_option(field) {
        return plain;
    }
    let function = format!("read_{}", nullable_kind(context, field, versions));
    let nullable = format!("<{value_type} as WireType<'a>>::{function}(reader, {format})?");
    let present = versions.intersect(context.versions);
    if present.intersect(field.nullable) == present {
        return nullable;
    }
    match context.condition(field.nullable) {
        None => nullable,
        Some(condition) if condition == "false" => format!("Some({plain})"),
        Some(condition) => format!("if {condition} {{ {nullable} }} else {{ Some({plain}) }}"),
    }
}

fn read(out: &mut String, context: &Context<'_>, fields: &[Field]) {
    let flexible = context.condition(context.flexible);
    let mutable = if fields.is_empty() { "" } else { "mut " };
    line!(out, "fn read(reader: &mut Reader<'a>, format: Format) -> Result<Self, DecodeError> {{");
    line!(out, "let {mutable}value = Self::default();");
    for field in fields {
        let versions = untagged(context, field);
        let body =
            format!("value.{} = {};", rust_field(&field.name), read_expression(context, field, versions));
        guarded(out, context.condition(versions).as_deref(), &body);
    }
    let tagged = tagged_fields(context, fields);
    let mut body = String::new();
    if tagged.is_empty() {
        line!(body, "reader.tagged_fields(|_, _| Ok(false))?;");
    } else {
        line!(body, "reader.tagged_fields(|tag, reader| {{ match tag {{");
        for (tag, versions, field) in tagged {
            let guard =
                context.condition(versions).map(|condition| format!(" if {condition}")).unwrap_or_default();
            let expression = read_expression(context, field, versions);
            line!(body, "{tag}{guard} => value.{} = {expression},", rust_field(&field.name));
        }
        line!(body, "_ => return Ok(false), }} Ok(true) }})?;");
    }
    guarded(out, flexible.as_deref(), &body);
    line!(out, "let _ = format;\nOk(value)\n}}");
}

fn write_statement(context: &Context<'_>, field: &Field, versions: Versions) -> String {
    let format = format_argument(field);
    let name = rust_field(&field.name);
    if !is_option(field) {
        return format!("self.{name}.write(writer, {format})?;");
    }
    let function = format!("write_{}", nullable_kind(context, field, versions));
    let nullable = format!("WireType::{function}(self.{name}.as_ref(), writer, {format})?;");
    let plain = format!(
        "self.{name}.as_ref().ok_or(EncodeError::UnexpectedNull({:?}))?.write(writer, {format})?;",
        field.name
    );
    let present = versions.intersect(context.versions);
    if present.intersect(field.nullable) == present {
        return nullable;
    }
    match context.condition(field.nullable) {
        None => nullable,
        Some(condition) if condition == "false" => plain,
        Some(condition) => format!("if {condition} {{ {nullable} }} else {{ {plain} }}"),
    }
}

fn write(out: &mut String, context: &Context<'_>, fields: &[Field]) {
    line!(out, "fn write(&self, writer: &mut Writer, format: Format) -> Result<(), EncodeError> {{");
    for field in fields {
        let versions = untagged(context, field);
        guarded(out, context.condition(versions).as_deref(), &write_statement(context, field, versions));
        if let Some(present) = context.condition(field.versions).filter(|_| !field.ignorable) {
            let absent = if present == "false" { "true".to_owned() } else { format!("!({present})") };
            let error = format!("return Err(EncodeError::NotInVersion({:?}));", field.name);
            guarded(out, Some(&format!("{absent} && ({})", differs(field))), &error);
        }
    }
    let tagged = tagged_fields(context, fields);
    let mut body = String::new();
    if tagged.is_empty() {
        line!(body, "writer.put_uvarint(0);");
    } else {
        for (tag, versions, field) in &tagged {
            let present =
                context.condition(*versions).map(|condition| format!("{condition} && ")).unwrap_or_default();
            let differs = differs(field);
            let condition = if present.is_empty() { differs } else { format!("{present}({differs})") };
            line!(body, "let has_{tag} = {condition};");
        }
        let counts: Vec<String> = tagged.iter().map(|(tag, ..)| format!("u32::from(has_{tag})")).collect();
        line!(body, "writer.put_uvarint({});", counts.join(" + "));
        for (tag, versions, field) in &tagged {
            let statement = write_statement(context, field, *versions);
            line!(body, "if has_{tag} {{ writer.put_tagged({tag}, |writer| {{ {statement} Ok(()) }})?; }}");
        }
    }
    guarded(out, context.condition(context.flexible).as_deref(), &body);
    line!(out, "let _ = (writer, format);\nOk(())\n}}");
}

fn sample(out: &mut String, context: &Context<'_>, fields: &[Field]) {
    line!(out, "fn sample(pattern: &mut Pattern, format: Format) -> Self {{");
    let mutable = if fields.is_empty() { "" } else { "mut " };
    line!(out, "let {mutable}value = Self::default();");
    for field in fields {
        let name = rust_field(&field.name);
        let nullable = match context.condition(field.nullable) {
            None => "true".to_owned(),
            Some(condition) => condition,
        };
        let may_keep = if default_is_null(field) { nullable.as_str() } else { "true" };
        let assign = if is_option(field) {
            format!("value.{name} = pattern.nullable({nullable}, format);")
        } else if field.default.as_deref() == Some("true") {
            format!("value.{name} = !bool::sample(pattern, format);")
        } else {
            format!("value.{name} = Sample::sample(pattern, format);")
        };
        let body = format!("if !({may_keep} && pattern.keeps_default()) {{ {assign} }}");
        guarded(out, context.condition(field.versions).as_deref(), &body);
    }
    line!(out, "let _ = (pattern, format);\nvalue\n}}");
}

fn message_impl(out: &mut String, message: &Message, context: &Context<'_>) {
    let root = &context.items[0];
    line!(out, "impl<'a> Message<'a> for {}{} {{", root.rust_name, lifetime(context.root_borrows));
    line!(out, "const NAME: &'static str = {:?};", root.kafka_name);
    line!(
        out,
        "const VERSIONS: core::ops::RangeInclusive<i16> = {}..={};",
        context.versions.min,
        context.versions.max
    );
    line!(out, "const FLEXIBLE_FROM: i16 = {};", flexible_from(message));
    line!(out, "}}");
}

fn table(out: &mut String, descriptors: &[Descriptor]) {
    line!(out, "/// Every API that has a descriptor, by ascending key.");
    line!(out, "pub const APIS: &[Api] = &[");
    let mut apis: Vec<_> = descriptors.iter().filter_map(|api| Some((api.key?, api))).collect();
    apis.sort_by_key(|&(key, _)| key);
    for (key, api) in apis {
        let message = &api.messages[0];
        line!(
            out,
            "Api {{ key: {key}, name: {:?}, min_version: {}, max_version: {}, flexible_from: {} }},",
            api.name,
            message.versions.min,
            message.versions.max,
            flexible_from(message)
        );
    }
    line!(out, "];");
}

/// A macro that names every message, for tests that go through them all.
fn each_message(out: &mut String, descriptors: &[Descriptor]) {
    let (records, messages): (Vec<_>, Vec<_>) =
        descriptors.iter().partition(|descriptor| descriptor.record_type.is_some());
    each(out, "message", &messages);
    each(out, "record", &records);
}

fn each(out: &mut String, kind: &str, descriptors: &[&Descriptor]) {
    line!(
        out,
        "/// Calls a macro for every {kind} with its module, its type there, Kafka's name of it and the arguments."
    );
    line!(out, "#[cfg(feature = \"samples\")]\n#[macro_export]\nmacro_rules! for_each_{kind} {{");
    line!(out, "($callback:ident $(, $argument:expr)*) => {{");
    for descriptor in descriptors {
        for message in &descriptor.messages {
            let root = root_name(descriptor, message);
            line!(
                out,
                "$callback!({}, {root}, {} $(, $argument)*);",
                snake(&descriptor.name),
                kafka_name(descriptor, root)
            );
        }
    }
    line!(out, "}};\n}}");
}

fn root_name<'d>(descriptor: &'d Descriptor, message: &Message) -> &'d str {
    match message.role.as_str() {
        "request" => "Request",
        "response" => "Response",
        _ => &descriptor.name,
    }
}

fn kafka_name(descriptor: &Descriptor, root: &str) -> String {
    if descriptor.key.is_some() { format!("{}{root}", descriptor.name) } else { root.to_owned() }
}

/// `TransactionalId` becomes `transactional_id`.
fn snake(name: &str) -> String {
    let mut out = String::new();
    let characters: Vec<char> = name.chars().collect();
    for (index, &character) in characters.iter().enumerate() {
        if character.is_ascii_uppercase() && index > 0 {
            let after_lower = !characters[index - 1].is_ascii_uppercase();
            let before_lower = characters.get(index + 1).is_some_and(char::is_ascii_lowercase);
            if after_lower || before_lower {
                out.push('_');
            }
        }
        out.push(character.to_ascii_lowercase());
    }
    out
}

/// The name of a struct's field; a keyword becomes a raw identifier.
fn rust_field(name: &str) -> String {
    let name = snake(name);
    if matches!(name.as_str(), "type" | "match" | "move" | "ref" | "final" | "use" | "where" | "loop" | "in")
    {
        format!("r#{name}")
    } else {
        name
    }
}
