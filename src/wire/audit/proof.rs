//! One record of a signed segment, with what proves that it is in there.
//!
//! Owns: [`Inclusion`], how it is cut from a segment, its check.
//! Never: proves that nothing is missing around the segment: that takes the chain.
//! Read next: `merkle.rs` for the path, `leaf.rs` for why the leaves before the record's are there.

use ed25519_dalek::VerifyingKey;

use super::leaf;
use super::merkle::{leaf_hash, path, root_from_first};
use super::segment::SegmentHeader;
use super::Record;
use crate::ids::{FleetId, Hash};
use crate::wire::envelope::Signed;
use crate::wire::Refused;

/// A record's place in a segment. A leaf is told against those before it, so these come with it; of those after it, the path
/// has no more than hashes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inclusion {
    /// The segment's signed header.
    pub header: Signed<SegmentHeader>,
    /// Its leaves from the first to the record's.
    pub leaves: Vec<Vec<u8>>,
    /// The path of the record's leaf, from the leaf up.
    pub path: Vec<Hash>,
}

impl Inclusion {
    /// Proves the record of this index. None if the segment has no leaf of it.
    ///
    /// # Errors
    /// [`Refused::Malformed`] when the header is none.
    pub fn of(header: Signed<SegmentHeader>, leaves: &[Vec<u8>], index: u64) -> Result<Option<Self>, Refused> {
        let kept = header.claim()?.kept()?;
        let mut places = kept.iter().flat_map(|(first, end)| *first..*end);
        let Some(place) = places.position(|at| at == index).filter(|place| *place < leaves.len()) else {
            return Ok(None);
        };
        let hashes: Vec<Hash> = leaves.iter().map(|leaf| leaf_hash(leaf)).collect();
        Ok(Some(Self { header, leaves: leaves[..=place].to_vec(), path: path(&hashes, place) }))
    }

    /// The record, unverified: only for finding what else its proof takes.
    ///
    /// # Errors
    /// [`Refused::Malformed`] when header or leaves are none.
    pub fn record(&self) -> Result<Record, Refused> {
        self.last(self.header.claim()?.kept()?)
    }

    fn last(&self, kept: Vec<(u64, u64)>) -> Result<Record, Refused> {
        let mut records = leaf::read(&self.leaves, kept.into_iter().flat_map(|(first, end)| first..end))?;
        records.pop().ok_or(Refused::Malformed("no record"))
    }

    /// The record, if one of `keys`, which are audit keys, signed for `fleet` that it is there.
    ///
    /// # Errors
    /// Those of [`Signed::open`]; [`Refused::DigestMismatch`] when leaves and path do not lead to the signed root;
    /// [`Refused::Malformed`] when a leaf is none.
    pub fn open<'k>(
        &self,
        fleet: &FleetId,
        keys: impl IntoIterator<Item = &'k VerifyingKey> + Clone,
    ) -> Result<(SegmentHeader, Record), Refused> {
        let header = self.header.open(fleet, keys, 1)?;
        let kept = header.kept()?;
        let count = kept.iter().map(|(first, end)| end - first).sum::<u64>();
        let count = usize::try_from(count).map_err(|_| Refused::DigestMismatch)?;
        let hashes: Vec<Hash> = self.leaves.iter().map(|leaf| leaf_hash(leaf)).collect();
        if root_from_first(&hashes, count, &self.path) != Some(header.root) {
            return Err(Refused::DigestMismatch);
        }
        Ok((header, self.last(kept)?))
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::super::segment::{grow, Salvage};
    use super::super::{Event, Evidence};
    use super::*;
    use crate::ids::EraId;
    use crate::time::Timestamp;

    type Edit<'e> = &'e dyn Fn(&mut Inclusion);

    fn record(index: u64) -> Record {
        let evidence = Evidence { source: "t".into(), reason: "r".into(), digest: Hash::ZERO, count: index };
        Record { index, floor: Timestamp(1), powered: Timestamp(2), event: Event::Refused(evidence) }
    }

    fn acme() -> FleetId {
        "acme".parse().unwrap()
    }

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[1; 32])
    }

    fn segment(indexes: &[u64], count: u32, salvage: Option<Salvage>) -> (Signed<SegmentHeader>, Vec<Vec<u8>>) {
        let (leaves, root) = grow(&indexes.iter().copied().map(record).collect::<Vec<_>>());
        let header = SegmentHeader {
            device: "gw-07".parse().unwrap(),
            era: EraId { number: 3, salt: 9 },
            segment: 1,
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
        (Signed::sign(&header, &acme(), &[&key()]), leaves)
    }

    #[test]
    fn every_record_of_a_segment_is_proved_and_no_other() {
        let (header, leaves) = segment(&[5, 6, 7, 8, 9, 10, 11], 7, None);
        let public = key().verifying_key();
        for index in 5..12 {
            let proof = Inclusion::of(header.clone(), &leaves, index).unwrap().unwrap();
            assert_eq!(proof.open(&acme(), [&public]).unwrap().1, record(index));
            let edits: [(&str, Edit<'_>); 5] = [
                ("a leaf changed", &|p| p.leaves[0][1] ^= 1),
                ("a leaf more", &|p| p.leaves.push(vec![0, 0, 0])),
                ("a leaf less", &|p| drop(p.leaves.pop())),
                ("a hash changed", &|p| p.path[0].0[0] ^= 1),
                ("a hash less", &|p| p.path.truncate(p.path.len() - 1)),
            ];
            for (what, edit) in edits {
                let mut damaged = proof.clone();
                edit(&mut damaged);
                assert_eq!(damaged.open(&acme(), [&public]), Err(Refused::DigestMismatch), "{what} of {index}");
            }
            let stranger = SigningKey::from_bytes(&[2; 32]).verifying_key();
            assert!(matches!(proof.open(&acme(), [&stranger]), Err(Refused::UnknownKey { .. })));
            assert_eq!(proof.open(&"evil".parse().unwrap(), [&public]), Err(Refused::BadSignature));
        }
        assert_eq!(Inclusion::of(header.clone(), &leaves, 4), Ok(None));
        assert_eq!(Inclusion::of(header, &leaves, 12), Ok(None));
    }

    #[test]
    fn what_is_left_of_a_damaged_segment_keeps_its_numbers() {
        let salvage = Salvage { next_segment: 3, lost: vec![(6, 8), (10, 11)], head: Hash::ZERO, resumes: None };
        let (header, leaves) = segment(&[5, 8, 9], 6, Some(salvage));
        let public = key().verifying_key();
        let proof = |index| Inclusion::of(header.clone(), &leaves, index).unwrap();
        assert_eq!(proof(8).unwrap().open(&acme(), [&public]).unwrap().1, record(8));
        assert_eq!((proof(6), proof(10)), (None, None));
    }
}
