//! A gateway's state folder, with the store that ships on it.
//!
//! Owns: [`Store`], opened anew at each start; the folder as a cut left it.
//! Never: tells the agent what is in it by any other way than the real store's.
//! Read next: `image.rs`, what a cut leaves; `../disk.rs`, the model that it goes with.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use hardtack::agent::effects::{Entry, StateFile, StoredRecord};
use hardtack::agent::salvage::{Hole, Remains};
use hardtack::agent::Batch;
use hardtack::ids::EraId;
use hardtack::profile::QueueLimits;
use hardtack::shell::files::FileError;
use hardtack::shell::store::{self, StoreError};
use hardtack::wire::audit::segment::Loaded;
use hardtack::wire::audit::{Event, Record};
use rand_chacha::ChaCha8Rng;
use rand_core::RngCore;
use tempfile::TempDir;

use super::image::Image;
use crate::disk::{flipped, steps, Fate, Rot, Step};
use crate::drive::{Memory, Reaches};
use crate::fault::{Damage, Part, Refusal, Sync};
use crate::level::{Broke, RealDisk};
use crate::random::{below, stream};
use crate::recovery::Found;

/// The store of one gateway.
pub(super) struct Store {
    /// Where all gateways' folders are, for as long as one of them is needed.
    _place: Rc<TempDir>,
    folder: PathBuf,
    limits: QueueLimits,
    opened: Option<store::Store>,
    copies: Vec<(u32, Image)>,
    /// Parts whose syncs are a lie, and what the drive has of them in its memory.
    lies: BTreeMap<Part, Memory<Image>>,
    torn: ChaCha8Rng,
    /// The folder before a newer version changed its format, and as that left it.
    newer: Option<[Image; 2]>,
}

/// What a newer version writes where this one has its own forms.
const OF_A_NEWER: &[u8] = b"\xff\xffa form that nobody knows yet";

impl Store {
    pub(super) fn new(place: Rc<TempDir>, seed: u64, device: u32, limits: QueueLimits) -> Self {
        let folder = place.path().join(format!("gw-{device}"));
        let torn = stream(seed, &format!("gw-{device}"), "torn");
        Self {
            _place: place,
            folder,
            limits,
            opened: None,
            copies: Vec::new(),
            lies: BTreeMap::new(),
            torn,
            newer: None,
        }
    }

    fn image(&self) -> Result<Image, Broke> {
        Image::of(&self.folder).map_err(broke)
    }

    /// Somebody writes another resource into a decision that is past the last segment and before the anchor, so that its
    /// row is whole. Whether there was one.
    fn forge_tail(&mut self) -> Result<bool, Broke> {
        let found = self.open()?;
        self.opened = None;
        let Some((era, end)) = found.anchor.and_then(|anchor| Some((anchor.era?, anchor.next_index))) else {
            return Ok(false);
        };
        let image = found.eras.into_iter().find(|image| image.id == era);
        let forged = image.and_then(|image| {
            let tail = image.closed_index..end;
            image.records.into_iter().filter(|stored| tail.contains(&stored.index)).find_map(forged)
        });
        let Some(forged) = forged else { return Ok(false) };
        let other = |entry: &Entry| match entry {
            Entry::Record(record) if (record.era, record.index) == (era, forged.index) => {
                Some(Entry::Record(forged.clone()))
            }
            Entry::Record(_) | Entry::Segment(_) => None,
        };
        Ok(store::rows(&self.folder, other).map_err(broke)? > 0)
    }

    /// The commit is made, and the folder looked at before it and after each of its steps.
    fn watched(&mut self, batch: Batch) -> Result<Vec<Image>, Broke> {
        let seen = Rc::new(RefCell::new(vec![self.image()]));
        let Some(mut opened) = self.opened.take() else { return seen.take().into_iter().collect() };
        let (folder, to) = (self.folder.clone(), seen.clone());
        opened.at_each_step(move |_| to.borrow_mut().push(Image::of(&folder).map_err(broke)));
        opened.commit(batch).map_err(broke)?;
        drop(opened);
        let images = seen.take();
        images.into_iter().collect()
    }
}

/// The steps of a commit that end with a sync of a part.
const fn syncs_of(part: Part) -> &'static [&'static str] {
    match part {
        Part::Anchor => &["anchor"],
        Part::Era => &["begun", "folded", "synced"],
        Part::Files => &["file"],
    }
}

/// Of so many steps, the one that is as far as `done` of `of`.
fn as_far(steps: usize, (done, of): (u64, u64)) -> usize {
    let steps = steps as u64;
    (done * steps / of.max(1)).min(steps) as usize
}

/// A decision with another resource, in as many bytes.
fn forged(mut stored: StoredRecord) -> Option<StoredRecord> {
    let mut record = Record::from_bytes(&stored.bytes).ok()?;
    let Event::Decision(decision) = &mut record.event else { return None };
    let length = decision.resource.len();
    decision.resource = "forged/here".chars().cycle().take(length).collect();
    let before = std::mem::replace(&mut stored.bytes, record.to_bytes());
    (before != stored.bytes).then_some(stored)
}

/// The generation that a slot of the anchor says: 64 bits after its magic, little endian.
fn generation(image: &Image, slot: &Path) -> u64 {
    let bytes = image.file(slot).and_then(|content| content.get(8..16)?.try_into().ok());
    bytes.map_or(0, u64::from_le_bytes)
}

fn broke(error: impl std::fmt::Display) -> Broke {
    Broke(error.to_string())
}

impl RealDisk for Store {
    fn open(&mut self) -> Result<Found, Broke> {
        // One process at a time.
        self.opened = None;
        let (opened, found) = store::Store::open(&self.folder, &self.limits).map_err(broke)?;
        self.opened = Some(opened);
        let mut entries = Vec::new();
        let note = |entry: &Entry| {
            entries.push(entry.clone());
            None
        };
        store::rows(&self.folder, note).map_err(broke)?;
        Ok(Found { anchor: found.anchor, files: found.files, eras: found.eras, entries })
    }

    fn commit(&mut self, batch: Batch) -> Result<(), Broke> {
        let opened = self.opened.as_mut().ok_or_else(|| broke("a commit without a store"))?;
        let synced: BTreeSet<Part> = if self.lies.is_empty() {
            BTreeSet::new()
        } else {
            steps(batch.clone()).iter().filter_map(Step::syncs).collect()
        };
        opened.commit(batch).map_err(broke)?;
        let folder = &self.folder;
        for (part, memory) in self.lies.iter_mut().filter(|(part, _)| synced.contains(part)) {
            memory.takes(|| Ok(Image::default().with(*part, &Image::of(folder).map_err(broke)?)))?;
        }
        Ok(())
    }

    fn load(&mut self, era: EraId, segment: u64) -> Result<Option<Loaded>, Broke> {
        let opened = self.opened.as_mut().ok_or_else(|| broke("a segment without a store"))?;
        opened.load(era, segment).map_err(broke)
    }

    fn gather(&mut self, hole: &Hole) -> Result<Remains, Broke> {
        let opened = self.opened.as_mut().ok_or_else(|| broke("remains without a store"))?;
        opened.gather(hole).map_err(broke)
    }

    fn close(&mut self) {
        self.opened = None;
    }

    fn killed(&mut self, batch: Batch, done: (u64, u64)) -> Result<(), Broke> {
        let seen = self.watched(batch)?;
        seen[as_far(seen.len() - 1, done)].lay_out(&self.folder).map_err(broke)
    }

    fn power_cut(&mut self, batch: Batch, done: (u64, u64), fate: &mut dyn FnMut() -> Fate) -> Result<(), Broke> {
        let seen = self.watched(batch)?;
        let at = as_far(seen.len() - 1, done);
        let next = &seen[(at + 1).min(seen.len() - 1)];
        let left = seen[at].cut_on_the_way_to(next, fate, &mut self.torn);
        left.lay_out(&self.folder).map_err(broke)
    }

    fn sync_fails(&mut self, batch: Batch, part: Part, fate: &mut dyn FnMut() -> Fate) -> Result<(), Broke> {
        let before = self.image()?;
        let mut opened = self.opened.take().ok_or_else(|| broke("a commit without a store"))?;
        opened.fail_syncs(syncs_of(part));
        let Err(StoreError::File(_)) = opened.commit(batch) else {
            return Err(broke("a sync failed, and the commit was taken for durable"));
        };
        let Err(StoreError::Failed) = opened.commit(Batch::default()) else {
            return Err(broke("a sync failed, and the store took another commit"));
        };
        drop(opened);
        let shown = self.image()?;
        let left = shown.with(part, &before).cut_on_the_way_to(&shown, fate, &mut self.torn);
        left.lay_out(&self.folder).map_err(broke)
    }

    fn refused(&mut self, batch: Batch, how: Refusal, (whole, torn): (u64, u64)) -> Result<bool, Broke> {
        let mut opened = self.opened.take().ok_or_else(|| broke("a commit without a store"))?;
        let before = self.image()?;
        let refusal = match how {
            Refusal::NoRoom => store::Refusal::Full { whole: whole as usize, torn: torn as usize },
            Refusal::ReadOnly => store::Refusal::ReadOnly,
        };
        store::refuse(&self.folder, Some(refusal));
        let first = opened.commit(batch);
        if first.is_ok() {
            store::refuse(&self.folder, None);
            self.opened = Some(opened);
            return Ok(false);
        }
        let second = opened.commit(Batch::default());
        drop(opened);
        store::refuse(&self.folder, None);
        let Err(StoreError::File(_) | StoreError::Engine { .. }) = first else {
            return Err(broke("a write was refused, and the commit failed for something else"));
        };
        let Err(StoreError::Failed) = second else {
            return Err(broke("a write was refused, and the store took another commit"));
        };
        let left = self.image()?;
        match how {
            Refusal::ReadOnly if !left.with(Part::Era, &before).reads_like(&before) => {
                Err(broke("what is read-only was changed"))
            }
            // The engine's last words are not asked about, and would be refused as well.
            Refusal::ReadOnly if !left.reads_like(&before) => {
                before.lay_out(&self.folder).map_err(broke)?;
                Ok(true)
            }
            Refusal::NoRoom | Refusal::ReadOnly => Ok(true),
        }
    }

    fn stays_shut(&mut self) -> Result<(), Broke> {
        self.opened = None;
        store::refuse(&self.folder, Some(store::Refusal::ReadOnly));
        let opened = store::Store::open(&self.folder, &self.limits);
        store::refuse(&self.folder, None);
        match opened {
            Err(StoreError::File(FileError::Io { source, .. })) if source.kind() == ErrorKind::ReadOnlyFilesystem => {
                Ok(())
            }
            Err(other) => Err(broke(other)),
            Ok(_) => Err(broke("a store on a read-only file system opened")),
        }
    }

    fn lie(&mut self, part: Part) -> Result<(), Broke> {
        let medium = Image::default().with(part, &self.image()?);
        self.lies.entry(part).or_insert(Memory::since(medium));
        Ok(())
    }

    fn come_clean(&mut self, part: Part) {
        self.lies.remove(&part);
    }

    fn forget_what_lies(&mut self, reaches: Reaches<'_>) -> Result<Vec<Part>, Broke> {
        if self.lies.is_empty() {
            return Ok(Vec::new());
        }
        self.opened = None;
        let (mut left, mut lost) = (self.image()?, Vec::new());
        for (part, memory) in &mut self.lies {
            let medium = match part {
                // Each of them is in the drive's memory by itself.
                Part::Files => left.with(*part, memory.began()).or_by_file(&left, reaches),
                Part::Anchor | Part::Era => {
                    let earlier = memory.left(Sync::Lies.name(*part), reaches);
                    earlier.map_or_else(|| left.clone(), |earlier| left.with(*part, earlier))
                }
            };
            if !medium.reads_like(&left) {
                lost.push(*part);
            }
            *memory = Memory::since(Image::default().with(*part, &medium));
            left = medium;
        }
        if !lost.is_empty() {
            left.lay_out(&self.folder).map_err(broke)?;
        }
        Ok(lost)
    }

    fn copy(&mut self, number: u32) -> Result<(), Broke> {
        let image = self.image()?;
        self.copies.push((number, image));
        Ok(())
    }

    fn hand_over(&mut self) -> Result<(), Broke> {
        self.opened = None;
        let before = self.image()?;
        let mut left = before.clone();
        left.set(Path::new("format"), Some(format!("{}\n", store::FORMAT + 1).into_bytes()));
        for path in before.paths().filter(|path| path.starts_with("feed") || path.starts_with("wallet")) {
            left.set(path, Some(OF_A_NEWER.to_vec()));
        }
        left.set(Path::new("feed/of-a-newer.2"), Some(OF_A_NEWER.to_vec()));
        left.lay_out(&self.folder).map_err(broke)?;
        self.newer = Some([before, left]);
        Ok(())
    }

    fn refuses(&mut self) -> Result<bool, Broke> {
        self.opened = None;
        let Some([_, left]) = &self.newer else { return Err(broke("no newer version was here")) };
        match store::Store::open(&self.folder, &self.limits) {
            Err(StoreError::NewerFormat { found, .. }) if found == store::FORMAT + 1 => {}
            Err(other) => return Err(broke(format!("it is refused for something else: {other}"))),
            Ok(_) => return Ok(false),
        }
        match self.image()?.reads_like(left) {
            true => Ok(true),
            false => Err(broke("it is refused, and was changed")),
        }
    }

    fn take_back(&mut self) -> Result<(), Broke> {
        self.opened = None;
        let Some([before, left]) = self.newer.take() else { return Err(broke("no newer version was here")) };
        if !self.image()?.reads_like(&left) {
            return Err(broke("what a newer version had left was changed"));
        }
        before.lay_out(&self.folder).map_err(broke)
    }

    fn upgrade(&mut self, limits: QueueLimits) -> Result<(), Broke> {
        self.opened = None;
        self.limits = limits;
        // A change of format that power cut short before it was named.
        std::fs::write(self.folder.join(".format.tmp"), format!("{}\n", store::FORMAT + 1)).map_err(broke)
    }

    fn put_back(&mut self, file: &StateFile, content: Vec<u8>) -> Result<(), Broke> {
        self.opened = None;
        let mut image = self.image()?;
        image.set(Path::new(&file.path()), Some(content));
        image.lay_out(&self.folder).map_err(broke)
    }

    fn damage(&mut self, damage: Damage, copy: u32, rot: Option<Rot>) -> Result<bool, Broke> {
        self.opened = None;
        let copy = self.copies.iter().position(|(number, _)| *number == copy).map(|at| self.copies.remove(at).1);
        let before = self.image()?;
        let mut image = before.clone();
        let slots = ["anchor.0", "anchor.1"].map(Path::new);
        let slot =
            slots.into_iter().filter(|slot| image.file(slot).is_some()).max_by_key(|slot| generation(&image, slot));
        match (damage, slot, copy) {
            (Damage::SlotDeleted, Some(slot), _) => image.set(slot, None),
            (Damage::SlotRotten | Damage::SlotTorn, Some(slot), _) => {
                let mut content = image.file(slot).unwrap_or_default().to_vec();
                if damage == Damage::SlotTorn {
                    content.truncate(content.len() / 2);
                } else if !content.is_empty() {
                    // Within its header: all of it is under the checksum.
                    let bit = below(&mut self.torn, 16 * 8) as usize;
                    content[bit / 8] ^= 1 << (bit % 8);
                }
                image.set(slot, Some(content));
            }
            (Damage::SlotsCopiedBack, _, Some(copy)) => {
                slots.iter().for_each(|slot| image.set(slot, copy.file(slot).map(<[u8]>::to_vec)));
            }
            (Damage::SlotsGone, _, _) => slots.iter().for_each(|slot| image.set(slot, None)),
            (Damage::ImageRolledBack, _, Some(copy)) => image = copy,
            (Damage::TailForged, _, _) => return self.forge_tail(),
            (
                Damage::AuditKeyRotten
                | Damage::BundleRotten
                | Damage::EmergencyRotten
                | Damage::FeedRotten
                | Damage::PolicyRotten
                | Damage::RowRotten
                | Damage::WalletRotten,
                _,
                _,
            ) => match rot {
                None => return Ok(false),
                Some(Rot::Row(era, row)) => {
                    return Ok(store::rot(&self.folder, (era, row), self.torn.next_u64()).map_err(broke)? > 0);
                }
                Some(Rot::Bit(file, bit)) => {
                    let path = PathBuf::from(file.path());
                    let content = image.file(&path).map(|content| flipped(content, bit));
                    image.set(&path, content);
                }
            },
            (
                Damage::SlotDeleted
                | Damage::SlotRotten
                | Damage::SlotTorn
                | Damage::SlotsCopiedBack
                | Damage::ImageRolledBack,
                _,
                _,
            ) => return Ok(false),
        }
        if image.reads_like(&before) {
            return Ok(false);
        }
        image.lay_out(&self.folder).map_err(broke)?;
        Ok(true)
    }
}
