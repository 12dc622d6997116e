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
    /// A revocation feed's complete position became durable.
    Applied {
        /// The gateway.
        device: u32,
        /// The feed.
        feed: String,
        /// The position's era,
        era: u32,
        /// and its number.
        seq: u64,
    },
    /// Nothing runs on a gateway any more, or it does again.
    Asleep {
        /// The gateway.
        device: u32,
        /// Whether nothing runs.
        asleep: bool,
    },
    /// A commit is durable.
    Committed {
        /// The gateway.
        device: u32,
        /// How many steps it took.
        steps: u64,
        /// Records that are durable there and that the collector has not stored.
        backlog: u64,
    },
    /// A decision reached its caller.
    Decided {
        /// The gateway.
        device: u32,
        /// Whether it was an allow.
        allow: bool,
        /// The reason's name.
        reason: &'static str,
        /// Whether the operator had revoked what was shown.
        revoked: bool,
        /// The era of its record.
        era: u64,
        /// Its index there.
        index: u64,
    },
    /// What a link lets through changed, or was put right before it did.
    Link {
        /// The gateway's.
        device: u32,
        /// Whether something goes through from the gateway,
        up: bool,
        /// and to it.
        down: bool,
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
    /// The agent's mode, at its start and whenever it changes.
    Mode {
        /// The gateway.
        device: u32,
        /// Its name.
        mode: &'static str,
    },
    /// The next act of the plan happened.
    PlanStep {
        /// Its place in the plan.
        number: u64,
    },
    /// The kernel starts.
    PowerOn {
        /// The gateway.
        device: u32,
    },
    /// Power or process went away.
    Stopped {
        /// The gateway.
        device: u32,
        /// Whether the kernel went with it.
        off: bool,
        /// How many steps of a commit in progress were done.
        steps: u64,
    },
    /// The operator signed a revocation.
    Revoked {
        /// The feed that tells of it.
        feed: String,
        /// The era,
        era: u32,
        /// and the number of the position that holds it.
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
        /// Records that are durable on the gateway and that the collector has not stored.
        backlog: u64,
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
            | Self::Applied { .. }
            | Self::Asleep { .. }
            | Self::Committed { .. }
            | Self::Link { .. }
            | Self::Message { .. }
            | Self::Mode { .. }
            | Self::PlanStep { .. }
            | Self::PowerOn { .. }
            | Self::Revoked { .. }
            | Self::Stopped { .. }
            | Self::Stored { .. } => None,
        }
    }

    pub(crate) fn fold(&self, fold: &mut Fold) {
        match self {
            Self::AgentStarted { device, start } => fold.number(1).number(u64::from(*device)).number(*start),
            Self::Committed { device, steps, backlog } => {
                fold.number(2).number(u64::from(*device)).number(*steps).number(*backlog)
            }
            Self::Decided { device, allow, reason, revoked, era, index } => fold
                .number(3)
                .number(u64::from(*device))
                .number(u64::from(*allow))
                .bytes(reason.as_bytes())
                .number(u64::from(*revoked))
                .number(*era)
                .number(*index),
            Self::Logged { device, line } => fold.number(4).number(u64::from(*device)).bytes(line.as_bytes()),
            Self::Message { device, topic, digest } => {
                fold.number(5).number(device.map_or(u64::MAX, u64::from)).bytes(topic.as_bytes()).bytes(digest)
            }
            Self::PlanStep { number } => fold.number(6).number(*number),
            Self::Stopped { device, off, steps } => {
                fold.number(7).number(u64::from(*device)).number(u64::from(*off)).number(*steps)
            }
            Self::Revoked { feed, era, seq } => {
                fold.number(8).bytes(feed.as_bytes()).number(u64::from(*era)).number(*seq)
            }
            Self::Replied { device, what } => fold.number(9).number(u64::from(*device)).bytes(what.as_bytes()),
            Self::Stored { device, era, segment, backlog } => {
                fold.number(10).number(u64::from(*device)).number(*era).number(*segment).number(*backlog)
            }
            Self::Applied { device, feed, era, seq } => {
                fold.number(11).number(u64::from(*device)).bytes(feed.as_bytes()).number(u64::from(*era)).number(*seq)
            }
            Self::Asleep { device, asleep } => fold.number(12).number(u64::from(*device)).number(u64::from(*asleep)),
            Self::Link { device, up, down } => {
                fold.number(13).number(u64::from(*device)).number(u64::from(*up)).number(u64::from(*down))
            }
            Self::Mode { device, mode } => fold.number(14).number(u64::from(*device)).bytes(mode.as_bytes()),
            Self::PowerOn { device } => fold.number(15).number(u64::from(*device)),
        };
    }
}
