//! Signed time that somebody carries to the device.
//!
//! Owns: what a file with signed time does, the nonce that a reset of the clock must answer.
//! Never: asks who carried it; moves E back for less than a threshold of root keys that answers this device's nonce.
//! Read next: `clock.rs`, `wire/time.rs`.

use super::clock::{Role, RESET_LIFE};
use super::effects::{Effects, LogEvent};
use super::request::{ChallengeReply, Problem, ProblemCode, Reply, TimeReply};
use super::sync::RADIUS_MAX;
use super::{Agent, Now, Source};
use crate::ids::Nonce;
use crate::time::Millis;
use crate::wire::audit::{Event, TrustChange};
use crate::wire::envelope::Signed;
use crate::wire::revocation::announcement::Head;
use crate::wire::time::{TimeFile, TimeReset, TimeStatement};
use crate::wire::Refused;

impl Agent {
    /// Makes the nonce that a reset must answer. There is one at a time, good once and in this boot.
    pub(super) fn challenge(&mut self, now: Now) -> Reply {
        let nonce = self.new_nonce();
        self.reset_nonce = Some((nonce, now.boottime));
        Reply::Challenge(ChallengeReply {
            device: self.device.to_string(),
            nonce: nonce.to_string(),
            expires_in_s: RESET_LIFE.secs(),
        })
    }

    /// Takes a file with signed time.
    pub(super) fn import_time(&mut self, bytes: &[u8], now: Now, effects: &mut Effects) -> Reply {
        let before = (self.clock.floor(), self.clock.powered());
        let taken = TimeFile::from_bytes(bytes).and_then(|file| match file {
            TimeFile::Reset(reset) => self.reset_time(&reset, now, effects),
            TimeFile::Statement { bundles, heads, statement } => {
                for bundle in bundles {
                    let version = bundle.claim()?.version;
                    if version > self.trust.version {
                        self.on_bundle(version, &bundle.to_bytes(), now, effects)?;
                    }
                }
                heads.iter().try_for_each(|head| self.hear_head(head, now, effects))?;
                self.hear_statement(&statement, now, effects)
            }
        });
        let after = (self.clock.floor(), self.clock.powered());
        if after != before {
            let change = TrustChange::Told { before: before.0, after: after.0 };
            self.write(Event::Trust(change), Vec::new(), now, effects);
            effects.outgoing.logs.push(LogEvent::TimeImported { floor: after.0 });
        }
        if let Err(refused) = taken {
            self.refuse(Source::File, "a file with signed time", bytes, &refused, now, effects);
            let detail = format!("the file, or a part of it, is refused: {refused}; have the fleet make a new one");
            return Reply::Problem(Problem::new(ProblemCode::Refused, detail));
        }
        Reply::Time(TimeReply {
            floor_before: before.0.to_string(),
            floor: after.0.to_string(),
            powered: after.1.to_string(),
            waiting: self
                .clock
                .waiting()
                .map(|(role, until)| format!("{until}, signed by the {} role alone", role.name())),
        })
    }

    fn hear_head(&mut self, head: &Signed<Head>, now: Now, effects: &mut Effects) -> Result<(), Refused> {
        let feed = head.claim()?.feed;
        let opened = head.open(&self.fleet, self.trust.feed_keys(&feed), 1)?;
        self.trust.check_era(&feed, opened.era)?;
        self.hear(Role::Feed, opened.issued_at, &head.to_bytes(), now, effects);
        Ok(())
    }

    fn hear_statement(
        &mut self,
        statement: &Signed<TimeStatement>,
        now: Now,
        effects: &mut Effects,
    ) -> Result<(), Refused> {
        let opened = statement.open(&self.fleet, self.trust.service_keys(), 1)?;
        self.hear(Role::Service, opened.time - opened.radius_ms, &statement.to_bytes(), now, effects);
        Ok(())
    }

    fn reset_time(&mut self, reset: &Signed<TimeReset>, now: Now, effects: &mut Effects) -> Result<(), Refused> {
        let opened = if crate::mutant::active(crate::mutant::Mutant::ResetByAnyKey) {
            reset.claim()?
        } else {
            reset.open(&self.fleet, self.trust.root_keys(), usize::from(self.trust.threshold))?
        };
        let unbound = crate::mutant::active(crate::mutant::Mutant::ResetUnbound);
        if opened.device != self.device && !unbound {
            return Err(Refused::WrongDevice);
        }
        if opened.radius_ms > RADIUS_MAX {
            return Err(Refused::Malformed("a time that is hardly known"));
        }
        let asked = self.reset_asked(opened.nonce, now).or(unbound.then_some(now.boottime));
        let asked = asked.ok_or(Refused::UnknownNonce)?;
        self.reset_nonce = None;
        let (floor, powered) = (self.clock.floor(), self.clock.powered());
        let correction = self.clock.reset(opened.time, opened.radius_ms, asked, now.boottime);
        self.wallet.shorten(correction);
        self.revocations.note_taken(&self.clock);
        // First of all: where E goes back in the trail, it says why.
        let change =
            TrustChange::Reset { floor: (floor, self.clock.floor()), powered: (powered, self.clock.powered()) };
        self.write(Event::Trust(change), Vec::new(), now, effects);
        if self.clock.floor() < floor && !crate::mutant::active(crate::mutant::Mutant::ResetRevives) {
            // While E was ahead, counters and ended tasks were forgotten too early: what is from before is not relied on.
            self.wallet.lose_counters(self.clock.powered());
            self.reset_at = Some(now.boottime);
            self.end_all_tasks("the clock was reset", now, effects);
        }
        // What the fleet issues from now on is good: it can say at once when that is.
        self.greet_again(now, effects);
        self.anchor_due = true;
        Ok(())
    }

    fn reset_asked(&self, nonce: Nonce, now: Now) -> Option<Millis> {
        let (_, asked) = self.reset_nonce.filter(|(own, _)| *own == nonce)?;
        (now.boottime.0.saturating_sub(asked.0) <= RESET_LIFE.0).then_some(asked)
    }
}
