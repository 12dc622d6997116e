//! Planners that were taken over, and steps in the wrong hands.
//!
//! Owns: what such a planner tries to get, and what is tried with a step.
//! Never: makes anything happen.
//! Read next: `workload/planner.rs`, which does.

use serde::{Deserialize, Serialize};

use super::{whats, Kind, Named};

/// The faults of this family.
pub(super) const NAMES: &[Named] = &[
    ("planner.hijacked", &whats(&Misuse::OF_PLANNERS), |text| Ok(Kind::Misuse(text.one_of(&Misuse::OF_PLANNERS)?))),
    ("step.misused", &whats(&Misuse::OF_STEPS), |text| Ok(Kind::Misuse(text.one_of(&Misuse::OF_STEPS)?))),
];

/// What is tried with a planner's credential, or with a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Misuse {
    /// A planner does itself what its task is for.
    Acts,
    /// An executor uses a step that it has used before.
    Again,
    /// An executor uses a step for more than that is for.
    Beyond,
    /// A planner asks for a step of a task that has ended.
    Ended,
    /// A planner asks for a step for itself.
    Itself,
    /// An executor uses a step after its task was finished.
    Late,
    /// The planner of a step uses it.
    Planner,
    /// A planner asks for a step that it was given, under the same key.
    Repeated,
    /// Another program asks for a step with a planner's credential.
    Stolen,
    /// Another executor uses a step.
    Stranger,
    /// A planner asks for a step for a workload that its grant does not name.
    Unnamed,
    /// A planner asks for a step to do what its task may not.
    Wider,
}

impl Misuse {
    /// What a planner that was taken over tries, by its names in scenario files, as `what`.
    pub const OF_PLANNERS: [(&'static str, Self); 7] = [
        ("acts", Self::Acts),
        ("ended", Self::Ended),
        ("itself", Self::Itself),
        ("repeated", Self::Repeated),
        ("stolen", Self::Stolen),
        ("unnamed", Self::Unnamed),
        ("wider", Self::Wider),
    ];
    /// What is tried with a step, likewise.
    pub const OF_STEPS: [(&'static str, Self); 5] = [
        ("again", Self::Again),
        ("beyond", Self::Beyond),
        ("late", Self::Late),
        ("planner", Self::Planner),
        ("stranger", Self::Stranger),
    ];

    /// The name under which its effects are counted.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Acts => "planner.hijacked acts",
            Self::Again => "step.misused again",
            Self::Beyond => "step.misused beyond",
            Self::Ended => "planner.hijacked ended",
            Self::Itself => "planner.hijacked itself",
            Self::Late => "step.misused late",
            Self::Planner => "step.misused planner",
            Self::Repeated => "planner.hijacked repeated",
            Self::Stolen => "planner.hijacked stolen",
            Self::Stranger => "step.misused stranger",
            Self::Unnamed => "planner.hijacked unnamed",
            Self::Wider => "planner.hijacked wider",
        }
    }
}
