//! Founding a fleet, and who may join it.
//!
//! Owns: the first trust bundle, policy and head; approval of a request after its code was compared; retirement; the
//! sealed answer.
//! Never: lets a retired key back in; puts a second key behind a live id unless the operator says so.
//! Read next: `wire/enrol.rs` for what is compared and sealed.

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;
use rand_core::{CryptoRng, RngCore};

use super::acts::{self, Deed};
use super::book::{Book, Device, Pending, Status, Write};
use super::publish::{self, Cadence};
use super::{covered, Effects, FleetError, FleetKeys, FleetLog, Operator};
use crate::ids::{DeviceId, FeedId, FleetId, KeyId};
use crate::time::{Millis, Timestamp};
use crate::wire::bundle::{BrokerPins, Feed, Issuer, PublicKey, TrustBundle};
use crate::wire::enrol::{Code, EnrolAnswer, EnrolBundle, EnrolRequest};
use crate::wire::envelope::Signed;
use crate::wire::policy::PolicyDocument;
use crate::wire::revocation::Target;
use crate::wire::Refused;

/// The most devices that wait for an operator at once. More are turned away: whoever holds the bootstrap login must not
/// fill the ledger.
pub const PENDING_MAX: usize = 256;
/// How long a trust bundle is good for.
pub(super) const BUNDLE_LIFE: Millis = Millis::from_secs(10 * 365 * 86_400);

/// What a fleet is founded with.
pub struct Founding<'a> {
    /// Its name.
    pub fleet: FleetId,
    /// The name of its revocation feed.
    pub feed: FeedId,
    /// Its brokers.
    pub broker: BrokerPins,
    /// Its keys.
    pub keys: &'a FleetKeys,
    /// Who founds it.
    pub operator: &'a str,
    /// When.
    pub at: Timestamp,
    /// When heads are due.
    pub cadence: Cadence,
}

/// Founds a fleet: trust bundle 1, the built-in policy, an empty revocation list with its head, the first act.
///
/// # Errors
/// [`FleetError::Invalid`] for an operator's name that cannot stand in an act.
pub fn found(founding: &Founding<'_>, fx: &mut Effects) -> Result<Book, FleetError> {
    let keys = founding.keys;
    let bundle = TrustBundle {
        fleet: founding.fleet.clone(),
        version: 1,
        threshold: keys.threshold,
        roots: keys.roots().iter().map(|root| root.verifying_key().into()).collect(),
        issuers: vec![Issuer { root_key_id: keys.issuer.root_key_id, key: keys.issuer.key.verifying_key().into() }],
        policy: vec![keys.policy.verifying_key().into()],
        feeds: vec![Feed {
            id: founding.feed.clone(),
            era: 1,
            keys: vec![keys.feed.verifying_key().into()],
            groups: Vec::new(),
            since: 0,
        }],
        service: vec![keys.service.verifying_key().into()],
        operators: vec![keys.operator.verifying_key().into()],
        emergency: Vec::new(),
        identities: Vec::new(),
        collector: keys.collector.public(),
        groups: BTreeMap::new(),
        policy_version_min: 1,
        broker: founding.broker.clone(),
        issued_at: founding.at,
        not_after: founding.at + BUNDLE_LIFE,
    };
    let signed = Signed::sign(&bundle, &founding.fleet, &keys.roots());
    // What devices will check is checked here first: a bundle that nobody accepts must not found a fleet.
    let opened = TrustBundle::genesis(&signed).map_err(FleetError::refused("the first trust bundle"))?;
    let document = PolicyDocument::built_in(founding.at);
    let policy = Signed::sign(&document, &founding.fleet, &[&keys.policy]);
    let digest = signed.digest();
    let mut book = Book::begin((signed.clone(), opened), (policy.clone(), document));
    book.write(Write::Bundle(1, signed), fx);
    book.write(Write::Policy(1, policy), fx);
    let operator = Operator { name: founding.operator, key: &keys.operator };
    acts::record(&mut book, operator, Deed::Founded { bundle: digest }, founding.at, fx)?;
    publish::advance(&mut book, &keys.feed, founding.cadence, founding.at, fx);
    Ok(book)
}

/// Whether an approval may put another key behind a live id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replace {
    /// It may not.
    Keep,
    /// It may: the old key never comes back.
    Replace,
}

/// What an approval did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Approval {
    /// This request was approved before: nothing changed.
    Already,
    /// The device is in.
    Joined,
    /// The device is in with another key than before.
    Replaced,
}

/// Lets the device of `request` in, if `code` is the request's.
///
/// # Errors
/// [`FleetError::WrongCode`], [`FleetError::RetiredKey`], [`FleetError::DeviceRevoked`], [`FleetError::OtherKey`], or
/// what is wrong with the request.
pub fn approve(
    book: &mut Book,
    request: &Signed<EnrolRequest>,
    code: Code,
    replace: Replace,
    operator: Operator<'_>,
    at: Timestamp,
    fx: &mut Effects,
) -> Result<(DeviceId, Approval), FleetError> {
    let opened = EnrolRequest::open(request).map_err(FleetError::refused("the enrolment request"))?;
    if code != EnrolRequest::code(request) {
        return Err(FleetError::WrongCode);
    }
    let (id, identity) = (opened.device.clone(), opened.keys.identity);
    // Asked first: what was approved before the device was revoked is not given out again either.
    if let Some(covered) = covered::covered(book, &[Target::Device(id.clone())], None, at) {
        return Err(FleetError::DeviceRevoked(covered));
    }
    let known = book.device(&id).cloned();
    if known.as_ref().is_some_and(|device| device.request == request.digest() && device.status == Status::Approved) {
        return Ok((id, Approval::Already));
    }
    if book.is_retired_key(&identity) {
        return Err(FleetError::RetiredKey(id));
    }
    if book.devices().any(|other| other.id != id && other.keys.identity == identity) {
        return Err(FleetError::Invalid(format!(
            "the key of this request already belongs to another device than {id}"
        )));
    }
    let replaced = known.as_ref().map(|device| device.keys.identity).filter(|key| *key != identity);
    let live = known.as_ref().is_some_and(|device| device.status == Status::Approved);
    if live && replaced.is_some() && replace == Replace::Keep {
        return Err(FleetError::OtherKey(id));
    }
    let mut past = known.as_ref().map(|device| device.past.clone()).unwrap_or_default();
    past.extend(known.filter(|device| device.keys != opened.keys).map(|device| device.keys));
    let device = Device {
        id: id.clone(),
        keys: opened.keys,
        past,
        status: Status::Approved,
        nonce: opened.nonce,
        request: request.digest(),
        profile: opened.profile.chars().filter(|c| !c.is_control()).take(64).collect(),
        approved_at: at,
        joined: false,
    };
    book.write(Write::Device(Box::new(device)), fx);
    let settled = book.request_of(&id).filter(|pending| pending.request.digest() == request.digest()).cloned();
    if let Some(pending) = settled {
        book.write(Write::Pending(Pending { settled: true, ..pending }), fx);
    }
    let name = |key: PublicKey| KeyId::of(key.as_bytes());
    let deed = Deed::Approved { device: id.clone(), identity: name(identity), replaced: replaced.map(name) };
    acts::record(book, operator, deed, at, fx)?;
    Ok((id, if replaced.is_some() { Approval::Replaced } else { Approval::Joined }))
}

/// Takes a device out: no more credentials, its grants are withdrawn, its key never comes back. Its audit is still taken.
///
/// # Errors
/// [`FleetError::UnknownDevice`].
pub fn retire(
    book: &mut Book,
    id: &DeviceId,
    reason: &str,
    operator: Operator<'_>,
    at: Timestamp,
    fx: &mut Effects,
) -> Result<(), FleetError> {
    let device = book.device(id).cloned().ok_or_else(|| FleetError::UnknownDevice(id.clone()))?;
    if device.status == Status::Retired {
        return Ok(());
    }
    let reason = acts::text("the reason", reason)?;
    book.write(Write::Device(Box::new(Device { status: Status::Retired, ..device })), fx);
    acts::record(book, operator, Deed::Retired { device: id.clone(), reason }, at, fx)
}

/// The sealed answer to an approved device's request: all that it needs to work, alone from the first minute.
/// `certificate` is its TLS client certificate, DER.
///
/// # Errors
/// [`FleetError::UnknownDevice`], [`FleetError::Retired`], or an unusable sealing key.
pub fn answer(
    book: &Book,
    id: &DeviceId,
    certificate: Vec<u8>,
    service: &SigningKey,
    at: Timestamp,
    rng: &mut (impl RngCore + CryptoRng),
) -> Result<EnrolAnswer, FleetError> {
    let device = book.device(id).ok_or_else(|| FleetError::UnknownDevice(id.clone()))?;
    if device.status == Status::Retired {
        return Err(FleetError::Retired(id.clone()));
    }
    let feed = book.of(book.routes().feed_of(id));
    let bundle = EnrolBundle {
        device: id.clone(),
        identity: device.keys.identity,
        nonce: device.nonce,
        issued_at: at,
        bundles: book.bundles().to_vec(),
        policy: book.policy().0.clone(),
        feeds: feed.in_force().map(|head| (head.signed.clone(), feed.set().to_bytes())).into_iter().collect(),
        grants: book.live_grants(id, at).map(|grant| grant.token.clone()).collect(),
        certificate,
    };
    EnrolAnswer::seal(&bundle, book.fleet(), service, &device.keys.sealing, rng)
        .map_err(FleetError::refused("the device's sealing key"))
}

/// A request that came over the broker: it waits for an operator, who still has to compare the code.
///
/// # Errors
/// What is wrong with it, or that too many wait.
pub(super) fn wait(
    book: &mut Book,
    topic: &DeviceId,
    payload: &[u8],
    at: Timestamp,
    fx: &mut Effects,
) -> Result<(), Refused> {
    let request = Signed::<EnrolRequest>::from_bytes(payload)?;
    let opened = EnrolRequest::open(&request)?;
    if opened.device != *topic {
        return Err(Refused::WrongTopic);
    }
    let known = book.request_of(topic);
    if known.is_some_and(|pending| pending.request.digest() == request.digest()) {
        return Ok(());
    }
    let waits = known.is_some_and(|pending| !pending.settled);
    if !waits && book.pending().count() >= PENDING_MAX {
        return Err(Refused::Malformed("too many devices wait for approval already"));
    }
    let code = EnrolRequest::code(&request);
    book.write(Write::Pending(Pending { device: topic.clone(), request, at, settled: false }), fx);
    fx.log(FleetLog::EnrolPending { device: topic.clone(), code: code.to_string() });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::service::tests::{at, device_keys, founded, request};
    use super::*;
    use crate::agent::effects::Anchor;
    use crate::agent::enrol::{self, Known};
    use crate::ids::BootId;
    use crate::wire::bundle::Fingerprint;

    fn code(request: &Signed<EnrolRequest>) -> Code {
        EnrolRequest::code(request)
    }

    #[test]
    fn an_approved_device_opens_its_answer_with_the_fingerprint() {
        let (keys, mut book) = founded();
        let mut fx = Effects::default();
        let mine = device_keys(1);
        let asked = request("gw-07", &mine, 1);
        let joined = approve(&mut book, &asked, code(&asked), Replace::Keep, keys.operator("ann"), at(10), &mut fx);
        assert_eq!(joined, Ok(("gw-07".parse().unwrap(), Approval::Joined)));
        let mut rng = rand_chacha::rand_core::SeedableRng::from_seed([9; 32]);
        let rng: &mut rand_chacha::ChaCha20Rng = &mut rng;
        let id: DeviceId = "gw-07".parse().unwrap();
        let answer = answer(&book, &id, vec![1], &keys.service, at(10), rng).unwrap();
        let fingerprint: Fingerprint = book.trust().fingerprint().to_string().parse().unwrap();
        let opened = answer.open(&mine, &fingerprint, crate::ids::Nonce([1; 16]));
        let (bundle, trust) = opened.unwrap();
        assert_eq!((bundle.device, trust.version, bundle.feeds.len()), (id, 1, 1));
        assert!(answer.open(&device_keys(2), &fingerprint, crate::ids::Nonce([1; 16])).is_err());
        assert_eq!(
            answer.open(&mine, &fingerprint, crate::ids::Nonce([2; 16])).err(),
            Some(Refused::UnknownNonce),
            "an old answer"
        );
    }

    /// Without a network too: a grant that was made since the newest head was signed has begun.
    #[test]
    fn a_device_that_is_let_in_knows_when_its_answer_was_made() {
        let (keys, mut book) = founded();
        let (mine, id) = (device_keys(1), "gw-07".parse::<DeviceId>().unwrap());
        let asked = request("gw-07", &mine, 1);
        let ann = keys.operator("ann");
        approve(&mut book, &asked, code(&asked), Replace::Keep, ann, at(10), &mut Effects::default()).unwrap();
        let fingerprint: Fingerprint = book.trust().fingerprint().to_string().parse().unwrap();
        let mut rng: rand_chacha::ChaCha20Rng = rand_chacha::rand_core::SeedableRng::from_seed([9; 32]);
        let profile = crate::profile::Profile::default();
        let mut accepted = |made: Timestamp, known: Option<&Anchor>| {
            let answer = answer(&book, &id, vec![1], &keys.service, made, &mut rng).unwrap();
            let known = known.map(|anchor| Known { anchor, files: &[], boot: BootId([1; 16]), boottime: Millis(0) });
            let nonce = crate::ids::Nonce([1; 16]);
            let accepted = enrol::accept(&answer, &mine, &id, &fingerprint, nonce, &profile, known).unwrap();
            *accepted.batch.anchor.unwrap()
        };
        let error = Millis(profile.time.issuer_error_ms);
        let first = accepted(at(600), None);
        assert_eq!((first.floor, first.powered), (at(600) - error, at(600) - error));
        assert_eq!(accepted(at(1200), Some(&first)).floor, at(1200) - error);
        assert_eq!(accepted(at(60), Some(&first)).floor, first.floor, "an old one takes nothing back");
        let ahead = accepted(at(100 * 365 * 86_400), Some(&first)).floor;
        assert_eq!(ahead, first.floor + first.jump_left - error, "no further than one role may go alone");
    }

    #[test]
    fn approval_is_idempotent_and_guards_the_id() {
        let (keys, mut book) = founded();
        let mut fx = Effects::default();
        let first = request("gw-07", &device_keys(1), 1);
        let other = request("gw-07", &device_keys(2), 1);
        let third = request("gw-07", &device_keys(3), 1);
        let mut approve = |book: &mut Book, request: &Signed<EnrolRequest>, code, replace| {
            approve(book, request, code, replace, keys.operator("ann"), at(10), &mut fx).map(|(_, approval)| approval)
        };
        let wrong = approve(&mut book, &first, code(&other), Replace::Keep);
        assert_eq!(wrong, Err(FleetError::WrongCode));
        assert_eq!(approve(&mut book, &first, code(&first), Replace::Keep), Ok(Approval::Joined));
        let acts = book.next_act().0;
        assert_eq!(approve(&mut book, &first, code(&first), Replace::Keep), Ok(Approval::Already));
        assert_eq!(book.next_act().0, acts, "nothing was done, nothing is told");
        let second = approve(&mut book, &other, code(&other), Replace::Keep);
        assert!(matches!(second, Err(FleetError::OtherKey(_))));
        assert_eq!(approve(&mut book, &other, code(&other), Replace::Replace), Ok(Approval::Replaced));
        let back = approve(&mut book, &first, code(&first), Replace::Replace);
        assert!(matches!(back, Err(FleetError::RetiredKey(_))), "the replaced key stays out");
        let id: DeviceId = "gw-07".parse().unwrap();
        retire(&mut book, &id, "broken", keys.operator("ann"), at(11), &mut Effects::default()).unwrap();
        let back = approve(&mut book, &other, code(&other), Replace::Replace);
        assert!(matches!(back, Err(FleetError::RetiredKey(_))), "the retired key stays out");
        assert_eq!(approve(&mut book, &third, code(&third), Replace::Keep), Ok(Approval::Replaced));
    }

    #[test]
    fn a_revoked_id_is_not_enrolled_again() {
        let (keys, mut book) = founded();
        let mut fx = Effects::default();
        let rule = super::super::revoke::Revocation {
            target: Target::Device("gw-07".parse().unwrap()),
            until: None,
            reason: "stolen".into(),
            life: None,
            device: None,
        };
        let asked = request("gw-07", &device_keys(1), 1);
        // Not even by the request that was approved before it was revoked.
        let before = approve(&mut book, &asked, code(&asked), Replace::Keep, keys.operator("ann"), at(4), &mut fx);
        assert_eq!(before.map(|(_, approval)| approval), Ok(Approval::Joined));
        super::super::revoke::revoke(&mut book, rule, keys.operator("ann"), at(5), &mut fx).unwrap();
        let refused = approve(&mut book, &asked, code(&asked), Replace::Keep, keys.operator("ann"), at(10), &mut fx);
        assert!(matches!(refused, Err(FleetError::DeviceRevoked(_))));
        let asked = request("gw-07", &device_keys(2), 2);
        let other = approve(&mut book, &asked, code(&asked), Replace::Replace, keys.operator("ann"), at(10), &mut fx);
        assert!(matches!(other, Err(FleetError::DeviceRevoked(_))), "nor with another key");
        let asked = request("gw-08", &device_keys(3), 1);
        super::covered::tests::declared(&mut book, &Target::Device("gw-08".parse().unwrap()), at(10));
        let refused = approve(&mut book, &asked, code(&asked), Replace::Keep, keys.operator("ann"), at(11), &mut fx);
        assert!(refused.is_err_and(|error| error.to_string().contains("by emergency key")));
    }

    #[test]
    fn nobody_is_approved_while_an_emergency_key_has_revoked_everything() {
        let (keys, mut book) = founded();
        let ends = super::covered::tests::declared(&mut book, &Target::All, at(10));
        let asked = request("gw-08", &device_keys(3), 1);
        let mut approved = |when| {
            approve(&mut book, &asked, code(&asked), Replace::Keep, keys.operator("ann"), when, &mut Effects::default())
        };
        assert!(matches!(approved(at(11)), Err(FleetError::DeviceRevoked(_))));
        assert!(approved(ends + crate::time::Millis(1)).is_ok());
    }

    #[test]
    fn requests_over_the_broker_wait_within_a_bound() {
        let (_, mut book) = founded();
        let mut fx = Effects::default();
        for n in 0..PENDING_MAX {
            let name = format!("gw-{n}");
            let asked = request(&name, &device_keys(1), 1).to_bytes();
            wait(&mut book, &name.parse().unwrap(), &asked, at(1), &mut fx).unwrap();
        }
        let one_more = request("gw-more", &device_keys(1), 1).to_bytes();
        assert!(wait(&mut book, &"gw-more".parse().unwrap(), &one_more, at(1), &mut fx).is_err());
        assert_eq!(wait(&mut book, &"gw-1".parse().unwrap(), &one_more, at(1), &mut fx), Err(Refused::WrongTopic));
        assert!(wait(&mut book, &"gw-1".parse().unwrap(), b"junk", at(1), &mut fx).is_err());
        assert_eq!(book.pending().count(), PENDING_MAX);
    }
}
