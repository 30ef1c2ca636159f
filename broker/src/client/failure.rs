//! Why something could not be done.

use logmill_wire::error_codes::ErrorCode;
use std::fmt;

/// Why something could not be done, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No broker could be connected to: each address with what happened.
    Unreachable(Vec<(String, String)>),
    /// A connection broke, or a broker took too long.
    Connection {
        /// Where the connection leads, as `HOST:PORT`.
        address: String,
        /// What was going on.
        doing: &'static str,
        /// What happened.
        cause: String,
    },
    /// A broker sent what the protocol does not allow.
    Protocol {
        /// Where the connection leads, as `HOST:PORT`.
        address: String,
        /// What is wrong.
        detail: String,
    },
    /// A broker has no version of an API that this client speaks.
    NoCommonVersion {
        /// Where the connection leads, as `HOST:PORT`.
        address: String,
        /// Kafka's name of the API.
        api: &'static str,
    },
    /// A broker answered with an error.
    Refused {
        /// What it was asked for, such as `topic orders cannot be created`.
        what: String,
        /// Kafka's error code.
        code: i16,
        /// What the broker says about it.
        message: Option<String>,
    },
    /// What was asked for is not there or does not fit, in the client's own judgement.
    Unfit {
        /// What is wrong.
        cause: String,
        /// What to do about it.
        remedy: String,
    },
}

impl Failure {
    pub(crate) fn unfit(cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Unfit { cause: cause.into(), remedy: remedy.into() }
    }

    /// An error code, unless it means success.
    ///
    /// # Errors
    /// [`Failure::Refused`].
    pub(super) fn check(code: i16, message: Option<&str>, what: impl FnOnce() -> String) -> Result<(), Self> {
        if code == 0 {
            return Ok(());
        }
        let message = message.map(|message| message.trim_end_matches('.').to_owned());
        let message = message.filter(|message| !message.is_empty());
        Err(Self::Refused { what: what(), code, message })
    }

    /// The error code with which a broker refused.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { code, .. } => ErrorCode::from_code(*code),
            _ => None,
        }
    }

    /// Whether the same may succeed when it is tried again, perhaps elsewhere.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Connection { .. } => true,
            Self::Refused { .. } => self.code().is_some_and(ErrorCode::is_retriable),
            Self::Protocol { .. } | Self::NoCommonVersion { .. } | Self::Unfit { .. } => false,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Unreachable(_) => {
                "start a broker (`logmill`), or name a running one with --bootstrap-server HOST:PORT"
                    .to_owned()
            }
            Self::Connection { .. } => "check that the broker runs and what its log says".to_owned(),
            Self::Protocol { .. } => "check that a Kafka listener without TLS is at this address".to_owned(),
            Self::NoCommonVersion { .. } => "use a broker that offers this API".to_owned(),
            Self::Refused { code, .. } => remedy_for(ErrorCode::from_code(*code)).to_owned(),
            Self::Unfit { remedy, .. } => remedy.clone(),
        }
    }
}

fn remedy_for(code: Option<ErrorCode>) -> &'static str {
    match code {
        Some(ErrorCode::UnknownTopicOrPartition | ErrorCode::UnknownTopicId) => {
            "check the name with `logmill topic list`, or create it with `logmill topic create`"
        }
        Some(ErrorCode::TopicAlreadyExists) => "take another name, or delete the topic first",
        Some(ErrorCode::InvalidReplicationFactor) => "ask for no more replicas than there are brokers",
        Some(ErrorCode::InvalidConfig) => "name a setting of topics, with a value that it takes",
        Some(ErrorCode::InvalidTopicException) => {
            "use at most 249 characters out of a-z, A-Z, 0-9, '.', '_' and '-'"
        }
        Some(ErrorCode::GroupIdNotFound) => "check the name with `logmill group list`",
        Some(ErrorCode::NonEmptyGroup) => "stop the group's members first",
        Some(ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge) => {
            "send smaller records, or raise the topic's max.message.bytes"
        }
        Some(
            ErrorCode::TopicAuthorizationFailed
            | ErrorCode::GroupAuthorizationFailed
            | ErrorCode::ClusterAuthorizationFailed,
        ) => "have an administrator allow it",
        Some(code) if code.is_retriable() => "try again; if it stays so, see the broker's log",
        _ => "see what the broker says and its log",
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(servers) => {
                f.write_str("no broker can be reached: ")?;
                for (number, (address, cause)) in servers.iter().enumerate() {
                    let separator = if number == 0 { "" } else { "; " };
                    write!(f, "{separator}{address}: {cause}")?;
                }
                Ok(())
            }
            Self::Connection { address, doing, cause } => write!(f, "{address}: {doing}: {cause}"),
            Self::Protocol { address, detail } => {
                write!(f, "{address}: not what the protocol allows: {detail}")
            }
            Self::NoCommonVersion { address, api } => {
                write!(f, "{address}: no version of {api} that both sides speak")
            }
            Self::Refused { what, code, message } => {
                write!(f, "{what}: ")?;
                match (message, ErrorCode::from_code(*code)) {
                    (Some(message), Some(error)) => write!(f, "{message} ({error})"),
                    (None, Some(error)) => {
                        write!(f, "{} ({error})", error.description().trim_end_matches('.'))
                    }
                    (Some(message), None) => write!(f, "{message} (error code {code})"),
                    (None, None) => write!(f, "error code {code}"),
                }
            }
            Self::Unfit { cause, .. } => f.write_str(cause),
        }
    }
}

impl std::error::Error for Failure {}
