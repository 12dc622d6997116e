//! Revocation: what an operator takes back.
//!
//! Owns: how long a rule must live, what it covers here and now, its record.
//! Never: ends a rule before every token that it covers has expired; signs the list, `publish.rs` does.
//! Read next: `publish.rs`.

use super::acts::{self, Deed};
use super::book::{Book, FeedBook, Life, Rule, Write};
use super::{publish, Effects, FleetError, Operator};
use crate::ids::{BlockId, DeviceId, FeedId, GrantId, TaskId};
use crate::time::{Millis, Timestamp};
use crate::wire::biscuit::{Term, Token};
use crate::wire::revocation::fingerprints::Salt;
use crate::wire::revocation::set::{PartKey, RevocationSet, RULES_MAX};
use crate::wire::revocation::Target;
use crate::wire::token::TaskSpec;

/// How long a device stays revoked where nobody says otherwise: as good as for ever, there is no way back but a new id.
const DEVICE_LIFE: Millis = Millis::from_secs(10 * 365 * 86_400);
/// How long a rule about something unknown lives where nobody says otherwise.
const UNKNOWN_LIFE: Millis = Millis::from_secs(30 * 86_400);

/// What an operator revokes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Revocation {
    /// What.
    pub target: Target,
    /// Until when; none: until all that it can cover has expired.
    pub until: Option<Timestamp>,
    /// Why.
    pub reason: String,
    /// For a block of a token that is at hand, or that was minted here.
    pub life: Option<Life>,
    /// For a task or a block: the one device for which the ledger knows it to have been minted, if it does.
    pub device: Option<DeviceId>,
}

/// The one device whose tokens a revocation can cover, as far as the grants tell. What was issued is in the ledger alone.
fn whose(book: &Book, target: &Target) -> Option<DeviceId> {
    let grant = match target {
        Target::Grant(id) => book.grant(id),
        Target::Block(block) => book.grants().find(|grant| grant.block == *block),
        Target::All
        | Target::Audience(_)
        | Target::Device(_)
        | Target::Group(_)
        | Target::IssuedBefore(_)
        | Target::Owner(_)
        | Target::RootKey(_)
        | Target::Task(_) => None,
    };
    grant.map(|grant| grant.spec.device.clone())
}

/// What a rule covers, as far as the ledger knows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Coverage {
    /// Grants, and all that devices narrowed from them.
    pub grants: Vec<GrantId>,
    /// Devices that hold such a grant, or lock.
    pub devices: Vec<DeviceId>,
    /// When the last of the grants ends.
    pub ends: Option<Timestamp>,
    /// In words, what is covered that the ledger cannot list, and what is not.
    pub note: &'static str,
}

/// What a revocation of `target` covers, in words.
pub fn reach(target: &Target) -> &'static str {
    match target {
        Target::All => "every token of the fleet, minted already or later; every device locks, and nothing takes it back before its end",
        Target::Audience(_) => "every token for this audience; tokens without an audience are not covered",
        Target::Block(_) => "every token that holds this block: its descendants, not its ancestors",
        Target::Device(_) => "every token for this device; the device itself locks",
        Target::Grant(_) => "the grant, every credential narrowed from it and every task issued under it; a token for a group is issued under none",
        Target::Group(_) => "every token minted for this group; tokens for one device of it, as grants are, are not: revoke the devices for those",
        Target::IssuedBefore(_) => "every token issued before this time",
        Target::Owner(_) => "every token of this owner",
        Target::RootKey(_) => "every token signed by this root key",
        Target::Task(_) => "every credential of this task",
    }
}

/// What revoking `target` would cover.
pub fn coverage(book: &Book, target: &Target, now: Timestamp) -> Coverage {
    let mut devices = match target {
        Target::All => book.devices().map(|device| device.id.clone()).collect(),
        Target::Device(id) => vec![id.clone()],
        Target::Group(group) => book.trust().groups.get(group).cloned().unwrap_or_default(),
        Target::Audience(_)
        | Target::Block(_)
        | Target::Grant(_)
        | Target::IssuedBefore(_)
        | Target::Owner(_)
        | Target::RootKey(_)
        | Target::Task(_) => Vec::new(),
    };
    let covers = |grant: &&super::book::Grant| match target {
        Target::All => true,
        Target::Audience(_) | Target::Group(_) | Target::Task(_) => false,
        Target::Block(block) => grant.block == *block,
        Target::Device(id) => grant.spec.device == *id,
        Target::Grant(id) => grant.spec.grant == *id,
        Target::IssuedBefore(before) => grant.spec.issued < *before,
        Target::Owner(owner) => grant.spec.owner == *owner,
        Target::RootKey(id) => grant.root_key_id == *id,
    };
    let grants: Vec<_> = book.grants().filter(|grant| grant.spec.expires > now).filter(covers).collect();
    devices.extend(grants.iter().map(|grant| grant.spec.device.clone()));
    devices.sort();
    devices.dedup();
    let ends = grants.iter().map(|grant| grant.spec.expires).max();
    Coverage { grants: grants.iter().map(|grant| grant.spec.grant).collect(), devices, ends, note: reach(target) }
}

/// When a rule about `target` may lapse at the earliest, and when it does where nobody says otherwise.
fn lifetimes(book: &Book, target: &Target, now: Timestamp) -> (Timestamp, Timestamp) {
    let horizon = book.horizon(now);
    match target {
        Target::Device(_) => (horizon, horizon.max(now + DEVICE_LIFE)),
        Target::Grant(id) => match book.grant(id) {
            Some(grant) => (grant.spec.expires, grant.spec.expires),
            None => (now, now + UNKNOWN_LIFE),
        },
        Target::Block(block) => match book.grants().find(|grant| grant.block == *block) {
            Some(grant) => (grant.spec.expires, grant.spec.expires),
            // A block that a device attenuated: it ends with some grant, nobody here knows with which.
            None => (horizon, horizon.max(now + UNKNOWN_LIFE)),
        },
        Target::Task(_) => {
            let longest = book.grants().map(|grant| grant.spec.task_ttl_max).max().unwrap_or_default();
            ((now + longest).min(horizon), horizon.max(now + UNKNOWN_LIFE))
        }
        Target::All | Target::Audience(_) | Target::Group(_) | Target::Owner(_) | Target::RootKey(_) => {
            (horizon, horizon.max(now + UNKNOWN_LIFE))
        }
        Target::IssuedBefore(_) => (horizon, horizon.max(now + UNKNOWN_LIFE)),
    }
}

/// Adds a rule. It takes effect on a device with the next head that the device sees. A rule that is there already is
/// never shortened.
///
/// # Errors
/// Those of [`plan`].
pub fn revoke(
    book: &mut Book,
    revocation: Revocation,
    operator: Operator<'_>,
    at: Timestamp,
    fx: &mut Effects,
) -> Result<Rule, FleetError> {
    let rule = plan(book, revocation, at)?;
    book.write(Write::Rule(rule.clone()), fx);
    let Rule { target, until, reason, .. } = rule.clone();
    acts::record(book, operator, Deed::Revoked { target, until, reason }, at, fx)?;
    Ok(rule)
}

/// The rule that a revocation makes, if it can be made.
///
/// # Errors
/// [`FleetError::Invalid`] for an end before every covered token has expired, [`FleetError::RulesFull`].
pub fn plan(book: &Book, revocation: Revocation, at: Timestamp) -> Result<Rule, FleetError> {
    let Revocation { target, until, reason, life, device } = revocation;
    let reason = acts::text("the reason", &reason)?;
    match &target {
        Target::Audience(name) | Target::Owner(name) => drop(acts::text("the name", name)?),
        Target::IssuedBefore(before) if *before > at + Millis::from_secs(60) => {
            let message = "an issued-before rule must not lie in the future: it would refuse tokens not yet minted";
            return Err(FleetError::Argument(message.into()));
        }
        Target::All
        | Target::Block(_)
        | Target::Device(_)
        | Target::Grant(_)
        | Target::Group(_)
        | Target::IssuedBefore(_)
        | Target::RootKey(_)
        | Target::Task(_) => {}
    }
    let (earliest, usual) = lifetimes(book, &target, at);
    let until = until.unwrap_or(usual);
    if until < earliest || until <= at {
        let message = format!("a rule that lapses at {until} would let tokens live again that end at {earliest}: leave --expires out, or choose a later end");
        return Err(FleetError::Invalid(message));
    }
    let device = whose(book, &target).or(device);
    let known = book.live_rule(&target, at).map_or(until, |rule| rule.until);
    let is_rule = |target: &Target| !matches!(target, Target::Block(_));
    let rules = || book.rules().filter(|rule| rule.until >= at && is_rule(&rule.target)).count();
    if is_rule(&target) && rules() >= RULES_MAX {
        return Err(FleetError::RulesFull { limit: RULES_MAX });
    }
    Ok(Rule { target, until: until.max(known), reason, at, life, device })
}

/// Whether the fleet knows what is named, where it can know all that there are: a name that was mistyped revokes nothing.
pub fn is_known(book: &Book, target: &Target) -> bool {
    match target {
        Target::Device(id) => book.device(id).is_some(),
        Target::Group(id) => book.trust().groups.contains_key(id),
        Target::Grant(id) => book.grant(id).is_some(),
        // Of any bundle: what a key signed that was replaced may live still.
        Target::RootKey(id) => {
            book.trusts().iter().flat_map(|trust| &trust.issuers).any(|issuer| issuer.root_key_id == *id)
        }
        Target::All
        | Target::Audience(_)
        | Target::Block(_)
        | Target::IssuedBefore(_)
        | Target::Owner(_)
        | Target::Task(_) => true,
    }
}

/// Which part of a token is revoked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The last block: this token and what was narrowed from it, not what it was narrowed from.
    Last,
    /// The first block: every token that the issuer's one was narrowed to.
    First,
}

/// The rule that revokes a token that somebody holds in his hand.
///
/// # Errors
/// [`FleetError::Invalid`] for a token without blocks.
pub fn target_of(token: &Token, part: Part) -> Result<Target, FleetError> {
    let block = match part {
        Part::Last => token.blocks.last(),
        Part::First => token.blocks.first(),
    };
    let id: BlockId =
        block.map(|block| block.id).ok_or_else(|| FleetError::Invalid("the token has no block".into()))?;
    Ok(Target::Block(id))
}

/// What block 0 of a token says of its life, for a revocation of one of its blocks. A serial stands for the first block,
/// and so for the whole token.
pub fn life_of(token: &Token, block: &BlockId) -> Option<Life> {
    let first = token.blocks.first()?;
    let terms = |name: &str| first.facts.iter().find(|fact| fact.name == name).map(|fact| fact.terms.as_slice());
    let date = |name: &str| match terms(name)? {
        [Term::Date(secs)] => Some(Timestamp::from_secs(*secs)),
        _ => None,
    };
    let (issued, expires) = (date("issued")?, date("expires")?);
    let slot = TaskSpec::slot(issued, expires);
    let serial = match terms("serial") {
        Some([Term::Integer(bucket), Term::Integer(number)]) if *bucket == i64::from(slot.number()) => {
            u32::try_from(*number).ok()
        }
        _ => None,
    };
    Some(Life { issued, expires, serial: serial.filter(|_| first.id == *block) })
}

/// What revoking a target leaves good.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remains {
    /// In words, what whoever holds the token before this one can still do.
    pub note: &'static str,
    /// Blocks of the token that stay good, the first one first. A token that ends with any of them is not revoked.
    pub blocks: Vec<BlockId>,
    /// What ends that as well, the narrowest first.
    pub instead: Vec<Target>,
}

/// What revoking `target` leaves good; `token` is the one that it was read from, if it was.
pub fn remains(book: &Book, target: &Target, token: Option<&Token>) -> Remains {
    let Target::Block(block) = target else {
        let note = "nothing of what it covers: the rule goes by what every narrower token says too";
        return Remains { note, blocks: Vec::new(), instead: Vec::new() };
    };
    let own = book.grants().find(|grant| grant.block == *block);
    if let Some(grant) = own {
        let note =
            "nothing of this grant: its only block is the first of all that was narrowed from it; task tokens that \
                    were issued under it are others";
        let instead = vec![Target::Grant(grant.spec.grant)];
        return Remains { note, blocks: Vec::new(), instead };
    }
    let Some(token) = token else {
        let note = "whatever this block was narrowed from: whoever holds the token before it uses that, or narrows it \
                    anew. `hardtack token inspect` shows its task and its device";
        return Remains { note, blocks: Vec::new(), instead: Vec::new() };
    };
    let before = token.blocks.iter().take_while(|other| other.id != *block).map(|other| other.id);
    let blocks: Vec<BlockId> = before.collect();
    let tasks = tasks_of(token).into_iter().map(Target::Task);
    let devices = named(token, "for_device").filter_map(|id| id.parse().ok()).map(Target::Device);
    let note = if blocks.is_empty() {
        "nothing of this token: its first block is revoked, and with it all that was narrowed from it"
    } else {
        "the token before the revoked block: whoever holds it uses it as before, or narrows it anew"
    };
    Remains { note, instead: if blocks.is_empty() { Vec::new() } else { tasks.chain(devices).collect() }, blocks }
}

fn named<'t>(token: &'t Token, name: &'t str) -> impl Iterator<Item = &'t str> {
    let facts = token.blocks.iter().flat_map(|block| &block.facts).filter(move |fact| fact.name == name);
    facts.filter_map(|fact| fact.terms.first()?.text())
}

/// What a revocation costs, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cost {
    /// The set as it is.
    pub before: usize,
    /// The set with the revocation in it.
    pub after: usize,
    /// What is sent to each device: a head with what it adds, and the rules if they change.
    pub sent: usize,
}

/// What revoking something until the usual end costs, in each feed to which that belongs.
pub fn costs(book: &Book, revocation: Revocation, at: Timestamp) -> Vec<(FeedId, Cost)> {
    let Revocation { target, until, life, device, reason } = revocation;
    let until = until.unwrap_or_else(|| lifetimes(book, &target, at).1);
    let device = whose(book, &target).or(device);
    let rule = Rule { target, until, reason, at, life, device };
    // A set that is full takes nothing more, and costs nothing more.
    let additions = publish::filed(book, std::slice::from_ref(&rule), &|_| Salt([0; 16])).unwrap_or_default();
    book.routes().feeds(&rule).into_iter().map(|feed| (feed.clone(), cost(book.of(feed), &additions))).collect()
}

fn cost(feed: &FeedBook, additions: &RevocationSet) -> Cost {
    let before = feed.set().to_bytes().len();
    let with = feed.set().merge(additions).unwrap_or_else(|_| feed.set().clone());
    let changed = |set: &RevocationSet| set.part(PartKey::Rules).unwrap_or_default();
    let rules = if changed(&with) == changed(feed.set()) { 0 } else { changed(&with).len() };
    let head = feed.head().map_or(0, |head| head.signed.to_bytes().len());
    Cost { before, after: with.to_bytes().len(), sent: head + additions.to_bytes().len() + rules }
}

/// The tasks that a token names as labels.
pub fn tasks_of(token: &Token) -> Vec<TaskId> {
    let facts = token.blocks.iter().flat_map(|block| &block.facts).filter(|fact| fact.name == "for_task");
    facts.filter_map(|fact| fact.terms.first()?.text()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::grant;
    use super::super::publish::FeedAt;
    use super::super::service::tests::{at, new_grant, one_device};
    use super::*;
    use crate::wire::link::Topic;

    #[test]
    fn a_rule_outlives_what_it_covers_and_is_never_shortened() {
        let (keys, mut book, _, mut rng) = one_device();
        let fx = &mut Effects::default();
        let ann = keys.operator("ann");
        let id = grant::create(&mut book, new_grant(), &keys.issuer, ann, at(100), &mut rng, fx).unwrap();
        let ends = book.grant(&id).unwrap().spec.expires;
        let mut try_revoke = |target: Target, until: Option<Timestamp>| {
            revoke(
                &mut book,
                Revocation { target, until, reason: "test".into(), life: None, device: None },
                ann,
                at(200),
                fx,
            )
        };
        let grant = Target::Grant(id);
        assert!(try_revoke(grant.clone(), Some(at(300))).is_err(), "before the grant ends");
        assert_eq!(try_revoke(grant.clone(), None).unwrap().until, ends);
        let later = ends + Millis::from_secs(9);
        assert_eq!(try_revoke(grant.clone(), Some(later)).unwrap().until, later);
        assert_eq!(try_revoke(grant, None).unwrap().until, later, "not shortened");
        assert!(try_revoke(Target::IssuedBefore(at(9999)), None).is_err(), "in the future");
        assert!(try_revoke(Target::Owner("\0".into()), None).is_err());
        assert!(try_revoke(Target::All, Some(at(300))).is_err());
        let task = Target::Task("t-9".parse().unwrap());
        assert!(try_revoke(task.clone(), Some(at(300))).is_err(), "a task lives for up to 900 s");
        assert_eq!(try_revoke(task, Some(at(1100))).unwrap().until, at(1100));
    }

    #[test]
    fn what_a_rule_costs_is_what_devices_are_sent() {
        let (keys, mut book, _, _) = one_device();
        let fx = &mut Effects::default();
        let target = Target::Task("t-1".parse().unwrap());
        let revocation = Revocation { target, until: None, reason: "r".into(), life: None, device: None };
        let (_, told) = costs(&book, revocation.clone(), at(5)).remove(0);
        revoke(&mut book, revocation, keys.operator("ann"), at(5), fx).unwrap();
        let before = FeedAt::of(book.first());
        assert!(publish::advance(&mut book, &keys.feed, super::super::service::tests::CADENCE, at(5), fx));
        assert_eq!((told.after, told.after - told.before < 49), (book.first().set().to_bytes().len(), true));
        let standing = |topic: &Topic| matches!(topic, Topic::FeedHead(_) | Topic::FeedRules(_));
        let sent = publish::feed(&book.feed(), book.first(), Some(before))
            .into_iter()
            .filter(|publish| standing(&publish.topic));
        let sent: usize = sent.map(|publish| publish.payload.len()).sum();
        // Numbers in the head may have become a byte longer.
        assert!(told.sent.abs_diff(sent) <= 16, "{told:?} {sent}");
    }

    #[test]
    fn what_was_mistyped_is_not_known() {
        let (_, book, ..) = one_device();
        let known = |target: Target| is_known(&book, &target);
        assert!(known(Target::RootKey(1)) && known(Target::Device("gw-07".parse().unwrap())));
        assert!(known(Target::Owner("anybody".into())), "the ledger cannot know all that there are");
        assert!(!known(Target::RootKey(99)) && !known(Target::Device("gw-70".parse().unwrap())));
        assert!(!known(Target::Group("nope".parse().unwrap())) && !known(Target::Grant(GrantId([7; 16]))));
    }

    #[test]
    fn coverage_names_grants_and_devices() {
        let (keys, mut book, _, mut rng) = one_device();
        let fx = &mut Effects::default();
        let ann = keys.operator("ann");
        let id = grant::create(&mut book, new_grant(), &keys.issuer, ann, at(100), &mut rng, fx).unwrap();
        let block = book.grant(&id).unwrap().block;
        let covers = |target: Target| coverage(&book, &target, at(101)).grants.len();
        assert_eq!(covers(Target::All), 1);
        assert_eq!(covers(Target::Block(block)), 1);
        assert_eq!(covers(Target::Block(BlockId([0; 32]))), 0);
        assert_eq!(covers(Target::Owner("ops@acme".into())), 1);
        assert_eq!(covers(Target::Owner("other".into())), 0);
        let issued = book.grant(&id).unwrap().spec.issued;
        assert_eq!(covers(Target::IssuedBefore(issued)), 0);
        assert_eq!(covers(Target::IssuedBefore(at(100))), 1);
        assert_eq!(coverage(&book, &Target::Grant(id), at(101)).devices, ["gw-07".parse().unwrap()]);
        assert_eq!(coverage(&book, &Target::Grant(id), at(100 + 86_400)).grants.len(), 0, "it has ended");
    }
}
