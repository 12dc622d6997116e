//! How much room the audit has, and for what.
//!
//! Owns: the four classes of events by how important they are ([`Class`]), what each of them may take of the quota
//! ([`Room`]), and what an era holds of each ([`Content`]).
//! Never: writes, or gives space back. `shed.rs` says what goes when room is short.
//! Read next: `audit.rs`, which keeps the content of each era.

use serde::{Deserialize, Serialize};

use super::effects::Shed;
use crate::mutant::{active, Mutant};
use crate::profile::{QueueLimits, Reserves};
use crate::wire::audit::{Event, Record, TaskStep};

/// How important an event is. In the order of importance: whatever comes first goes on when what follows has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// What the others are understood by: starts, gaps, modes, grants in use, what is trusted.
    Critical,
    /// Allows, and tasks that begin, are renewed or end. Never given up.
    Allow,
    /// Denials, and tasks that were refused. They give way to newer ones, in gap records.
    Denial,
    /// Messages that were refused. They are counted, and told when there is room.
    Notice,
}

impl Class {
    /// Every class, the most important first.
    pub const ALL: [Self; 4] = [Self::Critical, Self::Allow, Self::Denial, Self::Notice];

    /// The name in JSON and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Allow => "allow",
            Self::Denial => "denial",
            Self::Notice => "notice",
        }
    }

    /// The class of an event.
    pub fn of(event: &Event) -> Self {
        match event {
            Event::Ended(_) | Event::Gap(_) | Event::Grant(_) | Event::Mode(_) | Event::Start(_) | Event::Trust(_) => {
                Self::Critical
            }
            Event::Decision(decision) if decision.allow => Self::Allow,
            Event::Decision(_) | Event::Repeated(_) => Self::Denial,
            Event::Alive(_) | Event::Refused(_) => Self::Notice,
            Event::Task(task) => match task.step {
                TaskStep::BegunFallback
                | TaskStep::BegunIssued
                | TaskStep::Ended
                | TaskStep::Finished
                | TaskStep::Renewed
                | TaskStep::Stepped
                | TaskStep::Attenuated => Self::Allow,
                TaskStep::Refused => Self::Denial,
            },
        }
    }

    /// Whether it may be given up when room is short. Nothing later needs such a record: credentials are named by allows,
    /// audit keys are announced in critical records.
    pub const fn is_spare(self) -> bool {
        match self {
            Self::Critical | Self::Allow => false,
            Self::Denial | Self::Notice => true,
        }
    }

    const fn place(self) -> usize {
        match self {
            Self::Critical => 0,
            Self::Allow => 1,
            Self::Denial => 2,
            Self::Notice => 3,
        }
    }
}

/// A record, as far as room is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weighed {
    /// Its class.
    pub class: Class,
    /// Its bytes.
    pub bytes: usize,
    /// How many denials it counts that have no record of their own: they are gone with it.
    pub repeated: u64,
}

impl Weighed {
    /// A record of so many bytes that tells this.
    pub fn of(event: &Event, bytes: usize) -> Self {
        let repeated = match event {
            Event::Repeated(repeated) => repeated.count,
            Event::Alive(_)
            | Event::Decision(_)
            | Event::Ended(_)
            | Event::Gap(_)
            | Event::Grant(_)
            | Event::Mode(_)
            | Event::Refused(_)
            | Event::Start(_)
            | Event::Task(_)
            | Event::Trust(_) => 0,
        };
        Self { class: Class::of(event), bytes, repeated }
    }

    /// A record by its bytes. What cannot be read is kept as if it mattered most.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        let unread = Self { class: Class::Critical, bytes: bytes.len(), repeated: 0 };
        Record::from_bytes(bytes).map_or(unread, |record| Self::of(&record.event, bytes.len()))
    }
}

/// An amount of bytes for each class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shares([u64; 4]);

impl Shares {
    /// Of one class.
    pub fn of(&self, class: Class) -> u64 {
        self.0[class.place()]
    }

    /// Of all together.
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }

    fn add(&mut self, class: Class, bytes: u64) {
        let share = &mut self.0[class.place()];
        *share = share.saturating_add(bytes);
    }

    pub(super) fn add_all(&mut self, other: &Self) {
        Class::ALL.iter().for_each(|class| self.add(*class, other.of(*class)));
    }

    pub(super) fn take(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(share, bytes)| *share = share.saturating_sub(bytes));
    }
}

/// What the audit takes on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Taken {
    /// Bytes of all eras.
    pub used_bytes: u64,
    /// Of these, bytes of records that gave way, in folders that could not be written anew without them.
    pub dead_bytes: u64,
}

impl Taken {
    /// So many bytes, and none of what gave way.
    pub fn of(used_bytes: u64) -> Self {
        Self { used_bytes, dead_bytes: 0 }
    }
}

/// What each class takes of the quota, and what is kept for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    quota: u64,
    reserves: Shares,
    used: Shares,
}

impl Room {
    /// The room where so much is taken on disk, by records of these weights. What takes space and holds no record yet
    /// counts as critical. What gave way and could not be taken off the disk weighs nothing any more, and counts as denials:
    /// nobody else has to make room for it.
    pub fn new(limits: &QueueLimits, taken: Taken, weights: &Shares) -> Self {
        let quota = limits.quota_mib.saturating_mul(1024 * 1024);
        let Reserves { critical, allow, denial, notice } = limits.reserve_percent;
        let reserves = [critical, allow, denial, notice].map(|percent| (quota / 100).saturating_mul(percent.into()));
        let mut used = Shares::default();
        let total = weights.total();
        let dead_bytes = taken.dead_bytes.min(taken.used_bytes);
        let used_bytes = taken.used_bytes - dead_bytes;
        for class in Class::ALL {
            let scaled = u128::from(used_bytes) * u128::from(weights.of(class)) / u128::from(total.max(1));
            used.add(class, u64::try_from(scaled).unwrap_or(u64::MAX));
        }
        used.add(Class::Critical, used_bytes.saturating_sub(used.total()));
        used.add(Class::Denial, dead_bytes);
        Self { quota, reserves: Shares(reserves), used }
    }

    /// What a class takes on disk, in bytes.
    pub fn used(&self, class: Class) -> u64 {
        self.used.of(class)
    }

    /// What is kept for a class, in bytes.
    pub fn reserve(&self, class: Class) -> u64 {
        self.reserves.of(class)
    }

    /// The most that a class may take as things are, in bytes: its reserve, and what the others neither use nor have
    /// reserved.
    pub fn may(&self, class: Class) -> u64 {
        if active(Mutant::ReserveNotKept) {
            return self.quota.saturating_sub(self.used.total() - self.used(class));
        }
        let others = Class::ALL.into_iter().filter(|other| *other != class);
        let used = |other| if active(Mutant::QuotaForEach) { 0 } else { self.used(other) };
        let taken = others.fold(0_u64, |sum, other| sum.saturating_add(used(other).max(self.reserve(other))));
        self.quota.saturating_sub(taken).max(self.reserve(class))
    }

    /// Whether another record of a class fits.
    pub fn fits(&self, class: Class) -> bool {
        let full = class == Class::Allow && active(Mutant::HalfIsFull) && self.is_half_full(class);
        self.used(class) < self.may(class) && !full
    }

    /// Whether less than an eighth of what a class may take is left. What makes room has to be done before none is left:
    /// a commit may hold many records.
    pub fn is_short(&self, class: Class) -> bool {
        self.may(class).saturating_sub(self.used(class)) < self.may(class) / 8
    }

    /// Whether a class takes more than half of its reserve: from here on it is kept apart from what is never given up, so
    /// that all that it borrows beyond the reserve can give way.
    pub fn is_half_full(&self, class: Class) -> bool {
        self.used(class) > self.reserve(class) / 2
    }
}

/// So many records are given up at once, at least. An era that is shorter may have been copied into the one that is open,
/// where nothing can be given back.
pub const SHED_RECORDS_MIN: u64 = 512;

/// So many ranges are given up at once, at most: each takes a gap record in the same commit. The rest goes with the next.
pub const SHED_RUNS_MAX: usize = 1024;

/// What the store adds to a row, roughly: its frame, its key, its commit, in bytes.
pub const ROW_BYTES: u64 = 64;

/// Segments of spare records that are remembered as one run: what is sent or acknowledged in the middle of one keeps the
/// rest of it.
const RUN_SEGMENTS_MAX: u64 = 16;

/// So many segments of an era are remembered for what is most important in them. Those after them are sent as they come.
const URGENT_MAX: usize = 4096;

/// What an era holds, by class, which of its closed segments hold nothing but what may be given up, and which of them hold
/// what is most important.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    shares: Shares,
    spare: Vec<Run>,
    urgent: Vec<u64>,
}

/// Closed segments in a row, without a record that must stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// The first segment's number, and the first after the last.
    pub(super) segments: (u64, u64),
    /// The first record's index, and the first after the last.
    pub(super) records: (u64, u64),
    /// What the records weigh.
    pub(super) weight: Shares,
    /// Denials that its records count beside those that have one.
    pub(super) repeated: u64,
}

/// What one segment holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    weight: Shares,
    records: u64,
    repeated: u64,
    /// The most important of its records.
    most: Option<Class>,
}

impl Tally {
    /// One more record.
    pub fn add(&mut self, record: Weighed) {
        let class = record.class;
        self.weight.add(class, ROW_BYTES.saturating_add(record.bytes as u64));
        self.records += 1;
        self.repeated = self.repeated.saturating_add(record.repeated);
        self.most = self.most.map_or(Some(class), |most| Some(most.min(class)));
    }

    /// Whether it holds a record of the other sort, spare or not.
    pub fn differs(&self, class: Class) -> bool {
        self.most.is_some_and(|most| most.is_spare() != class.is_spare())
    }
}

/// Where a segment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentPlace {
    /// Its number.
    pub segment: u64,
    /// Its first record's index.
    pub first_index: u64,
    /// How many records it has.
    pub count: u64,
    /// Bytes of its signed header.
    pub header_bytes: usize,
}

impl Content {
    /// What rows of an era hold: its records with their index, and its closed segments, each in order.
    pub fn of(
        records: impl IntoIterator<Item = (u64, Weighed)>,
        segments: impl IntoIterator<Item = SegmentPlace>,
    ) -> Self {
        let mut content = Self::default();
        let mut records = records.into_iter().peekable();
        for place in segments {
            let mut tally = Tally::default();
            let end = place.first_index.saturating_add(place.count);
            while let Some((index, record)) = records.next_if(|(index, _)| *index < end) {
                content.record(record);
                if index >= place.first_index {
                    tally.add(record);
                }
            }
            content.segment(place, &tally);
        }
        records.for_each(|(_, record)| content.record(record));
        content
    }

    /// What it weighs, by class.
    pub fn shares(&self) -> &Shares {
        &self.shares
    }

    /// One more record.
    pub fn record(&mut self, record: Weighed) {
        self.shares.add(record.class, ROW_BYTES.saturating_add(record.bytes as u64));
    }

    /// One more closed segment, which holds these records. What its header takes counts as what is most important in it,
    /// and as a denial where nothing is left of it.
    pub fn segment(&mut self, place: SegmentPlace, tally: &Tally) {
        let class = tally.most.unwrap_or(Class::Denial);
        self.shares.add(class, ROW_BYTES.saturating_add(place.header_bytes as u64));
        if class == Class::Critical && self.urgent.len() < URGENT_MAX {
            self.urgent.push(place.segment);
        }
        let whole = tally.records == place.count && place.count > 0;
        if !(class.is_spare() || active(Mutant::AllowShed)) || !whole {
            return;
        }
        let (next, end) = (place.segment.saturating_add(1), place.first_index.saturating_add(place.count));
        match self.spare.last_mut() {
            Some(run) if run.segments.1 == place.segment && next - run.segments.0 <= RUN_SEGMENTS_MAX => {
                run.segments.1 = next;
                run.records.1 = end;
                run.weight.add_all(&tally.weight);
                run.repeated = run.repeated.saturating_add(tally.repeated);
            }
            Some(_) | None => self.spare.push(Run {
                segments: (place.segment, next),
                records: (place.first_index, end),
                weight: tally.weight,
                repeated: tally.repeated,
            }),
        }
    }

    /// Runs of spare segments, in order.
    pub(super) fn spare(&self) -> &[Run] {
        &self.spare
    }

    /// The first segment from this one on that holds what is most important.
    pub(super) fn urgent_from(&self, segment: u64) -> Option<u64> {
        self.urgent.get(self.urgent.partition_point(|urgent| *urgent < segment)).copied()
    }

    /// These records are given up: ranges in order, as the runs are.
    pub(super) fn give_up(&mut self, shed: &[Shed]) {
        let Self { shares, spare, urgent: _ } = self;
        let mut shed = shed.iter().peekable();
        spare.retain(|run| {
            while shed.next_if(|range| range.segments.1 <= run.segments.0).is_some() {}
            let gone = shed.peek().is_some_and(|range| range.holds_segment(run.segments.0));
            if gone {
                shares.take(&run.weight);
            }
            !gone
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;

    const MIB: u64 = 1024 * 1024;

    /// The room of a quota of 100 MiB where each class has these MiB.
    fn room(used: [u64; 4]) -> Room {
        let mut limits = Profile::default().queue;
        limits.quota_mib = 100;
        limits.reserve_percent = Reserves { critical: 5, allow: 50, denial: 15, notice: 5 };
        let mut weights = Shares::default();
        Class::ALL.iter().zip(used).for_each(|(class, used)| weights.add(*class, used));
        Room::new(&limits, Taken::of(used.iter().sum::<u64>() * MIB), &weights)
    }

    #[track_caller]
    fn check(used: [u64; 4], fits: &str) {
        let room = room(used);
        let names: Vec<&str> = Class::ALL.into_iter().filter(|c| room.fits(*c)).map(Class::name).collect();
        assert_eq!(names.join(" "), fits, "{used:?}");
        for class in Class::ALL {
            assert_eq!(room.used(class), used[class.place()] * MIB);
        }
    }

    #[test]
    fn each_class_has_its_reserve_and_what_nobody_else_has_reserved() {
        check([0, 0, 0, 0], "critical allow denial notice");
        check([1, 74, 0, 0], "critical allow denial notice");
        check([1, 75, 0, 0], "critical denial notice");
        check([1, 0, 39, 0], "critical allow denial notice");
        check([1, 0, 40, 0], "critical allow notice");
        check([1, 49, 40, 0], "critical allow notice");
        check([1, 50, 40, 4], "critical notice");
        check([1, 50, 40, 5], "critical");
        check([5, 50, 40, 5], "");
        check([30, 0, 0, 0], "allow denial notice");
        check([29, 20, 2, 0], "critical allow denial notice");
    }

    #[test]
    fn space_without_records_is_critical_and_nothing_overflows() {
        let mut limits = Profile::default().queue;
        limits.quota_mib = u64::MAX;
        let room = Room::new(&limits, Taken::of(u64::MAX), &Shares::default());
        assert_eq!((room.used(Class::Critical), room.used(Class::Allow)), (u64::MAX, 0));
        limits.quota_mib = 0;
        let mut weights = Shares::default();
        weights.add(Class::Denial, u64::MAX);
        weights.add(Class::Notice, u64::MAX);
        let room = Room::new(&limits, Taken::of(u64::MAX), &weights);
        assert!(Class::ALL.into_iter().all(|class| !room.fits(class)));
    }

    /// A folder could not be written anew: what gave way in it is there still, and is nobody's fault but the denials'.
    #[test]
    fn what_gave_way_and_is_there_still_takes_the_room_of_denials_alone() {
        let mut limits = Profile::default().queue;
        limits.quota_mib = 100;
        limits.reserve_percent = Reserves { critical: 10, allow: 50, denial: 15, notice: 5 };
        let mut weights = Shares::default();
        for (class, used) in [(Class::Critical, 8), (Class::Allow, 2), (Class::Denial, 5)] {
            weights.add(class, used);
        }
        let taken = Taken { used_bytes: 80 * MIB, dead_bytes: 65 * MIB };
        let room = Room::new(&limits, taken, &weights);
        assert_eq!(Class::ALL.map(|class| room.used(class) / MIB), [8, 2, 70, 0]);
        assert_eq!(Class::ALL.map(|class| room.fits(class)), [true, true, false, true]);
        // Were it of all classes alike, what is most important would have no room, and the device would lock.
        assert!(!Room::new(&limits, Taken::of(80 * MIB), &weights).fits(Class::Critical));
        let beyond = Taken { used_bytes: MIB, dead_bytes: u64::MAX };
        assert_eq!(Room::new(&limits, beyond, &weights).used(Class::Denial), MIB, "no more than there is");
    }

    #[test]
    fn what_is_short_is_so_before_it_is_full() {
        assert!(!room([1, 20, 34, 0]).is_short(Class::Denial));
        assert!(room([1, 20, 36, 0]).is_short(Class::Denial) && room([1, 20, 36, 0]).fits(Class::Denial));
        assert!(!room([1, 20, 7, 0]).is_half_full(Class::Denial) && room([1, 20, 8, 0]).is_half_full(Class::Denial));
    }

    fn place(segment: u64, first_index: u64, count: u64) -> SegmentPlace {
        SegmentPlace { segment, first_index, count, header_bytes: 200 }
    }

    #[test]
    fn segments_without_a_record_that_must_stay_are_spare() {
        use Class::{Allow, Critical, Denial, Notice};
        let classes = [Critical, Allow, Denial, Denial, Notice, Denial, Allow, Denial, Denial, Denial];
        let records = (0..).zip(classes).map(|(index, class)| (index, Weighed { class, bytes: 100, repeated: index }));
        // Of the last segment a record is missing; the last record is in no segment.
        let segments = [place(0, 0, 2), place(1, 2, 2), place(2, 4, 2), place(3, 6, 2), place(4, 8, 1)];
        let content = Content::of(records.clone(), segments);
        let runs: Vec<_> = content.spare().iter().map(|run| (run.segments, run.records)).collect();
        assert_eq!(runs, [((1, 3), (2, 6)), ((4, 5), (8, 9))]);
        assert_eq!(content.spare().iter().map(|run| run.repeated).collect::<Vec<_>>(), [2 + 3 + 4 + 5, 8]);
        assert_eq!([0, 1, 3].map(|from| content.urgent_from(from)), [Some(0), None, None]);
        assert_eq!(content.shares().of(Denial), 6 * 164 + 3 * 264);
        assert_eq!(content.shares().of(Notice), 164);
        assert_eq!(content.shares().of(Allow), 2 * 164 + 264);
        assert_eq!(content.shares().of(Critical), 164 + 264);
        let holed = Content::of(records.filter(|(index, _)| *index != 3), segments);
        assert_eq!(holed.spare()[0].segments, (2, 3), "a segment that is not whole is none to give up");
        let mut long = Content::default();
        let mut tally = Tally::default();
        tally.add(Weighed { class: Denial, bytes: 100, repeated: 0 });
        (0..40).for_each(|n| long.segment(place(n, n, 1), &tally));
        assert_eq!(long.spare().iter().map(|run| run.segments).collect::<Vec<_>>(), [(0, 16), (16, 32), (32, 40)]);
    }

    /// Steps grow with the runs, not with their square.
    #[test]
    fn very_many_runs_give_way_in_any_portion() {
        const RUNS: u64 = 40_000;
        let mut tally = Tally::default();
        let denial = Weighed { class: Class::Denial, bytes: 100, repeated: 0 };
        tally.add(denial);
        let mut content = Content::default();
        // Every other segment holds a record that stays.
        for run in 0..RUNS {
            content.record(denial);
            content.segment(place(2 * run, 2 * run, 1), &tally);
        }
        let era = crate::ids::EraId { number: 1, salt: 1 };
        let shed: Vec<Shed> = (0..RUNS)
            .filter(|run| run % 4 != 3)
            .map(|run| Shed { era, segments: (2 * run, 2 * run + 1), records: (2 * run, 2 * run + 1) })
            .collect();
        let (some, rest) = shed.split_at(RUNS as usize / 2);
        content.give_up(some);
        content.give_up(rest);
        let left: Vec<u64> = content.spare().iter().map(|run| run.segments.0).collect();
        assert_eq!(left, (0..RUNS).filter(|run| run % 4 == 3).map(|run| 2 * run).collect::<Vec<_>>());
        assert_eq!(content.shares().of(Class::Denial), RUNS / 4 * 164 + RUNS * 264);
    }
}
