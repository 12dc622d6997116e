//! Load: more of the same than anybody should ask for.
//!
//! Owns: what a program asks for over and over.
//! Never: makes anything happen.
//! Read next: `workload.rs`.

use serde::{Deserialize, Serialize};

use super::text::FaultText;
use super::{Kind, Named};

/// The most tokens that are revoked at once.
const STORM_MAX: u32 = 1_000_000;

/// The faults of this family.
pub(super) const NAMES: &[Named] = &[
    ("flood", &["for", "what"], FloodWhat::SAYS, |text| {
        Ok(Kind::Flood { lasts: text.lasts()?, what: text.one_of(FloodWhat::ALL)? })
    }),
    ("revoke.storm", &["count", "life"], &[], |text| {
        Ok(Kind::RevokeStorm { count: text.count()?, life: text.storm_life()? })
    }),
];

named! {
    /// What a program asks for over and over.
    pub enum FloodWhat {
        /// What it has a right to, the same each time.
        "flood allowed" => Allowed,
        /// What it has no right to, the same each time.
        "flood same" => Same,
        /// What it has no right to, something else each time.
        "flood varied" => Varied,
    }
}

impl FaultText {
    fn count(&mut self) -> Result<u32, String> {
        let count = self.count.take().filter(|count| (1..=STORM_MAX).contains(count));
        count.ok_or_else(|| format!("needs `count`, of tokens, 1 to {STORM_MAX}"))
    }

    fn storm_life(&mut self) -> Result<u64, String> {
        let life = self.life.take().filter(|life| life.0 >= 1000);
        life.map(|life| life.0).ok_or_else(|| "needs `life`, of each token, 1s or more".into())
    }
}
