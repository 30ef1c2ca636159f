//! A producer's connection to one leader: requests leave without waiting, responses come back in order.

use crate::connection::Connection;
use crate::failure::{Failure, error_name};
use crate::meter::Errors;
use logmill_wire::api::{self, Message, produce};
use logmill_wire::primitives::{DecodeError, Reader};
use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;

/// A Produce response to one batch is far smaller.
const RESPONSE_BYTES_MAX: usize = 1 << 20;

/// Requests up to this size are collected and leave together, as far as they are due together.
const SMALL_REQUEST_BYTES: usize = 2048;

/// As many collected bytes leave at once.
const COLLECTED_BYTES_MAX: usize = 32 << 10;

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
    /// The producer whose connection it is, by its place in the thread.
    pub(super) producer: usize,
    address: String,
    stream: TcpStream,
    version: i16,
    received: Vec<u8>,
    unsent: Vec<u8>,
    unsent_at: usize,
    /// The socket takes no more for now.
    pub(super) is_full: bool,
    pub(super) in_flight: VecDeque<InFlight>,
    /// Since when the in-flight limit has had room.
    pub(super) free_since_ns: u64,
}

impl Link {
    pub(super) fn new(producer: usize, connection: Connection, version: i16) -> Result<Self, Failure> {
        let address = connection.address().to_owned();
        let stream = connection.into_stream();
        stream.set_nonblocking(true).map_err(|cause| Failure::Connection {
            address: address.clone(),
            doing: "it was prepared",
            cause,
        })?;
        Ok(Self {
            producer,
            address,
            stream,
            version,
            received: Vec::new(),
            unsent: Vec::new(),
            unsent_at: 0,
            is_full: false,
            in_flight: VecDeque::new(),
            free_since_ns: 0,
        })
    }

    pub(super) const fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether a request, or a part of one, has not left.
    pub(super) const fn has_unsent(&self) -> bool {
        self.unsent_at < self.unsent.len()
    }

    /// Whether another request may be sent.
    pub(super) fn has_room(&self, in_flight_max: usize) -> bool {
        !self.is_full && self.in_flight.len() < in_flight_max
    }

    /// Sends a request, or keeps it, or the rest of it, for [`Link::flush`].
    pub(super) fn send(&mut self, parts: [&[u8]; 3]) -> Result<(), Failure> {
        debug_assert!(!self.is_full, "whoever sends has asked for room");
        let size: usize = parts.iter().map(|part| part.len()).sum();
        if size <= SMALL_REQUEST_BYTES {
            parts.iter().for_each(|part| self.unsent.extend_from_slice(part));
            return if self.unsent.len() >= COLLECTED_BYTES_MAX { self.flush() } else { Ok(()) };
        }
        if self.has_unsent() {
            self.flush()?;
        }
        let mut written = 0;
        if !self.has_unsent() {
            let slices = parts.map(IoSlice::new);
            written = match self.stream.write_vectored(&slices) {
                Ok(count) => count,
                Err(error) if is_transient(&error) => 0,
                Err(cause) => return Err(self.failed("a batch was sent", cause)),
            };
        }
        for part in parts {
            let skipped = written.min(part.len());
            written -= skipped;
            self.unsent.extend_from_slice(&part[skipped..]);
        }
        self.flush()
    }

    /// Goes on with what has not left.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        self.is_full = false;
        while self.has_unsent() {
            match self.stream.write(&self.unsent[self.unsent_at..]) {
                Ok(count) => self.unsent_at += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_full = true;
                    return Ok(());
                }
                Err(cause) => return Err(self.failed("a batch was sent", cause)),
            }
        }
        self.unsent.clear();
        self.unsent_at = 0;
        Ok(())
    }

    /// Takes the responses that are here, with `chunk` as memory to read into. Error codes are counted in `errors`.
    pub(super) fn receive(
        &mut self,
        chunk: &mut [u8],
        errors: &mut Errors,
    ) -> Result<Vec<Answered>, Failure> {
        // One read: if it filled the chunk, the socket is still ready when it is waited for again.
        let count = match self.stream.read(chunk) {
            Ok(0) => return Err(self.failed("responses were awaited", io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => count,
            Err(error) if is_transient(&error) => return Ok(Vec::new()),
            Err(cause) => return Err(self.failed("responses were awaited", cause)),
        };
        let mut received = core::mem::take(&mut self.received);
        // Most often there is no rest of an earlier read to put in front.
        let all = if received.is_empty() {
            &chunk[..count]
        } else {
            received.extend_from_slice(&chunk[..count]);
            received.as_slice()
        };
        let (mut rest, mut answered) = (all, Vec::new());
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

    fn answered(&mut self, frame: &[u8], errors: &mut Errors) -> Result<Answered, Failure> {
        let request = self.in_flight.pop_front();
        let request = request.ok_or_else(|| self.protocol("a response that was not asked for".to_owned()))?;
        let (correlation_id, code) = read_response(frame, self.version)
            .map_err(|error| self.protocol(format!("a Produce response: {error}")))?;
        if correlation_id != request.correlation_id {
            let expected = request.correlation_id;
            return Err(self.protocol(format!("response {correlation_id} in the place of {expected}")));
        }
        let error = match code {
            Some(0) => return Ok((request, true)),
            Some(code) => error_name(code),
            None => "a response without the partition".to_owned(),
        };
        *errors.entry(error).or_default() += 1;
        Ok((request, false))
    }

    pub(super) fn failed(&self, doing: &'static str, cause: io::Error) -> Failure {
        Failure::Connection { address: self.address.clone(), doing, cause }
    }

    fn protocol(&self, detail: String) -> Failure {
        Failure::Protocol { address: self.address.clone(), detail }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// The correlation id, and the first error code of the partitions, or 0; `None` if there is no partition.
fn read_response(frame: &[u8], version: i16) -> Result<(i32, Option<i16>), DecodeError> {
    let mut reader = Reader::new(frame);
    let header = api::decode_response_header(&mut reader, produce::KEY, version)?;
    let response = produce::Response::decode_body(reader.rest(), version)?;
    let mut found = None;
    for topic in &response.responses {
        for partition in &topic.partition_responses {
            if found.is_none_or(|code| code == 0) {
                found = Some(partition.error_code);
            }
        }
    }
    Ok((header.correlation_id, found))
}
