//! The audit trail on the device: numbered, chained, signed, and remembered until the collector has it.
//!
//! Owns: the open era with its chain and open segment, the outbox of closed segments of every era, what is in flight,
//! where the collector waits for what the store has lost.
//! Never: stores or sends; frees a segment for anything but the collector's signed acknowledgement; numbers a record
//! twice.
//! Read next: `wire/audit.rs` for the formats, `sync.rs` for when to send, `salvage.rs` for what is damaged.

use std::collections::BTreeMap;

use super::audit_key::AuditSigner;
use super::effects::{Batch, Budget, Entry, EraMark, Shed, StoredRecord, StoredSegment, ERAS_MARKED_MAX};
use super::naming::{Names, Place};
use super::request::trail::EraReply;
use super::request::AuditRef;
use super::room::{Class, Content, Run, SegmentPlace, Shares, Tally, Weighed, SHED_RECORDS_MIN, SHED_RUNS_MAX};
use super::salvage::{Boundary, Hole, Remains};
use super::EraImage;
use crate::ids::{DeviceId, EraId, FleetId, Hash};
use crate::mutant::{active, Mutant};
use crate::time::{Millis, Timestamp};
use crate::wire::audit::leaf::{Leaves, LEAF_BYTES_MAX};
use crate::wire::audit::merkle::{self, leaf_hash};
use crate::wire::audit::segment::{grow, Loaded, SegmentHeader, Upload, SEGMENT_BYTES_MAX, SEGMENT_RECORDS_MAX};
use crate::wire::audit::{extend, genesis, Credential, EraEnd, Event, Named, Record};
use crate::wire::envelope::Signed;
use crate::wire::link::EraAck;
use crate::wire::revocation::Position;

/// The trail.
pub struct Trail {
    fleet: FleetId,
    device: DeviceId,
    signer: AuditSigner,
    era: EraId,
    next_index: u64,
    /// Of the segments, extended by the records that no segment covers yet.
    head: Hash,
    open: Option<Open>,
    outbox: BTreeMap<EraId, Outbox>,
    in_flight: BTreeMap<(EraId, u64), Millis>,
    /// The chain's head before a segment, as far as it was seen in what was sent and is not acknowledged.
    heads: BTreeMap<(EraId, u64), Hash>,
    /// Whose turn it is to be sent.
    turn: u64,
    names: Names,
}

/// One in so many segments that are sent is of the open era, where older ones wait too.
const NEW_EVERY: u64 = 4;
/// So many segments that wait to be sent are a backlog: some 4,000 records.
const BACKLOG_SEGMENTS: u64 = 64;
/// What is most important begins an era of its own behind a backlog, so that it need not wait for that. Each era takes some
/// space: with so many there is no further one for that reason.
const URGENT_ERAS_MAX: usize = 8;

/// The segment that records go into.
struct Open {
    first_index: u64,
    /// The chain's head before it.
    previous: Hash,
    leaves: Leaves,
    /// Of the leaves, which themselves are not kept: they are made again from the records when they are sent.
    hashes: Vec<Hash>,
    /// Of the leaves.
    bytes: usize,
    since: Millis,
    /// What it holds.
    tally: Tally,
}

/// What is left to send of one era.
#[derive(Debug, Clone)]
struct Outbox {
    /// Where its closed segments end.
    closed: Boundary,
    /// How many of the records before that end no segment on disk covers.
    unsigned: u64,
    /// Where the collector stands.
    acked: Boundary,
    /// The last place where it stood on this very chain, and not on another branch of the era, which a clone wrote.
    own: Boundary,
    /// A segment that could not be loaded: nothing from it on is sent before the collector waits for it.
    hole: Option<u64>,
    /// Lost records below this have been told in gap records since the start.
    told: u64,
    /// What was found of it.
    condition: Condition,
    /// What it holds on disk, and what of that may be given up.
    content: Content,
}

/// A run of fewer records stays: the gap record in its place would be as large.
const SHED_RUN_MIN: u64 = 4;
/// While there is some room left, what goes is at least one part in so many of its era: the rest is written anew.
const SHED_PART: u64 = 3;

/// What is given up at once, and how many denials go with it that only counts spoke of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GivenUp {
    /// The segments.
    pub shed: Shed,
    /// What their records had counted beside the denials that have one.
    pub repeated: u64,
}

/// What was found of an era at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Not all, or not surely all: the collector may hold more of it than is here.
    Damaged,
    /// All.
    Whole,
}

impl Outbox {
    fn begin(genesis: Hash) -> Self {
        let acked = Boundary { segment: 0, index: 0, head: genesis };
        let (condition, content) = (Condition::Whole, Content::default());
        Self { closed: acked, unsigned: 0, acked, own: acked, hole: None, told: 0, condition, content }
    }

    fn is_done(&self) -> bool {
        self.acked.segment >= self.closed.segment
    }

    /// Whether nobody knows yet that the collector stands on this very chain: the next segment tells. Of a damaged era nothing
    /// can.
    fn is_unproven(&self) -> bool {
        self.condition == Condition::Whole && self.acked != self.own
    }

    /// The collector stands here.
    fn stand_at(&mut self, ack: &EraAck) {
        if ack.next_segment < self.acked.segment {
            return;
        }
        let index = ack.next_index.max(self.acked.index).min(self.closed.index);
        self.acked = Boundary { segment: ack.next_segment, index, head: ack.head };
        // What the collector has of a damaged era may be cut otherwise than what is here: its records count.
        match self.condition {
            Condition::Damaged if index < self.closed.index => {
                self.closed.segment = self.closed.segment.max(ack.next_segment.saturating_add(1));
            }
            Condition::Damaged => self.closed.segment = ack.next_segment,
            Condition::Whole => {}
        }
    }
}

/// What follows from an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledged {
    /// The collector stands further back than it had said.
    Behind,
    /// It is of another branch of the era, which somebody else wrote: it counts for nothing here.
    Elsewhere,
    /// It says nothing new.
    Nothing,
    /// It holds every segment up to this one.
    Released(u64),
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
    pub fn begin(fleet: FleetId, device: DeviceId, signer: AuditSigner, era: EraId) -> Self {
        let head = genesis(&fleet, &device, era);
        let outbox = BTreeMap::from([(era, Outbox::begin(head))]);
        Self {
            fleet,
            device,
            signer,
            era,
            next_index: 0,
            head,
            open: None,
            outbox,
            in_flight: BTreeMap::new(),
            heads: BTreeMap::new(),
            turn: 0,
            names: Names::default(),
        }
    }

    /// The key that signs.
    pub fn signer(&self) -> &AuditSigner {
        &self.signer
    }

    /// Whether a segment says which key signed it, or this device can.
    pub fn vouches(&self, loaded: &Loaded) -> bool {
        let says = loaded.header().claim().is_ok_and(|header| header.signer.is_some());
        says || loaded.header().signed_by().all(|key| self.signer.certificate_of(key).is_some())
    }

    /// From here on another key signs. The open segment must be closed before.
    pub fn sign_with(&mut self, signer: AuditSigner) {
        debug_assert!(self.open.is_none(), "a segment is signed by the key that it was written under");
        self.signer = signer;
    }

    /// The era that is being written.
    pub fn era(&self) -> EraId {
        self.era
    }

    /// Where the era that is being written would end.
    pub fn end(&self) -> EraEnd {
        EraEnd { era: self.era, next_index: self.next_index, head: self.head }
    }

    /// The next record's index.
    pub fn next_index(&self) -> u64 {
        self.next_index
    }

    /// The head of the chain that begins where the closed segments end and goes over the records since.
    pub fn head(&self) -> Hash {
        self.head
    }

    /// Begins another era while the process runs, so that the space of this one can be given back. The open segment must
    /// be closed before.
    pub fn roll(&mut self, era: EraId, batch: &mut Batch) {
        debug_assert!(self.open.is_none(), "a segment does not span eras");
        batch.begin_era = Some(era);
        self.era = era;
        self.next_index = 0;
        self.head = genesis(&self.fleet, &self.device, era);
        self.names = Names::default();
        self.outbox.insert(era, Outbox::begin(self.head));
    }

    /// A credential as the next record of this era says it: in full, or by the record that did.
    pub fn name(&mut self, named: Named) -> Credential {
        self.names.tell(named, self.segment())
    }

    /// Takes over an era of an earlier start: its closed segments as they are, and the records that were left unsigned
    /// in segments that are marked recovered. What is left unsigned of a damaged era is cut only when it is sent, from
    /// where the collector stands: it may hold segments that are not here any more. Returns where the era ends.
    pub fn adopt(
        &mut self,
        image: &EraImage,
        condition: Condition,
        closing: &Closing<'_>,
        batch: &mut Batch,
    ) -> EraEnd {
        let era = image.id;
        let mut outbox = Outbox::begin(genesis(&self.fleet, &self.device, era));
        outbox.content = image.content.clone();
        outbox.closed = Boundary { segment: image.segments, index: image.closed_index, head: image.closed_head };
        let unsigned = image.records.iter().filter(|record| record.index >= image.closed_index);
        let unsigned: Option<Vec<(usize, Record)>> =
            unsigned.map(|row| Some((row.bytes.len(), Record::from_bytes(&row.bytes).ok()?))).collect();
        let (Condition::Whole, Some(mut rest)) = (condition, unsigned.as_deref()) else {
            let end = end_of(image);
            let segment = image.segments.saturating_add(u64::from(end.next_index > image.closed_index));
            outbox.closed = Boundary { segment, index: end.next_index, head: end.head };
            outbox.unsigned = end.next_index.saturating_sub(image.closed_index);
            outbox.condition = Condition::Damaged;
            self.outbox.insert(era, outbox);
            return end;
        };
        while let Some((_, first)) = rest.first() {
            let mut bytes = 0;
            let fits = |(size, _): &&(usize, Record)| {
                bytes += size;
                bytes <= SEGMENT_BYTES_MAX
            };
            let count = rest.iter().take(SEGMENT_RECORDS_MAX as usize).take_while(fits).count().max(1);
            let records: Vec<Record> = rest[..count].iter().map(|(_, record)| record.clone()).collect();
            let (_, root) = grow(&records);
            let header = SegmentHeader {
                device: self.device.clone(),
                era,
                segment: outbox.closed.segment,
                first_index: first.index,
                count: count as u32,
                previous: outbox.closed.head,
                root,
                closed_at: closing.floor,
                recovered: true,
                signer: Some(self.signer.certificate().clone()),
                feeds: closing.feeds.to_vec(),
                salvage: None,
            };
            let stored = self.sign(&header);
            let mut tally = Tally::default();
            rest[..count].iter().for_each(|(size, record)| tally.add(Weighed::of(&record.event, *size)));
            outbox.content.segment(place_of(&stored), &tally);
            batch.entries.push(Entry::Segment(stored));
            let (segment, index) = (header.segment + 1, header.first_index + count as u64);
            outbox.closed = Boundary { segment, index, head: header.head() };
            rest = &rest[count..];
        }
        let Boundary { index, head, .. } = outbox.closed;
        self.outbox.insert(era, outbox);
        EraEnd { era, next_index: index, head }
    }

    fn sign(&mut self, header: &SegmentHeader) -> StoredSegment {
        StoredSegment {
            era: header.era,
            segment: header.segment,
            first_index: header.first_index,
            count: header.count,
            head: header.head(),
            header: Signed::sign(header, &self.fleet, &[self.signer.sign_with()]).to_bytes(),
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
        if self.open.as_ref().is_some_and(|open| open.bytes + LEAF_BYTES_MAX > SEGMENT_BYTES_MAX) {
            self.close(closing, batch);
        }
        let segment = self.segment();
        let open = self.open.get_or_insert_with(|| Open {
            first_index: self.next_index,
            previous: self.head,
            leaves: Leaves::default(),
            hashes: Vec::new(),
            bytes: 0,
            since: now,
            tally: Tally::default(),
        });
        if let Event::Decision(decision) = &record.event {
            self.names.written(decision, Place { index: record.index, segment });
        }
        let leaf = open.leaves.push(&record);
        open.hashes.push(leaf_hash(&leaf));
        open.bytes += leaf.len();
        let weighed = Weighed::of(&record.event, bytes.len());
        open.tally.add(weighed);
        if let Some(outbox) = self.outbox.get_mut(&self.era) {
            outbox.content.record(weighed);
        }
        let full = open.hashes.len() >= SEGMENT_RECORDS_MAX as usize;
        let place = AuditRef { era: self.era.number, segment, index: self.next_index };
        self.head = extend(self.head, &bytes);
        batch.entries.push(Entry::Record(StoredRecord { era: self.era, index: self.next_index, bytes, budgets }));
        self.next_index += 1;
        if full {
            self.close(closing, batch);
        }
        place
    }

    /// The number of the segment that records go into.
    fn segment(&self) -> u64 {
        self.outbox.get(&self.era).map_or(0, |outbox| outbox.closed.segment)
    }

    /// Closes and signs the open segment, if there is one.
    pub fn close(&mut self, closing: &Closing<'_>, batch: &mut Batch) {
        let Some(open) = self.open.take() else { return };
        let Some(outbox) = self.outbox.get_mut(&self.era) else { return };
        let segment = outbox.closed.segment;
        let count = open.hashes.len();
        let header = SegmentHeader {
            device: self.device.clone(),
            era: self.era,
            segment,
            first_index: open.first_index,
            count: count as u32,
            previous: open.previous,
            root: merkle::root(&open.hashes),
            closed_at: closing.floor,
            recovered: false,
            signer: (segment == 0).then(|| self.signer.certificate().clone()),
            feeds: closing.feeds.to_vec(),
            salvage: None,
        };
        self.head = header.head();
        let index = open.first_index + count as u64;
        outbox.closed = Boundary { segment: segment + 1, index, head: self.head };
        let stored = self.sign(&header);
        if let Some(outbox) = self.outbox.get_mut(&self.era) {
            outbox.content.segment(place_of(&stored), &open.tally);
        }
        batch.entries.push(Entry::Segment(stored));
    }

    /// Whether the open segment holds records of the other sort than a class: spare ones, or such as must stay.
    pub fn differs(&self, class: Class) -> bool {
        self.open.as_ref().is_some_and(|open| open.tally.differs(class))
    }

    /// What all eras hold, by class.
    pub fn weights(&self) -> Shares {
        let mut weights = Shares::default();
        self.outbox.values().for_each(|outbox| weights.add_all(outbox.content.shares()));
        weights
    }

    /// The oldest era that is no longer written gives up what it can, if that is worth it or `all` counts. Returns what
    /// that is.
    pub fn shed(&mut self, all: bool) -> Vec<GivenUp> {
        let mut each = self.pending_eras().map(|era| self.spare_of(era, all));
        let found = each.find(|spare| !spare.is_empty()).unwrap_or_default();
        drop(each);
        if let Some(outbox) = found.first().and_then(|first| self.outbox.get_mut(&first.shed.era)) {
            outbox.content.give_up(&found.iter().map(|given| given.shed).collect::<Vec<_>>());
        }
        found
    }

    /// Whether the era that is being written could give up as much, once another has begun.
    pub fn may_shed_next(&self, all: bool) -> bool {
        !self.spare_of(self.era, all).is_empty()
    }

    /// Whether the collector holds all that was closed of the era that is being written, and there is enough of it: its space
    /// comes back once another has begun.
    pub fn is_spent(&self) -> bool {
        if active(Mutant::SpentEraKept) {
            return false;
        }
        self.next_index >= SHED_RECORDS_MIN && self.outbox.get(&self.era).is_some_and(Outbox::is_done)
    }

    /// What an era can give up: whole segments of spare records that are neither acknowledged nor on their way. Nothing
    /// where that is not worth it, unless `all` counts.
    fn spare_of(&self, era: EraId, all: bool) -> Vec<GivenUp> {
        let Some(outbox) = self.outbox.get(&era).filter(|outbox| outbox.condition == Condition::Whole) else {
            return Vec::new();
        };
        let flying = |run: &Run| {
            self.in_flight.keys().any(|(of, at)| *of == era && (run.segments.0..run.segments.1).contains(at))
        };
        let free = |run: &&Run| run.segments.0 >= outbox.acked.segment && !flying(run);
        let mut ranges: Vec<(GivenUp, u64)> = Vec::new();
        for run in outbox.content.spare().iter().filter(free) {
            match ranges.last_mut() {
                Some((last, weight)) if last.shed.segments.1 == run.segments.0 => {
                    last.shed.segments.1 = run.segments.1;
                    last.shed.records.1 = run.records.1;
                    last.repeated = last.repeated.saturating_add(run.repeated);
                    *weight = weight.saturating_add(run.weight.total());
                }
                Some(_) | None => {
                    let shed = Shed { era, segments: run.segments, records: run.records };
                    ranges.push((GivenUp { shed, repeated: run.repeated }, run.weight.total()));
                }
            }
        }
        let count = |given: &GivenUp| given.shed.records.1 - given.shed.records.0;
        ranges.retain(|(given, _)| count(given) >= SHED_RUN_MIN);
        let (records, weight) = ranges
            .iter()
            .fold((0, 0_u64), |(records, sum), (given, weight)| (records + count(given), sum.saturating_add(*weight)));
        let worth = all || weight >= outbox.content.shares().total() / SHED_PART;
        if records < SHED_RECORDS_MIN || !worth {
            return Vec::new();
        }
        ranges.into_iter().map(|(given, _)| given).take(SHED_RUNS_MAX).collect()
    }

    /// Closed segments of the era that is being written.
    pub fn closed_segments(&self) -> u64 {
        self.outbox.get(&self.era).map_or(0, |outbox| outbox.closed.segment)
    }

    /// How far each era goes that something is held of, oldest first.
    pub fn stand(&self) -> Vec<EraReply> {
        let era = |(id, outbox): (&EraId, &Outbox)| EraReply {
            era: id.number,
            salt: format!("{:016x}", id.salt),
            segments: outbox.closed.segment,
            signed: outbox.closed.index,
            next: if *id == self.era { self.next_index } else { outbox.closed.index },
            acknowledged: outbox.acked.index,
            damaged: outbox.condition == Condition::Damaged,
        };
        self.outbox.iter().map(era).collect()
    }

    /// When the open segment was begun.
    pub fn open_since(&self) -> Option<Millis> {
        self.open.as_ref().map(|open| open.since)
    }

    /// Records that the collector has not acknowledged.
    pub fn pending(&self) -> u64 {
        let records = |(era, outbox): (&EraId, &Outbox)| {
            let end = if *era == self.era { self.next_index } else { outbox.closed.index };
            end - outbox.acked.index.min(end)
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

    /// The next segments to send, as far as the window allows, and marks them as in flight. Of each era one comes after the
    /// other, so it is eras that go before others: first the one in which what is most important comes soonest, of several
    /// the oldest; and every fourth time the open one, so that what happens now does not wait until all that is old has
    /// arrived.
    pub fn take(&mut self, window: usize, now: Millis) -> Vec<(EraId, u64)> {
        let mut taken = Vec::new();
        while self.in_flight.len() < window {
            self.turn = self.turn.wrapping_add(1);
            let new = self.next_of(self.era);
            let old = self.most_urgent();
            let next = if self.turn % NEW_EVERY == 0 { new.or(old) } else { old.or(new) };
            let Some(next) = next else { break };
            self.in_flight.insert(next, now);
            taken.push(next);
        }
        taken
    }

    /// The next segment of the era in which what is most important comes soonest. The open one is among them only where
    /// that is next: what is common in it has its own share.
    fn most_urgent(&self) -> Option<(EraId, u64)> {
        let waits = |era: &EraId| {
            let next = self.next_of(*era)?;
            let urgent = self.outbox.get(era).and_then(|outbox| outbox.content.urgent_from(next.1));
            let segments = urgent.map_or(u64::MAX, |urgent| urgent - next.1);
            (*era != self.era || segments == 0).then_some((segments, next))
        };
        self.outbox.keys().filter_map(waits).min_by_key(|(segments, _)| *segments).map(|(_, next)| next)
    }

    /// The first segment of an era that is closed, that the collector does not have, that is not on its way, and that is
    /// not behind a hole.
    fn next_of(&self, era: EraId) -> Option<(EraId, u64)> {
        let outbox = self.outbox.get(&era)?;
        let first = outbox.acked.segment;
        let known = if outbox.is_unproven() { first.saturating_add(1) } else { u64::MAX };
        let end = outbox.hole.filter(|hole| *hole > first).unwrap_or(u64::MAX).min(outbox.closed.segment).min(known);
        (first..end).map(|segment| (era, segment)).find(|place| !self.in_flight.contains_key(place))
    }

    /// Whether so much of the open era waits to be sent that it had better become an older one: what comes now would have
    /// to wait for all of it. Not where there are older ones already, whose turn is before it.
    pub fn is_backlog(&self) -> bool {
        self.outbox.len() == 1 && self.is_long()
    }

    /// Whether so much of the open era waits to be sent that what is most important had better begin another one.
    pub fn keeps_waiting(&self) -> bool {
        self.outbox.len() < URGENT_ERAS_MAX && self.is_long()
    }

    fn is_long(&self) -> bool {
        let left = |outbox: &Outbox| outbox.closed.segment.saturating_sub(outbox.acked.segment);
        self.outbox.get(&self.era).is_some_and(|outbox| left(outbox) >= BACKLOG_SEGMENTS)
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
        let left = |outbox: &Outbox| outbox.closed.segment.saturating_sub(outbox.acked.segment);
        let closed: u64 = self.outbox.values().map(left).sum();
        closed > self.in_flight.len() as u64
    }

    /// Nothing is in flight any more: the connection is gone.
    pub fn ground(&mut self) {
        self.in_flight.clear();
        self.heads.clear();
    }

    /// The chain's head before a segment of this device.
    pub fn know(&mut self, era: EraId, segment: u64, head: Hash) {
        self.heads.insert((era, segment), head);
    }

    /// Looks whether a segment goes on where the collector said that it stands.
    ///
    /// # Errors
    /// That place, where it does not: it is of another branch, and is taken back. What is to be sent comes after the last place
    /// on this chain.
    pub fn goes_on(&mut self, loaded: &Loaded) -> Result<(), EraAck> {
        let Ok(header) = loaded.header().claim() else { return Ok(()) };
        let (era, segment) = (header.era, header.segment);
        self.know(era, segment, header.previous);
        self.know(era, header.next_segment(), header.head());
        let Some(outbox) = self.outbox.get_mut(&era) else { return Ok(()) };
        if segment != outbox.acked.segment || !outbox.is_unproven() {
            return Ok(());
        }
        if header.previous == outbox.acked.head || active(Mutant::ReleaseOnPuback) || active(Mutant::SentIsDelivered) {
            outbox.own = outbox.acked;
            return Ok(());
        }
        let Boundary { index, head, .. } = std::mem::replace(&mut outbox.acked, outbox.own);
        self.in_flight.retain(|(of, _), _| *of != era);
        Err(EraAck { era, next_segment: segment, next_index: index, head })
    }

    /// The next segment of an era that the collector is to have.
    pub fn stands_at(&self, era: EraId) -> u64 {
        self.outbox.get(&era).map_or(0, |outbox| outbox.acked.segment)
    }

    /// Whether what the collector said of an era is of another branch than what is here, as far as that is known.
    fn is_elsewhere(&self, ack: &EraAck, outbox: &Outbox) -> bool {
        let is_end = ack.next_segment == outbox.closed.segment;
        let end = is_end.then_some(outbox.closed.head);
        let known = end.or_else(|| self.heads.get(&(ack.era, ack.next_segment)).copied());
        outbox.condition == Condition::Whole && known.is_some_and(|head| head != ack.head)
    }

    /// The store cannot load a segment. Says what to ask it for once the collector waits for this very segment; before
    /// that, nobody knows where what is left of it has to begin.
    pub fn hole(&mut self, era: EraId, segment: u64) -> Option<Hole> {
        let outbox = self.outbox.get_mut(&era)?;
        if segment == outbox.acked.segment {
            return Some(Hole { era, from: outbox.acked, end: outbox.closed });
        }
        outbox.hole = Some(segment);
        self.in_flight.remove(&(era, segment));
        None
    }

    /// What is left of a segment, signed, if the collector still waits for it, and the ranges of lost records that no
    /// gap record has told yet.
    pub fn salvage(&mut self, hole: &Hole, remains: Remains, floor: Timestamp) -> Option<(Upload, Vec<(u64, u64)>)> {
        let (header, leaves) = hole.header(&remains, &self.device, &self.signer, floor);
        let outbox = self.outbox.get_mut(&hole.era).filter(|outbox| outbox.acked == hole.from)?;
        // What is cut into more pieces than there were segments goes on past their end.
        let more = u64::from(remains.next.index < outbox.closed.index);
        outbox.closed.segment = outbox.closed.segment.max(remains.next.segment.saturating_add(more));
        self.heads.insert((hole.era, header.next_segment()), header.head());
        let told = outbox.told;
        outbox.told = told.max(remains.next.index);
        let lost = header.salvage.iter().flat_map(|salvage| &salvage.lost);
        let untold = lost.filter(|(_, end)| *end > told).map(|(first, end)| (*first.max(&told), *end)).collect();
        Some((Upload { header: Signed::sign(&header, &self.fleet, &[self.signer.sign_with()]), leaves }, untold))
    }

    /// Where each earlier era stands that is not released, for the anchor: [`ERAS_MARKED_MAX`] of them. Where there are more,
    /// those without an allow are left out first, then the oldest.
    pub fn marks(&self) -> Vec<EraMark> {
        let earlier = || self.outbox.iter().filter(|(era, _)| **era != self.era);
        let mut unmarked = earlier().count().saturating_sub(ERAS_MARKED_MAX);
        let poor = |outbox: &Outbox| outbox.content.shares().of(Class::Allow) == 0;
        let mut rich_unmarked = unmarked.saturating_sub(earlier().filter(|(_, outbox)| poor(outbox)).count());
        let marked = |(_, outbox): &(&EraId, &Outbox)| {
            let left = if poor(outbox) { &mut unmarked } else { &mut rich_unmarked };
            let left_out = *left > 0;
            *left -= usize::from(left_out);
            !left_out
        };
        let mark = |(era, outbox): (&EraId, &Outbox)| EraMark {
            era: *era,
            held_index: if outbox.is_unproven() { outbox.own.index } else { outbox.acked.index },
            signed_index: outbox.closed.index.saturating_sub(outbox.unsigned),
            next_index: outbox.closed.index,
        };
        earlier().filter(marked).map(mark).collect()
    }

    /// The collector holds an era up to a place. Returns what follows from that. What is said of another branch, which a clone
    /// wrote, releases nothing: where the place is none that is known here, the next segment tells, and none but that is sent
    /// before.
    ///
    /// # Errors
    /// The place, when it lies ahead of what this device ever closed, or at its end and is another: the state here was rolled
    /// back, or somebody else writes under this name.
    pub fn acknowledge(&mut self, ack: &EraAck, batch: &mut Batch) -> Result<Acknowledged, EraAck> {
        // A number that was given here to another era: somebody else began one under this name.
        let is_twin = |era: &EraId| era.number == ack.era.number && era.salt != ack.era.salt && era.salt != 0;
        if ack.era.number > self.era.number || is_twin(&self.era) || self.outbox.keys().any(is_twin) {
            return not_alone(ack);
        }
        let Some(outbox) = self.outbox.get(&ack.era) else { return Ok(Acknowledged::Nothing) };
        let elsewhere = self.is_elsewhere(ack, outbox);
        let is_ahead = ack.next_segment > outbox.closed.segment && outbox.condition == Condition::Whole;
        if is_ahead || (elsewhere && ack.next_segment == outbox.closed.segment) {
            return not_alone(ack);
        }
        if elsewhere {
            return Ok(Acknowledged::Elsewhere);
        }
        let known = ack.next_segment == outbox.closed.segment || self.heads.contains_key(&(ack.era, ack.next_segment));
        let Some(outbox) = self.outbox.get_mut(&ack.era) else { return Ok(Acknowledged::Nothing) };
        let answer = match ack.next_segment.checked_sub(outbox.acked.segment) {
            None => return Ok(Acknowledged::Behind),
            Some(0) => Acknowledged::Nothing,
            Some(_) => Acknowledged::Released(ack.next_segment - 1),
        };
        outbox.stand_at(ack);
        if known {
            outbox.own = outbox.acked;
        }
        self.in_flight.retain(|(era, segment), _| *era != ack.era || *segment >= ack.next_segment);
        self.heads.retain(|(era, segment), _| *era != ack.era || *segment >= ack.next_segment);
        if outbox.is_done() && ack.era != self.era {
            self.outbox.remove(&ack.era);
            batch.drop_eras.push(ack.era);
        }
        Ok(answer)
    }

    /// The collector has lost what it had: it is sent again from where it stands now, if the next segment tells that this is
    /// on the chain that is here. What is not here any more either is counted as lost on the way.
    pub fn rewind(&mut self, ack: &EraAck) {
        if let Some(outbox) = self.outbox.get_mut(&ack.era) {
            outbox.acked = Boundary { segment: ack.next_segment, index: ack.next_index, head: ack.head };
            outbox.hole = None;
            self.in_flight.retain(|(era, _), _| *era != ack.era);
        }
    }

    /// A planted bug: what the broker has counts as delivered.
    pub fn release_unacknowledged(&mut self, era: EraId, segment: u64, batch: &mut Batch) {
        let Some(outbox) = self.outbox.get(&era) else { return };
        let head = if segment + 1 == outbox.closed.segment { outbox.closed.head } else { Hash::ZERO };
        let ack = EraAck { era, next_segment: segment + 1, next_index: outbox.closed.index, head };
        // The bug is planted where nothing can be ahead, so there is nothing to report.
        let _ = self.acknowledge(&ack, batch);
    }

    /// Eras that hold nothing to send are given back at once.
    pub fn drop_empty(&mut self, batch: &mut Batch) {
        let open = self.era;
        self.outbox.retain(|era, outbox| {
            let keep = *era == open || !outbox.is_done();
            if !keep {
                batch.drop_eras.push(*era);
            }
            keep
        });
    }
}

/// What comes of an acknowledgement that this device alone cannot have led to.
fn not_alone(ack: &EraAck) -> Result<Acknowledged, EraAck> {
    if active(Mutant::CloneUnnoticed) {
        return Ok(Acknowledged::Nothing);
    }
    Err(*ack)
}

fn place_of(stored: &StoredSegment) -> SegmentPlace {
    SegmentPlace {
        segment: stored.segment,
        first_index: stored.first_index,
        count: stored.count.into(),
        header_bytes: stored.header.len(),
    }
}

/// Where an era ends, as far as it can be read: its head goes over records that no segment covers.
pub(super) fn end_of(image: &EraImage) -> EraEnd {
    let unsigned = || image.records.iter().filter(|record| record.index >= image.closed_index);
    let head = unsigned().fold(image.closed_head, |head, record| extend(head, &record.bytes));
    let next_index = unsigned().next_back().map_or(image.closed_index, |record| record.index.saturating_add(1));
    EraEnd { era: image.id, next_index, head }
}
