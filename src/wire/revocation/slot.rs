//! The stretch of time in which a token expires: which bucket its revocation lies in.
//!
//! Owns: [`Slot`], its number and its end.
//! Never: reads a clock.
//! Read next: `serials.rs` and `fingerprints.rs`, whose buckets are kept by slot.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::time::{Millis, Timestamp};
use crate::wire::Refused;

/// The longest life of a token that is filed by the hour of its expiry.
const HOURLY_LIFE_MAX: Millis = Millis::from_secs(24 * 3600);
const HOUR: Millis = Millis::from_secs(3600);
const DAY: Millis = Millis::from_secs(24 * 3600);

/// An expiry slot: the hour, or for lives above 24 h the UTC day, in which a token's block 0 expires. Revocations are
/// kept in one bucket per slot, and a bucket is dropped whole.
///
/// Its number is `2 · index` for an hour and `2 · index + 1` for a day, with the index counted from 1970.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Slot(u32);

impl TryFrom<u32> for Slot {
    type Error = Refused;

    fn try_from(number: u32) -> Result<Self, Refused> {
        Self::from_number(number)
    }
}

impl From<Slot> for u32 {
    fn from(slot: Slot) -> Self {
        slot.0
    }
}

impl Slot {
    /// Where a token with this block 0 is filed. Both sides reckon it from facts that block 0 must hold. Dates past
    /// [`Timestamp::MAX`] count as that.
    pub fn of(issued: Timestamp, expires: Timestamp) -> Self {
        let expires = expires.min(Timestamp::MAX);
        let (length, tag) = if expires.since(issued) <= HOURLY_LIFE_MAX { (HOUR, 0) } else { (DAY, 1) };
        let index = u32::try_from(expires.0 / length.0).expect("hours until the year 10000 fit");
        Self(2 * index + tag)
    }

    /// The daily slot of a time: where something is filed whose token is not known.
    pub fn of_day(until: Timestamp) -> Self {
        Self::of(Timestamp(0), until.max(Timestamp(HOURLY_LIFE_MAX.0 + 1)))
    }

    /// The slot of a number.
    ///
    /// # Errors
    /// [`Refused::Malformed`] when it lies past [`Timestamp::MAX`], where no token expires.
    pub fn from_number(number: u32) -> Result<Self, Refused> {
        let slot = Self(number);
        if slot.begins() > Timestamp::MAX {
            return Err(Refused::Malformed("an expiry slot past the year 9999"));
        }
        Ok(slot)
    }

    /// Its number, as tokens name it in `serial(bucket, n)`.
    pub const fn number(self) -> u32 {
        self.0
    }

    const fn length(self) -> Millis {
        if self.0 % 2 == 0 {
            HOUR
        } else {
            DAY
        }
    }

    /// The first moment in it.
    pub const fn begins(self) -> Timestamp {
        Timestamp((self.0 / 2) as u64 * self.length().0)
    }

    /// The first moment after it: all of its tokens have expired before this.
    pub fn ends(self) -> Timestamp {
        self.begins() + self.length()
    }

    /// The one of two that ends later. An hour at the end of a day ends with it: then the day.
    pub(super) fn max_by_end(self, other: Self) -> Self {
        std::cmp::max_by_key(self, other, |slot| (slot.ends(), slot.0 % 2))
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = if self.length() == HOUR { "hour" } else { "day" };
        write!(f, "{unit} of {}", self.begins())
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUED: u64 = 1_772_359_200; // 2026-03-01T10:00:00Z

    #[test]
    fn short_lives_are_filed_by_the_hour_and_longer_ones_by_the_day() {
        check(ISSUED + 900, 2 * 492_322, "hour of 2026-03-01T10:00:00Z", ISSUED + 3600);
        // What expires at the very end of a slot is filed in the next one.
        check(ISSUED + 3600, 2 * 492_323, "hour of 2026-03-01T11:00:00Z", ISSUED + 7200);
        check(ISSUED + 86_400, 2 * 492_346, "hour of 2026-03-02T10:00:00Z", ISSUED + 90_000);
        check(ISSUED + 86_401, 2 * 20_514 + 1, "day of 2026-03-02T00:00:00Z", ISSUED + 136_800);
        check(ISSUED - 1, 2 * 492_321, "hour of 2026-03-01T09:00:00Z", ISSUED);
        check(u64::MAX, 2 * 2_932_897 + 1, "day of 9999-12-31T23:59:59Z", 2_932_898 * 86_400);
    }

    #[track_caller]
    fn check(expires: u64, number: u32, text: &str, ends: u64) {
        let slot = Slot::of(Timestamp::from_secs(ISSUED), Timestamp::from_secs(expires));
        assert_eq!((slot.number(), slot.to_string().as_str()), (number, text));
        assert_eq!(slot.ends(), Timestamp::from_secs(ends));
        assert_eq!(Slot::from_number(number), Ok(slot));
    }

    #[test]
    fn no_slot_lies_past_the_last_date() {
        assert!(Slot::from_number(u32::MAX).is_err());
        assert_eq!(Slot::of_day(Timestamp::from_secs(ISSUED)).number(), 2 * 20_513 + 1);
        assert_eq!(Slot::of_day(Timestamp(0)).number() % 2, 1);
    }
}
