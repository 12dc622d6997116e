//! What a disk can do to a store, for the simulator and for tests: in no build that is shipped.
//!
//! Owns: syncs that fail, file systems that refuse writes ([`refuse`]), and [`rows`] and [`rot`]: which rows a folder holds, and
//! other ones written over them, or a bit of one.
//! Never: is part of a build without the feature `crash-points`.
//! Read next: `mod.rs`, whose commits ask.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::era::{engine_failed, Writer};
use super::folder::list;
use super::row::{search, Commit, EntryKey, Found, Key, Row};
use super::{Needs, Store, StoreError};
use crate::agent::effects::Entry;
use crate::agent::salvage::Wanted;
use crate::ids::EraId;
use crate::shell::files::{create_dir, is_temporary, open_file, temporary, FileError};

/// What a file system does not let a store do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no room but for so many of the entries of a commit, and for so many hundredths of the next one.
    Full {
        /// Entries.
        whole: usize,
        /// Hundredths.
        torn: usize,
    },
    /// Nothing can be changed.
    ReadOnly,
}

thread_local! {
    /// State folders whose file systems refuse something that this thread does there.
    static REFUSED: RefCell<BTreeMap<PathBuf, Refusal>> = const { RefCell::new(BTreeMap::new()) };
}

/// From now on the file system that a state folder is on refuses this thread something, or nothing any more.
pub fn refuse(state_dir: &Path, refusal: Option<Refusal>) {
    REFUSED.with_borrow_mut(|refused| match refusal {
        Some(refusal) => drop(refused.insert(state_dir.to_owned(), refusal)),
        None => drop(refused.remove(state_dir)),
    });
}

/// What the operating system says to somebody who wants to write there.
///
/// # Errors
/// That there is no room, or that the file system is read-only.
pub(super) fn allowed(state_dir: &Path, needs: Needs) -> io::Result<()> {
    let refusal = REFUSED.with_borrow(|refused| refused.get(state_dir).copied());
    match (refusal, needs) {
        (None, _) | (Some(Refusal::Full { .. }), Needs::Leave) => Ok(()),
        (Some(Refusal::ReadOnly), _) => Err(rustix::io::Errno::ROFS.into()),
        (Some(Refusal::Full { .. }), Needs::Room) => Err(rustix::io::Errno::NOSPC.into()),
    }
}

/// A file is replaced where that is refused. Where room ends in it, its first half is there under the name that it has before
/// it is complete.
///
/// # Errors
/// That it is refused.
pub(super) fn replace_refused(state_dir: &Path, path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let failed = |error| FileError::io("write", path, error);
    let Err(refused) = allowed(state_dir, Needs::Room) else { return Ok(()) };
    if allowed(state_dir, Needs::Leave).is_ok() {
        fs::write(temporary(path), &content[..content.len() / 2]).map_err(failed)?;
    }
    Err(failed(refused).into())
}

/// An era's folder is made where that is refused. Where there is no room, it is there, and a file without a byte in it.
///
/// # Errors
/// That it is refused.
pub(super) fn begin_refused(state_dir: &Path, dir: &Path) -> Result<(), StoreError> {
    let failed = |error| FileError::io("make the folder", dir, error);
    let Err(refused) = allowed(state_dir, Needs::Room) else { return Ok(()) };
    if allowed(state_dir, Needs::Leave).is_ok() {
        create_dir(dir)?;
        fs::write(dir.join("db"), []).map_err(failed)?;
    }
    Err(failed(refused).into())
}

impl Store {
    /// From now on the syncs that these steps of a commit end with fail. What was written is there as the kernel shows it:
    /// what it forgets of that is up to who asks for this. The steps are those of [`Store::at_each_step`] that end with a
    /// sync: `file`, `begun`, `folded`, `synced`, `anchor`.
    pub fn fail_syncs(&mut self, steps: &'static [&'static str]) {
        self.failing = steps;
    }

    /// A step that ends with a sync.
    pub(super) fn synced(&mut self, name: &'static str) -> Result<(), StoreError> {
        if self.failing.contains(&name) {
            let error = io::Error::other("the disk says that it could not write");
            return Err(FileError::io("sync", &self.folder.join(""), error).into());
        }
        self.step(name);
        Ok(())
    }
}

impl Writer {
    /// The entries of one commit where the file system refuses to take them all in. As many as it has room for are at the end
    /// of the file, and a piece of the one after them.
    ///
    /// # Errors
    /// That, as the engine says it.
    pub(super) fn put_refused(&self, state_dir: &Path, entries: &[Entry]) -> Result<(), StoreError> {
        let Err(error) = allowed(state_dir, Needs::Room) else { return Ok(()) };
        if let Some(Refusal::Full { whole, torn }) = REFUSED.with_borrow(|refused| refused.get(state_dir).copied()) {
            let commit = Commit { number: self.commits + 1, entries: entries.len().try_into().unwrap_or(u32::MAX) };
            let frame = |entry: &Entry| Row::Entry(entry.clone(), commit).to_frame();
            let mut bytes: Vec<u8> = entries.iter().take(whole).flat_map(frame).collect();
            let next = entries.get(whole).map(frame).unwrap_or_default();
            bytes.extend(&next[..next.len() * torn.min(99) / 100]);
            let path = self.dir.join("db");
            let failed = |error| FileError::io("write", &path, error);
            OpenOptions::new().append(true).open(&path).and_then(|mut file| file.write_all(&bytes)).map_err(failed)?;
        }
        Err(engine_failed(&self.dir, error))
    }
}

/// The entries of a state folder's `eras/` that are whole, each copy of each, with what it was committed with, its file and
/// the offset of its frame there: in the order of their folders and places.
fn each_row(state_dir: &Path, mut row: impl FnMut(&Path, u64, Entry, Commit)) -> Result<(), StoreError> {
    let eras = state_dir.join("eras");
    for name in list(&eras)?.into_iter().filter(|name| !is_temporary(name)) {
        let path = eras.join(name).join("db");
        let file = match open_file(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(FileError::io("open", &path, error).into()),
        };
        let searched = search(&file, |found| match found {
            Found::Row(Row::Entry(entry, commit), offset) => row(&path, offset, entry, commit),
            Found::Row(Row::Begun(_) | Row::Dropped(_) | Row::Salvaged(_) | Row::Shed(_), _)
            | Found::Broken(_)
            | Found::Unreadable(_) => {}
        });
        searched.map_err(|error| FileError::io("read", &path, error))?;
    }
    Ok(())
}

/// Writes over what is in files.
fn write_over(over: &[(PathBuf, u64, Vec<u8>)]) -> Result<(), StoreError> {
    for (path, offset, bytes) in over {
        let failed = |error| FileError::io("write", path, error);
        let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
        file.write_all_at(bytes, *offset).map_err(failed)?;
    }
    Ok(())
}

/// Every whole entry in a state folder's `eras/`, once for each copy of it, in the order of their folders and places. Where
/// `other` gives another entry it is written over the one that was there, if it takes as many bytes: as somebody does who
/// knows the format and has the disk. Nobody may have the folder open. Returns how many were written.
///
/// # Errors
/// When a file cannot be read or written.
pub fn rows(state_dir: &Path, mut other: impl FnMut(&Entry) -> Option<Entry>) -> Result<usize, StoreError> {
    let mut over = Vec::new();
    each_row(state_dir, |path, offset, entry, commit| {
        let Some(new) = other(&entry) else { return };
        let [old, new] = [entry, new].map(|entry| Row::Entry(entry, commit).to_frame());
        over.extend((old.len() == new.len()).then(|| (path.to_owned(), offset, new)));
    })?;
    write_over(&over)?;
    Ok(over.len())
}

/// A bit flips of an entry in a state folder's `eras/`: in each of its copies, since one that is whole would do. It is in the
/// second half of its frame, past what names the entry, and before its last byte. Nobody may have the folder open. Returns
/// how many copies there were.
///
/// # Errors
/// When a file cannot be read or written.
pub fn rot(state_dir: &Path, (era, wanted): (EraId, Wanted), pick: u64) -> Result<usize, StoreError> {
    let key = Key::Entry(match wanted {
        Wanted::Record(index) => EntryKey::Record(era, index),
        Wanted::Segment(segment) => EntryKey::Segment(era, segment),
    });
    let mut over = Vec::new();
    each_row(state_dir, |path, offset, entry, commit| {
        let row = Row::Entry(entry, commit);
        if row.key() == key {
            let mut frame = row.to_frame();
            let half = frame.len() / 2;
            let at = half + pick as usize % (frame.len() - 1 - half);
            frame[at] ^= 1 << (pick / 64 % 8);
            over.push((path.to_owned(), offset, frame));
        }
    })?;
    write_over(&over)?;
    Ok(over.len())
}
