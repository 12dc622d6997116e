//! The Merkle tree over the leaves of a segment, as RFC 6962 section 2.1 has it.
//!
//! Owns: the root of a list of leaves, the path that proves one leaf, or the first ones, to be among them, its check.
//! Never: knows what a leaf says.
//! Read next: `segment.rs`, whose header signs the root.

use sha2::{Digest, Sha256};

use crate::ids::Hash;

/// The most hashes of a path: a segment has at most 2^16 leaves.
pub const PATH_MAX: usize = 16;

/// The hash of a leaf: SHA-256 of a zero byte and its bytes.
pub fn leaf_hash(leaf: &[u8]) -> Hash {
    Hash(Sha256::new().chain_update([0]).chain_update(leaf).finalize().into())
}

fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Hash(Sha256::new().chain_update([1]).chain_update(left.0).chain_update(right.0).finalize().into())
}

/// The root over leaf hashes: of none, SHA-256 of nothing.
pub fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Hash(Sha256::digest([]).into()),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            node_hash(&root(left), &root(right))
        }
    }
}

/// The path of the leaf at `place`, from the leaf up: the sibling at each level.
pub fn path(leaves: &[Hash], place: usize) -> Vec<Hash> {
    if leaves.len() < 2 {
        return Vec::new();
    }
    let middle = split(leaves.len());
    let (left, right) = leaves.split_at(middle);
    let (mut path, sibling) = match place.checked_sub(middle) {
        None => (path(left, place), root(right)),
        Some(place) => (path(right, place), root(left)),
    };
    path.push(sibling);
    path
}

/// The root that a leaf at `place` of `count` leads to by its path; none if the path is too long or too short for that.
pub fn root_from(leaf: Hash, place: usize, count: usize, path: &[Hash]) -> Option<Hash> {
    if place >= count || path.len() > PATH_MAX {
        return None;
    }
    if count == 1 {
        return path.is_empty().then_some(leaf);
    }
    let (sibling, below) = path.split_last()?;
    let middle = split(count);
    Some(match place.checked_sub(middle) {
        None => node_hash(&root_from(leaf, place, middle, below)?, sibling),
        Some(place) => node_hash(sibling, &root_from(leaf, place, count - middle, below)?),
    })
}

/// The root that the first leaves of `count` lead to by the path of the last of them; none if the path does not fit: too long,
/// too short, or with other left siblings than these leaves have.
pub fn root_from_first(leaves: &[Hash], count: usize, path: &[Hash]) -> Option<Hash> {
    if leaves.is_empty() || leaves.len() > count || path.len() > PATH_MAX || count > 1 << PATH_MAX {
        return None;
    }
    if count == 1 {
        return path.is_empty().then_some(leaves[0]);
    }
    let (sibling, below) = path.split_last()?;
    let middle = split(count);
    Some(match leaves.split_at_checked(middle) {
        Some((left, right)) if !right.is_empty() => {
            let right = root_from_first(right, count - middle, below)?;
            (root(left) == *sibling).then(|| node_hash(sibling, &right))?
        }
        Some(_) | None => node_hash(&root_from_first(leaves, middle, below)?, sibling),
    })
}

/// The largest power of two below `count`, which is 2 or more.
fn split(count: usize) -> usize {
    count.next_power_of_two() / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(count: usize) -> Vec<Hash> {
        (0..count).map(|i| leaf_hash(&[i as u8; 3])).collect()
    }

    #[test]
    fn roots_are_those_of_the_rfc() {
        // The test vectors of RFC 6962's reference implementation: eight leaves.
        let inputs =
            ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
        let decode = |text: &&str| data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap();
        let leaves: Vec<Hash> = inputs.iter().map(decode).map(|leaf| leaf_hash(&leaf)).collect();
        let roots = [
            (0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            (1, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
            (2, "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
            (3, "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"),
            (8, "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"),
        ];
        for (count, expected) in roots {
            assert_eq!(root(&leaves[..count]).to_string(), expected, "{count}");
        }
    }

    #[test]
    fn every_path_leads_to_the_root_and_no_other_does() {
        for count in 1..40 {
            let leaves = leaves(count);
            let root = root(&leaves);
            for place in 0..count {
                let path = path(&leaves, place);
                assert_eq!(root_from(leaves[place], place, count, &path), Some(root), "{place} of {count}");
                assert_ne!(root_from(leaf_hash(b"x"), place, count, &path), Some(root));
                assert_ne!(root_from(leaves[place], place + 1, count, &path), Some(root));
                if let Some((_, short)) = path.split_last() {
                    assert_ne!(root_from(leaves[place], place, count, short), Some(root));
                }
                let long = [&path[..], &[root]].concat();
                let first = &leaves[..=place];
                assert_eq!(root_from_first(first, count, &path), Some(root), "{place} of {count}");
                assert_eq!(root_from_first(first, count, &long), None);
                assert_ne!(root_from_first(&leaves[..place], count, &path), Some(root), "{place} of {count}");
                for other in 0..place {
                    let mut changed = first.to_vec();
                    changed[other] = leaf_hash(b"x");
                    assert_ne!(root_from_first(&changed, count, &path), Some(root), "{other} of {place} of {count}");
                }
                assert_ne!(root_from(leaves[place], place, count, &long), Some(root));
            }
        }
        assert_eq!(root_from(leaf_hash(b""), 0, 0, &[]), None);
        assert_eq!(root_from(leaf_hash(b""), 0, usize::MAX, &[Hash::ZERO; PATH_MAX + 1]), None);
        assert_eq!(root_from_first(&[Hash::ZERO], usize::MAX, &[Hash::ZERO; PATH_MAX]), None);
    }
}
