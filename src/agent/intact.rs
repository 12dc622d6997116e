//! Files of the agent's own that nobody signs: a flipped bit makes no other content of them.
//!
//! Owns: the digest in front of such a file, over a domain of its own, so that no file passes for one of another kind.
//! Never: proves who wrote one: whoever can write here can make the digest too.
//! Read next: `wallet.rs` and `audit_key.rs`, whose files these are.

use serde::de::DeserializeOwned;
use serde::Serialize;

use crate::ids::Hash;
use crate::mutant::{active, Mutant};
use crate::wire::{decode, encode, Refused};

/// The file of a content.
pub(super) fn to_file<T: Serialize>(domain: &str, content: &T) -> Vec<u8> {
    let content = encode(content);
    [&Hash::of(domain, &[&content]).0[..], &content].concat()
}

/// The content of a file of at most `limit` bytes.
///
/// # Errors
/// [`Refused::DigestMismatch`] where it is not what was written, [`Refused::Malformed`], [`Refused::TooLarge`].
pub(super) fn from_file<T: DeserializeOwned>(domain: &str, bytes: &[u8], limit: usize) -> Result<T, Refused> {
    let (digest, content) = bytes.split_first_chunk().ok_or(Refused::Malformed("a file that is cut off"))?;
    if Hash(*digest) != Hash::of(domain, &[content]) && !active(Mutant::RotUnnoticed) {
        return Err(Refused::DigestMismatch);
    }
    decode(content, limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bit_no_cut_and_no_other_kind_passes() {
        let file = to_file("one", &(7_u64, "text"));
        assert_eq!(from_file::<(u64, String)>("one", &file, 64), Ok((7, "text".into())));
        assert_eq!(from_file::<(u64, String)>("two", &file, 64), Err(Refused::DigestMismatch));
        for at in 0..file.len() {
            assert!(from_file::<(u64, String)>("one", &file[..at], 64).is_err());
            for bit in 0..8 {
                let mut flipped = file.clone();
                flipped[at] ^= 1 << bit;
                assert_eq!(from_file::<(u64, String)>("one", &flipped, 64), Err(Refused::DigestMismatch));
            }
        }
    }
}
