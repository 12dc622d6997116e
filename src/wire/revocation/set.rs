//! All that a feed has revoked at one position: an exact set that grows by union.
//!
//! Owns: [`RevocationSet`]: rules, whole block ids, serial buckets and fingerprint buckets; its bytes, what it covers, its
//! union with another, what it has over an older one, and what is dropped when it has expired.
//! Never: knows what time it is; takes anything back but by expiry.
//! Read next: `manifest.rs`, which says it in pieces under one digest.
//!
//! A delta is a set as well: what the newer one has over the older one. Applying is union, so that deltas may come in any
//! order, twice, or merged with each other.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::bytes::{put_number, Reader};
use super::fingerprints::{FingerprintBucket, FingerprintKey, Salt, Width};
use super::rules::{put_rule, read_rule, Selector};
use super::serials::SerialBucket;
use super::slot::Slot;
use crate::ids::{hex, unhex, BlockId};
use crate::time::Timestamp;
use crate::wire::Refused;

/// The first byte of a set: the version of its format.
pub const FORMAT: u8 = 1;
/// The most rules.
pub const RULES_MAX: usize = 600;
/// The most whole block ids.
pub const EXACT_MAX: usize = 4096;
/// The most buckets, of serials and fingerprints together.
pub const BUCKETS_MAX: usize = 512;

/// Which part of a set: it has one at the most of each. The order is that of the bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PartKey {
    /// The rules.
    Rules,
    /// Whole block ids.
    Exact,
    /// Revoked serials of a slot.
    Serials(Slot),
    /// Fingerprints of a slot.
    Fingerprints(FingerprintKey),
}

impl PartKey {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Rules => out.push(0),
            Self::Exact => out.push(1),
            Self::Serials(slot) => {
                out.push(2);
                out.extend(slot.number().to_be_bytes());
            }
            Self::Fingerprints(key) => {
                out.push(3);
                out.extend(key.slot.number().to_be_bytes());
                out.push(key.width.bits());
                out.extend(key.salt.0);
            }
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Refused> {
        let slot = |reader: &mut Reader<'_>| Slot::from_number(u32::from_be_bytes(reader.array()?));
        Ok(match reader.byte()? {
            0 => Self::Rules,
            1 => Self::Exact,
            2 => Self::Serials(slot(reader)?),
            3 => Self::Fingerprints(FingerprintKey {
                slot: slot(reader)?,
                width: Width::from_bits(reader.byte()?)?,
                salt: Salt(reader.array()?),
            }),
            _ => return Err(Refused::Malformed("a part of a kind that is not known")),
        })
    }
}

/// The name in a topic: `rules`, `exact`, `serials-<slot>`, `fingerprints-<slot>-<width>-<salt>`.
impl fmt::Display for PartKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rules => f.write_str("rules"),
            Self::Exact => f.write_str("exact"),
            Self::Serials(slot) => write!(f, "serials-{}", slot.number()),
            Self::Fingerprints(key) => {
                write!(f, "fingerprints-{}-{}-{}", key.slot.number(), key.width.bits(), hex(&key.salt.0))
            }
        }
    }
}

impl FromStr for PartKey {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        const NONE: Refused = Refused::Malformed("the name of no part");
        let slot = |text: &str| Slot::from_number(text.parse().map_err(|_| NONE)?);
        match text.split('-').collect::<Vec<_>>().as_slice() {
            ["rules"] => Ok(Self::Rules),
            ["exact"] => Ok(Self::Exact),
            ["serials", number] => Ok(Self::Serials(slot(number)?)),
            ["fingerprints", number, width, salt] => Ok(Self::Fingerprints(FingerprintKey {
                slot: slot(number)?,
                width: Width::from_bits(width.parse().map_err(|_| NONE)?)?,
                salt: Salt(unhex(salt).and_then(|salt| salt.try_into().ok()).ok_or(NONE)?),
            })),
            _ => Err(NONE),
        }
    }
}

/// One revocation of a set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Revoked {
    /// A rule and when it lapses.
    Rule(Selector, Timestamp),
    /// A block and the slot with which it is dropped.
    Exact(BlockId, Slot),
    /// A serial of a slot.
    Serial(Slot, u32),
    /// A fingerprint of a bucket.
    Fingerprint(FingerprintKey, u128),
}

/// All that a feed has revoked at one position, or what one position adds to an earlier one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RevocationSet {
    rules: BTreeMap<Selector, Timestamp>,
    exact: BTreeMap<BlockId, Slot>,
    serials: BTreeMap<Slot, SerialBucket>,
    fingerprints: BTreeMap<FingerprintKey, FingerprintBucket>,
}

impl RevocationSet {
    /// Adds a rule. One that is there already lapses at the later of both times.
    pub fn add_rule(&mut self, selector: Selector, until: Timestamp) {
        let known = self.rules.entry(selector).or_insert(until);
        *known = until.max(*known);
    }

    /// Adds a block as a whole id: where its fingerprint would cover a live block too, or its token is not known (then
    /// [`Slot::of_day`] of the time at which that has certainly expired). One that is there already is dropped with the
    /// later of both slots.
    pub fn add_exact(&mut self, block: BlockId, slot: Slot) {
        let known = self.exact.entry(block).or_insert(slot);
        *known = (*known).max_by_end(slot);
    }

    /// Adds revoked serials to a slot's.
    pub fn add_serials(&mut self, slot: Slot, bucket: SerialBucket) {
        let sum = self.serials.get(&slot).map(|known| known.union(&bucket));
        self.serials.insert(slot, sum.unwrap_or(bucket));
    }

    /// Adds fingerprints to a bucket's.
    ///
    /// # Errors
    /// [`Refused::Malformed`] past the most of a bucket, which stays as it was.
    pub fn add_fingerprints(&mut self, key: FingerprintKey, bucket: FingerprintBucket) -> Result<(), Refused> {
        let sum = self.fingerprints.get(&key).map(|known| known.union(&bucket)).transpose()?;
        self.fingerprints.insert(key, sum.unwrap_or(bucket));
        Ok(())
    }

    /// Whether it revokes nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a reader takes so many rules, ids and buckets: for whoever has added to it one by one.
    ///
    /// # Errors
    /// [`Refused::Malformed`] past a limit of the format.
    pub fn check(&self) -> Result<(), Refused> {
        check_limits(self.rules.len(), self.exact.len(), self.serials.len(), self.fingerprints.len())
    }

    /// Adds all of another set, as of a delta: if it is refused, nothing.
    ///
    /// # Errors
    /// [`Refused::Malformed`] when the sum would be past a limit of the format.
    pub fn apply(&mut self, delta: &Self) -> Result<(), Refused> {
        // Fingerprints alone can refuse within a bucket, so they are summed before anything is changed.
        let mut sums = Vec::with_capacity(delta.fingerprints.len());
        for (key, bucket) in &delta.fingerprints {
            let sum = self.fingerprints.get(key).map(|known| known.union(bucket)).transpose()?;
            sums.push((*key, sum.unwrap_or_else(|| bucket.clone())));
        }
        check_limits(
            self.rules.len() + fresh(&delta.rules, &self.rules),
            self.exact.len() + fresh(&delta.exact, &self.exact),
            self.serials.len() + fresh(&delta.serials, &self.serials),
            self.fingerprints.len() + fresh(&delta.fingerprints, &self.fingerprints),
        )?;
        self.fingerprints.extend(sums);
        delta.rules.iter().for_each(|(selector, until)| self.add_rule(*selector, *until));
        delta.exact.iter().for_each(|(block, slot)| self.add_exact(*block, *slot));
        for (slot, bucket) in &delta.serials {
            self.add_serials(*slot, bucket.clone());
        }
        Ok(())
    }

    /// What is in either. The order of sets does not matter, nor how often one is merged.
    ///
    /// # Errors
    /// As [`RevocationSet::apply`].
    pub fn merge(&self, other: &Self) -> Result<Self, Refused> {
        let mut sum = self.clone();
        sum.apply(other)?;
        Ok(sum)
    }

    /// What this adds to an older set: `older.apply(&self.since(older))` makes it this one, as far as this one has dropped
    /// nothing. What was dropped has expired, and [`RevocationSet::drop_expired`] drops it there too.
    pub fn since(&self, older: &Self) -> Self {
        let rules = self.rules.iter().filter(|(selector, until)| older.rules.get(selector) < Some(until));
        let exact = self
            .exact
            .iter()
            .filter(|(block, slot)| older.exact.get(block).is_none_or(|known| known.max_by_end(**slot) != *known));
        let serials = self.serials.iter().filter_map(|(slot, bucket)| {
            let more = older.serials.get(slot).map_or_else(|| Some(bucket.clone()), |known| bucket.minus(known));
            more.map(|more| (*slot, more))
        });
        let fingerprints = self.fingerprints.iter().filter_map(|(key, bucket)| {
            let more = older.fingerprints.get(key).map_or_else(|| Some(bucket.clone()), |known| bucket.minus(known));
            more.map(|more| (*key, more))
        });
        Self {
            rules: rules.map(|(selector, until)| (*selector, *until)).collect(),
            exact: exact.map(|(block, slot)| (*block, *slot)).collect(),
            serials: serials.collect(),
            fingerprints: fingerprints.collect(),
        }
    }

    /// Drops what no token needs any more that expires after `before`: buckets and ids whose slot has ended by then, whole,
    /// and rules that lapsed earlier. Whoever drops also refuses every token that expires at or before `before`.
    pub fn drop_expired(&mut self, before: Timestamp) {
        self.rules.retain(|_, until| *until >= before);
        self.exact.retain(|_, slot| slot.ends() > before);
        self.serials.retain(|slot, _| slot.ends() > before);
        self.fingerprints.retain(|key, _| key.slot.ends() > before);
    }

    /// What [`RevocationSet::drop_expired`] would drop.
    pub fn expired(&self, before: Timestamp) -> Self {
        let rules = self.rules.iter().filter(|(_, until)| **until < before);
        let exact = self.exact.iter().filter(|(_, slot)| slot.ends() <= before);
        let serials = self.serials.iter().filter(|(slot, _)| slot.ends() <= before);
        let fingerprints = self.fingerprints.iter().filter(|(key, _)| key.slot.ends() <= before);
        Self {
            rules: rules.map(|(selector, until)| (*selector, *until)).collect(),
            exact: exact.map(|(block, slot)| (*block, *slot)).collect(),
            serials: serials.map(|(slot, bucket)| (*slot, bucket.clone())).collect(),
            fingerprints: fingerprints.map(|(key, bucket)| (*key, bucket.clone())).collect(),
        }
    }

    /// Whether a serial is revoked. Allocates nothing.
    pub fn covers_serial(&self, slot: Slot, serial: u32) -> bool {
        self.serials.get(&slot).is_some_and(|bucket| bucket.contains(serial))
    }

    /// Whether a block of a token whose block 0 expires in this slot is revoked. Allocates nothing; hashes once per bucket
    /// of the slot, of which there is one unless its salt was lost.
    pub fn covers_block(&self, slot: Slot, block: &BlockId) -> bool {
        let first = FingerprintKey { slot, width: Width::Bits64, salt: Salt([0; 16]) };
        let last = FingerprintKey { slot, width: Width::Bits96, salt: Salt([0xff; 16]) };
        let mut buckets = self.fingerprints.range(first..=last);
        self.exact.contains_key(block) || buckets.any(|(key, bucket)| bucket.contains(key.fingerprint(block)))
    }

    /// Whether a block is revoked, in whichever slot its token expires.
    pub fn covers_block_anywhere(&self, block: &BlockId) -> bool {
        let mut buckets = self.fingerprints.iter();
        self.exact.contains_key(block) || buckets.any(|(key, bucket)| bucket.contains(key.fingerprint(block)))
    }

    /// Rules, and when each of them lapses.
    pub fn rules(&self) -> impl Iterator<Item = (&Selector, Timestamp)> {
        self.rules.iter().map(|(selector, until)| (selector, *until))
    }

    /// Whole ids of blocks.
    pub fn exact(&self) -> impl Iterator<Item = (&BlockId, Slot)> {
        self.exact.iter().map(|(block, slot)| (block, *slot))
    }

    /// Buckets of serials.
    pub fn serial_buckets(&self) -> impl Iterator<Item = (Slot, &SerialBucket)> {
        self.serials.iter().map(|(slot, bucket)| (*slot, bucket))
    }

    /// Every bucket of fingerprints.
    pub fn all_fingerprint_buckets(&self) -> impl Iterator<Item = (&FingerprintKey, &FingerprintBucket)> {
        self.fingerprints.iter()
    }

    /// The first of these rules that is there and has not lapsed at `floor`. Allocates nothing.
    pub fn covers_by_rule(
        &self,
        selectors: impl IntoIterator<Item = Selector>,
        issued: Timestamp,
        floor: Timestamp,
    ) -> Option<Selector> {
        let in_force = |until: &Timestamp| floor <= *until;
        let named = selectors.into_iter().find(|selector| self.rules.get(selector).is_some_and(in_force));
        named.or_else(|| {
            let later = Selector::IssuedBefore(Timestamp(issued.0.checked_add(1)?));
            let mut rules = self.rules.range(later..=Selector::IssuedBefore(Timestamp(u64::MAX)));
            rules.find(|(_, until)| in_force(until)).map(|(selector, _)| *selector)
        })
    }

    /// All that is revoked, in order.
    pub fn enumerate(&self) -> impl Iterator<Item = Revoked> + '_ {
        let rules = self.rules.iter().map(|(selector, until)| Revoked::Rule(*selector, *until));
        let exact = self.exact.iter().map(|(block, slot)| Revoked::Exact(*block, *slot));
        let serials = self.serials.iter();
        let serials = serials.flat_map(|(slot, bucket)| bucket.iter().map(|serial| Revoked::Serial(*slot, serial)));
        let buckets = self.fingerprints.iter();
        let fingerprints =
            buckets.flat_map(|(key, bucket)| bucket.iter().map(|number| Revoked::Fingerprint(*key, number)));
        rules.chain(exact).chain(serials).chain(fingerprints)
    }

    /// How many entries there are: rules, ids, serials and fingerprints.
    pub fn count(&self) -> u64 {
        let serials: u64 = self.serials.values().map(|bucket| u64::from(bucket.revoked())).sum();
        let fingerprints: u64 = self.fingerprints.values().map(|bucket| u64::from(bucket.count())).sum();
        (self.rules.len() + self.exact.len()) as u64 + serials + fingerprints
    }

    /// How many whole ids it holds.
    pub fn exact_count(&self) -> usize {
        self.exact.len()
    }

    /// The revoked serials of a slot.
    pub fn serials(&self, slot: Slot) -> Option<&SerialBucket> {
        self.serials.get(&slot)
    }

    /// The fingerprint buckets of a slot: to one of them the publisher adds, so that devices hash once.
    pub fn fingerprint_buckets(&self, slot: Slot) -> impl Iterator<Item = (&FingerprintKey, &FingerprintBucket)> {
        self.fingerprints.iter().filter(move |(key, _)| key.slot == slot)
    }

    /// Bytes of memory that it takes, about.
    pub fn memory_bytes(&self) -> usize {
        let rules = self.rules.len() * size_of::<(Selector, Timestamp)>();
        let exact = self.exact.len() * size_of::<(BlockId, Slot)>();
        let serials: usize = self.serials.values().map(SerialBucket::memory_bytes).sum();
        let fingerprints: usize = self.fingerprints.values().map(FingerprintBucket::memory_bytes).sum();
        rules + exact + serials + fingerprints
    }

    /// The parts that it has, in order.
    pub fn parts(&self) -> impl Iterator<Item = PartKey> + '_ {
        let rules = (!self.rules.is_empty()).then_some(PartKey::Rules);
        let exact = (!self.exact.is_empty()).then_some(PartKey::Exact);
        let serials = self.serials.keys().map(|slot| PartKey::Serials(*slot));
        let fingerprints = self.fingerprints.keys().map(|key| PartKey::Fingerprints(*key));
        rules.into_iter().chain(exact).chain(serials).chain(fingerprints)
    }

    /// The canonical bytes of a part, None where it has no such part.
    pub fn part(&self, key: PartKey) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        match key {
            PartKey::Rules => self.rules.iter().for_each(|(selector, until)| put_rule(&mut bytes, selector, *until)),
            PartKey::Exact => self.exact.iter().for_each(|(block, slot)| {
                bytes.extend(block.as_bytes());
                put_number(&mut bytes, u64::from(slot.number()));
            }),
            PartKey::Serials(slot) => bytes = self.serials.get(&slot)?.to_bytes(),
            PartKey::Fingerprints(key) => bytes = self.fingerprints.get(&key)?.to_bytes(),
        }
        (!bytes.is_empty()).then_some(bytes)
    }

    /// Takes a part from its bytes, in place of the one that it has.
    ///
    /// # Errors
    /// [`Refused::Malformed`] when they are not the only bytes that say it, or it is one bucket too many.
    pub fn put_part(&mut self, key: PartKey, bytes: &[u8]) -> Result<(), Refused> {
        match key {
            PartKey::Rules => {
                self.rules = read_ascending(bytes, RULES_MAX, read_rule)?;
            }
            PartKey::Exact => {
                self.exact = read_ascending(bytes, EXACT_MAX, |reader| {
                    let block = BlockId(reader.array()?);
                    Ok((block, Slot::from_number(reader.number(u64::from(u32::MAX))? as u32)?))
                })?;
            }
            PartKey::Serials(slot) => {
                self.serials.insert(slot, SerialBucket::from_bytes(bytes)?);
            }
            PartKey::Fingerprints(key) => {
                self.fingerprints.insert(key, FingerprintBucket::from_bytes(key.width, bytes)?);
            }
        }
        self.check()
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        for key in self.parts() {
            let part = self.part(key).expect("a part that it has");
            key.put(&mut bytes);
            put_number(&mut bytes, part.len() as u64);
            bytes.extend(part);
        }
        bytes
    }

    /// A set from its canonical bytes, up to `bytes_max` of them.
    ///
    /// # Errors
    /// [`Refused::TooLarge`], or [`Refused::Malformed`] when they are not the only bytes that say it.
    pub fn from_bytes(bytes: &[u8], bytes_max: usize) -> Result<Self, Refused> {
        if bytes.len() > bytes_max {
            return Err(Refused::TooLarge { bytes: bytes.len(), limit: bytes_max });
        }
        let mut reader = Reader::new(bytes);
        if reader.byte()? != FORMAT {
            return Err(Refused::Malformed("revocations of a format that is not known"));
        }
        let (mut set, mut last) = (Self::default(), None);
        while !reader.is_empty() {
            let key = PartKey::read(&mut reader)?;
            if last.replace(key).is_some_and(|last| last >= key) {
                return Err(Refused::Malformed("parts out of order"));
            }
            let length = reader.number(bytes_max as u64)? as usize;
            set.put_part(key, reader.take(length)?)?;
        }
        Ok(set)
    }
}

const TOO_MUCH: Refused = Refused::Malformed("more revocations than a set has");

fn check_limits(rules: usize, exact: usize, serials: usize, fingerprints: usize) -> Result<(), Refused> {
    let fits = rules <= RULES_MAX && exact <= EXACT_MAX && serials + fingerprints <= BUCKETS_MAX;
    fits.then_some(()).ok_or(TOO_MUCH)
}

/// How many keys of one map another one does not have.
fn fresh<K: Ord, V>(of: &BTreeMap<K, V>, known: &BTreeMap<K, V>) -> usize {
    of.keys().filter(|key| !known.contains_key(key)).count()
}

/// Entries to the end of the bytes, at least one, their keys strictly ascending.
fn read_ascending<K: Ord, V>(
    bytes: &[u8],
    max: usize,
    read: impl Fn(&mut Reader<'_>) -> Result<(K, V), Refused>,
) -> Result<BTreeMap<K, V>, Refused> {
    let mut reader = Reader::new(bytes);
    let mut entries = BTreeMap::new();
    loop {
        let (key, value) = read(&mut reader)?;
        if entries.last_key_value().is_some_and(|(last, _)| *last >= key) {
            return Err(Refused::Malformed("entries out of order"));
        }
        entries.insert(key, value);
        if entries.len() > max {
            return Err(TOO_MUCH);
        }
        if reader.is_empty() {
            return Ok(entries);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fingerprints::file;
    use super::super::manifest::Manifest;
    use super::*;

    const LIMIT: usize = 1 << 20;
    const HOUR: u64 = 3_600_000;

    fn slot(hour: u32) -> Slot {
        Slot::from_number(2 * (492_322 + hour)).unwrap()
    }

    fn key(hour: u32, salt: u8) -> FingerprintKey {
        let width = if salt % 2 == 0 { Width::Bits64 } else { Width::Bits96 };
        FingerprintKey { slot: slot(hour), width, salt: Salt([salt; 16]) }
    }

    fn block(number: u32) -> BlockId {
        BlockId::of_signature(&number.to_le_bytes())
    }

    /// Some of everything.
    fn example() -> RevocationSet {
        let mut set = RevocationSet::default();
        set.add_rule(Selector::device("gw-07"), Timestamp(2_000_000_000_000));
        set.add_rule(Selector::IssuedBefore(Timestamp(5000)), Timestamp(9000));
        set.add_exact(block(1), slot(0));
        set.add_serials(slot(0), SerialBucket::new(1000, [3, 5, 999]).unwrap());
        let filed = file(&key(1, 0), (10..20).map(block), []).unwrap();
        set.add_fingerprints(key(1, 0), filed.bucket.unwrap()).unwrap();
        set
    }

    #[test]
    fn what_is_revoked_is_covered_and_nothing_else() {
        let set = example();
        assert!(set.covers_serial(slot(0), 5) && !set.covers_serial(slot(0), 4) && !set.covers_serial(slot(1), 5));
        assert!(set.covers_block(slot(0), &block(1)) && set.covers_block(slot(9), &block(1)));
        assert!(set.covers_block(slot(1), &block(10)) && !set.covers_block(slot(1), &block(9)));
        assert!(!set.covers_block(slot(2), &block(10)), "the bucket of another slot");
        let rule = |selector, issued, floor| set.covers_by_rule([selector], Timestamp(issued), Timestamp(floor));
        assert_eq!(rule(Selector::device("gw-07"), 6000, 1), Some(Selector::device("gw-07")));
        assert_eq!(rule(Selector::device("gw-08"), 6000, 1), None);
        assert_eq!(rule(Selector::device("gw-07"), 6000, 2_000_000_000_001), None);
        assert_eq!(rule(Selector::All, 4999, 9000), Some(Selector::IssuedBefore(Timestamp(5000))));
        assert_eq!(rule(Selector::All, 5000, 9000), None);
        assert_eq!(rule(Selector::All, 4999, 9001), None);
        assert_eq!(set.enumerate().count() as u64, set.count());
    }

    #[test]
    fn a_bucket_is_dropped_whole_when_all_of_it_has_expired() {
        let ends = slot(0).ends();
        let mut set = example();
        set.drop_expired(Timestamp(ends.0 - 1));
        assert!(set.covers_serial(slot(0), 5) && set.covers_block(slot(0), &block(1)));
        set.drop_expired(ends);
        assert!(!set.covers_serial(slot(0), 5) && !set.covers_block(slot(0), &block(1)));
        assert!(set.covers_block(slot(1), &block(10)));
        set.drop_expired(Timestamp(ends.0 + HOUR));
        assert_eq!(set.parts().collect::<Vec<_>>(), [PartKey::Rules]);
        set.drop_expired(Timestamp(2_000_000_000_001));
        assert_eq!(set, RevocationSet::default());
    }

    #[test]
    fn bytes_that_say_it_in_another_way_are_refused() {
        let bytes = example().to_bytes();
        assert_eq!(RevocationSet::from_bytes(&bytes, LIMIT), Ok(example()));
        let limit = bytes.len() - 1;
        assert_eq!(RevocationSet::from_bytes(&bytes, limit), Err(Refused::TooLarge { bytes: bytes.len(), limit }));
        check_refused(&[], "ends too early");
        check_refused(&[2], "revocations of a format that is not known");
        check_refused(&[1, 9], "a part of a kind that is not known");
        check_refused(&[1, 0, 0], "ends too early");
        check_refused(&[1, 0, 2, 0, 5, 0, 2, 0, 5], "parts out of order");
        check_refused(&[1, 0, 4, 0, 5, 0, 5], "entries out of order");
        check_refused(&[1, 0, 2, 9, 5], "a rule of a kind that is not known");
        check_refused(&[1, 0, 0x82, 0, 0, 5], "a number that is not in its shortest form");
        check_refused(&[1, 2, 0xff, 0xff, 0xff, 0xff], "an expiry slot past the year 9999");
        check_refused(&[1, 3, 0, 0, 0, 0, 65], "fingerprints of neither 64 nor 96 bits");
        for cut in 1..bytes.len() {
            let whole_parts = RevocationSet::from_bytes(&bytes[..cut], LIMIT);
            assert!(whole_parts.is_err() || whole_parts.unwrap().to_bytes() == bytes[..cut]);
        }
    }

    #[track_caller]
    fn check_refused(bytes: &[u8], why: &'static str) {
        assert_eq!(RevocationSet::from_bytes(bytes, LIMIT), Err(Refused::Malformed(why)));
    }

    #[test]
    fn what_would_be_too_much_changes_nothing() {
        let mut set = RevocationSet::default();
        (0..RULES_MAX as u32).for_each(|n| set.add_rule(Selector::RootKey(n), Timestamp(1)));
        let before = set.clone();
        let mut delta = example();
        assert_eq!(set.apply(&delta), Err(TOO_MUCH));
        assert_eq!(set, before);
        delta.rules.clear();
        assert_eq!(set.apply(&delta), Ok(()));
        let longer = RevocationSet { rules: [(Selector::RootKey(0), Timestamp(2))].into(), ..RevocationSet::default() };
        assert_eq!(set.apply(&longer), Ok(()));
    }

    #[test]
    fn a_delta_of_one_serial_is_a_few_bytes() {
        let mut old = RevocationSet::default();
        old.add_serials(slot(0), SerialBucket::new(1 << 24, (0..1000).map(|n| n * 16_000)).unwrap());
        let mut new = old.clone();
        new.add_serials(slot(0), SerialBucket::new(1 << 24, [12_345_678]).unwrap());
        let delta = new.since(&old);
        assert_eq!(delta.enumerate().collect::<Vec<_>>(), [Revoked::Serial(slot(0), 12_345_678)]);
        assert!(delta.to_bytes().len() <= 16, "{}", delta.to_bytes().len());
    }

    fn set() -> impl Strategy<Value = RevocationSet> {
        let rules = prop::collection::vec((0..6_u32, 0..4_u64), 0..4);
        let exact = prop::collection::vec((0..6_u32, 0..3_u32), 0..4);
        let serials = prop::collection::vec((0..3_u32, 1..20_u32, prop::collection::vec(0..20_u32, 0..20)), 0..4);
        let fingerprints = prop::collection::vec((0..3_u32, 0..3_u8, prop::collection::vec(0..20_u128, 1..20)), 0..4);
        (rules, exact, serials, fingerprints).prop_map(|(rules, exact, serials, fingerprints)| {
            let mut set = RevocationSet::default();
            for (key, until) in rules {
                set.add_rule(Selector::RootKey(key), Timestamp(until));
            }
            for (number, hour) in exact {
                set.add_exact(block(number), slot(hour));
            }
            for (hour, issued, revoked) in serials {
                let revoked = revoked.into_iter().filter(|serial| *serial < issued);
                set.add_serials(slot(hour), SerialBucket::new(issued, revoked).unwrap());
            }
            for (hour, salt, numbers) in fingerprints {
                let bucket = FingerprintBucket::new(key(hour, salt).width, numbers).unwrap();
                set.add_fingerprints(key(hour, salt), bucket).unwrap();
            }
            set
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_set_has_one_form(set in set()) {
            let bytes = set.to_bytes();
            prop_assert_eq!(RevocationSet::from_bytes(&bytes, LIMIT), Ok(set.clone()));
            let mut in_parts = RevocationSet::default();
            for key in set.parts() {
                in_parts.put_part(key, &set.part(key).unwrap()).unwrap();
            }
            prop_assert_eq!(in_parts, set);
        }

        #[test]
        fn merging_is_a_union(a in set(), b in set(), c in set()) {
            let ab = a.merge(&b).unwrap();
            prop_assert_eq!(&ab, &b.merge(&a).unwrap());
            prop_assert_eq!(ab.merge(&c), a.merge(&b.merge(&c).unwrap()));
            prop_assert_eq!(&a.merge(&a).unwrap(), &a);
            prop_assert_eq!(&ab.merge(&a).unwrap(), &ab);
            prop_assert_eq!(ab.to_bytes(), b.merge(&a).unwrap().to_bytes());
        }

        #[test]
        fn a_delta_makes_the_old_the_new(old in set(), more in set(), late in set(), before in 0..4_u32) {
            let mut new = old.merge(&more).unwrap();
            let delta = new.since(&old);
            prop_assert_eq!(old.merge(&delta).unwrap(), new.clone());
            prop_assert_eq!(new.since(&new), RevocationSet::default());
            // Whatever else came in between, nothing that is new is missing, and nothing else is added.
            let elsewhere = old.merge(&late).unwrap();
            prop_assert_eq!(elsewhere.merge(&delta), elsewhere.merge(&new));
            // Two deltas merged are the delta over both.
            let newest = new.merge(&late).unwrap();
            let both = delta.merge(&newest.since(&new)).unwrap();
            prop_assert_eq!(old.merge(&both).unwrap(), newest);
            // What the publisher dropped, a device drops by the same date.
            let before = Timestamp(slot(0).begins().0 + u64::from(before) * HOUR);
            let mut device = old.clone();
            let (whole, gone) = (new.clone(), new.expired(before));
            new.drop_expired(before);
            prop_assert_eq!(new.merge(&gone).unwrap(), whole);
            prop_assert_eq!(Manifest::of(&old).grown(&new, &more), Manifest::of(&new));
            device.apply(&new.since(&old)).unwrap();
            device.drop_expired(before);
            prop_assert_eq!(device, new);
        }

        /// Deltas of single steps, of spans of them, and whole snapshots, in any order and more than once.
        #[test]
        fn whatever_arrives_in_whatever_order_the_root_is_one(
            steps in prop::collection::vec(set(), 1..6),
            arrivals in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..8),
            snapshot in any::<prop::sample::Index>(),
        ) {
            let mut heads = vec![RevocationSet::default()];
            for step in &steps {
                heads.push(heads.last().unwrap().merge(step).unwrap());
            }
            let mut device = RevocationSet::default();
            for (from, to) in arrivals {
                let (from, to) = (from.index(heads.len()), to.index(heads.len()));
                device.apply(&heads[from.max(to)].since(&heads[from.min(to)])).unwrap();
            }
            // From some snapshot on, all deltas: backwards, which is as good as any order.
            let snapshot = snapshot.index(heads.len());
            for at in (snapshot + 1..heads.len()).rev() {
                device.apply(&heads[at].since(&heads[at - 1])).unwrap();
            }
            device.apply(&heads[snapshot]).unwrap();
            let newest = heads.last().unwrap();
            prop_assert_eq!(Manifest::of(&device).root(), Manifest::of(newest).root());
            prop_assert_eq!(&device, newest);
        }

        #[test]
        fn nothing_is_covered_that_was_not_revoked(a in set(), b in set(), hour in 0..3_u32, serial in 0..25_u32, number in 0..8_u32) {
            let sum = a.merge(&b).unwrap();
            let either = |test: &dyn Fn(&RevocationSet) -> bool| test(&a) || test(&b);
            prop_assert_eq!(sum.covers_serial(slot(hour), serial), either(&|set| set.covers_serial(slot(hour), serial)));
            let of_block = |set: &RevocationSet| set.covers_block(slot(hour), &block(number));
            prop_assert_eq!(of_block(&sum), either(&of_block));
        }

        #[test]
        fn bytes_that_are_taken_are_the_only_ones_that_say_it(
            set in set(), at in any::<prop::sample::Index>(), byte: u8,
        ) {
            let mut bytes = set.to_bytes();
            *at.get_mut(&mut bytes) = byte;
            if let Ok(other) = RevocationSet::from_bytes(&bytes, LIMIT) {
                prop_assert_eq!(other.to_bytes(), bytes);
            }
        }
    }
}
