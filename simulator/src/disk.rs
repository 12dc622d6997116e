//! A gateway's state folder as a model: what is durable, what the kernel only shows, and what a power cut leaves.
//!
//! Owns: the steps of a commit in the order of the real store, what each step leaves behind when it is the last one, and
//! the reading of what is left.
//! Never: loses what was synced, unless a fault makes it lie: that syncs are honest is an assumption of the proofs.
//! Read next: `recovery.rs`, which makes a start out of it.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;

use hardtack::agent::effects::{Entry, Shed, StateFile, StoredRecord, StoredSegment};
use hardtack::agent::room::{Class, Weighed};
use hardtack::agent::salvage::Wanted;
use hardtack::agent::{Anchor, Batch, EraImage};
use hardtack::ids::EraId;
use hardtack::time::Timestamp;
use hardtack::wire::audit::{Event, Record};
use hardtack::wire::encode;

use crate::drive::{Memory, Reaches};
use crate::fault::{Damage, Part, Refusal, Sync};
use crate::recovery::{self, Found};

/// One step of a commit. A supply can fail between any two.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// A synced temporary file takes the place of a file; the folder's entry is not synced yet.
    Replace(StateFile, Vec<u8>),
    /// The folder of that file is synced.
    SyncFolder(StateFile),
    /// The folder of an era is made, not synced.
    CreateEra(EraId),
    /// It is synced.
    SyncEra,
    /// An entry goes to the era that is written, not synced.
    Append(Entry),
    /// The one data sync that decisions wait for.
    SyncEntries,
    /// The older slot is overwritten, not synced.
    WriteAnchor(Arc<Anchor>),
    /// It is synced.
    SyncAnchor,
    /// A file is unlinked, not synced.
    Remove(StateFile),
    /// The folder of an era is removed.
    DropEra(EraId),
    /// Segments lose their records, not synced: a file without them takes the place of the era's.
    Shed(Vec<Shed>),
}

impl Step {
    /// Which part of the folder this syncs, if it syncs one.
    pub(crate) fn syncs(&self) -> Option<Part> {
        match self {
            Self::SyncFolder(_) => Some(Part::Files),
            Self::SyncEra | Self::SyncEntries => Some(Part::Era),
            Self::SyncAnchor => Some(Part::Anchor),
            Self::Replace(..)
            | Self::CreateEra(_)
            | Self::Append(_)
            | Self::WriteAnchor(_)
            | Self::Remove(_)
            | Self::DropEra(_)
            | Self::Shed(_) => None,
        }
    }

    /// Whether a file system that refuses so much refuses this. A slot of the anchor is written over where it is, and what
    /// is synced has its room. An era is dropped with a mark that is written first.
    pub(crate) fn is_refused(&self, how: Refusal) -> bool {
        match (how, self) {
            (Refusal::ReadOnly, _) => true,
            (
                Refusal::NoRoom,
                Self::Replace(..) | Self::CreateEra(_) | Self::Append(_) | Self::DropEra(_) | Self::Shed(_),
            ) => true,
            (
                Refusal::NoRoom,
                Self::SyncFolder(_)
                | Self::SyncEra
                | Self::SyncEntries
                | Self::WriteAnchor(_)
                | Self::SyncAnchor
                | Self::Remove(_),
            ) => false,
        }
    }

    /// Which part of the folder this writes to.
    fn writes(&self) -> Part {
        match self {
            Self::Replace(..) | Self::SyncFolder(_) | Self::Remove(_) => Part::Files,
            Self::CreateEra(_)
            | Self::SyncEra
            | Self::Append(_)
            | Self::SyncEntries
            | Self::DropEra(_)
            | Self::Shed(_) => Part::Era,
            Self::WriteAnchor(_) | Self::SyncAnchor => Part::Anchor,
        }
    }
}

/// The steps of a batch, in the order that [`Batch`] promises.
pub(crate) fn steps(batch: Batch) -> Vec<Step> {
    let mut steps = Vec::new();
    for write in batch.files {
        steps.push(Step::Replace(write.file.clone(), write.content));
        steps.push(Step::SyncFolder(write.file));
    }
    if let Some(era) = batch.begin_era {
        steps.extend([Step::CreateEra(era), Step::SyncEra]);
    }
    if !batch.entries.is_empty() {
        steps.extend(batch.entries.into_iter().map(Step::Append));
        steps.push(Step::SyncEntries);
    }
    if let Some(anchor) = batch.anchor {
        steps.extend([Step::WriteAnchor(Arc::from(anchor)), Step::SyncAnchor]);
    }
    steps.extend(batch.remove.into_iter().map(Step::Remove));
    steps.extend(batch.drop_eras.into_iter().map(Step::DropEra));
    if !batch.shed.is_empty() {
        steps.extend([Step::Shed(batch.shed), Step::SyncEra]);
    }
    steps
}

/// A slot of the anchor.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) enum Slot {
    /// Never written.
    #[default]
    Empty,
    /// Half written: its checksum does not fit.
    Torn,
    /// Good.
    Valid(Arc<Anchor>),
}

/// What becomes of a write that was not synced when the supply failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It never reached the medium.
    Lost,
    /// It did.
    Kept,
    /// Part of it did. Only a slot of the anchor can be torn: files are renamed, eras check their entries.
    Torn,
}

/// What rots on a medium.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rot {
    /// A bit of this file, counted from its beginning.
    Bit(StateFile, usize),
    /// A row of the audit.
    Row(EraId, Wanted),
}

/// A file with a bit of it flipped.
pub(crate) fn flipped(content: &[u8], bit: usize) -> Vec<u8> {
    let mut content = content.to_vec();
    if let Some(byte) = content.get_mut(bit / 8) {
        *byte ^= 1 << (bit % 8);
    }
    content
}

/// What is on the medium.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Medium {
    pub(crate) files: BTreeMap<StateFile, Vec<u8>>,
    pub(crate) eras: BTreeMap<EraId, Vec<Entry>>,
    pub(crate) slots: [Slot; 2],
    /// A newer version has left all of it in its own format, and these of the files in forms of which this one knows
    /// nothing: what they are for whoever can read them.
    pub(crate) newer: Option<BTreeMap<StateFile, Vec<u8>>>,
    /// Segments that lost their records so that others have room.
    pub(crate) shed: BTreeSet<Shed>,
    /// Eras of which a row can be read no more. They stay damaged, as long as something of them is left.
    pub(crate) rotten: BTreeSet<EraId>,
    /// Bytes that all eras take.
    pub(crate) bytes: u64,
    /// Of them, what records of each class take, and headers of segments without a more important one.
    classes: [u64; Class::ALL.len()],
    /// The most important of the records since the last segment of the log that is written.
    most: Option<Class>,
}

impl Medium {
    /// What a class of records takes, in bytes.
    pub(crate) fn of_class(&self, class: Class) -> u64 {
        Class::ALL.iter().zip(self.classes).filter(|(of, _)| **of == class).map(|(_, bytes)| bytes).sum()
    }

    fn weigh(&mut self, entry: &Entry) {
        let class = match entry {
            Entry::Record(stored) => {
                let class = Weighed::of_bytes(&stored.bytes).class;
                self.most = self.most.map_or(Some(class), |most| Some(most.min(class)));
                class
            }
            Entry::Segment(_) => self.most.take().unwrap_or(Class::Denial),
        };
        let bytes = encode(entry).len() as u64;
        self.bytes += bytes;
        for (of, sum) in Class::ALL.iter().zip(&mut self.classes) {
            *sum += if *of == class { bytes } else { 0 };
        }
    }

    /// Some of it is gone.
    fn weigh_again(&mut self) {
        (self.bytes, self.classes) = Default::default();
        let eras = std::mem::take(&mut self.eras);
        for log in eras.values() {
            self.most = None;
            log.iter().for_each(|entry| self.weigh(entry));
        }
        self.eras = eras;
    }
}

impl Medium {
    /// What rots by this damage, if there is something for it to befall.
    pub(crate) fn rots(&self, damage: Damage, pick: u64) -> Option<Rot> {
        let files: Vec<_> = self.files.iter().filter(|(file, _)| is_of(damage, file) && self.is_known(file)).collect();
        let file = || {
            let count = files.len() as u64;
            let (file, content) = files.get(pick.checked_rem(count)? as usize)?;
            let bit = (pick / count).checked_rem(content.len() as u64 * 8)?;
            Some(Rot::Bit((*file).clone(), bit as usize))
        };
        match damage {
            Damage::RowRotten => self.row(pick).map(|(era, row)| Rot::Row(era, row)),
            Damage::AuditKeyRotten
            | Damage::BundleRotten
            | Damage::EmergencyRotten
            | Damage::FeedRotten
            | Damage::PolicyRotten
            | Damage::WalletRotten => file(),
            Damage::ImageRolledBack
            | Damage::SlotDeleted
            | Damage::SlotRotten
            | Damage::SlotTorn
            | Damage::SlotsCopiedBack
            | Damage::SlotsGone
            | Damage::TailForged => None,
        }
    }

    /// Whether the anchor vouches for a file, where it must: what it does not know yet of an emergency key nobody was told.
    fn is_known(&self, file: &StateFile) -> bool {
        match file {
            StateFile::Emergency(key) => {
                recovery::newest(self).is_some_and(|anchor| anchor.emergencies.iter().any(|mark| mark.key == *key))
            }
            StateFile::AuditKey
            | StateFile::Bundle
            | StateFile::Feed(_)
            | StateFile::FeedSince(_)
            | StateFile::Grant(_)
            | StateFile::Policy
            | StateFile::Task(_) => true,
        }
    }

    /// One of all rows, if there are some.
    fn row(&self, pick: u64) -> Option<(EraId, Wanted)> {
        let count = self.eras.values().map(Vec::len).sum::<usize>() as u64;
        let at = pick.checked_rem(count)? as usize;
        self.eras.values().flatten().nth(at).map(name)
    }

    /// A bit flips.
    fn rot(&mut self, rot: Rot) {
        let (era, row) = match rot {
            Rot::Row(era, row) => (era, row),
            Rot::Bit(file, bit) => {
                self.files.entry(file).and_modify(|content| *content = flipped(content, bit));
                return;
            }
        };
        self.eras.values_mut().for_each(|log| log.retain(|entry| name(entry) != (era, row)));
        self.rotten.insert(era);
        self.weigh_again();
    }

    /// Era number and index of every record.
    pub(crate) fn records(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.eras.values().flatten().filter_map(|entry| match entry {
            Entry::Record(record) => Some((record.era.number, record.index)),
            Entry::Segment(_) => None,
        })
    }

    /// The newest slot is what was found; of the others that there are, the older one is the newest before that.
    fn keep_slots(&mut self, found: Option<&Anchor>, on_their_way: Vec<Anchor>) {
        let Some(newest) = found else {
            let is_empty = |slot: &Slot| *slot == Slot::Empty;
            self.slots = if self.slots.iter().all(is_empty) { Default::default() } else { [Slot::Torn, Slot::Torn] };
            return;
        };
        let known = std::mem::take(&mut self.slots)
            .into_iter()
            .chain(on_their_way.into_iter().map(|anchor| Slot::Valid(Arc::new(anchor))));
        let older = known.filter(|slot| generation(slot).is_some_and(|known| known < newest.generation));
        self.slots = [Slot::Valid(Arc::new(newest.clone())), older.max_by_key(generation).unwrap_or_default()];
    }

    /// The latest powered-on clock that a start goes by: the anchor's, or that of a record after it.
    pub(crate) fn powered(&self) -> Timestamp {
        let anchor = recovery::newest(self);
        let anchored = anchor.and_then(|anchor| Some((anchor.era?.number, anchor.next_index)));
        let records = self.eras.values().flatten().filter_map(|entry| match entry {
            Entry::Record(stored) if Some((stored.era.number, stored.index)) >= anchored => {
                Record::from_bytes(&stored.bytes).ok()
            }
            Entry::Record(_) | Entry::Segment(_) => None,
        });
        let powered = records.map(|record| record.powered).chain(anchor.map(|anchor| anchor.powered));
        powered.max().unwrap_or_default()
    }

    /// Somebody writes another resource into a decision that is past the last segment and before the anchor. None if there
    /// is none.
    fn forge_tail(&mut self) -> Option<()> {
        let anchor = recovery::newest(self)?;
        let (era, end) = (anchor.era?, anchor.next_index);
        let log = self.eras.get_mut(&era)?;
        let closed = |entry: &Entry| match entry {
            Entry::Segment(segment) if segment.era == era => segment.first_index + u64::from(segment.count),
            Entry::Segment(_) | Entry::Record(_) => 0,
        };
        let closed = log.iter().map(closed).max().unwrap_or(0);
        let forged = log.iter_mut().find_map(|entry| match entry {
            Entry::Record(stored) if stored.era == era && (closed..end).contains(&stored.index) => {
                let mut record = Record::from_bytes(&stored.bytes).ok()?;
                let Event::Decision(decision) = &mut record.event else { return None };
                decision.resource = "forged/here".into();
                Some((stored, record))
            }
            Entry::Record(_) | Entry::Segment(_) => None,
        });
        let (stored, record) = forged?;
        stored.bytes = record.to_bytes();
        Some(())
    }

    /// A part of it.
    fn only(&self, part: Part) -> Self {
        match part {
            Part::Anchor => Self { slots: self.slots.clone(), ..Self::default() },
            Part::Era => Self { eras: self.eras.clone(), ..Self::default() },
            Part::Files => Self { files: self.files.clone(), ..Self::default() },
        }
    }

    /// Each file that had not reached the medium is what it was.
    fn lose_files_since(&mut self, before: &BTreeMap<StateFile, Vec<u8>>, reaches: Reaches<'_>) {
        let names: BTreeSet<StateFile> = before.keys().chain(self.files.keys()).cloned().collect();
        for name in names {
            if reaches(&name.path(), 1) == 0 {
                match before.get(&name) {
                    Some(content) => drop(self.files.insert(name, content.clone())),
                    None => drop(self.files.remove(&name)),
                }
            }
        }
    }
}

/// The state folder.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    /// What survives whatever happens.
    durable: Medium,
    /// The era that is written, as far as the kernel shows it.
    current: Option<EraId>,
    /// What was done since and is not synced, oldest first.
    pending: Vec<Step>,
    /// Parts whose syncs are a lie, and what the drive has of them in its memory.
    lies: BTreeMap<Part, Memory<Medium>>,
}

impl Disk {
    /// A disk that holds this.
    pub(crate) fn of(durable: Medium) -> Self {
        Self { durable, ..Self::default() }
    }

    /// All steps of a commit.
    pub(crate) fn commit(&mut self, steps: Vec<Step>) {
        let synced: BTreeSet<Part> = steps.iter().filter_map(Step::syncs).collect();
        steps.into_iter().for_each(|step| self.step(step));
        for (part, memory) in self.lies.iter_mut().filter(|(part, _)| synced.contains(part)) {
            match memory.takes(|| Ok(self.durable.only(*part))) {
                Ok(()) => {}
                Err::<(), Infallible>(never) => match never {},
            }
        }
    }

    /// One step of a commit.
    pub(crate) fn step(&mut self, step: Step) {
        match step {
            Step::SyncFolder(file) => self.settle(|pending| same_folder(pending, &file)),
            Step::SyncEra => self.settle(|pending| matches!(pending, Step::CreateEra(_) | Step::Shed(_))),
            Step::SyncEntries => self.settle(|pending| matches!(pending, Step::Append(_))),
            Step::SyncAnchor => self.settle(|pending| matches!(pending, Step::WriteAnchor(_))),
            Step::CreateEra(era) => {
                self.current = Some(era);
                self.pending.push(Step::CreateEra(era));
            }
            // The store gives the folder another name, and syncs that, before it goes on: its room is there at once.
            Step::DropEra(_) => apply(&mut self.durable, self.current, step),
            Step::Replace(..) | Step::Append(_) | Step::WriteAnchor(_) | Step::Remove(_) | Step::Shed(_) => {
                self.pending.push(step);
            }
        }
    }

    /// What was not synced and is meant by `which` is durable from now on.
    fn settle(&mut self, which: impl Fn(&Step) -> bool) {
        for step in std::mem::take(&mut self.pending) {
            if which(&step) {
                apply(&mut self.durable, self.current, step);
            } else {
                self.pending.push(step);
            }
        }
    }

    /// The supply fails: each unsynced write meets its fate. Entries of one era are a log: what follows a lost one is
    /// lost.
    pub(crate) fn power_cut(&mut self, mut fate: impl FnMut() -> Fate) {
        let mut log_ended = false;
        for step in std::mem::take(&mut self.pending) {
            let fate = fate();
            match (&step, fate) {
                (Step::WriteAnchor(anchor), Fate::Torn) => {
                    let slot = older_slot(&self.durable.slots, anchor);
                    self.durable.slots[slot] = Slot::Torn;
                }
                (Step::Append(_), _) if log_ended => {}
                (Step::Append(_), Fate::Lost | Fate::Torn) => log_ended = true,
                (_, Fate::Kept) => apply(&mut self.durable, self.current, step),
                (_, Fate::Lost | Fate::Torn) => {}
            }
        }
        self.current = None;
    }

    /// From now on syncs of this part keep what was written in the drive's memory, and say that it is on the medium.
    pub(crate) fn lie(&mut self, part: Part) {
        self.lies.entry(part).or_insert_with(|| Memory::since(self.durable.only(part)));
    }

    /// What is in the drive's memory of this part is on the medium, and syncs are honest again.
    pub(crate) fn come_clean(&mut self, part: Part) {
        self.lies.remove(&part);
    }

    /// The supply failed, and of what was in the drive's memory only what had reached the medium is left: of the anchor and of
    /// the era a beginning, and of each file by itself the old or the new one. Returns the parts that lost something, and the
    /// records of which nothing that is left speaks: those past the newest anchor.
    pub(crate) fn forget_what_lies(&mut self, reaches: Reaches<'_>) -> (Vec<Part>, Vec<(u64, u64)>) {
        let mut lost = Vec::new();
        let before = self.durable.clone();
        for (part, memory) in std::mem::take(&mut self.lies) {
            let shown = self.durable.clone();
            let left = memory.left(Sync::Lies.name(part), reaches);
            match part {
                Part::Anchor => left.into_iter().for_each(|left| self.durable.slots = left.slots.clone()),
                Part::Era => left.into_iter().for_each(|left| {
                    self.durable.eras = left.eras.clone();
                    self.durable.weigh_again();
                }),
                Part::Files => self.durable.lose_files_since(&memory.began().files, reaches),
            }
            if self.durable != shown {
                lost.push(part);
            }
            self.lies.insert(part, Memory::since(self.durable.only(part)));
        }
        (lost, self.unheard_of(before.records()))
    }

    /// Of these records those that are gone and of which nothing that is left speaks: they are past the newest anchor.
    pub(crate) fn unheard_of(&self, before: impl Iterator<Item = (u64, u64)>) -> Vec<(u64, u64)> {
        let anchored = recovery::newest(&self.durable).and_then(|anchor| Some((anchor.era?.number, anchor.next_index)));
        let left: BTreeSet<(u64, u64)> = self.durable.records().collect();
        before.filter(|place| !left.contains(place) && Some(*place) >= anchored).collect()
    }

    /// A sync of this part failed. The kernel says so once, and may forget what it could not write.
    pub(crate) fn sync_failed(&mut self, part: Part, mut fate: impl FnMut() -> Fate) {
        let mut log_ended = false;
        self.pending.retain(|step| {
            let kept = step.writes() != part || fate() == Fate::Kept;
            log_ended |= !kept && matches!(step, Step::Append(_));
            kept && !(log_ended && matches!(step, Step::Append(_)))
        });
    }

    /// The store is opened again while the kernel ran on: what it shows is synced first, then read.
    pub(crate) fn open(&mut self) {
        self.settle(|_| true);
        self.current = None;
    }

    /// What is on the medium is what a real store found on one: that, and no more. Of what was on its way only the anchors
    /// count, for the older slot: which of them it is nobody finds.
    pub(crate) fn follow(&mut self, on_its_way: Vec<Step>, found: Found) {
        self.settle(|_| true);
        self.current = None;
        let anchors = on_its_way.into_iter().filter_map(|step| match step {
            Step::WriteAnchor(anchor) => Some(Arc::unwrap_or_clone(anchor)),
            Step::CreateEra(_)
            | Step::Append(_)
            | Step::Replace(..)
            | Step::SyncFolder(_)
            | Step::SyncEra
            | Step::SyncEntries
            | Step::SyncAnchor
            | Step::Remove(_)
            | Step::DropEra(_)
            | Step::Shed(_) => None,
        });
        self.durable.keep_slots(found.anchor.as_ref(), anchors.collect());
        self.durable.files = found.files.into_iter().collect();
        let damaged = found.eras.iter().filter(|image| image.damage.is_some());
        self.durable.rotten = damaged.map(|image| image.id).collect();
        self.durable.eras = logs(&found.eras, found.entries);
        self.durable.weigh_again();
    }

    /// A newer version ran over it, and leaves it in its format: what was revoked and the wallet are in forms of its own.
    pub(crate) fn hand_over(&mut self) {
        let is_in_its_form = |file: &StateFile| match file {
            StateFile::Feed(_) | StateFile::FeedSince(_) | StateFile::Grant(_) | StateFile::Task(_) => true,
            StateFile::AuditKey | StateFile::Bundle | StateFile::Emergency(_) | StateFile::Policy => false,
        };
        let files = std::mem::take(&mut self.durable.files);
        let (theirs, ours) = files.into_iter().partition(|(file, _)| is_in_its_form(file));
        self.durable.files = ours;
        self.durable.newer = Some(theirs);
    }

    /// The newer version runs again, and reads what it wrote.
    pub(crate) fn take_back(&mut self) {
        self.durable.files.extend(self.durable.newer.take().into_iter().flatten());
    }

    /// Whether it is in the format of a newer version.
    pub(crate) fn is_newer(&self) -> bool {
        self.durable.newer.is_some()
    }

    /// What survives whatever happens.
    pub(crate) fn durable(&self) -> &Medium {
        &self.durable
    }

    /// The ways in which unsynced writes can end now that differ.
    pub(crate) fn fates(&self) -> Vec<Fate> {
        let torn = self.pending.iter().any(|step| matches!(step, Step::WriteAnchor(_)));
        match (self.pending.is_empty(), torn) {
            (true, _) => vec![Fate::Lost],
            (false, false) => vec![Fate::Lost, Fate::Kept],
            (false, true) => vec![Fate::Lost, Fate::Kept, Fate::Torn],
        }
    }

    /// Bytes that all eras take.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.durable.bytes
    }

    /// A disk that holds nothing but what is unsynced here: to see how a commit could end, not what it leaves.
    pub(crate) fn unsynced(&self) -> Self {
        Self { durable: Medium::default(), current: self.current, pending: self.pending.clone(), lies: BTreeMap::new() }
    }

    /// A copy of the medium, for a fault to put back later.
    pub(crate) fn image(&self) -> Medium {
        self.durable.clone()
    }

    /// Somebody puts a file back as it was.
    pub(crate) fn put_back(&mut self, file: StateFile, content: Vec<u8>) {
        self.durable.files.insert(file, content);
    }

    /// Something befalls the medium while no power is on: perhaps this rots. Returns whether it changed.
    pub(crate) fn damage(&mut self, damage: Damage, image: Option<&Medium>, rot: Option<Rot>) -> bool {
        let before = self.durable.clone();
        let newest = usize::from(generation(&self.durable.slots[1]) > generation(&self.durable.slots[0]));
        match damage {
            Damage::AuditKeyRotten
            | Damage::BundleRotten
            | Damage::EmergencyRotten
            | Damage::FeedRotten
            | Damage::PolicyRotten
            | Damage::RowRotten
            | Damage::WalletRotten => rot.into_iter().for_each(|rot| self.durable.rot(rot)),
            Damage::SlotDeleted => self.durable.slots[newest] = Slot::Empty,
            Damage::SlotRotten | Damage::SlotTorn => self.durable.slots[newest] = Slot::Torn,
            Damage::SlotsCopiedBack => {
                if let Some(image) = image {
                    self.durable.slots = image.slots.clone();
                }
            }
            Damage::SlotsGone => self.durable.slots = [Slot::Empty, Slot::Empty],
            Damage::TailForged => drop(self.durable.forge_tail()),
            Damage::ImageRolledBack => {
                if let Some(image) = image {
                    self.durable = image.clone();
                }
            }
        }
        self.durable != before
    }
}

/// What a real store holds, as the model of it keeps that: the entries that are found by a start, by era, in the order in
/// which they were written.
fn logs(eras: &[EraImage], entries: Vec<Entry>) -> BTreeMap<EraId, Vec<Entry>> {
    let of: BTreeMap<EraId, &EraImage> = eras.iter().map(|image| (image.id, image)).collect();
    let mut records: BTreeMap<EraId, BTreeMap<u64, Entry>> = BTreeMap::new();
    let mut segments: BTreeMap<EraId, BTreeMap<u64, StoredSegment>> = BTreeMap::new();
    for entry in entries {
        match entry {
            Entry::Record(record) => {
                let Some(image) = of.get(&record.era) else { continue };
                let found = || image.records.binary_search_by_key(&record.index, |left| left.index).is_ok();
                // What a start leaves out lies past the first record that is missing of the last commit.
                if record.index < image.closed_index || found() {
                    records.entry(record.era).or_default().insert(record.index, Entry::Record(record));
                }
            }
            Entry::Segment(segment) if of.get(&segment.era).is_some_and(|image| segment.segment < image.segments) => {
                segments.entry(segment.era).or_default().insert(segment.segment, segment);
            }
            Entry::Segment(_) => {}
        }
    }
    let log = |era: &EraId| {
        let mut records = records.remove(era).unwrap_or_default();
        let mut log = Vec::new();
        for segment in segments.remove(era).unwrap_or_default().into_values() {
            let after = records.split_off(&(segment.first_index + u64::from(segment.count)));
            log.extend(std::mem::replace(&mut records, after).into_values());
            log.push(Entry::Segment(segment));
        }
        log.extend(records.into_values());
        log
    };
    let ids: Vec<EraId> = of.into_keys().collect();
    let logs: Vec<Vec<Entry>> = ids.iter().map(log).collect();
    ids.into_iter().zip(logs).collect()
}

fn apply(medium: &mut Medium, current: Option<EraId>, step: Step) {
    match step {
        Step::Replace(file, content) => {
            medium.files.insert(file, content);
        }
        Step::CreateEra(era) => {
            medium.eras.entry(era).or_default();
        }
        Step::Append(entry) => {
            // An era whose folder never came to be takes its entries with it.
            let Some(era) = current.filter(|era| medium.eras.contains_key(era)) else { return };
            medium.weigh(&entry);
            medium.eras.entry(era).or_default().push(entry);
        }
        Step::WriteAnchor(anchor) => {
            let slot = older_slot(&medium.slots, &anchor);
            medium.slots[slot] = Slot::Valid(anchor);
        }
        Step::Remove(file) => {
            medium.files.remove(&file);
        }
        Step::DropEra(era) => {
            medium.rotten.remove(&era);
            // What it holds of others stays, as in the real store: rows are dead by their era, not by their folder.
            for entry in medium.eras.remove(&era).unwrap_or_default() {
                let (Entry::Record(StoredRecord { era: of, .. }) | Entry::Segment(StoredSegment { era: of, .. })) =
                    &entry;
                if let Some(log) = medium.eras.get_mut(of) {
                    log.push(entry);
                }
            }
            medium.weigh_again();
        }
        Step::Shed(shed) => {
            let gone = |entry: &Entry| match entry {
                Entry::Record(row) => {
                    // In order, as the agent names them.
                    let after = shed.partition_point(|range| (range.era, range.records.0) <= (row.era, row.index));
                    let range = after.checked_sub(1).map(|last| shed[last]);
                    range.is_some_and(|range| range.era == row.era && range.holds_record(row.index))
                }
                Entry::Segment(_) => false,
            };
            medium.eras.values_mut().for_each(|log| log.retain(|entry| !gone(entry)));
            medium.weigh_again();
            medium.shed.extend(shed);
        }
        Step::SyncFolder(_) | Step::SyncEra | Step::SyncEntries | Step::SyncAnchor => {}
    }
}

/// Whether a damage befalls files like this.
pub(crate) fn is_of(damage: Damage, file: &StateFile) -> bool {
    match file {
        StateFile::AuditKey => damage == Damage::AuditKeyRotten,
        StateFile::Bundle => damage == Damage::BundleRotten,
        StateFile::Emergency(_) => damage == Damage::EmergencyRotten,
        StateFile::Feed(_) | StateFile::FeedSince(_) => damage == Damage::FeedRotten,
        StateFile::Grant(_) | StateFile::Task(_) => damage == Damage::WalletRotten,
        StateFile::Policy => damage == Damage::PolicyRotten,
    }
}

/// What names an entry.
fn name(entry: &Entry) -> (EraId, Wanted) {
    match entry {
        Entry::Record(record) => (record.era, Wanted::Record(record.index)),
        Entry::Segment(segment) => (segment.era, Wanted::Segment(segment.segment)),
    }
}

/// The slot that is not the newest valid one.
fn older_slot(slots: &[Slot; 2], _next: &Anchor) -> usize {
    usize::from(generation(&slots[0]) > generation(&slots[1]))
}

fn generation(slot: &Slot) -> Option<u64> {
    match slot {
        Slot::Valid(anchor) => Some(anchor.generation),
        Slot::Empty | Slot::Torn => None,
    }
}

fn same_folder(step: &Step, other: &StateFile) -> bool {
    let folder = |file: &StateFile| file.path().rsplit_once('/').map_or(String::new(), |(folder, _)| folder.to_owned());
    match step {
        Step::Replace(file, _) | Step::Remove(file) => folder(file) == folder(other),
        Step::SyncFolder(_)
        | Step::CreateEra(_)
        | Step::SyncEra
        | Step::Append(_)
        | Step::SyncEntries
        | Step::WriteAnchor(_)
        | Step::SyncAnchor
        | Step::DropEra(_)
        | Step::Shed(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hardtack::agent::effects::FileWrite;

    const ERA: EraId = EraId { number: 1, salt: 7 };

    fn record(index: u64) -> Entry {
        Entry::Record(StoredRecord { era: ERA, index, bytes: vec![index as u8], budgets: Vec::new() })
    }

    fn anchor(generation: u64) -> Arc<Anchor> {
        Arc::new(Anchor { generation, ..Anchor::default() })
    }

    fn batch() -> Batch {
        Batch {
            files: vec![FileWrite { file: StateFile::Bundle, content: vec![1] }],
            begin_era: Some(ERA),
            entries: vec![record(0), record(1)],
            anchor: Some(Box::new(Arc::unwrap_or_clone(anchor(1)))),
            remove: vec![StateFile::Policy],
            drop_eras: Vec::new(),
            shed: Vec::new(),
        }
    }

    fn disk_after(done: usize) -> Disk {
        let mut disk = Disk::default();
        disk.durable.files.insert(StateFile::Policy, vec![9]);
        steps(batch()).into_iter().take(done).for_each(|step| disk.step(step));
        disk
    }

    #[test]
    fn a_cut_at_each_boundary_leaves_what_was_synced_and_by_chance_the_rest() {
        let all = steps(batch()).len();
        for done in 0..=all {
            for fate in [Fate::Lost, Fate::Kept, Fate::Torn] {
                let mut disk = disk_after(done);
                disk.power_cut(|| fate);
                let (medium, kept) = (disk.durable(), fate == Fate::Kept);
                assert_eq!(medium.files.contains_key(&StateFile::Bundle), done >= 2 || (done == 1 && kept), "{done}");
                assert_eq!(medium.eras.contains_key(&ERA), done >= 4 || (done == 3 && kept), "{done}");
                let entries = medium.eras.get(&ERA).map_or(0, Vec::len);
                let unsynced = done.saturating_sub(4).min(2);
                assert_eq!(
                    entries,
                    if done >= 7 {
                        2
                    } else if kept {
                        unsynced
                    } else {
                        0
                    },
                    "{done}"
                );
                let newest = match &medium.slots[0] {
                    Slot::Valid(anchor) => anchor.generation,
                    Slot::Empty | Slot::Torn => 0,
                };
                assert_eq!(newest, u64::from(done >= 9 || (done == 8 && kept)), "{done}");
                assert_eq!(medium.slots[0] == Slot::Torn, done == 8 && fate == Fate::Torn);
                assert_eq!(medium.files.contains_key(&StateFile::Policy), !(done == all && kept), "{done}");
            }
        }
    }

    #[test]
    fn a_torn_slot_is_never_the_newest_good_one() {
        let mut disk = Disk::default();
        for generation in 1..=5 {
            disk.step(Step::WriteAnchor(anchor(generation)));
            disk.step(Step::SyncAnchor);
        }
        disk.step(Step::WriteAnchor(anchor(6)));
        disk.power_cut(|| Fate::Torn);
        let held = |slot: &Slot| matches!(slot, Slot::Valid(anchor) if anchor.generation == 5);
        assert!(disk.durable().slots.iter().any(held));
    }

    #[test]
    fn what_befalls_slots_and_images_is_what_it_says() {
        let mut disk = Disk::default();
        for generation in 1..=4 {
            disk.step(Step::WriteAnchor(anchor(generation)));
            disk.step(Step::SyncAnchor);
        }
        let image = disk.image();
        let newest = |disk: &Disk| disk.durable.slots.iter().filter_map(generation).max();
        assert!(disk.damage(Damage::SlotTorn, None, None));
        assert_eq!(newest(&disk), Some(3));
        assert!(disk.damage(Damage::SlotDeleted, None, None));
        assert_eq!(newest(&disk), None);
        assert!(!disk.damage(Damage::SlotsCopiedBack, None, None), "without a copy nothing can be put back");
        assert!(disk.damage(Damage::SlotsCopiedBack, Some(&image), None));
        assert_eq!(newest(&disk), Some(4));
        assert!(disk.damage(Damage::SlotsGone, None, None));
        assert!(disk.damage(Damage::ImageRolledBack, Some(&image), None));
        assert_eq!(disk.durable, image);
    }

    #[test]
    fn what_could_not_be_synced_may_be_gone_and_nothing_else_is() {
        for (part, left) in [(Part::Era, 1), (Part::Anchor, 0)] {
            let mut disk = disk_after(6);
            disk.step(Step::WriteAnchor(anchor(1)));
            let mut fates = [Fate::Kept, Fate::Lost].into_iter();
            disk.sync_failed(part, || fates.next().unwrap());
            assert_eq!(disk.pending.iter().filter(|step| step.writes() == part).count(), 1, "the first was kept");
            disk.open();
            assert_eq!(disk.durable().eras[&ERA].len(), 2 - left);
        }
    }

    #[test]
    fn what_is_given_up_is_gone_or_there_as_a_whole() {
        for fate in [Fate::Lost, Fate::Kept] {
            let mut disk = disk_after(9);
            let before = disk.used_bytes();
            let shed = Shed { era: ERA, segments: (0, 1), records: (0, 1) };
            disk.step(Step::Shed(vec![shed]));
            disk.power_cut(|| fate);
            let kept = if fate == Fate::Kept { vec![record(1)] } else { vec![record(0), record(1)] };
            assert_eq!((&disk.durable().eras[&ERA], disk.durable().shed.contains(&shed)), (&kept, fate == Fate::Kept));
            assert_eq!(disk.used_bytes() < before, fate == Fate::Kept);
        }
    }

    #[test]
    fn what_is_refused_is_what_needs_room_and_on_a_read_only_disk_all() {
        let dropped = [Step::DropEra(ERA), Step::Shed(Vec::new())];
        let all: Vec<Step> = steps(batch()).into_iter().chain(dropped).collect();
        let refused = |how| all.iter().map(|step| step.is_refused(how)).collect::<Vec<bool>>();
        let (no, yes) = (false, true);
        assert_eq!(refused(Refusal::NoRoom), [yes, no, yes, no, yes, yes, no, no, no, no, yes, yes]);
        assert!(refused(Refusal::ReadOnly).iter().all(|refused| *refused));
    }

    #[test]
    fn a_row_that_rots_is_gone_and_its_era_is_damaged_until_it_is_dropped() {
        let mut disk = disk_after(9);
        assert_eq!(disk.durable().row(5), Some((ERA, Wanted::Record(1))));
        assert!(disk.damage(Damage::RowRotten, None, disk.durable().rots(Damage::RowRotten, 0)));
        assert_eq!(disk.durable().eras[&ERA], vec![record(1)]);
        assert!(disk.durable().rotten.contains(&ERA));
        disk.step(Step::DropEra(ERA));
        assert_eq!((disk.durable().row(0), disk.durable().rotten.len()), (None, 0));
        assert!(!disk.damage(Damage::RowRotten, None, None), "there is none");
    }

    #[test]
    fn one_bit_flips_of_the_file_that_is_meant() {
        let mut disk = disk_after(9);
        assert_eq!(disk.durable().rots(Damage::BundleRotten, 3), Some(Rot::Bit(StateFile::Bundle, 3)));
        assert_eq!(disk.durable().rots(Damage::WalletRotten, 3), None, "there is none");
        assert!(disk.damage(Damage::BundleRotten, None, Some(Rot::Bit(StateFile::Bundle, 3))));
        assert_eq!(disk.durable().files[&StateFile::Bundle], [1 ^ 8]);
        assert_eq!(disk.durable().files[&StateFile::Policy], [9]);
        disk.put_back(StateFile::Bundle, vec![1]);
        assert_eq!(disk.durable().files[&StateFile::Bundle], [1]);
    }

    /// That it is told what is free is what an agent rests on that has no room.
    #[test]
    fn what_is_dropped_is_gone_at_once() {
        let mut disk = disk_after(9);
        assert!(disk.used_bytes() > 0);
        disk.step(Step::DropEra(ERA));
        assert_eq!(disk.used_bytes(), 0);
        disk.power_cut(|| Fate::Lost);
        assert!(!disk.durable().eras.contains_key(&ERA));
    }

    #[test]
    fn a_log_has_no_holes() {
        let mut disk = disk_after(4);
        (0..3).for_each(|index| disk.step(Step::Append(record(index))));
        let mut fates = [Fate::Kept, Fate::Lost, Fate::Kept].into_iter();
        disk.power_cut(|| fates.next().unwrap());
        assert_eq!(disk.durable().eras[&ERA], vec![record(0)]);
    }

    #[test]
    fn a_killed_process_loses_nothing_and_what_is_shown_is_synced_when_opened() {
        let mut disk = disk_after(6);
        assert_eq!(disk.fates(), [Fate::Lost, Fate::Kept]);
        disk.open();
        assert_eq!(disk.fates(), [Fate::Lost]);
        disk.power_cut(|| Fate::Lost);
        assert_eq!(disk.durable().eras[&ERA].len(), 2);
    }
}
