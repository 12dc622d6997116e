//! `hardtack fleet audit`: what devices and operators did.
//!
//! Owns: what is shown of a record, the form of the export, the verdict's exit code.
//! Never: believes the ledger: `verify` and `acts` check every signature again.
//! Read next: `../../fleet/report.rs`.

use std::collections::VecDeque;
use std::fmt::{Display, Formatter, Write as _};
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand};
use serde_json::{json, Map, Value};

use super::super::audit::file::{lines_of, Head, Parts, Proof};
use super::super::audit::line::{fields, tagged};
use super::super::audit::{devices, summary};
use super::super::output::{print, show};
use super::super::{Exit, Failure};
use super::{file_failure, target_words, Fleet, Session};
use crate::fleet::acts::{self, Act, Deed};
use crate::fleet::book::Segment;
use crate::fleet::report::{Checked, Report, Signers, Verifier};
use crate::fleet::FleetError;
use crate::ids::{DeviceId, EraId};
use crate::shell::files;
use crate::wire::audit::proof::Inclusion;
use crate::wire::audit::segment::SegmentHeader;
use crate::wire::envelope::Signed;
use crate::wire::revocation::emergency::{Declared, Emergency};
use crate::wire::token::Bearer;
use crate::wire::Refused;

/// `hardtack fleet audit …`.
#[derive(Subcommand, Debug)]
pub enum AuditCommand {
    /// What operators did, checked
    Acts,
    /// Every record as a JSON line, with the bytes that were signed
    Export(Which),
    /// The newest records
    List(ListArgs),
    /// Write the proof of one record, for somebody who is to see no more than it takes
    Prove(ProveArgs),
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

/// Arguments of `hardtack fleet audit list`.
#[derive(Args, Debug)]
pub struct ListArgs {
    #[command(flatten)]
    which: Which,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// Of this kind only: decision, gap, mode, refused, start, task or trust
    #[arg(long)]
    kind: Option<String>,
}

/// Arguments of `hardtack fleet audit prove`.
#[derive(Args, Debug)]
pub struct ProveArgs {
    /// The record: device/era/index, as `decision_id` has it
    #[arg(value_name = "DECISION_ID")]
    id: RecordName,
    /// Where the proof goes [default: stdout]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The era's salt, where several have its number
    #[arg(long, value_name = "HEX")]
    salt: Option<Salt>,
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
        AuditCommand::Acts => operators(session),
        AuditCommand::Export(which) => export(&which, session),
        AuditCommand::List(args) => list(&args, session),
        AuditCommand::Prove(args) => prove(&args, session),
        AuditCommand::Verify(which) => verify(&which, session),
    }
}

/// Walks through the stored segments, checks each, and hands its records to `visit`, with the exact bytes.
fn walk(
    fleet: &Fleet,
    which: &Which,
    mut visit: impl FnMut(&Segment, Option<&Checked>) -> Result<(), Failure>,
) -> Result<Report, Failure> {
    if let Some(device) = which.device.as_ref().filter(|device| fleet.ledger.book().device(device).is_none()) {
        return Err(crate::fleet::FleetError::UnknownDevice(device.clone()).into());
    }
    let mut verifier = Verifier::new(fleet.ledger.book());
    fleet.ledger.segments(which.device.as_ref(), |segment: Segment| -> Result<(), Failure> {
        let checked = verifier.segment(segment.clone());
        visit(&segment, checked.as_ref())
    })?;
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

fn export(which: &Which, session: &Session) -> Result<Exit, Failure> {
    let fleet = session.open()?;
    let head = Head::of(&Signers::of(fleet.ledger.book()), which.device.as_ref());
    print(&json(&head)?)?;
    let report = walk(&fleet, which, |segment, checked| {
        let Some(checked) = checked else { return Ok(()) };
        let received = segment.at.to_string();
        let mut lines = lines_of(segment, &received, checked);
        lines.try_for_each(|line| print(&Value::Object(line).to_string()))
    })?;
    if report.is_sound() {
        return Ok(Exit::Done);
    }
    let advice = "`hardtack fleet audit verify` says what is wrong";
    Err(Failure::new(Exit::Invalid, "what does not check out was left out of the export", advice))
}

fn json<T: serde::Serialize>(value: &T) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| Failure::new(Exit::Failure, format!("this is no JSON: {error}"), ""))
}

fn prove(args: &ProveArgs, session: &Session) -> Result<Exit, Failure> {
    let fleet = session.open()?;
    let signers = Signers::of(fleet.ledger.book());
    if !signers.keys.contains_key(&args.id.device) {
        return Err(FleetError::UnknownDevice(args.id.device.clone()).into());
    }
    let (era, inclusion) = find(&fleet, &args.id, args.salt)?;
    // It is opened when the proof is made, and again by whoever is handed it.
    let named_by = inclusion.record().map_err(unsound)?.named_by();
    let naming = named_by.map(|index| {
        let id = RecordName { index, ..args.id.clone() };
        find(&fleet, &id, Some(Salt(era.salt))).map(|(_, inclusion)| inclusion)
    });
    let parts = Parts { record: Some(inclusion), naming: naming.transpose()?, ..Parts::default() };
    let proof = Proof::of(&signers, &vouched(&fleet, &args.id.device, era, parts)?).map_err(unsound)?;
    let text = json(&proof)?;
    let Some(out) = &args.out else {
        print(&text)?;
        return Ok(Exit::Done);
    };
    files::replace(out, format!("{text}\n").as_bytes()).map_err(file_failure)?;
    let (file, bytes) = (out.display().to_string(), text.len() + 1);
    show(session.format, &json!({"id": args.id.to_string(), "file": file, "bytes": bytes}), |_| {
        format!("wrote {file}, {bytes} bytes\nwherever it is read: hardtack audit verify {file} --key HEX")
    })?;
    Ok(Exit::Done)
}

fn unsound(refused: Refused) -> Failure {
    let what = format!("what is stored of this record does not check out: {refused}");
    Failure::new(Exit::Invalid, what, "`hardtack fleet audit verify` says what else is wrong")
}

/// With what vouches for the keys that signed these records: for each, the last certificate before it in its era, and the keys
/// that were announced from there on.
fn vouched(fleet: &Fleet, device: &DeviceId, era: EraId, mut parts: Parts) -> Result<Parts, Failure> {
    let claims = parts.record.iter().chain(&parts.naming).map(|inclusion| inclusion.header.claim().map_err(unsound));
    let mut wanted: Vec<u64> = claims.map(|claim| Ok(claim?.segment)).collect::<Result<_, Failure>>()?;
    wanted.sort_unstable();
    wanted.dedup();
    let (mut certificate, mut announced) = (None, Vec::new());
    fleet.ledger.segments(Some(device), |segment: Segment| -> Result<(), Failure> {
        if segment.era != era || wanted.last().is_none_or(|last| segment.segment > *last) {
            return Ok(());
        }
        let signed = Signed::<SegmentHeader>::from_bytes(&segment.header).map_err(unsound)?;
        let header = signed.claim().map_err(unsound)?;
        if header.signer.is_some() {
            (certificate, announced) = (header.signer.clone(), Vec::new());
        }
        if wanted.contains(&segment.segment) {
            parts.certificates.extend(certificate.take());
            parts.announced.append(&mut announced);
        }
        // What was given up announced nothing.
        let records =
            if header.is_shed(&segment.leaves) { Vec::new() } else { header.read(&segment.leaves).map_err(unsound)? };
        for record in records.iter().filter(|record| record.announces().is_some()) {
            announced.extend(Inclusion::of(signed.clone(), &segment.leaves, record.index).map_err(unsound)?);
        }
        if let Some(resumes) = header.salvage.and_then(|salvage| salvage.resumes) {
            (certificate, announced) = (Some(resumes), Vec::new());
        }
        Ok(())
    })?;
    Ok(parts)
}

/// The record of a name, as the ledger has it.
fn find(fleet: &Fleet, id: &RecordName, salt: Option<Salt>) -> Result<(EraId, Inclusion), Failure> {
    let mut found: Vec<(EraId, Inclusion)> = Vec::new();
    fleet.ledger.segments(Some(&id.device), |segment: Segment| -> Result<(), Failure> {
        if segment.era.number != id.era || salt.is_some_and(|salt| salt.0 != segment.era.salt) {
            return Ok(());
        }
        if segment.leaves.is_empty() {
            return Ok(());
        }
        let header = Signed::from_bytes(&segment.header).map_err(unsound)?;
        let inclusion = Inclusion::of(header, &segment.leaves, id.index).map_err(unsound)?;
        found.extend(inclusion.map(|inclusion| (segment.era, inclusion)));
        Ok(())
    })?;
    match &found[..] {
        [found] => Ok(found.clone()),
        [] => Err(Failure::new(
            Exit::Failure,
            format!("the collector has no record {id}"),
            "`hardtack fleet audit verify` says what was lost or is not delivered yet",
        )),
        several => {
            let salts: Vec<String> = several.iter().map(|(era, _)| format!("{:016x}", era.salt)).collect();
            let what = format!("{} eras have a record {id}: a clone, or a replaced device", several.len());
            Err(Failure::new(Exit::Failure, what, format!("name one with --salt: {}", salts.join(", "))))
        }
    }
}

fn list(args: &ListArgs, session: &Session) -> Result<Exit, Failure> {
    let fleet = session.open()?;
    let mut newest: VecDeque<Map<String, Value>> = VecDeque::new();
    walk(&fleet, &args.which, |segment, checked| {
        for (record, named) in checked.into_iter().flat_map(|checked| &checked.records) {
            let mut row = fields(&segment.device, segment.era, segment.segment, record, named.as_deref());
            row.insert("received".into(), segment.at.to_string().into());
            if args.kind.as_ref().is_some_and(|kind| row["kind"] != kind.as_str()) {
                continue;
            }
            newest.push_back(row);
            if newest.len() > args.limit {
                newest.pop_front();
            }
        }
        Ok(())
    })?;
    let records: Vec<Value> = newest.into_iter().map(Value::Object).collect();
    show(session.format, &json!({ "records": records }), |_| {
        let mut text = String::new();
        for row in &records {
            let word = |name: &str| row[name].as_str().unwrap_or_default();
            // Writing to a string cannot fail.
            let _ = write!(text, "{} {:24} {:8}", word("floor"), word("id"), word("kind"));
            for name in ["reason", "operation", "resource", "change", "step", "to", "task", "owner"] {
                if !word(name).is_empty() {
                    let _ = write!(text, " {name}={}", word(name));
                }
            }
            text.push('\n');
        }
        text
    })?;
    Ok(Exit::Done)
}

fn operators(session: &Session) -> Result<Exit, Failure> {
    let fleet = session.open()?;
    let signed = fleet.ledger.acts()?;
    let checked = acts::verify(fleet.ledger.book().trusts(), &signed).map_err(|(number, refused)| {
        let what = format!("act {number} does not check out: {refused}");
        Failure::new(Exit::Invalid, what, "somebody changed the ledger: compare it with a copy")
    })?;
    let rows: Vec<Value> = checked.iter().map(|act| Value::Object(act_fields(act))).collect();
    let emergencies = emergencies(&fleet)?;
    let value = json!({"ok": true, "acts": rows, "emergency": emergencies});
    show(session.format, &value, |_| {
        let mut text = String::new();
        for (act, row) in checked.iter().zip(&rows) {
            let what = row["act"].as_str().unwrap_or_default();
            // Writing to a string cannot fail.
            let _ = write!(text, "{:>5} {} {:12} {what}", act.number, act.at, act.operator);
            let names = ["device", "grant", "task", "target", "owner", "version", "role", "key", "threshold", "bundle"];
            for name in names.into_iter().chain(["reason", "expires", "until", "time"]) {
                match &row[name] {
                    Value::String(value) => drop(write!(text, " {name}={value}")),
                    Value::Number(value) => drop(write!(text, " {name}={value}")),
                    Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {}
                }
            }
            text.push('\n');
        }
        for statement in &emergencies {
            let word = |name: &str| statement[name].as_str().unwrap_or_default();
            let (counter, since, operator) = (&statement["counter"], word("since"), word("operator"));
            let _ = write!(text, "      {since} {operator:12} emergency key={} counter={counter}", word("key"));
            for rule in statement["rules"].as_array().into_iter().flatten() {
                let word = |name: &str| rule[name].as_str().unwrap_or_default();
                let _ = write!(text, " {} reason={}", word("covers"), word("reason"));
            }
            text.push('\n');
        }
        let _ = write!(text, "{} acts, each signed and following the one before", rows.len());
        text
    })?;
    Ok(Exit::Done)
}

/// What operators did with keys of their own: each statement is signed by that key, and by nothing else. They are no link of
/// the chain, which such an operator may not be able to reach.
fn emergencies(fleet: &Fleet) -> Result<Vec<Value>, Failure> {
    let trusts = fleet.ledger.book().trusts();
    let mut rows = Vec::new();
    for kept in fleet.ledger.emergencies()? {
        let opened = trusts.iter().rev().find_map(|trust| Emergency::open_by(&kept.statement, trust).ok());
        let (said, _) = opened.ok_or_else(|| {
            let what = "an emergency statement in the ledger is signed by no emergency key of this fleet";
            Failure::new(Exit::Invalid, what, "somebody changed the ledger: compare it with a copy")
        })?;
        let rules = said
            .rules
            .declared()
            .map(|Declared { selector, until, reason }| json!({"covers": selector.to_string(), "until": until.to_string(), "reason": reason}));
        rows.push(json!({
            "key": said.key,
            "operator": kept.operator,
            "counter": said.counter,
            "digest": kept.statement.digest(),
            "issued": said.issued_at.to_string(),
            // When it was made here, or was heard first.
            "since": kept.at.to_string(),
            "rules": rules.collect::<Vec<_>>(),
        }));
    }
    Ok(rows)
}

fn act_fields(act: &Act) -> Map<String, Value> {
    // As above.
    let (kind, mut fields) = tagged(serde_json::to_value(&act.deed).unwrap_or_default());
    fields.insert("number".into(), act.number.into());
    fields.insert("at".into(), act.at.to_string().into());
    fields.insert("operator".into(), act.operator.clone().into());
    fields.insert("act".into(), kind.into());
    match &act.deed {
        Deed::Granted { expires, .. } => {
            fields.insert("expires".into(), expires.to_string().into());
        }
        Deed::Issued { expires, bearer, .. } => {
            fields.insert("expires".into(), expires.to_string().into());
            fields.remove("bearer");
            match bearer {
                Bearer::Device(device) => fields.insert("device".into(), device.to_string().into()),
                Bearer::Group(group) => fields.insert("group".into(), group.to_string().into()),
            };
        }
        Deed::Revoked { target, until, .. } => {
            let (kind, value) = target_words(target);
            fields.insert("target".into(), format!("{kind} {value}").trim().into());
            fields.insert("until".into(), until.to_string().into());
        }
        Deed::TimeReset { time, .. } => {
            fields.insert("time".into(), time.to_string().into());
        }
        Deed::Founded { .. }
        | Deed::Approved { .. }
        | Deed::Retired { .. }
        | Deed::Withdrawn { .. }
        | Deed::Policy { .. }
        | Deed::Restored { .. }
        | Deed::Emergency { .. }
        | Deed::Rotated { .. }
        | Deed::Roots { .. }
        | Deed::Trusted { .. }
        | Deed::Resumed { .. }
        | Deed::Joined { .. }
        | Deed::Left { .. }
        | Deed::FeedAdded { .. }
        | Deed::FeedRemoved { .. } => {}
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    #[test]
    fn a_reset_of_a_clock_is_told_with_its_time() {
        let deed = Deed::TimeReset {
            device: "gw-07".parse().unwrap(),
            nonce: crate::ids::Nonce([7; 16]),
            time: Timestamp::from_secs(1_772_323_200),
        };
        let act = Act { number: 4, previous: crate::ids::Hash::ZERO, at: Timestamp(0), operator: "ann".into(), deed };
        let fields = act_fields(&act);
        assert_eq!((&fields["act"], &fields["device"]), (&"time_reset".into(), &"gw-07".into()));
        assert_eq!(fields["time"], "2026-03-01T00:00:00Z");
    }
}
