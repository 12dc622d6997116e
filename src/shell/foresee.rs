//! What a start of the agent would find, told without starting it.
//!
//! Owns: [`foresee`]: the checks of a start, made on a folder that is neither locked nor written.
//! Never: judges by rules of its own: keys, folder, bundle and broker files go through what a start takes them through.
//! Read next: `run.rs`, which really starts.

use std::path::Path;

use super::clock;
use super::keys::{self, DeviceKeyFile};
use super::run::{boot, broker_problems, claimed_bundle, Machine, RunError};
use super::store::{self, Recovered};
use crate::agent::effects::StateFile;
use crate::agent::request::{Mode, StatusReply};
use crate::agent::{Agent, Effects, Input};
use crate::wire::bundle::TrustBundle;
use crate::wire::envelope::Signed;

/// What a start would find.
#[derive(Debug, Default)]
pub struct Foreseen {
    /// The device that the keys are for.
    pub device: Option<String>,
    /// The fleet that the bundle names, whether it can be used or not.
    pub fleet: Option<String>,
    /// Whether there are keys and a bundle.
    pub enrolled: bool,
    /// Why it would not start, or not reach its broker; each with what to do.
    pub problems: Vec<String>,
    /// What the log would tell of the folder.
    pub notes: Vec<String>,
    /// Where it would stand, as of the last anchor; none where it would not start.
    pub status: Option<StatusReply>,
}

/// Looks, as the user that would start it.
pub fn foresee(machine: &Machine) -> Foreseen {
    let mut foreseen = Foreseen { problems: broker_problems(&machine.broker), ..Foreseen::default() };
    let identity = match DeviceKeyFile::read(&machine.state_dir) {
        Ok(identity) => Some(identity),
        Err(error) if error.is_missing() => None,
        Err(error) => foreseen.trouble(error),
    };
    if let Err(error) = keys::read_certificate(&machine.state_dir) {
        foreseen.problems.push(error.to_string());
    }
    let found = match store::peek(&machine.state_dir) {
        Ok(found) => found,
        Err(error) => foreseen.trouble(error),
    };
    let bundle = machine.state_dir.join(StateFile::Bundle.path());
    foreseen.device = identity.as_ref().map(|identity| identity.device.to_string());
    foreseen.fleet = claimed_fleet(&bundle);
    foreseen.enrolled = identity.is_some() && bundle.exists();
    if let (Some(identity), Some(found)) = (identity, found) {
        match claimed_bundle(&found.files) {
            Ok(trust) => foreseen.start(machine, identity, trust, found),
            Err(RunError::NotEnrolled) => {}
            Err(error) => foreseen.problems.push(error.to_string()),
        }
    }
    foreseen
}

/// The fleet that a bundle names, whether it can be used or not.
fn claimed_fleet(bundle: &Path) -> Option<String> {
    let signed = Signed::<TrustBundle>::from_bytes(&std::fs::read(bundle).ok()?).ok()?;
    Some(signed.claim().ok()?.fleet.to_string())
}

impl Foreseen {
    fn trouble<T>(&mut self, error: impl std::fmt::Display) -> Option<T> {
        self.problems.push(error.to_string());
        None
    }

    /// Starts an agent on paper: what it would write is thrown away.
    fn start(&mut self, machine: &Machine, identity: DeviceKeyFile, trust: TrustBundle, found: Recovered) {
        self.notes.extend(found.events.iter().map(ToString::to_string));
        let boot_id = match clock::boot_id() {
            Ok(boot_id) => boot_id,
            Err(error) => return self.problems.push(format!("cannot read the kernel's boot id: {error}; mount /proc")),
        };
        let boot = boot(machine, identity, trust.fleet, found, boot_id);
        match Agent::start(boot, clock::now()) {
            Ok((mut agent, _)) => {
                agent.handle(Input::Deadline, clock::now(), &mut Effects::default());
                let status = agent.status();
                if status.mode == Mode::Locked {
                    self.notes.push(format!("it would start locked: {}", status.reasons.join("; ")));
                }
                self.status = Some(status);
            }
            Err(error) => self.problems.push(error.to_string()),
        }
    }
}
