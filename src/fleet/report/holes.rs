//! What is missing from a device's audit, or odd in it, one by one.
//!
//! Owns: [`Holes`], a list per kind, each with a bound.
//! Never: counts. The report does, over all there is, whatever no list has room for.
//! Read next: `../report.rs`, which finds them.

use super::branch::Parting;
use super::twins::Twin;
use crate::ids::{EraId, Hash};
use crate::time::Timestamp;
use crate::wire::audit::fork::Contradiction;
use crate::wire::audit::signer::Mark;
use crate::wire::audit::Gap;

/// The most entries of one list: a device may sign what it likes.
pub const LISTED_MAX: usize = 1000;

/// What is missing from a device's audit, or odd in it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Holes {
    /// Its gap records: losses that it counted and signed.
    pub counted: Vec<Counted>,
    /// What later records prove to exist, and neither arrived nor is counted.
    pub missing: Vec<Missing>,
    /// Era numbers of which nothing is here or said.
    pub unheard: Vec<Unheard>,
    /// What a damaged disk has left of segments.
    pub salvaged: Vec<Salvaged>,
    /// Decisions whose credential only a lost record names.
    pub unattributed: Vec<String>,
    /// Segments that a later start closed, and eras that began with a key that nothing announced.
    pub marked: Vec<Marked>,
    /// Branches of eras beside the ones that arrived first.
    pub aside: Vec<Aside>,
    /// Eras that contradict an earlier one, but for those of which a ledger tells that they forked.
    pub twins: Vec<Twin>,
    /// What no list had room for.
    pub left_out: u64,
}

/// A gap record.
#[derive(Clone, PartialEq, Debug)]
pub struct Counted {
    /// Its name.
    pub id: String,
    /// The floor E when it was written.
    pub floor: Timestamp,
    /// What it counts.
    pub gap: Gap,
}

/// Records that are not here, and that nobody counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Missing {
    /// Their era.
    pub era: EraId,
    /// The first.
    pub first: u64,
    /// The first after them.
    pub end: u64,
    /// What there is of the era.
    pub arrived: Arrived,
}

/// Numbers of eras in a row of which nothing arrived, and of which nothing says that they ended, were lost, or held nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unheard {
    /// The first.
    pub first: u64,
    /// The first after them.
    pub end: u64,
}

/// What there is of an era.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrived {
    /// Nothing: the era after it names it, and it never came.
    Nothing,
    /// Other records of it.
    APart,
}

/// What a damaged disk has left of one segment, or of several in a row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Salvaged {
    /// The era.
    pub era: EraId,
    /// The first of the segments.
    pub segment: u64,
    /// The first after them.
    pub next_segment: u64,
    /// The lost records: each range's first, and the first after it.
    pub lost: Vec<(u64, u64)>,
}

/// A branch of an era beside the one that arrived first. Which of them is the device's own nobody can tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Aside {
    /// The era.
    pub era: EraId,
    /// Its name: the digest of its first segment's header.
    pub id: Hash,
    /// After what it goes its own way.
    pub parting: Parting,
    /// Its segments: the first, and the first after them.
    pub segments: (u64, u64),
    /// Its record numbers, likewise.
    pub indexes: (u64, u64),
    /// Records of it that are here and check out.
    pub records: u64,
    /// The decisions that these tell of.
    pub decisions: u64,
    /// How it contradicts the trail, or another branch: proof that somebody signed both.
    pub proves: Option<Contradiction>,
    /// When it began to arrive.
    pub at: Timestamp,
}

/// A segment that was signed with another key than was to sign there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marked {
    /// The era.
    pub era: EraId,
    /// The segment.
    pub segment: u64,
    /// How its key follows the one before.
    pub mark: Mark,
}

/// Adds an entry to a list, or counts it where the list is full.
pub(super) fn list<T>(entries: &mut Vec<T>, left_out: &mut u64, entry: T) {
    if entries.len() < LISTED_MAX {
        entries.push(entry);
    } else {
        *left_out += 1;
    }
}
