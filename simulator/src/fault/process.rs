//! Faults of power and of processes.
//!
//! Owns: at which point of a commit the supply fails, what the wall clock shows after a start, which firmware it is that
//! starts.
//! Never: makes anything happen.
//! Read next: `host.rs`, which stops and starts gateways; `versions.rs`, which gives them other programs.

use serde::{Deserialize, Serialize};

use super::text::{signed, FaultText};
use super::{Kind, Named};

/// The faults of this family.
pub(super) const NAMES: &[Named] = &[
    ("power.cut", &["for", "boundary?", "window?", "wall?"], &[], |text| {
        Ok(Kind::PowerCut { lasts: text.lasts()?, boundary: text.boundary()?, wall: text.wall_after()? })
    }),
    ("process.downgrade", &["for"], &[], |text| Ok(Kind::ProcessDowngrade { lasts: text.lasts()? })),
    ("process.restart", &["for"], &[], |text| Ok(Kind::ProcessRestart { lasts: text.lasts()? })),
    ("process.stop", &["for"], &[], |text| Ok(Kind::ProcessStop { lasts: text.lasts()? })),
    ("process.upgrade", &["for", "to?", "boundary?"], &[], |text| {
        Ok(Kind::ProcessUpgrade { lasts: text.lasts()?, to: text.firmware()?, cut: text.cut()? })
    }),
    ("reboot", &["for", "wall?"], &[], |text| Ok(Kind::Reboot { lasts: text.lasts()?, wall: text.wall_after()? })),
    ("service.stop", &["for"], &[], |text| Ok(Kind::ServiceStop { lasts: text.lasts()? })),
    ("suspend", &["for"], &[], |text| Ok(Kind::Suspend { lasts: text.lasts()? })),
];

/// At which point of a commit the supply fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Boundary {
    /// Within the next commit, at a boundary drawn by chance.
    Any,
    /// In as many runs as there are boundaries within this window, at each of them once per way in which unsynced
    /// writes can end.
    Each {
        /// How long the window is.
        window: u64,
    },
    /// Whenever it happens.
    Now,
}

/// What the wall clock shows after a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WallAfter {
    /// 1970.
    Epoch,
    /// What the battery-backed clock kept; 1970 where there is none.
    Kept,
    /// Off by so many milliseconds more.
    Stepped(i64),
}

/// Which firmware runs on a gateway: they differ in the limits that its profile says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Firmware {
    /// The one that the scenario begins with.
    Before,
    /// The one with the limits under `[fleet.upgrade]`.
    Next,
}

impl FaultText {
    fn firmware(&mut self) -> Result<Firmware, String> {
        match self.to.take().as_deref() {
            None | Some("next") => Ok(Firmware::Next),
            Some("before") => Ok(Firmware::Before),
            Some(other) => Err(format!("`to` is \"next\" or \"before\", not {other:?}")),
        }
    }

    fn cut(&mut self) -> Result<bool, String> {
        match self.boundary.take().as_deref() {
            None => Ok(false),
            Some("any") => Ok(true),
            Some(other) => Err(format!(
                "`boundary` is \"any\", for a supply that fails within the first commit, or is left out; not {other:?}"
            )),
        }
    }

    fn boundary(&mut self) -> Result<Boundary, String> {
        match self.boundary.take().as_deref() {
            None | Some("now") => Ok(Boundary::Now),
            Some("any") => Ok(Boundary::Any),
            Some("each") => match self.window.take() {
                Some(window) => Ok(Boundary::Each { window: window.0 }),
                None => Err("needs `window`, the time in which each boundary is tried".into()),
            },
            Some(other) => Err(format!("`boundary` is \"now\", \"any\" or \"each\", not {other:?}")),
        }
    }

    fn wall_after(&mut self) -> Result<WallAfter, String> {
        match self.wall.take().as_deref() {
            None | Some("kept") => Ok(WallAfter::Kept),
            Some("1970") => Ok(WallAfter::Epoch),
            Some(step) => signed(step).map(WallAfter::Stepped),
        }
    }
}
