//! The anchor's two slots, outside sled.
//!
//! Owns: `anchor.0` and `anchor.1`: their bytes, which one counts, which one is written next.
//! Never: overwrites the newest slot that is valid.
//! Read next: `../../agent/effects.rs` for what an [`Anchor`] holds.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::folder::{is_shortage, set_aside, Folder};
use super::{allowed, Event, Needs, StoreError};
use crate::agent::Anchor;
use crate::shell::files::{open_file, sync_parent, FileError};
use crate::wire::{decode, encode};

/// Says what the file is, and in which format.
const MAGIC: [u8; 8] = *b"htanchr1";
/// Magic, generation (64 bits) and length (32 bits, both little endian).
const HEADER_BYTES: usize = 20;
const CHECK_BYTES: usize = 32;
/// The most bytes of an encoded anchor.
const ANCHOR_BYTES_MAX: usize = 1024 * 1024;
/// A slot is a multiple of this and never shrinks, so that overwriting it seldom changes the file's length: a data sync
/// is then all that it takes.
const PAGE_BYTES: usize = 4096;

/// Both slots.
#[derive(Debug)]
pub(super) struct Slots {
    paths: [PathBuf; 2],
    /// The slot with the newest valid anchor, and its generation.
    newest: Option<(usize, u64)>,
    /// Slots whose names are known to be durable.
    named: [bool; 2],
}

impl Slots {
    /// Reads both. The anchor is none if neither is usable. What is read is durable: a process that was killed may have
    /// left the newest in memory only, and the next write goes over the other one.
    ///
    /// # Errors
    /// When a slot cannot be synced: this disk keeps nothing.
    pub(super) fn open(folder: &Folder, events: &mut Vec<Event>) -> Result<(Self, Option<Anchor>), StoreError> {
        let paths = [folder.join("anchor.0"), folder.join("anchor.1")];
        let mut best: Option<(usize, Anchor)> = None;
        for (slot, path) in paths.iter().enumerate() {
            match open_file(path) {
                Ok(file) => file.sync_data().map_err(|error| FileError::io("sync", path, error))?,
                Err(error) if is_shortage(&error) => return Err(FileError::io("sync", path, error).into()),
                // What is wrong with it shows below.
                Err(_) => {}
            }
            match read(path) {
                Ok(None) => {}
                Ok(Some(anchor)) if best.as_ref().is_some_and(|(_, other)| other.generation >= anchor.generation) => {}
                Ok(Some(anchor)) => best = Some((slot, anchor)),
                Err(error) if is_shortage(&error) => return Err(FileError::io("read", path, error).into()),
                Err(error) => events.push(Event::SlotUnusable { slot, error: error.to_string() }),
            }
        }
        let newest = best.as_ref().map(|(slot, anchor)| (*slot, anchor.generation));
        Ok((Self { paths, newest, named: [false; 2] }, best.map(|(_, anchor)| anchor)))
    }

    /// Whether no slot was ever written.
    pub(super) fn never_written(&self) -> bool {
        self.newest.is_none() && !self.paths.iter().any(|path| path.exists())
    }

    /// Writes the slot that is not the newest. Durable on return.
    pub(super) fn write(&mut self, anchor: &Anchor) -> Result<(), StoreError> {
        if let Some((_, newest)) = self.newest.filter(|(_, newest)| anchor.generation <= *newest) {
            return Err(StoreError::OldAnchor { offered: anchor.generation, newest });
        }
        let slot = self.newest.map_or(0, |(slot, _)| 1 - slot);
        let path = &self.paths[slot];
        let found = path.metadata().ok();
        if found.as_ref().is_some_and(|meta| !meta.is_file()) {
            // Whatever it is, it is no slot, and a write to it might never return.
            set_aside(path.parent().unwrap_or(Path::new(".")), path)?;
        }
        let found = found.filter(|meta| meta.is_file());
        let bytes = to_bytes(anchor);
        let fits = found.as_ref().is_some_and(|meta| meta.len() >= bytes.len() as u64);
        let needs = if fits { Needs::Leave } else { Needs::Room };
        let allowed = allowed(path.parent().unwrap_or(Path::new("")), needs);
        allowed.and_then(|()| write(path, &bytes)).map_err(|error| FileError::io("write", path, error))?;
        // The first two writes make the names.
        if found.is_none() || !self.named[slot] {
            sync_parent(path)?;
            self.named[slot] = true;
        }
        self.newest = Some((slot, anchor.generation));
        Ok(())
    }
}

fn write(path: &PathBuf, bytes: &[u8]) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.write_all_at(bytes, 0)?;
    file.sync_data()
}

fn to_bytes(anchor: &Anchor) -> Vec<u8> {
    let payload = encode(anchor);
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
    let mut bytes = [&MAGIC[..], &anchor.generation.to_le_bytes(), &len, &payload].concat();
    let check = Sha256::digest(&bytes);
    bytes.extend(check);
    bytes.resize(bytes.len().next_multiple_of(PAGE_BYTES), 0);
    bytes
}

/// The anchor of a slot, none if there is no such file.
pub(super) fn read(path: &Path) -> io::Result<Option<Anchor>> {
    let mut bytes = Vec::new();
    match open_file(path) {
        Ok(file) => file.take((ANCHOR_BYTES_MAX + 2 * PAGE_BYTES) as u64).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    from_bytes(&bytes).map(Some).ok_or_else(|| io::Error::other("torn or damaged"))
}

fn from_bytes(bytes: &[u8]) -> Option<Anchor> {
    let header = bytes.get(..HEADER_BYTES)?;
    let len = u32::from_le_bytes(header[16..].try_into().ok()?) as usize;
    let end = HEADER_BYTES.checked_add(len)?;
    let check = bytes.get(end..end.checked_add(CHECK_BYTES)?)?;
    if header[..8] != MAGIC || Sha256::digest(&bytes[..end])[..] != *check {
        return None;
    }
    let anchor: Anchor = decode(&bytes[HEADER_BYTES..end], ANCHOR_BYTES_MAX).ok()?;
    (header[8..16] == anchor.generation.to_le_bytes()).then_some(anchor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::effects::EraMark;
    use crate::ids::EraId;

    #[test]
    fn every_torn_or_flipped_slot_is_refused() {
        let era = EraId { number: 300, salt: u64::MAX };
        let mark = EraMark { era, held_index: 1000, signed_index: 70_000, next_index: 70_000 };
        let anchor = Anchor { generation: 7, next_index: 9, earlier: vec![mark; 20], ..Anchor::default() };
        let bytes = to_bytes(&anchor);
        assert_eq!(bytes.len(), PAGE_BYTES);
        assert_eq!(from_bytes(&bytes), Some(anchor));
        let used = HEADER_BYTES + encode(&from_bytes(&bytes)).len() - 1 + CHECK_BYTES;
        for at in 0..used {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            assert_eq!(from_bytes(&flipped), None, "byte {at}");
            assert_eq!(from_bytes(&bytes[..at]), None, "cut at {at}");
            let torn: Vec<u8> = bytes[..at].iter().copied().chain(vec![0; PAGE_BYTES - at]).collect();
            assert!(from_bytes(&torn).is_none() || torn == bytes, "torn at {at}");
        }
    }
}
