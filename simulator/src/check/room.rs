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
