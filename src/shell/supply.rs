//! A power supply that can fail: what the disk surely holds, kept beside the state folder.
//!
//! Owns: the copy that is taken at each step of a commit of what is synced by then, and putting it in the folder's place.
//! Never: is part of a build that is shipped; asks the kernel what is synced: it goes by the steps that the store names. Whether
//! these sync, what is torn and what comes in another order, the crash tests of the store see, by its system calls.
//! Read next: `store/mod.rs`, whose steps it follows; `../cli/demo/story.rs`, which cuts the power.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::store::Store;

/// Where an agent keeps what is synced, if anywhere.
pub const SYNCED_DIR: &str = "HARDTACK_TEST_SYNCED_DIR";
/// The step of a commit after which something is written that a power cut takes away.
const UNSYNCED: &str = "flushed";
/// A copy that is not whole yet.
const NEXT: &str = "next";
/// Beside the copy: the supply fails as soon as something is written that is not synced.
const FAILS: &str = "fails";

/// Keeps what is synced of a state folder, where the environment asks for that.
///
/// # Errors
/// When the first copy cannot be made.
pub(super) fn watch(mut store: Store, state_dir: &Path) -> io::Result<Store> {
    let Some(kept) = std::env::var_os(SYNCED_DIR).map(PathBuf::from) else { return Ok(store) };
    let state = state_dir.to_owned();
    fs::create_dir_all(&kept)?;
    let mut number = newest(&kept)?.unwrap_or(0) + 1;
    keep(&state, &kept, number)?;
    store.at_each_step(move |step| {
        number += 1;
        if step == UNSYNCED {
            if kept.join(FAILS).exists() {
                std::process::abort();
            }
            return;
        }
        if let Err(error) = keep(&state, &kept, number) {
            tracing::error!(event = "supply.failed", %error, "what is synced is not kept: end here");
            std::process::abort();
        }
    });
    Ok(store)
}

/// One copy at a time: the one before goes when this one is whole.
fn keep(state: &Path, kept: &Path, number: u64) -> io::Result<()> {
    let (next, before) = (kept.join(NEXT), newest(kept)?);
    if next.exists() {
        fs::remove_dir_all(&next)?;
    }
    copy_folder(state, &next)?;
    fs::rename(&next, kept.join(number.to_string()))?;
    before.map_or(Ok(()), |before| fs::remove_dir_all(kept.join(before.to_string())))
}

fn newest(kept: &Path) -> io::Result<Option<u64>> {
    let mut newest = None;
    for entry in fs::read_dir(kept)? {
        newest = newest.max(entry?.file_name().to_str().and_then(|name| name.parse().ok()));
    }
    Ok(newest)
}

/// Cuts the power at the next commit, between its write and its sync.
///
/// # Errors
/// When the agent that keeps its copies here cannot be told.
pub fn cut(kept: &Path) -> io::Result<()> {
    fs::write(kept.join(FAILS), "")
}

/// Takes from a state folder what its agent, whose power was cut, had written and not synced. Returns the files that are others
/// now, of how many.
///
/// # Errors
/// When nothing was kept, or a file cannot be read or moved.
pub fn lose_unsynced(state: &Path, kept: &Path) -> io::Result<(usize, usize)> {
    let number = newest(kept)?.ok_or_else(|| io::Error::other("nothing was kept of what is synced"))?;
    let synced = kept.join(number.to_string());
    let (mut paths, mut changed) = (files(&synced)?, 0);
    paths.extend(files(state)?);
    paths.sort();
    paths.dedup();
    for path in &paths {
        let read = |folder: &Path| match fs::read(folder.join(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        };
        changed += usize::from(read(&synced)? != read(state)?);
    }
    fs::remove_dir_all(state)?;
    fs::rename(&synced, state)?;
    Ok((changed, paths.len()))
}

/// Paths of files below a folder.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut found, mut left) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(below) = left.pop() {
        for entry in fs::read_dir(folder.join(&below))? {
            let entry = entry?;
            let path = below.join(entry.file_name());
            match entry.file_type()?.is_dir() {
                true => left.push(path),
                false => found.push(path),
            }
        }
    }
    Ok(found)
}

/// Copies a folder with all that is in it.
///
/// # Errors
/// When something cannot be read or written.
pub fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, to) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy_folder(&entry.path(), &to)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_after_the_last_copy_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let (state, kept) = (folder.path().join("state"), folder.path().join("kept"));
        fs::create_dir_all(state.join("eras")).unwrap();
        fs::create_dir_all(&kept).unwrap();
        assert!(lose_unsynced(&state, &kept).is_err(), "nothing was kept");
        fs::write(state.join("eras/1"), "synced").unwrap();
        fs::write(state.join("same"), "same").unwrap();
        keep(&state, &kept, 1).unwrap();
        keep(&state, &kept, 2).unwrap();
        assert_eq!(fs::read_dir(&kept).unwrap().count(), 1, "one copy at a time");
        fs::create_dir(kept.join(NEXT)).unwrap();
        fs::write(kept.join(NEXT).join("half"), "half").unwrap();
        fs::write(state.join("eras/1"), "synced, and not").unwrap();
        fs::write(state.join("new"), "new").unwrap();
        assert_eq!(lose_unsynced(&state, &kept).unwrap(), (2, 3));
        assert_eq!(files(&state).unwrap().len(), 2);
        assert_eq!(fs::read_to_string(state.join("eras/1")).unwrap(), "synced");
    }
}
