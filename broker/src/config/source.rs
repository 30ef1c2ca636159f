//! Where a value came from, so that an error can point there.

use std::fmt;
use std::path::PathBuf;

/// Where a value came from, the weakest first: a later one wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nobody gave it.
    Default,
    /// A line of the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable.
    Environment {
        /// The variable's name.
        variable: String,
    },
    /// `--set` on the command line.
    Flag,
}

impl Origin {
    /// The origin's rank: what wins has the greater one.
    #[must_use]
    pub const fn rank(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::File { .. } => 1,
            Self::Environment { .. } => 2,
            Self::Flag => 3,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment { variable } => f.write_str(variable),
            Self::Flag => f.write_str("--set"),
        }
    }
}

/// One value as a source gives it; nothing is known about its key yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value, without the blanks around it.
    pub value: String,
    /// Where it stands.
    pub origin: Origin,
    /// Whether its source may hold keys that only Kafka knows.
    pub was_written_for_kafka: bool,
}

/// Why the broker cannot start with what it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// What is wrong, and where.
    pub cause: String,
    /// What to do about it.
    pub remedy: String,
    /// Whether the command line itself is wrong, as opposed to a file or the environment.
    pub is_usage: bool,
}

impl ConfigError {
    /// An error about one value.
    #[must_use]
    pub fn at(origin: &Origin, cause: impl fmt::Display, remedy: impl Into<String>) -> Self {
        let cause = match origin {
            Origin::Default => cause.to_string(),
            origin => format!("{origin}: {cause}"),
        };
        Self { cause, remedy: remedy.into(), is_usage: *origin == Origin::Flag }
    }

    /// An error about the values as a whole.
    #[must_use]
    pub fn general(cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { cause: cause.into(), remedy: remedy.into(), is_usage: false }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)
    }
}

impl std::error::Error for ConfigError {}
