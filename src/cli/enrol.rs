//! `hardtack enrol`: the device's side of joining a fleet.
//!
//! Owns: making keys and a request, showing its code, taking the answer.
//! Never: decides who joins, or believes an answer. `agent/enrol.rs` checks it.
//! Read next: `../agent/enrol.rs`.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use rand_core::RngCore;
use serde::Serialize;

use super::output::{show, tell};
use super::{DeviceFlags, Exit, Failure, Globals};
use crate::agent::effects::{Standing as AnchorStanding, StateFile};
use crate::agent::enrol::{accept, Known};
use crate::agent::Anchor;
use crate::ids::{DeviceId, Nonce};
use crate::shell::files::FileError;
use crate::shell::keys::{self, DeviceKeyFile};
use crate::shell::store::{Event, Recovered, Store, StoreError};
use crate::shell::{clock, entropy};
use crate::wire::bundle::{Fingerprint, TrustBundle};
use crate::wire::enrol::{DeviceKeys, EnrolAnswer, EnrolRequest, BUNDLE_BYTES_MAX};
use crate::wire::envelope::Signed;
use crate::wire::Refused;

/// `hardtack enrol …`.
#[derive(Subcommand, Debug)]
pub enum EnrolCommand {
    /// Take the answer of the fleet
    Import(ImportArgs),
    /// Make this device's keys and a request to join a fleet
    Request(RequestArgs),
    /// Whether this device is enrolled, and where
    Status,
}

/// Arguments of `hardtack enrol import`.
#[derive(Args, Debug)]
pub struct ImportArgs {
    /// The enrolment bundle
    file: PathBuf,
    /// The fleet's fingerprint, as its operator tells it
    #[arg(long, value_name = "FINGERPRINT", env = "HARDTACK_FLEET")]
    fleet: String,
    #[command(flatten)]
    device: DeviceFlags,
}

/// Arguments of `hardtack enrol request`.
#[derive(Args, Debug)]
pub struct RequestArgs {
    /// The name that the device asks for
    #[arg(long)]
    id: DeviceId,
    /// Where the request goes
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    device: DeviceFlags,
}

/// Runs it.
///
/// # Errors
/// What is wrong with the state folder, the arguments or the answer.
pub fn run(command: EnrolCommand, globals: &Globals) -> Result<Exit, Failure> {
    match command {
        EnrolCommand::Import(args) => import(&args, globals),
        EnrolCommand::Request(args) => request(&args, globals),
        EnrolCommand::Status => status(globals),
    }
}

#[derive(Serialize)]
struct Requested {
    device: String,
    code: String,
    file: String,
    profile: String,
}

/// Makes the keys once; asked again, it writes the same request.
fn request(args: &RequestArgs, globals: &Globals) -> Result<Exit, Failure> {
    let config = globals.load_with(&args.device)?;
    // Opening it makes the folder with its modes, and keeps a running agent and a second request out.
    let (_lock, _) = Store::open(&config.state_dir, &config.profile.queue).map_err(|error| store_failure(&error))?;
    let file = match DeviceKeyFile::read(&config.state_dir) {
        Ok(file) if file.device != args.id => {
            let what = format!("{} holds the keys of {}", config.state_dir.display(), file.device);
            return Err(Failure::new(Exit::Usage, what, "use that --id, or another --state-dir"));
        }
        Ok(file) => file,
        Err(error) if error.is_missing() => {
            let keys = DeviceKeys::generate(&mut entropy::rng());
            let file = DeviceKeyFile { device: args.id.clone(), nonce: new_nonce(), used: None, keys };
            file.create(&config.state_dir).map_err(|error| file_failure(&error))?;
            file
        }
        Err(error) => return Err(file_failure(&error)),
    };
    let signed = request_of(&file, &config.profile.name).sign(&file.keys);
    std::fs::write(&args.out, signed.to_bytes()).map_err(|error| {
        let what = format!("cannot write {}: {error}", args.out.display());
        Failure::new(Exit::Failure, what, "name another file with --out")
    })?;
    let requested = Requested {
        device: file.device.to_string(),
        code: EnrolRequest::code(&signed).to_string(),
        file: args.out.display().to_string(),
        profile: config.profile.name,
    };
    show(globals.output, &requested, |requested| format!("code  {}", requested.code))?;
    if globals.output == super::output::Format::Human {
        tell(&format!(
            "request of {} in {}; take it to the operator, who compares the code:\n  \
             hardtack fleet device approve {} --code {} --out BUNDLE\nthen, here:\n  \
             hardtack enrol import BUNDLE --fleet FINGERPRINT",
            requested.device, requested.file, requested.file, requested.code
        ));
    }
    Ok(Exit::Done)
}

fn new_nonce() -> Nonce {
    let mut nonce = Nonce([0; 16]);
    entropy::rng().fill_bytes(&mut nonce.0);
    nonce
}

fn request_of(file: &DeviceKeyFile, profile: &str) -> EnrolRequest {
    EnrolRequest {
        device: file.device.clone(),
        keys: file.keys.public(),
        nonce: file.nonce,
        profile: profile.to_owned(),
    }
}

#[derive(Serialize)]
struct Imported {
    device: String,
    fleet: String,
    grants: usize,
}

fn import(args: &ImportArgs, globals: &Globals) -> Result<Exit, Failure> {
    let config = globals.load_with(&args.device)?;
    let fingerprint: Fingerprint = args.fleet.parse().map_err(|refused: Refused| {
        let what = format!("--fleet is no fingerprint: {refused}");
        Failure::new(
            Exit::Usage,
            what,
            "ask the fleet's operator: `hardtack fleet init` and `hardtack fleet key list` print it",
        )
    })?;
    let answer = read_answer(&args.file)?;
    let file = DeviceKeyFile::read(&config.state_dir).map_err(|error| match error.is_missing() {
        true => not_enrolled(&config.state_dir),
        false => file_failure(&error),
    })?;
    let opened = Store::open(&config.state_dir, &config.profile.queue);
    let (mut store, recovered) = opened.map_err(|error| store_failure(&error))?;
    let known = recovered.anchor.clone().or_else(|| has_history(&recovered).then(Anchor::lost));
    let boot = clock::boot_id().map_err(|error| Failure::new(Exit::Failure, error, "mount /proc"))?;
    let boottime = clock::now().boottime;
    let take = |nonce| {
        let known = known.as_ref().map(|anchor| Known { anchor, files: &recovered.files, boot, boottime });
        accept(&answer, &file.keys, &file.device, &fingerprint, nonce, &config.profile, known)
    };
    // The answer that was taken last may be taken again, or come anew with more grants, while nothing is wrong here: what it
    // holds goes back nowhere. It cures nothing: for that there must be a new request.
    let well = known.as_ref().is_some_and(|anchor| anchor.standing == AnchorStanding::Known);
    let (accepted, taken) = match (take(file.nonce), file.used.filter(|_| well)) {
        (Err(Refused::UnknownNonce), Some(used)) => (take(used), Taken::Again),
        (accepted, _) => (accepted, Taken::First),
    };
    let accepted = accepted.map_err(|refused| {
        let what = format!("the enrolment bundle is refused: {refused}");
        Failure::new(Exit::Invalid, what, advice(&refused))
    })?;
    // The certificate first: the bundle is what makes the device enrolled, and an import may be repeated.
    keys::write_certificate(&config.state_dir, &accepted.certificate).map_err(|error| file_failure(&error))?;
    store.commit(accepted.batch).map_err(|error| store_failure(&error))?;
    let file = match taken {
        // It has done its work: found again in a year, it must not cure what has gone wrong since.
        Taken::First => file.renew(&config.state_dir, new_nonce()).map_err(|error| file_failure(&error))?,
        Taken::Again => file,
    };
    let imported =
        Imported { device: file.device.to_string(), fleet: accepted.fleet.to_string(), grants: accepted.grants };
    show(globals.output, &imported, |imported| {
        let grants = match imported.grants {
            0 => "no fallback grant: online only".to_owned(),
            count => format!("fallback grants: {count}"),
        };
        format!("{} is enrolled in {}; {grants}", imported.device, imported.fleet)
    })?;
    Ok(Exit::Done)
}

/// Whether an answer is taken for the first time.
enum Taken {
    Again,
    First,
}

/// Whether the device has worked here before: what it spent is unknown where the anchor is gone.
fn has_history(recovered: &Recovered) -> bool {
    let spends = |file: &StateFile| match file {
        StateFile::Grant(_) | StateFile::Task(_) => true,
        StateFile::Bundle
        | StateFile::Emergency(_)
        | StateFile::Feed(_)
        | StateFile::FeedSince(_)
        | StateFile::AuditKey
        | StateFile::Policy => false,
    };
    !recovered.eras.is_empty()
        || recovered.events.contains(&Event::AnchorLost)
        || recovered.files.iter().any(|(file, _)| spends(file))
}

fn read_answer(path: &Path) -> Result<EnrolAnswer, Failure> {
    let mut bytes = Vec::new();
    let read =
        std::fs::File::open(path).and_then(|file| file.take(BUNDLE_BYTES_MAX as u64 + 4096).read_to_end(&mut bytes));
    read.map_err(|error| {
        let what = format!("cannot read {}: {error}", path.display());
        Failure::new(Exit::Usage, what, "name the file that `hardtack fleet device approve` wrote")
    })?;
    EnrolAnswer::from_bytes(&bytes).map_err(|refused| {
        let what = format!("{} is no enrolment bundle: {refused}", path.display());
        Failure::new(Exit::Invalid, what, "name the file that `hardtack fleet device approve` wrote")
    })
}

fn advice(refused: &Refused) -> &'static str {
    if matches!(refused, Refused::WrongFleet) {
        "compare the fingerprint with the operator: this answer is of another fleet"
    } else if matches!(refused, Refused::CannotOpen | Refused::WrongDevice | Refused::UnknownNonce) {
        "this answer is for another device or an earlier request: have this device's request approved"
    } else {
        "ask the operator for a fresh answer to this device's request"
    }
}

/// What the state folder says about enrolment.
#[derive(Serialize)]
pub struct Standing {
    /// Whether there is a trust bundle.
    pub enrolled: bool,
    /// The device that the keys are for.
    pub device: Option<String>,
    /// The fleet.
    pub fleet: Option<String>,
    /// The fleet's fingerprint.
    pub fingerprint: Option<String>,
}

/// Looks into a state folder, without taking its lock.
///
/// # Errors
/// When something is there and cannot be used.
pub fn standing(state_dir: &Path) -> Result<Standing, Failure> {
    let keys = match DeviceKeyFile::read(state_dir) {
        Ok(file) => Some(file),
        Err(error) if error.is_missing() => None,
        Err(error) => return Err(file_failure(&error)),
    };
    let path = state_dir.join(StateFile::Bundle.path());
    let bundle = match std::fs::read(&path) {
        Ok(bytes) => {
            let trust = Signed::<TrustBundle>::from_bytes(&bytes).and_then(|signed| signed.claim());
            let damaged = |refused| {
                let what = format!("{} cannot be used: {refused}", path.display());
                Failure::new(Exit::Failure, what, "import an enrolment bundle again")
            };
            Some(trust.map_err(damaged)?)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            let what = format!("cannot read {}: {error}", path.display());
            return Err(Failure::new(Exit::Failure, what, "run it as the agent's user"));
        }
    };
    Ok(Standing {
        enrolled: keys.is_some() && bundle.is_some(),
        device: keys.as_ref().map(|file| file.device.to_string()),
        fleet: bundle.as_ref().map(|trust| trust.fleet.to_string()),
        fingerprint: bundle.as_ref().map(|trust| trust.fingerprint().to_string()),
    })
}

fn status(globals: &Globals) -> Result<Exit, Failure> {
    let config = globals.load()?;
    let standing = standing(&config.state_dir)?;
    show(globals.output, &standing, |standing| match (&standing.device, &standing.fleet) {
        (Some(device), Some(fleet)) => format!("{device} is enrolled in {fleet}"),
        (Some(device), None) => format!("{device} has keys and is not enrolled: import the fleet's answer"),
        (None, _) => "no keys: run `hardtack enrol request`".into(),
    })?;
    Ok(if standing.enrolled { Exit::Done } else { Exit::NotEnrolled })
}

fn not_enrolled(state_dir: &Path) -> Failure {
    let what = format!("{} holds no keys, so nothing was asked for", state_dir.display());
    Failure::new(
        Exit::NotEnrolled,
        what,
        "run `hardtack enrol request --id ID --out FILE` first, with this --state-dir",
    )
}

fn file_failure(error: &FileError) -> Failure {
    Failure::new(Exit::Failure, error, "")
}

fn store_failure(error: &StoreError) -> Failure {
    let exit = if matches!(error, StoreError::Locked { .. }) { Exit::TryAgain } else { Exit::Failure };
    Failure::new(exit, error, "")
}
