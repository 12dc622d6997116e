//! Faults of links.
//!
//! Owns: which way nothing goes through, or what does later.
//! Never: makes anything happen.
//! Read next: `network.rs` of the world, which lets through or not.

use serde::{Deserialize, Serialize};

use super::text::FaultText;
use super::{Kind, Named};

/// The faults of this family.
pub(super) const NAMES: &[Named] = &[
    ("link.down", &["for", "dir?"], &[], |text| {
        Ok(Kind::LinkDown { lasts: text.lasts()?, direction: text.direction()? })
    }),
    ("link.half_open", &[], &[], |_| Ok(Kind::LinkHalfOpen)),
    ("link.slow", &["for", "by", "dir?"], &[], |text| {
        let by = u64::try_from(text.by()?).ok().filter(|by| *by > 0);
        let by = by.ok_or("takes longer: `by` needs a plus, like \"+2s\"")?;
        Ok(Kind::LinkSlow { lasts: text.lasts()?, direction: text.direction()?, by })
    }),
];

/// Which way nothing goes through, or later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Either way.
    Both,
    /// From the broker to the gateway.
    Down,
    /// From the gateway to the broker.
    Up,
}

impl Direction {
    /// Whether it is about what goes from the gateway to the broker, and about what comes back.
    pub(crate) const fn ways(self) -> (bool, bool) {
        match self {
            Self::Both => (true, true),
            Self::Down => (false, true),
            Self::Up => (true, false),
        }
    }
}

impl FaultText {
    fn direction(&mut self) -> Result<Direction, String> {
        match self.dir.take().as_deref() {
            None | Some("both") => Ok(Direction::Both),
            Some("up") => Ok(Direction::Up),
            Some("down") => Ok(Direction::Down),
            Some(other) => Err(format!("`dir` is \"both\", \"up\" or \"down\", not {other:?}")),
        }
    }
}
