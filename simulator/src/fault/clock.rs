//! Faults of clocks: of gateways, and of the service that they believe.
//!
//! Owns: which reset of a clock is carried to a gateway.
//! Never: makes anything happen.
//! Read next: `clocks.rs` and `reset.rs`.

use serde::{Deserialize, Serialize};

use super::{whats, Kind, Named};

/// The faults of this family.
pub(super) const NAMES: &[Named] = &[
    ("clock.drift", &[], |_| Ok(Kind::ClockDrift)),
    ("clock.freeze", &[], |text| Ok(Kind::ClockFreeze { lasts: text.lasts()? })),
    ("clock.step", &[], |text| Ok(Kind::ClockStep(text.by()?))),
    ("clock.strobe", &[], |text| Ok(Kind::ClockStrobe { lasts: text.lasts()?, by: text.by()? })),
    ("service.ahead", &[], |text| {
        let by = u64::try_from(text.by()?).map_err(|_| "is ahead: `by` needs a plus, like \"+3h\"")?;
        Ok(Kind::ServiceAhead { lasts: text.lasts()?, by })
    }),
    ("time.reset", &whats(&ResetWhat::ALL), |text| {
        let what = text.one_of(&ResetWhat::ALL)?;
        Ok(Kind::TimeReset { what, late: text.late("how long the file is on its way")? })
    }),
];

/// Which reset of the clock is carried to a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResetWhat {
    /// One that the root keys signed for another gateway.
    Foreign,
    /// One that answers its nonce, signed by a key of the fleet that is no root key.
    Forged,
    /// What an honest operator signs, where the gateway is ahead of true time.
    Needed,
    /// The last one that it took.
    Replayed,
    /// One that the root keys signed for a nonce that the gateway has replaced since.
    Stale,
}

impl ResetWhat {
    /// The names in scenario files, as `what`.
    pub const ALL: [(&'static str, Self); 5] = [
        ("foreign", Self::Foreign),
        ("forged", Self::Forged),
        ("needed", Self::Needed),
        ("replayed", Self::Replayed),
        ("stale", Self::Stale),
    ];

    /// The name under which its effects are counted.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Foreign => "time.reset foreign",
            Self::Forged => "time.reset forged",
            Self::Needed => "time.reset needed",
            Self::Replayed => "time.reset replayed",
            Self::Stale => "time.reset stale",
        }
    }
}
