//! Revocations in a file, for somebody to carry to devices that no broker reaches.
//!
//! Owns: what goes into the file.
//! Never: signs anything: `publish.rs` does.
//! Read next: `wire/revocation/carry.rs` for the file, `agent/carry.rs` for its reader.

use super::book::Book;
use super::{emergency, FleetError};
use crate::wire::revocation::carry::{Carried, BUNDLES_MAX};

/// All that a device needs to be as far as the newest head: the trust bundles, so that one that was away for long can walk
/// up, the policy, the head with its whole set, and what emergency keys said last.
///
/// # Errors
/// [`FleetError::Invalid`] where no head was signed yet, [`FleetError::Refused`] when devices would not take a file of that
/// size.
pub fn export(book: &Book) -> Result<Vec<u8>, FleetError> {
    let head = book.head().ok_or_else(|| FleetError::Invalid("no head was signed yet".into()))?;
    let bundles = book.bundles();
    let carried = Carried {
        fleet: book.fleet().clone(),
        // A device that is further behind than that has to be enrolled again.
        bundles: bundles[bundles.len().saturating_sub(BUNDLES_MAX)..].to_vec(),
        policy: Some(book.policy().0.clone()),
        feeds: vec![(head.signed.clone(), book.set().to_bytes())],
        emergencies: emergency::newest(book).cloned().collect(),
    };
    carried.to_bytes().map_err(FleetError::refused("the file"))
}
