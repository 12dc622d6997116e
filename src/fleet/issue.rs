//! Just-in-time task tokens, and what a device's requests are answered.
//!
//! Owns: whether a live grant covers a task, the limits of what is minted, the sealed answer.
//! Never: mints what no live grant covers; answers a device that is not approved.
//! Read next: `service.rs`, which calls it.

use rand_core::{CryptoRng, RngCore};

use super::acts::{self, Deed};
use super::book::{Book, Device, Grant, Issued, Serials, Status, Write};
use super::grant::{self, first_block};
use super::keys::{Issuer, ISSUED_EARLIER};
use super::{Effects, FleetError, FleetLog, Operator};
use crate::ids::DeviceId;
use crate::time::{Millis, Timestamp};
use crate::wire::link::{Ask, Reply, Request, Right, TaskAsk};
use crate::wire::revocation::Target;
use crate::wire::token::{self, covered, TaskSpec, RESERVED, RIGHTS_MAX};

/// The most selectors that a request may name.
const SELECTORS_MAX: usize = 32;

/// What the issuer adds of its own.
#[derive(Clone, Copy)]
pub struct Minting<'a> {
    /// The key.
    pub issuer: &'a Issuer,
    /// No task token lives longer.
    pub ttl_max: Millis,
    /// The present time.
    pub at: Timestamp,
}

/// Answers a request whose signature was checked. A refusal is final and says what to do.
pub(super) fn answer(
    book: &mut Book,
    device: &Device,
    request: &Request,
    minting: Minting<'_>,
    rng: &mut (impl RngCore + CryptoRng),
    fx: &mut Effects,
) -> Reply {
    let id = &device.id;
    if device.status == Status::Retired {
        return Reply::Refused(format!("device {id} is retired: an operator has to approve it anew"));
    }
    match &request.ask {
        Ask::Grants | Ask::Renew(_) => {
            if let Ask::Renew(spent) = &request.ask {
                if let Err(error) = grant::renew(book, device, spent, minting.issuer, minting.at, rng, fx) {
                    // The old one is still good: it is what the device goes on with.
                    fx.log(FleetLog::GrantNotRenewed { device: id.clone(), reason: error.to_string() });
                }
            }
            let tokens: Vec<Vec<u8>> = book.live_grants(id, minting.at).map(|grant| grant.token.clone()).collect();
            fx.log(FleetLog::GrantsAnswered { device: id.clone(), count: tokens.len() as u64 });
            Reply::Grants(tokens)
        }
        Ask::Task(ask) => match mint(book, id, ask, minting, rng, fx) {
            Ok((token, issued)) => {
                fx.log(FleetLog::TaskIssued { device: id.clone(), task: issued.task, grant: issued.grant });
                Reply::Task(token)
            }
            Err(reason) => {
                let reason = reason.to_string();
                fx.log(FleetLog::TaskRefused { device: id.clone(), task: ask.task.clone(), reason: reason.clone() });
                Reply::Refused(reason)
            }
        },
    }
}

/// Mints a task token for an operator, who is bound by the device's grants as the device itself is.
///
/// # Errors
/// Why no grant covers it.
pub fn issue(
    book: &mut Book,
    device: &DeviceId,
    ask: &TaskAsk,
    minting: Minting<'_>,
    operator: Operator<'_>,
    rng: &mut (impl RngCore + CryptoRng),
    fx: &mut Effects,
) -> Result<(Vec<u8>, Issued), FleetError> {
    match book.device(device) {
        None => return Err(FleetError::UnknownDevice(device.clone())),
        Some(known) if known.status == Status::Retired => return Err(FleetError::Retired(device.clone())),
        Some(_) => {}
    }
    let (token, issued) = mint(book, device, ask, minting, rng, fx)?;
    let Issued { task, device, grant, block, expires, .. } = issued.clone();
    acts::record(book, operator, Deed::Issued { task, device, grant, block, expires }, minting.at, fx)?;
    Ok((token, issued))
}

fn mint(
    book: &mut Book,
    device: &DeviceId,
    ask: &TaskAsk,
    minting: Minting<'_>,
    rng: &mut (impl RngCore + CryptoRng),
    fx: &mut Effects,
) -> Result<(Vec<u8>, Issued), FleetError> {
    check(ask)?;
    minting.issuer.check(book.trust())?;
    let grant = covering(book, device, ask, minting.at)?;
    let at = minting.at;
    let life = ask.ttl_ms.min(minting.ttl_max).min(grant.spec.task_ttl_max);
    let mut spec = TaskSpec {
        fleet: book.fleet().clone(),
        grant: grant.spec.grant,
        device: device.clone(),
        owner: grant.spec.owner.clone(),
        feed: Some(grant::feed_to_name(book, device)),
        task: ask.task.clone(),
        issued: at - ISSUED_EARLIER,
        expires: (at + life).min(grant.spec.expires),
        serial: None,
        rights: ask.rights.clone(),
        uses_max: ask.uses.map(|uses| uses.min(grant.spec.uses_max)),
        min_time_class: grant.spec.min_time_class,
    };
    refuse_revoked(book, device, &spec, grant, minting)?;
    let slot = TaskSpec::slot(spec.issued, spec.expires);
    spec.serial = book.next_serial(slot);
    let malformed = FleetError::refused("the task");
    let token = token::mint_task(&spec, &minting.issuer.key, minting.issuer.root_key_id, rng).map_err(malformed)?;
    let block = first_block(&token)?;
    let TaskSpec { task, device, grant, expires, serial, .. } = spec;
    let issued = Issued { task, device, grant, block, at, expires, serial };
    if let Some(serial) = serial {
        book.write(Write::Serials(Serials { slot, issued: serial + 1 }), fx);
    }
    book.write(Write::Issued(issued.clone()), fx);
    Ok((token, issued))
}

fn check(ask: &TaskAsk) -> Result<(), FleetError> {
    let invalid = |text: &str| Err(FleetError::Argument(text.to_owned()));
    if ask.rights.is_empty() || ask.rights.len() > RIGHTS_MAX {
        return invalid("a task asks for 1 to 32 rights");
    }
    if ask.selectors.is_empty() || ask.selectors.len() > SELECTORS_MAX {
        return invalid("a task names 1 to 32 selectors of its workload");
    }
    if ask.rights.iter().any(|right| right.action.starts_with(RESERVED)) {
        return invalid("actions that begin with `hardtack:` are the agent's own");
    }
    if ask.ttl_ms.secs() == 0 || ask.uses == Some(0) {
        return invalid("a task lives for at least a second and has at least one use");
    }
    Ok(())
}

/// The live grant of the device that covers all that is asked, the longest-lived of several.
fn covering<'b>(book: &'b Book, device: &'b DeviceId, ask: &TaskAsk, at: Timestamp) -> Result<&'b Grant, FleetError> {
    let live: Vec<&Grant> = book.live_grants(device, at).filter(|grant| !is_revoked(book, grant, at)).collect();
    let begins = |grant: &&Grant| {
        let may_begin = &grant.spec.may_begin;
        may_begin.iter().any(|(selector, class)| *class == ask.class && ask.selectors.contains(selector))
    };
    if live.is_empty() {
        return Err(FleetError::Invalid(format!("device {device} has no live grant: an operator has to create one")));
    }
    if !live.iter().any(begins) {
        let message = format!("no live grant lets this workload begin a task of class {}: ask for another class, or have an operator grant it", ask.class);
        return Err(FleetError::Invalid(message));
    }
    let covers = |grant: &&Grant| ask.rights.iter().all(|right| covers_right(grant, ask, right));
    let longest = live.into_iter().filter(begins).filter(covers).max_by_key(|grant| grant.spec.expires);
    longest.ok_or_else(|| {
        let message = format!(
            "no live grant covers every right asked for in class {}: ask for less, or have an operator grant it",
            ask.class
        );
        FleetError::Invalid(message)
    })
}

fn covers_right(grant: &Grant, ask: &TaskAsk, right: &Right) -> bool {
    let held = grant.spec.rights.iter().filter(|held| held.class == ask.class).map(|held| &held.right);
    covered(right, held)
}

fn is_revoked(book: &Book, grant: &Grant, at: Timestamp) -> bool {
    let targets = [Target::Block(grant.block), Target::RootKey(grant.root_key_id)];
    targets.iter().any(|target| book.live_rule(target, at).is_some()) || issued_before(book, grant.spec.issued, at)
}

fn issued_before(book: &Book, issued: Timestamp, at: Timestamp) -> bool {
    let mut live = book.rules().filter(|rule| rule.until >= at);
    live.any(|rule| matches!(rule.target, Target::IssuedBefore(before) if issued < before))
}

/// A token that a rule covers from birth is not minted: the refusal says more than a denial would.
fn refuse_revoked(
    book: &Book,
    device: &DeviceId,
    spec: &TaskSpec,
    grant: &Grant,
    minting: Minting<'_>,
) -> Result<(), FleetError> {
    let mut targets = vec![
        Target::All,
        Target::Device(device.clone()),
        Target::Grant(grant.spec.grant),
        Target::Owner(spec.owner.clone()),
        Target::RootKey(minting.issuer.root_key_id),
        Target::Task(spec.task.clone()),
    ];
    let groups = book.trust().groups.iter().filter(|(_, members)| members.contains(device));
    targets.extend(groups.map(|(group, _)| Target::Group(group.clone())));
    let rule = targets.iter().find_map(|target| book.live_rule(target, minting.at));
    if rule.is_some() || issued_before(book, spec.issued, minting.at) {
        let until = rule.map_or_else(String::new, |rule| format!(" until {}", rule.until));
        return Err(FleetError::Invalid(format!("what was asked for is revoked{until}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::book::Restored;
    use super::super::revoke::{life_of, revoke, Revocation};
    use super::super::service::tests::{ask, at, new_grant, one_device};
    use super::*;
    use crate::fleet::grant;
    use crate::profile::Profile;
    use crate::wire::biscuit::decode;

    fn try_mint(edit: impl FnOnce(&mut TaskAsk), rule: Option<Target>) -> Result<Issued, FleetError> {
        let (keys, mut book, _, mut rng) = one_device();
        let mut fx = Effects::default();
        let ann = keys.operator("ann");
        grant::create(&mut book, new_grant(), &keys.issuer, ann, at(100), &mut rng, &mut fx)?;
        if let Some(target) = rule {
            let rule = Revocation { target, until: None, reason: "test".into(), life: None, device: None };
            revoke(&mut book, rule, ann, at(101), &mut fx)?;
        }
        let mut ask = ask();
        edit(&mut ask);
        let minting = Minting { issuer: &keys.issuer, ttl_max: Millis::from_secs(600), at: at(102) };
        let gw: DeviceId = "gw-07".parse().unwrap();
        issue(&mut book, &gw, &ask, minting, ann, &mut rng, &mut fx).map(|(_, issued)| issued)
    }

    #[track_caller]
    fn check_refused(edit: impl FnOnce(&mut TaskAsk)) {
        assert!(try_mint(edit, None).is_err());
    }

    #[test]
    fn what_no_grant_covers_is_not_minted() {
        assert!(try_mint(|_| {}, None).is_ok());
        check_refused(|ask| ask.class = "valve".parse().unwrap());
        check_refused(|ask| ask.selectors = vec!["unix:uid:0".into()]);
        check_refused(|ask| ask.selectors.clear());
        check_refused(|ask| ask.rights.clear());
        check_refused(|ask| ask.rights[0].resource = "modbus/pump2/speed".into());
        check_refused(|ask| ask.rights[0].resource = "modbus/*".into());
        check_refused(|ask| ask.rights[0].resource = "modbus/../x".into());
        check_refused(|ask| ask.rights[0].action = "erase".into());
        check_refused(|ask| ask.rights[0].action = "hardtack:exchange".into());
        check_refused(|ask| ask.ttl_ms = Millis(0));
        check_refused(|ask| ask.uses = Some(0));
    }

    #[test]
    fn what_is_asked_is_clipped_to_grant_and_issuer() {
        let long = try_mint(|ask| ask.ttl_ms = Millis(u64::MAX), None).unwrap();
        assert_eq!(long.expires, at(102 + 600), "the issuer's bound is the lowest here");
        let short = try_mint(|ask| ask.ttl_ms = Millis::from_secs(5), None).unwrap();
        assert_eq!(short.expires, at(107));
    }

    #[test]
    fn what_is_revoked_is_not_minted() {
        for target in [
            Target::All,
            Target::Device("gw-07".parse().unwrap()),
            Target::Owner("ops@acme".into()),
            Target::RootKey(1),
            Target::Task("t-1".parse().unwrap()),
            Target::IssuedBefore(at(101)),
        ] {
            assert!(try_mint(|_| {}, Some(target.clone())).is_err(), "{target:?}");
        }
        assert!(try_mint(|_| {}, Some(Target::Task("t-2".parse().unwrap()))).is_ok());
        assert!(try_mint(|_| {}, Some(Target::IssuedBefore(at(50)))).is_ok());
    }
    #[test]
    fn tokens_of_one_slot_are_numbered_without_a_hole() {
        let (keys, mut book, _, mut rng) = one_device();
        let fx = &mut Effects::default();
        let ann = keys.operator("ann");
        grant::create(&mut book, new_grant(), &keys.issuer, ann, at(100), &mut rng, fx).unwrap();
        let mut mint = |book: &mut Book, secs: u64| {
            let minting = Minting { issuer: &keys.issuer, ttl_max: Millis::from_secs(600), at: at(secs) };
            let (token, issued) = mint(book, &"gw-07".parse().unwrap(), &ask(), minting, &mut rng, fx).unwrap();
            let token = decode(&token, &Profile::default().verify).unwrap();
            // The token itself says what the ledger has of it.
            assert_eq!(life_of(&token, &issued.block).map(|life| (life.slot(), life.serial)), {
                Some((issued.life().slot(), issued.serial))
            });
            (issued.life().slot(), issued.serial)
        };
        let first: Vec<_> = (0..3).map(|n| mint(&mut book, 102 + n)).collect();
        assert_eq!(first.iter().map(|(_, serial)| *serial).collect::<Vec<_>>(), [Some(0), Some(1), Some(2)]);
        let later = mint(&mut book, 3700);
        assert_eq!((later.0 == first[0].0, later.1), (false, Some(0)), "another hour, another slot");
        book.write(
            Write::Restored(Restored { feed: book.feed(), at: at(3701), least: (1, 1), settled: true }),
            &mut Effects::default(),
        );
        assert_eq!(mint(&mut book, 3702).1, None, "the ledger that was lost may have given out any number");
    }
}
