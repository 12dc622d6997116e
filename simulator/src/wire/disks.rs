//! A gateway's state folder, with the store that ships on it.
//!
//! Owns: [`Store`], opened anew at each start; the folder as a cut left it.
//! Never: tells the agent what is in it by any other way than the real store's.
//! Read next: `image.rs`, what a cut leaves; `../disk.rs`, the model that it goes with.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use hardtack::agent::salvage::{Hole, Remains};
use hardtack::agent::Batch;
use hardtack::ids::EraId;
use hardtack::profile::QueueLimits;
use hardtack::shell::store;
use hardtack::wire::audit::segment::Loaded;
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;

use super::image::Image;
use crate::disk::Fate;
use crate::fault::Damage;
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
    torn: ChaCha8Rng,
}

impl Store {
    pub(super) fn new(place: Rc<TempDir>, seed: u64, device: u32, limits: QueueLimits) -> Self {
        let folder = place.path().join(format!("gw-{device}"));
        let torn = stream(seed, &format!("gw-{device}"), "torn");
        Self { _place: place, folder, limits, opened: None, copies: Vec::new(), torn }
    }

    fn image(&self) -> Result<Image, Broke> {
        Image::of(&self.folder).map_err(broke)
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

/// Of so many steps, the one that is as far as `done` of `of`.
fn as_far(steps: usize, (done, of): (u64, u64)) -> usize {
    let steps = steps as u64;
    (done * steps / of.max(1)).min(steps) as usize
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
        Ok(Found { anchor: found.anchor, files: found.files, eras: found.eras })
    }

    fn commit(&mut self, batch: Batch) -> Result<(), Broke> {
        let opened = self.opened.as_mut().ok_or_else(|| broke("a commit without a store"))?;
        opened.commit(batch).map_err(broke)
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

    fn copy(&mut self, number: u32) -> Result<(), Broke> {
        let image = self.image()?;
        self.copies.push((number, image));
        Ok(())
    }

    fn damage(&mut self, damage: Damage, copy: u32) -> Result<bool, Broke> {
        self.opened = None;
        let copy = self.copies.iter().position(|(number, _)| *number == copy).map(|at| self.copies.remove(at).1);
        let mut image = self.image()?;
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
            (Damage::TailForged, _, _) => return Ok(false),
            (
                Damage::SlotDeleted
                | Damage::SlotRotten
                | Damage::SlotTorn
                | Damage::SlotsCopiedBack
                | Damage::ImageRolledBack,
                _,
                _,
            ) => return Ok(true),
        }
        image.lay_out(&self.folder).map_err(broke)?;
        Ok(true)
    }
}
