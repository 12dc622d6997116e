//! What a run came to in the numbers that an operator asks for.
//!
//! Owns: [`Answers`], and the running account that they are taken from.
//! Never: judges anything, and never guesses: what a run does not know is left out.
//! Read next: `report/`, which shows them.

use std::collections::BTreeMap;

use hardtack::agent::effects::{Entry, StoredRecord};
use hardtack::agent::feed::Held;
use hardtack::ids::{EraId, FeedId};
use hardtack::wire::audit::segment::SegmentHeader;
use hardtack::wire::audit::{Event as AuditEvent, Record};
use hardtack::wire::policy::TimeClass;
use serde::Serialize;

use crate::check::authority::Share;
use crate::check::clock::Synced;
use crate::check::feed::Owed;
use crate::disk::{Medium, Step};

/// What a run came to for whoever operates such a fleet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Answers {
    /// Decisions that allowed.
    pub allowed: u64,
    /// Decisions that denied.
    pub denied: u64,
    /// Good requests, with nothing that speaks against them, and
    pub legitimate: u64,
    /// how many of them were denied.
    pub denied_legitimate: u64,
    /// How often the operator revoked.
    pub revocations: u64,
    /// Decisions that allowed what the operator had revoked by then, where word of it had not come.
    pub allowed_revoked: u64,
    /// For how long, in milliseconds over all gateways, one ran that held a token which was revoked, had not ended, and of
    /// whose revocation it did not know. An upper bound of how long such a token was of use there.
    pub exposure_ms: u64,
    /// From an operator's revocation to its feed's position on a gateway's disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revocation_latency: Option<Latency>,
    /// Gateways, summed over revocations, that a revocation had not reached in the end.
    pub revocations_pending: u64,
    /// What fallback grants had to bear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burned: Option<Burned>,
    /// The most gateways that connected again within one second, and when that was, in milliseconds since the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_reconnects: Option<Peak>,
    /// Topics and payloads that arrived at the broker from gateways,
    pub uplink_bytes: u64,
    /// and at gateways from it. What MQTT, TLS and TCP add is not modelled.
    pub downlink_bytes: u64,
    /// What commits gave the disk to write: files, records and segments. What the anchor, the store and the file system
    /// add is not modelled.
    pub flash_bytes: u64,
    /// Records that gateways counted as lost, in gap records whose end is known,
    pub audit_lost: u64,
    /// and gap records whose end is not.
    pub audit_lost_unknown: u64,
    /// Records that were durable on gateways and not at the collector in the end.
    pub audit_pending: u64,
}

/// How long revocations took, in milliseconds, each figure at most 1 % too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// How many reached a gateway.
    pub count: u64,
    /// Half of them took at most this.
    pub p50_ms: u64,
    /// Of a hundred all but one took at most this.
    pub p99_ms: u64,
    /// None took longer.
    pub max_ms: u64,
}

/// What fallback grants had to bear, and how much of each there was: it shows how long an outage the fleet could have borne.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Burned {
    /// Decisions that were allowed by what gateways narrowed from them.
    pub uses: u64,
    /// The most of them by one grant,
    pub most_uses: u64,
    /// of so many that it has.
    pub uses_max: u64,
    /// The longest that a gateway had had no round trip for when it allowed one, in milliseconds of powered-on time,
    pub longest_alone_ms: u64,
    /// of so many that a grant serves for.
    pub offline_max_ms: u64,
    /// The most boots since the last round trip when one was allowed,
    pub most_boots: u32,
    /// of so many that a grant serves for.
    pub boots_max: u32,
}

/// The running account of [`Burned`].
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Bearing {
    uses: u64,
    most_uses: u64,
    longest_alone: u64,
    most_boots: u32,
}

impl Bearing {
    /// A grant was used, for the so-manieth time, so long and so many boots after the last round trip.
    pub(crate) fn use_of_one(&mut self, used: u64, alone: u64, boots: u32) {
        self.uses += 1;
        self.most_uses = self.most_uses.max(used);
        self.longest_alone = self.longest_alone.max(alone);
        self.most_boots = self.most_boots.max(boots);
    }

    /// Beside what each grant has.
    pub(crate) fn of(&self, uses_max: u64, offline_max_ms: u64, boots_max: u32) -> Option<Burned> {
        let Self { uses, most_uses, longest_alone, most_boots } = *self;
        let burned = Burned {
            uses,
            most_uses,
            uses_max,
            longest_alone_ms: longest_alone,
            offline_max_ms,
            most_boots,
            boots_max,
        };
        (uses > 0).then_some(burned)
    }
}

/// The most of something within a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Peak {
    /// How many.
    pub count: u32,
    /// When that second began.
    pub at_ms: u64,
}

/// A feed's position: era and number.
type Order = (u32, u64);

/// A revoked token in a program's hands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Open {
    /// Which credential.
    pub(crate) number: usize,
    /// Its end in true time.
    pub(crate) until: u64,
    /// The powered-on time that is left of its life.
    pub(crate) left: u64,
    /// The position that tells of it.
    pub(crate) owed: Owed,
}

#[derive(Debug, Default)]
struct Gateway {
    /// An agent runs and is awake.
    runs: bool,
    /// Up to when the exposure is counted.
    settled: u64,
    open: Vec<Open>,
    exposed: u64,
    /// The complete position of each feed on its disk.
    holds: BTreeMap<FeedId, Order>,
    /// Per era the index after the last record that is durable here, and after the last that the collector has stored.
    eras: BTreeMap<EraId, (u64, u64)>,
    connected: bool,
}

impl Gateway {
    fn settle(&mut self, at: u64) {
        let (from, passed) = (self.settled, at.saturating_sub(self.settled));
        self.settled = at;
        if !self.runs {
            self.open.retain(|open| open.until > at);
            return;
        }
        let lasts = |open: &Open| passed.min(open.until.saturating_sub(from)).min(open.left);
        self.exposed += self.open.iter().map(lasts).max().unwrap_or(0);
        self.open.iter_mut().for_each(|open| open.left -= passed.min(open.left));
        self.open.retain(|open| open.until > at && open.left > 0);
    }

    fn backlog(&self) -> u64 {
        self.eras.values().map(|(durable, stored)| durable.saturating_sub(*stored)).sum()
    }
}

/// How many of each length, to the next 128th of it.
#[derive(Debug, Default)]
struct Spread {
    counts: BTreeMap<u64, u64>,
    max: u64,
}

impl Spread {
    fn add(&mut self, length: u64) {
        let grain = 1u64 << (64 - length.leading_zeros()).saturating_sub(7);
        *self.counts.entry(length.div_ceil(grain) * grain).or_default() += 1;
        self.max = self.max.max(length);
    }

    fn latency(&self) -> Option<Latency> {
        let count: u64 = self.counts.values().sum();
        let percentile = |of_hundred: u64| {
            let rank = (count * of_hundred).div_ceil(100).max(1);
            let mut so_far = 0;
            let reached = |entry: &(&u64, &u64)| {
                so_far += entry.1;
                so_far >= rank
            };
            self.counts.iter().find(reached).map_or(self.max, |(length, _)| (*length).min(self.max))
        };
        (count > 0).then(|| Latency { count, p50_ms: percentile(50), p99_ms: percentile(99), max_ms: self.max })
    }
}

/// The running account.
#[derive(Debug)]
pub(crate) struct Ledger {
    gateways: Vec<Gateway>,
    /// Per feed the position that tells of each revocation, and when the operator revoked.
    revocations: BTreeMap<FeedId, Vec<(Order, u64)>>,
    spread: Spread,
    second: Peak,
    peak: Option<Peak>,
    start: u64,
    so_far: Answers,
}

impl Ledger {
    pub(crate) fn new(devices: u32, start: u64) -> Self {
        Self {
            gateways: (0..devices).map(|_| Gateway { settled: start, ..Gateway::default() }).collect(),
            revocations: BTreeMap::new(),
            spread: Spread::default(),
            second: Peak { count: 0, at_ms: 0 },
            peak: None,
            start,
            so_far: Answers::default(),
        }
    }

    fn of(&mut self, device: u32) -> &mut Gateway {
        &mut self.gateways[device as usize]
    }

    /// Whether an agent runs and is awake from now on.
    pub(crate) fn runs(&mut self, at: u64, device: u32, runs: bool) {
        self.of(device).settle(at);
        self.of(device).runs = runs;
    }

    /// The operator revoked something, and the position is known that tells of it.
    pub(crate) fn revoked(&mut self, at: u64, owed: &Owed) {
        self.so_far.revocations += 1;
        self.revocations.entry(owed.feed.clone()).or_default().push((owed.order, at));
    }

    /// A program on a gateway holds what was revoked just now.
    pub(crate) fn exposed(&mut self, at: u64, device: u32, open: Open) {
        let gateway = self.of(device);
        gateway.settle(at);
        let news = gateway.open.iter().all(|other| other.number != open.number);
        if news && open.until > at && open.left > 0 {
            gateway.open.push(open);
        }
    }

    /// A credential's task is finished.
    pub(crate) fn over(&mut self, at: u64, device: u32, credential: usize) {
        let gateway = self.of(device);
        gateway.settle(at);
        gateway.open.retain(|open| open.number != credential);
    }

    /// A feed's files are durable on a gateway. Returns its position if that is a newer one.
    pub(crate) fn holds(&mut self, at: u64, device: u32, feed: &FeedId, held: &Held) -> Option<Order> {
        let head = held.head.as_ref()?.claim().ok()?;
        let order = (head.era, head.seq);
        let gateway = &mut self.gateways[device as usize];
        let before = gateway.holds.get(feed).copied();
        if before.is_some_and(|before| order <= before) {
            return None;
        }
        gateway.holds.insert(feed.clone(), order);
        gateway.settle(at);
        gateway.open.retain(|open| open.owed.feed != *feed || open.owed.order > order);
        if let (Some(before), Some(revocations)) = (before, self.revocations.get(feed)) {
            let new = revocations.iter().rev().take_while(|(of, _)| *of > before).filter(|(of, _)| *of <= order);
            new.for_each(|(_, since)| self.spread.add(at - since));
        }
        Some(order)
    }

    /// A gateway let a feed go: it has what that told from the feed that it follows now.
    pub(crate) fn let_go(&mut self, at: u64, device: u32, feed: &FeedId) {
        let gateway = self.of(device);
        gateway.settle(at);
        gateway.holds.remove(feed);
        gateway.open.retain(|open| open.owed.feed != *feed);
    }

    /// What a start finds on a disk.
    pub(crate) fn found(&mut self, device: u32, medium: &Medium) {
        let gateway = &mut self.gateways[device as usize];
        let after = |entries: &Vec<Entry>| {
            let ends = entries.iter().map(|entry| match entry {
                Entry::Record(record) => record.index + 1,
                Entry::Segment(segment) => segment.first_index + u64::from(segment.count),
            });
            ends.max().unwrap_or(0)
        };
        let stored = |era: &EraId| gateway.eras.get(era).map_or(0, |(_, stored)| *stored);
        let eras = medium.eras.iter().map(|(era, entries)| (*era, (after(entries), stored(era)))).collect();
        gateway.eras = eras;
    }

    /// A commit with these records is durable, and what was removed is gone.
    pub(crate) fn recorded(&mut self, device: u32, records: &[StoredRecord], dropped: &[EraId]) {
        let gateway = self.of(device);
        for record in records {
            let durable = &mut gateway.eras.entry(record.era).or_default().0;
            *durable = (record.index + 1).max(*durable);
        }
        if !dropped.is_empty() {
            gateway.eras.retain(|era, _| !dropped.contains(era));
        }
    }

    /// The collector stored a segment.
    pub(crate) fn stored(&mut self, device: u32, header: &SegmentHeader) {
        if let (Some(era), Ok(next)) = (self.of(device).eras.get_mut(&header.era), header.next_index()) {
            era.1 = next.max(era.1);
        }
    }

    /// Records that are durable on a gateway and that the collector has not stored.
    pub(crate) fn backlog(&self, device: u32) -> u64 {
        self.gateways[device as usize].backlog()
    }

    /// A record became durable that may say what was lost.
    pub(crate) fn admitted(&mut self, record: &Record) {
        if let AuditEvent::Gap(gap) = &record.event {
            match gap.end {
                Some(end) => self.so_far.audit_lost += end.saturating_sub(gap.first),
                None => self.so_far.audit_lost_unknown += 1,
            }
        }
    }

    /// A decision reached its caller.
    pub(crate) fn decided(&mut self, allow: bool, revoked: bool) {
        self.so_far.allowed += u64::from(allow);
        self.so_far.denied += u64::from(!allow);
        self.so_far.allowed_revoked += u64::from(allow && revoked);
    }

    /// A gateway connects: again, unless it never did before.
    pub(crate) fn knocks(&mut self, at: u64, device: u32) {
        if !std::mem::replace(&mut self.of(device).connected, true) {
            return;
        }
        let second = at / 1000 * 1000;
        let count = if self.second.at_ms == second { self.second.count + 1 } else { 1 };
        self.second = Peak { count, at_ms: second };
        if self.peak.is_none_or(|peak| count > peak.count) {
            self.peak = Some(self.second);
        }
    }

    /// Bytes from a gateway are at the broker.
    pub(crate) fn sent_up(&mut self, bytes: usize) {
        self.so_far.uplink_bytes += bytes as u64;
    }

    /// Bytes from the broker are at a gateway.
    pub(crate) fn sent_down(&mut self, bytes: usize) {
        self.so_far.downlink_bytes += bytes as u64;
    }

    /// A commit gave the disk so much to write.
    pub(crate) fn written(&mut self, bytes: u64) {
        self.so_far.flash_bytes += bytes;
    }

    /// In the end.
    pub(crate) fn finish(mut self, at: u64, shares: &BTreeMap<(TimeClass, Synced), Share>) -> Answers {
        self.gateways.iter_mut().for_each(|gateway| gateway.settle(at));
        let behind = |feed: &FeedId, order: Order| {
            let holds = self.gateways.iter().filter_map(|gateway| gateway.holds.get(feed));
            holds.filter(|held| **held < order).count() as u64
        };
        let revocations =
            self.revocations.iter().flat_map(|(feed, of)| of.iter().map(move |(order, _)| (feed, *order)));
        let revocations_pending = revocations.map(|(feed, order)| behind(feed, order)).sum();
        let sum = |of: &dyn Fn(&Share) -> u64| shares.values().map(of).sum();
        Answers {
            legitimate: sum(&|share| share.good),
            denied_legitimate: sum(&|share| share.good - share.allowed),
            exposure_ms: self.gateways.iter().map(|gateway| gateway.exposed).sum(),
            revocation_latency: self.spread.latency(),
            revocations_pending,
            peak_reconnects: self
                .peak
                .map(|Peak { count, at_ms }| Peak { count, at_ms: at_ms.saturating_sub(self.start) }),
            audit_pending: self.gateways.iter().map(Gateway::backlog).sum(),
            ..self.so_far
        }
    }
}

/// What a step of a commit gives the disk to write, as far as the model knows it.
pub(crate) fn bytes_of(step: &Step) -> u64 {
    let bytes = match step {
        Step::Replace(_, content) => content.len(),
        Step::Append(Entry::Record(record)) => record.bytes.len(),
        Step::Append(Entry::Segment(segment)) => segment.header.len(),
        Step::SyncFolder(_)
        | Step::CreateEra(_)
        | Step::SyncEra
        | Step::SyncEntries
        | Step::WriteAnchor(_)
        | Step::SyncAnchor
        | Step::Remove(_)
        | Step::DropEra(_)
        | Step::Shed(_) => 0,
    };
    bytes as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;

    fn owed(seq: u64) -> Owed {
        Owed { feed: "main".parse().unwrap(), order: (1, seq) }
    }

    fn open(number: usize, until: u64, left: u64) -> Open {
        Open { number, until, left, owed: owed(7) }
    }

    #[test]
    fn exposure_is_counted_once_per_gateway_while_it_runs_and_no_longer_than_the_token_lives() {
        check_exposure(&[open(1, 60 * MINUTE, 60 * MINUTE)], 30);
        check_exposure(&[open(1, 60 * MINUTE, 60 * MINUTE), open(2, 60 * MINUTE, 60 * MINUTE)], 30);
        check_exposure(&[open(1, 25 * MINUTE, 60 * MINUTE)], 15);
        check_exposure(&[open(1, 60 * MINUTE, 12 * MINUTE)], 12);
        check_exposure(&[open(1, 60 * MINUTE, 12 * MINUTE), open(2, 35 * MINUTE, 60 * MINUTE)], 25);
        check_exposure(&[], 0);
    }

    /// Revoked at once; off from minute 10 to 20; done at minute 40.
    #[track_caller]
    fn check_exposure(opens: &[Open], minutes: u64) {
        let mut ledger = Ledger::new(1, 0);
        ledger.runs(0, 0, true);
        opens.iter().for_each(|open| ledger.exposed(0, 0, open.clone()));
        ledger.runs(10 * MINUTE, 0, false);
        ledger.runs(20 * MINUTE, 0, true);
        opens.iter().for_each(|open| ledger.over(40 * MINUTE, 0, open.number));
        let answers = ledger.finish(50 * MINUTE, &BTreeMap::new());
        assert_eq!(answers.exposure_ms, minutes * MINUTE, "{opens:?}");
    }

    #[test]
    fn of_what_grants_bore_the_most_counts_and_nothing_is_said_where_none_was_used() {
        assert_eq!(Bearing::default().of(10, 1000, 5), None);
        let mut bearing = Bearing::default();
        bearing.use_of_one(1, 700, 0);
        bearing.use_of_one(2, 300, 4);
        bearing.use_of_one(1, 0, 0);
        let burned = bearing.of(10, 1000, 5).unwrap();
        assert_eq!((burned.uses, burned.most_uses, burned.longest_alone_ms, burned.most_boots), (3, 2, 700, 4));
    }

    #[test]
    fn latencies_are_at_most_a_hundredth_too_large_and_never_too_small() {
        let mut spread = Spread::default();
        (1..=1000).for_each(|number| spread.add(number * 1000));
        let latency = spread.latency().unwrap();
        assert_eq!((latency.count, latency.max_ms), (1000, 1_000_000));
        assert!((500_000..=505_000).contains(&latency.p50_ms), "{latency:?}");
        assert!((990_000..=1_000_000).contains(&latency.p99_ms), "{latency:?}");
        assert_eq!(Spread::default().latency(), None);
        let mut one = Spread::default();
        one.add(0);
        assert_eq!(one.latency(), Some(Latency { count: 1, p50_ms: 0, p99_ms: 0, max_ms: 0 }));
    }

    #[test]
    fn a_first_connection_is_no_reconnection_and_the_peak_is_the_first_of_its_height() {
        let mut ledger = Ledger::new(3, 1000);
        (0..3).for_each(|device| ledger.knocks(1000, device));
        (0..2).for_each(|device| ledger.knocks(5300 + u64::from(device), device));
        (0..2).for_each(|device| ledger.knocks(9300, device));
        let answers = ledger.finish(10_000, &BTreeMap::new());
        assert_eq!(answers.peak_reconnects, Some(Peak { count: 2, at_ms: 4000 }));
    }
}
