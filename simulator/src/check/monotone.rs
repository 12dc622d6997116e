//! I5: positions, versions, the floor of time and budgets never go back, whatever restarts in between.
//!
//! Owns: per gateway the highest of each that was ever durable, or said on the wire, or shown to an operator.
//! Never: compares a number of one gateway with that of another.
//! Read next: `hardtack::agent::Anchor`, where most of them stand.

use std::collections::BTreeMap;
use std::fmt::{Debug, Display};

use hardtack::agent::effects::{Budget, StoredRecord};
use hardtack::agent::emergency::EmergencyMark;
use hardtack::agent::request::{Mode, StatusReply};
use hardtack::agent::Anchor;
use hardtack::ids::{BlockId, DeviceId, FeedId, KeyId};
use hardtack::time::Timestamp;
use hardtack::wire::link::Hello;
use hardtack::wire::revocation::Position;

use super::{Id, Tally};

#[derive(Debug, Default)]
struct High {
    generation: u64,
    place: (u64, u64),
    floor: Timestamp,
    bundle: u64,
    policy: u64,
    /// The feed that the gateway has, by the trust bundle on its disk.
    own: Option<FeedId>,
    /// Feeds that it let go of begin anew, should it come to them again.
    feeds: BTreeMap<FeedId, (u32, u64)>,
    emergencies: BTreeMap<KeyId, u64>,
    budgets: BTreeMap<BlockId, Budget>,
    /// What a `hello` said is judged when the broker has it: by then more may be durable.
    wire_place: (u64, u64),
    wire_bundle: u64,
    wire_policy: u64,
    wire_feeds: BTreeMap<FeedId, (u32, u64)>,
}

/// The highest that was seen of each gateway.
#[derive(Debug)]
pub(crate) struct MonotoneCheck {
    high: Vec<High>,
}

impl MonotoneCheck {
    pub(crate) fn new(devices: u32) -> Self {
        Self { high: (0..devices).map(|_| High::default()).collect() }
    }

    /// Records became durable. `today` is the latest that it is by all that the gateway was told.
    pub(crate) fn records_durable<'a>(
        &mut self,
        tally: &mut Tally,
        (at, today): (u64, Timestamp),
        (device, name): (u32, &DeviceId),
        records: impl Iterator<Item = &'a StoredRecord>,
    ) {
        let high = &mut self.high[device as usize];
        for record in records {
            let place = (record.era.number, record.index);
            tally.tried(Id::Monotone, at, rise(name, "the chain's position", &mut high.place, place));
            for budget in &record.budgets {
                tally.tried(Id::MonotoneBudget, at, charge(name, &mut high.budgets, budget, today));
            }
        }
    }

    /// An anchor became durable.
    pub(crate) fn anchor_durable(
        &mut self,
        tally: &mut Tally,
        (at, today): (u64, Timestamp),
        (device, name): (u32, &DeviceId),
        anchor: &Anchor,
    ) {
        let high = &mut self.high[device as usize];
        let place = (anchor.era.map_or(0, |era| era.number), anchor.next_index);
        let broken = [
            rise(name, "the anchor's generation", &mut high.generation, anchor.generation),
            // The next index may be the one of a record that is not durable yet; the era may not.
            (place.0 < high.place.0).then(|| went_back(name, "the era in the anchor", &high.place.0, &place.0)),
            rise(name, "the floor", &mut high.floor, anchor.floor),
            rise(name, "the trust bundle", &mut high.bundle, anchor.bundle.0),
            rise(name, "the policy", &mut high.policy, anchor.policy.0),
            feeds(name, &mut high.feeds, &anchor.feeds, high.own.as_ref()),
            emergencies(name, &mut high.emergencies, &anchor.emergencies),
        ];
        tally.tried(Id::Monotone, at, broken.into_iter().flatten().next());
        for budget in &anchor.budgets {
            tally.tried(Id::MonotoneBudget, at, charge(name, &mut high.budgets, budget, today));
        }
        if let Some(lost) = forgotten(name, &mut high.budgets, &anchor.budgets, today) {
            tally.broken(Id::MonotoneBudget, at, lost);
        }
    }

    /// A trust bundle is durable that gives a gateway this feed.
    pub(crate) fn followed(&mut self, device: u32, own: FeedId) {
        self.high[device as usize].own = Some(own);
    }

    /// The last position that was durable here.
    pub(crate) fn place(&self, device: u32) -> (u64, u64) {
        self.high[device as usize].place
    }

    /// The newest trust bundle that was durable here.
    pub(crate) fn bundle(&self, device: u32) -> u64 {
        self.high[device as usize].bundle
    }

    /// The newest anchor's number that was durable here.
    pub(crate) fn generation(&self, device: u32) -> u64 {
        self.high[device as usize].generation
    }

    /// The gateway's disk lost what was durable, by a fault that the proofs do not cover: it starts from what is left,
    /// records up to `place`.
    pub(crate) fn forget(&mut self, device: u32, place: (u64, u64)) {
        let high = &mut self.high[device as usize];
        *high = High { place, own: high.own.take(), ..High::default() };
    }

    /// The gateway's disk lost records, and nothing else: what its anchor says stands. It goes on from `place`, and what the
    /// records had charged nobody knows.
    pub(crate) fn forget_records(&mut self, device: u32, place: (u64, u64)) {
        let high = &mut self.high[device as usize];
        (high.place, high.wire_place) = (place, (0, 0));
        high.budgets.clear();
    }

    /// A slot of its anchor is lost: the other one, with this number, counts, and E may start from there.
    pub(crate) fn forget_slot(&mut self, device: u32, left: u64) {
        let high = &mut self.high[device as usize];
        high.generation = left;
        high.floor = Timestamp(0);
    }

    /// The root keys turned its clock back.
    pub(crate) fn turned_back(&mut self, device: u32, floor: Timestamp) {
        self.high[device as usize].floor = floor;
    }

    /// A `hello` went over the wire.
    pub(crate) fn hello(&mut self, tally: &mut Tally, at: u64, (device, name): (u32, &DeviceId), hello: &Hello) {
        let high = &mut self.high[device as usize];
        let broken = [
            rise(name, "the position in hello", &mut high.wire_place, (hello.era.number, hello.next_index)),
            rise(name, "the trust bundle in hello", &mut high.wire_bundle, hello.bundle_version),
            rise(name, "the policy in hello", &mut high.wire_policy, hello.policy_version),
            feeds(name, &mut high.wire_feeds, &hello.feeds, high.own.as_ref()),
        ];
        tally.tried(Id::Monotone, at, broken.into_iter().flatten().next());
    }

    /// An operator was shown the status: it is at least what was durable.
    pub(crate) fn status(
        &mut self,
        tally: &mut Tally,
        at: u64,
        (device, name): (u32, &DeviceId),
        status: &StatusReply,
    ) {
        let high = &self.high[device as usize];
        // A newer trust bundle that is not durable yet may have given it another feed.
        let own = high.own.as_ref().filter(|_| status.bundle_version <= high.bundle);
        let seq = own.and_then(|own| high.feeds.get(own)).map_or(0, |(_, seq)| *seq);
        // Whose list or policy is lost holds none, and is locked: where it stood it tells the fleet, and knows again with the next.
        let due = |durable: u64, shown: u64| if status.mode == Mode::Locked && shown == 0 { 0 } else { durable };
        let shown = [
            ("the feed", due(seq, status.feed_seq), status.feed_seq),
            ("the trust bundle", high.bundle, status.bundle_version),
            ("the policy", due(high.policy, status.policy_version), status.policy_version),
            ("the era", high.place.0, status.era),
        ];
        let back = shown.into_iter().find(|(_, durable, shown)| shown < durable);
        let broken =
            back.map(|(what, durable, shown)| went_back(name, &format!("{what} in the status"), &durable, &shown));
        tally.tried(Id::Monotone, at, broken);
    }
}

fn rise<T: PartialOrd + Debug>(name: &DeviceId, what: impl Display, high: &mut T, now: T) -> Option<String> {
    if now < *high {
        return Some(went_back(name, &what.to_string(), high, &now));
    }
    *high = now;
    None
}

fn went_back(name: &DeviceId, what: &str, high: &dyn Debug, now: &dyn Debug) -> String {
    format!("{what} of {name} went back from {high:?} to {now:?}")
}

fn feeds(
    name: &DeviceId,
    high: &mut BTreeMap<FeedId, (u32, u64)>,
    now: &[Position],
    own: Option<&FeedId>,
) -> Option<String> {
    high.retain(|id, _| own == Some(id) || now.iter().any(|position| position.feed == *id));
    now.iter().find_map(|position| {
        let Some(known) = high.get_mut(&position.feed) else {
            high.insert(position.feed.clone(), position.order());
            return None;
        };
        rise(name, format_args!("feed {}", position.feed), known, position.order())
    })
}

fn emergencies(name: &DeviceId, high: &mut BTreeMap<KeyId, u64>, now: &[EmergencyMark]) -> Option<String> {
    now.iter().find_map(|mark| {
        let known = high.entry(mark.key).or_insert(mark.counter);
        rise(name, format_args!("the counter of emergency key {}", mark.key), known, mark.counter)
    })
}

/// What was charged to a block stays charged until it has expired: then nobody needs the count any more.
fn charge(name: &DeviceId, high: &mut BTreeMap<BlockId, Budget>, now: &Budget, today: Timestamp) -> Option<String> {
    let known = high.entry(now.block).or_insert(*now);
    let broken =
        (now.used < known.used && today <= now.until).then(|| went_back(name, "a budget", &known.used, &now.used));
    known.used = known.used.max(now.used);
    broken
}

/// A budget may only be forgotten once its block has expired.
fn forgotten(
    name: &DeviceId,
    high: &mut BTreeMap<BlockId, Budget>,
    now: &[Budget],
    today: Timestamp,
) -> Option<String> {
    high.retain(|_, budget| budget.until >= today);
    let held = |block: &BlockId| now.iter().any(|budget| budget.block == *block);
    let lost = high.values().find(|budget| budget.until > today && !held(&budget.block))?;
    Some(format!("{name} forgot a budget of {} uses before its block expired", lost.used))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clocks::date;
    use crate::report::Status;

    fn anchor(generation: u64) -> Anchor {
        let position = Position { feed: "main".parse().unwrap(), era: 1, seq: 5, digest: hardtack::ids::Hash::ZERO };
        let budget = Budget { block: BlockId([1; 32]), used: 3, until: Timestamp::MAX };
        Anchor {
            generation,
            floor: Timestamp(10),
            bundle: (2, hardtack::ids::Hash::ZERO),
            feeds: vec![position],
            emergencies: vec![EmergencyMark {
                alone: true,
                key: KeyId([7; 8]),
                counter: 3,
                digest: hardtack::ids::Hash::ZERO,
                lost: None,
            }],
            budgets: vec![budget],
            ..Anchor::default()
        }
    }

    #[test]
    fn a_feed_that_was_let_go_begins_anew_and_the_own_one_never_does() {
        let check = |own: &str, expected: Status| {
            let (mut tally, mut check) = (Tally::default(), MonotoneCheck::new(1));
            let name: DeviceId = "gw-0".parse().unwrap();
            check.followed(0, own.parse().unwrap());
            for (generation, seq) in [(1, Some(5)), (2, None), (3, Some(4))] {
                let mut anchor = anchor(generation);
                anchor.feeds.retain_mut(|position| {
                    position.seq = seq.unwrap_or(0);
                    seq.is_some()
                });
                check.anchor_durable(&mut tally, (generation, date(1)), (0, &name), &anchor);
            }
            let property = tally.properties().into_iter().find(|property| property.id == "I5").unwrap();
            assert_eq!(property.status, expected, "{property:?}");
        };
        check("north", Status::Pass);
        check("main", Status::Fail);
    }

    #[test]
    fn what_an_anchor_says_stands_though_records_are_lost() {
        let check = |edit: &dyn Fn(&mut Anchor), expected: Status| {
            let (mut tally, mut check) = (Tally::default(), MonotoneCheck::new(1));
            let name: DeviceId = "gw-0".parse().unwrap();
            check.anchor_durable(&mut tally, (1, date(1)), (0, &name), &anchor(1));
            check.forget_records(0, (0, 0));
            let mut second = anchor(2);
            edit(&mut second);
            check.anchor_durable(&mut tally, (2, date(2)), (0, &name), &second);
            let property = tally.properties().into_iter().find(|property| property.id == "I5").unwrap();
            assert_eq!(property.status, expected, "{property:?}");
        };
        check(&|anchor| anchor.budgets.clear(), Status::Pass);
        check(&|anchor| anchor.feeds[0].seq = 4, Status::Fail);
        check(&|anchor| anchor.bundle.0 = 1, Status::Fail);
        check(&|anchor| anchor.floor = Timestamp(9), Status::Fail);
        check(&|anchor| anchor.emergencies[0].counter = 2, Status::Fail);
    }

    #[track_caller]
    fn check_second(edit: impl Fn(&mut Anchor), expected: Status) {
        check_second_of("I5", edit, expected);
    }

    #[track_caller]
    fn check_second_of(id: &str, edit: impl Fn(&mut Anchor), expected: Status) {
        let (mut tally, mut check) = (Tally::default(), MonotoneCheck::new(1));
        let name: DeviceId = "gw-0".parse().unwrap();
        check.anchor_durable(&mut tally, (1, date(1)), (0, &name), &anchor(1));
        let mut second = anchor(2);
        edit(&mut second);
        check.anchor_durable(&mut tally, (2, date(2)), (0, &name), &second);
        let property = tally.properties().into_iter().find(|property| property.id == id).unwrap();
        assert_eq!(property.status, expected, "{property:?}");
    }

    #[test]
    fn whatever_goes_back_is_seen() {
        check_second(|_| {}, Status::Pass);
        check_second(|anchor| anchor.generation = 0, Status::Fail);
        check_second(|anchor| anchor.floor = Timestamp(9), Status::Fail);
        check_second(|anchor| anchor.bundle.0 = 1, Status::Fail);
        check_second(|anchor| anchor.feeds[0].seq = 4, Status::Fail);
        check_second(|anchor| anchor.feeds[0].era = 0, Status::Fail);
        check_second(|anchor| anchor.feeds[0].seq = 6, Status::Pass);
        check_second(|anchor| anchor.emergencies[0].counter = 2, Status::Fail);
        check_second(|anchor| anchor.emergencies[0].counter = 4, Status::Pass);
        check_second_of("I5.budget", |anchor| anchor.budgets[0].used = 2, Status::Fail);
        check_second_of("I5.budget", |anchor| anchor.budgets.clear(), Status::Fail);
        check_second_of("I5.budget", |_| {}, Status::Pass);
    }
}
