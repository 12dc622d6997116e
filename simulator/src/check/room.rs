//! I9, for the audit's queue: it stays within its quota, and each class of records keeps what is reserved for it.
//!
//! Owns: what a gateway's disk takes after each commit, and whether a lack of room that a caller is told of is one.
//! Never: asks the agent how much room it thinks it has: it is counted on the disk.
//! Read next: `hardtack::agent::room`.

use hardtack::agent::room::Class;
use hardtack::ids::DeviceId;
use hardtack::profile::QueueLimits;

use super::{Id, Tally};
use crate::disk::Medium;

/// What a disk may take beyond the quota, in bytes: records of one commit, and what goes on when nothing else fits. A mode, a
/// start and a gap are written in any case.
const SLACK_BYTES: u64 = 32 * 1024;
/// A class may be refused when it has so much of its reserve, in percent: what was written since the agent last looked at the
/// disk it can only guess.
const TAKEN_PERCENT: u64 = 80;

/// What a gateway held when it was given a quota that is smaller than that, as far as it can still be there, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct HeldOver(u64);

impl HeldOver {
    /// A gateway that holds so much is given another quota.
    pub(crate) const fn at(used: u64) -> Self {
        Self(used)
    }

    /// What of it can be left where a gateway holds so much by now: it never comes back, and within the quota none is.
    pub(crate) fn left(&mut self, used: u64, limits: &QueueLimits) -> u64 {
        self.0 = if used <= quota_bytes(limits) { 0 } else { self.0.min(used) };
        self.0
    }
}

/// A commit is durable. `held_over` is what a smaller quota found there, in bytes.
pub(crate) fn committed(
    tally: &mut Tally,
    at: u64,
    name: &DeviceId,
    medium: &Medium,
    limits: &QueueLimits,
    held_over: u64,
) {
    // Each class may come to have its reserve beside what another one holds, and never gives up.
    let quota = quota_bytes(limits).saturating_add(held_over);
    // A roomy disk proves nothing.
    if medium.bytes < quota / 2 {
        return;
    }
    let over = medium.bytes > quota + SLACK_BYTES;
    let how = || format!("the audit of {name} takes {} bytes, of a quota of {quota}", medium.bytes);
    tally.tried(Id::DiskBounded, at, over.then(how));
}

/// A caller was told that there is no room for a record of a class. Returns whether that is so.
pub(crate) fn refused(
    tally: &mut Tally,
    at: u64,
    name: &DeviceId,
    class: Class,
    medium: &Medium,
    limits: &QueueLimits,
) -> bool {
    let percent = match class {
        Class::Critical => limits.reserve_percent.critical,
        Class::Allow => limits.reserve_percent.allow,
        Class::Denial => limits.reserve_percent.denial,
        Class::Notice => limits.reserve_percent.notice,
    };
    let (reserve, used) = (quota_bytes(limits) / 100 * u64::from(percent), medium.of_class(class));
    let taken = used >= reserve / 100 * TAKEN_PERCENT;
    let how = || format!("{name} has no room for class {}: {used} bytes of its reserve of {reserve}", class.name());
    tally.tried(Id::ReserveKept, at, (!taken).then(how));
    taken
}

fn quota_bytes(limits: &QueueLimits) -> u64 {
    limits.quota_mib.saturating_mul(1024 * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Status;
    use hardtack::profile::Profile;

    const MIB: u64 = 1024 * 1024;

    /// A quota of one MiB is given to who holds five; what it holds later, and whether that is too much.
    #[track_caller]
    fn check_held(later: &[(u64, bool)]) {
        let (mut tally, name) = (Tally::default(), "gw-0".parse().unwrap());
        let limits = QueueLimits { quota_mib: 1, ..Profile::default().queue };
        let mut held_over = HeldOver::at(5 * MIB);
        for (used, broken) in later {
            let mut medium = Medium::default();
            medium.bytes = *used;
            let left = held_over.left(*used, &limits);
            let before = tally.broken_count();
            committed(&mut tally, 1, &name, &medium, &limits, left);
            assert_eq!(tally.broken_count() > before, *broken, "{used} of {later:?}");
        }
        let status = tally.properties().into_iter().find(|property| property.id == "I9.disk").unwrap().status;
        assert_ne!(status, Status::Vacuous);
    }

    #[test]
    fn what_was_held_over_may_stay_and_once_it_is_gone_it_may_not_come_back() {
        check_held(&[(5 * MIB, false), (6 * MIB, false), (6 * MIB + SLACK_BYTES + 1, true)]);
        check_held(&[(5 * MIB, false), (2 * MIB, false), (3 * MIB, false), (4 * MIB, true), (6 * MIB, true)]);
        check_held(&[(5 * MIB, false), (MIB, false), (2 * MIB, true)]);
    }
}
