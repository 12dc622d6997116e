//! `hardtack fleet audit export`: everything that checks out, in a form that other systems read.
//!
//! Owns: the order of the lines, the exit code.
//! Never: writes a record that does not check out; holds more than one segment at a time.
//! Read next: `../../audit/export.rs`, which has the forms; `../../audit/file.rs`, which checks the plain one.

use clap::Args;
use serde_json::Value;

use super::forks::found;
use super::prove::json;
use super::{walk_all, Met, Which};
use crate::cli::audit::export::{fork_line, lines, Form, Numbering};
use crate::cli::audit::file::Head;
use crate::cli::audit::line::{branch, of_branch};
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
    /// What was set aside, too: after the trail of an era that forked its other branches, each with where it parts from that
    #[arg(long)]
    aside: bool,
}

pub(super) fn export(args: &ExportArgs, session: &Session) -> Result<Exit, Failure> {
    let fleet = session.open()?;
    let ExportArgs { which, format, aside } = args;
    if *aside && *format != Form::Jsonl {
        let what = "other branches are in the plain export alone: in other forms two records would have one name";
        return Err(Failure::new(Exit::Usage, what, "leave out --format, or --aside"));
    }
    let only = which.device.as_ref();
    if *format == Form::Jsonl {
        print(&json(&Head::of(&Signers::of(fleet.ledger.book()), only))?)?;
    }
    let name = fleet.ledger.book().fleet().clone();
    let mut era: Option<(DeviceId, EraId, Numbering)> = None;
    let report = walk_all(&fleet, which, |met| {
        let (segment, checked) = match met {
            Met::Branch(..) | Met::Beside(..) if !aside => return Ok(()),
            Met::Branch(parted, segments) => return print(&Value::Object(branch(parted, segments)).to_string()),
            Met::Beside(parted, segment, checked) => {
                let lines =
                    checked.into_iter().flat_map(|checked| lines(*format, &name, segment, checked, Numbering::Own));
                let mut of = lines.map(|line| of_branch(line, parted.id));
                return of.try_for_each(|line| print(&Value::Object(line).to_string()));
            }
            Met::Trail(segment, checked) => (segment, checked),
        };
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
        let left = !aside && report.devices.values().any(|device| device.aside > 0);
        match left {
            true => "a device's trail forked: what was set aside beside it is not in the export, --aside adds that",
            false => "a device's trail forked: all branches are in the export, as far as they arrived",
        }
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
