//! Many connections on one thread: each has bytes to send, and collects what comes back.

use bytes::Bytes;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// One connection of the crowd.
struct Member {
    stream: TcpStream,
    to_send: Bytes,
    reply: Vec<u8>,
    is_open: bool,
}

/// Connections that are driven together, without blocking.
pub struct Crowd {
    members: Vec<Member>,
}

impl Crowd {
    /// Connects as many times as there are requests, each to be sent on its own connection.
    pub fn connect(address: SocketAddr, requests: impl IntoIterator<Item = Bytes>) -> Self {
        let members = requests
            .into_iter()
            .map(|to_send| {
                let stream = TcpStream::connect(address).expect("the node accepts");
                stream.set_nonblocking(true).unwrap();
                Member { stream, to_send, reply: Vec::new(), is_open: true }
            })
            .collect();
        Self { members }
    }

    /// Sends and receives until every connection has a whole reply; returns the bodies (without sizes), or how
    /// many are missing.
    pub fn exchange(&mut self, patience: Duration) -> Result<Vec<Vec<u8>>, String> {
        let deadline = Instant::now() + patience;
        loop {
            let mut has_moved = false;
            for member in &mut self.members {
                has_moved |= member.send() | member.receive();
            }
            if self.members.iter().all(Member::is_answered) {
                return Ok(self.members.iter().map(|member| member.reply[4..].to_vec()).collect());
            }
            let closed =
                self.members.iter().filter(|member| !member.is_open && !member.is_answered()).count();
            if Instant::now() >= deadline || closed > 0 {
                let missing = self.members.iter().filter(|member| !member.is_answered()).count();
                return Err(format!(
                    "{missing} of {} are unanswered, {closed} of them closed",
                    self.members.len()
                ));
            }
            if !has_moved {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Sends what the sockets take, and reads nothing.
    pub fn send_only(&mut self) {
        for member in &mut self.members {
            while member.send() {}
        }
    }
}

impl Member {
    fn is_answered(&self) -> bool {
        let Some(size) = self.reply.first_chunk::<4>() else { return false };
        usize::try_from(i32::from_be_bytes(*size)).is_ok_and(|size| self.reply.len() >= 4 + size)
    }

    /// Whether anything was sent.
    fn send(&mut self) -> bool {
        if self.to_send.is_empty() || !self.is_open {
            return false;
        }
        match self.stream.write(&self.to_send) {
            Ok(bytes) => {
                drop(self.to_send.split_to(bytes));
                bytes > 0
            }
            Err(error) => {
                self.is_open = error.kind() == io::ErrorKind::WouldBlock;
                false
            }
        }
    }

    /// Whether anything was received.
    fn receive(&mut self) -> bool {
        let mut buffer = [0; 4096];
        if !self.is_open {
            return false;
        }
        match self.stream.read(&mut buffer) {
            Ok(0) => {
                self.is_open = false;
                false
            }
            Ok(bytes) => {
                self.reply.extend_from_slice(&buffer[..bytes]);
                true
            }
            Err(error) => {
                self.is_open = error.kind() == io::ErrorKind::WouldBlock;
                false
            }
        }
    }
}
