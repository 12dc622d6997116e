//! I3, I4 and I6: no decision outlives its bound, revocation holds, only narrower; and the floor on availability.
//!
//! Owns: what each gateway's disk proves that it knew: every rule that was ever durable, the newest head; when it was
//! last in contact.
//! Never: trusts a clock of the gateway. Bounds are measured in powered-on time by the oracle's clock.
//! Read next: `model.rs`, which keeps the credentials.

use std::collections::BTreeMap;

use hardtack::agent::request::{DecisionReply, Origin, Reason, Verdict};
use hardtack::agent::revocation::StoredFeed;
use hardtack::ids::DeviceId;
use hardtack::time::Timestamp;
use hardtack::wire::decode;
use hardtack::wire::revocation::{Target, LIST_BYTES_MAX};

use super::{Id, Tally};
use crate::clocks::date;
use crate::model::{Credential, Standing, SLACK};
use crate::plan::TokenChoice;

/// Of a hundred requests that nothing speaks against, so many are allowed even while faults last.
const FLOOR_PERCENT: u64 = 60;
/// With fewer of them a share says nothing.
const FLOOR_FROM: u64 = 20;

/// What was presented.
#[derive(Debug, Clone)]
pub(crate) struct Presented {
    pub(crate) choice: TokenChoice,
    /// Which credential, if it is one that an agent handed out.
    pub(crate) credential: Option<usize>,
    pub(crate) risk: String,
    pub(crate) operation: String,
    pub(crate) resource: String,
}

/// The bounds that hold besides a credential's own.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    /// Per class of risk the oldest that a revocation list may be, in milliseconds.
    pub(crate) staleness: BTreeMap<String, u64>,
    /// How long a fallback grant serves without a round trip.
    pub(crate) offline_max: u64,
    /// How many boots it serves without one.
    pub(crate) boots_max: u32,
}

/// When and where a decision was made, by the oracle.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) at: u64,
    /// Powered-on time of the gateway.
    pub(crate) powered: u64,
    pub(crate) device: u32,
    /// Whether no fault has been at work for a while: then what is good must be allowed.
    pub(crate) quiet: Quiet,
}

/// Whether faults are at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quiet {
    No,
    Yes,
}

#[derive(Debug, Default)]
struct Known {
    /// Every rule that was ever durable here, with the latest end that was signed for it.
    rules: BTreeMap<Target, Timestamp>,
    /// Powered-on time when the newest head became durable, and its number.
    head: Option<(u64, u64)>,
    /// Powered-on time of the last acknowledged round trip, and boots since.
    contact: (u64, u32),
}

/// What gateways are known to know.
#[derive(Debug)]
pub(crate) struct AuthorityCheck {
    bounds: Bounds,
    known: Vec<Known>,
    good: u64,
    good_allowed: u64,
}

impl AuthorityCheck {
    pub(crate) fn new(devices: u32, bounds: Bounds) -> Self {
        Self { bounds, known: (0..devices).map(|_| Known::default()).collect(), good: 0, good_allowed: 0 }
    }

    /// A feed's file is durable.
    pub(crate) fn feed_durable(&mut self, device: u32, content: &[u8], powered: u64) {
        let Ok(stored) = decode::<StoredFeed>(content, 2 * LIST_BYTES_MAX) else { return };
        let Ok(head) = stored.head.claim() else { return };
        let known = &mut self.known[device as usize];
        for rule in stored.list.rules() {
            let until = known.rules.entry(rule.target.clone()).or_insert(rule.until);
            *until = rule.until.max(*until);
        }
        if known.head.is_none_or(|(seq, _)| head.seq > seq) {
            known.head = Some((head.seq, powered));
        }
    }

    /// A nonce came back for the first time.
    pub(crate) fn contact(&mut self, device: u32, powered: u64) {
        self.known[device as usize].contact = (powered, 0);
    }

    /// The kernel started.
    pub(crate) fn booted(&mut self, device: u32) {
        self.known[device as usize].contact.1 += 1;
    }

    /// A decision reached its caller. The disk as it was before this commit is what the gateway knew.
    pub(crate) fn decided(
        &mut self,
        tally: &mut Tally,
        moment: Moment,
        name: &DeviceId,
        presented: &Presented,
        credential: Option<&Credential>,
        reply: &DecisionReply,
    ) {
        let allowed = reply.decision == Verdict::Allow;
        let broken = |how: String| allowed.then(|| format!("{name} allowed {}: {how}", reply.decision_id));
        let at = moment.at;
        match presented.choice {
            TokenChoice::Forged => tally.tried(Id::OnlyNarrower, at, broken("a token that nobody here signed".into())),
            TokenChoice::Stolen => tally.tried(Id::OnlyNarrower, at, broken("a token of another gateway".into())),
            TokenChoice::Widened => {
                tally.tried(Id::OnlyNarrower, at, broken("a right that its holder wrote into it".into()));
            }
            TokenChoice::Expired | TokenChoice::Revoked | TokenChoice::Spend | TokenChoice::Valid => {}
        }
        let Some(credential) = credential.filter(|credential| credential.device == moment.device) else { return };
        self.check_life(tally, moment, name, credential, &broken);
        self.check_revocation(tally, moment, name, credential, &broken);
        self.check_staleness(tally, moment, presented, &broken);
        if credential.allows >= credential.uses {
            tally.tried(Id::Monotone, at, broken(format!("its {} uses were spent", credential.uses)));
        }
        self.check_available(tally, moment, name, presented, credential, reply);
    }

    fn check_life(
        &self,
        tally: &mut Tally,
        moment: Moment,
        name: &DeviceId,
        credential: &Credential,
        broken: &dyn Fn(String) -> Option<String>,
    ) {
        let honoured = moment.powered - credential.begun_powered;
        if honoured > credential.limit() {
            let how =
                format!("a credential of {} s after {} s of powered-on time", credential.life / 1000, honoured / 1000);
            tally.tried(Id::Bounded, moment.at, broken(how));
        }
        let (contact, boots) = self.known[moment.device as usize].contact;
        let alone = moment.powered - contact;
        if credential.origin == Origin::Fallback && alone > self.bounds.offline_max + SLACK + alone / 1000 {
            let how = format!("from a fallback grant, after {} s without contact on {name}", alone / 1000);
            tally.tried(Id::Bounded, moment.at, broken(how));
        }
        if credential.origin == Origin::Fallback && boots > self.bounds.boots_max {
            tally.tried(Id::Bounded, moment.at, broken(format!("from a fallback grant, after {boots} boots")));
        }
    }

    fn check_revocation(
        &self,
        tally: &mut Tally,
        moment: Moment,
        name: &DeviceId,
        credential: &Credential,
        broken: &dyn Fn(String) -> Option<String>,
    ) {
        let rules = &self.known[moment.device as usize].rules;
        let in_force = |target: &Target| rules.get(target).is_some_and(|until| date(moment.at) <= *until);
        if let Some(target) = credential.targets(name).into_iter().find(in_force) {
            tally.tried(
                Id::RevocationHolds,
                moment.at,
                broken(format!("its disk held a rule that covers it: {target:?}")),
            );
        }
        if credential.finished.is_some() {
            tally.tried(Id::RevocationHolds, moment.at, broken(format!("task {} had ended", credential.task)));
        }
    }

    fn check_staleness(
        &self,
        tally: &mut Tally,
        moment: Moment,
        presented: &Presented,
        broken: &dyn Fn(String) -> Option<String>,
    ) {
        let Some(bound) = self.bounds.staleness.get(&presented.risk) else { return };
        let age = self.least_age(moment);
        if age > bound + SLACK {
            let how = format!("{} risk, with a revocation list of {} s or more", presented.risk, age / 1000);
            tally.tried(Id::RevocationHolds, moment.at, broken(how));
        }
    }

    /// How old the newest list is at the least: powered-on time since it became durable.
    fn least_age(&self, moment: Moment) -> u64 {
        let head = self.known[moment.device as usize].head;
        head.map_or(u64::MAX, |(_, durable)| (moment.powered - durable).saturating_sub(SLACK))
    }

    /// What nothing speaks against must be allowed where nothing is wrong, and mostly where something is.
    fn check_available(
        &mut self,
        tally: &mut Tally,
        moment: Moment,
        name: &DeviceId,
        presented: &Presented,
        credential: &Credential,
        reply: &DecisionReply,
    ) {
        let fresh_enough =
            self.bounds.staleness.get(&presented.risk).is_none_or(|bound| self.least_age(moment) < *bound / 2);
        let good = credential.standing(moment.at, moment.powered) == Standing::Good;
        if presented.choice != TokenChoice::Valid || !good || !fresh_enough {
            return;
        }
        let allowed = reply.reason == Reason::Allowed;
        self.good += 1;
        self.good_allowed += u64::from(allowed);
        if moment.quiet == Quiet::Yes {
            let broken = (!allowed).then(|| {
                format!(
                    "{name} denied {} with nothing wrong: {} ({})",
                    reply.decision_id,
                    reply.reason.name(),
                    reply.explain
                )
            });
            tally.tried(Id::Available, moment.at, broken);
        }
    }

    /// In the end: the share of what was allowed while faults lasted.
    pub(crate) fn finish(&self, tally: &mut Tally, at: u64) {
        if self.good >= FLOOR_FROM && self.good_allowed * 100 < self.good * FLOOR_PERCENT {
            let how =
                format!("of {} requests that nothing spoke against, {} were allowed", self.good, self.good_allowed);
            tally.broken(Id::Available, at, how);
        }
    }
}
