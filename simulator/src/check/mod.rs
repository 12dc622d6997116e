//! The checkers: whether what is seen from outside is what ought to be.
//!
//! Owns: the account of each property: how often it was tried, what broke it first.
//! Never: counts what was never tried as held; looks into an agent. What is judged is what callers, the broker, the
//! collector and the disk see.
//! Read next: `audit.rs`, `clock.rs`, `authority.rs`, `emergency.rs`, `feed.rs`, `monotone.rs`, `evidence.rs`,
//! `live.rs`.

pub(crate) mod audit;
pub(crate) mod authority;
pub(crate) mod clock;
pub(crate) mod emergency;
pub(crate) mod evidence;
pub(crate) mod feed;
pub(crate) mod identity;
pub(crate) mod live;
pub(crate) mod monotone;
pub(crate) mod outside;
pub(crate) mod room;
pub(crate) mod suspend;

use std::collections::BTreeMap;

use crate::report::{Property, Status, PROPERTIES};

/// A property that is judged. Those whose names have a dot are clauses of an invariant that another clause would hide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Id {
    AuditedFirst,
    NothingLost,
    Bounded,
    BoundedFloor,
    BoundedStrict,
    RevocationHolds,
    RevocationBounded,
    RevocationDropped,
    RevocationEmergency,
    RevocationEnded,
    RevocationStale,
    Monotone,
    MonotoneBudget,
    Evidence,
    Position,
    OnlyNarrower,
    OnlyNarrowerChild,
    OnlyNarrowerExchange,
    OnlyNarrowerSibling,
    OnlyNarrowerStep,
    FailClosed,
    Sealed,
    MessageBounded,
    DiskBounded,
    ReserveKept,
    ColdStart,
    Attributable,
    Available,
    BoxBoots,
    BoxLife,
    BoxOffline,
    BoxUses,
    CaughtUp,
    Clock,
    Detected,
    EmergencyEnds,
    Herd,
    Identity,
    Live,
    Policy,
}

impl Id {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AuditedFirst => "I1",
            Self::NothingLost => "I2",
            Self::Bounded => "I3",
            Self::BoundedFloor => "I3.floor",
            Self::BoundedStrict => "I3.strict",
            Self::RevocationHolds => "I4",
            Self::RevocationBounded => "I4.bounded",
            Self::RevocationDropped => "I4.dropped",
            Self::RevocationEmergency => "I4.emergency",
            Self::RevocationEnded => "I4.ended",
            Self::RevocationStale => "I4.stale",
            Self::Monotone => "I5",
            Self::MonotoneBudget => "I5.budget",
            Self::Evidence => "I5.evidence",
            Self::Position => "I5.position",
            Self::OnlyNarrower => "I6",
            Self::OnlyNarrowerChild => "I6.child",
            Self::OnlyNarrowerExchange => "I6.exchange",
            Self::OnlyNarrowerSibling => "I6.sibling",
            Self::OnlyNarrowerStep => "I6.step",
            Self::FailClosed => "I7",
            Self::Sealed => "I8.sealed",
            Self::MessageBounded => "I9",
            Self::DiskBounded => "I9.disk",
            Self::ReserveKept => "I9.reserve",
            Self::ColdStart => "I10",
            Self::Attributable => "I11",
            Self::Available => "available",
            Self::BoxBoots => "box.boots",
            Self::BoxLife => "box.life",
            Self::BoxOffline => "box.offline",
            Self::BoxUses => "box.uses",
            Self::CaughtUp => "caught_up",
            Self::Clock => "clock",
            Self::Detected => "detected",
            Self::EmergencyEnds => "emergency.ends",
            Self::Herd => "herd",
            Self::Identity => "identity",
            Self::Live => "live",
            Self::Policy => "policy",
        }
    }
}

/// The account of all properties.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tally {
    counts: BTreeMap<Id, u64>,
    witnesses: BTreeMap<&'static str, String>,
    broken: u64,
    unsound: u64,
}

impl Tally {
    /// A property was tried. `broken` says how it failed, if it did.
    pub(crate) fn tried(&mut self, id: Id, at: u64, broken: Option<String>) {
        *self.counts.entry(id).or_default() += 1;
        if let Some(broken) = broken {
            self.broken(id, at, broken);
        }
    }

    /// A property is broken, in a way that is not a trial of its own.
    pub(crate) fn broken(&mut self, id: Id, at: u64, how: String) {
        self.broken += 1;
        self.witnesses.entry(id.name()).or_insert_with(|| format!("at {}: {how}", clock(at)));
    }

    /// Something was allowed that must not be.
    pub(crate) fn unsound(&mut self) {
        self.unsound += 1;
    }

    /// How often something was allowed that must not be.
    pub(crate) fn unsound_count(&self) -> u64 {
        self.unsound
    }

    /// Whether a property is broken.
    #[cfg(feature = "mutants")]
    pub(crate) fn has_broken(&self, id: &str) -> bool {
        self.witnesses.contains_key(id)
    }

    /// Whether a property is broken in this way.
    pub(crate) fn is_broken(&self, breach: &Breach) -> bool {
        self.witnesses.get(breach.property.as_str()).is_some_and(|witness| way(witness) == breach.way)
    }

    /// How often anything was broken.
    #[cfg(test)]
    pub(crate) fn broken_count(&self) -> u64 {
        self.broken
    }

    /// Adds the account of another run of the same scenario.
    pub(crate) fn add(&mut self, other: Self) {
        for (id, count) in other.counts {
            *self.counts.entry(id).or_default() += count;
        }
        for (id, witness) in other.witnesses {
            self.witnesses.entry(id).or_insert(witness);
        }
        self.broken += other.broken;
        self.unsound += other.unsound;
    }

    /// Every property as it stands.
    pub(crate) fn properties(&self) -> Vec<Property> {
        let property = |id: &'static str| {
            let checked = self.counts.iter().find(|(of, _)| of.name() == id).map_or(0, |(_, count)| *count);
            let witness = self.witnesses.get(id).cloned();
            let status = match (checked, &witness) {
                (_, Some(_)) => Status::Fail,
                (0, None) => Status::Vacuous,
                (_, None) => Status::Pass,
            };
            Property { id, status, checked, witness }
        };
        PROPERTIES.into_iter().map(property).collect()
    }
}

/// A property that is broken, and in which way. One property can be broken in many ways, and another one is another story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    property: String,
    way: String,
}

impl Breach {
    /// How a property is broken by a witness.
    pub fn of(property: &Property) -> Option<Self> {
        let way = way(property.witness.as_deref()?);
        Some(Self { property: property.id.to_owned(), way })
    }

    /// The property's id.
    pub fn property(&self) -> &str {
        &self.property
    }
}

/// What a witness says beside when, to whom and how much: its words, without those that hold figures.
fn way(witness: &str) -> String {
    let words = witness.split_whitespace().filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
    words.collect::<Vec<_>>().join(" ")
}

/// A moment as a person reads it: days, hours, minutes, seconds since the start.
pub(crate) fn clock(at: u64) -> String {
    let (seconds, ms) = (at / 1000, at % 1000);
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    format!("{days}d{:02}:{:02}:{:02}.{ms:03}", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_way_to_break_a_property_is_not_another() {
        let one = way("at 0d00:00:00.002: gw-1 allowed gw-1/1/21: its 8 uses were spent");
        assert_eq!(one, way("at 3d00:10:00.002: gw-0 allowed gw-0/7/2: its 40 uses were spent"));
        assert_ne!(one, way("at 0d00:00:00.002: gw-1 allowed gw-1/1/21: it was finished"));
    }

    #[test]
    fn untried_is_vacuous_and_the_first_witness_stays() {
        let mut tally = Tally::default();
        tally.tried(Id::AuditedFirst, 1, None);
        tally.tried(Id::NothingLost, 2, Some("first".into()));
        tally.tried(Id::NothingLost, 3, Some("second".into()));
        let properties = tally.properties();
        let of = |id: &str| properties.iter().find(|property| property.id == id).unwrap().clone();
        assert_eq!((of("I1").status, of("I1").checked), (Status::Pass, 1));
        assert_eq!((of("I2").status, of("I2").checked), (Status::Fail, 2));
        assert_eq!(of("I2").witness.unwrap(), "at 0d00:00:00.002: first");
        assert_eq!(of("I3").status, Status::Vacuous);
    }
}
