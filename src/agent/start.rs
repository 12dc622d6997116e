//! A start: from what the disk holds to an agent that can decide, alone.
//!
//! Owns: recovery. Files are believed as far as the anchor vouches for them or they vouch for themselves; records after
//! the anchor are replayed; what is damaged is charged and becomes a gap record; a new era begins.
//! Never: needs the network; refunds a budget; goes on as if nothing had happened where something is missing.
//! Read next: `mod.rs`.

use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use super::audit::{Closing, Trail};
use super::clock::TrustedClock;
use super::effects::{Anchor, Effects, LogEvent, StateFile, StoredRecord};
use super::policy::Policy;
use super::request::Counters;
use super::revocation::Revocations;
use super::sync::Named;
use super::token::{admit, Cache, Kind};
use super::uplink::Uplink;
use super::wallet::{Grant, StoredGrant, StoredTask, Wallet};
use super::{Agent, Boot, EraImage, Now};
use crate::ids::{EraId, Hash};
use crate::time::{Millis, Timestamp};
use crate::wire::audit::{genesis, EraEnd, Event, Gap, GapCause, Record, Start, TrustChange};
use crate::wire::bundle::TrustBundle;
use crate::wire::envelope::Signed;
use crate::wire::policy::PolicyDocument;
use crate::wire::{decode, Refused};

/// Why an agent cannot even start locked.
#[derive(Debug, thiserror::Error)]
pub enum Unstartable {
    /// There is no trust bundle.
    #[error("this device is not enrolled; make a request with `hardtack enrol request` and import the answer")]
    NotEnrolled,
    /// The trust bundle cannot be used.
    #[error("the trust bundle in the state folder cannot be used ({0}); restore the folder, or enrol again with `hardtack enrol import`")]
    Bundle(Refused),
}

impl Agent {
    /// Starts an agent. Its effects hold the new era, its first record and the anchor: nothing may be answered before
    /// they are committed.
    ///
    /// # Errors
    /// [`Unstartable`]. Everything else that is wrong leads to a locked agent that says why.
    pub fn start(mut boot: Boot, now: Now) -> Result<(Self, Effects), Unstartable> {
        // A store knows neither fleet nor device, so it cannot tell where a chain without a closed segment begins.
        for era in boot.eras.iter_mut().filter(|era| era.segments == 0) {
            era.closed_head = genesis(&boot.fleet, &boot.device, era.id);
        }
        let anchor_lost = boot.anchor.is_none();
        let mut anchor = boot.anchor.clone().unwrap_or_default();
        let mut locks: Vec<String> = anchor.locked.iter().cloned().collect();

        let (trust, trust_digest) = read_bundle(&boot)?;
        if trust.version < anchor.bundle.0 {
            locks.push(format!("trust bundle {} was in force, {} is here", anchor.bundle.0, trust.version));
        }
        if anchor_lost {
            // What is signed on disk is a floor still.
            anchor.floor = trust.issued_at;
            anchor.powered = trust.issued_at;
            anchor.powered_lease = trust.issued_at;
        }
        let (policy, policy_digest) = read_policy(&boot, &trust, &anchor).unwrap_or_else(|refused| {
            locks.push(format!("the policy in the state folder cannot be used: {refused}"));
            let mut document = PolicyDocument::built_in(trust.issued_at);
            document.version = 0;
            (Policy::parse(document).expect("the built-in policy parses"), Hash::ZERO)
        });
        let mut revocations = Revocations::default();
        for known in &anchor.feeds {
            let file = StateFile::Feed(known.feed.clone());
            let bytes = boot.files.iter().find(|(name, _)| *name == file).map(|(_, bytes)| bytes.as_slice());
            if revocations.load(&known.feed, bytes.unwrap_or_default(), &trust, Some(known)).is_err() {
                revocations.lose(known.clone());
            }
        }
        for (file, bytes) in &boot.files {
            if let StateFile::Feed(feed) = file {
                if !anchor.feeds.iter().any(|known| known.feed == *feed) {
                    // Written before the anchor that would have named it: it vouches for itself, or is not there.
                    let _ = revocations.load(feed, bytes, &trust, None);
                }
            }
        }
        let proven = replay_time(&boot, &mut anchor);
        let mut clock = TrustedClock::start(boot.profile.time.clone(), &anchor, boot.boot, now.boottime);
        clock.recall(proven);
        let wallet = read_wallet(&boot, &trust, &anchor, anchor_lost);

        let mut rng = ChaCha20Rng::from_seed(boot.seed);
        let newest = boot.eras.iter().map(|era| era.id.number).chain(anchor.era.map(|era| era.number)).max();
        let era = EraId { number: newest.map_or(1, |number| number.saturating_add(1)), salt: rng.next_u64() };
        let audit_key = boot.keys.audit.clone();
        let mut agent = Self {
            trail: Trail::begin(boot.fleet.clone(), boot.device.clone(), audit_key, era),
            uplink: Uplink::new(boot.profile.link.clone(), now.boottime),
            cache: Cache::new(boot.profile.verify.cache_entries),
            fleet: boot.fleet,
            device: boot.device,
            keys: boot.keys,
            rng,
            boot: boot.boot,
            clock,
            trust,
            trust_digest,
            bundles_ahead: Default::default(),
            policy,
            policy_digest,
            revocations,
            wallet,
            named: Named::default(),
            mode: anchor.mode,
            mode_reasons: Vec::new(),
            locked: (!locks.is_empty()).then(|| locks.join("; ")),
            anchor_lost,
            wants: Default::default(),
            grants_asked: None,
            generation: anchor.generation,
            anchor_due: true,
            commits: 0,
            used_bytes: boot.used_bytes,
            refusals: Default::default(),
            refusal_minute: (now.boottime, 0),
            damper: Default::default(),
            reset_nonce: None,
            renew_again: Default::default(),
            hint_behind: false,
            counters: Counters::default(),
            profile: boot.profile,
        };
        let mut effects = Effects::default();
        agent.begin(&boot.eras, &anchor, now, &mut effects);
        Ok((agent, effects))
    }

    fn begin(&mut self, eras: &[EraImage], anchor: &Anchor, now: Now, effects: &mut Effects) {
        effects.batch.begin_era = Some(self.trail.era());
        let feeds = self.revocations.positions();
        let closing = Closing { floor: self.clock.floor(), feeds: &feeds };
        let mut gaps = Vec::new();
        for image in eras {
            if let Some(damage) = &image.damage {
                self.overcharge(image, anchor);
                gaps.push(gap_of(image, anchor));
                effects.outgoing.logs.push(LogEvent::StoreRecovered { era: image.id.number, detail: damage.clone() });
            }
            if image.id.salt != 0 || image.damage.is_none() {
                self.trail.adopt(image, &closing, &mut effects.batch);
            }
        }
        match anchor.era {
            Some(era) if !eras.iter().any(|image| image.id.number == era.number) => {
                self.wallet.overcharge(anchor.leased_uses);
                gaps.push(Gap { era, first: 0, end: Some(anchor.leased_index), cause: GapCause::Damaged });
            }
            Some(_) | None => {}
        }
        if self.anchor_lost {
            self.locked = Some(
                "both slots of the anchor are lost: positions and budgets are unknown until the fleet acknowledges"
                    .into(),
            );
            gaps.push(Gap { era: EraId { number: 0, salt: 0 }, first: 0, end: None, cause: GapCause::AnchorLost });
        }
        self.clock.renew_lease();
        let start = Start {
            boot: self.boot,
            boots: self.clock.boots(),
            previous: eras.iter().rfind(|image| image.id.salt != 0).map(end_of),
            version: env!("CARGO_PKG_VERSION").into(),
        };
        self.write(Event::Start(Box::new(start)), Vec::new(), now, effects);
        for gap in gaps {
            self.write(Event::Gap(gap), Vec::new(), now, effects);
        }
        self.trail.drop_empty(&mut effects.batch);
        self.settle(now, effects);
        self.anchor_due = true;
        self.anchor_if_due(now, effects);
    }

    /// What a damaged era may have charged is charged.
    fn overcharge(&mut self, image: &EraImage, anchor: &Anchor) {
        if anchor.era.is_none_or(|era| image.id.number >= era.number) {
            self.wallet.overcharge(anchor.leased_uses.max(1));
        }
    }
}

fn end_of(image: &EraImage) -> EraEnd {
    let unsigned = image.records.iter().filter(|record| record.index >= image.closed_index);
    let head = unsigned.clone().fold(image.closed_head, |head, record| crate::wire::audit::extend(head, &record.bytes));
    EraEnd { era: image.id, next_index: image.closed_index + unsigned.count() as u64, head }
}

/// From the last record that could be read to the last that may have been there.
fn gap_of(image: &EraImage, anchor: &Anchor) -> Gap {
    let first = end_of(image).next_index;
    let leased = anchor.era.filter(|era| era.number == image.id.number).map(|_| anchor.leased_index);
    let era = anchor.era.filter(|era| era.number == image.id.number).unwrap_or(image.id);
    Gap { era, first, end: leased.map(|leased| leased.max(first)), cause: GapCause::Damaged }
}

/// Brings the anchor's clocks up to what the records after it say, but for E: the highest that they say of it is returned.
/// They do not say when in this boot they were written, so E is not to be advanced from there.
fn replay_time(boot: &Boot, anchor: &mut Anchor) -> Timestamp {
    let anchored = anchor.era.map(|era| (era.number, anchor.next_index));
    let since = |record: &&StoredRecord| Some((record.era.number, record.index)) >= anchored;
    let mut proven = Timestamp(0);
    for record in boot.eras.iter().flat_map(|era| &era.records).filter(since) {
        let Ok(record) = Record::from_bytes(&record.bytes) else { continue };
        if let Event::Trust(TrustChange::Reset { powered: (before, after), .. }) = record.event {
            // The one way back: what was proven before counts for nothing.
            proven = Timestamp(0);
            anchor.floor = Timestamp(0);
            anchor.powered = record.powered;
            anchor.powered_lease = record.powered;
            anchor.ceiling = None;
            anchor.shift = Millis(anchor.shift.0.saturating_add(before.since(after).0));
        }
        proven = proven.max(record.floor);
        if anchor.boot != Some(boot.boot) {
            anchor.powered_lease = anchor.powered_lease.max(record.powered);
        }
    }
    proven
}

fn file<'a>(boot: &'a Boot, wanted: &StateFile) -> Option<&'a [u8]> {
    boot.files.iter().find(|(file, _)| file == wanted).map(|(_, bytes)| bytes.as_slice())
}

fn read_bundle(boot: &Boot) -> Result<(TrustBundle, Hash), Unstartable> {
    let bytes = file(boot, &StateFile::Bundle).ok_or(Unstartable::NotEnrolled)?;
    let read = || {
        let signed = Signed::<TrustBundle>::from_bytes(bytes)?;
        let claim = signed.claim()?;
        // The anchor vouches for the digest. Without it the bundle must at least be whole.
        let trust = signed.open(&boot.fleet, claim.root_keys(), usize::from(claim.threshold))?;
        let digest = signed.digest();
        match &boot.anchor {
            Some(anchor) if anchor.bundle.0 == trust.version && anchor.bundle.1 != digest => {
                Err(Refused::DigestMismatch)
            }
            Some(_) | None => Ok((trust, digest)),
        }
    };
    read().map_err(Unstartable::Bundle)
}

fn read_policy(boot: &Boot, trust: &TrustBundle, anchor: &Anchor) -> Result<(Policy, Hash), Refused> {
    let bytes = file(boot, &StateFile::Policy).ok_or(Refused::Malformed("it is missing"))?;
    let signed = Signed::<PolicyDocument>::from_bytes(bytes)?;
    let document = signed.open(&trust.fleet, trust.policy_keys(), 1)?;
    if document.version < anchor.policy.0 {
        return Err(Refused::RolledBack { offered: document.version, known: anchor.policy.0 });
    }
    if document.version == anchor.policy.0 && signed.digest() != anchor.policy.1 {
        return Err(Refused::DigestMismatch);
    }
    Ok((Policy::parse(document)?, signed.digest()))
}

fn read_wallet(boot: &Boot, trust: &TrustBundle, anchor: &Anchor, anchor_lost: bool) -> Wallet {
    let mut wallet = Wallet::default();
    wallet.restore_shift(anchor.shift);
    for (file, bytes) in &boot.files {
        match file {
            // A task's file that cannot be read back leaves its credential unknown, which denies.
            StateFile::Task(_) => {
                if let Ok(task) = decode::<StoredTask>(bytes, 64 * 1024) {
                    wallet.put_task(task);
                }
            }
            StateFile::Grant(_) => {
                if let Some(grant) = read_grant(boot, trust, bytes) {
                    wallet.put_grant(grant.claims.grant, grant);
                }
            }
            StateFile::Bundle | StateFile::Feed(_) | StateFile::Policy => {}
        }
    }
    for budget in &anchor.budgets {
        wallet.restore(*budget);
    }
    for budget in boot.eras.iter().flat_map(|era| &era.records).flat_map(|record| &record.budgets) {
        wallet.restore(*budget);
    }
    if anchor_lost {
        wallet.spend_all();
    }
    wallet
}

fn read_grant(boot: &Boot, trust: &TrustBundle, bytes: &[u8]) -> Option<Grant> {
    let stored = decode::<StoredGrant>(bytes, 64 * 1024).ok()?;
    let grant = grant_of(stored.token, boot.device.as_str(), &boot.profile.verify, trust).ok()?;
    Some(Grant { activation: stored.activation, ..grant })
}

/// A grant for this device from a token's bytes.
pub(super) fn grant_of(
    token: Vec<u8>,
    device: &str,
    limits: &crate::profile::VerifyLimits,
    trust: &TrustBundle,
) -> Result<Grant, Refused> {
    let verified =
        admit(&token, limits, trust, |_| false).map_err(|_| Refused::Malformed("a grant that is not admitted"))?;
    if verified.claims.kind != Kind::Grant || verified.token.sealed {
        return Err(Refused::Malformed("no grant that can be narrowed"));
    }
    if verified.claims.fleet != trust.fleet.as_str() {
        return Err(Refused::WrongFleet);
    }
    if verified.claims.device.as_deref() != Some(device) {
        return Err(Refused::WrongDevice);
    }
    let chain = verified.chain().copied().collect();
    Ok(Grant { token, claims: verified.claims, chain, activation: None })
}

/// The least that a device knows of the time at enrolment.
pub(super) fn known_time(trust: &TrustBundle, others: impl IntoIterator<Item = Timestamp>) -> Timestamp {
    others.into_iter().fold(trust.issued_at, Timestamp::max)
}
