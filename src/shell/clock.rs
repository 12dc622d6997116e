//! The only reader of clocks.
//!
//! Owns: what the kernel tells: powered-on time that nobody can slew, wall time, which boot this is.
//! Never: judges them. `agent/clock.rs` says what time it can be.
//! Read next: `agent/clock.rs`.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{clock_gettime, ClockId};

use crate::agent::Now;
use crate::ids::{unhex, BootId};
use crate::time::{Millis, Timestamp};

/// The clocks for one input of the agent.
pub fn now() -> Now {
    Now { boottime: boottime(), wall: wall() }
}

/// The system clock, none where it is before 1970. For the operator's side, whose machine keeps time; a device takes it
/// as a hint only.
#[expect(clippy::disallowed_methods, reason = "this is the one reader of clocks")]
pub fn wall() -> Option<Timestamp> {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(time.as_millis()).ok().and_then(test::shift_wall).map(Timestamp)
}

/// Time since the kernel started, suspend counted, as CLOCK_BOOTTIME tells it, but by the bare oscillator: who may set the
/// clock may also slow CLOCK_BOOTTIME by a tenth (adjtimex(2)), and so make every token live longer.
fn boottime() -> Millis {
    let suspended = suspended();
    Millis(test::shift_boottime(read(ClockId::MonotonicRaw).saturating_add(suspended)).unwrap_or(0))
}

/// How long this boot was suspended: what CLOCK_BOOTTIME counts and CLOCK_MONOTONIC does not. A process that is stopped
/// between the two readings would take that for a suspension, so they are taken until nothing lies between them.
fn suspended() -> u64 {
    loop {
        let before = read(ClockId::Monotonic);
        let boottime = read(ClockId::Boottime);
        if read(ClockId::Monotonic).saturating_sub(before) <= 1 {
            return boottime.saturating_sub(before);
        }
    }
}

/// A clock of the kernel in milliseconds, 0 where it shows what cannot be.
fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    millis(time.tv_sec, time.tv_nsec).unwrap_or(0)
}

fn millis(secs: i64, nanos: impl TryInto<u64>) -> Option<u64> {
    let nanos = nanos.try_into().ok()?;
    u64::try_from(secs).ok()?.checked_mul(1000)?.checked_add(nanos / 1_000_000)
}

/// The kernel's boot id.
///
/// # Errors
/// Those of reading `/proc/sys/kernel/random/boot_id`, or that it holds no UUID.
pub fn boot_id() -> std::io::Result<BootId> {
    let text = match test::boot_id() {
        Some(text) => text,
        None => std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?,
    };
    let digits = text.trim().replace('-', "");
    let bytes = unhex(&digits).and_then(|bytes| bytes.try_into().ok());
    bytes
        .map(BootId)
        .ok_or_else(|| std::io::Error::other(format!("the kernel's boot id is no UUID: {:?}", text.trim())))
}

/// The boot that processes began in. None where the kernel does not say, or where a test pretends another boot: in that no
/// process has begun.
pub fn boot_of_processes() -> Option<BootId> {
    test::boot_id().is_none().then(boot_id)?.ok()
}

/// Shifts for tests: none in a build that is shipped.
#[cfg(not(feature = "test-clock"))]
mod test {
    pub(super) fn shift_wall(millis: u64) -> Option<u64> {
        Some(millis)
    }
    pub(super) fn shift_boottime(millis: u64) -> Option<u64> {
        Some(millis)
    }
    pub(super) fn boot_id() -> Option<String> {
        None
    }
}

/// Shifts for tests, read at each call: another wall time, a later point of the same boot, another boot. A wall clock can
/// also jump under a process that runs: by as many milliseconds as a file says. A file that says nothing is a clock that
/// shows nothing.
#[cfg(feature = "test-clock")]
mod test {
    fn jump(millis: u64) -> Option<u64> {
        let Ok(path) = std::env::var("HARDTACK_TEST_CLOCK_FILE") else { return Some(millis) };
        let by = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
        millis.checked_add_signed(by)
    }
    fn shift(millis: u64, variable: &str) -> Option<u64> {
        let secs = std::env::var(variable).ok().and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
        millis.checked_add_signed(secs.saturating_mul(1000))
    }
    pub(super) fn shift_wall(millis: u64) -> Option<u64> {
        shift(millis, "HARDTACK_TEST_CLOCK_OFFSET_S").and_then(jump)
    }
    pub(super) fn shift_boottime(millis: u64) -> Option<u64> {
        shift(millis, "HARDTACK_TEST_BOOTTIME_OFFSET_S")
    }
    pub(super) fn boot_id() -> Option<String> {
        std::env::var("HARDTACK_TEST_BOOT_ID").ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_go_on_and_the_boot_stays() {
        let (first, second) = (now(), now());
        assert!(second.boottime >= first.boottime && first.boottime > Millis(0));
        assert!(first.wall > Some(Timestamp::from_secs(1_700_000_000)));
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
        assert_ne!(boot_id().unwrap(), BootId([0; 16]));
    }

    #[test]
    fn a_time_before_1970_is_none() {
        assert_eq!(millis(-1, 0), None);
        assert_eq!(millis(1, 999_999_999), Some(1999));
        assert_eq!(millis(i64::MAX, 0), None);
    }
}
