//! Load: more of the same than anybody should ask for.
//!
//! Owns: what a program asks for over and over.
//! Never: makes anything happen.
//! Read next: `workload.rs`.

use serde::{Deserialize, Serialize};

use super::text::FaultText;
use super::{whats, Kind, Named};

/// The faults of this family.
pub(super) const NAMES: &[Named] = &[
    ("flood", &whats(&FloodWhat::ALL), |text| {
        Ok(Kind::Flood { lasts: text.lasts()?, what: text.one_of(&FloodWhat::ALL)? })
    }),
    ("revoke.storm", &[], |text| Ok(Kind::RevokeStorm { count: text.count()?, life: text.storm_life()? })),
];

/// What a program asks for over and over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FloodWhat {
    /// What it has a right to, the same each time.
    Allowed,
    /// What it has no right to, the same each time.
    Same,
    /// What it has no right to, something else each time.
    Varied,
}

impl FloodWhat {
    /// The names in scenario files, as `what`.
    pub const ALL: [(&'static str, Self); 3] =
        [("allowed", Self::Allowed), ("same", Self::Same), ("varied", Self::Varied)];

    /// The name under which its effects are counted.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allowed => "flood allowed",
            Self::Same => "flood same",
            Self::Varied => "flood varied",
        }
    }
}

impl FaultText {
    fn count(&mut self) -> Result<u32, String> {
        self.count.take().filter(|count| *count > 0).ok_or_else(|| "needs `count`, of tokens, 1 or more".into())
    }

    fn storm_life(&mut self) -> Result<u64, String> {
        let life = self.life.take().filter(|life| life.0 >= 1000);
        life.map(|life| life.0).ok_or_else(|| "needs `life`, of each token, 1s or more".into())
    }
}
