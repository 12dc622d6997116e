//! What operators did: a signed chain.
//!
//! Owns: [`Act`] and [`Deed`], how an act is appended to the book, and the check of a whole chain.
//! Never: records what a device or the service did by itself; the audit trail tells that.
//! Read next: `book.rs`.

use serde::{Deserialize, Serialize};

use super::book::{Book, Write};
use super::emergency::KeyChange;
use super::rotate::{Cause, KeyRole};
use super::{keys, Effects, FleetError, Operator};
use crate::ids::{BlockId, DeviceId, FeedId, GrantId, GroupId, Hash, KeyId, Nonce, TaskId};
use crate::time::Timestamp;
use crate::wire::bundle::{PublicKey, TrustBundle};
use crate::wire::envelope::{Document, Signed};
use crate::wire::revocation::Target;
use crate::wire::token::Bearer;
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
        /// For whom it is.
        bearer: Bearer,
        /// For which audience, if for one.
        audience: Option<String>,
        /// The grant that it names.
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
        /// The feed.
        feed: FeedId,
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
        /// The trust bundle in force from here on.
        bundle: u64,
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
    /// Changed root keys, or how many of them must sign.
    Roots {
        /// How many must sign from now on.
        threshold: u8,
        /// The ids of the new ones.
        added: Vec<KeyId>,
        /// The ids of those that are root keys no more.
        dropped: Vec<KeyId>,
        /// Why.
        cause: Cause,
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
    /// Put devices into a group.
    Joined {
        /// The group.
        group: GroupId,
        /// The devices that were named.
        devices: Vec<DeviceId>,
        /// The version of the trust bundle that says so.
        bundle: u64,
        /// Its digest.
        digest: Hash,
    },
    /// Took devices out of a group.
    Left {
        /// The group.
        group: GroupId,
        /// The devices.
        devices: Vec<DeviceId>,
        /// The version of the trust bundle that says so.
        bundle: u64,
        /// Its digest.
        digest: Hash,
    },
    /// Gave groups a feed of their own.
    FeedAdded {
        /// The feed.
        feed: FeedId,
        /// The groups.
        groups: Vec<GroupId>,
        /// The version of the trust bundle that says so.
        bundle: u64,
        /// Its digest.
        digest: Hash,
    },
    /// Took a feed away.
    FeedRemoved {
        /// The feed.
        feed: FeedId,
        /// The version of the trust bundle that says so.
        bundle: u64,
        /// Its digest.
        digest: Hash,
    },
    /// Brought a trust bundle into force that replaces no key, or took it into a ledger that had lost it.
    Trusted {
        /// Its version.
        bundle: u64,
        /// Its digest.
        digest: Hash,
    },
    /// Had devices believe an issuer of identity documents, or other keys or audiences of it.
    IdentityTrusted {
        /// The issuer.
        issuer: String,
        /// For whom its documents must be.
        audiences: Vec<String>,
        /// Its keys: what each is called, and its digest.
        keys: Vec<(String, Hash)>,
        /// The version of the trust bundle that says so.
        bundle: u64,
        /// Its digest.
        digest: Hash,
    },
    /// Had devices believe it no more.
    IdentityRemoved {
        /// The issuer.
        issuer: String,
        /// The version of the trust bundle that says so.
        bundle: u64,
        /// Its digest.
        digest: Hash,
    },
}

impl Deed {
    /// The trust bundle that is in force from this deed on, if it says so.
    fn bundle(&self) -> Option<u64> {
        match self {
            Self::Restored { bundle, .. }
            | Self::Rotated { bundle, .. }
            | Self::Roots { bundle, .. }
            | Self::Emergency { bundle, .. }
            | Self::Joined { bundle, .. }
            | Self::Left { bundle, .. }
            | Self::FeedAdded { bundle, .. }
            | Self::FeedRemoved { bundle, .. }
            | Self::Trusted { bundle, .. }
            | Self::IdentityTrusted { bundle, .. }
            | Self::IdentityRemoved { bundle, .. } => Some(*bundle),
            Self::Founded { .. }
            | Self::Approved { .. }
            | Self::Retired { .. }
            | Self::Granted { .. }
            | Self::Withdrawn { .. }
            | Self::Issued { .. }
            | Self::Revoked { .. }
            | Self::Policy { .. }
            | Self::Resumed { .. }
            | Self::TimeReset { .. } => None,
        }
    }
}

/// A text that may stand in an act or a token, without the white space around it.
///
/// # Errors
/// [`FleetError::Argument`].
pub fn text(what: &str, text: &str) -> Result<String, FleetError> {
    if text.trim().is_empty() || text.chars().count() > TEXT_CHARS_MAX || text.chars().any(char::is_control) {
        let message = format!("{what} must have 1 to {TEXT_CHARS_MAX} characters and no control character");
        return Err(FleetError::Argument(message));
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
    // An act that nobody could verify afterwards is not begun.
    let named = book.trust().operators.contains(&operator.key.verifying_key().into());
    keys::check("operator", book.trust(), named)?;
    let (number, previous) = book.next_act();
    let act = Act { number, previous, at, operator: name, deed };
    let signed = Signed::sign(&act, book.fleet(), &[operator.key]);
    book.write(Write::Act(number, signed), fx);
    Ok(())
}

/// The acts of a chain, if each follows the one before and is signed by an operator's key of the trust bundle that was in force
/// then. `bundles` are those of the fleet from version 1 on; the acts say when each came into force.
///
/// # Errors
/// The number of the first act that does not fit, and why.
pub fn verify(bundles: &[TrustBundle], acts: &[Signed<Act>]) -> Result<Vec<Act>, (u64, Refused)> {
    let mut in_force = bundles.first();
    let mut previous = Hash::ZERO;
    let mut opened = Vec::with_capacity(acts.len());
    for (number, signed) in (0..).zip(acts) {
        let no_key = Refused::UnknownKey { valid: 0, needed: 1 };
        // What the deed says of the bundle counts only once a key of that bundle has signed it.
        let claimed = signed.claim().map_err(|refused| (number, refused))?.deed.bundle();
        if let Some(version) = claimed {
            let known = in_force.map_or(0, |bundle| bundle.version);
            if version < known {
                return Err((number, Refused::RolledBack { offered: version, known }));
            }
            in_force = bundles.iter().find(|bundle| bundle.version == version);
        }
        let bundle = in_force.ok_or((number, no_key))?;
        let keys = bundle.operators.iter().map(PublicKey::verifying);
        let act = signed.open(&bundle.fleet, keys, 1).map_err(|refused| (number, refused))?;
        if act.number != number || act.previous != previous {
            return Err((number, Refused::OutOfOrder { offered: act.number, expected: number }));
        }
        previous = signed.digest();
        opened.push(act);
    }
    Ok(opened)
}
