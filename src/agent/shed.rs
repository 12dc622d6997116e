//! What is done when room is short: denials give way to newer ones, and space that the collector has freed comes back.
//!
//! Owns: when that is due, and what is said of it. Whole segments go, the oldest first, of eras that are no longer
//! written; their signed headers stay, so that the chain can be followed over them, and gap records count what is gone.
//! Never: gives up an allow, or what the rest is understood by; anything that the collector may be about to hold.
//! Read next: `room.rs` for the classes, `audit.rs` for what can go, [`Batch::shed`](super::Batch) for what the store does.

use super::effects::{Effects, LogEvent};
use super::room::{Class, Room, Taken};
use super::{Agent, Now};
use crate::wire::audit::{Event, Gap, GapCause};

impl Agent {
    /// How much room the audit has.
    pub(super) fn room(&self) -> Room {
        Room::new(&self.profile.queue, self.taken, &self.trail.weights())
    }

    /// Whether the audit takes more than it may: it was written when it might take more.
    pub(super) fn is_overfull(&self) -> bool {
        self.taken.used_bytes > self.profile.queue.quota_mib.saturating_mul(1024 * 1024)
    }

    /// Makes room where it is short: ends an era that the collector holds, so that its space comes back, and lets denials give
    /// way. Only between commits: a commit writes to one era. One era at a time, so that a commit has a bound: what stays of
    /// it is written anew.
    pub(super) fn make_room(&mut self, now: Now, effects: &mut Effects) {
        let fresh = effects.batch.entries.is_empty() && effects.batch.begin_era.is_none();
        let room = self.room();
        let denials = room.is_short(Class::Denial);
        let ends = (denials || room.is_short(Class::Allow)) && self.trail.is_spent();
        if !denials && !ends {
            self.ending = false;
            return;
        }
        if !fresh || !effects.batch.shed.is_empty() {
            return;
        }
        // As long as there is some room, flash is not worn for little.
        let all = !room.fits(Class::Denial);
        let weighed = self.trail.weights().total();
        let mut shed = if denials { self.trail.shed(all) } else { Vec::new() };
        if shed.is_empty() && (ends || self.trail.may_shed_next(all)) {
            // What is being written can give nothing back. What was counted is of this era, and written into it first.
            let counts = self.flood.all();
            if !counts.is_empty() {
                self.ending = true;
                return self.write_counts(counts, now, effects);
            }
            self.next_era(now, effects);
            if denials {
                shed = self.trail.shed(all);
            }
        }
        if shed.is_empty() {
            return;
        }
        // The true figure comes with Input::Disk.
        let Taken { used_bytes, dead_bytes } = self.taken;
        let live = u128::from(used_bytes.saturating_sub(dead_bytes));
        let left = live * u128::from(self.trail.weights().total()) / u128::from(weighed.max(1));
        self.taken.used_bytes = u64::try_from(left).map_or(used_bytes, |left| left.saturating_add(dead_bytes));
        let records: u64 = shed.iter().map(|given| given.shed.records.1 - given.shed.records.0).sum();
        let era = shed[0].shed.era;
        for given in &shed {
            let (first, end) = given.shed.records;
            let end = if crate::mutant::active(crate::mutant::Mutant::GapTooShort) { end - 1 } else { end };
            // What counts stood for is gone with them.
            let forgotten = crate::mutant::active(crate::mutant::Mutant::CountsShedUntold);
            let repeated = if forgotten { 0 } else { given.repeated };
            let gap = Gap { era, first, end: Some(end), cause: GapCause::Quota, repeated };
            if !crate::mutant::active(crate::mutant::Mutant::ShedUntold) {
                self.write(Event::Gap(gap), Vec::new(), now, effects);
            }
        }
        effects.outgoing.logs.push(LogEvent::AuditShed { era: era.number, records });
        effects.batch.shed = shed.into_iter().map(|given| given.shed).collect();
    }
}
