//! What a store holds, row by row, each row in a frame of its own that can be found and checked in a damaged file.
//!
//! Owns: [`Row`], [`Key`], the frame around a row's bytes, and the search for frames in a file.
//! Never: knows sled. That rows stay whole and plain in its file is all that is asked of the engine.
//! Read next: `era.rs`, which writes rows through sled and reads the rows of older eras.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::agent::effects::{Entry, Shed};
use crate::ids::EraId;
use crate::wire::encode;

/// The most bytes of a row's frame. sled puts a page of more than a quarter of its segment into a file of its own that
/// it never syncs; a leaf of 17 rows of this size stays below that.
pub(super) const FRAME_BYTES_MAX: usize = 7 * 1024;

/// Neither byte in front occurs in UTF-8, so no text that a caller chose can pretend to be a frame.
const MAGIC: [u8; 4] = [0xff, 0xfe, b'h', b't'];
/// Magic, length (32 bits, little endian), the first 8 bytes of SHA-256 over length and payload.
const HEADER_BYTES: usize = 16;
/// What a disk writes whole or not at all.
const SECTOR_BYTES: u64 = 512;
/// The last byte of each payload. A frame whose last byte is zero was not written to its end.
const END: u8 = 1;

/// A row of the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Row {
    /// A record or a closed segment, and what it was committed with.
    Entry(Entry, Commit),
    /// The era that this store was made for.
    Begun(EraId),
    /// Every record of this era is acknowledged: its rows are dead, wherever they are.
    Dropped(EraId),
    /// This era was damaged and reported; the rows found here are what could be saved.
    Salvaged(EraId),
    /// These segments gave up their records, here and elsewhere: that they are missing is no damage.
    Shed(Shed),
}

/// What a row was committed with. The last commit to a folder may be torn: then it answered nobody, and is no damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Commit {
    /// Rises with each commit to a folder, from 1. 0 if the row was copied from another folder.
    pub(super) number: u64,
    /// How many entries it has.
    pub(super) entries: u32,
}

impl Commit {
    /// Of rows copied from another folder.
    pub(super) const COPIED: Self = Self { number: 0, entries: 1 };
}

/// What names a row. What a row says never changes, so any row of a key will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(super) enum Key {
    Entry(EntryKey),
    Begun(EraId),
    Dropped(EraId),
    Salvaged(EraId),
    /// By its first segment.
    Shed(EraId, u64),
}

/// What names an entry: its era, then the record's index or the segment's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(super) enum EntryKey {
    Record(EraId, u64),
    Segment(EraId, u64),
}

impl Row {
    pub(super) fn key(&self) -> Key {
        match self {
            Self::Entry(Entry::Record(record), _) => Key::Entry(EntryKey::Record(record.era, record.index)),
            Self::Entry(Entry::Segment(segment), _) => Key::Entry(EntryKey::Segment(segment.era, segment.segment)),
            Self::Begun(era) => Key::Begun(*era),
            Self::Dropped(era) => Key::Dropped(*era),
            Self::Salvaged(era) => Key::Salvaged(*era),
            Self::Shed(shed) => Key::Shed(shed.era, shed.segments.0),
        }
    }

    /// What the agent wrote, if it is that.
    pub(super) fn entry(self) -> Option<Entry> {
        match self {
            Self::Entry(entry, _) => Some(entry),
            Self::Begun(_) | Self::Dropped(_) | Self::Salvaged(_) | Self::Shed(_) => None,
        }
    }

    /// The row as it stands in another folder than the one that it was committed to.
    pub(super) fn copied(self) -> Self {
        match self {
            Self::Entry(entry, _) => Self::Entry(entry, Commit::COPIED),
            Self::Begun(_) | Self::Dropped(_) | Self::Salvaged(_) | Self::Shed(_) => self,
        }
    }

    /// The row in its frame.
    pub(super) fn to_frame(&self) -> Vec<u8> {
        let mut payload = encode(self);
        payload.push(END);
        // A row past 4 GiB saturates, and is refused by its size long before that.
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
        [&MAGIC, &len, &check(len, &payload)[..], &payload].concat()
    }

    /// The row of a whole frame, if it is intact.
    pub(super) fn from_frame(bytes: &[u8]) -> Option<Self> {
        match parse(bytes, 0) {
            Frame::Row(row, len) if len == bytes.len() => Some(row),
            Frame::Row(..) | Frame::Broken(_) | Frame::None => None,
        }
    }
}

impl Key {
    /// Its bytes in the store: kind, era and number, big endian, so that rows of a kind lie in their order.
    pub(super) fn to_bytes(self) -> [u8; 25] {
        let (kind, era, number) = match self {
            Self::Entry(EntryKey::Record(era, index)) => (1, era, index),
            Self::Entry(EntryKey::Segment(era, segment)) => (2, era, segment),
            Self::Begun(era) => (3, era, 0),
            Self::Dropped(era) => (4, era, 0),
            Self::Salvaged(era) => (5, era, 0),
            Self::Shed(era, segment) => (6, era, segment),
        };
        let mut bytes = [kind; 25];
        bytes[1..9].copy_from_slice(&era.number.to_be_bytes());
        bytes[9..17].copy_from_slice(&era.salt.to_be_bytes());
        bytes[17..].copy_from_slice(&number.to_be_bytes());
        bytes
    }
}

fn check(len: [u8; 4], payload: &[u8]) -> [u8; 8] {
    let digest = Sha256::new().chain_update(len).chain_update(payload).finalize();
    let mut check = [0; 8];
    check.copy_from_slice(&digest[..8]);
    check
}

/// What begins at some place of a file.
enum Frame {
    /// An intact row, and how many bytes its frame has.
    Row(Row, usize),
    /// What was a frame, and whose it says it was, if that can be read.
    Broken(Option<Key>),
    /// No frame.
    None,
}

/// The frame at the front of `bytes`, which are at `offset` in their file and go on past any frame, or to the file's end.
fn parse(bytes: &[u8], offset: u64) -> Frame {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return Frame::None };
    if header[..4] != MAGIC {
        return Frame::None;
    }
    let len = [header[4], header[5], header[6], header[7]];
    let size = HEADER_BYTES.saturating_add(u32::from_le_bytes(len) as usize);
    let payload = rest.get(..size - HEADER_BYTES).filter(|_| size <= FRAME_BYTES_MAX);
    let intact = payload.filter(|payload| check(len, payload) == header[8..]).and_then(|p| p.strip_suffix(&[END]));
    match intact.map(postcard::from_bytes) {
        Some(Ok(row)) => Frame::Row(row, size),
        Some(Err(_)) | None if size <= FRAME_BYTES_MAX && never_written(bytes, size, offset) => Frame::None,
        // A row's encoding begins with its key's.
        Some(Err(_)) | None => Frame::Broken(postcard::take_from_bytes(rest).ok().map(|(key, _)| key)),
    }
}

/// Whether the disk never got a part of a frame: it ends with the file, with a zero, or a whole sector of it is zero. A
/// power cut does that to what was not synced.
fn never_written(bytes: &[u8], size: usize, offset: u64) -> bool {
    let Some(frame) = bytes.get(..size) else { return true };
    let to_sector = (SECTOR_BYTES - offset % SECTOR_BYTES) as usize;
    let mut sectors = frame.get(to_sector..).unwrap_or_default().chunks_exact(SECTOR_BYTES as usize);
    frame.last() == Some(&0) || size == HEADER_BYTES || sectors.any(|sector| sector.iter().all(|byte| *byte == 0))
}

/// Something that a search found.
pub(super) enum Found {
    /// An intact row; its frame begins at this offset.
    Row(Row, u64),
    /// A frame that is not intact, and whose it says it was. In a healthy file it is the rest of an overwritten copy.
    Broken(Option<Key>),
    /// The disk refused to give out some bytes.
    Unreadable(io::Error),
}

const WINDOW_BYTES: usize = 256 * 1024;
const SKIP_BYTES: u64 = 4096;

/// Finds every frame of a file.
///
/// # Errors
/// When the file's length cannot be had. What cannot be read inside it is told to `found`, and skipped.
pub(super) fn search(file: &File, mut found: impl FnMut(Found)) -> io::Result<()> {
    let end = file.metadata()?.len();
    let mut window = vec![0; WINDOW_BYTES + FRAME_BYTES_MAX];
    let mut start = 0;
    while start < end {
        let want = window.len().min(usize::try_from(end - start).unwrap_or(usize::MAX));
        if let Err(error) = file.read_exact_at(&mut window[..want], start) {
            // Page by page now, so that one bad page costs no more than itself.
            found(Found::Unreadable(error));
            for page in window[..want].chunks_mut(SKIP_BYTES as usize).enumerate() {
                let (number, bytes) = page;
                if file.read_exact_at(bytes, start + number as u64 * SKIP_BYTES).is_err() {
                    bytes.fill(0);
                }
            }
        }
        start += search_window(&window[..want], start, &mut found) as u64;
    }
    Ok(())
}

/// Finds the frames that begin in the front part of a window, so that each lies in it whole. Returns where the next
/// window begins.
fn search_window(window: &[u8], start: u64, found: &mut impl FnMut(Found)) -> usize {
    let front = window.len().min(WINDOW_BYTES);
    let mut at = 0;
    while at < front {
        let Some(next) = window[at..front].iter().position(|byte| *byte == MAGIC[0]) else { break };
        at += next;
        match parse(&window[at..window.len().min(at + FRAME_BYTES_MAX)], start + at as u64) {
            Frame::Row(row, len) => {
                found(Found::Row(row, start + at as u64));
                at += len;
            }
            Frame::Broken(key) => {
                found(Found::Broken(key));
                at += 1;
            }
            Frame::None => at += 1,
        }
    }
    front.max(at)
}

/// The row whose frame begins at `offset`, if it is still intact.
pub(super) fn read(file: &File, offset: u64) -> Option<Row> {
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, offset).ok()?;
    let len = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
    let mut frame = vec![0; HEADER_BYTES.checked_add(len).filter(|len| *len <= FRAME_BYTES_MAX)?];
    file.read_exact_at(&mut frame, offset).ok()?;
    Row::from_frame(&frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::effects::{StoredRecord, StoredSegment};
    use crate::ids::Hash;
    use std::io::Write;

    const ERA: EraId = EraId { number: 3, salt: u64::MAX };

    fn record(index: u64, bytes: Vec<u8>) -> Row {
        let record = StoredRecord { era: ERA, index, bytes, budgets: Vec::new() };
        Row::Entry(Entry::Record(record), Commit { number: 1, entries: 1 })
    }

    fn rows() -> Vec<Row> {
        let segment =
            StoredSegment { era: ERA, segment: 9, first_index: 1, count: 2, head: Hash::ZERO, header: vec![1] };
        let plain = [
            Row::Begun(ERA),
            Row::Dropped(ERA),
            Row::Salvaged(ERA),
            Row::Shed(Shed { era: ERA, segments: (3, 300), records: (9, 900) }),
            Row::Entry(Entry::Segment(segment), Commit::COPIED),
        ];
        plain.into_iter().chain((0..300).map(|i| record(i, vec![i as u8; i as usize * 20]))).collect()
    }

    fn find(bytes: &[u8]) -> (Vec<(Row, u64)>, Vec<Option<Key>>) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let (mut found, mut broken) = (Vec::new(), Vec::new());
        search(&file, |item| match item {
            Found::Row(row, at) => found.push((row, at)),
            Found::Broken(key) => broken.push(key),
            Found::Unreadable(error) => panic!("{error}"),
        })
        .unwrap();
        for (row, at) in &found {
            assert_eq!(read(&file, *at).as_ref(), Some(row));
        }
        (found, broken)
    }

    #[test]
    fn every_row_is_found_between_anything_across_windows() {
        let mut bytes = Vec::new();
        for (i, row) in rows().iter().enumerate() {
            bytes.extend(vec![0xff; i % 5]);
            bytes.extend(row.to_frame());
            bytes.extend(vec![0; i * 7 % 4099]);
        }
        assert!(bytes.len() > 3 * WINDOW_BYTES);
        let (found, broken) = find(&bytes);
        assert_eq!(found.into_iter().map(|(row, _)| row).collect::<Vec<_>>(), rows());
        assert_eq!(broken, []);
    }

    #[test]
    fn a_key_is_what_its_row_begins_with() {
        for row in rows() {
            let (key, _): (Key, _) = postcard::take_from_bytes(&encode(&row)).unwrap();
            assert_eq!(key, row.key());
        }
    }

    #[test]
    fn keys_lie_in_the_order_of_their_numbers() {
        let key = |index| Key::Entry(EntryKey::Record(ERA, index)).to_bytes();
        assert!(key(255) < key(256) && key(u64::MAX - 1) < key(u64::MAX));
    }

    #[test]
    fn a_damaged_frame_says_whose_it_was_and_hides_nobody_else() {
        let frames: Vec<_> = (0..3).map(|i| record(i, vec![7; 50]).to_frame()).collect();
        let whole = frames.concat();
        let at = frames[0].len() + HEADER_BYTES + 20;
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        let (found, broken) = find(&damaged);
        assert_eq!(
            found.iter().map(|(row, _)| row.key()).collect::<Vec<_>>(),
            [Key::Entry(EntryKey::Record(ERA, 0)), Key::Entry(EntryKey::Record(ERA, 2))]
        );
        assert_eq!(broken, [Some(Key::Entry(EntryKey::Record(ERA, 1)))]);
        let (found, broken) = find(&whole[..whole.len() - 1]);
        assert_eq!((found.len(), broken.len()), (2, 0), "torn, not damaged");
        let (found, broken) = find(&[&whole[..whole.len() - 9], &[0; 4096][..]].concat());
        assert_eq!((found.len(), broken.len()), (2, 0), "torn, not damaged");
        for len in [u32::MAX, FRAME_BYTES_MAX as u32] {
            let mut damaged = whole.clone();
            damaged[4..8].copy_from_slice(&len.to_le_bytes());
            assert_eq!(find(&damaged).0.len(), 2, "length {len}");
        }
    }

    #[test]
    fn text_inside_a_row_is_no_frame() {
        let inner = String::from_utf8_lossy(&record(9, vec![1]).to_frame()).into_owned();
        let mut bytes = record(1, inner.into_bytes()).to_frame();
        bytes[9] ^= 1; // The outer frame is broken, so that the search goes on inside it.
        let (found, broken) = find(&bytes);
        assert_eq!((found.len(), broken.len()), (0, 1));
    }
}
