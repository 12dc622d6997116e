//! What emergency keys have revoked, as this device has it.
//!
//! Owns: [`Emergencies`]: per key the newest statement and every rule that is in force, by whomever it was left out since;
//! when a rule ends; what is lost of them; the order in which a statement is judged, kept and obeyed.
//! Never: lifts a rule before its end; takes a lower counter, or another content for one; moves a clock; wipes anything; takes
//! what is lost for found because a later statement says something.
//! Read next: `wire/revocation/emergency.rs` for the statement; `revocation.rs`, whose feeds stand beside this.
//!
//! Whoever steals such a key may deny, and that ends: a rule holds until E has passed its signed end, and no longer than 72 h
//! of powered-on time from when it was first seen here, so that a statement of the far future locks nobody out for long.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::clock::{Placed, TrustedClock};
use super::effects::{Effects, FileWrite, LogEvent, StateFile};
use super::request::revocations::{EmergencyRule, EmergencyStatus};
use super::wallet::Wallet;
use super::{Agent, Now, Source};
use crate::ids::{DeviceId, FeedId, Hash, KeyId};
use crate::mutant::{self, Mutant};
use crate::time::{Millis, Timestamp};
use crate::wire::audit::{Event, TrustChange};
use crate::wire::bundle::{TrustBundle, EMERGENCY_KEYS_MAX};
use crate::wire::envelope::Signed;
use crate::wire::revocation::emergency::{drop_superfluous, Declared, Emergency, LIFE_MAX, RULES_MAX};
use crate::wire::revocation::rules::Selector;
use crate::wire::{decode, encode, Refused, MESSAGE_BYTES_MAX};

/// The most rules of one key that are held: those of its statement, and what earlier ones said and it leaves out. What another
/// rule covers for as long needs no room; a statement that would take more all the same is refused until older rules have ended.
/// One on everything always has a place beside them.
pub const HELD_MAX: usize = 4 * RULES_MAX;
/// The most keys whose counters are remembered, those among them that a trust bundle has dropped.
pub const MARKS_MAX: usize = 4 * EMERGENCY_KEYS_MAX;
/// The most bytes of a file.
pub const STORED_BYTES_MAX: usize = 3 * MESSAGE_BYTES_MAX;

const SUM_BYTES: usize = 32;

/// How far a key has come, for the anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmergencyMark {
    /// The key.
    pub key: KeyId,
    /// The counter of its newest statement.
    pub counter: u64,
    /// The digest of that.
    pub digest: Hash,
    /// Whether it alone says all that was in force here, so that it brings back what its file held. What earlier statements
    /// revoked and it leaves out only the file says.
    pub alone: bool,
    /// Since when it is known that the file is lost, by [`Moment::ticked`]; none while it is there.
    pub lost: Option<Timestamp>,
}

impl EmergencyMark {
    /// That of a key whose file is here, cannot be read back, and is known to no anchor: nothing says what brings it back.
    pub(super) const fn unknown(key: KeyId) -> Self {
        Self { key, counter: 0, digest: Hash::ZERO, alone: false, lost: None }
    }
}

/// When it is, as the ends of rules go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moment {
    /// E: what ended before this is over.
    pub over: Timestamp,
    /// P without all that it was ever corrected by, down or up, and without what boots were charged: powered-on time, which only
    /// goes forward. Who lay in a drawer has not had a rule for that long, and who holds the power switch ends none with it.
    pub ticked: Timestamp,
}

impl Moment {
    /// By these clocks.
    pub(super) fn of(clock: &TrustedClock, wallet: &Wallet) -> Self {
        Self { over: clock.over(), ticked: clock.powered() + wallet.shift() - clock.raised() }
    }
}

/// One rule as it is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Life {
    /// Its signed end.
    until: Timestamp,
    /// When it was first seen with that end, by [`Moment::ticked`].
    seen: Timestamp,
    /// Why, as whoever signed that end says.
    reason: String,
}

impl Life {
    fn left(&self, at: Moment) -> Option<Millis> {
        let bound = self.seen + LIFE_MAX;
        let bounded = at.ticked < bound || mutant::active(Mutant::EmergencyOutlives);
        let lives = at.over <= self.until && bounded;
        lives.then(|| self.until.since(at.over).min(bound.since(at.ticked)))
    }

    /// Whether this holds whenever `other` does: by the floor, and by powered-on time.
    fn lasts(&self, other: &Self) -> bool {
        let seen = self.seen >= other.seen || mutant::active(Mutant::EmergencyCoveredBriefly);
        self.until >= other.until && seen
    }
}

/// The file of a key, followed by a checksum.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Stored {
    operator: String,
    signed: Signed<Emergency>,
    rules: Vec<(Selector, Life)>,
    lacks: Option<Timestamp>,
}

impl Stored {
    fn read(bytes: &[u8]) -> Result<Self, Refused> {
        let parts = bytes.len().checked_sub(SUM_BYTES).map(|end| bytes.split_at(end));
        let (content, told) = parts.ok_or(Refused::Malformed("ends too early"))?;
        if sum(content).0 != told {
            return Err(Refused::DigestMismatch);
        }
        decode(content, STORED_BYTES_MAX)
    }
}

/// The newest statement of a key, as its file has it.
///
/// # Errors
/// [`Refused::DigestMismatch`] for a file that is damaged; [`Refused::Malformed`].
pub fn stored_statement(bytes: &[u8]) -> Result<Signed<Emergency>, Refused> {
    Ok(Stored::read(bytes)?.signed)
}

#[derive(Debug, Clone)]
struct Held {
    operator: String,
    signed: Signed<Emergency>,
    said: Emergency,
    digest: Hash,
    rules: BTreeMap<Selector, Life>,
    /// Since when it is known that rules beside these are lost, by [`Moment::ticked`].
    lacks: Option<Timestamp>,
}

impl Held {
    fn in_force(&self, at: Moment) -> impl Iterator<Item = (Selector, &Life, Millis)> {
        self.rules.iter().filter_map(move |(selector, life)| Some((*selector, life, life.left(at)?)))
    }

    /// The file.
    fn to_file(&self) -> Vec<u8> {
        let stored = Stored {
            operator: self.operator.clone(),
            signed: self.signed.clone(),
            rules: self.rules.iter().map(|(selector, life)| (*selector, life.clone())).collect(),
            lacks: self.lacks,
        };
        let mut bytes = encode(&stored);
        bytes.extend(sum(&bytes).0);
        bytes
    }

    fn mark(&self, at: Moment) -> EmergencyMark {
        let says = |selector: Selector, life: &Life| {
            self.said.rules.iter().any(|(said, until)| said == selector && until >= life.until)
        };
        let all = self.in_force(at).all(|(selector, life, _)| says(selector, life));
        let Emergency { key, counter, .. } = self.said;
        EmergencyMark { key, counter, digest: self.digest, alone: all && !is_missed(self.lacks, at), lost: None }
    }
}

/// Whether what was lost then may be in force still.
fn is_missed(lost: Option<Timestamp>, at: Moment) -> bool {
    lost.is_some_and(|since| at.ticked < since + LIFE_MAX)
}

/// What emergency keys have revoked.
#[derive(Debug, Default)]
pub struct Emergencies {
    held: BTreeMap<KeyId, Held>,
    /// Keys whose files could not be read back.
    lost: BTreeMap<KeyId, EmergencyMark>,
    at: Moment,
}

/// A statement that is believed, and says something new.
#[derive(Debug, Clone)]
pub struct Judged {
    operator: String,
    signed: Signed<Emergency>,
    said: Emergency,
}

impl Judged {
    /// When it was signed.
    pub fn issued_at(&self) -> Timestamp {
        self.said.issued_at
    }
}

/// A rule that covers something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// What it covers.
    pub selector: Selector,
    /// The key.
    pub key: KeyId,
    /// Whose key it is.
    pub operator: String,
    /// Its signed end.
    pub until: Timestamp,
}

impl fmt::Display for Hit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { selector, key, operator, until } = self;
        write!(f, "{selector} by emergency key {key} of {operator}, until {until} at the latest")
    }
}

impl Emergencies {
    /// It is this late.
    pub fn advance(&mut self, at: Moment) {
        self.at = at;
    }

    /// Takes what a file says. Where no anchor knows it, nobody knows of which powered-on clock its times are: with an anchor
    /// the sums are lost by which that goes forward alone, and it may have jumped past them. So its rules count as first seen
    /// now, which lets them last and ends none. Gives the file that says so, to be written before an anchor knows the key.
    ///
    /// # Errors
    /// [`Refused::DigestMismatch`] for one that is damaged, or is not what `known` says; [`Refused::RolledBack`] for an older
    /// one.
    pub fn load(
        &mut self,
        key: KeyId,
        bytes: &[u8],
        known: Option<&EmergencyMark>,
    ) -> Result<Option<Vec<u8>>, Refused> {
        let Stored { operator, signed, rules, lacks } = Stored::read(bytes)?;
        let (said, digest) = (signed.claim()?, signed.digest());
        if said.key != key || rules.len() > HELD_MAX + 1 {
            return Err(Refused::Malformed("the file of another key"));
        }
        if let Some(known) = known {
            if said.counter < known.counter {
                return Err(Refused::RolledBack { offered: said.counter, known: known.counter });
            }
            if said.counter == known.counter && digest != known.digest {
                return Err(Refused::DigestMismatch);
            }
        }
        let mut held = Held { operator, signed, said, digest, rules: rules.into_iter().collect(), lacks };
        let seen_now = known.is_none().then(|| {
            held.rules.values_mut().for_each(|life| life.seen = self.at.ticked);
            held.lacks = held.lacks.map(|_| self.at.ticked);
            held.to_file()
        });
        self.lost.remove(&key);
        self.held.insert(key, held);
        Ok(seen_now)
    }

    /// A file that was here and cannot be read back. Nothing is allowed until everything that it can have held has ended, or its
    /// statement has come again and the mark vouches that it is all that was in force.
    ///
    /// A later statement is no way back, whatever it says: only a digest is left of what it would have to say, and whoever stole
    /// the key could lift his victim's rules with one that leaves them out, on each device whose file is damaged. An operator who
    /// must have the device sooner has to look after it all the same, for its disk is failing.
    pub fn lose(&mut self, mark: EmergencyMark) {
        let lost = mark.lost.or(Some(self.at.ticked));
        self.lost.insert(mark.key, EmergencyMark { lost, ..mark });
    }

    /// For the anchor.
    pub fn marks(&self) -> Vec<EmergencyMark> {
        if mutant::active(Mutant::EmergencyNotWritten) {
            return Vec::new();
        }
        self.held.values().map(|held| held.mark(self.at)).chain(self.lost.values().copied()).collect()
    }

    fn mark(&self, key: KeyId) -> Option<(u64, Hash)> {
        let lost = self.lost.get(&key).map(|mark| (mark.counter, mark.digest));
        self.held.get(&key).map(|held| (held.said.counter, held.digest)).or(lost)
    }

    /// What is to be made of a statement that came from the place of `key`. None: it says nothing new.
    ///
    /// # Errors
    /// When it belongs elsewhere, is not signed by a key that `trust` names for emergencies, says more than it may, is older
    /// than what is known, or contradicts it.
    pub fn judge(&self, key: KeyId, signed: Signed<Emergency>, trust: &TrustBundle) -> Result<Option<Judged>, Refused> {
        if signed.claim()?.key != key && !mutant::active(Mutant::EmergencyPlaceUnchecked) {
            return Err(Refused::WrongTopic);
        }
        let (mark, digest) = (self.mark(key), signed.digest());
        let same = mark.is_some_and(|(_, known)| known == digest);
        if same && self.held.contains_key(&key) {
            // The broker keeps it and says it again, though the key may be dropped since.
            return Ok(None);
        }
        let (said, operator) = match Emergency::open_by(&signed, trust) {
            Ok((said, named)) => (said, named.operator.clone()),
            // It was believed before it was lost.
            Err(Refused::UnknownKey { .. }) if same => (signed.claim()?, "nobody any more".into()),
            Err(refused) => return Err(refused),
        };
        match mark {
            Some((known, _)) if said.counter < known && !mutant::active(Mutant::EmergencyCounterLowered) => {
                return Err(Refused::RolledBack { offered: said.counter, known });
            }
            Some(_) if mutant::active(Mutant::EmergencyTwinTaken) => {}
            Some((known, held)) if said.counter == known && held != digest => {
                return Err(Refused::SignedTwice { counter: known, held, offered: digest });
            }
            Some(_) | None => {}
        }
        Ok(Some(Judged { operator, signed, said }))
    }

    /// Takes a statement: what it says is added to what is held. What is lost stays lost unless this is known to say it. Gives
    /// the file.
    ///
    /// # Errors
    /// [`Refused::Malformed`] where it is more than can be held.
    pub fn take(&mut self, judged: Judged, trust: &TrustBundle) -> Result<Vec<u8>, Refused> {
        let Judged { operator, signed, said } = judged;
        let (key, at, digest) = (said.key, self.at, signed.digest());
        let held = self.held.get(&key);
        let mut rules = held.map(|held| held.rules.clone()).unwrap_or_default();
        let lost = self.lost.get(&key).filter(|mark| !(mark.alone && mark.digest == digest)).and_then(|mark| mark.lost);
        let lacks = held.and_then(|held| held.lacks).or(lost).filter(|since| is_missed(Some(*since), at));
        let lifts = mutant::active(Mutant::EmergencyLiftsLeftOut);
        rules.retain(|_, life| life.left(at).is_some() && !lifts);
        for Declared { selector, until, reason } in said.rules.declared() {
            if rules.get(selector).is_some_and(|known| known.until >= *until) {
                continue;
            }
            let life = Life { until: *until, seen: at.ticked, reason: reason.clone() };
            if life.left(at).is_some() {
                rules.insert(*selector, life);
            }
        }
        drop_superfluous(&mut rules, Life::lasts);
        if rules.keys().filter(|selector| **selector != Selector::All).count() > HELD_MAX {
            return Err(Refused::Malformed("more rules of one emergency key than a device holds: older ones must end"));
        }
        if self.mark(key).is_none() {
            self.make_room(trust)?;
        }
        let held = Held { operator, signed, said, digest, rules, lacks };
        let bytes = held.to_file();
        self.lost.remove(&key);
        self.held.insert(key, held);
        Ok(bytes)
    }

    /// Forgets a key that the trust bundle has dropped and of which nothing is in force, where no more can be remembered.
    fn make_room(&mut self, trust: &TrustBundle) -> Result<(), Refused> {
        if self.held.len() + self.lost.len() < MARKS_MAX {
            return Ok(());
        }
        let at = self.at;
        let over = |held: &Held| held.in_force(at).next().is_none() && !is_missed(held.lacks, at);
        let gone = self.held.iter().find(|(key, held)| trust.emergency_key(**key).is_none() && over(held));
        let gone = gone.map(|(key, _)| *key).or(self.ended_losses().find(|key| trust.emergency_key(*key).is_none()));
        let gone =
            gone.ok_or(Refused::Malformed("more emergency keys than a device remembers: older ones must end"))?;
        self.held.remove(&gone);
        self.lost.remove(&gone);
        Ok(())
    }

    fn ended_losses(&self) -> impl Iterator<Item = KeyId> + '_ {
        self.lost.values().filter(|mark| !is_missed(mark.lost, self.at)).map(|mark| mark.key)
    }

    /// Keys of whose rules some are lost and may be in force.
    pub fn missing(&self) -> impl Iterator<Item = KeyId> + '_ {
        self.missed().map(|(key, _)| key)
    }

    /// The same, and whether the newest statement of the key brings all of them back.
    fn missed(&self) -> impl Iterator<Item = (KeyId, bool)> + '_ {
        let gone = self.lost.values().map(|mark| (mark.key, mark.lost, mark.alone));
        let lacking = self.held.iter().map(|(key, held)| (*key, held.lacks, false));
        gone.chain(lacking).filter(|(_, since, _)| is_missed(*since, self.at)).map(|(key, _, alone)| (key, alone))
    }

    fn in_force(&self) -> impl Iterator<Item = (KeyId, &Held, Selector, &Life, Millis)> {
        let at = self.at;
        self.held.iter().flat_map(move |(key, held)| {
            held.in_force(at).map(move |(selector, life, left)| (*key, held, selector, life, left))
        })
    }

    fn find(&self, covers: impl Fn(Selector) -> bool) -> Option<Hit> {
        let heeded = |selector: Selector| !is_unheeded(&selector) && covers(selector);
        let (key, held, selector, life, _) = self.in_force().find(|(_, _, selector, ..)| heeded(*selector))?;
        Some(Hit { selector, key, operator: held.operator.clone(), until: life.until })
    }

    /// The rule that covers one of these, or a token that was issued then.
    pub fn covers(&self, selectors: &[Selector], issued: Timestamp) -> Option<Hit> {
        self.find(|selector| match selector {
            Selector::IssuedBefore(before) => issued < before,
            Selector::All
            | Selector::Audience(_)
            | Selector::Device(_)
            | Selector::Grant(_)
            | Selector::Group(_)
            | Selector::Owner(_)
            | Selector::RootKey(_)
            | Selector::Task(_) => selectors.contains(&selector),
        })
    }

    /// The rule that is this very one, or one that stands for it.
    pub fn names(&self, wanted: Selector) -> Option<Hit> {
        self.find(|selector| selector == wanted).or_else(|| self.find(|selector| selector.implies(&wanted)))
    }

    /// Why this device is locked, if it is by any of this. It unlocks when that has ended.
    pub fn locks(&self, device: &DeviceId) -> Vec<String> {
        if self.held.is_empty() && self.lost.is_empty() {
            return Vec::new();
        }
        let word = |what: &str, hit: Hit| {
            let Hit { key, operator, until, .. } = hit;
            format!("{what} is revoked by emergency key {key} of {operator}, until {until} at the latest")
        };
        let (device, everything) = (Selector::device(device.as_str()), Selector::All);
        let here = self.find(|selector| selector == device).map(|hit| word("this device", hit));
        let all = self.find(|selector| selector == everything).or_else(|| self.outlived());
        let all = all.map(|hit| word("the whole fleet", hit));
        let lost = self.missed().map(|(key, alone)| {
            let sooner = if alone { ", or once its newest statement is here again" } else { "" };
            format!("what emergency key {key} has revoked is lost: this ends after 72 h of powered-on time{sooner}")
        });
        here.into_iter().chain(all).chain(lost).collect()
    }

    /// What a planted bug takes for a rule on everything that is in force.
    fn outlived(&self) -> Option<Hit> {
        let rule = |(key, held): (&KeyId, &Held)| {
            let life = held.rules.get(&Selector::All).filter(|life| self.at.over <= life.until)?;
            Some(Hit { selector: Selector::All, key: *key, operator: held.operator.clone(), until: life.until })
        };
        mutant::active(Mutant::EmergencyLockOutlives).then(|| self.held.iter().find_map(rule)).flatten()
    }

    /// Every rule in force.
    pub(super) fn rules(&self) -> Vec<EmergencyRule> {
        let rule = |(key, held, selector, life, left): (KeyId, &Held, Selector, &Life, Millis)| EmergencyRule {
            covers: selector.to_string(),
            key,
            operator: held.operator.clone(),
            until: life.until.to_string(),
            reason: life.reason.clone(),
            left_s: left.secs_ceil(),
        };
        self.in_force().map(rule).collect()
    }

    /// What is held of each key.
    pub(super) fn status(&self, trust: &TrustBundle) -> Vec<EmergencyStatus> {
        let rules = self.rules();
        let held = self.held.iter().map(|(key, held)| EmergencyStatus {
            key: *key,
            operator: held.operator.clone(),
            named: trust.emergency_key(*key).is_some(),
            counter: held.said.counter,
            digest: held.digest.to_string(),
            issued: held.said.issued_at.to_string(),
            rules: rules.iter().filter(|rule| rule.key == *key).cloned().collect(),
        });
        held.collect()
    }

    /// The newest statements, for whoever they are carried to.
    pub fn statements(&self) -> impl Iterator<Item = &Signed<Emergency>> {
        self.held.values().map(|held| &held.signed)
    }
}

/// Whether a planted bug makes nothing of a rule on this.
fn is_unheeded(selector: &Selector) -> bool {
    match selector {
        Selector::All => mutant::active(Mutant::EmergencyAllUnheeded),
        Selector::Device(_) => mutant::active(Mutant::EmergencyDeviceUnheeded),
        Selector::Grant(_) => mutant::active(Mutant::EmergencyGrantUnheeded),
        Selector::Owner(_) => mutant::active(Mutant::EmergencyOwnerUnheeded),
        Selector::Task(_) => mutant::active(Mutant::EmergencyTaskUnheeded),
        Selector::Audience(_) | Selector::Group(_) | Selector::IssuedBefore(_) | Selector::RootKey(_) => false,
    }
}

fn sum(content: &[u8]) -> Hash {
    Hash::of("hardtack/emergency-file/v1", &[content])
}

impl Agent {
    /// Rules of emergency keys end with time alone.
    pub(super) fn note_moment(&mut self) {
        self.revocations.emergencies.advance(Moment::of(&self.clock, &self.wallet));
    }

    /// A statement arrived from a feed's place for a key.
    pub(super) fn on_emergency(
        &mut self,
        feed: &FeedId,
        key: KeyId,
        payload: &[u8],
        now: Now,
        effects: &mut Effects,
    ) -> Result<(), Refused> {
        if !self.trust.feeds.iter().any(|known| known.id == *feed) {
            return Err(Refused::WrongTopic);
        }
        self.hear_emergency(key, payload, now, effects).map(drop)
    }

    /// A statement, wherever it came from. One of a key that a trust bundle still to come may name waits for that, and one
    /// that was signed further ahead than time can have gone by here waits for a round trip. Says whether it was taken.
    pub(super) fn hear_emergency(
        &mut self,
        key: KeyId,
        payload: &[u8],
        now: Now,
        effects: &mut Effects,
    ) -> Result<bool, Refused> {
        let signed = Signed::<Emergency>::from_bytes(payload)?;
        let ahead = signed.claim()?.bundle_version > self.trust.version;
        let judged = match self.revocations.emergencies.judge(key, signed, &self.trust) {
            Ok(Some(judged)) => judged,
            Ok(None) => return Ok(false),
            Err(Refused::UnknownKey { .. }) if ahead => {
                self.keep_waiting(key, payload);
                return Ok(false);
            }
            Err(refused) => return Err(refused),
        };
        match self.clock.place(judged.issued_at()) {
            Placed::Possible => {}
            // It is no clock role: what it says about time is disbelieved, and nothing else changes.
            Placed::PastCeiling => return Err(Refused::PostDated),
            Placed::Ahead if mutant::active(Mutant::EmergencyAheadTaken) => {}
            Placed::Ahead => {
                self.keep_waiting(key, payload);
                return Ok(false);
            }
        }
        self.take_emergency(key, judged, now, effects)?;
        Ok(true)
    }

    fn keep_waiting(&mut self, key: KeyId, payload: &[u8]) {
        self.emergencies_ahead.insert(key, payload.to_vec());
        if self.emergencies_ahead.len() > EMERGENCY_KEYS_MAX {
            self.emergencies_ahead.pop_last();
        }
    }

    /// What waited is judged again: a trust bundle is here, or a round trip has told what time it is.
    pub(super) fn hear_waiting_emergencies(&mut self, now: Now, effects: &mut Effects) {
        for (key, payload) in std::mem::take(&mut self.emergencies_ahead) {
            if let Err(refused) = self.hear_emergency(key, &payload, now, effects) {
                self.refuse(Source::Emergency, &format!("emergency key {key}"), &payload, &refused, now, effects);
            }
        }
    }

    /// Nothing that waits for a trust bundle is waited for any more: the fleet says that there is none.
    pub(super) fn give_up_emergencies(&mut self, now: Now, effects: &mut Effects) {
        for (key, payload) in std::mem::take(&mut self.emergencies_ahead) {
            let refused = Refused::UnknownKey { valid: 0, needed: 1 };
            self.refuse(Source::Emergency, &format!("emergency key {key}"), &payload, &refused, now, effects);
        }
    }

    fn take_emergency(&mut self, key: KeyId, judged: Judged, now: Now, effects: &mut Effects) -> Result<(), Refused> {
        let (counter, operator) = (judged.said.counter, judged.operator.clone());
        let (digest, rules) = (judged.signed.digest(), judged.said.rules.count() as u64);
        let content = self.revocations.emergencies.take(judged, &self.trust)?;
        if !mutant::active(Mutant::EmergencyNotWritten) {
            effects.batch.files.push(FileWrite { file: StateFile::Emergency(key), content });
        }
        self.anchor_due = true;
        self.write(Event::Trust(TrustChange::Emergency { key, counter, digest }), Vec::new(), now, effects);
        effects.outgoing.logs.push(LogEvent::EmergencyApplied { key, operator, counter, rules });
        // Grants stay: a thief of this key must not be able to empty the wallets of a fleet.
        self.end_revoked_tasks(now, effects);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
