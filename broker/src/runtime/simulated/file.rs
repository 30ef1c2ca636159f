//! The files that tasks hold, and how long their operations take.

use super::core::{Completion, Core, Kind, Life};
use super::disk::{Disk, Node, Operation, error};
use crate::runtime::buffer::{Chunk, ChunkView};
use crate::runtime::{Durability, File, Mapping};
use logmill_wire::ids::TimestampMs;
use logmill_wire::limits::PAGE_BYTES;
use std::cell::Cell;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

const PAGE: u64 = PAGE_BYTES as u64;

/// How long an operation takes, by the disk's options.
#[derive(Clone, Copy)]
pub(super) enum Pace {
    Read,
    Write,
    DurableWrite,
    Flush,
    Names,
}

impl Core {
    /// Does something with the disk of a host.
    pub fn disk<T>(&self, host: usize, act: impl FnOnce(&mut Disk) -> T) -> T {
        act(&mut self.disks.borrow_mut()[host])
    }

    fn disk_delay_ns(&self, host: usize, pace: Pace) -> u64 {
        let (ranges, slowness, slow) = self.disk(host, |disk| {
            let options = &disk.options;
            let none = (0, 0);
            let ranges = match pace {
                Pace::Read => [options.read_ns, none],
                Pace::Write => [options.write_ns, none],
                Pace::DurableWrite => [options.write_ns, options.flush_ns],
                Pace::Flush => [options.flush_ns, none],
                Pace::Names => [options.names_ns, none],
            };
            (ranges, disk.slowness, options.slow)
        });
        self.draw(|chance| {
            let delay_ns = chance.between(ranges[0]) + chance.between(ranges[1]);
            delay_ns * slowness * if chance.hit(slow) { 100 } else { 1 }
        })
    }

    /// The error that a fault prescribes for this operation.
    pub fn disk_fault(&self, host: usize, operation: Operation, path: &Path) -> io::Result<()> {
        let mut chance = self.chance.borrow_mut();
        match self.disks.borrow_mut()[host].fault(operation, path, &mut chance) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Does `act` to the disk after the time that it takes.
    pub fn disk_event<T: 'static>(
        &self,
        life: Life,
        kind: Kind,
        pace: Pace,
        act: impl FnOnce(&Rc<Self>) -> T + 'static,
    ) -> Completion<T> {
        let completion = Completion::new();
        if !self.is_alive(life) {
            // A task goes on to its next await after it has ended its own host; nothing comes of it.
            return completion;
        }
        let told = completion.clone();
        let delay_ns = self.disk_delay_ns(life.host, pace);
        self.schedule(delay_ns, kind, Some(life), move |core| {
            let outcome = act(core);
            told.complete(outcome);
        });
        completion
    }

    /// Does `act` to the disk, whose effect may come long before its answer: a crash between the two leaves
    /// a deed that nobody has heard of.
    pub fn disk_deed<T: 'static>(
        self: &Rc<Self>,
        life: Life,
        operation: Operation,
        path: &Path,
        act: impl FnOnce(&Rc<Self>) -> io::Result<T> + 'static,
    ) -> Completion<io::Result<T>> {
        let fault = self.disk_fault(life.host, operation, path);
        let does_it_now = self.draw(|chance| chance.one_in(2));
        if (does_it_now || fault.is_err()) && self.is_alive(life) {
            let outcome = fault.and_then(|()| act(self));
            self.disk_event(life, Kind::Names, Pace::Names, |_| outcome)
        } else {
            self.disk_event(life, Kind::Names, Pace::Names, act)
        }
    }
}

/// Keeps a file open, for its handle and for every operation under way.
pub(super) struct OpenFile {
    core: Rc<Core>,
    life: Life,
    node: Node,
    path: PathBuf,
    is_writable: bool,
    /// The number of the open file's last write, for the trace.
    writes: Cell<u64>,
}

impl OpenFile {
    pub const fn new(core: Rc<Core>, life: Life, node: Node, path: PathBuf, is_writable: bool) -> Self {
        Self { core, life, node, path, is_writable, writes: Cell::new(0) }
    }

    fn fault(&self, operation: Operation) -> io::Result<()> {
        self.core.disk_fault(self.life.host, operation, &self.path)
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.is_writable { Ok(()) } else { Err(error(libc::EBADF)) }
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        // A crash has closed it already.
        if self.core.is_alive(self.life) {
            self.core.disk(self.life.host, |disk| disk.close(self.node));
        }
    }
}

/// A file of a simulated disk, open for direct I/O.
pub struct SimulatedFile(pub(super) Rc<OpenFile>);

/// Refuses what direct I/O would refuse.
fn check_alignment(what: &str, number: u64) {
    assert!(
        number.is_multiple_of(PAGE),
        "the {what} of direct I/O must be a multiple of {PAGE}, not {number}"
    );
}

async fn read(
    file: Rc<OpenFile>,
    mut chunk: Chunk,
    position: u64,
    length: usize,
) -> (io::Result<usize>, Chunk) {
    check_alignment("position", position);
    check_alignment("length", length as u64);
    check_alignment("memory", chunk.spare().as_ptr() as u64);
    let fault = file.fault(Operation::Read);
    let core = Rc::clone(&file.core);
    // The chunk goes with the event: dropping the future leaves it there until the read is through.
    core.disk_event(file.life, Kind::Read, Pace::Read, move |core| {
        if let Err(error) = fault {
            return (Err(error), chunk);
        }
        let mut chance = core.chance.borrow_mut();
        let mut disks = core.disks.borrow_mut();
        let outcome = disks[file.life.host].content(file.node).map(|content| {
            let count = length.min(chunk.room());
            content.read(position, &mut chunk.spare()[..count], &mut chance)
        });
        drop(disks);
        if let Ok(count) = outcome {
            if count > 0 && chance.hit(core.options.disk.read_corruption) {
                chunk.spare()[chance.index(count)] ^= 1 << chance.below(8);
            }
            chunk.advance(count);
            drop(chance);
            core.note(Kind::Read, u64::from(crc32c::crc32c(&chunk)));
        }
        (outcome, chunk)
    })
    .await
}

async fn write(file: Rc<OpenFile>, data: ChunkView, position: u64, durability: Durability) -> io::Result<()> {
    check_alignment("position", position);
    check_alignment("length", data.len() as u64);
    check_alignment("memory", data.as_ptr() as u64);
    file.check_writable()?;
    if data.is_empty() {
        return Ok(());
    }
    let fault = file.fault(Operation::Write);
    let core = Rc::clone(&file.core);
    let host = file.life.host;
    let range = (position, data.len() as u64);
    file.writes.set(file.writes.get() + 1);
    core.note(Kind::Write, u64::from(crc32c::crc32c(&data)) ^ position.rotate_left(32) ^ file.writes.get());
    let begun: io::Result<u64> = core.disk(host, |disk| {
        if !core.is_alive(file.life) {
            return Err(error(libc::EBADF));
        }
        disk.check_space(file.node, range.0, range.1)?;
        let refuses = disk.options.refuse_overlapping_writes;
        let tick = disk.next_tick();
        let content = disk.content(file.node)?;
        let overlap = content.overlaps_write(range.0 / PAGE, range.1 / PAGE);
        assert!(
            !refuses || overlap.is_none(),
            "two writes to page {} of {} are under way together: either may win",
            overlap.unwrap_or_default(),
            file.path.display()
        );
        content.begin_write(tick, position, &data);
        disk.touch(file.node, core.wall_clock(host));
        Ok(tick)
    });
    let pace = if durability == Durability::Durable { Pace::DurableWrite } else { Pace::Write };
    core.disk_event(file.life, Kind::Write, pace, move |core| {
        let number = begun?;
        let mut chance = core.chance.borrow_mut();
        core.disk(host, |disk| {
            let tick = disk.next_tick();
            let content = disk.content(file.node)?;
            match fault {
                Ok(()) => {
                    let is_durable = durability == Durability::Durable;
                    content.complete_write(number, range, tick, is_durable, &mut chance);
                    Ok(())
                }
                Err(error) => {
                    content.fail_write(number, range, tick, &mut chance);
                    Err(error)
                }
            }
        })
    })
    .await
}

async fn flush(file: Rc<OpenFile>, horizon: u64) -> io::Result<()> {
    let fault = file.fault(Operation::Flush);
    let core = Rc::clone(&file.core);
    core.disk_event(file.life, Kind::Flush, Pace::Flush, move |core| {
        let mut chance = core.chance.borrow_mut();
        core.disk(file.life.host, |disk| {
            let content = disk.content(file.node)?;
            match fault {
                Ok(()) => {
                    content.flush(horizon);
                    Ok(())
                }
                Err(error) => {
                    content.fail_flush(horizon, &mut chance);
                    Err(error)
                }
            }
        })
    })
    .await
}

/// A file of a simulated disk in memory.
pub struct SimulatedMapping {
    file: Rc<OpenFile>,
    bytes: usize,
}

impl Mapping for SimulatedMapping {
    fn len(&self) -> usize {
        self.bytes
    }

    fn write(&self, position: usize, bytes: &[u8]) {
        assert!(position + bytes.len() <= self.bytes, "a write must lie within its mapping");
        let core = &self.file.core;
        if !core.is_alive(self.file.life) {
            return;
        }
        core.note(Kind::Write, u64::from(crc32c::crc32c(bytes)) ^ (position as u64).rotate_left(32));
        core.disk(self.file.life.host, |disk| {
            let tick = disk.next_tick();
            if let Ok(content) = disk.content(self.file.node) {
                content.write_mapped(tick, position as u64, bytes);
            }
        });
    }
}

impl File for SimulatedFile {
    type Mapping = SimulatedMapping;

    fn is_direct(&self) -> bool {
        self.0.core.disk(self.0.life.host, |disk| disk.options.is_direct)
    }

    fn read(
        &self,
        chunk: Chunk,
        position: u64,
        length: usize,
    ) -> impl Future<Output = (io::Result<usize>, Chunk)> + 'static {
        read(Rc::clone(&self.0), chunk, position, length)
    }

    fn write(
        &self,
        data: ChunkView,
        position: u64,
        durability: Durability,
    ) -> impl Future<Output = io::Result<()>> + 'static {
        write(Rc::clone(&self.0), data, position, durability)
    }

    fn flush(&self) -> impl Future<Output = io::Result<()>> + 'static {
        // What completes after this call is not covered, even if the future is first polled later.
        let horizon = self.0.core.disk(self.0.life.host, |disk| disk.tick());
        flush(Rc::clone(&self.0), horizon)
    }

    fn allocate(&self, position: u64, length: u64) -> impl Future<Output = io::Result<()>> + 'static {
        let file = Rc::clone(&self.0);
        async move {
            check_alignment("position", position);
            check_alignment("length", length);
            file.check_writable()?;
            let (core, path) = (Rc::clone(&file.core), file.path.clone());
            core.disk_deed(file.life, Operation::Length, &path, move |core| {
                core.disk(file.life.host, |disk| {
                    disk.check_space(file.node, position, length)?;
                    let tick = disk.next_tick();
                    disk.content(file.node)?.allocate(position, length, tick);
                    disk.touch(file.node, core.wall_clock(file.life.host));
                    Ok(())
                })
            })
            .await
        }
    }

    fn set_length(&self, length: u64) -> impl Future<Output = io::Result<()>> + 'static {
        let file = Rc::clone(&self.0);
        async move {
            file.check_writable()?;
            let (core, path) = (Rc::clone(&file.core), file.path.clone());
            core.disk_deed(file.life, Operation::Length, &path, move |core| {
                core.disk(file.life.host, |disk| {
                    let tick = disk.next_tick();
                    disk.content(file.node)?.set_length(length, tick);
                    disk.touch(file.node, core.wall_clock(file.life.host));
                    Ok(())
                })
            })
            .await
        }
    }

    fn map(&self, bytes: usize) -> io::Result<SimulatedMapping> {
        self.0.check_writable()?;
        self.0.fault(Operation::Length)?;
        let length =
            self.0.core.disk(self.0.life.host, |disk| disk.content(self.0.node).map(|of| of.length()))?;
        if length < bytes as u64 {
            return Err(error(libc::EINVAL));
        }
        Ok(SimulatedMapping { file: Rc::clone(&self.0), bytes })
    }

    fn length(&self) -> impl Future<Output = io::Result<u64>> + 'static {
        let file = Rc::clone(&self.0);
        async move {
            let (core, path) = (Rc::clone(&file.core), file.path.clone());
            core.disk_deed(file.life, Operation::Length, &path, move |core| {
                core.disk(file.life.host, |disk| disk.content(file.node).map(|content| content.length()))
            })
            .await
        }
    }

    fn modified(&self) -> impl Future<Output = io::Result<TimestampMs>> + 'static {
        let file = Rc::clone(&self.0);
        async move {
            let (core, path) = (Rc::clone(&file.core), file.path.clone());
            core.disk_deed(file.life, Operation::Length, &path, move |core| {
                core.disk(file.life.host, |disk| disk.modified(file.node))
            })
            .await
        }
    }
}
