//! What a trace tells: one kind of event for everything that can be seen from outside.
//!
//! Owns: [`Event`] and how each goes into the hash.
//! Never: holds what only the simulator knows and no operator could log, the true time of an event excepted.
//! Read next: `check/mod.rs`, which judges what the world does.

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::trace::Fold;

/// Something that happened. `device` is a gateway's number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// The agent started on what its disk held.
    AgentStarted {
        /// The gateway.
        device: u32,
        /// How often it has started, this time counted in.
        start: u64,
    },
    /// A commit is durable.
    Committed {
        /// The gateway.
        device: u32,
        /// How many steps it took.
        steps: u64,
    },
    /// A decision reached its caller.
    Decided {
        /// The gateway.
        device: u32,
        /// Whether it was an allow.
        allow: bool,
        /// The reason's name.
        reason: &'static str,
        /// The era of its record.
        era: u64,
        /// Its index there.
        index: u64,
    },
    /// A log event of the agent.
    Logged {
        /// The gateway.
        device: u32,
        /// Its text.
        line: String,
    },
    /// A message arrived.
    Message {
        /// At this gateway, or at the fleet's service where there is none.
        device: Option<u32>,
        /// Where it was published.
        topic: String,
        /// SHA-256 of its payload, first eight bytes.
        digest: [u8; 8],
    },
    /// The next act of the plan happened.
    PlanStep {
        /// Its place in the plan.
        number: u64,
    },
    /// Power or process went away.
    Stopped {
        /// The gateway.
        device: u32,
        /// How many steps of a commit in progress were done.
        steps: u64,
    },
    /// The operator signed a revocation.
    Revoked {
        /// The position that holds it.
        seq: u64,
    },
    /// A program was answered something other than a decision.
    Replied {
        /// The gateway.
        device: u32,
        /// What.
        what: String,
    },
    /// The collector stored a segment.
    Stored {
        /// The gateway.
        device: u32,
        /// The era.
        era: u64,
        /// The segment.
        segment: u64,
    },
}

impl Event {
    pub(crate) fn message(device: Option<u32>, topic: &str, payload: &[u8]) -> Self {
        let mut digest = [0; 8];
        digest.copy_from_slice(&Sha256::digest(payload)[..8]);
        Self::Message { device, topic: topic.to_owned(), digest }
    }

    /// What it is in a word, where it is an answer to a program or something that an agent logs.
    pub(crate) fn word(&self) -> Option<String> {
        match self {
            Self::Decided { reason, .. } => Some((*reason).to_owned()),
            Self::Logged { line: text, .. } | Self::Replied { what: text, .. } => {
                Some(text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
            }
            Self::AgentStarted { .. }
            | Self::Committed { .. }
            | Self::Message { .. }
            | Self::PlanStep { .. }
            | Self::Revoked { .. }
            | Self::Stopped { .. }
            | Self::Stored { .. } => None,
        }
    }

    pub(crate) fn fold(&self, fold: &mut Fold) {
        match self {
            Self::AgentStarted { device, start } => fold.number(1).number(u64::from(*device)).number(*start),
            Self::Committed { device, steps } => fold.number(2).number(u64::from(*device)).number(*steps),
            Self::Decided { device, allow, reason, era, index } => fold
                .number(3)
                .number(u64::from(*device))
                .number(u64::from(*allow))
                .bytes(reason.as_bytes())
                .number(*era)
                .number(*index),
            Self::Logged { device, line } => fold.number(4).number(u64::from(*device)).bytes(line.as_bytes()),
            Self::Message { device, topic, digest } => {
                fold.number(5).number(device.map_or(u64::MAX, u64::from)).bytes(topic.as_bytes()).bytes(digest)
            }
            Self::PlanStep { number } => fold.number(6).number(*number),
            Self::Stopped { device, steps } => fold.number(7).number(u64::from(*device)).number(*steps),
            Self::Revoked { seq } => fold.number(8).number(*seq),
            Self::Replied { device, what } => fold.number(9).number(u64::from(*device)).bytes(what.as_bytes()),
            Self::Stored { device, era, segment } => {
                fold.number(10).number(u64::from(*device)).number(*era).number(*segment)
            }
        };
    }
}
