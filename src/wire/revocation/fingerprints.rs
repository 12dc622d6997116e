//! Fingerprints of revoked blocks whose number nobody knows: devices narrow tokens offline.
//!
//! Owns: the salted hash, [`FingerprintKey`], [`FingerprintBucket`], and [`file()`], which tells apart what a fingerprint can
//! say and what takes the whole id.
//! Never: draws a salt; knows which blocks are alive. The publisher says both.
//! Read next: `set.rs`.
//!
//! A fingerprint of b bits among N answers falsely for a block that nobody had told the publisher of with a chance of
//! N / 2^b: for 64 bits and a million, one in 10^13. For the blocks that it had been told of, the answer is exact.

use super::bytes::{put_number, Reader};
use super::golomb::Coded;
use super::slot::Slot;
use crate::ids::{hex, BlockId, Hash};
use crate::wire::Refused;

/// The most fingerprints of one bucket.
pub const FINGERPRINTS_MAX: u32 = 1 << 24;

/// Bits of a fingerprint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Width {
    /// 64 bits.
    Bits64,
    /// 96 bits: where somebody may look for a token that collides with another one on purpose.
    Bits96,
}

impl Width {
    /// How many bits.
    pub const fn bits(self) -> u8 {
        match self {
            Self::Bits64 => 64,
            Self::Bits96 => 96,
        }
    }

    const fn universe(self) -> u128 {
        1 << self.bits()
    }

    pub(super) fn from_bits(bits: u8) -> Result<Self, Refused> {
        [Self::Bits64, Self::Bits96]
            .into_iter()
            .find(|width| width.bits() == bits)
            .ok_or(Refused::Malformed("fingerprints of neither 64 nor 96 bits"))
    }
}

/// Random bits that the publisher draws when it begins a bucket, so that nobody can have prepared for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Salt(pub [u8; 16]);

impl std::fmt::Debug for Salt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// Which bucket: that of a slot, unless the width or the salt has changed within it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FingerprintKey {
    /// When block 0 of the tokens expires.
    pub slot: Slot,
    /// Bits of the fingerprints.
    pub width: Width,
    /// What they are salted with.
    pub salt: Salt,
}

impl FingerprintKey {
    /// The fingerprint of a block: the first bits of a SHA-256, as a number.
    pub fn fingerprint(&self, block: &BlockId) -> u128 {
        let hash = Hash::of("hardtack/fingerprint/v1", &[&self.salt.0, block.as_bytes()]);
        let top = u128::from_be_bytes(hash.0[..16].try_into().expect("16 of 32 bytes"));
        top >> (128 - u32::from(self.width.bits()))
    }
}

/// The fingerprints of one bucket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FingerprintBucket(Numbers);

/// By width: half the memory for the usual one.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Numbers {
    Narrow(Coded<u64>),
    Wide(Coded<u128>),
}

impl FingerprintBucket {
    /// A bucket of these fingerprints, in any order, doubles allowed.
    ///
    /// # Errors
    /// [`Refused::Malformed`] above [`FINGERPRINTS_MAX`], or when one has more bits than the width.
    pub fn new(width: Width, fingerprints: impl IntoIterator<Item = u128>) -> Result<Self, Refused> {
        let mut list: Vec<u128> = fingerprints.into_iter().collect();
        list.sort_unstable();
        list.dedup();
        if list.last().is_some_and(|last| *last >= width.universe()) {
            return Err(Refused::Malformed("a fingerprint with more bits than its width"));
        }
        Self::of_ascending(width, &list)
    }

    fn of_ascending(width: Width, fingerprints: &[u128]) -> Result<Self, Refused> {
        if fingerprints.len() > FINGERPRINTS_MAX as usize {
            return Err(Refused::Malformed("more fingerprints than a bucket has"));
        }
        let all = fingerprints.iter().copied();
        Ok(Self(match width {
            Width::Bits64 => Numbers::Narrow(Coded::encode(width.universe(), all.map(|wide| wide as u64))),
            Width::Bits96 => Numbers::Wide(Coded::encode(width.universe(), all)),
        }))
    }

    /// A bucket from its bytes.
    ///
    /// # Errors
    /// [`Refused::Malformed`] when they are not the only bytes that say it.
    pub fn from_bytes(width: Width, bytes: &[u8]) -> Result<Self, Refused> {
        let mut reader = Reader::new(bytes);
        let count = reader.number(u64::from(FINGERPRINTS_MAX))? as u32;
        if count == 0 {
            return Err(Refused::Malformed("a bucket without fingerprints"));
        }
        let bytes = reader.rest();
        Ok(Self(match width {
            Width::Bits64 => Numbers::Narrow(Coded::decode(width.universe(), count, bytes)?),
            Width::Bits96 => Numbers::Wide(Coded::decode(width.universe(), count, bytes)?),
        }))
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let coded = match &self.0 {
            Numbers::Narrow(coded) => coded.as_bytes(),
            Numbers::Wide(coded) => coded.as_bytes(),
        };
        let mut bytes = Vec::with_capacity(5 + coded.len());
        put_number(&mut bytes, u64::from(self.count()));
        bytes.extend(coded);
        bytes
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        match &self.0 {
            Numbers::Narrow(coded) => coded.count(),
            Numbers::Wide(coded) => coded.count(),
        }
    }

    /// Whether a fingerprint is among them. Allocates nothing.
    pub fn contains(&self, fingerprint: u128) -> bool {
        match &self.0 {
            Numbers::Narrow(coded) => u64::try_from(fingerprint).is_ok_and(|narrow| coded.contains(narrow)),
            Numbers::Wide(coded) => coded.contains(fingerprint),
        }
    }

    /// The fingerprints, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u128> + Clone + '_ {
        let (narrow, wide) = match &self.0 {
            Numbers::Narrow(coded) => (Some(coded.iter()), None),
            Numbers::Wide(coded) => (None, Some(coded.iter())),
        };
        narrow.into_iter().flatten().map(u128::from).chain(wide.into_iter().flatten())
    }

    /// What is in either of two buckets of one key.
    ///
    /// # Errors
    /// [`Refused::Malformed`] above [`FINGERPRINTS_MAX`], or when they are of two widths.
    pub fn union(&self, other: &Self) -> Result<Self, Refused> {
        let sum = Self(match (&self.0, &other.0) {
            (Numbers::Narrow(a), Numbers::Narrow(b)) => Numbers::Narrow(a.union(b, Width::Bits64.universe())),
            (Numbers::Wide(a), Numbers::Wide(b)) => Numbers::Wide(a.union(b, Width::Bits96.universe())),
            (Numbers::Narrow(_), Numbers::Wide(_)) | (Numbers::Wide(_), Numbers::Narrow(_)) => {
                return Err(Refused::Malformed("fingerprints of two widths"));
            }
        });
        sum.bounded()
    }

    /// What this has over an older one of the same key, None if nothing.
    pub fn minus(&self, older: &Self) -> Option<Self> {
        let more = Self(match (&self.0, &older.0) {
            (Numbers::Narrow(a), Numbers::Narrow(b)) => Numbers::Narrow(a.minus(b, Width::Bits64.universe())),
            (Numbers::Wide(a), Numbers::Wide(b)) => Numbers::Wide(a.minus(b, Width::Bits96.universe())),
            (Numbers::Narrow(_), Numbers::Wide(_)) | (Numbers::Wide(_), Numbers::Narrow(_)) => self.0.clone(),
        });
        (more.count() > 0).then_some(more)
    }

    fn bounded(self) -> Result<Self, Refused> {
        if self.count() > FINGERPRINTS_MAX {
            return Err(Refused::Malformed("more fingerprints than a bucket has"));
        }
        Ok(self)
    }

    /// Bytes of memory that it takes.
    pub fn memory_bytes(&self) -> usize {
        match &self.0 {
            Numbers::Narrow(coded) => coded.memory_bytes(),
            Numbers::Wide(coded) => coded.memory_bytes(),
        }
    }
}

/// Revoked blocks, filed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filed {
    /// Fingerprints that no live block has. None if there are none.
    pub bucket: Option<FingerprintBucket>,
    /// Blocks whose fingerprint a live block has as well: they are published whole.
    pub exact: Vec<BlockId>,
}

/// Files newly revoked blocks of one bucket: by fingerprint, or whole where the fingerprint would cover a live block too.
///
/// `live` are the blocks that the publisher knows of and that are not revoked; those among `revoked` do not count. What
/// was published before is not filed again, since a fingerprint is not taken back: the result is merged into it.
/// Memory: 48 bytes per revoked block.
///
/// # Errors
/// [`Refused::Malformed`] above [`FINGERPRINTS_MAX`].
pub fn file(
    key: &FingerprintKey,
    revoked: impl IntoIterator<Item = BlockId>,
    live: impl IntoIterator<Item = BlockId>,
) -> Result<Filed, Refused> {
    let (fingerprints, exact) = sort(|block| key.fingerprint(block), revoked, live);
    let bucket = FingerprintBucket::of_ascending(key.width, &fingerprints)?;
    Ok(Filed { bucket: Some(bucket).filter(|bucket| bucket.count() > 0), exact })
}

/// Fingerprints of the revoked blocks, ascending, and the blocks that share theirs with a live one.
fn sort(
    fingerprint: impl Fn(&BlockId) -> u128,
    revoked: impl IntoIterator<Item = BlockId>,
    live: impl IntoIterator<Item = BlockId>,
) -> (Vec<u128>, Vec<BlockId>) {
    let mut revoked: Vec<(u128, BlockId)> = revoked.into_iter().map(|block| (fingerprint(&block), block)).collect();
    revoked.sort_unstable();
    revoked.dedup();
    let mut shared: Vec<u128> = Vec::new();
    for block in live {
        let of_it = fingerprint(&block);
        let from = revoked.partition_point(|(other, _)| *other < of_it);
        let alike = || revoked[from..].iter().take_while(|(other, _)| *other == of_it);
        if alike().next().is_some() && alike().all(|(_, other)| *other != block) {
            shared.push(of_it);
        }
    }
    shared.sort_unstable();
    let (exact, by_fingerprint): (Vec<_>, Vec<_>) =
        revoked.into_iter().partition(|(of_it, _)| shared.binary_search(of_it).is_ok());
    let mut fingerprints: Vec<u128> = by_fingerprint.into_iter().map(|(of_it, _)| of_it).collect();
    fingerprints.dedup();
    let mut exact: Vec<BlockId> = exact.into_iter().map(|(_, block)| block).collect();
    exact.sort_unstable();
    (fingerprints, exact)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn key(width: Width) -> FingerprintKey {
        FingerprintKey { slot: Slot::from_number(984_644).unwrap(), width, salt: Salt([7; 16]) }
    }

    fn block(number: u32) -> BlockId {
        BlockId::of_signature(&number.to_le_bytes())
    }

    #[test]
    fn a_wider_fingerprint_begins_with_the_narrower_one() {
        let (narrow, wide) = (key(Width::Bits64).fingerprint(&block(1)), key(Width::Bits96).fingerprint(&block(1)));
        assert_eq!(wide >> 32, narrow);
        assert!(narrow < 1 << 64 && wide < 1 << 96);
        let salted = FingerprintKey { salt: Salt([8; 16]), ..key(Width::Bits64) };
        assert_ne!(salted.fingerprint(&block(1)), narrow);
    }

    #[test]
    fn revoked_blocks_are_covered_and_live_ones_are_not() {
        for width in [Width::Bits64, Width::Bits96] {
            let key = key(width);
            let filed = file(&key, (0..1000).map(block), (1000..2000).map(block)).unwrap();
            assert_eq!(filed.exact, []);
            let bucket = filed.bucket.unwrap();
            assert!((0..1000).all(|n| bucket.contains(key.fingerprint(&block(n)))));
            assert!(!(1000..3000).any(|n| bucket.contains(key.fingerprint(&block(n)))));
            assert_eq!(FingerprintBucket::from_bytes(width, &bucket.to_bytes()), Ok(bucket));
        }
    }

    #[test]
    fn a_fingerprint_that_a_live_block_shares_is_not_published() {
        // Eight bits, so that they do collide.
        let fingerprint = |block: &BlockId| u128::from(block.0[0]);
        let (fingerprints, exact) = sort(fingerprint, (0..100).map(block), (0..200).map(block));
        let live: BTreeSet<u128> = (100..200).map(|n| fingerprint(&block(n))).collect();
        assert!(!exact.is_empty() && !fingerprints.is_empty());
        assert!(fingerprints.iter().all(|of_it| !live.contains(of_it)));
        assert!(exact.iter().all(|block| live.contains(&fingerprint(block))));
        let whole: BTreeSet<&BlockId> = exact.iter().collect();
        for n in 0..100 {
            assert!(whole.contains(&block(n)) || fingerprints.binary_search(&fingerprint(&block(n))).is_ok(), "{n}");
        }
    }

    #[test]
    fn what_no_bucket_is_is_refused() {
        assert!(FingerprintBucket::new(Width::Bits64, [1 << 64]).is_err());
        assert!(FingerprintBucket::from_bytes(Width::Bits64, &[0]).is_err());
        assert!(FingerprintBucket::from_bytes(Width::Bits64, &[0xff, 0xff, 0xff, 0x7f]).is_err());
        assert!(FingerprintBucket::from_bytes(Width::Bits96, &[1, 0, 0]).is_err());
        assert!(Width::from_bits(65).is_err() && Width::from_bits(96) == Ok(Width::Bits96));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_bucket_does_what_a_plain_set_does(
            a in prop::collection::btree_set(prop_oneof![0..50_u128, any::<u64>().prop_map(u128::from)], 0..80),
            b in prop::collection::btree_set(prop_oneof![0..50_u128, any::<u64>().prop_map(u128::from)], 0..80),
            wide: bool,
        ) {
            let width = if wide { Width::Bits96 } else { Width::Bits64 };
            let bucket = |set: &BTreeSet<u128>| FingerprintBucket::new(width, set.iter().copied()).unwrap();
            let (first, second) = (bucket(&a), bucket(&b));
            let union: BTreeSet<u128> = a.union(&b).copied().collect();
            prop_assert_eq!(first.union(&second), Ok(bucket(&union)));
            let more: BTreeSet<u128> = a.difference(&b).copied().collect();
            prop_assert_eq!(first.minus(&second), Some(bucket(&more)).filter(|bucket| bucket.count() > 0));
            prop_assert!(b.iter().all(|number| first.contains(*number) == a.contains(number)));
        }

        #[test]
        fn bytes_that_are_taken_are_the_only_ones_that_say_it(bytes in prop::collection::vec(any::<u8>(), 0..60), wide: bool) {
            let width = if wide { Width::Bits96 } else { Width::Bits64 };
            if let Ok(bucket) = FingerprintBucket::from_bytes(width, &bytes) {
                prop_assert_eq!(bucket.to_bytes(), bytes);
            }
        }
    }
}
