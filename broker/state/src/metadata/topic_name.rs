//! What a topic may be called.

use std::fmt;

use logmill_wire::limits::TOPIC_NAME_CHARACTERS_MAX;

/// The topic of groups and their offsets.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// Whether a topic is one of the broker's own: only its coordinators write to it.
#[must_use]
pub fn is_internal_topic(name: &str) -> bool {
    matches!(name, OFFSETS_TOPIC | "__transaction_state" | "__share_group_state")
}

/// Why a name cannot be a topic's: INVALID_TOPIC_EXCEPTION.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TopicNameError {
    /// It is empty.
    Empty,
    /// It is `.` or `..`, which name directories.
    Dots,
    /// It is longer than [`TOPIC_NAME_CHARACTERS_MAX`].
    TooLong,
    /// It has characters other than ASCII letters, digits, `.`, `_` and `-`.
    Characters,
}

impl fmt::Display for TopicNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a topic name must not be empty"),
            Self::Dots => f.write_str("'.' and '..' cannot be topic names"),
            Self::TooLong => {
                write!(f, "a topic name has at most {TOPIC_NAME_CHARACTERS_MAX} characters")
            }
            Self::Characters => {
                f.write_str("a topic name consists of ASCII letters and digits, '.', '_' and '-'")
            }
        }
    }
}

impl std::error::Error for TopicNameError {}

/// Checks a topic's name by Kafka's rules.
///
/// # Errors
/// [`TopicNameError`].
pub fn validate_topic_name(name: &str) -> Result<(), TopicNameError> {
    if name.is_empty() {
        return Err(TopicNameError::Empty);
    }
    if name == "." || name == ".." {
        return Err(TopicNameError::Dots);
    }
    if name.chars().count() > TOPIC_NAME_CHARACTERS_MAX {
        return Err(TopicNameError::TooLong);
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')) {
        return Err(TopicNameError::Characters);
    }
    Ok(())
}

/// The form in which two names collide when they differ only in `.` and `_`, which metric names don't tell
/// apart; `None` if the name has neither.
pub(super) fn collision_form(name: &str) -> Option<String> {
    name.contains(['.', '_']).then(|| name.replace('.', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules() {
        let longest = "x".repeat(249);
        for good in ["a", "...", "A-b_c.9", "__consumer_offsets", longest.as_str()] {
            assert_eq!(validate_topic_name(good), Ok(()), "{good}");
        }
        let too_long = "x".repeat(250);
        for (bad, why) in [
            ("", TopicNameError::Empty),
            (".", TopicNameError::Dots),
            ("..", TopicNameError::Dots),
            (too_long.as_str(), TopicNameError::TooLong),
            ("a b", TopicNameError::Characters),
            ("a/b", TopicNameError::Characters),
            ("ä", TopicNameError::Characters),
            ("a\0", TopicNameError::Characters),
        ] {
            assert_eq!(validate_topic_name(bad), Err(why), "{bad}");
        }
    }

    #[test]
    fn dots_and_underscores_collide() {
        assert_eq!(collision_form("a.b_c"), collision_form("a_b.c"));
        assert_ne!(collision_form("a.b"), collision_form("a.c"));
        assert_eq!(collision_form("a-b"), None);
    }
}
