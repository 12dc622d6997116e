//! What a start finds on a disk, in the form in which the real store hands it to the agent.
//!
//! Owns: which slot of the anchor counts, the grouping of entries by era, segments for sending.
//! Never: repairs anything; that is the agent's.
//! Read next: `hardtack::agent::EraImage`, whose words this follows.

use std::collections::BTreeMap;
use std::convert::Infallible;

use hardtack::agent::effects::{Entry, StateFile, StoredRecord, StoredSegment};
use hardtack::agent::room::{Content, SegmentPlace, Weighed};
use hardtack::agent::salvage::{Hole, Remains, Wanted};
use hardtack::agent::{Anchor, EraImage};
use hardtack::ids::{DeviceId, EraId, FleetId};
use hardtack::wire::audit::genesis;
use hardtack::wire::audit::segment::{Loaded, Upload};
use hardtack::wire::envelope::Signed;

use crate::disk::{Medium, Slot};

/// What was found.
pub(crate) struct Found {
    pub(crate) anchor: Option<Anchor>,
    pub(crate) files: Vec<(StateFile, Vec<u8>)>,
    pub(crate) eras: Vec<EraImage>,
    /// Every entry that a real disk holds, in any order and perhaps more than once. None where the disk is a model.
    pub(crate) entries: Vec<Entry>,
}

/// Reads a medium.
pub(crate) fn read(medium: &Medium, fleet: &FleetId, device: &DeviceId) -> Found {
    let anchor = newest(medium).cloned();
    let mut segments: BTreeMap<EraId, BTreeMap<u64, &StoredSegment>> = BTreeMap::new();
    let mut records: BTreeMap<EraId, BTreeMap<u64, &StoredRecord>> = BTreeMap::new();
    for entry in medium.eras.values().flatten() {
        match entry {
            Entry::Record(record) => {
                records.entry(record.era).or_default().insert(record.index, record);
            }
            Entry::Segment(segment) => {
                segments.entry(segment.era).or_default().insert(segment.segment, segment);
            }
        }
    }
    let none = BTreeMap::new();
    let eras = medium.eras.keys().map(|era| {
        let closed = segments.get(era).unwrap_or(&BTreeMap::new()).values().last().copied().cloned();
        let (count, closed_index, closed_head) = closed.map_or((0, 0, genesis(fleet, device, *era)), |last| {
            (last.segment + 1, last.first_index + u64::from(last.count), last.head)
        });
        let from = match anchor.as_ref().and_then(|anchor| Some((anchor.era?, anchor.next_index))) {
            Some((anchored, next_index)) if anchored == *era => closed_index.min(next_index),
            Some((anchored, _)) if anchored < *era => 0,
            Some(_) | None => closed_index,
        };
        let held = records.get(era).unwrap_or(&none);
        // A log has no holes but for what was given up, which no budget and no clock hangs on.
        let run = held.range(from..).map(|(_, record)| (*record).clone());
        let content = content(held, segments.get(era).unwrap_or(&BTreeMap::new()));
        let damage = medium.rotten.contains(era).then(|| "a row is damaged".to_owned());
        EraImage { id: *era, segments: count, closed_index, closed_head, records: run.collect(), damage, content }
    });
    Found {
        eras: eras.collect(),
        anchor,
        files: medium.files.iter().map(|(file, content)| (file.clone(), content.clone())).collect(),
        entries: Vec::new(),
    }
}

fn content(records: &BTreeMap<u64, &StoredRecord>, segments: &BTreeMap<u64, &StoredSegment>) -> Content {
    let records = records.iter().map(|(index, row)| (*index, Weighed::of_bytes(&row.bytes)));
    let place = |row: &&StoredSegment| SegmentPlace {
        segment: row.segment,
        first_index: row.first_index,
        count: row.count.into(),
        header_bytes: row.header.len(),
    };
    Content::of(records, segments.values().map(place))
}

/// The anchor that counts.
pub(crate) fn newest(medium: &Medium) -> Option<&Anchor> {
    let valid = medium.slots.iter().filter_map(|slot| match slot {
        Slot::Valid(anchor) => Some(anchor.as_ref()),
        Slot::Empty | Slot::Torn => None,
    });
    valid.max_by_key(|anchor| anchor.generation)
}

/// A segment for sending, if the store still has all of it, or gave its records up.
pub(crate) fn load(medium: &Medium, era: EraId, number: u64) -> Option<Loaded> {
    // A segment of an older era was closed by a later one. Its records are where they were written.
    let logs = || medium.eras.range(era..).map(|(_, log)| log);
    let segment = logs().find_map(|log| {
        log.iter().rev().find_map(|entry| match entry {
            Entry::Segment(segment) if segment.era == era && segment.segment == number => Some(segment),
            Entry::Segment(_) | Entry::Record(_) => None,
        })
    })?;
    let range = segment.first_index..segment.first_index + u64::from(segment.count);
    let records: BTreeMap<u64, Vec<u8>> = medium
        .eras
        .get(&era)?
        .iter()
        .filter_map(|entry| match entry {
            Entry::Record(record) if record.era == era && range.contains(&record.index) => {
                Some((record.index, record.bytes.clone()))
            }
            Entry::Record(_) | Entry::Segment(_) => None,
        })
        .collect();
    let whole = records.len() as u64 == u64::from(segment.count);
    let header = Signed::from_bytes(&segment.header).ok()?;
    if !whole {
        let shed = medium.shed.iter().any(|shed| shed.era == era && shed.holds_segment(number));
        return shed.then_some(Loaded::Shed(header));
    }
    let rows: Vec<Vec<u8>> = records.into_values().collect();
    Upload::of_rows(header, &rows).map(Loaded::Whole)
}

/// What is left where a segment could not be loaded.
pub(crate) fn gather(medium: &Medium, hole: &Hole) -> Remains {
    let entries = || medium.eras.range(hole.era..).flat_map(|(_, log)| log);
    let names = |entry: &&Entry, wanted| match (entry, wanted) {
        (Entry::Record(record), Wanted::Record(index)) => record.era == hole.era && record.index == index,
        (Entry::Segment(stored), Wanted::Segment(number)) => stored.era == hole.era && stored.segment == number,
        (Entry::Record(_), Wanted::Segment(_)) | (Entry::Segment(_), Wanted::Record(_)) => false,
    };
    let read = |wanted| Ok::<_, Infallible>(entries().find(|entry| names(entry, wanted)).cloned());
    match hole.gather(read) {
        Ok(remains) => remains,
        Err(never) => match never {},
    }
}
