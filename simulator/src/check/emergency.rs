//! I4 and I5 for emergency keys: what a gateway's disk once held of them is denied until its end, whatever is said later; it is
//! denied no longer than 72 h of powered-on time; no counter goes back.
//!
//! Owns: per gateway the statements that were ever durable, and what of them holds and may hold.
//! Never: asks a gateway how long it has known something: arrivals and disks are seen from outside.
//! Read next: `hardtack::agent::emergency`; `authority.rs`, which judges the feed's rules.

use std::collections::BTreeMap;

use hardtack::agent::emergency::EmergencyMark;
use hardtack::agent::request::{DecisionReply, StatusReply, Verdict};
use hardtack::ids::{DeviceId, Hash, KeyId};
use hardtack::profile::TimeLimits;
use hardtack::time::{Millis, Timestamp};
use hardtack::wire::audit::{Event, Record, TrustChange};
use hardtack::wire::revocation::emergency::{Emergency, LIFE_MAX};
use hardtack::wire::revocation::rules::Selector;

use super::authority::Moment;
use super::clock::{Knowledge, Synced};
use super::suspend::{Clause, Suspension};
use super::{Id, Tally};
use crate::clocks::date;
use crate::model::{Credential, SLACK};

/// A boot costs at most a lease, and a second of rounding.
const BOOT_COST: u64 = 1000;
/// Refusals of one kind are recorded a minute apart; closer together than this, nobody can say which one is.
const APART: u64 = 90_000;
/// By how much less P can have become since it took something in, in seconds.
const CORRECTED: u64 = 86_400;
/// How an agent names what covers something, in its words for people.
pub(super) const NAMED: &str = "emergency key";

/// Whether whoever signed a statement kept to what such a key may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Made {
    Well,
    /// A rule of it lives for longer than a rule may.
    TooLong,
}

/// What a gateway must do with a statement that arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It has it.
    Known,
    /// That is for its clock to say.
    Open,
    /// Refuse it, and write that down.
    Refuse,
    /// Refuse it. It refused another one shortly before.
    RefuseAgain,
}

#[derive(Debug, Clone, Copy)]
struct Rule {
    /// Until then it is denied,
    until: Timestamp,
    /// and until then at the latest.
    latest: Timestamp,
    /// Powered-on time when it can first have been seen with that end,
    first: u64,
    /// and powered-on time, and how often the kernel had started, when it had been.
    last: (u64, u32),
}

/// What a file held that rotted.
#[derive(Debug, Clone, Copy)]
struct Lost {
    /// Powered-on time, and how often the kernel had started, when it rotted.
    since: (u64, u32),
    /// The digest of the statement that brings all of it back, if one does.
    found_by: Option<Hash>,
    /// Another file is in its place.
    replaced: bool,
}

/// A statement that arrived, and of which nobody knows what became.
#[derive(Debug)]
struct Undecided {
    key: KeyId,
    counter: u64,
    rules: Vec<Selector>,
}

#[derive(Debug, Default)]
struct Known {
    /// Counter and digest of the newest statement of each key that was ever durable here.
    held: BTreeMap<KeyId, (u64, Hash)>,
    rules: BTreeMap<(KeyId, Selector), Rule>,
    /// What was lost of each key.
    lost: BTreeMap<KeyId, Lost>,
    /// When each statement first arrived, by its digest.
    arrived: BTreeMap<Hash, u64>,
    /// By the digest under which a refusal would name it.
    undecided: BTreeMap<Hash, Undecided>,
    boots: u32,
    /// When a statement arrived last that was not known.
    told: Option<u64>,
    /// A fault that the proofs do not cover took away what was known, and no agent has started since on what is left.
    forgiven: bool,
    /// A statement that it believed contradicts the time that it was told, and there was no round trip since.
    doubts: bool,
}

/// What gateways know of emergency keys.
#[derive(Debug)]
pub(crate) struct EmergencyCheck {
    known: Vec<Known>,
    drift_ppm: u64,
    boot_cost: u64,
    /// How far ahead of what it can be somewhere else something may be dated that a key signed.
    error: Millis,
    /// How much more a gateway believes that does not know the time.
    allowance: Millis,
}

impl EmergencyCheck {
    pub(crate) fn new(devices: u32, limits: &TimeLimits) -> Self {
        Self {
            known: (0..devices).map(|_| Known::default()).collect(),
            drift_ppm: u64::from(limits.drift_ppm),
            boot_cost: limits.lease().0 + BOOT_COST,
            error: Millis(limits.issuer_error_ms + SLACK),
            allowance: Millis::from_secs(limits.jump_allowance_days * 86_400 + CORRECTED),
        }
    }

    /// The kernel started.
    pub(crate) fn power_on(&mut self, device: u32) {
        self.known[device as usize].boots += 1;
    }

    /// A gateway is handed a signed time that contradicts the last round trip.
    pub(crate) fn contradicted(&mut self, device: u32) {
        self.known[device as usize].doubts = true;
    }

    /// A round trip.
    pub(crate) fn contact(&mut self, device: u32) {
        self.known[device as usize].doubts = false;
    }

    /// The agent is gone, and what it had not written down.
    pub(crate) fn stopped(&mut self, device: u32) {
        self.known[device as usize].undecided.clear();
    }

    /// An agent starts: what its disk holds was told before. What brings back a file that rotted, its anchor says.
    pub(crate) fn found(&mut self, device: u32, marks: &[EmergencyMark]) {
        let known = &mut self.known[device as usize];
        known.forgiven = false;
        for (key, lost) in known.lost.iter_mut().filter(|(_, lost)| !lost.replaced) {
            let mark = marks.iter().find(|mark| mark.key == *key && mark.alone);
            lost.found_by = mark.map(|mark| mark.digest);
        }
    }

    /// A fault that the proofs do not cover befell the disk.
    pub(crate) fn damaged(&mut self, device: u32, suspension: &Suspension) {
        let known = &mut self.known[device as usize];
        if suspension.covers(Clause::RevocationHolds) {
            let (boots, lost) = (known.boots, std::mem::take(&mut known.lost));
            *known = Known { boots, lost, forgiven: true, ..Known::default() };
        } else if suspension.covers(Clause::Monotone) {
            known.held.clear();
        }
    }

    /// The file of a key rotted.
    pub(crate) fn rots(&mut self, device: u32, powered: u64, key: KeyId) {
        let known = &mut self.known[device as usize];
        let lost = Lost { since: (powered, known.boots), found_by: None, replaced: false };
        let before = known.lost.entry(key).or_insert(lost);
        if before.replaced {
            *before = lost;
        }
    }

    /// A statement arrived, from the place of a key.
    pub(crate) fn arrives(
        &mut self,
        device: u32,
        (at, powered, know): (u64, u64, &Knowledge),
        (place, bytes): (KeyId, &[u8]),
        (said, digest, made): (&Emergency, Hash, Made),
    ) -> Arrival {
        let known = &mut self.known[device as usize];
        let held = known.held.get(&said.key).copied();
        if place == said.key && held == Some((said.counter, digest)) {
            return Arrival::Known;
        }
        let calm = known.told.replace(at).is_none_or(|before| at >= before + APART);
        // With a finite L it knows that it cannot be so late.
        let synced = know.synced == Synced::Yes && know.misled == Timestamp(0) && !known.doubts;
        let ahead = synced && said.issued_at > know.most + self.error;
        let refused = place != said.key || made == Made::TooLong || ahead;
        if refused || held.is_some_and(|(counter, _)| counter >= said.counter) {
            return if calm { Arrival::Refuse } else { Arrival::RefuseAgain };
        }
        known.arrived.entry(digest).or_insert(powered);
        let rules = said.rules.iter().map(|(selector, _)| selector).collect();
        let undecided = Undecided { key: said.key, counter: said.counter, rules };
        known.undecided.insert(Hash::of("hardtack/evidence/v1", &[bytes]), undecided);
        Arrival::Open
    }

    /// A statement is on a gateway's disk.
    pub(crate) fn durable(
        &mut self,
        tally: &mut Tally,
        (at, powered, know): (u64, u64, &Knowledge),
        (device, name): (u32, &DeviceId),
        (said, digest, made): (&Emergency, Hash, Option<Made>),
    ) {
        let drift_ppm = self.drift_ppm;
        let believable = know.most.max(know.misled) + self.allowance;
        let known = &mut self.known[device as usize];
        let stands = (said.counter, digest);
        known.lost.retain(|key, lost| *key != said.key || lost.found_by != Some(digest));
        known.lost.entry(said.key).and_modify(|lost| lost.replaced = true);
        let before = known.held.insert(said.key, stands);
        let back = before.filter(|before| said.counter < before.0 || said.counter == before.0 && *before != stands);
        let broken = back
            .map(|before| format!("emergency key {} on {name} went from statement {before:?} to {stands:?}", said.key));
        tally.tried(Id::Monotone, at, broken);
        if before == Some(stands) {
            return;
        }
        let arrived = known.arrived.remove(&digest);
        let broken = match made {
            Some(Made::Well) if arrived.is_some() && said.issued_at > believable => {
                Some("which is dated further ahead than time can have gone by")
            }
            Some(Made::Well) => None,
            Some(Made::TooLong) => Some("whose rules live for too long"),
            None => Some("which nobody signed"),
        };
        let how = |what| format!("{name} took statement {} of emergency key {}, {what}", said.counter, said.key);
        tally.tried(Id::EmergencyEnds, at, broken.map(how));
        known.undecided.retain(|_, of| of.key != said.key || of.counter > said.counter);
        let first = arrived.unwrap_or(powered);
        for (selector, until) in said.rules.iter() {
            let new = Rule { until, latest: until, first, last: (powered, known.boots) };
            let rule = known.rules.entry((said.key, selector)).or_insert(new);
            let kept = rule.until >= until && rule.binds((date(at), powered), drift_ppm);
            if !kept {
                *rule = Rule { latest: until.max(rule.latest), ..new };
            }
        }
    }

    /// A record is durable: what it says was taken is on the disk, and what it says was refused is not in force.
    pub(crate) fn recorded(&mut self, tally: &mut Tally, at: u64, (device, name): (u32, &DeviceId), record: &Record) {
        let known = &mut self.known[device as usize];
        if let Event::Refused(evidence) = &record.event {
            known.undecided.remove(&evidence.digest);
        }
        let Event::Trust(TrustChange::Emergency { key, counter, .. }) = &record.event else { return };
        let held = known.held.get(key).map_or(0, |(held, _)| *held);
        let lost = held < *counter && !known.forgiven;
        let how =
            || format!("{name} took statement {counter} of emergency key {key}, and its disk has statement {held}");
        tally.tried(Id::Monotone, at, lost.then(how));
    }

    /// A decision reached its caller.
    pub(crate) fn decided(
        &self,
        tally: &mut Tally,
        moment: &Moment,
        name: &DeviceId,
        credential: &Credential,
        reply: &DecisionReply,
    ) {
        if credential.device != moment.device {
            return;
        }
        let known = &self.known[moment.device as usize];
        let now = (date(moment.at).max(moment.know.misled), moment.powered);
        let binds = |rule: &Rule| rule.binds(now, self.drift_ppm);
        let rule = known.rules.iter().find(|((_, selector), rule)| binds(rule) && covers(*selector, name, credential));
        if let Some(((key, selector), rule)) = rule {
            let allowed = reply.decision == Verdict::Allow;
            let (id, until) = (&reply.decision_id, rule.until);
            let how = || format!("{name} allowed {id}: emergency key {key} revokes {selector:?} until {until}");
            if allowed {
                tally.unsound();
            }
            tally.tried(Id::RevocationEmergency, moment.at, allowed.then(how));
        }
    }

    /// Whether a gateway must be locked, for whatever token: by a rule on it, or on everybody.
    pub(crate) fn locks(&self, moment: &Moment, name: &DeviceId) -> bool {
        let now = (date(moment.at).max(moment.know.misled), moment.powered);
        let locking = [Selector::All, Selector::device(name.as_str())];
        let rules = self.known[moment.device as usize].rules.iter();
        rules.filter(|((_, selector), _)| locking.contains(selector)).any(|(_, rule)| rule.binds(now, self.drift_ppm))
    }

    /// Whether a credential may be denied for what emergency keys said.
    pub(crate) fn may_revoke(&self, moment: &Moment, name: &DeviceId, credential: &Credential) -> bool {
        self.may(moment).any(|(_, selector)| covers(selector, name, credential)) || self.lost(*moment).next().is_some()
    }

    /// Whether the file of a key has rotted, and what it held must be in force for all that a gateway knows.
    pub(crate) fn is_lost(&self, moment: &Moment, key: KeyId) -> bool {
        let lost = self.known[moment.device as usize].lost.get(&key);
        lost.is_some_and(|lost| is_young(moment.powered.saturating_sub(lost.since.0), self.drift_ppm))
    }

    /// Keys of which something is lost and may be in force on a gateway, and the digest of the statement that brings it back, if
    /// one does.
    pub(crate) fn lost(&self, moment: Moment) -> impl Iterator<Item = (KeyId, Option<Hash>)> + '_ {
        let lost = self.known[moment.device as usize].lost.iter();
        lost.filter(move |(_, lost)| self.may_last(&moment, lost.since)).map(|(key, lost)| (*key, lost.found_by))
    }

    /// An agent denied something, in these words: if it names an emergency key, one may revoke something here.
    pub(crate) fn denied(&self, tally: &mut Tally, moment: &Moment, name: &DeviceId, words: &str) {
        if words.contains(NAMED) {
            let over = self.may(moment).next().is_none();
            let how = || format!("{name} denied something for what is over: {words}");
            tally.tried(Id::EmergencyEnds, moment.at, over.then(how));
        }
    }

    /// An operator was shown what is in force: nothing that is over.
    pub(crate) fn shown(&self, tally: &mut Tally, moment: &Moment, name: &DeviceId, status: &StatusReply) {
        for rule in &status.emergency {
            let is_it = |(key, selector): (KeyId, Selector)| key == rule.key && selector.to_string() == rule.covers;
            let over = !self.may(moment).any(is_it);
            let how =
                || format!("{name} still denies {} for emergency key {}, and that is over", rule.covers, rule.key);
            tally.tried(Id::EmergencyEnds, moment.at, over.then(how));
        }
    }

    /// What may be in force on a gateway.
    fn may<'a>(&'a self, moment: &'a Moment) -> impl Iterator<Item = (KeyId, Selector)> + 'a {
        let known = &self.known[moment.device as usize];
        let may = move |rule: &Rule| {
            let proven_over = moment.know.proven > rule.latest + Millis(SLACK);
            !proven_over && self.may_last(moment, rule.last)
        };
        let rules = known.rules.iter().filter(move |(_, rule)| may(rule)).map(|(of, _)| *of);
        let undecided = known.undecided.values();
        rules.chain(undecided.flat_map(|of| of.rules.iter().map(move |selector| (of.key, *selector))))
    }

    /// Whether what was known at some powered-on time, after so many boots, may be less than 72 h old for a gateway.
    fn may_last(&self, moment: &Moment, (since, boots): (u64, u32)) -> bool {
        let longest = LIFE_MAX.0 + self.drift(LIFE_MAX.0) + SLACK;
        // Nobody on a gateway knows how much of what was leased had gone by at a boot.
        let unknown = u64::from(self.known[moment.device as usize].boots.saturating_sub(boots)) * self.boot_cost;
        moment.powered.saturating_sub(since) <= longest + moment.know.grace_from(since) + unknown
    }

    fn drift(&self, elapsed: u64) -> u64 {
        drifted(elapsed, self.drift_ppm)
    }

    /// What a gateway lacks of the newest statement of a key, if anything.
    pub(crate) fn lacks(&self, device: u32, key: KeyId, counter: u64) -> Option<String> {
        let held = self.known[device as usize].held.get(&key).map_or(0, |(held, _)| *held);
        (held < counter)
            .then(|| format!("holds statement {held} of emergency key {key}, and statement {counter} is due"))
    }
}

impl Rule {
    /// Whether it must be obeyed: by E, which is not past the time, and by powered-on time, of which boots are none.
    fn binds(&self, (time, powered): (Timestamp, u64), drift_ppm: u64) -> bool {
        time <= self.until && is_young(powered.saturating_sub(self.first), drift_ppm)
    }
}

/// Whether what is so old is less than 72 h old for every gateway.
fn is_young(elapsed: u64, drift_ppm: u64) -> bool {
    elapsed + drifted(elapsed, drift_ppm) + SLACK < LIFE_MAX.0
}

/// By how much two clocks differ after a while, each off by up to the bound either way.
fn drifted(elapsed: u64, drift_ppm: u64) -> u64 {
    elapsed / 1_000_000 * (2 * drift_ppm + 1) + 1000
}

/// Whether a rule covers a credential of the workload, which has no audience and no group.
pub(crate) fn covers(selector: Selector, name: &DeviceId, credential: &Credential) -> bool {
    match selector {
        Selector::All => true,
        Selector::Device(_) | Selector::Grant(_) | Selector::Owner(_) | Selector::Task(_) => {
            credential.targets(name).iter().any(|target| Selector::of(target) == Some(selector))
        }
        Selector::IssuedBefore(before) => credential.issued < before,
        Selector::Audience(_) | Selector::Group(_) | Selector::RootKey(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use hardtack::profile::Profile;
    use hardtack::wire::revocation::emergency::Rules;

    use super::*;
    use crate::check::authority::Quiet;
    use crate::operator::OWNER;
    use crate::report::Status;

    const HOUR: u64 = 3_600_000;
    const KEY: KeyId = KeyId([7; 8]);

    fn said(counter: u64, until: u64) -> Emergency {
        let rules = Rules::new("stolen", [(Selector::All, date(until))]).unwrap();
        Emergency { key: KEY, counter, issued_at: date(0), bundle_version: 1, rules }
    }

    fn moment(at: u64) -> Moment {
        let (time, synced) = (date(at), Synced::Yes);
        let (down, alone, boots, grace, fall, untold, misled) = (0, 0, 0, 0, None, (0, 0), Timestamp(0));
        let (least, most, proven) = (time, time, time);
        let know = Knowledge { least, most, proven, down, alone, boots, synced, grace, fall, untold, misled };
        Moment {
            at,
            powered: at,
            device: 0,
            boot: None,
            quiet: Quiet::No,
            know,
            wall: None,
            revoked: false,
            spent: false,
        }
    }

    struct Rig {
        tally: Tally,
        check: EmergencyCheck,
        name: DeviceId,
    }

    impl Rig {
        fn new() -> Self {
            let check = EmergencyCheck::new(1, &Profile::default().time);
            Self { tally: Tally::default(), check, name: "gw-0".parse().unwrap() }
        }

        fn store(&mut self, at: u64, said: &Emergency, digest: u8) {
            let who = (0, &self.name);
            let of = (said, Hash([digest; 32]), Some(Made::Well));
            self.check.durable(&mut self.tally, (at, at, &moment(at).know), who, of);
        }

        fn arrives(&mut self, at: u64, said: &Emergency, digest: u8) -> Arrival {
            self.check.arrives(0, (at, at, &moment(at).know), (KEY, &[digest]), (said, Hash([digest; 32]), Made::Well))
        }

        fn binds(&self, at: u64) -> bool {
            let known = &self.check.known[0];
            known.rules.values().any(|rule| rule.binds((date(at), at), self.check.drift_ppm))
        }

        fn may(&self, at: u64) -> bool {
            self.check.may(&moment(at)).next().is_some()
        }

        fn status(&self, id: &str) -> Status {
            self.tally.properties().into_iter().find(|property| property.id == id).unwrap().status
        }
    }

    #[test]
    fn a_counter_that_goes_back_and_another_content_for_one_are_seen() {
        for (counter, digest, expected) in
            [(3, 1, Status::Pass), (4, 2, Status::Pass), (2, 2, Status::Fail), (3, 2, Status::Fail)]
        {
            let mut rig = Rig::new();
            rig.store(1, &said(3, HOUR), 1);
            rig.store(2, &said(counter, HOUR), digest);
            assert_eq!(rig.status("I5"), expected, "{counter} {digest}");
        }
    }

    #[test]
    fn what_was_durable_binds_until_its_end_and_may_be_denied_no_longer_than_72_hours() {
        let mut rig = Rig::new();
        rig.store(0, &said(1, 10 * HOUR), 1);
        let other = Rules::new("stolen", [(Selector::RootKey(1), date(0))]).unwrap();
        rig.store(HOUR, &Emergency { rules: other, ..said(2, 0) }, 2);
        assert!(rig.binds(9 * HOUR) && rig.may(9 * HOUR), "a later statement leaves it out");
        assert!(!rig.binds(11 * HOUR) && !rig.may(11 * HOUR));
        let mut rig = Rig::new();
        rig.store(0, &said(1, 500 * HOUR), 1);
        assert!(rig.binds(71 * HOUR) && rig.may(71 * HOUR));
        assert!(!rig.binds(73 * HOUR) && !rig.may(73 * HOUR), "whatever it says of time");
        rig.store(74 * HOUR, &said(2, 501 * HOUR), 2);
        assert!(rig.binds(100 * HOUR) && rig.may(100 * HOUR), "said anew");
    }

    #[test]
    fn a_rule_on_everybody_or_on_a_gateway_locks_it_until_its_end() {
        let gateway = Selector::device("gw-0");
        for (selector, expected) in [(Selector::All, true), (gateway, true), (Selector::owner(OWNER), false)] {
            let mut rig = Rig::new();
            let rules = Rules::new("stolen", [(selector, date(10 * HOUR))]).unwrap();
            rig.store(0, &Emergency { rules, ..said(1, 0) }, 1);
            let locks = |at: u64| rig.check.locks(&moment(at), &rig.name);
            assert_eq!((locks(9 * HOUR), locks(11 * HOUR)), (expected, false), "{selector:?}");
        }
    }

    #[test]
    fn boots_end_no_rule_and_let_one_last_for_as_long_as_they_may_have_hidden() {
        let mut rig = Rig::new();
        rig.store(0, &said(1, 500 * HOUR), 1);
        (0..60).for_each(|_| rig.check.power_on(0));
        assert!(rig.binds(71 * HOUR));
        assert!(!rig.binds(73 * HOUR) && rig.may(73 * HOUR));
        assert!(!rig.may(74 * HOUR));
    }

    #[test]
    fn what_arrives_is_refused_known_or_open() {
        let mut rig = Rig::new();
        assert_eq!(rig.arrives(0, &said(2, HOUR), 2), Arrival::Open);
        assert!(rig.may(1), "nobody knows what became of it");
        rig.check.stopped(0);
        assert!(!rig.may(1));
        rig.store(2, &said(2, HOUR), 2);
        assert_eq!(rig.arrives(3, &said(2, HOUR), 2), Arrival::Known);
        assert_eq!(rig.arrives(4, &said(1, HOUR), 1), Arrival::RefuseAgain);
        assert_eq!(rig.arrives(4 + APART, &said(2, HOUR), 3), Arrival::Refuse);
        assert_eq!(rig.arrives(4 + 2 * APART, &said(3, HOUR), 4), Arrival::Open);
    }

    #[test]
    fn what_is_dated_ahead_is_refused_in_touch_and_taken_nowhere_if_it_is_too_far() {
        const DAY: u64 = 24 * HOUR;
        let dated = |days: u64| Emergency { issued_at: date(days * DAY), ..said(1, (days + 1) * DAY) };
        let mut rig = Rig::new();
        assert_eq!(rig.arrives(0, &dated(20), 1), Arrival::Refuse);
        for (days, expected) in [(20, Status::Pass), (60, Status::Fail)] {
            let mut rig = Rig::new();
            let know = Knowledge { synced: Synced::No, ..moment(0).know };
            let (said, of) = (dated(days), Hash([1; 32]));
            let arrival = rig.check.arrives(0, (0, 0, &know), (KEY, &[1]), (&said, of, Made::Well));
            assert_eq!(arrival, Arrival::Open);
            rig.store(1, &said, 1);
            assert_eq!(rig.status("emergency.ends"), expected, "{days} days");
        }
    }

    #[test]
    fn a_denial_for_what_is_over_is_seen() {
        for (at, expected) in [(9 * HOUR, Status::Pass), (11 * HOUR, Status::Fail)] {
            let mut rig = Rig::new();
            rig.store(0, &said(1, 10 * HOUR), 1);
            rig.check.denied(&mut rig.tally, &moment(at), &rig.name, "revoked by emergency key 07 of ann");
            assert_eq!(rig.status("emergency.ends"), expected);
        }
    }
}
