//! The operator's decisions. Pure: no SQL, no MQTT, no files, no clock, no global randomness.
//!
//! Owns: [`Effects`], whose messages can only be had by writing what they rest on, and the map of what is below:
//! [`book`] is the ledger in memory, [`enrol`] founds a fleet and lets devices in, [`grant`] and [`issue`] mint what [`covered`]
//! does not say is revoked,
//! [`revoke`] and [`publish`] take back, by the feeds of [`route`] and [`groups`], [`again`] says what of it goes out once more, [`emergency`] gives operators keys of their own
//! for when all this is out of reach, [`rotate`] replaces a key, [`roots`] changes the root keys, [`identity`] whose word counts for who begins a task, [`proposal`] has their
//! signatures gathered, [`restore`] begins again from a copy, [`hello`] and [`collect`] answer devices, [`acts`] and [`report`]
//! prove what
//! happened, [`convergence`] tells who has it, [`readers`] who may read what of it, [`time`] signs what somebody carries to a device, [`service`] is all of `fleet serve` but its sockets.
//! Never: signs one feed position twice; acknowledges what is not stored; lets an unknown device leave state behind.
//! Read next: `book.rs`, then `service.rs`.

pub mod acts;
pub mod again;
pub mod book;
pub mod carry;
pub mod collect;
pub mod convergence;
pub mod covered;
pub mod emergency;
pub mod enrol;
pub mod grant;
pub mod groups;
pub mod hello;
pub mod identity;
pub mod issue;
pub mod keys;
pub mod policy;
pub mod proposal;
pub mod publish;
pub mod readers;
pub mod report;
pub mod restore;
pub mod revoke;
pub mod roots;
pub mod rotate;
pub mod route;
pub mod service;
pub mod silence;
pub mod time;
pub mod trial;

pub use book::{Book, Write};
pub use keys::{FleetKeys, Operator};
pub use service::{Archive, Digests, FleetLog, Service, Settings};

use covered::Covered;

use crate::agent::effects::Publish;
use crate::ids::{DeviceId, EraId, FeedId, GrantId};
use crate::time::Timestamp;
use crate::wire::Refused;

/// What one or more decisions asked for.
#[derive(Debug, Default)]
pub struct Effects {
    writes: Vec<Write>,
    outgoing: Outgoing,
}

/// What may leave once the writes are durable.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// Messages to the broker, in this order.
    pub publish: Vec<Publish>,
    /// What the log tells.
    pub logs: Vec<FleetLog>,
}

impl Effects {
    /// Writes, then gives out what may be sent. There is no other way to the messages.
    ///
    /// # Errors
    /// Those of `write`. Nothing may be sent then, and the book that was changed is ahead of the ledger: it must be
    /// loaded again.
    pub fn commit<E>(self, write: impl FnOnce(Vec<Write>) -> Result<(), E>) -> Result<Outgoing, E> {
        if !self.writes.is_empty() {
            write(self.writes)?;
        }
        Ok(self.outgoing)
    }

    /// Whether the book was changed.
    pub fn has_writes(&self) -> bool {
        !self.writes.is_empty()
    }

    /// The digests of the segments of a number that are to be written.
    fn segments(&self, device: &DeviceId, era: EraId, number: u64) -> Digests {
        let mut kept = Digests::default();
        let of = |segment: &book::Segment| {
            let same = segment.device == *device && segment.era == era && segment.segment == number;
            same.then_some(segment.digest)
        };
        self.writes.iter().for_each(|write| match write {
            Write::Aside(segment) => kept.aside.extend(of(segment)),
            Write::Segment(segment) => kept.trail = kept.trail.or(of(segment)),
            Write::Act(..)
            | Write::Branches(_)
            | Write::Bundle(..)
            | Write::Device(_)
            | Write::Emergency(_)
            | Write::Era(_)
            | Write::Fork(_)
            | Write::Grant(_)
            | Write::Head(_)
            | Write::Issued(_)
            | Write::Missed(_)
            | Write::Pending(_)
            | Write::Policy(..)
            | Write::Presence(_)
            | Write::Publisher(_)
            | Write::Restored(_)
            | Write::Resumed(..)
            | Write::Rule(_)
            | Write::Salvaged(_)
            | Write::Serials(_)
            | Write::Seen(_)
            | Write::Set(..)
            | Write::Snapshot(..)
            | Write::Step(_) => {}
        });
        kept
    }

    fn log(&mut self, log: FleetLog) {
        self.outgoing.logs.push(log);
    }

    fn publish(&mut self, publish: Publish) {
        self.outgoing.publish.push(publish);
    }
}

/// Why the fleet does not do what it was asked. Every text says what happened, then what to do.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FleetError {
    /// Something that was brought is not acceptable.
    #[error("{what}: {refused}")]
    Refused {
        /// What was brought.
        what: &'static str,
        /// Why not.
        refused: Refused,
    },
    /// The code that the operator typed is not the request's. The right one is not told: it must come from the device.
    #[error("the code does not belong to this request: compare it with what the device shows; if they differ, the request was exchanged on its way")]
    WrongCode,
    /// A key that was retired or replaced asks to join again.
    #[error("the key of this request was retired: device {0} must make a new one (`hardtack enrol request` in an empty state folder)")]
    RetiredKey(DeviceId),
    /// The device is revoked.
    #[error("{0}: choose another id, or wait")]
    DeviceRevoked(Covered),
    /// What was to be minted is revoked from birth.
    #[error("{0}: devices would deny it, so that it is not minted. `hardtack fleet revocations` names the reason; what else it does not cover can be had, and all of it after its end")]
    Revoked(Covered),
    /// The id belongs to another key.
    #[error("device {0} is enrolled with another key: pass --replace if its hardware or state folder was replaced")]
    OtherKey(DeviceId),
    /// No such device.
    #[error("no device {0}: `hardtack fleet device list` shows those there are")]
    UnknownDevice(DeviceId),
    /// The device was retired.
    #[error("device {0} is retired: approve a new request of it first")]
    Retired(DeviceId),
    /// No such grant.
    #[error("no grant {0}: `hardtack fleet grant list` shows those there are")]
    UnknownGrant(GrantId),
    /// An argument that no such thing may have, in no ledger.
    #[error("{0}")]
    Argument(String),
    /// Something that cannot be done as things stand.
    #[error("{0}")]
    Invalid(String),
    /// A device has seen a head that this ledger does not hold.
    #[error("device {device} has seen head {seen} of feed {feed}, this ledger ends at {own}: the ledger was restored from an old copy, and signing on would fork the feed. Restore the newest copy; if there is none, revoke again what was revoked since and run `hardtack fleet publish --feed {feed} --after {seen}` once. If only this device says so, revoke or retire it")]
    Behind {
        /// The device.
        device: DeviceId,
        /// The feed.
        feed: FeedId,
        /// The sequence number that it named.
        seen: u64,
        /// The newest here.
        own: u64,
    },
    /// A device has a trust bundle that this ledger does not hold.
    #[error("device {device} has trust bundle {seen}, this ledger ends at {own}: the ledger was put back from an old copy, and another trust bundle after {own} would be refused for ever by every device that has the first. `hardtack fleet publish --broker URL` takes in those that the fleet's broker keeps; if it keeps none, restore a copy that was made since. If only this device says so, revoke or retire it")]
    BundleBehind {
        /// The device.
        device: DeviceId,
        /// The version that it named.
        seen: u64,
        /// The newest here.
        own: u64,
    },
    /// A key that was replaced.
    #[error("the {role} key is none of trust bundle {bundle}, so that nothing more is signed with it: it was replaced. Start `hardtack fleet serve` again with the keys of now; if {role}.key is the old one and the new one still lies beside it as {role}.key.next, `hardtack fleet key rotate {role}` ends the replacement. If the ledger is an old copy, no key is to be replaced: `hardtack fleet publish --broker URL` takes in the trust bundles that name the keys of now")]
    OtherKeys {
        /// The key's role.
        role: &'static str,
        /// The newest trust bundle.
        bundle: u64,
    },
    /// What the root keys were asked to sign was made for another trust bundle than that in force.
    #[error("the proposal follows trust bundle {before}, and this ledger has bundle {own} by now: propose again")]
    MovedOn {
        /// The bundle that it follows.
        before: u64,
        /// The newest here.
        own: u64,
    },
    /// Fewer root keys have signed than it takes.
    #[error(
        "not enough root keys have signed: {0}. Have them sign with `hardtack fleet key sign PROPOSAL --root KEYFILE`"
    )]
    Unsigned(String),
    /// Another publisher has the turn.
    #[error("{holder} publishes from this ledger since {at}, and this one signs no more: let one `hardtack fleet serve` run, on one machine")]
    Superseded {
        /// Who has it.
        holder: String,
        /// Since when.
        at: Timestamp,
    },
    /// The ledger is a copy that was put back.
    #[error("the ledger was restored from a copy at {at}: signing on could fork feed {feed}. Revoke again what was revoked since the copy was made, then run `hardtack fleet publish --feed {feed} --after {least}` once, or with a higher number if a device or a log names one")]
    Restored {
        /// The feed.
        feed: FeedId,
        /// When.
        at: Timestamp,
        /// The highest number that is known to have been signed.
        least: u64,
    },
    /// The ledger is a copy that was put back, and trust bundles may have been signed since it was made.
    #[error("the ledger was restored from a copy at {at}, and nobody has told yet whether trust bundles after {bundle} were signed since the copy was made: another one after {bundle} would be refused for ever by every device that has the first. `hardtack fleet publish --broker URL` takes in those that the fleet's broker keeps. Where that broker is gone, `hardtack fleet publish --bundles FOLDER` takes them from the folder `bundles` of an emergency kit, and `--last-bundle N` says that no device has one after N, as `hardtack status` on each tells")]
    BundlesUnknown {
        /// When it was restored.
        at: Timestamp,
        /// The newest here.
        bundle: u64,
    },
    /// There are as many rules as there can be.
    #[error("there are {limit} rules in force, and no more can be: one rule on owner, group, device or issued-before takes the place of many; single tokens are revoked by `token`, of which there can be millions")]
    RulesFull {
        /// How many there can be.
        limit: usize,
    },
}

impl FleetError {
    fn refused(what: &'static str) -> impl FnOnce(Refused) -> Self {
        move |refused| Self::Refused { what, refused }
    }
}
