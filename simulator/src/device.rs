//! A gateway: its clocks, its disk, and the process on it, if one runs.
//!
//! Owns: [`Device`] and what a start needs.
//! Never: moves by itself; `host.rs` is its shell's loop.
//! Read next: `host.rs`.

use std::collections::VecDeque;

use hardtack::agent::request::StatusReply;
use hardtack::agent::{Agent, Boot, Input, Outgoing};
use hardtack::ids::{DeviceId, FleetId};
use hardtack::profile::Profile;
use hardtack::wire::enrol::DeviceKeys;
use rand_chacha::ChaCha8Rng;
use rand_core::RngCore;

use crate::clocks::{Battery, Clocks};
use crate::disk::{Disk, Step};
use crate::fault::WallAfter;
use crate::network::ConnId;
use crate::random::{below, stream};
use crate::recovery;
use crate::scenario::Scenario;

/// A gateway.
pub(crate) struct Device {
    pub(crate) name: DeviceId,
    pub(crate) clocks: Clocks,
    pub(crate) disk: Disk,
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
    keys: Box<[u8; 128]>,
    seeds: ChaCha8Rng,
    profile: Profile,
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
}

/// A commit on its way to the disk, and what may be sent after it.
pub(crate) struct InFlight {
    pub(crate) steps: Vec<Step>,
    pub(crate) outgoing: Outgoing,
}

/// A failure of the supply that waits for a commit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    pub(crate) lasts: u64,
    pub(crate) wall: WallAfter,
    pub(crate) pick: u64,
}

impl Device {
    pub(crate) fn new(scenario: &Scenario, seed: u64, number: u32) -> Self {
        let entity = format!("gw-{number}");
        let bound = u64::from(scenario.fleet.drift_ppm);
        let drift = below(&mut stream(seed, &entity, "drift"), 2 * bound + 1) as i64 - bound as i64;
        let bare = number >= scenario.fleet.devices - scenario.fleet.without_rtc;
        let rtc = if bare { Battery::Missing } else { Battery::Present };
        let keys = DeviceKeys::generate(&mut stream(seed, &entity, "keys"));
        let mut profile = scenario.profile.clone();
        // A busy host must not change what is decided: structure and iterations bound the work.
        profile.verify.run_ms_max = 60_000;
        Self {
            name: entity.parse().expect("the name is valid"),
            clocks: Clocks::new(drift, rtc, stream(seed, &entity, "boots")),
            disk: Disk::default(),
            process: None,
            starts: 0,
            armed: None,
            boundaries: 0,
            commit_times: stream(seed, &entity, "commits"),
            last_status: None,
            keys: Box::new(*keys.to_bytes()),
            seeds: stream(seed, &entity, "starts"),
            profile,
        }
    }

    pub(crate) fn keys(&self) -> DeviceKeys {
        DeviceKeys::from_bytes(&self.keys)
    }

    pub(crate) fn profile(&self) -> &Profile {
        &self.profile
    }

    /// All that a start needs, read from the disk. None without power.
    pub(crate) fn boot(&mut self, fleet: &FleetId, at: u64) -> Option<Boot> {
        let (boot, _) = self.clocks.read(at)?;
        self.disk.open();
        let mut seed = [0; 32];
        self.seeds.fill_bytes(&mut seed);
        let found = recovery::read(self.disk.durable(), fleet, &self.name);
        Some(Boot {
            fleet: fleet.clone(),
            device: self.name.clone(),
            keys: self.keys(),
            profile: self.profile.clone(),
            seed,
            boot,
            anchor: found.anchor,
            files: found.files,
            eras: found.eras,
            used_bytes: self.disk.used_bytes(),
        })
    }

    /// Powered-on time so far, in true time.
    pub(crate) fn powered(&self, at: u64) -> u64 {
        self.clocks.powered(at)
    }
}
