//! The state folder and the audit store: the only user of sled.
//!
//! Owns: [`Store`], which makes a [`Batch`] durable in its order; what a start finds ([`Recovered`]); the quarantine.
//! Never: decides what is written or when anything may go; panics on what a disk holds; opens a folder that another
//! process uses. One thread owns a store.
//! Read next: `row.rs`, `era.rs`, `recover.rs`, `anchor.rs`, `folder.rs`.
//!
//! The folder (0700): `format lock anchor.0 anchor.1 bundle policy feed/ wallet/ eras/<20 digits>/ quarantine/`, beside
//! `device.key` and `certificate`, which `keys.rs` owns. A folder of `eras/` that goes is first `.<name>.tmp`. Other files
//! are left alone. `quarantine/` holds the folders of
//! damaged eras, whose readable rows have been copied to the newest era: evidence for a person, never read again. It
//! keeps `QUARANTINE_MAX` of them and a tenth of the quota at most; the oldest go.
//!
//! What a start finds is synced before anything rests on it: a process that was killed may have left it in memory only,
//! and a power cut later would take it back from under what was written since. What cannot be told apart: bytes cut off a
//! file's end that held its last commit, and a power cut before that commit was durable.

mod anchor;
mod era;
#[cfg(feature = "crash-points")]
mod faults;
mod folder;
mod given;
mod pages;
mod peek;
mod recover;
mod row;
mod survey;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::agent::effects::{Entry, FileWrite, StateFile};
use crate::agent::room::Taken;
use crate::agent::salvage::{Hole, Remains, Wanted};
use crate::agent::{Anchor, Batch, EraImage};
use crate::ids::EraId;
use crate::mutant::{active, Mutant};
use crate::profile::{QueueLimits, QUARANTINE_PERCENT};
use crate::shell::files::{is_temporary, sync_dir, temporary, FileError};
use crate::wire::audit::segment::{Loaded, Upload};
use crate::wire::envelope::Signed;
use anchor::Slots;
use era::{engine_failed, Older, Rewritten, Writer};
#[cfg(feature = "crash-points")]
use faults::allowed;
#[cfg(feature = "crash-points")]
pub use faults::{refuse, rot, rows, Refusal};
pub use folder::FORMAT;
use folder::{bytes_below, list, Folder};
use given::Given;
pub use peek::peek;
use row::{EntryKey, Key, Row};
pub use survey::{holder, EraNote, FolderNote, Survey};

/// An older era with no more rows than this is copied into a new one, so that starts do not pile up folders.
const FOLD_ROWS_MAX: usize = 512;
/// Folders of older eras. Beyond it the smallest are copied into a new one, however large they are.
const FOLDERS_MAX: usize = 32;
/// Damaged folders that are kept.
const QUARANTINE_MAX: usize = 8;
/// Rows of older eras whose places are remembered, 24 bytes each. Others are looked for again when they are needed.
const PLACES_MAX: usize = 256 * 1024;
/// The highest number of an era, half of what the collector takes.
const ERA_NUMBER_MAX: u64 = 1 << 62;
/// How far ahead of the anchor an era can be: each start writes one, and the older slot is one behind.
const ERAS_AHEAD_MAX: u64 = 1024;
/// So many commits after a folder could not be written anew it is tried again; each time twice as many,
const RETRY_COMMITS_MIN: u32 = 16;
/// and at most so many.
const RETRY_COMMITS_MAX: u32 = 256;
/// Rows copied in one batch.
const COPY_ROWS: usize = 64;

/// Why the state folder cannot be used, or a batch did not become durable.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Something in the state folder cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another process has it.
    #[error("another agent (process {holder}) runs on {}: stop it, or use another state folder", path.display())]
    Locked {
        /// The lock.
        path: PathBuf,
        /// The process id that it holds.
        holder: String,
    },
    /// A newer version wrote it.
    #[error(
        "{} has format {found}, this version reads formats up to {}: install the version that wrote it, or a newer one",
        path.display(),
        folder::FORMAT
    )]
    NewerFormat {
        /// The state folder.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Nobody can tell which version wrote it.
    #[error(
        "{} does not say in which format the state beside it is ({why}), and nothing of it was touched: restore the folder; \
         if this version wrote it, put that file back with `echo {} > {}`",
        path.display(),
        folder::FORMAT,
        path.display()
    )]
    UnknownFormat {
        /// The file that says it.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// An anchor that is no newer than the one on disk: another copy of this agent wrote it, or a bug.
    #[error("an anchor of generation {offered} would replace one of generation {newest}: nothing was written")]
    OldAnchor {
        /// The generation offered.
        offered: u64,
        /// The newest on disk.
        newest: u64,
    },
    /// An era of this number was begun before.
    #[error("{} exists already: an era's number is used once", path.display())]
    EraExists {
        /// Its folder.
        path: PathBuf,
    },
    /// Entries before the first era of this start.
    #[error("entries cannot be written before an era has begun")]
    NoEra,
    /// An entry that is larger than any that the agent makes.
    #[error("an entry of {bytes} bytes is larger than the store takes")]
    RowTooLarge {
        /// Its bytes.
        bytes: usize,
    },
    /// sled failed.
    #[error("the store in {} failed: {why}: free space on that disk or check it; the store has to be opened again", path.display())]
    Engine {
        /// Its folder.
        path: PathBuf,
        /// What it said.
        why: String,
    },
    /// It failed before.
    #[error("the store failed before and has to be opened again")]
    Failed,
}

/// What a start or a commit found that the log should tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Neither slot of the anchor is usable, and this is no first start.
    AnchorLost,
    /// A state file cannot be read. It is treated as missing.
    FileUnreadable {
        /// Its path below the state folder.
        path: String,
        /// Why.
        error: String,
    },
    /// `store.quarantined`: a folder is damaged. What can be read of it is copied to the next era, then it is moved to
    /// `quarantine/`.
    Quarantined {
        /// Its number.
        era: u64,
        /// What is wrong with it.
        detail: String,
    },
    /// `store.not_rewritten`: a folder of which records gave way could not be written without them. It stays as it was,
    /// with the room that it takes, and is tried again when more gives way, or some commits later.
    NotRewritten {
        /// Its number.
        era: u64,
        /// Why.
        error: String,
    },
    /// A slot of the anchor is torn or damaged. The other one counts.
    SlotUnusable {
        /// Which.
        slot: usize,
        /// Why.
        error: String,
    },
}

impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AnchorLost => f.write_str("neither slot of the anchor is usable"),
            Self::FileUnreadable { path, error } => write!(f, "{path} cannot be read: {error}"),
            Self::Quarantined { era, detail } => write!(f, "era {era} is damaged: {detail}"),
            Self::NotRewritten { era, error } => write!(f, "era {era} keeps what gave way: {error}"),
            Self::SlotUnusable { slot, error } => write!(f, "slot {slot} of the anchor is not usable: {error}"),
        }
    }
}

/// What a start found.
#[derive(Debug)]
pub struct Recovered {
    /// The newest valid anchor.
    pub anchor: Option<Anchor>,
    /// The files of the state folder.
    pub files: Vec<(StateFile, Vec<u8>)>,
    /// Eras that are not dropped, oldest first.
    pub eras: Vec<EraImage>,
    /// Bytes of `eras/` and `quarantine/` on disk.
    pub used_bytes: u64,
    /// For the log.
    pub events: Vec<Event>,
}

/// The state folder, opened.
pub struct Store {
    folder: Folder,
    slots: Slots,
    cache_bytes: u64,
    quarantine_bytes_max: u64,
    quarantine_bytes: u64,
    current: Option<Writer>,
    /// Folders of other eras, by number.
    older: BTreeMap<u64, Older>,
    /// Which of them are damaged.
    damaged: BTreeSet<u64>,
    /// Eras that are dropped, as long as rows of them may be somewhere.
    dropped: BTreeSet<EraId>,
    /// Eras whose damage this start, or one before, has told the agent of.
    salvaged: BTreeSet<EraId>,
    /// Segments that have given up their records, of eras of which rows may be somewhere.
    given: Given,
    /// A folder could not be written anew.
    retry: Option<Retry>,
    /// What happened since somebody asked.
    events: Vec<Event>,
    failed: bool,
    #[cfg(any(test, feature = "crash-points"))]
    at_step: Option<Box<dyn FnMut(&'static str)>>,
    #[cfg(feature = "crash-points")]
    failing: &'static [&'static str],
}

/// What somebody who writes to the state folder needs of its file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// That it can be changed.
    Leave,
    /// That, and room.
    Room,
}

/// Whether the file system of the state folder lets anybody do that: where it is asked by itself, always.
#[cfg(not(feature = "crash-points"))]
#[expect(clippy::unnecessary_wraps, reason = "tests refuse it")]
const fn allowed(_state_dir: &Path, _needs: Needs) -> std::io::Result<()> {
    Ok(())
}

/// Whether a planted bug takes for done what the file system refused.
fn is_unheeded(refused: &StoreError) -> bool {
    let is_for = |bug, error: rustix::io::Errno| {
        active(bug) && refused.to_string().contains(&format!("os error {}", error.raw_os_error()))
    };
    is_for(Mutant::NoRoomIgnored, rustix::io::Errno::NOSPC) || is_for(Mutant::ReadOnlyIgnored, rustix::io::Errno::ROFS)
}

/// When folders are tried again that could not be written anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Retry {
    /// After so many commits.
    left: u32,
    /// It took so many to get here.
    waited: u32,
}

impl Store {
    /// Opens the state folder, makes it if it is missing, and reads what is there. Nothing that is damaged stops it.
    ///
    /// # Errors
    /// When the folder is not private, not ours, not writable, in use, or of a newer format or one that is not known.
    pub fn open(state_dir: &Path, limits: &QueueLimits) -> Result<(Self, Recovered), StoreError> {
        let folder = Folder::open(state_dir)?;
        let mut events = Vec::new();
        let (slots, anchor) = Slots::open(&folder, &mut events)?;
        let files = folder.read_files(&mut events)?;
        let mut older = read_eras(&folder, anchor.as_ref())?;
        let first_start = slots.never_written() && older.iter().all(|older| older.counts.is_empty());
        if anchor.is_none() && !first_start {
            events.push(Event::AnchorLost);
        }
        let seen = anchor.clone().or_else(|| first_start.then(Anchor::default));
        let picture = recover::picture(&mut older, seen.as_ref());
        for (era, detail) in &picture.damaged {
            events.push(Event::Quarantined { era: *era, detail: detail.clone() });
        }
        let reported = picture.images.iter().filter(|image| image.damage.is_some()).map(|image| image.id);
        let mut store = Self {
            cache_bytes: limits.cache_mib.saturating_mul(1 << 20),
            quarantine_bytes_max: (limits.quota_mib.saturating_mul(1 << 20) / 100).saturating_mul(QUARANTINE_PERCENT),
            quarantine_bytes: bytes_below(&folder.join("quarantine")),
            current: None,
            damaged: picture.damaged.into_keys().collect(),
            dropped: picture.dropped,
            salvaged: reported.chain(picture.salvaged).collect(),
            given: picture.given,
            retry: None,
            events: Vec::new(),
            older: older.into_iter().map(|older| (older.number, older)).collect(),
            folder,
            slots,
            failed: false,
            #[cfg(any(test, feature = "crash-points"))]
            at_step: None,
            #[cfg(feature = "crash-points")]
            failing: &[],
        };
        store.remove_folders(&store.dead_folders(&picture.empty))?;
        store.trim_places(None);
        let used_bytes = store.used_bytes();
        Ok((store, Recovered { anchor, files, eras: picture.images, used_bytes, events }))
    }

    /// Makes a batch durable: files, the new era, entries with one data sync, the anchor, then what is no longer needed
    /// goes. A cut between any two of these leaves a state that the next start continues from.
    ///
    /// # Errors
    /// When something could not be written or synced. Then nothing of what the batch allows may be done, and this store
    /// takes nothing more: drop it and open the folder again.
    pub fn commit(&mut self, batch: Batch) -> Result<(), StoreError> {
        if self.failed {
            return Err(StoreError::Failed);
        }
        let written = match self.write(batch) {
            Err(refused) if is_unheeded(&refused) => Ok(()),
            written => written,
        };
        self.failed = written.is_err();
        written
    }

    fn write(&mut self, batch: Batch) -> Result<(), StoreError> {
        for FileWrite { file, content } in &batch.files {
            self.folder.replace(file, content)?;
            self.synced("file")?;
        }
        let fresh: Given = batch.shed.into_iter().collect();
        let retired = batch.begin_era.map(|era| self.begin(era, &fresh)).transpose()?;
        if !batch.entries.is_empty() {
            self.put_entries(batch.entries)?;
        }
        // Only now: before what counts it is durable, nothing on disk may say that something was given up.
        let sheds = fresh.iter().next().is_some();
        self.given.extend(fresh.iter());
        if let Some(anchor) = &batch.anchor {
            self.slots.write(anchor)?;
            self.synced("anchor")?;
        }
        for number in retired.into_iter().flatten() {
            self.retire(number)?;
            self.step("retired");
        }
        for file in &batch.remove {
            self.folder.remove(file)?;
            self.step("removed");
        }
        self.drop_eras(&batch.drop_eras)?;
        if sheds || self.retries() {
            self.give_up()?;
        }
        Ok(())
    }

    /// Whether it is time to try again what failed.
    fn retries(&mut self) -> bool {
        let Some(retry) = &mut self.retry else { return false };
        retry.left = retry.left.saturating_sub(1);
        retry.left == 0
    }

    /// What happened since this was last asked that the log should tell.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Records are given up: every folder that holds some is written anew without them. What counts them is durable by
    /// now. The era that is being written is left alone; sled would give nothing back. Where there is no room for that, it is
    /// tried again later: nobody tells when there is some.
    fn give_up(&mut self) -> Result<(), StoreError> {
        let mut failed = false;
        for (number, older) in &mut self.older {
            if !self.damaged.contains(number) && older.holds_any(&self.given) {
                match older.without(&self.given, &self.dropped)? {
                    Rewritten::Done | Rewritten::Stays => {}
                    Rewritten::Failed(error) => {
                        failed = true;
                        self.events.push(Event::NotRewritten { era: *number, error: error.to_string() });
                    }
                }
            }
        }
        let waited =
            self.retry.map_or(RETRY_COMMITS_MIN, |retry| retry.waited.saturating_mul(2).min(RETRY_COMMITS_MAX));
        self.retry = failed.then_some(Retry { left: waited, waited });
        self.step("shed");
        Ok(())
    }

    fn put_entries(&mut self, entries: Vec<Entry>) -> Result<(), StoreError> {
        let writer = self.current.as_mut().ok_or(StoreError::NoEra)?;
        #[cfg(feature = "crash-points")]
        writer.put_refused(self.folder.path(), &entries)?;
        writer.put_commit(entries)?;
        writer.flush()?;
        self.step("flushed");
        self.current.as_ref().ok_or(StoreError::NoEra)?.sync_flushed()?;
        self.synced("synced")
    }

    /// Begins an era, and copies into it what the folders hold that are to go. Says which these are.
    fn begin(&mut self, era: EraId, fresh: &Given) -> Result<Vec<u64>, StoreError> {
        if let Some(writer) = self.current.take() {
            let (number, dir) = (writer.id.number, writer.close());
            self.older.insert(number, Older::open(dir, number)?);
        }
        let dir = self.folder.join("eras").join(format!("{:020}", era.number));
        #[cfg(feature = "crash-points")]
        faults::begin_refused(self.folder.path(), &dir)?;
        let mut writer = Writer::create(dir, era, self.cache_bytes)?;
        self.synced("begun")?;
        let retired = self.retiring(fresh);
        for number in &retired {
            let Some(older) = self.older.get_mut(number) else { continue };
            copy_live(older, &self.dropped, &self.given, &mut writer)?;
        }
        let somewhere = |era: &&EraId| self.older.values().any(|older| older.counts.contains_key(era));
        let dropped = self.dropped.iter().filter(somewhere).copied().map(Row::Dropped);
        let salvaged = self.salvaged.iter().copied().map(Row::Salvaged);
        self.given.retain(|era| self.older.values().any(|older| older.counts.contains_key(era)));
        writer.put(dropped.chain(salvaged).chain(self.given.iter().map(Row::Shed)))?;
        writer.sync()?;
        self.current = Some(writer);
        self.synced("folded")?;
        Ok(retired)
    }

    /// Damaged folders, small ones, and the smallest of too many. One that gives up `fresh` records in this very commit
    /// goes with a later era: what counts them is not durable yet, so that a copy could not leave them out.
    fn retiring(&mut self, fresh: &Given) -> Vec<u64> {
        let (dropped, damaged) = (&self.dropped, &self.damaged);
        let spare = self.older.len().saturating_sub(FOLDERS_MAX);
        let of = |older: &mut Older| {
            let stays = !damaged.contains(&older.number) && older.holds_any(fresh);
            (!stays).then(|| (older.live_rows(dropped), older.number))
        };
        let mut by_size: Vec<(usize, u64)> = self.older.values_mut().filter_map(of).collect();
        by_size.sort_unstable();
        let goes = |(rank, (rows, number)): (usize, (usize, u64))| {
            (rank < spare || rows <= FOLD_ROWS_MAX || damaged.contains(&number)).then_some(number)
        };
        by_size.into_iter().enumerate().filter_map(goes).collect()
    }

    /// Takes a folder out of use whose rows are in the newest era: a damaged one is kept as evidence.
    fn retire(&mut self, number: u64) -> Result<(), StoreError> {
        if !self.damaged.contains(&number) {
            return self.remove_folders(&[number]);
        }
        let Some(older) = self.older.remove(&number) else { return Ok(()) };
        self.damaged.remove(&number);
        let quarantine = self.folder.join("quarantine");
        let mut target = quarantine.join(format!("{number:020}"));
        let mut copies = 0;
        while target.exists() {
            copies += 1;
            target = quarantine.join(format!("{number:020}.{copies}"));
        }
        fs::rename(&older.dir, &target).map_err(|error| FileError::io("move to quarantine", &older.dir, error))?;
        sync_dir(&quarantine)?;
        sync_dir(&self.folder.join("eras"))?;
        self.trim_quarantine(&quarantine)
    }

    fn trim_quarantine(&mut self, quarantine: &Path) -> Result<(), StoreError> {
        let mut names = list(quarantine)?;
        names.reverse();
        self.quarantine_bytes = bytes_below(quarantine);
        while names.len() > QUARANTINE_MAX || self.quarantine_bytes > self.quarantine_bytes_max {
            let Some(oldest) = names.pop() else { break };
            let path = quarantine.join(oldest);
            fs::remove_dir_all(&path).map_err(|error| FileError::io("remove", &path, error))?;
            self.quarantine_bytes = bytes_below(quarantine);
        }
        Ok(())
    }

    fn drop_eras(&mut self, eras: &[EraId]) -> Result<(), StoreError> {
        if eras.is_empty() {
            return Ok(());
        }
        self.dropped.extend(eras);
        if let Some(writer) = &mut self.current {
            allowed(self.folder.path(), Needs::Room).map_err(|error| engine_failed(&writer.dir, error))?;
            // So that no start takes the rows for live that other folders go on holding.
            writer.put(eras.iter().copied().map(Row::Dropped))?;
            writer.sync()?;
        }
        self.step("marked");
        self.remove_folders(&self.dead_folders(&BTreeSet::new()))
    }

    /// Folders without a live row. A damaged one waits until its evidence is taken.
    fn dead_folders(&self, empty: &BTreeSet<u64>) -> Vec<u64> {
        let dead = |older: &&Older| {
            let reported = self.damaged.contains(&older.number);
            let used = older.begun.is_some_and(|era| self.dropped.contains(&era));
            !reported && (empty.contains(&older.number) || (used && older.live_rows(&self.dropped) == 0))
        };
        self.older.values().filter(dead).map(|older| older.number).collect()
    }

    fn remove_folders(&mut self, numbers: &[u64]) -> Result<(), StoreError> {
        let mut going = Vec::new();
        for older in numbers.iter().filter_map(|number| self.older.remove(number)) {
            // First its name: a folder of which power left only some would look like one that lost something.
            let gone = temporary(&older.dir);
            fs::rename(&older.dir, &gone).map_err(|error| FileError::io("remove", &older.dir, error))?;
            going.push(gone);
        }
        if going.is_empty() {
            return Ok(());
        }
        sync_dir(&self.folder.join("eras"))?;
        self.step("renamed");
        for gone in going {
            fs::remove_dir_all(&gone).map_err(|error| FileError::io("remove", &gone, error))?;
        }
        Ok(())
    }

    /// A segment as it is sent; none if some of it is not there any more and was not given up.
    ///
    /// # Errors
    /// When the era that is being written cannot be read. Nothing is said about the segment then.
    pub fn load(&mut self, era: EraId, segment: u64) -> Result<Option<Loaded>, StoreError> {
        self.trim_places(Some(era));
        let Some(Row::Entry(Entry::Segment(stored), _)) = self.get(EntryKey::Segment(era, segment))? else {
            return Ok(None);
        };
        let Ok(header) = Signed::from_bytes(&stored.header) else { return Ok(None) };
        let mut rows = Vec::new();
        for index in (stored.first_index..).take(stored.count as usize) {
            let Some(Row::Entry(Entry::Record(record), _)) = self.get(EntryKey::Record(era, index))? else {
                return Ok(self.given.holds_segment(era, segment).then_some(Loaded::Shed(header)));
            };
            rows.push(record.bytes);
        }
        Ok(Upload::of_rows(header, &rows).map(Loaded::Whole))
    }

    /// What is left where a segment could not be loaded.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn gather(&mut self, hole: &Hole) -> Result<Remains, StoreError> {
        self.trim_places(Some(hole.era));
        hole.gather(|wanted| {
            let key = match wanted {
                Wanted::Record(index) => EntryKey::Record(hole.era, index),
                Wanted::Segment(segment) => EntryKey::Segment(hole.era, segment),
            };
            Ok(self.get(key)?.and_then(Row::entry))
        })
    }

    fn get(&mut self, key: EntryKey) -> Result<Option<Row>, StoreError> {
        let (EntryKey::Record(era, _) | EntryKey::Segment(era, _)) = key;
        if let Some(writer) = self.current.as_ref().filter(|writer| writer.eras.contains(&era)) {
            if let Some(row) = writer.get(Key::Entry(key))? {
                return Ok(Some(row));
            }
        }
        let mut holders = self.older.values_mut().filter(|older| older.counts.contains_key(&era));
        Ok(holders.find_map(|older| older.get(key)))
    }

    /// Bytes of `eras/` and `quarantine/` on disk.
    pub fn used_bytes(&self) -> u64 {
        let older: u64 = self.older.values().map(|older| older.used_bytes).sum();
        older + self.quarantine_bytes + self.current.as_ref().map_or(0, Writer::used_bytes)
    }

    /// What the agent is told of it: how much there is, and how much of that gave way and could not be taken away.
    pub fn taken(&self) -> Taken {
        let dead_bytes = self.older.values().map(|older| older.dead_bytes).sum();
        Taken { used_bytes: self.used_bytes(), dead_bytes }
    }

    /// Forgets where rows are when they are too many, those of `needed` last.
    fn trim_places(&mut self, needed: Option<EraId>) {
        let mut rows: usize = self.older.values().map(Older::rows_in_memory).sum();
        let spare = |older: &&mut Older| needed.is_none_or(|era| !older.counts.contains_key(&era));
        for older in self.older.values_mut().filter(spare) {
            if rows <= PLACES_MAX {
                break;
            }
            rows -= older.rows_in_memory();
            older.forget_places();
        }
    }

    /// From now on this is told of each step of a commit: what came before it is durable, and power may fail after it.
    #[cfg(feature = "crash-points")]
    pub fn at_each_step(&mut self, look: impl FnMut(&'static str) + 'static) {
        self.at_step = Some(Box::new(look));
    }

    #[cfg(any(test, feature = "crash-points"))]
    fn step(&mut self, name: &'static str) {
        if let Some(at_step) = &mut self.at_step {
            at_step(name);
        }
    }

    #[cfg(not(any(test, feature = "crash-points")))]
    #[expect(clippy::unused_self, clippy::needless_pass_by_ref_mut, reason = "tests look at the disk at each step")]
    fn step(&mut self, _name: &'static str) {}

    /// A step that ends with a sync.
    #[cfg(not(feature = "crash-points"))]
    #[expect(clippy::unnecessary_wraps, reason = "tests let it fail")]
    fn synced(&mut self, name: &'static str) -> Result<(), StoreError> {
        self.step(name);
        Ok(())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some(writer) = self.current.take() {
            writer.close();
        }
    }
}

/// Every era's folder. Names of another form, or of numbers that no agent has come to, are none of ours: whoever put one
/// there must not use up the numbers that are left.
fn read_eras(folder: &Folder, anchor: Option<&Anchor>) -> Result<Vec<Older>, StoreError> {
    let eras = folder.join("eras");
    let newest = anchor.map(|anchor| anchor.era.map_or(0, |era| era.number));
    let end = newest.map_or(ERA_NUMBER_MAX, |newest| newest.saturating_add(ERAS_AHEAD_MAX).min(ERA_NUMBER_MAX));
    let number = |name: &String| {
        let number = name.parse::<u64>().ok().filter(|number| *name == format!("{number:020}"));
        number.filter(|number| *number <= end)
    };
    let mut older = Vec::new();
    for name in list(&eras)? {
        if is_temporary(&name) {
            // It was on its way out when power went. If it cannot go now, it goes at another start.
            let _ = fs::remove_dir_all(eras.join(&name));
        } else if let Some(number) = number(&name) {
            older.push(Older::open(eras.join(&name), number)?);
        }
    }
    Ok(older)
}

/// Copies what is live, and was not given up, to the era that is being written.
fn copy_live(
    older: &mut Older,
    dropped: &BTreeSet<EraId>,
    given: &Given,
    writer: &mut Writer,
) -> Result<(), StoreError> {
    let live: Vec<EraId> = older.counts.keys().copied().filter(|era| !dropped.contains(era)).collect();
    for era in live {
        let places = older.staying(era, given);
        for places in places.chunks(COPY_ROWS) {
            writer.put(places.iter().filter_map(|place| older.row(*place)).map(Row::copied))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
