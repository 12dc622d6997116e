//! Points in time as numbers.
//!
//! Owns: [`Timestamp`], [`Millis`] and their arithmetic, and the text form of a date.
//! Never: reads a clock. Only `shell/clock.rs` does.
//! Read next: `agent/clock.rs`, which says what time it can be.

use std::fmt;
use std::ops::{Add, Sub};

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01T00:00:00Z, leap seconds not counted.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

/// A length of time in milliseconds.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Timestamp {
    /// The first second of year 10000: no text form has room for more, no date of ours lies past it.
    pub const MAX: Self = Self(253_402_300_800_000);

    /// From whole seconds, as Biscuit dates count them.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// Whole seconds, rounded down: what may be said of a floor.
    pub const fn secs_floor(self) -> u64 {
        self.0 / 1000
    }

    /// Whole seconds, rounded up: what may be said of a ceiling.
    pub const fn secs_ceil(self) -> u64 {
        self.0.div_ceil(1000)
    }

    /// The time from `earlier` to `self`, zero where it is not earlier.
    pub const fn since(self, earlier: Self) -> Millis {
        Millis(self.0.saturating_sub(earlier.0))
    }
}

impl Millis {
    /// From whole seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// Whole seconds, rounded down.
    pub const fn secs(self) -> u64 {
        self.0 / 1000
    }

    /// Whole seconds, rounded up.
    pub const fn secs_ceil(self) -> u64 {
        self.0.div_ceil(1000)
    }

    /// The length shortened by `ppm` parts per million, rounded down: the least that can have passed.
    pub const fn slowed(self, ppm: u32) -> Self {
        Self(self.0.saturating_sub(self.drift(ppm)))
    }

    /// The length stretched by `ppm` parts per million, rounded up: the most that can have passed.
    pub const fn stretched(self, ppm: u32) -> Self {
        Self(self.0.saturating_add(self.drift(ppm)))
    }

    const fn drift(self, ppm: u32) -> u64 {
        // A product past 64 bits is some 500 million years at 1000 ppm; saturating keeps it on the safe side.
        self.0.saturating_mul(ppm as u64).div_ceil(1_000_000)
    }
}

impl Add<Millis> for Timestamp {
    type Output = Self;
    fn add(self, length: Millis) -> Self {
        Self(self.0.saturating_add(length.0))
    }
}

impl Sub<Millis> for Timestamp {
    type Output = Self;
    fn sub(self, length: Millis) -> Self {
        Self(self.0.saturating_sub(length.0))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with seconds. The civil date is Howard Hinnant's `civil_from_days`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = self.0.min(Self::MAX.0 - 1) / 1000;
        let (days, of_day) = (secs / 86_400, secs % 86_400);
        let z = days + 719_468;
        let era = z / 146_097;
        let day_of_era = z % 146_097;
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_read_as_rfc_3339() {
        check_text(0, "1970-01-01T00:00:00Z");
        check_text(951_782_400, "2000-02-29T00:00:00Z");
        check_text(1_772_323_200, "2026-03-01T00:00:00Z");
        check_text(1_795_478_399, "2026-11-23T23:59:59Z");
        check_text(253_402_300_799, "9999-12-31T23:59:59Z");
        check_text(u64::MAX / 1000, "9999-12-31T23:59:59Z");
    }

    #[track_caller]
    fn check_text(secs: u64, text: &str) {
        assert_eq!(Timestamp::from_secs(secs).to_string(), text);
    }

    #[test]
    fn drift_is_always_against_the_holder() {
        let day = Millis::from_secs(86_400);
        assert_eq!(day.slowed(500), Millis(86_400_000 - 43_200));
        assert_eq!(day.stretched(500), Millis(86_400_000 + 43_200));
        assert_eq!(Millis(1).slowed(1), Millis(0));
        assert_eq!(Millis(1).stretched(1), Millis(2));
        assert_eq!(Millis(u64::MAX).stretched(1), Millis(u64::MAX));
    }
}
