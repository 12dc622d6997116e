//! A feed's two files: the whole as it once was, and beside it what came since.
//!
//! Owns: [`StoredFeed`] and [`StoredSince`], their bytes, [`Held`], which is both together; when the whole is written anew.
//! Never: believes a head, which `revocation.rs` does; writes a file.
//! Read next: `../feed.rs`.
//!
//! A head each quarter of an hour adds a few hundred bytes to a set of megabytes, and flash wears by what is written. So what
//! came since is written beside the whole, and the whole anew as soon as as much has been written beside it as it has itself:
//! at the most twice what the best choice of those moments would have cost, whatever comes (ski rental).
//!
//! Files of a feed are numbered, and the anchor knows the number of the last: one that is gone, or older, shows.
//!
//! Each write replaces one file, so that a power cut leaves what was or what is. A file beside names the whole that it
//! belongs to; one that belongs to an earlier whole has nothing to add to the later one.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::SET_BYTES_MAX;
use crate::ids::Hash;
use crate::mutant::{active, Mutant};
use crate::time::Timestamp;
use crate::wire::envelope::Signed;
use crate::wire::revocation::announcement::Head;
use crate::wire::revocation::set::RevocationSet;
use crate::wire::{decode, encode, Refused};

/// The most bytes of a feed's file.
pub const STORED_BYTES_MAX: usize = 3 * SET_BYTES_MAX + 16 * 1024;

/// The whole feed.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct StoredFeed {
    /// The number of this file among the feed's.
    pub number: u64,
    /// The head of the complete set, none before the first.
    pub head: Option<Signed<Head>>,
    /// The complete set's bytes.
    pub set: Vec<u8>,
    /// What was seen beyond it and is in force, or was left out since.
    pub seen: Vec<u8>,
    /// What earlier eras revoked and the present one does not repeat.
    pub past: Vec<u8>,
    /// The newest head that was seen, where its set is not complete.
    pub newest: Option<Signed<Head>>,
    /// The newest head's time that E had taken when this was written.
    pub taken: Timestamp,
}

impl StoredFeed {
    /// A feed as an enrolment brings it. What was held before and this leaves out is kept.
    ///
    /// # Errors
    /// When the set is none, or more than can be held.
    pub fn enrolled(number: u64, head: Signed<Head>, set: Vec<u8>, before: Option<Held>) -> Result<Self, Refused> {
        let whole = RevocationSet::from_bytes(&set, SET_BYTES_MAX)?;
        let era = |signed: &Signed<Head>| signed.claim().map_or(0, |head| head.era);
        let (mut seen, mut past) = (RevocationSet::default(), RevocationSet::default());
        if let Some(before) = before {
            let same = before.head.iter().chain(&before.newest).all(|signed| era(signed) == era(&head));
            past = before.past.since(&whole);
            for held in [before.set, before.seen] {
                let held = held.since(&whole);
                if !same || super::add_bounded(&mut seen, &held).is_err() {
                    super::outlive(&mut past, &held);
                }
            }
        }
        let (seen, past) = (seen.to_bytes(), past.to_bytes());
        Ok(Self { number, head: Some(head), set, seen, past, newest: None, taken: Timestamp(0) })
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        seal(self).1
    }
}

/// What came since the whole was written.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct StoredSince {
    /// The number of this file among the feed's.
    number: u64,
    /// The digest of the whole that this belongs to.
    whole: Hash,
    head: Option<Signed<Head>>,
    newest: Option<Signed<Head>>,
    taken: Timestamp,
    /// What the complete set has more.
    set: Vec<u8>,
    /// What of the complete set has ended by this is not in it any more.
    dropped: Timestamp,
    /// What was seen more.
    seen: Vec<u8>,
    /// What of it, and of what earlier eras revoked, has ended by this is not there any more.
    lapsed: Timestamp,
}

/// What both files hold together. Its heads are claims: who reads it has to believe them.
#[derive(Debug)]
pub struct Held {
    /// The number of the newest file.
    pub number: u64,
    /// The head of the complete set.
    pub head: Option<Signed<Head>>,
    /// The complete set.
    pub set: RevocationSet,
    /// What was seen beyond it.
    pub seen: RevocationSet,
    /// What earlier eras revoked.
    pub past: RevocationSet,
    /// The newest head, where its set is not complete.
    pub newest: Option<Signed<Head>>,
    /// The newest head's time that E had taken.
    pub taken: Timestamp,
    pub(super) beside: Beside,
}

impl Held {
    /// Reads the whole, and what stands beside it.
    ///
    /// # Errors
    /// When either is damaged. A file beside another whole is left alone.
    pub fn read(whole: &[u8], since: Option<&[u8]>) -> Result<Self, Refused> {
        let (digest, stored): (Hash, StoredFeed) = unseal(whole)?;
        let mut held = Self {
            number: stored.number,
            head: stored.head,
            set: read_set(&stored.set)?,
            seen: read_set(&stored.seen)?,
            past: read_set(&stored.past)?,
            newest: stored.newest,
            taken: stored.taken,
            beside: Beside::new(digest, whole.len()),
        };
        let Some(bytes) = since else { return Ok(held) };
        let (_, since): (Hash, StoredSince) = unseal(bytes)?;
        if since.whole != digest {
            return Ok(held);
        }
        let beside = &mut held.beside;
        beside.written = bytes.len();
        (beside.set, beside.dropped) = (read_set(&since.set)?, since.dropped);
        (beside.seen, beside.lapsed) = (read_set(&since.seen)?, since.lapsed);
        // First what is gone, so that there is room for what came.
        held.set.drop_expired(since.dropped);
        held.set.apply(&beside.set)?;
        for kept in [&mut held.seen, &mut held.past] {
            *kept = kept.since(&held.set);
            kept.drop_expired(since.lapsed);
        }
        held.seen.apply(&beside.seen)?;
        (held.head, held.newest, held.taken) = (since.head, since.newest, since.taken);
        held.number = since.number;
        Ok(held)
    }
}

/// What is in memory and not in the whole that was written last.
#[derive(Debug)]
pub(super) struct Beside {
    whole: Hash,
    /// Bytes of the whole, and what was written beside it since.
    bytes: usize,
    written: usize,
    set: RevocationSet,
    dropped: Timestamp,
    seen: RevocationSet,
    lapsed: Timestamp,
}

impl Beside {
    fn new(whole: Hash, bytes: usize) -> Self {
        let (set, seen) = (RevocationSet::default(), RevocationSet::default());
        Self { whole, bytes, written: 0, set, dropped: Timestamp(0), seen, lapsed: Timestamp(0) }
    }

    /// Something was seen beyond the complete set.
    pub(super) fn see(&mut self, fresh: &RevocationSet) -> Result<(), Refused> {
        self.seen.apply(fresh)
    }

    /// The complete set grew, and what has ended was dropped from it and from what was seen beside it.
    pub(super) fn grow(
        &mut self,
        additions: &RevocationSet,
        set: &RevocationSet,
        dropped: Timestamp,
        lapsed: Timestamp,
    ) -> Result<(), Refused> {
        (self.dropped, self.lapsed) = (self.dropped.max(dropped), self.lapsed.max(lapsed));
        self.set.drop_expired(self.dropped);
        let mut additions = additions.clone();
        additions.drop_expired(self.dropped);
        self.set.apply(&additions)?;
        self.seen = self.seen.since(set);
        self.seen.drop_expired(self.lapsed);
        Ok(())
    }

    /// The bytes of the file beside, None where the whole is to be written anew.
    pub(super) fn write(
        &mut self,
        number: u64,
        head: Option<Signed<Head>>,
        newest: Option<Signed<Head>>,
        taken: Timestamp,
    ) -> Option<Vec<u8>> {
        let since = StoredSince {
            number,
            whole: self.whole,
            head,
            newest,
            taken,
            set: self.set.to_bytes(),
            dropped: self.dropped,
            seen: self.seen.to_bytes(),
            lapsed: self.lapsed,
        };
        let (_, bytes) = seal(&since);
        self.written += bytes.len();
        (self.written <= self.bytes).then_some(bytes)
    }
}

/// A file of a feed, to be written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Written {
    /// The whole.
    Whole(Vec<u8>),
    /// What came since the whole.
    Since(Vec<u8>),
}

impl Written {
    /// The whole's bytes, and what remembers it.
    pub(super) fn whole(stored: &StoredFeed) -> (Self, Beside) {
        let (digest, bytes) = seal(stored);
        let beside = Beside::new(digest, bytes.len());
        (Self::Whole(bytes), beside)
    }
}

fn read_set(bytes: &[u8]) -> Result<RevocationSet, Refused> {
    RevocationSet::from_bytes(bytes, SET_BYTES_MAX)
}

/// The digest of the content, and the content after it: a flipped bit is no other set.
fn seal(content: &impl Serialize) -> (Hash, Vec<u8>) {
    let content = encode(content);
    let digest = digest_of(&content);
    (digest, [digest.0.as_slice(), &content].concat())
}

fn unseal<T: DeserializeOwned>(bytes: &[u8]) -> Result<(Hash, T), Refused> {
    let (digest, content) =
        bytes.split_first_chunk().ok_or(Refused::Malformed("the file of a feed that is cut off"))?;
    let digest = Hash(*digest);
    if digest_of(content) != digest && !active(Mutant::RotUnnoticed) {
        return Err(Refused::DigestMismatch);
    }
    Ok((digest, decode(content, STORED_BYTES_MAX)?))
}

fn digest_of(content: &[u8]) -> Hash {
    Hash::of("hardtack/feed-file/v1", &[content])
}
