//! A revocation set in pieces that are believed one by one.
//!
//! Owns: [`Manifest`], the parts of a set under one root; [`Piece`], 16 KiB of a part with its way to that root.
//! Never: believes a piece by anything but the root.
//! Read next: `set.rs`, which takes parts that are complete.
//!
//! A device needs one piece and its path in memory at a time: it checks the piece, writes it down, and asks for the next.

use std::collections::BTreeSet;

use super::bytes::{put_number, Reader};
use super::set::{PartKey, RevocationSet, BUCKETS_MAX, FORMAT};
use super::{merkle, BUCKET_BYTES_MAX};
use crate::ids::Hash;
use crate::wire::{Refused, MESSAGE_BYTES_MAX};

/// Bytes of each piece of a part but the last.
pub const PIECE_BYTES: usize = 16 * 1024;
/// The most parts: rules, whole ids and the buckets.
const PARTS_MAX: usize = 2 + BUCKETS_MAX;
/// The most bytes of a manifest: a key has 22, a length 4 and a digest 32.
pub const MANIFEST_BYTES_MAX: usize = 1 + PARTS_MAX * 60;

/// A part of a set as the root knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// Which.
    pub key: PartKey,
    /// How many bytes it has.
    pub bytes: u32,
    /// The root over its pieces.
    pub root: Hash,
}

impl Part {
    /// A part of these bytes.
    fn of(key: PartKey, bytes: &[u8]) -> Self {
        let length = u32::try_from(bytes.len()).expect("buckets are bounded");
        Self { key, bytes: length, root: merkle::root(&leaves(bytes)) }
    }

    fn put(&self, out: &mut Vec<u8>) {
        self.key.put(out);
        put_number(out, u64::from(self.bytes));
        out.extend(self.root.0);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Refused> {
        let key = PartKey::read(reader)?;
        let bytes = reader.number(BUCKET_BYTES_MAX)? as u32;
        if bytes == 0 {
            return Err(Refused::Malformed("a part without bytes"));
        }
        Ok(Self { key, bytes, root: Hash(reader.array()?) })
    }

    /// How many pieces it has.
    pub fn pieces(&self) -> usize {
        (self.bytes as usize).div_ceil(PIECE_BYTES)
    }

    fn leaf(&self) -> Hash {
        let mut bytes = Vec::with_capacity(64);
        self.put(&mut bytes);
        Hash::of("hardtack/revocation-part/v1", &[&bytes])
    }
}

fn leaves(part: &[u8]) -> Vec<Hash> {
    part.chunks(PIECE_BYTES).map(leaf).collect()
}

fn leaf(piece: &[u8]) -> Hash {
    Hash::of("hardtack/revocation-piece/v1", &[piece])
}

/// The root of a set with so many parts.
fn root_of(parts: usize, tree: Hash) -> Hash {
    Hash::of("hardtack/revocations/v1", &[&[FORMAT], &(parts as u32).to_le_bytes(), &tree.0])
}

/// The parts of a set.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Manifest {
    parts: Vec<Part>,
}

impl Manifest {
    /// The manifest of a set. Hashes all of its bytes, one part in memory at a time.
    pub fn of(set: &RevocationSet) -> Self {
        let part = |key| Part::of(key, &set.part(key).expect("a part that it has"));
        Self { parts: set.parts().map(part).collect() }
    }

    /// The manifest of the set that the one of this manifest became by `additions` and by dropping what has expired: buckets
    /// that it only kept are not hashed again.
    pub fn grown(&self, set: &RevocationSet, additions: &RevocationSet) -> Self {
        let added: BTreeSet<PartKey> = additions.parts().collect();
        let kept = |key: PartKey| {
            // Rules and ids lapse one by one, buckets whole.
            let may_differ = matches!(key, PartKey::Rules | PartKey::Exact) || added.contains(&key);
            let index = self.parts.binary_search_by_key(&key, |part| part.key).ok().filter(|_| !may_differ)?;
            self.parts.get(index).copied()
        };
        let part = |key| kept(key).unwrap_or_else(|| Part::of(key, &set.part(key).expect("a part that it has")));
        Self { parts: set.parts().map(part).collect() }
    }

    /// The parts, in order.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The digest of the whole set, which a head names.
    pub fn root(&self) -> Hash {
        root_of(self.parts.len(), merkle::root(&self.leaves()))
    }

    fn leaves(&self) -> Vec<Hash> {
        self.parts.iter().map(Part::leaf).collect()
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        self.parts.iter().for_each(|part| part.put(&mut bytes));
        bytes
    }

    /// A manifest from its bytes. It is believed if its root is the one that a head names.
    ///
    /// # Errors
    /// [`Refused::TooLarge`] or [`Refused::Malformed`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Refused> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(Refused::TooLarge { bytes: bytes.len(), limit: MANIFEST_BYTES_MAX });
        }
        let mut reader = Reader::new(bytes);
        if reader.byte()? != FORMAT {
            return Err(Refused::Malformed("revocations of a format that is not known"));
        }
        let mut parts: Vec<Part> = Vec::new();
        while !reader.is_empty() {
            let part = Part::read(&mut reader)?;
            if parts.last().is_some_and(|last| last.key >= part.key) {
                return Err(Refused::Malformed("parts out of order"));
            }
            parts.push(part);
        }
        if parts.len() > PARTS_MAX {
            return Err(Refused::Malformed("more parts than a set has"));
        }
        Ok(Self { parts })
    }

    /// A piece of the set that this is the manifest of, None where there is none at that place.
    pub fn piece(&self, set: &RevocationSet, key: PartKey, piece: usize) -> Option<Piece> {
        let index = self.parts.binary_search_by_key(&key, |part| part.key).ok()?;
        let part = *self.parts.get(index)?;
        let whole = set.part(key)?;
        let bytes = whole.chunks(PIECE_BYTES).nth(piece)?.to_vec();
        let path = merkle::path(&leaves(&whole), piece);
        let part_path = merkle::path(&self.leaves(), index);
        Some(Piece { part, place: Place { parts: self.parts.len(), part: index, piece }, bytes, path, part_path })
    }
}

/// Where a piece stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    /// How many parts the set has.
    parts: usize,
    /// Which of them it belongs to, from 0.
    part: usize,
    /// Which piece of that it is, from 0.
    piece: usize,
}

/// Up to [`PIECE_BYTES`] of a part, with the digests that lead from it to the root of the set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    part: Part,
    place: Place,
    bytes: Vec<u8>,
    path: Vec<Hash>,
    part_path: Vec<Hash>,
}

impl Piece {
    /// The bytes as they are sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        self.part.put(&mut bytes);
        for number in [self.place.parts, self.place.part, self.place.piece] {
            put_number(&mut bytes, number as u64);
        }
        self.path.iter().chain(&self.part_path).for_each(|digest| bytes.extend(digest.0));
        bytes.extend(&self.bytes);
        bytes
    }

    /// A piece from bytes, without trusting it.
    ///
    /// # Errors
    /// [`Refused::TooLarge`], or [`Refused::Malformed`] when no set has such a piece.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Refused> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(Refused::TooLarge { bytes: bytes.len(), limit: MESSAGE_BYTES_MAX });
        }
        let mut reader = Reader::new(bytes);
        if reader.byte()? != FORMAT {
            return Err(Refused::Malformed("revocations of a format that is not known"));
        }
        let part = Part::read(&mut reader)?;
        let parts = reader.number(PARTS_MAX as u64)? as usize;
        let index = reader.number(PARTS_MAX as u64)? as usize;
        let piece = reader.number(u64::from(u32::MAX))? as usize;
        if index >= parts || piece >= part.pieces() {
            return Err(Refused::Malformed("a piece that no set has"));
        }
        let mut digests = |count: usize| (0..count).map(|_| reader.array().map(Hash)).collect::<Result<Vec<_>, _>>();
        let path = digests(merkle::path_length(piece, part.pieces()))?;
        let part_path = digests(merkle::path_length(index, parts))?;
        let bytes = reader.rest().to_vec();
        if bytes.len() != (part.bytes as usize - piece * PIECE_BYTES).min(PIECE_BYTES) {
            return Err(Refused::Malformed("a piece of another length than its place has"));
        }
        Ok(Self { part, place: Place { parts, part: index, piece }, bytes, path, part_path })
    }

    /// Its bytes, if it belongs to the set of this root: with the part that they belong to and the first byte's place in
    /// that.
    ///
    /// # Errors
    /// [`Refused::DigestMismatch`].
    pub fn verify(&self, root: &Hash) -> Result<(Part, usize, &[u8]), Refused> {
        let part_root = merkle::root_from(leaf(&self.bytes), self.place.piece, self.part.pieces(), &self.path)?;
        let tree = merkle::root_from(self.part.leaf(), self.place.part, self.place.parts, &self.part_path)?;
        if part_root != self.part.root || root_of(self.place.parts, tree) != *root {
            return Err(Refused::DigestMismatch);
        }
        Ok((self.part, self.place.piece * PIECE_BYTES, &self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::fingerprints::{FingerprintBucket, FingerprintKey, Salt, Width};
    use super::super::rules::Selector;
    use super::super::serials::SerialBucket;
    use super::super::slot::Slot;
    use super::*;
    use crate::time::Timestamp;

    fn example() -> RevocationSet {
        let mut set = RevocationSet::default();
        let slot = |number| Slot::from_number(number).unwrap();
        set.add_rule(Selector::All, Timestamp(9));
        set.add_serials(slot(4), SerialBucket::new(500, [7]).unwrap());
        let key = FingerprintKey { slot: slot(6), width: Width::Bits64, salt: Salt([1; 16]) };
        let numbers = (0..10_000_u128).map(|n| n * 1_000_003 * 1_000_000_007);
        set.add_fingerprints(key, FingerprintBucket::new(Width::Bits64, numbers).unwrap()).unwrap();
        set
    }

    fn pieces(set: &RevocationSet, manifest: &Manifest) -> Vec<Piece> {
        let places = manifest.parts().iter().flat_map(|part| (0..part.pieces()).map(|piece| (part.key, piece)));
        places.map(|(key, piece)| manifest.piece(set, key, piece).unwrap()).collect()
    }

    #[test]
    fn a_set_comes_whole_out_of_pieces_in_any_order() {
        let set = example();
        let manifest = Manifest::of(&set);
        assert_eq!(Manifest::from_bytes(&manifest.to_bytes()), Ok(manifest.clone()));
        let root = manifest.root();
        let mut parts: BTreeMap<PartKey, Vec<u8>> = BTreeMap::new();
        let pieces = pieces(&set, &manifest);
        assert!(pieces.len() > 5, "a part of several pieces");
        for piece in pieces.iter().rev() {
            let bytes = piece.to_bytes();
            assert!(bytes.len() <= MESSAGE_BYTES_MAX);
            let piece = Piece::from_bytes(&bytes).unwrap();
            let (part, at, bytes) = piece.verify(&root).unwrap();
            let room = parts.entry(part.key).or_insert_with(|| vec![0; part.bytes as usize]);
            room[at..at + bytes.len()].copy_from_slice(bytes);
        }
        let mut whole = RevocationSet::default();
        parts.iter().for_each(|(key, bytes)| whole.put_part(*key, bytes).unwrap());
        assert_eq!(whole, set);
    }

    #[test]
    fn a_piece_that_was_changed_anywhere_is_refused() {
        let set = example();
        let manifest = Manifest::of(&set);
        let root = manifest.root();
        for piece in pieces(&set, &manifest) {
            let bytes = piece.to_bytes();
            let step = (bytes.len() / 300).max(1);
            for at in (0..bytes.len().min(400)).chain((0..bytes.len()).step_by(step)) {
                let mut changed = bytes.clone();
                changed[at] ^= 1;
                let taken = Piece::from_bytes(&changed).is_ok_and(|piece| piece.verify(&root).is_ok());
                assert!(!taken, "byte {at} of {:?}", piece.place);
            }
            let other = Manifest::of(&RevocationSet::default()).root();
            assert_eq!(piece.verify(&other).err(), Some(Refused::DigestMismatch));
        }
    }

    #[test]
    fn what_no_manifest_is_is_refused() {
        let manifest = Manifest::of(&example()).to_bytes();
        assert_eq!(Manifest::from_bytes(&[1]), Ok(Manifest::default()));
        assert!(Manifest::from_bytes(&[]).is_err() && Manifest::from_bytes(&[2]).is_err());
        assert!(Manifest::from_bytes(&manifest[..manifest.len() - 1]).is_err());
        let doubled = [&manifest[..], &manifest[1..]].concat();
        assert_eq!(Manifest::from_bytes(&doubled), Err(Refused::Malformed("parts out of order")));
        assert!(Manifest::from_bytes(&[&[1, 0, 0][..], &[0; 32]].concat()).is_err(), "a part without bytes");
    }
}
