//! A connection that speaks Kafka's protocol, one blocking call at a time: what a run needs before and
//! beside its load.

use crate::failure::Failure;
use core::ops::Range;
use logmill_wire::api::announced::{self, AnnouncedVersions, Announcement};
use logmill_wire::api::{self, ApiRequest, Message};
use logmill_wire::primitives::Reader;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// The name under which the program shows up in the broker's logs and metrics.
pub const CLIENT_ID: &str = "logmill-bench";

/// The largest response that is believed, size prefix excluded.
const RESPONSE_BYTES_MAX: usize = 1 << 30;

/// Memory for a frame before anything of it has come.
const FRAME_BYTES_FIRST: usize = 64 << 10;

/// A connection with the versions that its broker announced.
#[derive(Debug)]
pub struct Connection {
    address: String,
    stream: TcpStream,
    versions: AnnouncedVersions,
    next_correlation_id: i32,
    /// The memory of the last answer that was given back.
    spare: Vec<u8>,
}

/// A response, and the version in which to decode it.
#[derive(Debug)]
pub struct Answer {
    /// The API version of the request and so of the response.
    pub version: i16,
    memory: Vec<u8>,
    body: Range<usize>,
}

impl Answer {
    /// What follows the response's header.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.memory[self.body.clone()]
    }
}

impl Connection {
    /// Connects and asks for the broker's versions (KIP-35, KIP-511).
    ///
    /// # Errors
    /// [`Failure::Connect`], and those of [`Connection::call`].
    pub fn open(address: &str, timeout: Duration) -> Result<Self, Failure> {
        let stream = connect(address, timeout)
            .map_err(|cause| Failure::Connect { address: address.to_owned(), cause })?;
        let mut connection = Self {
            address: address.to_owned(),
            stream,
            versions: AnnouncedVersions::default(),
            next_correlation_id: 0,
            spare: Vec::new(),
        };
        connection.negotiate()?;
        Ok(connection)
    }

    fn negotiate(&mut self) -> Result<(), Failure> {
        let question = announced::question(CLIENT_ID, env!("CARGO_PKG_VERSION"));
        for version in announced::QUESTION_VERSIONS {
            let answer = self.call_in_version(&question, version)?;
            match announced::read_answer(answer.body(), version) {
                Ok(Announcement::Versions(versions)) => {
                    self.versions = versions;
                    return Ok(());
                }
                Ok(Announcement::UnknownQuestion) => {}
                Ok(Announcement::Refused(code)) => {
                    return Err(Failure::Refused { api: "ApiVersions", code, subject: self.address.clone() });
                }
                Err(error) => return Err(self.protocol(format!("ApiVersions version {version}: {error}"))),
            }
        }
        Err(self.protocol("no version of ApiVersions is known to it".to_owned()))
    }

    /// Where the connection leads, as `HOST:PORT`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The newest version of an API that both sides speak, at most `limit`.
    ///
    /// # Errors
    /// [`Failure::NoCommonVersion`].
    pub fn version<'a, R: ApiRequest<'a>>(&self, limit: i16) -> Result<i16, Failure> {
        self.versions
            .newest_common::<R>(limit)
            .ok_or_else(|| Failure::NoCommonVersion { address: self.address.clone(), api: R::NAME })
    }

    /// Sends a request in the newest common version and waits for its response.
    ///
    /// # Errors
    /// [`Failure::NoCommonVersion`], [`Failure::Connection`] or [`Failure::Protocol`].
    pub fn call<'a, R: ApiRequest<'a>>(&mut self, request: &R) -> Result<Answer, Failure> {
        self.call_in_version(request, self.version::<R>(i16::MAX)?)
    }

    /// As [`Connection::call`], in the given version.
    ///
    /// # Errors
    /// [`Failure::Connection`] or [`Failure::Protocol`].
    pub fn call_in_version<'a, R: ApiRequest<'a>>(
        &mut self,
        request: &R,
        version: i16,
    ) -> Result<Answer, Failure> {
        let correlation_id = self.next_correlation_id;
        self.next_correlation_id = correlation_id.wrapping_add(1);
        let frame = api::request_frame(request, version, correlation_id, Some(CLIENT_ID))
            .map_err(|error| self.protocol(format!("{} cannot be encoded: {error}", R::NAME)))?;
        self.stream.write_all(&frame.concat()).map_err(|cause| self.failed("a request was sent", cause))?;
        let mut memory = core::mem::take(&mut self.spare);
        let size = read_frame_into(&mut self.stream, &mut memory, RESPONSE_BYTES_MAX)
            .and_then(|size| size.ok_or_else(|| io::ErrorKind::UnexpectedEof.into()))
            .map_err(|cause| self.failed("a response was awaited", cause))?;
        let mut reader = Reader::new(&memory[..size]);
        let header = api::decode_response_header(&mut reader, R::KEY, version)
            .map_err(|error| self.protocol(format!("a response's header: {error}")))?;
        if header.correlation_id != correlation_id {
            return Err(
                self.protocol(format!("response {} to request {correlation_id}", header.correlation_id))
            );
        }
        let body = size - reader.remaining()..size;
        Ok(Answer { version, memory, body })
    }

    /// Takes back an answer's memory for the next one.
    pub fn recycle(&mut self, answer: Answer) {
        self.spare = answer.memory;
    }

    /// Decodes what [`Connection::call`] returned.
    ///
    /// # Errors
    /// [`Failure::Protocol`].
    pub fn decode<'a, M: Message<'a>>(&self, answer: &'a Answer) -> Result<M, Failure> {
        M::decode_body(answer.body(), answer.version)
            .map_err(|error| self.protocol(format!("{} version {}: {error}", M::NAME, answer.version)))
    }

    /// Gives up the connection's socket, for a loop of its own.
    #[must_use]
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    fn protocol(&self, detail: String) -> Failure {
        Failure::Protocol { address: self.address.clone(), detail }
    }

    fn failed(&self, doing: &'static str, cause: io::Error) -> Failure {
        Failure::Connection { address: self.address.clone(), doing, cause }
    }
}

fn connect(address: &str, timeout: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address");
    for candidate in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&candidate, timeout) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(timeout))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Reads one frame, size prefix excluded; `None` if the other side closed the connection before it.
///
/// # Errors
/// Those of [`read_frame_into`].
pub fn read_frame(source: &mut impl Read, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
    let mut memory = Vec::new();
    let size = read_frame_into(source, &mut memory, bytes_max)?;
    Ok(size.map(|size| {
        memory.truncate(size);
        memory
    }))
}

/// Reads one frame, size prefix excluded, to the front of `memory`, and returns its size; `None` if the other side
/// closed the connection before it. Memory grows with what arrives, whatever the prefix claims, and never shrinks.
///
/// # Errors
/// Those of reading; `InvalidData` for a size below 0 or above `bytes_max`; `UnexpectedEof` within a frame.
pub fn read_frame_into(
    source: &mut impl Read,
    memory: &mut Vec<u8>,
    bytes_max: usize,
) -> io::Result<Option<usize>> {
    let mut prefix = [0; 4];
    let mut filled = 0;
    while filled < prefix.len() {
        match source.read(&mut prefix[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let announced = i32::from_be_bytes(prefix);
    let size = usize::try_from(announced).ok().filter(|size| *size <= bytes_max).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {announced} bytes was announced"))
    })?;
    let mut read = 0;
    while read < size {
        let room = size.min(memory.len().max(read * 2).max(FRAME_BYTES_FIRST));
        if memory.len() < room {
            memory.resize(room, 0);
        }
        source.read_exact(&mut memory[read..room])?;
        read = room;
    }
    Ok(Some(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_bounded_and_whole() {
        assert_eq!(read_frame(&mut [0_u8, 0, 0, 2, 7, 8].as_slice(), 2).unwrap(), Some(vec![7, 8]));
        assert_eq!(read_frame(&mut [0_u8; 0].as_slice(), 2).unwrap(), None);
        let kind = |bytes: &[u8]| read_frame(&mut &*bytes, 2).unwrap_err().kind();
        assert_eq!(kind(&[0, 0, 0, 3, 7, 8, 9]), io::ErrorKind::InvalidData);
        assert_eq!(kind(&[0xff; 4]), io::ErrorKind::InvalidData);
        assert_eq!(kind(&[0, 0]), io::ErrorKind::UnexpectedEof);
        assert_eq!(kind(&[0, 0, 0, 2, 7]), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn memory_is_used_again_and_grows_with_what_comes() {
        let frame = |size: usize| [&(size as u32).to_be_bytes()[..], &vec![7; size]].concat();
        let mut memory = Vec::new();
        for size in [200_000, 3, 70_000, 0] {
            let read = read_frame_into(&mut frame(size).as_slice(), &mut memory, 1 << 30).unwrap();
            assert_eq!(read, Some(size));
            assert!(memory[..size].iter().all(|byte| *byte == 7));
            assert_eq!(memory.len(), 200_000);
        }
        let mut claimed = Vec::new();
        let cut = &frame(200_000)[..100];
        read_frame_into(&mut &*[&(1_u32 << 29).to_be_bytes()[..], cut].concat(), &mut claimed, 1 << 30)
            .unwrap_err();
        assert_eq!(claimed.len(), FRAME_BYTES_FIRST);
    }
}
