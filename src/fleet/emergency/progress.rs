//! How far an emergency key has come that is with its operator alone, and in no ledger.
//!
//! Owns: [`Progress`]: the highest number that is known, what was revoked, the newest statement; its bytes.
//! Never: goes back; signs one number twice; forgets a rule because a clock says that it has ended.
//! Read next: `../emergency.rs`; `shell/emergency/kit.rs`, which keeps it on a disk.

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use super::{statement, Before, Order, RULES_KEPT};
use crate::fleet::FleetError;
use crate::ids::{Hash, KeyId};
use crate::time::Timestamp;
use crate::wire::bundle::TrustBundle;
use crate::wire::envelope::Signed;
use crate::wire::revocation::emergency::{latest, Declared, Emergency, REASON_BYTES_MAX};
use crate::wire::revocation::rules::Selector;
use crate::wire::{decode, encode, Refused, MESSAGE_BYTES_MAX};

/// The most bytes of it: a statement, and rules of 48 bytes or less with their ends and reasons.
pub(crate) const PROGRESS_BYTES_MAX: usize = MESSAGE_BYTES_MAX + RULES_KEPT * (72 + REASON_BYTES_MAX) + 64;
const DIGEST_BYTES: usize = 32;

/// How far a key has come.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Progress {
    key: KeyId,
    counter: u64,
    rules: Vec<Declared>,
    newest: Option<Signed<Emergency>>,
}

/// What a statement of the same key tells that came from elsewhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    /// Nothing new.
    Known,
    /// Somebody signs with this key elsewhere, and has come to this number.
    Elsewhere {
        /// The number.
        counter: u64,
    },
    /// The same, and there are two contents for one number: devices take only the first of them that they see.
    Twice {
        /// The number.
        counter: u64,
        /// The digest of the statement that was signed here.
        held: Hash,
        /// The digest of that from elsewhere.
        offered: Hash,
    },
}

impl Progress {
    /// Of a key that has come as far as `before`, `newest` being its last statement.
    pub fn new(key: KeyId, before: Before, newest: Option<Signed<Emergency>>) -> Self {
        Self { key, counter: before.counter, rules: before.rules, newest }
    }

    /// The highest number that is known.
    pub fn counter(&self) -> u64 {
        self.counter
    }

    /// The newest statement.
    pub fn newest(&self) -> Option<&Signed<Emergency>> {
        self.newest.as_ref()
    }

    /// What is in force at a time.
    pub fn in_force(&self, at: Timestamp) -> impl Iterator<Item = &Declared> {
        self.rules.iter().filter(move |rule| rule.until >= at)
    }

    /// Signs the next statement. It may be let go once this is durable, as it is then.
    ///
    /// # Errors
    /// As [`statement`]; [`FleetError::Invalid`] for another key than this is of.
    pub fn sign(
        &mut self,
        trust: &TrustBundle,
        key: &SigningKey,
        order: &Order,
        at: Timestamp,
    ) -> Result<Signed<Emergency>, FleetError> {
        if KeyId::of(key.verifying_key().as_bytes()) != self.key {
            return Err(FleetError::Invalid(format!("the key is not {}, whose numbers these are", self.key)));
        }
        let newest = self.newest.as_ref().and_then(|newest| newest.claim().ok());
        let before = Before::new(self.counter, newest.as_ref(), self.rules.iter().cloned());
        let signed = statement(trust, key, &before, order, at)?;
        let said = signed.claim().map_err(FleetError::refused("the statement"))?;
        self.counter = said.counter;
        self.remember(said.rules.declared());
        self.newest = Some(signed.clone());
        Ok(signed)
    }

    /// Hears what the broker keeps of this key. What is in force of it counts from now on, whoever signed it: it holds on
    /// devices all the same.
    ///
    /// # Errors
    /// When it is none, or is not signed by this key as `trust` names it.
    pub fn hear(&mut self, payload: &[u8], trust: &TrustBundle, at: Timestamp) -> Result<Heard, Refused> {
        let signed = Signed::<Emergency>::from_bytes(payload)?;
        let (said, _) = Emergency::open_by(&signed, trust)?;
        if said.key != self.key {
            return Err(Refused::WrongTopic);
        }
        let (offered, counter) = (signed.digest(), said.counter);
        let held = self.newest.as_ref().map(Signed::digest);
        if held == Some(offered) {
            return Ok(Heard::Known);
        }
        let known = |(selector, until): (Selector, Timestamp)| {
            until < at || self.rules.iter().any(|rule| rule.selector == selector && rule.until >= until)
        };
        let news = !said.rules.iter().all(known);
        let newest = self.newest.as_ref().and_then(|newest| newest.claim().ok()).map(|newest| newest.counter);
        self.remember(said.rules.declared());
        match held {
            Some(held) if newest == Some(counter) => return Ok(Heard::Twice { counter, held, offered }),
            Some(_) | None => {}
        }
        if counter > self.counter {
            self.counter = counter;
            self.newest = Some(signed);
            return Ok(Heard::Elsewhere { counter });
        }
        Ok(if news { Heard::Elsewhere { counter } } else { Heard::Known })
    }

    /// Takes in what somebody else knows of the same key: the higher number, the newer statement, the rules of both.
    #[must_use]
    pub fn with(mut self, other: Self) -> Self {
        let number = |newest: &Option<Signed<Emergency>>| {
            newest.as_ref().and_then(|newest| newest.claim().ok()).map_or(0, |newest| newest.counter)
        };
        self.counter = self.counter.max(other.counter);
        self.remember(other.rules.iter());
        if number(&other.newest) > number(&self.newest) {
            self.newest = other.newest;
        }
        self
    }

    /// What has ended stays as well, until there is no room: no clock decides here, as one may be wrong.
    fn remember<'r>(&mut self, rules: impl Iterator<Item = &'r Declared>) {
        let mut all: Vec<_> = latest(self.rules.iter().cloned().chain(rules.cloned())).into_values().collect();
        // Those that end first are the first to go.
        all.sort_by_key(|rule| std::cmp::Reverse(rule.until));
        all.truncate(RULES_KEPT);
        self.rules = all;
    }

    /// The bytes, for a file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = encode(self);
        bytes.extend(sum(&bytes).0);
        bytes
    }

    /// What a file holds of this key.
    ///
    /// # Errors
    /// [`Refused::DigestMismatch`] for one that is damaged, [`Refused::Malformed`] for none, or for that of another key.
    pub fn from_bytes(bytes: &[u8], key: KeyId) -> Result<Self, Refused> {
        let length = bytes.len().checked_sub(DIGEST_BYTES).ok_or(Refused::Malformed("ends too early"))?;
        let (content, told) = bytes.split_at(length);
        if sum(content).0 != told {
            return Err(Refused::DigestMismatch);
        }
        let read: Self = decode(content, PROGRESS_BYTES_MAX)?;
        match read.key == key && read.rules.len() <= RULES_KEPT {
            true => Ok(read),
            false => Err(Refused::Malformed("the numbers of another key")),
        }
    }
}

fn sum(content: &[u8]) -> Hash {
    Hash::of("hardtack/emergency-progress/v1", &[content])
}

#[cfg(test)]
mod tests {
    use super::super::tests::{key, order, with_ann};
    use super::*;
    use crate::fleet::service::tests::at;
    use crate::time::Millis;
    use crate::wire::revocation::emergency::LIFE_MAX;

    fn fresh() -> (TrustBundle, Progress) {
        let (_, book) = with_ann();
        let id = KeyId::of(key(40).verifying_key().as_bytes());
        (book.trust().clone(), Progress::new(id, Before::default(), None))
    }

    #[test]
    fn numbers_rise_and_what_is_in_force_is_repeated() {
        let (trust, mut progress) = fresh();
        let mut sign =
            |task, secs| progress.sign(&trust, &key(40), &order(task, 24), at(secs)).unwrap().claim().unwrap();
        let (one, two, later) = (sign("t-1", 10), sign("t-2", 20), sign("t-3", 25 * 3600));
        assert_eq!([one.counter, two.counter, later.counter], [1, 2, 3]);
        assert_eq!([one.rules.count(), two.rules.count(), later.rules.count()], [1, 2, 1]);
        assert_eq!((progress.counter(), progress.in_force(at(25 * 3600)).count()), (3, 1));
        let error = progress.sign(&trust, &key(41), &order("t-4", 1), at(30)).unwrap_err().to_string();
        assert!(error.contains("whose numbers these are"), "{error}");
        assert_eq!(progress.counter(), 3, "nothing was signed");
    }

    #[test]
    fn a_kit_goes_on_where_the_ledger_was() {
        let (trust, progress) = fresh();
        let rule = |id, until| Declared { selector: Selector::RootKey(id), until, reason: format!("key {id}") };
        let ended = rule(1, at(5));
        let lasting = rule(2, at(3600));
        let before = Before { counter: 41, issued_at: None, rules: vec![ended, lasting] };
        let mut progress = Progress::new(progress.key, before, None);
        let said = progress.sign(&trust, &key(40), &order("t-1", 1), at(10)).unwrap().claim().unwrap();
        assert_eq!((said.counter, said.rules.count()), (42, 2));
        // Whichever of the two is taken into the other, nothing goes back.
        let before = Before { counter: 7, issued_at: None, rules: vec![rule(3, at(3600))] };
        let old = Progress::new(progress.key, before, None);
        for both in [progress.clone().with(old.clone()), old.with(progress.clone())] {
            assert_eq!((both.counter, both.in_force(at(10)).count(), &both.newest), (42, 3, &progress.newest));
        }
    }

    /// Two copies of one kit: whichever comes second to the broker learns of the other.
    #[test]
    fn what_another_copy_signed_is_told_and_numbered_past() {
        let (trust, mut here) = fresh();
        let sign = |progress: &mut Progress, task| progress.sign(&trust, &key(40), &order(task, 24), at(10)).unwrap();
        sign(&mut here, "t-1");
        let mut copy = here.clone();
        let own = sign(&mut here, "t-2");
        let other = sign(&mut copy, "t-3");
        let hear =
            |progress: &mut Progress, signed: &Signed<Emergency>| progress.hear(&signed.to_bytes(), &trust, at(20));
        assert_eq!(hear(&mut here, &own), Ok(Heard::Known));
        let twice = Heard::Twice { counter: 2, held: own.digest(), offered: other.digest() };
        assert_eq!(hear(&mut here, &other), Ok(twice));
        let next = sign(&mut here, "t-4");
        assert_eq!((next.claim().unwrap().counter, next.claim().unwrap().rules.count()), (3, 4), "all of both copies");
        assert_eq!(hear(&mut copy, &next), Ok(Heard::Elsewhere { counter: 3 }));
        assert_eq!(sign(&mut copy, "t-5").claim().unwrap().counter, 4);
        // A broker that keeps an older one of ours tells nothing new; one of nobody's is refused.
        assert_eq!(hear(&mut here, &own), Ok(Heard::Known));
        let said = own.claim().unwrap();
        let forged = Signed::sign(&said, &trust.fleet, &[&key(41)]);
        assert!(hear(&mut here, &forged).is_err() && here.hear(b"junk", &trust, at(20)).is_err());
    }

    /// Four days ahead, a year ahead, and the statement that was signed by such a clock: the next by the right one says all.
    #[test]
    fn a_clock_that_was_ahead_loses_nothing_and_one_that_is_wrong_is_told() {
        let (trust, mut progress) = fresh();
        let hours = |hours: u64| at(hours * 3600);
        let sign = |progress: &mut Progress, task, clock_is_right, when| {
            let order = Order { clock_is_right, ..order(task, 72) };
            progress.sign(&trust, &key(40), &order, when).map(|signed| (signed.clone(), signed.claim().unwrap()))
        };
        let told = |progress: &mut Progress, when, says: &str| {
            let before = progress.clone();
            let error = sign(progress, "t-9", false, when).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains("--clock-is-right"), "{error}");
            assert_eq!(*progress, before, "no number is used");
        };
        sign(&mut progress, "t-1", false, hours(100)).unwrap();
        told(&mut progress, hours(4), "behind");
        told(&mut progress, hours(173), "more than 72 h");
        told(&mut progress, hours(9000), "more than 72 h");
        // It is heard by that clock, and is there by the right one.
        let mut copy = progress.clone();
        let (heard, _) = sign(&mut copy, "t-2", false, hours(101)).unwrap();
        assert_eq!(progress.hear(&heard.to_bytes(), &trust, hours(9000)), Ok(Heard::Elsewhere { counter: 2 }));
        assert_eq!(progress.in_force(hours(102)).count(), 2);
        // Signed all the same, for t-1 as well, and dated ahead: no device believes it.
        let (_, ahead) = sign(&mut progress, "t-1", true, hours(9000)).unwrap();
        assert_eq!((ahead.counter, ahead.rules.count()), (3, 1));
        told(&mut progress, hours(103), "behind");
        let (_, right) = sign(&mut progress, "t-3", true, hours(103)).unwrap();
        assert_eq!((right.counter, right.rules.count()), (4, 2), "t-2 is said again: {right:?}");
        let (_, again) = sign(&mut progress, "t-1", false, hours(104)).unwrap();
        assert_eq!(again.rules.count(), 3, "that the clock is right was said once");
        // What the wrong clock said of t-1 does not hide what the right one did.
        let (_, next) = sign(&mut progress, "t-4", false, hours(105)).unwrap();
        assert_eq!(next.rules.count(), 4);
    }

    #[test]
    fn the_file_is_read_back_or_refused() {
        let (trust, mut progress) = fresh();
        progress.sign(&trust, &key(40), &order("t-1", 72), at(10)).unwrap();
        let bytes = progress.to_bytes();
        assert_eq!(Progress::from_bytes(&bytes, progress.key), Ok(progress.clone()));
        for cut in 0..bytes.len() {
            assert!(Progress::from_bytes(&bytes[..cut], progress.key).is_err(), "{cut}");
            let mut changed = bytes.clone();
            changed[cut] ^= 1;
            assert!(Progress::from_bytes(&changed, progress.key).is_err(), "{cut}");
        }
        assert!(Progress::from_bytes(&bytes, KeyId([0; 8])).is_err());
        let until = |id: u32| at(0) + Millis::from_secs(id.into()) + LIFE_MAX;
        let reason = || "r".repeat(REASON_BYTES_MAX);
        let long =
            |id: u32| Declared { selector: Selector::owner(&format!("{id:o>40}")), until: until(id), reason: reason() };
        progress.remember((0..300).map(long).collect::<Vec<_>>().iter());
        assert_eq!(progress.rules.len(), RULES_KEPT);
        assert!(progress.to_bytes().len() <= PROGRESS_BYTES_MAX);
    }
}
