//! A look at all that a state folder's audit store still holds, the quarantine with it, however damaged.
//!
//! Owns: [`Survey`]: which folders there are, which rows of each era can be read, and where.
//! Never: locks, makes, writes or removes anything; trusts a number that it finds.
//! Read next: `recover.rs`, which makes a start's picture of the same rows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{flock, FlockOperation};

use super::era::{Older, Place, Reading};
use super::folder::{list, read_bounded, FILE_BYTES_MAX};
use super::given::Given;
use super::pages::{fill, Pages};
use super::peek::newest;
use super::recover::{closed, merge, record, segment, Merged};
use super::StoreError;
use crate::agent::effects::StateFile;
use crate::agent::request::trail::{EraReply, TrailAsk, TrailReply};
use crate::agent::Anchor;
use crate::ids::EraId;
use crate::shell::files::{open_file, read_private, FileError};
use crate::wire::audit::segment::{Loaded, Upload};
use crate::wire::envelope::Signed;

/// The most folders that are looked at: a store keeps 41 at the most.
const FOLDERS_MAX: usize = 1024;
/// The most ranges of one era that are listed as lost.
const RANGES_MAX: usize = 64;

/// What a state folder still holds of the audit.
pub struct Survey {
    /// The newest anchor that can be read.
    pub anchor: Option<Anchor>,
    /// The trust bundle's bytes, if they can be read.
    pub bundle: Option<Vec<u8>>,
    /// The audit key's file, if it can be read and nobody else can.
    pub audit_key: Option<Vec<u8>>,
    /// What could not be read, in words.
    pub notes: Vec<String>,
    /// Every folder of rows.
    pub folders: Vec<FolderNote>,
    /// Eras of which every record is acknowledged: their rows are no longer told.
    pub released: BTreeSet<EraId>,
    opened: Vec<Older>,
    /// What was given up for want of room.
    given: Given,
    eras: BTreeMap<EraId, Merged>,
}

/// One folder of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderNote {
    /// Its path below the state folder.
    pub path: String,
    /// Bytes on disk.
    pub bytes: u64,
    /// Rows that can be read.
    pub rows: usize,
    /// Frames that are not whole. Most of them are rests of overwritten copies, and no loss.
    pub broken: usize,
    /// Why some of it could not be read at all.
    pub unreadable: Option<String>,
}

/// What can be read of one era.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EraNote {
    /// The era.
    pub era: EraId,
    /// Records that can be read.
    pub records: u64,
    /// Segments whose header can be read.
    pub segments: u64,
    /// Records that should be there and are not: ranges, each the first and the first after it; the first `64` of them.
    pub lost: Vec<(u64, u64)>,
    /// The number after the last record that can be read.
    pub next: u64,
}

impl Survey {
    /// Looks at a state folder. Whatever is in it, it is left as it is.
    ///
    /// # Errors
    /// When the folder itself cannot be listed.
    pub fn look(state_dir: &Path) -> Result<Self, StoreError> {
        list(state_dir)?;
        let mut notes = Vec::new();
        let mut events = Vec::new();
        let anchor = newest(state_dir, &mut events);
        notes.extend(events.iter().map(ToString::to_string));
        let mut told =
            |path: &str, error: &dyn std::fmt::Display| notes.push(format!("{path} cannot be read: {error}"));
        let bundle = match read_bounded(&state_dir.join(StateFile::Bundle.path()), FILE_BYTES_MAX) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                told("bundle", &error);
                None
            }
        };
        let audit_key = match read_private(&state_dir.join(StateFile::AuditKey.path())) {
            Ok(bytes) => Some(bytes.to_vec()),
            Err(error) => {
                told("audit.key", &error);
                None
            }
        };
        let (mut opened, mut folders) = (Vec::new(), Vec::new());
        for sub in ["eras", "quarantine"] {
            let names = match list(&state_dir.join(sub)) {
                Ok(names) => names,
                Err(error) => {
                    notes.push(error.to_string());
                    continue;
                }
            };
            for name in names {
                let Some(number) = number_of(&name).filter(|_| state_dir.join(sub).join(&name).is_dir()) else {
                    continue;
                };
                if opened.len() >= FOLDERS_MAX {
                    notes.push(format!("more than {FOLDERS_MAX} folders of eras: {sub}/{name} is left out"));
                    continue;
                }
                let older = Older::read_from(state_dir.join(sub).join(&name), number, Reading::AsItIs)?;
                folders.push(FolderNote {
                    path: format!("{sub}/{name}"),
                    bytes: older.used_bytes,
                    rows: older.counts.values().sum(),
                    broken: older.broken.len(),
                    unreadable: older.unreadable.clone(),
                });
                opened.push(older);
            }
        }
        let released: BTreeSet<EraId> = opened.iter().flat_map(|folder| folder.dropped.iter().copied()).collect();
        let given = opened.iter().flat_map(|folder| folder.shed.iter().copied()).collect();
        let eras = merge(&mut opened, &released);
        Ok(Self { anchor, bundle, audit_key, notes, folders, released, opened, given, eras })
    }

    /// The eras that something can be read of, or that the anchor knows, oldest first.
    pub fn eras(&self) -> Vec<EraNote> {
        let marks: BTreeMap<EraId, u64> =
            self.anchor.iter().flat_map(Anchor::marks).map(|mark| (mark.era, mark.next_index)).collect();
        let known: BTreeSet<EraId> = self.eras.keys().chain(marks.keys()).copied().collect();
        let none = Merged::default();
        let note = |era: EraId| {
            let merged = self.eras.get(&era).unwrap_or(&none);
            let next = merged.records.last().map_or(0, |(index, ..)| index.saturating_add(1));
            let (_, closed, _) = closed(merged, &self.opened);
            let end = next.max(closed).max(marks.get(&era).copied().unwrap_or_default());
            let (mut lost, mut expected) = (Vec::new(), 0);
            // What was given up is told in gap records, and is no damage.
            let given_up = self.given.of(era).iter().map(|shed| shed.records);
            let held = merged.records.iter().map(|(index, ..)| (*index, index.saturating_add(1)));
            let mut known: Vec<(u64, u64)> = held.chain(given_up).collect();
            known.sort_unstable();
            for (first, after) in known.into_iter().chain([(end, end)]) {
                if first > expected && lost.len() < RANGES_MAX {
                    lost.push((expected, first));
                }
                expected = after.max(expected);
            }
            EraNote { era, records: merged.records.len() as u64, segments: merged.segments.len() as u64, lost, next }
        };
        known.into_iter().filter(|era| !self.released.contains(era)).map(note).collect()
    }

    /// How far each era goes, as a page of the trail has it.
    pub fn stand(&self) -> Vec<EraReply> {
        let held = |era: &EraId| {
            let mark = self.anchor.iter().flat_map(|anchor| &anchor.earlier).find(|mark| mark.era == *era);
            mark.map_or(0, |mark| mark.held_index)
        };
        let era = |note: EraNote| {
            let (segments, signed, _) = self.eras.get(&note.era).map_or_else(Default::default, |merged| {
                let (segments, signed, head) = closed(merged, &self.opened);
                (segments, signed, head.0)
            });
            EraReply {
                era: note.era.number,
                salt: format!("{:016x}", note.era.salt),
                segments,
                signed,
                next: note.next.max(signed),
                acknowledged: held(&note.era),
                damaged: !note.lost.is_empty(),
            }
        };
        self.eras().into_iter().map(era).collect()
    }

    /// Puts the pieces that are asked for into a reply that knows the eras.
    pub fn read_trail(&self, ask: &TrailAsk, reply: &mut TrailReply) {
        match fill(&mut &*self, ask, reply) {
            Ok(()) => {}
            Err(never) => match never {},
        }
    }

    /// The numbers of the segments of an era whose headers can be read, in order.
    pub fn segments_of(&self, era: EraId) -> Vec<u64> {
        self.eras.get(&era).map_or_else(Vec::new, |merged| merged.segments.iter().map(|(number, ..)| *number).collect())
    }

    /// A segment, if all of it can be read and its records are those that were signed, or if they were given up.
    pub fn segment(&self, era: EraId, number: u64) -> Option<Loaded> {
        let merged = self.eras.get(&era)?;
        let (folder, place) = find(&merged.segments, number)?;
        let stored = segment(&self.opened[folder], place).filter(|row| (row.era, row.segment) == (era, number))?;
        let header = Signed::from_bytes(&stored.header).ok()?;
        let mut rows = Vec::new();
        for index in (stored.first_index..).take(stored.count as usize) {
            let Some(bytes) = self.record_bytes(era, index) else {
                return self.given.holds_segment(era, number).then_some(Loaded::Shed(header));
            };
            rows.push(bytes);
        }
        Upload::of_rows(header, &rows).map(Loaded::Whole)
    }

    /// The numbers of an era's records that can be read, from `from` on and before `end`.
    pub fn records_of(&self, era: EraId, from: u64, end: u64) -> Vec<u64> {
        let Some(merged) = self.eras.get(&era) else { return Vec::new() };
        let first = merged.records.partition_point(|(index, ..)| *index < from);
        merged.records[first..].iter().map(|(index, ..)| *index).take_while(|index| *index < end).collect()
    }

    /// A record's bytes as they were stored.
    pub fn record_bytes(&self, era: EraId, index: u64) -> Option<Vec<u8>> {
        let (folder, place) = find(&self.eras.get(&era)?.records, index)?;
        let row = record(&self.opened[folder], place)?;
        ((row.era, row.index) == (era, index)).then_some(row.bytes)
    }
}

impl Pages for &Survey {
    type Error = std::convert::Infallible;

    fn segment(&mut self, era: EraId, segment: u64) -> Result<Option<Loaded>, Self::Error> {
        Ok(Survey::segment(self, era, segment))
    }

    fn record(&mut self, era: EraId, index: u64) -> Result<Option<Vec<u8>>, Self::Error> {
        Ok(self.record_bytes(era, index))
    }
}

fn find(rows: &[(u64, usize, Place)], number: u64) -> Option<(usize, Place)> {
    let at = rows.binary_search_by_key(&number, |(number, ..)| *number).ok()?;
    let (_, folder, place) = rows[at];
    Some((folder, place))
}

/// The number that a folder of rows is named by: 20 digits, and in the quarantine perhaps `.` and the number of a copy.
fn number_of(name: &str) -> Option<u64> {
    let (digits, rest) = name.split_at_checked(20)?;
    let copy = rest.is_empty() || rest.strip_prefix('.').is_some_and(|copy| copy.parse::<u32>().is_ok());
    digits.bytes().all(|byte| byte.is_ascii_digit()).then_some(digits)?.parse().ok().filter(|_| copy)
}

/// The process that runs on a state folder; none if nobody has its lock.
///
/// # Errors
/// When the lock cannot be looked at.
pub fn holder(state_dir: &Path) -> Result<Option<String>, FileError> {
    let path = state_dir.join("lock");
    let failed = |error| FileError::io("look at", &path, error);
    let mut file: File = match open_file(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(None),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            // The number is for people.
            let _ = (&mut file).take(32).read_to_string(&mut holder);
            Ok(Some(holder.trim().to_owned()))
        }
        Err(error) => Err(failed(error.into())),
    }
}
