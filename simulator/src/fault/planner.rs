//! Planners that were taken over, and steps in the wrong hands.
//!
//! Owns: what such a planner tries to get, and what is tried with a step.
//! Never: makes anything happen.
//! Read next: `workload/planner.rs`, which does.

use serde::{Deserialize, Serialize};

use super::{Kind, Named};

/// The faults of this family.
pub(super) const NAMES: &[Named] = &[
    ("planner.hijacked", &["what"], Misuse::SAYS, |text| Ok(Kind::Misuse(text.one_of(Misuse::ALL)?))),
    ("step.misused", &["what"], Misuse::SAYS, |text| Ok(Kind::Misuse(text.one_of(Misuse::ALL)?))),
];

named! {
    /// What is tried with a planner's credential, or with a step.
    pub enum Misuse {
        /// A planner does itself what its task is for.
        "planner.hijacked acts" => Acts,
        /// An executor uses a step that it has used before.
        "step.misused again" => Again,
        /// An executor uses a step for more than that is for.
        "step.misused beyond" => Beyond,
        /// A planner asks for a step of a task that has ended.
        "planner.hijacked ended" => Ended,
        /// A planner asks for a step for itself.
        "planner.hijacked itself" => Itself,
        /// An executor uses a step after its task was finished.
        "step.misused late" => Late,
        /// The planner of a step uses it.
        "step.misused planner" => Planner,
        /// A planner asks for a step that it was given, under the same key.
        "planner.hijacked repeated" => Repeated,
        /// Another program asks for a step with a planner's credential.
        "planner.hijacked stolen" => Stolen,
        /// Another executor uses a step.
        "step.misused stranger" => Stranger,
        /// A planner asks for a step for a workload that its grant does not name.
        "planner.hijacked unnamed" => Unnamed,
        /// A planner asks for a step to do what its task may not.
        "planner.hijacked wider" => Wider,
    }
}

impl Misuse {
    /// Whether it is what a planner that was taken over tries; else it is tried with a step.
    pub(crate) fn is_of_planners(self) -> bool {
        self.name().starts_with("planner.")
    }
}
