//! Credentials that were narrowed, in the wrong hands, and narrowing for whom it is not due.
//!
//! Owns: what is tried.
//! Never: makes anything happen.
//! Read next: `workload/narrowed.rs`, which does.

use serde::{Deserialize, Serialize};

use super::{Kind, Named};

/// The faults of this family.
pub(super) const NAMES: &[Named] =
    &[("narrowed.misused", &["what"], Overstep::SAYS, |text| Ok(Kind::Overstep(text.one_of(Overstep::ALL)?)))];

named! {
    /// What is tried with a credential that was narrowed, or to get one.
    pub enum Overstep {
        /// A program uses a narrowed credential for what its task may, and that may not.
        "narrowed.misused beyond" => Beyond,
        /// A program has one credential narrowed over and over again.
        "narrowed.misused crowd" => Crowd,
        /// A program has a credential narrowed that is over.
        "narrowed.misused ended" => Ended,
        /// A program uses a narrowed credential past its end.
        "narrowed.misused expired" => Expired,
        /// A program uses a narrowed credential after its task was finished.
        "narrowed.misused late" => Late,
        /// A program has a credential of another one narrowed.
        "narrowed.misused stolen" => Stolen,
        /// Another program uses a narrowed credential.
        "narrowed.misused stranger" => Stranger,
        /// A program has a credential narrowed to what that may not do.
        "narrowed.misused wider" => Wider,
    }
}
