//! Faults of clocks: of gateways, and of the service that they believe.
//!
//! Owns: which reset of a clock is carried to a gateway.
//! Never: makes anything happen.
//! Read next: `clocks.rs` and `reset.rs`.

use serde::{Deserialize, Serialize};

use super::{Kind, Named};

/// The faults of this family.
pub(super) const NAMES: &[Named] = &[
    ("clock.drift", &[], &[], |_| Ok(Kind::ClockDrift)),
    ("clock.freeze", &["for"], &[], |text| Ok(Kind::ClockFreeze { lasts: text.lasts()? })),
    ("clock.step", &["by"], &[], |text| Ok(Kind::ClockStep(text.by()?))),
    ("clock.strobe", &["for", "by"], &[], |text| Ok(Kind::ClockStrobe { lasts: text.lasts()?, by: text.by()? })),
    ("service.ahead", &["for", "by"], &[], |text| {
        let by = u64::try_from(text.by()?).map_err(|_| "is ahead: `by` needs a plus, like \"+3h\"")?;
        Ok(Kind::ServiceAhead { lasts: text.lasts()?, by })
    }),
    ("time.reset", &["what", "late"], ResetWhat::SAYS, |text| {
        let what = text.one_of(ResetWhat::ALL)?;
        Ok(Kind::TimeReset { what, late: text.late("how long the file is on its way")? })
    }),
];

named! {
    /// Which reset of the clock is carried to a gateway.
    pub enum ResetWhat {
        /// One that the root keys signed for another gateway.
        "time.reset foreign" => Foreign,
        /// One that answers its nonce, signed by a key of the fleet that is no root key.
        "time.reset forged" => Forged,
        /// What an honest operator signs, where the gateway is ahead of true time.
        "time.reset needed" => Needed,
        /// The last one that it took.
        "time.reset replayed" => Replayed,
        /// One that the root keys signed for a nonce that the gateway has replaced since.
        "time.reset stale" => Stale,
    }
}
