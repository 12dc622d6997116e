//! What was refused, as evidence: told, counted, and recorded within a bound.
//!
//! Owns: which refusals are the same, how often one is recorded.
//! Never: lets a stranger choose how much is remembered or written.
//! Read next: `sync.rs`, where most of them come from.

use std::collections::BTreeMap;

use super::effects::{Effects, LogEvent};
use super::room::Class;
use super::{shorten, Agent, Now};
use crate::ids::Hash;
use crate::time::Millis;
use crate::wire::audit::{Event, Evidence as Refusal};
use crate::wire::Refused;

/// Where something that is refused came from. Told apart are kinds, not names that a stranger chooses: what is remembered
/// and recorded stays bounded whatever arrives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Source {
    Ack,
    Answer,
    Bundle,
    Clock,
    Emergency,
    FeedHead,
    FeedPiece,
    File,
    Grant,
    Policy,
    Unknown,
    Wallet,
}

/// The same refusal from the same source is recorded at most this often; what comes between is counted.
const REFUSAL_EVERY: Millis = Millis::from_secs(60);
/// Refusals that are recorded within a minute, of all sources together. What comes above is counted, and told with the
/// next of its kind.
const RECORDS_PER_MINUTE: u32 = 16;
/// Refusals that are told to the log within a minute.
const LINES_PER_MINUTE: u32 = 60;

/// Refusals since the start.
#[derive(Default)]
pub(crate) struct Refusals {
    tallies: BTreeMap<(Source, &'static str), Tally>,
    minute: Minute,
}

/// What was told and recorded since this minute began.
#[derive(Default)]
struct Minute {
    began: Millis,
    lines: u32,
    records: u32,
}

impl Minute {
    fn at(&mut self, now: Millis) -> &mut Self {
        if now.0 >= self.began.0.saturating_add(REFUSAL_EVERY.0) {
            *self = Self { began: now, ..Self::default() };
        }
        self
    }

    fn one_more_line(&mut self) -> bool {
        self.lines += 1;
        self.lines <= LINES_PER_MINUTE
    }

    fn one_more_record(&mut self) -> bool {
        self.records += 1;
        self.records <= RECORDS_PER_MINUTE
    }
}

/// How often something was refused since it was last recorded.
struct Tally {
    recorded: Option<Millis>,
    since: u64,
}

impl Agent {
    /// Something that arrived was refused: told to the log, and recorded, the same at most once a minute with a count. Whether
    /// this has a record.
    pub(super) fn refuse(
        &mut self,
        source: Source,
        name: &str,
        bytes: &[u8],
        refused: &Refused,
        now: Now,
        effects: &mut Effects,
    ) -> bool {
        self.counters.refused += 1;
        let (shown, reason) = (shorten(name, 160), refused.to_string());
        if self.refusals.minute.at(now.boottime).one_more_line() {
            effects.outgoing.logs.push(LogEvent::MessageRefused { topic: shown.clone(), reason: reason.clone() });
        }
        let new = Tally { recorded: None, since: 0 };
        let tally = self.refusals.tallies.entry((source, refused.name())).or_insert(new);
        tally.since += 1;
        let recent = |at: Millis| now.boottime.0 < at.0.saturating_add(REFUSAL_EVERY.0);
        let told = tally.recorded.is_some_and(recent);
        // Whoever has a key can sign two things; noise cannot, and must not crowd out the proof.
        let proof = matches!(refused, Refused::Equivocation { .. } | Refused::PostDated | Refused::SignedTwice { .. });
        if told || !self.room().fits(Class::Notice) || !(proof || self.refusals.minute.one_more_record()) {
            return false;
        }
        let Some(tally) = self.refusals.tallies.get_mut(&(source, refused.name())) else { return false };
        let count = std::mem::take(&mut tally.since);
        tally.recorded = Some(now.boottime);
        let digest = Hash::of("hardtack/evidence/v1", &[bytes]);
        self.write(Event::Refused(Refusal { source: shown, reason, digest, count }), Vec::new(), now, effects);
        true
    }
}
