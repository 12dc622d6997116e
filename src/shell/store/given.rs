//! Which segments have given up their records, era by era and in order.
//!
//! Owns: [`Given`]: ranges of which no two touch, so that any question about one row is answered without looking at all.
//! Never: says that the records are gone: after a power cut they may be back.
//! Read next: `mod.rs`, which adds to it, and `recover.rs`, which asks it what is no damage.

use std::collections::BTreeMap;

use crate::agent::effects::Shed;
use crate::ids::EraId;

/// Ranges of segments, with the ranges of their records.
#[derive(Debug, Clone, Default)]
pub(super) struct Given(BTreeMap<EraId, Vec<Shed>>);

impl Given {
    /// Adds ranges, in any order, whether or not some of them are known.
    pub(super) fn extend(&mut self, shed: impl IntoIterator<Item = Shed>) {
        let mut added = Self::default();
        for range in shed {
            added.0.entry(range.era).or_default().push(range);
        }
        for (era, mut more) in added.0 {
            let ranges = self.0.entry(era).or_default();
            ranges.append(&mut more);
            ranges.sort_unstable();
            ranges.dedup_by(|next, last| {
                let touches = next.segments.0 <= last.segments.1;
                if touches {
                    last.segments.1 = last.segments.1.max(next.segments.1);
                    last.records.1 = last.records.1.max(next.records.1);
                }
                touches
            });
        }
    }

    /// Forgets eras that are not kept.
    pub(super) fn retain(&mut self, keep: impl Fn(&EraId) -> bool) {
        self.0.retain(|era, _| keep(era));
    }

    /// Every range.
    pub(super) fn iter(&self) -> impl Iterator<Item = Shed> + '_ {
        self.0.values().flatten().copied()
    }

    /// Those of an era, in order.
    pub(super) fn of(&self, era: EraId) -> &[Shed] {
        self.0.get(&era).map_or(&[], Vec::as_slice)
    }

    /// Whether a segment has given up its records.
    pub(super) fn holds_segment(&self, era: EraId, segment: u64) -> bool {
        let ranges = self.of(era);
        ranges
            .get(ranges.partition_point(|range| range.segments.1 <= segment))
            .is_some_and(|r| r.holds_segment(segment))
    }

    /// Whether a record was given up.
    pub(super) fn holds_record(&self, era: EraId, index: u64) -> bool {
        self.past(era, index) != index
    }

    /// The first index from this one on that was not given up.
    pub(super) fn past(&self, era: EraId, index: u64) -> u64 {
        let ranges = self.of(era);
        let at = ranges.partition_point(|range| range.records.1 <= index);
        ranges.get(at).filter(|range| range.holds_record(index)).map_or(index, |range| range.records.1)
    }
}

impl FromIterator<Shed> for Given {
    fn from_iter<I: IntoIterator<Item = Shed>>(shed: I) -> Self {
        let mut given = Self::default();
        given.extend(shed);
        given
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERA: EraId = EraId { number: 3, salt: 9 };

    /// Segments of four records each.
    fn range(first: u64, end: u64) -> Shed {
        Shed { era: ERA, segments: (first, end), records: (first * 4, end * 4) }
    }

    #[test]
    fn ranges_that_touch_are_one_in_whatever_order_they_come() {
        let ranges = [range(8, 10), range(2, 4), range(3, 6), range(6, 7), range(8, 9), range(20, 21)];
        let whole: Vec<Shed> = vec![range(2, 7), range(8, 10), range(20, 21)];
        assert_eq!(ranges.into_iter().collect::<Given>().iter().collect::<Vec<_>>(), whole);
        let mut given = Given::default();
        ranges.into_iter().rev().for_each(|range| given.extend([range]));
        assert_eq!(given.of(ERA), whole);
        for segment in 0..24 {
            let held = whole.iter().find(|range| range.holds_segment(segment));
            assert_eq!(given.holds_segment(ERA, segment), held.is_some(), "segment {segment}");
            for index in segment * 4..segment * 4 + 4 {
                assert_eq!(given.holds_record(ERA, index), held.is_some(), "record {index}");
                assert_eq!(given.past(ERA, index), held.map_or(index, |range| range.records.1), "record {index}");
            }
        }
        let other = EraId { number: 3, salt: 8 };
        assert!(!given.holds_segment(other, 3) && given.past(other, 12) == 12 && given.of(other).is_empty());
        given.retain(|era| *era == other);
        assert_eq!(given.iter().count(), 0);
    }
}
