//! Writing again what the journal vouches for.

use super::segment::read_file;
use super::tail::{page_ceil, page_floor};
use crate::runtime::buffer::Chunk;
use crate::runtime::{Durability, File, OpenMode, Runtime};
use logmill_wire::frame::journal::Range;
use logmill_wire::ids::Offset;
use logmill_wire::limits::{CHUNK_BYTES_MAX, PAGE_BYTES};
use std::io;
use std::path::Path;

/// One range that the journal vouches for.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    range: Range,
    /// The bytes, or none for an extent.
    inline: Option<&'a [u8]>,
    crc: u32,
}

/// What the journal vouches for of one log, in the order in which it was committed.
#[derive(Default)]
pub(super) struct Pieces<'a>(Vec<Piece<'a>>);

impl<'a> Pieces<'a> {
    pub(super) fn add(&mut self, range: Range, inline: Option<&'a [u8]>, crc: u32) {
        self.0.push(Piece { range, inline, crc });
    }

    /// The segments, oldest first.
    pub(super) fn bases(&self) -> Vec<Offset> {
        let mut bases: Vec<Offset> = self.0.iter().map(|piece| piece.range.segment_base).collect();
        bases.sort_unstable();
        bases.dedup();
        bases
    }

    /// What belongs to one segment.
    pub(super) fn of(&self, base: Offset) -> Vec<Piece<'a>> {
        self.0.iter().filter(|piece| piece.range.segment_base == base).copied().collect()
    }
}

/// Where the first of some pieces begins.
pub(super) fn first_position(pieces: &[Piece<'_>]) -> u64 {
    pieces.iter().map(|piece| piece.range.position).min().unwrap_or(0)
}

/// Inline bytes that follow one another.
struct Run {
    start: u64,
    bytes: Vec<u8>,
}

impl Run {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

/// Completes a segment of which `known_end` bytes are settled. Returns its end, and whether the journal's last entry
/// ends within a batch; or what is damaged, and then the file is not touched.
pub(super) async fn redo_segment<R: Runtime>(
    runtime: &R,
    path: &Path,
    mut pieces: Vec<Piece<'_>>,
    known_end: u64,
    is_last: bool,
) -> io::Result<Result<(u64, bool), String>> {
    // Inline entries of one extent are committed with it, in no particular order of positions.
    pieces.sort_by_key(|piece| (piece.range.position, piece.range.length));
    let (file, is_new) = match runtime.open(path, OpenMode::ReadWrite).await {
        // What the journal holds as a whole is not lost with its file.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if known_end > 0 || pieces.iter().any(|piece| piece.inline.is_none()) {
                return Ok(Err("the file is missing".to_owned()));
            }
            (runtime.open(path, OpenMode::Create).await?, true)
        }
        outcome => (outcome?, false),
    };
    let mut end = known_end;
    let mut within_batch = false;
    let mut runs: Vec<Run> = Vec::new();
    for piece in &pieces {
        let position = piece.range.position;
        let piece_end = position + u64::from(piece.range.length);
        if position > end {
            return Ok(Err(format!("the journal has nothing of bytes {end} to {position}")));
        }
        match piece.inline {
            Some(bytes) => {
                if let Err(what) = join_run(&mut runs, position, bytes) {
                    return Ok(Err(what));
                }
            }
            None => {
                if !extent_is_intact(&file, piece).await? {
                    return Ok(Err(format!(
                        "bytes {position} to {piece_end} are not those that were acknowledged"
                    )));
                }
            }
        }
        if piece_end >= end {
            (end, within_batch) = (piece_end, piece.range.within_batch);
        }
    }
    if let Some(run) = runs.iter().find(|run| run.start != page_floor(run.start)) {
        return Ok(Err(format!("the journal's bytes at {} do not start at a page", run.start)));
    }
    for run in runs {
        write_run(&file, &run).await?;
    }
    // Whatever stands behind the end was never acknowledged and must not come back.
    file.set_length(if is_last { page_ceil(end) } else { end }).await?;
    file.flush().await?;
    if is_new && let Some(directory) = path.parent() {
        runtime.sync_directory(directory).await?;
    }
    Ok(Ok((end, within_batch)))
}

fn join_run(runs: &mut Vec<Run>, position: u64, bytes: &[u8]) -> Result<(), String> {
    if let Some(last) = runs.last_mut()
        && position >= last.start
        && position <= last.end()
    {
        let known = (last.end() - position) as usize;
        let overlap = known.min(bytes.len());
        let at = (position - last.start) as usize;
        if last.bytes[at..at + overlap] != bytes[..overlap] {
            return Err(format!("the journal holds two versions of the bytes at {position}"));
        }
        last.bytes.extend_from_slice(&bytes[overlap..]);
        return Ok(());
    }
    runs.push(Run { start: position, bytes: bytes.to_vec() });
    Ok(())
}

async fn extent_is_intact<F: File>(file: &F, piece: &Piece<'_>) -> io::Result<bool> {
    let range = piece.range.position..piece.range.position + u64::from(piece.range.length);
    match read_file(file, range).await {
        Ok(views) => {
            let crc = views.iter().fold(0, |crc, view| crc32c::crc32c_append(crc, view));
            Ok(crc == piece.crc)
        }
        Err(super::LogError::Damaged(_)) => Ok(false),
        Err(error) => Err(io::Error::other(error.to_string())),
    }
}

async fn write_run<F: File>(file: &F, run: &Run) -> io::Result<()> {
    let mut position = run.start;
    for bytes in run.bytes.chunks(CHUNK_BYTES_MAX) {
        let mut chunk = Chunk::with_capacity(bytes.len());
        chunk.append(bytes);
        chunk.pad_to(PAGE_BYTES);
        file.write(chunk.view_all(), position, Durability::Cached).await?;
        position += bytes.len() as u64;
    }
    Ok(())
}
