//! Liveness: once faults have stopped, everything that is owed comes about.
//!
//! Owns: what is asked of each gateway in the end.
//! Never: asks it earlier.
//! Read next: `world.rs`, which stops the faults.

use std::collections::BTreeSet;

use hardtack::agent::request::{Mode, StatusReply};
use hardtack::agent::room::Class;
use hardtack::ids::DeviceId;

use super::emergency::NAMED;
use super::feed::Owed;
use super::{Id, Tally};

/// Records that may be on their way at any moment: a task can end in the last second.
const ON_THE_WAY: u64 = 4;

/// What a gateway must have come to in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// An emergency key revoked it, and that still holds: it is locked, and by nothing else.
    Locked,
    /// Nothing stands against it.
    Online,
    /// The fleet signs heads so seldom that the newest may be too old for some risk.
    OnlineOrStale,
}

impl Due {
    fn is(self, status: &StatusReply) -> bool {
        let for_nothing_but = |what: &str| status.reasons.iter().all(|reason| reason.contains(what));
        match self {
            Self::Locked => status.mode == Mode::Locked && for_nothing_but(NAMED),
            Self::Online => status.mode == Mode::Online,
            Self::OnlineOrStale => {
                status.mode == Mode::Online || (status.mode == Mode::Stale && for_nothing_but("too old"))
            }
        }
    }
}

/// A gateway's last word: it is what it is due to be, holds the newest list, has handed everything over, and has room again.
/// None: it did not answer.
pub(crate) fn last_word(
    tally: &mut Tally,
    at: u64,
    name: &DeviceId,
    newest: &Owed,
    status: Option<&StatusReply>,
    due: Due,
) {
    let broken = match status {
        None => Some(format!("{name} does not answer")),
        Some(status) if !due.is(status) => {
            Some(format!("{name} is {}: {} (link: {})", status.mode.name(), status.reasons.join("; "), status.link))
        }
        Some(status) if status.feed_seq < newest.order.1 => Some(behind(name, newest, status)),
        Some(status) if status.pending > ON_THE_WAY => Some(format!("{name} still keeps {} records", status.pending)),
        Some(status) => no_room(name, status),
    };
    tally.tried(Id::Live, at, broken);
}

/// Whoever has handed over all that he had has room for what programs ask next.
fn no_room(name: &DeviceId, status: &StatusReply) -> Option<String> {
    let room = &status.audit;
    let full = [Class::Allow, Class::Denial].into_iter().find(|class| !room.fits.contains(class))?;
    let (full, used, quota) = (full.name(), room.used_bytes, room.quota_bytes);
    Some(format!("{name} keeps no records, and has no room for another {full}: {used} of {quota} bytes are used"))
}

fn behind(name: &DeviceId, newest: &Owed, status: &StatusReply) -> String {
    let Owed { feed, order } = newest;
    format!("{name} holds list {}, the newest of {feed} is {}", status.feed_seq, order.1)
}

/// A gateway's disk: it holds the set of the newest head, as all others do.
pub(crate) fn converged(tally: &mut Tally, at: u64, name: &DeviceId, lacks: Option<String>) {
    tally.tried(Id::Live, at, lacks.map(|lacks| format!("{name} {lacks}")));
}

/// A gateway's disk: it holds the newest statement of the operator's emergency key.
pub(crate) fn told_of_emergency(tally: &mut Tally, at: u64, name: &DeviceId, lacks: Option<String>) {
    tally.tried(Id::Live, at, lacks.map(|lacks| format!("{name} {lacks}")));
}

/// A gateway that was behind when the service went away, and had the broker since: that alone has brought it up.
pub(crate) fn caught_up(tally: &mut Tally, at: u64, name: &DeviceId, lacks: Option<String>) {
    tally.tried(Id::CaughtUp, at, lacks.map(|lacks| format!("with nobody but the broker, {name} {lacks}")));
}

/// With fewer gateways than this there is no herd.
const HERD_FROM: u32 = 20;
/// In one second at most one of so many gateways connects, and a few: whoever knocks while a link is mended comes through
/// at that moment.
const HERD_SHARE: u32 = 5;
const HERD_FEW: u32 = 3;

/// How many gateways connect in one second.
#[derive(Debug, Default)]
pub(crate) struct Herd {
    /// Gateways that have connected before: a first time makes no herd.
    known: BTreeSet<u32>,
    second: u64,
    count: u32,
    peak: u32,
}

impl Herd {
    /// A gateway connects.
    pub(crate) fn knock(&mut self, at: u64, device: u32) {
        if self.known.insert(device) {
            return;
        }
        self.count = if self.second == at / 1000 { self.count + 1 } else { 1 };
        self.second = at / 1000;
        self.peak = self.peak.max(self.count);
    }

    /// In the end: they did not come all at once. Where none came back, none could.
    pub(crate) fn finish(&self, tally: &mut Tally, at: u64, devices: u32) {
        if devices >= HERD_FROM && self.peak > 0 {
            let peak = self.peak;
            let broken = peak > devices / HERD_SHARE + HERD_FEW;
            let how = || format!("{peak} of {devices} gateways connected within one second");
            tally.tried(Id::Herd, at, broken.then(how));
        }
    }
}

/// The publisher: what the ledger revokes is in the newest head's set.
pub(crate) fn published(tally: &mut Tally, at: u64, waits: Option<String>) {
    tally.tried(Id::Live, at, waits.map(|waits| format!("the newest head's set does not revoke {waits}")));
}

/// The last word of a gateway that the operator revoked: it is locked, has nothing left to work with, and has handed
/// everything over.
pub(crate) fn obeyed(tally: &mut Tally, at: u64, name: &DeviceId, newest: &Owed, status: Option<&StatusReply>) {
    let broken = match status {
        None => Some(format!("{name} does not answer")),
        Some(status) if status.mode != Mode::Locked => Some(format!("{name} is revoked, and {}", status.mode.name())),
        Some(status) if !status.grants.is_empty() => Some(format!("{name} is revoked, and still holds a grant")),
        Some(status) if status.feed_seq < newest.order.1 => Some(behind(name, newest, status)),
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

/// The last word of a gateway that lost what the fleet has seen, and locked: it has handed over what it has.
pub(crate) fn delivered(tally: &mut Tally, at: u64, name: &DeviceId, status: Option<&StatusReply>) {
    let kept = status.map_or(u64::MAX, |status| status.pending);
    let broken = (kept > ON_THE_WAY).then(|| format!("{name} is locked, and still keeps {kept} records"));
    tally.tried(Id::Live, at, broken);
}

/// The world got stuck: events without end at one moment.
pub(crate) fn stuck(tally: &mut Tally, at: u64, events: u64) {
    tally.tried(Id::Live, at, Some(format!("{events} events at one moment: something goes round in circles")));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Status;

    #[track_caller]
    fn check_herd(gap: u64, expected: Status) {
        let (mut tally, mut herd) = (Tally::default(), Herd::default());
        (0..40).for_each(|device| herd.knock(5, device));
        (0..40).for_each(|device| herd.knock(60_000 + gap * u64::from(device), device));
        herd.finish(&mut tally, 1, 40);
        let property = tally.properties().into_iter().find(|property| property.id == "herd").unwrap();
        assert_eq!(property.status, expected, "{property:?}");
    }

    #[test]
    fn a_fleet_that_comes_all_at_once_is_seen_but_not_its_first_start() {
        check_herd(200, Status::Pass);
        check_herd(50, Status::Fail);
    }
}
