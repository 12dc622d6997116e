//! What operators did: a signed chain.
//!
//! Owns: [`Act`] and [`Deed`], how an act is appended to the book, and the check of a whole chain.
//! Never: records what a device or the service did by itself; the audit trail tells that.
//! Read next: `book.rs`.

use serde::{Deserialize, Serialize};

use super::book::{Book, Write};
use super::emergency::KeyChange;
use super::rotate::{Cause, KeyRole};
use super::{Effects, FleetError, Operator};
use crate::ids::{BlockId, DeviceId, GrantId, Hash, KeyId, Nonce, TaskId};
use crate::time::Timestamp;
use crate::wire::bundle::{PublicKey, TrustBundle};
use crate::wire::envelope::{Document, Signed};
use crate::wire::revocation::Target;
use crate::wire::Refused;

/// The most characters of an operator's name, an owner or a reason.
pub const TEXT_CHARS_MAX: usize = 200;

/// One act of an operator.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Act {
    /// Its number, from 0 without a hole.
    pub number: u64,
    /// Digest of the act before, zero for the first.
    pub previous: Hash,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub operator: String,
    /// What.
    pub deed: Deed,
}

impl Document for Act {
    const KIND: &'static str = "act";
    const BYTES_MAX: usize = 8 * 1024;
}

/// What an operator did. Variants are stored by their place: add new ones at the end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deed {
    /// Founded the fleet.
    Founded {
        /// Digest of trust bundle 1.
        bundle: Hash,
    },
    /// Let a device in.
    Approved {
        /// The device.
        device: DeviceId,
        /// The id of its identity key.
        identity: KeyId,
        /// The id of the key that it replaces.
        replaced: Option<KeyId>,
    },
    /// Took a device out.
    Retired {
        /// The device.
        device: DeviceId,
        /// Why.
        reason: String,
    },
    /// Minted a fallback grant.
    Granted {
        /// The grant.
        grant: GrantId,
        /// The device.
        device: DeviceId,
        /// Who answers for it.
        owner: String,
        /// Its only block.
        block: BlockId,
        /// When it ends.
        expires: Timestamp,
    },
    /// Took a grant out of its device's wallet.
    Withdrawn {
        /// The grant.
        grant: GrantId,
        /// Why.
        reason: String,
    },
    /// Minted a task token.
    Issued {
        /// The task.
        task: TaskId,
        /// The device.
        device: DeviceId,
        /// The grant that covers it.
        grant: GrantId,
        /// Its only block.
        block: BlockId,
        /// When it ends.
        expires: Timestamp,
    },
    /// Revoked.
    Revoked {
        /// What.
        target: Target,
        /// Until.
        until: Timestamp,
        /// Why.
        reason: String,
    },
    /// Set a policy.
    Policy {
        /// Its version.
        version: u64,
        /// Its digest.
        digest: Hash,
    },
    /// Took up a feed after a head that this ledger lost.
    Resumed {
        /// The sequence number after which it goes on.
        after: u64,
    },
    /// Told one device what time it is, back as well as forward.
    TimeReset {
        /// The device.
        device: DeviceId,
        /// The nonce that the device made for it.
        nonce: Nonce,
        /// The time.
        time: Timestamp,
    },
    /// Put a copy in the place of the ledger.
    Restored {
        /// SHA-256 of the copy.
        digest: Hash,
        /// The highest head that was known to have been signed.
        least: u64,
    },
    /// Replaced a key.
    Rotated {
        /// Its role.
        role: KeyRole,
        /// Why.
        cause: Cause,
        /// The new key's id.
        key: KeyId,
        /// The ids of those that are good no more.
        dropped: Vec<KeyId>,
        /// The version of the trust bundle that says so.
        bundle: u64,
        /// Its digest.
        digest: Hash,
    },
    /// Gave an operator an emergency key, or took it away.
    Emergency {
        /// Who has it.
        name: String,
        /// The key's id.
        key: KeyId,
        /// Which of the two.
        change: KeyChange,
        /// The version of the trust bundle that says so.
        bundle: u64,
        /// Its digest.
        digest: Hash,
    },
}

/// A text that may stand in an act or a token.
pub(super) fn text(what: &str, text: &str) -> Result<String, FleetError> {
    if text.trim().is_empty() || text.chars().count() > TEXT_CHARS_MAX || text.chars().any(char::is_control) {
        let message = format!("{what} must have 1 to {TEXT_CHARS_MAX} characters and no control character");
        return Err(FleetError::Invalid(message));
    }
    Ok(text.trim().to_owned())
}

/// Signs an act and appends it to the book.
pub(super) fn record(
    book: &mut Book,
    operator: Operator<'_>,
    deed: Deed,
    at: Timestamp,
    fx: &mut Effects,
) -> Result<(), FleetError> {
    let name = text("the operator's name", operator.name)?;
    let (number, previous) = book.next_act();
    let act = Act { number, previous, at, operator: name, deed };
    let signed = Signed::sign(&act, book.fleet(), &[operator.key]);
    book.write(Write::Act(number, signed), fx);
    Ok(())
}

/// The acts of a chain, if each is signed by an operator's key of any of `bundles` and follows the one before.
///
/// # Errors
/// The number of the first act that does not fit, and why.
pub fn verify(bundles: &[TrustBundle], acts: &[Signed<Act>]) -> Result<Vec<Act>, (u64, Refused)> {
    let keys = || bundles.iter().flat_map(|bundle| bundle.operators.iter().map(PublicKey::verifying));
    let mut previous = Hash::ZERO;
    let mut opened = Vec::with_capacity(acts.len());
    for (number, signed) in (0..).zip(acts) {
        let open = |bundle: &TrustBundle| signed.open(&bundle.fleet, keys(), 1);
        let first = bundles.first().ok_or((number, Refused::UnknownKey { valid: 0, needed: 1 }))?;
        let act = open(first).map_err(|refused| (number, refused))?;
        if act.number != number || act.previous != previous {
            return Err((number, Refused::OutOfOrder { offered: act.number, expected: number }));
        }
        previous = signed.digest();
        opened.push(act);
    }
    Ok(opened)
}
