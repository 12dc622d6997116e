//! One era's folder: written through sled, read again without it.
//!
//! Owns: [`Writer`], the only user of sled, and [`Older`], the rows of an era that is no longer written.
//! Never: opens an older era for writing. Older eras are read frame by frame from sled's file, because sled gives up all
//! of a file of which some is damaged (it panics, or opens it with fewer rows and no error), rewrites the file while it
//! opens it, and keeps some 100 bytes of memory per row; a frame that is whole is whole, whatever is beside it. That is also
//! why an older era that gives up records can be a plain file of the frames that stay.
//! Read next: `recover.rs`, which makes one picture of all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use super::folder::{bytes_below, is_shortage};
use super::given::Given;
use super::row::{read, search, Commit, EntryKey, Found, Key, Row, FRAME_BYTES_MAX};
use super::StoreError;
use crate::agent::effects::{Entry, Shed, StoredRecord, StoredSegment};
use crate::agent::room::{Class, Weighed, ROW_BYTES};
use crate::ids::EraId;
use crate::shell::files::{create_dir, open_file, sync_dir, sync_parent, temporary, FileError};

/// sled's segment. Large, because a page of more than a quarter of it goes to a file of its own that sled never syncs.
const SLED_SEGMENT_BYTES: usize = 512 * 1024;
/// Rows of a leaf, at most, between two splits.
const SLED_LEAF_ROWS: usize = 17;
const _: () = assert!(SLED_LEAF_ROWS * (FRAME_BYTES_MAX + 64) < SLED_SEGMENT_BYTES / 4);

/// The era that is being written.
pub(super) struct Writer {
    /// The era that its folder is named for.
    pub(super) id: EraId,
    pub(super) dir: PathBuf,
    db: sled::Db,
    /// sled's file once more: sled's own flush leaves the data in the disk's cache.
    file: File,
    /// Eras of which it holds entries.
    pub(super) eras: BTreeSet<EraId>,
    pub(super) commits: u64,
}

impl Writer {
    /// Makes the folder of a new era. Durable on return, with its first row.
    pub(super) fn create(dir: PathBuf, id: EraId, cache_bytes: u64) -> Result<Self, StoreError> {
        if dir.exists() {
            return Err(StoreError::EraExists { path: dir });
        }
        create_dir(&dir)?;
        let config = sled::Config::new()
            .path(&dir)
            .create_new(true)
            .cache_capacity(cache_bytes)
            .flush_every_ms(None)
            .mode(sled::Mode::LowSpace)
            .segment_size(SLED_SEGMENT_BYTES);
        let db = guard(&dir, || config.open())?;
        let path = dir.join("db");
        let file = File::open(&path).map_err(|error| FileError::io("open", &path, error))?;
        let mut writer = Self { id, dir, db, file, eras: BTreeSet::new(), commits: 0 };
        writer.put([Row::Begun(id)])?;
        writer.sync()?;
        sync_dir(&writer.dir)?;
        sync_parent(&writer.dir)?;
        Ok(writer)
    }

    /// Puts the entries of one commit. Not durable before [`Writer::sync`].
    pub(super) fn put_commit(&mut self, entries: Vec<Entry>) -> Result<(), StoreError> {
        self.commits += 1;
        let commit = Commit { number: self.commits, entries: entries.len().try_into().unwrap_or(u32::MAX) };
        self.put(entries.into_iter().map(|entry| Row::Entry(entry, commit)))
    }

    /// Puts rows in one batch. Not durable before [`Writer::sync`].
    pub(super) fn put(&mut self, rows: impl IntoIterator<Item = Row>) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for row in rows {
            let (key, frame) = (row.key(), row.to_frame());
            if frame.len() > FRAME_BYTES_MAX {
                return Err(StoreError::RowTooLarge { bytes: frame.len() });
            }
            if let Key::Entry(EntryKey::Record(era, _) | EntryKey::Segment(era, _)) = key {
                self.eras.insert(era);
            }
            batch.insert(&key.to_bytes(), frame);
        }
        guard(&self.dir, || self.db.apply_batch(batch))
    }

    /// Hands all that was put to the operating system, and no further.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        guard(&self.dir, || self.db.flush()).map(drop)
    }

    /// Makes all that was put durable.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.flush()?;
        self.sync_flushed()
    }

    /// Makes durable what was flushed, and no more.
    pub(super) fn sync_flushed(&self) -> Result<(), StoreError> {
        self.file.sync_data().map_err(|error| FileError::io("sync", &self.dir.join("db"), error).into())
    }

    /// A row, if it is here.
    pub(super) fn get(&self, key: Key) -> Result<Option<Row>, StoreError> {
        let value = guard(&self.dir, || self.db.get(key.to_bytes()))?;
        Ok(value.and_then(|frame| Row::from_frame(&frame)))
    }

    pub(super) fn used_bytes(&self) -> u64 {
        bytes_below(&self.dir)
    }

    /// Ends writing. Gives back the folder.
    pub(super) fn close(self) -> PathBuf {
        let Self { dir, db, .. } = self;
        // What a failed handle does when it goes is nobody's business any more: the frames are read without it.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(db)));
        dir
    }
}

/// What sled says where the operating system refuses it something.
pub(super) fn engine_failed(dir: &Path, error: io::Error) -> StoreError {
    StoreError::Engine { path: dir.to_owned(), why: sled::Error::Io(error).to_string() }
}

/// Runs sled, which may panic where a disk fails.
fn guard<T>(dir: &Path, run: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
    let why = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref().copied());
            format!("panic: {}", text.unwrap_or("without a message"))
        }
    };
    Err(StoreError::Engine { path: dir.to_owned(), why })
}

/// Where a row of some era is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// The record's index or the segment's number.
    pub(super) number: u64,
    /// Where its frame begins in the file.
    pub(super) offset: u64,
    /// Of a record.
    pub(super) class: Class,
    /// Of a segment, how many records it has; of a record, how many denials it counts.
    pub(super) count: u32,
    /// Of the record, or of the segment's header.
    pub(super) bytes: u16,
}

impl Place {
    fn of(entry: &Entry, offset: u64) -> (EraId, Self) {
        // No row is that large.
        let short = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        match entry {
            Entry::Record(StoredRecord { era, index, bytes, .. }) => {
                let Weighed { class, repeated, .. } = Weighed::of_bytes(bytes);
                // In one window there are fewer.
                let count = u32::try_from(repeated).unwrap_or(u32::MAX);
                (*era, Self { number: *index, offset, class, count, bytes: short(bytes) })
            }
            Entry::Segment(StoredSegment { era, segment, count, header, .. }) => {
                let class = Class::Critical;
                (*era, Self { number: *segment, offset, class, count: *count, bytes: short(header) })
            }
        }
    }
}

/// The entries of one era in one folder, in the order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) records: Vec<Place>,
    pub(super) segments: Vec<Place>,
}

/// What somebody who reads a folder does with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// Nothing.
    AsItIs,
    /// Syncs it first: something will rest on what is read.
    Synced,
}

/// The folder of an era that is no longer written.
pub(super) struct Older {
    pub(super) dir: PathBuf,
    /// The number that it is named by.
    pub(super) number: u64,
    /// sled's file, none if there is none or it cannot be opened.
    file: Option<File>,
    /// Entries of each era: how many.
    pub(super) counts: BTreeMap<EraId, usize>,
    /// Where they are; none while memory is better used for another folder.
    places: Option<BTreeMap<EraId, Places>>,
    /// The era that the folder was made for.
    pub(super) begun: Option<EraId>,
    pub(super) dropped: BTreeSet<EraId>,
    pub(super) salvaged: BTreeSet<EraId>,
    pub(super) shed: BTreeSet<Shed>,
    /// Keys of frames that are not whole. Most of them are rests of overwritten copies.
    pub(super) broken: BTreeSet<Option<Key>>,
    /// Why some of it could not be read at all.
    pub(super) unreadable: Option<String>,
    /// Some of it that should stay cannot be read, so that it cannot be written anew.
    stays: bool,
    /// Its share of what gave way and is there still, since it could not be written anew, in bytes.
    pub(super) dead_bytes: u64,
    /// Bytes on disk.
    pub(super) used_bytes: u64,
}

/// What became of a folder that was to be written anew.
#[derive(Debug)]
pub(super) enum Rewritten {
    /// It is.
    Done,
    /// It cannot be read. It is as it was, for as long as this process runs.
    Stays,
    /// It is as it was, and can be tried again.
    Failed(FileError),
}

impl Older {
    /// Reads a folder once, from front to back. What is read is durable.
    ///
    /// # Errors
    /// As [`Older::read_from`].
    pub(super) fn open(dir: PathBuf, number: u64) -> Result<Self, FileError> {
        // Power went while it was written anew. If it cannot go now, it goes with the folder.
        let _ = fs::remove_file(temporary(&dir.join("db")));
        Self::read_from(dir, number, Reading::Synced)
    }

    /// Reads a folder once, from front to back.
    ///
    /// # Errors
    /// Where the system is short of something: what is there is not known then. Whatever else is wrong is what was found.
    pub(super) fn read_from(dir: PathBuf, number: u64, reading: Reading) -> Result<Self, FileError> {
        let used_bytes = bytes_below(&dir);
        let mut older = Self {
            file: None,
            counts: BTreeMap::new(),
            places: None,
            begun: None,
            dropped: BTreeSet::new(),
            salvaged: BTreeSet::new(),
            shed: BTreeSet::new(),
            broken: BTreeSet::new(),
            unreadable: None,
            stays: false,
            dead_bytes: 0,
            dir,
            number,
            used_bytes,
        };
        match open_file(&older.dir.join("db")) {
            Ok(file) => {
                // A process that was killed may have left some of it in memory only. Whatever rests on what is read here
                // must not outlive it.
                older.unreadable = match reading {
                    Reading::AsItIs => None,
                    Reading::Synced => file.sync_data().err().map(|error| error.to_string()),
                };
                older.file = Some(file);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if is_shortage(&error) => return Err(FileError::io("open", &older.dir.join("db"), error)),
            Err(error) => older.unreadable = Some(error.to_string()),
        }
        older.read();
        Ok(older)
    }

    /// Finds where everything is.
    fn read(&mut self) {
        let mut places = BTreeMap::<EraId, Places>::new();
        let Some(file) = &self.file else {
            self.places = Some(places);
            return;
        };
        let mut last = LastCommit::default();
        let searched = search(file, |found| match found {
            Found::Row(Row::Entry(entry, commit), offset) => {
                last.see(&entry, commit);
                let (era, place) = Place::of(&entry, offset);
                let of_era = places.entry(era).or_default();
                match entry {
                    Entry::Record(_) => of_era.records.push(place),
                    Entry::Segment(_) => of_era.segments.push(place),
                }
            }
            Found::Row(Row::Begun(era), _) => self.begun = Some(era),
            Found::Row(Row::Dropped(era), _) => drop(self.dropped.insert(era)),
            Found::Row(Row::Salvaged(era), _) => drop(self.salvaged.insert(era)),
            Found::Row(Row::Shed(shed), _) => drop(self.shed.insert(shed)),
            Found::Broken(key) => drop(self.broken.insert(key)),
            Found::Unreadable(error) => {
                self.unreadable = Some(error.to_string());
                // Whatever was there.
                self.broken.insert(None);
            }
        });
        if let Err(error) = searched {
            self.unreadable = Some(error.to_string());
        }
        for place in places.values_mut().flat_map(|places| [&mut places.records, &mut places.segments]) {
            // Copies of a row are equal: any of them will do.
            place.sort_unstable();
            place.dedup_by_key(|place| place.number);
            place.shrink_to_fit();
        }
        last.forget_if_torn(self.begun, &mut places);
        let count = |(era, places): (&EraId, &Places)| (*era, places.records.len() + places.segments.len());
        self.counts = places.iter().map(count).collect();
        self.places = Some(places);
    }

    /// The entries of an era.
    pub(super) fn places(&mut self, era: EraId) -> Option<&Places> {
        if self.places.is_none() {
            self.read();
        }
        self.places.as_ref()?.get(&era)
    }

    /// How many rows it remembers the places of.
    pub(super) fn rows_in_memory(&self) -> usize {
        self.places.as_ref().map_or(0, |_| self.counts.values().sum())
    }

    pub(super) fn forget_places(&mut self) {
        self.places = None;
    }

    /// The row at a place, if it is still whole.
    pub(super) fn row(&self, place: Place) -> Option<Row> {
        read(self.file.as_ref()?, place.offset)
    }

    /// A row by its key.
    pub(super) fn get(&mut self, key: EntryKey) -> Option<Row> {
        let (places, number) = match key {
            EntryKey::Record(era, number) => (&self.places(era)?.records, number),
            EntryKey::Segment(era, number) => (&self.places(era)?.segments, number),
        };
        let place = places[places.binary_search_by_key(&number, |place| place.number).ok()?];
        self.row(place).filter(|row| row.key() == Key::Entry(key))
    }

    /// Whether it holds a record of those that were given up.
    pub(super) fn holds_any(&mut self, given: &Given) -> bool {
        let eras: Vec<EraId> = self.counts.keys().copied().filter(|era| !given.of(*era).is_empty()).collect();
        eras.into_iter().any(|era| {
            let Some(places) = self.places(era) else { return false };
            given.of(era).iter().any(|range| {
                let first = places.records.partition_point(|place| place.number < range.records.0);
                places.records.get(first).is_some_and(|place| range.holds_record(place.number))
            })
        })
    }

    /// What the records that were given up take of its bytes on disk: their share by what rows weigh.
    fn share_of(&mut self, given: &Given) -> u64 {
        let eras: Vec<EraId> = self.counts.keys().copied().collect();
        let weigh = |place: &Place| ROW_BYTES + u64::from(place.bytes);
        let (mut all, mut staying) = (0_u64, 0_u64);
        for era in eras {
            let Some(places) = self.places(era) else { continue };
            all += places.records.iter().chain(&places.segments).map(weigh).sum::<u64>();
            staying += self.staying(era, given).iter().map(weigh).sum::<u64>();
        }
        let share = u128::from(self.used_bytes) * u128::from(all - staying) / u128::from(all.max(1));
        u64::try_from(share).unwrap_or(self.used_bytes)
    }

    /// Writes the folder's file anew, without the records that were given up, and without rows of `dead` eras. The old
    /// file is there until the new one is durable, and goes on being used where there is no room for a new one. Where a
    /// row that is to stay cannot be read, all of it stays as it is: what is left is found when it is sent.
    ///
    /// # Errors
    /// When the new file's name cannot be made durable.
    pub(super) fn without(&mut self, given: &Given, dead: &BTreeSet<EraId>) -> Result<Rewritten, StoreError> {
        if self.stays {
            self.dead_bytes = self.share_of(given);
            return Ok(Rewritten::Stays);
        }
        let path = self.dir.join("db");
        let new = temporary(&path);
        let written = self.write_without(&new, given, dead).and_then(|whole| {
            if whole {
                fs::rename(&new, &path)?;
            }
            Ok(whole)
        });
        if !matches!(written, Ok(true)) {
            // Where the disk refuses that too, a start removes it.
            let _ = fs::remove_file(&new);
        }
        match written {
            Ok(true) => {
                sync_dir(&self.dir)?;
                *self = Self::open(self.dir.clone(), self.number)?;
                Ok(Rewritten::Done)
            }
            Ok(false) => {
                self.stays = true;
                self.dead_bytes = self.share_of(given);
                Ok(Rewritten::Stays)
            }
            Err(error) => {
                self.dead_bytes = self.share_of(given);
                Ok(Rewritten::Failed(FileError::io("write anew", &path, error)))
            }
        }
    }

    /// Writes what stays into a new file. False where some of it cannot be read.
    fn write_without(&mut self, new: &Path, given: &Given, dead: &BTreeSet<EraId>) -> io::Result<bool> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(new)?;
        let mut out = BufWriter::new(file);
        let eras: Vec<EraId> = self.counts.keys().copied().filter(|era| !dead.contains(era)).collect();
        let marks = self.begun.into_iter().map(Row::Begun);
        let marks = marks.chain(self.dropped.iter().copied().map(Row::Dropped));
        let marks = marks.chain(self.salvaged.iter().copied().map(Row::Salvaged));
        let own = eras.iter().flat_map(|era| given.of(*era)).copied();
        for mark in marks.chain(own.map(Row::Shed)) {
            out.write_all(&mark.to_frame())?;
        }
        for era in eras {
            for place in self.staying(era, given) {
                let Some(row) = self.row(place) else { return Ok(false) };
                // What is missing of its commit is no sign of a torn one.
                out.write_all(&row.copied().to_frame())?;
            }
        }
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        Ok(true)
    }

    /// Where the rows of an era are that stay.
    pub(super) fn staying(&mut self, era: EraId, given: &Given) -> Vec<Place> {
        let Some(places) = self.places(era) else { return Vec::new() };
        // Both are in order: they are gone through side by side.
        let mut ranges = given.of(era).iter().peekable();
        let stays = |place: &&Place| {
            while ranges.next_if(|range| range.records.1 <= place.number).is_some() {}
            ranges.peek().is_none_or(|range| !range.holds_record(place.number))
        };
        places.records.iter().filter(stays).chain(&places.segments).copied().collect()
    }

    /// Entries of eras that are not `dead`.
    pub(super) fn live_rows(&self, dead: &BTreeSet<EraId>) -> usize {
        self.counts.iter().filter(|(era, _)| !dead.contains(era)).map(|(_, count)| count).sum()
    }
}

/// The entries of the last commit to a folder, as they are found.
#[derive(Default)]
struct LastCommit {
    commit: Option<Commit>,
    records: BTreeSet<(EraId, u64)>,
    /// With the index after its last record.
    segments: BTreeSet<(EraId, u64, u64)>,
}

impl LastCommit {
    fn see(&mut self, entry: &Entry, commit: Commit) {
        match self.commit {
            _ if commit == Commit::COPIED => return,
            Some(last) if commit.number < last.number => return,
            Some(last) if commit.number == last.number => {}
            Some(_) | None => *self = Self { commit: Some(commit), ..Self::default() },
        }
        match entry {
            Entry::Record(record) => drop(self.records.insert((record.era, record.index))),
            Entry::Segment(segment) => {
                let end = segment.first_index.saturating_add(segment.count.into());
                self.segments.insert((segment.era, segment.segment, end));
            }
        }
    }

    /// A commit of which something is missing never returned. What lies past the first missing record was told to nobody,
    /// and would look like a hole: its places are forgotten, and its segments with it. `home` is the folder's own era,
    /// the only one whose records are committed to it.
    fn forget_if_torn(&self, home: Option<EraId>, places: &mut BTreeMap<EraId, Places>) {
        let found = self.records.len() + self.segments.len();
        if self.commit.is_none_or(|commit| commit.entries as usize == found) {
            return;
        }
        let Some((home, places)) = home.and_then(|home| Some((home, places.get_mut(&home)?))) else { return };
        let first = self.records.first().map(|(_, index)| *index);
        keep_run(&mut places.records, first, |_| true);
        let end = places.records.last().map_or(0, |place| place.number.saturating_add(1));
        let of_home = || self.segments.iter().filter(|(era, ..)| *era == home);
        let reaches = |number| of_home().any(|(_, segment, to)| *segment == number && *to <= end);
        keep_run(&mut places.segments, of_home().map(|(_, segment, _)| *segment).next(), reaches);
    }
}

/// Of the places from number `first` on, keeps those that go on without a hole from the one before, as long as they are
/// `fit`.
fn keep_run(places: &mut Vec<Place>, first: Option<u64>, fit: impl Fn(u64) -> bool) {
    let Some(first) = first else { return };
    let mut kept = places.partition_point(|place| place.number < first);
    let mut next = kept.checked_sub(1).map_or(0, |last| places[last].number.saturating_add(1));
    while places.get(kept).is_some_and(|place| place.number == next && fit(next)) {
        (kept, next) = (kept + 1, next.saturating_add(1));
    }
    places.truncate(kept);
}
