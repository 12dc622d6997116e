//! What a run can put in the place of modelled links and disks: the hooks of the wire level.
//!
//! Owns: [`Level`], and the traits that the world knows other links and disks by.
//! Never: does any I/O, or names anything of the wire level but its door, which is there with the feature `wire` alone.
//! Read next: `carry.rs` and `real.rs`, which ask; `wire/mod.rs`, behind the feature `wire`, which answers.

use hardtack::agent::effects::StateFile;
use hardtack::agent::salvage::{Hole, Remains};
use hardtack::agent::Batch;
use hardtack::ids::EraId;
use hardtack::profile::QueueLimits;
use hardtack::wire::audit::segment::Loaded;
use serde::Deserialize;

use crate::disk::{Fate, Rot};
use crate::drive::Reaches;
use crate::fault::{Damage, Part, Refusal, WireTrick};
use crate::network::{ConnId, End, Packet};
use crate::plan::Act;
use crate::recovery::Found;
use crate::world::World;

/// How much of the world is real.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// The core and its tokens; links and disks are models.
    #[default]
    Model,
    /// Links and disks too: the bytes of the MQTT client that ships, the store that ships on folders of its own. Needs the
    /// feature `wire`.
    Wire,
}

impl Level {
    /// Whether this program can run it.
    ///
    /// # Errors
    /// When it was built without; says how to build it.
    pub fn available(self) -> Result<(), String> {
        match self {
            Self::Wire if !cfg!(feature = "wire") => {
                Err("this program was built without the wire level: build it with \
                 `cargo build --profile sim -p hardtack-simulator --features wire`"
                    .into())
            }
            Self::Model | Self::Wire => Ok(()),
        }
    }

    /// The name of the fault that an act is, if this level cannot do it, and why not.
    pub(crate) fn cannot(self, act: &Act) -> Option<(&'static str, &'static str)> {
        match (self, act) {
            (Self::Model, Act::Wire { trick, .. }) => Some((trick.name(), NO_BYTES)),
            (Self::Model | Self::Wire, _) => None,
        }
    }

    /// The same world at this level. Where this program was built without it, at the level of the model.
    pub(crate) fn of(self, world: World<'_>) -> World<'_> {
        match self {
            #[cfg(feature = "wire")]
            Self::Wire => crate::wire::equip(world),
            #[cfg(not(feature = "wire"))]
            Self::Wire => world,
            Self::Model => world,
        }
    }
}

/// Why the model cannot do what is done to bytes.
pub(crate) const NO_BYTES: &str = "messages go over the model's links whole, there are no bytes to do it to";

/// What an end of a connection does: because something is to be sent, or because something arrived.
#[derive(Debug, Default)]
pub(crate) struct Does {
    /// It writes this to the other end, in this order.
    pub(crate) writes: Vec<Vec<u8>>,
    /// It hands this in where it is, in this order.
    pub(crate) hears: Vec<Packet>,
    /// It makes the other end hear this, which is to be refused there: topic and payload.
    pub(crate) makes_hear: Option<(String, Vec<u8>)>,
    /// It gives the connection up, for this reason.
    pub(crate) ends: Option<String>,
}

/// The two ends of all connections, where bytes are what goes over them.
pub(crate) trait Links {
    /// How many bytes of topic and payload a client may hand in.
    fn bytes_max(&self) -> usize;

    /// A gateway opens a socket.
    fn open(&mut self, conn: ConnId, device: u32);

    /// The end `from` is to send a packet.
    fn send(&mut self, conn: ConnId, from: End, packet: Packet) -> Does;

    /// Bytes are at the end `at`.
    fn receive(&mut self, conn: ConnId, at: End, bytes: &[u8]) -> Does;

    /// A hostile broker does something to the bytes of a connection that was accepted: none where it cannot.
    fn trick(&mut self, conn: ConnId, trick: WireTrick, pick: u64) -> Option<Does>;

    /// What a gateway's end waits for the rest of, if it waits for something: how many packets it has heard before.
    fn waits_after(&self, conn: ConnId) -> Option<u64>;

    /// An end closed its socket.
    fn closed(&mut self, conn: ConnId, end: End);
}

/// A real disk did not do what it was asked: what it said.
#[derive(Debug)]
pub(crate) struct Broke(pub(crate) String);

/// A gateway's state folder, where a real store is on one beside the model of it.
pub(crate) trait RealDisk {
    /// An agent starts: what it finds. Whatever was open before is closed.
    fn open(&mut self) -> Result<Found, Broke>;

    /// The agent is gone, and no commit was on its way.
    fn close(&mut self);

    /// A commit, all of it.
    fn commit(&mut self, batch: Batch) -> Result<(), Broke>;

    /// The process is killed in a commit, with so many of so many steps done.
    fn killed(&mut self, batch: Batch, done: (u64, u64)) -> Result<(), Broke>;

    /// The supply fails there. What was not synced meets its fate.
    fn power_cut(&mut self, batch: Batch, done: (u64, u64), fate: &mut dyn FnMut() -> Fate) -> Result<(), Broke>;

    /// A sync of this part fails in a commit, and the process ends. What the kernel could not write meets its fate.
    fn sync_fails(&mut self, batch: Batch, part: Part, fate: &mut dyn FnMut() -> Fate) -> Result<(), Broke>;

    /// The file system refuses a step of a commit, and the process ends. Where it has no room, it had some for so many of the
    /// entries, and for so many hundredths of the next. Whether the store says so: one that takes the commit for made goes on.
    fn refused(&mut self, batch: Batch, how: Refusal, room: (u64, u64)) -> Result<bool, Broke>;

    /// An agent starts, and the file system is read-only: it does not come to anything.
    fn stays_shut(&mut self) -> Result<(), Broke>;

    /// From now on what is synced of this part stays in the drive's memory.
    fn lie(&mut self, part: Part) -> Result<(), Broke>;

    /// What is in the drive's memory of this part is on the medium, and syncs are honest again.
    fn come_clean(&mut self, part: Part);

    /// The supply failed, and of what was in the drive's memory only so much is left: the parts that lost something.
    fn forget_what_lies(&mut self, reaches: Reaches<'_>) -> Result<Vec<Part>, Broke>;

    /// A segment for sending.
    fn load(&mut self, era: EraId, segment: u64) -> Result<Option<Loaded>, Broke>;

    /// What is left where a segment could not be loaded.
    fn gather(&mut self, hole: &Hole) -> Result<Remains, Broke>;

    /// A copy of the folder, by number, for a fault to put back later.
    fn copy(&mut self, number: u32) -> Result<(), Broke>;

    /// A newer version runs over the folder, and leaves it in its format.
    fn hand_over(&mut self) -> Result<(), Broke>;

    /// This version is started over that: it must refuse, and leave all as it is. Whether it refused.
    fn refuses(&mut self) -> Result<bool, Broke>;

    /// The newer version runs again: what it left must be there, and it reads that.
    fn take_back(&mut self) -> Result<(), Broke>;

    /// Another firmware's agent is to be started, with these limits.
    fn upgrade(&mut self, limits: QueueLimits) -> Result<(), Broke>;

    /// Something befalls the folder while no power is on: perhaps this rots. Whether it changed.
    fn damage(&mut self, damage: Damage, copy: u32, rot: Option<Rot>) -> Result<bool, Broke>;

    /// Somebody puts a file back as it was, while no agent runs.
    fn put_back(&mut self, file: &StateFile, content: Vec<u8>) -> Result<(), Broke>;
}
