//! I1 and I2: audited first, nothing lost silently.
//!
//! Owns: what callers were told, to be found on the disk when they hear it and at the collector in the end.
//! Never: believes the collector: the chain is verified here once more, from the uploads' own bytes.
//! Read next: `hardtack::wire::audit`.

use std::collections::btree_map::Entry as Seen;
use std::collections::{BTreeMap, BTreeSet};

use hardtack::agent::effects::Entry;
use hardtack::agent::request::{DecisionReply, Verdict};
use hardtack::ids::{BlockId, DeviceId, EraId, FleetId, StepId, TaskId};
use hardtack::wire::audit::segment::Upload;
use hardtack::wire::audit::{Event, Gap, GapCause, Named, Record, TaskEvent, TaskStep, TrustChange};
use hardtack::wire::bundle::PublicKey;
use hardtack::wire::token::EXCHANGE;

mod chains;

use chains::{verify, Chains};

use super::suspend::Lock;
use super::{Id, Tally};
use crate::disk::Medium;

/// A decision as its caller saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Observed {
    allow: bool,
    operation: String,
    resource: String,
    /// What the credential names that was shown, where it was one that an agent handed out.
    named: Option<Named>,
    /// When it was heard again: a denial that was counted with the record of the first.
    again: Vec<u64>,
    /// How many of these a killed process may have left uncounted.
    unsure: u64,
}

/// A segment as the collector stored it.
#[derive(Debug, Clone)]
pub(crate) struct Collected {
    pub(crate) device: u32,
    pub(crate) upload: Upload,
}

/// What callers were told, by gateway, era number and index.
#[derive(Debug, Default)]
pub(crate) struct AuditCheck {
    observed: BTreeMap<(u32, u64, u64), Observed>,
    /// Gateways whose disks a fault damaged, and the last era that any of it can be of.
    damaged: BTreeMap<u32, u64>,
    /// Eras, by their numbers, of which a row of a gateway's disk rotted: what they lost is counted, and nothing of others.
    rotten: BTreeSet<(u32, u64)>,
    /// Gateways that lost one of their anchor's two slots.
    half_anchored: BTreeSet<u32>,
    /// Gateways whose storage was restored from an image.
    restored: BTreeSet<u32>,
    /// Tasks of which the record of their end was durable once: it may have been handed over since.
    ended: BTreeSet<(u32, TaskId)>,
    /// Eras that a copy of a gateway's storage wrote elsewhere.
    of_twins: BTreeSet<(u32, EraId)>,
    /// How often the clock of a gateway was reset.
    resets: BTreeMap<u32, usize>,
}

/// What a program is told of its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    Begun,
    Finished,
}

impl Observed {
    fn is_as(&self, other: &Self) -> bool {
        (self.allow, &self.operation, &self.resource) == (other.allow, &other.operation, &other.resource)
    }
}

impl Told {
    fn recorded_as(self, step: TaskStep) -> bool {
        match step {
            TaskStep::BegunFallback | TaskStep::BegunIssued | TaskStep::Renewed => self == Self::Begun,
            TaskStep::Ended | TaskStep::Finished => self == Self::Finished,
            TaskStep::Refused | TaskStep::Stepped | TaskStep::Attenuated => false,
        }
    }
}

impl AuditCheck {
    /// A decision is about to reach its caller: its record must survive a power cut at this moment.
    pub(crate) fn decided(
        &mut self,
        tally: &mut Tally,
        at: u64,
        (device, name): (u32, &DeviceId),
        reply: &DecisionReply,
        (operation, resource, named): (&str, &str, Option<Named>),
        durable: &Medium,
    ) {
        let observed = Observed {
            named,
            allow: reply.decision == Verdict::Allow,
            operation: operation.to_owned(),
            resource: resource.to_owned(),
            again: Vec::new(),
            unsure: 0,
        };
        let place = (reply.audit.era, reply.audit.index);
        self.heard(tally, at, (device, name), (&reply.decision_id, place), observed, durable);
    }

    /// The answer to an exchange is about to reach its caller, with where it is recorded: as an allow of what names somebody,
    /// or as a denial. Returns the place.
    pub(crate) fn exchanged(
        &mut self,
        tally: &mut Tally,
        at: u64,
        (device, name): (u32, &DeviceId),
        decision_id: &str,
        (task, named): (&TaskId, Option<Named>),
        durable: &Medium,
    ) -> Option<(u64, u64)> {
        let numbers = |id: &str| {
            let (era, index) = id.strip_prefix(name.as_str())?.strip_prefix('/')?.split_once('/')?;
            Some((era.parse().ok()?, index.parse().ok()?))
        };
        let Some(place) = numbers(decision_id) else {
            let how = format!("{name} answered an exchange, and says that it is recorded as {decision_id}");
            tally.tried(Id::AuditedFirst, at, Some(how));
            return None;
        };
        let observed = Observed {
            allow: named.is_some(),
            operation: EXCHANGE.into(),
            resource: task.to_string(),
            named,
            again: Vec::new(),
            unsure: 0,
        };
        self.heard(tally, at, (device, name), (decision_id, place), observed, durable);
        Some(place)
    }

    /// A decision of this name is about to be told, with the place of its record.
    fn heard(
        &mut self,
        tally: &mut Tally,
        at: u64,
        (device, name): (u32, &DeviceId),
        (decision_id, (era, index)): (&str, (u64, u64)),
        observed: Observed,
        durable: &Medium,
    ) {
        let broken = if decision_id == format!("{name}/{era}/{index}") {
            match durable_event(durable, era, index) {
                None => Some(format!("{decision_id} was answered before its record was durable")),
                Some(event) if !same(&observed, &event) => {
                    Some(format!("{decision_id} was answered otherwise than it is recorded"))
                }
                Some(_) => None,
            }
        } else {
            Some(format!("decision {decision_id} says that its record is at {era}/{index}"))
        };
        tally.tried(Id::AuditedFirst, at, broken);
        match self.observed.entry((device, era, index)) {
            Seen::Vacant(new) => drop(new.insert(observed)),
            Seen::Occupied(mut seen) if !observed.allow && seen.get().is_as(&observed) => {
                seen.get_mut().again.push(at);
            }
            Seen::Occupied(mut seen) => {
                seen.insert(observed);
                if !self.restored.contains(&device) {
                    tally.broken(Id::NothingLost, at, format!("two decisions are called {decision_id}"));
                }
            }
        }
    }

    /// A process ended without a word: what it counted since then may be written nowhere.
    pub(crate) fn killed(&mut self, device: u32, since: u64) {
        for (_, observed) in self.observed.range_mut((device, 0, 0)..(device + 1, 0, 0)) {
            let unsure = observed.again.iter().filter(|at| **at >= since).count() as u64;
            observed.unsure = observed.unsure.max(unsure);
        }
    }

    /// A record is durable.
    pub(crate) fn durable(&mut self, device: u32, record: &Record) {
        if let Event::Task(event) = &record.event {
            let ended = event.task.as_ref().filter(|_| Told::Finished.recorded_as(event.step));
            self.ended.extend(ended.map(|task| (device, task.clone())));
        }
    }

    /// A task's credential or end is about to reach its program: the record of just that must be durable.
    pub(crate) fn told_of_task(
        &self,
        tally: &mut Tally,
        at: u64,
        (device, name): (u32, &DeviceId),
        (task, told): (&TaskId, Told),
        durable: &Medium,
    ) {
        let about = |event: &TaskEvent| event.task.as_ref() == Some(task) && told.recorded_as(event.step);
        let known = told == Told::Finished && self.ended.contains(&(device, task.clone()));
        let found = known || is_durable(durable, about);
        let broken = (!found).then(|| format!("{name} told of task {task} before the record of it was durable"));
        tally.tried(Id::AuditedFirst, at, broken);
    }

    /// A step is about to reach its planner: the record of just that must be durable.
    pub(crate) fn told_of_step(
        &self,
        tally: &mut Tally,
        at: u64,
        (_, name): (u32, &DeviceId),
        step: &StepId,
        durable: &Medium,
    ) {
        let about = |event: &TaskEvent| {
            event.step == TaskStep::Stepped && event.of_step.as_ref().is_some_and(|named| named.id == *step)
        };
        let found = is_durable(durable, about);
        let broken = (!found).then(|| format!("{name} told of step {step} before the record of it was durable"));
        tally.tried(Id::AuditedFirst, at, broken);
    }

    /// A narrowed credential is about to reach its program: the record of just that must be durable.
    pub(crate) fn told_of_sibling(
        &self,
        tally: &mut Tally,
        at: u64,
        (_, name): (u32, &DeviceId),
        (task, chain): (&TaskId, &[BlockId]),
        durable: &Medium,
    ) {
        let about = |event: &TaskEvent| event.step == TaskStep::Attenuated && event.chain == chain;
        let found = is_durable(durable, about);
        let broken = (!found)
            .then(|| format!("{name} narrowed a credential of task {task} before the record of it was durable"));
        tally.tried(Id::AuditedFirst, at, broken);
    }

    /// A gateway's disk was damaged by a fault that the proofs do not cover: of what it had by then, up to `era` or one that
    /// it had just begun, gaps are what is owed, and nothing of one whose storage was restored, because it numbers records a
    /// second time.
    pub(crate) fn damaged(&mut self, device: u32, era: u64, lock: Lock) {
        let last = self.damaged.entry(device).or_default();
        *last = (era + 1).max(*last);
        if lock == Lock::Final {
            self.restored.insert(device);
        }
    }

    /// A row of an era on a gateway's disk can be read no more: gaps of that era are what is owed.
    pub(crate) fn rotten(&mut self, device: u32, era: u64) {
        self.rotten.insert((device, era));
    }

    /// A gateway lost one of its anchor's two slots. The other may be from before an era was handed over and given back, and a
    /// gap that tells of such an era says nothing that is not so: its records are not there.
    pub(crate) fn lost_slot(&mut self, device: u32) {
        self.half_anchored.insert(device);
    }

    /// Records that its disk said it had are gone, and nothing else that it has speaks of them: nobody can tell.
    pub(crate) fn forgive(&mut self, device: u32, lost: impl IntoIterator<Item = (u64, u64)>) {
        for (era, index) in lost {
            self.observed.remove(&(device, era, index));
        }
    }

    /// A copy of a gateway's storage ran elsewhere, and wrote this era under its name.
    pub(crate) fn cloned(&mut self, device: u32, era: EraId) {
        self.of_twins.insert((device, era));
    }

    /// A gateway's clock was reset: the collector must hear of it.
    pub(crate) fn was_reset(&mut self, device: u32) {
        *self.resets.entry(device).or_default() += 1;
    }

    /// In the end: every decision that was observed is once in the collector's chain, or in what it set aside beside that, or
    /// counted in a gap; and each era names the one before it.
    pub(crate) fn finish(
        &self,
        tally: &mut Tally,
        at: u64,
        fleet: &FleetId,
        devices: &[(DeviceId, PublicKey)],
        stored: (&[Collected], &[Collected]),
    ) {
        // One gateway after the other: what all of them wrote, read at once, is more than all the rest of a run.
        let mut of: BTreeMap<u32, [Vec<&Collected>; 2]> =
            self.observed.keys().map(|(device, ..)| (*device, [vec![], vec![]])).collect();
        of.extend(self.resets.keys().map(|device| (*device, Default::default())));
        for (place, stored) in [stored.0, stored.1].into_iter().enumerate() {
            stored.iter().for_each(|segment| of.entry(segment.device).or_default()[place].push(segment));
        }
        // A damaged disk forgets where an era ended that the collector has more of: that one, and no other.
        let spoiled = |device: u32, era: u64| {
            let damaged = self.damaged.get(&device).is_some_and(|last| era <= *last);
            self.restored.contains(&device) || damaged || self.rotten.contains(&(device, era))
        };
        for (device, [collected, beside]) in of {
            let Some(chains) = self.conserved(tally, at, fleet, devices, device, (&collected, &beside)) else {
                continue;
            };
            for (device, era, before, problem) in chains.unnamed() {
                if spoiled(device, era) || before.is_some_and(|before| spoiled(device, before)) {
                    continue;
                }
                let name = &devices[device as usize].0;
                tally.tried(Id::NothingLost, at, problem.map(|problem| format!("{name}/{problem}")));
            }
        }
    }

    /// What a gateway decided is collected, or in a gap. Returns what is collected, where that is sound.
    fn conserved(
        &self,
        tally: &mut Tally,
        at: u64,
        fleet: &FleetId,
        devices: &[(DeviceId, PublicKey)],
        device: u32,
        (collected, beside): (&[&Collected], &[&Collected]),
    ) -> Option<Chains> {
        let own = |stored: &&Collected| {
            let era = stored.upload.header.claim().map(|header| header.era);
            !era.is_ok_and(|era| self.of_twins.contains(&(stored.device, era)))
        };
        let verified = verify(fleet, devices, collected.iter().copied().filter(own)).and_then(|mut chains| {
            chains.add(fleet, devices, beside.iter().copied().filter(own))?;
            Ok(chains)
        });
        let chains = match verified {
            Ok(chains) => chains,
            Err(problem) => {
                tally.broken(Id::NothingLost, at, problem);
                return None;
            }
        };
        let damage = |(device, gap): &&(u32, Gap)| {
            let arrived = |place: &&(u32, u64, u64)| chains.events.contains_key(place);
            let of_gateway = self.observed.range((*device, 0, 0)..(*device + 1, 0, 0)).map(|(place, _)| place);
            let mut inside = of_gateway.filter(|(_, era, index)| covers(gap, *era, *index));
            let whole = chains.has_all_of(*device, gap) && inside.all(|place| arrived(&place));
            let handed_over = self.half_anchored.contains(device) && whole;
            let touched = self.damaged.get(device).is_some_and(|last| gap.era.number <= *last);
            let rotten = self.rotten.contains(&(*device, gap.era.number));
            !touched && !rotten && gap.cause != GapCause::Quota && !handed_over
        };
        for (device, gap) in chains.gaps.iter().filter(damage) {
            let name = &devices[*device as usize].0;
            let how =
                format!("{name} has a gap at era {}, from {}, and its disk was honest", gap.era.number, gap.first);
            tally.tried(Id::NothingLost, at, Some(how));
        }
        let resets = self.resets.get_key_value(&device);
        for (device, count) in resets.into_iter().filter(|(device, _)| !self.damaged.contains_key(device)) {
            let told = chains.events.range((*device, 0, 0)..(*device + 1, 0, 0)).flat_map(|(_, events)| events);
            let told = told.filter(|event| matches!(event, Event::Trust(TrustChange::Reset { .. }))).count();
            let name = &devices[*device as usize].0;
            let broken = (told != *count).then(|| format!("the clock of {name} was reset {count} times, told {told}"));
            tally.tried(Id::NothingLost, at, broken);
        }
        for ((device, era, index), repeated) in chains.repeated() {
            let of = chains.events.get(&(device, era, repeated.of)).into_iter().flatten();
            let denied = of.filter(|event| matches!(event, Event::Decision(decision) if !decision.allow)).count() == 1;
            let lost = || chains.gaps.iter().any(|(of, gap)| *of == device && covers(gap, era, repeated.of));
            let sound = repeated.count > 0 && repeated.of < index && (denied || lost());
            let name = &devices[device as usize].0;
            let broken = (!sound).then(|| format!("{name}/{era}/{index} counts no denials: {repeated:?}"));
            tally.tried(Id::NothingLost, at, broken);
        }
        // Answers that no count which is there stands for, by era.
        let mut uncounted: BTreeMap<(u32, u64), u64> = BTreeMap::new();
        let of_device = self.observed.range((device, 0, 0)..(device + 1, 0, 0));
        let judged = of_device.filter(|((device, ..), _)| !self.restored.contains(device));
        for ((device, era, index), observed) in judged {
            let name = &devices[*device as usize].0;
            let found: Vec<&Event> = chains.events.get(&(*device, *era, *index)).into_iter().flatten().collect();
            if let (Some(expected), [Event::Decision(decision)]) = (&observed.named, found.as_slice()) {
                let place = (*device, *era, *index);
                let broken =
                    chains.attribution(place, decision, expected).map(|how| format!("{name}/{era}/{index} {how}"));
                tally.tried(Id::Attributable, at, broken);
            }
            // Denials may have given way to newer ones. Allows never do.
            let counts = |gap: &Gap| gap.cause != GapCause::Quota || !observed.allow;
            let in_gap = chains.gaps.iter().any(|(of, gap)| of == device && counts(gap) && covers(gap, *era, *index));
            let heard = 1 + observed.again.len() as u64;
            let counted = chains.counted(*device, *era, *index);
            // A damaged disk takes counts with it, which stand after the denial, and nobody knows of how many.
            let torn = |gap: &Gap| gap.cause != GapCause::Quota && gap.end.is_none_or(|end| end > *index);
            let gone = chains.gaps.iter().any(|(of, gap)| of == device && gap.era.number == *era && torn(gap));
            let short = heard.saturating_sub(counted + observed.unsure);
            if short > 0 && !gone {
                *uncounted.entry((*device, *era)).or_default() += short;
            }
            let broken = match found.as_slice() {
                [event] if same(observed, event) => None,
                [_] if self.damaged.contains_key(device) && chains.by_word_alone.contains(&(*device, *era, *index)) => {
                    None
                }
                [_] => Some(format!("{name}/{era}/{index} is collected otherwise than its caller saw it")),
                [] if in_gap => None,
                [] => Some(format!("{name}/{era}/{index} was observed and is neither collected nor in a gap record")),
                _ => Some(format!("{name}/{era}/{index} is collected {} times", found.len())),
            };
            tally.tried(Id::NothingLost, at, broken);
        }
        // What counts stood for that were given up is in the gap records of the era, and nothing else is.
        let mut told: BTreeMap<(u32, u64), BTreeMap<u64, u64>> = BTreeMap::new();
        for (device, gap) in chains.gaps.iter().filter(|(device, _)| !self.restored.contains(device)) {
            told.entry((*device, gap.era.number)).or_default().insert(gap.first, gap.repeated);
        }
        for ((device, era), told) in &told {
            uncounted.entry((*device, *era)).or_default();
            // A collector may have what was given up all the same, and those that a kill left uncounted may be among it.
            let of_era = self.observed.range((*device, *era, 0)..(*device, era + 1, 0));
            let heard: u64 = of_era.map(|(_, observed)| observed.again.len() as u64).sum();
            let told: u64 = told.values().sum();
            let name = &devices[*device as usize].0;
            let broken = (told > heard).then(|| {
                format!("gap records tell of {told} answers of {name}/{era} that were counted, and {heard} were heard")
            });
            tally.tried(Id::NothingLost, at, broken);
        }
        for ((device, era), short) in uncounted {
            let told: u64 = told.get(&(device, era)).map_or(0, |told| told.values().sum());
            let name = &devices[device as usize].0;
            let broken = (short > told).then(|| {
                format!("{short} answers of {name}/{era} are counted nowhere, and gap records tell of {told}")
            });
            tally.tried(Id::NothingLost, at, broken);
        }
        Some(chains)
    }

    /// How many decisions callers saw of a gateway.
    pub(crate) fn seen(&self) -> usize {
        self.observed.len()
    }
}

/// Whether the record of something that became of a task is durable.
fn is_durable(durable: &Medium, about: impl Fn(&TaskEvent) -> bool) -> bool {
    let about = |entry: &Entry| match entry {
        Entry::Record(stored) => Record::from_bytes(&stored.bytes).is_ok_and(|record| match record.event {
            Event::Task(event) => about(&event),
            Event::Decision(_)
            | Event::Gap(_)
            | Event::Grant(_)
            | Event::Mode(_)
            | Event::Refused(_)
            | Event::Start(_)
            | Event::Trust(_)
            | Event::Repeated(_)
            | Event::Alive(_)
            | Event::Ended(_) => false,
        }),
        Entry::Segment(_) => false,
    };
    // The newest era is written to, and what was told just now is near its end.
    durable.eras.values().rev().flat_map(|log| log.iter().rev()).any(about)
}

fn covers(gap: &Gap, era: u64, index: u64) -> bool {
    gap.era.number == era && gap.first <= index && gap.end.is_none_or(|end| index < end)
}

fn same(observed: &Observed, event: &Event) -> bool {
    match event {
        Event::Decision(decision) => {
            decision.allow == observed.allow
                && decision.operation == observed.operation
                && decision.resource == observed.resource
        }
        Event::Gap(_)
        | Event::Grant(_)
        | Event::Mode(_)
        | Event::Refused(_)
        | Event::Start(_)
        | Event::Task(_)
        | Event::Trust(_)
        | Event::Repeated(_)
        | Event::Alive(_)
        | Event::Ended(_) => false,
    }
}

fn durable_event(durable: &Medium, era: u64, index: u64) -> Option<Event> {
    // The newest era is written to; looking from its end finds a fresh record at once.
    let logs = durable.eras.iter().rev().filter(|(id, _)| id.number == era);
    let mut entries = logs.flat_map(|(_, log)| log.iter().rev());
    let stored = entries.find_map(|entry| match entry {
        Entry::Record(stored) if stored.era.number == era && stored.index == index => Some(stored),
        Entry::Record(_) | Entry::Segment(_) => None,
    })?;
    Record::from_bytes(&stored.bytes).ok().map(|record| record.event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;
    use hardtack::ids::Hash;
    use hardtack::time::Timestamp;
    use hardtack::wire::audit::segment::{grow, SegmentHeader};
    use hardtack::wire::audit::signer::AuditKey;
    use hardtack::wire::audit::{genesis, Credential, Decision, EraEnd, Known, Repeated};
    use hardtack::wire::envelope::Signed;

    const ERA: EraId = EraId { number: 1, salt: 9 };

    fn fleet() -> FleetId {
        "acme".parse().unwrap()
    }

    fn name() -> DeviceId {
        "gw-0".parse().unwrap()
    }

    fn decision(allow: bool) -> Event {
        let known = Known {
            mode: "offline".into(),
            freshness: "unknown".into(),
            staleness_s: 0,
            time_class: "bounded".into(),
            width_ms: None,
            bundle_version: 1,
            policy_version: 1,
            feed_seq: None,
        };
        Event::Decision(Box::new(Decision {
            allow,
            reason: "allowed".into(),
            operation: "read".into(),
            resource: "a/b".into(),
            destination: None,
            risk: None,
            arguments: None,
            credential: Credential::Nothing,
            workload: Vec::new(),
            enforcer: Vec::new(),
            known,
        }))
    }

    fn segment(events: Vec<Event>) -> Collected {
        let records: Vec<Record> = events
            .into_iter()
            .zip(0..)
            .map(|(event, index)| Record { index, floor: Timestamp(1), powered: Timestamp(1), event })
            .collect();
        let (leaves, root) = grow(&records);
        let previous = genesis(&fleet(), &name(), ERA);
        let header = SegmentHeader {
            device: name(),
            era: ERA,
            segment: 0,
            first_index: 0,
            count: records.len() as u32,
            previous,
            root,
            closed_at: Timestamp(1),
            recovered: false,
            signer: Some(certificate()),
            feeds: Vec::new(),
            salvage: None,
        };
        let header = Signed::sign(&header, &fleet(), &[&key()]);
        Collected { device: 0, upload: Upload { header, leaves } }
    }

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[3; 32])
    }

    /// One key for everything.
    fn certificate() -> Signed<AuditKey> {
        let vouched = AuditKey { device: name(), epoch: 1, key: key().verifying_key().into() };
        Signed::sign(&vouched, &fleet(), &[&key()])
    }

    fn observed(index: u64) -> AuditCheck {
        let (operation, resource) = ("read".into(), "a/b".into());
        let observed = Observed { allow: true, operation, resource, named: None, again: Vec::new(), unsure: 0 };
        AuditCheck { observed: BTreeMap::from([((0, 1, index), observed)]), ..AuditCheck::default() }
    }

    fn damaged(index: u64) -> AuditCheck {
        AuditCheck { damaged: BTreeMap::from([(0, 1)]), ..observed(index) }
    }

    #[track_caller]
    fn check_fails(check: &AuditCheck, collected: &[Collected], fails: bool) {
        check_fails_beside(check, collected, &[], fails);
    }

    #[track_caller]
    fn check_fails_beside(check: &AuditCheck, collected: &[Collected], beside: &[Collected], fails: bool) {
        let mut tally = Tally::default();
        let devices = [(name(), key().verifying_key().into())];
        let (collected, beside): (Vec<_>, Vec<_>) = (collected.iter().collect(), beside.iter().collect());
        check.conserved(&mut tally, 5, &fleet(), &devices, 0, (&collected, &beside));
        check_broken(&tally, fails);
    }

    #[track_caller]
    fn check_broken(tally: &Tally, fails: bool) {
        let property = tally.properties().into_iter().find(|property| property.id == "I2").unwrap();
        assert_eq!(property.witness.is_some(), fails, "{property:?}");
    }

    #[test]
    fn collected_once_or_in_a_gap_passes_and_nothing_else() {
        let gap = |first, end| Event::Gap(Gap { era: ERA, first, end, cause: GapCause::Damaged, repeated: 0 });
        check_fails(&observed(0), &[segment(vec![decision(true)])], false);
        check_fails(&observed(0), &[segment(vec![decision(false)])], true);
        check_fails(&observed(1), &[segment(vec![decision(true)])], true);
        check_fails(&damaged(7), &[segment(vec![gap(5, Some(8))])], false);
        check_fails(&damaged(8), &[segment(vec![gap(5, Some(8))])], true);
        check_fails(&damaged(8), &[segment(vec![gap(5, None)])], false);
        check_fails(&observed(7), &[segment(vec![gap(5, Some(8))])], true);
        // An era that began after the damage has no part in it.
        let before = AuditCheck { damaged: BTreeMap::from([(0, 0)]), ..observed(7) };
        check_fails(&before, &[segment(vec![gap(5, Some(8))])], true);
        // Half an anchor is no excuse where something is gone.
        let half = AuditCheck { half_anchored: [0].into(), ..observed(7) };
        check_fails(&half, &[segment(vec![gap(5, Some(8))])], true);
        let quota = Event::Gap(Gap { era: ERA, first: 5, end: Some(8), cause: GapCause::Quota, repeated: 0 });
        check_fails(&observed(7), &[segment(vec![quota.clone()])], true);
        let denied = |index| {
            let mut check = observed(index);
            check.observed.values_mut().for_each(|observed| observed.allow = false);
            check
        };
        check_fails(&denied(7), &[segment(vec![quota.clone()])], false);
        check_fails(&denied(8), &[segment(vec![quota])], true);
        let mut given_up = segment(vec![decision(false)]);
        given_up.upload.leaves.clear();
        check_fails(&denied(0), &[given_up], true);
        check_fails(&observed(0), &[segment(vec![decision(true)]), segment(vec![decision(true)])], true);
        let mut damaged = segment(vec![decision(true)]);
        damaged.upload.leaves[0][3] ^= 1;
        check_fails(&observed(0), &[damaged], true);
    }

    #[test]
    fn what_was_set_aside_is_there_if_it_goes_on_from_the_trail() {
        let (short, long) = (|| segment(vec![decision(true)]), || segment(vec![decision(true), decision(true)]));
        check_fails(&observed(1), &[short()], true);
        check_fails_beside(&observed(1), &[short()], &[long()], false);
        check_fails_beside(&observed(2), &[short()], &[long()], true);
        let denied = segment(vec![decision(true), decision(false)]);
        check_fails_beside(&observed(1), &[short()], &[denied], true);
        let mut damaged = long();
        damaged.upload.leaves[0][3] ^= 1;
        check_fails_beside(&observed(1), &[short()], &[damaged], true);
        let mut elsewhere = long().upload.header.claim().unwrap();
        elsewhere.previous = Hash::ZERO;
        let header = Signed::sign(&elsewhere, &fleet(), &[&key()]);
        let in_the_air = Collected { device: 0, upload: Upload { header, ..long().upload } };
        check_fails_beside(&observed(0), &[short()], &[in_the_air], true);
    }

    #[test]
    fn answers_of_one_name_are_counted_or_a_kill_explains_it() {
        let heard = |again: &[u64]| {
            let mut check = observed(0);
            let first = check.observed.get_mut(&(0, 1, 0)).unwrap();
            (first.allow, first.again) = (false, again.to_vec());
            check
        };
        let repeated = |of, count| Event::Repeated(Repeated { of, count, since: Timestamp(1), until: Timestamp(1) });
        let counted = |counts: &[Event]| [segment([&[decision(false)], counts].concat())];
        check_fails(&heard(&[5, 6]), &counted(&[repeated(0, 2)]), false);
        check_fails(&heard(&[5, 6]), &counted(&[repeated(0, 1), repeated(0, 1)]), false);
        check_fails(&heard(&[5, 6]), &counted(&[repeated(0, 1)]), true);
        check_fails(&heard(&[5, 6]), &counted(&[]), true);
        check_fails(&heard(&[]), &counted(&[repeated(1, 2)]), true);
        let mut killed = heard(&[5, 6]);
        killed.killed(0, 6);
        check_fails(&killed, &counted(&[repeated(0, 1)]), false);
        check_fails(&killed, &counted(&[]), true);
        killed.killed(0, 5);
        check_fails(&killed, &counted(&[]), false);
        check_fails(&observed(0), &[segment(vec![decision(true), repeated(0, 1)])], true);
        // A gap record excuses as many as it tells of, of the era that it is of; what a damaged disk lost, all after it.
        let gap = |era, first, cause, repeated| {
            Event::Gap(Gap { era: EraId { number: era, salt: 9 }, first, end: Some(first + 4), cause, repeated })
        };
        check_fails(&heard(&[5, 6]), &counted(&[gap(1, 8, GapCause::Quota, 2)]), false);
        check_fails(&heard(&[5, 6]), &counted(&[gap(1, 8, GapCause::Quota, 1), repeated(0, 1)]), false);
        check_fails(&heard(&[5, 6]), &counted(&[gap(1, 8, GapCause::Quota, 1)]), true);
        check_fails(&heard(&[5, 6]), &counted(&[gap(2, 8, GapCause::Quota, 2)]), true);
        check_fails(&heard(&[5, 6]), &counted(&[gap(1, 8, GapCause::Quota, 3)]), true);
        let twice = [gap(1, 8, GapCause::Quota, 1), gap(1, 8, GapCause::Quota, 1)];
        check_fails(&heard(&[5, 6]), &counted(&twice), true);
        let torn = |check: AuditCheck| AuditCheck { damaged: BTreeMap::from([(0, 9)]), ..check };
        check_fails(&torn(heard(&[5, 6])), &counted(&[gap(1, 8, GapCause::Damaged, 0)]), false);
        check_fails(&torn(heard(&[5, 6])), &counted(&[gap(2, 8, GapCause::Damaged, 0)]), true);
    }

    #[test]
    fn an_era_begins_with_a_start_or_names_the_one_before_it() {
        let ended = |number, next_index| {
            Event::Ended(EraEnd { era: EraId { number, salt: 9 }, next_index, head: hardtack::ids::Hash::ZERO })
        };
        for (events, fails) in [
            (vec![ended(0, 7)], false),
            (vec![decision(true)], true),
            // Of an era that is here it is known where it ends.
            (vec![ended(1, 2), decision(true)], false),
            (vec![ended(1, 3), decision(true)], true),
        ] {
            let mut tally = Tally::default();
            let devices = [(name(), key().verifying_key().into())];
            AuditCheck::default().finish(&mut tally, 5, &fleet(), &devices, (&[segment(events)], &[]));
            check_broken(&tally, fails);
        }
    }

    #[test]
    fn of_a_rotten_era_nobody_knows_the_end_and_of_all_others_one_does() {
        let named = |number| Event::Ended(EraEnd { era: EraId { number, salt: 9 }, next_index: 3, head: Hash::ZERO });
        let era = |number, events| {
            let mut collected = segment(events);
            let mut header = collected.upload.header.claim().unwrap();
            header.era.number = number;
            header.previous = genesis(&fleet(), &name(), header.era);
            collected.upload.header = Signed::sign(&header, &fleet(), &[&key()]);
            collected
        };
        let finished = |check: &AuditCheck| {
            let mut tally = Tally::default();
            let devices = [(name(), key().verifying_key().into())];
            // The first era has two records, the second says that it had three.
            let all = [era(1, vec![named(0), decision(true)]), era(2, vec![named(1)])];
            check.finish(&mut tally, 5, &fleet(), &devices, (&all, &[]));
            tally
        };
        let rotten =
            |eras: &[u64]| AuditCheck { rotten: eras.iter().map(|era| (0, *era)).collect(), ..AuditCheck::default() };
        check_broken(&finished(&rotten(&[])), true);
        check_broken(&finished(&rotten(&[1])), false);
        check_broken(&finished(&rotten(&[2])), false);
        check_broken(&finished(&rotten(&[3, 7])), true);
        let damaged = |last| AuditCheck { damaged: BTreeMap::from([(0, last)]), ..AuditCheck::default() };
        check_broken(&finished(&damaged(1)), false);
        check_broken(&finished(&damaged(0)), true);
    }

    #[test]
    fn an_answer_without_a_durable_record_fails() {
        use hardtack::agent::effects::StoredRecord;
        use hardtack::agent::request::{AuditRef, Freshness, Mode, Reason, TimeClass};
        let reply = DecisionReply {
            decision: Verdict::Allow,
            reason: Reason::Allowed,
            explain: String::new(),
            decided_by: None,
            decision_id: "gw-0/1/0".into(),
            mode: Mode::Offline,
            freshness: Freshness::Unknown,
            staleness_s: 0,
            time_class: TimeClass::Bounded,
            expires_in_s: None,
            audit: AuditRef { era: 1, segment: 0, index: 0 },
        };
        let record = Record { index: 0, floor: Timestamp(1), powered: Timestamp(1), event: decision(true) };
        let stored = StoredRecord { era: ERA, index: 0, bytes: record.to_bytes(), budgets: Vec::new() };
        let mut durable = Medium::default();
        let status = |durable: &Medium, reply: &DecisionReply| {
            let mut tally = Tally::default();
            let mut check = AuditCheck::default();
            check.decided(&mut tally, 1, (0, &name()), reply, ("read", "a/b", None), durable);
            tally.properties()[0].witness.is_some()
        };
        assert!(status(&durable, &reply), "nothing is durable");
        durable.eras.insert(ERA, vec![Entry::Record(stored)]);
        assert!(!status(&durable, &reply));
        assert!(status(&durable, &DecisionReply { decision: Verdict::Deny, ..reply.clone() }), "recorded otherwise");
        assert!(status(&durable, &DecisionReply { decision_id: "gw-0/1/1".into(), ..reply }), "another name");
    }

    /// The newest slot of the anchor is deleted after a start whose era before was all handed over: the other slot tells of that
    /// era as of one that is open.
    #[test]
    fn an_era_that_was_handed_over_may_be_told_of_once_more_by_half_an_anchor() {
        let text = "schema = 1\nname = \"half\"\nabout = \"x\"\nseed = 28\nduration = \"1h45m\"\nheal = \"1h25m\"\nrequire = []\n\
            [fleet]\ndevices = 1\nera_records = 4781\nhead_every = \"14m18s\"\nprofile = \"energy-armv7-1g\"\nroots = 3\n\
            threshold = 2\n[workload]\nquiet = true\n\
            [[act]]\nact = \"begin\"\nat = \"1h9m7s188ms\"\ndevice = 0\npick = 0\n\
            [[act]]\nact = \"process_restart\"\nat = \"1h21m24s\"\ndevice = 0\nlasts = 120000\npick = 0\n\
            [[act]]\nact = \"authorize\"\nat = \"1h30m\"\ndevice = 0\npick = 0\nrisk = \"low\"\ntoken = \"forged\"\n\
            [[act]]\nact = \"disk_damage\"\nat = \"1h24m15s\"\ncopy = 1\ndamage = \"slot_deleted\"\ndevice = 0\n\
            lasts = 1\npick = 0\n";
        let report = crate::case::Case::parse(text, None).unwrap().run();
        let lost = report.properties.iter().find(|property| property.id == "I2").unwrap();
        assert_eq!((lost.status, lost.witness.as_deref()), (crate::report::Status::Pass, None));
        assert!(report.answers.audit_lost > 0, "there is such a gap");
    }
}
