//! What a disk can do to a store, for the simulator and for tests: in no build that is shipped.
//!
//! Owns: syncs that fail, and [`rows`]: which rows a folder holds, and other ones written over them.
//! Never: is part of a build without the feature `crash-points`.
//! Read next: `mod.rs`, whose commits ask.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::folder::list;
use super::row::{search, Found, Row};
use super::{Store, StoreError};
use crate::agent::effects::Entry;
use crate::shell::files::{is_temporary, open_file, FileError};

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

/// Every whole entry in a state folder's `eras/`, once for each copy of it, in the order of their folders and places. Where
/// `other` gives another entry it is written over the one that was there, if it takes as many bytes: as somebody does who
/// knows the format and has the disk. Nobody may have the folder open. Returns how many were written.
///
/// # Errors
/// When a file cannot be read or written.
pub fn rows(state_dir: &Path, mut other: impl FnMut(&Entry) -> Option<Entry>) -> Result<usize, StoreError> {
    let mut written = 0;
    let eras = state_dir.join("eras");
    for name in list(&eras)?.into_iter().filter(|name| !is_temporary(name)) {
        let path = eras.join(name).join("db");
        let file = match open_file(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(FileError::io("open", &path, error).into()),
        };
        let mut over = Vec::new();
        let searched = search(&file, |found| match found {
            Found::Row(Row::Entry(entry, commit), offset) => {
                let Some(new) = other(&entry) else { return };
                let [old, new] = [entry, new].map(|entry| Row::Entry(entry, commit).to_frame());
                over.extend((old.len() == new.len()).then_some((offset, new)));
            }
            Found::Row(Row::Begun(_) | Row::Dropped(_) | Row::Salvaged(_) | Row::Shed(_), _)
            | Found::Broken(_)
            | Found::Unreadable(_) => {}
        });
        searched.map_err(|error| FileError::io("read", &path, error))?;
        if over.is_empty() {
            continue;
        }
        let failed = |error| FileError::io("write", &path, error);
        let file = OpenOptions::new().write(true).open(&path).map_err(failed)?;
        for (offset, frame) in &over {
            file.write_all_at(frame, *offset).map_err(failed)?;
        }
        written += over.len();
    }
    Ok(written)
}
