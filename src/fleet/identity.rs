//! Whom devices believe about who begins a task.
//!
//! Owns: the trust bundle that names an identity issuer with its keys, or names it no more; what is on record of that.
//! Never: fetches a key set: an operator brings it, and the root keys sign it.
//! Read next: `proposal.rs`, by which it comes into force; `wire/identity.rs`, which says what an issuer is.

use super::acts::Deed;
use super::book::Book;
use super::{proposal, FleetError};
use crate::ids::Hash;
use crate::time::Timestamp;
use crate::wire::bundle::TrustBundle;
use crate::wire::identity::{check_issuers, IdentityIssuer};

/// What an operator changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Names an issuer, in the place of what was said of it before: all its audiences, all its keys.
    Put(IdentityIssuer),
    /// Names it no more.
    Remove(String),
}

/// The trust bundle that makes a change, None where it is so already.
///
/// # Errors
/// [`FleetError::Invalid`], or [`FleetError::Refused`] when devices would not take that bundle.
pub fn draft(book: &Book, change: &Change, at: Timestamp) -> Result<Option<TrustBundle>, FleetError> {
    let mut issuers = book.trust().identities.clone();
    match change {
        Change::Put(issuer) => match issuers.iter_mut().find(|known| known.name == issuer.name) {
            Some(known) => *known = issuer.clone(),
            None => issuers.push(issuer.clone()),
        },
        Change::Remove(name) => {
            let place = issuers.iter().position(|known| known.name == *name).ok_or_else(|| {
                let message =
                    format!("no identity issuer {name:?}: `hardtack fleet identity list` shows those there are");
                FleetError::Invalid(message)
            })?;
            issuers.remove(place);
        }
    }
    check_issuers(&issuers).map_err(|refused| FleetError::Invalid(format!("the issuer is refused: {refused}")))?;
    if issuers == book.trust().identities {
        return Ok(None);
    }
    let next = proposal::draft(book, at, |next| {
        next.identities = issuers;
        Ok(())
    });
    next.map(Some)
}

/// The record of issuers that were named, changed or taken away.
pub(super) fn deeds(before: &TrustBundle, next: &TrustBundle, digest: Hash) -> Vec<Deed> {
    let bundle = next.version;
    let named = next.identities.iter().filter(|issuer| !before.identities.contains(issuer));
    let named = named.map(|issuer| Deed::IdentityTrusted {
        issuer: issuer.name.clone(),
        audiences: issuer.audiences.clone(),
        keys: issuer.keys.iter().map(|key| (key.kid.clone(), key.digest())).collect(),
        bundle,
        digest,
    });
    let gone = before.identities.iter().filter(|known| !next.identities.iter().any(|issuer| issuer.name == known.name));
    named.chain(gone.map(|issuer| Deed::IdentityRemoved { issuer: issuer.name.clone(), bundle, digest })).collect()
}
