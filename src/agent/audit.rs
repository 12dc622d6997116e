//! The audit trail on the device: numbered, chained, signed, and remembered until the collector has it.
//!
//! Owns: the open era with its chain and open segment, the outbox of closed segments of every era, what is in flight.
//! Never: stores or sends; frees a segment for anything but the collector's signed acknowledgement; numbers a record
//! twice.
//! Read next: `wire/audit.rs` for the formats, `link.rs` for when to send.

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;

use super::effects::{Batch, Budget, Entry, StoredRecord, StoredSegment};
use super::request::AuditRef;
use super::EraImage;
use crate::ids::{DeviceId, EraId, FleetId, Hash};
use crate::time::{Millis, Timestamp};
use crate::wire::audit::{
    extend, genesis, EraEnd, Event, Record, SegmentHeader, SEGMENT_BYTES_MAX, SEGMENT_RECORDS_MAX,
};
use crate::wire::envelope::Signed;
use crate::wire::link::EraAck;
use crate::wire::revocation::Position;

/// The trail.
pub struct Trail {
    fleet: FleetId,
    device: DeviceId,
    key: SigningKey,
    era: EraId,
    next_index: u64,
    head: Hash,
    open: Option<Open>,
    outbox: BTreeMap<EraId, Outbox>,
    in_flight: BTreeMap<(EraId, u64), Millis>,
}

/// The segment that records go into.
struct Open {
    first_index: u64,
    previous: Hash,
    count: u32,
    bytes: usize,
    since: Millis,
}

/// What is left to send of one era.
#[derive(Debug, Clone, Copy, Default)]
struct Outbox {
    /// Segments that are closed.
    closed: u64,
    /// Records in them.
    closed_index: u64,
    /// Segments that the collector has.
    acked: u64,
    /// Records in those.
    acked_index: u64,
}

/// What is signed into a segment's header beside the chain.
pub struct Closing<'a> {
    /// The floor E.
    pub floor: Timestamp,
    /// Revocation positions held.
    pub feeds: &'a [Position],
}

impl Trail {
    /// A trail that begins a new era.
    pub fn begin(fleet: FleetId, device: DeviceId, key: SigningKey, era: EraId) -> Self {
        let head = genesis(&fleet, &device, era);
        let outbox = BTreeMap::from([(era, Outbox::default())]);
        Self { fleet, device, key, era, next_index: 0, head, open: None, outbox, in_flight: BTreeMap::new() }
    }

    /// The era that is being written.
    pub fn era(&self) -> EraId {
        self.era
    }

    /// The next record's index.
    pub fn next_index(&self) -> u64 {
        self.next_index
    }

    /// The chain's head.
    pub fn head(&self) -> Hash {
        self.head
    }

    /// Where the era stands.
    pub fn end(&self) -> EraEnd {
        EraEnd { era: self.era, next_index: self.next_index, head: self.head }
    }

    /// Begins another era while the process runs, so that the space of this one can be given back. The open segment must
    /// be closed before.
    pub fn roll(&mut self, era: EraId, batch: &mut Batch) {
        debug_assert!(self.open.is_none(), "a segment does not span eras");
        batch.begin_era = Some(era);
        self.era = era;
        self.next_index = 0;
        self.head = genesis(&self.fleet, &self.device, era);
        self.outbox.insert(era, Outbox::default());
    }

    /// Takes over an era of an earlier start: its closed segments as they are, and the records that were left unsigned
    /// in segments that are marked recovered.
    pub fn adopt(&mut self, image: &EraImage, closing: &Closing<'_>, batch: &mut Batch) {
        let era = image.id;
        let mut outbox = Outbox { closed: image.segments, closed_index: image.closed_index, ..Outbox::default() };
        let mut head = image.closed_head;
        let signed = image.records.iter().take_while(|record| record.index < image.closed_index).count();
        let mut rest = &image.records[signed..];
        while let Some(first) = rest.first() {
            let mut bytes = 0;
            let fits = |record: &&StoredRecord| {
                bytes += record.bytes.len();
                bytes <= SEGMENT_BYTES_MAX
            };
            let count = rest.iter().take(SEGMENT_RECORDS_MAX as usize).take_while(fits).count().max(1);
            let previous = head;
            head = rest[..count].iter().fold(head, |head, record| extend(head, &record.bytes));
            let header = SegmentHeader {
                device: self.device.clone(),
                era,
                segment: outbox.closed,
                first_index: first.index,
                count: count as u32,
                previous,
                head,
                closed_at: closing.floor,
                recovered: true,
                feeds: closing.feeds.to_vec(),
            };
            batch.entries.push(Entry::Segment(self.sign(&header)));
            outbox.closed += 1;
            outbox.closed_index = first.index + count as u64;
            rest = &rest[count..];
        }
        self.outbox.insert(era, outbox);
    }

    fn sign(&self, header: &SegmentHeader) -> StoredSegment {
        StoredSegment {
            era: header.era,
            segment: header.segment,
            first_index: header.first_index,
            count: header.count,
            head: header.head,
            header: Signed::sign(header, &self.fleet, &[&self.key]).to_bytes(),
        }
    }

    /// Writes a record and says where it is.
    pub fn record(
        &mut self,
        event: Event,
        budgets: Vec<Budget>,
        times: (Timestamp, Timestamp),
        now: Millis,
        closing: &Closing<'_>,
        batch: &mut Batch,
    ) -> AuditRef {
        let record = Record { index: self.next_index, floor: times.0, powered: times.1, event };
        let bytes = record.to_bytes();
        if self.open.as_ref().is_some_and(|open| open.bytes + bytes.len() > SEGMENT_BYTES_MAX) {
            self.close(closing, batch);
        }
        let segment = self.outbox.get(&self.era).map_or(0, |outbox| outbox.closed);
        let open = self.open.get_or_insert(Open {
            first_index: self.next_index,
            previous: self.head,
            count: 0,
            bytes: 0,
            since: now,
        });
        open.count += 1;
        open.bytes += bytes.len();
        let full = open.count >= SEGMENT_RECORDS_MAX;
        let place = AuditRef { era: self.era.number, segment, index: self.next_index };
        self.head = extend(self.head, &bytes);
        batch.entries.push(Entry::Record(StoredRecord { era: self.era, index: self.next_index, bytes, budgets }));
        self.next_index += 1;
        if full {
            self.close(closing, batch);
        }
        place
    }

    /// Closes and signs the open segment, if there is one.
    pub fn close(&mut self, closing: &Closing<'_>, batch: &mut Batch) {
        let Some(open) = self.open.take() else { return };
        let outbox = self.outbox.entry(self.era).or_default();
        let segment = outbox.closed;
        outbox.closed += 1;
        outbox.closed_index = open.first_index + u64::from(open.count);
        let header = SegmentHeader {
            device: self.device.clone(),
            era: self.era,
            segment,
            first_index: open.first_index,
            count: open.count,
            previous: open.previous,
            head: self.head,
            closed_at: closing.floor,
            recovered: false,
            feeds: closing.feeds.to_vec(),
        };
        batch.entries.push(Entry::Segment(self.sign(&header)));
    }

    /// When the open segment was begun.
    pub fn open_since(&self) -> Option<Millis> {
        self.open.as_ref().map(|open| open.since)
    }

    /// Records that the collector has not acknowledged.
    pub fn pending(&self) -> u64 {
        let records = |(era, outbox): (&EraId, &Outbox)| {
            let end = if *era == self.era { self.next_index } else { outbox.closed_index };
            end - outbox.acked_index.min(end)
        };
        self.outbox.iter().map(records).sum()
    }

    /// Eras before the open one that are not acknowledged to their end, oldest first.
    pub fn pending_eras(&self) -> impl Iterator<Item = EraId> + '_ {
        self.outbox.keys().copied().filter(|era| *era != self.era)
    }

    /// Eras on disk, the open one among them.
    pub fn eras(&self) -> usize {
        self.outbox.len()
    }

    /// The next segments to send, oldest first, as far as the window allows, and marks them as in flight.
    pub fn take(&mut self, window: usize, now: Millis) -> Vec<(EraId, u64)> {
        let mut taken = Vec::new();
        for (era, outbox) in &self.outbox {
            for segment in outbox.acked..outbox.closed {
                if self.in_flight.len() >= window {
                    return taken;
                }
                if let std::collections::btree_map::Entry::Vacant(vacant) = self.in_flight.entry((*era, segment)) {
                    vacant.insert(now);
                    taken.push((*era, segment));
                }
            }
        }
        taken
    }

    /// What is in flight since before `before` is to be sent again.
    pub fn expire_flights(&mut self, before: Millis) {
        self.in_flight.retain(|_, since| *since > before);
    }

    /// When the oldest segment in flight was sent.
    pub fn oldest_flight(&self) -> Option<Millis> {
        self.in_flight.values().min().copied()
    }

    /// Whether there is something to send that is not in flight.
    pub fn waiting(&self) -> bool {
        let closed: u64 = self.outbox.values().map(|outbox| outbox.closed - outbox.acked).sum();
        closed > self.in_flight.len() as u64
    }

    /// Nothing is in flight any more: the connection is gone.
    pub fn ground(&mut self) {
        self.in_flight.clear();
    }

    /// The store no longer has a segment that it should have: it counts as lost, not as sent.
    pub fn lost(&mut self, era: EraId, segment: u64) {
        self.in_flight.remove(&(era, segment));
    }

    /// The collector holds an era up to a place. Returns the last segment that was released by this, if any was.
    ///
    /// # Errors
    /// The place, when it lies ahead of what this device ever closed: the state here was rolled back, or somebody else
    /// writes under this name.
    pub fn acknowledge(&mut self, ack: &EraAck, batch: &mut Batch) -> Result<Option<u64>, EraAck> {
        if ack.era.number > self.era.number || (ack.era.number == self.era.number && ack.era.salt != self.era.salt) {
            return Err(*ack);
        }
        let Some(outbox) = self.outbox.get_mut(&ack.era) else { return Ok(None) };
        if ack.next_segment > outbox.closed {
            return Err(*ack);
        }
        let released = (ack.next_segment > outbox.acked).then(|| ack.next_segment - 1);
        outbox.acked = outbox.acked.max(ack.next_segment);
        outbox.acked_index = outbox.acked_index.max(ack.next_index.min(outbox.closed_index));
        self.in_flight.retain(|(era, segment), _| *era != ack.era || *segment >= ack.next_segment);
        if outbox.acked == outbox.closed && ack.era != self.era {
            self.outbox.remove(&ack.era);
            batch.drop_eras.push(ack.era);
        }
        Ok(released)
    }

    /// A planted bug: what the broker has counts as delivered.
    pub fn release_unacknowledged(&mut self, era: EraId, segment: u64, batch: &mut Batch) {
        let Some(outbox) = self.outbox.get(&era) else { return };
        let head = Hash::ZERO;
        let ack = EraAck { era, next_segment: segment + 1, next_index: outbox.closed_index, head };
        // The bug is planted where nothing can be ahead, so there is nothing to report.
        let _ = self.acknowledge(&ack, batch);
    }

    /// Eras that hold nothing to send are given back at once.
    pub fn drop_empty(&mut self, batch: &mut Batch) {
        let open = self.era;
        self.outbox.retain(|era, outbox| {
            let keep = *era == open || outbox.acked < outbox.closed;
            if !keep {
                batch.drop_eras.push(*era);
            }
            keep
        });
    }
}
