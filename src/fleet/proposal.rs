//! Every trust bundle after the first, and every reset of a clock, on its way from a draft to what it does.
//!
//! Owns: [`draft`], [`propose`] and [`submit_bundle`], through which all of them go; what a bundle brings with it: a policy
//! that is signed anew, grants that end, a feed that goes on in a new era, the record. All of that is read from the two
//! bundles, so that it is what the root keys signed.
//! Never: signs with a root key that it was not given; brings into force what devices would not take, or what was made for
//! another ledger than there is now.
//! Read next: `../wire/proposal.rs`; `rotate.rs` and `roots.rs`, which draft.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use ed25519_dalek::SigningKey;

use super::acts::{self, Deed};
use super::book::{Book, Grant, Write};
use super::emergency::KeyChange;
use super::enrol::BUNDLE_LIFE;
use super::publish::{self, Cadence};
use super::rotate::{highest_policy, Cause, KeyRole, Rotated};
use super::time::Reading;
use super::{identity, restore, Effects, FleetError, Operator};
use crate::ids::{hex, DeviceId, FeedId, GrantId, GroupId, Hash, KeyId, Nonce};
use crate::time::{Millis, Timestamp};
use crate::wire::bundle::{EmergencyKey, Feed, TrustBundle};
use crate::wire::envelope::{Signed, SIGNATURES_MAX};
use crate::wire::identity::{words as identity_words, IdentityIssuer};
use crate::wire::policy::PolicyDocument;
use crate::wire::proposal::{vouchers, Opened, Proposal, Proposed, Subject, PROPOSAL_BYTES_MAX};
use crate::wire::time::{TimeFile, TimeReset};
use crate::wire::{Refused, MESSAGE_BYTES_MAX};

/// The bytes that one more signature takes in an envelope.
const SIGNATURE_BYTES: usize = 72;

/// Keys that a bundle may need at once.
#[derive(Clone, Copy, Default)]
pub struct Hands<'a> {
    /// The feeds', where that changes, or devices come to another feed: they are to find a head that they believe.
    pub feed: Option<&'a SigningKey>,
    /// The policy's, where that changes: the policy in force may be signed by a key that goes.
    pub policy: Option<&'a SigningKey>,
}

/// The next trust bundle: that in force, with another version and other dates, and whatever `change` makes of it.
///
/// # Errors
/// Those of [`restore::may_follow`] and of `change`; [`FleetError::Refused`] when devices would not take it.
pub fn draft(
    book: &Book,
    at: Timestamp,
    change: impl FnOnce(&mut TrustBundle) -> Result<(), FleetError>,
) -> Result<TrustBundle, FleetError> {
    restore::may_follow(book)?;
    let before = book.trust();
    let mut next = before.clone();
    next.version += 1;
    next.issued_at = before.issued_at.max(at);
    next.not_after = next.issued_at + BUNDLE_LIFE;
    change(&mut next)?;
    let joined: Vec<FeedId> = next.joined_since(before).into_iter().cloned().collect();
    let came = next.feeds.iter_mut().filter(|feed| joined.contains(&feed.id));
    came.for_each(|feed| feed.since = next.version);
    before.precedes(&next).map_err(FleetError::refused("the next trust bundle"))?;
    Ok(next)
}

/// Asks for signatures under a trust bundle, with those of the root keys that are at hand.
///
/// # Errors
/// [`FleetError::Refused`] when it cannot follow the one in force, is too large, or a key is no root key of either.
pub fn propose(book: &Book, next: &TrustBundle, cause: Cause, roots: &[&SigningKey]) -> Result<Proposal, FleetError> {
    let signed = Signed::sign(next, book.fleet(), &[]);
    let bytes = signed.to_bytes().len() + SIGNATURES_MAX * SIGNATURE_BYTES;
    if bytes > MESSAGE_BYTES_MAX {
        let refused = Refused::TooLarge { bytes, limit: MESSAGE_BYTES_MAX };
        return Err(FleetError::refused("the next trust bundle")(refused));
    }
    ask(book, Proposed::Bundle { next: signed, compromised: cause == Cause::Compromised }, roots)
}

/// Asks for signatures under the reset of one device's clock.
///
/// # Errors
/// [`FleetError::UnknownDevice`], else as [`propose`].
pub fn propose_reset(
    book: &Book,
    (device, nonce): (&DeviceId, Nonce),
    now: Reading,
    roots: &[&SigningKey],
) -> Result<Proposal, FleetError> {
    if book.device(device).is_none() {
        return Err(FleetError::UnknownDevice(device.clone()));
    }
    let reset = TimeReset { device: device.clone(), nonce, time: now.time, radius_ms: now.radius };
    ask(book, Proposed::Reset(Signed::sign(&reset, book.fleet(), &[])), roots)
}

fn ask(book: &Book, proposed: Proposed, roots: &[&SigningKey]) -> Result<Proposal, FleetError> {
    let refused = FleetError::refused("the proposal");
    let mut proposal = Proposal { vouchers: vouchers(book.bundles(), book.trusts()), proposed };
    roots.iter().for_each(|root| proposal.countersign(book.fleet(), root));
    // As whoever signs it will look at it.
    let bytes = proposal.to_bytes();
    let checked = if bytes.len() > PROPOSAL_BYTES_MAX {
        Err(Refused::TooLarge { bytes: bytes.len(), limit: PROPOSAL_BYTES_MAX })
    } else {
        proposal.open()
    };
    checked.map_err(refused)?;
    Ok(proposal)
}

/// One proposal of several copies that different people signed.
///
/// # Errors
/// [`FleetError::Refused`] when one asks for something else.
pub fn merge(proposals: impl IntoIterator<Item = Proposal>) -> Result<Proposal, FleetError> {
    let mut proposals = proposals.into_iter();
    let mut merged = proposals.next().ok_or_else(|| FleetError::Invalid("no proposal is named".into()))?;
    for other in proposals {
        merged.join(&other).map_err(FleetError::refused("a proposal beside the first"))?;
    }
    Ok(merged)
}

/// What a proposal would do to this ledger.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It is in force already.
    InForce,
    /// It can come into force.
    Open(Box<Opened>),
}

/// How a proposal stands to the ledger of now.
///
/// # Errors
/// [`FleetError::Refused`] for one that does not hold together or is another fleet's; [`FleetError::MovedOn`] for one that
/// was made for a trust bundle which is not in force any more.
pub fn standing(book: &Book, proposal: &Proposal) -> Result<Standing, FleetError> {
    let opened = proposal.open().map_err(FleetError::refused("the proposal"))?;
    if book.trusts().first().is_none_or(|first| first.fingerprint() != opened.fingerprint) {
        return Err(FleetError::refused("the proposal")(Refused::WrongFleet));
    }
    if let Proposed::Bundle { next, .. } = &proposal.proposed {
        if book.bundles().last().is_some_and(|newest| newest.digest() == next.digest()) {
            return Ok(Standing::InForce);
        }
    }
    let own = book.trust();
    let same = match &opened.subject {
        Subject::Bundle(_) => opened.before == *own,
        Subject::Reset(_) => opened.before.roots == own.roots && opened.before.threshold == own.threshold,
    };
    if !same {
        return Err(FleetError::MovedOn { before: opened.before.version, own: own.version });
    }
    if !opened.is_complete() {
        let quorums: Vec<String> = opened.quorums().iter().map(ToString::to_string).collect();
        return Err(FleetError::Unsigned(quorums.join("; ")));
    }
    Ok(Standing::Open(Box::new(opened)))
}

/// Brings a trust bundle into force that enough root keys have signed, and does what goes with it.
///
/// # Errors
/// Those of [`standing`] and [`restore::may_follow`]; [`FleetError::Invalid`] for one that is in force already or needs a key that is not at hand;
/// [`FleetError::OtherKeys`] when it does not know the operator who would have to answer for it.
pub fn submit_bundle(
    book: &mut Book,
    proposal: &Proposal,
    hands: Hands<'_>,
    cadence: Cadence,
    operator: Operator<'_>,
    at: Timestamp,
    fx: &mut Effects,
) -> Result<Rotated, FleetError> {
    let in_force = || FleetError::Invalid("this trust bundle is in force already".into());
    restore::may_follow(book)?;
    let Standing::Open(opened) = standing(book, proposal)? else { return Err(in_force()) };
    let (Proposed::Bundle { next: signed, compromised }, Subject::Bundle(next)) = (&proposal.proposed, opened.subject)
    else {
        return Err(FleetError::Invalid("the proposal is about a clock, not about a trust bundle".into()));
    };
    let (before, digest) = (opened.before, signed.digest());
    // What devices will check is checked here.
    before.successor(signed).map_err(FleetError::refused("the next trust bundle"))?;
    let changed = changes(&before, &next, *compromised);
    let is_changed = |role| changed.iter().any(|change| change.role == role && change.key.is_some());
    let needs = |role: KeyRole, key| match key {
        None if is_changed(role) => {
            Err(FleetError::Invalid(format!("the new {} key is not here, and it has to sign at once", role.name())))
        }
        key => Ok(key.filter(|_| is_changed(role))),
    };
    let (feed, policy) = (needs(KeyRole::Feed, hands.feed)?, needs(KeyRole::Policy, hands.policy)?);
    book.write(Write::Bundle(next.version, signed.clone()), fx);
    let dropped = record(book, &before, &changed, (*compromised, digest), operator, at, fx)?;
    if let Some(key) = policy {
        let version = book.policy().1.version + 1;
        let version = match is_gone(&before, &next, KeyRole::Policy) {
            true => version.max(highest_policy(book) + 1).max(next.policy_version_min),
            false => version,
        };
        let document = PolicyDocument { version, issued_at: at, ..book.policy().1.clone() };
        let signed = Signed::sign(&document, book.fleet(), &[key]);
        let digest = signed.digest();
        book.write(Write::Policy(version, signed), fx);
        acts::record(book, operator, Deed::Policy { version, digest }, at, fx)?;
    }
    let withdrawn = end_grants(book, &before, at, fx);
    let regrouped = before.groups != next.groups || before.feeds != next.feeds;
    if let Some(key) = feed.or(hands.feed.filter(|_| regrouped)) {
        // Whoever publishes now may not have the new key: devices are to find a head that they believe all the same. And a
        // feed that devices come to holds with this head what had been revoked for them. Where there is no key here, whoever
        // publishes next signs it, and until then those devices are not fresh.
        publish::advance(book, key, cadence, at, fx);
    }
    Ok(Rotated { bundle: next.version, dropped, withdrawn })
}

/// Ends the grants of issuers that `before` named and the newest trust bundle does not.
pub(super) fn end_grants(book: &mut Book, before: &TrustBundle, at: Timestamp, fx: &mut Effects) -> Vec<GrantId> {
    let names = |trust: &TrustBundle, id: u32| trust.issuers.iter().any(|issuer| issuer.root_key_id == id);
    let ended = |grant: &&Grant| {
        let gone = names(before, grant.root_key_id) && !names(book.trust(), grant.root_key_id);
        grant.withdrawn.is_none() && grant.spec.expires > at && gone
    };
    let ended: Vec<Grant> = book.grants().filter(ended).cloned().collect();
    let withdrawn = ended.iter().map(|grant| grant.spec.grant).collect();
    for grant in ended {
        book.write(Write::Grant(Box::new(Grant { withdrawn: Some(at), ..grant })), fx);
    }
    withdrawn
}

/// Brings a trust bundle into force that asks nobody else to sign anew, with all root keys that it takes at hand.
///
/// # Errors
/// Those of [`propose`] and [`submit_bundle`].
pub fn bring(
    book: &mut Book,
    next: &TrustBundle,
    cause: Cause,
    roots: &[&SigningKey],
    operator: Operator<'_>,
    at: Timestamp,
    fx: &mut Effects,
) -> Result<Rotated, FleetError> {
    let proposed = propose(book, next, cause, roots)?;
    submit_bundle(book, &proposed, Hands::default(), Cadence::every(Millis(0)), operator, at, fx)
}

/// The record of a trust bundle: one act for each role whose key it replaces, and one where it changes something else.
fn record(
    book: &mut Book,
    before: &TrustBundle,
    changed: &[Changed],
    (compromised, digest): (bool, Hash),
    operator: Operator<'_>,
    at: Timestamp,
    fx: &mut Effects,
) -> Result<Vec<KeyId>, FleetError> {
    let (bundle, threshold) = (book.trust().version, book.trust().threshold);
    let mut deeds = Vec::new();
    let mut all_dropped = Vec::new();
    for Changed { role, cause, key, dropped } in changed {
        all_dropped.extend(dropped);
        if let Some(key) = *key {
            let (role, cause, dropped) = (*role, *cause, dropped.clone());
            deeds.push(Deed::Rotated { role, cause, key, dropped, bundle, digest });
        }
    }
    let ids = |trust: &TrustBundle| trust.roots.iter().map(|key| KeyId::of(key.as_bytes())).collect::<Vec<_>>();
    let (old, new) = (ids(before), ids(book.trust()));
    if old != new || before.threshold != threshold {
        let added: Vec<KeyId> = new.iter().filter(|id| !old.contains(id)).copied().collect();
        let dropped: Vec<KeyId> = old.iter().filter(|id| !new.contains(id)).copied().collect();
        all_dropped.extend(&dropped);
        let cause = cause_of(compromised);
        deeds.push(Deed::Roots { threshold, added, dropped, cause, bundle, digest });
    }
    deeds.extend(regrouped(before, book.trust(), digest));
    deeds.extend(identity::deeds(before, book.trust(), digest));
    deeds.extend(entrusted(before, book.trust(), cause_of(compromised), digest));
    if deeds.is_empty() {
        deeds.push(Deed::Trusted { bundle, digest });
    }
    deeds.into_iter().try_for_each(|deed| acts::record(book, operator, deed, at, fx))?;
    Ok(all_dropped)
}

/// The record of emergency keys that were given or taken away.
fn entrusted(before: &TrustBundle, next: &TrustBundle, cause: Cause, digest: Hash) -> Vec<Deed> {
    let deed = |key: &EmergencyKey, change| Deed::Emergency {
        name: key.operator.clone(),
        key: key.id(),
        change,
        bundle: next.version,
        digest,
    };
    let gone = before.emergency.iter().filter(|key| !next.emergency.contains(key));
    let new = next.emergency.iter().filter(|key| !before.emergency.contains(key));
    let gone = gone.map(|key| deed(key, KeyChange::Removed(cause)));
    gone.chain(new.map(|key| deed(key, KeyChange::Added))).collect()
}

/// The record of changed groups and feeds.
fn regrouped(before: &TrustBundle, next: &TrustBundle, digest: Hash) -> Vec<Deed> {
    let bundle = next.version;
    let nobody = Vec::new();
    let mut deeds = Vec::new();
    let groups: BTreeSet<&GroupId> = before.groups.keys().chain(next.groups.keys()).collect();
    for group in groups {
        let (old, new) = (before.groups.get(group).unwrap_or(&nobody), next.groups.get(group).unwrap_or(&nobody));
        let beyond = |some: &[DeviceId], others: &[DeviceId]| -> Vec<DeviceId> {
            some.iter().filter(|device| !others.contains(device)).cloned().collect()
        };
        let (came, went) = (beyond(new, old), beyond(old, new));
        if !came.is_empty() {
            deeds.push(Deed::Joined { group: group.clone(), devices: came, bundle, digest });
        }
        if !went.is_empty() {
            deeds.push(Deed::Left { group: group.clone(), devices: went, bundle, digest });
        }
    }
    for feed in next.feeds.iter().filter(|feed| before.feed(&feed.id).is_none_or(|known| known.groups != feed.groups)) {
        deeds.push(Deed::FeedAdded { feed: feed.id.clone(), groups: feed.groups.clone(), bundle, digest });
    }
    for feed in before.feeds.iter().filter(|feed| next.feed(&feed.id).is_none()) {
        deeds.push(Deed::FeedRemoved { feed: feed.id.clone(), bundle, digest });
    }
    deeds
}

/// Hands out the reset of a clock that enough root keys have signed.
///
/// # Errors
/// Those of [`standing`]; [`FleetError::UnknownDevice`]; [`FleetError::Invalid`] for a proposal about something else.
pub fn submit_reset(
    book: &mut Book,
    proposal: &Proposal,
    operator: Operator<'_>,
    at: Timestamp,
    fx: &mut Effects,
) -> Result<TimeFile, FleetError> {
    let other = || FleetError::Invalid("the proposal is about a trust bundle, not about a clock".into());
    let Standing::Open(opened) = standing(book, proposal)? else { return Err(other()) };
    let (Proposed::Reset(signed), Subject::Reset(reset)) = (&proposal.proposed, opened.subject) else {
        return Err(other());
    };
    if book.device(&reset.device).is_none() {
        return Err(FleetError::UnknownDevice(reset.device));
    }
    // What the device will check is checked here: an order that nobody obeys must not be on record.
    let trust = book.trust();
    let checked = signed.open(book.fleet(), trust.root_keys(), usize::from(trust.threshold));
    checked.map_err(FleetError::refused("the reset"))?;
    acts::record(
        book,
        operator,
        Deed::TimeReset { device: reset.device, nonce: reset.nonce, time: reset.time },
        at,
        fx,
    )?;
    Ok(TimeFile::Reset(signed.clone()))
}

/// What a trust bundle does to a role.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changed {
    /// The role.
    pub role: KeyRole,
    /// Whether the key that was in use goes at once.
    pub cause: Cause,
    /// The key that is in use from now on, if it is another.
    pub key: Option<KeyId>,
    /// Keys that are named no more.
    pub dropped: Vec<KeyId>,
}

/// The roles whose keys differ between two trust bundles. `compromised` is what was said of the collector's key, of which
/// there is never more than one.
pub fn changes(before: &TrustBundle, next: &TrustBundle, compromised: bool) -> Vec<Changed> {
    let changed = |role: KeyRole| {
        let (old, new) = (role.keys(before), role.keys(next));
        let key = new.first().filter(|key| old.first() != Some(key)).map(|key| KeyId::of(key));
        let dropped: Vec<KeyId> = old.iter().filter(|key| !new.contains(key)).map(|key| KeyId::of(key)).collect();
        let cause = match role {
            KeyRole::Collector => cause_of(compromised),
            KeyRole::Feed | KeyRole::Issuer | KeyRole::Policy | KeyRole::Service | KeyRole::Operator => {
                cause_of(is_gone(before, next, role))
            }
        };
        (key.is_some() || !dropped.is_empty()).then_some(Changed { role, cause, key, dropped })
    };
    KeyRole::ALL.into_iter().filter_map(changed).collect()
}

/// Whether the key that a role worked with is named no more.
fn is_gone(before: &TrustBundle, next: &TrustBundle, role: KeyRole) -> bool {
    role.keys(before).first().is_some_and(|key| !role.keys(next).contains(key))
}

const fn cause_of(compromised: bool) -> Cause {
    match compromised {
        true => Cause::Compromised,
        false => Cause::Planned,
    }
}

/// What somebody puts his name to, in words: computed from what is signed and from the trust bundle that the root keys signed
/// before.
pub fn words(opened: &Opened) -> Vec<String> {
    let fleet = &opened.before.fleet;
    let next = match &opened.subject {
        Subject::Reset(TimeReset { device, nonce, time, radius_ms }) => {
            return vec![
                format!(
                    "the clock of device {device} of fleet {fleet} is set to {time}, give or take {} ms",
                    radius_ms.0
                ),
                format!("in answer to the nonce {nonce}, which that device made, and for nothing else"),
            ]
        }
        Subject::Bundle(next) => next,
    };
    let before = &opened.before;
    // Every field by its name: one that is added must be told as well.
    let TrustBundle {
        fleet: _,
        version,
        threshold,
        roots,
        issuers,
        policy,
        feeds,
        service,
        operators,
        emergency,
        identities,
        collector,
        groups,
        policy_version_min,
        broker,
        issued_at,
        not_after,
    } = next.as_ref();
    let mut lines = vec![
        format!("trust bundle {version} of fleet {fleet} takes the place of {}", before.version),
        format!("made {issued_at} (the one before: {}), good until {not_after}", before.issued_at),
    ];
    let (old, new) = ((before.threshold, before.roots.len()), (*threshold, roots.len()));
    if old != new {
        lines.push(format!("root keys: {} of {} must sign from now on; before {} of {}", new.0, new.1, old.0, old.1));
    }
    let of = |keys: &[crate::wire::bundle::PublicKey]| {
        keys.iter().map(|key| key_words(key.as_bytes())).collect::<Vec<String>>()
    };
    list("root key", &of(&before.roots), &of(roots), false, &mut lines);
    let numbered = |issuers: &[crate::wire::bundle::Issuer]| {
        let name = |issuer: &crate::wire::bundle::Issuer| {
            format!("{}, number {}", key_words(issuer.key.as_bytes()), issuer.root_key_id)
        };
        issuers.iter().map(name).collect::<Vec<String>>()
    };
    list("issuer key", &numbered(&before.issuers), &numbered(issuers), true, &mut lines);
    list("policy key", &of(&before.policy), &of(policy), true, &mut lines);
    list("service key", &of(&before.service), &of(service), true, &mut lines);
    list("operator key", &of(&before.operators), &of(operators), true, &mut lines);
    let entrusted = |keys: &[EmergencyKey]| {
        keys.iter()
            .map(|key| format!("of {}: {}", key.operator, key_words(key.key.as_bytes())))
            .collect::<Vec<String>>()
    };
    list("emergency key", &entrusted(&before.emergency), &entrusted(emergency), false, &mut lines);
    let issuers = |issuers: &[IdentityIssuer]| issuers.iter().flat_map(identity_words).collect::<Vec<String>>();
    list("identity issuer", &issuers(&before.identities), &issuers(identities), false, &mut lines);
    list("collector key", &[key_words(&before.collector.0)], &[key_words(&collector.0)], false, &mut lines);
    for feed in feeds {
        let known = before.feeds.iter().find(|known| known.id == feed.id);
        let role = format!("key of feed {}", feed.id);
        list(&role, &known.map_or_else(Vec::new, |known| of(&known.keys)), &of(&feed.keys), true, &mut lines);
        let era = known.map_or(0, |known| known.era);
        if era != feed.era {
            let (id, next) = (&feed.id, feed.era);
            lines.push(format!("  feed {id} begins era {next} (before: {era}): heads of before count no more"));
        }
    }
    for feed in feeds.iter().filter(|feed| before.feed(&feed.id).is_some_and(|known| known.since != feed.since)) {
        lines.push(format!("  devices come to feed {} with this bundle: its older heads make nothing fresh", feed.id));
    }
    let name = |feed: &Feed| match feed.groups.is_empty() {
        true => format!("{}, of every device that is in no other feed's group", feed.id),
        false => {
            let groups: Vec<&str> = feed.groups.iter().map(GroupId::as_str).collect();
            format!("{}, of groups {}", feed.id, groups.join(" "))
        }
    };
    let names = |feeds: &[Feed]| feeds.iter().map(name).collect::<Vec<_>>();
    list("feed", &names(&before.feeds), &names(feeds), true, &mut lines);
    let members = |groups: &std::collections::BTreeMap<crate::ids::GroupId, Vec<DeviceId>>| {
        let empty = groups.keys().map(ToString::to_string);
        let devices = groups.iter().flat_map(|(group, ids)| ids.iter().map(move |id| format!("{group}: device {id}")));
        empty.chain(devices).collect::<Vec<String>>()
    };
    list("group", &members(&before.groups), &members(groups), false, &mut lines);
    // What else a broker's address may hold, nobody's terminal is to act on.
    let urls = |urls: &[String]| urls.iter().map(|url| format!("{url:?}")).collect::<Vec<String>>();
    list("broker", &urls(&before.broker.urls), &urls(&broker.urls), false, &mut lines);
    let digests = |authorities: &[Vec<u8>]| {
        authorities.iter().map(|der| Hash::of("authority", &[der]).to_string()).collect::<Vec<String>>()
    };
    list("broker authority", &digests(&before.broker.authorities), &digests(&broker.authorities), false, &mut lines);
    if *policy_version_min != before.policy_version_min {
        lines.push(format!("  policies before version {policy_version_min} count no more"));
    }
    lines
}

fn key_words(key: &[u8; 32]) -> String {
    format!("{} ({})", KeyId::of(key), hex(key))
}

/// What comes, what goes and, where the first is the one in use, which that is.
fn list(what: &str, before: &[String], next: &[String], first_in_use: bool, lines: &mut Vec<String>) {
    let mut tell = |sign: char, told: Vec<&String>, note: &str| {
        // All of them, however many a bundle has room for: nobody signs what he was not shown.
        for one in told {
            lines.push(format!("{sign} {what} {one}{note}"));
        }
    };
    tell('+', next.iter().filter(|one| !before.contains(one)).collect(), "");
    tell('-', before.iter().filter(|one| !next.contains(one)).collect(), ": believed no more");
    let moved =
        before != next && next.iter().all(|one| before.contains(one)) && before.iter().all(|one| next.contains(one));
    if moved {
        lines.push(format!("  {what}: the same in another order"));
    }
    if first_in_use && before.first() != next.first() {
        if let Some(first) = next.first() {
            lines.push(format!("  {what} in use: {first}"));
        }
    }
}

/// The words as a text, a line each.
pub fn text(opened: &Opened) -> String {
    let mut text = String::new();
    for line in words(opened) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{line}");
    }
    text
}

#[cfg(test)]
mod tests;
