//! Liveness: once faults have stopped, everything that is owed comes about.
//!
//! Owns: what is asked of each gateway in the end.
//! Never: asks it earlier.
//! Read next: `world.rs`, which stops the faults.

use hardtack::agent::request::{Mode, StatusReply};
use hardtack::ids::DeviceId;

use super::{Id, Tally};

/// Records that may be on their way at any moment: a task can end in the last second.
const ON_THE_WAY: u64 = 4;

/// A gateway's last word: it is online, holds the newest list, and has handed everything over. None: it did not answer.
pub(crate) fn last_word(tally: &mut Tally, at: u64, name: &DeviceId, newest_seq: u64, status: Option<&StatusReply>) {
    let broken = match status {
        None => Some(format!("{name} does not answer")),
        Some(status) if status.mode != Mode::Online => {
            Some(format!("{name} is {}: {} (link: {})", status.mode.name(), status.reasons.join("; "), status.link))
        }
        Some(status) if status.feed_seq < newest_seq => {
            Some(format!("{name} holds list {}, the newest is {newest_seq}", status.feed_seq))
        }
        Some(status) if status.pending > ON_THE_WAY => Some(format!("{name} still keeps {} records", status.pending)),
        Some(_) => None,
    };
    tally.tried(Id::Live, at, broken);
}

/// The last word of a gateway that the operator revoked: it is locked, has nothing left to work with, and has handed
/// everything over.
pub(crate) fn obeyed(tally: &mut Tally, at: u64, name: &DeviceId, newest_seq: u64, status: Option<&StatusReply>) {
    let broken = match status {
        None => Some(format!("{name} does not answer")),
        Some(status) if status.mode != Mode::Locked => Some(format!("{name} is revoked, and {}", status.mode.name())),
        Some(status) if !status.grants.is_empty() => Some(format!("{name} is revoked, and still holds a grant")),
        Some(status) if status.feed_seq < newest_seq => {
            Some(format!("{name} holds list {}, the newest is {newest_seq}", status.feed_seq))
        }
        Some(status) if status.pending > ON_THE_WAY => Some(format!("{name} still keeps {} records", status.pending)),
        Some(_) => None,
    };
    tally.tried(Id::Live, at, broken);
}

/// The last word of a gateway whose storage was restored: it has seen that, and is locked.
pub(crate) fn detected(tally: &mut Tally, at: u64, name: &DeviceId, status: Option<&StatusReply>) {
    let broken = match status {
        Some(status) if status.mode == Mode::Locked => None,
        Some(status) => Some(format!("{name} was restored from an image, and is {}", status.mode.name())),
        None => Some(format!("{name} does not answer")),
    };
    tally.tried(Id::Detected, at, broken);
}

/// The world got stuck: events without end at one moment.
pub(crate) fn stuck(tally: &mut Tally, at: u64, events: u64) {
    tally.tried(Id::Live, at, Some(format!("{events} events at one moment: something goes round in circles")));
}
