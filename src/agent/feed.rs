//! One revocation feed as this device has it.
//!
//! Owns: [`Feed`]: the newest position whose set is complete, all that was seen beyond it, and the way to the newest head.
//! Never: goes back; forgets what was seen before E has passed its end; fetches anything: it says what it wants.
//! Read next: `revocation.rs`, which holds one for each feed; `wire/revocation/ladder.rs` for the way.
//!
//! Additions that a head vouches for count at once, however many heads before it are missing. The position moves only when
//! the set is complete, which its root proves. Up the skip ladder that takes what is new alone; where a rung is missing, or
//! the sum is not what the root says, the snapshot takes its place, piece by piece. Where that is no newer than what is
//! complete, finer rungs lead around a missing one: a long one may be more than a message holds.
//!
//! What is written down is written before it counts: [`Feed::written`] gives the file that says it.
//!
//! When the root keys begin a new era, the position begins anew and what was revoked does not: it is kept apart, so that
//! whoever had the key of the old era has not filled the room of the new one.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use super::clock::Between;
use crate::ids::{BlockId, Hash};
use crate::mutant::{self, Mutant};
use crate::time::Timestamp;
use crate::wire::envelope::Signed;
use crate::wire::revocation::announcement::{rules_digest, Believed, BelievedSet, BelievedSnapshot, Head};
use crate::wire::revocation::ladder::{steps_among, Step};
use crate::wire::revocation::manifest::{Manifest, Part, Piece, PIECE_BYTES};
use crate::wire::revocation::rules::Selector;
use crate::wire::revocation::set::{PartKey, RevocationSet};
use crate::wire::revocation::slot::Slot;
use crate::wire::revocation::{highest_number, Position};
use crate::wire::{Refused, MESSAGE_BYTES_MAX};

mod stored;

use stored::Beside;
pub use stored::{Held, StoredFeed, Written, STORED_BYTES_MAX};

/// Bytes of a set, about: no device holds or gathers more of a feed.
pub const SET_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Parts of a snapshot that are less than this, about, wait for more before they count.
const UNSEEN_MIN: usize = 4 * PIECE_BYTES;
/// What is fetched at a time: brokers bound what one client may ask for at once.
const WANTED_MAX: usize = 8;
/// With more steps than this missing the ladder is given up.
const LACKING_MAX: usize = 64;

/// A place of a feed on the broker that is read once and left.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Wanted {
    /// A step of the ladder.
    Step(Step),
    /// The manifest of the newest snapshot.
    Manifest,
    /// A piece of a part of it.
    Piece(PartKey, u32),
}

/// Keeps what an era revoked that is over. Where there is no room for all of it, the older entries are those that stay, and
/// of the others the parts that have room: whoever filled one of them has not filled the others.
fn outlive(past: &mut RevocationSet, over: &RevocationSet) {
    if add_bounded(past, over).is_ok() {
        return;
    }
    for key in over.parts() {
        let mut part = RevocationSet::default();
        let bytes = over.part(key).unwrap_or_default();
        if part.put_part(key, &bytes).is_ok() {
            // A part without room is one that an era which is over has filled.
            let _ = add_bounded(past, &part);
        }
    }
}

/// What a message changed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changed {
    /// Something is revoked that was not.
    pub revoked: bool,
    /// A newer head is known.
    pub newer: bool,
    /// The complete position moved.
    pub moved: bool,
    /// The set of the newest head is complete.
    pub complete: bool,
    /// What of it was refused, where the rest counts.
    pub refused: Option<Refused>,
}

impl Changed {
    /// Whether the file must be written.
    pub fn any(&self) -> bool {
        self.revoked || self.newer || self.moved
    }
}

/// One feed.
#[derive(Debug, Default)]
pub struct Feed {
    known: Option<Known>,
    seen: RevocationSet,
    /// What earlier eras revoked.
    past: RevocationSet,
    newest: Option<Newest>,
    /// Rules that no head has named yet: they may arrive before it.
    early: Option<Vec<u8>>,
    /// Where it had come before its set was lost, and a time by which it had: numbers are counted from there.
    stood: Option<(Position, Timestamp)>,
    /// What is not in the whole that was written last. None where that has to be written anew.
    beside: Option<Beside>,
}

#[derive(Debug)]
struct Known {
    signed: Signed<Head>,
    head: Head,
    position: Position,
    set: RevocationSet,
    /// The set's parts: what a step does not touch is not hashed again.
    manifest: Manifest,
    /// The newest head's time that E has taken: what a head claims beyond that makes nothing fresher.
    taken: Timestamp,
}

#[derive(Debug)]
struct Newest {
    signed: Signed<Head>,
    head: Head,
    position: Position,
    way: Way,
    /// Steps that were asked for and did not come.
    lacking: Lacking,
}

/// Which steps of the ladder to the newest head the broker has not.
#[derive(Debug)]
enum Lacking {
    /// All the same: the sum of the steps is not what the root says.
    Useless,
    /// These.
    Steps(BTreeSet<Step>),
}

impl Default for Lacking {
    fn default() -> Self {
        Self::Steps(BTreeSet::new())
    }
}

/// How the newest head's set is to be made complete.
#[derive(Debug)]
enum Way {
    /// By what the heads since the complete one added.
    Ladder(Gathered),
    /// As a whole.
    Snapshot(Box<Fetching>),
    /// Not before the next head.
    None,
}

/// Where a head stands beside what was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Nothing newer was seen.
    Newer,
    /// It is the newest, or a step towards that.
    OnTheWay,
    /// It is older, and no step.
    Behind {
        /// The newest number that was seen.
        known: u64,
    },
}

/// Additions of some heads.
#[derive(Debug, Default)]
struct Gathered {
    /// Begin and end of the steps that are in.
    spans: Vec<(u64, u64)>,
    additions: RevocationSet,
}

#[derive(Debug, Default)]
struct Fetching {
    /// Which set it is; none before its manifest is here.
    target: Option<Target>,
    /// Parts that are whole.
    set: RevocationSet,
    /// Those of them that do not count yet.
    unseen: RevocationSet,
    /// Parts that are to come, the next one first.
    missing: Vec<Part>,
    /// The beginning of the first of them.
    part: Vec<u8>,
    /// Pieces of it that came before their turn.
    ahead: BTreeMap<u32, Vec<u8>>,
}

/// A head whose set is to become the complete one, and the parts of that.
#[derive(Debug)]
struct Target {
    signed: Signed<Head>,
    head: Head,
    position: Position,
    manifest: Manifest,
}

/// How a complete set came about.
enum Origin {
    /// The one before grew by these.
    Grown(RevocationSet),
    /// As a whole.
    Whole,
}

impl Feed {
    /// The complete position.
    pub fn position(&self) -> Option<&Position> {
        self.known.as_ref().map(|known| &known.position)
    }

    /// The complete head.
    pub fn head(&self) -> Option<&Head> {
        self.known.as_ref().map(|known| &known.head)
    }

    /// The newest position that was seen, complete or not.
    pub fn mark(&self) -> Option<&Position> {
        self.newest.as_ref().map(|newest| &newest.position).or(self.position())
    }

    /// Whether a head is known whose set is not complete.
    pub fn gathering(&self) -> bool {
        self.newest.is_some()
    }

    /// When the newest head was signed, where its set is not complete.
    pub fn waiting_since(&self) -> Option<Timestamp> {
        self.newest.as_ref().map(|newest| newest.head.issued_at)
    }

    /// Its set is lost: it had come to this position by that time.
    pub fn stood_at(&mut self, position: Position, by: Timestamp) {
        self.stood = Some((position, by));
    }

    /// The feed as a planted bug would read it back: at its position, with nothing revoked.
    pub fn forgetful(mut self) -> Self {
        self.seen = RevocationSet::default();
        self.past = RevocationSet::default();
        if let Some(known) = &mut self.known {
            known.set = RevocationSet::default();
        }
        self
    }

    /// The time up to which what is known counts as new.
    pub fn taken(&self) -> Timestamp {
        self.known.as_ref().map_or(Timestamp(0), |known| known.taken)
    }

    /// Sets [`Feed::taken`].
    pub fn take(&mut self, taken: Timestamp) {
        if let Some(known) = &mut self.known {
            known.taken = taken;
        }
    }

    /// A head with additions, from whichever place. What it adds counts at once.
    ///
    /// # Errors
    /// When it is older than what is known, no step of the way and adds nothing; contradicts what is known; is further ahead
    /// than there can be heads and adds nothing; or is more than can be held.
    pub fn announce(&mut self, believed: Believed, between: Between) -> Result<Changed, Refused> {
        let Between { floor, latest } = between;
        let place = self.check(&believed.head, &believed.position, Some(believed.step))?;
        if let Some(refused) = self.leap(&believed.head, latest) {
            // A key of the feed signed it: what it revokes counts. To wait for its set would keep the fleet's heads back.
            let revoked = self.see_additions(&believed, floor)?;
            return if revoked {
                Ok(Changed { revoked, refused: Some(refused), ..Changed::default() })
            } else {
                Err(refused)
            };
        }
        if let Place::Behind { known } = place {
            if mutant::active(Mutant::BehindUnheeded) {
                return Err(Refused::RolledBack { offered: believed.position.seq, known });
            }
        }
        if self.mark().is_some_and(|mark| mark.era < believed.head.era) {
            // The complete set of the old era holds until that of the new one takes its place.
            self.outlive_seen();
        }
        let before = self.reached();
        let revoked = self.see_additions(&believed, floor)?;
        let newer = match place {
            Place::Newer => true,
            Place::OnTheWay => false,
            // An old head is no news, unless it revokes what was not known.
            Place::Behind { .. } if revoked => return Ok(Changed { revoked, ..Changed::default() }),
            Place::Behind { known } => return Err(Refused::RolledBack { offered: believed.position.seq, known }),
        };
        let from = self.known.as_ref().filter(|known| known.head.era == believed.head.era);
        let from = from.map_or(0, |known| known.head.seq);
        let Believed { signed, head, position, step, additions } = believed;
        if newer {
            let before = self.newest.take().filter(|newest| newest.head.era == head.era);
            let (before, lacking) =
                before.map_or_else(Default::default, |newest| (Some(newest.way), newest.lacking.beyond(from)));
            let way = match (before, lacking.way(from, &head)) {
                // What is being fetched is good for this head as well: the ladder leads on from it.
                (Some(Way::Snapshot(fetching)), _) if fetching.target.is_some() => Way::Snapshot(fetching),
                (Some(Way::Ladder(gathered)), Some(_)) => Way::Ladder(gathered),
                (_, Some(_)) => Way::Ladder(Gathered::default()),
                (_, None) => Way::Snapshot(Box::default()),
            };
            self.newest = Some(Newest { signed, head, position, way, lacking });
        }
        if let Some(Newest { way: Way::Ladder(gathered), .. }) = &mut self.newest {
            if step.end > from && !gathered.spans.contains(&(step.begin(), step.end)) {
                gathered.spans.push((step.begin(), step.end));
                if gathered.additions.apply(&additions).is_err() {
                    // What is past the limits of a set is no way to one: the whole set tells.
                    self.detour();
                }
            }
        }
        let climbed = self.climb(floor);
        let early = self.early.take();
        let by_rules = early.map_or(Ok(false), |rules| self.rules(&rules, floor).map(|changed| changed.revoked));
        Ok(Changed {
            revoked: revoked || by_rules == Ok(true),
            newer,
            moved: self.reached() != before,
            complete: climbed == Ok(true),
            refused: climbed.err().or(by_rules.err()),
        })
    }

    /// A head with its whole set, which somebody carried here: with it the position is complete at once.
    ///
    /// # Errors
    /// When it is older than what is complete, contradicts what is known, is further ahead than there can be heads and
    /// revokes nothing new, or is more than can be held.
    pub fn whole(&mut self, believed: BelievedSet, between: Between) -> Result<Changed, Refused> {
        let Between { floor, latest } = between;
        let BelievedSet { signed, head, position, set } = believed;
        let place = self.check(&head, &position, None)?;
        if let Some(refused) = self.leap(&head, latest) {
            let revoked = self.see(&set, floor)?;
            return if revoked {
                Ok(Changed { revoked, refused: Some(refused), ..Changed::default() })
            } else {
                Err(refused)
            };
        }
        let newer = match place {
            Place::Newer => true,
            Place::OnTheWay => false,
            // A head is known that is newer still. Up to this one, all that was missing is here.
            Place::Behind { .. } if self.is_ahead_of_complete(&position) => false,
            Place::Behind { known } => return Err(Refused::RolledBack { offered: position.seq, known }),
        };
        if !newer && !self.is_ahead_of_complete(&position) {
            return Ok(Changed::default());
        }
        let bytes = set.memory_bytes();
        if bytes > SET_BYTES_MAX {
            return Err(Refused::TooLarge { bytes, limit: SET_BYTES_MAX });
        }
        let known = self.known.as_ref().map(|known| &known.set);
        let mut fresh = known.map_or_else(|| set.clone(), |known| set.since(known)).since(&self.seen);
        fresh.drop_expired(floor);
        if self.mark().is_some_and(|mark| mark.era < head.era) {
            self.outlive_seen();
        }
        let target = Target { signed, head, position, manifest: Manifest::of(&set) };
        let complete = self.complete(target, set, Origin::Whole, floor)?;
        Ok(Changed { revoked: !fresh.is_empty(), newer, moved: true, complete, refused: None })
    }

    /// What an era revoked that is over is kept apart.
    fn outlive_seen(&mut self) {
        outlive(&mut self.past, &std::mem::take(&mut self.seen));
        self.beside = None;
    }

    /// Era and number of the complete set.
    fn reached(&self) -> (u32, u64) {
        self.position().map_or((0, 0), Position::order)
    }

    fn is_ahead_of_complete(&self, offered: &Position) -> bool {
        self.position().is_none_or(|complete| offered.order() > complete.order())
    }

    /// Where a head stands beside what was seen; `step` as which it came, if it did as one.
    fn check(&self, head: &Head, offered: &Position, step: Option<Step>) -> Result<Place, Refused> {
        let blind = mutant::active(Mutant::EquivocationUnnoticed);
        for held in self.position().into_iter().chain(self.mark()).filter(|_| !blind) {
            if offered.order() == held.order() && offered.digest != held.digest {
                return Err(Refused::Equivocation { position: offered.seq });
            }
            let follows = offered.era == held.era && held.seq.checked_add(1) == Some(offered.seq);
            if follows && head.previous != held.digest {
                return Err(Refused::Equivocation { position: held.seq });
            }
        }
        let Some(mark) = self.mark() else { return Ok(Place::Newer) };
        Ok(match offered.order().cmp(&mark.order()) {
            Ordering::Greater => Place::Newer,
            Ordering::Equal => Place::OnTheWay,
            Ordering::Less if mutant::active(Mutant::FeedPositionLowered) => Place::Newer,
            Ordering::Less if offered.era == mark.era && step.is_some_and(|step| self.asked_for(step)) => {
                Place::OnTheWay
            }
            Ordering::Less => Place::Behind { known: mark.seq },
        })
    }

    /// Why a head cannot be taken that is further ahead of the complete one than a publisher can have come by the time at
    /// which it was signed: whoever post-dates it gains no more than what can have been signed by now.
    fn leap(&self, head: &Head, latest: Timestamp) -> Option<Refused> {
        let complete = self.known.as_ref().map(|known| (known.head.era, known.head.seq, known.head.issued_at));
        let lost = self.stood.as_ref().map(|(position, by)| (position.era, position.seq, *by));
        let known = complete.or(lost).filter(|(era, ..)| *era == head.era);
        let (known, since) = known.map_or((0, Timestamp(0)), |(_, seq, since)| (seq, since));
        let latest = if mutant::active(Mutant::LeapByClaim) { head.issued_at } else { latest };
        let most = highest_number(known, since, head.issued_at.min(latest));
        let leaps = head.seq > most && !mutant::active(Mutant::LeapTaken);
        leaps.then_some(Refused::LeapsAhead { offered: head.seq, known, most })
    }

    fn see_additions(&mut self, believed: &Believed, floor: Timestamp) -> Result<bool, Refused> {
        let reached = self.position().map_or(0, |position| position.seq);
        if mutant::active(Mutant::GapIgnored) && believed.step.begin() > reached {
            return Ok(false);
        }
        self.see(&believed.additions, floor)
    }

    /// Whether a step is wanted, or was until it was given up: an honest broker may be late.
    fn asked_for(&self, step: Step) -> bool {
        let given_up = self.newest.as_ref().is_some_and(|newest| newest.lacking.has(step));
        given_up || self.wanted().contains(&Wanted::Step(step))
    }

    /// Takes what is revoked into account, if it is not known yet and in force. Says whether it is anything new.
    fn see(&mut self, additions: &RevocationSet, floor: Timestamp) -> Result<bool, Refused> {
        let known = self.known.as_ref().map(|known| &known.set);
        let fresh = known.map_or_else(|| additions.clone(), |set| additions.since(set)).since(&self.seen);
        let mut fresh = fresh.since(&self.past);
        fresh.drop_expired(floor);
        if fresh == RevocationSet::default() {
            return Ok(false);
        }
        add_bounded(&mut self.seen, &fresh)?;
        // What has no room beside the whole is written with the next one.
        self.beside.take_if(|beside| beside.see(&fresh).is_err());
        Ok(true)
    }

    /// All rules of the newest head, or of one that is to come: they count at once.
    ///
    /// # Errors
    /// When they are no rules, or more than can be held.
    pub fn rules(&mut self, payload: &[u8], floor: Timestamp) -> Result<Changed, Refused> {
        if payload.len() > MESSAGE_BYTES_MAX {
            return Err(Refused::TooLarge { bytes: payload.len(), limit: MESSAGE_BYTES_MAX });
        }
        let digest = rules_digest(payload);
        let heads = self.newest.iter().map(|newest| &newest.head).chain(self.head());
        if !heads.into_iter().any(|head| head.rules == digest) {
            self.early = Some(payload.to_vec());
            return Ok(Changed::default());
        }
        let mut rules = RevocationSet::default();
        if !payload.is_empty() {
            rules.put_part(PartKey::Rules, payload)?;
        }
        Ok(Changed { revoked: self.see(&rules, floor)?, ..Changed::default() })
    }

    /// Completes the newest head's set by the ladder, if every step is in.
    ///
    /// # Errors
    /// As [`Feed::complete`].
    fn climb(&mut self, floor: Timestamp) -> Result<bool, Refused> {
        let Some(Newest { head, position, signed, way: Way::Ladder(gathered), .. }) = &self.newest else {
            return Ok(false);
        };
        let known = self.known.as_ref().filter(|known| known.head.era == head.era);
        let reached = gathered.reached(known.map_or(0, |known| known.head.seq));
        if reached < head.seq && !mutant::active(Mutant::GapCountedComplete) {
            return Ok(false);
        }
        let base = known.map_or_else(RevocationSet::default, |known| known.set.clone());
        let sum = base.merge(&gathered.additions).ok().map(|mut sum| {
            sum.drop_expired(head.dropped_before);
            let manifest = known.map_or_else(Default::default, |known| known.manifest.clone());
            let manifest = manifest.grown(&sum, &gathered.additions);
            (sum, manifest)
        });
        let unproven = mutant::active(Mutant::RootNotCompared) || mutant::active(Mutant::GapCountedComplete);
        match sum.filter(|(_, manifest)| unproven || manifest.root() == head.root) {
            Some((set, _)) if set.memory_bytes() > SET_BYTES_MAX => {
                let bytes = set.memory_bytes();
                self.newest.iter_mut().for_each(|newest| newest.way = Way::None);
                Err(Refused::TooLarge { bytes, limit: SET_BYTES_MAX })
            }
            Some((set, manifest)) => {
                let target =
                    Target { signed: signed.clone(), head: head.clone(), position: position.clone(), manifest };
                let origin = match known.is_some() {
                    true => Origin::Grown(gathered.additions.clone()),
                    false => Origin::Whole,
                };
                self.complete(target, set, origin, floor)
            }
            // The publisher went on from a restored ledger, or a head was one of two: the whole set tells.
            None => {
                self.detour();
                Ok(false)
            }
        }
    }

    /// A set is complete. Says whether it is the newest; where it is not, the ladder leads on from it.
    ///
    /// # Errors
    /// When there is no room for what it leaves out: then all stays as it was, and the feed does not get newer.
    fn complete(
        &mut self,
        target: Target,
        set: RevocationSet,
        origin: Origin,
        floor: Timestamp,
    ) -> Result<bool, Refused> {
        let Target { signed, head, position, manifest } = target;
        let same_era = self.known.as_ref().is_some_and(|known| known.head.era == head.era);
        // What the new set leaves out though it is in force holds until its signed end: a revocation is not taken back.
        let mut left_out = match (&self.known, &origin) {
            (None, _) => RevocationSet::default(),
            (Some(before), Origin::Grown(_)) => before.set.expired(head.dropped_before).since(&set),
            (Some(before), Origin::Whole) => before.set.since(&set),
        };
        left_out.drop_expired(floor);
        let mut seen = self.seen.since(&set);
        seen.drop_expired(floor);
        if same_era {
            if let Err(refused) = add_bounded(&mut seen, &left_out) {
                self.newest.iter_mut().for_each(|newest| newest.way = Way::None);
                return Err(refused);
            }
        } else {
            outlive(&mut self.past, &left_out);
        }
        self.seen = seen;
        self.past = self.past.since(&set);
        self.past.drop_expired(floor);
        self.beside.take_if(|beside| match &origin {
            Origin::Grown(additions) => {
                let grown = beside.grow(additions, &set, head.dropped_before, floor);
                grown.and_then(|()| beside.see(&left_out)).is_err()
            }
            Origin::Whole => true,
        });
        let taken = self.known.as_ref().map_or(Timestamp(0), |known| known.taken);
        self.known = Some(Known { signed, head, position, set, manifest, taken });
        self.newest = self
            .newest
            .take()
            .filter(|newest| self.position().is_none_or(|complete| newest.position.order() > complete.order()));
        self.climb_from_known();
        Ok(self.newest.is_none())
    }

    fn climb_from_known(&mut self) {
        let known = self.known.as_ref();
        if let Some(newest) = &mut self.newest {
            let from = known.filter(|known| known.head.era == newest.head.era).map_or(0, |known| known.head.seq);
            newest.lacking = std::mem::take(&mut newest.lacking).beyond(from);
            newest.way = match newest.lacking.way(from, &newest.head) {
                Some(_) => Way::Ladder(Gathered::default()),
                None => Way::Snapshot(Box::default()),
            };
        }
    }

    fn detour(&mut self) {
        if let Some(newest) = &mut self.newest {
            newest.way = Way::Snapshot(Box::default());
            newest.lacking = Lacking::Useless;
        }
    }

    /// The number of the complete set, in the era of the newest head.
    fn complete_below_newest(&self) -> u64 {
        let in_its_era = |known: &&Known| self.newest.as_ref().is_some_and(|newest| newest.head.era == known.head.era);
        self.known.as_ref().filter(in_its_era).map_or(0, |known| known.head.seq)
    }

    /// The feed's era is this one. A head of another is not waited for any more: nobody tells the rest of its set.
    pub fn follow(&mut self, era: u32) {
        self.newest = self.newest.take().filter(|newest| newest.head.era == era);
    }

    /// What was wanted has not come for long: the other way, or none before the next head.
    pub fn give_up(&mut self) {
        let (wanted, from) = (self.wanted(), self.complete_below_newest());
        let Some(newest) = &mut self.newest else { return };
        newest.way = match &newest.way {
            Way::Ladder(gathered) => {
                let steps = wanted.into_iter().filter_map(|wanted| match wanted {
                    Wanted::Step(step) => Some(step),
                    Wanted::Manifest | Wanted::Piece(..) => None,
                });
                newest.lacking.add(steps.filter(|step| !gathered.spans.contains(&(step.begin(), step.end))));
                Way::Snapshot(Box::default())
            }
            Way::Snapshot(_) => newest.around(from),
            Way::None => Way::None,
        };
    }

    /// The newest head, where its set is not complete.
    pub fn awaited(&self) -> Option<&Signed<Head>> {
        self.newest.as_ref().map(|newest| &newest.signed)
    }

    /// The key of the newest head is gone: its set is waited for no more, and heads of lower numbers count again. What it
    /// added stays.
    pub fn let_go(&mut self) {
        self.newest = None;
    }

    /// The connection is new: everything may be asked for again.
    pub fn retry(&mut self) {
        if let Some(newest) = self.newest.as_mut().filter(|newest| matches!(newest.way, Way::None)) {
            newest.lacking = Lacking::default();
            self.climb_from_known();
        }
    }

    /// What is to be fetched now, in this order.
    pub fn wanted(&self) -> Vec<Wanted> {
        let Some(newest) = &self.newest else { return Vec::new() };
        match &newest.way {
            Way::None => Vec::new(),
            Way::Ladder(gathered) => {
                let known = self.known.as_ref().filter(|known| known.head.era == newest.head.era);
                let reached = gathered.reached(known.map_or(0, |known| known.head.seq));
                let way = newest.lacking.way(reached, &newest.head).unwrap_or_default();
                way.into_iter().take(WANTED_MAX).map(Wanted::Step).collect()
            }
            Way::Snapshot(fetching) => fetching.wanted(),
        }
    }

    /// The manifest of a snapshot: of the newest head, or of one between it and the complete one.
    ///
    /// # Errors
    /// When it leads nowhere, contradicts what is known, or is more than can be held.
    pub fn snapshot(&mut self, believed: BelievedSnapshot, floor: Timestamp) -> Result<Changed, Refused> {
        let BelievedSnapshot { signed, head, position, manifest } = believed;
        for held in self.position().into_iter().chain(self.mark()) {
            if position.order() == held.order() && position.digest != held.digest {
                return Err(Refused::Equivocation { position: position.seq });
            }
        }
        let reached = self.reached();
        let from = self.complete_below_newest();
        let known = self.known.as_ref();
        let Some(newest) = &mut self.newest else { return Ok(Changed::default()) };
        let Way::Snapshot(fetching) = &mut newest.way else { return Ok(Changed::default()) };
        if fetching.target.is_some() {
            return Ok(Changed::default());
        }
        if position.order() <= reached && !mutant::active(Mutant::SnapshotRollsBack) {
            // It is brought seldom: nothing to gain from it. Where finer steps do not lead on, the next head, or the next
            // connection, finds another way.
            newest.way = newest.around(from);
            return Ok(Changed::default());
        }
        if position.order() > newest.position.order() {
            // Newer than the head that is known: the head itself is on its way, and then this is asked for again.
            return Ok(Changed::default());
        }
        let bytes = manifest.parts().iter().map(|part| part.bytes as usize).sum();
        if bytes > SET_BYTES_MAX {
            return Err(Refused::TooLarge { bytes, limit: SET_BYTES_MAX });
        }
        fetching.plan(&manifest, known)?;
        fetching.target = Some(Target { signed, head, position, manifest });
        let complete = self.assemble(floor)?;
        Ok(Changed { moved: self.reached() != reached, complete, ..Changed::default() })
    }

    /// A piece of a snapshot.
    ///
    /// # Errors
    /// When it is none, or belongs to another set than that of the newest head.
    pub fn piece(&mut self, payload: &[u8], floor: Timestamp) -> Result<Changed, Refused> {
        let Some(Newest { way: Way::Snapshot(fetching), .. }) = &mut self.newest else {
            return Ok(Changed::default());
        };
        let Some(target) = &fetching.target else { return Ok(Changed::default()) };
        let piece = Piece::from_bytes(payload)?;
        let (part, offset, bytes) = piece.verify(&target.head.root)?;
        let Some(whole) = fetching.take(part, offset, bytes)? else { return Ok(Changed::default()) };
        fetching.unseen.apply(&whole)?;
        // Parts that are whole count before the rest is here. What counts is written down, and written again with what comes
        // after it: so it has to be as much again each time, or the whole set would be written once for each of its parts.
        let due = fetching.unseen.memory_bytes() >= self.seen.memory_bytes().max(UNSEEN_MIN);
        if !due && !fetching.missing.is_empty() {
            return Ok(Changed::default());
        }
        let unseen = std::mem::take(&mut fetching.unseen);
        let (before, revoked) = (self.reached(), self.see(&unseen, floor)?);
        let assembled = self.assemble(floor);
        Ok(Changed {
            revoked,
            newer: false,
            moved: self.reached() != before,
            complete: assembled == Ok(true),
            refused: assembled.err(),
        })
    }

    fn assemble(&mut self, floor: Timestamp) -> Result<bool, Refused> {
        let Some(Newest { way: Way::Snapshot(fetching), .. }) = &mut self.newest else { return Ok(false) };
        let Some(target) = fetching.target.take_if(|_| fetching.missing.is_empty()) else { return Ok(false) };
        let set = std::mem::take(&mut fetching.set);
        self.complete(target, set, Origin::Whole, floor)
    }

    /// The sets that count: the complete one, what was seen beyond it, and what is left of earlier eras.
    fn sets(&self) -> impl Iterator<Item = &RevocationSet> {
        self.known.iter().map(|known| &known.set).chain([&self.seen, &self.past])
    }

    /// The rule that covers one of these, if any does.
    pub fn covers_by_rule(
        &self,
        selectors: impl IntoIterator<Item = Selector> + Clone,
        issued: Timestamp,
        floor: Timestamp,
    ) -> Option<Selector> {
        self.sets().find_map(|set| set.covers_by_rule(selectors.clone(), issued, floor))
    }

    /// Whether a block of a token that expires in this slot is revoked.
    pub fn covers_block(&self, slot: Slot, block: &BlockId) -> bool {
        self.sets().any(|set| set.covers_block(slot, block)) && !mutant::active(Mutant::BlockUnrevoked)
    }

    /// Whether a block is revoked, whenever the token expires that holds it.
    pub fn covers_block_anywhere(&self, block: &BlockId) -> bool {
        self.sets().any(|set| set.covers_block_anywhere(block)) && !mutant::active(Mutant::BlockUnrevoked)
    }

    /// Whether a serial is revoked.
    pub fn covers_serial(&self, slot: Slot, serial: u32) -> bool {
        self.sets().any(|set| set.covers_serial(slot, serial))
    }

    /// Whether E has passed the end of all that it revoked.
    pub fn has_ended(&self, floor: Timestamp) -> bool {
        self.sets().all(|set| {
            let mut left = set.clone();
            left.drop_expired(floor);
            left.is_empty()
        })
    }

    /// The root of what counts altogether: equal on devices that have seen the same.
    pub fn root(&self) -> Hash {
        Manifest::of(&self.sum()).root()
    }

    /// All that counts, in one set.
    pub fn sum(&self) -> RevocationSet {
        self.sets().try_fold(RevocationSet::default(), |sum, set| sum.merge(set)).unwrap_or_default()
    }

    /// The complete head, with its signatures, and its set.
    pub fn complete_set(&self) -> Option<(&Signed<Head>, &RevocationSet)> {
        self.known.as_ref().map(|known| (&known.signed, &known.set))
    }

    /// What was seen beyond the complete set, or was left out of it and is in force.
    pub fn seen(&self) -> &RevocationSet {
        &self.seen
    }

    /// How the newest head's set is being made complete, in words; none where it is.
    pub fn gathers(&self) -> Option<&'static str> {
        self.newest.as_ref().map(|newest| match &newest.way {
            Way::Ladder(_) => "steps of the ladder",
            Way::Snapshot(fetching) if fetching.target.is_none() => "the manifest of a snapshot",
            Way::Snapshot(_) => "pieces of a snapshot",
            Way::None => "the next head, or the next connection",
        })
    }

    /// All of it, as a file of this number holds it.
    pub fn stored(&self, number: u64) -> StoredFeed {
        StoredFeed {
            number,
            head: self.known.as_ref().map(|known| known.signed.clone()),
            set: self.known.as_ref().map_or_else(RevocationSet::default, |known| known.set.clone()).to_bytes(),
            seen: self.seen.to_bytes(),
            past: self.past.to_bytes(),
            newest: self.newest.as_ref().map(|newest| newest.signed.clone()),
            taken: self.taken(),
        }
    }

    /// The file that is to be written now under the next number, so that the disk holds all of it.
    pub fn written(&mut self, number: u64) -> Written {
        let head = self.known.as_ref().map(|known| known.signed.clone());
        let newest = self.newest.as_ref().map(|newest| newest.signed.clone());
        let taken = self.taken();
        if let Some(bytes) = self.beside.as_mut().and_then(|beside| beside.write(number, head, newest, taken)) {
            return Written::Since(bytes);
        }
        let (written, beside) = Written::whole(&self.stored(number));
        self.beside = Some(beside);
        written
    }

    /// A feed from its files, whose heads were believed before: `head` and `newest` are what they say.
    ///
    /// # Errors
    /// When the set is not the one that the head names.
    pub fn restore(held: Held, head: Option<Head>, newest: Option<Head>) -> Result<Self, Refused> {
        let Held { set, seen, past, taken, beside, .. } = held;
        let known = match (held.head, head) {
            (Some(signed), Some(head)) => {
                let manifest = Manifest::of(&set);
                if manifest.root() != head.root && !mutant::active(Mutant::RotUnnoticed) {
                    return Err(Refused::DigestMismatch);
                }
                let position = head.position(signed.digest());
                Some(Known { signed, head, position, set, manifest, taken })
            }
            (_, _) => None,
        };
        let mut feed = Self { known, seen, past, newest: None, early: None, stood: None, beside: Some(beside) };
        if let (Some(signed), Some(head)) = (held.newest, newest) {
            let position = head.position(signed.digest());
            feed.newest = Some(Newest { signed, head, position, way: Way::None, lacking: Lacking::default() });
            feed.retry();
        }
        Ok(feed)
    }
}

/// Adds to a set what has room in it, or nothing.
fn add_bounded(set: &mut RevocationSet, more: &RevocationSet) -> Result<(), Refused> {
    let bytes = set.memory_bytes() + more.memory_bytes();
    if bytes > SET_BYTES_MAX {
        return Err(Refused::TooLarge { bytes, limit: SET_BYTES_MAX });
    }
    set.apply(more)
}

impl Newest {
    /// The way up the ladder around the steps that did not come, if some did not and there is one; else none.
    fn around(&self, from: u64) -> Way {
        let some = matches!(&self.lacking, Lacking::Steps(steps) if !steps.is_empty());
        match self.lacking.way(from, &self.head).filter(|_| some) {
            Some(_) => Way::Ladder(Gathered::default()),
            None => Way::None,
        }
    }
}

impl Lacking {
    /// The steps from a position up to a head, of those that there are: the head says which end at it.
    fn way(&self, from: u64, to: &Head) -> Option<Vec<Step>> {
        let Self::Steps(lacking) = self else { return None };
        let there_is = |step: Step| !lacking.contains(&step) && (step.end < to.seq || to.step(step.level).is_some());
        steps_among(from, to.seq, there_is)
    }

    /// What of it says something of the way from another position: that the sum was wrong says nothing.
    fn beyond(self, from: u64) -> Self {
        match self {
            Self::Useless => Self::default(),
            Self::Steps(steps) => Self::Steps(steps.into_iter().filter(|step| step.end > from).collect()),
        }
    }

    fn has(&self, step: Step) -> bool {
        matches!(self, Self::Steps(steps) if steps.contains(&step))
    }

    /// These have not come either.
    fn add(&mut self, more: impl Iterator<Item = Step>) {
        if let Self::Steps(steps) = self {
            steps.extend(more);
            if steps.len() > LACKING_MAX {
                *self = Self::Useless;
            }
        }
    }
}

impl Gathered {
    /// How far the steps lead on from a position without a hole.
    fn reached(&self, from: u64) -> u64 {
        let mut reached = from;
        while let Some((_, end)) = self.spans.iter().find(|(begin, end)| *begin <= reached && reached < *end) {
            reached = *end;
        }
        reached
    }
}

impl Fetching {
    fn wanted(&self) -> Vec<Wanted> {
        if self.target.is_none() {
            return vec![Wanted::Manifest];
        }
        let Some(part) = self.missing.first() else { return Vec::new() };
        let next = self.part.len() / PIECE_BYTES;
        let pieces = (next..part.pieces()).filter_map(|piece| u32::try_from(piece).ok());
        let missing = pieces.filter(|piece| !self.ahead.contains_key(piece));
        // What comes before its turn is kept only if it is all of its part, and nothing is asked for twice.
        let others =
            self.missing.iter().skip(1).filter(|part| part.pieces() == 1).map(|part| Wanted::Piece(part.key, 0));
        missing.map(|piece| Wanted::Piece(part.key, piece)).chain(others).take(WANTED_MAX).collect()
    }

    /// Parts that are held already need not be fetched.
    fn plan(&mut self, manifest: &Manifest, known: Option<&Known>) -> Result<(), Refused> {
        for part in manifest.parts() {
            let same = known.filter(|known| known.manifest.parts().contains(part));
            match same.and_then(|known| known.set.part(part.key)) {
                Some(bytes) => self.set.put_part(part.key, &bytes)?,
                None => self.missing.push(*part),
            }
        }
        Ok(())
    }

    /// A piece that is believed. Gives the part that it completes.
    fn take(&mut self, part: Part, offset: usize, bytes: &[u8]) -> Result<Option<RevocationSet>, Refused> {
        let Some(next) = self.missing.iter().position(|missing| missing.key == part.key) else { return Ok(None) };
        let number = u32::try_from(offset / PIECE_BYTES).unwrap_or(u32::MAX);
        if next > 0 {
            // Another part's first piece: taken if that is all of it, else it is asked for again in its turn.
            if part.pieces() > 1 {
                return Ok(None);
            }
            return self.whole(next, bytes).map(Some);
        }
        if offset > self.part.len() && self.ahead.len() < WANTED_MAX {
            self.ahead.insert(number, bytes.to_vec());
        }
        if offset == self.part.len() {
            self.part.extend_from_slice(bytes);
        }
        while let Some(bytes) = self.ahead.remove(&((self.part.len() / PIECE_BYTES) as u32)) {
            self.part.extend_from_slice(&bytes);
        }
        if self.part.len() < part.bytes as usize {
            return Ok(None);
        }
        let whole = std::mem::take(&mut self.part);
        self.ahead.clear();
        self.whole(0, &whole).map(Some)
    }

    /// A part whose bytes are no part stays missing: then there is no such set, whoever signed it.
    fn whole(&mut self, index: usize, bytes: &[u8]) -> Result<RevocationSet, Refused> {
        let Some(part) = self.missing.get(index) else { return Ok(RevocationSet::default()) };
        let mut alone = RevocationSet::default();
        alone.put_part(part.key, bytes)?;
        self.set.put_part(part.key, bytes)?;
        self.missing.remove(index);
        Ok(alone)
    }
}

#[cfg(test)]
mod tests;
