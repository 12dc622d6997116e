//! What faults suspend that break an assumption of the proofs.
//!
//! Owns: the table in `faults.toml`, which the docs show and the checkers take as input.
//! Never: suspends anything for a fault that the proofs cover.
//! Read next: `simulator/faults.toml`.

use serde::Deserialize;

/// The table, part of the program.
const TABLE: &str = include_str!("../../faults.toml");

/// What one fault suspends, and what holds in its place.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Suspension {
    fault: String,
    suspends: Vec<Clause>,
    pub(crate) grace_s: u64,
    pub(crate) lock: Lock,
    /// For the reader.
    #[serde(rename = "instead")]
    _instead: String,
}

/// Something that is not judged any more as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum Clause {
    #[serde(rename = "available")]
    Available,
    #[serde(rename = "box")]
    Box,
    #[serde(rename = "clock")]
    Clock,
    #[serde(rename = "I7")]
    FailClosed,
    #[serde(rename = "generation")]
    Generation,
    #[serde(rename = "live")]
    Live,
    #[serde(rename = "I5")]
    Monotone,
    #[serde(rename = "I5.position")]
    Position,
    #[serde(rename = "I2")]
    NothingLost,
    #[serde(rename = "I4")]
    RevocationHolds,
}

/// What must follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Lock {
    /// Once in touch it must be locked for good.
    Final,
    /// Nothing may be allowed until a round trip.
    Needed,
    /// Nothing.
    None,
    /// Once in touch it may be locked for good: the fleet has seen what the device has lost.
    Possible,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    entry: Vec<Suspension>,
}

impl Suspension {
    /// What a fault suspends, if anything.
    ///
    /// # Panics
    /// Never: a test reads the table.
    pub(crate) fn of(fault: &str) -> Option<Self> {
        let table: Table = toml::from_str(TABLE).expect("the table that is part of the program can be read");
        table.entry.into_iter().find(|entry| entry.fault == fault)
    }

    /// Whether it suspends a clause.
    pub(crate) fn covers(&self, clause: Clause) -> bool {
        self.suspends.contains(&clause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_can_be_read_and_names_what_breaks_an_assumption_and_nothing_else() {
        use crate::fault::Damage;
        for (_, damage) in Damage::ALL {
            assert!(Suspension::of(damage.name()).is_some(), "{}", damage.name());
        }
        assert_eq!(Suspension::of("anchor.gone").unwrap().lock, Lock::Needed);
        assert!(Suspension::of("service.ahead").is_some());
        assert!(Suspension::of("broker.feed substitute").is_some());
        assert!(Suspension::of("broker.feed leap").is_some());
        assert!(Suspension::of("broker.feed far_ahead").is_some());
        assert!(Suspension::of("broker.feed fast_forward").is_none());
        assert!(Suspension::of("broker.feed twin").is_none());
        assert!(Suspension::of("power.cut").is_none());
        assert!(Suspension::of("disk.full").is_none());
        assert!(Suspension::of("disk.readonly").is_none());
    }
}
