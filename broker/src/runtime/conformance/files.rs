//! What a file holds.

use super::{About, Site, Verdict, ensure, poll_once, start};
use crate::runtime::buffer::{Chunk, ChunkView};
use crate::runtime::{Durability, File, Mapping, OpenMode, Runtime};
use logmill_wire::limits::PAGE_BYTES;
use std::io;
use std::pin::pin;

/// A page as a position in a file.
const PAGE: u64 = PAGE_BYTES as u64;

/// `pages` pages; each holds a pattern that tells `mark`, the page and the place in the page.
pub(super) fn pages(mark: u8, pages: usize) -> ChunkView {
    let mut chunk = Chunk::with_capacity(pages * PAGE_BYTES);
    for page in 0..pages {
        let content: Vec<u8> = (0..PAGE_BYTES).map(|place| mark ^ (page * 7 + place * 3) as u8).collect();
        chunk.append(&content);
    }
    chunk.view_all()
}

/// Opens `name` in the case's directory.
pub(super) async fn open<R: Runtime>(site: &Site<R>, name: &str, mode: OpenMode) -> Result<R::File, String> {
    site.runtime.open(&site.directory.join(name), mode).await.about("open a file")
}

/// Reads `length` bytes at `position` into a chunk of its own.
pub(super) async fn read(file: &impl File, position: u64, length: usize) -> Result<Chunk, String> {
    let (outcome, chunk) = file.read(Chunk::with_capacity(length), position, length).await;
    let got = outcome.about("read")?;
    ensure!(got == chunk.len(), "{got} bytes were announced and {} read", chunk.len());
    Ok(chunk)
}

async fn expect_length(file: &impl File, expected: u64) -> Verdict {
    let length = file.length().await.about("ask for the length")?;
    ensure!(length == expected, "the file is {length} bytes long instead of {expected}");
    Ok(())
}

pub(super) async fn what_is_written_is_read<R: Runtime>(site: Site<R>) -> Verdict {
    let file = open(&site, "file", OpenMode::CreateNew).await?;
    ensure!(file.is_direct() == file.is_direct(), "a file changes its mind about direct I/O");
    let first = pages(1, 8);
    file.write(first.clone(), 0, Durability::Cached).await.about("write")?;
    ensure!(*read(&file, 0, 8 * PAGE_BYTES).await? == *first, "other bytes were read than written");
    // A part of a view, over a part of the file.
    let second = pages(2, 6);
    let part = second.slice(2 * PAGE_BYTES..5 * PAGE_BYTES);
    file.write(part.clone(), 3 * PAGE, Durability::Cached).await.about("write a part")?;
    let all = read(&file, 0, 8 * PAGE_BYTES).await?;
    ensure!(all[..3 * PAGE_BYTES] == first[..3 * PAGE_BYTES], "a write changed the bytes before it");
    ensure!(all[3 * PAGE_BYTES..6 * PAGE_BYTES] == *part, "a part of a view was not written as it is");
    ensure!(all[6 * PAGE_BYTES..] == first[6 * PAGE_BYTES..], "a write changed the bytes behind it");
    // A read appends behind what its chunk holds, and takes no more than it was asked for.
    let mut chunk = Chunk::with_capacity(4 * PAGE_BYTES);
    chunk.append(&vec![9; PAGE_BYTES]);
    let (outcome, chunk) = file.read(chunk, PAGE, 2 * PAGE_BYTES).await;
    let got = outcome.about("read behind a page")?;
    ensure!(got == 2 * PAGE_BYTES && chunk.len() == 3 * PAGE_BYTES, "{got} bytes read, {chunk:?}");
    ensure!(chunk[..PAGE_BYTES] == [9; PAGE_BYTES], "a read changed what its chunk held");
    ensure!(chunk[PAGE_BYTES..] == all[PAGE_BYTES..3 * PAGE_BYTES], "a read behind a page gave other bytes");
    // Asked for more than there is room.
    let (outcome, chunk) = file.read(Chunk::with_capacity(PAGE_BYTES), 0, 4 * PAGE_BYTES).await;
    let got = outcome.about("read more than there is room")?;
    ensure!(got == PAGE_BYTES && *chunk == all[..PAGE_BYTES], "{got} bytes were read into one page");
    Ok(())
}

pub(super) async fn reads_end_with_the_file<R: Runtime>(site: Site<R>) -> Verdict {
    let file = open(&site, "file", OpenMode::CreateNew).await?;
    ensure!(read(&file, 0, PAGE_BYTES).await?.is_empty(), "an empty file has bytes");
    let content = pages(3, 3);
    file.write(content.clone(), 0, Durability::Cached).await.about("write")?;
    ensure!(
        *read(&file, PAGE, 8 * PAGE_BYTES).await? == content[PAGE_BYTES..],
        "a read over the end differs"
    );
    ensure!(read(&file, 3 * PAGE, PAGE_BYTES).await?.is_empty(), "bytes were read at the end");
    ensure!(read(&file, 50 * PAGE, PAGE_BYTES).await?.is_empty(), "bytes were read far behind the end");
    file.set_length(2 * PAGE + 700).await.about("cut the file")?;
    let end = 2 * PAGE_BYTES + 700;
    ensure!(*read(&file, 0, 4 * PAGE_BYTES).await? == content[..end], "a file of odd length reads wrong");
    let tail = read(&file, 2 * PAGE, PAGE_BYTES).await?;
    ensure!(*tail == content[2 * PAGE_BYTES..end], "the last page of odd length reads as {tail:?}");
    Ok(())
}

pub(super) async fn length_follows_writes<R: Runtime>(site: Site<R>) -> Verdict {
    let file = open(&site, "file", OpenMode::Create).await?;
    expect_length(&file, 0).await?;
    file.write(pages(1, 2), 4 * PAGE, Durability::Cached).await.about("write behind a gap")?;
    expect_length(&file, 6 * PAGE).await?;
    let gap = read(&file, 0, 4 * PAGE_BYTES).await?;
    ensure!(gap.len() == 4 * PAGE_BYTES && gap.iter().all(|&byte| byte == 0), "a gap does not read as zeros");
    file.write(pages(1, 1), 0, Durability::Durable).await.about("write into the gap")?;
    expect_length(&file, 6 * PAGE).await?;
    let other = open(&site, "file", OpenMode::Read).await?;
    expect_length(&other, 6 * PAGE).await
}

pub(super) async fn changes_are_dated<R: Runtime>(site: Site<R>) -> Verdict {
    // The kernel's dates come from a clock that ticks more slowly.
    const COARSE_MS: i64 = 100;
    let file = open(&site, "file", OpenMode::Create).await?;
    let mut before = site.runtime.wall_clock();
    for step in 0..3 {
        match step {
            0 => file.write(pages(1, 2), 0, Durability::Cached).await.about("write")?,
            1 => file.set_length(PAGE).await.about("cut")?,
            _ => file.allocate(0, 4 * PAGE).await.about("take space")?,
        }
        let (modified, now) = (file.modified().await.about("ask for the date")?, site.runtime.wall_clock());
        ensure!(
            (before.0 - COARSE_MS..=now.0).contains(&modified.0),
            "step {step} between {before:?} and {now:?} has the date {modified:?}"
        );
        site.runtime.sleep(std::time::Duration::from_millis(300)).await;
        let again = open(&site, "file", OpenMode::Read).await?;
        let read = again.modified().await.about("ask again")?;
        ensure!(read == modified, "without a change the date went from {modified:?} to {read:?}");
        before = site.runtime.wall_clock();
    }
    Ok(())
}

pub(super) async fn set_length_cuts_and_extends<R: Runtime>(site: Site<R>) -> Verdict {
    let file = open(&site, "file", OpenMode::Create).await?;
    let content = pages(5, 4);
    file.write(content.clone(), 0, Durability::Durable).await.about("write")?;
    let kept = PAGE_BYTES + 100;
    file.set_length(kept as u64).await.about("cut")?;
    expect_length(&file, kept as u64).await?;
    file.set_length(4 * PAGE).await.about("extend")?;
    expect_length(&file, 4 * PAGE).await?;
    let all = read(&file, 0, 4 * PAGE_BYTES).await?;
    ensure!(all.len() == 4 * PAGE_BYTES, "an extended file gives {} bytes", all.len());
    ensure!(all[..kept] == content[..kept], "a cut changed the bytes before it");
    ensure!(all[kept..].iter().all(|&byte| byte == 0), "bytes that were cut off came back");
    file.set_length(0).await.about("empty")?;
    expect_length(&file, 0).await?;
    file.flush().await.about("flush")
}

pub(super) async fn allocate_reads_zeros<R: Runtime>(site: Site<R>) -> Verdict {
    let file = open(&site, "file", OpenMode::Create).await?;
    file.allocate(0, 16 * PAGE).await.about("allocate")?;
    expect_length(&file, 16 * PAGE).await?;
    let all = read(&file, 0, 16 * PAGE_BYTES).await?;
    ensure!(all.len() == 16 * PAGE_BYTES, "allocated space gives {} bytes", all.len());
    ensure!(all.iter().all(|&byte| byte == 0), "allocated space does not read as zeros");
    let content = pages(6, 2);
    file.write(content.clone(), 15 * PAGE, Durability::Cached).await.about("write")?;
    expect_length(&file, 17 * PAGE).await?;
    file.allocate(14 * PAGE, 4 * PAGE).await.about("allocate over written pages")?;
    expect_length(&file, 18 * PAGE).await?;
    let tail = read(&file, 14 * PAGE, 4 * PAGE_BYTES).await?;
    ensure!(tail[..PAGE_BYTES].iter().all(|&byte| byte == 0), "a page before the write changed");
    ensure!(tail[PAGE_BYTES..3 * PAGE_BYTES] == *content, "allocating changed what was written");
    ensure!(tail[3 * PAGE_BYTES..].iter().all(|&byte| byte == 0), "a page behind the write is not zero");
    // Within the file the length stays.
    file.allocate(0, PAGE).await.about("allocate within the file")?;
    expect_length(&file, 18 * PAGE).await
}

pub(super) async fn durable_writes_and_flushes<R: Runtime>(site: Site<R>) -> Verdict {
    let file = open(&site, "file", OpenMode::Create).await?;
    file.flush().await.about("flush an empty file")?;
    for round in 0..5_u64 {
        let content = pages(round as u8, 3);
        let durability = if round % 2 == 0 { Durability::Durable } else { Durability::Cached };
        file.write(content.clone(), round * PAGE, durability).await.about("write")?;
        if round % 2 == 1 {
            file.flush().await.about("flush")?;
        }
        ensure!(*read(&file, round * PAGE, 3 * PAGE_BYTES).await? == *content, "round {round} reads wrong");
    }
    // A flush beside writes that are under way.
    let mut ends = Vec::new();
    for page in 0..20_u64 {
        ends.push(start(&site.runtime, file.write(pages(page as u8, 1), page * PAGE, Durability::Cached)));
    }
    let flushes = [start(&site.runtime, file.flush()), start(&site.runtime, file.flush())];
    for end in ends {
        end.await.about("await a write")?.about("write beside a flush")?;
    }
    for end in flushes {
        end.await.about("await a flush")?.about("flush beside writes")?;
    }
    for page in 0..20_u64 {
        let got = read(&file, page * PAGE, PAGE_BYTES).await?;
        ensure!(*got == *pages(page as u8, 1), "page {page} reads wrong after writes beside a flush");
    }
    Ok(())
}

pub(super) async fn handles_share_the_file<R: Runtime>(site: Site<R>) -> Verdict {
    let writer = open(&site, "file", OpenMode::Create).await?;
    let second = open(&site, "file", OpenMode::ReadWrite).await?;
    let reader = open(&site, "file", OpenMode::Read).await?;
    let content = pages(1, 2);
    writer.write(content.clone(), 0, Durability::Cached).await.about("write")?;
    ensure!(
        *read(&reader, 0, 2 * PAGE_BYTES).await? == *content,
        "one handle's write is not seen by another"
    );
    let newer = pages(2, 1);
    second.write(newer.clone(), PAGE, Durability::Cached).await.about("write by another handle")?;
    drop(second);
    ensure!(*read(&writer, PAGE, PAGE_BYTES).await? == *newer, "a closed handle's write is not seen");
    let refused = reader.write(pages(3, 1), 0, Durability::Cached).await;
    ensure!(refused.is_err(), "a handle for reading took a write");
    ensure!(
        *read(&reader, 0, PAGE_BYTES).await? == content[..PAGE_BYTES],
        "a refused write changed the file"
    );
    Ok(())
}

pub(super) async fn a_dropped_handle_finishes_its_work<R: Runtime>(site: Site<R>) -> Verdict {
    let content = pages(4, 4);
    let file = open(&site, "file", OpenMode::Create).await?;
    let writing = start(&site.runtime, file.write(content.clone(), 0, Durability::Cached));
    drop(file);
    writing.await.about("await a write")?.about("write by a handle that is dropped")?;
    let file = open(&site, "file", OpenMode::Read).await?;
    let reading = start(&site.runtime, file.read(Chunk::with_capacity(4 * PAGE_BYTES), 0, 4 * PAGE_BYTES));
    drop(file);
    let (outcome, chunk) = reading.await.about("await a read")?;
    outcome.about("read by a handle that is dropped")?;
    ensure!(*chunk == *content, "other bytes were read than written");
    Ok(())
}

pub(super) async fn many_operations_at_once<R: Runtime>(site: Site<R>) -> Verdict {
    let count = site.effort.operations as u64;
    let file = open(&site, "file", OpenMode::Create).await?;
    file.allocate(0, count * PAGE).await.about("allocate")?;
    let mut writes = Vec::new();
    for page in 0..count {
        let durability = if page % 16 == 0 { Durability::Durable } else { Durability::Cached };
        writes.push(start(&site.runtime, file.write(pages((page % 255) as u8, 1), page * PAGE, durability)));
    }
    for end in writes {
        end.await.about("await a write")?.about("write one of many")?;
    }
    let mut reads = Vec::new();
    for page in (0..count).rev() {
        let reading = file.read(Chunk::with_capacity(PAGE_BYTES), page * PAGE, PAGE_BYTES);
        reads.push((page, start(&site.runtime, reading)));
    }
    for (page, end) in reads {
        let (outcome, chunk) = end.await.about("await a read")?;
        let got = outcome.about("read one of many")?;
        ensure!(got == PAGE_BYTES, "page {page} of many gave {got} bytes");
        ensure!(*chunk == *pages((page % 255) as u8, 1), "page {page} of many reads wrong");
    }
    Ok(())
}

pub(super) async fn a_dropped_write_keeps_its_buffer<R: Runtime>(site: Site<R>) -> Verdict {
    const PAGES: usize = 32;
    let file = open(&site, "file", OpenMode::Create).await?;
    let (old, new) = (pages(0x11, PAGES), pages(0x22, PAGES));
    for round in 0..site.effort.rounds {
        file.write(old.clone(), 0, Durability::Cached).await.about("write the old bytes")?;
        {
            let mut writing = pin!(file.write(pages(0x22, PAGES), 0, Durability::Cached));
            let _: Option<io::Result<()>> = poll_once(writing.as_mut()).await;
        }
        // Whatever memory the write let go of is taken again and filled with a third thing.
        let mut fillers: Vec<Chunk> = (0..4).map(|_| Chunk::with_capacity(PAGES * PAGE_BYTES)).collect();
        for filler in &mut fillers {
            filler.append(&vec![0xee; PAGES * PAGE_BYTES]);
        }
        site.runtime.sleep(site.effort.settle).await;
        let got = read(&file, 0, PAGES * PAGE_BYTES).await?;
        ensure!(got.len() == PAGES * PAGE_BYTES, "round {round}: {} bytes were read", got.len());
        for (page, bytes) in got.chunks(PAGE_BYTES).enumerate() {
            let at = page * PAGE_BYTES..(page + 1) * PAGE_BYTES;
            ensure!(
                *bytes == old[at.clone()] || *bytes == new[at],
                "round {round}: after a dropped write page {page} is neither old nor new"
            );
        }
        drop(fillers);
    }
    Ok(())
}

pub(super) async fn a_dropped_read_keeps_its_buffer<R: Runtime>(site: Site<R>) -> Verdict {
    const PAGES: usize = 32;
    let file = open(&site, "file", OpenMode::Create).await?;
    file.write(pages(0x33, PAGES), 0, Durability::Durable).await.about("write")?;
    for round in 0..site.effort.rounds {
        {
            let chunk = Chunk::with_capacity(PAGES * PAGE_BYTES);
            let mut reading = pin!(file.read(chunk, 0, PAGES * PAGE_BYTES));
            let _: Option<(io::Result<usize>, Chunk)> = poll_once(reading.as_mut()).await;
        }
        let mut fillers: Vec<Chunk> = (0..4).map(|_| Chunk::with_capacity(PAGES * PAGE_BYTES)).collect();
        for filler in &mut fillers {
            filler.append(&vec![0xee; PAGES * PAGE_BYTES]);
        }
        site.runtime.sleep(site.effort.settle).await;
        for filler in &fillers {
            ensure!(
                filler.iter().all(|&byte| byte == 0xee),
                "round {round}: a dropped read wrote into memory that was given back"
            );
        }
    }
    Ok(())
}

pub(super) async fn a_mapping_is_the_file<R: Runtime>(site: Site<R>) -> Verdict {
    let file = open(&site, "file", OpenMode::CreateNew).await?;
    ensure!(file.map(PAGE_BYTES).is_err(), "more was mapped than there is");
    file.allocate(0, 4 * PAGE).await.about("take space")?;
    let mapping = file.map(4 * PAGE_BYTES).about("map the file")?;
    ensure!(mapping.len() == 4 * PAGE_BYTES && !mapping.is_empty(), "{} bytes are mapped", mapping.len());
    // Across the border of two pages, and again over a part of it.
    mapping.write(PAGE_BYTES - 3, b"abcdef");
    mapping.write(PAGE_BYTES - 1, b"CD");
    drop(mapping);
    let mut expected = vec![0; 4 * PAGE_BYTES];
    expected[PAGE_BYTES - 3..PAGE_BYTES + 3].copy_from_slice(b"abCDef");
    let other = open(&site, "file", OpenMode::ReadWrite).await?;
    let found = read(&other, 0, 4 * PAGE_BYTES).await?;
    ensure!(*found == *expected, "what was written through a mapping is not in the file");
    other.flush().await.about("flush")?;
    ensure!(*read(&other, 0, 4 * PAGE_BYTES).await? == *expected, "a flush changed what was mapped");
    Ok(())
}
