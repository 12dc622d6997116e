//! Revocations in a file, for somebody to carry to devices that no broker reaches.
//!
//! Owns: what goes into the file.
//! Never: signs anything: `publish.rs` does.
//! Read next: `wire/revocation/carry.rs` for the file, `agent/carry.rs` for its reader.

use super::book::Book;
use super::{emergency, FleetError};
use crate::ids::FeedId;
use crate::wire::revocation::carry::{Carried, BUNDLES_MAX};

/// All that a device of a feed needs to be as far as its newest head: the trust bundles, so that one that was away for long
/// can walk up, the policy, the head with its whole set, and what emergency keys said last.
///
/// # Errors
/// [`FleetError::Invalid`] for a feed that there is not, or where no head was signed yet, [`FleetError::Refused`] when devices would not take a file of that
/// size.
pub fn export(book: &Book, id: &FeedId) -> Result<Vec<u8>, FleetError> {
    if book.trust().feed(id).is_none() {
        return Err(FleetError::Invalid(format!("no feed {id}: `hardtack fleet feed list` shows those there are")));
    }
    let feed = book.of(id);
    let head = feed.head().ok_or_else(|| FleetError::Invalid(format!("no head of feed {id} was signed yet")))?;
    let bundles = book.bundles();
    let carried = Carried {
        fleet: book.fleet().clone(),
        // A device that is further behind than that has to be enrolled again.
        bundles: bundles[bundles.len().saturating_sub(BUNDLES_MAX)..].to_vec(),
        policy: Some(book.policy().0.clone()),
        feeds: vec![(head.signed.clone(), feed.set().to_bytes())],
        emergencies: emergency::newest(book).cloned().collect(),
    };
    carried.to_bytes().map_err(FleetError::refused("the file"))
}
