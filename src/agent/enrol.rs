//! The device's end of enrolment.
//!
//! Owns: what an enrolment bundle becomes on disk: trust bundle, policy, lists, grants and the first anchor, in one
//! batch.
//! Never: lowers what an earlier enrolment in the same fleet had reached.
//! Read next: `wire/enrol.rs` for the bundle, `start.rs` for what comes next.

use super::clock::TrustedClock;
use super::effects::{Anchor, Batch, FileWrite, Standing, StateFile};
use super::feed::{Held, StoredFeed};
use super::policy::{self, Policy};
use super::revocation::Revocations;
use super::start::{grant_of, known_time};
use crate::ids::{BootId, DeviceId, FleetId, Nonce};
use crate::profile::{Profile, TimeLimits};
use crate::time::{Millis, Timestamp};
use crate::wire::bundle::Fingerprint;
use crate::wire::enrol::{DeviceKeys, EnrolAnswer};
use crate::wire::Refused;

/// What an accepted bundle leads to.
#[derive(Debug)]
pub struct Accepted {
    /// The fleet that this device is in now.
    pub fleet: FleetId,
    /// What to write. The import is done once it is durable.
    pub batch: Batch,
    /// The TLS client certificate (DER).
    pub certificate: Vec<u8>,
    /// Grants that are in the wallet now.
    pub grants: usize,
}

/// What an earlier enrolment left.
pub struct Known<'a> {
    /// Its anchor, whose positions stay: [`Anchor::lost`] where that was lost.
    pub anchor: &'a Anchor,
    /// Its files.
    pub files: &'a [(StateFile, Vec<u8>)],
    /// The kernel's boot.
    pub boot: BootId,
    /// CLOCK_BOOTTIME.
    pub boottime: Millis,
}

/// Takes an enrolment bundle: it must lead from the fleet of `fingerprint`, answer `nonce` and be for these keys.
///
/// # Errors
/// What is wrong with the bundle.
pub fn accept(
    answer: &EnrolAnswer,
    keys: &DeviceKeys,
    device: &DeviceId,
    fingerprint: &Fingerprint,
    nonce: Nonce,
    profile: &Profile,
    known: Option<Known<'_>>,
) -> Result<Accepted, Refused> {
    let (bundle, trust) = answer.open(keys, fingerprint, nonce)?;
    if bundle.device != *device {
        return Err(Refused::WrongDevice);
    }
    let newest = bundle.bundles.last().ok_or(Refused::Malformed("no trust bundle inside"))?;
    let mut anchor = known.as_ref().map(|known| known.anchor.clone()).unwrap_or_default();
    if trust.version < anchor.bundle.0 {
        return Err(Refused::RolledBack { offered: trust.version, known: anchor.bundle.0 });
    }
    let policy = bundle.policy.open(&trust.fleet, trust.policy_keys(), 1)?;
    let (policy_version, policy_issued) = (policy.version, policy.issued_at);
    if policy_version < anchor.policy.0 {
        return Err(Refused::RolledBack { offered: policy_version, known: anchor.policy.0 });
    }
    Policy::parse(policy)?;

    let mut files = vec![
        FileWrite { file: StateFile::Bundle, content: newest.to_bytes() },
        FileWrite { file: StateFile::Policy, content: policy::to_file(&bundle.policy.to_bytes()) },
    ];
    let mut revocations = Revocations::default();
    // A grant that was made since the newest head was signed has begun. What a device knows already a service key alone takes
    // no further than any other role alone may.
    let allowed = known.as_ref().map(|known| known.anchor.floor + known.anchor.jump_left);
    let mut times = vec![policy_issued, bundle.issued_at.min(allowed.unwrap_or(Timestamp::MAX))];
    for (head, set) in bundle.feeds {
        let claim = head.claim()?;
        let held = anchor.feeds.iter().find(|held| held.feed == claim.feed);
        let file = StateFile::Feed(claim.feed.clone());
        let found = |wanted: StateFile| {
            let files = known.iter().flat_map(|known| known.files);
            files.into_iter().find(|(name, _)| *name == wanted).map(|(_, bytes)| bytes.as_slice())
        };
        // Files that cannot be read have nothing to keep.
        let before = found(file.clone())
            .and_then(|whole| Held::read(whole, found(StateFile::FeedSince(claim.feed.clone()))).ok());
        let number = anchor.feed_files.iter().find(|(id, _)| *id == claim.feed).map_or(0, |(_, number)| *number) + 1;
        let stored = StoredFeed::enrolled(number, head, set, before)?.to_bytes();
        if held.is_some_and(|held| (claim.era, claim.seq) < held.order()) {
            continue;
        }
        revocations.load(&claim.feed, (&stored, None), &trust, (held, number))?;
        anchor.feed_files.retain(|(id, _)| *id != claim.feed);
        anchor.feed_files.push((claim.feed.clone(), number));
        times.push(claim.issued_at);
        files.push(FileWrite { file, content: stored });
    }
    let mut grants = 0;
    for token in bundle.grants.into_iter().take(profile.wallet.grants_max) {
        let grant = grant_of(token, device.as_str(), &profile.verify, &trust)?;
        files.push(FileWrite { file: StateFile::Grant(grant.claims.grant), content: grant.stored() });
        grants += 1;
    }

    let (floor, jump_left) = TrustedClock::enrolled(&profile.time, known_time(&trust, times));
    anchor.generation += 1;
    if known.is_none() {
        anchor.jump_left = jump_left;
    }
    if let Some(known) = known.as_ref().filter(|known| known.anchor.boot.is_some()) {
        bring_up_to_date(&mut anchor, known, &profile.time);
    }
    anchor.floor = anchor.floor.max(floor);
    anchor.powered = anchor.powered.max(anchor.floor);
    anchor.powered_lease = anchor.powered_lease.max(anchor.powered);
    anchor.synced = if known.is_some() { anchor.synced } else { anchor.powered };
    anchor.standing = match anchor.standing {
        Standing::Known => Standing::Known,
        // Whoever approved it knows that it is this device. What it charged before nobody knows.
        Standing::Contradicted { .. } | Standing::Lost | Standing::Renewed => Standing::Renewed,
    };
    anchor.bundle = (trust.version, newest.digest());
    anchor.policy = (policy_version, bundle.policy.digest());
    for position in revocations.positions() {
        anchor.feeds.retain(|held| held.feed != position.feed);
        anchor.feeds.push(position);
    }
    Ok(Accepted {
        fleet: trust.fleet,
        batch: Batch { files, anchor: Some(Box::new(anchor)), ..Batch::default() },
        certificate: bundle.certificate,
        grants,
    })
}

/// The clocks as they are now: what is signed now must not be reckoned on from when the anchor was written.
fn bring_up_to_date(anchor: &mut Anchor, known: &Known<'_>, limits: &TimeLimits) {
    let clock = TrustedClock::start(limits.clone(), known.anchor, known.boot, known.boottime);
    anchor.floor = clock.floor();
    anchor.powered = clock.powered();
    anchor.powered_lease = clock.lease();
    anchor.ceiling = clock.ceiling();
    anchor.boots = clock.boots();
    anchor.boot = Some(known.boot);
    anchor.boottime = known.boottime;
}
