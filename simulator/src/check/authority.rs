//! I3, I4, I6, I10 and the grant's box: no decision outlives its bound, revocation holds, only narrower, a cold start
//! decides; and the floor on availability.
//!
//! Owns: what each gateway's disk proves that it knew: every rule that was ever durable, the newest head of its feed; what was used
//! of each grant; the shares of good requests that were allowed.
//! Never: trusts a clock of the gateway. Bounds are measured by the oracle's clock.
//! Read next: `model.rs`, which keeps the credentials; `clock.rs`, which says what follows from what was told.

mod siblings;
mod steps;

use std::collections::BTreeMap;

use hardtack::agent::feed::Held;
use hardtack::agent::request::{DecisionReply, Reason, Verdict};
use hardtack::ids::{BlockId, BootId, DeviceId, FeedId};
use hardtack::time::{Millis, Timestamp};
use hardtack::wire::policy::TimeClass;
use hardtack::wire::revocation::set::{PartKey, RevocationSet, Revoked};
use hardtack::wire::revocation::slot::Slot;
use hardtack::wire::revocation::Target;

use super::clock::{Knowledge, Synced};
use super::feed::Own;
use super::suspend::{Clause, Lock, Suspension};
use super::{Id, Tally};
pub(crate) use siblings::{Narrow, Narrower, Shown};
pub(crate) use steps::{Exchange, Given};

use crate::clocks::date;
use crate::fleet_answers::{Bearing, Burned};
use crate::model::{Credential, Standing, SLACK};
use crate::plan::TokenChoice;

/// Of a hundred requests that nothing speaks against, so many are allowed even while faults last.
const FLOOR_PERCENT: u64 = 60;
/// With fewer of them a share says nothing.
const FLOOR_FROM: u64 = 20;
/// Of a thousand such requests to a gateway that had a round trip in its boot, so many may be denied.
const SYNCED_DENIED_MAX: u64 = 1;

/// What was presented.
#[derive(Debug, Clone)]
pub(crate) struct Presented {
    pub(crate) choice: TokenChoice,
    /// Which credential, if it is one that an agent handed out.
    pub(crate) credential: Option<usize>,
    /// How its holder narrowed it, if one did.
    pub(crate) narrowing: Option<Narrowing>,
    /// Whose user presented it.
    pub(crate) uid: u32,
    pub(crate) risk: String,
    /// The time class that the policy names for it.
    pub(crate) class: TimeClass,
    pub(crate) operation: String,
    pub(crate) resource: String,
    /// What the policy has against what it is done with, if anything.
    pub(crate) forbidden: Option<String>,
}

/// How the holder of an issuer's token to read below `modbus/` narrowed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Narrowing {
    /// To one resource.
    OneResource,
    /// To writing, which its parent does not cover.
    OnlyWrite,
    /// To a time that ends before the parent's.
    Until(Timestamp),
}

/// The one resource of [`Narrowing::OneResource`].
pub(crate) const ONE_RESOURCE: &str = "modbus/meter3/value";

impl Narrowing {
    /// Whether parent and child both cover a request. `least` is what the gateway must know of the time.
    fn covers(self, operation: &str, resource: &str, least: Timestamp) -> bool {
        let parent = operation == "read" && resource.starts_with("modbus/");
        let child = match self {
            Self::OneResource => resource == ONE_RESOURCE,
            Self::OnlyWrite => operation == "write",
            Self::Until(end) => least <= end + Millis(SLACK),
        };
        parent && child
    }
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
    /// How many uses it has.
    pub(crate) uses_max: u64,
    /// The most that a boot costs of what is bounded by powered-on time.
    pub(crate) lease: u64,
}

/// When and where a decision was made, by the oracle.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) at: u64,
    /// Powered-on time of the gateway.
    pub(crate) powered: u64,
    pub(crate) device: u32,
    /// In which boot of its kernel it is.
    pub(crate) boot: Option<BootId>,
    /// Whether no fault has been at work for a while: then what is good must be allowed.
    pub(crate) quiet: Quiet,
    /// What follows from what the gateway was told.
    pub(crate) know: Knowledge,
    /// Its wall clock, where that may make decisions stricter.
    pub(crate) wall: Option<Timestamp>,
    /// Whether an emergency key may have revoked what is asked with here.
    pub(crate) revoked: bool,
    /// Whether a step is asked with here whose task may have ended, or have no use left.
    pub(crate) spent: bool,
}

impl Moment {
    /// The earliest that a gateway can take it to be for the class `bounded`.
    pub(crate) fn earliest(&self) -> Timestamp {
        match (self.wall, self.know.synced) {
            (Some(wall), Synced::No) => self.know.least.max(wall),
            (Some(_) | None, Synced::No | Synced::Yes) => self.know.least,
        }
    }

    /// The latest that a gateway can take it to be for the class `bounded`, or for `strict` where L is finite.
    pub(crate) fn latest(&self) -> Timestamp {
        match (self.wall, self.know.synced) {
            (Some(wall), Synced::No) => self.know.most.max(wall),
            (Some(_) | None, Synced::No | Synced::Yes) => self.know.most,
        }
    }
}

/// Whether faults are at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quiet {
    No,
    Yes,
}

#[derive(Debug, Clone, Copy)]
struct Stand {
    order: (u32, u64),
    /// The trust bundle that it names.
    bundle: u64,
    issued_at: Timestamp,
    /// Powered-on time when it became durable.
    durable: u64,
}

/// What is in doubt by faults that the proofs do not cover: everything, until the gateway is in touch and holds a list that is
/// no older than what it had; from then on what they can have touched, which is from before that.
#[derive(Debug, Default)]
struct Doubt {
    open: bool,
    /// When the last of them was.
    fault: Option<u64>,
    /// What was issued until then may be touched.
    touched: Timestamp,
}

impl Doubt {
    fn arises(&mut self, at: u64) {
        *self = Self { open: true, fault: Some(at), touched: Timestamp::MAX };
    }

    fn settles(&mut self, at: u64) {
        if std::mem::take(&mut self.open) {
            self.touched = date(at);
        }
    }

    /// Whether what is known of what was issued then is in doubt.
    fn covers(&self, issued: Timestamp) -> bool {
        self.fault.is_some() && issued <= self.touched
    }

    /// Whether something that happened then may be undone.
    fn undoes(&self, at: u64) -> bool {
        self.fault.is_some_and(|fault| at <= fault)
    }
}

/// How long what a gateway had sent may be on its way to the collector, in milliseconds: the longest that a broker sits on a
/// message, and then some.
const ON_ITS_WAY: u64 = 15 * 60_000;

/// Whether a gateway may be locked for good by a fault that the proofs do not cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum MayLock {
    /// No.
    #[default]
    No,
    /// If the fleet has seen what it has lost. That shows when it is in touch, unless it is still on its way then: in touch
    /// since this time, if it is.
    IfSeen(Option<u64>),
    /// So it was, or it must be.
    Yes,
}

impl MayLock {
    fn arises(&mut self, lock: Lock) {
        *self = match (lock, *self) {
            (Lock::Final, _) | (_, Self::Yes) => Self::Yes,
            (Lock::Possible, Self::No | Self::IfSeen(_)) => Self::IfSeen(None),
            (Lock::Needed | Lock::None, before) => before,
        };
    }

    fn in_touch(&mut self, at: u64) {
        if *self == Self::IfSeen(None) {
            *self = Self::IfSeen(Some(at));
        }
    }

    /// Whether it may be at a time.
    fn at(self, at: u64) -> bool {
        match self {
            Self::No => false,
            Self::IfSeen(since) => since.is_none_or(|since| at <= since + ON_ITS_WAY),
            Self::Yes => true,
        }
    }
}

#[derive(Debug, Default)]
struct Known {
    /// Every rule that was ever durable here, with the latest end that was signed for it.
    rules: BTreeMap<Target, Timestamp>,
    /// Every bucket of fingerprints that was ever durable here, or heard of.
    buckets: RevocationSet,
    /// The newest head of each feed that is held.
    heads: BTreeMap<FeedId, Stand>,
    /// The feed that the gateway has by the trust bundle on its disk,
    own: Option<Own>,
    /// and the one that the fleet gave it last: until it knows of that, nobody can say what it takes to be fresh.
    given: Option<FeedId>,
    /// The newest trust bundle that an acknowledgement named: without it nothing is fresh.
    named: u64,
    /// What expired at or before this was dropped from the set: it may not come back.
    dropped_before: Timestamp,
    /// Per grant's block what was used of it, and what was asked without an answer.
    used: BTreeMap<BlockId, (u64, u64)>,
    /// The agent started and nothing good was asked since.
    fresh_start: bool,
    /// A fault took away what the proofs rest on: nothing may be allowed until a round trip.
    must_lock: bool,
    /// After a fault that the proofs do not cover what is good may be denied,
    excused: Doubt,
    /// and budgets, boots and time offline may start anew,
    unboxed: Doubt,
    /// and what was revoked or ended may be forgotten.
    forgiven: Doubt,
    /// There was a round trip since the last of them.
    in_touch: bool,
    /// By such a fault the gateway may be locked for good, once it is in touch.
    may_lock: MayLock,
    /// The newest heads that it may have lost by it: what is older it need not believe.
    lost: BTreeMap<FeedId, (u32, u64)>,
}

impl Known {
    /// The newest head that tells how new what is known is: one of the gateway's own feed, and signed with the trust bundle
    /// by which it came to that, or later. Any other does not hold all that was revoked for this gateway.
    fn head(&self) -> Option<Stand> {
        let own = self.own.as_ref()?;
        self.heads.get(&own.id).copied().filter(|head| own.counts(head.order.0, head.bundle))
    }

    /// Whether the trust bundle on its disk is the newest that it can know of, and the one that gives it its feed. A head
    /// tells of a newer one as well as an acknowledgement does.
    fn is_told(&self) -> bool {
        self.own.as_ref().is_some_and(|own| {
            let given = self.given.as_ref().is_none_or(|given| *given == own.id);
            let named = self.heads.get(&own.id).map_or(self.named, |head| head.bundle.max(self.named));
            given && own.bundle >= named
        })
    }

    /// The gateway is in touch, or holds another list: what was in doubt is not, if both are so.
    fn settle(&mut self, at: u64) {
        let own = self.own.as_ref();
        let older = own.is_some_and(|own| {
            let held = self.heads.get(&own.id).map(|head| head.order);
            self.lost.get(&own.id).is_some_and(|lost| held.is_none_or(|held| held < *lost))
        });
        if self.in_touch && !older {
            self.lost.clear();
            [&mut self.excused, &mut self.unboxed, &mut self.forgiven].into_iter().for_each(|doubt| doubt.settles(at));
        }
    }

    /// What a set revokes is known from now on.
    fn learn(&mut self, set: &RevocationSet) {
        // By their order nothing that has a name comes after these.
        let first = set.enumerate().take_while(|revoked| !matches!(revoked, Revoked::Fingerprint(..)));
        for (target, end) in first.filter_map(|revoked| named(&revoked)) {
            let until = self.rules.entry(target).or_insert(end);
            *until = end.max(*until);
        }
        for part in set.parts().filter(|part| matches!(part, PartKey::Fingerprints(_) | PartKey::Serials(_))) {
            let mut bucket = RevocationSet::default();
            let put = set.part(part).map(|bytes| bucket.put_part(part, &bytes));
            if matches!(put, Some(Ok(()))) && self.buckets.apply(&bucket).is_err() {
                // Too much for one set: what is over by now makes room.
                self.buckets = bucket;
            }
        }
    }
}

/// What is revoked by name, and until when that holds. Serials name no credential of the workload.
fn named(revoked: &Revoked) -> Option<(Target, Timestamp)> {
    match revoked {
        Revoked::Rule(selector, until) => Some((selector.target()?, *until)),
        Revoked::Exact(block, slot) => Some((Target::Block(*block), slot.ends())),
        Revoked::Serial(..) | Revoked::Fingerprint(..) => None,
    }
}

/// How many good requests there were, how many of them were allowed, and what was said to the first that was not.
#[derive(Debug, Clone, Default)]
pub(crate) struct Share {
    pub(crate) good: u64,
    pub(crate) allowed: u64,
    pub(crate) denied: Option<String>,
}

impl Share {
    pub(crate) fn add(&mut self, other: &Self) {
        self.good += other.good;
        self.allowed += other.allowed;
        self.denied = self.denied.take().or_else(|| other.denied.clone());
    }
}

/// What gateways are known to know.
#[derive(Debug)]
pub(crate) struct AuthorityCheck {
    bounds: Bounds,
    known: Vec<Known>,
    /// When the head was signed that first held a revocation, and until when that holds.
    published: BTreeMap<Target, (Timestamp, Timestamp)>,
    shares: BTreeMap<(TimeClass, Synced), Share>,
    exchanges: steps::Exchanges,
    narrowings: siblings::Narrowings,
    burned: Bearing,
}

impl AuthorityCheck {
    pub(crate) fn new(devices: u32, bounds: Bounds) -> Self {
        let known = (0..devices).map(|_| Known::default()).collect();
        Self {
            bounds,
            known,
            published: BTreeMap::new(),
            shares: BTreeMap::new(),
            exchanges: Default::default(),
            narrowings: Default::default(),
            burned: Bearing::default(),
        }
    }

    /// The fleet signed a head that holds a revocation.
    pub(crate) fn published(&mut self, target: Target, signed: Timestamp, until: Timestamp) {
        let known = self.published.entry(target).or_insert((signed, until));
        known.1 = until.max(known.1);
    }

    /// A gateway took in what a signed head adds, and whatever it made of that is durable: it counts, however many heads
    /// before it are missing.
    pub(crate) fn heard(&mut self, device: u32, additions: &RevocationSet) {
        self.known[device as usize].learn(additions);
    }

    /// A trust bundle is durable that gives a gateway this feed.
    pub(crate) fn followed(&mut self, device: u32, own: Own) {
        self.known[device as usize].own = Some(own);
    }

    /// The fleet gave a gateway this feed.
    pub(crate) fn given(&mut self, device: u32, feed: FeedId) {
        self.known[device as usize].given = Some(feed);
    }

    /// An acknowledgement told a gateway of a trust bundle.
    pub(crate) fn named(&mut self, device: u32, bundle: u64) {
        let known = &mut self.known[device as usize];
        known.named = known.named.max(bundle);
    }

    /// A gateway let a feed go. What that revoked it must still refuse.
    pub(crate) fn let_go(&mut self, device: u32, feed: &FeedId) {
        self.known[device as usize].heads.remove(feed);
    }

    /// A feed's files are durable.
    pub(crate) fn feed_durable(&mut self, device: u32, (feed, held): (&FeedId, &Held), (at, powered): (u64, u64)) {
        let known = &mut self.known[device as usize];
        // What is beyond the complete set counts as well, from the moment that it is on disk.
        known.learn(&held.set);
        known.learn(&held.seen);
        let Some(Ok(head)) = held.head.as_ref().map(|head| head.claim()) else { return };
        known.dropped_before = known.dropped_before.max(head.dropped_before);
        let order = (head.era, head.seq);
        if known.heads.get(feed).is_none_or(|newest| order > newest.order) {
            let bundle = head.bundle_version;
            known.heads.insert(feed.clone(), Stand { order, bundle, issued_at: head.issued_at, durable: powered });
            known.settle(at);
        }
    }

    /// Whether a rule that is durable on a gateway covers its grant.
    pub(crate) fn grant_revoked(&self, device: u32, at: u64, grant: hardtack::ids::GrantId) -> bool {
        let rules = &self.known[device as usize].rules;
        rules.get(&Target::Grant(grant)).is_some_and(|until| date(at) <= *until)
    }

    /// The agent started, in a boot of its own.
    pub(crate) fn started(&mut self, device: u32) {
        self.known[device as usize].fresh_start = true;
    }

    /// A request of a credential that was narrowed from a grant will not be answered.
    pub(crate) fn unheard(&mut self, credential: &Credential) {
        if let Some(block) = credential.grant_block() {
            self.known[credential.device as usize].used.entry(block).or_default().1 += 1;
        }
    }

    /// What was used of each grant of a gateway's, by the block that carries its budget, and what was asked of it without an
    /// answer.
    pub(crate) fn used(&self, device: u32) -> &BTreeMap<BlockId, (u64, u64)> {
        &self.known[device as usize].used
    }

    /// The bounds that hold besides a credential's own.
    pub(crate) fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// A fault that the proofs do not cover befell the disk.
    pub(crate) fn damaged(&mut self, device: u32, at: u64, suspension: &Suspension) {
        let known = &mut self.known[device as usize];
        known.in_touch = false;
        known.must_lock |= suspension.lock == Lock::Needed;
        known.may_lock.arises(suspension.lock);
        if suspension.covers(Clause::Available) {
            known.excused.arises(at);
        }
        if suspension.covers(Clause::Box) {
            known.unboxed.arises(at);
        }
        if suspension.covers(Clause::RevocationHolds) {
            known.rules.clear();
            known.buckets = RevocationSet::default();
            known.dropped_before = Timestamp(0);
            for (feed, head) in std::mem::take(&mut known.heads) {
                let lost = known.lost.entry(feed).or_default();
                *lost = head.order.max(*lost);
            }
            known.forgiven.arises(at);
        }
    }

    /// What is left of the anchor knows of no loss: somebody put back a slot from before both were lost.
    pub(crate) fn unaware(&mut self, device: u32) {
        self.known[device as usize].must_lock = false;
    }

    /// A round trip: whatever was to be locked until then is not any more.
    pub(crate) fn contact(&mut self, device: u32, at: u64) {
        let known = &mut self.known[device as usize];
        known.must_lock = false;
        known.in_touch = true;
        known.may_lock.in_touch(at);
        known.settle(at);
    }

    /// A gateway is locked, for whatever reason: if it may be for good, it is from now on.
    pub(crate) fn locked(&mut self, device: u32, at: u64) {
        let may_lock = &mut self.known[device as usize].may_lock;
        if may_lock.at(at) {
            *may_lock = MayLock::Yes;
        }
    }

    /// Whether a gateway may be locked for good.
    pub(crate) fn may_be_locked(&self, device: u32, at: u64) -> bool {
        self.known[device as usize].may_lock.at(at)
    }

    /// A decision reached its caller. The disk as it was before this commit is what the gateway knew.
    pub(crate) fn decided(
        &mut self,
        tally: &mut Tally,
        moment: &Moment,
        name: &DeviceId,
        presented: &Presented,
        credential: Option<&Credential>,
        reply: &DecisionReply,
    ) {
        let allowed = reply.decision == Verdict::Allow;
        let mut judge = Judge { tally, at: moment.at, allowed, id: format!("{name} allowed {}", reply.decision_id) };
        self.check_kind(&mut judge, moment, presented);
        match &presented.forbidden {
            Some(forbidden) => judge.tried(Id::Policy, || forbidden.clone()),
            None if reply.reason == Reason::DeniedByPolicy => {
                let how = format!("{}, and the policy has nothing against it: {}", reply.decision_id, reply.explain);
                judge.tally.tried(Id::Policy, moment.at, Some(how));
            }
            None => {}
        }
        if self.known[moment.device as usize].must_lock {
            judge.tried(Id::Detected, || {
                "it had lost both slots of its anchor, and nobody told it where it stands".into()
            });
        }
        if reply.time_class != presented.class {
            let (said, due) = (reply.time_class.name(), presented.class.name());
            let how = format!("{} was judged as {said}, and the policy says {due}", reply.decision_id);
            judge.tally.tried(Id::Bounded, moment.at, Some(how));
        }
        let Some(credential) = credential.filter(|credential| credential.device == moment.device) else { return };
        self.check_life(&mut judge, moment, presented.class, credential);
        self.check_box(&mut judge, moment, credential);
        self.check_revocation(&mut judge, moment, name, credential);
        self.check_staleness(&mut judge, moment, presented);
        self.check_bounded(&mut judge, moment, name, presented, credential);
        if credential.allows >= credential.uses && !self.known[moment.device as usize].unboxed.covers(credential.issued)
        {
            judge.tried(Id::MonotoneBudget, || format!("its {} uses were spent", credential.uses));
        }
        let outcome = format!("{}: {} ({})", reply.decision_id, reply.reason.name(), reply.explain);
        let denied = (!allowed).then_some((reply.reason.name(), outcome));
        self.check_available(tally, moment, name, presented, credential, denied);
        if let Some(block) = credential.grant_block().filter(|_| allowed) {
            let used = &mut self.known[moment.device as usize].used.entry(block).or_default().0;
            *used += 1;
            self.burned.use_of_one(*used, moment.know.alone, moment.know.boots);
        }
    }

    /// What fallback grants had to bear, if one was used.
    pub(crate) fn burned(&self) -> Option<Burned> {
        self.burned.of(self.bounds.uses_max, self.bounds.offline_max, self.bounds.boots_max)
    }

    /// A request for a decision was answered without one.
    pub(crate) fn refused(
        &mut self,
        tally: &mut Tally,
        moment: &Moment,
        name: &DeviceId,
        presented: &Presented,
        (credential, problem): (&Credential, &str),
    ) {
        self.check_available(tally, moment, name, presented, credential, Some((problem, problem.to_owned())));
    }

    fn check_kind(&self, judge: &mut Judge<'_>, moment: &Moment, presented: &Presented) {
        let never = |what: &str| what.to_owned();
        match presented.choice {
            TokenChoice::Attenuated => {
                let (operation, resource) = (presented.operation.as_str(), presented.resource.as_str());
                let least = moment.know.least;
                if let Some(child) = presented.narrowing.filter(|child| !child.covers(operation, resource, least)) {
                    let how = || format!("{operation} on {resource}, and its holder narrowed it: {child:?}");
                    judge.tried(Id::OnlyNarrowerChild, how);
                }
            }
            TokenChoice::Foreign => judge.tried(Id::OnlyNarrower, || never("a right that its task does not have")),
            TokenChoice::Forged => judge.tried(Id::OnlyNarrower, || never("a token that nobody here signed")),
            TokenChoice::Stolen => judge.tried(Id::OnlyNarrower, || never("a token of another gateway")),
            TokenChoice::Stranger => judge.tried(Id::OnlyNarrower, || never("a credential of another program")),
            TokenChoice::Widened => judge.tried(Id::OnlyNarrower, || never("a right that its holder wrote into it")),
            TokenChoice::Expired
            | TokenChoice::Finished
            | TokenChoice::Revoked
            | TokenChoice::Spend
            | TokenChoice::Valid => {}
        }
    }

    fn check_life(&self, judge: &mut Judge<'_>, moment: &Moment, class: TimeClass, credential: &Credential) {
        let ends = credential.ends + Millis(SLACK);
        match class {
            TimeClass::Bounded => {
                let honoured = credential.honoured(moment);
                if honoured > credential.limit() + moment.know.grace_from(credential.begun_powered) {
                    let life = credential.life / 1000;
                    judge.tried(Id::Bounded, || format!("a life of {life} s, and {honoured} ms of powered-on time"));
                }
                if ends < moment.know.least {
                    judge.tried(Id::Bounded, || {
                        format!("it ended {}, which is past by all that it was told", credential.ends)
                    });
                }
            }
            TimeClass::Floor => {
                if ends < moment.know.proven {
                    judge.tried(Id::BoundedFloor, || {
                        format!("it ended {}, which is proven to be past", credential.ends)
                    });
                }
            }
            TimeClass::Strict => {
                if ends < date(moment.at) {
                    judge.tried(Id::BoundedStrict, || format!("strict, and it ended {}", credential.ends));
                }
                if moment.know.synced == Synced::No {
                    judge.tried(Id::BoundedStrict, || "strict, and no nonce came back in this boot".into());
                }
            }
        }
    }

    fn check_box(&self, judge: &mut Judge<'_>, moment: &Moment, credential: &Credential) {
        let Some(block) = credential.grant_block() else { return };
        let known = &self.known[moment.device as usize];
        let know = &moment.know;
        let open = known.unboxed.open;
        if !open
            && know.alone
                > self.bounds.offline_max
                    + SLACK
                    + know.alone / 100_000
                    + know.grace_from(moment.powered.saturating_sub(know.alone))
        {
            judge.tried(Id::BoxOffline, || format!("from a grant, after {} s without contact", know.alone / 1000));
        }
        if !open && know.boots > self.bounds.boots_max {
            judge.tried(Id::BoxBoots, || format!("from a grant, after {} boots without contact", know.boots));
        }
        let used = known.used.get(&block).map_or(0, |(used, _)| *used);
        if used >= self.bounds.uses_max && !known.unboxed.covers(credential.issued) {
            judge.tried(Id::BoxUses, || format!("from a grant whose {used} uses were spent"));
        }
    }

    fn check_revocation(&self, judge: &mut Judge<'_>, moment: &Moment, name: &DeviceId, credential: &Credential) {
        let rules = &self.known[moment.device as usize].rules;
        let in_force = |target: &Target| rules.get(target).is_some_and(|until| date(moment.at) <= *until);
        if let Some(target) = credential.targets(name).into_iter().find(in_force) {
            judge.tried(Id::RevocationHolds, || format!("it knew of a rule that covers it: {target:?}"));
        }
        let known = &self.known[moment.device as usize];
        let slot = Slot::of(credential.issued, credential.expires);
        if let Some(block) = credential.chain.iter().find(|block| known.buckets.covers_block(slot, block)) {
            judge.tried(Id::RevocationHolds, || format!("it knew that block {block} is revoked"));
        }
        if let Some(serial) = credential.serial.filter(|serial| known.buckets.covers_serial(slot, *serial)) {
            judge.tried(Id::RevocationHolds, || format!("it knew that serial {serial} of {slot} is revoked"));
        }
        if credential.expires <= known.dropped_before {
            let (end, before) = (credential.expires, known.dropped_before);
            let how = || format!("its token ended {end}, and its head had dropped all up to {before}");
            judge.tried(Id::RevocationDropped, how);
        }
        if credential.finished.is_some_and(|finished| !known.forgiven.undoes(finished)) {
            judge.tried(Id::RevocationEnded, || format!("task {} had ended", credential.task));
        }
    }

    fn check_staleness(&self, judge: &mut Judge<'_>, moment: &Moment, presented: &Presented) {
        let Some(bound) = self.bounds.staleness.get(&presented.risk) else { return };
        let age = self.least_age(moment);
        if age > bound + SLACK {
            let how = || format!("{} risk, with a revocation list of {} s or more", presented.risk, age / 1000);
            judge.tried(Id::RevocationStale, how);
        }
    }

    /// What was revoked is not allowed for longer than the class's bound after the fleet signed that, whatever the gateway
    /// makes of what it heard: by the fleet's own account.
    fn check_bounded(
        &self,
        judge: &mut Judge<'_>,
        moment: &Moment,
        name: &DeviceId,
        presented: &Presented,
        credential: &Credential,
    ) {
        let Some(bound) = self.bounds.staleness.get(&presented.risk) else { return };
        if self.known[moment.device as usize].forgiven.open {
            return;
        }
        let past = |signed: Timestamp| moment.know.least.since(signed).0 > bound + SLACK;
        let over = |target: &Target| {
            let (signed, until) = self.published.get(target)?;
            (past(*signed) && date(moment.at) <= *until).then_some(*signed)
        };
        if let Some(signed) = credential.targets(name).iter().find_map(over) {
            let how = || format!("{} risk, and a head of {signed} revokes it", presented.risk);
            judge.tried(Id::RevocationBounded, how);
        }
    }

    /// Whether the newest list may be too old for what some risk asks for, where P may stand at `most`.
    pub(crate) fn may_be_stale(&self, device: u32, most: Timestamp) -> bool {
        let too_old = |issued: Timestamp| {
            let age = most.since(issued).0 + SLACK;
            self.bounds.staleness.values().any(|bound| age > *bound)
        };
        self.known[device as usize].head().is_some_and(|head| too_old(head.issued_at))
    }

    /// How old the newest list is at the least: since it was signed, and powered-on time since it became durable.
    fn least_age(&self, moment: &Moment) -> u64 {
        let known = &self.known[moment.device as usize];
        let none = if known.forgiven.open { 0 } else { u64::MAX };
        known.head().map_or(none, |head| {
            let held = moment.powered.saturating_sub(head.durable).saturating_sub(SLACK);
            moment.know.least.since(head.issued_at).0.max(held)
        })
    }

    /// Whether nothing speaks against a request but the credential's own state.
    fn is_fair(&self, moment: &Moment, presented: &Presented, credential: &Credential) -> bool {
        let known = &self.known[moment.device as usize];
        let bound = self.bounds.staleness.get(&presented.risk);
        let fresh = bound.is_none_or(|bound| {
            known.head().is_some_and(|head| moment.know.most.since(head.issued_at).0 < bound - bound / 10)
        });
        let boxed = credential.grant_block().is_some_and(|block| {
            let (used, unheard) = known.used.get(&block).copied().unwrap_or_default();
            let alone = moment.know.alone
                + moment.know.alone / 500
                + u64::from(moment.know.boots + 1) * (self.bounds.lease + 1000);
            alone >= self.bounds.offline_max
                || moment.know.boots >= self.bounds.boots_max
                || used + unheard >= self.bounds.uses_max
        });
        let provable = presented.class != TimeClass::Strict || moment.know.synced == Synced::Yes;
        let misled = moment.know.misled > date(moment.at);
        let told = known.is_told();
        let excused = known.excused.covers(credential.issued);
        fresh
            && told
            && presented.forbidden.is_none()
            && !boxed
            && provable
            && !misled
            && !moment.revoked
            && !moment.spent
            && !known.must_lock
            && !excused
    }

    /// What nothing speaks against must be allowed where nothing is wrong, and mostly where something is.
    fn check_available(
        &mut self,
        tally: &mut Tally,
        moment: &Moment,
        name: &DeviceId,
        presented: &Presented,
        credential: &Credential,
        denied: Option<(&str, String)>,
    ) {
        let good = credential.standing(moment) == Standing::Good;
        if presented.choice != TokenChoice::Valid || !good || !self.is_fair(moment, presented, credential) {
            return;
        }
        let (allowed, may_lock) = (denied.is_none(), self.known[moment.device as usize].may_lock.at(moment.at));
        let (said, outcome) = denied.unwrap_or_default();
        // What has lost what the fleet has seen is to be locked.
        if may_lock && said == Reason::Locked.name() {
            return;
        }
        let share = self.shares.entry((presented.class, moment.know.synced)).or_default();
        let how = || format!("{name} denied a good request: {outcome}");
        let denied = (!allowed).then(|| format!("at {}: {}", super::clock(moment.at), how()));
        share.add(&Share { good: 1, allowed: u64::from(allowed), denied });
        let known = &mut self.known[moment.device as usize];
        if std::mem::take(&mut known.fresh_start) && moment.know.synced == Synced::No {
            tally.tried(Id::ColdStart, moment.at, (!allowed).then(how));
        }
        if moment.quiet == Quiet::Yes {
            tally.tried(Id::Available, moment.at, (!allowed).then(how));
        }
    }

    /// In the end: the share of what was allowed while faults lasted.
    pub(crate) fn finish(&self, tally: &mut Tally, at: u64) {
        self.exchanges.finish(tally, at);
        self.narrowings.finish(tally, at);
        let of = |synced: Synced| {
            let shares = self.shares.iter().filter(|((_, of), _)| *of == synced);
            shares.fold((0, 0), |(good, allowed), (_, share)| (good + share.good, allowed + share.allowed))
        };
        let (good, allowed) = of(Synced::Yes);
        if (good - allowed) * 1000 > good.max(1000) * SYNCED_DENIED_MAX {
            let how = format!("of {good} good requests after a round trip in the same boot, {allowed} were allowed");
            tally.broken(Id::Available, at, how);
        }
        let (good, allowed) = of(Synced::No);
        if good >= FLOOR_FROM && allowed * 100 < good * FLOOR_PERCENT {
            let how = format!("of {good} good requests without a round trip in the boot, {allowed} were allowed");
            tally.broken(Id::Available, at, how);
        }
    }

    /// Per time class, and whether there was a round trip in the boot: good requests, and how many were allowed.
    pub(crate) fn shares(&self) -> &BTreeMap<(TimeClass, Synced), Share> {
        &self.shares
    }
}

/// One decision under judgement: what would be wrong if it was an allow.
struct Judge<'a> {
    tally: &'a mut Tally,
    at: u64,
    allowed: bool,
    id: String,
}

impl Judge<'_> {
    fn tried(&mut self, id: Id, how: impl FnOnce() -> String) {
        let broken = self.allowed.then(|| format!("{}: {}", self.id, how()));
        if broken.is_some() {
            self.tally.unsound();
        }
        self.tally.tried(id, self.at, broken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: u32 = 0;

    fn feed() -> FeedId {
        "main".parse().unwrap()
    }

    fn check() -> AuthorityCheck {
        let bounds = Bounds { staleness: BTreeMap::new(), offline_max: 1, boots_max: 1, uses_max: 1, lease: 1 };
        let mut check = AuthorityCheck::new(1, bounds);
        check.followed(DEVICE, Own { id: feed(), era: 1, since: 1, bundle: 1 });
        check
    }

    fn holds(check: &mut AuthorityCheck, seq: u64, at: u64) {
        let known = &mut check.known[DEVICE as usize];
        let stand = Stand { order: (1, seq), bundle: 1, issued_at: date(at), durable: at };
        known.heads.insert(feed(), stand);
        known.settle(at);
    }

    /// Whether what was issued and ended then is in doubt: what may be denied, what may be forgotten, what may be undone.
    fn doubts(check: &AuthorityCheck, issued: u64) -> [bool; 3] {
        let known = &check.known[DEVICE as usize];
        [known.excused.covers(date(issued)), known.forgiven.open, known.forgiven.undoes(issued)]
    }

    #[test]
    fn a_doubt_ends_in_touch_and_stays_for_what_was_there_before() {
        let mut check = check();
        check.damaged(DEVICE, 1000, &Suspension::of("anchor.torn").unwrap());
        assert_eq!(doubts(&check, 5000), [true, false, false], "nobody told it anything since");
        check.contact(DEVICE, 2000);
        assert_eq!(doubts(&check, 2000), [true, false, false], "its budget may have been lost");
        assert_eq!(doubts(&check, 2001), [false, false, false]);
        check.damaged(DEVICE, 9000, &Suspension::of("anchor.torn").unwrap());
        assert_eq!(doubts(&check, 20_000), [true, false, false], "and again");
    }

    #[test]
    fn a_list_may_be_too_old_for_the_strictest_risk() {
        let mut check = check();
        check.bounds.staleness = [("high".to_owned(), 60_000), ("low".to_owned(), 600_000)].into();
        holds(&mut check, 7, 1000);
        assert!(!check.may_be_stale(DEVICE, date(50_000)));
        assert!(check.may_be_stale(DEVICE, date(70_000)));
    }

    #[test]
    fn who_lost_its_anchor_must_lock_unless_one_was_put_back_that_does_not_know_of_it() {
        let mut check = check();
        let must_lock = |check: &AuthorityCheck| check.known[DEVICE as usize].must_lock;
        check.damaged(DEVICE, 1000, &Suspension::of("anchor.gone").unwrap());
        check.damaged(DEVICE, 1000, &Suspension::of("era.rotten").unwrap());
        assert!(must_lock(&check));
        check.unaware(DEVICE);
        assert!(!must_lock(&check));
    }

    #[test]
    fn what_the_fleet_has_seen_and_a_gateway_lost_locks_it_soon_after_it_is_in_touch_or_not_at_all() {
        let mut check = check();
        let lies = Suspension::of("disk.lies era").unwrap();
        assert!(!check.may_be_locked(DEVICE, 500));
        check.damaged(DEVICE, 1000, &lies);
        check.contact(DEVICE, 5000);
        check.contact(DEVICE, 60_000);
        assert!(check.may_be_locked(DEVICE, 5000 + ON_ITS_WAY));
        assert!(!check.may_be_locked(DEVICE, 5001 + ON_ITS_WAY), "nothing is on its way any more");
        check.locked(DEVICE, 5001 + ON_ITS_WAY);
        assert!(!check.may_be_locked(DEVICE, 5001 + ON_ITS_WAY), "that was for something else");
        check.damaged(DEVICE, 9_000_000, &lies);
        assert!(check.may_be_locked(DEVICE, 99_000_000), "not in touch since");
        check.contact(DEVICE, 99_000_000);
        check.locked(DEVICE, 99_000_001);
        assert!(check.may_be_locked(DEVICE, 999_000_000), "it is, for good");
    }

    #[test]
    fn who_holds_a_head_that_names_a_newer_bundle_may_deny_until_that_is_here() {
        let mut check = check();
        let told = |check: &AuthorityCheck| {
            let known = &check.known[DEVICE as usize];
            known.is_told()
        };
        holds(&mut check, 7, 500);
        assert!(told(&check));
        check.known[DEVICE as usize].heads.get_mut(&feed()).unwrap().bundle = 2;
        assert!(!told(&check), "the bundle on its disk is the first");
        check.followed(DEVICE, Own { id: feed(), era: 1, since: 1, bundle: 2 });
        assert!(told(&check));
    }

    #[test]
    fn where_the_list_may_be_lost_a_doubt_ends_with_one_that_is_no_older() {
        let mut check = check();
        holds(&mut check, 7, 500);
        check.damaged(DEVICE, 1000, &Suspension::of("disk.lies files").unwrap());
        holds(&mut check, 5, 1100);
        check.contact(DEVICE, 2000);
        assert_eq!(doubts(&check, 3000), [true, true, false], "an older list is on its disk");
        holds(&mut check, 7, 4000);
        assert_eq!(doubts(&check, 4001), [false, false, false]);
        assert_eq!(doubts(&check, 1000), [true, false, true], "a task that ended before may be back");
        assert_eq!(doubts(&check, 1001), [true, false, false]);
    }
}
