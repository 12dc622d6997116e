//! The root keys themselves change: one by one, or how many there are and how many must sign.
//!
//! Owns: the trust bundles that say so.
//! Never: makes a key; changes anything else in the bundle.
//! Read next: `proposal.rs`, by which such a bundle comes into force, signed by the threshold of the root keys before it and
//! by that of its own.

use super::book::Book;
use super::{proposal, FleetError};
use crate::time::Timestamp;
use crate::wire::bundle::{PublicKey, TrustBundle, ROOTS_MAX};

/// The trust bundle that puts a new root key in the place of that with a number, counted from 1. One that is lost goes as
/// well as one that was stolen, as long as enough others sign.
///
/// # Errors
/// [`FleetError::Invalid`] for a number that there is not, or a key that is a root key already.
pub fn replace(book: &Book, number: usize, key: PublicKey, at: Timestamp) -> Result<TrustBundle, FleetError> {
    proposal::draft(book, at, |next| {
        let of = next.roots.len();
        let place = number.checked_sub(1).and_then(|at| next.roots.get_mut(at));
        *place.ok_or_else(|| FleetError::Invalid(format!("no root key {number}: the fleet has 1 to {of}")))? = key;
        Ok(())
    })
}

/// The trust bundle with as many root keys, of which a threshold must sign from then on. The first of those there are stay,
/// in their order; `new` ones come after them.
///
/// # Errors
/// [`FleetError::Invalid`] for numbers that make no sense, or when nothing changes.
pub fn reshape(
    book: &Book,
    (roots, threshold): (usize, u8),
    new: &[PublicKey],
    at: Timestamp,
) -> Result<TrustBundle, FleetError> {
    check_shape(roots, threshold)?;
    let trust = book.trust();
    if trust.roots.len() == roots && trust.threshold == threshold {
        return Err(FleetError::Invalid(format!("{threshold} of {roots} root keys must sign already")));
    }
    let missing = roots.saturating_sub(trust.roots.len());
    if new.len() != missing {
        return Err(FleetError::Invalid(format!("{missing} new root keys are needed, not {}", new.len())));
    }
    proposal::draft(book, at, |next| {
        next.roots.truncate(roots);
        next.roots.extend(new);
        next.threshold = threshold;
        Ok(())
    })
}

/// Whether a fleet can have so many root keys, of which so many must sign.
///
/// # Errors
/// [`FleetError::Argument`].
pub fn check_shape(roots: usize, threshold: u8) -> Result<(), FleetError> {
    match roots {
        1..=ROOTS_MAX if (1..=roots).contains(&usize::from(threshold)) => Ok(()),
        _ => Err(FleetError::Argument(format!(
            "{threshold} of {roots} root keys: a fleet has 1 to {ROOTS_MAX}, and as many of them must sign as there are at most"
        ))),
    }
}
