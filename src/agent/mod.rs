//! The device's decisions. Pure: no tokio, no sled, no MQTT, no files, no clock, no global randomness.
//!
//! Owns: [`Agent`], what it takes ([`Boot`], [`Input`], [`Now`]) and what it gives ([`Effects`]).
//! Never: reads a clock, a file or the network; sends a reply before its record is durable; lowers a position; widens a
//! token; keeps state for a foreign token.
//! Read next: `request.rs` for what callers ask, `effects.rs` for what comes out, then `decide.rs`.

pub mod attest;
pub mod audit;
pub mod clock;
pub mod decide;
pub mod effects;
pub mod mode;
pub mod policy;
pub mod request;
pub mod revocation;
pub mod token;
pub mod uplink;
pub mod wallet;

pub use effects::{Anchor, Batch, Effects, Outgoing};

use crate::ids::{BootId, DeviceId, EraId, FleetId, Hash};
use crate::profile::Profile;
use crate::time::{Millis, Timestamp};
use crate::wire::audit::Upload;
use crate::wire::enrol::DeviceKeys;
use effects::StateFile;
use effects::StoredRecord;
use request::{Evidence, Request, RequestId};

/// The clocks as the shell read them for one input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// CLOCK_BOOTTIME: powered-on time of this kernel boot, suspend counted.
    pub boottime: Millis,
    /// The system clock, a hint that only makes decisions stricter. None where it is before 1970 or not readable.
    pub wall: Option<Timestamp>,
}

/// All that an agent starts from.
pub struct Boot {
    /// The fleet.
    pub fleet: FleetId,
    /// This device.
    pub device: DeviceId,
    /// Its keys.
    pub keys: DeviceKeys,
    /// Its limits.
    pub profile: Profile,
    /// 32 bytes from the operating system, for every random choice of this start.
    pub seed: [u8; 32],
    /// The kernel's boot id.
    pub boot: BootId,
    /// The newest valid slot of the anchor, none if neither can be used.
    pub anchor: Option<Anchor>,
    /// The files of the state folder.
    pub files: Vec<(StateFile, Vec<u8>)>,
    /// Eras on disk, oldest first.
    pub eras: Vec<EraImage>,
    /// Bytes that all eras take on disk.
    pub used_bytes: u64,
}

/// What the store found of one era.
#[derive(Debug, Clone, PartialEq)]
pub struct EraImage {
    /// The era. Salt 0 where the damage is such that it cannot be read.
    pub id: EraId,
    /// Closed segments: the number that the next one gets.
    pub segments: u64,
    /// The index after the last closed segment.
    pub closed_index: u64,
    /// The chain's head there; [`Hash::ZERO`] if no segment is closed, where the chain begins at the era's genesis.
    pub closed_head: Hash,
    /// Records from the lower of `closed_index` and the anchor's index on, in order, without a hole.
    pub records: Vec<StoredRecord>,
    /// What is wrong with it, told once: it is quarantined, and what is above is what could be salvaged. Segments of it
    /// may be missing too; loading them says so.
    pub damage: Option<String>,
}

/// Something that happens to an agent.
#[derive(Debug)]
pub enum Input {
    /// The time that [`Agent::poll_deadline`] named has come.
    Deadline,
    /// How many bytes all eras take on disk now.
    Disk {
        /// Bytes.
        used_bytes: u64,
    },
    /// The link says something.
    Link(LinkEvent),
    /// A program on the gateway asks something.
    Request {
        /// Names the waiting caller.
        id: RequestId,
        /// What the kernel says about it.
        evidence: Evidence,
        /// What it asks.
        request: Request,
    },
    /// A segment that was to be loaded; none if the store no longer has it.
    Segment {
        /// Its era.
        era: EraId,
        /// Its number.
        segment: u64,
        /// What is to be sent.
        upload: Option<Upload>,
    },
}

/// What the link tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// The broker accepted connection and subscriptions.
    Connected,
    /// The connection is gone, or could not be made.
    Disconnected {
        /// Why.
        reason: String,
    },
    /// A message arrived.
    Message {
        /// The topic's text.
        topic: String,
        /// The payload.
        payload: Vec<u8>,
    },
}
