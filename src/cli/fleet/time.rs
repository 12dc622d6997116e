//! `hardtack fleet time`: signed time for somebody to carry to a device.
//!
//! Owns: the arguments, which keys sign, where the file goes.
//! Never: decides what a file holds.
//! Read next: `../../fleet/time.rs`.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::{json, Value};

use super::super::output::show;
use super::super::{Exit, Failure};
use super::key::proposal::{gather, short, write, RootArgs};
use super::{file_failure, now, operator, Fleet, Session};
use crate::fleet::proposal;
use crate::fleet::time::{self as core, Reading};
use crate::ids::{DeviceId, Nonce};
use crate::shell::files;
use crate::shell::fleet_keys::Role;
use crate::wire::time::TimeFile;

/// `hardtack fleet time …`.
#[derive(Subcommand, Debug)]
pub enum TimeCommand {
    /// Sign what time it is now, for every device; it only ever raises what a device knows
    Export {
        /// Where the file goes
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Turn one device's clock to now, back as well as forward; the root keys sign, the record names who did it
    Reset {
        /// The device
        #[arg(long)]
        device: DeviceId,
        /// What `hardtack agent time challenge` printed on the device
        #[arg(long, value_name = "HEX")]
        nonce: Nonce,
        /// Where the file goes
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        #[command(flatten)]
        at_hand: RootArgs,
    },
}

pub(super) fn run(command: TimeCommand, session: &Session) -> Result<Exit, Failure> {
    match command {
        TimeCommand::Export { out } => export(&out, session),
        TimeCommand::Reset { device, nonce, out, at_hand } => reset((&device, nonce), &out, &at_hand, session),
    }
}

fn export(out: &Path, session: &Session) -> Result<Exit, Failure> {
    let mut fleet = session.open()?;
    let (service, now) = (fleet.keys.signing(Role::Service)?, reading(&fleet)?);
    let file = core::export(fleet.ledger.book(), &service, now)?;
    hand_out(&file, out, json!({"kind": "statement", "time": now.time.to_string()}), session)
}

fn reset(
    (device, nonce): (&DeviceId, Nonce),
    out: &Path,
    at_hand: &RootArgs,
    session: &Session,
) -> Result<Exit, Failure> {
    let mut fleet = session.open()?;
    // The fleet's own passphrase is asked for first: root keys may have others.
    let (name, key) = (fleet.operator.clone(), fleet.operator_key()?);
    let (wanted, now) = (fleet.ledger.book().trust().roots.clone(), reading(&fleet)?);
    let (proposed, opened, closed) = gather(&mut fleet, &wanted, at_hand, |fleet, roots| {
        proposal::propose_reset(fleet.ledger.book(), (device, nonce), now, roots)
    })?;
    if !opened.is_complete() {
        let name = format!("time-{device}-{}.proposal", short(&proposed));
        return write(&fleet, &proposed, opened, closed, (at_hand.place(), &name))?.tell(session);
    }
    let by = operator(&name, &key);
    let file = fleet.act(|book, _, fx| proposal::submit_reset(book, &proposed, by, now.time, fx))?;
    hand_out(&file, out, json!({"kind": "reset", "device": device, "time": now.time.to_string()}), session)
}

/// This machine's clock, as far as fleet.toml trusts it.
fn reading(fleet: &Fleet) -> Result<Reading, Failure> {
    Ok(Reading { time: now()?, radius: fleet.dir.toml().settings().terms.clock_error })
}

pub(super) fn hand_out(file: &TimeFile, out: &Path, mut value: Value, session: &Session) -> Result<Exit, Failure> {
    files::replace(out, &file.to_bytes()).map_err(file_failure)?;
    value["file"] = out.display().to_string().into();
    show(session.format, &value, |value| {
        let time = value["time"].as_str().unwrap_or_default();
        format!("signed {time}\non the device: hardtack agent time import {}", out.display())
    })?;
    Ok(Exit::Done)
}
