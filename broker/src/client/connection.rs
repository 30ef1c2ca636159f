//! A connection to one broker, with the versions that it announced.

use super::failure::Failure;
use logmill_wire::api::announced::{self, AnnouncedVersions, Announcement};
use logmill_wire::api::{self, ApiRequest, Message};
use logmill_wire::primitives::Reader;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Under which name the broker knows this client.
pub(super) const CLIENT_ID: &str = "logmill-cli";

/// How long connecting to one address may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a broker may take for an answer: more than any request allows it (`request.timeout.ms`).
const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);

/// The largest response that is believed, size prefix excluded.
const RESPONSE_BYTES_MAX: usize = 1 << 30;

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    address: String,
    stream: TcpStream,
    versions: AnnouncedVersions,
    next_correlation_id: i32,
}

/// A request that was sent and not answered yet.
#[derive(Debug)]
#[must_use]
pub(super) struct Pending {
    key: i16,
    version: i16,
    correlation_id: i32,
}

/// A response, still encoded.
#[derive(Debug)]
pub(super) struct Answer {
    address: String,
    version: i16,
    frame: Vec<u8>,
    body_at: usize,
}

impl Answer {
    /// The response.
    ///
    /// # Errors
    /// [`Failure::Protocol`].
    pub(super) fn decode<'a, M: Message<'a>>(&'a self) -> Result<M, Failure> {
        M::decode_body(self.body(), self.version)
            .map_err(|error| self.protocol(format!("{} version {}: {error}", M::NAME, self.version)))
    }

    /// What follows the response's header.
    fn body(&self) -> &[u8] {
        &self.frame[self.body_at..]
    }

    /// What the response says breaks the protocol.
    pub(super) fn protocol(&self, detail: impl Into<String>) -> Failure {
        Failure::Protocol { address: self.address.clone(), detail: detail.into() }
    }
}

impl Connection {
    /// Connects, and asks for the broker's versions (KIP-35, KIP-511).
    ///
    /// # Errors
    /// [`Failure::Unreachable`]; those of [`Connection::call`].
    pub(super) fn open(address: &str) -> Result<Self, Failure> {
        let stream = connect(address)
            .map_err(|cause| Failure::Unreachable(vec![(address.to_owned(), cause.to_string())]))?;
        let mut connection = Self {
            address: address.to_owned(),
            stream,
            versions: AnnouncedVersions::default(),
            next_correlation_id: 0,
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
                    return Failure::check(code, None, || {
                        format!("{} does not name its versions", self.address)
                    });
                }
                Err(error) => return Err(answer.protocol(format!("ApiVersions version {version}: {error}"))),
            }
        }
        Err(self.protocol("no version of ApiVersions is known to it".to_owned()))
    }

    /// Sends a request in the newest common version.
    ///
    /// # Errors
    /// [`Failure::NoCommonVersion`], [`Failure::Connection`] or [`Failure::Protocol`].
    pub(super) fn send<'a, R: ApiRequest<'a>>(&mut self, request: &R) -> Result<Pending, Failure> {
        let version = self.version::<R>()?;
        self.send_in_version(request, version)
    }

    /// The newest version of an API that both sides speak.
    ///
    /// # Errors
    /// [`Failure::NoCommonVersion`].
    pub(super) fn version<'a, R: ApiRequest<'a>>(&self) -> Result<i16, Failure> {
        self.versions
            .newest_common::<R>(i16::MAX)
            .ok_or_else(|| Failure::NoCommonVersion { address: self.address.clone(), api: R::NAME })
    }

    fn send_in_version<'a, R: ApiRequest<'a>>(
        &mut self,
        request: &R,
        version: i16,
    ) -> Result<Pending, Failure> {
        let correlation_id = self.next_correlation_id;
        self.next_correlation_id = correlation_id.wrapping_add(1);
        let frame = api::request_frame(request, version, correlation_id, Some(CLIENT_ID))
            .map_err(|error| self.protocol(format!("{} cannot be encoded: {error}", R::NAME)))?;
        self.stream.write_all(&frame.concat()).map_err(|cause| self.failed("sending a request", &cause))?;
        Ok(Pending { key: R::KEY, version, correlation_id })
    }

    /// Waits for the answer to the oldest request that is pending.
    ///
    /// # Errors
    /// [`Failure::Connection`] or [`Failure::Protocol`].
    pub(super) fn receive(&mut self, pending: &Pending) -> Result<Answer, Failure> {
        let frame =
            read_frame(&mut self.stream).map_err(|cause| self.failed("waiting for an answer", &cause))?;
        let mut reader = Reader::new(&frame);
        let header = api::decode_response_header(&mut reader, pending.key, pending.version)
            .map_err(|error| self.protocol(format!("a response's header: {error}")))?;
        if header.correlation_id != pending.correlation_id {
            let (answered, asked) = (header.correlation_id, pending.correlation_id);
            return Err(self.protocol(format!("response {answered} to request {asked}")));
        }
        let body_at = frame.len() - reader.remaining();
        Ok(Answer { address: self.address.clone(), version: pending.version, frame, body_at })
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// Those of [`Connection::send`] and [`Connection::receive`].
    pub(super) fn call<'a, R: ApiRequest<'a>>(&mut self, request: &R) -> Result<Answer, Failure> {
        let pending = self.send(request)?;
        self.receive(&pending)
    }

    fn call_in_version<'a, R: ApiRequest<'a>>(
        &mut self,
        request: &R,
        version: i16,
    ) -> Result<Answer, Failure> {
        let pending = self.send_in_version(request, version)?;
        self.receive(&pending)
    }

    fn protocol(&self, detail: String) -> Failure {
        Failure::Protocol { address: self.address.clone(), detail }
    }

    fn failed(&self, doing: &'static str, cause: &io::Error) -> Failure {
        let cause = match cause.kind() {
            // How the kernel says that the socket's timeout has passed.
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("nothing happened for {} s", ANSWER_TIMEOUT.as_secs())
            }
            io::ErrorKind::UnexpectedEof => "the broker closed the connection".to_owned(),
            _ => cause.to_string(),
        };
        Failure::Connection { address: self.address.clone(), doing, cause }
    }
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address");
    for candidate in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&candidate, CONNECT_TIMEOUT) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
                stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// One frame, size prefix excluded. Memory grows with what arrives, whatever the prefix claims.
fn read_frame(source: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut prefix = [0; 4];
    source.read_exact(&mut prefix)?;
    let announced = i32::from_be_bytes(prefix);
    let size =
        usize::try_from(announced).ok().filter(|size| *size <= RESPONSE_BYTES_MAX).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {announced} bytes was announced"))
        })?;
    let mut frame = Vec::with_capacity(size.min(64 << 10));
    let read = source.take(size as u64).read_to_end(&mut frame)?;
    if read == size { Ok(frame) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_bounded_and_whole() {
        assert_eq!(read_frame(&mut [0_u8, 0, 0, 2, 7, 8, 9].as_slice()).unwrap(), [7, 8]);
        let kind = |bytes: &[u8]| read_frame(&mut &*bytes).unwrap_err().kind();
        assert_eq!(kind(&[0x40, 0, 0, 1]), io::ErrorKind::InvalidData);
        assert_eq!(kind(&[0xff; 4]), io::ErrorKind::InvalidData);
        assert_eq!(kind(&[0, 0]), io::ErrorKind::UnexpectedEof);
        assert_eq!(kind(&[0, 0, 0, 2, 7]), io::ErrorKind::UnexpectedEof);
        assert_eq!(kind(&[]), io::ErrorKind::UnexpectedEof);
    }
}
