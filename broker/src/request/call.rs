//! One request on its way through a handler, and its answer on the way out.

use super::services::Services;
use crate::runtime::Runtime;
use crate::shard::memory::Reservation;
use bytes::Bytes;
use logmill_state::admission::authorizer::{Operation, RequestContext, Resource};
use logmill_wire::api::{self, Message};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::limits::REQUEST_ELEMENTS_MAX;
use logmill_wire::primitives::{DecodeError, EncodeError, Reader};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

/// What one element of a request takes until it is answered, in bytes.
const ELEMENT_BYTES: usize = 256;

/// A request whose header has been read and whose version is answered.
pub struct Call<R: Runtime> {
    /// What the shard works with.
    pub services: Rc<Services<R>>,
    /// Who asks.
    pub context: Rc<RequestContext>,
    /// The body; record sets are sliced out of it.
    pub body: Bytes,
    /// How it is answered.
    pub answer: Answer,
    /// Which way it came.
    pub origin: Origin,
}

/// Which way a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Over a client's connection.
    Client,
    /// From the broker that the client is connected to (KIP-590).
    Broker,
}

impl<R: Runtime> Call<R> {
    /// Whether the sender may do something. Without the right nothing may be told of the resource.
    #[must_use]
    pub fn allows(&self, operation: Operation, resource: Resource<'_>) -> bool {
        self.services.state.authorizer.authorize(&self.context, operation, resource).is_allowed()
    }
}

/// Decodes a body. Bytes behind the last field are passed over, as Kafka does.
///
/// # Errors
/// What is wrong with the bytes; the connection is closed then.
pub fn decode<'a, M: Message<'a>>(body: &'a [u8], version: i16) -> Result<M, DecodeError> {
    M::decode(&mut Reader::new(body), version)
}

/// What belongs to the answer of a request.
pub struct Answer {
    /// The API.
    pub key: i16,
    /// The version of the request, and so of the answer.
    pub version: i16,
    /// What the client matches the answer by.
    pub correlation_id: i32,
    /// Room for the request, and then for its answer.
    pub room: Reservation,
}

impl Answer {
    /// Counts the elements of the request: what is kept for each until the answer is larger than what it takes
    /// in the request.
    ///
    /// # Errors
    /// [`DecodeError::InvalidLength`] if there are more than any client has a use for.
    pub fn charge(&mut self, elements: usize) -> Result<(), DecodeError> {
        if elements > REQUEST_ELEMENTS_MAX {
            return Err(DecodeError::InvalidLength);
        }
        self.room.resize(self.room.bytes() + elements * ELEMENT_BYTES);
        Ok(())
    }

    /// Encodes the response. Its bytes count from now on instead of the request's.
    #[must_use]
    pub fn reply<'a, M: Message<'a>>(mut self, response: &M) -> Outcome {
        match api::response_frame(response, self.key, self.version, self.correlation_id) {
            Ok(parts) => {
                self.room.resize(parts.iter().map(Bytes::len).sum());
                Outcome::Reply(Reply { parts, room: self.room })
            }
            Err(error) => self.not_encoded(M::NAME, error),
        }
    }

    /// As [`Answer::reply`], with a frame that is encoded already, the size in front of it included.
    #[must_use]
    pub fn reply_encoded(mut self, frame: Vec<u8>) -> Outcome {
        self.room.resize(frame.len());
        Outcome::Reply(Reply { parts: vec![frame.into()], room: self.room })
    }

    /// The outcome where a response, or a part of one, cannot be encoded.
    #[must_use]
    pub fn not_encoded(self, response: &str, error: EncodeError) -> Outcome {
        tracing::error!(response, version = self.version, %error, "a response cannot be encoded");
        Outcome::Close("a response could not be encoded")
    }

    /// A handler's result that is there already.
    pub fn ready<'a, M: Message<'a>>(self, response: &M) -> Handled {
        let outcome = self.reply(response);
        Ok(Box::pin(std::future::ready(outcome)))
    }
}

/// An encoded response.
#[derive(Debug)]
pub struct Reply {
    /// The frame, size prefix included, for a vectored send.
    pub parts: Vec<Bytes>,
    /// The room that it takes until it is sent.
    pub room: Reservation,
}

impl Reply {
    /// How many bytes it has.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.room.bytes()
    }
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Outcome {
    /// It is answered.
    Reply(Reply),
    /// It gets no answer (Produce with acks=0).
    Silence,
    /// Its connection ends; the text says why.
    Close(&'static str),
}

/// The rest of a request's work. What had to happen in the order of the connection's requests has happened.
pub type Pending = Pin<Box<dyn Future<Output = Outcome>>>;

/// What a handler returns: it reads the request and sends what is to be sent before it returns, and leaves the
/// waiting to the future.
pub type Handled = Result<Pending, DecodeError>;

/// Why a connection is closed instead of being answered, as Kafka does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteError {
    /// The bytes are no request.
    Decode(DecodeError),
    /// The API, or its version, is not offered.
    NotOffered {
        /// The API's key.
        key: i16,
        /// Its version.
        version: i16,
    },
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decode(error) => error.fmt(f),
            Self::NotOffered { key, version } => {
                write!(f, "version {version} of API {key} is not among those that ApiVersions lists")
            }
        }
    }
}

impl std::error::Error for RouteError {}

impl From<DecodeError> for RouteError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

/// An error and the text that goes with it where the response has room for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The code.
    pub code: ErrorCode,
    /// The text.
    pub message: String,
}

impl Refusal {
    /// An error whose text is the code's description.
    #[must_use]
    pub fn plain(code: ErrorCode) -> Self {
        Self { code, message: code.description().to_owned() }
    }

    /// An error with a text of its own.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}
