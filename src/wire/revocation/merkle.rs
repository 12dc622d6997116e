//! A Merkle tree over a list of digests, in the shape of RFC 6962.
//!
//! Owns: the root, the path of one leaf, and the root that a leaf with its path gives.
//! Never: knows what the leaves are; `manifest.rs` does.
//! Read next: `manifest.rs`.

use crate::ids::Hash;
use crate::wire::Refused;

/// The root over the leaves: of one the leaf itself, of none [`Hash::ZERO`].
pub(super) fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Hash::ZERO,
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(left_of(leaves.len()));
            node(&root(left), &root(right))
        }
    }
}

/// The digests that a leaf's root is reckoned from, the leaf's neighbour first.
pub(super) fn path(leaves: &[Hash], index: usize) -> Vec<Hash> {
    if leaves.len() < 2 {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(left_of(leaves.len()));
    let (mut path, other) = match index.checked_sub(left.len()) {
        None => (path(left, index), root(right)),
        Some(index) => (path(right, index), root(left)),
    };
    path.push(other);
    path
}

/// How many digests the path of a leaf has.
pub(super) fn path_length(index: usize, leaves: usize) -> usize {
    if leaves < 2 {
        return 0;
    }
    let left = left_of(leaves);
    1 + match index.checked_sub(left) {
        None => path_length(index, left),
        Some(index) => path_length(index, leaves - left),
    }
}

/// The root of as many leaves with this one at this place.
///
/// # Errors
/// [`Refused::Malformed`] when there is no such place, or its path has another length.
pub(super) fn root_from(leaf: Hash, index: usize, leaves: usize, path: &[Hash]) -> Result<Hash, Refused> {
    if index >= leaves || path.len() != path_length(index, leaves) {
        return Err(Refused::Malformed("a path of another length than its place has"));
    }
    Ok(climb(leaf, index, leaves, path))
}

fn climb(leaf: Hash, index: usize, leaves: usize, path: &[Hash]) -> Hash {
    let Some((other, below)) = path.split_last() else { return leaf };
    let left = left_of(leaves);
    match index.checked_sub(left) {
        None => node(&climb(leaf, index, left, below), other),
        Some(index) => node(other, &climb(leaf, index, leaves - left, below)),
    }
}

/// The largest power of two below a number of at least 2.
fn left_of(leaves: usize) -> usize {
    1 << (leaves - 1).ilog2()
}

fn node(left: &Hash, right: &Hash) -> Hash {
    Hash::of("hardtack/revocation-node/v1", &[&left.0, &right.0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_leaf_of_every_tree_leads_to_its_root_and_to_no_other() {
        let leaves: Vec<Hash> = (0..40_u8).map(|n| Hash([n; 32])).collect();
        let mut roots = std::collections::BTreeSet::new();
        for count in 1..=leaves.len() {
            let whole = root(&leaves[..count]);
            assert!(roots.insert(whole));
            for index in 0..count {
                let path = path(&leaves[..count], index);
                assert_eq!(root_from(leaves[index], index, count, &path), Ok(whole));
                assert_ne!(root_from(Hash([99; 32]), index, count, &path), Ok(whole));
                let elsewhere = (index + 1) % count;
                assert!(count == 1 || root_from(leaves[index], elsewhere, count, &path) != Ok(whole));
                assert!(root_from(leaves[index], count, count, &path).is_err());
                assert!(root_from(leaves[index], index, count, &[path, vec![Hash::ZERO]].concat()).is_err());
            }
        }
        assert_eq!(root(&[]), Hash::ZERO);
    }
}
