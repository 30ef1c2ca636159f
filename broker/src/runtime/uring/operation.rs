//! What a ring can be asked to do. An operation owns everything that the kernel may touch while it is under
//! way, in places that do not move with it; the ring keeps it until its completion has arrived.

use crate::runtime::buffer::{Chunk, ChunkView};
use bytes::{Buf, Bytes, BytesMut};
use io_uring::{opcode, squeue, types};
use std::collections::VecDeque;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

/// Bytes of one read or write; the kernel's own bound is a page less than 2 GiB.
const TRANSFER_BYTES_MAX: usize = 1 << 30;

/// Parts of one send (`IOV_MAX`); the rest goes with the next.
const PARTS_MAX: usize = 1024;

/// With `MSG_WAITALL` the ring itself goes on after a short send.
const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;

const HERE: types::Fd = types::Fd(libc::AT_FDCWD);

pub(super) enum Operation {
    Open { path: CString, flags: i32 },
    Read { file: Rc<OwnedFd>, chunk: Chunk, position: u64, length: usize },
    Write { file: Rc<OwnedFd>, data: ChunkView, position: u64, durable: bool },
    Sync { file: Rc<OwnedFd>, data_only: bool },
    Allocate { file: Rc<OwnedFd>, position: u64, length: u64 },
    Truncate { file: Rc<OwnedFd>, length: u64 },
    Rename { from: CString, to: CString },
    Unlink { path: CString },
    Accept { listener: Rc<OwnedFd> },
    Connect { socket: Rc<OwnedFd>, address: Box<socket2::SockAddr> },
    Receive { socket: Rc<OwnedFd>, buffer: BytesMut },
    Send { socket: Rc<OwnedFd>, bytes: Bytes },
    SendParts { socket: Rc<OwnedFd>, parts: Parts },
}

/// What is left of a vectored send, and its description for the kernel.
pub(super) struct Parts {
    left: VecDeque<Bytes>,
    vector: Vec<libc::iovec>,
    header: Box<libc::msghdr>,
}

impl Parts {
    pub(super) fn new(parts: Vec<Bytes>) -> Self {
        let left = parts.into_iter().filter(|part| !part.is_empty()).collect();
        // SAFETY: a `msghdr` of zeros is one with no name, no vector and no control data.
        let header = Box::new(unsafe { std::mem::zeroed::<libc::msghdr>() });
        Self { left, vector: Vec::new(), header }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    fn describe(&mut self) -> *const libc::msghdr {
        self.vector.clear();
        self.vector.extend(
            self.left
                .iter()
                .take(PARTS_MAX)
                .map(|part| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() }),
        );
        self.header.msg_iov = self.vector.as_mut_ptr();
        self.header.msg_iovlen = self.vector.len();
        &raw const *self.header
    }

    fn advance(&mut self, mut sent: usize) {
        while let Some(part) = self.left.front_mut() {
            if sent < part.len() {
                part.advance(sent);
                return;
            }
            sent -= part.len();
            self.left.pop_front();
        }
    }
}

/// A path as the kernel takes it.
pub(super) fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a path cannot contain a zero byte"))
}

impl Operation {
    /// Whether it ends by itself, soon: a file operation. The number of those under way is bounded;
    /// operations of sockets may wait for ever, and are bounded by the number of sockets.
    pub(super) const fn is_of_file(&self) -> bool {
        !matches!(
            self,
            Self::Accept { .. }
                | Self::Connect { .. }
                | Self::Receive { .. }
                | Self::Send { .. }
                | Self::SendParts { .. }
        )
    }

    /// The entry that describes it to the kernel. Its pointers lead to memory that this operation owns and
    /// that stays where it is when the operation itself is moved: strings, chunks, buffers, boxes.
    pub(super) fn entry(&mut self) -> squeue::Entry {
        match self {
            Self::Open { path, flags } => {
                opcode::OpenAt::new(HERE, path.as_ptr()).flags(*flags).mode(0o644).build()
            }
            Self::Read { file, chunk, position, length } => {
                let spare = chunk.spare();
                let count = spare.len().min(*length).min(TRANSFER_BYTES_MAX) as u32;
                opcode::Read::new(types::Fd(file.as_raw_fd()), spare.as_mut_ptr(), count)
                    .offset(*position)
                    .build()
            }
            Self::Write { file, data, position, durable } => {
                let count = data.len().min(TRANSFER_BYTES_MAX) as u32;
                opcode::Write::new(types::Fd(file.as_raw_fd()), data.as_ptr(), count)
                    .offset(*position)
                    .rw_flags(if *durable { libc::RWF_DSYNC } else { 0 })
                    .build()
            }
            Self::Sync { file, data_only } => {
                let flags = if *data_only { types::FsyncFlags::DATASYNC } else { types::FsyncFlags::empty() };
                opcode::Fsync::new(types::Fd(file.as_raw_fd())).flags(flags).build()
            }
            Self::Allocate { file, position, length } => {
                opcode::Fallocate::new(types::Fd(file.as_raw_fd()), *length).offset(*position).build()
            }
            Self::Truncate { file, length } => {
                opcode::Ftruncate::new(types::Fd(file.as_raw_fd()), *length).build()
            }
            Self::Rename { from, to } => {
                opcode::RenameAt::new(HERE, from.as_ptr(), HERE, to.as_ptr()).build()
            }
            Self::Unlink { path } => opcode::UnlinkAt::new(HERE, path.as_ptr()).build(),
            Self::Accept { listener } => {
                let nowhere = std::ptr::null_mut();
                opcode::Accept::new(types::Fd(listener.as_raw_fd()), nowhere, nowhere.cast())
                    .flags(libc::SOCK_CLOEXEC)
                    .build()
            }
            Self::Connect { socket, address } => {
                opcode::Connect::new(types::Fd(socket.as_raw_fd()), address.as_ptr().cast(), address.len())
                    .build()
            }
            Self::Receive { socket, buffer } => {
                let spare = buffer.spare_capacity_mut();
                let count = spare.len().min(TRANSFER_BYTES_MAX) as u32;
                opcode::Recv::new(types::Fd(socket.as_raw_fd()), spare.as_mut_ptr().cast(), count).build()
            }
            Self::Send { socket, bytes } => {
                let count = bytes.len().min(TRANSFER_BYTES_MAX) as u32;
                opcode::Send::new(types::Fd(socket.as_raw_fd()), bytes.as_ptr(), count)
                    .flags(SEND_FLAGS)
                    .build()
            }
            Self::SendParts { socket, parts } => {
                let flags = SEND_FLAGS as u32;
                opcode::SendMsg::new(types::Fd(socket.as_raw_fd()), parts.describe()).flags(flags).build()
            }
        }
    }

    /// Takes note of a completion: what the kernel has filled becomes readable, what it has made an owner.
    ///
    /// # Safety
    /// `result` is the kernel's own result for the entry that [`Operation::entry`] returned last.
    pub(super) unsafe fn complete(&mut self, result: i32) -> io::Result<Completed> {
        let count = match u32::try_from(result) {
            Ok(count) => count as usize,
            Err(_) => return Err(io::Error::from_raw_os_error(-result)),
        };
        match self {
            Self::Open { .. } | Self::Accept { .. } => {
                // SAFETY: the kernel has just made this descriptor for this operation.
                return Ok(Completed::Descriptor(unsafe { OwnedFd::from_raw_fd(result) }));
            }
            Self::Read { chunk, .. } => chunk.advance(count),
            Self::Receive { buffer, .. } => {
                assert!(count <= buffer.capacity() - buffer.len(), "the kernel was given no more room");
                // SAFETY: the kernel has written `count` bytes to the start of the spare capacity.
                unsafe { buffer.set_len(buffer.len() + count) };
            }
            Self::Send { bytes, .. } => bytes.advance(count.min(bytes.len())),
            Self::SendParts { parts, .. } => parts.advance(count),
            _ => {}
        }
        Ok(Completed::Count(count))
    }
}

/// What a successful operation yields.
#[derive(Debug)]
pub(super) enum Completed {
    /// Bytes, or 0 where there is nothing to count.
    Count(usize),
    /// A descriptor that is closed unless somebody takes it.
    Descriptor(OwnedFd),
}

impl Completed {
    pub(super) const fn count(&self) -> usize {
        match self {
            Self::Count(count) => *count,
            Self::Descriptor(_) => 0,
        }
    }

    pub(super) fn descriptor(self) -> io::Result<OwnedFd> {
        match self {
            Self::Descriptor(descriptor) => Ok(descriptor),
            Self::Count(_) => Err(io::Error::other("the operation makes no descriptor")),
        }
    }
}
