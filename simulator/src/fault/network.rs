//! Faults of links.
//!
//! Owns: which way nothing goes through.
//! Never: makes anything happen.
//! Read next: `network.rs` of the world, which lets through or not.

use serde::{Deserialize, Serialize};

use super::text::FaultText;
use super::{Kind, Named};

/// The faults of this family.
pub(super) const NAMES: &[Named] = &[
    ("link.down", &[], |text| Ok(Kind::LinkDown { lasts: text.lasts()?, direction: text.direction()? })),
    ("link.half_open", &[], |_| Ok(Kind::LinkHalfOpen)),
];

/// Which way nothing goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Neither way.
    Both,
    /// From the broker to the gateway.
    Down,
    /// From the gateway to the broker.
    Up,
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
