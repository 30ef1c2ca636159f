//! What stands in directories.

use super::files::{open, pages, read};
use super::{About, Site, Verdict, ensure};
use crate::runtime::{DirectoryEntry, Durability, File, OpenMode, Runtime};
use logmill_wire::limits::PAGE_BYTES;
use std::io;
use std::path::Path;

/// The kind of error that an operation must give.
fn expect_error<T>(outcome: io::Result<T>, kind: io::ErrorKind, what: &str) -> Verdict {
    match outcome {
        Ok(_) => Err(format!("{what} succeeded")),
        Err(error) if error.kind() == kind => Ok(()),
        Err(error) => Err(format!("{what} gave {error:?} instead of {kind:?}")),
    }
}

async fn make<R: Runtime>(site: &Site<R>, name: &str, mark: u8) -> Verdict {
    let file = open(site, name, OpenMode::CreateNew).await?;
    file.write(pages(mark, 1), 0, Durability::Cached).await.about("write")
}

async fn expect_mark<R: Runtime>(site: &Site<R>, name: &str, mark: u8) -> Verdict {
    let file = open(site, name, OpenMode::Read).await?;
    ensure!(*read(&file, 0, PAGE_BYTES).await? == *pages(mark, 1), "{name} holds another file's bytes");
    Ok(())
}

async fn names<R: Runtime>(runtime: &R, directory: &Path) -> Result<Vec<String>, String> {
    let entries = runtime.read_directory(directory).await.about("read a directory")?;
    Ok(entries.into_iter().map(|entry| entry.name).collect())
}

pub(super) async fn open_modes_hold<R: Runtime>(site: Site<R>) -> Verdict {
    use io::ErrorKind::{AlreadyExists, NotFound};
    let path = site.directory.join("file");
    for mode in [OpenMode::Read, OpenMode::ReadWrite] {
        expect_error(site.runtime.open(&path, mode).await, NotFound, "opening what is not there")?;
    }
    let lost = site.directory.join("nowhere").join("file");
    expect_error(site.runtime.open(&lost, OpenMode::Create).await, NotFound, "creating in no directory")?;
    make(&site, "file", 1).await?;
    expect_error(
        site.runtime.open(&path, OpenMode::CreateNew).await,
        AlreadyExists,
        "creating anew what is there",
    )?;
    for mode in [OpenMode::Create, OpenMode::ReadWrite, OpenMode::Read] {
        let file = site.runtime.open(&path, mode).await.about("open what is there")?;
        ensure!(*read(&file, 0, PAGE_BYTES).await? == *pages(1, 1), "opening with {mode:?} changed the file");
    }
    ensure!(names(&site.runtime, &site.directory).await? == ["file"], "a failed open left something behind");
    Ok(())
}

pub(super) async fn directories_nest<R: Runtime>(site: Site<R>) -> Verdict {
    let deep = site.directory.join("a").join("b").join("c");
    site.runtime.create_directory(&deep).await.about("make nested directories")?;
    site.runtime.create_directory(&deep).await.about("make a directory that exists")?;
    make(&site, "a/b/c/file", 1).await?;
    expect_mark(&site, "a/b/c/file", 1).await?;
    ensure!(names(&site.runtime, &site.directory.join("a")).await? == ["b"], "a directory lists wrong");
    let volume = site.runtime.volume(&deep).await.about("ask for the room on the volume")?;
    ensure!(0 < volume.usable_bytes && volume.usable_bytes <= volume.total_bytes, "a volume has {volume:?}");
    let nowhere = site.runtime.volume(&site.directory.join("nowhere")).await;
    expect_error(nowhere, io::ErrorKind::NotFound, "asking for the room on no volume")?;
    let through_file = site.runtime.create_directory(&deep.join("file").join("d")).await;
    ensure!(through_file.is_err(), "a directory was made within a file");
    let as_file = site.runtime.open(&deep, OpenMode::ReadWrite).await;
    ensure!(as_file.is_err(), "a directory was opened as a file");
    Ok(())
}

pub(super) async fn directories_are_listed_in_order<R: Runtime>(site: Site<R>) -> Verdict {
    let empty = site.runtime.read_directory(&site.directory).await.about("read an empty directory")?;
    ensure!(empty.is_empty(), "an empty directory lists {empty:?}");
    make(&site, "b.log", 1).await?;
    make(&site, "a10", 1).await?;
    open(&site, "a2", OpenMode::Create).await?;
    site.runtime.create_directory(&site.directory.join("B")).await.about("make a directory")?;
    let expected = [("B", true, 0), ("a10", false, 4096), ("a2", false, 0), ("b.log", false, 4096)]
        .map(|(name, is_directory, length)| DirectoryEntry { name: name.to_owned(), is_directory, length });
    let entries = site.runtime.read_directory(&site.directory).await.about("read a directory")?;
    ensure!(entries == expected, "the directory lists {entries:?}");
    let missing = site.runtime.read_directory(&site.directory.join("nowhere")).await;
    expect_error(missing, io::ErrorKind::NotFound, "listing a directory that is not there")
}

pub(super) async fn rename_replaces<R: Runtime>(site: Site<R>) -> Verdict {
    make(&site, "old", 1).await?;
    make(&site, "new", 2).await?;
    let (old, new) = (site.directory.join("old"), site.directory.join("new"));
    let replaced = open(&site, "new", OpenMode::Read).await?;
    let renamed = open(&site, "old", OpenMode::ReadWrite).await?;
    site.runtime.rename(&old, &new).await.about("rename")?;
    ensure!(names(&site.runtime, &site.directory).await? == ["new"], "the old name remains");
    expect_mark(&site, "new", 1).await?;
    ensure!(
        *read(&replaced, 0, PAGE_BYTES).await? == *pages(2, 1),
        "a replaced file changed under its handle"
    );
    renamed.write(pages(3, 1), 0, Durability::Cached).await.about("write to a renamed file")?;
    expect_mark(&site, "new", 3).await?;
    let missing = site.runtime.rename(&old, &new).await;
    expect_error(missing, io::ErrorKind::NotFound, "renaming what is not there")?;
    expect_mark(&site, "new", 3).await?;
    site.runtime.rename(&new, &new).await.about("rename a file to its own name")?;
    expect_mark(&site, "new", 3).await
}

pub(super) async fn rename_moves_between_directories<R: Runtime>(site: Site<R>) -> Verdict {
    let (left, right) = (site.directory.join("left"), site.directory.join("right"));
    site.runtime.create_directory(&left).await.about("make a directory")?;
    site.runtime.create_directory(&right).await.about("make a directory")?;
    make(&site, "left/file", 1).await?;
    site.runtime.rename(&left.join("file"), &right.join("moved")).await.about("move a file")?;
    expect_mark(&site, "right/moved", 1).await?;
    ensure!(names(&site.runtime, &left).await?.is_empty(), "a moved file remains where it was");
    site.runtime.rename(&right, &left.join("inner")).await.about("move a directory")?;
    expect_mark(&site, "left/inner/moved", 1).await?;
    ensure!(names(&site.runtime, &site.directory).await? == ["left"], "a moved directory remains");
    Ok(())
}

pub(super) async fn removal_removes<R: Runtime>(site: Site<R>) -> Verdict {
    use io::ErrorKind::NotFound;
    make(&site, "file", 1).await?;
    let path = site.directory.join("file");
    site.runtime.remove_file(&path).await.about("remove a file")?;
    expect_error(site.runtime.open(&path, OpenMode::Read).await, NotFound, "opening a removed file")?;
    expect_error(site.runtime.remove_file(&path).await, NotFound, "removing a removed file")?;
    // The name can be taken again, and nothing of the old file shows.
    let file = open(&site, "file", OpenMode::CreateNew).await?;
    file.set_length(PAGE_BYTES as u64).await.about("extend")?;
    let content = read(&file, 0, PAGE_BYTES).await?;
    ensure!(content.iter().all(|&byte| byte == 0), "a new file shows the bytes of a removed one");
    let tree = site.directory.join("tree");
    site.runtime.create_directory(&tree.join("x").join("y")).await.about("make directories")?;
    make(&site, "tree/x/one", 1).await?;
    make(&site, "tree/x/y/two", 2).await?;
    let as_file = site.runtime.remove_file(&tree).await;
    ensure!(as_file.is_err(), "a directory was removed as a file");
    site.runtime.remove_directory(&tree).await.about("remove a tree")?;
    ensure!(names(&site.runtime, &site.directory).await? == ["file"], "a removed tree remains");
    let missing = site.runtime.remove_directory(&tree).await;
    expect_error(missing, NotFound, "removing a directory that is not there")
}

pub(super) async fn an_open_file_outlives_its_name<R: Runtime>(site: Site<R>) -> Verdict {
    make(&site, "file", 1).await?;
    let file = open(&site, "file", OpenMode::ReadWrite).await?;
    site.runtime.remove_file(&site.directory.join("file")).await.about("remove")?;
    site.runtime.sync_directory(&site.directory).await.about("sync the directory")?;
    make(&site, "file", 2).await?;
    ensure!(*read(&file, 0, PAGE_BYTES).await? == *pages(1, 1), "a removed file changed under its handle");
    file.write(pages(3, 1), 0, Durability::Durable).await.about("write to a removed file")?;
    file.flush().await.about("flush a removed file")?;
    ensure!(*read(&file, 0, PAGE_BYTES).await? == *pages(3, 1), "a removed file lost a write");
    expect_mark(&site, "file", 2).await
}

pub(super) async fn directories_can_be_synced<R: Runtime>(site: Site<R>) -> Verdict {
    make(&site, "file", 1).await?;
    site.runtime.sync_directory(&site.directory).await.about("sync a directory")?;
    site.runtime.sync_directory(&site.directory).await.about("sync a directory that is clean")?;
    let missing = site.runtime.sync_directory(&site.directory.join("nowhere")).await;
    expect_error(missing, io::ErrorKind::NotFound, "syncing a directory that is not there")?;
    expect_mark(&site, "file", 1).await
}
