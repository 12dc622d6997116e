//! `hardtack fleet audit`: what devices and operators did.
//!
//! Owns: what is shown of a record, the form of the export, the verdict's exit code.
//! Never: believes the ledger: `verify` and `acts` check every signature again.
//! Read next: `../../fleet/report.rs`.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;

use clap::{Args, Subcommand};
use data_encoding::BASE64;
use serde_json::{json, Map, Value};

use super::super::output::{print, show};
use super::super::{Exit, Failure};
use super::{tagged, target_words, Fleet, Session};
use crate::fleet::acts::{self, Act, Deed};
use crate::fleet::book::Segment;
use crate::fleet::report::{Checked, Report, Verifier};
use crate::ids::DeviceId;
use crate::wire::audit::{record_id, Credential, Event, Named, Record};
use crate::wire::revocation::emergency::Emergency;
use crate::wire::token::Bearer;

/// `hardtack fleet audit …`.
#[derive(Subcommand, Debug)]
pub enum AuditCommand {
    /// What operators did, checked
    Acts,
    /// Every record as a JSON line, with the bytes that were signed
    Export(Which),
    /// The newest records
    List(ListArgs),
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

pub(super) fn run(command: AuditCommand, session: &Session) -> Result<Exit, Failure> {
    match command {
        AuditCommand::Acts => operators(session),
        AuditCommand::Export(which) => export(&which, session),
        AuditCommand::List(args) => list(&args, session),
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
    let devices: Vec<Value> = report
        .devices
        .iter()
        .map(|(id, device)| {
            json!({
                "id": id,
                "decisions": device.decisions,
                "records": device.records,
                "gaps": device.gaps,
                "lost": device.lost,
                "unattributed": device.unattributed,
                "recovered": device.recovered,
                "salvaged": device.salvaged,
                "unannounced": device.unannounced,
                "forks": device.forks,
                "first": device.first,
                "last": device.last,
                "missing": device.missing,
                "problems": device.problems,
            })
        })
        .collect();
    let value = json!({"ok": report.is_sound(), "devices": devices});
    show(session.format, &value, |_| verdict(&report))?;
    Ok(match (report.is_sound(), report.has_gaps()) {
        (false, _) => Exit::Invalid,
        (true, true) => Exit::Audit,
        (true, false) => Exit::Done,
    })
}

fn verdict(report: &Report) -> String {
    let mut text = String::new();
    for (id, device) in &report.devices {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{id}: {} decisions in {} records, {} gaps, {} lost in them, {} forks, {} not delivered",
            device.decisions, device.records, device.gaps, device.lost, device.forks, device.missing
        );
        let marked = [
            (device.recovered, "segments closed by a later start, with the audit key of then"),
            (
                device.salvaged,
                "segments of which a damaged disk left a part: the device's word alone goes on over the rest",
            ),
            (device.unannounced, "eras begun with an audit key that nothing before announced"),
        ];
        for (count, what) in marked.into_iter().filter(|(count, _)| *count > 0) {
            let _ = writeln!(text, "  {count} {what}");
        }
        if device.unattributed > 0 {
            let _ = writeln!(text, "  {} decisions whose credential only a lost record names", device.unattributed);
        }
        for problem in &device.problems {
            let _ = writeln!(text, "  WRONG {problem}");
        }
    }
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
    let report = walk(&fleet, which, |segment, checked| match checked {
        Some(checked) => checked
            .records
            .iter()
            .zip(&segment.leaves)
            .try_for_each(|(record, leaf)| print(&Value::Object(line(segment, record, leaf)).to_string())),
        None => Ok(()),
    })?;
    if report.is_sound() {
        return Ok(Exit::Done);
    }
    let advice = "`hardtack fleet audit verify` says what is wrong";
    Err(Failure::new(Exit::Invalid, "what does not check out was left out of the export", advice))
}

/// A record as one JSON object: its place, what happened, and the bytes that were signed.
fn line(segment: &Segment, (record, named): &(Record, Option<Arc<Named>>), leaf: &[u8]) -> Map<String, Value> {
    let id = record_id(&segment.device, segment.era, record.index);
    let (kind, fields) = event_fields(&record.event);
    let mut line = Map::new();
    let mut put = |name: &str, value: Value| drop(line.insert(name.to_owned(), value));
    put("id", id.clone().into());
    if kind == "decision" {
        put("decision_id", id.into());
    }
    put("kind", kind.clone().into());
    put("device", segment.device.as_str().into());
    put("era", segment.era.number.into());
    put("salt", format!("{:016x}", segment.era.salt).into());
    put("segment", segment.segment.into());
    put("index", record.index.into());
    put("floor", record.floor.to_string().into());
    put("powered", record.powered.to_string().into());
    put("received", segment.at.to_string().into());
    put("leaf", BASE64.encode(leaf).into());
    put("header", BASE64.encode(&segment.header).into());
    // Of texts and lists.
    if let Ok(Value::Object(named)) = serde_json::to_value(named.as_deref()) {
        line.extend(named);
    }
    for (name, value) in fields {
        // What a gap tells of another era must not hide where the gap itself stands.
        let name = if line.contains_key(&name) { format!("{kind}_{name}") } else { name };
        line.insert(name, value);
    }
    line
}

/// The event's kind and its fields; what a decision rests on stands beside the rest of it.
fn event_fields(event: &Event) -> (String, Map<String, Value>) {
    // Of numbers, texts and lists: there is nothing that could not be written.
    let mut value = serde_json::to_value(event).unwrap_or_default();
    salts_as_text(&mut value);
    let (kind, mut fields) = tagged(value);
    if let Some(Value::Object(known)) = fields.remove("known") {
        fields.extend(known);
    }
    // What it names stands beside it, wherever it is named.
    if let Event::Decision(decision) = event {
        fields.remove("credential");
        if let Credential::Same(index) = decision.credential {
            fields.insert("named_by".into(), index.into());
        }
    }
    if kind == "trust" {
        let (change, inner) = tagged(Value::Object(fields));
        fields = inner;
        fields.insert("change".into(), change.into());
    }
    (kind, fields)
}

/// A salt has 64 random bits, and what reads JSON elsewhere keeps 53 of a number. As beside the record, it is text.
fn salts_as_text(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                match inner.as_u64().filter(|_| name == "salt") {
                    Some(salt) => *inner = format!("{salt:016x}").into(),
                    None => salts_as_text(inner),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(salts_as_text),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn list(args: &ListArgs, session: &Session) -> Result<Exit, Failure> {
    let fleet = session.open()?;
    let mut newest: VecDeque<Map<String, Value>> = VecDeque::new();
    walk(&fleet, &args.which, |segment, checked| {
        for (record, leaf) in checked.iter().flat_map(|checked| checked.records.iter().zip(&segment.leaves)) {
            let mut row = line(segment, record, leaf);
            if args.kind.as_ref().is_some_and(|kind| row["kind"] != kind.as_str()) {
                continue;
            }
            row.remove("leaf");
            row.remove("header");
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
                let _ = write!(text, " {}", rule["covers"].as_str().unwrap_or_default());
            }
            let _ = writeln!(text, " reason={}", word("reason"));
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
            .iter()
            .map(|(selector, until)| json!({"covers": format!("{selector:?}"), "until": until.to_string()}));
        rows.push(json!({
            "key": said.key,
            "operator": kept.operator,
            "counter": said.counter,
            "digest": kept.statement.digest(),
            "issued": said.issued_at.to_string(),
            // When it was made here, or was heard first.
            "since": kept.at.to_string(),
            "reason": said.reason,
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
    use crate::ids::EraId;
    use crate::time::Timestamp;
    use crate::wire::audit::{Gap, GapCause};

    #[test]
    fn the_salt_of_an_era_inside_a_record_is_text() {
        let era = EraId { number: 3, salt: u64::MAX - 1 };
        let (kind, fields) = event_fields(&Event::Gap(Gap { era, first: 0, end: None, cause: GapCause::Damaged }));
        assert_eq!(kind, "gap");
        assert_eq!(fields["era"], json!({"number": 3, "salt": "fffffffffffffffe"}));
    }

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
