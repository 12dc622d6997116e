//! `hardtack fleet audit`: what devices and operators did.
//!
//! Owns: the subcommands, the one walk through what is stored in which all of it is checked, the verdict's exit code.
//! Never: believes the ledger: every signature is checked again before anything is shown.
//! Read next: `../../fleet/report.rs`.

mod acts;
mod beside;
mod export;
mod forks;
mod gaps;
mod list;
mod prove;
mod show;

use std::fmt::{Display, Formatter};
use std::str::FromStr;

use clap::{Args, Subcommand};
use serde_json::json;

pub(super) use list::unsound;

use super::super::audit::{devices, summary};
use super::super::output::show;
use super::super::{Exit, Failure};
use super::{Fleet, Session};
use crate::fleet::book::Segment;
use crate::fleet::report::branch::Parted;
use crate::fleet::report::{Checked, Report, Verifier};
use crate::fleet::FleetError;
use crate::ids::DeviceId;

/// `hardtack fleet audit …`.
#[derive(Subcommand, Debug)]
pub enum AuditCommand {
    /// What operators did, checked
    Acts,
    /// Every record that checks out, with the bytes that were signed: JSON lines, CloudEvents, OCSF or OpenTelemetry
    Export(export::ExportArgs),
    /// Everything that is missing or odd: exits 9 if something is gone, 12 if a trail is not what was signed
    Gaps(gaps::GapsArgs),
    /// The newest records
    List(list::ListArgs),
    /// Write the proof of one record, for somebody who is to see no more than it takes
    Prove(prove::ProveArgs),
    /// Show one record whole: who is accountable, who asked, what was known, who signed it
    Show(show::ShowArgs),
    /// Check every signature, chain and hole
    Verify(Which),
}

/// Whose records.
#[derive(Args, Debug)]
pub struct Which {
    /// Of this device only
    #[arg(long)]
    device: Option<DeviceId>,
}

/// A record's name.
#[derive(Clone, Debug)]
struct RecordName {
    device: DeviceId,
    era: u64,
    index: u64,
}

impl FromStr for RecordName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let no_name = || "a record is named device/era/index, for example gw-07/12/3400".to_owned();
        let [device, era, index] = text.split('/').collect::<Vec<_>>()[..] else { return Err(no_name()) };
        let number = |text: &str| text.parse::<u64>().map_err(|_| no_name());
        let device = device.parse().map_err(|error| format!("{error}"))?;
        Ok(Self { device, era: number(era)?, index: number(index)? })
    }
}

impl Display for RecordName {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.device, self.era, self.index)
    }
}

/// The 64 random bits of an era.
#[derive(Clone, Copy, Debug)]
struct Salt(u64);

impl FromStr for Salt {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let plain = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let salt = u64::from_str_radix(text, 16).ok().filter(|_| plain);
        salt.map(Self).ok_or_else(|| "a salt is 16 hexadecimal digits, as an export has it".into())
    }
}

pub(super) fn run(command: AuditCommand, session: &Session) -> Result<Exit, Failure> {
    match command {
        AuditCommand::Acts => acts::operators(session),
        AuditCommand::Export(args) => export::export(&args, session),
        AuditCommand::Gaps(args) => gaps::gaps(&args, session),
        AuditCommand::List(args) => list::list(&args, session),
        AuditCommand::Prove(args) => prove::prove(&args, session),
        AuditCommand::Show(args) => show::one(&args, session),
        AuditCommand::Verify(which) => verify(&which, session),
    }
}

/// What a walk through the ledger meets, with the exact bytes.
enum Met<'m> {
    /// A segment of a trail.
    Trail(&'m Segment, Option<&'m Checked>),
    /// Another branch of the era whose trail was met last begins, and has so many segments.
    Branch(&'m Parted, u64),
    /// A segment of that branch.
    Beside(&'m Parted, &'m Segment, Option<&'m Checked>),
}

/// Walks through the stored trails, checks each segment, and hands its records to `visit`, with the exact bytes. What was set
/// aside is checked too.
pub(super) fn walk(
    fleet: &Fleet,
    which: &Which,
    mut visit: impl FnMut(&Segment, Option<&Checked>) -> Result<(), Failure>,
) -> Result<Report, Failure> {
    walk_all(fleet, which, |met| match met {
        Met::Trail(segment, checked) => visit(segment, checked),
        Met::Branch(..) | Met::Beside(..) => Ok(()),
    })
}

/// The same, with what was set aside: the other branches of an era come after its trail.
fn walk_all(
    fleet: &Fleet,
    which: &Which,
    mut visit: impl FnMut(Met<'_>) -> Result<(), Failure>,
) -> Result<Report, Failure> {
    if let Some(device) = which.device.as_ref().filter(|device| fleet.ledger.book().device(device).is_none()) {
        return Err(FleetError::UnknownDevice(device.clone()).into());
    }
    let only = which.device.as_ref();
    let mut verifier = Verifier::new(fleet.ledger.book());
    let snapshot = fleet.ledger.snapshot()?;
    let mut beside = beside::Walk::of(&snapshot, fleet.ledger.book(), only)?;
    snapshot.segments(only, |segment: Segment| -> Result<(), Failure> {
        beside.after(&segment, &mut verifier, &mut visit)?;
        let checked = verifier.segment(segment.clone());
        visit(Met::Trail(&segment, checked.as_ref()))
    })?;
    beside.finish(&mut verifier, &mut visit)?;
    let mut report = verifier.finish();
    if let Some(device) = &which.device {
        report.devices.retain(|id, _| id == device);
    }
    Ok(report)
}

fn verify(which: &Which, session: &Session) -> Result<Exit, Failure> {
    let fleet = session.open()?;
    let report = walk(&fleet, which, |_, _| Ok(()))?;
    let value = json!({"ok": report.is_sound(), "devices": devices(&report)});
    show(session.format, &value, |_| verdict(&report))?;
    Ok(match (report.is_sound(), report.has_gaps()) {
        (false, _) => Exit::Invalid,
        (true, true) => Exit::Audit,
        (true, false) => Exit::Done,
    })
}

fn verdict(report: &Report) -> String {
    let mut text = summary(report);
    text.push_str(match report.is_sound() {
        true => {
            "every stored record is signed by its device and follows the one before\n\
             not proved: what a device has not delivered yet; what whoever held its key left out before it was signed"
        }
        false => "the stored trail is NOT what the devices signed, or a device signed two",
    });
    text
}
