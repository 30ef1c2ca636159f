//! A producer's connection to one leader: requests leave without waiting, responses come back in order.

use crate::connection::Connection;
use crate::failure::{Failure, error_name};
use logmill_wire::api::{Message, header_versions, produce, response_header};
use logmill_wire::primitives::{DecodeError, Reader};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;

/// A Produce response to one batch is far smaller.
const RESPONSE_BYTES_MAX: usize = 1 << 20;

/// A request whose response has not come.
#[derive(Clone, Copy, Debug)]
pub(super) struct InFlight {
    pub(super) correlation_id: i32,
    pub(super) due_ns: u64,
    pub(super) measured: bool,
}

/// A request that was answered, and whether the broker took the batch.
pub(super) type Answered = (InFlight, bool);

#[derive(Debug)]
pub(super) struct Link {
    address: String,
    stream: TcpStream,
    version: i16,
    received: Vec<u8>,
    unsent: Vec<u8>,
    unsent_at: usize,
    pub(super) in_flight: VecDeque<InFlight>,
    /// Since when the in-flight limit has had room.
    pub(super) free_since_ns: u64,
}

impl Link {
    pub(super) fn new(connection: Connection, version: i16) -> Result<Self, Failure> {
        let address = connection.address().to_owned();
        let stream = connection.into_stream();
        stream.set_nonblocking(true).map_err(|cause| Failure::Connection {
            address: address.clone(),
            doing: "it was prepared",
            cause,
        })?;
        Ok(Self {
            address,
            stream,
            version,
            received: Vec::new(),
            unsent: Vec::new(),
            unsent_at: 0,
            in_flight: VecDeque::new(),
            free_since_ns: 0,
        })
    }

    pub(super) const fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether a part of a request still waits for room in the socket.
    pub(super) const fn is_writing(&self) -> bool {
        self.unsent_at < self.unsent.len()
    }

    /// Sends a request, or keeps the rest of it for [`Link::flush`].
    pub(super) fn send(&mut self, parts: [&[u8]; 3]) -> Result<(), Failure> {
        debug_assert!(!self.is_writing(), "one request is written at a time");
        let slices = parts.map(IoSlice::new);
        let mut written = match self.stream.write_vectored(&slices) {
            Ok(count) => count,
            Err(error) if is_transient(&error) => 0,
            Err(cause) => return Err(self.failed("a batch was sent", cause)),
        };
        self.unsent.clear();
        self.unsent_at = 0;
        for part in parts {
            let skipped = written.min(part.len());
            written -= skipped;
            self.unsent.extend_from_slice(&part[skipped..]);
        }
        self.flush()
    }

    /// Goes on with what [`Link::send`] could not write.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        while self.is_writing() {
            match self.stream.write(&self.unsent[self.unsent_at..]) {
                Ok(count) => self.unsent_at += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(cause) => return Err(self.failed("a batch was sent", cause)),
            }
        }
        Ok(())
    }

    /// Takes the responses that are here. Error codes are counted in `errors`.
    pub(super) fn receive(&mut self, errors: &mut BTreeMap<String, u64>) -> Result<Vec<Answered>, Failure> {
        let mut chunk = [0; 16 << 10];
        // One read: if it filled the chunk, the socket is still ready when it is waited for again.
        match self.stream.read(&mut chunk) {
            Ok(0) => return Err(self.failed("responses were awaited", io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => self.received.extend_from_slice(&chunk[..count]),
            Err(error) if is_transient(&error) => return Ok(Vec::new()),
            Err(cause) => return Err(self.failed("responses were awaited", cause)),
        }
        let received = core::mem::take(&mut self.received);
        let mut rest = received.as_slice();
        let mut answered = Vec::new();
        while let Some((prefix, after)) = rest.split_first_chunk::<4>() {
            let size =
                usize::try_from(i32::from_be_bytes(*prefix)).ok().filter(|size| *size <= RESPONSE_BYTES_MAX);
            let size = size.ok_or_else(|| self.protocol("a response of an impossible size".to_owned()))?;
            let Some((frame, after)) = after.split_at_checked(size) else { break };
            rest = after;
            answered.push(self.answered(frame, errors)?);
        }
        self.received = rest.to_vec();
        Ok(answered)
    }

    fn answered(&mut self, frame: &[u8], errors: &mut BTreeMap<String, u64>) -> Result<Answered, Failure> {
        let request = self.in_flight.pop_front();
        let request = request.ok_or_else(|| self.protocol("a response that was not asked for".to_owned()))?;
        let (correlation_id, codes) = read_response(frame, self.version)
            .map_err(|error| self.protocol(format!("a Produce response: {error}")))?;
        if correlation_id != request.correlation_id {
            let expected = request.correlation_id;
            return Err(self.protocol(format!("response {correlation_id} in the place of {expected}")));
        }
        let mut accepted = !codes.is_empty();
        for code in codes.iter().filter(|code| **code != 0) {
            accepted = false;
            *errors.entry(error_name(*code)).or_default() += 1;
        }
        if codes.is_empty() {
            *errors.entry("a response without the partition".to_owned()).or_default() += 1;
        }
        Ok((request, accepted))
    }

    fn protocol(&self, detail: String) -> Failure {
        Failure::Protocol { address: self.address.clone(), detail }
    }

    fn failed(&self, doing: &'static str, cause: io::Error) -> Failure {
        Failure::Connection { address: self.address.clone(), doing, cause }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// The correlation id, and the error code of each partition.
fn read_response(frame: &[u8], version: i16) -> Result<(i32, Vec<i16>), DecodeError> {
    let mut reader = Reader::new(frame);
    let header_version = header_versions(produce::KEY, version).map_or(0, |versions| versions.response);
    let header = response_header::ResponseHeader::decode(&mut reader, header_version)?;
    let response = produce::Response::decode_body(reader.rest(), version)?;
    let mut codes = Vec::with_capacity(1);
    for topic in &response.responses {
        codes.extend(topic.partition_responses.iter().map(|partition| partition.error_code));
    }
    Ok((header.correlation_id, codes))
}
