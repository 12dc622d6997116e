//! The checkers over evidence from outside: exports of real audits, and traces.
//!
//! Owns: which properties such evidence can put to the test, the judgement of each with a witness, and why the others cannot
//! be judged by it.
//! Never: counts as held what a file cannot tell; takes the oracle's part, for there is none.
//! Read next: `../export.rs`, which reads it.

use std::collections::BTreeMap;
use std::io::BufRead;

use hardtack::fleet::report::holes::Arrived;
use hardtack::fleet::report::twins::Twin;
use hardtack::fleet::report::Report;
use hardtack::ids::{DeviceId, EraId, FeedId, GrantId};
use hardtack::time::{Millis, Timestamp};
use hardtack::wire::audit::fork::Contradiction;
use hardtack::wire::audit::{record_id, Decision, Event as Told, GapCause, Named, Record, TrustChange};
use hardtack::wire::bundle::PublicKey;
use hardtack::wire::revocation::announcement::BelievedSet;
use hardtack::wire::revocation::carry::{Carried, CARRIED_BYTES_MAX};
use hardtack::wire::revocation::rules::Selector;
use serde::Serialize;

use super::{clock, Id};
use crate::event::Event;
use crate::export::{read, Evidence, Judge, NoEvidence, Sound};
use crate::report::{Status, PROPERTIES};

/// Corrections of P that nothing is recorded of are smaller, and between two records there may be a few.
const UNTOLD: Millis = Millis::from_secs(60);
/// E is rounded down to seconds where it is compared with an end, and P up.
const ROUNDING: Millis = Millis::from_secs(1);

/// What a file comes to.
#[derive(Debug, Serialize)]
pub struct Verdict {
    /// `export` or `trace`.
    pub evidence: &'static str,
    /// The verdict over all properties.
    pub verdict: Status,
    /// Gateways that it tells of.
    pub devices: usize,
    /// Records whose signatures and chains check out; none in a trace.
    pub records: u64,
    /// Events that it tells.
    pub events: u64,
    /// Each property, in the order of [`PROPERTIES`].
    pub properties: Vec<Judged>,
}

/// A property as evidence from outside shows it.
#[derive(Debug, Serialize)]
pub struct Judged {
    /// Its id.
    pub id: &'static str,
    /// How it stands.
    pub status: Status,
    /// How often it was tried.
    pub checked: u64,
    /// The first record that breaks it, and how.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub witness: Option<String>,
    /// Why it is vacuous.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<&'static str>,
}

/// What was revoked when, as whoever checks brings it along: signed heads of feeds with their whole sets.
#[derive(Debug, Default)]
pub struct Revocations(Vec<BelievedSet>);

impl Revocations {
    /// Takes what `hardtack fleet revocations export` wrote. The heads are signed with keys that the trust bundles in it name.
    ///
    /// # Errors
    /// Why it is none, in words.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), String> {
        let carried = Carried::from_bytes(bytes).map_err(|refused| refused.to_string())?;
        let bundles: Vec<_> = carried.bundles.iter().filter_map(|bundle| bundle.claim().ok()).collect();
        for (head, set) in carried.feeds {
            let feed = head.claim().map_err(|refused| refused.to_string())?.feed;
            let keys: Vec<_> = bundles.iter().flat_map(|bundle| bundle.feed_keys(&feed)).collect();
            let keys = keys.iter().copied();
            let opened = BelievedSet::open(head, &set, CARRIED_BYTES_MAX, &feed, &carried.fleet, keys);
            self.0.push(opened.map_err(|refused| format!("the head of feed {feed}: {refused}"))?);
        }
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn of(set: BelievedSet) -> Self {
        Self(vec![set])
    }
}

/// Judges a file.
///
/// # Errors
/// [`NoEvidence`], with the line and what is wrong in it.
pub fn judge(file: impl BufRead, revocations: &Revocations) -> Result<Verdict, NoEvidence> {
    let mut outside = Outside::new(revocations);
    let evidence = read(file, &mut outside)?;
    let name = match evidence {
        Evidence::Export(report) => {
            outside.conserved(&report);
            "export"
        }
        Evidence::Trace => "trace",
    };
    Ok(outside.verdict(name))
}

/// The highest that was seen of a gateway, under one identity key.
#[derive(Default)]
struct High {
    identity: Option<PublicKey>,
    era: Option<EraId>,
    floor: Timestamp,
    powered: Timestamp,
    bundle: u64,
    policy: u64,
    grants: BTreeMap<GrantId, Timestamp>,
    /// Which of the sets that were brought along it holds.
    holds: Vec<bool>,
}

/// What is judged so far.
struct Outside<'r> {
    revocations: &'r Revocations,
    counts: BTreeMap<&'static str, u64>,
    witnesses: BTreeMap<&'static str, String>,
    high: BTreeMap<DeviceId, High>,
    /// By the gateway's number, in events.
    feeds: BTreeMap<(u32, String), (u32, u64)>,
    places: BTreeMap<u32, (u64, u64)>,
    starts: BTreeMap<u32, u64>,
    devices: BTreeMap<u32, String>,
    records: u64,
    events: u64,
}

impl Judge for Outside<'_> {
    fn segment(&mut self, sound: &Sound<'_>) {
        let header = &sound.checked.header;
        self.devices.entry(sound.number).or_insert_with(|| header.device.to_string());
        self.records += sound.checked.records.len() as u64;
        if !sound.beside {
            let high = self.high.entry(header.device.clone()).or_default();
            let identity = Some(sound.checked.signer.identity);
            let damaged = |record: &Record| match &record.event {
                Told::Gap(gap) => gap.cause != GapCause::Quota,
                Told::Alive(_)
                | Told::Decision(_)
                | Told::Ended(_)
                | Told::Grant(_)
                | Told::Mode(_)
                | Told::Refused(_)
                | Told::Repeated(_)
                | Told::Start(_)
                | Told::Task(_)
                | Told::Trust(_) => false,
            };
            let replaced = high.identity != identity;
            let era = header.era;
            let twin = high.era.filter(|last| !replaced && last.number == era.number && *last != era);
            // What a damaged disk lost may have held what rises; a gateway in the place of another begins anew.
            // Of two trails with one number neither goes on from the other.
            if replaced
                || twin.is_some()
                || header.salvage.is_some()
                || sound.checked.records.iter().any(|(record, _)| damaged(record))
            {
                let grants = if replaced { BTreeMap::new() } else { std::mem::take(&mut high.grants) };
                *high = High {
                    identity,
                    era: None,
                    grants,
                    holds: vec![false; self.revocations.0.len()],
                    ..High::default()
                };
                if replaced || twin.is_some() {
                    self.places.remove(&sound.number);
                    self.starts.remove(&sound.number);
                }
                self.feeds.retain(|(number, _), _| *number != sound.number);
            }
            high.era = Some(era);
            let broken = twin.map(|_| {
                let device = &header.device;
                format!("{device}/{era}/0: two eras have this number under one identity key: a clone, or a disk that was put back")
            });
            if broken.is_some() {
                self.tried(Id::Monotone, broken);
            }
        }
        for (record, named) in &sound.checked.records {
            let id = record_id(&header.device, header.era, record.index);
            if !sound.beside {
                self.rises(&header.device, &id, record);
            }
            if let Told::Decision(decision) = &record.event {
                self.decided(&header.device, &id, record, decision, named.as_deref());
            }
        }
    }

    fn event(&mut self, at: u64, event: &Event) {
        self.events += 1;
        match event {
            Event::Applied { device, feed, era, seq } => {
                let place = (*device, feed.clone());
                let before = self.feeds.insert(place, (*era, *seq)).unwrap_or_default();
                let back = before > (*era, *seq);
                let broken = back.then(|| {
                    let name = self.name(*device);
                    format!("{name} at {}: feed {feed} went back from {before:?} to {:?}", clock(at), (era, seq))
                });
                self.tried(Id::Monotone, broken);
            }
            Event::Decided { device, allow, era, index, .. } => {
                // Denials that are the same have one name.
                if *allow {
                    let before = self.places.get(device).copied();
                    let back = before.filter(|before| *before >= (*era, *index));
                    let broken = back.map(|before| {
                        let name = self.name(*device);
                        format!("{name}/{era}/{index}: an allow whose name comes after {before:?} was given before it")
                    });
                    self.tried(Id::NothingLost, broken);
                    self.places.insert(*device, (*era, *index));
                }
            }
            Event::AgentStarted { device, start } => {
                let before = self.starts.insert(*device, *start);
                let broken = before.filter(|before| before >= start).map(|before| {
                    format!("{} at {}: start {start} came after start {before}", self.name(*device), clock(at))
                });
                self.tried(Id::Monotone, broken);
            }
            Event::Mode { device, .. } | Event::Stored { device, .. } => {
                let number = *device;
                self.devices.entry(number).or_insert_with(|| format!("gateway {number}"));
            }
            Event::Asleep { .. }
            | Event::Committed { .. }
            | Event::Link { .. }
            | Event::Logged { .. }
            | Event::Message { .. }
            | Event::PlanStep { .. }
            | Event::PowerOn { .. }
            | Event::Replied { .. }
            | Event::Revoked { .. }
            | Event::Stopped { .. } => {}
        }
    }
}

impl<'r> Outside<'r> {
    fn new(revocations: &'r Revocations) -> Self {
        Self {
            revocations,
            counts: BTreeMap::new(),
            witnesses: BTreeMap::new(),
            high: BTreeMap::new(),
            feeds: BTreeMap::new(),
            places: BTreeMap::new(),
            starts: BTreeMap::new(),
            devices: BTreeMap::new(),
            records: 0,
            events: 0,
        }
    }

    fn name(&mut self, device: u32) -> String {
        self.devices.entry(device).or_insert_with(|| format!("gateway {device}")).clone()
    }

    fn tried(&mut self, id: Id, broken: Option<String>) {
        *self.counts.entry(id.name()).or_default() += 1;
        if let Some(broken) = broken {
            self.witnesses.entry(id.name()).or_insert(broken);
        }
    }

    /// Floor, powered-on clock, versions: only the two corrections take any of them back, and both have a record.
    fn rises(&mut self, device: &DeviceId, id: &str, record: &Record) {
        let sets = &self.revocations.0;
        let Some(high) = self.high.get_mut(device) else { return };
        let mut broken = Vec::new();
        match &record.event {
            Told::Trust(TrustChange::Reset { .. }) => {
                high.floor = high.floor.min(record.floor);
                high.powered = high.powered.min(record.powered);
            }
            Told::Trust(TrustChange::Time { .. }) => high.powered = high.powered.min(record.powered),
            Told::Trust(TrustChange::Grant { grant, expires: Some(expires) }) => {
                let known = high.grants.entry(*grant).or_insert(*expires);
                *known = (*expires).max(*known);
            }
            Told::Trust(TrustChange::Feed { position }) => {
                for (set, holds) in sets.iter().zip(&mut high.holds) {
                    let reached = position.feed == set.head.feed && position.order() >= (set.head.era, set.head.seq);
                    *holds |= reached;
                }
            }
            Told::Decision(decision) => {
                let known = &decision.known;
                for (what, high, now) in [
                    ("the trust bundle", &mut high.bundle, known.bundle_version),
                    ("the policy", &mut high.policy, known.policy_version),
                ] {
                    if now < *high {
                        broken.push(format!("{id}: {what} went back from {high} to {now}"));
                    }
                    *high = now.max(*high);
                }
            }
            Told::Alive(_)
            | Told::Ended(_)
            | Told::Gap(_)
            | Told::Grant(_)
            | Told::Mode(_)
            | Told::Refused(_)
            | Told::Repeated(_)
            | Told::Start(_)
            | Told::Task(_)
            | Told::Trust(_) => {}
        }
        if record.floor < high.floor {
            broken.push(format!("{id}: the floor went back from {} to {}", high.floor, record.floor));
        }
        if record.powered + UNTOLD < high.powered {
            broken.push(format!("{id}: the powered-on clock went back from {} to {}", high.powered, record.powered));
        }
        high.floor = high.floor.max(record.floor);
        high.powered = record.powered;
        self.tried(Id::Monotone, broken.into_iter().next());
    }

    fn decided(&mut self, device: &DeviceId, id: &str, record: &Record, decision: &Decision, named: Option<&Named>) {
        let known = &decision.known;
        if !decision.allow {
            return;
        }
        self.tried(Id::FailClosed, (known.mode == "locked").then(|| format!("{id}: it allowed while it was locked")));
        if known.time_class == "strict" {
            let broken =
                known.width_ms.is_none().then(|| format!("{id}: it allowed by a clock without an upper bound"));
            self.tried(Id::BoundedStrict, broken);
        }
        // Only a lost record names it: that is told, and counted.
        let Some(named) = named else { return };
        let missing = [
            ("owner", named.owner.is_empty()),
            ("delegation chain", named.chain.is_empty()),
            ("workload or enforcement point", decision.workload.is_empty() && decision.enforcer.is_empty()),
            ("policy version", known.policy_version == 0),
            ("trust bundle", known.bundle_version == 0),
            ("freshness", known.freshness.is_empty()),
        ];
        let missing = missing.into_iter().find(|(_, missing)| *missing);
        self.tried(Id::Attributable, missing.map(|(what, _)| format!("{id}: an allow that names no {what}")));
        let Some(high) = self.high.get(device) else { return };
        let expires = high.grants.get(&named.grant).copied();
        let held = self.revocations.0.iter().zip(&high.holds).filter(|(_, holds)| **holds).map(|(set, _)| set);
        let held: Vec<&BelievedSet> = held.collect();
        if let Some(expires) = expires {
            let late = |what: &str, clock: Timestamp| {
                (clock > expires + ROUNDING).then(|| {
                    let grant = named.grant;
                    format!("{id}: it allowed by grant {grant}, which ended at {expires}, when {what} was {clock}")
                })
            };
            self.tried(Id::BoundedFloor, late("the floor", record.floor));
            // By the class `floor`, P does not count.
            if known.time_class == "bounded" {
                self.tried(Id::Bounded, late("the powered-on clock", record.powered));
            }
        }
        if held.is_empty() {
            return;
        }
        let broken = held.iter().find_map(|set| {
            let what = revoked_by(set, device, named, record.floor)?;
            let (feed, seq): (&FeedId, u64) = (&set.head.feed, set.head.seq);
            Some(format!("{id}: it allowed what feed {feed} had revoked by head {seq}, which it held: {what}"))
        });
        self.tried(Id::RevocationHolds, broken);
    }

    /// Decided is collected, or in a gap, and the chain is what was signed.
    fn conserved(&mut self, report: &Report) {
        for (id, device) in &report.devices {
            for problem in device.problems.words() {
                self.tried(Id::NothingLost, Some(format!("{id}: {problem}")));
            }
            for missing in &device.holes.missing {
                let (first, last) = (missing.first, missing.end.saturating_sub(1));
                let how = match missing.arrived {
                    Arrived::Nothing => "the era never came, and the one after it names it",
                    Arrived::APart => "others of the era are here",
                };
                let what = format!(
                    "{id}/{}/{first}: records {first} to {last} are neither here nor in a gap record: {how}",
                    missing.era
                );
                self.tried(Id::NothingLost, Some(what));
            }
            for unheard in &device.holes.unheard {
                let (first, last) = (unheard.first, unheard.end.saturating_sub(1));
                let what =
                    format!("{id}/{first}: of eras {first} to {last} nothing is here, and nothing says what they held");
                self.tried(Id::NothingLost, Some(what));
            }
            for branch in device.holes.aside.iter().filter(|branch| branch.proves.is_some()) {
                let (era, segment) = (branch.era, branch.segments.0);
                let what = format!(
                    "{id}/{era}/{}: its keys signed two trails, which part at segment {segment}",
                    branch.indexes.0
                );
                self.tried(Id::Monotone, Some(what));
            }
            // Two eras of one number are seen where the second begins.
            for twin in device.holes.twins.iter().filter(|twin| twin.proves == Contradiction::Key) {
                let Twin { era, epoch, other, other_epoch, proves: _ } = twin;
                let what = format!(
                    "{id}/{era}/0: it begins with an audit key of epoch {epoch}, and era {other} was signed with another of epoch {other_epoch}: a clone, or a disk that was put back"
                );
                self.tried(Id::Monotone, Some(what));
            }
            // Each record is signed, at its number, and follows the one before.
            *self.counts.entry(Id::NothingLost.name()).or_default() += device.records;
        }
    }

    fn verdict(self, evidence: &'static str) -> Verdict {
        let brought = !self.revocations.0.is_empty();
        let judged = |id: &'static str| {
            let checked = self.counts.get(id).copied().unwrap_or(0);
            let witness = self.witnesses.get(id).cloned();
            let status = match (checked, &witness) {
                (_, Some(_)) => Status::Fail,
                (0, None) => Status::Vacuous,
                (_, None) => Status::Pass,
            };
            let why = (status == Status::Vacuous).then(|| why(id, evidence, brought));
            Judged { id, status, checked, witness, why }
        };
        let properties: Vec<Judged> = PROPERTIES.into_iter().map(judged).collect();
        let any = |status: Status| properties.iter().any(|property| property.status == status);
        let verdict = match (any(Status::Fail), any(Status::Pass)) {
            (true, _) => Status::Fail,
            (false, true) => Status::Pass,
            (false, false) => Status::Vacuous,
        };
        Verdict {
            evidence,
            verdict,
            devices: self.devices.len(),
            records: self.records,
            events: self.events,
            properties,
        }
    }
}

/// What of a set covers a credential, as far as a record names it, and is not over by then.
fn revoked_by(set: &BelievedSet, device: &DeviceId, named: &Named, floor: Timestamp) -> Option<String> {
    for (selector, until) in set.set.rules().filter(|(_, until)| floor <= *until) {
        let covers = match selector {
            Selector::All => true,
            Selector::Device(_) => *selector == Selector::device(device.as_str()),
            Selector::Grant(grant) => *grant == named.grant,
            Selector::Owner(_) => *selector == Selector::owner(&named.owner),
            Selector::Task(_) => named.task.as_ref().is_some_and(|task| *selector == Selector::task(task.as_str())),
            // What a record does not name.
            Selector::Audience(_) | Selector::Group(_) | Selector::IssuedBefore(_) | Selector::RootKey(_) => false,
        };
        if covers {
            return Some(format!("{selector} until {until}"));
        }
    }
    let exact = set.set.exact().filter(|(_, slot)| floor <= slot.ends());
    let block = exact.map(|(block, _)| block).find(|block| named.chain.contains(block))?;
    Some(format!("block {block}"))
}

/// Why a property cannot be judged by a file.
fn why(id: &str, evidence: &str, brought: bool) -> &'static str {
    match (id, evidence) {
        ("I1", _) => "when an answer left the device, and what was durable then, no file tells",
        ("I4", "export") if brought => "no record says that a device held a head that was brought along, or nothing was allowed after it",
        ("I4", "export") => "an export does not hold what was revoked: bring it with --revocations",
        ("I3" | "I3.floor", "export") => "no allow names a grant whose end a record of the trail tells",
        ("I3.strict", "export") => "nothing was allowed in the time class strict",
        ("I7", "export") => "nothing was allowed",
        ("I11", "export") => "no allow names a credential",
        ("I2", "export") => "the export holds no record",
        ("I2" | "I5", _) => "the file tells nothing of it",
        (_, "trace") => "a trace has no credentials, no clocks of gateways and no disks: `hardtack-sim replay` judges the run itself",
        ("I3.bounded" | "I4.bounded" | "I4.dropped" | "I4.emergency" | "I4.ended" | "I4.stale" | "emergency.ends", _) => {
            "it takes the true time, the policy in force and what each device had heard"
        }
        ("I5.budget" | "box.boots" | "box.life" | "box.offline" | "box.uses", _) => {
            "a record does not say what was charged, and of a grant only when it ends"
        }
        ("I6" | "I6.child" | "I6.exchange" | "I6.step", _) => "what a credential allowed is not in a record: only which it was",
        ("identity", _) => "the documents that were brought are not in it",
        ("policy", _) => "of arguments a record has no more than their digest",
        ("I8.sealed", _) => "what went over the broker is not in it",
        ("I9" | "I9.disk" | "I9.reserve", _) => "messages and disks are not in it",
        ("I10" | "available" | "live" | "herd" | "caught_up", _) => {
            "what a device was asked, and when a link was open, is not in it"
        }
        _ => "it takes what only a simulated world knows",
    }
}
