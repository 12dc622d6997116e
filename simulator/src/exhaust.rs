//! A power cut at each boundary of every commit in a window: one run per boundary and per way in which it can end.
//!
//! Owns: which boundaries there are and what is unsynced at each, which one a run cuts at.
//! Never: samples. Every boundary in the window is tried.
//! Read next: `lib.rs`, which starts the runs.

use crate::disk::Fate;
use crate::fault::{Boundary, WallAfter};
use crate::plan::{Act, Plan};

/// Where one run of many cuts the power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NthCut {
    pub(crate) device: u32,
    /// Counted from the beginning of the window.
    pub(crate) boundary: u64,
    /// What becomes of what is unsynced then.
    pub(crate) fate: Fate,
}

/// What a run without a cut found of the boundaries in the window.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Boundaries {
    /// Per boundary, in order, the ways in which unsynced writes can end that differ.
    pub(crate) fates: Vec<Vec<Fate>>,
}

/// The window, if the plan has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) device: u32,
    pub(crate) from: u64,
    pub(crate) until: u64,
    pub(crate) off: u64,
    pub(crate) wall: WallAfter,
}

impl Window {
    /// The window of a plan whose power cut is to fall at each boundary.
    pub(crate) fn of(plan: &Plan) -> Option<Self> {
        plan.entries.iter().find_map(|entry| {
            let Act::PowerCut { device, lasts, boundary: Boundary::Each { window }, wall, .. } = &entry.act else {
                return None;
            };
            let (device, off, wall) = (*device, *lasts, *wall);
            Some(Self { device, from: entry.at, until: entry.at + window, off, wall })
        })
    }

    pub(crate) fn covers(&self, device: u32, at: u64) -> bool {
        device == self.device && (self.from..self.until).contains(&at)
    }
}

impl Boundaries {
    /// Every cut that is worth a run.
    pub(crate) fn cuts(&self, device: u32) -> impl Iterator<Item = NthCut> + '_ {
        let numbered = (0u64..).zip(&self.fates);
        numbered
            .flat_map(move |(boundary, fates)| fates.iter().map(move |fate| NthCut { device, boundary, fate: *fate }))
    }
}
