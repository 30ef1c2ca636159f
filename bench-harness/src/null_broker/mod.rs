//! A broker that does as little as the protocol allows: it reads requests, acknowledges them, keeps the
//! last few MiB of each partition in memory and stores nothing. What it costs, and how fast it is, is the
//! limit of client, kernel and host, beside which a real broker's figures stand.

mod requests;
mod store;

use crate::connection::read_frame;
use crate::failure::Failure;
use bytes::Bytes;
use logmill_wire::limits::REQUEST_FRAME_BYTES_MAX;
use std::io::{self, BufReader, IoSlice, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use store::Store;

/// Read at once from a connection: several small requests, or a good part of a large one.
const READ_BUFFER_BYTES: usize = 64 << 10;

/// How a null broker behaves.
#[derive(Clone, Debug, clap::Args)]
pub struct NullBrokerOptions {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9092")]
    pub listen: String,
    /// MiB of newest batches that each partition keeps in memory
    #[arg(long, value_name = "MIB", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub keep_mib: u32,
    /// Refuse batches with this Kafka error code, to see whether a client notices
    #[arg(long, value_name = "CODE")]
    pub produce_error: Option<i16>,
}

/// A null broker that accepts connections on threads of its own until the process ends.
#[derive(Debug)]
pub struct NullBroker {
    address: SocketAddr,
    acceptor: JoinHandle<()>,
}

impl NullBroker {
    /// Binds the port and starts accepting.
    ///
    /// # Errors
    /// [`Failure::File`] if the address cannot be bound.
    pub fn start(options: &NullBrokerOptions) -> Result<Self, Failure> {
        let failed = |cause| Failure::File { path: format!("the address {}", options.listen), cause };
        let listener = TcpListener::bind(&options.listen).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let service = Arc::new(Service {
            address,
            store: Store::default(),
            keep_bytes: (options.keep_mib as usize) << 20,
            produce_error: options.produce_error.unwrap_or(0),
        });
        let acceptor = thread::Builder::new()
            .name("acceptor".to_owned())
            .spawn(move || accept(&listener, &service))
            .map_err(failed)?;
        Ok(Self { address, acceptor })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Goes on until the listener fails.
    pub fn run(self) {
        // The acceptor's only ending is a failure of the listener, which it has reported.
        let _ = self.acceptor.join();
    }
}

/// What all connections share.
#[derive(Debug)]
struct Service {
    address: SocketAddr,
    store: Store,
    keep_bytes: usize,
    produce_error: i16,
}

fn accept(listener: &TcpListener, service: &Arc<Service>) {
    for stream in listener.incoming() {
        let result = stream.and_then(|stream| {
            let service = Arc::clone(service);
            thread::Builder::new().name("connection".to_owned()).spawn(move || converse(&service, &stream))
        });
        if let Err(error) = result {
            let _ = writeln!(io::stderr(), "the null broker lost a connection: {error}");
        }
    }
}

/// Answers the requests of one connection in order until it ends.
fn converse(service: &Service, stream: &TcpStream) {
    let outcome = stream.set_nodelay(true).and_then(|()| {
        let mut input = BufReader::with_capacity(READ_BUFFER_BYTES, stream);
        let mut waiting: Vec<Bytes> = Vec::new();
        while let Some(frame) = read_frame(&mut input, REQUEST_FRAME_BYTES_MAX)? {
            let response = requests::answer(service, &frame)
                .map_err(|detail| io::Error::new(io::ErrorKind::InvalidData, detail))?;
            waiting.extend(response);
            // Responses to requests that are already here leave together.
            if input.buffer().len() < 4 {
                send_all(stream, &waiting)?;
                waiting.clear();
            }
        }
        Ok(())
    });
    if let Err(error) = outcome
        && !matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
    {
        let _ = writeln!(io::stderr(), "the null broker closed a connection: {error}");
    }
}

/// Writes the parts of one or more frames without joining them.
fn send_all(mut stream: &TcpStream, parts: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let mut left = slices.as_mut_slice();
    while !left.is_empty() {
        match stream.write_vectored(left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => IoSlice::advance_slices(&mut left, count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
