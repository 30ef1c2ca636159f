//! Why a setting was refused.

use std::fmt;

/// A setting that was refused: which, why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingError {
    /// The key as it was given.
    pub key: String,
    /// The value as it was given, unless it is secret; `None` when the key itself is at fault.
    pub value: Option<String>,
    /// What is wrong, with the bound that was crossed.
    pub problem: String,
    /// What would be right.
    pub remedy: String,
}

impl SettingError {
    /// The text that Kafka's users know: without the key where the value is not at fault.
    #[must_use]
    pub fn kafka_text(&self) -> String {
        if self.value.is_some() { self.to_string() } else { self.problem.clone() }
    }
}

impl fmt::Display for SettingError {
    /// The wording of Kafka's `ConfigException`, which tools show to their users.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => {
                write!(f, "Invalid value {value} for configuration {}: {}", self.key, self.problem)
            }
            None => write!(f, "{}: {}", self.key, self.problem),
        }
    }
}

impl std::error::Error for SettingError {}
