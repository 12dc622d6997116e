//! What a device signs and sends: a run of records.
//!
//! Owns: the signed [`SegmentHeader`] with the root over its leaves and the chain from segment to segment, the [`Upload`]
//! that carries a segment to the collector, open or sealed to it, what is left of one that a disk has damaged, and the header
//! of one whose records were given up ([`GivenUp`]).
//! Never: numbers, stores or sends anything.
//! Read next: `leaf.rs` for the records' bytes, `merkle.rs` for the root.

use rand_core::{CryptoRng, RngCore};
use serde::{Deserialize, Serialize};

use super::leaf::{self, Leaves};
use super::signer::AuditKey;
use super::{merkle, Record};
use crate::ids::{DeviceId, EraId, FleetId, Hash};
use crate::time::Timestamp;
use crate::wire::bundle::PublicKey;
use crate::wire::envelope::{Document, Signed};
use crate::wire::revocation::Position;
use crate::wire::seal::{Sealed, SealingKey, SealingPublic};
use crate::wire::{decode, encode, Refused, MESSAGE_BYTES_MAX};

/// The most bytes of leaves in one segment, so that its upload fits a message.
pub const SEGMENT_BYTES_MAX: usize = 28 * 1024;
/// The most records in one segment.
pub const SEGMENT_RECORDS_MAX: u32 = 64;
/// The highest number of an era, a segment or a record: no device counts so far, and ledgers keep signed numbers in order.
pub const NUMBER_MAX: u64 = i64::MAX as u64;

/// A run of records, signed by the device's audit key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SegmentHeader {
    /// The device.
    pub device: DeviceId,
    /// The era.
    pub era: EraId,
    /// The segment's number in the era, from 0 without a hole.
    pub segment: u64,
    /// The first record's index.
    pub first_index: u64,
    /// How many records, at least one.
    pub count: u32,
    /// The chain's head before it; the era's genesis for segment 0.
    pub previous: Hash,
    /// The root of the tree over its leaves: over those that are left, where it is salvaged.
    pub root: Hash,
    /// The floor E when it was closed.
    pub closed_at: Timestamp,
    /// Closed by a later start, over records that the era's own start left unsigned.
    pub recovered: bool,
    /// The certificate of the key that signs: in an era's first segment, and wherever nothing before announced that key.
    pub signer: Option<Signed<AuditKey>>,
    /// The revocation positions that the device held when it was closed.
    pub feeds: Vec<Position>,
    /// None for a whole segment. Else what a damaged store has left of it: `count` counts lost records too, and the
    /// chain goes on over them by the device's word alone.
    pub salvage: Option<Salvage>,
}

/// What is left of one segment, or of several in a row.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Salvage {
    /// The next segment's number: those in between are part of this one.
    pub next_segment: u64,
    /// Lost records, in order: each range's first, and the first after it. Gap records of the device count them.
    pub lost: Vec<(u64, u64)>,
    /// The chain's head after it: the next whole segment follows that.
    pub head: Hash,
    /// The certificate of the key that signed the segment that follows, as far as one is there.
    pub resumes: Option<Signed<AuditKey>>,
}

/// Records as leaves, and the root over them.
pub fn grow(records: &[Record]) -> (Vec<Vec<u8>>, Hash) {
    let mut growing = Leaves::default();
    let leaves: Vec<Vec<u8>> = records.iter().map(|record| growing.push(record)).collect();
    let root = root(&leaves);
    (leaves, root)
}

/// The root over leaves.
pub fn root(leaves: &[Vec<u8>]) -> Hash {
    let hashes: Vec<Hash> = leaves.iter().map(|leaf| merkle::leaf_hash(leaf)).collect();
    merkle::root(&hashes)
}

/// The chain's head after a segment.
pub fn link(previous: Hash, root: Hash) -> Hash {
    Hash::of("hardtack/link/v1", &[&previous.0, &root.0])
}

impl SegmentHeader {
    /// The chain's head after it.
    pub fn head(&self) -> Hash {
        self.salvage.as_ref().map_or_else(|| link(self.previous, self.root), |salvage| salvage.head)
    }

    /// The number of the segment after it.
    pub fn next_segment(&self) -> u64 {
        self.salvage.as_ref().map_or(self.segment.saturating_add(1), |salvage| salvage.next_segment)
    }

    /// The index after its last record.
    ///
    /// # Errors
    /// [`Refused::Malformed`] where no number is left for it.
    pub fn next_index(&self) -> Result<u64, Refused> {
        self.first_index.checked_add(u64::from(self.count)).ok_or(Refused::Malformed("an index past 64 bits"))
    }

    /// Whether its numbers are those that a device can come to: its era's, and those of the segment and the index after it.
    ///
    /// # Errors
    /// [`Refused::Malformed`] past [`NUMBER_MAX`].
    pub fn countable(&self) -> Result<(), Refused> {
        let furthest = [self.era.number, self.segment, self.next_segment(), self.next_index()?];
        let countable = furthest.iter().all(|number| *number <= NUMBER_MAX);
        countable.then_some(()).ok_or(Refused::Malformed("a number past 63 bits"))
    }

    /// The indexes of the records that it has leaves of, as ranges in order: each the first, and the first after it.
    ///
    /// # Errors
    /// [`Refused::Malformed`] where its numbers contradict each other.
    pub fn kept(&self) -> Result<Vec<(u64, u64)>, Refused> {
        self.countable()?;
        let end = self.next_index()?;
        match &self.salvage {
            Some(salvage) => kept(self, salvage, end),
            None => Ok(vec![(self.first_index, end)]),
        }
    }

    /// Whether nothing but the header is kept of it: the device gave its records up, and counts them in gap records.
    pub fn is_shed(&self, leaves: &[Vec<u8>]) -> bool {
        leaves.is_empty() && self.count > 0 && self.salvage.is_none()
    }

    /// The records of leaves whose root was checked.
    ///
    /// # Errors
    /// [`Refused::Malformed`] when a leaf is none, or there are more or fewer than numbers for them.
    pub fn read(&self, leaves: &[Vec<u8>]) -> Result<Vec<Record>, Refused> {
        let kept = self.kept()?;
        if kept.iter().map(|(first, end)| end - first).sum::<u64>() != leaves.len() as u64 {
            return Err(Refused::Malformed("more or fewer records than the header says"));
        }
        leaf::read(leaves, kept.into_iter().flat_map(|(first, end)| first..end))
    }
}

impl Document for SegmentHeader {
    const KIND: &'static str = "segment";
    const BYTES_MAX: usize = 4 * 1024;
}

/// A device says that it gave up the records of a segment, for want of room. Its identity key signs that: whoever only
/// carries a segment cannot make one without records of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GivenUp {
    /// The device.
    pub device: DeviceId,
    /// The digest of the segment's header.
    pub header: Hash,
}

impl Document for GivenUp {
    const KIND: &'static str = "given-up";
    const BYTES_MAX: usize = 512;
}

/// A closed segment as a store has it.
#[derive(Clone, PartialEq, Debug)]
pub enum Loaded {
    /// With its records.
    Whole(Upload),
    /// Without: they were given up.
    Shed(Signed<SegmentHeader>),
}

impl Loaded {
    /// As an upload, without leaves where they were given up.
    pub fn upload(self) -> Upload {
        match self {
            Self::Whole(upload) => upload,
            Self::Shed(header) => Upload { header, leaves: Vec::new() },
        }
    }

    /// The signed header.
    pub fn header(&self) -> &Signed<SegmentHeader> {
        match self {
            Self::Whole(upload) => &upload.header,
            Self::Shed(header) => header,
        }
    }

    /// The segment, if its records are there.
    pub fn whole(self) -> Option<Upload> {
        match self {
            Self::Whole(upload) => Some(upload),
            Self::Shed(_) => None,
        }
    }
}

/// A segment on its way to the collector.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Upload {
    /// The signed header.
    pub header: Signed<SegmentHeader>,
    /// The leaves' exact bytes.
    pub leaves: Vec<Vec<u8>>,
}

impl Upload {
    /// A closed segment as a store holds it: its header, and the bytes of each record. None if these are not the records
    /// that the header was signed over.
    pub fn of_rows(header: Signed<SegmentHeader>, rows: &[Vec<u8>]) -> Option<Self> {
        let records: Vec<Record> = rows.iter().map(|row| Record::from_bytes(row)).collect::<Result<_, _>>().ok()?;
        let (leaves, root) = grow(&records);
        (header.claim().ok()?.root == root).then_some(Self { header, leaves })
    }

    /// The records, if they are the ones that `header` was signed over. One without records does not pass.
    ///
    /// # Errors
    /// [`Refused::DigestMismatch`] when the root over the leaves is not the one that was signed; [`Refused::Malformed`]
    /// when a leaf is none, or there are more or fewer than numbers for them.
    pub fn check(&self, header: &SegmentHeader) -> Result<Vec<Record>, Refused> {
        if header.count == 0 || root(&self.leaves) != header.root {
            return Err(Refused::DigestMismatch);
        }
        header.read(&self.leaves)
    }
}

/// A segment as a message. Whoever carries it reads the header at most where the leaves are sealed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Delivery {
    /// As it is.
    Open(Upload),
    /// Its leaves sealed to the collector's key.
    Sealed {
        /// The signed header.
        header: Signed<SegmentHeader>,
        /// The leaves, for the purpose `audit` and this header's digest.
        leaves: Sealed,
    },
    /// Without leaves.
    Shed {
        /// The signed header.
        header: Signed<SegmentHeader>,
        /// That its records were given up.
        word: Signed<GivenUp>,
    },
}

/// What sealed leaves are sealed for.
const PURPOSE: &str = "audit";

impl Delivery {
    /// Seals a segment's leaves to the collector.
    ///
    /// # Errors
    /// Those of [`Sealed::seal`].
    pub fn seal(
        upload: Upload,
        collector: &SealingPublic,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<Self, Refused> {
        let context = upload.header.digest();
        let leaves = Sealed::seal(&encode(&upload.leaves), collector, PURPOSE, &context.0, rng)?;
        Ok(Self::Sealed { header: upload.header, leaves })
    }

    /// The signed header.
    pub fn header(&self) -> &Signed<SegmentHeader> {
        match self {
            Self::Open(upload) => &upload.header,
            Self::Sealed { header, .. } | Self::Shed { header, .. } => header,
        }
    }

    /// Whether it comes without records by the device's own word, which one of its identity keys signed.
    ///
    /// # Errors
    /// Those of [`Signed::open`]; [`Refused::DigestMismatch`] where the word is on another segment, [`Refused::Malformed`]
    /// where the header is none of a whole segment.
    pub fn is_shed(&self, fleet: &FleetId, identities: &[PublicKey]) -> Result<bool, Refused> {
        let (header, word) = match self {
            Self::Open(_) | Self::Sealed { .. } => return Ok(false),
            Self::Shed { header, word } => (header, word),
        };
        let (claim, said) = (header.claim()?, word.open(fleet, identities.iter().map(PublicKey::verifying), 1)?);
        if (&said.device, said.header) != (&claim.device, header.digest()) {
            return Err(Refused::DigestMismatch);
        }
        let whole = claim.is_shed(&[]) && claim.next_index().is_ok();
        whole.then_some(true).ok_or(Refused::Malformed("records given up of what is no whole segment"))
    }

    /// The segment, without leaves where they were given up. Sealed leaves are opened with the first of `keys` that fits.
    ///
    /// # Errors
    /// [`Refused::CannotOpen`] where none fits, [`Refused::Malformed`] where no leaves were sealed.
    pub fn open(self, keys: &[SealingKey]) -> Result<Upload, Refused> {
        match self {
            Self::Open(upload) => Ok(upload),
            Self::Sealed { header, leaves } => {
                let context = header.digest();
                let opened = keys.iter().find_map(|key| leaves.open(key, PURPOSE, &context.0).ok());
                let leaves = decode(&opened.ok_or(Refused::CannotOpen)?, MESSAGE_BYTES_MAX)?;
                Ok(Upload { header, leaves })
            }
            Self::Shed { header, .. } => Ok(Upload { header, leaves: Vec::new() }),
        }
    }

    /// The message.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Parses a message without trusting it.
    ///
    /// # Errors
    /// [`Refused::TooLarge`] or [`Refused::Malformed`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Refused> {
        decode(bytes, MESSAGE_BYTES_MAX)
    }
}

/// The ranges of a salvaged segment that are left.
fn kept(header: &SegmentHeader, salvage: &Salvage, end: u64) -> Result<Vec<(u64, u64)>, Refused> {
    if salvage.next_segment <= header.segment || header.count == 0 {
        return Err(Refused::Malformed("a salvaged segment that leads nowhere"));
    }
    let (mut kept, mut next) = (Vec::new(), header.first_index);
    for (first, after) in &salvage.lost {
        if *first < next || after <= first || *after > end {
            return Err(Refused::Malformed("lost records out of order"));
        }
        kept.push((next, *first));
        next = *after;
    }
    kept.push((next, end));
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    use super::super::{genesis, Event, Evidence};
    use super::*;

    fn record(index: u64) -> Record {
        let evidence = Evidence { source: "t".into(), reason: "r".into(), digest: Hash::ZERO, count: 1 };
        Record { index, floor: Timestamp(1), powered: Timestamp(2), event: Event::Refused(evidence) }
    }

    #[test]
    fn a_changed_dropped_swapped_or_renumbered_record_shows() {
        let (fleet, device) = ("acme".parse().unwrap(), "gw-07".parse::<DeviceId>().unwrap());
        let era = EraId { number: 3, salt: 9 };
        let previous = genesis(&fleet, &device, era);
        let make = |records: Vec<Record>| {
            let (leaves, root) = grow(&records);
            let header = SegmentHeader {
                device: device.clone(),
                era,
                segment: 0,
                first_index: 0,
                count: records.len() as u32,
                previous,
                root,
                closed_at: Timestamp(5),
                recovered: false,
                signer: None,
                feeds: Vec::new(),
                salvage: None,
            };
            let signed = Signed::sign(&header, &fleet, &[&SigningKey::from_bytes(&[1; 32])]);
            (Upload { header: signed, leaves }, header)
        };
        let (upload, header) = make((0..3).map(record).collect());
        let parsed = Delivery::from_bytes(&Delivery::Open(upload.clone()).to_bytes()).unwrap();
        assert_eq!(parsed.open(&[]).unwrap().check(&header).unwrap().len(), 3);

        let damage = |edit: &dyn Fn(&mut Vec<Vec<u8>>)| {
            let mut damaged = upload.clone();
            edit(&mut damaged.leaves);
            damaged.check(&header)
        };
        assert!(damage(&|l| l[1][0] ^= 1).is_err());
        assert!(damage(&|l| drop(l.pop())).is_err());
        assert!(damage(&|l| l.swap(0, 1)).is_err());
        assert!(damage(&|l| l.clear()).is_err());
        let claims = |edit: &dyn Fn(&mut SegmentHeader)| {
            let mut claimed = header.clone();
            edit(&mut claimed);
            upload.check(&claimed)
        };
        assert!(claims(&|h| h.count = 2).is_err());
        assert!(claims(&|h| h.count = 4).is_err());
        assert!(claims(&|h| h.first_index = u64::MAX - 1).is_err());
    }

    #[test]
    fn sealed_leaves_are_read_by_the_collector_alone_and_go_with_their_header_only() {
        let (leaves, root) = grow(&[0, 1, 2].map(record));
        let signed = |segment| {
            let header = SegmentHeader {
                device: "gw-07".parse().unwrap(),
                era: EraId { number: 3, salt: 9 },
                segment,
                first_index: 0,
                count: 3,
                previous: Hash::ZERO,
                root,
                closed_at: Timestamp(5),
                recovered: false,
                signer: None,
                feeds: Vec::new(),
                salvage: None,
            };
            Signed::sign(&header, &"acme".parse().unwrap(), &[&SigningKey::from_bytes(&[1; 32])])
        };
        let mut rng = ChaCha20Rng::from_seed([3; 32]);
        let keys = [SealingKey::generate(&mut rng), SealingKey::generate(&mut rng)];
        let upload = Upload { header: signed(0), leaves: leaves.clone() };
        let sealed = Delivery::seal(upload.clone(), &keys[1].public(), &mut rng).unwrap();
        let bytes = sealed.to_bytes();
        assert!(leaves.iter().all(|leaf| !bytes.windows(leaf.len()).any(|window| window == leaf)));
        assert_eq!(Delivery::from_bytes(&bytes).unwrap().open(&keys), Ok(upload), "an older key opens it too");
        assert_eq!(sealed.clone().open(&keys[..1]), Err(Refused::CannotOpen));
        let Delivery::Sealed { leaves, .. } = sealed else { panic!("it is sealed") };
        let elsewhere = Delivery::Sealed { header: signed(1), leaves };
        assert_eq!(elsewhere.open(&keys), Err(Refused::CannotOpen));
        let strange = Sealed::seal(b"no leaves", &keys[0].public(), PURPOSE, &signed(0).digest().0, &mut rng).unwrap();
        let strange = Delivery::Sealed { header: signed(0), leaves: strange };
        assert!(matches!(strange.open(&keys), Err(Refused::Malformed(_))));
    }

    #[test]
    fn only_the_device_can_give_up_records() {
        let (leaves, root) = grow(&[0, 1, 2].map(record));
        let (acme, key) = ("acme".parse().unwrap(), SigningKey::from_bytes(&[1; 32]));
        let device: DeviceId = "gw-07".parse().unwrap();
        let signed = |segment, count, salvage| {
            let header = SegmentHeader {
                device: device.clone(),
                era: EraId { number: 3, salt: 9 },
                segment,
                first_index: 5,
                count,
                previous: Hash::ZERO,
                root,
                closed_at: Timestamp(5),
                recovered: false,
                signer: None,
                feeds: Vec::new(),
                salvage,
            };
            Signed::sign(&header, &acme, &[&key])
        };
        let identities = [SigningKey::from_bytes(&[7; 32]), SigningKey::from_bytes(&[8; 32])];
        let public: Vec<PublicKey> = identities.iter().map(|key| key.verifying_key().into()).collect();
        let word = |of: &Signed<SegmentHeader>, by: &SigningKey, device: &str| {
            let said = GivenUp { device: device.parse().unwrap(), header: of.digest() };
            Signed::sign(&said, &acme, &[by])
        };
        let check = |header: &Signed<SegmentHeader>, word: Signed<GivenUp>| {
            let sent = Delivery::Shed { header: header.clone(), word };
            let parsed = Delivery::from_bytes(&sent.to_bytes()).unwrap();
            assert_eq!(parsed.clone().open(&[]).unwrap().leaves, Vec::<Vec<u8>>::new());
            parsed.is_shed(&acme, &public)
        };
        let good = signed(0, 3, None);
        assert_eq!(check(&good, word(&good, &identities[1], "gw-07")), Ok(true));
        assert_eq!(check(&good, word(&signed(1, 3, None), &identities[1], "gw-07")), Err(Refused::DigestMismatch));
        assert_eq!(check(&good, word(&good, &identities[1], "gw-08")), Err(Refused::DigestMismatch));
        assert!(matches!(check(&good, word(&good, &key, "gw-07")), Err(Refused::UnknownKey { .. })));
        let salvage = Salvage { next_segment: 1, lost: Vec::new(), head: Hash::ZERO, resumes: None };
        for bad in [signed(0, 0, None), signed(0, 3, Some(salvage))] {
            assert!(matches!(check(&bad, word(&bad, &identities[0], "gw-07")), Err(Refused::Malformed(_))));
        }
        let whole = Upload { header: good.clone(), leaves };
        assert_eq!(Delivery::Open(whole.clone()).is_shed(&acme, &public), Ok(false));
        let stripped = Upload { leaves: Vec::new(), ..whole };
        assert_eq!(stripped.check(&good.claim().unwrap()), Err(Refused::DigestMismatch));
    }

    #[test]
    fn what_is_left_of_a_damaged_segment_is_bound_to_its_header() {
        let (leaves, root) = grow(&[5, 8, 9].map(record));
        let header = SegmentHeader {
            device: "gw-07".parse().unwrap(),
            era: EraId { number: 3, salt: 9 },
            segment: 1,
            first_index: 5,
            count: 6,
            previous: Hash::ZERO,
            root,
            closed_at: Timestamp(5),
            recovered: true,
            signer: None,
            feeds: Vec::new(),
            salvage: Some(Salvage { next_segment: 3, lost: vec![(6, 8), (10, 11)], head: Hash::ZERO, resumes: None }),
        };
        let signed = Signed::sign(&header, &"acme".parse().unwrap(), &[&SigningKey::from_bytes(&[1; 32])]);
        let upload = Upload { header: signed, leaves };
        assert_eq!(upload.check(&header).unwrap().len(), 3);
        assert_eq!((header.next_segment(), header.next_index()), (3, Ok(11)));
        let with = |edit: &dyn Fn(&mut Salvage)| {
            let mut header = header.clone();
            header.salvage.as_mut().into_iter().for_each(edit);
            upload.check(&header)
        };
        assert!(with(&|_| {}).is_ok());
        assert!(with(&|s| s.lost = vec![(6, 8)]).is_err(), "a record that nobody counts");
        assert!(with(&|s| s.lost = vec![(10, 11), (6, 8)]).is_err());
        assert!(with(&|s| s.lost = vec![(6, 8), (10, 12)]).is_err());
        assert!(with(&|s| s.next_segment = 1).is_err());
        let mut damaged = upload.clone();
        damaged.leaves[0][0] ^= 1;
        assert_eq!(damaged.check(&header), Err(Refused::DigestMismatch));
    }
}
