//! A start: from what the disk holds to an agent that can decide, alone.
//!
//! Owns: recovery. Files are believed as far as the anchor vouches for them or they vouch for themselves; records after
//! the anchor are replayed; what is damaged is charged and becomes a gap record; a new era begins.
//! Never: needs the network; refunds a budget; goes on as if nothing had happened where something is missing.
//! Read next: `mod.rs`.

use std::collections::BTreeSet;

use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use super::audit::{end_of, Closing, Condition, Trail};
use super::audit_key::{AuditSigner, Owner};
use super::clock::{Role, TrustedClock};
use super::effects::{Anchor, Effects, EraMark, FileWrite, LogEvent, Standing, StateFile, StoredRecord};
use super::emergency::{Emergencies, EmergencyMark, Moment};
use super::evidence::Source;
use super::feed::Held;
use super::policy::{self, Policy};
use super::request::Counters;
use super::revocation::Revocations;
use super::room::Taken;
use super::sync::Named;
use super::tasks::TTL_MAX;
use super::token::{admit, Cache, Kind};
use super::uplink::Uplink;
use super::wallet::{Grant, StoredGrant, StoredLoss, StoredTask, Wallet};
use super::{Agent, Boot, EraImage, Marks, Now};
use crate::ids::{EraId, FeedId, GrantId, Hash, TaskId};
use crate::mutant::{active, Mutant};
use crate::time::{Millis, Timestamp};
use crate::wire::audit::{extend, genesis, Event, Gap, GapCause, Record, Start, TrustChange};
use crate::wire::bundle::TrustBundle;
use crate::wire::envelope::Signed;
use crate::wire::policy::PolicyDocument;
use crate::wire::revocation::Position;
use crate::wire::Refused;

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
        if let Some(anchor) = &boot.anchor {
            boot.eras.iter_mut().for_each(|era| check_tail(era, anchor));
        }
        let anchor_lost = boot.anchor.is_none();
        let mut anchor = boot.anchor.clone().unwrap_or_else(Anchor::lost);

        let (trust, trust_signed) = read_bundle(&boot)?;
        let trust_digest = trust_signed.digest();
        if anchor_lost {
            // What is signed on disk is a floor still.
            anchor.floor = trust.issued_at;
            anchor.powered = trust.issued_at;
            anchor.powered_lease = trust.issued_at;
        }
        let (policy, policy_signed, policy_fault) = match read_policy(&boot, &trust, &anchor) {
            Ok((policy, signed)) => (policy, Some(signed), None),
            Err(refused) => {
                let version = if active(Mutant::RottenPolicyUnheeded) { anchor.policy.0 } else { 0 };
                let document = PolicyDocument { version, ..PolicyDocument::built_in(trust.issued_at) };
                (Policy::parse(document).expect("the built-in policy parses"), None, Some(refused))
            }
        };
        let policy_digest = policy_signed.as_ref().map_or(Hash::ZERO, Signed::digest);
        let marks = Marks {
            bundle: newer(anchor.bundle, (trust.version, trust_digest)),
            policy: newer(anchor.policy, (policy.document.version, policy_digest)),
        };
        let (mut revocations, damaged_feeds) = read_feeds(&boot, &trust, &anchor);
        revocations.follow(&trust, &boot.device);
        let proven = replay_time(&boot, &mut anchor);
        let mut clock = TrustedClock::start(boot.profile.time.clone(), &anchor, boot.boot, now.boottime);
        clock.recall(proven);
        // A cut between a head's file and the anchor leaves E behind it.
        for signed in revocations.signed_times() {
            // What contradicts was told when it came.
            let _ = clock.hear(Role::Feed, signed);
        }
        let (wallet, damaged_wallet) = read_wallet(&boot, &trust, &anchor, &clock);
        let (emergencies, rewritten, damaged_emergencies) = read_emergencies(&boot, &anchor, &clock, &wallet);
        revocations.emergencies = emergencies;
        let damaged_policy = policy_fault.clone().map(|refused| (StateFile::Policy, refused));
        let damaged = [
            (Source::Policy, damaged_policy.into_iter().collect()),
            (Source::FeedPiece, damaged_feeds),
            (Source::Emergency, damaged_emergencies),
            (Source::Wallet, damaged_wallet),
        ];

        let mut rng = ChaCha20Rng::from_seed(boot.seed);
        let found = boot.eras.iter().map(|era| era.id.number).filter(|_| !active(Mutant::EraByAnchorAlone));
        let newest = found.chain(anchor.era.map(|era| era.number)).max();
        let step = u64::from(!active(Mutant::EraNotBumped));
        let era = EraId { number: newest.map_or(1, |number| number.saturating_add(step)), salt: rng.next_u64() };
        let owner = Owner { fleet: &boot.fleet, device: &boot.device, identity: &boot.keys.identity };
        let found = file(&boot, &StateFile::AuditKey).and_then(|bytes| {
            AuditSigner::from_file(bytes, owner, anchor.audit_key, signed_since(&boot.eras, &anchor))
        });
        // Where the device's place in its history is not known, its key may be one that it had before.
        let stale = anchor.standing != Standing::Known;
        let new_key = stale || found.is_none();
        let signer = match found {
            Some(found) if stale => found.next(owner, clock.powered(), &mut rng),
            Some(found) => found,
            None => AuditSigner::generate(anchor.audit_key.epoch, owner, clock.powered(), &mut rng),
        };
        let mut agent = Self {
            trail: Trail::begin(boot.fleet.clone(), boot.device.clone(), signer, era),
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
            trust_signed,
            bundles_ahead: Default::default(),
            heads_ahead: Default::default(),
            emergencies_ahead: Default::default(),
            policy,
            policy_digest,
            policy_signed,
            revocations,
            wallet,
            named: Named::default(),
            mode: anchor.mode,
            mode_reasons: Vec::new(),
            standing: anchor.standing,
            behind: None,
            marks,
            policy_fault,
            wants: Default::default(),
            waits: Default::default(),
            answered: Default::default(),
            grants_asked: None,
            grants_asked_at: None,
            grants_tries: 0,
            generation: anchor.generation,
            anchor_due: true,
            commits: 0,
            taken: Taken::of(boot.used_bytes),
            recorded: now.boottime,
            flood: Default::default(),
            ending: false,
            refusals: Default::default(),
            damper: Default::default(),
            reset_nonce: None,
            reset_at: None,
            renew_again: Default::default(),
            hint_behind: false,
            reading: Default::default(),
            counters: Counters::default(),
            profile: boot.profile,
        };
        let mut effects = Effects::default();
        if new_key {
            let content = agent.trail.signer().to_file();
            effects.batch.files.push(FileWrite { file: StateFile::AuditKey, content });
        }
        effects.batch.files.extend(rewritten);
        agent.begin(&boot.eras, &anchor, now, &mut effects);
        for (source, damaged) in damaged {
            for (name, refused) in damaged.into_iter().filter(|_| !active(Mutant::RotUntold)) {
                // What is not there is no evidence of anything.
                let Some((_, bytes)) = boot.files.iter().find(|(file, _)| *file == name) else { continue };
                let told = agent.refuse(source, &name.path(), bytes, &refused, now, &mut effects);
                // What can be read is another task's: somebody put it there, and may want it back.
                if let (StateFile::Task(id), true) = (name, told && StoredTask::from_file(bytes).is_err()) {
                    agent.wallet.tell_loss(id);
                }
            }
        }
        Ok((agent, effects))
    }

    fn begin(&mut self, eras: &[EraImage], anchor: &Anchor, now: Now, effects: &mut Effects) {
        effects.batch.begin_era = Some(self.trail.era());
        let feeds = self.revocations.told();
        let closing = Closing { floor: self.clock.floor(), feeds: &feeds };
        let mut ends = Vec::new();
        // Closed once more, the end of such an era would be signed twice: what is left of it may have been sent. Without a
        // mark it was sent and given back, and is here again because power was cut before that was durable.
        let salvaged = |image: &EraImage| {
            let before = anchor.era.is_some_and(|era| image.id.number < era.number);
            let is_marked = |mark: &EraMark| mark.era == image.id && mark.signed_index < mark.next_index;
            anchor.earlier.iter().any(is_marked) || (before && image.is_unsigned())
        };
        let overfull = active(Mutant::OverfullDropped) && eras.len() > 1 && self.is_overfull();
        for (image, number) in eras.iter().zip(0..) {
            if overfull && number == 0 {
                effects.batch.drop_eras.push(image.id);
                continue;
            }
            if let Some(damage) = &image.damage {
                self.overcharge(image, anchor);
                effects.outgoing.logs.push(LogEvent::StoreRecovered { era: image.id.number, detail: damage.clone() });
            }
            if image.id.salt != 0 || image.damage.is_none() {
                let condition = match self.standing {
                    Standing::Contradicted { .. } | Standing::Known if image.damage.is_none() && !salvaged(image) => {
                        Condition::Whole
                    }
                    // Of a lost or renewed place in its history the collector knows more.
                    Standing::Contradicted { .. } | Standing::Known | Standing::Lost | Standing::Renewed => {
                        Condition::Damaged
                    }
                };
                let end = self.trail.adopt(image, condition, &closing, &mut effects.batch);
                ends.extend(Some(end).filter(|end| end.era.salt != 0));
            }
        }
        if anchor.era.is_some_and(|era| !eras.iter().any(|image| image.id.number == era.number)) {
            self.wallet.overcharge(anchor.leased_uses);
        }
        let gaps = gaps(eras, anchor);
        self.clock.renew_lease();
        let start = Start {
            boot: self.boot,
            boots: self.clock.boots(),
            previous: ends.pop(),
            version: env!("CARGO_PKG_VERSION").into(),
            heartbeat: self.heartbeat(),
        };
        // Of an era that power cut short before its first record, nothing will come that says where the one before it ended.
        let mut empty = start.previous.is_some_and(|end| end.next_index == 0);
        self.write(Event::Start(Box::new(start)), Vec::new(), now, effects);
        while let Some(end) = ends.pop().filter(|_| empty) {
            empty = end.next_index == 0;
            self.write(Event::Ended(end), Vec::new(), now, effects);
        }
        for gap in gaps.into_iter().filter(|_| !active(Mutant::LossUntold)) {
            let detail = format!("records from {} on are gone, to {:?}: counted in a gap record", gap.first, gap.end);
            effects.outgoing.logs.push(LogEvent::StoreRecovered { era: gap.era.number, detail });
            self.write(Event::Gap(gap), Vec::new(), now, effects);
        }
        self.trail.drop_empty(&mut effects.batch);
        match self.standing {
            Standing::Known => {}
            Standing::Contradicted { .. } | Standing::Lost | Standing::Renewed => {
                self.end_all_tasks("what was counted is lost", now, effects);
            }
        }
        self.attach_again(now, effects);
        // A cut may have come between the list and what it orders.
        self.end_revoked_tasks(now, effects);
        self.obey_lockdown(now, effects);
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

/// Segments that were signed after the anchor was written.
fn signed_since(eras: &[EraImage], anchor: &Anchor) -> u64 {
    let since = |image: &EraImage| match anchor.era {
        Some(anchored) if image.id == anchored => image.segments.saturating_sub(anchor.audit_key.closed),
        Some(anchored) if image.id.number < anchored.number => 0,
        Some(_) | None => image.segments,
    };
    eras.iter().map(since).fold(0, u64::saturating_add)
}

/// Records that no signature covers yet are those that the anchor has seen, or damage.
fn check_tail(era: &mut EraImage, anchor: &Anchor) {
    // What was closed since the anchor was written is signed.
    let covered = anchor.era != Some(era.id) || era.closed_index >= anchor.next_index;
    let covered = covered || active(Mutant::TailNotChecked);
    if covered || era.damage.is_some() {
        return;
    }
    let seen = era.records.iter().filter(|record| (era.closed_index..anchor.next_index).contains(&record.index));
    if seen.fold(era.closed_head, |head, record| extend(head, &record.bytes)) != anchor.head {
        let what = format!("records {} to {} are not those that were written", era.closed_index, anchor.next_index - 1);
        era.damage = Some(what);
    }
}

/// Records that should be there and are not, from the end of what can be read on. Holes before that end are counted
/// when what is left around them is sent: only the collector knows which of it arrived long ago.
fn gaps(eras: &[EraImage], anchor: &Anchor) -> Vec<Gap> {
    let (cause, repeated) = (GapCause::Damaged, 0);
    let mut gaps = Vec::new();
    for mark in anchor.marks() {
        let open = anchor.era == Some(mark.era);
        let image = eras.iter().find(|image| image.id.number == mark.era.number);
        let first = image.map_or(mark.held_index, |image| end_of(image).next_index);
        // Past what the anchor has seen of the open era, records may have been.
        let torn = image.is_none_or(|image| image.damage.is_some());
        let end = if open && torn { anchor.leased_index } else { mark.next_index };
        let untold = active(Mutant::ShortLossUntold) && mark.next_index < first + 8;
        if first < end && !untold {
            gaps.push(Gap { era: mark.era, first, end: Some(end), cause, repeated });
        }
    }
    let marked = |image: &&EraImage| anchor.marks().any(|mark| mark.era.number == image.id.number);
    for image in eras.iter().filter(|image| image.damage.is_some() && !marked(image)) {
        gaps.push(Gap { era: image.id, first: end_of(image).next_index, end: None, cause, repeated });
    }
    // There is none, or it was written by an enrolment after the loss: it knows no era, and there are some. Those that a
    // first enrolment's anchor does not know were begun by a first start that power cut short.
    if anchor.era.is_none() && (anchor.generation == 0 || (!eras.is_empty() && anchor.standing != Standing::Known)) {
        let era = EraId { number: 0, salt: 0 };
        gaps.push(Gap { era, first: 0, end: None, cause: GapCause::AnchorLost, repeated });
    }
    gaps
}

/// The higher version; of equal ones the one that was known.
fn newer(known: (u64, Hash), here: (u64, Hash)) -> (u64, Hash) {
    if here.0 > known.0 {
        here
    } else {
        known
    }
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
            // Up to there P went since the anchor, and how much of that was powered-on time is in no record.
            let since = before.since(anchor.powered);
            anchor.powered = record.powered;
            anchor.powered_lease = record.powered;
            anchor.ceiling = None;
            anchor.synced = after - before.since(anchor.synced);
            anchor.lost_until = after;
            anchor.shift = Millis(anchor.shift.0.saturating_add(before.since(after).0));
            anchor.raised = Millis(anchor.raised.0.saturating_add(since.0).saturating_add(after.since(before).0));
            // All of it is charged to what lives so much powered-on time.
            anchor.charged = Millis(anchor.charged.0.saturating_add(since.0));
        }
        proven = proven.max(record.floor);
        if anchor.boot != Some(boot.boot) {
            // Past its lease P was corrected: no powered-on time went by in that. What is leased is charged at the start.
            let past = record.powered.since(anchor.powered_lease);
            anchor.raised = Millis(anchor.raised.0.saturating_add(past.0));
            anchor.powered = anchor.powered + past;
            anchor.powered_lease = anchor.powered_lease.max(record.powered);
        }
    }
    proven
}

/// The content of a file that was found.
fn file<'a>(boot: &'a Boot, wanted: &StateFile) -> Option<&'a [u8]> {
    boot.files.iter().find(|(file, _)| file == wanted).map(|(_, bytes)| bytes.as_slice())
}

/// Files that could not be read back, and why.
type Damaged = Vec<(StateFile, Refused)>;

/// The feeds that the anchor names, as far as their files say no less than it knows, and those that were written before the
/// anchor that would have named them; and which files could not be read back.
fn read_feeds(boot: &Boot, trust: &TrustBundle, anchor: &Anchor) -> (Revocations, Damaged) {
    let mut revocations = Revocations::default();
    let mut damaged = Vec::new();
    let named = anchor.feeds.iter().map(|known| &known.feed).chain(anchor.feed_files.iter().map(|(feed, _)| feed));
    let named: BTreeSet<&FeedId> = named.collect();
    let mut load = |feed: &FeedId| {
        let names = [StateFile::Feed(feed.clone()), StateFile::FeedSince(feed.clone())];
        let [whole, since] = [0, 1].map(|which| file(boot, &names[which]));
        let known = anchor.feeds.iter().find(|known| known.feed == *feed);
        let number = anchor.feed_files.iter().find(|(id, _)| id == feed).map_or(0, |(_, number)| *number);
        let loaded = revocations.load(feed, (whole.unwrap_or_default(), since), trust, (known, number));
        if let Err(refused) = &loaded {
            let [whole_name, since_name] = names;
            let beside = since.is_some() && whole.is_some_and(|whole| Held::read(whole, None).is_ok());
            damaged.push((if beside { since_name } else { whole_name }, refused.clone()));
        }
        loaded
    };
    let mut lost = Vec::new();
    for feed in &named {
        if load(feed).is_err() {
            // One that never was complete has no position, and is found again with the first that is.
            let none = Position::none(feed);
            lost.push(anchor.feeds.iter().find(|known| known.feed == **feed).cloned().unwrap_or(none));
        }
    }
    for (name, _) in &boot.files {
        if let StateFile::Feed(feed) = name {
            if !named.contains(feed) {
                // It vouches for itself, or is not there.
                let _ = load(feed);
            }
        }
    }
    lost.into_iter().for_each(|position| revocations.lose(position, anchor.floor));
    (revocations, damaged)
}

fn read_bundle(boot: &Boot) -> Result<(TrustBundle, Signed<TrustBundle>), Unstartable> {
    let bytes = file(boot, &StateFile::Bundle).ok_or(Unstartable::NotEnrolled)?;
    let read = || {
        let signed = Signed::<TrustBundle>::from_bytes(bytes)?;
        let claim = signed.claim()?;
        if active(Mutant::RotUnnoticed) {
            return Ok((claim, signed));
        }
        // The anchor vouches for the digest. Without it the bundle must at least be whole.
        let trust = signed.open(&boot.fleet, claim.root_keys(), usize::from(claim.threshold))?;
        let digest = signed.digest();
        match &boot.anchor {
            Some(anchor) if anchor.bundle.0 == trust.version && anchor.bundle.1 != digest => {
                Err(Refused::DigestMismatch)
            }
            Some(_) | None => Ok((trust, signed)),
        }
    };
    read().map_err(Unstartable::Bundle)
}

fn read_policy(boot: &Boot, trust: &TrustBundle, anchor: &Anchor) -> Result<(Policy, Signed<PolicyDocument>), Refused> {
    let bytes = file(boot, &StateFile::Policy).ok_or(Refused::Malformed("it is missing"))?;
    let signed = Signed::<PolicyDocument>::from_bytes(&policy::from_file(bytes)?)?;
    // What the anchor vouches for was verified when it came. Its key may have been rotated away since.
    let vouched = signed.digest() == anchor.policy.1;
    let vouched = vouched || active(Mutant::RotUnnoticed);
    let document = if vouched { signed.claim() } else { signed.open(&trust.fleet, trust.policy_keys(), 1) }?;
    if document.version < anchor.policy.0 {
        return Err(Refused::RolledBack { offered: document.version, known: anchor.policy.0 });
    }
    if document.version == anchor.policy.0 && !vouched {
        return Err(Refused::DigestMismatch);
    }
    Ok((Policy::parse(document)?, signed))
}

/// The wallet, and which of its files could not be read back.
fn read_wallet(boot: &Boot, trust: &TrustBundle, anchor: &Anchor, clock: &TrustedClock) -> (Wallet, Damaged) {
    // P was past the issuer's time when a task was begun, give or take its error, and has not gone below that since.
    let ends = clock.powered() + TTL_MAX + Millis(boot.profile.time.issuer_error_ms);
    let mut wallet = Wallet::default();
    let mut damaged = Vec::new();
    wallet.restore_shift(anchor.shift);
    wallet.lose_counters(anchor.lost_until);
    for (file, bytes) in &boot.files {
        match file {
            // A credential that was narrowed here is unknown without its task's file, which denies. One that an issuer
            // minted is not: whether its task had ended is.
            StateFile::Task(id) => match (read_task(id, bytes), StoredLoss::from_file(bytes)) {
                (Ok(task), _) => wallet.put_task(task),
                (Err(_), Ok(loss)) if loss.id == *id => wallet.lose_task(loss),
                (Err(refused), _) => {
                    wallet.lose_task(StoredLoss { id: id.clone(), ends });
                    damaged.push((file.clone(), refused));
                }
            },
            StateFile::Grant(id) => match read_grant(boot, trust, id, bytes) {
                Ok(grant) => wallet.put_grant(*id, grant),
                Err(refused) => {
                    // What can be read may be admitted again, with another trust bundle or other limits.
                    if StoredGrant::from_file(bytes).is_err() {
                        wallet.lose_grant(*id);
                    }
                    damaged.push((file.clone(), refused));
                }
            },
            StateFile::Bundle
            | StateFile::Emergency(_)
            | StateFile::Feed(_)
            | StateFile::FeedSince(_)
            | StateFile::AuditKey
            | StateFile::Policy => {}
        }
    }
    let replayed = boot.eras.iter().flat_map(|era| &era.records).flat_map(|record| &record.budgets);
    for budget in anchor.budgets.iter().chain(replayed) {
        let of_step = || wallet.step_of(std::iter::once(&budget.block)).is_some();
        if active(Mutant::StepUseForgotten) && of_step() {
            continue;
        }
        wallet.restore(*budget);
    }
    match anchor.standing {
        Standing::Known => {}
        // Nobody here knows what was charged.
        Standing::Contradicted { .. } | Standing::Lost | Standing::Renewed => {
            wallet.spend_all();
            wallet.lose_counters(Timestamp::MAX);
        }
    }
    (wallet, damaged)
}

/// What emergency keys have revoked, the files that are to be written anew, and those that could not be read back. A file that
/// the anchor knows and that is not there, or is damaged, is lost; so is a damaged one that it does not know.
fn read_emergencies(
    boot: &Boot,
    anchor: &Anchor,
    clock: &TrustedClock,
    wallet: &Wallet,
) -> (Emergencies, Vec<FileWrite>, Damaged) {
    let mut emergencies = Emergencies::default();
    emergencies.advance(Moment::of(clock, wallet));
    let (mut rewritten, mut damaged) = (Vec::new(), Vec::new());
    let unknown = boot.files.iter().filter_map(|(file, _)| match file {
        StateFile::Emergency(key) => Some(*key),
        StateFile::AuditKey
        | StateFile::Bundle
        | StateFile::Feed(_)
        | StateFile::FeedSince(_)
        | StateFile::Grant(_)
        | StateFile::Policy
        | StateFile::Task(_) => None,
    });
    // Written before the anchor that would have named it, or the anchor is lost.
    let unknown = unknown.filter(|key| !anchor.emergencies.iter().any(|known| known.key == *key));
    let known = anchor.emergencies.iter().map(|known| (known.key, Some(known)));
    for (key, known) in known.chain(unknown.map(|key| (key, None))) {
        let name = StateFile::Emergency(key);
        match emergencies.load(key, file(boot, &name).unwrap_or_default(), known) {
            Ok(anew) => rewritten.extend(anew.map(|content| FileWrite { file: name, content })),
            Err(refused) => {
                damaged.push((name, refused));
                if !active(Mutant::RottenEmergencyUnheeded) {
                    emergencies.lose(known.copied().unwrap_or(EmergencyMark::unknown(key)));
                }
            }
        }
    }
    (emergencies, rewritten, damaged)
}

fn read_task(id: &TaskId, bytes: &[u8]) -> Result<StoredTask, Refused> {
    let task = StoredTask::from_file(bytes)?;
    (task.id == *id).then_some(task).ok_or(Refused::Malformed("a task under the name of another"))
}

fn read_grant(boot: &Boot, trust: &TrustBundle, id: &GrantId, bytes: &[u8]) -> Result<Grant, Refused> {
    let stored = StoredGrant::from_file(bytes)?;
    let grant = grant_of(stored.token, boot.device.as_str(), &boot.profile.verify, trust)?;
    if grant.claims.grant != *id {
        return Err(Refused::Malformed("a grant under the name of another"));
    }
    Ok(Grant { activation: stored.activation, ..grant })
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
    let claims = &verified.claims;
    let boxed = claims.offline_max.is_some() && claims.boots_max.is_some() && claims.task_ttl_max.is_some();
    if !boxed || claims.uses.is_empty() {
        return Err(Refused::Malformed("a grant without offline_max, uses_max, boots_max and task_ttl_max"));
    }
    let chain = verified.chain().copied().collect();
    Ok(Grant { token, claims: verified.claims, chain, activation: None })
}

/// The least that a device knows of the time at enrolment.
pub(super) fn known_time(trust: &TrustBundle, others: impl IntoIterator<Item = Timestamp>) -> Timestamp {
    others.into_iter().fold(trust.issued_at, Timestamp::max)
}
