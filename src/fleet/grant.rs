//! Fallback grants: what a device may do alone.
//!
//! Owns: minting, renewing and withdrawing them.
//! Never: mints one that is revoked from birth; sends one; `issue.rs` seals them to the device that asks.
//! Read next: `issue.rs`.

use rand_core::{CryptoRng, RngCore};

use super::acts::{self, Deed};
use super::book::{Book, Device, Grant, Renewal, Status, Write};
use super::keys::{Issuer, ISSUED_EARLIER};
use super::{covered, Effects, FleetError, FleetLog, Operator};
use crate::agent::attest::forms;
use crate::ids::{DeviceId, FeedId, GrantId, RiskClass, TaskClass};
use crate::time::{Millis, Timestamp};
use crate::wire::link::Spent;
use crate::wire::policy::TimeClass;
use crate::wire::revocation::Target;
use crate::wire::token::{self, ClassRight, GrantSpec, Held, RESERVED};

/// The most grants that a device holds at once: profiles have room for no more.
pub const GRANTS_MAX: usize = 16;
/// The most bytes of a grant: a device admits no larger token, and its children must still fit.
pub const GRANT_BYTES_MAX: usize = 2560;
/// The most bytes of all grants of a device together: they travel in one sealed answer.
const WALLET_BYTES_MAX: usize = 28 * 1024;
/// The most selectors, rights and bounds of a grant: devices admit no more facts, and a task's labels must still fit.
pub(super) const LINES_MAX: usize = 48;

/// What an operator grants.
#[derive(Clone, PartialEq, Debug)]
pub struct NewGrant {
    /// The device.
    pub device: DeviceId,
    /// Who answers for it.
    pub owner: String,
    /// How long it lives.
    pub life: Millis,
    /// Who may begin which class of task.
    pub may_begin: Vec<(String, TaskClass)>,
    /// For whom planners of a class of task may take steps.
    pub may_step: Vec<(String, TaskClass)>,
    /// What those tasks may do.
    pub rights: Vec<ClassRight>,
    /// Longest time offline.
    pub offline_max: Millis,
    /// Uses.
    pub uses_max: u64,
    /// Boots while offline.
    pub boots_max: u32,
    /// Longest life of a task.
    pub task_ttl_max: Millis,
    /// Oldest revocation list per class of risk.
    pub staleness_max: Vec<(RiskClass, Millis)>,
    /// The least strict time class that it may be judged under.
    pub min_time_class: Option<TimeClass>,
    /// Whether the device gets successors.
    pub renewal: Renewal,
}

/// Mints a grant. The device takes it the next time that it is in touch.
///
/// # Errors
/// [`FleetError::UnknownDevice`], [`FleetError::Retired`], [`FleetError::Revoked`], [`FleetError::Invalid`], or what is wrong with
/// a right.
pub fn create(
    book: &mut Book,
    new: NewGrant,
    issuer: &Issuer,
    operator: Operator<'_>,
    at: Timestamp,
    rng: &mut (impl RngCore + CryptoRng),
    fx: &mut Effects,
) -> Result<GrantId, FleetError> {
    check(book, &new, at)?;
    issuer.check(book.trust())?;
    let mut id = GrantId([0; 16]);
    rng.fill_bytes(&mut id.0);
    let feed = feed_to_name(book, &new.device);
    let spec = GrantSpec {
        fleet: book.fleet().clone(),
        grant: id,
        device: new.device,
        owner: acts::text("the owner", &new.owner)?,
        feed: Some(feed),
        issued: at - ISSUED_EARLIER,
        expires: at + new.life,
        may_begin: new.may_begin,
        may_step: new.may_step,
        rights: new.rights,
        offline_max: new.offline_max,
        uses_max: new.uses_max,
        boots_max: new.boots_max,
        task_ttl_max: new.task_ttl_max,
        staleness_max: new.staleness_max,
        min_time_class: new.min_time_class,
    };
    refuse_revoked(book, &spec, issuer, at)?;
    let malformed = FleetError::refused("the grant");
    let token = token::mint_grant(&spec, &issuer.key, issuer.root_key_id, rng).map_err(malformed)?;
    if token.len() > GRANT_BYTES_MAX {
        let message = format!(
            "the grant has {} bytes, devices admit {GRANT_BYTES_MAX}: use prefixes (`modbus/*`), or several grants",
            token.len()
        );
        return Err(FleetError::Invalid(message));
    }
    let held: usize = book.live_grants(&spec.device, at).map(|grant| grant.token.len()).sum();
    if held + token.len() > WALLET_BYTES_MAX {
        return Err(FleetError::Invalid(
            "the device's grants together are too large for one answer: withdraw one".into(),
        ));
    }
    let block = first_block(&token)?;
    let (device, owner, expires) = (spec.device.clone(), spec.owner.clone(), spec.expires);
    let grant = Grant { spec, root_key_id: issuer.root_key_id, token, block, withdrawn: None, renewal: new.renewal };
    book.write(Write::Grant(Box::new(grant)), fx);
    acts::record(book, operator, Deed::Granted { grant: id, device, owner, block, expires }, at, fx)?;
    Ok(id)
}

fn check(book: &Book, new: &NewGrant, at: Timestamp) -> Result<(), FleetError> {
    let invalid = |text: &str| Err(FleetError::Argument(text.to_owned()));
    let device = book.device(&new.device).ok_or_else(|| FleetError::UnknownDevice(new.device.clone()))?;
    if device.status == Status::Retired {
        return Err(FleetError::Retired(new.device.clone()));
    }
    if book.live_grants(&new.device, at).count() >= GRANTS_MAX {
        let message = "the device holds 16 grants already, which is all it has room for: withdraw one first";
        return Err(FleetError::Invalid(message.into()));
    }
    if new.may_begin.is_empty() || new.rights.is_empty() {
        return invalid("a grant needs at least one --may-begin SELECTOR=CLASS and one --right CLASS:ACTION:RESOURCE");
    }
    let begin = new.may_begin.iter().map(|(selector, _)| ("--may-begin", forms::form(selector)));
    let step = new.may_step.iter().map(|(selector, _)| ("--may-step", forms::executor(selector)));
    for (named, fits) in begin.chain(step) {
        fits.map_err(|why| FleetError::Argument(format!("{named}: {why}")))?;
    }
    if new.may_begin.len() + new.may_step.len() + new.rights.len() + new.staleness_max.len() > LINES_MAX {
        return invalid(
            "a grant has at most 48 selectors, rights and staleness bounds: use prefixes, or several grants",
        );
    }
    if let Some(idle) = new.rights.iter().find(|right| !new.may_begin.iter().any(|(_, class)| *class == right.class)) {
        return Err(FleetError::Argument(format!(
            "nobody may begin a task of class {}: add a --may-begin",
            idle.class
        )));
    }
    if let Some((selector, class)) =
        new.may_step.iter().find(|(_, class)| !new.may_begin.iter().any(|(_, begun)| begun == class))
    {
        return Err(FleetError::Argument(format!(
            "nobody may begin a task of class {class}, of which {selector} is to be given steps: add a --may-begin"
        )));
    }
    if new.rights.iter().any(|right| right.right.action.starts_with(RESERVED)) {
        return invalid("actions that begin with `hardtack:` are the agent's own and cannot be granted");
    }
    let zero = Millis::default();
    if new.life.secs() == 0 || new.task_ttl_max.secs() == 0 || new.offline_max == zero || new.uses_max == 0 {
        return invalid("a grant's life, offline time, task life and uses must all be above zero");
    }
    if at + new.life >= Timestamp::MAX {
        return invalid("the grant would end after the year 9999");
    }
    Ok(())
}

/// Mints successors of a device's grants where half of their life or uses is gone. The device drops the old ones once the
/// successors are durable; nothing that was begun under them ends.
///
/// # Errors
/// A successor that cannot be minted, though the grant before it could.
pub(super) fn renew(
    book: &mut Book,
    device: &Device,
    spent: &[Spent],
    issuer: &Issuer,
    at: Timestamp,
    rng: &mut (impl RngCore + CryptoRng),
    fx: &mut Effects,
) -> Result<(), FleetError> {
    let due: Vec<Grant> = book
        .live_grants(&device.id, at)
        .filter(|grant| spent.iter().any(|spent| spent.grant == grant.spec.grant && is_due(grant, spent.used, at)))
        .cloned()
        .collect();
    succeed_all(book, device, due, (issuer, at), rng, fx)
}

/// A device has said that it holds its feed: those of its grants that name another get successors that name this one. Until
/// then they stay as they are and are good, for it keeps what it had of the feed that they name; a successor would be of a
/// feed that it may not hold yet, and would lose it its grants if the link broke now. One that is not renewed goes on to its
/// end naming the old feed.
///
/// # Errors
/// A successor that cannot be minted, though the grant before it could.
pub(super) fn follow_feed(
    book: &mut Book,
    device: &Device,
    issuer: &Issuer,
    at: Timestamp,
    rng: &mut (impl RngCore + CryptoRng),
    fx: &mut Effects,
) -> Result<(), FleetError> {
    let feed = Some(feed_to_name(book, &device.id));
    let others = |grant: &&Grant| grant.renewal == Renewal::Automatic && grant.spec.feed != feed;
    let behind: Vec<Grant> = book.live_grants(&device.id, at).filter(others).cloned().collect();
    succeed_all(book, device, behind, (issuer, at), rng, fx)
}

/// The feed that tokens for a device name: its own, once it has said that it holds that; the newest that it has named
/// otherwise, which it keeps after it was moved. One that was never heard of is enrolled with its own.
pub(super) fn feed_to_name(book: &Book, device: &DeviceId) -> FeedId {
    let own = book.routes().feed_of(device);
    let held = book.seen(device).map_or(&[][..], |seen| &seen.feeds);
    let holds = held.is_empty() || held.iter().any(|position| position.feed == *own);
    held.last().filter(|_| !holds).map_or(own, |position| &position.feed).clone()
}

/// One that gets no successor keeps no other from its own.
fn succeed_all(
    book: &mut Book,
    device: &Device,
    grants: Vec<Grant>,
    by: (&Issuer, Timestamp),
    rng: &mut (impl RngCore + CryptoRng),
    fx: &mut Effects,
) -> Result<(), FleetError> {
    let mut done = Ok(());
    for old in grants {
        done = done.and(succeed(book, device, old, by, rng, fx));
    }
    done
}

/// A grant that a revocation covers from birth is not minted: whoever asks for it would count on it in vain.
fn refuse_revoked(book: &Book, spec: &GrantSpec, issuer: &Issuer, at: Timestamp) -> Result<(), FleetError> {
    let targets = [
        Target::All,
        Target::Device(spec.device.clone()),
        Target::Owner(spec.owner.clone()),
        Target::RootKey(issuer.root_key_id),
    ];
    covered::covered(book, &targets, Some(spec.issued), at).map_or(Ok(()), |covered| Err(FleetError::Revoked(covered)))
}

fn succeed(
    book: &mut Book,
    device: &Device,
    old: Grant,
    (issuer, at): (&Issuer, Timestamp),
    rng: &mut (impl RngCore + CryptoRng),
    fx: &mut Effects,
) -> Result<(), FleetError> {
    issuer.check(book.trust())?;
    let mut id = GrantId([0; 16]);
    rng.fill_bytes(&mut id.0);
    let feed = Some(feed_to_name(book, &device.id));
    let life = old.spec.expires.since(old.spec.issued + ISSUED_EARLIER);
    let spec = GrantSpec { grant: id, feed, issued: at - ISSUED_EARLIER, expires: at + life, ..old.spec.clone() };
    refuse_revoked(book, &spec, issuer, at)?;
    let malformed = FleetError::refused("the grant's successor");
    let token = token::mint_grant(&spec, &issuer.key, issuer.root_key_id, rng).map_err(malformed)?;
    let block = first_block(&token)?;
    fx.log(FleetLog::GrantRenewed { device: device.id.clone(), grant: old.spec.grant, successor: id });
    let successor =
        Grant { spec, root_key_id: issuer.root_key_id, token, block, withdrawn: None, renewal: old.renewal };
    book.write(Write::Grant(Box::new(successor)), fx);
    book.write(Write::Grant(Box::new(Grant { withdrawn: Some(at), ..old })), fx);
    Ok(())
}

/// A device that says more than it spent gains nothing but a successor earlier, and not one after the other.
fn is_due(grant: &Grant, used: u64, at: Timestamp) -> bool {
    let life = grant.spec.expires.since(grant.spec.issued);
    let age = at.since(grant.spec.issued);
    let half = age.0 >= life.0 / 2 || used >= grant.spec.uses_max.div_ceil(2);
    grant.renewal == Renewal::Automatic && half && age.0 >= life.0 / 64
}

/// Takes a grant out of its device's wallet, as soon as the device is in touch. What was begun under it is not revoked;
/// `fleet revoke grant` does that.
///
/// # Errors
/// [`FleetError::UnknownGrant`].
pub fn withdraw(
    book: &mut Book,
    id: &GrantId,
    reason: &str,
    operator: Operator<'_>,
    at: Timestamp,
    fx: &mut Effects,
) -> Result<(), FleetError> {
    let grant = book.grant(id).cloned().ok_or(FleetError::UnknownGrant(*id))?;
    if grant.withdrawn.is_some() {
        return Ok(());
    }
    let reason = acts::text("the reason", reason)?;
    book.write(Write::Grant(Box::new(Grant { withdrawn: Some(at), ..grant })), fx);
    acts::record(book, operator, Deed::Withdrawn { grant: *id, reason }, at, fx)
}

/// The id of a fresh token's only block.
pub(super) fn first_block(token: &[u8]) -> Result<crate::ids::BlockId, FleetError> {
    let held = Held::from_bytes(token).map_err(FleetError::refused("the minted token"))?;
    let chain = held.chain();
    chain.first().copied().ok_or_else(|| FleetError::Invalid("the minted token has no block".into()))
}

#[cfg(test)]
mod tests {
    use super::super::covered::tests::declared;
    use super::super::revoke::{revoke, Revocation};
    use super::super::service::tests::{at, new_grant, one_device};
    use super::super::FleetKeys;
    use super::*;
    use rand_chacha::ChaCha20Rng;

    #[test]
    fn a_grant_is_live_until_it_ends_or_is_withdrawn() {
        let (keys, book, _, rng) = &mut one_device();
        let fx = &mut Effects::default();
        let ann = keys.operator("ann");
        let gw: DeviceId = "gw-07".parse().unwrap();
        let id = create(book, new_grant(), &keys.issuer, ann, at(100), rng, fx).unwrap();
        let with = book.live_grants_digest(&gw, at(101));
        assert_eq!(book.live_grants(&gw, at(101)).count(), 1);
        assert_eq!(book.live_grants(&gw, at(100 + 86_400)).count(), 0, "it has ended");
        withdraw(book, &id, "moved", ann, at(200), fx).unwrap();
        withdraw(book, &id, "moved", ann, at(201), fx).unwrap();
        assert_ne!(book.live_grants_digest(&gw, at(201)), with);
        let unknown = withdraw(book, &GrantId([0; 16]), "x", ann, at(1), fx);
        assert!(matches!(unknown, Err(FleetError::UnknownGrant(_))));
    }

    /// Rights of a grant that comes near its limit of bytes.
    fn large(rights: usize) -> NewGrant {
        let mut new = new_grant();
        let right = new.rights[0].clone();
        new.rights = (0..rights)
            .map(|n| {
                let mut right = right.clone();
                right.right.resource = format!("some/rather/long/path/of/a/plant/number/{n:02}");
                right
            })
            .collect();
        new
    }

    /// As much as one device gets: grants that become smaller once no larger one fits.
    fn filled(keys: &FleetKeys, book: &mut Book, rng: &mut ChaCha20Rng) {
        let (ann, fx) = (keys.operator("ann"), &mut Effects::default());
        for rights in (1..=40).rev() {
            while create(book, large(rights), &keys.issuer, ann, at(100), rng, fx).is_ok() {}
        }
    }

    fn bytes(book: &Book, now: Timestamp) -> (usize, usize) {
        let gw = "gw-07".parse().unwrap();
        let sizes: Vec<usize> = book.live_grants(&gw, now).map(|grant| grant.token.len()).collect();
        (sizes.len(), sizes.iter().sum())
    }

    #[test]
    fn renewals_need_no_more_room_than_what_they_replace() {
        let (keys, book, _, rng) = &mut one_device();
        filled(keys, book, rng);
        let before = bytes(book, at(101));
        assert!(before.1 > WALLET_BYTES_MAX - 1024, "{before:?}");
        let half = at(100 + 43_200);
        let device = book.device(&"gw-07".parse().unwrap()).unwrap().clone();
        let spent: Vec<Spent> =
            book.live_grants(&device.id, half).map(|grant| Spent { grant: grant.spec.grant, used: 0 }).collect();
        renew(book, &device, &spent, &keys.issuer, half, rng, &mut Effects::default()).unwrap();
        assert_eq!(bytes(book, half), before);
        assert_eq!(bytes(book, at(100 + 86_401)), before, "all of them are successors");
    }

    /// Each of these is the only revocation in force, by the feed or by an emergency key.
    #[test]
    fn what_is_revoked_from_birth_is_neither_made_nor_renewed() {
        for target in [
            Target::All,
            Target::Device("gw-07".parse().unwrap()),
            Target::Owner("ops@acme".into()),
            Target::RootKey(1),
            Target::IssuedBefore(at(100)),
        ] {
            for by_key in [false, true] {
                let (keys, book, _, rng) = &mut one_device();
                let (ann, fx) = (keys.operator("ann"), &mut Effects::default());
                let id = create(book, new_grant(), &keys.issuer, ann, at(40), rng, fx).unwrap();
                let until = if by_key {
                    declared(book, &target, at(100))
                } else {
                    let rule = Revocation {
                        target: target.clone(),
                        until: None,
                        reason: "r".into(),
                        life: None,
                        device: None,
                    };
                    revoke(book, rule, ann, at(100), fx).unwrap().until
                };
                let refused = create(book, new_grant(), &keys.issuer, ann, at(101), rng, fx).unwrap_err();
                let told = refused.to_string();
                assert!(told.contains(&format!("is revoked until {until}")), "{told}");
                assert_eq!(told.contains("by emergency key"), by_key, "{told}");
                let device = book.device(&"gw-07".parse().unwrap()).unwrap().clone();
                let grants = book.grants().count();
                let late = if matches!(target, Target::IssuedBefore(_)) { at(101) } else { at(43_300) };
                let old = book.grant(&id).unwrap().clone();
                let renewed = succeed_all(book, &device, vec![old], (&keys.issuer, late), rng, fx);
                assert!(matches!(renewed, Err(FleetError::Revoked(_))), "{target:?}");
                assert_eq!(book.grants().count(), grants);
                assert!(create(book, new_grant(), &keys.issuer, ann, until + Millis::from_secs(1), rng, fx).is_ok());
            }
        }
    }

    #[test]
    fn a_grant_that_is_not_renewed_keeps_no_other_from_it() {
        let (keys, book, _, rng) = &mut one_device();
        let (ann, fx) = (keys.operator("ann"), &mut Effects::default());
        let mut made = |book: &mut Book, owner: &str| {
            let new = NewGrant { owner: owner.into(), ..new_grant() };
            create(book, new, &keys.issuer, ann, at(40), rng, fx).unwrap()
        };
        let mut ids = [made(book, "ops@acme"), made(book, "other@acme")];
        declared(book, &Target::Owner("other@acme".into()), at(100));
        let device = book.device(&"gw-07".parse().unwrap()).unwrap().clone();
        for _ in 0..2 {
            let before = book.grants().count();
            let olds = ids.iter().map(|id| book.grant(id).unwrap().clone()).collect();
            let renewed = succeed_all(book, &device, olds, (&keys.issuer, at(200)), rng, fx);
            assert!(matches!(renewed, Err(FleetError::Revoked(_))));
            assert_eq!(book.grants().count(), before + 1, "in whichever order they come");
            ids.reverse();
        }
    }

    #[test]
    fn grants_that_no_device_could_use_are_refused() {
        check_refused("no right", |new| new.rights.clear());
        check_refused("no selector", |new| new.may_begin.clear());
        check_refused("idle class", |new| new.may_begin[0].1 = "other".parse().unwrap());
        check_refused("steps of a class that nobody may begin", |new| {
            new.may_step = vec![("unix:uid:2002".into(), "other".parse().unwrap())];
        });
        check_refused("a selector that nobody can have", |new| new.may_begin[0].0 = "uid:1001".into());
        for selector in ["systemd:id:valve", "oidc:sub:https://id.example#ann", "unix:gid:1001"] {
            check_refused(selector, |new| new.may_step = vec![(selector.into(), new.may_begin[0].1.clone())]);
        }
        check_refused("reserved action", |new| new.rights[0].right.action = "hardtack:exchange".into());
        check_refused("resource", |new| new.rights[0].right.resource = "a//b".into());
        check_refused("no uses", |new| new.uses_max = 0);
        check_refused("owner", |new| new.owner = "\n".into());
        check_refused("unknown device", |new| new.device = "gw-99".parse().unwrap());
        check_refused("endless", |new| new.life = Millis(u64::MAX));
        check_refused("huge", |new| {
            let right = new.rights[0].clone();
            new.rights = (0..200)
                .map(|n| {
                    let mut right = right.clone();
                    right.right.resource = format!("some/rather/long/path/number/{n}");
                    right
                })
                .collect();
        });
    }

    #[track_caller]
    fn check_refused(what: &str, edit: impl FnOnce(&mut NewGrant)) {
        let (keys, mut book, _, mut rng) = one_device();
        let mut new = new_grant();
        edit(&mut new);
        let mut fx = Effects::default();
        let made = create(&mut book, new, &keys.issuer, keys.operator("ann"), at(100), &mut rng, &mut fx);
        assert!(made.is_err(), "{what}");
        assert!(!fx.has_writes(), "{what}: a refusal writes nothing");
    }
}
