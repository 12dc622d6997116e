//! What a start finds in all eras' folders, as one picture.
//!
//! Owns: which eras there are, what is missing of them, which folders are damaged.
//! Never: changes anything on disk.
//! Read next: `mod.rs`.

use std::collections::{BTreeMap, BTreeSet};

use super::era::{Older, Place};
use super::given::Given;
use super::row::{EntryKey, Key, Row};
use crate::agent::effects::{Entry, StoredRecord, StoredSegment};
use crate::agent::room::{Content, SegmentPlace, Weighed};
use crate::agent::{Anchor, EraImage};
use crate::ids::{EraId, Hash};

/// The picture.
#[derive(Default)]
pub(super) struct Picture {
    /// Eras that are not dropped, oldest first.
    pub(super) images: Vec<EraImage>,
    /// Folders, by number, of which something is damaged.
    pub(super) damaged: BTreeMap<u64, String>,
    /// Folders, by number, of eras that never got a record.
    pub(super) empty: BTreeSet<u64>,
    /// Eras whose rows are dead, wherever they are.
    pub(super) dropped: BTreeSet<EraId>,
    /// Eras whose damage was reported before.
    pub(super) salvaged: BTreeSet<EraId>,
    /// Segments that have given up their records.
    pub(super) given: Given,
}

/// The rows of one era from all folders: number, folder, place in it; sorted, each number once.
#[derive(Default)]
pub(super) struct Merged {
    pub(super) records: Vec<(u64, usize, Place)>,
    pub(super) segments: Vec<(u64, usize, Place)>,
}

/// Takes the picture.
pub(super) fn picture(folders: &mut [Older], anchor: Option<&Anchor>) -> Picture {
    let mut picture = Picture {
        dropped: folders.iter().flat_map(|folder| folder.dropped.iter().copied()).collect(),
        salvaged: folders.iter().flat_map(|folder| folder.salvaged.iter().copied()).collect(),
        given: folders.iter().flat_map(|folder| folder.shed.iter().copied()).collect(),
        ..Picture::default()
    };
    let mut eras = merge(folders, &picture.dropped);
    let mut damage = BTreeMap::<EraId, Vec<String>>::new();
    let mut begun = Vec::new();
    let known = |eras: &BTreeMap<EraId, Merged>, picture: &Picture, era: &EraId| {
        eras.contains_key(era) || picture.dropped.contains(era) || picture.salvaged.contains(era)
    };
    for folder in folders.iter() {
        let home = home(folder, anchor);
        let lost = lost_rows(folder, home, anchor, &eras, &picture);
        if known(&eras, &picture, &home) {
            // It has rows, or all that there is to say was said.
        } else if !lost.contains_key(&home) && folder.unreadable.is_none() && never_used(home, anchor) {
            match folder.live_rows(&picture.dropped) {
                0 if lost.is_empty() => drop(picture.empty.insert(folder.number)),
                // Rows that were copied here may be nowhere else any more. Its number is taken.
                _ => begun.push(home),
            }
        } else {
            damage.entry(home).or_default().push("nothing of it can be read".into());
        }
        for (era, what) in lost.into_iter().filter(|(era, _)| !picture.salvaged.contains(era)) {
            let what = what.join(", ");
            picture.damaged.entry(folder.number).or_insert_with(|| what.clone());
            damage.entry(era).or_default().push(what);
        }
        if let Some(error) = &folder.unreadable {
            picture.damaged.insert(folder.number, error.clone());
        }
    }
    if let Some(era) = anchor.and_then(|anchor| anchor.era) {
        if !known(&eras, &picture, &era) && !damage.contains_key(&era) && !never_used(era, anchor) {
            damage.entry(era).or_default().push("its folder is gone".into());
        }
    }
    for era in damage.keys().chain(&begun) {
        eras.entry(*era).or_default();
    }
    for (era, merged) in &eras {
        let mut notes = damage.remove(era).unwrap_or_default();
        let salvaged = picture.salvaged.contains(era);
        match salvaged {
            // The agent has to know it for as long as some of it is left; its folder is in quarantine already.
            true => notes.push("it was found damaged at an earlier start".into()),
            false => notes.extend(missing(*era, merged, folders, anchor, &picture.given)),
        }
        let image = image(*era, merged, folders, anchor, notes);
        if let Some(damage) = image.damage.as_ref().filter(|_| !salvaged) {
            for folder in folders.iter().filter(|folder| holds(folder, *era)) {
                picture.damaged.entry(folder.number).or_insert_with(|| damage.clone());
            }
        }
        picture.images.push(image);
    }
    picture
}

fn holds(folder: &Older, era: EraId) -> bool {
    folder.counts.contains_key(&era) || folder.number == era.number
}

/// The era that a folder was made for, as well as can be told.
fn home(folder: &Older, anchor: Option<&Anchor>) -> EraId {
    let numbered = |era: &EraId| era.number == folder.number;
    let rows = || folder.counts.keys().copied().find(numbered);
    let anchored = || anchor.and_then(|anchor| anchor.era).filter(numbered);
    folder.begun.or_else(rows).or_else(anchored).unwrap_or(EraId { number: folder.number, salt: 0 })
}

/// An era's first commit ends with the anchor. One that the anchor has not reached, or in which it has seen no record
/// yet, answered nobody.
fn never_used(era: EraId, anchor: Option<&Anchor>) -> bool {
    let reached = |anchor: &Anchor| match anchor.era {
        Some(anchored) if anchored == era => anchor.next_index > 0,
        Some(anchored) => anchored.number >= era.number,
        None => false,
    };
    anchor.is_some_and(|anchor| !reached(anchor))
}

pub(super) fn merge(folders: &mut [Older], dropped: &BTreeSet<EraId>) -> BTreeMap<EraId, Merged> {
    let mut eras = BTreeMap::<EraId, Merged>::new();
    for (number, folder) in folders.iter_mut().enumerate() {
        let live: Vec<EraId> = folder.counts.keys().copied().filter(|era| !dropped.contains(era)).collect();
        for era in live {
            let merged = eras.entry(era).or_default();
            let Some(places) = folder.places(era) else { continue };
            merged.records.extend(places.records.iter().map(|place| (place.number, number, *place)));
            merged.segments.extend(places.segments.iter().map(|place| (place.number, number, *place)));
        }
    }
    for rows in eras.values_mut().flat_map(|merged| [&mut merged.records, &mut merged.segments]) {
        rows.sort_unstable();
        rows.dedup_by_key(|(number, ..)| *number);
    }
    eras
}

/// Rows that a folder's broken frames say were there, and that are nowhere whole, by the era that has lost them: it may
/// be an older one than the folder's own, of which rows were copied here, or closed here. Where nobody can say whose a row
/// was, it may have been of any era that the folder holds.
fn lost_rows(
    folder: &Older,
    home: EraId,
    anchor: Option<&Anchor>,
    eras: &BTreeMap<EraId, Merged>,
    picture: &Picture,
) -> BTreeMap<EraId, Vec<String>> {
    let marked = |era: EraId| anchor.is_some_and(|anchor| anchor.marks().any(|mark| mark.era == era));
    let here = || folder.counts.keys().copied().filter(|era| !picture.dropped.contains(era));
    let mut lost = BTreeMap::<EraId, Vec<String>>::new();
    for key in &folder.broken {
        let (era, what) = match key {
            Some(Key::Entry(entry)) if is_whole(*entry, eras, picture) => continue,
            Some(Key::Entry(EntryKey::Record(era, index))) => (Some(*era), format!("record {era}/{index} is damaged")),
            Some(Key::Entry(EntryKey::Segment(era, segment))) => {
                (Some(*era), format!("segment {era}/{segment} is damaged"))
            }
            // Marks: what they said is said by the rows themselves, or by the gap that follows.
            Some(Key::Begun(_) | Key::Dropped(_) | Key::Salvaged(_) | Key::Shed(..)) => continue,
            None => (None, "an entry is damaged".into()),
        };
        // A number that is damaged itself must not make an era that never was.
        let of = era.filter(|era| *era == home || eras.contains_key(era) || marked(*era));
        let charged = match of {
            Some(era) => vec![era],
            None => here().chain(Some(home).filter(|home| !picture.dropped.contains(home))).collect(),
        };
        for era in charged {
            let notes = lost.entry(era).or_default();
            if notes.len() < NOTES_MAX {
                notes.push(what.clone());
            }
        }
    }
    lost
}

/// Whether a row is whole somewhere, or needs to be nowhere.
fn is_whole(key: EntryKey, eras: &BTreeMap<EraId, Merged>, picture: &Picture) -> bool {
    let (EntryKey::Record(era, _) | EntryKey::Segment(era, _)) = key;
    let held = |rows: &[(u64, usize, Place)], number| rows.binary_search_by_key(&number, |(n, ..)| *n).is_ok();
    picture.dropped.contains(&era)
        || match key {
            EntryKey::Record(era, index) => {
                picture.given.holds_record(era, index)
                    || eras.get(&era).is_some_and(|merged| held(&merged.records, index))
            }
            EntryKey::Segment(era, segment) => eras.get(&era).is_some_and(|merged| held(&merged.segments, segment)),
        }
}

/// The most that is said about one era: the rest is like it.
const NOTES_MAX: usize = 4;

/// What is missing of an era that should be whole.
fn missing(era: EraId, merged: &Merged, folders: &[Older], anchor: Option<&Anchor>, given: &Given) -> Vec<String> {
    let mut notes = holes("records", &merged.records, |index| given.past(era, index));
    notes.extend(holes("segments", &merged.segments, |segment| segment));
    let last = merged.records.last().map_or(0, |(index, ..)| index.saturating_add(1));
    let end = given.past(era, last);
    let mark = anchor.and_then(|anchor| anchor.marks().find(|mark| mark.era == era));
    let anchored = mark.map_or(0, |mark| mark.next_index);
    if end < anchored {
        notes.push(format!("it ends before record {end}, the anchor has seen {anchored}"));
    }
    let (segments, closed_index, _) = closed(merged, folders);
    if end < closed_index {
        notes.push(format!("it ends before record {end}, its segments before {closed_index}"));
    }
    // Closed again, records would be signed twice, and otherwise. An era that has ended is closed up to its end by the
    // start that the anchor is of, but for one whose end that start left to be signed as it is sent.
    let open = anchor.filter(|anchor| anchor.era == Some(era));
    let signed = mark.map_or(0, |mark| mark.signed_index);
    if closed_index < signed {
        notes.push(format!("its segments end before record {closed_index}, the anchor has seen {signed} signed"));
    }
    let closed = open.map_or(0, |anchor| anchor.audit_key.closed);
    if segments < closed {
        notes.push(format!("it ends before segment {segments}, the anchor has seen {closed}"));
    }
    notes
}

/// Numbers that are missing before the last one. `past` skips what need not be there.
fn holes(what: &str, rows: &[(u64, usize, Place)], past: impl Fn(u64) -> u64) -> Vec<String> {
    let mut expected = 0;
    let mut notes = Vec::new();
    for (number, ..) in rows {
        if *number > expected {
            expected = past(expected);
        }
        if *number > expected && notes.len() < NOTES_MAX {
            notes.push(format!("{what} {expected} to {} are missing", number - 1));
        }
        expected = number.saturating_add(1);
    }
    notes
}

/// Of the closed segments: how many there are, the index after the last one, and the chain's head there.
pub(super) fn closed(merged: &Merged, folders: &[Older]) -> (u64, u64, Hash) {
    let last =
        merged.segments.last().and_then(|(number, folder, place)| Some((number, segment(&folders[*folder], *place)?)));
    last.map_or((0, 0, Hash::ZERO), |(number, last)| {
        (number.saturating_add(1), last.first_index.saturating_add(last.count.into()), last.head)
    })
}

fn image(era: EraId, merged: &Merged, folders: &[Older], anchor: Option<&Anchor>, notes: Vec<String>) -> EraImage {
    let (segments, closed_index, closed_head) = closed(merged, folders);
    let from = match anchor.and_then(|anchor| Some((anchor.era?, anchor.next_index))) {
        Some((anchored, next_index)) if anchored == era => closed_index.min(next_index),
        Some((anchored, _)) if anchored < era => 0,
        Some(_) | None => closed_index,
    };
    EraImage {
        id: era,
        segments,
        closed_index,
        closed_head,
        records: records(merged, folders, from),
        damage: (!notes.is_empty()).then(|| notes.join("; ")),
        content: content(merged),
    }
}

/// What the rows of an era hold. Where a segment is missing, nobody knows where the next one begins; of an era that is
/// damaged nothing is given up.
fn content(merged: &Merged) -> Content {
    let record =
        |place: &Place| Weighed { class: place.class, bytes: place.bytes.into(), repeated: place.count.into() };
    let records = merged.records.iter().map(|(index, _, place)| (*index, record(place)));
    let mut first_index = 0_u64;
    let whole = merged.segments.iter().zip(0..).take_while(|((number, ..), expected)| number == expected);
    let segments = whole.map(|((segment, _, place), _)| {
        let (first, count) = (first_index, u64::from(place.count));
        first_index = first_index.saturating_add(count);
        SegmentPlace { segment: *segment, first_index: first, count, header_bytes: place.bytes.into() }
    });
    Content::of(records, segments)
}

/// The records from `from` on that can be read.
fn records(merged: &Merged, folders: &[Older], from: u64) -> Vec<StoredRecord> {
    let rows = &merged.records[merged.records.partition_point(|(index, ..)| *index < from)..];
    let read = |&(index, folder, place): &(u64, usize, Place)| {
        record(&folders[folder], place).filter(|record| record.index == index)
    };
    rows.iter().filter_map(read).collect()
}

pub(super) fn record(folder: &Older, place: Place) -> Option<StoredRecord> {
    match folder.row(place)? {
        Row::Entry(Entry::Record(record), _) => Some(record),
        Row::Entry(Entry::Segment(_), _) | Row::Begun(_) | Row::Dropped(_) | Row::Salvaged(_) | Row::Shed(_) => None,
    }
}

pub(super) fn segment(folder: &Older, place: Place) -> Option<StoredSegment> {
    match folder.row(place)? {
        Row::Entry(Entry::Segment(segment), _) => Some(segment),
        Row::Entry(Entry::Record(_), _) | Row::Begun(_) | Row::Dropped(_) | Row::Salvaged(_) | Row::Shed(_) => None,
    }
}
