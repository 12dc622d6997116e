//! I5: what is refused is recorded as evidence.
//!
//! Owns: what was handed to each gateway that it must refuse, until a durable record of that refusal names it.
//! Never: asks for the record of something whose gateway was stopped before it could write it, or that it counts under the
//! record of another.
//! Read next: `monotone.rs`.

use std::collections::BTreeMap;

use hardtack::ids::{DeviceId, Hash};
use hardtack::wire::audit::{Event, Record};

use super::{Id, Tally};

/// A gateway records what it refuses from one source for one reason once in so long, and counts what comes between: a
/// record less old than this stands for what is refused now. A little more, for clocks that drift.
const COUNTED_MS: u64 = 60_100;

/// What is to be recorded, by gateway.
#[derive(Debug, Default)]
pub(crate) struct EvidenceCheck {
    /// Since when, and under what it may be counted if it is not recorded itself.
    owed: BTreeMap<(u32, Hash), Option<(u64, Alike)>>,
    /// When a refusal was last recorded.
    recorded: BTreeMap<(u32, Alike), u64>,
    /// How long a commit takes at most.
    slowest: u64,
}

/// What a gateway takes for the same refusal: where it came from, and why it was refused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Alike {
    pub(crate) source: String,
    pub(crate) reason: String,
}

impl EvidenceCheck {
    /// Commits take so long at most.
    pub(crate) fn new(slowest: u64) -> Self {
        Self { slowest, ..Self::default() }
    }

    /// A gateway is handed something that it must refuse.
    pub(crate) fn expect(&mut self, device: u32, bytes: &[u8]) {
        self.owed.insert((device, Hash::of("hardtack/evidence/v1", &[bytes])), None);
    }

    /// A gateway is handed something that it must refuse, as it may have refused others of their own accord lately: a broker
    /// that doubles acknowledgements has the second of each refused, and what is refused within a minute after that is
    /// counted and gets no record.
    pub(crate) fn expect_or_counted(&mut self, at: u64, device: u32, bytes: &[u8], alike: Alike) {
        let last = self.recorded.get(&(device, alike.clone()));
        if last.is_none_or(|last| at >= last + COUNTED_MS) {
            self.owed.insert((device, Hash::of("hardtack/evidence/v1", &[bytes])), Some((at, alike)));
        }
    }

    /// A record is durable.
    pub(crate) fn durable(&mut self, tally: &mut Tally, at: u64, device: u32, record: &Record) {
        if let Event::Refused(evidence) = &record.event {
            if self.owed.remove(&(device, evidence.digest)).is_some() {
                tally.tried(Id::Evidence, at, None);
            }
            let alike = Alike { source: evidence.source.clone(), reason: evidence.reason.clone() };
            // One that was on its way to the disk when something else of its kind came stands for that, and so does one of what
            // waited with it for the commit before.
            let soon = 2 * self.slowest;
            let stands_for = |(since, like): &(u64, Alike)| *like == alike && at <= since + soon;
            self.owed.retain(|(of, _), under| *of != device || !under.as_ref().is_some_and(stands_for));
            self.recorded.insert((device, alike), at);
        }
    }

    /// The agent is gone: what it had not written yet it never will.
    pub(crate) fn stopped(&mut self, device: u32) {
        self.owed.retain(|(of, _), _| *of != device);
        self.recorded.retain(|(of, _), _| *of != device);
    }

    /// In the end: nothing is owed.
    pub(crate) fn finish(&self, tally: &mut Tally, at: u64, name: impl Fn(u32) -> DeviceId) {
        for (device, digest) in self.owed.keys() {
            let how = format!("{} refused {digest:?}, and recorded nothing of it", name(*device));
            tally.broken(Id::Evidence, at, how);
        }
    }
}

#[cfg(test)]
mod tests {
    use hardtack::time::Timestamp;
    use hardtack::wire::audit::Evidence;

    use super::*;

    fn alike(reason: &str) -> Alike {
        Alike { source: "ack".into(), reason: reason.into() }
    }

    /// Records of refusals for these reasons of what is no message below, and when a late one is handed over: it is owed.
    #[track_caller]
    fn check(recorded: &[(u64, &str)], handed: u64, expected: bool) {
        let (mut tally, mut check) = (Tally::default(), EvidenceCheck::new(12));
        let mut handed = Some(handed);
        for (at, reason) in recorded.iter().chain([&(u64::MAX, "")]) {
            if let Some(handed) = handed.take_if(|handed| *handed <= *at) {
                check.expect_or_counted(handed, 0, b"late", alike("late"));
            }
            let digest = Hash::of("hardtack/evidence/v1", &[b"other"]);
            let refused = Evidence { source: "ack".into(), reason: (*reason).into(), digest, count: 1 };
            let event = Event::Refused(refused);
            let record = Record { index: 0, floor: Timestamp(0), powered: Timestamp(0), event };
            check.durable(&mut tally, (*at).min(1 << 40), 0, &record);
        }
        assert_eq!(!check.owed.is_empty(), expected, "{recorded:?}");
    }

    #[test]
    fn what_is_counted_under_a_record_of_the_last_minute_is_not_owed() {
        check(&[], 100_000, true);
        check(&[(99_000, "late")], 100_000, false);
        check(&[(39_000, "late")], 100_000, true);
        check(&[(99_000, "foreign")], 100_000, true);
        check(&[(100_008, "late")], 100_000, false);
        check(&[(100_021, "late")], 100_000, false);
        check(&[(100_100, "late")], 100_000, true);
    }
}
