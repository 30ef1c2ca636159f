//! What stops a run, each with its cause and its remedy.

use core::fmt;
use logmill_wire::error_codes::ErrorCode;
use std::io;

/// Why a run could not be done, or why its result does not count.
#[derive(Debug)]
pub enum Failure {
    /// Options that contradict each other; exit status 2.
    Usage(String),
    /// No connection to an address.
    Connect {
        /// As `HOST:PORT`.
        address: String,
        /// What the system said.
        cause: io::Error,
    },
    /// A connection that was open failed.
    Connection {
        /// As `HOST:PORT`.
        address: String,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        cause: io::Error,
    },
    /// The broker sent bytes that the protocol does not allow.
    Protocol {
        /// As `HOST:PORT`.
        address: String,
        /// What is wrong with them.
        detail: String,
    },
    /// The broker speaks no version of an API that this program speaks.
    NoCommonVersion {
        /// As `HOST:PORT`.
        address: String,
        /// Kafka's name of the API.
        api: &'static str,
    },
    /// The broker refused a request that the run cannot do without.
    Refused {
        /// Kafka's name of the API.
        api: &'static str,
        /// The error code in the response.
        code: i16,
        /// What the request was about.
        subject: String,
    },
    /// A file or a pipe could not be written, or a part of /proc not read.
    File {
        /// Its path.
        path: String,
        /// What the system said.
        cause: io::Error,
    },
    /// SIGINT or SIGTERM.
    Interrupted,
    /// The run ended, and its result does not count: the reasons are in the report.
    Unusable(Vec<String>),
}

impl Failure {
    /// The process's exit status: 2 for wrong usage, otherwise 1.
    #[must_use]
    pub const fn exit_status(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            _ => 1,
        }
    }
}

/// The name of an error code, or its number if Kafka has none.
#[must_use]
pub fn error_name(code: i16) -> String {
    match ErrorCode::from_code(code) {
        Some(error) => format!("{} ({code})", error.name()),
        None => format!("an unknown error code ({code})"),
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) => f.write_str(text),
            Self::Connect { address, cause } => write!(
                f,
                "cannot connect to {address}: {cause}; check that a broker listens there and that its \
                 advertised.listeners can be reached from this host"
            ),
            Self::Connection { address, doing, cause } => write!(
                f,
                "the connection to {address} failed while {doing}: {cause}; the broker's log tells whether it \
                 closed the connection, and --timeout-seconds gives it more time"
            ),
            Self::Protocol { address, detail } => write!(
                f,
                "{address} sent something that is not Kafka's protocol: {detail}; check that the port is a \
                 PLAINTEXT listener"
            ),
            Self::NoCommonVersion { address, api } => {
                write!(f, "{address} speaks no version of {api} that this program speaks; use another broker")
            }
            Self::Refused { api, code, subject } => {
                write!(f, "{api} was refused for {subject} with {}", error_name(*code))?;
                match ErrorCode::from_code(*code) {
                    Some(ErrorCode::UnknownTopicOrPartition) => {
                        f.write_str("; produce to the topic first, or correct --topic")
                    }
                    Some(error) => {
                        write!(f, ": {} Correct the options or the broker's settings", error.description())
                    }
                    None => f.write_str("; the broker's log may say more"),
                }
            }
            Self::File { path, cause } => {
                write!(f, "cannot use {path}: {cause}; check the path and its permissions")
            }
            Self::Interrupted => f.write_str("interrupted; nothing was kept"),
            Self::Unusable(reasons) => write!(
                f,
                "the result does not count: {}; lower the rate, use a quieter host, or mend the broker",
                reasons.join("; ")
            ),
        }
    }
}

impl core::error::Error for Failure {}
