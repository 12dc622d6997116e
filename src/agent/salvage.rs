//! What is left where the store is damaged, cut so that the collector can go on.
//!
//! Owns: what is asked of a store that cannot load a segment, how it looks for what is left ([`Hole::gather`]), the
//! segment that is made of it.
//! Never: begins anywhere but where the collector stands, so that no record is delivered twice; passes over a lost
//! record without naming it.
//! Read next: `audit.rs`, which knows where the collector stands, and `wire/audit.rs` for [`Salvage`].

use super::audit_key::AuditSigner;
use super::effects::Entry;
use crate::ids::{DeviceId, EraId, Hash, KeyId};
use crate::time::Timestamp;
use crate::wire::audit::segment::{grow, Salvage, SegmentHeader, SEGMENT_BYTES_MAX, SEGMENT_RECORDS_MAX};
use crate::wire::audit::{extend, Record};
use crate::wire::envelope::Signed;

/// A place between two segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boundary {
    /// The next segment's number.
    pub segment: u64,
    /// The next record's index.
    pub index: u64,
    /// The chain's head before it.
    pub head: Hash,
}

/// A segment that could not be loaded, where the collector waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hole {
    /// The era.
    pub era: EraId,
    /// Where the collector stands.
    pub from: Boundary,
    /// Where the era's closed segments end.
    pub end: Boundary,
}

/// What a store has left from where the collector stands to the next place from which it can go on.
#[derive(Debug, Clone, PartialEq)]
pub struct Remains {
    /// Records that can be read, in order.
    pub records: Vec<Record>,
    /// That place.
    pub next: Boundary,
    /// The key that signed the segment there, if one can be read.
    pub resumes: Option<KeyId>,
}

/// A row of the era that is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The record of this index.
    Record(u64),
    /// The segment of this number.
    Segment(u64),
}

impl Hole {
    /// Looks for what is left: up to the next segment that can be read, in as many pieces as it takes for each to fit a
    /// message.
    ///
    /// # Errors
    /// Those of `read`, which reads one row, none if it is not there.
    pub fn gather<E>(&self, mut read: impl FnMut(Wanted) -> Result<Option<Entry>, E>) -> Result<Remains, E> {
        let whole = self.next_whole(&mut read)?;
        let to = whole.unwrap_or(self.end);
        let (mut records, mut bytes, mut head) = (Vec::new(), 0, self.from.head);
        for index in self.from.index..to.index {
            let Some(Entry::Record(found)) = read(Wanted::Record(index))? else { continue };
            // What is no record, or another, is as good as lost.
            let record = Record::from_bytes(&found.bytes).ok().filter(|record| record.index == index);
            let Some(record) = record else { continue };
            bytes += found.bytes.len();
            let full = records.len() >= SEGMENT_RECORDS_MAX as usize || bytes > SEGMENT_BYTES_MAX;
            // The last number before a whole segment has to reach it.
            if full && whole.is_none_or(|whole| self.from.segment + 1 < whole.segment) {
                let segment = self.from.segment.saturating_add(1);
                return Ok(Remains { records, next: Boundary { segment, index, head }, resumes: None });
            }
            if !full {
                head = extend(head, &found.bytes);
                records.push(record);
            }
        }
        let resumes = match read(Wanted::Segment(to.segment))? {
            Some(Entry::Segment(row)) => {
                let signed = Signed::<SegmentHeader>::from_bytes(&row.header);
                signed.ok().and_then(|signed| signed.signed_by().next())
            }
            Some(Entry::Record(_)) | None => None,
        };
        Ok(Remains { records, next: to, resumes })
    }

    /// The end of the segment itself, if its own row is there, else the beginning of the next one whose row is.
    fn next_whole<E>(&self, mut read: impl FnMut(Wanted) -> Result<Option<Entry>, E>) -> Result<Option<Boundary>, E> {
        for number in self.from.segment..self.end.segment {
            let Some(Entry::Segment(row)) = read(Wanted::Segment(number))? else { continue };
            let signed = Signed::<SegmentHeader>::from_bytes(&row.header);
            let Ok(header) = signed.and_then(|signed| signed.claim()) else { continue };
            let before = Boundary { segment: number, index: header.first_index, head: header.previous };
            let after = Boundary {
                segment: number.saturating_add(1),
                index: header.first_index.saturating_add(header.count.into()),
                head: header.head(),
            };
            let boundary = if number == self.from.segment { after } else { before };
            if boundary.index > self.from.index {
                return Ok(Some(boundary));
            }
        }
        Ok(None)
    }

    /// The header for what is left, and its leaves.
    pub(super) fn header(
        &self,
        remains: &Remains,
        device: &DeviceId,
        signer: &AuditSigner,
        closed_at: Timestamp,
    ) -> (SegmentHeader, Vec<Vec<u8>>) {
        let mut lost = Vec::new();
        let mut next = self.from.index;
        for index in remains.records.iter().map(|record| record.index).chain([remains.next.index]) {
            if index > next {
                lost.push((next, index));
            }
            next = index.saturating_add(1);
        }
        let (leaves, root) = grow(&remains.records);
        let header = SegmentHeader {
            device: device.clone(),
            era: self.era,
            segment: self.from.segment,
            first_index: self.from.index,
            count: u32::try_from(remains.next.index.saturating_sub(self.from.index)).unwrap_or(u32::MAX),
            previous: self.from.head,
            root,
            closed_at,
            recovered: true,
            signer: Some(signer.certificate().clone()),
            feeds: Vec::new(),
            salvage: Some(Salvage {
                next_segment: remains.next.segment,
                lost,
                head: remains.next.head,
                resumes: remains.resumes.and_then(|key| signer.certificate_of(key)).cloned(),
            }),
        };
        (header, leaves)
    }
}
