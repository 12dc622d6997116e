//! What the ledger knows of one revocation feed.
//!
//! Owns: [`FeedBook`]: the newest head, its set, what the broker keeps of it, which revocations it does not hold yet.
//! Never: signs: `../publish.rs` does; says where a revocation belongs: `../route.rs` does.
//! Read next: `../publish.rs`.

use std::collections::{BTreeMap, BTreeSet};

use super::rows::{Restored, HEADS_KEPT};
use crate::ids::Hash;
use crate::mutant::{self, Mutant};
use crate::time::Timestamp;
use crate::wire::envelope::Signed;
use crate::wire::revocation::announcement::{Announcement, Head};
use crate::wire::revocation::ladder::Step;
use crate::wire::revocation::set::RevocationSet;
use crate::wire::revocation::{Position, Target};

/// Which step of which era an announcement of this fleet is.
pub(super) fn step_of(announcement: &Announcement) -> (u32, Step) {
    let (era, end) = announcement.head.claim().map_or((0, 0), |head| (head.era, head.seq));
    (era, Step { level: announcement.level, end })
}

/// The feed that a head names. An unreadable head is never written.
pub(super) fn feed_named(signed: &Signed<Head>) -> String {
    signed.claim().map_or(String::new(), |head| head.feed.to_string())
}

/// A head as it was signed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedHead {
    /// The envelope.
    pub signed: Signed<Head>,
    /// The content.
    pub head: Head,
    /// Its position.
    pub position: Position,
}

/// One feed of the fleet.
#[derive(Debug, Clone, Default)]
pub struct FeedBook {
    /// The era of every head that is still to be signed.
    pub(super) era: u32,
    pub(super) head: Option<SignedHead>,
    heads: BTreeMap<(u32, u64), Hash>,
    pub(super) set: RevocationSet,
    pub(super) snapshot: Option<(Signed<Head>, RevocationSet)>,
    steps: BTreeMap<(u8, u64), Announcement>,
    pub(super) resumed: (u32, u64),
    pub(super) restored: Option<Restored>,
    /// Targets of revocations that belong here and may not be in the set yet, so that nobody looks through all the others
    /// for them.
    pub(super) waiting: BTreeSet<Target>,
    /// How many of the revocations that belong here lapse at each time.
    ends: BTreeMap<Timestamp, usize>,
}

impl FeedBook {
    pub(super) fn put_head(&mut self, signed: Signed<Head>, head: Head) {
        let position = head.position(signed.digest());
        self.heads.insert(position.order(), position.digest);
        while self.heads.len() as u64 > HEADS_KEPT {
            self.heads.pop_first();
        }
        let newer = self.head.as_ref().is_none_or(|newest| newest.position.order() < position.order());
        if newer || mutant::active(Mutant::PositionReused) {
            self.head = Some(SignedHead { signed, head, position });
        }
    }

    pub(super) fn put_step(&mut self, announcement: Announcement) {
        let (era, step) = step_of(&announcement);
        let place = (step.level, step.place());
        let order = |(era, step): (u32, Step)| (era, step.end);
        if self.steps.get(&place).is_none_or(|known| order(step_of(known)) <= (era, step.end)) {
            self.steps.insert(place, announcement);
        }
    }

    /// A revocation belongs here.
    pub(super) fn file(&mut self, target: &Target, until: Timestamp) {
        self.waiting.insert(target.clone());
        *self.ends.entry(until).or_default() += 1;
    }

    /// A revocation has another end than this, or does not belong here any more.
    pub(super) fn unfile(&mut self, until: Timestamp) {
        if let Some(count) = self.ends.get_mut(&until) {
            *count -= 1;
            if *count == 0 {
                self.ends.remove(&until);
            }
        }
    }

    /// Nothing is known any more of what belongs here: it is filed anew.
    pub(super) fn unfile_all(&mut self) {
        self.waiting.clear();
        self.ends.clear();
    }

    /// Its era: that of every head that is still to be signed.
    pub fn era(&self) -> u32 {
        self.era
    }

    /// The newest head.
    pub fn head(&self) -> Option<&SignedHead> {
        self.head.as_ref()
    }

    /// The newest head, if devices would take it: none while a new era waits for its first.
    pub fn in_force(&self) -> Option<&SignedHead> {
        self.head().filter(|head| head.head.era == self.era)
    }

    /// Era and number of the newest head; zeros before the first.
    pub fn order(&self) -> (u32, u64) {
        self.head().map_or((0, 0), |head| head.position.order())
    }

    /// The newest head, with what it adds.
    pub fn newest(&self) -> Option<&Announcement> {
        let head = &self.head()?.head;
        self.step(head.era, Step { level: 0, end: head.seq })
    }

    /// The digest of a head that this fleet signed, while it is remembered.
    pub fn head_digest(&self, order: (u32, u64)) -> Option<&Hash> {
        self.heads.get(&order)
    }

    /// What is revoked at the newest head.
    pub fn set(&self) -> &RevocationSet {
        &self.set
    }

    /// The set that the broker is to keep whole, with its head.
    pub fn snapshot(&self) -> Option<&(Signed<Head>, RevocationSet)> {
        self.snapshot.as_ref()
    }

    /// The steps of an era's ladder that the broker is to keep.
    pub fn steps(&self, era: u32) -> impl Iterator<Item = (Step, &Announcement)> {
        let steps = self.steps.values().map(|announcement| (step_of(announcement), announcement));
        steps.filter(move |((of, _), _)| *of == era).map(|((_, step), announcement)| (step, announcement))
    }

    /// A step of an era, if it is kept.
    pub fn step(&self, era: u32, step: Step) -> Option<&Announcement> {
        self.steps.get(&(step.level, step.place())).filter(|announcement| step_of(announcement) == (era, step))
    }

    /// An operator vouched that the feed goes on after this number of this era.
    pub fn resumed(&self) -> (u32, u64) {
        self.resumed
    }

    /// The ledger is a copy that was put back, and nobody has said yet after which number the feed goes on.
    pub fn restored(&self) -> Option<&Restored> {
        self.restored.as_ref().filter(|restored| !restored.settled)
    }

    /// When the ledger was last put back from a copy.
    pub(super) fn restored_at(&self) -> Option<Timestamp> {
        self.restored.as_ref().map(|restored| restored.at)
    }

    /// When the last revocation that belongs here lapsed before a time.
    pub fn lapsed_before(&self, at: Timestamp) -> Option<Timestamp> {
        self.ends.range(..at).next_back().map(|(until, _)| *until)
    }
}
