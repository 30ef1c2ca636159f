//! What a setting is: its name, the values that it takes, where it may be set, and what it means.

use super::endpoint::{Endpoint, Listener, ListenerProtocol, Voter};
use super::error::SettingError;

/// Where a setting applies and how it may change (KIP-226).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A broker's; read once, when it starts.
    ReadOnly,
    /// A broker's; may be altered while it runs, for each broker on its own.
    PerBroker,
    /// A broker's; may be altered while it runs, for one broker or for all of the cluster.
    ClusterWide,
    /// A topic's; may be altered at any time.
    Topic,
    /// A group's; may be altered at any time.
    Group,
}

/// The type names that DescribeConfigs reports (KIP-569).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// `true` or `false`.
    Boolean,
    /// Text.
    String,
    /// A 16-bit number.
    Short,
    /// A 32-bit number.
    Int,
    /// A 64-bit number.
    Long,
    /// A number with a fraction.
    Double,
    /// Texts, separated by commas.
    List,
    /// Text that is never shown.
    Password,
}

/// The values that a setting takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// `true` or `false`, in any case.
    Boolean,
    /// A 16-bit number from `min` to `max`.
    Short {
        /// The least value allowed.
        min: i64,
        /// The greatest value allowed.
        max: i64,
    },
    /// A 32-bit number from `min` to `max`.
    Int {
        /// The least value allowed.
        min: i64,
        /// The greatest value allowed.
        max: i64,
    },
    /// A 64-bit number from `min` to `max`.
    Long {
        /// The least value allowed.
        min: i64,
        /// The greatest value allowed.
        max: i64,
    },
    /// A number with a fraction from `min` to `max`.
    Double {
        /// The least value allowed.
        min: f64,
        /// The greatest value allowed.
        max: f64,
    },
    /// Any text.
    Text,
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// One of a few words, in any case.
    ChoiceAnyCase(&'static [&'static str]),
    /// Any texts, separated by commas.
    List,
    /// One or more of a few words, separated by commas.
    Choices(&'static [&'static str]),
    /// Some or none of a few words, separated by commas; one that is there twice counts once.
    ChoicesOrNone(&'static [&'static str]),
    /// The level of gzip: 1 to 9, or -1.
    GzipLevel,
    /// `*`, or `partition:broker` separated by commas (KIP-73).
    ThrottledReplicas,
    /// `earliest`, `latest`, or `by_duration:` and a duration of ISO 8601 (KIP-932, KIP-1106).
    OffsetReset,
    /// `NAME://host:port`, separated by commas.
    Listeners,
    /// `NAME:PROTOCOL`, separated by commas.
    ProtocolMap,
    /// `id@host:port`, separated by commas.
    Voters,
    /// `host:port`, separated by commas.
    Endpoints,
    /// Text that is never shown.
    Password,
}

impl Kind {
    /// Any 64-bit number.
    pub const LONG: Self = Self::long(i64::MIN, i64::MAX);

    /// Any 32-bit number.
    pub const INT: Self = Self::int(i32::MIN as i64, i32::MAX as i64);

    /// A 32-bit number in a range.
    #[must_use]
    pub const fn int(min: i64, max: i64) -> Self {
        Self::Int { min, max }
    }

    /// A 32-bit number that is not less than `min`.
    #[must_use]
    pub const fn int_from(min: i64) -> Self {
        Self::int(min, i32::MAX as i64)
    }

    /// A 64-bit number in a range.
    #[must_use]
    pub const fn long(min: i64, max: i64) -> Self {
        Self::Long { min, max }
    }

    /// A 64-bit number that is not less than `min`.
    #[must_use]
    pub const fn long_from(min: i64) -> Self {
        Self::long(min, i64::MAX)
    }

    /// The type that DescribeConfigs reports.
    #[must_use]
    pub const fn value_type(self) -> ValueType {
        match self {
            Self::Boolean => ValueType::Boolean,
            Self::Short { .. } => ValueType::Short,
            Self::Int { .. } | Self::GzipLevel => ValueType::Int,
            Self::Long { .. } => ValueType::Long,
            Self::Double { .. } => ValueType::Double,
            Self::Text | Self::Choice(_) | Self::ChoiceAnyCase(_) | Self::OffsetReset | Self::ProtocolMap => {
                ValueType::String
            }
            Self::List
            | Self::Choices(_)
            | Self::ChoicesOrNone(_)
            | Self::ThrottledReplicas
            | Self::Listeners
            | Self::Voters
            | Self::Endpoints => ValueType::List,
            Self::Password => ValueType::Password,
        }
    }

    /// The text that a parsed value of `text` has: without the blanks that do not belong to it.
    #[must_use]
    pub fn canonical(self, text: &str) -> String {
        match self.value_type() {
            ValueType::Boolean => text.trim().to_ascii_lowercase(),
            ValueType::Short | ValueType::Int | ValueType::Long | ValueType::Double => text.trim().to_owned(),
            ValueType::List => {
                let mut items: Vec<&str> = Vec::new();
                for item in list_items(text) {
                    if !matches!(self, Self::ChoicesOrNone(_)) || !items.contains(&item) {
                        items.push(item);
                    }
                }
                items.join(",")
            }
            ValueType::String | ValueType::Password => text.to_owned(),
        }
    }

    /// Checks `text`; an error says what is wrong and what would be right.
    fn check(self, text: &str) -> Result<(), (String, String)> {
        match self {
            Self::Text | Self::List | Self::Password => Ok(()),
            Self::Boolean => match parse_boolean(text) {
                Some(_) => Ok(()),
                None => Err(("Expected value to be either true or false".into(), "use true or false".into())),
            },
            Self::Short { min, max } => {
                check_whole(text, min, max, ("SHORT", i16::MIN.into(), i16::MAX.into()))
            }
            Self::Int { min, max } => check_whole(text, min, max, INT_RANGE),
            Self::Long { min, max } => check_whole(text, min, max, ("LONG", i64::MIN, i64::MAX)),
            Self::GzipLevel => check_gzip_level(text),
            Self::Double { min, max } => check_fraction(text, min, max),
            Self::Choice(words) => check_word(text, words),
            Self::ChoiceAnyCase(words) => check_word(&text.to_ascii_lowercase(), words),
            Self::Choices(words) => check_words(text, words),
            Self::ChoicesOrNone(words) => list_items(text).try_for_each(|item| check_word(item, words)),
            Self::ThrottledReplicas => check_throttled_replicas(text),
            Self::OffsetReset => check_offset_reset(text),
            Self::Listeners => Listener::parse_list(text).map(drop),
            Self::ProtocolMap => ListenerProtocol::parse_list(text).map(drop),
            Self::Voters => Voter::parse_list(text).map(drop),
            Self::Endpoints => Endpoint::parse_list(text).map(drop),
        }
    }
}

/// `true` or `false` in any case, as Kafka reads them.
#[must_use]
pub fn parse_boolean(text: &str) -> Option<bool> {
    match text.trim() {
        word if word.eq_ignore_ascii_case("true") => Some(true),
        word if word.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// The parts of a list, without the blanks around them; an empty text is an empty list.
pub fn list_items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// Kafka's name of a type of numbers, and what numbers it has.
type NumberType = (&'static str, i64, i64);

const INT_RANGE: NumberType = ("INT", i32::MIN as i64, i32::MAX as i64);

fn check_gzip_level(text: &str) -> Result<(), (String, String)> {
    let remedy = || "use a whole number from 1 to 9, or -1".to_owned();
    match text.trim().parse::<i32>() {
        Ok(-1 | 1..=9) => Ok(()),
        Ok(_) => Err(("Value must be between 1 and 9 or equal to -1".into(), remedy())),
        Err(_) => Err(("Not a number of type INT".into(), remedy())),
    }
}

fn check_throttled_replicas(text: &str) -> Result<(), (String, String)> {
    let is_number = |part: &str| part.parse::<u32>().is_ok();
    let is_replica =
        |item: &str| item.split_once(':').is_some_and(|(left, right)| is_number(left) && is_number(right));
    if text.trim() == "*" || list_items(text).all(is_replica) {
        return Ok(());
    }
    let form = "[partitionId]:[brokerId],[partitionId]:[brokerId],...";
    Err((
        format!("Value must be the literal '*' or a list of replicas in the following format: {form}"),
        format!("use * or {form}"),
    ))
}

fn check_offset_reset(text: &str) -> Result<(), (String, String)> {
    let is_part = |character: char| character.is_ascii_digit() || "DTHMS.".contains(character);
    let is_duration = |rest: &str| {
        rest.strip_prefix('P').is_some_and(|rest| {
            rest.ends_with(['D', 'H', 'M', 'S']) && rest.len() <= 32 && rest.chars().all(is_part)
        })
    };
    match text.trim() {
        "earliest" | "latest" => Ok(()),
        text if text.strip_prefix("by_duration:").is_some_and(is_duration) => Ok(()),
        _ => Err((
            "The value must be either 'earliest', 'latest' or of the format 'by_duration:<PnDTnHnMn.nS>'."
                .into(),
            "use earliest, latest or, for example, by_duration:PT1H".into(),
        )),
    }
}

fn check_whole(
    text: &str,
    min: i64,
    max: i64,
    (type_name, type_min, type_max): NumberType,
) -> Result<(), (String, String)> {
    let remedy = || match (min, max) {
        (i64::MIN, i64::MAX) => "use a whole number".to_owned(),
        (_, i64::MAX) => format!("use a whole number of at least {min}"),
        _ => format!("use a whole number from {min} to {max}"),
    };
    match text.trim().parse::<i64>() {
        Err(_) => Err((format!("Not a number of type {type_name}"), remedy())),
        Ok(number) if number < type_min || number > type_max => {
            Err((format!("Not a number of type {type_name}"), remedy()))
        }
        Ok(number) if number < min => Err((format!("Value must be at least {min}"), remedy())),
        Ok(number) if number > max => Err((format!("Value must be no more than {max}"), remedy())),
        Ok(_) => Ok(()),
    }
}

fn check_fraction(text: &str, min: f64, max: f64) -> Result<(), (String, String)> {
    let remedy = || format!("use a number from {min} to {max}");
    match text.trim().parse::<f64>() {
        Ok(number) if number < min => Err((format!("Value must be at least {min}"), remedy())),
        Ok(number) if number > max => Err((format!("Value must be no more than {max}"), remedy())),
        Ok(number) if number.is_finite() => Ok(()),
        _ => Err(("Not a number of type DOUBLE".into(), remedy())),
    }
}

fn check_word(text: &str, words: &[&str]) -> Result<(), (String, String)> {
    if words.contains(&text.trim()) {
        return Ok(());
    }
    Err((
        format!("String must be one of: {}", words.join(", ")),
        match super::suggestion::nearest(text.trim(), words.iter().copied()) {
            Some(word) => format!("did you mean {word}?"),
            None => format!("use one of {}", words.join(", ")),
        },
    ))
}

fn check_words(text: &str, words: &[&str]) -> Result<(), (String, String)> {
    let mut seen: Vec<&str> = Vec::new();
    for item in list_items(text) {
        check_word(item, words)?;
        if seen.contains(&item) {
            return Err((format!("{item} is there twice"), "name each word once".into()));
        }
        seen.push(item);
    }
    if seen.is_empty() {
        return Err(("The list is empty".into(), format!("use one or more of {}", words.join(", "))));
    }
    Ok(())
}

/// How a broker setting's number becomes that of the topic setting that it is the default of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synonym {
    /// The broker setting.
    pub name: &'static str,
    /// The factor from the broker setting's unit to the topic setting's; 1 also for what is not a number.
    pub factor: i64,
}

impl Synonym {
    /// A setting of the same unit.
    #[must_use]
    pub const fn same(name: &'static str) -> Self {
        Self { name, factor: 1 }
    }

    /// A setting in minutes of which the other is in milliseconds.
    #[must_use]
    pub const fn minutes(name: &'static str) -> Self {
        Self { name, factor: 60_000 }
    }

    /// A setting in hours of which the other is in milliseconds.
    #[must_use]
    pub const fn hours(name: &'static str) -> Self {
        Self { name, factor: 3_600_000 }
    }

    /// The broker setting's value in the topic setting's unit. A negative number means "unlimited" and becomes -1,
    /// as Kafka has it for `log.retention.ms` and its kin.
    #[must_use]
    pub fn convert(self, text: &str) -> String {
        match text.trim().parse::<i64>() {
            Ok(number) if self.factor != 1 && number < 0 => "-1".to_owned(),
            Ok(number) if self.factor != 1 => number.saturating_mul(self.factor).to_string(),
            _ => text.to_owned(),
        }
    }
}

/// One setting, declared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setting {
    /// The key, by Kafka's name where Kafka has it.
    pub name: &'static str,
    /// The values that it takes.
    pub kind: Kind,
    /// The value where nobody gives one; `None` where that is worked out from something else.
    pub default: Option<&'static str>,
    /// Where it applies and how it may change.
    pub scope: Scope,
    /// What it means, for DescribeConfigs and the reference; it may begin with a blank: see [`Setting::prose`].
    pub meaning: &'static str,
    /// For a topic setting: the broker settings that give its default, the first one that is set counts.
    pub synonyms: &'static [Synonym],
    /// Why the setting is taken and checked, but changes nothing, if it is one of those.
    pub inert: Option<&'static str>,
}

impl Setting {
    /// What the setting means.
    #[must_use]
    pub fn prose(&self) -> &'static str {
        self.meaning.trim()
    }

    /// Whether the value must never be shown.
    #[must_use]
    pub const fn is_sensitive(&self) -> bool {
        matches!(self.kind, Kind::Password)
    }

    /// Whether only a restart changes the value.
    #[must_use]
    pub const fn is_read_only(&self) -> bool {
        matches!(self.scope, Scope::ReadOnly)
    }

    /// Checks a value.
    ///
    /// # Errors
    /// The value is not one that this setting takes.
    pub fn check(&self, text: &str) -> Result<(), SettingError> {
        self.kind.check(text).map_err(|(problem, remedy)| SettingError {
            key: self.name.to_owned(),
            value: Some(if self.is_sensitive() { "[hidden]".to_owned() } else { text.to_owned() }),
            problem,
            remedy,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(kind: Kind, text: &str) -> String {
        kind.check(text).expect_err("must be refused").0
    }

    #[test]
    fn numbers_keep_to_their_bounds() {
        let kind = Kind::int(0, 10);
        assert_eq!(kind.check(" 10 "), Ok(()));
        assert_eq!(problem(kind, "11"), "Value must be no more than 10");
        assert_eq!(problem(kind, "-1"), "Value must be at least 0");
        assert_eq!(problem(kind, "ten"), "Not a number of type INT");
        assert_eq!(problem(Kind::INT, "2147483648"), "Not a number of type INT");
        assert_eq!(problem(Kind::long_from(0), "9223372036854775808"), "Not a number of type LONG");
        assert_eq!(problem(Kind::Double { min: 0.0, max: 1.0 }, "NaN"), "Not a number of type DOUBLE");
        assert_eq!(problem(Kind::Double { min: 0.0, max: 1.0 }, "1.5"), "Value must be no more than 1");
        assert_eq!(problem(Kind::GzipLevel, "0"), "Value must be between 1 and 9 or equal to -1");
        assert_eq!(Kind::GzipLevel.check("-1"), Ok(()));
    }

    #[test]
    fn words_come_from_their_set() {
        let kind = Kind::Choices(&["compact", "delete"]);
        assert_eq!(kind.check("compact, delete"), Ok(()));
        assert_eq!(kind.check("compac").expect_err("refused").1, "did you mean compact?");
        assert_eq!(problem(kind, "delete,delete"), "delete is there twice");
        assert_eq!(problem(kind, " , "), "The list is empty");
        let kind = Kind::ChoicesOrNone(&["compact", "delete"]);
        assert_eq!((kind.check(""), kind.check("delete,delete")), (Ok(()), Ok(())));
        assert_eq!(problem(kind, "erase"), "String must be one of: compact, delete");
    }

    #[test]
    fn odd_forms_are_checked() {
        for text in ["*", "0:1,1:1", ""] {
            assert_eq!(Kind::ThrottledReplicas.check(text), Ok(()));
        }
        for text in ["abc", "1", "1:x", "-1:1"] {
            assert!(Kind::ThrottledReplicas.check(text).is_err(), "{text}");
        }
        for text in ["earliest", "latest", "by_duration:PT1H", "by_duration:P1DT2.5S"] {
            assert_eq!(Kind::OffsetReset.check(text), Ok(()));
        }
        for text in ["", "middle", "by_duration:", "by_duration:1h", "by_duration:P"] {
            assert!(Kind::OffsetReset.check(text).is_err(), "{text}");
        }
    }

    #[test]
    fn blanks_do_not_reach_what_is_shown() {
        assert_eq!(Kind::INT.canonical(" 7 "), "7");
        assert_eq!(Kind::Boolean.canonical("TRUE "), "true");
        assert_eq!(Kind::List.canonical("a, b,,c"), "a,b,c");
        assert_eq!(Kind::Text.canonical(" a "), " a ");
        assert_eq!(Kind::ChoicesOrNone(&["a", "b"]).canonical("b,a,b"), "b,a");
    }

    #[test]
    fn units_convert_and_unlimited_stays() {
        assert_eq!(Synonym::hours("h").convert("168"), "604800000");
        assert_eq!(Synonym::minutes("m").convert("-1"), "-1");
        assert_eq!(Synonym::same("s").convert("-2"), "-2");
        assert_eq!(Synonym::same("s").convert("compact"), "compact");
    }

    #[test]
    fn secrets_do_not_reach_the_error() {
        let setting = Setting {
            name: "x",
            kind: Kind::Password,
            default: None,
            scope: Scope::ReadOnly,
            meaning: "",
            synonyms: &[],
            inert: None,
        };
        assert!(setting.is_sensitive());
        assert_eq!(setting.check("anything"), Ok(()));
    }
}
