//! Revoked serials of one expiry slot.
//!
//! Owns: [`SerialBucket`]: how many serials the issuer had given out, and which of them are revoked; its bytes, its union
//! and what one has over another.
//! Never: answers for a serial that it was not told of.
//! Read next: `set.rs`, which keeps a bucket per slot.

use std::iter::Peekable;
use std::ops::Range;

use super::bytes::{put_number, Reader};
use super::golomb::{Coded, Values};
use crate::wire::Refused;

/// The most serials of one slot. A bucket's bytes can say that all of them are revoked in five bytes, so that this bounds
/// what a union has to go through.
pub const ISSUED_MAX: u32 = 1 << 27;

/// The revoked serials of one slot, out of those given out: exact.
///
/// A serial at or above `issued` is not covered. The publisher counts what was issued when it last changed the bucket;
/// the count need not be up to date, but must lie above every revoked serial.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SerialBucket {
    issued: u32,
    revoked: u32,
    /// The revoked serials, or the others where those are fewer.
    coded: Coded<u32>,
}

impl SerialBucket {
    /// A bucket of these revoked serials, in any order, doubles allowed.
    ///
    /// # Errors
    /// [`Refused::Malformed`] when `issued` is 0 or above [`ISSUED_MAX`], or a serial was not issued.
    pub fn new(issued: u32, revoked: impl IntoIterator<Item = u32>) -> Result<Self, Refused> {
        check_issued(issued)?;
        let mut revoked: Vec<u32> = revoked.into_iter().collect();
        revoked.sort_unstable();
        revoked.dedup();
        if revoked.last().is_some_and(|last| *last >= issued) {
            return Err(Refused::Malformed("a revoked serial that was not issued"));
        }
        Ok(Self::of_runs(issued, revoked.iter().map(|serial| *serial..serial + 1)))
    }

    /// A bucket of ascending runs below `issued` that do not overlap.
    fn of_runs(issued: u32, runs: impl Iterator<Item = Range<u32>> + Clone) -> Self {
        let revoked = runs.clone().map(|run| run.end - run.start).sum();
        let universe = u128::from(issued);
        let coded = if others_are_coded(issued, revoked) {
            Coded::encode(universe, Gaps { runs, low: 0, end: Some(issued) }.flatten())
        } else {
            Coded::encode(universe, runs.flatten())
        };
        Self { issued, revoked, coded }
    }

    /// A bucket from its bytes.
    ///
    /// # Errors
    /// [`Refused::Malformed`] when they are not the only bytes that say it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Refused> {
        let mut reader = Reader::new(bytes);
        let issued = reader.number(u64::from(ISSUED_MAX))? as u32;
        check_issued(issued)?;
        let revoked = reader.number(u64::from(issued))? as u32;
        let count = if others_are_coded(issued, revoked) { issued - revoked } else { revoked };
        let coded = Coded::decode(u128::from(issued), count, reader.rest())?;
        Ok(Self { issued, revoked, coded })
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(10 + self.coded.as_bytes().len());
        put_number(&mut bytes, u64::from(self.issued));
        put_number(&mut bytes, u64::from(self.revoked));
        bytes.extend(self.coded.as_bytes());
        bytes
    }

    /// Serials given out.
    pub fn issued(&self) -> u32 {
        self.issued
    }

    /// Serials revoked.
    pub fn revoked(&self) -> u32 {
        self.revoked
    }

    /// Whether a serial is revoked. Allocates nothing.
    pub fn contains(&self, serial: u32) -> bool {
        serial < self.issued && self.coded.contains(serial) != others_are_coded(self.issued, self.revoked)
    }

    /// The revoked serials, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + Clone + '_ {
        self.runs().flatten()
    }

    /// What is revoked in either, of the more issued.
    pub fn union(&self, other: &Self) -> Self {
        let runs = Union { a: self.runs().peekable(), b: other.runs().peekable() };
        Self::of_runs(self.issued.max(other.issued), runs)
    }

    /// What this has over an older one, None if nothing.
    pub fn minus(&self, older: &Self) -> Option<Self> {
        let runs = Minus { a: self.runs(), b: older.runs().peekable(), rest: None };
        let more = Self::of_runs(self.issued, runs);
        (more.revoked > 0 || self.issued > older.issued).then_some(more)
    }

    /// Bytes of memory that it takes.
    pub fn memory_bytes(&self) -> usize {
        self.coded.memory_bytes() + 2 * size_of::<u32>()
    }

    fn runs(&self) -> Runs<'_> {
        if others_are_coded(self.issued, self.revoked) {
            let others = Alone { values: self.coded.iter() };
            Runs::Others(Gaps { runs: others, low: 0, end: Some(self.issued) })
        } else {
            Runs::Revoked(Alone { values: self.coded.iter() })
        }
    }
}

fn check_issued(issued: u32) -> Result<(), Refused> {
    if (1..=ISSUED_MAX).contains(&issued) {
        Ok(())
    } else {
        Err(Refused::Malformed("no serials issued, or more than a bucket has"))
    }
}

/// Past one half, the serials that are not revoked are the fewer.
fn others_are_coded(issued: u32, revoked: u32) -> bool {
    revoked > issued / 2
}

/// Revoked serials as ascending runs. Neighbours may touch.
#[derive(Clone)]
enum Runs<'a> {
    Others(Gaps<Alone<'a>>),
    Revoked(Alone<'a>),
}

impl Iterator for Runs<'_> {
    type Item = Range<u32>;

    fn next(&mut self) -> Option<Range<u32>> {
        match self {
            Self::Others(gaps) => gaps.next(),
            Self::Revoked(values) => values.next(),
        }
    }
}

/// Each number as a run of its own.
#[derive(Clone)]
struct Alone<'a> {
    values: Values<'a, u32>,
}

impl Iterator for Alone<'_> {
    type Item = Range<u32>;

    fn next(&mut self) -> Option<Range<u32>> {
        self.values.next().map(|value| value..value + 1)
    }
}

/// What lies between ascending runs, up to an end.
#[derive(Clone)]
struct Gaps<I> {
    runs: I,
    low: u32,
    end: Option<u32>,
}

impl<I: Iterator<Item = Range<u32>>> Iterator for Gaps<I> {
    type Item = Range<u32>;

    fn next(&mut self) -> Option<Range<u32>> {
        for run in self.runs.by_ref() {
            let gap = self.low..run.start;
            self.low = run.end;
            if !gap.is_empty() {
                return Some(gap);
            }
        }
        let last = self.low..self.end.take()?;
        (!last.is_empty()).then_some(last)
    }
}

/// Runs of what is in either.
#[derive(Clone)]
struct Union<'a> {
    a: Peekable<Runs<'a>>,
    b: Peekable<Runs<'a>>,
}

impl Iterator for Union<'_> {
    type Item = Range<u32>;

    fn next(&mut self) -> Option<Range<u32>> {
        let a_is_first = match (self.a.peek(), self.b.peek()) {
            (Some(a), Some(b)) => a.start <= b.start,
            (a, _) => a.is_some(),
        };
        let mut run = if a_is_first { self.a.next() } else { self.b.next() }?;
        loop {
            let reaches = |next: &Range<u32>| next.start <= run.end;
            let Some(next) = self.a.next_if(reaches).or_else(|| self.b.next_if(reaches)) else { return Some(run) };
            run.end = run.end.max(next.end);
        }
    }
}

/// Runs of what is in the first only.
#[derive(Clone)]
struct Minus<'a> {
    a: Runs<'a>,
    b: Peekable<Runs<'a>>,
    /// What is left of a run of the first.
    rest: Option<Range<u32>>,
}

impl Iterator for Minus<'_> {
    type Item = Range<u32>;

    fn next(&mut self) -> Option<Range<u32>> {
        loop {
            let run = self.rest.take().or_else(|| self.a.next())?;
            while self.b.next_if(|taken| taken.end <= run.start).is_some() {}
            match self.b.peek() {
                Some(taken) if taken.start < run.end => {
                    // It may reach into the next run of the first as well, so it stays.
                    self.rest = Some(taken.end..run.end).filter(|rest| !rest.is_empty());
                    if run.start < taken.start {
                        return Some(run.start..taken.start);
                    }
                }
                Some(_) | None => return Some(run),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn bucket(issued: u32, revoked: &[u32]) -> SerialBucket {
        SerialBucket::new(issued, revoked.iter().copied()).unwrap()
    }

    #[test]
    fn a_bucket_is_exact_up_to_the_last_serial_issued() {
        let some = bucket(10, &[9, 0, 4, 4]);
        assert_eq!(some.iter().collect::<Vec<_>>(), [0, 4, 9]);
        assert_eq!((0..12).filter(|n| some.contains(*n)).collect::<Vec<_>>(), [0, 4, 9]);
        assert_eq!(some.to_bytes(), [10, 3, 0x99, 0x00]);
        let all_but_one = bucket(10, &[0, 1, 2, 3, 5, 6, 7, 8, 9]);
        assert_eq!((0..12).filter(|n| !all_but_one.contains(*n)).collect::<Vec<_>>(), [4, 10, 11]);
        assert_eq!(all_but_one.to_bytes().len(), 3);
        let all = bucket(ISSUED_MAX, &[]).union(&bucket(1, &[0])).revoked();
        assert_eq!(all, 1);
    }

    #[test]
    fn what_no_bucket_is_is_refused() {
        assert!(SerialBucket::new(0, []).is_err() && SerialBucket::new(ISSUED_MAX + 1, []).is_err());
        assert!(SerialBucket::new(10, [10]).is_err());
        check_refused(&[], "ends too early");
        check_refused(&[0, 0], "no serials issued, or more than a bucket has");
        check_refused(&[10, 11], "a number beyond its limit");
        check_refused(&[10, 3, 0x99], "ends within an entry");
        check_refused(&[10, 0, 0], "bytes left over");
        // Nine of ten are said by the one that is missing, so nine entries are not read.
        check_refused(&[10, 9, 0xff, 0xff], "bytes left over");
    }

    #[track_caller]
    fn check_refused(bytes: &[u8], why: &'static str) {
        assert_eq!(SerialBucket::from_bytes(bytes), Err(Refused::Malformed(why)));
    }

    fn model() -> impl Strategy<Value = (u32, BTreeSet<u32>)> {
        // Sparse, dense, and nearly all.
        (1..400_u32, 0..1000_u32, any::<u64>()).prop_map(|(issued, share, seed)| {
            let mut state = seed;
            let mut chance = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as u32 % 1000
            };
            (issued, (0..issued).filter(|_| chance() < share).collect())
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_bucket_does_what_a_plain_set_does((issued, a) in model(), (other_issued, b) in model()) {
            let first = SerialBucket::new(issued, a.iter().copied()).unwrap();
            let second = SerialBucket::new(other_issued, b.iter().copied()).unwrap();
            prop_assert_eq!(SerialBucket::from_bytes(&first.to_bytes()), Ok(first.clone()));
            prop_assert_eq!(first.iter().collect::<BTreeSet<_>>(), a.clone());
            for n in 0..issued + 2 {
                prop_assert_eq!(first.contains(n), a.contains(&n));
            }
            let union = first.union(&second);
            prop_assert_eq!(&union, &SerialBucket::new(issued.max(other_issued), a.union(&b).copied()).unwrap());
            prop_assert_eq!(&union, &second.union(&first));
            let more = first.minus(&second);
            let expected: BTreeSet<u32> = a.difference(&b).copied().collect();
            prop_assert_eq!(more.is_some(), !expected.is_empty() || issued > other_issued);
            if let Some(more) = more {
                prop_assert_eq!(more.iter().collect::<BTreeSet<_>>(), expected);
                prop_assert_eq!(second.union(&more), union);
            }
        }

        #[test]
        fn bytes_that_are_taken_are_the_only_ones_that_say_it(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(bucket) = SerialBucket::from_bytes(&bytes) {
                prop_assert_eq!(bucket.to_bytes(), bytes);
            }
        }
    }
}
