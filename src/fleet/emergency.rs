//! Emergency keys, on the operators' side.
//!
//! Owns: who has one ([`draft_added`], [`draft_removed`]); what a statement says, numbered past the one before ([`statement`]); what
//! the fleet knows of each key ([`Known`]), whether it was made here or heard on the broker; when the broker is told again.
//! Never: signs one counter twice; lifts a rule; needs the feed's key, or a service that runs.
//! Read next: `wire/revocation/emergency.rs`; `agent/emergency.rs`, which obeys.

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

pub use progress::{Heard, Progress};

use super::acts;
use super::book::{Book, Write};
use super::rotate::Cause;
use super::{proposal, Effects, FleetError, FleetLog};
use crate::agent::effects::Publish;
use crate::ids::{FeedId, KeyId};
use crate::time::{Millis, Timestamp};
use crate::wire::bundle::{EmergencyKey, PublicKey, TrustBundle};
use crate::wire::envelope::Signed;
use crate::wire::link::Topic;
use crate::wire::revocation::carry::{Carried, BUNDLES_MAX};
use crate::wire::revocation::emergency::{
    drop_superfluous, latest, Declared, Emergency, Rules, LIFE_MAX, REASON_BYTES_MAX, RULES_MAX,
};
use crate::wire::revocation::rules::Selector;
use crate::wire::revocation::Target;
use crate::wire::Refused;

/// A statement says that it was signed this much earlier: the clock of the machine that signs it may be ahead, and what comes
/// from the future is not believed. So much may that clock be behind whoever signed something else.
const ISSUED_EARLIER: Millis = Millis::from_secs(300);
/// Statements of one key that are kept.
const STATEMENTS_KEPT: u64 = 64;
/// Rules of one key that are remembered: as many as a device holds of it.
const RULES_KEPT: usize = 256;
/// Where the ledger is a copy that was put back, nobody knows how far a key had come. No operator signs that many meanwhile.
const LEAP: u64 = 1 << 20;
/// How long the broker may take to say what it keeps before it is told again, and between two tellings.
const QUIET: Millis = Millis::from_secs(5);

/// A statement as the ledger keeps it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Kept {
    /// Whose key it was.
    pub operator: String,
    /// When it was made here, or was heard first.
    pub at: Timestamp,
    /// The statement.
    pub statement: Signed<Emergency>,
}

impl Kept {
    /// The name of its row.
    pub(super) fn row(&self) -> String {
        let (key, counter) = self.statement.claim().map_or((KeyId([0; 8]), 0), |said| (said.key, said.counter));
        format!("emergency/{key}/{:02}", counter % STATEMENTS_KEPT)
    }
}

/// What is known of one key.
#[derive(Clone, Debug)]
pub struct Known {
    /// Whose it is.
    pub operator: String,
    /// The newest statement.
    pub newest: Kept,
    /// What that says.
    pub said: Emergency,
    /// Every rule that any statement told, its end, the counter of the statement that told that, and why.
    pub rules: BTreeMap<Selector, (Timestamp, u64, String)>,
}

impl Known {
    /// Rules that are in force at a time.
    pub fn in_force(&self, at: Timestamp) -> impl Iterator<Item = (Selector, Timestamp, u64, &str)> + '_ {
        let live = self.rules.iter().filter(move |(_, (until, ..))| *until >= at);
        live.map(|(rule, (until, by, reason))| (*rule, *until, *by, reason.as_str()))
    }
}

/// Takes a row in. Rows may come in any order.
pub(super) fn apply(all: &mut BTreeMap<KeyId, Known>, kept: Kept) {
    let Ok(said) = kept.statement.claim() else { return };
    let known = all.entry(said.key).or_insert_with(|| Known {
        operator: kept.operator.clone(),
        newest: kept.clone(),
        said: said.clone(),
        rules: BTreeMap::new(),
    });
    for Declared { selector, until, reason } in said.rules.declared() {
        let told = (*until, said.counter, reason.clone());
        if known.rules.get(selector).is_none_or(|known| *known < told) {
            known.rules.insert(*selector, told);
        }
    }
    while known.rules.len() > RULES_KEPT {
        // Those that end first are the first to go.
        let first = known.rules.iter().min_by_key(|(_, (until, ..))| *until).map(|(selector, _)| *selector);
        first.map(|selector| known.rules.remove(&selector));
    }
    if said.counter >= known.said.counter {
        *known = Known { operator: kept.operator.clone(), newest: kept, said, rules: std::mem::take(&mut known.rules) };
    }
}

/// What an operator orders with his key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Order {
    /// What is revoked.
    pub target: Target,
    /// For how long, at most 72 h.
    pub life: Millis,
    /// Why.
    pub reason: String,
    /// The operator has looked: the clock is right, though it does not fit what is known to be signed.
    pub clock_is_right: bool,
}

/// Where a key stands: the next statement is numbered past it and repeats what is in force.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Before {
    /// The highest counter.
    pub counter: u64,
    /// When the newest statement says that it was signed, if there is one.
    pub issued_at: Option<Timestamp>,
    /// What was revoked, until when and why; what has ended may be among it.
    pub rules: Vec<Declared>,
}

impl Before {
    /// What one statement says of it.
    pub fn of(said: &Emergency) -> Self {
        Self::new(said.counter, Some(said), std::iter::empty())
    }

    /// By the newest statement, and what is known of earlier ones. What the newest says of a rule counts beside that: an end
    /// that a clock told which was ahead is later than any that it can say, and hides none.
    fn new(counter: u64, newest: Option<&Emergency>, rules: impl Iterator<Item = Declared>) -> Self {
        let said = newest.into_iter().flat_map(|said| said.rules.declared().cloned());
        Self { counter, issued_at: newest.map(|said| said.issued_at), rules: rules.chain(said).collect() }
    }
}

/// By a clock that is behind, a statement has ended before a device sees it; by one that is ahead, it leaves out what is in
/// force, and no device takes it.
fn check_clock(trust: &TrustBundle, before: &Before, at: Timestamp) -> Result<(), FleetError> {
    let bundle = (trust.issued_at, format!("trust bundle {}", trust.version));
    let own = before.issued_at.map(|issued| (issued + ISSUED_EARLIER, "the newest statement of this key".to_owned()));
    let (newest, what) = own.into_iter().chain([bundle]).max_by_key(|(signed, _)| *signed).unwrap_or_default();
    if at + ISSUED_EARLIER < newest {
        return Err(FleetError::Invalid(format!(
            "the clock of this machine is behind, or that of another was ahead: it is {at} here, and {what} was signed at \
             {newest}. Set the clock, or no device obeys for as long as was asked for. If you have looked and it is right: \
             --clock-is-right"
        )));
    }
    if before.issued_at.is_some() && at > newest + LIFE_MAX {
        return Err(FleetError::Invalid(format!(
            "look at a clock: it is {at} here, more than 72 h after anything that is known to be signed, which is {what}, of \
             {newest}. If it is right, run this again with --clock-is-right. If not, set it: what this key has revoked \
             would be left out, and no device takes what is dated ahead"
        )));
    }
    Ok(())
}

/// The next statement of a key.
///
/// # Errors
/// [`FleetError::Invalid`] for what such a key cannot say, for a key that `trust` does not name, and for a time that does not
/// fit what is known to be signed, unless the order says that the clock is right.
pub fn statement(
    trust: &TrustBundle,
    key: &SigningKey,
    before: &Before,
    order: &Order,
    at: Timestamp,
) -> Result<Signed<Emergency>, FleetError> {
    let public = PublicKey::from(key.verifying_key());
    let id = KeyId::of(public.as_bytes());
    let named = trust.emergency_key(id);
    let invalid = |what: String| FleetError::Invalid(what);
    let named = named.ok_or_else(|| {
        invalid(format!(
            "this emergency key is none of trust bundle {}, and no device would take what it says: `hardtack fleet key \
             list` names those that are, `hardtack fleet key add emergency` makes one",
            trust.version
        ))
    })?;
    if !order.clock_is_right {
        check_clock(trust, before, at)?;
    }
    if matches!(order.target, Target::IssuedBefore(time) if time > at) {
        return Err(invalid("the time before which tokens were issued lies in the future: it would cover what is minted from now on, and nothing takes that back".into()));
    }
    let Some(selector) = Selector::of(&order.target) else {
        let what = "an emergency key revokes by rule, no single block: name the task, the grant or the owner";
        return Err(invalid(what.into()));
    };
    if order.life > LIFE_MAX || order.life == Millis(0) {
        return Err(invalid("an emergency key revokes for 72 h at most: choose a shorter --expires, and let the fleet's own feed revoke for longer".into()));
    }
    let reason = acts::text("the reason", &order.reason)?;
    if reason.len() > REASON_BYTES_MAX {
        return Err(invalid(format!("the reason must have at most {REASON_BYTES_MAX} bytes")));
    }
    let counter = before.counter.checked_add(1).ok_or_else(|| {
        let what = "this key has come to its last counter, which somebody else must have signed: have the fleet replace the key (`hardtack fleet key remove emergency`)";
        invalid(what.into())
    })?;
    let issued_at = at - ISSUED_EARLIER;
    let end = issued_at + LIFE_MAX;
    let until = (at + order.life).min(end);
    // Those that end later yet are of a clock that was further ahead than two may differ.
    let in_force = before.rules.iter().filter(|rule| rule.until >= at && rule.until <= end + ISSUED_EARLIER);
    let in_force = in_force.map(|rule| Declared { until: end.min(rule.until), ..rule.clone() });
    let mut rules = latest(in_force.chain([Declared { selector, until, reason }]));
    if rules.len() > RULES_MAX {
        // Only then: a device may hold to one for longer than to another with the same end, which it has seen before.
        let asked = rules.get(&selector).cloned();
        drop_superfluous(&mut rules, |its, rule| its.until >= rule.until);
        if rules.len() < RULES_MAX {
            rules.extend(asked.map(|asked| (selector, asked)));
        }
    }
    if rules.len() > RULES_MAX {
        return Err(full(&rules, selector, &named.operator, at));
    }
    let rules = Rules::of(rules.into_values()).map_err(FleetError::refused("the statement"))?;
    let said = Emergency { key: id, counter, issued_at, bundle_version: trust.version, rules };
    let signed = Signed::sign(&said, &trust.fleet, &[key]);
    // What devices will check is checked here first.
    Emergency::open(&signed, &trust.fleet, named).map_err(FleetError::refused("the statement"))?;
    Ok(signed)
}

/// Nothing of what is in force may be left out, and there is no room for more.
fn full(rules: &BTreeMap<Selector, Declared>, asked: Selector, operator: &str, at: Timestamp) -> FleetError {
    let others = || rules.values().filter(|rule| rule.selector != asked).map(|rule| rule.until);
    let (first, last) = (others().min().unwrap_or(at), others().max().unwrap_or(at));
    let hours = last.since(at).secs_ceil().div_ceil(3600).min(LIFE_MAX.secs_ceil() / 3600);
    let instead = match asked {
        Selector::All => "in the place of all of them stands `all` with an end that is no earlier than theirs:",
        Selector::Audience(_)
        | Selector::Device(_)
        | Selector::Grant(_)
        | Selector::Group(_)
        | Selector::IssuedBefore(_)
        | Selector::Owner(_)
        | Selector::RootKey(_)
        | Selector::Task(_) => "if it cannot wait, `all` takes the place of all of them, and locks every device:",
    };
    FleetError::Invalid(format!(
        "{RULES_MAX} rules of this key are in force, a statement says no more, and may leave none out: the first of them ends at \
         {first}, the last at {last}. {instead} `hardtack fleet emergency all --as {operator} --expires {hours}h --reason WHY`. Else have \
         an operator with another emergency key revoke it, or the fleet's own feed: `hardtack fleet revoke`"
    ))
}

/// Where a key stands by the ledger.
pub fn before(book: &Book, key: KeyId) -> Before {
    let known = book.emergency(key);
    let restored = book.restored_at().filter(|restored| known.is_none_or(|known| known.newest.at <= *restored));
    let counter = known.map_or(0, |known| known.said.counter);
    let counter = counter.saturating_add(restored.map_or(0, |_| LEAP));
    let rules = known.into_iter().flat_map(|known| &known.rules).map(|(selector, (until, _, reason))| Declared {
        selector: *selector,
        until: *until,
        reason: reason.clone(),
    });
    Before::new(counter, known.map(|known| &known.said), rules)
}

/// Signs the next statement of a key and keeps it: nobody can sign its counter again once this is committed.
///
/// # Errors
/// As [`statement`].
pub fn declare(
    book: &mut Book,
    key: &SigningKey,
    order: &Order,
    at: Timestamp,
    fx: &mut Effects,
) -> Result<Signed<Emergency>, FleetError> {
    let id = KeyId::of(key.verifying_key().as_bytes());
    let signed = statement(book.trust(), key, &before(book, id), order, at)?;
    let operator = book.trust().emergency_key(id).map(|named| named.operator.clone()).unwrap_or_default();
    book.write(Write::Emergency(Box::new(Kept { operator, at, statement: signed.clone() })), fx);
    Ok(signed)
}

/// A statement was heard on the broker, at the place of a key. Says whether it is news.
///
/// # Errors
/// When it is none, is not signed by an emergency key of the newest trust bundle, or contradicts what is known.
pub(super) fn hear(
    book: &mut Book,
    key: KeyId,
    payload: &[u8],
    at: Timestamp,
    fx: &mut Effects,
) -> Result<(), Refused> {
    let signed = Signed::<Emergency>::from_bytes(payload)?;
    let (said, named) = Emergency::open_by(&signed, book.trust())?;
    if said.key != key {
        return Err(Refused::WrongTopic);
    }
    let (operator, counter) = (named.operator.clone(), said.counter);
    if let Some(known) = book.emergency(key) {
        let (held, offered) = (known.newest.statement.digest(), signed.digest());
        if counter == known.said.counter && held != offered {
            fx.log(FleetLog::EmergencyForked { key, operator, counter });
            return Err(Refused::SignedTwice { counter, held, offered });
        }
        if counter <= known.said.counter {
            return Ok(());
        }
    }
    let rules = said.rules.count() as u64;
    book.write(Write::Emergency(Box::new(Kept { operator: operator.clone(), at, statement: signed })), fx);
    fx.log(FleetLog::EmergencyHeard { key, operator, counter, rules });
    Ok(())
}

/// The messages that bring a statement to the broker: one for each feed.
pub fn messages(trust: &TrustBundle, key: KeyId, statement: &Signed<Emergency>) -> Vec<Publish> {
    let message =
        |feed: &FeedId| Publish { topic: Topic::FeedEmergency(feed.clone(), key), payload: statement.to_bytes() };
    trust.feeds.iter().map(|feed| message(&feed.id)).collect()
}

/// A statement in a file, for somebody to carry to devices that no broker reaches.
///
/// # Errors
/// [`FleetError::Refused`] when devices would not take a file of that size.
pub fn carried(
    trust: &TrustBundle,
    bundles: &[Signed<TrustBundle>],
    statement: &Signed<Emergency>,
) -> Result<Vec<u8>, FleetError> {
    let carried = Carried {
        fleet: trust.fleet.clone(),
        bundles: bundles[bundles.len().saturating_sub(BUNDLES_MAX)..].to_vec(),
        policy: None,
        feeds: Vec::new(),
        emergencies: vec![statement.clone()],
    };
    carried.to_bytes().map_err(FleetError::refused("the file"))
}

/// The newest statements of keys of which something is in force, for a file.
pub(super) fn newest(book: &Book) -> impl Iterator<Item = &Signed<Emergency>> {
    let named = |known: &&Known| book.trust().emergency_key(known.said.key).is_some();
    book.emergencies().filter(named).map(|known| &known.newest.statement)
}

/// What this connection's broker is known to keep of emergency keys.
#[derive(Debug, Default)]
pub(super) struct Told {
    heard: BTreeMap<(FeedId, KeyId), u64>,
    /// The broker is not told before this: it may be about to say that it has it.
    quiet: Timestamp,
}

impl Told {
    /// A connection is new.
    pub(super) fn connected(at: Timestamp) -> Self {
        Self { heard: BTreeMap::new(), quiet: at + QUIET }
    }

    /// The broker said what it keeps at a place. It may have gone back, or have been made to forget, and what another key
    /// signed, or nobody, is nothing that devices would take from there.
    pub(super) fn hears(&mut self, trust: &TrustBundle, feed: FeedId, key: KeyId, payload: &[u8]) {
        let signed = Signed::<Emergency>::from_bytes(payload);
        let said = signed.and_then(|signed| Ok(Emergency::open_by(&signed, trust)?.0)).ok();
        let counter = said.filter(|said| said.key == key).map_or(0, |said| said.counter);
        self.heard.insert((feed, key), counter);
    }

    fn missing<'b>(&self, book: &'b Book, at: Timestamp) -> Vec<(FeedId, &'b Known)> {
        let live = |known: &&Known| known.in_force(at).next().is_some();
        let named = |known: &&Known| book.trust().emergency_key(known.said.key).is_some();
        let wanted = book.emergencies().filter(live).filter(named);
        let places = wanted.flat_map(|known| book.trust().feeds.iter().map(move |feed| (feed.id.clone(), known)));
        let lacks = |(feed, known): &(FeedId, &Known)| {
            self.heard.get(&(feed.clone(), known.said.key)).is_none_or(|heard| *heard < known.said.counter)
        };
        places.filter(lacks).collect()
    }

    /// How long until the broker is to be told something; none if it has all there is.
    pub(super) fn due_in(&self, book: &Book, at: Timestamp) -> Option<Millis> {
        (!self.missing(book, at).is_empty()).then(|| self.quiet.since(at))
    }

    /// What the broker is to be told now.
    pub(super) fn tell(&mut self, book: &Book, at: Timestamp) -> Vec<Publish> {
        if at < self.quiet {
            return Vec::new();
        }
        let missing = self.missing(book, at);
        if !missing.is_empty() {
            self.quiet = at + QUIET;
        }
        let mut told = Vec::new();
        for (feed, known) in missing {
            let (key, payload) = (known.said.key, known.newest.statement.to_bytes());
            self.heard.insert((feed.clone(), key), known.said.counter);
            told.push(Publish { topic: Topic::FeedEmergency(feed, key), payload });
        }
        told
    }
}

/// What became of an operator's key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyChange {
    /// It may revoke from now on.
    Added,
    /// It may not any more. What it revoked holds until its end.
    Removed(Cause),
}

/// The trust bundle that names a key for an operator.
///
/// # Errors
/// [`FleetError::Invalid`] for a name that no such operator can have, or that has a key; [`FleetError::Refused`] when devices
/// would not take the bundle.
pub fn draft_added(book: &Book, name: &str, key: &PublicKey, at: Timestamp) -> Result<TrustBundle, FleetError> {
    check_name(name)?;
    if book.trust().emergency.iter().any(|known| known.operator == name) {
        let what =
            format!("{name} has an emergency key already: `hardtack fleet key remove emergency --name {name}` first");
        return Err(FleetError::Invalid(what));
    }
    if book.emergency(KeyId::of(key.as_bytes())).is_some() {
        return Err(FleetError::Invalid("this key was an emergency key before: make another one".into()));
    }
    proposal::draft(book, at, |next| {
        next.emergency.push(EmergencyKey { operator: name.to_owned(), key: *key });
        Ok(())
    })
}

/// The trust bundle that takes an operator's key away, and that key. What it revoked holds until its end.
///
/// # Errors
/// [`FleetError::Invalid`] where he has none; as [`draft_added`].
pub fn draft_removed(book: &Book, name: &str, at: Timestamp) -> Result<(TrustBundle, KeyId), FleetError> {
    let named = book.trust().emergency.iter().find(|known| known.operator == name).map(EmergencyKey::id);
    let id = named.ok_or_else(|| {
        FleetError::Invalid(format!("{name} has no emergency key: `hardtack fleet key list` names who has"))
    })?;
    let next = proposal::draft(book, at, |next| {
        next.emergency.retain(|known| known.operator != name);
        Ok(())
    })?;
    Ok((next, id))
}

/// Whether somebody of this name can have a key.
///
/// # Errors
/// [`FleetError::Invalid`].
pub fn check_name(name: &str) -> Result<(), FleetError> {
    match EmergencyKey::is_name(name) {
        true => Ok(()),
        false => Err(FleetError::Invalid(format!(
            "{name:?} is no name for an emergency key: use 1 to 64 letters, digits, `.`, `_`, `@` or `-`, a letter or digit first"
        ))),
    }
}

mod progress;
#[cfg(test)]
mod tests;
