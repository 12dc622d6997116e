//! `hardtack fleet audit export`: everything that checks out, in a form that other systems read.
//!
//! Owns: the order of the lines, the exit code.
//! Never: writes a record that does not check out; holds more than one segment at a time.
//! Read next: `../../audit/export.rs`, which has the forms; `../../audit/file.rs`, which checks the plain one.

use clap::Args;
use serde_json::Value;

use super::forks::found;
use super::prove::json;
use super::{walk, Which};
use crate::cli::audit::export::{fork_line, lines, Form, Numbering};
use crate::cli::audit::file::Head;
use crate::cli::fleet::{Fleet, Session};
use crate::cli::output::print;
use crate::cli::{Exit, Failure};
use crate::fleet::report::Signers;
use crate::ids::{DeviceId, EraId};

/// Arguments of `hardtack fleet audit export`.
#[derive(Args, Debug)]
pub struct ExportArgs {
    #[command(flatten)]
    which: Which,
    /// What the lines are
    #[arg(long, value_enum, default_value_t)]
    format: Form,
}

pub(super) fn export(args: &ExportArgs, session: &Session) -> Result<Exit, Failure> {
    let fleet = session.open()?;
    let ExportArgs { which, format } = args;
    let only = which.device.as_ref();
    if *format == Form::Jsonl {
        print(&json(&Head::of(&Signers::of(fleet.ledger.book()), only))?)?;
    }
    let name = fleet.ledger.book().fleet().clone();
    let mut era: Option<(DeviceId, EraId, Numbering)> = None;
    let report = walk(&fleet, which, |segment, checked| {
        let Some(checked) = checked else { return Ok(()) };
        let known = era.as_ref().filter(|(device, at, _)| (device, *at) == (&segment.device, segment.era));
        let numbering = match known {
            Some((.., numbering)) => *numbering,
            None => numbering_of(&fleet, &segment.device, segment.era)?,
        };
        era = Some((segment.device.clone(), segment.era, numbering));
        let lines = lines(*format, &name, segment, checked, numbering);
        lines.into_iter().try_for_each(|line| print(&Value::Object(line).to_string()))
    })?;
    for found in found(&fleet.ledger, only)? {
        // What two headers do not prove is the collector's word alone: `hardtack fleet audit gaps` tells it.
        let line = found.proof.as_ref().and_then(|proof| fork_line(*format, &name, &found.fork, proof));
        line.map(|line| print(&Value::Object(line).to_string())).transpose()?;
    }
    if report.is_sound() {
        return Ok(Exit::Done);
    }
    let what = if report.devices.values().all(|device| device.problems.is_empty()) {
        "a device's trail forked: both branches are in the export, as far as both arrived"
    } else {
        "what does not check out was left out of the export"
    };
    Err(Failure::new(Exit::Invalid, what, "`hardtack fleet audit gaps` says what is wrong"))
}

/// Whether the records of an era are named by its number alone: of several eras with one number, those of the first to arrive are,
/// so that no name changes when another comes.
fn numbering_of(fleet: &Fleet, device: &DeviceId, era: EraId) -> Result<Numbering, Failure> {
    let same = fleet.ledger.book().eras(device).filter(|chain| chain.ack.era.number == era.number).count();
    if same < 2 || fleet.ledger.first_era(device, era.number)? == Some(era) {
        return Ok(Numbering::Own);
    }
    Ok(Numbering::Shared)
}
