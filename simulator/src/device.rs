//! A gateway: its clocks, its disk, and the process on it, if one runs.
//!
//! Owns: [`Device`] and what a start needs.
//! Never: moves by itself; `host.rs` is its shell's loop.
//! Read next: `host.rs`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hardtack::agent::effects::StateFile;
use hardtack::agent::request::StatusReply;
use hardtack::agent::{Agent, Batch, Boot, Input, Outgoing};
use hardtack::ids::{BootId, DeviceId, EraId, FeedId, FleetId};
use hardtack::profile::Profile;
use hardtack::time::{Millis, Timestamp};
use hardtack::wire::enrol::DeviceKeys;
use hardtack::wire::revocation::set::RevocationSet;
use rand_chacha::ChaCha8Rng;
use rand_core::RngCore;

use crate::check::room::HeldOver;
use crate::clocks::{Battery, Clocks};
use crate::disk::{is_of, Disk, Medium, Step};
use crate::fault::{Damage, Part, Refusal, WallAfter};
use crate::followed::Followed;
use crate::level::{Broke, RealDisk};
use crate::network::ConnId;
use crate::operator::device_name;
use crate::random::{below, stream};
use crate::real::CutShort;
use crate::recovery;
use crate::scenario::Scenario;
use crate::world::{Away, Happening};

/// First and longest wait before the store is opened again, as the real shell waits.
pub(crate) const REOPEN_MIN: u64 = 250;
pub(crate) const REOPEN_MAX: u64 = 10_000;

/// A gateway.
pub(crate) struct Device {
    pub(crate) name: DeviceId,
    pub(crate) clocks: Clocks,
    pub(crate) disk: Disk,
    /// A real disk beside it, if this level has them.
    pub(crate) real: Option<Box<dyn RealDisk>>,
    /// The commit in which an agent on it was interrupted.
    pub(crate) cut_short: Option<CutShort>,
    pub(crate) process: Option<Process>,
    /// How often its agent has started.
    pub(crate) starts: u64,
    /// The supply fails within the next commit.
    pub(crate) armed: Option<Cut>,
    /// Steps of commits so far, for who cuts at each of them.
    pub(crate) boundaries: u64,
    /// How long commits take.
    pub(crate) commit_times: ChaCha8Rng,
    /// What its last status said.
    pub(crate) last_status: Option<StatusReply>,
    /// Up to when the newest durable anchor of this boot leases powered-on time.
    pub(crate) anchored: Option<u64>,
    /// Whether an agent has been awake since that anchor, to renew the lease in time.
    pub(crate) watched: Watched,
    /// Faults that suspend it now.
    pub(crate) suspended: Away,
    /// Faults that stop its agent's process now.
    pub(crate) stopped: Away,
    /// Since when the process is stopped, by the first of them.
    pub(crate) halted: Option<u64>,
    /// Faults that give it to another version now.
    pub(crate) downgraded: Away,
    /// Faults now that let syncs fail or lie.
    pub(crate) bad_syncs: Away,
    /// Nothing runs, or at least no agent; what falls due waits here.
    pub(crate) asleep: Option<Vec<Happening>>,
    /// An answer to a nonce, taken in by a commit that a cut interrupted.
    pub(crate) in_doubt: Option<Contact>,
    /// Parts of its state folder whose syncs fail.
    pub(crate) failing: BTreeSet<Part>,
    /// What the file system of its state folder refuses.
    pub(crate) refusing: BTreeMap<Refusal, Away>,
    /// How long it waits before it opens its store again after the next such failure.
    pub(crate) reopen: u64,
    /// Copies of its state folder, by name.
    pub(crate) copies: BTreeMap<u32, Medium>,
    /// Its disk was damaged since its agent last started.
    pub(crate) damaged: bool,
    /// What is left of files that rotted.
    pub(crate) rotten: BTreeMap<StateFile, Vec<u8>>,
    /// Those of them without which nothing can be allowed, and over which its agent started.
    pub(crate) started_over: Vec<(StateFile, Vec<u8>)>,
    /// Its trust bundle before a bit of that flipped, for somebody to put it back once the agent has said so.
    pub(crate) whole_bundle: Option<Vec<u8>>,
    /// Its storage was restored from an image: once in touch it must be locked for good.
    pub(crate) restored: Restored,
    /// Eras that a copy of it began, of which it is told once in touch.
    pub(crate) copied: Vec<EraId>,
    /// The operator revoked it: in the end it is locked.
    pub(crate) ordered_locked: bool,
    /// Credentials to try again once so much powered-on time has passed, and an agent runs.
    pub(crate) probes: Vec<Probe>,
    keys: Box<[u8; 96]>,
    seeds: ChaCha8Rng,
    profile: Profile,
    /// What its audit took when it was given another quota.
    held_over: HeldOver,
}

/// The profile as agents here take it: a busy host must not change what is decided, and structure and iterations bound the
/// work.
fn on_a_busy_host(profile: &Profile) -> Profile {
    let mut profile = profile.clone();
    profile.verify.run_ms_max = 60_000;
    profile
}

/// Whether an agent was there all the time since the last durable anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watched {
    No,
    Yes,
}

/// Whether storage was restored from an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Restored {
    /// A copy of it ran elsewhere, too old to be taken for the gateway.
    Copied,
    No,
    /// Some of it, and perhaps nothing that matters.
    Partly,
    Yes,
}

/// A credential that is to be presented past its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) credential: usize,
    /// The powered-on time that must have passed by then.
    pub(crate) powered: u64,
}

/// An answer to a nonce as the oracle sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Contact {
    pub(crate) at: u64,
    pub(crate) powered: u64,
    pub(crate) time: Timestamp,
    pub(crate) radius: Millis,
    /// How long it was on its way, there and back.
    pub(crate) trip: u64,
}

/// An agent that runs.
pub(crate) struct Process {
    pub(crate) agent: Agent,
    /// Which start this is.
    pub(crate) start: u64,
    pub(crate) inbox: VecDeque<Input>,
    pub(crate) in_flight: Option<InFlight>,
    pub(crate) conn: Option<ConnId>,
    /// The deadline that is scheduled, in true time.
    pub(crate) deadline: Option<u64>,
    /// Commits since the agent was told how full the disk is.
    pub(crate) since_disk: u32,
    /// When it was told last because it had not been for long, by its clock.
    pub(crate) disk_at: Millis,
    /// An answer to a nonce that waits in the inbox.
    pub(crate) contact: Option<Contact>,
    /// Whether it hung up while that waited.
    pub(crate) hung_up: bool,
    /// What signed heads that wait in the inbox add.
    pub(crate) heard: Vec<RevocationSet>,
    /// The trust bundle by which it takes in what waits in the inbox.
    pub(crate) followed: Followed,
}

/// A commit on its way to the disk, and what may be sent after it.
pub(crate) struct InFlight {
    pub(crate) steps: Vec<Step>,
    /// The same as the real disk takes it, if there is one.
    pub(crate) batch: Option<Batch>,
    pub(crate) outgoing: Outgoing,
    /// When it was made.
    pub(crate) made: u64,
    /// An answer to a nonce that it takes in.
    pub(crate) contact: Option<Contact>,
    /// What signed heads add that it takes in.
    pub(crate) heard: Vec<RevocationSet>,
}

/// How a commit meets a file system that refuses one of its steps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refused {
    pub(crate) how: Refusal,
    /// So many of its steps can be done.
    pub(crate) done: u64,
    /// Where room is short there may be some for the first of the entries: for as many more at the most.
    pub(crate) more: u64,
}

/// A failure of the supply that waits for a commit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    pub(crate) lasts: u64,
    pub(crate) wall: WallAfter,
    pub(crate) pick: u64,
    /// The fault that it is part of.
    pub(crate) fault: &'static str,
}

impl Device {
    /// Of what rotted, and was not written since, that without which nothing can be allowed: the policy, what an emergency key
    /// revoked, and the feed, where its disk holds no other and the anchor vouches for it.
    pub(crate) fn rotten_without(&self, own: &FeedId) -> Vec<(StateFile, Vec<u8>)> {
        let medium = self.disk.durable();
        let only = medium.files.keys().filter(|file| matches!(file, StateFile::Feed(_))).count() == 1;
        let anchored = recovery::newest(medium)
            .is_some_and(|anchor| anchor.feeds.iter().any(|known| known.feed == *own && known.seq > 0));
        let needed = |file: &StateFile| match file {
            StateFile::Emergency(_) | StateFile::Policy => true,
            StateFile::Feed(id) => id == own && only && anchored,
            StateFile::AuditKey
            | StateFile::Bundle
            | StateFile::FeedSince(_)
            | StateFile::Grant(_)
            | StateFile::Task(_) => false,
        };
        let rotten = self.rotten.iter().filter(|(file, left)| needed(file) && medium.files.get(file) == Some(left));
        rotten.map(|(file, left)| (file.clone(), left.clone())).collect()
    }

    /// Of what rotted by this damage, that which was not written since.
    pub(crate) fn rotten_by(&self, damage: Damage) -> impl Iterator<Item = &StateFile> {
        let files = &self.disk.durable().files;
        let left = self.rotten.iter().filter(|(file, left)| files.get(file) == Some(left));
        left.map(|(file, _)| file).filter(move |file| is_of(damage, file))
    }

    /// Files over whose rotten rest its agent started, and that were not written since.
    pub(crate) fn still_rotten(&self) -> impl Iterator<Item = &StateFile> {
        let files = &self.disk.durable().files;
        self.started_over.iter().filter(|(file, left)| files.get(file) == Some(left)).map(|(file, _)| file)
    }

    pub(crate) fn new(scenario: &Scenario, seed: u64, number: u32) -> Self {
        let entity = format!("gw-{number}");
        let bound = u64::from(scenario.fleet.drift_ppm);
        let drift = below(&mut stream(seed, &entity, "drift"), 2 * bound + 1) as i64 - bound as i64;
        let bare = number >= scenario.fleet.devices - scenario.fleet.without_rtc;
        let rtc = if bare { Battery::Missing } else { Battery::Present };
        let keys = DeviceKeys::generate(&mut stream(seed, &entity, "keys"));
        Self {
            name: device_name(number),
            clocks: Clocks::new(drift, rtc, stream(seed, &entity, "boots")),
            disk: Disk::default(),
            real: None,
            cut_short: None,
            process: None,
            starts: 0,
            armed: None,
            boundaries: 0,
            commit_times: stream(seed, &entity, "commits"),
            last_status: None,
            anchored: None,
            watched: Watched::No,
            suspended: Away::default(),
            stopped: Away::default(),
            halted: None,
            downgraded: Away::default(),
            bad_syncs: Away::default(),
            asleep: None,
            in_doubt: None,
            failing: BTreeSet::new(),
            refusing: BTreeMap::new(),
            reopen: REOPEN_MIN,
            copies: BTreeMap::new(),
            damaged: false,
            rotten: BTreeMap::new(),
            started_over: Vec::new(),
            whole_bundle: None,
            restored: Restored::No,
            copied: Vec::new(),
            ordered_locked: false,
            probes: Vec::new(),
            keys: Box::new(*keys.to_bytes()),
            seeds: stream(seed, &entity, "starts"),
            profile: on_a_busy_host(&scenario.profile),
            held_over: HeldOver::default(),
        }
    }

    pub(crate) fn keys(&self) -> DeviceKeys {
        DeviceKeys::from_bytes(&self.keys)
    }

    pub(crate) fn profile(&self) -> &Profile {
        &self.profile
    }

    /// From the next start on it has another profile. Whether that says anything else.
    pub(crate) fn give_profile(&mut self, profile: &Profile) -> bool {
        let next = on_a_busy_host(profile);
        let changed = self.profile != next;
        self.profile = next;
        self.held_over = HeldOver::at(self.disk.used_bytes());
        changed
    }

    /// What its audit may take beside its quota: what is left of what it took when that became smaller.
    pub(crate) fn held_over(&mut self) -> u64 {
        self.held_over.left(self.disk.used_bytes(), &self.profile.queue)
    }

    /// All that a start needs, read from the disk. None without power.
    ///
    /// # Errors
    /// When a real disk cannot be read.
    pub(crate) fn boot(&mut self, fleet: &FleetId, at: u64) -> Result<Option<Boot>, Broke> {
        let Some((boot, _)) = self.clocks.read(at) else { return Ok(None) };
        self.disk.open();
        let mut seed = [0; 32];
        self.seeds.fill_bytes(&mut seed);
        let Some(real) = &mut self.real else {
            return Ok(Some(self.boot_on(self.disk.durable(), fleet, boot, seed)));
        };
        let found = real.open()?;
        let eras = found.eras.clone();
        self.disk.follow(Vec::new(), found);
        // How much room it takes stays with the model: scenarios give so much less than a real store needs.
        Ok(Some(Boot { eras, ..self.boot_on(self.disk.durable(), fleet, boot, seed) }))
    }

    /// All that a start under its name needs, on whatever medium.
    pub(crate) fn boot_on(&self, medium: &Medium, fleet: &FleetId, boot: BootId, seed: [u8; 32]) -> Boot {
        let found = recovery::read(medium, fleet, &self.name);
        Boot {
            fleet: fleet.clone(),
            device: self.name.clone(),
            keys: self.keys(),
            profile: self.profile.clone(),
            seed,
            boot,
            anchor: found.anchor,
            files: found.files,
            eras: found.eras,
            used_bytes: medium.bytes,
        }
    }

    /// The supply fails, or the kernel goes down. Returns for how long no lease covered what an agent did.
    pub(crate) fn power_off(&mut self, at: u64) -> u64 {
        let leased_to = match (self.anchored.take(), self.watched) {
            // Whoever was awake has renewed the lease before it ended.
            (Some(_), Watched::Yes) => u64::MAX,
            (Some(leased_to), Watched::No) => leased_to,
            (None, Watched::No | Watched::Yes) => 0,
        };
        self.watched = Watched::No;
        (self.asleep, self.halted) = (None, None);
        // The next boot mounts it anew.
        self.refusing.remove(&Refusal::ReadOnly);
        self.clocks.power_off(at, leased_to)
    }

    /// Where these steps of a commit meet a file system that refuses one of them, if they do.
    pub(crate) fn refused(&self, steps: &[Step]) -> Option<Refused> {
        // Where nothing may change, nobody asks for room.
        let how = *self.refusing.keys().next_back()?;
        let done = steps.iter().position(|step| step.is_refused(how))?;
        let entries = steps[done..].iter().take_while(|step| matches!(step, Step::Append(_))).count();
        let more = match how {
            Refusal::NoRoom => entries.saturating_sub(1) as u64,
            Refusal::ReadOnly => 0,
        };
        Some(Refused { how, done: done as u64, more })
    }

    /// How long it waits before it opens its store again: each time twice as long.
    pub(crate) fn wait_to_reopen(&mut self) -> u64 {
        let wait = self.reopen;
        self.reopen = (wait * 2).min(REOPEN_MAX);
        wait
    }

    /// Whether an agent runs and is awake.
    pub(crate) fn is_awake(&self) -> bool {
        self.process.is_some() && self.asleep.is_none()
    }

    /// Powered-on time so far, in true time.
    pub(crate) fn powered(&self, at: u64) -> u64 {
        self.clocks.powered(at)
    }
}
